//! The history: restic's repository format 2 on a storage, written and read by our own engine.

pub mod archive;
pub mod check;
mod disk;
mod error;
pub mod format;
pub mod log;
pub mod manifest;
pub mod reader;
pub mod repository;
pub mod restore;

pub use archive::{Archiver, Finished, Problem, Summary, TreeOptions};
pub use error::Error;
pub use format::snapshot::Snapshot;
pub use format::tree::{Node, NodeKind, NodeTime, Tree, TreeEncoder, Xattr};
pub use manifest::{Difference, differences, record_manifest};
pub use reader::SnapshotReader;
pub use repository::{Kdf, LockKind, Repository, RepositoryLock};
