//! A server and its log when something is in the way: each is told with what to do, and costs nothing
//! that was there.

use super::cancelled::held;
use super::receiving::restored;
use super::*;
use crate::cancel::cont;
use crate::refreshing::ended;
use jiff::Timestamp;

const NO_ARCHIVE: &str = "archive_mode = off";

/// The same host with another word in its configuration.
#[track_caller]
fn other(stage: &Stage, host: &Host, from: &str, to: &str, words: &[&str]) -> Said {
    let text = fs::read_to_string(&host.config).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    let config = stage.dir.path().join("other.toml");
    fs::write(&config, text.replace(from, to)).unwrap();
    give(&config);
    let shown = config.display().to_string();
    host.run(&[&["--config", &shown], words].concat())
}

#[test]
fn what_stands_in_the_way_of_a_backup_is_told() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let points = || a.run(&["--json", "snapshots", "shop"]).code(0).json()["services"].clone();
    let before = points();
    let backup = &["backup", "shop"];

    a.server.sql("CREATE ROLE plain LOGIN; CREATE ROLE secret LOGIN PASSWORD 'right'");
    let hba = a.server.data().join("pg_hba.conf");
    let kept = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("local all secret scram-sha-256\n{kept}")).unwrap();
    a.server.sql("SELECT pg_reload_conf()");
    let role = |role: &str| other(&stage, a, "postgres://postgres@", role, backup).code(1);
    role("postgres://nobody@").complains("pg_hba.conf");
    let said = role("postgres://secret:wrong-one@");
    assert!(!said.err.contains("wrong-one"), "{said:?}");
    said.complains("cannot connect").complains("PGPASSFILE");
    role("postgres://plain@").complains("pg_read_all_settings");
    other(&stage, a, "/postgres?host", "/nowhere?host", backup)
        .code(1)
        .complains("Correct the data");

    // Somebody else takes a backup, in the way that only one at a time can be taken of old.
    let theirs = stage.dir.path().join("theirs");
    let mut base = a.server.program("pg_basebackup");
    base.args(["-U", "postgres", "--checkpoint=spread", "--max-rate=4M", "-h"]);
    base.arg(a.server.socket_dir()).arg("-D").arg(&theirs);
    let mut base = base.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    a.server.eventually("SELECT count(*) > 0 FROM pg_stat_progress_basebackup");
    a.run(backup).code(0);
    a.server.eventually("SELECT count(*) > 0 FROM pg_stat_progress_basebackup");
    a.server.sql("CHECKPOINT");
    assert!(base.wait().unwrap().success());
    assert_ne!(points(), before);

    // It is somebody's standby.
    let before = points();
    a.server.stop("fast");
    fs::write(a.server.data().join("standby.signal"), "").unwrap();
    give(&a.server.data().join("standby.signal"));
    a.server.start();
    a.run(backup).code(1).complains("is a standby").complains("promote");
    assert_eq!(points(), before);
    a.server.sql("SELECT pg_promote()");
    a.run(backup).code(0);
}

/// A cluster that was made anew where the old one was, before anybody restored that: its first backup
/// would be what the standbys are brought to.
#[test]
fn a_cluster_that_was_made_anew_does_not_follow_the_head() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    let wanted = a.write();
    a.run(&["backup", "shop"]).code(0);
    let points = || a.run(&["snapshots", "shop", "--json"]).code(0).json();
    let before = points();
    a.server.stop("fast");
    let (data, old) = (a.server.data().to_owned(), stage.dir.path().join("old"));
    fs::rename(&data, &old).unwrap();
    let made = PgServer::create(&stage.dir.path().join("made"), NO_ARCHIVE);
    fs::rename(made.data(), &data).unwrap();
    a.server
        .configure(&format!("unix_socket_directories = '{}'\n", a.server.socket_dir().display()));
    // As it lies there, and while it runs.
    let refused = || {
        let said = a.run(&["backup", "shop"]).code(1);
        said.complains("holds the database cluster").complains("--allow-another");
        assert_eq!(points(), before);
    };
    refused();
    a.server.start();
    refused();
    // The old one comes back, and goes on.
    a.run(&["restore", "shop", "--replace"]).code(0);
    assert_eq!(a.newest(), wanted);
    a.run(&["backup", "shop"]).code(0);
    // The other, if somebody says so.
    a.server.stop("fast");
    let again = PgServer::create(&stage.dir.path().join("again"), NO_ARCHIVE);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(again.data(), &data).unwrap();
    a.run(&["backup", "shop", "--allow-another"]).code(0);
    a.run(&["backup", "shop"]).code(0);
}

/// Its port is another server's: the data waits, whole, until it is free.
#[test]
fn a_port_that_is_taken_is_told_and_loses_nothing() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    let wanted = a.write();
    a.run(&["backup", "shop"]).code(0);
    a.server.stop("fast");
    let squatter = PgServer::create(&stage.dir.path().join("squatter"), "");
    let theirs = format!("-cunix_socket_directories={}", a.server.socket_dir().display());
    squatter.start_with(&[&theirs]);
    let said = a.run(&["restore", "shop", "--replace"]).code(1);
    said.complains("the content of shop is in place, and what stood there is at ")
        .complains("Another server has its port")
        .complains("mainstay online shop");
    // A drill has a port of its own, or rather none.
    a.run(&["drill", "shop"]).code(0);
    squatter.stop("fast");
    a.run(&["online", "shop"]).code(0);
    assert_eq!(a.newest(), wanted);
}

