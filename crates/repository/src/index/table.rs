//! A set of entries in a few sorted runs, each much longer than the next: little more memory than
//! the entries themselves, and adding many costs little more than sorting them. All sorting and
//! merging is done in place: of ten million entries a second copy would be half a gigabyte.
//!
//! Ids are SHA-256 sums, so they are spread evenly: a directory by their first bits leads to the
//! few entries that begin with the same.

use crate::format::BlobId;
use crate::format::pack::{MAX_LENGTH, PackedBlob};
use crate::parallel;
use std::sync::{Mutex, PoisonError};

/// One place of a blob, in 47 bytes, since there may be many millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    id: [u8; 32],
    /// The pack's number (26 bits), the offset (32), the length and the plain length (31 each).
    place: [u8; 15],
}

/// Packs that can be numbered: of the smallest usual size, a quarter of a PiB.
pub(super) const MAX_PACKS: usize = 1 << 26;
const LENGTH_BITS: u32 = 31;

impl Entry {
    /// None if the pack's number is too large. The lengths were judged when they were read.
    pub(super) fn new(pack: usize, blob: &PackedBlob) -> Option<Entry> {
        let plain = blob.plain_length.unwrap_or(0);
        if pack >= MAX_PACKS || blob.length.max(plain) > MAX_LENGTH {
            return None;
        }
        let mut bits = pack as u128;
        bits = bits << 32 | u128::from(blob.offset);
        bits = bits << LENGTH_BITS | u128::from(blob.length);
        bits = bits << LENGTH_BITS | u128::from(plain);
        let [_, place @ ..] = bits.to_be_bytes();
        Some(Entry { id: blob.id.0, place })
    }

    /// Raises the number of its pack. False if that is too large then.
    fn renumber(&mut self, by: usize) -> bool {
        let mut bytes = [0; 16];
        bytes[1..].copy_from_slice(&self.place);
        let bits = u128::from_be_bytes(bytes);
        let shift = 32 + 2 * LENGTH_BITS;
        let pack = (bits >> shift) + by as u128;
        if pack >= MAX_PACKS as u128 {
            return false;
        }
        let rest = bits & ((1 << shift) - 1);
        let [_, place @ ..] = (pack << shift | rest).to_be_bytes();
        self.place = place;
        true
    }

    /// Number of its pack, and where in it the blob is: offset, length, plain length.
    pub(super) fn place(&self) -> (usize, u32, u32, Option<u32>) {
        let mut bytes = [0; 16];
        bytes[1..].copy_from_slice(&self.place);
        let bits = u128::from_be_bytes(bytes);
        let low = |shift: u32, mask: u32| u32::try_from(bits >> shift & u128::from(mask));
        let plain = low(0, MAX_LENGTH).unwrap_or(0);
        let length = low(LENGTH_BITS, MAX_LENGTH).unwrap_or(0);
        let offset = low(2 * LENGTH_BITS, u32::MAX).unwrap_or(0);
        let pack = usize::try_from(bits >> (2 * LENGTH_BITS + 32)).unwrap_or(usize::MAX);
        (pack, offset, length, Some(plain).filter(|plain| *plain != 0))
    }
}

/// A run is at least this many times as long as the next one. More means fewer runs to look
/// through, and more copying when entries are added.
const RATIO: usize = 8;
/// Entries that begin with the same bits of the directory, at least and on average.
const BUCKET: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Longest first.
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    entries: Vec<Entry>,
    /// How many first bits of an id the directory knows.
    bits: u32,
    /// Where the entries that begin with each value of these bits start; and the end of all.
    starts: Vec<u32>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.runs.iter().map(|run| run.entries.len()).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let bytes = |run: &Run| {
            run.entries.capacity() * size_of::<Entry>() + run.starts.capacity() * size_of::<u32>()
        };
        self.runs.iter().map(bytes).sum()
    }

    pub(super) fn add(&mut self, entries: Sorted) {
        let Sorted(mut entries) = entries;
        if entries.is_empty() {
            return;
        }
        while let Some(last) = self.runs.pop_if(|last| last.entries.len() < RATIO * entries.len()) {
            let Run { entries: others, starts, .. } = last;
            drop(starts);
            entries = match others.len() < entries.len() {
                true => merge(entries, &others),
                false => merge(others, &entries),
            };
        }
        entries.dedup();
        entries.shrink_to_fit();
        self.runs.push(Run::new(entries));
    }

    /// All entries of an id.
    pub(super) fn find<'a>(&'a self, id: &BlobId) -> Found<'a> {
        let mut found = Found { runs: &self.runs, current: &[], id: *id };
        found.settle();
        found
    }
}

