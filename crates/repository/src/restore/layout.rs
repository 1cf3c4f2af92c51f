//! Which blobs of a file an older one has at the same place.
//!
//! Of a large file in which little has changed nearly all of them are, and the index is asked for each
//! only once.

use crate::{BlobId, Error};

/// The blobs of a file, and where each begins.
pub(super) type Layout = Vec<(BlobId, u64)>;

/// Where the blobs of a file begin, and where it ends.
pub(super) fn of(
    content: &[BlobId],
    length_of: impl Fn(&BlobId) -> Result<u64, Error>,
) -> Result<(Layout, u64), Error> {
    let mut layout = Layout::with_capacity(content.len());
    let mut end = 0u64;
    for id in content {
        layout.push((*id, end));
        end = end.saturating_add(length_of(id)?);
    }
    Ok((layout, end))
}

/// How long the blob at this number is, in a file that ends at `end`.
pub(super) fn length(layout: &[(BlobId, u64)], number: usize, end: u64) -> u64 {
    let next = layout.get(number + 1).map_or(end, |(_, at)| *at);
    layout.get(number).map_or(0, |(_, at)| next.saturating_sub(*at))
}

/// Where an older file has its blobs, up to the first one of which nobody knows how long it is: what is no
/// longer in the repository is in nothing that is restored. `new` is the newer file, which ends at `end`.
pub(super) fn older(
    content: &[BlobId],
    (new, end): (&[(BlobId, u64)], u64),
    length_of: impl Fn(&BlobId) -> Result<u64, Error>,
) -> Layout {
    let mut layout = Layout::with_capacity(content.len());
    let (mut at, mut beside) = (0u64, 0);
    for id in content {
        while new.get(beside).is_some_and(|(_, there)| *there < at) {
            beside += 1;
        }
        let known = match new.get(beside) {
            Some((other, there)) if other == id && *there == at => Ok(length(new, beside, end)),
            _ => length_of(id),
        };
        let Ok(length) = known else { break };
        layout.push((*id, at));
        at = at.saturating_add(length);
    }
    layout
}

/// Of each blob of `new` whether `old` has it at the same place.
pub(super) fn in_place(new: &[(BlobId, u64)], old: &[(BlobId, u64)]) -> Vec<bool> {
    let mut rest = old;
    let is_there = |(id, at): &(BlobId, u64)| {
        let before = rest.iter().take_while(|(_, there)| there < at).count();
        rest = rest.get(before..).unwrap_or_default();
        // A blob without bytes begins where the next one does.
        rest.iter().take_while(|(_, there)| there == at).any(|(other, _)| other == id)
    };
    new.iter().map(is_there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashMap;

    fn id(number: u8) -> BlobId {
        BlobId([number; 32])
    }

    /// Blobs whose length is ten times their number, one after the other.
    fn laid(numbers: &[u8]) -> (Layout, u64) {
        of(&ids(numbers), of_ten).expect("all are known")
    }

    fn of_ten(id: &BlobId) -> Result<u64, Error> {
        Ok(u64::from(id.0[0]) * 10)
    }

    fn ids(numbers: &[u8]) -> Vec<BlobId> {
        numbers.iter().map(|number| id(*number)).collect()
    }

    #[test]
    fn what_is_at_the_same_place_is_found_as_by_a_map_of_all_places() {
        // Every pair of short files of few different blobs, one of them without bytes.
        let files: Vec<Vec<u8>> = (0..256u32)
            .flat_map(|bits| (0..=4).map(move |length| (bits, length)))
            .map(|(bits, length)| (0..length).map(|n| (bits >> (2 * n) & 3) as u8).collect())
            .collect();
        for old in files.iter().step_by(7) {
            for new in files.iter().step_by(3) {
                let (new_layout, end) = laid(new);
                let old_layout = older(&ids(old), (&new_layout, end), of_ten);
                assert_eq!(old_layout, laid(old).0, "{old:?} beside {new:?}");
                let mut places: HashMap<(BlobId, u64), ()> = HashMap::new();
                places.extend(old_layout.iter().map(|place| (*place, ())));
                let wanted: Vec<bool> =
                    new_layout.iter().map(|place| places.contains_key(place)).collect();
                assert_eq!(in_place(&new_layout, &old_layout), wanted, "{old:?} and {new:?}");
            }
        }
    }

    #[test]
    fn lengths_add_up() {
        let (layout, end) = laid(&[3, 1, 2]);
        let lengths: Vec<u64> = (0..3).map(|number| length(&layout, number, end)).collect();
        assert_eq!(lengths, [30, 10, 20]);
        assert_eq!(length(&layout, 3, end), 0);
    }

    #[test]
    fn the_index_is_asked_only_for_what_is_not_beside_it() {
        let old: Vec<u8> = (1..=200).collect();
        let mut new = old.clone();
        new[100] = 201;
        let asked = Cell::new(0);
        let counted = |id: &BlobId| {
            asked.set(asked.get() + 1);
            of_ten(id)
        };
        let (new_layout, end) = laid(&new);
        older(&ids(&old), (&new_layout, end), counted);
        // The one that was replaced, and what comes after it, which is at another place.
        assert_eq!(asked.get(), 100);
        // One of the same length moves nothing.
        let swapped: Vec<BlobId> = ids(&old).into_iter().chain([id(7)]).collect();
        asked.set(0);
        older(&swapped, (&new_layout[..100], laid(&new[..100]).1), counted);
        assert_eq!(asked.get(), 101);
    }

    #[test]
    fn a_blob_that_is_in_no_repository_ends_what_is_known() {
        let (new_layout, end) = laid(&[1, 2, 3]);
        let none = |id: &BlobId| match id.0[0] {
            9 => Err(Error::Missing("nobody has it".to_owned())),
            _ => of_ten(id),
        };
        let old = older(&ids(&[1, 9, 3]), (&new_layout, end), none);
        assert_eq!(old, laid(&[1]).0);
        assert_eq!(in_place(&new_layout, &old), [true, false, false]);
    }
}
