//! Why a transition must not be made.

use super::Role;
use crate::{Class, Classify, Generation, MemberName, SnapshotId};
use jiff::Timestamp;

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
    /// A newer generation than the vault's.
    #[error(
        "{member} is at generation {theirs}, but the service is only at generation {current}: this is an older copy of the vault, or another one"
    )]
    FutureGeneration {
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
    /// The vault's state is what members go by, not a copy of another's.
    #[error("the vault is in use by {0}")]
    HasMembers(MemberName),
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
    /// The takeover was claimed against another primary than there is.
    #[error("the takeover {0} was claimed against another primary than the service has")]
    OtherPrimary(String),
    /// The old primary is not proven stopped.
    #[error("the old primary is not fenced")]
    NotFenced,
    /// A stop is taken as proof that the primary has not recorded.
    #[error("{0} has not recorded that it is stopped at this generation")]
    NotStopped(MemberName),
    /// A planned takeover knows that nothing is lost; a hook or a person cannot.
    #[error("a planned takeover needs the old primary's own word that it is stopped")]
    PlannedNeedsStop,
    /// A takeover counts on this member not to serve, and not to add to the history.
    #[error("the takeover {id} counts on {member} not to serve")]
    Fenced {
        /// Who tried.
        member: MemberName,
        /// The takeover's operation.
        id: String,
    },
    /// The member recorded that it is stopped.
    #[error("{0} is recorded as stopped")]
    Stopped(MemberName),
    /// The member that is to become the primary holds no point.
    #[error("{0} holds no point that it could serve")]
    NothingApplied(MemberName),
    /// The member that is to become the primary holds half of one point and half of another.
    #[error("a refresh of {0} was begun and is not finished, so its copy is neither old nor new")]
    Importing(MemberName),
    /// The takeover has not got that far.
    #[error("the takeover {0} has not raised the generation yet")]
    NotRaised(String),
    /// The generation was raised: only forward from here.
    #[error("the takeover {0} has raised the generation and can only go forward")]
    PointOfNoReturn(String),
    /// The point is not in the history.
    #[error("there is no point {id} in the history", id = .0.short())]
    NoSuchPoint(SnapshotId),
    /// Somebody needs the point.
    #[error("the point {id} cannot be removed: {why}", id = .point.short())]
    Needed {
        /// Which point.
        point: SnapshotId,
        /// Who needs it, as a sentence.
        why: String,
    },
}

impl Classify for Refusal {
    fn class(&self) -> Class {
        match self {
            Refusal::TakeoverUnderWay { .. } => Class::Locked,
            _ => Class::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Refusal::OldGeneration { .. } => {
                "Let this host rejoin as a standby: `mainstay rejoin SERVICE`."
            }
            Refusal::TakeoverUnderWay { .. } => {
                "Wait for it, finish it on that host, or let it be abandoned."
            }
            Refusal::Stopped(_) => "Run `mainstay online SERVICE`.",
            Refusal::Importing(_) | Refusal::NothingApplied(_) => {
                "Run `mainstay refresh SERVICE` there first."
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
