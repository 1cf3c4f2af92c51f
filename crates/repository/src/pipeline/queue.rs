//! A queue between threads that is bounded in bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a thread that waits looks whether the work was cancelled.
pub(super) const POLL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    not_full: Condvar,
    not_empty: Condvar,
    max_bytes: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(max_bytes: usize) -> Queue<T> {
        Queue {
            state: Mutex::new(State { items: VecDeque::new(), bytes: 0, closed: false }),
            not_full: Condvar::new(),
            not_empty: Condvar::new(),
            max_bytes,
        }
    }

    /// Adds an item of this many bytes, and waits while there is no room for it; an item that is
    /// larger than the whole queue gets in when the queue is empty. Gives the item back if the
    /// queue is closed, or `give_up` says so.
    pub(super) fn push(&self, item: T, bytes: usize, give_up: impl Fn() -> bool) -> Result<(), T> {
        let mut state = self.lock();
        loop {
            if state.closed || give_up() {
                return Err(item);
            }
            if state.items.is_empty() || state.bytes + bytes <= self.max_bytes {
                break;
            }
            let waited = self.not_full.wait_timeout(state, POLL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.bytes += bytes;
        state.items.push_back((item, bytes));
        drop(state);
        self.not_empty.notify_one();
        Ok(())
    }

    /// The next item; none once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some((item, bytes)) = state.items.pop_front() {
                state.bytes -= bytes;
                drop(state);
                self.not_full.notify_all();
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.not_empty.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next item if there is one already.
    pub(super) fn pop_now(&self) -> Option<T> {
        let mut state = self.lock();
        let (item, bytes) = state.items.pop_front()?;
        state.bytes -= bytes;
        drop(state);
        self.not_full.notify_all();
        Some(item)
    }

    /// Takes no more items, and gives back what nobody has taken out.
    pub(super) fn abort(&self) -> impl Iterator<Item = T> + use<T> {
        let items = {
            let mut state = self.lock();
            state.closed = true;
            state.bytes = 0;
            std::mem::take(&mut state.items)
        };
        self.not_empty.notify_all();
        self.not_full.notify_all();
        items.into_iter().map(|(item, _)| item)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
