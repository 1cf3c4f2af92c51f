//! What a receiver makes of what it is told.

use super::*;
use crate::rig::Rig;
use engines::postgres::Segments;
use engines::postgres::made::CLUSTER;
use std::sync::mpsc;
use std::thread;

fn log(timeline: u32, flushed: u64) -> Log {
    Log {
        in_recovery: false,
        cluster: CLUSTER,
        timeline,
        flushed: Lsn(flushed),
        segments: Segments::of(1 << 20).expect("a size"),
        slot: None,
        slot_limit: None,
    }
}

fn seen(shipped: Option<(u32, u64)>) -> Seen {
    let shipped = shipped.map(|(timeline, end)| (timeline, Lsn(end)));
    let shipped =
        shipped.map(|(timeline, end)| Shipped { cluster: CLUSTER, timeline, end, reach: end });
    Seen { shipped, well_since: None, covered: None, gone: None }
}

/// What the server had before it went back, or before another timeline began, is not waited for.
#[test]
fn a_log_that_went_back_is_stored_when_what_it_has_now_is() {
    let rig = Rig::new();
    let engine = rig.site.log_server().expect("settings").expect("a server with a log");
    let params = Params { once: true, every: Duration::ZERO };
    for (before, after) in [((1, 900), (1, 100)), ((1, 900), (2, 100)), ((1, 100), (2, 900))] {
        let mut receiver = Receiver::new(&rig.site, &engine, &params);
        let now = (Timestamp::now(), Instant::now());
        receiver.freshness(&log(before.0, before.1), seen(None), now);
        // What is said of the log as it was is not said of this one.
        receiver.freshness(&log(after.0, after.1), seen(Some(before)), now);
        assert!(!receiver.reached, "{before:?} {after:?}");
        receiver.freshness(&log(after.0, after.1), seen(Some(after)), now);
        assert!(receiver.reached, "{before:?} {after:?}");
    }
}

/// Who looks whether somebody receives holds the lock for an instant.
#[test]
fn a_look_keeps_nobody_from_receiving() {
    let rig = Rig::new();
    drop(lock(&rig.site).expect("free"));
    let (looks, looked) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::open(rig.site.dir().join("log-receive.lock")).expect("open");
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).expect("a look");
            looks.send(()).expect("told");
            thread::sleep(Duration::from_millis(50));
        });
        looked.recv().expect("it looks");
        drop(lock_within(&rig.site, Duration::from_secs(60)).expect("it has gone"));
    });
    let _held = lock(&rig.site).expect("free");
    assert!(is_running(&rig.site));
    let error = lock(&rig.site).expect_err("held");
    assert_eq!(error.class(), Class::Locked, "{error}");
}

/// What another host stores in between is no trouble; what stays is, also for a run that is to end.
#[test]
fn a_server_that_stays_behind_its_vault_is_told() {
    let began = Instant::now();
    let mut shared = Shared { behind: Some(began), ..Shared::default() };
    assert_eq!(shared.wrong(began), None);
    let told = shared.wrong(began + BEHIND_PATIENCE).expect("trouble");
    assert!(told.contains("more of the log than this server"), "{told}");
    shared.trouble = Some("the vault does not answer".to_owned());
    assert_eq!(shared.wrong(began + BEHIND_PATIENCE), shared.trouble);
}

#[test]
fn only_another_primary_ends_what_the_server_keeps() {
    let member = || model::MemberName::new("a").expect("a name");
    let fenced = Error::from(Refusal::Fenced { member: member(), id: "t".to_owned() });
    let nobody = Error::from(Refusal::NotPrimary { member: member(), primary: None });
    let other = Error::from(Refusal::NotPrimary { member: member(), primary: Some(member()) });
    for (error, drops) in [(fenced, false), (nobody, false), (other, true)] {
        assert!(is_refused(&error));
        assert_eq!(is_other_primary(&error), drops, "{error}");
    }
}
