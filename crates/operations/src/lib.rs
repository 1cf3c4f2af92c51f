//! What Mainstay does, as jobs that survive a crash: each journals its steps before and after, can
//! be cancelled, and is cleaned up after by whoever comes next.
//!
//! An operation connects the crates that must not know each other: it pipes an engine's capture
//! into the repository, and writes what came of it into the vault's state. It decides nothing about
//! takeovers; it executes one that was decided.

mod error;
pub mod secrets;
mod site;
pub mod which;

pub use error::Error;
pub use site::{ServiceSite, Site};
pub use which::Which;
