//! Reads what is in a snapshot.

use crate::{Error, Node, Repository};
use model::SnapshotId;
use std::io::Write;

/// One snapshot, opened for reading.
pub struct SnapshotReader {}

impl SnapshotReader {
    /// Opens it.
    pub fn open(_repository: &Repository, _id: SnapshotId) -> Result<SnapshotReader, Error> {
        todo!()
    }

    /// The node at an absolute slash path; none if there is none. `/` is the root directory.
    pub fn node(&self, _path: &[u8]) -> Result<Option<Node>, Error> {
        todo!()
    }

    /// The nodes of the directory at this path.
    pub fn list(&self, _path: &[u8]) -> Result<Vec<Node>, Error> {
        todo!()
    }

    /// Calls `visit` for everything below `path`, parents first, with absolute paths.
    pub fn walk(
        &self,
        _path: &[u8],
        _visit: &mut dyn FnMut(&[u8], &Node) -> Result<(), Error>,
    ) -> Result<(), Error> {
        todo!()
    }

    /// Writes the content of the file at this path, each blob verified by its SHA-256.
    pub fn dump(&self, _path: &[u8], _to: &mut dyn Write) -> Result<(), Error> {
        todo!()
    }
}
