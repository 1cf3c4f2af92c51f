//! Removes what no snapshot needs.
//!
//! What makes it safe, whenever it is killed:
//! - it holds the repository alone, and looks at its lock before each kind of removal: whoever was
//!   taken for dead and came back, or removed our lock, ends it;
//! - everything must be readable that tells what is needed: every snapshot, every index, every
//!   directory. What is needed and not there ends it before anything is touched;
//! - new packs are durable before an index names them, new indexes before the old ones go, and
//!   those before the packs that only they named. What is left by a kill is at most garbage, which
//!   the next run removes.
//!
//! On a disk that is nearly full, what needs no space goes first, and what is written anew is no
//! more at once than half of what is free by then ([`plan::steps`]).

mod contents;
mod execute;
mod indexes;
pub mod plan;
mod read;
mod repack;
mod used;

pub use plan::{MaxUnused, MaxUnusedError, Options};

pub(crate) use contents::{Contents, IndexFile};
pub(crate) use indexes::IndexWriter;
pub(crate) use read::{Wanted, read_pack};
pub(crate) use repack::copy as copy_blobs;

use crate::format::{BlobId, BlobKind, PackId};
use crate::{Error, LockKind, Repository, RepositoryLock, TreeId, parallel};
use contents::{Blobs, Pack};
use model::{CancelToken, Progress, SnapshotId};
use plan::{Fate, Holds, PackFacts};
use std::collections::BTreeSet;

/// What a prune does, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Snapshots whose data is kept.
    pub snapshots: u64,
    /// Bytes of all packs before.
    pub stored_bytes: u64,
    /// Of these, what snapshots need.
    pub used_bytes: u64,
    /// Packs that no index named.
    pub unreferenced_packs: u64,
    /// Packs in which nothing was needed.
    pub removed_packs: u64,
    /// Packs of which what is needed was written anew.
    pub repacked_packs: u64,
    /// What was written anew.
    pub copied_bytes: u64,
    /// How much smaller the packs are in all.
    pub freed_bytes: u64,
    /// What stays although nothing needs it.
    pub left_unused_bytes: u64,
    /// Files that writers who died had left.
    pub leftovers: u64,
    /// Packs that were left alone because something in them could not be read.
    pub damaged: Vec<String>,
}

