//! What a worker does with a blob.

use super::compress::BlobCompressor;
use super::{Compression, Job, Shared, Stage};
use crate::Error;
use crate::format::crypto::{NONCE_BYTES, OVERHEAD_BYTES, TAG_BYTES};
use crate::format::{BlobId, BlobKind};
use std::sync::atomic::Ordering;

/// Level for trees when data is not compressed.
const TREE_LEVEL: i32 = 3;

pub(super) fn run(shared: &Shared) -> Result<(), Error> {
    let level = match shared.compression {
        Compression::Level(level) => level,
        Compression::Off => TREE_LEVEL,
    };
    let mut compressor = BlobCompressor::new(level)?;
    // Nonce, compressed blob and tag; only ever grows.
    let mut message = Vec::new();
    while let Some(first) = shared.blobs.pop() {
        let second = match first.stage {
            Stage::Unknown(_) => shared.blobs.pop_now(),
            Stage::Reserved(_) => None,
        };
        let jobs = [Some(first), second];
        let ids = hash(&jobs);
        for (job, id) in jobs.into_iter().zip(ids) {
            let (Some(job), Some(id)) = (job, id) else { continue };
            match shared.check() {
                Ok(()) => {
                    if let Err(e) = process(shared, job, id, &mut compressor, &mut message) {
                        shared.fail(e);
                    }
                }
                Err(e) => job.fail(&shared.fail(e)),
            }
            shared.blob_done();
        }
    }
    Ok(())
}

/// The ids of one or two blobs; two at once, since that is faster.
fn hash(jobs: &[Option<Job>; 2]) -> [Option<BlobId>; 2] {
    let id = |job: &Job| match job.stage {
        Stage::Unknown(_) => BlobId::of(&job.plain),
        Stage::Reserved(id) => id,
    };
    match jobs {
        [
            Some(Job { plain: one, stage: Stage::Unknown(_), .. }),
            Some(Job { plain: two, stage: Stage::Unknown(_), .. }),
        ] => BlobId::of_two(one, two).map(Some),
        [one, two] => [one.as_ref().map(id), two.as_ref().map(id)],
    }
}

fn process(
    shared: &Shared,
    job: Job,
    id: BlobId,
    compressor: &mut BlobCompressor,
    message: &mut Vec<u8>,
) -> Result<(), Error> {
    let Job { kind, plain, stage } = job;
    let new = match stage {
        Stage::Unknown(promise) => {
            let new = reserve(shared, kind, id)?;
            promise.keep(id);
            new
        }
        Stage::Reserved(_) => true,
    };
    if new {
        pack(shared, kind, id, &plain, compressor, message)?;
        shared.stats.new_blobs.fetch_add(1, Ordering::Relaxed);
        shared.stats.new_plain_bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
    }
    shared.buffers.give(plain);
    Ok(())
}

/// Whether this blob is to be stored, by us and nobody else.
pub(super) fn reserve(shared: &Shared, kind: BlobKind, id: BlobId) -> Result<bool, Error> {
    // First the set, then the index: a blob goes the other way, into the index before it leaves
    // the set, so that it cannot be missed in both.
    let mut new = shared.seen().insert((kind, id));
    if new && shared.repository.contains(kind, &id)? {
        shared.seen().remove(&(kind, id));
        new = false;
    }
    if !new {
        shared.stats.known_blobs.fetch_add(1, Ordering::Relaxed);
    }
    Ok(new)
}

fn pack(
    shared: &Shared,
    kind: BlobKind,
    id: BlobId,
    plain: &[u8],
    compressor: &mut BlobCompressor,
    message: &mut Vec<u8>,
) -> Result<(), Error> {
    let files = shared.repository.files();
    let wanted = kind == BlobKind::Tree || shared.compression != Compression::Off;
    let mut compressed = None;
    if files.compress && wanted && !plain.is_empty() {
        compressed = compressor.compress(plain, message, NONCE_BYTES)?;
    }
    let (length, plain_length) = match compressed {
        Some(length) => (length, u32::try_from(plain.len()).ok()),
        None => {
            if message.len() < plain.len() + OVERHEAD_BYTES {
                message.resize(plain.len() + OVERHEAD_BYTES, 0);
            }
            message[NONCE_BYTES..NONCE_BYTES + plain.len()].copy_from_slice(plain);
            (plain.len(), None)
        }
    };
    let whole = NONCE_BYTES + length + TAG_BYTES;
    if message.len() < whole {
        message.resize(whole, 0);
    }
    let sealed = &mut message[..whole];
    files.key.seal_in_place(sealed);
    let full = {
        let mut open = shared.open(kind);
        if !open.append(kind, id, sealed, plain_length, &shared.pack_buffers) {
            return Err(Error::Invalid(format!("{kind} blob {id} is too large for a pack")));
        }
        open.is_full().then(|| std::mem::take(&mut *open))
    };
    // Outside the lock: this waits while the uploaders are behind.
    full.map_or(Ok(()), |pack| shared.hand_over(pack))
}
