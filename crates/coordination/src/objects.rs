//! A register on a storage: one object for each number, made by put-if-absent.
//!
//! Objects are `mainstay/state/<20 digits>`. The newest [`KEPT`] stay; a writer that has won
//! removes older ones, oldest first.
//!
//! # Why a removed number is never won again
//!
//! A writer that loads number `n` and is then paused for long could find `n + 1` absent, not
//! because it is free, but because it was used and removed. Its put-if-absent succeeds on a number
//! that another writer has won. Two rules keep it from being told that it won:
//!
//! 1. A number `m` is removed only when a number of at least `m + KEPT` has been won. The highest
//!    number never falls, so this stays true of `m` for ever.
//! 2. After its put of `m`, a writer lists the numbers. It has won only if the highest is below
//!    `m + KEPT`.
//!
//! Suppose that `m` had been used and removed before the put. By rule 1 a number of at least
//! `m + KEPT` existed before the put, so the listing after it shows one at least as high, and the
//! writer does not win. It removes its own object and reports that it lost. If it dies before that,
//! the object lies below the window, where no reader looks, until the next winner removes it. (A
//! writer that did win, and was then paused for `KEPT` commits before it could list, is told that
//! it lost, and applies its transition once more; transitions bear that.)
//!
//! To look whether the predecessor `m - 1` still exists would not be enough: it may be the work of
//! a second paused writer that has not removed it yet. It is asked all the same, because it says
//! something else: if `m - 1` is missing *inside* the window, this is not the place that it was
//! read from (its disk was unmounted, or somebody deletes state by hand), and that is an error, not
//! a lost race.
//!
//! A reader has the same trouble: between its listing and its read, the number that it found can
//! be used up, removed, and put again by a paused writer. So it lists once more after the read, and
//! believes what it read only if that number was not removable yet.
//!
//! What is assumed of a listing: it shows every object that is there from its begin to its end.
//! To hide the highest number it would take `KEPT` commits during one listing.

use crate::{Advance, Error, Register, Stored};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use storage::{ErrorKind, Key, Put, Storage};

/// Where the objects are, below the service's prefix.
const PREFIX: &str = "mainstay/state";

/// How many of the newest numbers stay. Part of the protocol: writers that disagree about it would
/// break the argument above, so it can never be lowered.
const KEPT: u64 = 64;

/// No state is that large; more is refused before it is read.
const LARGEST_BYTES: u64 = 256 << 20;

/// How often a reader starts over because others were faster.
const READ_ATTEMPTS: u32 = 50;

/// Numbered objects below `mainstay/state/` of a storage.
#[derive(Debug)]
pub struct Objects {
    storage: Arc<dyn Storage>,
    /// The highest number that this instance has seen. A place that shows less is another one.
    highest: AtomicU64,
}

/// The numbers that a listing showed, ascending.
struct Listing(Vec<(u64, u64)>);

impl Objects {
    /// The register below `mainstay/state/` of this storage.
    pub fn new(storage: Arc<dyn Storage>) -> Objects {
        Objects { storage, highest: AtomicU64::new(0) }
    }

    fn list(&self) -> Result<Listing, Error> {
        let seen = self.highest.load(Ordering::SeqCst);
        let mut numbers = Vec::new();
        for entry in self.storage.list(PREFIX)? {
            let name = entry.key.name();
            // Anything else in there is not ours: what somebody copied aside, a file of a tool.
            if name.len() != 20 || !name.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let number = name.parse().ok().filter(|number| (1..u64::MAX - KEPT).contains(number));
            let number = number.ok_or_else(|| {
                Error::damaged(&self.place(&entry.key), "its number is impossible")
            })?;
            numbers.push((number, entry.size_bytes));
        }
        numbers.sort_unstable();
        let listing = Listing(numbers);
        if listing.highest() < seen {
            return Err(Error::Vanished {
                place: self.storage.location(),
                shown: listing.highest(),
                seen,
            });
        }
        Ok(listing)
    }

