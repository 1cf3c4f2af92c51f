//! A standby that follows the vault, when a part of the log is in no vault.

use super::receiving::{is_stored, receiver, restored, wait_for};
use super::*;
use jiff::Timestamp;
use model::Generation;
use serde_json::Value;
use std::path::Path;

/// Nothing of the log comes from anywhere else.
const NO_ARCHIVE: &str = "archive_mode = off\nmax_slot_wal_keep_size = 1GB";

pub(super) fn status(host: &Host) -> (i32, Value) {
    let said = host.run(&["status", "shop", "--json"]);
    (said.code, said.json()["services"][0].clone())
}

/// What a host knows of the standby.
fn standby(status: &Value) -> Value {
    let members = status["members"].as_array().unwrap();
    members.iter().find(|member| member["name"] == "b").unwrap().clone()
}

/// What a refresh of it came to.
fn refreshed(host: &Host) -> Value {
    let said = host.run(&["refresh", "shop", "--json"]).code(0);
    said.json()["services"][0].clone()
}

/// When its server was started.
fn started(host: &Host) -> String {
    host.server.sql("SELECT pg_postmaster_start_time()")
}

/// What lies beside its data directory and is, or was, one.
pub(super) fn beside(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.home()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("data.")).collect()
}

/// It waits for what never comes, and looks as if its source had nothing new: that is told, on its own
/// host and on the primary's. Nothing of it is touched until there is a base that was taken after the
/// gap; the next refresh builds it anew from that.
#[test]
fn a_standby_in_front_of_a_gap_says_so_and_comes_back_with_the_next_base() {
    let stage = Stage::with(NO_ARCHIVE, "log-queue = '64 MiB'");
    let (a, b) = (&stage.a, &stage.b);
    a.keeps_little();
    a.run(&["backup", "shop"]).code(0);
    let _receive = receiver(a);
    let last = a.write();
    is_stored(a);
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    let (code, before) = status(b);
    assert_eq!((code, &standby(&before)["stuck"]), (0, &Value::Null), "{before}");

    // The vault is away until the queue is full, and what nobody keeps is gone.
    let gone = Timestamp::now();
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    fs::rename(&vault, &away).unwrap();
    a.fill_much();
    a.server.eventually(
        "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'mainstay_shop'",
    );
    a.server.sql("CHECKPOINT");
    fs::rename(&away, &vault).unwrap();
    let lost = a.write();
    let gap = || status(a).1["log-gap"].clone();
    wait_for("the gap has an end", || gap()["to"].is_u64());
    is_stored(a);
    wait_for("the gap is written down in the vault", || gap()["recorded"] == true);
    // What is stored beyond it can be reached from nowhere, and counts for nothing on either host.
    for host in [a, b] {
        let (_, seen) = status(host);
        let since = Timestamp::now().duration_since(gone).as_secs().cast_unsigned();
        let age = seen["age-seconds"].as_u64();
        assert!(age.is_some_and(|age| age + 1 >= since), "{since} s since it was whole: {seen}");
    }

    // Before there is a new base, too: nothing on either host says that it is up to date.
    let told = standby(&status(a).1);
    assert!(told["stuck"].as_str().is_some_and(|why| why.contains("not in the vault")), "{told}");
    let shown = a.run(&["status"]);
    assert!(
        shown.out.contains("in front of a gap") && !shown.out.contains("up to date"),
        "{shown:?}"
    );
    // A server that could not ask its vault has stopped; this starts it.
    wait_for("a refresh says that it is stuck", || {
        refreshed(b)["stuck"].as_str().is_some_and(|why| why.contains("cannot go on"))
    });
    let began = started(b);
    let said = b.run(&["refresh", "shop"]).code(0).says("cannot go on");
    said.says("Run `mainstay backup shop` on the primary");
    assert!(refreshed(b)["built-anew"].is_null());
    assert_eq!(started(b), began, "it was touched");
    let stands = |based: bool| {
        wait_for("the standby says that it is stuck", || {
            standby(&status(b).1)["stuck"].as_str().is_some_and(|why| why.contains("cannot go on"))
        });
        let (code, told) = status(b);
        assert_eq!((code, told["promises-kept"].as_bool()), (1, Some(false)), "{told}");
        let doctor = b.run(&["doctor", "shop"]).code(1).says("cannot go on");
        let doctor = doctor.says("mainstay refresh shop");
        assert_eq!(doctor.out.contains("mainstay backup shop"), !based, "{doctor:?}");
        assert_eq!(b.newest(), last, "it has what was before the gap, and nothing else");
    };
    stands(false);

    a.run(&["backup", "shop"]).code(0);
    assert!(gap().is_null(), "{}", gap());
    stands(true);
    let behind = standby(&status(a).1);
    assert!(behind["behind-seconds"].as_u64().is_some_and(|behind| behind > 0), "{behind}");

    // Who has paused its replay may have a reason.
    b.server.sql("SELECT pg_wal_replay_pause()");
    b.run(&["refresh", "shop"]).code(1).complains("does not get to").complains("--reseed");
    assert_eq!((b.newest(), started(b)), (last, began));
    b.server.sql("SELECT pg_wal_replay_resume()");

    // Killed before the new copy is in place, it stands where it stood, and serves.
    for at in ["prepare:done", "stop:done"] {
        let mut command = b.command(&["refresh", "shop"]);
        run(command.env("MAINSTAY_TEST_KILL_AT", at)).code(137);
        b.run(&["recover", "shop"]).code(0);
        b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
        assert_eq!(beside(b), [] as [String; 0], "{at}");
    }
    let done = refreshed(b);
    let why = done["built-anew"].as_str().unwrap_or_default();
    assert!(why.contains("cannot go on") && why.contains("not in the vault"), "{done}");
    assert_eq!(&done["stuck"], &Value::Null);
    assert_eq!(b.newest(), lost);
    let kept = done["put-aside"][0].as_str().unwrap_or_default();
    assert!(
        kept.contains(".left-behind-") && Path::new(kept).join("PG_VERSION").exists(),
        "{done}"
    );
    let (code, after) = status(b);
    assert_eq!((code, &standby(&after)["stuck"]), (0, &Value::Null), "{after}");
    let doctor = b.run(&["doctor", "shop"]);
    assert!(!doctor.out.contains("cannot go on"), "{doctor:?}");
    assert!(standby(&status(a).1)["stuck"].is_null());
    // And it follows.
    let newest = a.write();
    is_stored(a);
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    // Once is enough.
    let began = started(b);
    assert!(refreshed(b)["built-anew"].is_null());
    assert_eq!(started(b), began);
}

