//! The nouns of Mainstay and the rules that hold between them.
//!
//! Nothing here reads a file, asks a clock or opens a connection: every rule is a function of what
//! it is given, so that tests can run years of schedules and takeovers in a moment. All other
//! crates may know this one; it knows none of them.

pub mod cancel;
pub mod class;
pub mod config;
pub mod duration;
pub mod generation;
pub mod names;
pub mod point;
pub mod progress;
pub mod retention;
pub mod schedule;
pub mod seal;
pub mod secret;
pub mod size;
pub mod state;

pub use cancel::CancelToken;
pub use class::{Class, Classify};
pub use generation::Generation;
pub use names::{MemberName, NameError, OperationId, ServiceName, VaultName};
pub use point::{
    ClusterId, Drill, PointName, Position, RecoveryPoint, SnapshotId, TagChange, Verified,
};
pub use progress::Progress;
pub use seal::{Seal, SealError};
pub use secret::Secret;
pub use state::{Head, Intent, Member, Role, ServiceState};
