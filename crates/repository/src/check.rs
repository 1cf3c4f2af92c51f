//! Judges a whole repository: every object by itself, and whether everything that one names is in
//! another. Names each error with its object and goes on after it.

mod subset;

pub use subset::{ReadData, Subset, SubsetError};

use crate::blobs::verify;
use crate::files::FileKind;
use crate::format::index::Index;
use crate::format::pack::{self, PackedBlob};
use crate::format::{BlobId, IndexId, PackId, TreeId};
use crate::index::{BlobIndex, Location};
use crate::log::LogStore;
use crate::sha256::{BLOCK_BYTES, Running};
use crate::{BlobKind, Error, NodeKind, Repository, Tree, parallel};
use model::{CancelToken, Progress, SnapshotId};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use storage::ErrorKind;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, each with the object it is wrong with.
    pub errors: Vec<String>,
    /// What is not wrong but worth knowing (packs that nothing refers to).
    pub notes: Vec<String>,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Bytes read back and verified.
    pub verified_bytes: u64,
}

/// Checks structure (config, keys, indexes against packs, every tree of every snapshot), and of the
/// packs and the log beside the repository every byte that `read` asks for. Damage does not end it:
/// everything that is damaged is named.
///
/// Hold a lock meanwhile: what a prune or a backup does at the same time may look like damage. An
/// error is returned only if the check itself could not be done (the storage does not answer).
pub fn check(
    repository: &Repository,
    read: impl Into<ReadData>,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Report, Error> {
    let read = read.into();
    let check = Check { repository, read, progress, cancel, found: Mutex::default() };
    check.run()?;
    let found = check.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut report = found.report;
    report.errors = found.errors.into_iter().collect();
    report.notes = found.notes.into_iter().collect();
    Ok(report)
}

struct Check<'a> {
    repository: &'a Repository,
    read: ReadData,
    progress: &'a dyn Progress,
    cancel: &'a CancelToken,
    found: Mutex<Found>,
}

/// Sorted, so that the same damage makes the same report.
#[derive(Default)]
struct Found {
    errors: BTreeSet<String>,
    notes: BTreeSet<String>,
    report: Report,
}

/// What the index files say.
#[derive(Default)]
struct Indexed {
    index: BlobIndex,
    packs: BTreeMap<PackId, Vec<PackedBlob>>,
}

