//! A set of entries in a few sorted runs, each at least twice as long as the next: exactly one
//! entry's size for each, and adding many costs little more than sorting them.
//!
//! Ids are SHA-256 sums, so they are spread evenly, and where one stands in a run can be guessed.

use crate::format::BlobId;
use crate::format::pack::PackedBlob;

/// One place of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    id: [u8; 32],
    /// The pack's number.
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// 0 if it is not compressed.
    plain: u32,
}

impl Entry {
    pub(super) fn new(pack: u32, blob: &PackedBlob) -> Entry {
        Entry {
            id: blob.id.0,
            pack,
            offset: blob.offset,
            length: blob.length,
            plain: blob.plain_length.unwrap_or(0),
        }
    }

    pub(super) fn plain_length(&self) -> Option<u32> {
        Some(self.plain).filter(|plain| *plain != 0)
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Longest first.
    runs: Vec<Vec<Entry>>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.runs.iter().map(Vec::len).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.runs.iter().map(|run| run.capacity() * size_of::<Entry>()).sum()
    }

    pub(super) fn add(&mut self, mut entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        // Shorter runs are merged in, so that the invariant holds.
        while let Some(last) = self.runs.pop_if(|last| last.len() < 2 * entries.len()) {
            let mut merged = last;
            merged.reserve_exact(entries.len());
            merged.append(&mut entries);
            entries = merged;
        }
        // A stable sort finds the runs that it is made of.
        entries.sort();
        entries.dedup();
        entries.shrink_to_fit();
        self.runs.push(entries);
    }

    /// All entries of an id.
    pub(super) fn find<'a>(&'a self, id: &BlobId) -> Found<'a> {
        let mut found = Found { runs: &self.runs, current: &[], id: *id };
        found.settle();
        found
    }
}

/// The entries of one id.
pub(super) struct Found<'a> {
    runs: &'a [Vec<Entry>],
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
            let from = &run[lower_bound(run, &self.id.0)..];
            let same = from.iter().take_while(|entry| entry.id == self.id.0).count();
            self.current = &from[..same];
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

/// Where `id` stands in a sorted run, or would stand.
///
/// Guesses from the first eight bytes where it is, and by how much the guess may be wrong (the
/// deviation grows with the square root of the range); a range that does not shrink that way is
/// searched by halves.
fn lower_bound(run: &[Entry], id: &[u8; 32]) -> usize {
    let key = prefix(id);
    let (mut low, mut high) = (0, run.len());
    let (mut low_key, mut high_key) = (0, u64::MAX);
    for _ in 0..4 {
        let range = high - low;
        if range < 32 || key < low_key || high_key <= low_key {
            break;
        }
        let share = u128::from(key - low_key) * range as u128 / u128::from(high_key - low_key);
        let guess = low + usize::try_from(share).unwrap_or(range).min(range - 1);
        let margin = 2 * range.isqrt();
        let (below, above) =
            (guess.saturating_sub(margin).max(low), (guess + margin).min(high - 1));
        if run[below].id < *id {
            (low, low_key) = (below + 1, prefix(&run[below].id));
        } else {
            (high, high_key) = (below, prefix(&run[below].id));
            continue;
        }
        if above >= low && run[above].id >= *id {
            (high, high_key) = (above, prefix(&run[above].id));
        } else if above >= low {
            (low, low_key) = (above + 1, prefix(&run[above].id));
        }
    }
    low + run[low..high].partition_point(|entry| entry.id < *id)
}

fn prefix(id: &[u8; 32]) -> u64 {
    id.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
