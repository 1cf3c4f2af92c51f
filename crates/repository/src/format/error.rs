//! Why bytes are not what they should be.

/// Bytes that are not of the format. Says what is wrong; the caller knows which object it read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub String);

impl FormatError {
    /// An error with this text.
    pub fn new(what: impl ToString) -> Self {
        FormatError(what.to_string())
    }
}

impl From<serde_json::Error> for FormatError {
    fn from(e: serde_json::Error) -> Self {
        FormatError(format!("not the JSON that it should be: {e}"))
    }
}

impl From<model::SealError> for FormatError {
    fn from(e: model::SealError) -> Self {
        FormatError(e.to_string())
    }
}
