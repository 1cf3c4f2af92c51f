//! The log of a database in WAL mode: its frames, how they are held while they are shipped, what
//! they look like in the vault, and how they come back into a copy.
//!
//! The format of a write-ahead log is described at <https://sqlite.org/fileformat2.html#walformat>,
//! ours of what is shipped in `docs/formats/sqlite-log.md`.

mod batch;
mod frames;
mod hold;
mod plan;
mod replay;

pub use batch::{Batch, BatchName, MARK_CONTENT, MAX_MARKS, Mark, database_id};
pub use frames::{FRAME_HEADER, Place, WalHeader};
pub(super) use hold::Looker;
pub use hold::{Held, Published, Restart, tidy};
pub use plan::{ChainPlace, Plan, Reach, Span, plan, together};
pub use replay::{Replay, replay};

use super::beside;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Where a database keeps its log.
pub fn wal_path(database: &Path) -> PathBuf {
    beside(database, "-wal")
}

/// Opens a log to read it. It carries no locks, so it may be opened and closed.
pub fn open_wal(wal: &Path) -> io::Result<File> {
    super::source::read_beside(wal)
}
