//! Makes packs durable, and then the index files that name them.

use super::Shared;
use super::packer::OpenPack;
use crate::Error;
use crate::files::{FileKind, put_or_nothing};
use crate::format::index::{Index, IndexedPack, MAX_BLOBS};
use crate::format::{IndexId, PackId, pack};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A run writes what it has into an index file when so much time has passed, so that one that is
/// killed loses little...
const INDEX_INTERVAL: Duration = Duration::from_secs(30);
/// ...and when this part of its time has, so that a long one does not leave a heap of small files.
const INDEX_PART: u32 = 20;

pub(super) fn run(shared: &Shared) -> Result<(), Error> {
    while let Some(pack) = shared.packs.pop() {
        if let Err(e) = store(shared, pack) {
            shared.fail(e);
        }
        shared.upload_done();
    }
    Ok(())
}

fn store(shared: &Shared, open: OpenPack) -> Result<(), Error> {
    shared.check()?;
    let files = shared.repository.files();
    let OpenPack { mut bytes, blobs } = open;
    pack::append_trailer(&mut bytes, &blobs, &files.key)
        .map_err(|e| Error::Invalid(format!("new pack: {e}")))?;
    let id = PackId::of(&bytes);
    put_or_nothing(&*files.storage, &FileKind::Pack.key(id.0)?, &bytes)?;
    shared.stats.stored_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    shared.pack_buffers.give(bytes);
    let due = {
        let mut progress = shared.lock();
        let count = blobs.len();
        // What there is goes first if the new pack would make the file too large.
        let full = progress.unindexed_blobs + count > MAX_BLOBS;
        let interval = INDEX_INTERVAL.max(shared.began.elapsed() / INDEX_PART);
        let due =
            (full || progress.last_index.elapsed() >= interval).then(|| progress.take_unindexed());
        progress.unindexed.push(IndexedPack { id, blobs });
        progress.unindexed_blobs += count;
        due
    };
    due.map_or(Ok(()), |packs| write_index(shared, packs))
}

/// Writes an index file for durable packs, durable on return; from then on their blobs are known to
/// everybody.
pub(super) fn write_index(shared: &Shared, packs: Vec<IndexedPack>) -> Result<(), Error> {
    if packs.is_empty() {
        return Ok(());
    }
    shared.check()?;
    index(shared, packs)
}

/// What a writer leaves that gives up: durable packs are named, so that whoever goes on need not
/// store them again. Only under a lock: without one, a prune may have removed them.
pub(super) fn keep(shared: &Shared) {
    let packs = shared.lock().take_unindexed();
    if !packs.is_empty() && shared.repository.is_locked() {
        // Of no consequence if it fails: it is stored again then.
        let _ = index(shared, packs);
    }
}

fn index(shared: &Shared, packs: Vec<IndexedPack>) -> Result<(), Error> {
    // A prune that took our lock for stale may have removed these packs: nothing named them.
    shared.repository.locks_still_trusted()?;
    let index = Index { supersedes: Vec::new(), packs };
    let json = index.encode().map_err(|e| Error::Invalid(format!("new index file: {e}")))?;
    let repository = &shared.repository;
    let id = IndexId(repository.files().write_json(FileKind::Index, &json)?);
    repository.index().add(id, &index.packs);
    let mut seen = shared.seen();
    for blob in index.packs.iter().flat_map(|pack| &pack.blobs) {
        seen.remove(&(blob.kind, blob.id));
    }
    Ok(())
}
