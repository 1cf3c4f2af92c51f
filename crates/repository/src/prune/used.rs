//! Marks what the snapshots refer to. Everything that is not marked afterwards may be removed, so
//! whatever cannot be read is an error.

use super::contents::{Contents, Place};
use super::read::{self, Wanted};
use crate::format::PackId;
use crate::{BlobId, BlobKind, Error, Repository, TreeId, parallel};
use model::{CancelToken, Progress};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// So many missing blobs are named; more do not help.
const NAMED: usize = 10;

/// Of a directory only what it refers to, whatever the kinds of its nodes: rather too much than too
/// little.
#[derive(Deserialize)]
struct Refers {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    content: Option<Vec<BlobId>>,
    #[serde(default)]
    subtree: Option<TreeId>,
}

/// Marks in `contents` every blob that these trees need, each at one of its places.
pub(crate) fn mark(
    repository: &Repository,
    contents: &Contents,
    roots: &[TreeId],
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<(), Error> {
    let marking = Marking { repository, contents, missing: Mutex::default() };
    let mut level: Vec<usize> = roots.iter().filter_map(|root| marking.tree(*root)).collect();
    while !level.is_empty() {
        let next = Mutex::new(Vec::new());
        let packs = marking.by_pack(&level);
        parallel::for_each(&packs, parallel::cores() + 1, |(pack, wanted)| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let mut found = Vec::new();
            read::read_pack(repository, *pack, wanted, &mut |blob, read| {
                match read {
                    Ok(read) => marking.refers(&blob.id, read.plain, &mut found),
                    // From another place, if it is stored more than once.
                    Err(e) => {
                        marking.refers(&blob.id, &marking.elsewhere(&blob.id, e)?, &mut found)
                    }
                }
            })?;
            progress.advance(wanted.len() as u64, 0);
            next.lock().unwrap_or_else(PoisonError::into_inner).append(&mut found);
            Ok(())
        })?;
        level = next.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    marking.outcome()
}

struct Marking<'a> {
    repository: &'a Repository,
    contents: &'a Contents,
    missing: Mutex<Missing>,
}

#[derive(Default)]
struct Missing {
    count: u64,
    named: Vec<String>,
}

impl Marking<'_> {
    /// Marks a directory; its place, if it was not marked before.
    fn tree(&self, id: TreeId) -> Option<usize> {
        self.blob(BlobKind::Tree, &id.into())
    }

    fn blob(&self, kind: BlobKind, id: &BlobId) -> Option<usize> {
        let blobs = self.contents.of(kind);
        match blobs.first(id) {
            Some(at) => blobs.mark(at).then_some(at),
            None => {
                let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
                missing.count += 1;
                if missing.named.len() < NAMED {
                    missing.named.push(format!("{kind} blob {id}"));
                }
                None
            }
        }
    }

    /// The directories at these places, by the packs that they are in.
    fn by_pack(&self, level: &[usize]) -> Vec<(PackId, Vec<Wanted>)> {
        let mut packs: BTreeMap<PackId, Vec<Wanted>> = BTreeMap::new();
        for first in level {
            let places = self.contents.trees.from(*first);
            let there = places.iter().find(|place| self.is_there(place)).or(places.first());
            if let Some(place) = there
                && let Some(at) = self.contents.location(place)
            {
                let wanted = Wanted { kind: BlobKind::Tree, id: BlobId(place.id), at };
                packs.entry(at.pack).or_default().push(wanted);
            }
        }
        for wanted in packs.values_mut() {
            wanted.sort_by_key(|blob| blob.at.offset);
        }
        packs.into_iter().collect()
    }

    fn is_there(&self, place: &Place) -> bool {
        self.contents.pack(place.pack).is_some_and(|pack| pack.is_there())
    }

    fn elsewhere(&self, id: &BlobId, failure: Error) -> Result<Vec<u8>, Error> {
        let trees = &self.contents.trees;
        for place in trees.first(id).map(|at| trees.from(at)).unwrap_or_default() {
            let Some(at) = self.contents.location(place) else { continue };
            match self.repository.load_from(BlobKind::Tree, id, &at) {
                Ok(plain) => return Ok(plain),
                Err(Error::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(failure)
    }

    /// Marks what a directory refers to, and adds the directories in it that are new.
    fn refers(&self, id: &BlobId, plain: &[u8], found: &mut Vec<usize>) -> Result<(), Error> {
        let tree: Refers =
            serde_json::from_slice(plain).map_err(|e| Error::damaged(format!("tree {id}"), e))?;
        for node in tree.nodes {
            for blob in node.content.iter().flatten() {
                self.blob(BlobKind::Data, blob);
            }
            found.extend(node.subtree.and_then(|subtree| self.tree(subtree)));
        }
        Ok(())
    }

    fn outcome(self) -> Result<(), Error> {
        let missing = self.missing.into_inner().unwrap_or_else(PoisonError::into_inner);
        if missing.count == 0 {
            return Ok(());
        }
        let more = missing.count - missing.named.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let what =
            format!("no index names what its snapshots need: {}{more}", missing.named.join(", "));
        Err(Error::damaged(format!("repository {}", self.repository.id()), what))
    }
}
