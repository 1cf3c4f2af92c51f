//! A standby that follows the vault, when a part of the log is in no vault.

use super::receiving::{is_stored, receiver, wait_for};
use super::*;
use serde_json::Value;

/// Nothing of the log comes from anywhere else.
const NO_ARCHIVE: &str = "archive_mode = off\nmax_slot_wal_keep_size = 1GB";

fn status(host: &Host) -> (i32, Value) {
    let said = host.run(&["status", "shop", "--json"]);
    (said.code, said.json()["services"][0].clone())
}

/// What a host knows of the standby.
fn standby(status: &Value) -> Value {
    let members = status["members"].as_array().unwrap();
    members.iter().find(|member| member["name"] == "b").unwrap().clone()
}

/// It waits for what never comes, and looks as if its source had nothing new: that is told, on its own
/// host and on the primary's, until it was built anew from a base that was taken after the gap.
#[test]
fn a_standby_in_front_of_a_gap_says_so_and_comes_back_with_the_next_base() {
    let stage = Stage::with(NO_ARCHIVE, "log-queue = '64 MiB'");
    let (a, b) = (&stage.a, &stage.b);
    a.server.sql("ALTER SYSTEM SET max_wal_size = '32MB'");
    a.server.sql("ALTER SYSTEM SET wal_keep_size = 0");
    a.server.sql("SELECT pg_reload_conf()");
    a.run(&["backup", "shop"]).code(0);
    let _receive = receiver(a);
    let last = a.write();
    is_stored(a);
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    let (code, before) = status(b);
    assert_eq!((code, &standby(&before)["stuck"]), (0, &Value::Null), "{before}");

    // The vault is away until the queue is full, and what nobody keeps is gone.
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    fs::rename(&vault, &away).unwrap();
    for _ in 0..4 {
        a.server.sql(
            "SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) \
             FROM generate_series(1, 30)",
        );
        a.server.sql("CHECKPOINT");
    }
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

    // Before there is a new base, too: nothing on either host says that it is up to date.
    let told = standby(&status(a).1);
    assert!(told["stuck"].as_str().is_some_and(|why| why.contains("not in the vault")), "{told}");
    let shown = a.run(&["status"]);
    assert!(
        shown.out.contains("in front of a gap") && !shown.out.contains("up to date"),
        "{shown:?}"
    );
    // A server that could not ask its vault has stopped; this starts it.
    b.run(&["refresh", "shop"]).code(0);
    let stands = |based: bool| {
        wait_for("the standby says that it is stuck", || {
            standby(&status(b).1)["stuck"].as_str().is_some_and(|why| why.contains("cannot go on"))
        });
        let (code, told) = status(b);
        assert_eq!((code, told["promises-kept"].as_bool()), (1, Some(false)), "{told}");
        let doctor = b.run(&["doctor", "shop"]).code(1).says("cannot go on");
        let doctor = doctor.says("mainstay refresh shop --reseed");
        assert_eq!(doctor.out.contains("mainstay backup shop"), !based, "{doctor:?}");
        assert_eq!(b.newest(), last, "it has what was before the gap, and nothing else");
    };
    stands(false);

    a.run(&["backup", "shop"]).code(0);
    assert!(gap().is_null(), "{}", gap());
    let said = b.run(&["refresh", "shop"]).code(1);
    said.complains("does not have the log up to there").complains("--reseed");
    stands(true);
    let behind = standby(&status(a).1);
    assert!(behind["behind-seconds"].as_u64().is_some_and(|behind| behind > 0), "{behind}");

    b.run(&["refresh", "shop", "--reseed"]).code(0);
    assert_eq!(b.newest(), lost);
    let (code, after) = status(b);
    assert_eq!((code, &standby(&after)["stuck"]), (0, &Value::Null), "{after}");
    let doctor = b.run(&["doctor", "shop"]);
    assert!(!doctor.out.contains("cannot go on"), "{doctor:?}");
    assert!(standby(&status(a).1)["stuck"].is_null());
    // And it follows.
    let newest = a.write();
    is_stored(a);
    b.server.eventually(&format!("SELECT max(n) = {newest} FROM orders"));
}
