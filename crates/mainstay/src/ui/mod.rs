//! Everything that a terminal sees.

pub(crate) mod ask;
pub(crate) mod color;
pub(crate) mod init;
pub(crate) mod out;
pub(crate) mod progress;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod takeover;
pub(crate) mod words;
