//! What the vault knows of a service: generation, members, head, intent, and the transitions
//! between one state and the next.
//!
//! Each transition is a pure function that either changes the state or says why it must not. The
//! `coordination` crate loads a state, applies one transition, and stores the result by
//! compare-and-set; two hosts that apply transitions at once cannot both win.

mod proofs;
mod refusal;
pub(crate) mod transitions;

pub use refusal::Refusal;

use crate::{
    ClusterId, Drill, Generation, MemberName, Position, RecoveryPoint, ServiceName, SnapshotId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The format number that this version writes.
pub const STATE_FORMAT: u32 = 1;

/// What a member is to its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The active copy. It exports. At most one member of a service has this role.
    Primary,
    /// The fallback. It imports.
    Standby,
    /// A primary that was taken over. It must not serve until someone decides.
    Broken,
}

/// A copy of the service on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Member {
    /// What it is now.
    pub role: Role,
    /// Since when it is that.
    pub since: Timestamp,
    /// The point it holds, if it is a standby that holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// A refresh is changing its copy at this moment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub importing: bool,
    /// Its own word that its service is stopped: what a planned takeover waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// `broken-20261121T010442Z`: the name that a broken member's copy goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// The point that a standby holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Applied {
    /// The snapshot that it was last brought to.
    pub snapshot: SnapshotId,
    /// Consistency time of what it holds, on the source.
    pub source_time: Timestamp,
    /// How far it has followed the log beyond the snapshot, if it follows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// When this was recorded.
    pub at: Timestamp,
}

/// A member's word that its service is stopped and everything of it is in the vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Stopped {
    /// The generation at which it stopped.
    pub generation: Generation,
    /// When.
    pub at: Timestamp,
    /// The last point, captured after the stop. Nothing is lost beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_point: Option<SnapshotId>,
    /// The last position in the log, archived after the stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_position: Option<Position>,
    /// There was nothing that could be stopped, as with a tree of files that anybody may write to:
    /// what is written there after this is in no point.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unguarded: bool,
}

/// The newest committed point: what a restore takes by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Head {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The generation at which it was committed.
    pub generation: Generation,
}

/// Planned takeovers lose nothing; unplanned ones lose what had not reached the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TakeoverKind {
    /// The old primary stops first and hands over its last point.
    Planned,
    /// The old primary is lost.
    Unplanned,
}

/// A takeover that was claimed and is not finished. While it stands nobody else can claim one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Intent {
    /// The operation that claimed it.
    pub id: String,
    /// Planned or unplanned.
    pub kind: TakeoverKind,
    /// The primary to be replaced.
    pub from: Option<MemberName>,
    /// The standby that becomes the primary.
    pub to: MemberName,
    /// The generation that it was claimed at.
    pub generation: Generation,
    /// When.
    pub claimed: Timestamp,
    /// What proves that the old primary does not serve; none until it is fenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<FenceProof>,
    /// Gates that a person overrode, by name, with the reason they typed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, String>,
    /// The generation was raised; the rest can only go forward.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raised: bool,
}

/// Why it is believed that the old primary does not serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FenceProof {
    /// The old primary recorded that it is stopped.
    Stopped,
    /// The fence hook said so.
    Hook {
        /// The command, as configured.
        command: String,
    },
    /// A person said so.
    Override {
        /// The reason they typed.
        reason: String,
    },
    /// There was no primary.
    NoPrimary,
}

/// A takeover that was finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PastTakeover {
    /// The generation that it began.
    pub generation: Generation,
    /// When the generation was raised.
    pub at: Timestamp,
    /// The intent as it stood.
    pub intent: Intent,
    /// The head that the new primary started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<SnapshotId>,
    /// From its begin until the new primary served, in milliseconds, without the time that was spent
    /// waiting for somebody to stop the old one. None if it did not start, or was brought to its end by
    /// another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_millis: Option<u64>,
}

