//! A primary that went back to a time before its newest point, and went on along a timeline of its own.

use super::receiving::restored;
use super::*;
use jiff::Timestamp;

/// Writes, and says when that was done; what comes next is at another time.
fn written(host: &Host) -> Timestamp {
    host.write();
    let time = Timestamp::now();
    std::thread::sleep(Duration::from_millis(30));
    time
}

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
    a.write();
    a.archived();

    let (first, left) = (point(&first), point(&left));
    let newest = a.run(&["restore", "shop", "--target", "/nonexistent/x", "--dry-run", "--json"]);
    let newest = newest.code(0).json();
    assert_eq!(newest["snapshot"], *first);
    assert!(newest.get("timeline").is_none());
    let warning = newest["warnings"][0].as_str().unwrap();
    assert!(warning.contains("does not lead on from") && warning.contains(&left[..8]), "{warning}");
    let (then, later, end) = (then.to_string(), later.to_string(), end.to_string());
    let places: [(&[&str], u64); 7] = [
        (&[], 3),
        (&["--at", &then], 2),
        (&["--at", &later], 4),
        (&["--at", &end], 5),
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
