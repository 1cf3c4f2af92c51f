//! A cache of what was read and verified, bounded in bytes. Of several that want the same at once,
//! one reads it and the others wait.

use crate::Error;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an entry weighs besides its content.
const ENTRY_BYTES: usize = 256;

/// Values by key, the least recently used of which go first.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    capacity: usize,
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, K>,
    clock: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Slot<V> {
    cell: Arc<Mutex<Option<Arc<V>>>>,
    used: u64,
    bytes: usize,
}

impl<K: Copy + Eq + Hash, V> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> Cache<K, V> {
        let state = State { slots: HashMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0 };
        Cache { capacity, state: Mutex::new(state) }
    }

    /// The value of a key, which is read if it is not here. `read` also tells how many bytes it
    /// takes. A failure is not remembered.
    pub(super) fn get(
        &self,
        key: K,
        read: impl FnOnce() -> Result<(V, usize), Error>,
    ) -> Result<Arc<V>, Error> {
        let cell = self.touch(key);
        // Held while it is read: whoever else wants the same waits here, and for nothing else.
        let mut value = lock(&cell);
        if let Some(value) = &*value {
            return Ok(value.clone());
        }
        let (read, bytes) = match read() {
            Ok(read) => read,
            Err(e) => {
                self.drop_if_empty(key, &cell);
                return Err(e);
            }
        };
        let read = Arc::new(read);
        *value = Some(read.clone());
        drop(value);
        self.weigh(key, &cell, bytes);
        Ok(read)
    }

    /// Bytes of what is here.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }

    fn touch(&self, key: K) -> Arc<Mutex<Option<Arc<V>>>> {
        let state = &mut *lock(&self.state);
        state.clock += 1;
        let now = state.clock;
        let slot = state.slots.entry(key).or_insert_with(|| {
            state.bytes += ENTRY_BYTES;
            Slot { cell: Arc::default(), used: now, bytes: ENTRY_BYTES }
        });
        state.order.remove(&slot.used);
        slot.used = now;
        state.order.insert(now, key);
        slot.cell.clone()
    }

    /// Notes what a value takes, and lets others go for it.
    fn weigh(&self, key: K, cell: &Arc<Mutex<Option<Arc<V>>>>, bytes: usize) {
        let state = &mut *lock(&self.state);
        // It may have gone meanwhile, and another have come.
        if let Some(slot) = state.slots.get_mut(&key)
            && Arc::ptr_eq(&slot.cell, cell)
        {
            state.bytes += bytes;
            slot.bytes += bytes;
        }
        while state.bytes > self.capacity {
            let Some((_, key)) = state.order.pop_first() else { break };
            if let Some(slot) = state.slots.remove(&key) {
                state.bytes -= slot.bytes;
            }
        }
    }

    fn drop_if_empty(&self, key: K, cell: &Arc<Mutex<Option<Arc<V>>>>) {
        let state = &mut *lock(&self.state);
        let same = state.slots.get(&key).is_some_and(|slot| Arc::ptr_eq(&slot.cell, cell));
        if same && let Some(slot) = state.slots.remove(&key) {
            state.order.remove(&slot.used);
            state.bytes -= slot.bytes;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_used() {
        let cache: Cache<u32, u32> = Cache::new(10_000);
        let reads = AtomicUsize::new(0);
        let get = |key| {
            let read = || {
                reads.fetch_add(1, Ordering::SeqCst);
                Ok((key, 1000))
            };
            assert_eq!(*cache.get(key, read).unwrap(), key);
            assert!(cache.bytes() <= 10_000);
        };
        for key in 0..100 {
            get(key);
            get(0);
        }
        assert_eq!(reads.load(Ordering::SeqCst), 100, "what is used again and again stays");
        get(50);
        assert_eq!(reads.load(Ordering::SeqCst), 101, "what was not used went");
        // Larger than all of it: read each time, and nothing breaks.
        let large = || Ok((7, 50_000));
        assert_eq!(*cache.get(1000, large).unwrap(), 7);
        assert!(cache.bytes() <= 10_000);
    }

    #[test]
    fn a_failure_is_not_remembered() {
        let cache: Cache<u32, u32> = Cache::new(10_000);
        let failing = cache.get(1, || Err(Error::Missing("gone".to_owned())));
        assert!(failing.is_err());
        assert_eq!(cache.bytes(), 0);
        assert_eq!(*cache.get(1, || Ok((5, 1))).unwrap(), 5);
    }

    #[test]
    fn the_same_is_read_once() {
        let cache: Cache<u32, u32> = Cache::new(10_000);
        let reads = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let read = || {
                        reads.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        Ok((5, 1))
                    };
                    assert_eq!(*cache.get(1, read).unwrap(), 5);
                });
            }
        });
        assert_eq!(reads.load(Ordering::SeqCst), 1);
    }
}
