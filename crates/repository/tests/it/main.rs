//! One binary for all integration tests of the crate.

mod log_store;
mod tree_format;
