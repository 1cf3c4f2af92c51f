//! A part of a storage, seen as a storage of its own.

use crate::probe::Retention;
use crate::{Entry, Error, ErrorKind, Key, Put, Storage};
use std::sync::Arc;

/// Everything below one prefix of another storage.
#[derive(Clone, Debug)]
pub struct Prefixed {
    inner: Arc<dyn Storage>,
    prefix: Key,
}

impl Prefixed {
    /// The part of `inner` below `prefix`.
    pub fn new(inner: Arc<dyn Storage>, prefix: Key) -> Self {
        Prefixed { inner, prefix }
    }

    fn full(&self, key: &Key) -> Result<Key, Error> {
        let text = format!("{}/{}", self.prefix, key);
        Key::new(text).map_err(|e| Error::new(ErrorKind::Invalid, key, e))
    }

    fn full_prefix(&self, prefix: &str) -> String {
        match prefix {
            "" => self.prefix.to_string(),
            _ => format!("{}/{prefix}", self.prefix),
        }
    }
}

impl Storage for Prefixed {
    fn location(&self) -> String {
        format!("{}/{}", self.inner.location().trim_end_matches('/'), self.prefix)
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        self.inner.read(&self.full(key)?)
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        self.inner.read_range(&self.full(key)?, offset, length)
    }

    fn read_range_into(
        &self,
        key: &Key,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.inner.read_range_into(&self.full(key)?, offset, length, buffer)
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        self.inner.size(&self.full(key)?)
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        self.inner.put(&self.full(key)?, bytes)
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        self.inner.put_if_absent(&self.full(key)?, bytes)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let full = self.full_prefix(prefix);
        let below = format!("{}/", self.prefix);
        let ours = |entry: Entry| {
            let key = entry.key.as_str().strip_prefix(&below).unwrap_or_default();
            let key = Key::new(key).map_err(|e| Error::new(ErrorKind::Failed, &entry.key, e))?;
            Ok(Entry { key, size_bytes: entry.size_bytes })
        };
        self.inner.list(&full)?.into_iter().map(ours).collect()
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.inner.delete(&self.full(key)?)
    }

    fn delete_all(&self, keys: &[Key]) -> Result<(), Error> {
        let keys = keys.iter().map(|key| self.full(key)).collect::<Result<Vec<Key>, Error>>()?;
        self.inner.delete_all(&keys)
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        self.inner.free_bytes()
    }

    fn remove_leftovers(&self, prefix: &str) -> Result<u64, Error> {
        self.inner.remove_leftovers(&self.full_prefix(prefix))
    }

    fn shows_at_once(&self, prefix: &str) -> bool {
        self.inner.shows_at_once(&self.full_prefix(prefix))
    }

    fn inner(&self) -> Option<&dyn Storage> {
        Some(&*self.inner)
    }

    fn lock_again(&self, prefix: &str) -> Result<Option<u64>, Error> {
        self.inner.lock_again(&self.full_prefix(prefix))
    }

    fn probe_retention(&self, key: &Key) -> Result<Retention, Error> {
        self.inner.probe_retention(&self.full(key)?)
    }
}
