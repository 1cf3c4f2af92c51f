//! The steps that are still to do, computed anew from the state each time.

use crate::Gate;
use crate::assess::View;
use jiff::Timestamp;
use model::state::{Applied, FenceProof, TakeoverKind};
use model::{MemberName, Position, RecoveryPoint, SnapshotId};
use serde::Serialize;
use std::cmp::Ordering;
use std::fmt;

/// One step. Doing it twice does no more than doing it once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Give back a claim that has not raised the generation.
    Abandon {
        /// Its operation.
        id: String,
    },
    /// Close somebody else's takeover that raised the generation and was never finished.
    FinishStanding {
        /// Its operation.
        id: String,
    },
    /// Claim the takeover by compare-and-set; see [`crate::Assessment::intent`].
    Claim,
    /// Wait until the old primary has stopped and recorded its last point. Nothing but its own host
    /// can do that.
    AwaitStop {
        /// The primary.
        primary: MemberName,
    },
    /// Make sure that the old primary does not serve, and record why that is believed.
    Fence {
        /// How.
        how: Fencing,
    },
    /// Bring the candidate to this point, and record that it holds it.
    Refresh {
        /// To where.
        to: Target,
    },
    /// Raise the generation: the point of no return.
    Raise,
    /// Make the copy the primary and let it serve.
    Promote,
    /// Run the hook inside the service, if there is one.
    PromotedHook,
    /// Run the hook that moves clients, if there is one.
    RouteHook,
    /// Record that it is done.
    Finish,
}

/// How the old primary is fenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fencing {
    /// Nothing to do but to record the proof.
    Record(FenceProof),
    /// Run the hook; if it exits 0, record that.
    RunHook {
        /// The command.
        command: String,
    },
}

/// Where a refresh leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Target {
    /// The snapshot to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<SnapshotId>,
    /// The position to reach, for a copy that follows the log; it is as good as the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// Everything that is still to do.
pub(crate) fn steps(view: &View<'_>) -> Vec<Step> {
    if view.own_intent().is_some_and(|intent| intent.raised) {
        return forward();
    }
    let mut steps = Vec::new();
    let mut fenced = false;
    match &view.state.intent {
        // Ours, and nothing has changed about it since.
        Some(intent) if intent.to == *view.to && intent.kind == view.kind => {
            if view.overrides.keys().any(|gate| !intent.overrides.contains_key(gate)) {
                steps.push(Step::Claim);
            }
            fenced = intent.fenced.is_some();
        }
        Some(intent) if intent.raised => {
            steps.push(Step::FinishStanding { id: intent.id.clone() });
            steps.push(Step::Claim);
        }
        Some(intent) => {
            steps.push(Step::Abandon { id: intent.id.clone() });
            steps.push(Step::Claim);
        }
        None => steps.push(Step::Claim),
    }
    if !fenced {
        if let (Some(primary), None, TakeoverKind::Planned) =
            (&view.state.primary, view.state.primary_stopped(), view.kind)
        {
            steps.push(Step::AwaitStop { primary: primary.clone() });
        }
        steps.push(Step::Fence { how: fencing(view) });
    }
    if let Some(to) = target(view) {
        steps.push(Step::Refresh { to });
    }
    steps.push(Step::Raise);
    steps.extend(forward());
    steps
}

/// What follows the point of no return.
fn forward() -> Vec<Step> {
    vec![Step::Promote, Step::PromotedHook, Step::RouteHook, Step::Finish]
}

/// Proof that costs nothing first. A person's word before the hook: they know that it fails.
fn fencing(view: &View<'_>) -> Fencing {
    if view.state.primary.is_none() {
        return Fencing::Record(FenceProof::NoPrimary);
    }
    if view.kind == TakeoverKind::Planned || view.state.primary_stopped().is_some() {
        return Fencing::Record(FenceProof::Stopped);
    }
    match (view.overrides.get(Gate::PrimaryNotFenced.name()), &view.observed.fence_hook) {
        (Some(reason), _) => Fencing::Record(FenceProof::Override { reason: reason.clone() }),
        (None, Some(command)) => Fencing::RunHook { command: command.clone() },
        // The gate is shut, and nobody gets here; if somebody did, this would be refused.
        (None, None) => Fencing::Record(FenceProof::Stopped),
    }
}

/// Where the candidate has to get before it takes over; none if it is there.
pub(crate) fn target(view: &View<'_>) -> Option<Target> {
    if let Some(stopped) = view.state.primary_stopped() {
        let target = Target { point: stopped.last_point, position: stopped.last_position.clone() };
        let known = target.point.is_some() || target.position.is_some();
        let wanted = view.kind == TakeoverKind::Planned || !view.as_is;
        return (known && wanted && !holds(view, &target)).then_some(target);
    }
    if view.kind == TakeoverKind::Planned {
        // Not stopped yet: what its last point will be is not known, only that there is one.
        let target = Target { point: None, position: None };
        return view.state.primary.is_some().then_some(target);
    }
    let head = view.state.head_point().filter(|_| !view.as_is)?;
    (is_behind(view, head.into()) || view.log_until() > view.held_time())
        .then(|| Target { point: Some(head.snapshot), position: head.position.clone() })
}

