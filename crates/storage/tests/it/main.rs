//! Storages against one contract, and a directory against what directories go through.

// A test says what is wrong by panicking, and its helper processes speak by printing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod contract;
mod crash;
mod doubles;
mod fuzz;
mod keys;
mod local;
mod not_shown;
mod probes;
mod processes;
mod remote;
mod s3;
mod s3_faults;
mod s3_locks;
mod s3_rust;
mod serving;
mod vault;
