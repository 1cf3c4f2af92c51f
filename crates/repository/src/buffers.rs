//! Reuses large buffers, so that a chunk costs no fresh pages of the system.

use std::sync::{Arc, Mutex, PoisonError};

/// Buffers kept at most.
const MAX_SPARE: usize = 16;
/// Smaller ones are not worth keeping. Larger ones are needed for few chunks, and would in the end
/// be all that there are.
const WORTH_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=2 << 20;

/// A pool of byte buffers. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// An empty buffer, of any capacity.
    pub fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Hands a buffer back.
    pub fn give(&self, mut buffer: Vec<u8>) {
        if !WORTH_BYTES.contains(&buffer.capacity()) {
            return;
        }
        buffer.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_SPARE {
            spare.push(buffer);
        }
    }
}
