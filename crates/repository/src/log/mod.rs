//! The log store: a continuous log (WAL) beside the repository, with the same key.
//!
//! The format is described byte by byte in `docs/formats/log-store.md`.

use crate::{Error, Repository};
use model::Generation;

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Stored now.
    Stored,
    /// The same bytes were there under this name already.
    Already,
}

/// The log of one service.
pub struct LogStore {}

impl LogStore {
    /// The log beside this repository.
    pub fn new(_repository: &Repository) -> LogStore {
        todo!()
    }

    /// Stores one segment or history file, durable on return. The same name with other bytes is
    /// refused.
    pub fn push(
        &self,
        _generation: Generation,
        _name: &str,
        _bytes: &[u8],
    ) -> Result<Pushed, Error> {
        todo!()
    }

    /// The bytes of a segment, from the newest generation that has it; none if none has.
    pub fn fetch(&self, _name: &str) -> Result<Option<Vec<u8>>, Error> {
        todo!()
    }

    /// All names with their generation, in the order of (name, generation).
    pub fn list(&self) -> Result<Vec<(String, Generation)>, Error> {
        todo!()
    }
}