/// A standby that was away until no point needed the log any more that it does.
fn left_behind() -> (Stage, u64, u64) {
    let lines = "keep = { last = 1 }\nkeep-for-standbys = '1s'\nschedule = '* * * * *'";
    let stage = Stage::with("archive_mode = on", lines);
    let (a, b) = (&stage.a, &stage.b);
    let last = a.write();
    a.run(&["backup", "shop"]).code(0);
    a.archived();
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    b.server.stop("fast");
    for _ in 0..3 {
        a.write();
        a.archived();
    }
    a.run(&["backup", "shop"]).code(0);
    wait_for("what it holds is nobody's any more", || {
        a.run(&["forget", "shop", "--prune"]).code(0);
        let points = a.run(&["snapshots", "shop", "--json"]).code(0).json();
        points["services"][0]["snapshots"].as_array().unwrap().len() == 1
    });
    let newest = a.write();
    a.archived();
    (stage, last, newest)
}

/// What it needs went with the points that needed it: it is built anew, by what runs by itself, too, and
/// whoever dies at it leaves the one copy or the other.
#[test]
fn a_standby_that_was_away_for_too_long_is_built_anew_by_itself() {
    let (stage, last, newest) = left_behind();
    let b = &stage.b;
    // It dies when the new copy is in place, and the old one lies beside it still.
    let mut command = b.command(&["refresh", "shop"]);
    run(command.env("MAINSTAY_TEST_KILL_AT", "settle:done")).code(137);
    assert_eq!(beside(b).len(), 1);
    b.run(&["recover", "shop"]).code(0).says("what stood there before is at");
    assert_eq!(beside(b).len(), 1, "it is for somebody to remove");
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    assert!(refreshed(b)["built-anew"].is_null());

    let (stage, other, newest) = left_behind();
    let b = &stage.b;
    assert_eq!(other, last);
    // What was put aside for another one is for somebody to remove first.
    let kept = b.home().join("data.left-behind-before");
    fs::create_dir(&kept).unwrap();
    let said = b.run(&["refresh", "shop"]).code(1).complains("is still kept");
    said.complains(&kept.display().to_string());
    assert_eq!(b.newest(), last);
    fs::remove_dir(&kept).unwrap();
    // As if it had never been refreshed here: then it is due at once.
    fs::remove_dir_all(b.home().join("state/services/shop/operations")).unwrap();
    let done = b.run(&["run-due", "--json"]).json()["services"][0].clone();
    assert_eq!(done["ran"], "refresh", "{done}");
    let why = done["result"]["built-anew"].as_str().unwrap_or_default();
    assert!(why.contains("no point that is kept needs it"), "{done}");
    assert_eq!(b.newest(), newest);
    assert_eq!(beside(b).len(), 1);
    assert_eq!(standby(&status(b).1)["stuck"], Value::Null);
}

