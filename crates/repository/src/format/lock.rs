//! Lock files.

use super::FormatError;
use super::time::Time;
use serde::{Deserialize, Serialize};

/// Who holds the repository, since when, and whether alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// When it was taken or last refreshed.
    pub time: Time,
    /// Nobody else may work while it is there.
    pub exclusive: bool,
    /// The holder's host.
    #[serde(default)]
    pub hostname: String,
    /// The holder's user.
    #[serde(default)]
    pub username: String,
    /// The holder's process.
    #[serde(default)]
    pub pid: i64,
    /// The holder's user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The holder's group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

impl Lock {
    /// Reads the JSON.
    pub fn decode(json: &[u8]) -> Result<Lock, FormatError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// The JSON.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        Ok(serde_json::to_vec(self)?)
    }
}
