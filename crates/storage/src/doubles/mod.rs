//! Storages for tests: in memory, failing on demand, and recording. Behind the feature `doubles`,
//! which only dev-dependencies turn on.

mod flaky;
mod memory;
mod recording;

pub use flaky::{Fault, Flaky, How};
pub use memory::Memory;
pub use recording::{Call, Recording};

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
