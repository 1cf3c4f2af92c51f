//! Storages that fail, before or after they did what was asked.

use crate::support::{join, key, store, store_on};
use mainstay_coordination::{Advance, Error, Objects, Register, Stored};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use storage::doubles::{Fault, Flaky, How, Memory, Verb};
use storage::{ErrorKind, Storage};

fn flaky() -> (Arc<Memory>, Arc<Flaky>) {
    let memory = Arc::new(Memory::new());
    let flaky = Arc::new(Flaky::new(memory.clone()));
    (memory, flaky)
}

#[test]
fn an_update_that_failed_anywhere_is_repeated_without_loss_or_doubling() {
    for before in [0, 1, 70] {
        for kind in [ErrorKind::Unavailable, ErrorKind::Failed, ErrorKind::NoSpace] {
            for how in [How::Before(kind), How::After(kind)] {
                let mut failed = 0;
                for nth in 1..=7 {
                    let (memory, flaky) = flaky();
                    for n in 0..before {
                        store(memory.clone()).update(join(&format!("m{n}"))).unwrap();
                    }
                    flaky.plan(Fault::nth(nth, how));
                    let writer = store(flaky.clone());
                    if writer.update(join("new")).is_err() {
                        failed += 1;
                    }
                    assert!(flaky.fired() == 1 || nth > 3, "call {nth} of an update");
                    flaky.heal();
                    // The same store, and one of another process.
                    writer.update(join("new")).unwrap();
                    let (done, _) = store(memory.clone()).update(join("new")).unwrap();
                    assert_eq!(done.number, before + 1, "{how:?} at call {nth}");
                    assert_eq!(done.state.members.len() as u64, before + 1);
                }
                assert!(failed > 0, "{how:?} was never noticed");
            }
        }
    }
}

#[test]
fn a_lost_answer_of_a_put_is_no_lost_update() {
    let (_, flaky) = flaky();
    flaky.plan(Fault::next(Verb::PutIfAbsent, How::After(ErrorKind::Unavailable)));
    let (won, _) = store(flaky).update(join("a")).unwrap();
    assert_eq!(won.number, 1);
}

#[test]
fn a_put_that_may_not_be_durable_is_not_reported_done() {
    let (_, flaky) = flaky();
    flaky.plan(Fault::next(Verb::PutIfAbsent, How::After(ErrorKind::Failed)));
    assert!(matches!(store(flaky).update(join("a")), Err(Error::Storage(_))));
}

#[test]
fn a_prune_that_fails_does_not_fail_the_update_and_is_made_up_for() {
    let (memory, flaky) = flaky();
    let writer = store(flaky.clone());
    flaky.plan(Fault::every(Verb::Delete, How::Before(ErrorKind::Failed)));
    for n in 0..80 {
        writer.update(join(&format!("m{n}"))).unwrap();
    }
    assert_eq!(memory.objects().len(), 80);
    flaky.heal();
    writer.update(join("last")).unwrap();
    assert_eq!(memory.objects().len(), 64);
}

#[test]
fn a_torn_object_is_an_error_and_never_the_one_before() {
    let (memory, flaky) = flaky();
    let writer = store(flaky.clone());
    writer.update(join("a")).unwrap();
    flaky.plan(Fault::next(Verb::PutIfAbsent, How::Torn(20)));
    assert!(writer.update(join("b")).is_err());
    assert!(memory.objects().contains_key(&key(2)));
    let loaded = store(memory.clone()).load();
    let e = loaded.unwrap_err();
    assert!(matches!(&e, Error::Damaged { object, .. } if object.ends_with("00002")), "{e}");
    assert!(store(memory).update(join("c")).is_err());
}

#[test]
fn wrong_bytes_are_noticed() {
    let (_, flaky) = flaky();
    let writer = store(flaky.clone());
    writer.update(join("a")).unwrap();
    flaky.plan(Fault::next(Verb::Read, How::Wrong));
    assert!(matches!(writer.load(), Err(Error::Damaged { .. })));
    assert!(writer.load().is_ok());
    // A listing that lacks the newest: the place has gone back.
    flaky.plan(Fault::next(Verb::List, How::Wrong));
    assert!(matches!(writer.load(), Err(Error::Vanished { shown: 0, seen: 1, .. })));
}

#[test]
fn an_absurdly_large_object_is_not_read() {
    #[derive(Debug)]
    struct Large(Memory);
    impl Storage for Large {
        fn location(&self) -> String {
            self.0.location()
        }
        fn read(&self, key: &storage::Key) -> Result<Vec<u8>, storage::Error> {
            panic!("{key} was read")
        }
        fn read_range(
            &self,
            key: &storage::Key,
            _: u64,
            _: usize,
        ) -> Result<Vec<u8>, storage::Error> {
            panic!("{key} was read")
        }
        fn size(&self, key: &storage::Key) -> Result<u64, storage::Error> {
            self.0.size(key)
        }
        fn put(&self, key: &storage::Key, bytes: &[u8]) -> Result<(), storage::Error> {
            self.0.put(key, bytes)
        }
        fn put_if_absent(
            &self,
            key: &storage::Key,
            bytes: &[u8],
        ) -> Result<storage::Put, storage::Error> {
            self.0.put_if_absent(key, bytes)
        }
        fn list(&self, prefix: &str) -> Result<Vec<storage::Entry>, storage::Error> {
            let mut entries = self.0.list(prefix)?;
            entries.iter_mut().for_each(|entry| entry.size_bytes = 1 << 40);
            Ok(entries)
        }
        fn delete(&self, key: &storage::Key) -> Result<(), storage::Error> {
            self.0.delete(key)
        }
        fn free_bytes(&self) -> Result<Option<u64>, storage::Error> {
            Ok(None)
        }
    }
    let storage = Large(Memory::new());
    storage.put(&key(1), b"x").unwrap();
    assert!(matches!(store(Arc::new(storage)).load(), Err(Error::Damaged { .. })));
}

/// A register whose next answer is lost, and whose bytes arrive later than that is told.
#[derive(Debug)]
struct Late {
    register: Objects,
    on_its_way: Mutex<Option<(u64, Vec<u8>)>>,
    hangs: AtomicBool,
}

impl Register for Late {
    fn newest(&self) -> Result<Option<Stored>, Error> {
        self.register.newest()
    }

    fn create(&self, number: u64, bytes: &[u8]) -> Result<Advance, Error> {
        if self.hangs.swap(false, Ordering::SeqCst) {
            *self.on_its_way.lock().unwrap() = Some((number, bytes.to_vec()));
            return Err(Error::Contended(0));
        }
        self.register.create(number, bytes)
    }
}

#[test]
fn what_arrives_after_the_state_was_settled_comes_too_late() {
    for settled in [false, true] {
        let late = Arc::new(Late {
            register: Objects::new(Arc::new(Memory::new())),
            on_its_way: Mutex::default(),
            hangs: AtomicBool::new(false),
        });
        let store = store_on(late.clone());
        store.update(join("a")).unwrap();
        late.hangs.store(true, Ordering::SeqCst);
        assert!(store.update(join("b")).is_err());
        if settled {
            assert_eq!(store.settle().unwrap().state.members.len(), 1);
        }
        let (number, bytes) = late.on_its_way.lock().unwrap().take().unwrap();
        let arrived = late.register.create(number, &bytes).unwrap();
        assert_eq!(arrived, if settled { Advance::Lost } else { Advance::Won });
        assert_eq!(store.load().unwrap().state.members.len(), if settled { 1 } else { 2 });
    }
}
