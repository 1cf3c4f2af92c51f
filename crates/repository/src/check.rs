//! Judges a whole repository.

use crate::{Error, Repository};
use model::{CancelToken, Progress};

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

/// Checks structure (config, keys, indexes against packs, every tree of every snapshot), and with
/// `read_data` every byte of every pack.
pub fn check(
    _repository: &Repository,
    _read_data: bool,
    _progress: &dyn Progress,
    _cancel: &CancelToken,
) -> Result<Report, Error> {
    todo!()
}
