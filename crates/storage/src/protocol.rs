//! What the two ends of a served vault share; `docs/formats/vault-protocol.md` is the description.

use crate::Key;
use serde::{Deserialize, Serialize};

/// The header that marks our dialect, in requests and answers.
pub(crate) const PROTOCOL: &str = "mainstay-protocol";

/// The version of our dialect.
pub(crate) const VERSION: &str = "1";

/// The header with the SHA-256 that a body must have.
pub(crate) const SHA256: &str = "mainstay-sha256";

/// restic's media types of listings.
pub(crate) const RESTIC_V1: &str = "application/vnd.x.restic.rest.v1";
pub(crate) const RESTIC_V2: &str = "application/vnd.x.restic.rest.v2";

/// How doctors call the objects with which they try a vault.
pub(crate) const PROBE: &str = "_mainstay-probe-";

/// One object of a listing.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Capabilities {
    pub(crate) protocol: u32,
    pub(crate) put_if_absent: bool,
    pub(crate) rights: Rights,
    pub(crate) free_bytes: Option<u64>,
}

/// The answer to a removal of leftovers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Leftovers {
    pub(crate) removed: u64,
}

/// What a client of a served vault may do; the later includes the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    /// Read.
    Read,
    /// Add objects, never change or remove one (but locks).
    Append,
    /// Everything.
    Full,
}

impl Rights {
    /// Their name, as user files and messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Rights::Read => "read",
            Rights::Append => "append",
            Rights::Full => "full",
        }
    }

    /// The rights of this name.
    pub fn named(name: &str) -> Option<Rights> {
        [Rights::Read, Rights::Append, Rights::Full].into_iter().find(|r| r.name() == name)
    }
}

/// restic's kinds of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Index,
    Keys,
    Locks,
    Snapshots,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Data, Kind::Index, Kind::Keys, Kind::Locks, Kind::Snapshots];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Data => "data",
            Kind::Index => "index",
            Kind::Keys => "keys",
            Kind::Locks => "locks",
            Kind::Snapshots => "snapshots",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A file of a restic repository. `repository` is empty or ends with a slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File<'a> {
    Config { repository: &'a str },
    Named { repository: &'a str, kind: Kind, name: &'a str },
}

impl<'a> File<'a> {
    /// The file that this key is, if it is one.
    pub(crate) fn of(key: &'a Key) -> Option<File<'a>> {
        let text = key.as_str();
        let (above, name) = split(text);
        if name == "config" {
            return Some(File::Config { repository: above });
        }
        if !is_name(name) {
            return None;
        }
        let (rest, kind) = split(above.trim_end_matches('/'));
        if let Some(kind) = Kind::named(kind)
            && kind != Kind::Data
        {
            return Some(File::Named { repository: rest, kind, name });
        }
        // `data/1a/1a…`
        let (repository, data) = split(rest.trim_end_matches('/'));
        (data == Kind::Data.name() && name.get(..2) == Some(kind)).then_some(File::Named {
            repository,
            kind: Kind::Data,
            name,
        })
    }

    /// The SHA-256, in hex, that its bytes must have.
    pub(crate) fn digest(&self) -> Option<&'a str> {
        match self {
            File::Config { .. } => None,
            File::Named { name, .. } => Some(name),
        }
    }

    /// Its path in restic's dialect.
    pub(crate) fn restic_path(&self) -> String {
        match self {
            File::Config { repository } => format!("{repository}config"),
            File::Named { repository, kind, name } => {
                format!("{repository}{}/{name}", kind.name())
            }
        }
    }
}

/// The text of the key of a named file. `repository` is empty or ends with a slash.
pub(crate) fn named_key(repository: &str, kind: Kind, name: &str) -> String {
    match kind {
        Kind::Data => format!("{repository}data/{}/{name}", name.get(..2).unwrap_or_default()),
        _ => format!("{repository}{}/{name}", kind.name()),
    }
}

/// Whether this is a SHA-256 as restic writes it.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The last part, and everything before it with its slash.
fn split(text: &str) -> (&str, &str) {
    match text.rfind('/') {
        Some(at) => text.split_at(at + 1),
        None => ("", text),
    }
}
