//! The doubles do what they say; other crates' tests stand on it.

use mainstay_storage::doubles::{Call, Fault, Flaky, How, Memory, Recording, Verb};
use mainstay_storage::{ErrorKind, Key, Put, Storage};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn flaky() -> (Arc<Memory>, Flaky) {
    let memory = Arc::new(Memory::new());
    (memory.clone(), Flaky::new(memory))
}

#[test]
fn a_fault_before_does_nothing_and_one_after_has_done_it() {
    let (memory, flaky) = flaky();
    flaky.plan(Fault::next(Verb::Put, How::Before(ErrorKind::NoSpace)));
    assert_eq!(flaky.put(&key("a"), b"1").unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(memory.objects().is_empty());
    flaky.plan(Fault::next(Verb::PutIfAbsent, How::After(ErrorKind::Unavailable)));
    let lost = flaky.put_if_absent(&key("a"), b"1").unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    assert_eq!(flaky.put_if_absent(&key("a"), b"1").unwrap(), Put::Exists);
    flaky.plan(Fault::next(Verb::Delete, How::After(ErrorKind::Unavailable)));
    assert!(flaky.delete(&key("a")).is_err());
    assert!(memory.objects().is_empty());
    assert_eq!((flaky.calls(), flaky.fired()), (4, 3));
}

#[test]
fn faults_count_filter_and_heal() {
    let (_, flaky) = flaky();
    flaky.plan(Fault::nth(3, How::Before(ErrorKind::Failed)));
    flaky.put(&key("a"), b"1").unwrap();
    flaky.put(&key("b"), b"1").unwrap();
    assert!(flaky.list("").is_err());
    assert!(flaky.list("").is_ok());
    flaky.plan(Fault::every(Verb::Read, How::Before(ErrorKind::Unavailable)).on("a"));
    assert!(flaky.read(&key("a")).is_err());
    assert!(flaky.read(&key("a")).is_err());
    assert!(flaky.read(&key("b")).is_ok());
    flaky.heal();
    assert!(flaky.read(&key("a")).is_ok());
}

#[test]
fn torn_writes_and_wrong_bytes() {
    let (memory, flaky) = flaky();
    flaky.plan(Fault::next(Verb::Put, How::Torn(3)));
    assert!(flaky.put(&key("a"), b"12345").is_err());
    assert_eq!(memory.read(&key("a")).unwrap(), b"123");
    flaky.plan(Fault::next(Verb::Read, How::Wrong));
    assert_ne!(flaky.read(&key("a")).unwrap(), b"123");
    assert_eq!(flaky.read(&key("a")).unwrap(), b"123");
    flaky.plan(Fault::next(Verb::List, How::Wrong));
    assert_eq!(flaky.list("").unwrap(), []);
}

#[test]
fn what_is_slow_or_hangs_succeeds_in_the_end() {
    let (memory, flaky) = flaky();
    let (time, began) = (Duration::from_millis(30), Instant::now());
    flaky.plan(Fault::next(Verb::Put, How::Slow(time)));
    flaky.put(&key("a"), b"1").unwrap();
    assert!(began.elapsed() >= time);
    flaky.plan(Fault::next(Verb::Put, How::Hang));
    assert!(!flaky.wait_for_hang(Duration::ZERO));
    std::thread::scope(|scope| {
        let put = scope.spawn(|| flaky.put(&key("b"), b"2"));
        assert!(flaky.wait_for_hang(Duration::from_secs(30)));
        assert_eq!(memory.objects().len(), 1, "it has done nothing yet");
        assert!(!put.is_finished());
        flaky.release();
        put.join().unwrap().unwrap();
    });
    assert_eq!((memory.objects().len(), flaky.fired()), (2, 2));
}

#[test]
fn a_recording_tells_the_order() {
    let recording = Recording::new(Arc::new(Memory::new()));
    recording.put(&key("data/1"), b"123").unwrap();
    recording.read(&key("data/1")).unwrap();
    recording.read(&key("data/2")).unwrap_err();
    let call = |verb, key: &str, bytes, ok| Call { verb, key: key.to_owned(), bytes, ok };
    let want = [
        call(Verb::Put, "data/1", 3, true),
        call(Verb::Read, "data/1", 3, true),
        call(Verb::Read, "data/2", 0, false),
    ];
    assert_eq!(recording.calls(), want);
    assert_eq!(recording.take(), want);
    assert_eq!(recording.calls(), []);
}

#[test]
fn a_full_memory_says_so_and_keeps_what_it_had() {
    let memory = Memory::with_capacity(10);
    memory.put(&key("a"), b"12345").unwrap();
    assert_eq!(memory.free_bytes().unwrap(), Some(5));
    assert_eq!(memory.put(&key("b"), b"123456").unwrap_err().kind(), ErrorKind::NoSpace);
    memory.put(&key("a"), b"1234567890").unwrap();
    assert_eq!(memory.put_if_absent(&key("b"), b"1").unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(memory.objects().len(), 1);
}
