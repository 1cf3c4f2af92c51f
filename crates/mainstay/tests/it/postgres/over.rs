//! Restores over a data directory that is there.

use super::*;
use crate::world::wait_for;
use std::collections::BTreeMap;
use std::path::Path;

/// What stands below a directory: kind, mode and bytes, by path.
fn content(top: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut bytes = Vec::new();
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_file() {
            bytes = fs::read(&path).unwrap();
        } else {
            bytes.extend_from_slice(b"not a file");
        }
        let name = path.strip_prefix(top).unwrap().to_owned();
        found.insert(name, (meta.permissions().mode(), bytes));
    }
    found
}

/// Byte by byte what a restore to an empty place gives.
#[track_caller]
fn is_as_restored_anew(stage: &Stage, host: &Host, over: &Path, words: &[&str]) {
    let anew = stage.dir.path().join("anew/data");
    let shown = anew.display().to_string();
    host.run(&[&["restore", "shop", "--target", &shown], words].concat()).code(0);
    let (mut over, mut anew_is) = (content(over), content(&anew));
    // It says where it is.
    for found in [&mut over, &mut anew_is] {
        found.remove(Path::new("postgresql.auto.conf")).unwrap();
    }
    let names = |found: &BTreeMap<PathBuf, _>| found.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&over), names(&anew_is));
    for (name, found) in &over {
        assert!(found == &anew_is[name], "{} differs", name.display());
    }
    fs::remove_dir_all(anew).unwrap();
}

/// A copy to look at, started, with the words that a command wants for its place.
fn look_at(stage: &Stage, name: &str) -> (Host, String) {
    let target = stage.dir.path().join(name).join("data");
    let copy = Host {
        server: PgServer::on(&stage.dir.path().join(name), &target),
        config: stage.a.config.clone(),
        program: stage.a.program.clone(),
    };
    (copy, target.display().to_string())
}

fn start(copy: &Host) {
    copy.server.start_with(&[
        &format!("-cunix_socket_directories={}", copy.server.socket_dir().display()),
        "-cfsync=off",
    ]);
    copy.server.eventually("SELECT NOT pg_is_in_recovery()");
}

/// Only what differs is fetched, what the point has not is removed, and the directory is byte by byte
/// what a restore to an empty place gives: by what its files hold, and not by what they look like.
#[test]
fn what_stands_there_becomes_the_point_and_only_what_differs_travels() {
    let stage = Stage::new();
    let a = &stage.a;
    run(&mut a.pgbench(&["-i", "-s", "4", "-q"])).code(0);
    a.write();
    let first = a.run(&["backup", "shop", "--json"]).code(0).json();
    let first = first["services"][0]["point"]["snapshot"].as_str().unwrap().to_owned();
    let (copy, place) = look_at(&stage, "copy");
    let bytes = |words: &[&str]| {
        let words = [&["restore", "shop", "--delta", "--target", &place, "--json"], words].concat();
        let done = a.run(&words).code(0).json();
        (done["bytes"].as_u64().unwrap(), done["changed"]["fetched-bytes"].as_u64())
    };
    // Nothing stands there yet: all of it travels.
    let (_, over) = bytes(&["--snapshot", &first]);
    assert_eq!(over, None);
    is_as_restored_anew(&stage, a, copy.server.data(), &["--snapshot", &first]);

    run(&mut a.pgbench(&["-n", "-c", "2", "-t", "100"])).code(0);
    let wanted = a.write();
    a.run(&["backup", "shop"]).code(0);
    // The copy was used, and damaged in ways that neither sizes nor times tell.
    start(&copy);
    copy.write();
    copy.server.stop("fast");
    let data = copy.server.data().to_owned();
    let table = a.server.sql("SELECT pg_relation_filepath('pgbench_accounts')");
    let table = data.join(table);
    let times = fs::metadata(&table).unwrap();
    let mut damaged = fs::read(&table).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 100].fill(0x5a);
    fs::write(&table, &damaged).unwrap();
    fs::File::options()
        .write(true)
        .open(&table)
        .unwrap()
        .set_modified(times.modified().unwrap())
        .unwrap();
    fs::write(data.join("base/stray"), "not the server's").unwrap();
    fs::create_dir_all(data.join("stray/below")).unwrap();
    fs::write(data.join("stray/below/file"), "nor this").unwrap();
    give(&data.join("stray"));
    give(&data.join("stray/below"));
    let outside = stage.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    std::os::unix::fs::symlink(&outside, data.join("pg_logical/link")).unwrap();
    // One of its files has another name elsewhere, which is not written through.
    let other = data.join("global/pg_filenode.map");
    fs::hard_link(&other, outside.join("another-name")).unwrap();
    fs::write(&other, "not a map").unwrap();
    fs::remove_dir_all(data.join("pg_wal")).unwrap();
    std::os::unix::fs::symlink(&outside, data.join("pg_wal")).unwrap();

    let (whole, over) = bytes(&[]);
    let over = over.unwrap();
    assert!(over > 0 && over < whole / 2, "{over} of {whole} bytes travelled");
    is_as_restored_anew(&stage, a, &data, &[]);
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(outside.join("another-name")).unwrap(), "not a map");
    start(&copy);
    assert_eq!(copy.newest(), wanted);
    copy.is_sound();
    copy.server.stop("fast");

    // Where nothing has changed nothing travels but the settings that the copy was given.
    bytes(&[]);
    let (_, over) = bytes(&[]);
    assert!(over.unwrap() < 1 << 20, "{over:?} bytes travelled again");
}

