//! What a capture notes for the restore.

use crate::{Error, SnapshotMeta};
use jiff::Timestamp;
use model::Class;
use serde::{Deserialize, Serialize};

/// Kept in `SnapshotMeta::detail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Detail {
    /// As text: it is larger than what many readers of JSON can count to.
    pub(super) system_identifier: String,
    /// The timeline that was captured.
    pub(super) timeline: u32,
    /// From where the base is replayed.
    pub(super) start: String,
    /// Up to where it has to be replayed to be consistent.
    pub(super) stop: String,
    /// Everything that the base holds was committed before this: replay can stop at no earlier
    /// time.
    pub(super) consistent_at: Timestamp,
    /// Bytes of a segment.
    pub(super) segment_size: u64,
    /// The bootstrap superuser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) superuser: Option<String>,
    /// Tablespaces, which the snapshot holds inside the data directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tablespaces: Vec<Tablespace>,
    /// The server has the setting that allows them there.
    #[serde(default)]
    pub(super) in_place_tablespaces: bool,
    /// `off`, `on` or `always`; none if the server could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) archive_mode: Option<String>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) listen_addresses: Option<String>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shared_preload_libraries: Option<String>,
}

/// A tablespace of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Tablespace {
    /// Its object id.
    pub(super) oid: u32,
    /// Where it was on the source.
    pub(super) location: String,
}

impl Detail {
    /// For [`crate::Captured`].
    pub(super) fn to_json(&self) -> Result<serde_json::Value, Error> {
        serde_json::to_value(self)
            .map_err(|e| Error::failed("cannot note what was captured").because(e))
    }

    /// Reads it back from a snapshot.
    pub(super) fn of(meta: &SnapshotMeta) -> Result<Detail, Error> {
        serde_json::from_value(meta.detail.clone()).map_err(|e| {
            Error::new(Class::Corrupt, "the snapshot does not tell what a restore needs to know")
                .because(e)
        })
    }
}
