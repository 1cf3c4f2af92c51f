//! Where the bytes rest. Knows keys and bytes, and nothing of what they mean.
//!
//! Every write is durable when the call returns: a caller that orders its calls (packs, then index,
//! then snapshot) has ordered what a crash can leave behind.

#[cfg(feature = "doubles")]
pub mod doubles;
mod error;
mod key;
mod local;
mod open;
mod prefixed;
pub mod probe;
mod protocol;
pub mod rest;
pub mod s3;
pub mod serve;
mod whereabouts;

pub use error::{Error, ErrorKind};
pub use key::{Key, KeyError};
pub use local::Local;
pub use open::{Options, open};
pub use prefixed::Prefixed;
pub use rest::Rest;
pub use whereabouts::Whereabouts;

use std::fmt;

/// One stored object in a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its key, whole (not relative to the prefix that was listed).
    pub key: Key,
    /// Its length.
    pub size_bytes: u64,
}

/// What a put-if-absent did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is there now, with our bytes.
    Created,
    /// There was one already; it was not touched.
    Exists,
}

/// A place that holds objects by key. No key may be the directory of another.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Where this is, for messages; never shows a secret.
    fn location(&self) -> String;

    /// The whole object.
    fn read(&self, key: &Key) -> Result<Vec<u8>, Error>;

    /// Exactly `length` bytes from `offset`; a shorter object is an error (`ErrorKind::Truncated`).
    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error>;

    /// The same, in the place of what a buffer held: memory that is new costs time, so whoever reads much
    /// hands back what it has read. After an error the buffer may hold anything.
    fn read_range_into(
        &self,
        key: &Key,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        *buffer = self.read_range(key, offset, length)?;
        Ok(())
    }

    /// The object's length.
    fn size(&self, key: &Key) -> Result<u64, Error>;

    /// Stores an object, durable on return, replacing one of the same key atomically.
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error>;

    /// Stores an object unless there is one: of several callers exactly one is told `Created`.
    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error>;

    /// All objects whose key begins with `prefix` and a slash (or all, for an empty one), in the
    /// order of their keys. A prefix that holds nothing is an empty list. A storage that is not
    /// there at all (a directory that does not exist, a disk that was unmounted since) is an error:
    /// `ErrorKind::NotFound` if it never was there, `ErrorKind::Unavailable` if it is gone. What
    /// an unmounted disk looks like to a newcomer, an empty directory, nobody can tell from an
    /// empty vault; that is why state is compared with what each member remembers.
    ///
    /// Shows every object that is there from the begin of the call to its end.
    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error>;

    /// The first parts of all keys (`docs` of `docs/data/1`), each once, in order. A directory may
    /// show one that holds nothing.
    fn first_parts(&self) -> Result<Vec<String>, Error> {
        let first = |entry: Entry| entry.key.as_str().split('/').next().unwrap_or("").to_owned();
        let mut parts: Vec<String> = self.list("")?.into_iter().map(first).collect();
        parts.sort_unstable();
        parts.dedup();
        Ok(parts)
    }

    /// Removes an object. One that is not there is no error.
    fn delete(&self, key: &Key) -> Result<(), Error>;

    /// Removes several, which may cost less than one by one. After a failure some may be gone.
    fn delete_all(&self, keys: &[Key]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// Bytes that can still be stored, where that can be known.
    fn free_bytes(&self) -> Result<Option<u64>, Error>;

    /// The storage behind this one, if it passes calls on: what it does not say of itself below is
    /// asked of that. (One that changes keys on the way has to pass on by itself what takes a key.)
    fn inner(&self) -> Option<&dyn Storage> {
        None
    }

    /// Removes what writers that died left behind below `prefix`, if nothing was written to it for
    /// a day; says how many. Nothing of it was ever listed. A writer that is merely that slow has
    /// its put fail.
    fn remove_leftovers(&self, prefix: &str) -> Result<u64, Error> {
        self.inner().map_or(Ok(0), |inner| inner.remove_leftovers(prefix))
    }

    /// Keeps some space back, if this is a disk with room for that: on one that is full to its last
    /// byte, what frees space has to write first. Does nothing where it is kept already.
    fn keep_reserve(&self) -> Result<(), Error> {
        self.inner().map_or(Ok(()), |inner| inner.keep_reserve())
    }

    /// Gives that space up. Says whether any was kept.
    fn give_up_reserve(&self) -> Result<bool, Error> {
        self.inner().map_or(Ok(false), |inner| inner.give_up_reserve())
    }

    /// Whether `put_if_absent` has to be tried on this very place before anything relies on it
    /// (`probe`). Only a place whose kind makes it true by itself needs no proof.
    fn needs_proof(&self) -> bool {
        self.inner().is_none_or(|inner| inner.needs_proof())
    }

    /// Large objects that it takes to be written at once, to be as fast as it can be: one that is
    /// far away needs more than one that is near.
    fn writers(&self) -> usize {
        self.inner().map_or(5, |inner| inner.writers())
    }

    /// How much is read at once where much is wanted of an object. Each request to one that is far away
    /// costs a wait; of one that is near, what was just read is better used while the processor has it.
    fn request_bytes(&self) -> u32 {
        self.inner().map_or(16 << 20, |inner| inner.request_bytes())
    }

    /// Whether whoever lists `prefix` in this way after a put has returned finds the object.
    /// Where that is not known, the protocols of those who must see each other allow it some time.
    fn shows_at_once(&self, prefix: &str) -> bool {
        self.inner().is_some_and(|inner| inner.shows_at_once(prefix))
    }

    /// Whether nothing can be written here, because it shows the past.
    fn is_read_only(&self) -> bool {
        self.inner().is_some_and(|inner| inner.is_read_only())
    }

    /// Locks what is to be locked below `prefix` for the whole time from now on; says how many
    /// objects, or nothing where nothing is locked. A lock ends so long after its object was
    /// written, also where what was written later relies on that object.
    fn lock_again(&self, prefix: &str) -> Result<Option<u64>, Error> {
        self.inner().map_or(Ok(None), |inner| inner.lock_again(prefix))
    }

    /// Locks an object against removal and tries to remove it.
    fn probe_retention(&self, key: &Key) -> Result<probe::Retention, Error> {
        self.inner().map_or(Ok(probe::Retention::None), |inner| inner.probe_retention(key))
    }
}
