//! Copies snapshots from one repository to another: decrypted here, verified by SHA-256, encrypted
//! with the other's key. Only what is missing there travels.
//!
//! A snapshot is saved over there when everything that it refers to is durable, so a copy that ends
//! anywhere leaves whole snapshots, and blobs that the next one finds. A blob that is damaged here
//! fails the snapshots that need it, by name, and no other.

use crate::blobs::PackRead;
use crate::locking::RepositoryLock;
use crate::log::LogStore;
use crate::pipeline::WriterStats;
use crate::reader::load_tree;
use crate::{
    BlobId, BlobKind, BlobWriter, Compression, Error, NodeKind, Repository, Snapshot, Tree, TreeId,
    parallel, trees,
};
use model::progress::Silent;
use model::{CancelToken, Progress, SnapshotId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Blobs that are looked up together: enough to read packs in few pieces, few enough to be held.
const BATCH: usize = 50_000;
/// Blobs that a thread reads in one go.
const SHARE: usize = 256;
/// New bytes after which snapshots that are complete are saved, so that an interrupted copy has to
/// do little again, and small ones share packs.
const SAVE_BYTES: u64 = 128 << 20;
/// Reasons that are named for one snapshot.
const REASONS: usize = 20;

/// What came of a copy.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    /// Snapshots that were copied, with their new ids.
    pub copied: Vec<(SnapshotId, SnapshotId)>,
    /// Snapshots that were there already, with their ids there.
    pub present: Vec<(SnapshotId, SnapshotId)>,
    /// Snapshots that could not be copied, with what is wrong with them.
    pub failed: Vec<(SnapshotId, Vec<String>)>,
    /// What was written.
    pub written: WriterStats,
}

/// What a copy would do.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// Snapshots that are not there.
    pub missing: Vec<SnapshotId>,
    /// Snapshots that are there already, with their ids there.
    pub present: Vec<(SnapshotId, SnapshotId)>,
    /// Snapshots that cannot be copied, as far as that is known without reading their content.
    pub failed: Vec<(SnapshotId, Vec<String>)>,
    /// Blobs that have to travel.
    pub blobs: u64,
    /// Bytes that they take here, which is about what they will take there.
    pub bytes: u64,
}

/// What a copy of these snapshots, oldest first, would do; `to` is none if there is no repository
/// yet. Reads directories and no content.
pub fn plan(
    from: &Repository,
    to: Option<&Repository>,
    snapshots: &[(SnapshotId, Snapshot)],
    cancel: &CancelToken,
) -> Result<Planned, Error> {
    let there = match to {
        Some(to) => to.snapshots()?,
        None => Vec::new(),
    };
    if let Some(to) = to {
        to.refresh_index()?;
    }
    let count = Count { to, counted: Mutex::default() };
    let mut planned = Planned::default();
    let mut copier = Copier::new(from, Side::Count(&count), &Silent, cancel);
    for (id, snapshot) in snapshots {
        match copier.next(*id, snapshot, &there)? {
            Next::Present(known) => planned.present.push((*id, known)),
            Next::Complete(_) => planned.missing.push(*id),
            Next::Failed(reasons) => planned.failed.push((*id, reasons)),
        }
    }
    drop(copier);
    let counted = count.counted.into_inner().unwrap_or_else(PoisonError::into_inner);
    (planned.blobs, planned.bytes) = (counted.known.len() as u64, counted.bytes);
    Ok(planned)
}

