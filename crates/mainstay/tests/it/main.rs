//! Drives the real binary, as a shell or a script would.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod adopting;
mod backup_and_restore;
mod browsing;
mod cancel;
mod command_line;
mod configuration;
mod copying;
mod demo;
mod docs;
mod drills;
mod filesystems;
mod forgetting;
mod guides;
mod history;
mod images;
mod keys;
mod kills;
mod locks;
mod mounting;
mod mounting_as_user;
mod newcomer;
mod points;
mod postgres;
mod quiesce;
mod refreshing;
mod repairing;
mod rig;
mod s3;
mod scrubs;
mod secrets;
mod seeds;
mod setup;
mod sqlite_history;
mod sqlite_log;
mod sqlite_standby;
mod standby;
mod takeover;
mod terminal;
mod upkeep;
mod vault_host;
mod vault_rig;
mod watching;
mod workers;
mod world;
