//! Coordination against real directories, storages that fail, and writers that are paused.

// A test says what is wrong by panicking, and its helper processes speak by printing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod contract;
mod failures;
mod fuzz;
mod pauses;
mod processes;
mod simulation;
mod store;
mod support;
mod witness;
