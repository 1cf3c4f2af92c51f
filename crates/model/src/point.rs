//! Recovery points: what a restore can reach. One model over all engines.

use crate::{Generation, MemberName};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The SHA-256 of a snapshot file, as restic names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub [u8; 32]);

impl SnapshotId {
    /// The first eight hex digits, enough for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({self})")
    }
}

impl FromStr for SnapshotId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut id = [0; 32];
        hex::decode_to_slice(text, &mut id)
            .map_err(|_| format!("{text:?} is not a snapshot id of 64 hex digits"))?;
        Ok(SnapshotId(id))
    }
}

impl Serialize for SnapshotId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A database cluster: all copies of what was made once, by `initdb` or by an upgrade, and nothing else.
/// PostgreSQL's system identifier. Its copies share a log; no other cluster's log leads on from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ClusterId {
    type Err = String;
    /// Takes only what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, String> {
        let id = text.parse().ok().map(ClusterId).filter(|id| id.to_string() == text);
        id.ok_or_else(|| format!("{text:?} is no system identifier of a database cluster"))
    }
}

impl Serialize for ClusterId {
    // As a number it would be rounded by whoever reads JSON with floats.
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A place in the engine's own log that a copy can catch up from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Position {
    /// A PostgreSQL timeline and log sequence number.
    Lsn {
        /// Timeline, from 1.
        timeline: u32,
        /// Byte position in the log.
        lsn: u64,
    },
    /// A MariaDB global transaction id set.
    Gtid {
        /// As the server prints it.
        set: String,
    },
    /// Anything else: what the engine prints, opaque to everybody but itself.
    Other {
        /// The engine's own words.
        text: String,
    },
}

impl Position {
    /// Whether a copy that is here has everything up to `goal`; none if the two cannot be compared
    /// (other kinds, other timelines, sets that differ).
    pub fn reached(&self, goal: &Position) -> Option<bool> {
        match (self, goal) {
            (
                Position::Lsn { timeline, lsn },
                Position::Lsn { timeline: goal_timeline, lsn: goal_lsn },
            ) => (timeline == goal_timeline).then_some(lsn >= goal_lsn),
            _ => (self == goal).then_some(true),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // PostgreSQL's own notation: the halves of the 64 bits, in hex.
            Position::Lsn { timeline, lsn } => {
                write!(f, "{timeline}/{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
            }
            Position::Gtid { set } => f.write_str(set),
            Position::Other { text } => f.write_str(text),
        }
    }
}

/// One point of a service's history, as the vault's state records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RecoveryPoint {
    /// The snapshot that holds it.
    pub snapshot: SnapshotId,
    /// The engine that captured it.
    pub engine: String,
    /// The generation of the primary that captured it.
    pub generation: Generation,
    /// The member that captured it.
    pub member: MemberName,
    /// Consistency time on the source: the state of the service at this instant is what the
    /// snapshot holds.
    pub source_time: Timestamp,
    /// When the vault had all of it.
    pub received: Timestamp,
    /// When a check last read its bytes and found them whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// When a drill last proved it restorable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drilled: Option<Timestamp>,
    /// Its last drill, whatever came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
    /// Log position, where the engine has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The database cluster, where the engine tells one from another. Positions of two clusters say
    /// nothing of each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// Bytes of the service at this point.
    pub size_bytes: u64,
    /// Bytes that this point added to the vault.
    pub added_bytes: u64,
    /// Something of the source could not be read: listed and restorable by name, never the head.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// Kept whatever the retention says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Words that people gave it. Not those in the snapshot's own file: to change these the file
    /// would have to be another, with another id, and standbys and takeovers know it by this one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
}

/// That the bytes of a point were read in the vault, and are what was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Verified {
    /// When.
    pub at: Timestamp,
    /// Which part of the vault was read, `2/7` or `5%`; all of it without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

/// One drill: a point was restored to a scratch place, and judged there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Drill {
    /// When it ended.
    pub at: Timestamp,
    /// The member on whose host it was.
    pub member: MemberName,
    /// The copy was sound, and gave the expected answer.
    pub sound: bool,
    /// Milliseconds from the begin of the restore until the copy answered; of one that never did,
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_millis: Option<u64>,
    /// Nothing of it could reach the network.
    pub isolated: bool,
}

/// A change of the tags of a point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TagChange {
    /// These and no others, before anything is added or removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<BTreeSet<String>>,
    /// These too.
    pub add: BTreeSet<String>,
    /// Not these.
    pub remove: BTreeSet<String>,
}

impl TagChange {
    /// The tags afterwards.
    pub fn apply(&self, tags: &BTreeSet<String>) -> BTreeSet<String> {
        let mut changed = self.set.as_ref().unwrap_or(tags).clone();
        changed.extend(self.add.iter().cloned());
        changed.retain(|tag| !self.remove.contains(tag));
        changed
    }
}

impl RecoveryPoint {
    /// The name that people see and type.
    pub fn name(&self) -> PointName {
        PointName::of(self.source_time, &self.engine, self.snapshot)
    }
}

/// `20261121T010442Z-files-1a2b3c4d`: sorts by age, tells the engine, and ends in the short
/// snapshot id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PointName(String);

impl PointName {
    /// Builds the name from its three parts.
    pub fn of(source_time: Timestamp, engine: &str, snapshot: SnapshotId) -> Self {
        let time = source_time.strftime("%Y%m%dT%H%M%SZ");
        PointName(format!("{time}-{engine}-{}", snapshot.short()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
