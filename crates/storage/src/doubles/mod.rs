//! Storages for tests: in memory, failing on demand, and recording; a real S3 server, and a proxy
//! that spoils what passes. Behind the feature `doubles`,
//! which only dev-dependencies turn on.

mod flaky;
mod http_proxy;
mod memory;
mod provided;
mod recording;
mod s3_server;

pub use flaky::{Fault, Flaky, How};
pub use http_proxy::{HttpProxy, Seen, Spoil};
pub use memory::Memory;
pub use provided::{MORE_POSTGRES_VERSIONS, POSTGRES_VERSIONS, S3_SERVERS, provided};
pub use recording::{Call, Recording};
pub use s3_server::{S3Kind, S3Server};

/// The calls of a storage, for doubles that tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `read`
    Read,
    /// `read_range`
    ReadRange,
    /// `size`
    Size,
    /// `put`
    Put,
    /// `put_if_absent`
    PutIfAbsent,
    /// `list`
    List,
    /// `delete`
    Delete,
    /// `free_bytes`
    FreeBytes,
}
