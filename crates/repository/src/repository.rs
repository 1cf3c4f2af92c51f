//! An open repository.

use crate::{Error, Snapshot};
use model::{CancelToken, Seal, Secret, SnapshotId};
use std::sync::Arc;
use storage::Storage;

/// How expensive the key derivation of a new key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kdf {
    /// For passwords that people think up: hundreds of milliseconds a guess.
    Slow,
    /// For generated passwords of at least 128 bits: guessing is hopeless whatever a guess costs.
    Fast,
}

/// What a repository lock excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Beside other shared ones: backup, restore, check.
    Shared,
    /// Alone: whatever removes data.
    Exclusive,
}

/// A held lock; refreshed in the background, removed on drop.
#[derive(Debug)]
pub struct RepositoryLock {}

impl RepositoryLock {
    /// Fails if the lock lapsed (could not be refreshed in time, or was removed by somebody).
    pub fn still_held(&self) -> Result<(), Error> {
        todo!()
    }
}

/// An open repository. Cheap to clone; the index is loaded when first needed.
#[derive(Clone)]
pub struct Repository {}

impl Repository {
    /// Makes a repository: key first, config last, so that one with a config is whole.
    pub fn create(
        _storage: Arc<dyn Storage>,
        _password: &Secret,
        _kdf: Kdf,
    ) -> Result<Repository, Error> {
        todo!()
    }

    /// Opens a repository.
    pub fn open(_storage: Arc<dyn Storage>, _password: &Secret) -> Result<Repository, Error> {
        todo!()
    }

    /// Whether there is a repository (a readable `config`).
    pub fn exists(_storage: &dyn Storage) -> Result<bool, Error> {
        todo!()
    }

    /// The repository's id, 64 hex digits.
    pub fn id(&self) -> &str {
        todo!()
    }

    /// The storage it is on.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        todo!()
    }

    /// Seals bytes with the repository's master key.
    pub fn seal(&self) -> Arc<dyn Seal> {
        todo!()
    }

    /// Adds a key, so that another password opens the repository too.
    pub fn add_key(&self, _password: &Secret, _kdf: Kdf) -> Result<String, Error> {
        todo!()
    }

    /// Takes a lock by restic's protocol, waiting up to `wait` for one that excludes it.
    pub fn lock(
        &self,
        _kind: LockKind,
        _wait: std::time::Duration,
        _cancel: &CancelToken,
    ) -> Result<RepositoryLock, Error> {
        todo!()
    }

    /// All snapshot files, oldest first.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, Snapshot)>, Error> {
        todo!()
    }

    /// One snapshot file.
    pub fn snapshot(&self, _id: SnapshotId) -> Result<Snapshot, Error> {
        todo!()
    }

    /// Stores a snapshot file, durable on return. Everything it refers to must be durable before.
    pub fn save_snapshot(&self, _snapshot: &Snapshot) -> Result<SnapshotId, Error> {
        todo!()
    }

    /// Removes a snapshot file (not its data).
    pub fn remove_snapshot(&self, _id: SnapshotId) -> Result<(), Error> {
        todo!()
    }
}
