//! What is asked for, and what the candidate's host sees.

use jiff::Timestamp;
use model::state::TakeoverKind;
use model::{Generation, MemberName, Position, ServiceState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// Planned or unplanned.
    pub kind: TakeoverKind,
    /// The member that is to become the primary.
    pub to: MemberName,
    /// Gates to override, by name, each with the reason that a person typed.
    #[serde(default)]
    pub overrides: BTreeMap<String, String>,
    /// What the person was shown when they asked.
    pub seen: Seen,
    /// Unplanned only: promote what the candidate holds now, without fetching what the vault has
    /// beyond it.
    #[serde(default)]
    pub as_is: bool,
}

/// What somebody was shown when they asked for a takeover. "The primary is surely off" was said of
/// the primary of that moment, and must not be held against the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Seen {
    /// The generation.
    pub generation: Generation,
    /// The takeover that was under way, if there was one.
    #[serde(default)]
    pub intent: Option<String>,
}

impl Seen {
    /// What this state shows.
    pub fn of(state: &ServiceState) -> Seen {
        let intent = state.intent.as_ref().map(|intent| intent.id.clone());
        Seen { generation: state.generation, intent }
    }
}

/// What the candidate's host sees of itself, and has heard of the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Observation {
    /// The member on this host.
    pub member: MemberName,
    /// Whether there is data at all.
    pub has_data: bool,
    /// Whether the service runs here.
    pub running: Running,
    /// It runs, follows a primary and refuses writes.
    pub following: bool,
    /// Where it is in the engine's log.
    pub position: Option<Position>,
    /// Up to when it has replayed what its source wrote: the time of the newest transaction, or, if it is
    /// where the log ended later, when that was.
    pub replayed: Option<Timestamp>,
    /// Up to when the log in the vault brings a copy that does not follow it by itself, beyond the
    /// newest point.
    pub log_until: Option<Timestamp>,
    /// A refresh is changing the copy at this moment, or was cut short and not repaired.
    pub importing: bool,
    /// What runs on this host and is stopped before the takeover begins, by name. What it was doing to
    /// the copy has come to an end by then, and the copy is looked at once more.
    #[serde(default)]
    pub gives_way: Option<String>,
    /// Whether somebody wrote to the copy since the last refresh.
    pub copy: CopyState,
    /// The fence hook, if one is configured.
    pub fence_hook: Option<String>,
    /// What is known of the old primary, besides what the state says.
    pub primary: Sighting,
}

/// Whether a service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Running {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// There is no way to tell.
    Unknown,
}

/// Whether a copy is what the last refresh left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyState {
    /// It was compared and is untouched.
    Untouched,
    /// It was written to.
    Modified {
        /// A few of the differences, for people.
        examples: Vec<String>,
    },
    /// The engine keeps a copy that changes by itself, or cannot tell.
    NotComparable,
}

/// What is known of the old primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sighting {
    /// Nobody asked, or nobody answered. That proves nothing.
    Unknown,
    /// It answered.
    Alive {
        /// Who saw it: a host, a monitor.
        by: String,
    },
}
