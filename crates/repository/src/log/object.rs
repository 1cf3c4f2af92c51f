//! One object of the log as bytes.

use super::name::LogKey;
use super::sealed::{Form, MAX_CONTENT};
use crate::Error;
use model::Seal;
use std::fmt::Display;

/// Its numbers: generation, and length of the content.
const FORM: Form<2> = Form { magic: *b"MSTYLOG\x01", what: "an object of the log" };

/// How hard a file of the log is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// As far as pays: more costs more than sealing and storing what it would save.
    Usual,
    /// For a server that writes so much that it needs its processors: half the time of the usual, for
    /// some 1.2 to 1.5 times the bytes.
    Little,
}

impl Effort {
    /// zstd's level. A negative one is called "fast".
    fn level(self) -> i32 {
        match self {
            Effort::Usual => 3,
            Effort::Little => -1,
        }
    }
}

pub(super) fn encode(
    seal: &dyn Seal,
    key: &LogKey,
    content: &[u8],
    effort: Effort,
) -> Result<Vec<u8>, Error> {
    let length = content.len() as u64;
    if length > MAX_CONTENT {
        return Err(Error::Invalid(format!(
            "{} has {length} bytes; the log takes files of up to {MAX_CONTENT}",
            key.name()
        )));
    }
    FORM.encode(seal, &key.sealed(), [key.generation().0, length], content, effort.level())
}

pub(super) fn decode(seal: &dyn Seal, key: &LogKey, stored: &[u8]) -> Result<Vec<u8>, Error> {
    let at = key.storage_key()?;
    let opened = FORM.open(seal, &at as &dyn Display, stored)?;
    let [generation, length] = opened.numbers;
    if opened.name() != key.sealed().as_bytes() || generation != key.generation().0 {
        return Err(opened.damaged(format!(
            "it holds {:?} of generation {generation} instead",
            String::from_utf8_lossy(opened.name()),
        )));
    }
    if length > MAX_CONTENT {
        return Err(opened.damaged("its header is wrong"));
    }
    opened.content(length)
}
