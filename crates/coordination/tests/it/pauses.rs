//! Writers and readers that are stopped in the middle for as long as it takes.

use crate::support::{join, key, store};
use mainstay_coordination::{Advance, Objects, Register};
use std::fmt;
use std::sync::{Arc, Mutex};
use storage::doubles::Memory;
use storage::{Entry, Error, Key, Put, Storage};

type Action = Box<dyn FnOnce() + Send>;

/// Does something once, right before or after a call: what others do while this one is paused.
#[derive(Default)]
struct Paused {
    inner: Arc<Memory>,
    before_put: Mutex<Option<Action>>,
    after_put: Mutex<Option<Action>>,
    before_read: Mutex<Option<Action>>,
}

impl fmt::Debug for Paused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paused")
    }
}

fn run(action: &Mutex<Option<Action>>) {
    let action = action.lock().unwrap().take();
    if let Some(action) = action {
        action();
    }
}

impl Storage for Paused {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        run(&self.before_read);
        self.inner.read(key)
    }
    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        self.inner.read_range(key, offset, length)
    }
    fn size(&self, key: &Key) -> Result<u64, Error> {
        self.inner.size(key)
    }
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        self.inner.put(key, bytes)
    }
    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        run(&self.before_put);
        let put = self.inner.put_if_absent(key, bytes);
        run(&self.after_put);
        put
    }
    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        self.inner.list(prefix)
    }
    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.inner.delete(key)
    }
    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        self.inner.free_bytes()
    }
}

/// Others change the state so often.
fn others(memory: &Arc<Memory>, from: u64, count: u64) {
    let store = store(memory.clone());
    for n in from..from + count {
        store.update(join(&format!("other{n}"))).unwrap();
    }
}

fn numbers(memory: &Memory) -> Vec<u64> {
    let number = |key: &Key| key.name().parse::<u64>().unwrap();
    memory.objects().keys().map(number).collect()
}

#[test]
fn a_writer_paused_before_its_put_does_not_win_a_number_that_was_pruned() {
    for pause in [1, 5, 62, 63, 64, 65, 66, 200] {
        let memory = Arc::new(Memory::new());
        others(&memory, 0, 10);
        let paused = Paused { inner: memory.clone(), ..Paused::default() };
        let while_paused = memory.clone();
        *paused.before_put.lock().unwrap() =
            Some(Box::new(move || others(&while_paused, 10, pause)));
        let (won, _) = store(Arc::new(paused)).update(join("slow")).unwrap();
        // It did not win number 11, which was used and perhaps removed: it began anew at the end.
        assert_eq!(won.number, 10 + pause + 1, "paused for {pause}");
        let state = store(memory.clone()).load().unwrap().state;
        assert_eq!(state.members.len() as u64, 10 + pause + 1, "an update was lost");
        let kept = numbers(&memory);
        assert!(kept.len() <= 64 && kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{kept:?}");
    }
}

#[test]
fn a_writer_paused_after_its_put_has_won_or_is_told_that_it_lost_but_loses_nothing() {
    for pause in [1, 62, 63, 64, 65, 200] {
        let memory = Arc::new(Memory::new());
        others(&memory, 0, 10);
        let paused = Paused { inner: memory.clone(), ..Paused::default() };
        let while_paused = memory.clone();
        *paused.after_put.lock().unwrap() =
            Some(Box::new(move || others(&while_paused, 10, pause)));
        let (told, _) = store(Arc::new(paused)).update(join("slow")).unwrap();
        // Told at once, or, when it could not be told any more, found done at the next attempt.
        assert!(told.number == 11 || told.number == 11 + pause, "{} after {pause}", told.number);
        assert!(told.number == 11 || pause >= 64, "paused for {pause}");
        let state = store(memory).load().unwrap().state;
        assert_eq!(state.members.len() as u64, 10 + pause + 1);
    }
}

#[test]
fn two_paused_writers_do_not_vouch_for_each_other() {
    let memory = Arc::new(Memory::new());
    others(&memory, 0, 100);
    // Both had loaded long ago. The first puts number 10 again; before it can look around, the
    // second puts 11, and finds its predecessor in place: it is the first one's.
    let first = Paused { inner: memory.clone(), ..Paused::default() };
    let second = Objects::new(memory.clone());
    let result = Arc::new(Mutex::new(None));
    let told = result.clone();
    *first.after_put.lock().unwrap() =
        Some(Box::new(move || *told.lock().unwrap() = Some(second.create(11, b"second").unwrap())));
    assert_eq!(Objects::new(Arc::new(first)).create(10, b"first").unwrap(), Advance::Lost);
    assert_eq!(*result.lock().unwrap(), Some(Advance::Lost));
    assert_eq!(numbers(&memory), (37..=100).collect::<Vec<_>>());
    assert_eq!(store(memory).load().unwrap().number, 100);
}

#[test]
fn what_a_paused_writer_left_when_it_died_is_never_read_and_goes() {
    let memory = Arc::new(Memory::new());
    others(&memory, 0, 100);
    memory.put_if_absent(&key(10), b"left behind").unwrap();
    assert_eq!(store(memory.clone()).load().unwrap().number, 100);
    others(&memory, 100, 1);
    assert_eq!(numbers(&memory), (38..=101).collect::<Vec<_>>());
}

#[test]
fn a_reader_paused_between_listing_and_reading_returns_what_was_won() {
    for (pause, left_behind) in [(1, false), (63, false), (64, false), (100, false), (100, true)] {
        let memory = Arc::new(Memory::new());
        others(&memory, 0, 3);
        let paused = Paused { inner: memory.clone(), ..Paused::default() };
        let while_paused = memory.clone();
        *paused.before_read.lock().unwrap() = Some(Box::new(move || {
            others(&while_paused, 3, pause);
            if left_behind {
                // A paused writer puts the very number that the reader is about to read.
                while_paused.put_if_absent(&key(3), b"never won").unwrap();
            }
        }));
        let loaded = store(Arc::new(paused)).load().unwrap();
        let still_there = pause < 64;
        assert_eq!(loaded.number, if still_there { 3 } else { 3 + pause });
        assert_eq!(loaded.state.members.len() as u64, loaded.number);
    }
}