/// The last drill of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LastDrill {
    /// The point.
    pub snapshot: SnapshotId,
    /// The point's consistency time.
    pub source_time: Timestamp,
    /// What came of it.
    pub drill: Drill,
}

/// Everything the vault knows of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServiceState {
    /// Format number of this object.
    pub format: u32,
    /// The repository's id: a state copied from another service's vault is refused.
    pub repository: String,
    /// The service.
    pub service: ServiceName,
    /// Grows with every takeover.
    pub generation: Generation,
    /// The primary, if there is one.
    #[serde(default)]
    pub primary: Option<MemberName>,
    /// All members by name.
    #[serde(default)]
    pub members: BTreeMap<MemberName, Member>,
    /// The newest whole point.
    #[serde(default)]
    pub head: Option<Head>,
    /// Every committed point, in the order of their commits.
    #[serde(default)]
    pub points: Vec<RecoveryPoint>,
    /// The database clusters of which there were points. One of which there are none any more needs
    /// nothing of its log.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub clusters: BTreeSet<ClusterId>,
    /// Those of which the last points were given up as lost: their log may be all that is left of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost: BTreeSet<ClusterId>,
    /// The database cluster that the primary wrote last, as far as it has said so with what it stored: a
    /// point, or a piece of its log. It may be another than that of any point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<ClusterId>,
    /// The last drill of any point. It outlives the point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drill: Option<LastDrill>,
    /// The takeover under way.
    #[serde(default)]
    pub intent: Option<Intent>,
    /// Takeovers of the past, oldest first.
    #[serde(default)]
    pub takeovers: Vec<PastTakeover>,
}

impl ServiceState {
    /// The state of a service that nobody has joined.
    pub fn new(repository: String, service: ServiceName) -> Self {
        ServiceState {
            format: STATE_FORMAT,
            repository,
            service,
            generation: Generation::FIRST,
            primary: None,
            members: BTreeMap::new(),
            head: None,
            points: Vec::new(),
            clusters: BTreeSet::new(),
            lost: BTreeSet::new(),
            written: None,
            last_drill: None,
            intent: None,
            takeovers: Vec::new(),
        }
    }

    /// The point with this id.
    pub fn point(&self, id: SnapshotId) -> Option<&RecoveryPoint> {
        self.points.iter().find(|point| point.snapshot == id)
    }

    /// The point that the head names.
    pub fn head_point(&self) -> Option<&RecoveryPoint> {
        self.point(self.head?.snapshot)
    }

    /// Whether this member may serve: what stands before every start of its service. A member that
    /// is stopped takes that back ([`stopped`](ServiceState::stopped) with `None`) before it starts.
    pub fn may_serve(&self, member: &MemberName) -> Result<(), Refusal> {
        self.require_primary(member, self.generation)?;
        self.not_barred(member)?;
        match self.primary_stopped() {
            Some(_) => Err(Refusal::Stopped(member.clone())),
            None => Ok(()),
        }
    }

    /// Refuses to let a primary start that a takeover counts on not to serve. An unplanned one bars
    /// it from its claim on: between the fence hook and the record of it, a host that was reset
    /// could come back.
    fn not_barred(&self, member: &MemberName) -> Result<(), Refusal> {
        match &self.intent {
            Some(intent)
                if intent.from.as_ref() == Some(member)
                    && (intent.fenced.is_some() || intent.kind == TakeoverKind::Unplanned) =>
            {
                Err(Refusal::Fenced { member: member.clone(), id: intent.id.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The primary's own word that it is stopped, if it gave it at this generation.
    pub fn primary_stopped(&self) -> Option<&Stopped> {
        let stopped = self.members.get(self.primary.as_ref()?)?.stopped.as_ref()?;
        (stopped.generation == self.generation).then_some(stopped)
    }
}

impl Member {
    /// A member that has just got this role.
    pub fn new(role: Role, since: Timestamp) -> Self {
        Member { role, since, applied: None, importing: false, stopped: None, label: None }
    }
}
