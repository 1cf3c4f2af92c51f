//! A request to stop, checked by long work at every step it can stop at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Set once, never cleared; clones share it.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    asked: Arc<AtomicBool>,
    /// How many parts of the work go on whatever was asked.
    held: Arc<AtomicUsize>,
    above: Option<Arc<CancelToken>>,
}

/// As long as this lives, nobody who looks at the token is stopped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Held {
    count: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl CancelToken {
    /// A token that nobody has cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token for a part of the work: it ends with the whole, and may be stopped by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        let above = Some(Arc::new(self.clone()));
        CancelToken { asked: Arc::default(), held: Arc::default(), above }
    }

    /// Asks for the stop. A second call does nothing.
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether to stop.
    pub fn is_cancelled(&self) -> bool {
        self.held.load(Ordering::SeqCst) == 0
            && (self.asked.load(Ordering::SeqCst)
                || self.above.as_ref().is_some_and(|above| above.is_cancelled()))
    }

    /// Whether the stop was asked for, by whomever, though it may not be heeded now.
    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
            || self.above.as_ref().is_some_and(|above| above.was_asked())
    }

    /// Lets nothing be stopped by this token, nor by a clone of it, until what this gives is dropped:
    /// work that is past its commit marker, and whatever it waits for.
    pub fn hold(&self) -> Held {
        self.held.fetch_add(1, Ordering::SeqCst);
        Held { count: self.held.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_the_whole_and_the_whole_not_with_a_part() {
        let whole = CancelToken::new();
        let (part, other) = (whole.child(), whole.child().child());
        part.cancel();
        assert!(part.is_cancelled() && !whole.is_cancelled() && !other.is_cancelled());
        whole.cancel();
        assert!(other.is_cancelled());
    }

    #[test]
    fn what_is_held_is_stopped_when_it_is_let_go() {
        let (token, part) = (CancelToken::new(), CancelToken::new().child());
        let (clone, held) = (token.clone(), token.hold());
        let again = clone.hold();
        token.cancel();
        assert!(!clone.is_cancelled() && clone.was_asked());
        drop(held);
        assert!(!clone.is_cancelled());
        drop(again);
        assert!(clone.is_cancelled());
        drop(part.hold());
        assert!(!part.is_cancelled() && !part.was_asked());
    }
}
