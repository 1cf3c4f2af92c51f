//! What can go wrong with the vault's state.

use model::state::Refusal;
use model::{Class, Classify, Generation};

/// A state call that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transition must not be made.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The state object is damaged, forged, or belongs elsewhere.
    #[error("the state object {object} is not valid: {what}")]
    Damaged {
        /// Which object.
        object: String,
        /// What is wrong.
        what: String,
    },
    /// The vault shows an older generation than this member has seen before.
    #[error(
        "the vault shows generation {shown} of this service, but this host has seen {seen}: the vault was restored from an older copy, or is another one"
    )]
    WentBack {
        /// In the vault.
        shown: Generation,
        /// Remembered here.
        seen: Generation,
    },
    /// Too many others changed the state at the same time.
    #[error("the state kept changing under this update; gave up after {0} attempts")]
    Contended(u32),
    /// A later version of the program wrote this.
    #[error("the state has format {0}; this version of mainstay knows formats up to {known}", known = model::state::STATE_FORMAT)]
    TooNew(u32),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The member's own memory of the state failed.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Refused(refusal) => refusal.class(),
            Error::Damaged { .. } => Class::Corrupt,
            Error::WentBack { .. } => Class::Refused,
            Error::Contended(_) => Class::Unavailable,
            Error::TooNew(_) => Class::Invalid,
            Error::Storage(e) => e.class(),
            Error::Io { .. } => Class::Failed,
        }
    }
}
