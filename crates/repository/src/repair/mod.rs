//! Repairs what is damaged, as far as that goes: indexes from the packs, packs from the blobs in
//! them that are whole, snapshots from what is left of their directories.
//!
//! What makes it safe: a repair removes nothing of which it has not tried every part, and what it
//! writes is durable before what it replaces goes. So whatever could be restored before can be
//! restored afterwards, wherever it is killed. It needs the repository for itself.

mod index;
mod misnamed;
mod packs;
mod snapshots;

pub use index::rebuild_index;
pub use packs::repair_packs;
pub use snapshots::repair_snapshots;

use crate::files::FileKind;
use crate::format::pack::{self, PackedBlob};
use crate::format::{FormatError, PackId};
use crate::{Error, LockKind, Repository, RepositoryLock};
use model::{CancelToken, Progress, SnapshotId};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use storage::ErrorKind;

/// What a repair is given.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Its lock, which must be exclusive but for a dry run.
    pub lock: &'a RepositoryLock,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Who watches.
    pub progress: &'a dyn Progress,
    /// Stops it.
    pub cancel: &'a CancelToken,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was done, each a sentence.
    pub done: Vec<String>,
    /// What is lost: blobs, files and snapshots, each with where it was.
    pub lost: Vec<String>,
    /// Snapshots that stand for damaged ones: what is left of the second is in the first.
    pub replaced: Vec<(SnapshotId, SnapshotId)>,
    /// Snapshots that are damaged, replaced or not.
    pub damaged_snapshots: Vec<SnapshotId>,
}

impl Work<'_> {
    fn begin(&self) -> Result<(), Error> {
        if self.lock.kind() != LockKind::Exclusive && !self.dry_run {
            return Err(Error::Invalid("a repair needs the repository for itself".to_owned()));
        }
        self.lock.still_held()
    }

    /// Reads something, and once more before it is called damaged or missing: it may be the way here
    /// that lost or flipped something.
    fn twice<T>(&self, read: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        match read() {
            Err(Error::Damaged { .. } | Error::Missing(_)) => {
                self.check()?;
                read()
            }
            other => other,
        }
    }

    /// The packs that are there, of those that indexes name and the listing: one that the listing
    /// lacks is asked for before it counts as gone.
    fn stored_packs(
        &self,
        named: impl IntoIterator<Item = PackId>,
    ) -> Result<BTreeMap<PackId, u64>, Error> {
        let listed = self.repository.files().list(FileKind::Pack)?.into_iter();
        let mut stored: BTreeMap<_, _> = listed.map(|f| (PackId(f.id), f.size_bytes)).collect();
        for id in named {
            if let Entry::Vacant(place) = stored.entry(id)
                && let Some(size) = self.stored_size(id)?
            {
                place.insert(size);
            }
        }
        Ok(stored)
    }

    fn stored_size(&self, id: PackId) -> Result<Option<u64>, Error> {
        match self.repository.storage().size(&FileKind::Pack.key(id.0)?) {
            Ok(size) => Ok(Some(size)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Removes files, after a look at the lock.
    fn remove(&self, kind: FileKind, ids: impl IntoIterator<Item = [u8; 32]>) -> Result<(), Error> {
        self.lock.still_held()?;
        for id in ids {
            self.lock.still_trusted()?;
            self.repository.files().delete(kind, id)?;
        }
        Ok(())
    }
}

/// What a pack's own header says, read alone.
fn header(repository: &Repository, id: PackId, size: u64) -> Result<Vec<PackedBlob>, Error> {
    let files = repository.files();
    let damaged = |e: FormatError| FileKind::Pack.damaged(id.0, e);
    let end = pack::LENGTH_BYTES as u64;
    let too_short = || FileKind::Pack.damaged(id.0, "too short for a pack");
    let at = size.checked_sub(end).ok_or_else(too_short)?;
    let last = files.read_pack_range(id, at, pack::LENGTH_BYTES)?;
    let last = *last.first_chunk().ok_or_else(too_short)?;
    let length = pack::header_length(size, last).map_err(damaged)?;
    let from = at.checked_sub(length as u64).ok_or_else(too_short)?;
    let sealed = files.read_pack_range(id, from, length)?;
    pack::decode_header(&sealed, from, &files.key).map_err(damaged)
}
