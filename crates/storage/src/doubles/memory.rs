//! A storage in memory.

use crate::key::check_prefix;
use crate::{Entry, Error, ErrorKind, Key, Put, Storage};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Objects in a map; every call is atomic.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<Key, Vec<u8>>>,
    capacity_bytes: Option<u64>,
}

impl Memory {
    /// An empty storage without a limit.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// An empty storage that holds at most so many bytes.
    pub fn with_capacity(bytes: u64) -> Memory {
        Memory { capacity_bytes: Some(bytes), ..Memory::default() }
    }

    /// Everything that is stored.
    pub fn objects(&self) -> BTreeMap<Key, Vec<u8>> {
        self.map().clone()
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<u8>>> {
        // A test thread that panicked elsewhere left the map whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_room(
        &self,
        objects: &BTreeMap<Key, Vec<u8>>,
        key: &Key,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let Some(capacity) = self.capacity_bytes else { return Ok(()) };
        let others = objects.iter().filter(|(k, _)| *k != key).map(|(_, b)| b.len() as u64);
        if others.sum::<u64>() + bytes.len() as u64 > capacity {
            return Err(Error::new(ErrorKind::NoSpace, key, "no space left"));
        }
        Ok(())
    }
}

fn missing(key: &Key) -> Error {
    Error::new(ErrorKind::NotFound, key, "no such object")
}

impl Storage for Memory {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        self.map().get(key).cloned().ok_or_else(|| missing(key))
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let objects = self.map();
        let bytes = objects.get(key).ok_or_else(|| missing(key))?;
        let range = usize::try_from(offset).ok().and_then(|begin| {
            let end = begin.checked_add(length)?;
            bytes.get(begin..end)
        });
        let what = || format!("{length} bytes from {offset} of {}", bytes.len());
        Ok(range.ok_or_else(|| Error::new(ErrorKind::Truncated, key, what()))?.to_vec())
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        self.map().get(key).map(|bytes| bytes.len() as u64).ok_or_else(|| missing(key))
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        let mut objects = self.map();
        self.make_room(&objects, key, bytes)?;
        objects.insert(key.clone(), bytes.to_vec());
        Ok(())
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        let mut objects = self.map();
        if objects.contains_key(key) {
            return Ok(Put::Exists);
        }
        self.make_room(&objects, key, bytes)?;
        objects.insert(key.clone(), bytes.to_vec());
        Ok(Put::Created)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        check_prefix(prefix)?;
        let objects = self.map();
        let below = |key: &Key| {
            prefix.is_empty()
                || key.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        };
        let entry = |(key, bytes): (&Key, &Vec<u8>)| Entry {
            key: key.clone(),
            size_bytes: bytes.len() as u64,
        };
        Ok(objects.iter().filter(|(key, _)| below(key)).map(entry).collect())
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.map().remove(key);
        Ok(())
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        let used: u64 = self.map().values().map(|bytes| bytes.len() as u64).sum();
        Ok(self.capacity_bytes.map(|capacity| capacity.saturating_sub(used)))
    }

    fn needs_proof(&self) -> bool {
        false
    }
}
