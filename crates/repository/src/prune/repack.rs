//! Copies blobs that are used into new packs, as they are sealed, each verified before it is
//! written.

use super::read::{self, Wanted};
use crate::files::{FileKind, put_or_nothing};
use crate::format::index::IndexedPack;
use crate::format::pack::{self, PackedBlob};
use crate::format::{BlobKind, PackId};
use crate::{Error, Repository, parallel};
use model::{CancelToken, Progress};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A pack is finished at this size, as those of a backup are.
const TARGET_BYTES: usize = 16 << 20;
/// And at this many blobs.
const MAX_BLOBS: usize = 16_384;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// New packs, durable; no index names them yet.
    pub(crate) packs: Vec<IndexedPack>,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Packs in which something could not be read, with what: they must stay.
    pub(crate) damaged: BTreeMap<PackId, Vec<String>>,
}

/// Copies these blobs, which come pack by pack, sorted by their offset.
pub(crate) fn copy(
    repository: &Repository,
    packs: &[(PackId, Vec<Wanted>)],
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Copied, Error> {
    let copying = Copying {
        repository,
        data: Mutex::default(),
        trees: Mutex::default(),
        copied: Mutex::default(),
    };
    let result = parallel::for_each(packs, parallel::cores(), |(pack, wanted)| {
        let mut damage = Vec::new();
        read::read_pack(repository, *pack, wanted, &mut |blob, read| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match read {
                Ok(read) => copying.append(blob, read.sealed),
                Err(e) => {
                    damage.push(e.to_string());
                    Ok(())
                }
            }
        })?;
        progress.advance(1, wanted.iter().map(|blob| u64::from(blob.at.length)).sum());
        if !damage.is_empty() {
            copying.copied().damaged.insert(*pack, damage);
        }
        Ok(())
    });
    let result = result.and_then(|()| {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let rest = std::mem::take(&mut *copying.open(kind));
            copying.store(rest)?;
        }
        Ok(())
    });
    let copied = copying.copied.into_inner().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(()) => Ok(copied),
        Err(e) => {
            // No index names them, and their space may be what was lacking. What cannot be removed
            // now is garbage that the next prune removes.
            for pack in &copied.packs {
                let _ = repository.files().delete(FileKind::Pack, pack.id.0);
            }
            Err(e)
        }
    }
}

struct Copying<'a> {
    repository: &'a Repository,
    data: Mutex<Open>,
    trees: Mutex<Open>,
    copied: Mutex<Copied>,
}

/// A pack that is being filled.
#[derive(Default)]
struct Open {
    bytes: Vec<u8>,
    blobs: Vec<PackedBlob>,
}

impl Copying<'_> {
    fn append(&self, blob: &Wanted, sealed: &[u8]) -> Result<(), Error> {
        let full = {
            let mut open = self.open(blob.kind);
            if open.bytes.capacity() == 0 {
                open.bytes.reserve_exact(TARGET_BYTES + (2 << 20));
            }
            let too_large =
                || Error::Invalid(format!("{} blob {} is too large", blob.kind, blob.id));
            let offset = u32::try_from(open.bytes.len()).map_err(|_| too_large())?;
            let length = u32::try_from(sealed.len()).map_err(|_| too_large())?;
            offset.checked_add(length).ok_or_else(too_large)?;
            open.bytes.extend_from_slice(sealed);
            let plain_length = blob.at.plain_length;
            open.blobs.push(PackedBlob {
                kind: blob.kind,
                id: blob.id,
                offset,
                length,
                plain_length,
            });
            let full = open.bytes.len() >= TARGET_BYTES || open.blobs.len() >= MAX_BLOBS;
            full.then(|| std::mem::take(&mut *open))
        };
        full.map_or(Ok(()), |open| self.store(open))
    }

    /// Makes a pack durable.
    fn store(&self, open: Open) -> Result<(), Error> {
        let Open { mut bytes, blobs } = open;
        if blobs.is_empty() {
            return Ok(());
        }
        let files = self.repository.files();
        pack::append_trailer(&mut bytes, &blobs, &files.key)
            .map_err(|e| Error::Invalid(format!("new pack: {e}")))?;
        let id = PackId::of(&bytes);
        put_or_nothing(&*files.storage, &FileKind::Pack.key(id.0)?, &bytes)?;
        let mut copied = self.copied();
        copied.bytes += bytes.len() as u64;
        copied.packs.push(IndexedPack { id, blobs });
        Ok(())
    }

    fn open(&self, kind: BlobKind) -> MutexGuard<'_, Open> {
        let open = match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        };
        open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copied(&self) -> MutexGuard<'_, Copied> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
