//! Restic's repository format 2 as bytes: encoding and decoding, no IO.
//!
//! Source of every rule: restic's design document (`doc/design.rst` of the restic project).

pub mod snapshot;
pub mod tree;