    fn place(&self, key: &Key) -> String {
        format!("{}/{key}", self.storage.location().trim_end_matches('/'))
    }

    /// Whether the object under this key is the one that we tried to put.
    fn is_ours(&self, key: &Key, bytes: &[u8]) -> Result<bool, Error> {
        match self.storage.read(key) {
            Ok(stored) => Ok(stored == bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes what lies below the window. A failure harms nobody: the next winner tries again.
    fn prune(&self, listing: &Listing) {
        for number in listing.removable() {
            let Ok(key) = key(number) else { return };
            // Not one more after a failure, so that the oldest still goes first.
            if self.storage.delete(&key).is_err() {
                return;
            }
        }
    }
}

impl Register for Objects {
    fn newest(&self) -> Result<Option<Stored>, Error> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.list()?;
            let Some(&(number, size_bytes)) = before.0.last() else { return Ok(None) };
            let key = key(number)?;
            let object = self.place(&key);
            if size_bytes > LARGEST_BYTES {
                return Err(Error::damaged(&object, format!("it has {size_bytes} bytes")));
            }
            let bytes = match self.storage.read(&key) {
                Ok(bytes) => Some(bytes),
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                Err(e) => return Err(e.into()),
            };
            if self.list()?.highest() >= number + KEPT {
                continue;
            }
            let Some(bytes) = bytes else {
                return Err(Error::damaged(&object, "it was removed"));
            };
            self.highest.fetch_max(number, Ordering::SeqCst);
            return Ok(Some(Stored { number, object, bytes }));
        }
        Err(Error::Contended(READ_ATTEMPTS))
    }

    fn create(&self, number: u64, bytes: &[u8]) -> Result<Advance, Error> {
        let key = key(number)?;
        match self.storage.put_if_absent(&key, bytes) {
            Ok(Put::Created) => {}
            // A client that repeats a request whose answer was lost meets its own object.
            Ok(Put::Exists) if self.is_ours(&key, bytes)? => {}
            Ok(Put::Exists) => return Ok(Advance::Lost),
            // Lost answers only: any other failure may mean that it is stored, but not durably.
            Err(e) if e.kind() == ErrorKind::Unavailable => match self.is_ours(&key, bytes) {
                Ok(true) => {}
                _ => return Err(e.into()),
            },
            Err(e) => return Err(e.into()),
        }
        let listing = self.list()?;
        if listing.highest() >= number + KEPT {
            self.storage.delete(&key)?;
            return Ok(Advance::Lost);
        }
        let predecessor = number.saturating_sub(1);
        let must_exist = predecessor > 0 && listing.highest() < predecessor + KEPT;
        if must_exist && !listing.has(predecessor) {
            self.storage.delete(&key)?;
            return Err(Error::Vanished {
                place: self.storage.location(),
                shown: listing.below(number),
                seen: predecessor,
            });
        }
        self.highest.fetch_max(number, Ordering::SeqCst);
        self.prune(&listing);
        Ok(Advance::Won)
    }
}

impl Listing {
    /// 0 if there is none.
    fn highest(&self) -> u64 {
        self.0.last().map_or(0, |&(number, _)| number)
    }

    fn has(&self, number: u64) -> bool {
        self.0.binary_search_by_key(&number, |&(number, _)| number).is_ok()
    }

    /// The highest that is lower than this; 0 if there is none.
    fn below(&self, number: u64) -> u64 {
        self.0.iter().rev().map(|&(n, _)| n).find(|&n| n < number).unwrap_or(0)
    }

    /// Oldest first.
    fn removable(&self) -> impl Iterator<Item = u64> + '_ {
        let highest = self.highest();
        self.0.iter().map(|&(number, _)| number).take_while(move |number| number + KEPT <= highest)
    }
}

fn key(number: u64) -> Result<Key, Error> {
    let text = format!("{PREFIX}/{number:020}");
    Key::new(&text).map_err(|e| Error::damaged(&text, e))
}
