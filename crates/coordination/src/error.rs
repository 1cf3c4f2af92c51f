//! What can go wrong with the vault's state.

use model::state::Refusal;
use model::{Class, Classify, Generation};
use std::io;

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
    /// The vault shows an older state of the same generation than this member has seen before.
    #[error(
        "the vault shows state number {shown} of this service, but this host has seen {seen}: the vault was restored from an older copy, or is another one"
    )]
    StateWentBack {
        /// In the vault.
        shown: u64,
        /// Remembered here.
        seen: u64,
    },
    /// The vault shows another state of the same number, or another primary of the same generation,
    /// than this member has seen.
    #[error(
        "the vault shows {shown}, but this host has seen {seen}: the vault was copied, and both copies were used"
    )]
    Forked {
        /// In the vault.
        shown: String,
        /// Remembered here.
        seen: String,
    },
    /// State that was there a moment ago is not there any more.
    #[error(
        "{place} shows state number {shown}, but held {seen} before: its disk was unmounted, or somebody removed state"
    )]
    Vanished {
        /// The storage.
        place: String,
        /// The highest number there now; 0 for none.
        shown: u64,
        /// The one that was there.
        seen: u64,
    },
    /// Too many others changed the state at the same time.
    #[error("the state kept changing under this update; gave up after {0} attempts")]
    Contended(u32),
    /// A later version of the program wrote this.
    #[error("the state has format {0}; this version of mainstay knows formats up to {known}", known = model::state::STATE_FORMAT)]
    TooNew(u32),
    /// The operating system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
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
        source: io::Error,
    },
}

impl Error {
    /// Shorthand for damage.
    pub(crate) fn damaged(object: &str, what: impl ToString) -> Error {
        Error::Damaged { object: object.to_owned(), what: what.to_string() }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Refused(refusal) => refusal.class(),
            Error::Damaged { .. } => Class::Corrupt,
            Error::WentBack { .. } | Error::StateWentBack { .. } | Error::Forked { .. } => {
                Class::Refused
            }
            Error::Vanished { .. } | Error::Contended(_) => Class::Unavailable,
            Error::TooNew(_) => Class::Invalid,
            Error::Storage(e) => e.class(),
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::NoSpace,
                _ => Class::Failed,
            },
            Error::Random(_) => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Refused(refusal) => return refusal.hint(),
            Error::Storage(e) => return e.hint(),
            Error::Damaged { .. } => {
                "Restore this object from a copy of the vault; the one before it may know nothing of a takeover."
            }
            Error::WentBack { .. } | Error::StateWentBack { .. } => {
                "Connect the vault that was used last. If it is gone for good, `mainstay vault accept` \
                 goes by this one."
            }
            Error::Forked { .. } => {
                "Decide which of the two vaults holds, and stop the other's primary; on hosts that refuse \
                 the one that holds, run `mainstay vault accept`."
            }
            Error::Vanished { .. } => "Check that the disk of the vault is mounted.",
            Error::Contended(_) => "Try again.",
            Error::TooNew(_) => "Update mainstay on this host.",
            Error::Random(_) | Error::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
