//! Snapshot files.

use super::time::Time;
use super::{FormatError, TreeId};
use serde::{Deserialize, Deserializer, Serialize};

/// One snapshot file, as JSON. Times are RFC 3339 text, kept as they were written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was made.
    pub time: String,
    /// The snapshot it is the successor of (64 hex digits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Root tree (64 hex digits).
    pub tree: String,
    /// The paths that were asked for.
    #[serde(default, deserialize_with = "list_or_null")]
    pub paths: Vec<String>,
    /// Host.
    pub hostname: String,
    /// User.
    #[serde(default)]
    pub username: String,
    /// User id.
    #[serde(default)]
    pub uid: u32,
    /// Group id.
    #[serde(default)]
    pub gid: u32,
    /// Patterns that were left out.
    #[serde(default, deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    /// Tags.
    #[serde(default, deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_version: Option<String>,
    /// Fields of other writers, kept.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// Go writes an empty list as `null`.
fn list_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Snapshot {
    /// Reads the JSON.
    pub fn decode(json: &[u8]) -> Result<Snapshot, FormatError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// The JSON.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// The root tree.
    pub fn tree_id(&self) -> Result<TreeId, FormatError> {
        self.tree.parse()
    }

    /// When it was made.
    pub fn taken(&self) -> Result<Time, FormatError> {
        self.time.parse()
    }
}