impl Check<'_> {
    fn run(&self) -> Result<(), Error> {
        self.progress.phase("checking keys and indexes");
        self.keys()?;
        // Before the index: what a snapshot refers to was in the index before it.
        let snapshots = self.repository.snapshot_ids()?;
        let indexed = self.indexes()?;
        self.progress.phase("checking packs");
        self.packs(&indexed)?;
        self.progress.phase("checking trees");
        self.snapshots(&snapshots, &indexed.index)?;
        if self.read == ReadData::All {
            self.progress.phase("reading the log");
            self.log()?;
        }
        Ok(())
    }

    /// Every object of the log beside the repository.
    fn log(&self) -> Result<(), Error> {
        for log in LogStore::new(self.repository).places()? {
            self.log_in(&log)?;
        }
        Ok(())
    }

    fn log_in(&self, log: &LogStore) -> Result<(), Error> {
        self.each(&log.list()?, |(name, generation)| {
            let content = match log.fetch_from(name, *generation) {
                // Removed by retention since it was listed.
                Err(Error::Storage(e)) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e @ Error::Unsupported(_)) => {
                    self.error(e);
                    return Ok(());
                }
                other => other,
            };
            if let Some(content) = self.keep(content)? {
                self.found().report.verified_bytes += content.len() as u64;
            }
            Ok(())
        })?;
        self.each(&log.list_parts()?, |(name, part)| {
            let content = match log.read_part(name, part) {
                // The file is whole now, or a longer part took its place.
                Err(Error::Storage(e)) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e @ Error::Unsupported(_)) => {
                    self.error(e);
                    return Ok(());
                }
                other => other,
            };
            if let Some((content, _)) = self.keep(content)? {
                self.found().report.verified_bytes += content.len() as u64;
            }
            Ok(())
        })
    }

    fn keys(&self) -> Result<(), Error> {
        for key in self.repository.files().list(FileKind::Key)? {
            self.keep(self.repository.key_file(key.id).map(drop))?;
        }
        Ok(())
    }

    fn indexes(&self) -> Result<Indexed, Error> {
        let files = self.repository.files();
        let ids: Vec<IndexId> =
            files.list(FileKind::Index)?.into_iter().map(|file| IndexId(file.id)).collect();
        let read = Mutex::new(BTreeMap::new());
        self.each(&ids, |id| {
            let index = files.read_json(FileKind::Index, id.0).and_then(|json| {
                Index::decode(&json).map_err(|e| FileKind::Index.damaged(id.0, e))
            });
            if let Some(index) = self.keep(index)? {
                read.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, index);
            }
            Ok(())
        })?;
        let read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
        let superseded: HashSet<IndexId> =
            read.values().flat_map(|index| index.supersedes.iter().copied()).collect();
        let mut indexed = Indexed::default();
        for (_, file) in read.into_iter().filter(|(id, _)| !superseded.contains(id)) {
            indexed.index.add(&file.packs);
            for pack in file.packs {
                indexed.packs.entry(pack.id).or_default().extend(pack.blobs);
            }
        }
        for blobs in indexed.packs.values_mut() {
            // A pack that two index files tell of is listed twice.
            blobs.sort_by_key(|blob| (blob.offset, blob.kind, blob.id));
            blobs.dedup();
        }
        Ok(indexed)
    }

    fn packs(&self, indexed: &Indexed) -> Result<(), Error> {
        let stored: BTreeMap<PackId, u64> = self
            .repository
            .files()
            .list(FileKind::Pack)?
            .into_iter()
            .map(|file| (PackId(file.id), file.size_bytes))
            .collect();
        for (id, blobs) in &indexed.packs {
            if !stored.contains_key(id) {
                self.error(format!("pack {id} is missing, with {} blobs", blobs.len()));
            }
        }
        self.found().report.packs = stored.len() as u64;
        let packs: Vec<(PackId, u64)> = stored.into_iter().collect();
        let read = self.read.choose(&packs)?;
        self.progress.expect(0, packs.iter().filter(|(id, _)| read.has(id)).map(|(_, s)| s).sum());
        // A whole pack is in memory for each thread.
        let threads = if read.is_nothing() { parallel::readers() } else { parallel::cores() + 1 };
        self.each_on(threads, &packs, |(id, size)| {
            let blobs = indexed.packs.get(id);
            if blobs.is_none() {
                self.note(format!("pack {id} is in no index; nothing refers to it"));
            }
            let checked = if read.has(id) {
                self.whole_pack(*id, blobs)
            } else if let Some(blobs) = blobs {
                self.header_of_pack(*id, *size, blobs)
            } else {
                Ok(())
            };
            self.keep(checked).map(drop)
        })
    }

    /// Size and header, which is read alone.
    fn header_of_pack(&self, id: PackId, size: u64, indexed: &[PackedBlob]) -> Result<(), Error> {
        let expected = pack::size_bytes(indexed);
        if size != expected {
            return Err(damaged(id, format!("has {size} bytes instead of {expected}")));
        }
        let files = self.repository.files();
        let trailer = pack::trailer_bytes_of(indexed);
        let bytes = files.read_pack_range(id, size - trailer as u64, trailer)?;
        let header = self.header(id, size, &bytes)?;
        compare(id, &header, indexed)
    }

    /// Every byte, and every blob.
    fn whole_pack(&self, id: PackId, indexed: Option<&Vec<PackedBlob>>) -> Result<(), Error> {
        let files = self.repository.files();
        let mut bytes = files.storage.read(&FileKind::Pack.key(id.0)?)?;
        self.progress.advance(0, bytes.len() as u64);
        let header = match self.header(id, bytes.len() as u64, &bytes) {
            Ok(header) => {
                if let Some(indexed) = indexed {
                    self.keep(compare(id, &header, indexed))?;
                }
                header
            }
            Err(e) => {
                self.error(e);
                indexed.cloned().unwrap_or_default()
            }
        };
        let is = self.blobs_of_pack(id, header, &mut bytes)?;
        if is == id {
            self.found().report.verified_bytes += bytes.len() as u64;
        } else {
            self.error(damaged(id, "its bytes are not those it is named after"));
        }
        Ok(())
    }

    /// Verifies blobs of a pack, and says what the pack's name should be. It is hashed beside the
    /// blobs, which costs little; and always ahead of them, since they are decrypted in their place.
    fn blobs_of_pack(
        &self,
        id: PackId,
        blobs: Vec<PackedBlob>,
        bytes: &mut [u8],
    ) -> Result<PackId, Error> {
        let whole = bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
        let tail = bytes[whole..].to_vec();
        let mut running = Running::default();
        let mut hashed = 0;
        let mut plain = Vec::new();
        for blob in blobs {
            let from = blob.offset as usize;
            let to = from.saturating_add(blob.length as usize);
            let ahead = to.min(whole).next_multiple_of(BLOCK_BYTES);
            if hashed < ahead {
                running.blocks(&bytes[hashed..ahead]);
                hashed = ahead;
            }
            let at = Location {
                pack: id,
                offset: blob.offset,
                length: blob.length,
                plain_length: blob.plain_length,
            };
            let opened = match bytes.get_mut(from..to) {
                Some(sealed) => {
                    self.repository.unpack(blob.kind, &blob.id, &at, sealed, &mut plain)
                }
                None => Err(damaged(id, format!("ends before {} blob {}", blob.kind, blob.id))),
            };
            let verified = opened.and_then(|()| {
                let (sum, more) = running.beside(&bytes[hashed..whole], &plain);
                hashed += more;
                verify(blob.kind, &blob.id, &at, BlobId(sum))
            });
            self.keep(verified)?;
        }
        running.blocks(&bytes[hashed..whole]);
        Ok(PackId(running.finish(&tail)))
    }

    /// The header of a pack of `size` bytes, of which `end` is the last part.
    fn header(&self, id: PackId, size: u64, end: &[u8]) -> Result<Vec<PackedBlob>, Error> {
        let decode = || {
            let (rest, last) = end
                .split_last_chunk()
                .ok_or_else(|| crate::format::FormatError::new("too short for a pack"))?;
            let length = pack::header_length(size, *last)?;
            let sealed =
                rest.len().checked_sub(length).and_then(|from| rest.get(from..)).ok_or_else(
                    || crate::format::FormatError::new("its header is longer than indexed"),
                )?;
            let blob_bytes = size - (length + pack::LENGTH_BYTES) as u64;
            pack::decode_header(sealed, blob_bytes, &self.repository.files().key)
        };
        decode().map_err(|e| damaged(id, e))
    }

    fn snapshots(&self, ids: &[SnapshotId], index: &BlobIndex) -> Result<(), Error> {
        let roots = Mutex::new(BTreeSet::new());
        let looked_at = AtomicU64::new(0);
        self.each(ids, |id| {
            let snapshot = match self.repository.snapshot(*id) {
                // Removed by somebody else since it was listed.
                Err(Error::Missing(_)) => return Ok(()),
                other => other,
            };
            looked_at.fetch_add(1, Ordering::Relaxed);
            let tree = snapshot.and_then(|snapshot| {
                snapshot.taken().map_err(|e| FileKind::Snapshot.damaged(id.0, e))?;
                snapshot.tree_id().map_err(|e| FileKind::Snapshot.damaged(id.0, e))
            });
            if let Some(tree) = self.keep(tree)? {
                if index.contains(BlobKind::Tree, &tree.into()) {
                    roots.lock().unwrap_or_else(PoisonError::into_inner).insert(tree);
                } else {
                    self.error(format!("snapshot {id}: its tree {tree} is in no index"));
                }
            }
            Ok(())
        })?;
        self.found().report.snapshots = looked_at.into_inner();
        let mut level: Vec<TreeId> =
            roots.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect();
        let seen: Mutex<HashSet<TreeId>> = Mutex::new(level.iter().copied().collect());
        while !level.is_empty() {
            let next = Mutex::new(Vec::new());
            self.each(&level, |tree| {
                for child in self.tree(*tree, index)? {
                    if seen.lock().unwrap_or_else(PoisonError::into_inner).insert(child) {
                        next.lock().unwrap_or_else(PoisonError::into_inner).push(child);
                    }
                }
                Ok(())
            })?;
            level = next.into_inner().unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// One tree: returns the trees in it that are there.
    fn tree(&self, id: TreeId, index: &BlobIndex) -> Result<Vec<TreeId>, Error> {
        let loaded = self.load_tree(id, index);
        let Some(tree) = self.keep(loaded)? else { return Ok(Vec::new()) };
        let mut children = Vec::new();
        for node in &tree.nodes {
            let wrong = |what: String| {
                let name = String::from_utf8_lossy(&node.name);
                self.error(format!("tree {id}: {name:?} {what}"));
            };
            match node.kind {
                NodeKind::Dir => match node.subtree {
                    Some(child) if index.contains(BlobKind::Tree, &child.into()) => {
                        children.push(child);
                    }
                    Some(child) => wrong(format!("is tree {child}, in no index")),
                    None => wrong("is a directory with no tree".to_owned()),
                },
                NodeKind::File => {
                    for blob in &node.content {
                        if !index.contains(BlobKind::Data, blob) {
                            wrong(format!("needs data blob {blob}, in no index"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(children)
    }

    /// Reads a tree from the first place where it is whole; the other places are errors.
    fn load_tree(&self, id: TreeId, index: &BlobIndex) -> Result<Tree, Error> {
        let blob = BlobId::from(id);
        let mut failure = Error::damaged(format!("tree {id}"), "it is in no index");
        for location in index.locations(BlobKind::Tree, &blob) {
            match self.repository.load_from(BlobKind::Tree, &blob, &location) {
                Ok(plain) => {
                    return Tree::decode(&plain)
                        .map_err(|e| Error::damaged(format!("tree {id}"), e));
                }
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }

    fn each<T: Sync>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        self.each_on(parallel::readers(), items, work)
    }

    fn each_on<T: Sync>(
        &self,
        threads: usize,
        items: &[T],
        work: impl Fn(&T) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        parallel::for_each(items, threads, |item| {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            work(item)
        })
    }

    /// Damage is an error of the report; a storage that does not answer is an error of the check.
    fn keep<T>(&self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Storage(e)) if e.kind() == ErrorKind::Unavailable => Err(e.into()),
            Err(e @ (Error::Damaged { .. } | Error::Missing(_) | Error::Storage(_))) => {
                self.error(e);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn error(&self, what: impl ToString) {
        self.found().errors.insert(what.to_string());
    }

    fn note(&self, what: String) {
        self.found().notes.insert(what);
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn damaged(id: PackId, what: impl ToString) -> Error {
    FileKind::Pack.damaged(id.0, what)
}

/// Whether a pack's own header says what the index says of it.
fn compare(id: PackId, header: &[PackedBlob], indexed: &[PackedBlob]) -> Result<(), Error> {
    if header == indexed {
        return Ok(());
    }
    let differing = header.iter().zip(indexed).find(|(a, b)| a != b).map(|(a, _)| a.id);
    Err(match differing {
        Some(blob) => damaged(id, format!("its header and the index differ at blob {blob}")),
        None => damaged(
            id,
            format!("its header lists {} blobs, the index {}", header.len(), indexed.len()),
        ),
    })
}
