//! What the vault knows of a service: generation, members, head, intent, and the transitions
//! between one state and the next.
//!
//! Each transition is a pure function that either changes the state or says why it must not. The
//! `coordination` crate loads a state, applies one transition, and stores the result by
//! compare-and-set; two hosts that apply transitions at once cannot both win.

use crate::{
    Class, Classify, Generation, MemberName, Position, RecoveryPoint, ServiceName, SnapshotId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format number that this version writes.
pub const STATE_FORMAT: u32 = 1;

/// How many past takeovers the state remembers.
const TAKEOVERS_KEPT: usize = 32;

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
    /// The takeover under way.
    #[serde(default)]
    pub intent: Option<Intent>,
    /// Takeovers of the past, oldest first.
    #[serde(default)]
    pub takeovers: Vec<PastTakeover>,
}

/// Why a transition must not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An older generation tries to write.
    #[error(
        "{member} is at generation {theirs}, but the service is at generation {current}: it was taken over"
    )]
    OldGeneration {
        /// Who tried.
        member: MemberName,
        /// The generation it believes in.
        theirs: Generation,
        /// The one that holds.
        current: Generation,
    },
    /// Only the primary may do this.
    #[error("{member} is not the primary of this service ({})", match .primary { Some(p) => format!("that is {p}"), None => "it has none".to_owned() })]
    NotPrimary {
        /// Who tried.
        member: MemberName,
        /// Who is.
        primary: Option<MemberName>,
    },
    /// The service has a primary already.
    #[error("the service has a primary already: {0}")]
    HasPrimary(MemberName),
    /// The member is not known.
    #[error("{0} is not a member of this service")]
    NoSuchMember(MemberName),
    /// The member has another role than this needs.
    #[error("{member} is {role:?}, which does not allow this")]
    WrongRole {
        /// Which member.
        member: MemberName,
        /// The role it has.
        role: Role,
    },
    /// Somebody else's takeover is under way.
    #[error("a takeover to {to} is under way, claimed {claimed} as {id}")]
    TakeoverUnderWay {
        /// Its operation.
        id: String,
        /// The member that becomes primary.
        to: MemberName,
        /// Since when.
        claimed: Timestamp,
    },
    /// The intent is not there or is another one.
    #[error("the takeover {0} is not the one under way")]
    NoSuchIntent(String),
    /// The old primary is not proven stopped.
    #[error("the old primary is not fenced")]
    NotFenced,
    /// The generation was raised: only forward from here.
    #[error("the takeover {0} has raised the generation and can only go forward")]
    PointOfNoReturn(String),
    /// An incomplete point cannot become the head.
    #[error("an incomplete point cannot become the head")]
    Incomplete,
}

impl Classify for Refusal {
    fn class(&self) -> Class {
        match self {
            Refusal::TakeoverUnderWay { .. } => Class::Locked,
            _ => Class::Refused,
        }
    }
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

    /// A host joins in the role its config gives it. A member that is known keeps the role the
    /// state has: the role in the config is only the first one.
    pub fn join(
        &mut self,
        member: &MemberName,
        role: Role,
        now: Timestamp,
    ) -> Result<Role, Refusal> {
        if let Some(known) = self.members.get(member) {
            return Ok(known.role);
        }
        if role == Role::Primary {
            if let Some(primary) = &self.primary {
                return Err(Refusal::HasPrimary(primary.clone()));
            }
            // A service whose generation was raised had a primary once; a newcomer must not
            // become one by a line in a config file.
            if self.generation > Generation::FIRST {
                return Err(Refusal::WrongRole { member: member.clone(), role });
            }
            self.primary = Some(member.clone());
        }
        self.members.insert(member.clone(), Member::new(role, now));
        Ok(role)
    }

    /// Refuses whoever is not the primary at the current generation.
    pub fn require_primary(&self, member: &MemberName, at: Generation) -> Result<(), Refusal> {
        if at < self.generation {
            return Err(Refusal::OldGeneration {
                member: member.clone(),
                theirs: at,
                current: self.generation,
            });
        }
        if self.primary.as_ref() != Some(member) {
            return Err(Refusal::NotPrimary {
                member: member.clone(),
                primary: self.primary.clone(),
            });
        }
        Ok(())
    }

    /// A backup becomes history: the point is recorded, and is the head if it is whole.
    pub fn commit(&mut self, point: RecoveryPoint) -> Result<(), Refusal> {
        self.require_primary(&point.member, point.generation)?;
        if self.point(point.snapshot).is_some() {
            return Ok(());
        }
        if !point.incomplete {
            self.head = Some(Head { snapshot: point.snapshot, generation: point.generation });
        }
        self.points.push(point);
        Ok(())
    }

    /// A standby says what it holds now; the refresh is over.
    pub fn applied(
        &mut self,
        member: &MemberName,
        applied: Option<Applied>,
    ) -> Result<(), Refusal> {
        let entry = self.standby_mut(member)?;
        entry.applied = applied;
        entry.importing = false;
        Ok(())
    }

    /// A standby says that its copy is being changed.
    pub fn importing(&mut self, member: &MemberName) -> Result<(), Refusal> {
        self.standby_mut(member)?.importing = true;
        Ok(())
    }