/// Copies these snapshots, oldest first. `lock` is on the repository that is written to; hold one
/// on the other too.
pub fn copy_snapshots(
    from: &Repository,
    to: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    lock: &RepositoryLock,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Copied, Error> {
    if from.id() == to.id() {
        return Err(Error::Invalid("a repository cannot be copied to itself".to_owned()));
    }
    // Before the index: what these refer to was in the index before them.
    let there = to.snapshots()?;
    let writer = BlobWriter::new(to, Compression::default(), cancel.clone())?;
    let mut copied = Copied::default();
    let mut copier = Copier::new(from, Side::Write(&writer), progress, cancel);
    let mut complete: Vec<(SnapshotId, Snapshot)> = Vec::new();
    let mut saved_at = 0;
    for (id, snapshot) in snapshots {
        match copier.next(*id, snapshot, &there)? {
            Next::Present(known) => copied.present.push((*id, known)),
            Next::Complete(copy) => complete.push((*id, *copy)),
            Next::Failed(reasons) => copied.failed.push((*id, reasons)),
        }
        if writer.stats().new_plain_bytes - saved_at >= SAVE_BYTES {
            saved_at = writer.stats().new_plain_bytes;
            save(to, &writer, lock, &mut complete, &mut copied)?;
        }
    }
    save(to, &writer, lock, &mut complete, &mut copied)?;
    copied.written = writer.stats();
    Ok(copied)
}

/// Makes everything durable, then saves the snapshots that need it.
fn save(
    to: &Repository,
    writer: &BlobWriter,
    lock: &RepositoryLock,
    complete: &mut Vec<(SnapshotId, Snapshot)>,
    copied: &mut Copied,
) -> Result<(), Error> {
    if complete.is_empty() {
        return Ok(());
    }
    writer.flush()?;
    for (id, copy) in complete.drain(..) {
        copied.copied.push((id, to.save_snapshot(lock, &copy)?));
    }
    Ok(())
}

/// The snapshot file over there. As restic has it, `original` is the first of all copies.
fn copy_of(id: SnapshotId, snapshot: &Snapshot) -> Snapshot {
    let mut copy = Snapshot { parent: None, ..snapshot.clone() };
    copy.other.entry("original").or_insert_with(|| id.to_string().into());
    copy
}

/// Whether a snapshot over there is what `copy` would become, or what it was copied from.
fn is_copy(there: SnapshotId, other: &Snapshot, copy: &Snapshot) -> bool {
    let original = other.other.get("original").and_then(|id| id.as_str().map(str::to_owned));
    let original = original.unwrap_or_else(|| there.to_string());
    copy.other.get("original").and_then(|id| id.as_str()) == Some(&original)
        && other.tree == copy.tree
        && other.time == copy.time
        && other.tags == copy.tags
}

/// What is done with what is missing.
#[derive(Clone, Copy)]
enum Side<'a> {
    Write(&'a BlobWriter),
    Count(&'a Count<'a>),
}

/// Counts what is missing.
struct Count<'a> {
    to: Option<&'a Repository>,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    /// A part of their ids: enough to count by, and a quarter of the memory.
    known: HashSet<(BlobKind, u64)>,
    bytes: u64,
}

impl Side<'_> {
    /// Whether a blob is there, or was taken care of.
    fn has(self, kind: BlobKind, id: &BlobId) -> Result<bool, Error> {
        match self {
            Side::Write(writer) => writer.has(kind, id),
            Side::Count(count) => {
                let there = count.to.map_or(Ok(false), |to| to.contains(kind, id))?;
                Ok(there || lock(&count.counted).known.contains(&(kind, part(id))))
            }
        }
    }
}

fn part(id: &BlobId) -> u64 {
    let (first, _) = id.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_le_bytes(*first)
}

/// What has become of a snapshot.
enum Next {
    /// It is there already, under this id.
    Present(SnapshotId),
    /// All that it needs is on its way; this is to be saved when that is durable.
    Complete(Box<Snapshot>),
    /// It cannot be copied.
    Failed(Vec<String>),
}

struct Copier<'a> {
    from: &'a Repository,
    side: Side<'a>,
    progress: &'a dyn Progress,
    cancel: &'a CancelToken,
    /// The tree of the last snapshot that was copied now.
    base: Option<TreeId>,
    /// Trees that were copied with everything below.
    whole: HashSet<TreeId>,
    /// The tree that was at the same place in that snapshot: what is in both is there.
    bases: Mutex<HashMap<TreeId, TreeId>>,
    /// What could not be read, and why.
    bad: Mutex<HashMap<(BlobKind, BlobId), String>>,
}

/// What a walk through one snapshot has found.
#[derive(Default)]
struct Walked {
    trees: HashSet<TreeId>,
    data: HashSet<BlobId>,
    reasons: BTreeSet<String>,
}

