//! Up to when the log in the vault reaches, as every host sees it, and not its primary alone.

use super::receiving::{is_stored, receiver, wait_for};
use super::*;
use jiff::Timestamp;
use serde_json::Value;

/// What a takeover by this host would lose.
fn loss(host: &Host) -> Value {
    let said = host.run(&["takeover", "shop", "--dry-run", "--json"]);
    said.json()["assessment"]["loss"].clone()
}

fn kept_until(host: &Host) -> Timestamp {
    loss(host)["kept-until"].as_str().expect("a time").parse().unwrap()
}

/// Nobody writes for twice the RPO: what the standby holds is as new as its source all the same, and it
/// says so, on a host that has never stored anything. Then the primary is lost while the standby's server
/// does not run: what would be lost is what was not shipped, and not what was not replayed.
#[test]
fn a_quiet_night_is_no_alarm_and_a_lost_primary_takes_only_what_was_not_shipped() {
    let settings =
        "archive_mode = off\nmax_slot_wal_keep_size = 1GB\nwal_retrieve_retry_interval = 500ms";
    let stage = Stage::with(settings, "rpo = '8s'");
    let (a, b) = (&stage.a, &stage.b);
    a.run(&["backup", "shop"]).code(0);
    let receive = receiver(a);
    let last = a.write();
    is_stored(a);
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    let evening = Instant::now();
    wait_for("the night is over", || evening.elapsed() > Duration::from_secs(17));
    for host in [a, b] {
        let said = host.run(&["run-due", "--json"]).code(0).json();
        assert!(said["services"][0]["stale"].is_null(), "{said}");
        let status = host.run(&["status", "shop", "--json"]).code(0).json();
        assert_eq!(status["services"][0]["promises-kept"], true, "{status}");
    }

    b.server.stop("fast");
    let wanted = a.write();
    let wrote = Timestamp::now();
    wait_for("the vault says that it has it", || kept_until(b) >= wrote);
    a.server.kill();
    drop(receive);
    let lost = Timestamp::now();
    let kept = kept_until(b);
    assert!((wrote..=lost).contains(&kept), "{kept} is not between {wrote} and {lost}");
    // Nobody stores anything any more: that is noticed where it still can be.
    wait_for("the standby's host says that it gets older", || {
        b.run(&["status", "shop", "--json"]).json()["services"][0]["rpo-kept"] == false
    });
    stage.dead(true);
    let done = b.run(&["takeover", "shop", "--yes", "--json"]).code(0).json();
    assert!(done["assessment"]["loss"]["kept-until"].is_string(), "{done}");
    assert_eq!(b.newest(), wanted);
}

/// With `archive_command` alone, too, every host knows; files beside the log prove nothing.
#[test]
fn what_is_archived_is_known_on_every_host() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    // What it commits is not quiet.
    a.server.sql("ALTER SYSTEM SET autovacuum = off");
    a.server.sql("SELECT pg_reload_conf()");
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    b.server.stop("fast");
    // It is said once in a second at most.
    std::thread::sleep(Duration::from_millis(1100));
    let wrote = written(a);
    a.archived();
    wait_for("the vault says that it has it", || kept_until(b) >= wrote);
    let before = kept_until(b);
    // A server hands these over by the same command, whenever it likes.
    let segment = a.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let file = stage.dir.path().join(format!("{segment}.00000028.backup"));
    fs::write(&file, "START WAL LOCATION: 0/28\n").unwrap();
    give(&file);
    a.run(&["wal", "push", "shop", &file.display().to_string()]).code(0);
    assert_eq!(kept_until(b), before);

    // A segment that came too soon after another is said by the timer.
    let wrote = written(a);
    a.archived();
    wait_for("the timer says that it has it", || {
        a.run(&["run-due"]);
        kept_until(b) >= wrote
    });
    // And of a quiet server that it is quiet: its checkpoints are nobody's work.
    a.server.sql("CHECKPOINT");
    for _ in 0..2 {
        let quiet = Timestamp::now();
        wait_for("the timer says that it is quiet", || {
            a.run(&["run-due"]);
            kept_until(b) >= quiet
        });
    }
    // Another cluster in its place, which is quiet, too.
    let file = a.home().join("state/services/shop/log-led.json");
    let led = fs::read_to_string(&file).unwrap();
    let (own, other) = ("\"cluster\":\"", "\"cluster\":\"1");
    assert!(led.contains(own), "{led}");
    fs::write(&file, led.replace(own, other)).unwrap();
    let quiet = kept_until(b);
    std::thread::sleep(Duration::from_millis(1100));
    a.run(&["run-due"]);
    assert_eq!(kept_until(b), quiet);
    fs::write(&file, led).unwrap();
    // What is committed and not archived is in nobody's hands.
    let quiet = kept_until(b);
    a.write();
    std::thread::sleep(Duration::from_millis(1100));
    a.run(&["run-due"]);
    assert_eq!(kept_until(b), quiet);
}

/// A primary went back to a time before its newest point: from that no recovery leads to what it writes
/// now, whatever is stored of it, until there is a point on its new way: one is due.
#[test]
fn from_a_point_that_a_primary_went_back_behind_nothing_leads_on() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    let kept = |wrote: Timestamp| {
        a.run(&["run-due"]);
        let until = loss(b)["kept-until"].as_str().map(|text| text.parse::<Timestamp>().unwrap());
        until.is_some_and(|until| until >= wrote)
    };
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    b.server.stop("fast");
    let time = written(a);
    std::thread::sleep(Duration::from_millis(1100));
    a.write();
    a.run(&["backup", "shop"]).code(0);
    a.archived();
    a.run(&["restore", "shop", "--replace", "--at", &time.to_string()]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    let wrote = written(a);
    a.archived();
    std::thread::sleep(Duration::from_millis(1100));
    let said = a.run(&["run-due", "--dry-run"]).code(0);
    said.says("a backup is due").says("went back behind");
    a.run(&["doctor", "shop"]).code(1).says("went back behind");
    // One that fails is tried again later.
    let config = fs::read_to_string(&a.config).unwrap();
    fs::write(&a.config, format!("{config}before-backup = 'false'\n")).unwrap();
    assert!(!kept(wrote), "{}", loss(b));
    fs::write(&a.config, config).unwrap();
    a.run(&["backup", "shop"]).code(0);
    assert!(!a.run(&["run-due", "--dry-run"]).code(0).out.contains("a backup is due"));
    let wrote = written(a);
    a.archived();
    wait_for("the new way is known", || kept(wrote));
}

/// Writes, and says when that was done; what comes next is at another time.
pub(super) fn written(host: &Host) -> Timestamp {
    host.write();
    let wrote = Timestamp::now();
    // The time of a file is that of the kernel's last tick, a few milliseconds ago.
    std::thread::sleep(Duration::from_millis(20));
    wrote
}