    /// The primary says that it is stopped (or, with `None`, that it serves again).
    pub fn stopped(
        &mut self,
        member: &MemberName,
        stopped: Option<Stopped>,
    ) -> Result<(), Refusal> {
        let generation = stopped.as_ref().map_or(self.generation, |s| s.generation);
        self.require_primary(member, generation)?;
        // Once a takeover counts on the stop, serving again would be a second primary.
        if let (None, Some(intent)) = (&stopped, &self.intent)
            && intent.fenced == Some(FenceProof::Stopped)
        {
            return Err(self.under_way(intent));
        }
        if let Some(entry) = self.members.get_mut(member) {
            entry.stopped = stopped;
        }
        Ok(())
    }

    /// Claims the takeover. Two candidates: one wins. The same operation may claim again.
    pub fn claim(&mut self, intent: Intent) -> Result<(), Refusal> {
        if let Some(standing) = &self.intent {
            if standing.id == intent.id {
                return Ok(());
            }
            return Err(self.under_way(standing));
        }
        if intent.generation != self.generation {
            return Err(Refusal::OldGeneration {
                member: intent.to,
                theirs: intent.generation,
                current: self.generation,
            });
        }
        self.standby_mut(&intent.to)?;
        self.intent = Some(intent);
        Ok(())
    }

    /// Records why the old primary is believed not to serve.
    pub fn fenced(&mut self, id: &str, proof: FenceProof) -> Result<(), Refusal> {
        let intent = self.intent_mut(id)?;
        if intent.fenced.is_none() {
            intent.fenced = Some(proof);
        }
        Ok(())
    }

    /// Gives the claim back. Impossible once the generation was raised.
    pub fn abandon(&mut self, id: &str) -> Result<(), Refusal> {
        if self.intent_mut(id)?.raised {
            return Err(Refusal::PointOfNoReturn(id.to_owned()));
        }
        self.intent = None;
        Ok(())
    }

    /// The point of no return: a new generation, a new primary, and the old one broken.
    pub fn raise(&mut self, id: &str, now: Timestamp) -> Result<Generation, Refusal> {
        let generation = self.generation.next();
        let intent = self.intent_mut(id)?;
        if intent.raised {
            return Ok(self.generation);
        }
        if intent.fenced.is_none() {
            return Err(Refusal::NotFenced);
        }
        let (to, from) = (intent.to.clone(), intent.from.clone());
        self.standby_mut(&to)?;
        if let Some(intent) = &mut self.intent {
            intent.raised = true;
        }
        if let Some(old) = from.as_ref().and_then(|from| self.members.get_mut(from)) {
            *old = Member {
                label: Some(format!("broken-{}", now.strftime("%Y%m%dT%H%M%SZ"))),
                stopped: old.stopped.clone(),
                ..Member::new(Role::Broken, now)
            };
        }
        if let Some(new) = self.members.get_mut(&to) {
            // What it held when it took over stays recorded: it is the proof of what was lost.
            let applied = new.applied.take();
            *new = Member { applied, ..Member::new(Role::Primary, now) };
        }
        self.primary = Some(to);
        self.generation = generation;
        Ok(generation)
    }

    /// The takeover is done: promoted, hooks run.
    pub fn finish(&mut self, id: &str, now: Timestamp) -> Result<(), Refusal> {
        let intent = self.intent_mut(id)?;
        if !intent.raised {
            return Err(Refusal::NotFenced);
        }
        let intent = intent.clone();
        self.intent = None;
        self.takeovers.push(PastTakeover {
            generation: self.generation,
            at: now,
            intent,
            head: self.head.map(|head| head.snapshot),
        });
        let surplus = self.takeovers.len().saturating_sub(TAKEOVERS_KEPT);
        self.takeovers.drain(..surplus);
        Ok(())
    }

    /// Someone has decided: a broken member becomes a standby with nothing on it.
    pub fn rejoin(&mut self, member: &MemberName, now: Timestamp) -> Result<(), Refusal> {
        match self.members.get_mut(member) {
            None => Err(Refusal::NoSuchMember(member.clone())),
            Some(entry) if entry.role == Role::Primary => {
                Err(Refusal::WrongRole { member: member.clone(), role: entry.role })
            }
            Some(entry) => {
                *entry = Member::new(Role::Standby, now);
                Ok(())
            }
        }
    }

    fn standby_mut(&mut self, member: &MemberName) -> Result<&mut Member, Refusal> {
        match self.members.get_mut(member) {
            None => Err(Refusal::NoSuchMember(member.clone())),
            Some(entry) if entry.role != Role::Standby => {
                Err(Refusal::WrongRole { member: member.clone(), role: entry.role })
            }
            Some(entry) => Ok(entry),
        }
    }

    fn intent_mut(&mut self, id: &str) -> Result<&mut Intent, Refusal> {
        match &mut self.intent {
            Some(intent) if intent.id == id => Ok(intent),
            _ => Err(Refusal::NoSuchIntent(id.to_owned())),
        }
    }

    fn under_way(&self, intent: &Intent) -> Refusal {
        Refusal::TakeoverUnderWay {
            id: intent.id.clone(),
            to: intent.to.clone(),
            claimed: intent.claimed,
        }
    }
}

impl Member {
    /// A member that has just got this role.
    pub fn new(role: Role, since: Timestamp) -> Self {
        Member { role, since, applied: None, importing: false, stopped: None, label: None }
    }
}