/// The restore target is too small: seen before anything is done.
#[test]
fn a_target_that_is_too_small_is_refused_before_anything_is_done() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let small = stage.dir.path().join("small");
    let Some(_mounted) = Small::mount(&small, "12m") else { return };
    let target = small.join("copy").display().to_string();
    let said = a.run(&["restore", "shop", "--target", &target]).code(1);
    said.complains("too little space").complains("nothing was touched");
    assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    let drills = format!("drill-dir = '{}'\nbin-dir", small.display());
    other(&stage, a, "bin-dir", &drills, &["drill", "shop"]).code(1).complains("too little space");
    assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
}

/// It fills while it is written to: what was there stays, nothing half is left, and the next one goes well.
#[test]
fn a_disk_that_fills_while_a_cluster_is_restored_costs_nothing() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    let wanted = a.write();
    a.run(&["backup", "shop"]).code(0);
    let place = stage.dir.path().join("place");
    let Some(disk) = Small::mount(&place, "200m") else { return };
    give(&place);
    let target = place.join("copy");
    let words = ["restore", "shop", "--target", target.to_str().unwrap()];
    for (at, left) in [("stage:begin", 8 << 20), ("stage:done", 0)] {
        let (child, worker) = held(a, &words, at);
        disk.fill(left);
        cont(worker);
        let said = ended(child, 1).complains("No space left").complains("Hint: Free some space");
        assert!(!target.exists(), "{at}: {said:#?}");
        disk.empty();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "{at}: something is left");
        assert_eq!(a.newest(), wanted, "{at}: it serves as before");
    }
    let copy = restored(&stage, a, "place/copy", &[]);
    assert_eq!(copy.newest(), wanted);
}

/// A run that ends leaves its slot, so that nothing is missing before the next. If none comes, the
/// server's disk is spared all the same.
#[test]
fn a_slot_that_nobody_uses_any_more_never_fills_the_disk() {
    let stage = Stage::with(NO_ARCHIVE, "log-queue = '64 MiB'");
    let a = &stage.a;
    a.server.sql("ALTER SYSTEM SET max_wal_size = '32MB'");
    a.server.sql("SELECT pg_reload_conf()");
    a.run(&["backup", "shop"]).code(0);
    a.write();
    let said = a.run(&["-v", "wal", "receive", "shop", "--once"]).code(0);
    said.complains("slot mainstay_shop of the server keeps the log for the next run");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'mainstay_shop'";
    assert_eq!(a.server.sql(slots), "1");
    a.run(&["doctor"]).code(0).says("nobody receives it");

    // The next run goes on where this one ended: no gap.
    let fill = |megabytes: u32| {
        a.fill(megabytes);
        a.server.sql("CHECKPOINT");
    };
    fill(40);
    let wanted = a.write();
    a.run(&["run-due"]).code(0);
    assert_eq!(a.server.sql(slots), "1", "what it keeps is not too much");
    a.run(&["wal", "receive", "shop", "--once"]).code(0);
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
    drop(copy);

    // No run comes any more.
    fill(100);
    let wanted = a.write();
    a.run(&["run-due"]).code(0).complains("is let go");
    assert_eq!(a.server.sql(slots), "0");
    a.server.sql("CHECKPOINT");
    a.server.eventually("SELECT sum(size) < 200000000 FROM pg_ls_waldir()");
    // The base that was due by that was made, once, and has everything.
    a.run(&["run-due", "--dry-run"]).code(0).says("nothing is due");
    let copy = restored(&stage, a, "again", &[]);
    assert_eq!(copy.newest(), wanted);
}

/// What was noted before the clock was set back is of a time to come, and silences nothing.
#[test]
fn a_clock_that_was_set_back_silences_nothing() {
    let stage = Stage::with(NO_ARCHIVE, "schedule = '* * * * *'\nrpo = '1h'");
    let a = &stage.a;
    a.write();
    let year = Timestamp::now().strftime("%Y").to_string();
    let next: i32 = year.parse::<i32>().unwrap() + 1;
    // As if all of it had happened a year from now.
    let later = || {
        let dir = stage.dir.path().join("a/state/services/shop/operations");
        let (now, then) = (format!("\"at\":\"{year}-"), format!("\"at\":\"{next}-"));
        let mut moved = 0;
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let file = entry.path().join("journal");
            let text = fs::read_to_string(&file).unwrap();
            moved += text.matches(&now).count();
            fs::write(&file, text.replace(&now, &then)).unwrap();
        }
        assert!(moved > 0, "the journals tell their times otherwise");
    };
    let due = || {
        let said = a.run(&["run-due", "--json"]);
        said.json()["services"][0]["ran"].clone()
    };
    // A run that went well, and one that failed.
    a.run(&["backup", "shop"]).code(0);
    later();
    assert_eq!(due(), "backup");
    a.server.kill();
    a.run(&["backup", "shop"]).code(1);
    a.server.start();
    later();
    assert_eq!(due(), "backup");
    a.run(&["restore", "shop", "--at", &format!("{next}-01-01T00:00:00Z")])
        .code(1)
        .complains("is in the future");
}