/// Entries in order, each once.
#[derive(Debug)]
pub(super) struct Sorted(Vec<Entry>);

impl Sorted {
    pub(super) fn new(mut entries: Vec<Entry>) -> Sorted {
        sort(&mut entries, parallel::cores());
        entries.dedup();
        Sorted(entries)
    }

    /// With the numbers of all packs higher by `by`, which changes no order. Entries whose pack's
    /// number is too large then are left out.
    pub(super) fn renumbered(mut self, by: usize) -> Sorted {
        if by > 0 {
            self.0.retain_mut(|entry| entry.renumber(by));
        }
        self
    }
}

/// Fewer entries than this are not worth another thread.
const SORTED_ALONE: usize = 1 << 15;

/// In place, on this many threads.
fn sort(entries: &mut [Entry], threads: usize) {
    if threads < 2 || entries.len() < SORTED_ALONE {
        return entries.sort_unstable();
    }
    let middle = entries.len() / 2;
    let (low, _, high) = entries.select_nth_unstable(middle);
    let (low_threads, high_threads) = (threads / 2, threads - threads / 2);
    let low = Mutex::new(Some(low));
    let take = || low.lock().unwrap_or_else(PoisonError::into_inner).take();
    let one = || {
        if let Some(low) = take() {
            sort(low, low_threads);
        }
    };
    std::thread::scope(|scope| {
        let started = std::thread::Builder::new().spawn_scoped(scope, one);
        sort(high, high_threads);
        // This thread does it all if the system grants no other.
        if started.is_err() {
            one();
        }
    });
}

/// Merges sorted entries into sorted ones, from the end, so that none needs another place.
fn merge(mut into: Vec<Entry>, from: &[Entry]) -> Vec<Entry> {
    let (mut left, mut right) = (into.len(), from.len());
    into.reserve_exact(right);
    into.extend_from_slice(from);
    let mut end = into.len();
    // What is left when one side has ended lies where it belongs, or is copied there.
    while right > 0 {
        end -= 1;
        if left > 0 && into[left - 1] > from[right - 1] {
            left -= 1;
            into[end] = into[left];
        } else {
            right -= 1;
            into[end] = from[right];
        }
    }
    into
}

impl Run {
    /// Of sorted entries.
    fn new(entries: Vec<Entry>) -> Run {
        let bits = (entries.len() / BUCKET).max(1).ilog2();
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (at, entry) in (0u32..).zip(&entries) {
            // The first with these bits, and with all between the last ones and these.
            while starts.len() <= bucket(&entry.id, bits) {
                starts.push(at);
            }
        }
        starts.resize((1 << bits) + 1, u32::try_from(entries.len()).unwrap_or(u32::MAX));
        Run { entries, bits, starts }
    }

    /// The entries of an id.
    fn find(&self, id: &[u8; 32]) -> &[Entry] {
        let bucket = bucket(id, self.bits);
        let (from, to) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let near = &self.entries[from..to];
        let first = near.partition_point(|entry| entry.id < *id);
        let same = near[first..].iter().take_while(|entry| entry.id == *id).count();
        &near[first..first + same]
    }
}

/// The first bits of an id, as a number.
fn bucket(id: &[u8; 32], bits: u32) -> usize {
    let prefix = id.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    // Widened, since for no bits at all this is a shift by 32.
    usize::try_from(u64::from(prefix) >> (32 - bits)).unwrap_or(0)
}

/// The entries of one id.
pub(super) struct Found<'a> {
    runs: &'a [Run],
    current: &'a [Entry],
    id: BlobId,
}

impl Found<'_> {
    pub(super) fn is_empty_now(&self) -> bool {
        self.current.is_empty()
    }

    /// Goes to the next run that has the id, unless the current one has more.
    fn settle(&mut self) {
        while self.current.is_empty() {
            let Some((run, rest)) = self.runs.split_first() else { return };
            self.runs = rest;
            self.current = run.find(&self.id.0);
        }
    }
}

impl<'a> Iterator for Found<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        let (entry, rest) = self.current.split_first()?;
        self.current = rest;
        self.settle();
        Some(entry)
    }
}
