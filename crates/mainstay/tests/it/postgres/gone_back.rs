//! A primary that went back to a time before its newest point, and went on along a timeline of its own.

use super::freshness::written;
use super::receiving::{objects, restored, wait_for};
use super::*;
use jiff::Timestamp;

/// What it left stays within reach, each moment as it was then; and whoever begins anew begins where the
/// log leads on to what the primary writes now.
#[test]
fn a_copy_begins_where_the_log_leads_on_and_what_was_left_stays_within_reach() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    let point = |made: &serde_json::Value| {
        made["services"][0]["point"]["snapshot"].as_str().unwrap().to_owned()
    };
    let first = a.run(&["backup", "shop", "--json"]).code(0).json();
    let then = written(a);
    a.write();
    let left = a.run(&["backup", "shop", "--json"]).code(0).json();
    let later = written(a);
    a.write();
    let end = Timestamp::now();
    a.archived();
    a.run(&["restore", "shop", "--replace", "--at", &then.to_string()]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    assert_eq!(a.newest(), 2);
    // Nobody writes for a while, and still it is where it went back to.
    a.server.eventually(
        "SELECT clock_timestamp() > checkpoint_time + interval '1 second' \
         FROM pg_control_checkpoint()",
    );
    let quiet = Timestamp::now();
    std::thread::sleep(Duration::from_millis(30));
    a.write();
    a.archived();

    let (first, left) = (point(&first), point(&left));
    // What was left is told as that, and that it is the newest that there is.
    let snapshots = a.run(&["snapshots", "shop", "--json"]).code(0).json();
    let marks: Vec<_> = snapshots["services"][0]["snapshots"].as_array().unwrap().iter().collect();
    let is_left = |id: &str| {
        marks.iter().find(|line| line["snapshot"] == *id).unwrap()["left-behind"].clone()
    };
    assert_eq!((is_left(&first), is_left(&left)), (false.into(), true.into()));
    a.run(&["snapshots", "shop"]).code(0).says("head, left behind");
    let status = a.run(&["status", "shop", "--json"]).json();
    let why = status["services"][0]["went-back"].as_str().unwrap();
    assert!(why.contains("went back behind"), "{why}");
    a.run(&["status", "shop"]).says("went back behind").says("a new base is due");
    let newest = a.run(&["restore", "shop", "--target", "/nonexistent/x", "--dry-run", "--json"]);
    let newest = newest.code(0).json();
    assert_eq!(newest["snapshot"], *first);
    assert!(newest.get("timeline").is_none());
    let warning = newest["warnings"][0].as_str().unwrap();
    assert!(warning.contains("does not lead on from") && warning.contains(&left[..8]), "{warning}");
    let [then, later, end, quiet] = [then, later, end, quiet].map(|time| time.to_string());
    let places: [(&[&str], u64); 8] = [
        (&[], 3),
        (&["--at", &then], 2),
        (&["--at", &later], 4),
        (&["--at", &end], 5),
        (&["--at", &quiet], 2),
        (&["--snapshot", &left], 5),
        (&["--snapshot", &first, "--target-timeline", "1"], 5),
        (&["--snapshot", &first], 3),
    ];
    for (number, (words, wanted)) in places.into_iter().enumerate() {
        let copy = restored(&stage, a, &format!("copy{number}"), words);
        assert_eq!(copy.newest(), wanted, "{words:?}");
    }
    let refused = |words: &[&str]| {
        let words = [&["restore", "shop", "--target", "/nonexistent/x"], words].concat();
        a.run(&words).code(1)
    };
    refused(&["--snapshot", &left, "--target-timeline", "2"])
        .complains("does not lead from")
        .complains("newest point from which it does");
    refused(&["--target-timeline", "7"]).complains("no timeline 7");

    // Without the first, nothing would lead to what the primary writes now.
    a.run(&["forget", "shop", "--keep-last", "1"]).code(0);
    a.run(&["forget", "shop", &first]).code(1).complains("writes now");

    // Each of them can be drilled, and a standby that is built anew gets to where the primary is.
    for which in [&first, &left] {
        a.run(&["drill", "shop", "--snapshot", which]).code(0);
    }
    a.run(&["drill", "shop"]).code(0);
    b.run(&["refresh", "shop", "--snapshot", &left]).code(1).complains("does not lead from");
    b.run(&["refresh", "shop"]).code(0);
    let wanted = a.write();
    a.archived();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
}

