//! What can go wrong with a repository.

use model::{Class, Classify};

/// A repository call that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no repository at this place.
    #[error("there is no repository at {0}")]
    NoRepository(String),
    /// There is one already.
    #[error("there is a repository at {0} already")]
    Exists(String),
    /// The password opens none of the keys.
    #[error("the password opens no key of the repository at {0}")]
    WrongPassword(String),
    /// Somebody holds a lock that excludes ours.
    #[error("the repository is locked: {0}")]
    Locked(String),
    /// There is a lock, but what it says cannot be read. Waiting does not help.
    #[error("{lock} cannot be read, so nobody knows who has the repository: {what}")]
    UnreadableLock {
        /// Which lock file.
        lock: String,
        /// What is wrong with it.
        what: String,
    },
    /// Stored bytes are not what was written.
    #[error("{object} is damaged: {what}")]
    Damaged {
        /// Which object (file, blob or path).
        object: String,
        /// What is wrong with it.
        what: String,
    },
    /// Something else is stored under the name already.
    #[error("{object}: {what}")]
    Conflict {
        /// Which object.
        object: String,
        /// What is wrong with it.
        what: String,
    },
    /// Something that should be there is not.
    #[error("{0}")]
    Missing(String),
    /// The format is not one that we know.
    #[error("{0}")]
    Unsupported(String),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A file or directory of this machine could not be read or written.
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
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Somebody asked for it to stop.
    #[error("cancelled")]
    Cancelled,
    /// What failed before, told again to everybody it concerns.
    #[error(transparent)]
    Earlier(std::sync::Arc<Error>),
}

impl Error {
    /// The same failure, for another one whom it concerns.
    pub(crate) fn earlier(failure: &std::sync::Arc<Error>) -> Self {
        match &**failure {
            Error::Cancelled => Error::Cancelled,
            _ => Error::Earlier(failure.clone()),
        }
    }

    /// Shorthand for damage.
    pub fn damaged(object: impl ToString, what: impl ToString) -> Self {
        Error::Damaged { object: object.to_string(), what: what.to_string() }
    }

    /// Shorthand for an operating system error.
    pub fn io(
        what: &'static str,
        path: impl AsRef<std::path::Path>,
        source: std::io::Error,
    ) -> Self {
        Error::Io { what, path: path.as_ref().display().to_string(), source }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::NoRepository(_) => Class::NoRepository,
            Error::WrongPassword(_) => Class::WrongPassword,
            Error::Locked(_) => Class::Locked,
            // Not `Locked`: whoever tries again later would do so for ever, and nobody would know.
            Error::Damaged { .. } | Error::UnreadableLock { .. } => Class::Corrupt,
            Error::Missing(_) | Error::Invalid(_) | Error::Unsupported(_) => Class::Invalid,
            Error::Exists(_) | Error::Conflict { .. } => Class::Refused,
            Error::Storage(e) => e.class(),
            Error::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Class::NoSpace
                }
                _ => Class::Failed,
            },
            Error::Cancelled => Class::Cancelled,
            Error::Earlier(failure) => failure.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::NoRepository(_) => {
                "Mount the vault if it is on a disk or share of its own; run `mainstay init` if there \
                 never was one."
            }
            Error::WrongPassword(_) => "Look whether the password file is this repository's.",
            Error::Locked(_) => {
                "Wait for the holder to finish; `mainstay unlock` removes the locks of those that are gone."
            }
            Error::UnreadableLock { .. } => {
                "Make sure that nobody works on this repository, restic neither, and remove the lock with \
                 `mainstay unlock`."
            }
            Error::Damaged { .. } => {
                "Run `mainstay check --read-data` to see all that is damaged, and then `mainstay repair`."
            }
            Error::Earlier(failure) => return failure.hint(),
            Error::Storage(failure) => return failure.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
