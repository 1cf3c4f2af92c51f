//! Makes the index say what is in the packs.

use super::{Repaired, Work, header};
use crate::files::FileKind;
use crate::format::index::{Index, IndexedPack};
use crate::format::pack::{self, PackedBlob};
use crate::format::{IndexId, PackId};
use crate::prune::IndexWriter;
use crate::{Error, parallel};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use storage::ErrorKind;

/// Brings the index in line with the packs: drops packs that are not there, adds those that no
/// index names, replaces index files that cannot be read. With `read_all` every pack's own header
/// is asked, and not only those that the index has doubts about.
pub fn rebuild_index(work: &Work<'_>, read_all: bool) -> Result<Repaired, Error> {
    work.begin()?;
    work.progress.phase("reading indexes");
    let mut repaired = Repaired::default();
    let found = Found::read(work, &mut repaired)?;
    work.progress.phase("reading headers of packs");
    let mut change = found.judge(work, read_all, &mut repaired)?;
    if change.is_nothing() {
        return Ok(repaired);
    }
    if work.dry_run {
        return Ok(repaired);
    }
    work.progress.phase("writing indexes");
    apply(work, &found, &mut change)?;
    Ok(repaired)
}

/// What the index files and the listing of packs say.
struct Found {
    /// Whole index files and the packs they name.
    indexes: BTreeMap<IndexId, Vec<PackId>>,
    /// Those that cannot be read.
    unreadable: Vec<IndexId>,
    superseded: HashSet<IndexId>,
    indexed: BTreeMap<PackId, Vec<PackedBlob>>,
    stored: BTreeMap<PackId, u64>,
}

/// What is to change.
#[derive(Default)]
struct Change {
    /// Packs that old index files may not name any more.
    dropped: HashSet<PackId>,
    /// What new ones say instead.
    added: Vec<IndexedPack>,
    /// Index files that go in any case.
    unreadable: Vec<IndexId>,
    superseded: bool,
}

impl Change {
    fn is_nothing(&self) -> bool {
        self.dropped.is_empty()
            && self.added.is_empty()
            && self.unreadable.is_empty()
            && !self.superseded
    }
}

impl Found {
    fn read(work: &Work<'_>, repaired: &mut Repaired) -> Result<Found, Error> {
        let files = work.repository.files();
        let ids: Vec<IndexId> =
            files.list(FileKind::Index)?.into_iter().map(|file| IndexId(file.id)).collect();
        let read = Mutex::new(BTreeMap::new());
        let unreadable = Mutex::new(Vec::new());
        parallel::for_each(&ids, parallel::readers(), |id| {
            work.check()?;
            let index = work.twice(|| {
                let json = files.read_json(FileKind::Index, id.0)?;
                Index::decode(&json).map_err(|e| FileKind::Index.damaged(id.0, e))
            });
            match index {
                Ok(index) => {
                    read.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, index);
                }
                Err(e @ Error::Damaged { .. }) => {
                    let mut list = unreadable.lock().unwrap_or_else(PoisonError::into_inner);
                    list.push((*id, e.to_string()));
                }
                Err(e) => return Err(e),
            }
            Ok(())
        })?;
        let read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut unreadable = unreadable.into_inner().unwrap_or_else(PoisonError::into_inner);
        unreadable.sort();
        for (_, what) in &unreadable {
            repaired.done.push(format!("{what}; it is replaced by what the packs say"));
        }
        let superseded: HashSet<IndexId> =
            read.values().flat_map(|index| index.supersedes.iter().copied()).collect();
        let mut found = Found {
            indexes: BTreeMap::new(),
            unreadable: unreadable.into_iter().map(|(id, _)| id).collect(),
            superseded: read.keys().filter(|id| superseded.contains(id)).copied().collect(),
            indexed: BTreeMap::new(),
            stored: BTreeMap::new(),
        };
        for (id, index) in read.into_iter().filter(|(id, _)| !superseded.contains(id)) {
            found.indexes.insert(id, index.packs.iter().map(|pack| pack.id).collect());
            for pack in index.packs {
                found.indexed.entry(pack.id).or_default().extend(pack.blobs);
            }
        }
        for blobs in found.indexed.values_mut() {
            blobs.sort_by_key(|blob| (blob.offset, blob.kind, blob.id));
            blobs.dedup();
        }
        found.stored = work.stored_packs(found.indexed.keys().copied())?;
        Ok(found)
    }

    fn judge(
        &self,
        work: &Work<'_>,
        read_all: bool,
        repaired: &mut Repaired,
    ) -> Result<Change, Error> {
        let mut change = Change {
            unreadable: self.unreadable.clone(),
            superseded: !self.superseded.is_empty(),
            ..Change::default()
        };
        for (id, blobs) in self.indexed.iter().filter(|(id, _)| !self.stored.contains_key(id)) {
            let count = blobs.len();
            repaired
                .done
                .push(format!("pack {id} is not there; the index drops its {count} blobs"));
            repaired.lost.push(format!("pack {id}, with {count} blobs"));
            change.dropped.insert(*id);
        }
        let doubtful: Vec<(PackId, u64)> = self
            .stored
            .iter()
            .filter(|(id, size)| {
                let fits = |blobs: &Vec<PackedBlob>| pack::size_bytes(blobs) == **size;
                read_all || !self.indexed.get(id).is_some_and(fits)
            })
            .map(|(id, size)| (*id, *size))
            .collect();
        let judged = Mutex::new(BTreeMap::new());
        parallel::for_each(&doubtful, parallel::readers(), |(id, size)| {
            work.check()?;
            let header = match work.twice(|| header(work.repository, *id, *size)) {
                Ok(header) => Ok(header),
                Err(e @ Error::Damaged { .. }) => Err(e.to_string()),
                // Removed since it was listed, by somebody who heeds no lock.
                Err(Error::Storage(e)) if e.kind() == ErrorKind::NotFound => Err(e.to_string()),
                Err(e) => return Err(e),
            };
            judged.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, header);
            Ok(())
        })?;
        for (id, header) in judged.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let indexed = self.indexed.get(&id);
            match (header, indexed) {
                (Ok(blobs), Some(indexed)) if blobs == *indexed => {}
                (Ok(blobs), indexed) => {
                    let what = if indexed.is_some() { "names otherwise" } else { "does not name" };
                    repaired.done.push(format!(
                        "pack {id}, which the index {what}, has {} blobs by its own header",
                        blobs.len()
                    ));
                    change.dropped.insert(id);
                    change.added.push(IndexedPack { id, blobs });
                }
                // The index is all that is left to read its blobs by; `repair packs` saves them.
                (Err(what), Some(_)) => repaired.lost.push(format!("the header of a pack: {what}")),
                (Err(what), None) => repaired.lost.push(what),
            }
        }
        Ok(change)
    }
}

fn apply(work: &Work<'_>, found: &Found, change: &mut Change) -> Result<(), Error> {
    let mut writer = IndexWriter::new(work.repository);
    for pack in change.added.drain(..) {
        writer.add(pack)?;
    }
    let affected = |packs: &Vec<PackId>| packs.iter().any(|pack| change.dropped.contains(pack));
    let old: Vec<IndexId> =
        found.indexes.iter().filter(|(_, packs)| affected(packs)).map(|(id, _)| *id).collect();
    for id in &old {
        writer.carry_over(*id, &change.dropped)?;
    }
    writer.finish()?;
    // Those that others replace first: without the others they would count again.
    let gone = found.superseded.iter().chain(&change.unreadable).chain(&old);
    work.remove(FileKind::Index, gone.map(|id| id.0))?;
    work.repository.index().unload();
    Ok(())
}
