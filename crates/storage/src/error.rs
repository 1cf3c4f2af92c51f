//! What can go wrong with a storage, split by what the caller does next.

use model::{Class, Classify};
use std::io;

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such object.
    NotFound,
    /// The object is shorter than what was asked of it.
    Truncated,
    /// The other side refuses us.
    Permission,
    /// No space, or over quota.
    NoSpace,
    /// No answer; trying again may help.
    Unavailable,
    /// Somebody asked for it to stop.
    Cancelled,
    /// The place cannot do what is needed of it.
    Unfit,
    /// The request makes no sense.
    Invalid,
    /// Anything else.
    Failed,
}

/// A storage call that failed, with the object it failed on.
#[derive(Debug, thiserror::Error)]
#[error("{object}: {message}")]
pub struct Error {
    kind: ErrorKind,
    object: String,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<io::Error>,
}

impl Error {
    /// An error with no cause of its own.
    pub fn new(kind: ErrorKind, object: impl ToString, message: impl ToString) -> Self {
        Error {
            kind,
            object: object.to_string(),
            message: message.to_string(),
            hint: None,
            source: None,
        }
    }

    /// An error of the operating system, while doing `what` with `object`.
    pub fn io(object: impl ToString, what: &str, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
            io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => ErrorKind::Invalid,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::Permission
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::UnexpectedEof => ErrorKind::Truncated,
            io::ErrorKind::TimedOut | io::ErrorKind::StaleNetworkFileHandle => {
                ErrorKind::Unavailable
            }
            _ => ErrorKind::Failed,
        };
        Error {
            kind,
            object: object.to_string(),
            message: format!("cannot {what}"),
            hint: None,
            source: Some(source),
        }
    }

    /// Adds what the user can do, a sentence that begins with a verb.
    pub fn hinting(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self.kind {
            ErrorKind::NoSpace => Class::NoSpace,
            ErrorKind::Unavailable => Class::Unavailable,
            ErrorKind::Cancelled => Class::Cancelled,
            ErrorKind::Unfit => Class::Refused,
            ErrorKind::Truncated => Class::Corrupt,
            ErrorKind::Invalid => Class::Invalid,
            _ => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self.kind {
            _ if self.hint.is_some() => self.hint.clone(),
            ErrorKind::NoSpace => Some(
                "Free space there, or remove history with `mainstay forget SERVICE --prune`."
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
