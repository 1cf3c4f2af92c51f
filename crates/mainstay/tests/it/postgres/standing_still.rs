//! Takeover by a standby that does not replay what the vault has for it.

use super::receiving::wait_for;
use super::*;

/// The primary is gone, and what it archived last lies in the vault, more than a segment of it. Returns
/// the newest order.
fn lose(a: &Host) -> u64 {
    for _ in 0..2 {
        a.write();
        a.archived();
    }
    let newest = a.write();
    a.archived();
    a.server.kill();
    newest
}

/// It is refused before anything is raised, and the claim given back.
#[track_caller]
fn is_refused(stage: &Stage) {
    let said = stage.b.run(&["takeover", "shop", "--yes"]);
    assert_ne!(said.code, 0, "{said:#?}");
    said.complains("stands still").complains("--override replay-stands-still");
    let status = stage.b.run(&["status", "shop", "--json"]).json()["services"][0].clone();
    assert!(status["takeover"].is_null() && status["generation"] == 1, "{status}");
    assert_eq!(stage.b.server.sql("SELECT pg_is_in_recovery()"), "t");
}

/// With a setting that is too low it would not even come up as a primary: nothing is raised, and once it
/// has what it needs it takes over with everything.
#[test]
fn a_standby_that_cannot_replay_is_not_promoted() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    a.server.sql("ALTER SYSTEM SET max_connections = 50");
    a.server.stop("fast");
    a.server.start();
    let newest = lose(a);
    stage.dead(true);
    b.server.eventually("SELECT pg_is_wal_replay_paused()");
    is_refused(&stage);
    b.server.sql("ALTER SYSTEM SET max_connections = 50");
    b.server.stop("fast");
    b.server.start();
    b.run(&["takeover", "shop", "--yes"]).code(0);
    assert_eq!(b.newest(), newest);
}

/// Whoever knows why it stands still may say so.
#[test]
fn a_standby_whose_replay_is_paused_takes_over_only_if_somebody_says_so() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    b.server.sql("SELECT pg_wal_replay_pause()");
    b.server.eventually("SELECT pg_get_wal_replay_pause_state() = 'paused'");
    let held = b.newest();
    lose(a);
    stage.dead(true);
    is_refused(&stage);
    b.run(&["takeover", "shop", "--yes", "--override", "replay-stands-still=I paused it"]).code(0);
    assert_eq!(b.newest(), held, "a promotion ends the pause, and asks for no more of the log");
    b.write();
}

/// An outage of the vault ends no standby: somebody reads there. It asks again, and goes on where it was.
#[test]
fn a_standby_outlives_an_outage_of_its_vault() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let began = b.server.sql("SELECT pg_postmaster_start_time()");
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    fs::rename(&vault, &away).unwrap();
    let log = b.server.data().join("mainstay_startup.log");
    let asked = || fs::read_to_string(&log).unwrap().matches("no repository").count();
    let before = asked();
    wait_for("it has asked in vain, and again", || asked() >= before + 4);
    assert_eq!(b.server.sql("SELECT pg_postmaster_start_time()"), began);
    fs::rename(&away, &vault).unwrap();
    let wanted = a.write();
    a.archived();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    assert_eq!(b.server.sql("SELECT pg_postmaster_start_time()"), began);
    // Once it is promoted, no answer is not the end of its log.
    b.run(&["takeover", "shop", "--yes", "--override", "primary-not-fenced=test"]).code(0);
    assert!(!b.server.data().join("mainstay_promoting").exists());
}

/// Nor is it for one that somebody promotes by hand: what it cannot ask for may be there.
#[test]
fn a_standby_that_is_promoted_by_hand_takes_no_answer_for_no_end() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    b.server.stop("fast");
    let newest = a.write();
    a.archived();
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    fs::rename(&vault, &away).unwrap();
    b.server.start();
    b.server.sql("SELECT pg_promote(false)");
    wait_for("it ends", || !b.server.runs());
    assert!(b.server.data().join("standby.signal").exists(), "its log was taken to end there");
    fs::rename(&away, &vault).unwrap();
    b.server.start();
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");
}

/// What comes after its log it knows by itself. If it ended over that, it would come up again as a primary
/// on the timeline that others have, too.
#[test]
fn a_vault_that_goes_away_behind_the_end_of_the_log_is_in_no_promotions_way() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let here = stage.dir.path().display();
    let script = stage.dir.path().join("fetch");
    let program = b.program.display();
    let text = format!(
        "case $1 in *1.history) mv {here}/vault {here}/away;; esac\n\
         exec {program} --config {} wal fetch shop \"$1\" \"$2\"\n",
        b.config.display()
    );
    fs::write(&script, text).unwrap();
    give(&script);
    let command = format!("ALTER SYSTEM SET restore_command = 'sh {} %f \"%p\"'", script.display());
    b.server.sql(&command);
    b.server.sql("SELECT pg_reload_conf()");
    b.server.sql("SELECT pg_promote(false)");
    wait_for("the vault is away", || stage.dir.path().join("away").exists());
    b.server.eventually("SELECT NOT pg_is_in_recovery()");
    assert!(b.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").starts_with("00000002"));
}