/// What it holds is what the primary gave up: whoever took over with that would lose what was written since.
#[test]
fn a_standby_on_what_the_primary_gave_up_takes_over_only_if_somebody_says_so() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let then = written(a);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let left = a.write();
    a.archived();
    b.server.eventually(&format!("SELECT max(n) = {left} FROM orders"));
    a.run(&["restore", "shop", "--replace", "--at", &then.to_string()]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    assert_eq!(a.newest(), 2);
    let newest = a.write();
    a.archived();
    let left_behind = |host: &Host| {
        let status = host.run(&["status", "shop", "--json"]).json();
        let members = status["services"][0]["members"].as_array().unwrap().clone();
        members.into_iter().find(|member| member["name"] == "b").unwrap()["left-behind"].clone()
    };
    assert_eq!(left_behind(b), true);
    b.run(&["status", "shop"]).code(1).says("on what the primary left behind").says("past ");
    b.run(&["doctor", "shop"]).code(1).says("gets nothing of what the primary writes now");
    b.run(&["refresh", "shop"]).says("gets nothing of what").says("refresh shop --reseed");
    a.server.kill();
    stage.dead(true);

    let said = b.run(&["takeover", "shop", "--yes"]);
    assert_ne!(said.code, 0, "{said:#?}");
    said.complains("--override replay-stands-still").complains("--reseed");
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");

    // Built anew it is where the primary was, though the newest point is none of that.
    b.run(&["refresh", "shop", "--reseed"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    assert_eq!(left_behind(b), false);
    b.run(&["refresh", "shop"]).code(0);
    b.run(&["takeover", "shop", "--yes"]).code(0);
    assert_eq!(b.newest(), newest);
}

/// A cluster that goes on in the place of another, as after an upgrade, begins on timeline 1 again. What the
/// vault has of later timelines is the other's, and so are the points that lead there.
#[test]
fn a_cluster_that_took_anothers_place_is_not_taken_for_one_that_went_back() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    a.run(&["restore", "shop", "--replace"]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    a.write();
    a.archived();
    a.run(&["backup", "shop"]).code(0);
    other_cluster::takes_the_place(&stage, "archive_mode = on");
    a.write();
    a.run(&["backup", "shop", "--allow-another"]).code(0);
    for _ in 0..2 {
        a.write();
    }
    let then = written(a).to_string();
    let wanted = a.write();
    a.archived();
    let snapshots = a.run(&["snapshots", "shop", "--json"]).code(0).json();
    for line in snapshots["services"][0]["snapshots"].as_array().unwrap() {
        assert_eq!(line["left-behind"], false, "{line}");
    }
    assert_eq!(restored(&stage, a, "newest", &[]).newest(), wanted);
    assert_eq!(restored(&stage, a, "then", &["--at", &then]).newest(), wanted - 1);
}

/// The vault knows that the primary went back, and has nothing yet of what it wrote since: that is no reason to
/// go on along what it gave up.
#[test]
fn a_copy_ends_where_the_primary_went_back_to_until_there_is_more() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let then = written(a);
    for _ in 0..2 {
        a.write();
        a.archived();
    }
    a.run(&["restore", "shop", "--replace", "--at", &then.to_string()]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    wait_for("its history is in the vault", || {
        objects(&stage, "log").iter().any(|key| key.contains("00000002.history"))
    });
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), 2);
    a.run(&["drill", "shop"]).code(0);
    // A standby cannot stop there.
    let b = &stage.b;
    let said = b.run(&["refresh", "shop"]);
    assert_ne!(said.code, 0, "{said:#?}");
    said.complains("nothing yet of what").complains("pg_switch_wal");
    let newest = a.write();
    a.archived();
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
    assert_eq!(b.newest(), 3);
}
