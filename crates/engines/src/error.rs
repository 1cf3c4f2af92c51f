//! What can go wrong with an engine.

use model::{Class, Classify};
use std::io;

/// An engine's failure: what failed, on what, and where one can help, a hint.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Error { class, message: message.into(), hint: None, source: None }
    }

    /// The configuration asks for something that cannot be.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Class::Invalid, message)
    }

    /// Something that should have worked did not.
    pub fn failed(message: impl Into<String>) -> Self {
        Error::new(Class::Failed, message)
    }

    /// The operating system refused to do `what` with `object`.
    pub fn io(what: &str, object: impl std::fmt::Display, source: io::Error) -> Self {
        let class = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::NoSpace,
            _ => Class::Failed,
        };
        Error::new(class, format!("cannot {what} {object}")).because(source)
    }

    /// Adds the cause.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do, a sentence that begins with a verb.
    pub fn hinting(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        self.class
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
