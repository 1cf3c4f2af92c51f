//! One binary for all integration tests of the crate.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod amend;
mod archive;
mod browsing;
mod checking;
mod chunks;
mod copying;
mod damage;
mod faults;
mod faults_of_a_source;
mod format;
mod fuzz;
mod golden;
mod images;
mod interop;
mod interrupted;
mod keys;
mod layers;
mod locks;
mod log_store;
mod manifest;
mod many_chunks;
mod memory_index;
#[path = "../../../storage/tests/it/not_shown.rs"]
mod not_shown;
mod old_formats;
mod over;
mod prune;
mod prune_plan;
mod redo;
mod repairing;
mod restore;
mod rig;
mod scrub;
mod snapshots;
mod tree_format;
mod trees;
mod view;
mod with_restic;
mod writer;
