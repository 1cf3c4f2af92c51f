//! Ranges of a file.

use std::ops::Range;

/// Ranges of bytes, in order, with something between each and the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Whether one of them has a byte of this range.
    pub fn meet(&self, range: &Range<u64>) -> bool {
        let first = self.0.partition_point(|own| own.end <= range.start);
        self.0.get(first).is_some_and(|own| own.start < range.end)
    }
}

impl FromIterator<Range<u64>> for Ranges {
    /// Takes them in any order; they may overlap, and empty ones are nothing.
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Ranges {
        let mut given: Vec<Range<u64>> = ranges.into_iter().filter(|r| r.start < r.end).collect();
        given.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in given {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Ranges(joined)
    }
}