/// A copy that went its own way is never put aside unasked, whatever it lacks.
#[test]
fn a_copy_that_was_promoted_is_never_built_anew_unasked() {
    let (stage, last, newest) = left_behind();
    let b = &stage.b;
    b.server.start();
    b.server.sql("SELECT pg_promote()");
    b.server.sql("CREATE TABLE mine (x int)");
    let began = started(b);
    let said = b.run(&["refresh", "shop"]).code(1);
    said.complains("does not follow any more").complains("mainstay refresh shop --reseed");
    assert_eq!((b.newest(), started(b)), (last, began));
    assert_eq!(b.server.sql("SELECT count(*) FROM mine"), "0");
    b.run(&["refresh", "shop", "--reseed"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    assert_eq!(beside(b).len(), 1, "what somebody wrote is kept");
}

/// A place in the log says nothing of whose log it is: another cluster in the copy's place stands far
/// behind, and is never put aside unasked.
#[test]
fn another_cluster_in_the_place_of_a_copy_is_never_built_anew_unasked() {
    let (stage, _, newest) = left_behind();
    let b = &stage.b;
    let settings = fs::read_to_string(b.server.data().join("postgresql.auto.conf")).unwrap();
    fs::rename(b.server.data(), stage.dir.path().join("data-before")).unwrap();
    // A standby needs as much as its primary says that it has.
    let settings = format!("{settings}\nmax_connections = 100\n");
    let other = pg_server::PgServer::create(&b.home(), &settings);
    fs::write(other.data().join("standby.signal"), "").unwrap();
    give(&other.data().join("standby.signal"));
    other.start();
    assert_eq!(other.sql("SELECT pg_is_in_recovery()"), "t");
    let began = started(b);
    let said = b.run(&["refresh", "shop"]).code(1).complains("holds the database cluster");
    said.complains("mainstay refresh shop --reseed");
    assert_eq!((started(b), beside(b)), (began, vec![]), "it was touched");
    let told = standby(&status(b).1);
    assert!(told["stuck"].is_string(), "{told}");
    b.run(&["doctor", "shop"]).code(1).says("holds the database cluster");
    b.run(&["refresh", "shop", "--reseed"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    assert_eq!(beside(b).len(), 1, "it is kept");
}

/// A server that archives is spared as well where the state directory is full and nothing can be noted. The
/// next segment that is stored shows what is missing.
#[test]
fn what_is_let_go_beside_a_full_state_directory_is_found_by_the_next_segment() {
    let stage = Stage::with("archive_mode = on", "log-queue = '64 MiB'");
    let Some(disk) = stage.small_state("16m") else { return };
    let a = &stage.a;
    a.server.sql("ALTER SYSTEM SET max_wal_size = '32MB'");
    a.server.sql("SELECT pg_reload_conf()");
    a.run(&["backup", "shop"]).code(0);
    a.write();
    a.archived();
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    disk.fill(0);
    fs::rename(&vault, &away).unwrap();
    for _ in 0..8 {
        a.fill(20);
    }
    a.write();
    // As many as may wait.
    a.server.eventually(
        "SELECT count(*) <= 4 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
    );
    let gap = || status(a).1["log-gap"].clone();
    assert!(gap().is_null(), "the disk was not full");
    fs::rename(&away, &vault).unwrap();
    disk.empty();
    a.write();
    a.archived();
    wait_for("the gap is written down in the vault", || gap()["recorded"] == true);
    a.run(&["run-due", "--dry-run"]).code(0).says("a backup is due").says("is not in the vault");
    a.run(&["run-due"]).code(0);
    assert!(gap().is_null(), "{}", gap());
    let wanted = a.write();
    a.archived();
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
}

/// Puts a note of a gap into the vault that is none, by the name of one so many segments after where the
/// primary is.
fn notes_nonsense(stage: &Stage, ahead: u32) {
    let a = &stage.a;
    let segment = a.server.sql(&format!(
        "SELECT pg_walfile_name(pg_current_wal_lsn() + \
         {ahead} * pg_size_bytes(current_setting('wal_segment_size')))"
    ));
    let log = other_cluster::log(stage).at(Some(other_cluster::cluster(a).parse().unwrap()));
    log.push(Generation::FIRST, &format!("{segment}.gap"), b"nonsense").unwrap();
    other_cluster::is_the_servers(stage);
}

/// A standby that streams passes over any gap.
#[test]
fn a_damaged_note_of_a_gap_keeps_no_standby_that_streams_from_its_refresh() {
    let stage =
        Stage::with("archive_mode = on", "stream-from = 'postgres://postgres@/?host=OTHER'");
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually("SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'");
    let wanted = a.write();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    notes_nonsense(&stage, 0);
    b.run(&["refresh", "shop"]).code(0).complains(".gap in the vault is not valid");
    b.run(&["doctor", "shop"]).code(1).says(".gap in the vault is not valid");
}

/// What is missing further on is nothing that a standby stands in front of.
#[test]
fn a_damaged_note_of_a_later_gap_concerns_nobody_who_is_before_it() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    notes_nonsense(&stage, 3);
    b.run(&["refresh", "shop"]).code(0);
    assert_eq!(status(b).0, 0);
    let doctor = b.run(&["doctor", "shop"]).out;
    assert!(!doctor.contains("is not valid"), "{doctor}");
}

/// Nobody notes what a primary had thrown away of a new timeline before its log was stored, as its first point
/// there needs nothing of that: whoever follows the timeline before waits for it all the same.
#[test]
fn a_standby_does_not_get_to_a_timeline_of_which_the_vault_lacks_the_beginning() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let (a, b) = (&stage.a, &stage.b);
    a.run(&["backup", "shop"]).code(0);
    let receive = receiver(a);
    let last = a.write();
    is_stored(a);
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    drop(receive);
    a.run(&["restore", "shop", "--replace"]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    a.keeps_little();
    let began = a.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    a.fill_much();
    a.server.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
    a.server.sql("CHECKPOINT");
    let is_gone = format!("SELECT NOT EXISTS (SELECT FROM pg_ls_waldir() WHERE name = '{began}')");
    a.server.eventually(&is_gone);
    a.run(&["backup", "shop"]).code(0);
    let _receive = receiver(a);
    let newest = a.write();
    is_stored(a);
    wait_for("the standby says that it is stuck", || {
        let (code, seen) = status(b);
        let stuck = standby(&seen)["stuck"].clone();
        code == 1 && stuck.as_str().is_some_and(|why| why.contains("cannot go on"))
    });
    b.run(&["doctor", "shop"]).code(1).says("Run `mainstay refresh shop`");
    let done = refreshed(b);
    let why = done["built-anew"].as_str().unwrap_or_default();
    assert!(why.contains("never stored"), "{done}");
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    assert_eq!(standby(&status(b).1)["stuck"], Value::Null);
}
