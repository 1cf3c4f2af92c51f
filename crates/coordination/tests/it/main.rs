//! Coordination against real directories, storages that fail, and writers that are paused.

#![allow(clippy::unwrap_used, clippy::panic)] // A test says what is wrong by panicking.

mod store;
mod support;
mod witness;