/// What a prune would do if these snapshots were not there.
///
/// Reads every directory of every other snapshot. Hold a lock meanwhile, or what others do at the
/// same time makes it wrong.
pub fn estimate(
    repository: &Repository,
    without: &BTreeSet<SnapshotId>,
    options: &Options,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Figures, Error> {
    Ok(Analysis::new(repository, without, options, progress, cancel)?.figures())
}

/// Removes what no snapshot needs. `lock` must be exclusive.
pub fn prune(
    repository: &Repository,
    lock: &RepositoryLock,
    options: &Options,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Figures, Error> {
    if lock.kind() != LockKind::Exclusive {
        return Err(Error::Invalid("a prune needs the repository for itself".to_owned()));
    }
    let mut analysis = Analysis::new(repository, &BTreeSet::new(), options, progress, cancel)?;
    analysis.settle_duplicates(repository, progress, cancel)?;
    analysis.decide(options);
    execute::run(repository, lock, analysis, progress, cancel)
}

/// What is there, what is needed, and what is to be done.
struct Analysis {
    contents: Contents,
    /// By the numbers of the packs.
    facts: Vec<PackFacts>,
    fates: Vec<Fate>,
    /// All there are, kept or not.
    snapshot_ids: BTreeSet<SnapshotId>,
    snapshots: u64,
    used_bytes: u64,
}

impl Analysis {
    fn new(
        repository: &Repository,
        without: &BTreeSet<SnapshotId>,
        options: &Options,
        progress: &dyn Progress,
        cancel: &CancelToken,
    ) -> Result<Analysis, Error> {
        progress.phase("reading snapshots and indexes");
        // Before the index: what a snapshot refers to was in the index before it.
        let mut roots = BTreeSet::new();
        let (mut snapshots, mut snapshot_ids) = (0, BTreeSet::new());
        for (id, snapshot) in repository.snapshots()? {
            snapshot_ids.insert(id);
            if !without.contains(&id) {
                snapshots += 1;
                let root: TreeId =
                    snapshot.tree_id().map_err(|e| Error::damaged(format!("snapshot {id}"), e))?;
                roots.insert(root);
            }
        }
        let contents = Contents::read(repository, cancel)?;
        progress.phase("looking for what is needed");
        let roots: Vec<TreeId> = roots.into_iter().collect();
        used::mark(repository, &contents, &roots, progress, cancel)?;
        let mut analysis = Analysis {
            contents,
            facts: Vec::new(),
            fates: Vec::new(),
            snapshot_ids,
            snapshots,
            used_bytes: 0,
        };
        analysis.choose_duplicates(&mut |_, candidates| Ok(candidates.first().copied()))?;
        analysis.require_packs()?;
        analysis.decide(options);
        Ok(analysis)
    }

    /// Of a blob that is needed and stored more than once, moves the mark to the place that is to
    /// stay: the one whose pack is needed most in any case.
    fn choose_duplicates(&self, choose: &mut Choose<'_>) -> Result<(), Error> {
        let needed = self.needed_in_any_case();
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let blobs = self.contents.of(kind);
            for (first, count) in groups(blobs).filter(|(_, count)| *count > 1) {
                let all = first..first + count;
                let Some(marked) = all.clone().find(|at| blobs.is_used(*at)) else { continue };
                let mut candidates: Vec<usize> =
                    all.filter(|at| self.pack_of(blobs, *at).is_some_and(Pack::is_there)).collect();
                candidates.sort_by_key(|at| {
                    let number = blobs.places.get(*at).map_or(0, |place| place.pack);
                    let needed = needed.get(number as usize).copied().unwrap_or_default();
                    (std::cmp::Reverse(needed), self.pack_of(blobs, *at).map(|pack| pack.id), *at)
                });
                if let Some(chosen) = choose(kind, &candidates)?
                    && chosen != marked
                {
                    blobs.unmark(marked);
                    blobs.mark(chosen);
                }
            }
        }
        Ok(())
    }

    /// Bytes of each pack that are needed and nowhere else.
    fn needed_in_any_case(&self) -> Vec<u64> {
        let mut needed = vec![0; self.contents.packs.len()];
        for blobs in [&self.contents.data, &self.contents.trees] {
            for (first, _) in
                groups(blobs).filter(|(first, count)| *count == 1 && blobs.is_used(*first))
            {
                if let Some(place) = blobs.places.get(first)
                    && let Some(sum) = needed.get_mut(place.pack as usize)
                {
                    *sum += u64::from(place.length);
                }
            }
        }
        needed
    }

    /// Of several copies of a blob only one stays, so that one is read before: another may be the
    /// only whole one.
    fn settle_duplicates(
        &self,
        repository: &Repository,
        progress: &dyn Progress,
        cancel: &CancelToken,
    ) -> Result<(), Error> {
        let mut groups = Vec::new();
        self.choose_duplicates(&mut |kind, candidates| {
            groups.push((kind, candidates.to_vec()));
            Ok(None)
        })?;
        if groups.is_empty() {
            return Ok(());
        }
        progress.phase("reading what is stored more than once");
        // In the order in which they lie in their packs.
        groups.sort_by_key(|(kind, candidates)| {
            let place = candidates.first().and_then(|at| self.contents.of(*kind).places.get(*at));
            place.map(|place| (place.pack, place.offset))
        });
        parallel::for_each(&groups, parallel::cores() + 1, |(kind, candidates)| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let blobs = self.contents.of(*kind);
            for at in candidates {
                let Some(place) = blobs.places.get(*at) else { continue };
                let Some(location) = self.contents.location(place) else { continue };
                match repository.load_from(*kind, &BlobId(place.id), &location) {
                    Ok(_) => {
                        candidates.iter().for_each(|other| blobs.unmark(*other));
                        blobs.mark(*at);
                        return Ok(());
                    }
                    Err(Error::Damaged { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
            // All are damaged: as before, the first one stays.
            Ok(())
        })
    }

    /// Fails if a pack that is needed is not there.
    fn require_packs(&self) -> Result<(), Error> {
        for blobs in [&self.contents.data, &self.contents.trees] {
            for (at, place) in blobs.places.iter().enumerate() {
                if !blobs.is_used(at) {
                    continue;
                }
                if let Some(pack) = self.contents.pack(place.pack)
                    && !pack.is_there()
                {
                    let what = match pack.stored_bytes {
                        None => "it is missing, and snapshots need what it held".to_owned(),
                        Some(bytes) => {
                            format!("it has only {bytes} bytes, and snapshots need the rest")
                        }
                    };
                    return Err(Error::damaged(format!("pack {}", pack.id), what));
                }
            }
        }
        Ok(())
    }

    /// What becomes of each pack.
    fn decide(&mut self, options: &Options) {
        let fact = |pack: &Pack| PackFacts {
            holds: Holds::Data,
            size_bytes: pack.stored_bytes.unwrap_or(0),
            used_blobs: 0,
            used_bytes: 0,
            unused_blobs: 0,
        };
        let mut facts: Vec<PackFacts> = self.contents.packs.iter().map(fact).collect();
        let mut seen = vec![(false, false); facts.len()];
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let blobs = self.contents.of(kind);
            for (at, place) in blobs.places.iter().enumerate() {
                let number = place.pack as usize;
                let Some((fact, seen)) = facts.get_mut(number).zip(seen.get_mut(number)) else {
                    continue;
                };
                match kind {
                    BlobKind::Data => seen.0 = true,
                    BlobKind::Tree => seen.1 = true,
                }
                if blobs.is_used(at) {
                    fact.used_blobs += 1;
                    fact.used_bytes += u64::from(place.length);
                } else {
                    fact.unused_blobs += 1;
                }
            }
        }
        for (fact, seen) in facts.iter_mut().zip(seen) {
            fact.holds = match seen {
                (_, false) => Holds::Data,
                (false, true) => Holds::Trees,
                (true, true) => Holds::Both,
            };
        }
        self.used_bytes = facts.iter().map(|fact| fact.used_bytes).sum();
        self.fates = plan::decide(&facts, options);
        self.facts = facts;
    }

    fn figures(&self) -> Figures {
        let unreferenced: u64 = self.contents.unreferenced.iter().map(|(_, size)| size).sum();
        let mut figures = Figures {
            snapshots: self.snapshots,
            stored_bytes: self.facts.iter().map(|f| f.size_bytes).sum::<u64>() + unreferenced,
            used_bytes: self.used_bytes,
            unreferenced_packs: self.contents.unreferenced.len() as u64,
            freed_bytes: unreferenced,
            ..Figures::default()
        };
        for (fact, fate) in self.facts.iter().zip(&self.fates) {
            match fate {
                Fate::Keep => figures.left_unused_bytes += fact.unused_bytes(),
                Fate::Remove => {
                    figures.removed_packs += 1;
                    figures.freed_bytes += fact.size_bytes;
                }
                Fate::Repack => {
                    figures.repacked_packs += 1;
                    figures.copied_bytes += fact.used_bytes;
                    figures.freed_bytes += fact.size_bytes.saturating_sub(fact.used_bytes);
                }
            }
        }
        figures
    }

    fn pack_of(&self, blobs: &Blobs, at: usize) -> Option<&Pack> {
        self.contents.pack(blobs.places.get(at)?.pack)
    }

    fn pack_id(&self, number: usize) -> Option<PackId> {
        self.contents.packs.get(number).map(|pack| pack.id)
    }
}

/// What is called for each blob that is stored more than once, with the places it can be read from;
/// returns the one to stay, or none to leave it as it is.
type Choose<'a> = dyn FnMut(BlobKind, &[usize]) -> Result<Option<usize>, Error> + 'a;

/// The first place of each blob, and how many it has.
fn groups(blobs: &Blobs) -> impl Iterator<Item = (usize, usize)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = next;
        let count = blobs.from(first).len();
        next += count;
        (count > 0).then_some((first, count))
    })
}
