//! The history: restic's repository format 2 on a storage, written and read by our own engine.

pub mod archive;
pub mod blobs;
pub mod buffers;
pub mod check;
pub mod chunker;
mod disk;
mod error;
mod files;
pub mod format;
pub mod host;
pub mod index;
pub mod locking;
pub mod log;
pub mod manifest;
mod parallel;
pub mod pipeline;
pub mod reader;
pub mod repository;
pub mod restore;
pub mod scrub;

pub use archive::{Archiver, Finished, Problem, Summary, TreeOptions};
pub use blobs::PackRead;
pub use buffers::Buffers;
pub use chunker::{Chunker, Chunks};
pub use error::Error;
pub use format::snapshot::Snapshot;
pub use format::time::Time;
pub use format::tree::{Node, NodeKind, Tree, TreeEncoder, Xattr};
pub use format::{BlobId, BlobKind, PackId, TreeId};
pub use index::Location;
pub use locking::{LockKind, RepositoryLock};
pub use manifest::{Difference, differences, record_manifest};
pub use pipeline::{BlobWriter, Compression, Ticket};
pub use reader::SnapshotReader;
pub use repository::{Kdf, KeyInfo, Repository};
