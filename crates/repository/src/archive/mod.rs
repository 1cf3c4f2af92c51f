//! Turns trees of this machine, and streams, into one tree of the repository.

mod exclude;

use crate::{Error, Node, Repository};
use model::{CancelToken, Progress};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// How a tree is read. See `engines::TreeOptions`, which `operations` translates into this.
#[derive(Clone, Debug, Default)]
pub struct TreeOptions {
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// Leave out the content of directories with a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out regular files larger than this.
    pub exclude_larger_than: Option<u64>,
    /// Do not cross into other file systems.
    pub one_file_system: bool,
    /// Files may change or vanish while they are read.
    pub changes_expected: bool,
    /// Directories at the top of the tree that are written empty.
    pub emptied: Vec<String>,
    /// Read every file, whatever the parent says.
    pub distrust_times: bool,
}

/// Something that could not be captured as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path on the host.
    pub path: String,
    /// What is wrong: "permission denied", "changed while it was read".
    pub what: String,
}

/// What an archive run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Regular files in the tree.
    pub files: u64,
    /// Of these: read because they are new or look changed.
    pub files_read: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes added to the storage.
    pub added_bytes: u64,
}

/// The result: all packs and indexes are durable, and a snapshot may refer to `tree`.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Root tree, 64 hex digits.
    pub tree: String,
    /// Counts.
    pub summary: Summary,
    /// What could not be captured. Not empty: the point is incomplete.
    pub problems: Vec<Problem>,
}

/// Builds one tree. Dropping it leaves at most unreferenced packs behind, never a snapshot.
pub struct Archiver {}

impl Archiver {
    /// Begins; `parent` is a snapshot whose unchanged files need not be read again.
    pub fn new(
        _repository: &Repository,
        _parent: Option<model::SnapshotId>,
        _progress: Arc<dyn Progress>,
        _cancel: CancelToken,
    ) -> Result<Archiver, Error> {
        todo!()
    }

    /// Adds the tree or file at `source` as `at` (an absolute slash path in the snapshot). The
    /// directories above get the attributes of the host's directories of that path if `at` is the
    /// source's own path, else plain ones.
    pub fn tree(&mut self, _at: &str, _source: &Path, _options: &TreeOptions) -> Result<(), Error> {
        todo!()
    }

    /// Adds a streamed file as `at` with the attributes of `node` (its name, content and size are
    /// filled in here). Fails if the reader does.
    pub fn file(&mut self, _at: &str, _node: Node, _content: &mut dyn Read) -> Result<(), Error> {
        todo!()
    }

    /// Writes everything out and returns when it is durable.
    pub fn finish(self) -> Result<Finished, Error> {
        todo!()
    }
}
