//! Writes trees of a snapshot back to this machine.

pub use crate::manifest::{Difference, differences, record_manifest};
use crate::{Error, Repository};
use model::{CancelToken, Progress, SnapshotId};
use std::path::Path;

/// What a restore may reuse, and how it writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// A tree on the same file system that holds `reuse_snapshot`'s state of the same root,
    /// verified untouched: unchanged files are taken from there instead of the repository.
    pub reuse: Option<Reuse<'a>>,
    /// Sync everything to disk before returning.
    pub durable: bool,
}

/// An older copy of the same root.
#[derive(Clone, Copy, Debug)]
pub struct Reuse<'a> {
    /// Where it is.
    pub tree: &'a Path,
    /// The snapshot whose state it has.
    pub snapshot: SnapshotId,
    /// Hard links may be made to it (engine `files`, nothing writes in place); otherwise
    /// reflinks where the file system has them, else copies.
    pub hard_links: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Regular files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that came from the repository.
    pub fetched_bytes: u64,
}

/// Restores what is at `path` in the snapshot (a directory or one file) to `target`, which must not
/// exist. Owners and modes as far as our rights go: without root, owners are left out silently.
pub fn restore(
    _repository: &Repository,
    _snapshot: SnapshotId,
    _path: &[u8],
    _target: &Path,
    _options: Options<'_>,
    _progress: &dyn Progress,
    _cancel: &CancelToken,
) -> Result<Restored, Error> {
    todo!()
}
