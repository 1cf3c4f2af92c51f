//! The promise of a blob's id.

use crate::Error;
use crate::format::BlobId;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What [`BlobWriter::save`](super::BlobWriter::save) hands out at once.
#[derive(Debug)]
pub struct Ticket(Arc<Slot>);

/// The other end: fulfils the promise, or breaks it when dropped.
#[derive(Debug)]
pub(super) struct Promise {
    slot: Arc<Slot>,
    kept: bool,
}

#[derive(Debug, Default)]
struct Slot {
    outcome: Mutex<Option<Result<BlobId, Arc<Error>>>>,
    settled: Condvar,
}

pub(super) fn ticket() -> (Promise, Ticket) {
    let slot = Arc::new(Slot::default());
    (Promise { slot: slot.clone(), kept: false }, Ticket(slot))
}

impl Ticket {
    /// Waits for the id. Having it means that the blob was hashed and will be stored, or is;
    /// whether it was stored is what [`BlobWriter::flush`](super::BlobWriter::flush) tells.
    pub fn wait(self) -> Result<BlobId, Error> {
        let mut outcome = self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match outcome.take() {
                Some(Ok(id)) => return Ok(id),
                Some(Err(failure)) => return Err(Error::earlier(&failure)),
                None => {
                    let waited = self.0.settled.wait(outcome);
                    outcome = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Promise {
    pub(super) fn keep(mut self, id: BlobId) {
        self.settle(Ok(id));
    }

    pub(super) fn fail(mut self, failure: &Arc<Error>) {
        self.settle(Err(failure.clone()));
    }

    fn settle(&mut self, outcome: Result<BlobId, Arc<Error>>) {
        self.kept = true;
        *self.slot.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.slot.settled.notify_all();
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            self.settle(Err(Arc::new(Error::Cancelled)));
        }
    }
}