/// Whether the candidate has got there: by the snapshot, or by the log.
fn holds(view: &View<'_>, target: &Target) -> bool {
    let by_snapshot = target.point.is_some()
        && view.applied().is_some_and(|applied| Some(applied.snapshot) == target.point);
    let by_log = target.position.as_ref().is_some_and(|goal| {
        view.held_position().is_some_and(|position| position.reached(goal) == Some(true))
    });
    by_snapshot || by_log
}

/// Whether the candidate holds what the old primary stopped after.
pub(crate) fn reached_last(view: &View<'_>) -> bool {
    view.state.primary_stopped().is_some_and(|stopped| {
        let (point, position) = (stopped.last_point, stopped.last_position.clone());
        holds(view, &Target { point, position })
    })
}

/// What a copy holds, to be compared with what the candidate holds.
#[derive(Clone, Copy)]
pub(crate) struct Held<'a> {
    snapshot: SnapshotId,
    position: Option<&'a Position>,
    time: Timestamp,
}

impl<'a> From<&'a Applied> for Held<'a> {
    fn from(applied: &'a Applied) -> Held<'a> {
        let Applied { snapshot, position, source_time, .. } = applied;
        Held { snapshot: *snapshot, position: position.as_ref(), time: *source_time }
    }
}

impl<'a> From<&'a RecoveryPoint> for Held<'a> {
    fn from(point: &'a RecoveryPoint) -> Held<'a> {
        let RecoveryPoint { snapshot, position, source_time, .. } = point;
        Held { snapshot: *snapshot, position: position.as_ref(), time: *source_time }
    }
}

/// Whether the candidate lacks something of a copy. Positions decide where they can be compared: of
/// two copies of an idle service, the times differ by chance. Then the order in which the points
/// were committed, for two primaries have two clocks. Times are left where one copy follows a log
/// whose position says nothing to the other.
pub(crate) fn is_behind(view: &View<'_>, goal: Held<'_>) -> bool {
    let reached = goal.position.and_then(|goal| view.held_position()?.reached(goal));
    let ours = view.applied().filter(|_| view.observed.replayed.is_none());
    let order = ours.filter(|_| goal.position.is_none()).and_then(|ours| {
        Some(committed(view, ours.snapshot)?.cmp(&committed(view, goal.snapshot)?))
    });
    match (reached, order, view.held_time()) {
        (Some(reached), _, _) => !reached,
        // The same point, with more of the log.
        (None, Some(Ordering::Equal), Some(held)) => goal.time > held,
        (None, Some(order), _) => order.is_lt(),
        (None, None, Some(held)) => goal.time > held,
        (None, None, None) => true,
    }
}

/// Whether the refresh before the raise brings the candidate as far as this standby is.
pub(crate) fn vault_covers(view: &View<'_>, other: &Applied) -> bool {
    let Some(head) = view.state.head_point().filter(|_| !view.as_is) else { return false };
    let reached = other.position.as_ref().and_then(|goal| head.position.as_ref()?.reached(goal));
    let order = || {
        let of = |id| committed(view, id).filter(|_| other.position.is_none());
        Some(of(head.snapshot)? >= of(other.snapshot)?)
    };
    reached.or_else(order).unwrap_or(head.source_time >= other.source_time)
}

/// The place of a point in the order of commits.
fn committed(view: &View<'_>, snapshot: SnapshotId) -> Option<usize> {
    view.state.points.iter().position(|point| point.snapshot == snapshot)
}

/// Why it is believed that a primary does not serve.
pub(crate) fn proof_words(proof: &FenceProof) -> String {
    match proof {
        FenceProof::Stopped => "it recorded that it is stopped".to_owned(),
        FenceProof::Hook { .. } => "the fence hook said so".to_owned(),
        FenceProof::Override { reason } => format!("a person said so ({reason})"),
        FenceProof::NoPrimary => "there was none".to_owned(),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Abandon { id } => write!(f, "give back the claim of {id}"),
            Step::FinishStanding { id } => write!(f, "close the unfinished takeover {id}"),
            Step::Claim => f.write_str("claim the takeover"),
            Step::AwaitStop { primary } => {
                write!(f, "wait until {primary} has stopped and handed over its last point")
            }
            Step::Fence { how: Fencing::Record(proof) } => {
                write!(f, "record why the old primary does not serve: {}", proof_words(proof))
            }
            Step::Fence { how: Fencing::RunHook { .. } } => {
                f.write_str("fence the old primary by the hook")
            }
            Step::Refresh { to } => write!(f, "refresh to {to}"),
            Step::Raise => f.write_str("raise the generation (from here on only forward)"),
            Step::Promote => f.write_str("promote"),
            Step::PromotedHook => f.write_str("run the hook inside the service"),
            Step::RouteHook => f.write_str("move the clients"),
            Step::Finish => f.write_str("record that it is done"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.point, &self.position) {
            (Some(point), Some(position)) => {
                write!(f, "the point {} or position {position}", point.short())
            }
            (Some(point), None) => write!(f, "the point {}", point.short()),
            (None, Some(position)) => write!(f, "position {position}"),
            (None, None) => f.write_str("the last point of the old primary"),
        }
    }
}
