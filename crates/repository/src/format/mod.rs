//! Restic's repository format, versions 1 and 2, as bytes: encoding and decoding, no IO.
//!
//! Source of every rule: restic's design document (`doc/design.rst` of the restic project), and for
//! what that leaves open the files that restic writes. Every decoder survives arbitrary bytes: it
//! returns an error, and never allocates more than a small multiple of what it was given.

pub mod config;
pub mod crypto;
mod error;
pub mod id;
pub mod index;
pub mod keyfile;
pub mod lock;
pub mod pack;
pub mod snapshot;
pub mod time;
pub mod tree;
pub mod unpacked;

pub use error::FormatError;
pub use id::{BlobId, BlobKind, IndexId, KeyId, LockId, PackId, RedoSum, TreeId};
