//! A cancel of what changes a server's own directory: before the commit marker the server is what it
//! was, and past it it runs on what it was to become.

use super::over::newest_replayed;
use super::*;
use crate::cancel::cont;
use crate::refreshing::ended;
use crate::world::{state, wait_for};

/// Begins a command that stands still at a line of its journal; the number of its worker.
pub(super) fn held(host: &Host, words: &[&str], at: &str) -> (Child, u32) {
    let mut command = host.command(words);
    command.env("MAINSTAY_TEST_STOP_AT", at).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for(at, || host.worker().and_then(state) == Some('T'));
    (child, host.worker().unwrap())
}

/// Cancels a command at a line of its journal.
#[track_caller]
fn cancelled(host: &Host, words: &[&str], at: &str, code: i32) -> Said {
    let (child, worker) = held(host, words, at);
    host.run(&["cancel", "shop"]).code(0).says("was asked to stop");
    cont(worker);
    ended(child, code)
}

#[test]
fn a_restore_in_place() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let wanted = a.write();
    a.archived();
    for (at, code) in [
        ("stage:done", 130),
        ("stop:done", 130),
        ("place:begin", 0),
        ("place:done", 0),
        ("settle:begin", 0),
        ("settle:done", 0),
        ("start:begin", 0),
    ] {
        cancelled(a, &["restore", "shop", "--replace"], at, code);
        assert!(a.server.runs(), "{at}: it is down");
        assert_eq!(newest_replayed(a), wanted, "{at}");
    }
    // One that was down is started, too.
    a.server.stop("fast");
    cancelled(a, &["restore", "shop", "--replace"], "settle:done", 0);
    assert_eq!(newest_replayed(a), wanted);
}

#[test]
fn a_restore_over_what_stands_there() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let wanted = a.write();
    a.archived();
    for at in ["complete:begin", "complete:done", "start:begin"] {
        a.server.stop("fast");
        cancelled(a, &["restore", "shop", "--delta"], at, 0);
        assert!(a.server.runs(), "{at}: it is down");
        assert_eq!(newest_replayed(a), wanted, "{at}");
    }
    // Between the two there is no way back: it stays shut, and the same completes it.
    a.server.stop("fast");
    cancelled(a, &["restore", "shop", "--delta"], "overwrite:done", 130);
    a.run(&["may-start", "shop"]).code(1);
    assert!(!a.server.runs());
    a.run(&["restore", "shop", "--delta"]).code(0);
    assert_eq!(newest_replayed(a), wanted);
}

#[test]
fn a_standby_that_is_built_anew() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let wanted = a.write();
    a.archived();
    for at in
        ["place:begin", "place:done", "settle:begin", "settle:done", "start:begin", "start:done"]
    {
        let said = cancelled(b, &["refresh", "shop", "--reseed"], at, 0);
        said.complains("is in place and runs");
        assert!(b.server.runs(), "{at}: it is down");
        assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t", "{at}");
        b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
        b.drop_diverged();
    }
    b.run(&["refresh", "shop"]).code(0);
}
