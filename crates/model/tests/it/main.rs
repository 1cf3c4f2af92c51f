//! The nouns and the rules, without files, clocks or connections.

#![allow(clippy::unwrap_used, clippy::panic)] // A test says what is wrong by panicking.

mod config;
mod retention;
mod schedule;
mod state;
mod support;
mod units;