/// The newest order of a server that was restored, once it has replayed its log: it answers before.
#[track_caller]
pub(super) fn newest_replayed(host: &Host) -> u64 {
    host.server.eventually("SELECT NOT pg_is_in_recovery()");
    host.newest()
}

/// The primary's own directory goes back, and the standby's; both are started, and go on from there.
#[test]
fn a_primary_and_a_standby_are_restored_over_where_they_stand() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let wanted = a.write();
    a.run(&["restore", "shop", "--delta"]).code(1).complains("offline");
    // What it had not archived is in the vault before it is overwritten.
    a.server.stop("fast");
    a.run(&["restore", "shop", "--delta"]).code(0).says("over what stood there");
    assert_eq!(newest_replayed(a), wanted);
    a.run(&["may-start", "shop"]).code(0);
    let last = a.write();
    a.run(&["backup", "shop"]).code(0);
    a.archived();

    b.run(&["offline", "shop"]).code(0);
    b.run(&["restore", "shop", "--delta"]).code(0);
    assert!(!b.server.runs(), "it is offline");
    b.run(&["online", "shop"]).code(0);
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    let status = b.run(&["status", "shop", "--json"]).code(0).json();
    assert_eq!(status["services"][0]["members"]["b"]["importing"], serde_json::Value::Null);
    let last = a.write();
    a.run(&["offline", "shop"]).code(0);
    b.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    assert_eq!(b.newest(), last);
}

/// A standby goes on along the log. One that was told to stop in it would be promoted there, beside the
/// primary.
#[test]
fn a_standby_is_not_restored_to_a_place_in_the_log() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let then = a.write();
    a.server.sql("SELECT pg_create_restore_point('then')");
    let lsn = a.server.sql("SELECT pg_current_wal_insert_lsn()");
    let time = a.server.sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    let last = a.write();
    a.archived();
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    b.run(&["offline", "shop"]).code(0);
    let before = content(b.server.data());
    let places: [[&str; 2]; 3] =
        [["--at", &time], ["--target-name", "then"], ["--target-lsn", &lsn]];
    for place in places {
        for how in ["--replace", "--delta", "--dry-run"] {
            let words = [&["restore", "shop", how], place.as_slice()].concat();
            let said = b.run(&words).code(1);
            said.complains("b is a standby of shop").complains("--target DIR");
            assert!(content(b.server.data()) == before, "{words:?}: it was touched");
        }
    }
    b.run(&["online", "shop"]).code(0);
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    // As the hint says.
    let copy = super::receiving::restored(&stage, b, "copy", &["--at", &time]);
    assert_eq!(copy.newest(), then);
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");
}

/// What a crash has left in the log is committed, too: it goes only when the vault has it.
#[test]
fn a_primary_that_crashed_is_restored_over_only_if_the_vault_has_the_end_of_its_log() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    a.write();
    a.archived();
    let wanted = a.write();
    a.server.stop("immediate");
    let before = content(a.server.data());
    let said = a.run(&["restore", "shop", "--delta"]).code(1);
    said.complains("was not stopped cleanly").complains("--replace");
    assert!(content(a.server.data()) == before, "it was touched");
    // As the hint says.
    a.server.start();
    a.server.stop("fast");
    a.run(&["restore", "shop", "--delta", "--no-start"]).code(0);
    // Nothing of its own is in one that has not been started since.
    a.run(&["restore", "shop", "--delta"]).code(0);
    assert_eq!(newest_replayed(a), wanted);
}

/// Where the log is received as it is written, the vault has it.
#[test]
fn a_primary_that_crashed_is_restored_over_where_its_log_was_received() {
    let stage = Stage::with("archive_mode = off\nmax_slot_wal_keep_size = 1GB", "");
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    // The server itself may write to its log in the last moment; then it is refused.
    for left in (0..5).rev() {
        let receive = super::receiving::receiver(a);
        super::receiving::is_stored(a);
        let wanted = a.write();
        super::receiving::is_stored(a);
        a.server.stop("immediate");
        drop(receive);
        let said = a.run(&["restore", "shop", "--delta"]);
        if said.code == 0 {
            assert_eq!(newest_replayed(a), wanted);
            return;
        }
        assert!(left > 0, "refused each time: {said:#?}");
        said.complains("was not stopped cleanly");
        a.server.start();
    }
}

