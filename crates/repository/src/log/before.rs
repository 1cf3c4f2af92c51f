//! The log as it lay before each database cluster had a place of its own: one place for the service,
//! whichever cluster wrote it.
//!
//! It is read where it is, by the cluster that wrote it, and goes as the points go that need it. Nothing is
//! moved: that would have to be done for all of a log at once, while servers read and write it.

use super::name::is_segment;
use super::{LogStore, Wrote};
use crate::Error;
use model::{Class, Classify, ClusterId};
use std::sync::{Arc, OnceLock};

/// So many segments are asked who wrote them, if the first of them do not tell.
const ASKED: usize = 16;

/// What one cluster may have written there.
#[derive(Clone)]
pub(super) struct Before {
    /// Boxed, as it is a store itself.
    flat: Arc<LogStore>,
    cluster: ClusterId,
    wrote: Wrote,
    /// Whether it did, once that was found out.
    ours: Arc<OnceLock<bool>>,
}

impl Before {
    pub(super) fn new(flat: LogStore, cluster: ClusterId, wrote: Wrote) -> Before {
        Before { flat: Arc::new(flat), cluster, wrote, ours: Arc::default() }
    }

    /// What lies there, whosoever it is.
    pub(super) fn flat(&self) -> &LogStore {
        &self.flat
    }

    /// Whether this cluster wrote to it.
    pub(super) fn ours(&self) -> Result<bool, Error> {
        if let Some(ours) = self.ours.get() {
            return Ok(*ours);
        }
        let clusters = self.flat.wrote(self.wrote)?;
        Ok(*self.ours.get_or_init(|| clusters.contains(&self.cluster)))
    }

    /// What was found there, if it is this cluster's. Mostly that is nothing, and nothing is asked.
    pub(super) fn if_ours<T>(&self, found: Vec<T>) -> Result<Vec<T>, Error> {
        Ok(if found.is_empty() || self.ours()? { found } else { Vec::new() })
    }

    /// The bytes of a file, if this cluster wrote it: a segment says so itself.
    pub(super) fn fetch(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(generation) = self.flat.generations(name)?.pop() else { return Ok(None) };
        let bytes = self.flat.fetch_from(name, generation)?;
        let ours = match is_segment(name) {
            true => (self.wrote)(&bytes) == Some(self.cluster),
            false => self.ours()?,
        };
        Ok(ours.then_some(bytes))
    }
}

impl LogStore {
    /// The clusters that wrote what lies in a place, by its first and its last segment. Where one took the
    /// place of the other, these are of two. One that is damaged tells nothing, and its neighbour is asked:
    /// whoever asks wants to read or write another.
    pub fn wrote(&self, wrote: Wrote) -> Result<Vec<ClusterId>, Error> {
        let whole = self.list()?.into_iter().map(|(name, _)| name);
        let begun = self.list_parts()?.into_iter().map(|(name, _)| name);
        let mut names: Vec<String> = whole.chain(begun).filter(|name| is_segment(name)).collect();
        names.sort();
        names.dedup();
        let tell = |name: &String| -> Result<Option<ClusterId>, Error> {
            let bytes = match self.fetch(name) {
                Ok(None) => self.beginning(name).map(|begun| begun.map(|begun| begun.bytes)),
                whole => whole,
            };
            match bytes {
                Ok(bytes) => Ok(bytes.and_then(|bytes| wrote(&bytes))),
                Err(e) if matches!(e.class(), Class::Corrupt | Class::Refused) => Ok(None),
                Err(e) => Err(e),
            }
        };
        let nearest = |names: &mut dyn Iterator<Item = &String>| {
            names.take(ASKED).find_map(|name| tell(name).transpose()).transpose()
        };
        let ends = [nearest(&mut names.iter())?, nearest(&mut names.iter().rev())?];
        Ok(ends.into_iter().flatten().collect())
    }
}
