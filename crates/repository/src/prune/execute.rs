//! Carries the plan out: first what needs no space, then step by step.

use super::plan::{self, Step};
use super::repack::{self, Copied};
use super::{Analysis, Figures, IndexFile, IndexWriter, Wanted};
use crate::files::FileKind;
use crate::format::PackId;
use crate::format::index::{IndexedPack, MAX_BLOBS};
use crate::{BlobId, BlobKind, Error, Repository, RepositoryLock, parallel};
use model::{CancelToken, Progress, SnapshotId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// So many files are removed between two looks at the lock.
const BATCH: usize = 512;
/// More index files of few blobs than this are put together while indexes are written anyway.
const SMALL_FILES: usize = 8;

pub(super) fn run(
    repository: &Repository,
    lock: &RepositoryLock,
    analysis: Analysis,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Figures, Error> {
    let figures = Figures { freed_bytes: 0, copied_bytes: 0, ..analysis.figures() };
    let mut run = Run { repository, lock, analysis, progress, cancel, figures };
    run.require_unchanged()?;
    run.unreferenced()?;
    let free = repository.storage().free_bytes().ok().flatten();
    for step in plan::steps(&run.analysis.facts, &run.analysis.fates, free) {
        run.step(&step)?;
    }
    run.lock.still_held()?;
    run.figures.leftovers = repository.storage().remove_leftovers("")?;
    Ok(run.figures)
}

struct Run<'a> {
    repository: &'a Repository,
    lock: &'a RepositoryLock,
    analysis: Analysis,
    progress: &'a dyn Progress,
    cancel: &'a CancelToken,
    figures: Figures,
}

impl Run<'_> {
    /// Packs that no index names. What needs them has no index either, and so would have ended us.
    fn unreferenced(&mut self) -> Result<(), Error> {
        let packs = std::mem::take(&mut self.analysis.contents.unreferenced);
        if packs.is_empty() {
            return Ok(());
        }
        self.progress.phase("removing packs that nothing refers to");
        let ids: Vec<[u8; 32]> = packs.iter().map(|(id, _)| id.0).collect();
        self.remove(FileKind::Pack, &ids)?;
        self.figures.freed_bytes += packs.iter().map(|(_, size)| size).sum::<u64>();
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let mut copied = Copied::default();
        if !step.repack.is_empty() {
            self.progress.phase("copying what is needed to new packs");
            let wanted = self.wanted(&step.repack);
            let bytes = wanted.iter().flat_map(|(_, blobs)| blobs).map(|b| u64::from(b.at.length));
            self.progress.expect(wanted.len() as u64, bytes.sum());
            copied = repack::copy(self.repository, &wanted, self.progress, self.cancel)?;
        }
        let mut dropped: HashMap<PackId, u64> = HashMap::new();
        for number in step.remove.iter().chain(&step.repack) {
            let Some(id) = self.analysis.pack_id(*number) else { continue };
            if !copied.damaged.contains_key(&id) {
                dropped.insert(id, self.analysis.facts.get(*number).map_or(0, |f| f.size_bytes));
            }
        }
        for (pack, damage) in std::mem::take(&mut copied.damaged) {
            self.figures.damaged.push(format!("pack {pack} stays: {}", damage.join("; ")));
        }
        self.progress.phase("writing indexes");
        self.replace_indexes(copied.packs, &dropped)?;
        self.figures.copied_bytes += copied.bytes;
        self.progress.phase("removing packs");
        let ids: Vec<[u8; 32]> = dropped.keys().map(|id| id.0).collect();
        self.remove(FileKind::Pack, &ids)?;
        let gone: u64 = dropped.values().sum();
        self.figures.freed_bytes += gone.saturating_sub(copied.bytes);
        Ok(())
    }

    /// The blobs of these packs that are used from there, pack by pack, in the order in which they
    /// lie there.
    fn wanted(&self, packs: &[usize]) -> Vec<(PackId, Vec<Wanted>)> {
        let packs: HashSet<usize> = packs.iter().copied().collect();
        let mut wanted: BTreeMap<PackId, Vec<Wanted>> = BTreeMap::new();
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let blobs = self.analysis.contents.of(kind);
            for (at, place) in blobs.places.iter().enumerate() {
                if packs.contains(&(place.pack as usize))
                    && blobs.is_used(at)
                    && let Some(at) = self.analysis.contents.location(place)
                {
                    let blob = Wanted { kind, id: BlobId(place.id), at };
                    wanted.entry(at.pack).or_default().push(blob);
                }
            }
        }
        for blobs in wanted.values_mut() {
            blobs.sort_by_key(|blob| blob.at.offset);
        }
        wanted.into_iter().collect()
    }

    /// Makes indexes durable that name the new packs and not the dropped ones, then removes those
    /// that they replace.
    fn replace_indexes(
        &mut self,
        new: Vec<IndexedPack>,
        dropped: &HashMap<PackId, u64>,
    ) -> Result<(), Error> {
        let indexes = std::mem::take(&mut self.analysis.contents.indexes);
        let few = |file: &IndexFile| file.blobs < MAX_BLOBS / 4;
        let many = indexes.iter().filter(|file| few(file)).count() > SMALL_FILES;
        let (mut old, mut kept) = (Vec::new(), Vec::new());
        for file in indexes {
            let names_dropped = file.packs.iter().any(|pack| dropped.contains_key(pack));
            match file.superseded || names_dropped || (many && few(&file)) {
                true => old.push(file),
                false => kept.push(file),
            }
        }
        let drop: HashSet<PackId> = dropped.keys().copied().collect();
        let mut writer = IndexWriter::new(self.repository);
        for pack in new {
            writer.add(pack)?;
        }
        for file in old.iter().filter(|file| !file.superseded) {
            writer.carry_over(file.id, &drop)?;
        }
        kept.extend(writer.finish()?);
        self.analysis.contents.indexes = kept;
        // Those that others replace first: without the others they would count again.
        old.sort_by_key(|file| !file.superseded);
        let (superseded, rest): (Vec<_>, Vec<_>) = old.iter().partition(|file| file.superseded);
        for files in [superseded, rest] {
            let ids: Vec<[u8; 32]> = files.iter().map(|file| file.id.0).collect();
            self.remove(FileKind::Index, &ids)?;
        }
        self.repository.index().unload();
        Ok(())
    }

    /// Removes files, and looks at the lock before each batch.
    fn remove(&self, kind: FileKind, ids: &[[u8; 32]]) -> Result<(), Error> {
        for batch in ids.chunks(BATCH) {
            self.lock.still_held()?;
            parallel::for_each(batch, parallel::readers(), |id| {
                self.lock.still_trusted()?;
                self.repository.files().delete(kind, *id)
            })?;
        }
        Ok(())
    }

    /// Fails unless the snapshots and indexes are those that the plan was made from. A listing that
    /// lacked one would have made garbage of what it needs.
    fn require_unchanged(&self) -> Result<(), Error> {
        let changed = |kind: FileKind| {
            let repository = self.repository.storage().location();
            let what = format!("its {kind} files are not those that were listed before");
            Error::Conflict { object: format!("repository at {repository}"), what }
        };
        let snapshots: BTreeSet<SnapshotId> = self.repository.snapshot_ids()?.into_iter().collect();
        if snapshots != self.analysis.snapshot_ids {
            return Err(changed(FileKind::Snapshot));
        }
        let indexes = self.repository.files().list(FileKind::Index)?;
        let indexes: BTreeSet<[u8; 32]> = indexes.into_iter().map(|file| file.id).collect();
        let known = self.analysis.contents.indexes.iter().map(|file| file.id.0);
        if indexes != known.collect() {
            return Err(changed(FileKind::Index));
        }
        Ok(())
    }
}