/// What is no stopped copy of the same server is refused, and nothing of it is touched.
#[test]
fn a_foreign_directory_is_refused_and_untouched() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let refused = |dir: &Path, why: &str| {
        let before = content(dir);
        let shown = dir.display().to_string();
        a.run(&["restore", "shop", "--delta", "--target", &shown]).code(1).complains(why);
        assert!(content(dir) == before, "{why}: {shown} was touched");
    };
    let home = stage.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letter"), "dear").unwrap();
    give(&home);
    refused(&home, "is no data directory");
    let other = PgServer::create(&stage.dir.path().join("other"), "");
    refused(other.data(), "is of another server");
    fs::rename(other.data().join("global/pg_control"), other.data().join("global/x")).unwrap();
    refused(other.data(), "nothing tells whose copy");
    fs::write(other.data().join("global/pg_control"), [0; 8192]).unwrap();
    give(&other.data().join("global/pg_control"));
    refused(other.data(), "nothing tells whose copy");
    // Its own name of a mark helps nobody.
    let mark = other.data().join("mainstay_restore.json");
    fs::write(&mark, r#"{"system-identifier":"1","uid":0,"gid":0}"#).unwrap();
    give(&mark);
    refused(other.data(), "is of another server");
    fs::write(&mark, "{").unwrap();
    refused(other.data(), "is damaged");

    let (copy, place) = look_at(&stage, "copy");
    a.run(&["restore", "shop", "--target", &place]).code(0);
    start(&copy);
    a.run(&["restore", "shop", "--delta", "--target", &place]).code(1).complains("works on");
    copy.write();
    copy.server.stop("fast");
    // One in a container has another number than we see.
    let pid = copy.server.data().join("postmaster.pid");
    fs::write(&pid, "1\n").unwrap();
    give(&pid);
    refused(copy.server.data(), "maybe in a container");
    fs::remove_file(&pid).unwrap();
    a.run(&["restore", "shop", "--delta", "--target", &place]).code(0);
    // The service's own place is nobody else's, under whatever name.
    let link = stage.dir.path().join("link");
    std::os::unix::fs::symlink(a.server.data(), &link).unwrap();
    let within = a.server.data().join("base");
    for own in [a.server.data(), link.as_path(), within.as_path()] {
        let own = own.display().to_string();
        let said = a.run(&["restore", "shop", "--delta", "--target", &own]);
        said.code(1).complains("is the own place of shop");
    }
    a.run(&["restore", "shop", "--delta", "--replace"]).complains("cannot be used with");
    a.run(&["restore", "shop", "--delta", "--as", "other"]).complains("cannot be used with");
    assert_eq!(a.newest(), 1);
}

/// Killed at each step, and at moments that nobody chose: the directory does not start, whoever
/// tries, and the same command completes it.
#[test]
fn one_that_was_cut_off_does_not_start_and_is_completed() {
    let stage = Stage::new();
    let a = &stage.a;
    run(&mut a.pgbench(&["-i", "-s", "4", "-q"])).code(0);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let wanted = a.write();
    let pg_ctl_starts = || {
        let mut pg_ctl = a.server.program("pg_ctl");
        pg_ctl.args(["start", "--wait", "--silent", "--timeout=30", "--pgdata"]);
        run(pg_ctl.arg(a.server.data()).args(["--log", "/dev/null"])).code == 0
    };
    let spoil = || {
        a.server.stop("fast");
        let table = a.server.data().join("base/1");
        for entry in fs::read_dir(table).unwrap().flatten().take(40) {
            fs::write(entry.path(), "spoilt").unwrap();
        }
    };
    for at in ["overwrite:done", "prepare:begin", "prepare:done", "complete:begin"] {
        spoil();
        let mut command = a.command(&["restore", "shop", "--delta"]);
        run(command.env("MAINSTAY_TEST_KILL_AT", at)).code(137);
        a.run(&["may-start", "shop"]).code(1);
        if at != "complete:begin" {
            assert!(!pg_ctl_starts(), "{at}: it starts");
            a.run(&["backup", "shop"]).code(1);
            a.run(&["restore", "shop", "--delta"]).code(0);
        } else {
            // Nothing is left to do but to open its gate, and to start it.
            a.run(&["recover", "shop"]).code(0).says("started");
        }
        assert_eq!(newest_replayed(a), wanted, "{at}");
        a.run(&["may-start", "shop"]).code(0);
    }
    // In the midst of the writing: the worker is killed as soon as the control file has lost its
    // name, and a little later each time.
    let control = a.server.data().join("global/pg_control");
    for round in 0..3 {
        spoil();
        let mut command = a.command(&["restore", "shop", "--delta", "--no-start"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("it writes", || !control.exists() || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_millis(round * 7));
        a.kill_worker();
        child.wait().unwrap();
        if !control.exists() {
            assert!(!pg_ctl_starts(), "round {round}: it starts");
        }
        a.run(&["restore", "shop", "--delta"]).code(0);
        assert_eq!(newest_replayed(a), wanted, "round {round}");
    }
    let mut amcheck = a.server.program("pg_amcheck");
    amcheck.args(["--all", "--install-missing", "--heapallindexed", "-U", "postgres", "-h"]);
    if a.server.has_extension("amcheck") {
        run(amcheck.arg(a.server.socket_dir())).code(0);
    }
}
