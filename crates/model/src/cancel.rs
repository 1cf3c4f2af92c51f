//! A request to stop, checked by long work at every step it can stop at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once, never cleared; clones share it.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    asked: Arc<AtomicBool>,
    above: Option<Arc<CancelToken>>,
}

impl CancelToken {
    /// A token that nobody has cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token for a part of the work: it ends with the whole, and may be stopped by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        CancelToken { asked: Arc::default(), above: Some(Arc::new(self.clone())) }
    }

    /// Asks for the stop. A second call does nothing.
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether the stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
            || self.above.as_ref().is_some_and(|above| above.is_cancelled())
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
}
