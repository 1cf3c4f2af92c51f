//! One binary for all integration tests of the crate.

mod chunks;
mod format;
mod fuzz;
mod interop;
mod layers;
mod log_store;
mod manifest;
mod memory_index;
mod restore;
mod rig;
mod tree_format;
mod trees;
mod with_restic;
