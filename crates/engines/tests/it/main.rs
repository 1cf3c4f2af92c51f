//! Tests of the engines against the real things they drive.

// Helpers outside of #[test] functions are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;
mod contract;
mod control;
mod external;
mod files;
mod fuzz;
#[path = "../../../storage/tests/it/not_shown.rs"]
mod not_shown;
mod pg_server;
mod postgres;
mod script;
mod sink;
mod sqlite;
mod support;
