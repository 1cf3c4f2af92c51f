//! Object keys: relative paths that cannot leave their root.

use crate::local::TEMPORARY;
use crate::{Error, ErrorKind};
use std::fmt;

/// `data/1a/1a2b…`: parts of letters, digits, `.`, `_`, `-`, `+`, `=`, `@`, parted by slashes; no
/// part is empty, `.` or `..`, has more than 255 bytes, or looks like a temporary file of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// The text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a storage key")]
pub struct KeyError(String);

impl Key {
    /// Checks and wraps a key.
    pub fn new(text: impl Into<String>) -> Result<Key, KeyError> {
        let text = text.into();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+=@".contains(&b);
        let good_part = |part: &str| {
            (1..=255).contains(&part.len())
                && part != "."
                && part != ".."
                && !part.starts_with(TEMPORARY)
                && part.bytes().all(plain)
        };
        if text.len() <= 512 && text.split('/').all(good_part) {
            Ok(Key(text))
        } else {
            Err(KeyError(text))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last slash.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a listing may be asked for: nothing, or a key.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), Error> {
    if prefix.is_empty() {
        return Ok(());
    }
    Key::new(prefix).map(|_| ()).map_err(|e| Error::new(ErrorKind::Invalid, "list", e))
}
