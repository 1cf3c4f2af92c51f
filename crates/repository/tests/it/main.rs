//! One binary for all integration tests of the crate.

mod log_store;
mod manifest;
mod rig;
mod tree_format;
mod with_restic;
