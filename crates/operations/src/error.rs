//! What can go wrong with an operation.

use model::state::Refusal;
use model::{Class, Classify};
use std::io;
use std::path::Path;

/// A failed operation. The variants of other crates pass through whole, so that their class and
/// hint reach the person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] engines::Error),
    /// The vault's state failed or refused.
    #[error(transparent)]
    State(#[from] coordination::Error),
    /// Anything else, with its class.
    #[error("{message}")]
    Own {
        /// What the caller does next.
        class: Class,
        /// What failed, on what.
        message: String,
        /// What the user can do.
        hint: Option<String>,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
        /// A secret could not be fetched from where it is: whoever it is for was not asked.
        unfetched: bool,
    },
}

impl Error {
    /// An error of this class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        Error::Own { class, message, hint: None, source: None, unfetched: false }
    }

    /// The request cannot be.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Class::Invalid, message)
    }

    /// A rule that protects data says no.
    pub fn refused(message: impl Into<String>) -> Self {
        Error::new(Class::Refused, message)
    }

    /// Somebody asked for it to stop.
    pub fn cancelled() -> Self {
        Error::new(Class::Cancelled, "cancelled")
    }

    /// The operating system refused to do `what` with `path`.
    pub fn io(what: &str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let class = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::NoSpace,
            _ => Class::Failed,
        };
        Error::Own {
            class,
            message: format!("cannot {what} {}", path.as_ref().display()),
            hint: None,
            source: Some(Box::new(source)),
            unfetched: false,
        }
    }

    /// Says that it kept a secret from being fetched, which may go better another time: a key server is not
    /// up yet, a file system not mounted.
    pub(crate) fn of_fetching(mut self) -> Self {
        if let Error::Own { unfetched, .. } = &mut self {
            *unfetched = true;
        }
        self
    }

    /// Adds what the user can do, a sentence that begins with a verb. Errors of other crates have
    /// their own hints and keep them.
    pub fn hinting(mut self, text: impl Into<String>) -> Self {
        if let Error::Own { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// Adds the cause.
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        if let Error::Own { source, .. } = &mut self {
            *source = Some(cause.into());
        }
        self
    }

    /// The error and its causes in one line, for logs and journals.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            let inner_text = inner.to_string();
            if !text.ends_with(&inner_text) {
                text.push_str(": ");
                text.push_str(&inner_text);
            }
            cause = inner.source();
        }
        text
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::State(coordination::Error::Refused(refusal))
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Storage(e) => e.class(),
            Error::Repository(e) => e.class(),
            Error::Engine(e) => e.class(),
            Error::State(e) => e.class(),
            Error::Own { class, .. } => *class,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Storage(e) => e.hint(),
            Error::Repository(e) => e.hint(),
            Error::Engine(e) => e.hint(),
            Error::State(e) => e.hint(),
            Error::Own { hint, .. } => hint.clone(),
        }
    }
}
