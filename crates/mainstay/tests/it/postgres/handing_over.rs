//! What only the standby that takes over had received of the log, and what bars nobody when it cannot be
//! promoted.

use super::receiving::{is_stored, objects, receiver, restored, wait_for};
use super::*;
use crate::world::signal;

/// Nothing of the log comes from anywhere else.
const NO_ARCHIVE: &str = "archive_mode = off\nmax_slot_wal_keep_size = 1GB";
const STREAMS: &str = "stream-from = 'postgres://postgres@/?host=OTHER'";

/// A standby has streamed more than a segment beyond what the vault has, when its primary is lost.
/// Returns the newest order, and the segment in which the vault's log ends.
fn ahead() -> (Stage, u64, String) {
    let stage = Stage::with(NO_ARCHIVE, STREAMS);
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let receive = receiver(a);
    a.write();
    is_stored(a);
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually("SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'");
    drop(receive);
    let end = a.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    for _ in 0..3 {
        a.write();
        a.server.sql("SELECT pg_switch_wal()");
    }
    let newest = a.write();
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    a.server.kill();
    stage.dead(true);
    (stage, newest, end)
}

/// Once it is promoted nothing would ever ship that: an old base would lead to the loss, and not to the
/// newest state.
#[test]
fn what_only_the_new_primary_had_received_comes_into_the_vault() {
    let (stage, newest, _) = ahead();
    let b = &stage.b;
    let done = b.run(&["takeover", "shop", "--yes", "--json"]).code(0).json();
    let items = done["done"]["checklist"].as_array().unwrap().clone();
    let stored = |item: &serde_json::Value| {
        item["done"] == true && item["what"] == "the vault has the log up to the promotion"
    };
    assert!(items.iter().any(stored), "{done}");
    assert_eq!(b.newest(), newest);
    let wanted = b.write();
    let _receive = receiver(b);
    is_stored(b);
    let copy = restored(&stage, b, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name <> 'mainstay_shop'";
    assert_eq!(b.server.sql(slots), "0");
}

/// However long a hook takes.
#[test]
fn what_nobody_else_has_waits_for_no_hook() {
    let (stage, _, end) = ahead();
    let b = &stage.b;
    let routed = stage.dir.path().join("routed");
    let hook = format!("route = 'until [ -e {} ]; do sleep 0.05; done'\n", routed.display());
    let config = fs::read_to_string(&b.config).unwrap();
    fs::write(&b.config, config + &hook).unwrap();
    std::thread::scope(|scope| {
        let taking_over = scope.spawn(|| b.run(&["takeover", "shop", "--yes"]));
        let stored = || objects(&stage, "log").iter().any(|key| key.contains(&format!("/{end}@")));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !stored() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let (in_time, waits) = (stored(), !taking_over.is_finished());
        fs::write(&routed, "").unwrap();
        assert!(in_time && waits);
        taking_over.join().unwrap().code(0);
    });
}

/// What it has not kept is a gap that everybody knows of, and a base is due.
#[test]
fn what_the_new_primary_has_not_kept_is_a_gap() {
    let (stage, newest, end) = ahead();
    let b = &stage.b;
    let replayed = b.server.sql(
        "SELECT max(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND \
         pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0') >= \
         ('x' || substr(name, 17))::bit(32)::bigint * 16777216",
    );
    for entry in fs::read_dir(b.server.data().join("pg_wal")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.len() == 24 && name > end && name < replayed {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let said = b.run(&["takeover", "shop", "--yes"]).code(0);
    said.complains("is not in the vault").complains("mainstay backup shop");
    assert_eq!(b.newest(), newest);
    let gap = || b.run(&["status", "shop", "--json"]).json()["services"][0]["log-gap"].clone();
    assert!(gap()["to"].is_u64() && gap()["timeline"] == 1, "{}", gap());
    b.run(&["run-due", "--dry-run"]).code(0).says("a backup is due");
    let wanted = b.write();
    b.run(&["run-due"]).code(0);
    assert!(gap().is_null(), "{}", gap());
    let copy = restored(&stage, b, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
}

/// What the new primary writes before its first base, and before anybody receives its log, is on the only
/// way of who comes along the log, or goes back to a time in between. Whoever waits for his turn there has
/// the server keep it; without him it is shipped if the server has it still.
#[test]
fn a_base_of_the_new_primary_hides_nothing_of_its_log() {
    for waits in [true, false] {
        let kept = if waits { NO_ARCHIVE } else { "archive_mode = off\nwal_keep_size = 1GB" };
        let stage = Stage::with(kept, "");
        let (a, b) = (&stage.a, &stage.b);
        a.write();
        let made = a.run(&["backup", "shop", "--json"]).code(0).json();
        let first = made["services"][0]["point"]["snapshot"].as_str().unwrap().to_owned();
        b.run(&["refresh", "shop"]).code(0);
        a.run(&["wal", "receive", "shop", "--once"]).code(0);
        let receive = waits.then(|| receiver(b));
        if let Some(receive) = &receive {
            wait_for("somebody waits for it", || super::gaps::status(b).1["log-received"] == true);
            signal(receive.0.id(), "-STOP");
        }
        a.server.kill();
        stage.dead(true);
        b.run(&["takeover", "shop", "--yes"]).code(0);
        b.write();
        b.run(&["backup", "shop"]).code(0);
        b.server.sql("CHECKPOINT");
        let wanted = b.write();
        match &receive {
            Some(receive) => {
                signal(receive.0.id(), "-CONT");
                is_stored(b);
            }
            None => drop(b.run(&["wal", "receive", "shop", "--once"]).code(0)),
        }
        let copy = restored(&stage, b, "copy", &["--snapshot", &first]);
        assert_eq!(copy.newest(), wanted, "with a receiver: {waits}");
    }
}

/// A copy that turns out not to come up as a primary does not keep anybody from another one.
#[test]
fn a_copy_that_cannot_be_promoted_bars_no_restore() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    let newest = a.write();
    a.run(&["backup", "shop"]).code(0);
    a.archived();
    b.run(&["refresh", "shop"]).code(0);
    a.server.kill();
    stage.dead(true);
    let mut command = b.command(&["takeover", "shop", "--yes"]);
    run(command.env("MAINSTAY_TEST_KILL_AT", "raise:done")).code(137);
    b.server.kill();
    let control = b.server.data().join("global/pg_control");
    fs::write(&control, vec![0; 8192]).unwrap();
    assert_ne!(b.run(&["recover", "shop"]).code, 0);
    assert_ne!(b.run(&["backup", "shop"]).code, 0);
    let copy = restored(&stage, b, "copy", &[]);
    assert_eq!(copy.newest(), newest);
    copy.server.stop("fast");
    b.run(&["restore", "shop", "--replace"]).code(0);
    wait_for("it is the primary", || {
        b.server.sql("SELECT pg_is_in_recovery()") == "f" && b.newest() == newest
    });
    b.run(&["recover", "shop"]).code(0).says("brought to its end");
    b.run(&["backup", "shop"]).code(0);
}
