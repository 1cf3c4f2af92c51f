//! How much of the packs a check reads.

use crate::Error;
use crate::format::PackId;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// How much of the packs a check reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadData {
    /// Their headers.
    No,
    /// Every byte.
    All,
    /// Every byte of some of them.
    Part(Subset),
}

impl From<bool> for ReadData {
    fn from(all: bool) -> ReadData {
        if all { ReadData::All } else { ReadData::No }
    }
}

/// Some of the packs: `1/7`, `2.5%` or `10 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subset {
    /// The `part`th of `of` parts, from 1. A pack is always in the same part, so that checking one
    /// part a day has read everything after `of` days.
    Share {
        /// Which part.
        part: u8,
        /// Of so many.
        of: u8,
    },
    /// As many packs as make up so many hundredths of a percent of their number, drawn by lot.
    Percent(u32),
    /// As many packs as fit into so many bytes, drawn by lot; at least one.
    Bytes(u64),
}

/// The text names no part of the packs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no part of the data; write it as 1/7, 2.5% or 10 GiB")]
pub struct SubsetError(String);

impl FromStr for Subset {
    type Err = SubsetError;

    fn from_str(text: &str) -> Result<Subset, SubsetError> {
        parse(text.trim()).ok_or_else(|| SubsetError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Subset> {
    if let Some((part, of)) = text.split_once('/') {
        let (part, of) = (part.trim().parse().ok()?, of.trim().parse().ok()?);
        return (1 <= part && part <= of).then_some(Subset::Share { part, of });
    }
    if let Some(percent) = text.strip_suffix('%') {
        let hundredths = model::size::hundredths(percent.trim())?;
        return (1..=10_000).contains(&hundredths).then_some(Subset::Percent(hundredths));
    }
    model::size::parse(text).ok().filter(|bytes| *bytes > 0).map(Subset::Bytes)
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subset::Share { part, of } => write!(f, "{part}/{of}"),
            Subset::Percent(hundredths) => write!(f, "{}%", f64::from(*hundredths) / 100.0),
            Subset::Bytes(bytes) => f.write_str(&model::size::human(*bytes)),
        }
    }
}

/// The packs that are read.
pub(super) enum Chosen {
    All,
    Some(HashSet<PackId>),
}

impl Chosen {
    pub(super) fn has(&self, id: &PackId) -> bool {
        match self {
            Chosen::All => true,
            Chosen::Some(ids) => ids.contains(id),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Chosen::Some(ids) if ids.is_empty())
    }
}

impl ReadData {
    /// Which of these packs are read.
    pub(super) fn choose(self, packs: &[(PackId, u64)]) -> Result<Chosen, Error> {
        match self {
            ReadData::No => Ok(Chosen::Some(HashSet::new())),
            ReadData::All => Ok(Chosen::All),
            ReadData::Part(subset) => {
                let mut seed = [0; 8];
                getrandom::fill(&mut seed)
                    .map_err(|e| Error::Invalid(format!("no random bytes from the system: {e}")))?;
                Ok(Chosen::Some(subset.choose(packs, u64::from_le_bytes(seed))))
            }
        }
    }
}

impl Subset {
    /// Which of these packs; those that are drawn by lot depend on `seed`.
    fn choose(self, packs: &[(PackId, u64)], seed: u64) -> HashSet<PackId> {
        let drawn = || {
            let mut drawn: Vec<_> = packs.to_vec();
            drawn.sort_by_key(|(id, _)| lot(id, seed));
            drawn
        };
        match self {
            Subset::Share { part, of } => {
                let mine = |id: &PackId| id.0[0] % of.max(1) == part.saturating_sub(1);
                packs.iter().map(|(id, _)| *id).filter(mine).collect()
            }
            Subset::Percent(hundredths) => {
                let count = (packs.len() as u64 * u64::from(hundredths)).div_ceil(10_000);
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                drawn().into_iter().map(|(id, _)| id).take(count).collect()
            }
            Subset::Bytes(bytes) => {
                let mut left = bytes;
                let mut chosen = HashSet::new();
                for (id, size) in drawn() {
                    let fits = size <= left;
                    if fits || chosen.is_empty() {
                        chosen.insert(id);
                        left = left.saturating_sub(size);
                    }
                }
                chosen
            }
        }
    }
}

/// A number that depends on both, and on nothing else: the finalizer of splitmix64 over the id's
/// first bytes.
fn lot(id: &PackId, seed: u64) -> u64 {
    let first = id.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let mut z = first ^ seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(count: usize) -> Vec<(PackId, u64)> {
        (0..count).map(|i| (PackId::of(&i.to_le_bytes()), 100)).collect()
    }

    #[test]
    fn subsets_are_read_and_shown() {
        for (text, subset, shown) in [
            ("1/7", Subset::Share { part: 1, of: 7 }, "1/7"),
            ("2.5%", Subset::Percent(250), "2.5%"),
            ("100%", Subset::Percent(10_000), "100%"),
            ("10 GiB", Subset::Bytes(10 << 30), "10 GiB"),
        ] {
            assert_eq!(text.parse(), Ok(subset));
            assert_eq!(subset.to_string().replace(".0 ", " "), shown);
        }
        for bad in ["", "0/7", "8/7", "1/256", "0%", "101%", "-1%", "NaN%", "0", "much"] {
            assert!(bad.parse::<Subset>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parts_are_disjoint_and_together_all() {
        let packs = packs(1000);
        let mut seen = HashSet::new();
        for part in 1..=7 {
            for id in (Subset::Share { part, of: 7 }).choose(&packs, u64::from(part)) {
                assert!(seen.insert(id), "{id} is in two parts");
            }
        }
        assert_eq!(seen.len(), packs.len());
    }

    #[test]
    fn what_is_drawn_has_the_size_asked_for_and_differs() {
        let packs = packs(1000);
        assert_eq!(Subset::Percent(250).choose(&packs, 1).len(), 25);
        assert_eq!(Subset::Percent(10_000).choose(&packs, 1).len(), 1000);
        assert_eq!(Subset::Percent(1).choose(&packs, 1).len(), 1);
        assert_eq!(Subset::Bytes(1050).choose(&packs, 1).len(), 10);
        assert_eq!(Subset::Bytes(1).choose(&packs, 1).len(), 1);
        let (one, two) = (Subset::Percent(1000), Subset::Percent(1000));
        assert_ne!(one.choose(&packs, 1), two.choose(&packs, 2));
    }
}
