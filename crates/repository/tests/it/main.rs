//! One binary for all integration tests of the crate.

mod log_store;
mod manifest;
mod tree_format;
