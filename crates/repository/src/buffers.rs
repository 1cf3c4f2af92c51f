//! Reuses large buffers: fresh ones cost fresh pages of the system, and freed ones stay with an
//! allocator that does not know that the same sizes come again.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// A pool of byte buffers. Clones share it.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    spare: Mutex<Vec<Vec<u8>>>,
    /// Buffers kept at most.
    max_spare: usize,
    /// Capacities worth keeping.
    kept: RangeInclusive<usize>,
}

impl Default for Buffers {
    /// For chunks. Small buffers are not worth keeping; large ones are needed for few chunks, and
    /// would in the end be all that there are.
    fn default() -> Self {
        Buffers::new(8, 64 << 10..=2 << 20)
    }
}

impl Buffers {
    /// A pool that keeps this many spare buffers with such capacities.
    pub fn new(max_spare: usize, kept: RangeInclusive<usize>) -> Buffers {
        Buffers(Arc::new(Pool { spare: Mutex::default(), max_spare, kept }))
    }

    /// An empty buffer, of any capacity.
    pub fn take(&self) -> Vec<u8> {
        self.0.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Hands a buffer back.
    pub fn give(&self, mut buffer: Vec<u8>) {
        if !self.0.kept.contains(&buffer.capacity()) {
            return;
        }
        buffer.clear();
        let mut spare = self.0.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.0.max_spare {
            spare.push(buffer);
        }
    }
}
