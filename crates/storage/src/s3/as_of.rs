//! A versioned bucket as it was at an earlier time. What was overwritten or removed since is there
//! again; nothing can be written.

use super::S3;
use super::versions::Version;
use crate::key::check_prefix;
use crate::{Entry, Error, ErrorKind, Key, Put, Storage};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// A bucket at a time.
#[derive(Debug)]
pub(super) struct AsOf {
    bucket: S3,
    time: Timestamp,
    /// The past does not change: what was listed once is kept, by the first part of its keys.
    seen: Mutex<HashMap<String, Arc<BTreeMap<Key, Version>>>>,
}

impl AsOf {
    pub(super) fn new(bucket: S3, time: Timestamp) -> AsOf {
        AsOf { bucket, time, seen: Mutex::default() }
    }

    fn below(&self, first: &str) -> Result<Arc<BTreeMap<Key, Version>>, Error> {
        // Held while listing, so that many readers list once.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen.get(first).or_else(|| seen.get("")) {
            return Ok(known.clone());
        }
        let listed = Arc::new(self.bucket.versions_at(first, self.time)?);
        seen.insert(first.to_owned(), listed.clone());
        Ok(listed)
    }

    fn version(&self, key: &Key) -> Result<Version, Error> {
        let text = key.as_str();
        // An object that is not below anything is found only among all.
        let first = text.split_once('/').map_or("", |(first, _)| first);
        self.below(first)?.get(key).cloned().ok_or_else(|| {
            let what = format!("no such object at {}", self.time);
            Error::new(ErrorKind::NotFound, self.bucket.shown(key), what)
        })
    }

    fn read_only(&self, key: &Key) -> Error {
        let what = format!("the vault is opened as of {} and can only be read", self.time);
        Error::new(ErrorKind::Permission, self.bucket.shown(key), what)
            .hinting("Remove `as-of` to write to the vault of today.")
    }
}

impl Storage for AsOf {
    fn location(&self) -> String {
        self.bucket.location()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        let version = self.version(key)?;
        self.bucket.read_version(key, Some(&version.id))
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let version = self.version(key)?;
        self.bucket.read_range_version(key, offset, length, Some(&version.id))
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        Ok(self.version(key)?.size_bytes)
    }

    fn put(&self, key: &Key, _: &[u8]) -> Result<(), Error> {
        Err(self.read_only(key))
    }

    fn put_if_absent(&self, key: &Key, _: &[u8]) -> Result<Put, Error> {
        Err(self.read_only(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        check_prefix(prefix)?;
        let first = prefix.split('/').next().unwrap_or_default();
        let all = self.below(first)?;
        let inside = |key: &Key| {
            let rest = key.as_str().strip_prefix(prefix);
            prefix.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let entry = |(key, version): (&Key, &Version)| Entry {
            key: key.clone(),
            size_bytes: version.size_bytes,
        };
        Ok(all.iter().filter(|(key, _)| inside(key)).map(entry).collect())
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        Err(self.read_only(key))
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn is_read_only(&self) -> bool {
        true
    }
}
