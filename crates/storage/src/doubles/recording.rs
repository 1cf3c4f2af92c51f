//! A storage that writes down what it was asked.

use super::Verb;
use crate::{Entry, Error, Key, Put, Storage};
use std::sync::{Arc, Mutex, PoisonError};

/// One call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub verb: Verb,
    /// The key or prefix; empty for `free_bytes`.
    pub key: String,
    /// Bytes that were sent or received.
    pub bytes: u64,
    /// Whether it succeeded.
    pub ok: bool,
}

/// Passes every call on and records it, in the order in which they ended.
#[derive(Debug)]
pub struct Recording {
    inner: Arc<dyn Storage>,
    calls: Mutex<Vec<Call>>,
}

impl Recording {
    /// Nothing recorded yet.
    pub fn new(inner: Arc<dyn Storage>) -> Recording {
        Recording { inner, calls: Mutex::default() }
    }

    /// What was recorded so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was recorded so far, and forgets it.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record<T>(
        &self,
        verb: Verb,
        key: &str,
        result: Result<T, Error>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T, Error> {
        let bytes = result.as_ref().map_or(0, |value| bytes(value) as u64);
        let call = Call { verb, key: key.to_owned(), bytes, ok: result.is_ok() };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        result
    }
}

impl Storage for Recording {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        self.record(Verb::Read, key.as_str(), self.inner.read(key), Vec::len)
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let result = self.inner.read_range(key, offset, length);
        self.record(Verb::ReadRange, key.as_str(), result, Vec::len)
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        self.record(Verb::Size, key.as_str(), self.inner.size(key), |_| 0)
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        self.record(Verb::Put, key.as_str(), self.inner.put(key, bytes), |()| bytes.len())
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        let result = self.inner.put_if_absent(key, bytes);
        self.record(Verb::PutIfAbsent, key.as_str(), result, |_| bytes.len())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        self.record(Verb::List, prefix, self.inner.list(prefix), |_| 0)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.record(Verb::Delete, key.as_str(), self.inner.delete(key), |()| 0)
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        self.record(Verb::FreeBytes, "", self.inner.free_bytes(), |_| 0)
    }

    fn inner(&self) -> Option<&dyn Storage> {
        Some(&*self.inner)
    }
}
