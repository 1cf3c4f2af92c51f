//! Everything that a terminal sees.

pub(crate) mod ask;
pub(crate) mod color;
pub(crate) mod out;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod words;
