//! What Mainstay does, as jobs that survive a crash: each journals its steps before and after, can
//! be cancelled, and is cleaned up after by whoever comes next.
//!
//! An operation connects the crates that must not know each other: it pipes an engine's capture
//! into the repository, and writes what came of it into the vault's state. It decides nothing about
//! takeovers; it executes one that was decided.

pub mod alert;
mod asking;
pub mod backup;
pub mod beside;
pub mod cancel;
mod cluster;
pub mod copy;
pub mod drill;
mod error;
mod exchange;
pub mod forget;
pub mod guardian;
pub mod history;
mod hooks;
mod journal;
pub mod keys;
mod lock;
pub mod may_start;
mod member;
pub mod migrate;
pub mod mount;
pub mod offline;
mod operation;
mod placing;
pub mod points;
pub mod preempt;
pub mod prune;
mod quiesce;
pub mod recover;
pub mod refresh;
pub mod rejoin;
pub mod repair;
mod report;
pub mod restore;
#[cfg(test)]
mod rig;
mod room;
pub mod scrub;
pub mod secrets;
mod site;
pub mod standing;
mod successor;
pub mod takeover;
pub mod vault;
pub mod wal;
pub mod which;

pub use error::Error;
pub use hooks::HookFailed;
pub use journal::{Entry, Event, Kind, Outcome, kill_at, parse as parse_journal};
pub use lock::Holder;
pub use member::{AppliedHere, JudgedBy, MemberRecord, Scrubbed};
pub use operation::{Run, look};
pub use placing::decode_meta;
pub use report::Numbers;
pub use site::{ServiceSite, Site};
pub use which::Which;
