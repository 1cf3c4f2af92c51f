//! Everything that a terminal sees.

pub(crate) mod color;
pub(crate) mod out;