impl<'a> Copier<'a> {
    fn new(
        from: &'a Repository,
        side: Side<'a>,
        progress: &'a dyn Progress,
        cancel: &'a CancelToken,
    ) -> Copier<'a> {
        Copier {
            from,
            side,
            progress,
            cancel,
            base: None,
            whole: HashSet::new(),
            bases: Mutex::default(),
            bad: Mutex::default(),
        }
    }

    /// Copies what a snapshot needs, unless it is among those that are there.
    fn next(
        &mut self,
        id: SnapshotId,
        snapshot: &Snapshot,
        there: &[(SnapshotId, Snapshot)],
    ) -> Result<Next, Error> {
        let tree = snapshot.tree_id().map_err(|e| Error::damaged(format!("snapshot {id}"), e))?;
        let copy = copy_of(id, snapshot);
        let known = there.iter().find(|(there, other)| is_copy(*there, other, &copy));
        if let Some((known, _)) = known {
            // Nothing is concluded from it: what it needs may have been lost there since. So the
            // first snapshot that is new is looked at as a whole, and stores that again.
            return Ok(Next::Present(*known));
        }
        let reasons = self.snapshot(tree, self.base)?;
        if !reasons.is_empty() {
            return Ok(Next::Failed(reasons));
        }
        self.base = Some(tree);
        Ok(Next::Complete(Box::new(copy)))
    }

    /// Copies everything that a tree needs. Returns why that is not possible.
    fn snapshot(&mut self, tree: TreeId, base: Option<TreeId>) -> Result<Vec<String>, Error> {
        lock(&self.bases).clear();
        if let Some(base) = base {
            lock(&self.bases).insert(tree, base);
        }
        if self.whole.contains(&tree) || base == Some(tree) {
            return Ok(Vec::new());
        }
        let walked = Mutex::new(Walked::default());
        trees::each(self.from, [tree], self.cancel, &|id, tree| self.tree(id, tree, &walked))?;
        let mut walked = walked.into_inner().unwrap_or_else(PoisonError::into_inner);
        let rest = std::mem::take(&mut walked.data);
        walked.reasons.extend(self.blobs(BlobKind::Data, rest)?);
        let wanted = walked.trees.iter().map(|id| BlobId::from(*id)).collect();
        walked.reasons.extend(self.blobs(BlobKind::Tree, wanted)?);
        if walked.reasons.is_empty() {
            self.whole.extend(walked.trees);
        }
        let count = walked.reasons.len();
        let mut reasons: Vec<String> = walked.reasons.into_iter().take(REASONS).collect();
        if count > REASONS {
            reasons.push(format!("and {} more", count - REASONS));
        }
        Ok(reasons)
    }

    /// Notes what a tree needs, and answers with the trees below that are not known to be there.
    fn tree(
        &self,
        id: TreeId,
        tree: Result<Tree, Error>,
        walked: &Mutex<Walked>,
    ) -> Result<Vec<TreeId>, Error> {
        let tree = match tree {
            Ok(tree) => tree,
            Err(e) => {
                lock(walked).reasons.insert(reason(e)?);
                return Ok(Vec::new());
            }
        };
        let base = lock(&self.bases).get(&id).copied();
        // Not being able to read it only means that more is looked at.
        let base = base.and_then(|id| load_tree(self.from, id).ok()).unwrap_or_default();
        let mut below = Vec::new();
        let mut wanted: Vec<BlobId> = Vec::new();
        for node in &tree.nodes {
            match node.kind {
                NodeKind::File => wanted.extend(&node.content),
                NodeKind::Dir => {
                    let Some(child) = node.subtree else { continue };
                    let before = base.get(&node.name).and_then(|node| node.subtree);
                    if self.whole.contains(&child) || before == Some(child) {
                        continue;
                    }
                    if let Some(before) = before {
                        lock(&self.bases).insert(child, before);
                    }
                    below.push(child);
                }
                _ => {}
            }
        }
        let full = {
            let mut walked = lock(walked);
            walked.trees.insert(id);
            walked.data.extend(wanted);
            match walked.data.len() >= BATCH {
                true => std::mem::take(&mut walked.data),
                false => HashSet::new(),
            }
        };
        let reasons = self.blobs(BlobKind::Data, full)?;
        lock(walked).reasons.extend(reasons);
        Ok(below)
    }

    /// Copies those of these blobs that are not there. Returns which could not be read.
    fn blobs(&self, kind: BlobKind, ids: HashSet<BlobId>) -> Result<BTreeSet<String>, Error> {
        let reasons = Mutex::new(BTreeSet::new());
        let mut missing = Vec::new();
        for id in ids {
            if self.side.has(kind, &id)? {
                continue;
            }
            if let Some(why) = lock(&self.bad).get(&(kind, id)) {
                lock(&reasons).insert(why.clone());
                continue;
            }
            match self.from.locate(kind, &id) {
                Ok(at) => missing.push((id, at)),
                Err(e) => {
                    lock(&reasons).insert(self.note_bad(kind, id, e)?);
                }
            }
        }
        let writer = match self.side {
            Side::Write(writer) => writer,
            Side::Count(count) => {
                let mut counted = lock(&count.counted);
                for (id, at) in missing {
                    if counted.known.insert((kind, part(&id))) {
                        counted.bytes += u64::from(at.length);
                    }
                }
                return Ok(reasons.into_inner().unwrap_or_else(PoisonError::into_inner));
            }
        };
        let mut shares = Vec::new();
        for read in self.from.plan_reads(kind, missing.into_iter().map(|(id, _)| id))? {
            let share = |blobs: &[_]| PackRead { pack: read.pack, kind, blobs: blobs.to_vec() };
            shares.extend(read.blobs.chunks(SHARE).map(share));
        }
        parallel::for_each(&shares, parallel::cores(), |share| {
            let mut tickets = Vec::new();
            self.from.read_pack(share, &mut |id, plain| {
                if self.cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                match plain {
                    Ok(plain) => tickets.push((*id, writer.save(kind, plain.to_vec())?)),
                    Err(e) => {
                        lock(&reasons).insert(self.note_bad(kind, *id, e)?);
                    }
                }
                Ok(())
            })?;
            for (id, ticket) in tickets {
                // Read and written bytes have the same name, or something in between is broken.
                if ticket.wait()? != id {
                    return Err(Error::damaged(
                        format!("{kind} blob {id}"),
                        "it changed in memory",
                    ));
                }
            }
            self.progress.advance(0, share.bytes());
            Ok(())
        })?;
        Ok(reasons.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn note_bad(&self, kind: BlobKind, id: BlobId, e: Error) -> Result<String, Error> {
        let why = reason(e)?;
        lock(&self.bad).insert((kind, id), why.clone());
        Ok(why)
    }
}

/// What is wrong with a source that answers; a source that does not answer fails the copy.
fn reason(error: Error) -> Result<String, Error> {
    match error {
        Error::Damaged { .. } | Error::Missing(_) => Ok(error.to_string()),
        Error::Storage(e) if e.kind() == storage::ErrorKind::NotFound => Ok(e.to_string()),
        other => Err(other),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came of copying a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopiedLog {
    /// Objects that were copied.
    pub copied: u64,
    /// Objects that were there already.
    pub present: u64,
    /// Objects that could not be copied, with what is wrong with them.
    pub failed: Vec<String>,
}

/// Copies a log, as far as it is not there.
pub fn copy_log(
    from: &LogStore,
    to: &LogStore,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<CopiedLog, Error> {
    let mut copied = CopiedLog::default();
    for from in from.places()? {
        let to = to.at(from.cluster());
        copy_place(&from, &to, &mut copied, progress, cancel)?;
    }
    Ok(copied)
}

/// The same of what lies in one place of it.
fn copy_place(
    from: &LogStore,
    to: &LogStore,
    copied: &mut CopiedLog,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<(), Error> {
    let there: HashSet<_> = to.list()?.into_iter().collect();
    for (name, generation) in from.list()? {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let known = (name, generation);
        if there.contains(&known) {
            copied.present += 1;
            continue;
        }
        let name = &known.0;
        match from.fetch_from(name, generation) {
            Ok(bytes) => {
                to.push(generation, name, &bytes)?;
                progress.advance(0, bytes.len() as u64);
                copied.copied += 1;
            }
            // Who writes the log replaces what is of no use any more.
            Err(Error::Storage(e)) if e.kind() == storage::ErrorKind::NotFound => {}
            Err(e) => copied.failed.push(format!("{name}: {}", reason(e)?)),
        }
    }
    let whole: HashSet<String> = to.list()?.into_iter().map(|(name, _)| name).collect();
    let there: HashSet<_> = to.list_parts()?.into_iter().collect();
    for known in from.list_parts()? {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if whole.contains(&known.0) || there.contains(&known) {
            copied.present += 1;
            continue;
        }
        let (name, part) = &known;
        match from.read_part(name, part) {
            Ok((bytes, whole)) => {
                to.push_part(part.generation, name, part.start, whole, &bytes)?;
                progress.advance(0, bytes.len() as u64);
                copied.copied += 1;
            }
            // Its file became whole since it was listed; the next copy takes that.
            Err(Error::Storage(e)) if e.kind() == storage::ErrorKind::NotFound => {}
            Err(e) => copied.failed.push(format!("{name}: {}", reason(e)?)),
        }
    }
    Ok(())
}
