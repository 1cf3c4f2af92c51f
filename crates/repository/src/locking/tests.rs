//! The protocol at another speed.

use super::*;
use crate::format::crypto::MasterKey;
use storage::doubles::{Fault, Flaky, How, Memory, Verb};
use storage::{ErrorKind, Storage};

const QUICK: Timing = Timing {
    refresh: Duration::from_millis(40),
    retry: Duration::from_millis(10),
    stale: Duration::from_secs(3600),
    trust: Duration::from_millis(400),
    settle: Duration::from_millis(5),
};

fn files(storage: Arc<dyn Storage>) -> Files {
    Files { storage, key: Arc::new(MasterKey::generate().unwrap()), compress: true }
}

fn take(files: &Files, kind: LockKind, timing: Timing) -> Result<RepositoryLock, Error> {
    lock(files, kind, Duration::ZERO, &CancelToken::new(), timing)
}

fn locks(files: &Files) -> Vec<[u8; 32]> {
    files.list(FileKind::Lock).unwrap().into_iter().map(|file| file.id).collect()
}

#[track_caller]
fn wait_for(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !state() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes a lock file as another holder would.
fn foreign(files: &Files, change: impl FnOnce(&mut Lock)) {
    let mut lock = Lock {
        time: Timestamp::now().into(),
        exclusive: true,
        hostname: "elsewhere".to_owned(),
        username: "somebody".to_owned(),
        pid: 1,
        uid: None,
        gid: None,
    };
    change(&mut lock);
    files.write_json(FileKind::Lock, &lock.encode().unwrap()).unwrap();
}

#[test]
fn a_held_lock_is_refreshed_and_gone_after_release() {
    let files = files(Arc::new(Memory::new()));
    let held = take(&files, LockKind::Shared, QUICK).unwrap();
    let first = locks(&files);
    wait_for("another lock file", || {
        let now = locks(&files);
        assert!(!now.is_empty(), "there was a moment without a lock");
        now.len() == 1 && now != first
    });
    held.still_held().unwrap();
    drop(held);
    assert!(locks(&files).is_empty());
}

/// Long work keeps its lock; what nobody refreshes any more, since its holder died on another host,
/// is in nobody's way for ever.
#[test]
fn a_lock_outlives_the_time_after_which_it_would_be_stale_and_its_holder_does_not() {
    let timing = Timing {
        refresh: Duration::from_millis(100),
        stale: Duration::from_secs(4),
        trust: Duration::from_secs(4),
        ..QUICK
    };
    let files = files(Arc::new(Memory::new()));
    let held = take(&files, LockKind::Shared, timing).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < timing.stale * 3 / 2 {
        let error = take(&files, LockKind::Exclusive, timing).unwrap_err();
        assert!(matches!(error, Error::Locked(_)), "{error}");
        std::thread::sleep(QUICK.refresh);
    }
    held.still_held().unwrap();
    assert_eq!(locks(&files).len(), 1, "one is left of all that it wrote");
    drop(held);

    foreign(&files, |lock| lock.exclusive = false);
    assert!(take(&files, LockKind::Exclusive, timing).is_err());
    wait_for("nobody has refreshed it", || take(&files, LockKind::Exclusive, timing).is_ok());
    assert!(locks(&files).is_empty());
}

#[test]
fn a_lock_that_cannot_be_refreshed_lapses() {
    let flaky = Arc::new(Flaky::new(Arc::new(Memory::new())));
    let files = files(flaky.clone());
    let held = take(&files, LockKind::Exclusive, QUICK).unwrap();
    flaky.plan(Fault::every(Verb::Put, How::Before(ErrorKind::Unavailable)));
    wait_for("the lock lapses", || held.still_held().is_err());
    let error = held.still_held().unwrap_err().to_string();
    assert!(error.contains("in time"), "{error}");
    // Once lapsed it stays so, whatever the storage does.
    flaky.heal();
    assert!(held.still_held().is_err());
}

#[test]
fn a_lock_survives_a_short_outage() {
    let flaky = Arc::new(Flaky::new(Arc::new(Memory::new())));
    let files = files(flaky.clone());
    let held = take(&files, LockKind::Shared, QUICK).unwrap();
    let first = locks(&files);
    flaky.plan(Fault { times: 3, ..Fault::next(Verb::Put, How::Before(ErrorKind::Unavailable)) });
    wait_for("a refresh after the outage", || flaky.fired() == 3 && locks(&files) != first);
    held.still_held().unwrap();
}

#[test]
fn a_lock_that_somebody_removed_is_lost() {
    for asked_first in [true, false] {
        let files = files(Arc::new(Memory::new()));
        let slow = Timing { refresh: Duration::from_secs(3600), ..Timing::PROTOCOL };
        let timing = if asked_first { Timing { settle: QUICK.settle, ..slow } } else { QUICK };
        let held = take(&files, LockKind::Shared, timing).unwrap();
        wait_for("the lock is lost", || {
            // With the refresher at work, its newest file has to be caught.
            for id in locks(&files) {
                files.delete(FileKind::Lock, id).unwrap();
            }
            held.still_held().is_err()
        });
        assert!(held.still_held().unwrap_err().to_string().contains("removed"));
        drop(held);
        assert!(locks(&files).is_empty(), "a lost lock must not be written again");
    }
}

#[test]
fn what_excludes_what() {
    use LockKind::{Exclusive, Shared};
    for (first, second, works) in [
        (Shared, Shared, true),
        (Shared, Exclusive, false),
        (Exclusive, Shared, false),
        (Exclusive, Exclusive, false),
    ] {
        let files = files(Arc::new(Memory::new()));
        let held = take(&files, first, QUICK).unwrap();
        let other = take(&files, second, QUICK);
        assert_eq!(other.is_ok(), works, "{first} then {second}");
        if let Err(e) = other {
            assert!(matches!(e, Error::Locked(_)), "{e}");
        }
        drop(held);
        take(&files, second, QUICK).unwrap();
    }
}

#[test]
fn stale_locks_are_removed_and_others_respected() {
    let stale = |change: &dyn Fn(&mut Lock)| {
        let files = files(Arc::new(Memory::new()));
        foreign(&files, change);
        let taken =
            take(&files, LockKind::Exclusive, Timing { settle: QUICK.settle, ..Timing::PROTOCOL });
        assert!(taken.is_ok() || locks(&files).len() == 1, "a lock that counts was removed");
        taken.is_ok()
    };
    let minutes = |n: i64| Timestamp::now() - jiff::SignedDuration::from_mins(n);
    assert!(!stale(&|_| {}));
    assert!(!stale(&|lock| lock.time = minutes(29).into()));
    assert!(stale(&|lock| lock.time = minutes(31).into()));
    // A clock that is ahead of ours.
    assert!(!stale(&|lock| lock.time = minutes(-600).into()));
    // No process has this number: they are smaller.
    let dead = i64::from(i32::MAX);
    assert!(stale(&|lock| (lock.hostname, lock.pid) = (host::host_name(), dead)));
    assert!(!stale(&|lock| lock.pid = dead), "a process of another host");
    let alive = i64::from(std::process::id());
    assert!(!stale(&|lock| (lock.hostname, lock.pid) = (host::host_name(), alive)));
    // A shared one in the way of an exclusive one, and one that is not in the way at all.
    assert!(!stale(&|lock| lock.exclusive = false));
}

#[test]
fn a_lock_that_becomes_readable_counts_and_one_that_does_not_ends_the_wait() {
    let flaky = Arc::new(Flaky::new(Arc::new(Memory::new())));
    let files = files(flaky.clone());
    foreign(&files, |_| {});
    // As one that is being written where that can be seen.
    flaky.plan(Fault { times: LOOKS - 1, ..Fault::next(Verb::Read, How::Wrong) });
    let error = take(&files, LockKind::Shared, QUICK).unwrap_err();
    assert!(matches!(error, Error::Locked(_)), "{error}");
    assert_eq!(flaky.fired(), LOOKS - 1);
    let [id] = locks(&files).try_into().unwrap();
    let key = FileKind::Lock.key(id).unwrap();
    let whole = files.storage.read(&key).unwrap();
    files.storage.put(&key, &whole[..40]).unwrap();
    for kind in [LockKind::Shared, LockKind::Exclusive] {
        let hour = Duration::from_secs(3600);
        let error = lock(&files, kind, hour, &CancelToken::new(), QUICK).unwrap_err();
        assert!(matches!(error, Error::UnreadableLock { .. }), "{error}");
        assert!(error.to_string().contains(&hex::encode(id)), "{error}");
    }
}

#[test]
fn an_empty_lock_is_nobodys_but_bars_who_wants_to_be_alone() {
    let files = files(Arc::new(Memory::new()));
    files.storage.put(&FileKind::Lock.key([7; 32]).unwrap(), b"").unwrap();
    take(&files, LockKind::Shared, QUICK).unwrap();
    let error = take(&files, LockKind::Exclusive, QUICK).unwrap_err();
    assert!(error.to_string().contains(&hex::encode([7; 32])), "{error}");
}

#[test]
fn a_lock_that_the_storage_withholds_is_removed_only_with_all() {
    let memory = Arc::new(Memory::new());
    let flaky = Arc::new(Flaky::new(memory.clone()));
    let files = files(flaky.clone());
    foreign(&files, |_| {});
    flaky.plan(Fault::every(Verb::Read, How::Before(ErrorKind::Permission)).on("locks"));
    let error = take(&files, LockKind::Shared, QUICK).unwrap_err();
    assert!(matches!(error, Error::UnreadableLock { .. }), "{error}");
    let [(_, found)] = others(&files, None, QUICK).unwrap().try_into().ok().unwrap();
    assert!(matches!(found, Found::Withheld(_)));
}

#[test]
fn what_is_too_large_for_a_lock_is_not_read() {
    let memory = Arc::new(Memory::new());
    let flaky = Arc::new(Flaky::new(memory.clone()));
    let files = files(flaky.clone());
    let large = vec![0; 1 << 20];
    files.storage.put(&FileKind::Lock.key([7; 32]).unwrap(), &large).unwrap();
    flaky.plan(Fault::every(Verb::Read, How::Before(ErrorKind::Failed)));
    let error = take(&files, LockKind::Shared, QUICK).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
    assert_eq!(flaky.fired(), 0);
}

#[test]
fn a_failed_try_leaves_no_lock_behind() {
    let memory = Arc::new(Memory::new());
    let flaky = Arc::new(Flaky::new(memory.clone()));
    let files = files(flaky.clone());
    // The second look fails.
    flaky.plan(Fault { skip: 1, ..Fault::next(Verb::List, How::Before(ErrorKind::Unavailable)) });
    assert!(take(&files, LockKind::Shared, QUICK).is_err());
    flaky.heal();
    assert!(locks(&files).is_empty());
}

#[test]
fn waiting_for_a_lock_ends_with_it_or_with_the_time_or_a_cancel() {
    let files = files(Arc::new(Memory::new()));
    let held = take(&files, LockKind::Exclusive, QUICK).unwrap();
    let wait = |duration, cancel: &CancelToken| {
        lock(&files, LockKind::Shared, duration, cancel, QUICK).map(drop)
    };
    assert!(matches!(wait(Duration::from_millis(50), &CancelToken::new()), Err(Error::Locked(_))));
    let cancel = CancelToken::new();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(Duration::from_secs(3600), &cancel));
        cancel.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
        let waiting = scope.spawn(|| wait(Duration::from_secs(3600), &CancelToken::new()));
        drop(held);
        waiting.join().unwrap().unwrap();
    });
}
