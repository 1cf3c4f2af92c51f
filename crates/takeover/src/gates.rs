//! The gates that stand before a takeover: one table, each with its rule and its sentence.

use crate::assess::View;
use crate::{CopyState, Running, Sighting, loss, plan};
use model::state::TakeoverKind;
use model::{Role, duration};
use serde::Serialize;
use std::fmt;

/// A reason not to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// The candidate is no standby, or is not this host.
    WrongRole,
    /// Somebody else's takeover is under way.
    TakeoverUnderWay,
    /// The candidate holds nothing that could serve.
    NoValidPoint,
    /// The candidate's copy is being changed, or was left half changed.
    ImportInProgress,
    /// Another standby holds newer data.
    BehindAnotherStandby,
    /// Somebody wrote to the candidate's copy.
    CopyModified,
    /// The candidate does not replay the log that the vault has for it. Only once the old primary is
    /// fenced can that be seen; then it refuses whatever was not overridden before.
    ReplayStandsStill,
    /// The old primary may still serve.
    PrimaryNotFenced,
    /// Planned: the old primary stopped without handing over its last point.
    NothingHandedOver,
}

/// What a gate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It stands open.
    Open,
    /// It is shut.
    Shut {
        /// A person may open it with a reason.
        overridable: bool,
    },
    /// It is shut, and a person opened it.
    Overridden {
        /// The reason they typed.
        reason: String,
    },
}

/// One gate with its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GateReport {
    /// Which.
    pub gate: Gate,
    /// Open or shut.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Why, in one sentence.
    pub why: String,
}

/// All gates, in the order in which they are shown.
const GATES: [Gate; 9] = [
    Gate::WrongRole,
    Gate::TakeoverUnderWay,
    Gate::NoValidPoint,
    Gate::ImportInProgress,
    Gate::BehindAnotherStandby,
    Gate::CopyModified,
    Gate::ReplayStandsStill,
    Gate::PrimaryNotFenced,
    Gate::NothingHandedOver,
];

impl Gate {
    /// The name that people type to override it.
    pub fn name(self) -> &'static str {
        match self {
            Gate::WrongRole => "wrong-role",
            Gate::TakeoverUnderWay => "takeover-under-way",
            Gate::NoValidPoint => "no-valid-point",
            Gate::ImportInProgress => "import-in-progress",
            Gate::BehindAnotherStandby => "behind-another-standby",
            Gate::CopyModified => "copy-modified",
            Gate::ReplayStandsStill => "replay-stands-still",
            Gate::PrimaryNotFenced => "primary-not-fenced",
            Gate::NothingHandedOver => "nothing-handed-over",
        }
    }

    /// The gate of this name.
    pub fn by_name(name: &str) -> Option<Gate> {
        GATES.into_iter().find(|gate| gate.name() == name)
    }

    /// All gates.
    pub fn all() -> impl Iterator<Item = Gate> {
        GATES.into_iter()
    }

    /// Whether a person may ever open it. What they cannot know better than the state is not theirs
    /// to override: a copy that is not there does not come to be by a reason. A planned takeover
    /// promises that nothing is lost, so what endangers that is not overridden but asked for as an
    /// unplanned one.
    pub fn overridable(self, kind: TakeoverKind) -> bool {
        match self {
            Gate::WrongRole
            | Gate::NoValidPoint
            | Gate::ImportInProgress
            | Gate::NothingHandedOver => false,
            Gate::PrimaryNotFenced | Gate::ReplayStandsStill => kind == TakeoverKind::Unplanned,
            Gate::TakeoverUnderWay | Gate::BehindAnotherStandby | Gate::CopyModified => true,
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Asks every gate.
pub(crate) fn ask(view: &View<'_>) -> Vec<GateReport> {
    let report = |gate: Gate| {
        let (open, why) = match gate {
            Gate::WrongRole => wrong_role(view),
            Gate::TakeoverUnderWay => takeover_under_way(view),
            Gate::NoValidPoint => no_valid_point(view),
            Gate::ImportInProgress => import_in_progress(view),
            Gate::BehindAnotherStandby => behind_another_standby(view),
            Gate::CopyModified => copy_modified(view),
            Gate::ReplayStandsStill => replay_stands_still(view),
            Gate::PrimaryNotFenced => primary_not_fenced(view),
            Gate::NothingHandedOver => nothing_handed_over(view),
        };
        let overridable = gate.overridable(view.kind);
        let verdict = match view.overrides.get(gate.name()) {
            _ if open => Verdict::Open,
            Some(reason) if overridable => Verdict::Overridden { reason: reason.clone() },
            _ => Verdict::Shut { overridable },
        };
        GateReport { gate, verdict, why }
    };
    GATES.into_iter().map(report).collect()
}

type Answer = (bool, String);

fn open(why: impl Into<String>) -> Answer {
    (true, why.into())
}

fn shut(why: impl Into<String>) -> Answer {
    (false, why.into())
}

fn wrong_role(view: &View<'_>) -> Answer {
    let to = view.to;
    if view.observed.member != *to {
        let here = &view.observed.member;
        return shut(format!("This host is {here}; a takeover to {to} has to run on {to}."));
    }
    match view.state.members.get(to).map(|member| member.role) {
        None => shut(format!("{to} is not a member of this service.")),
        Some(Role::Primary) => shut(format!("{to} is the primary already.")),
        Some(Role::Broken) => shut(format!(
            "{to} is a primary that was taken over; let it rejoin as a standby first."
        )),
        Some(Role::Standby) => open(format!("{to} is a standby.")),
    }
}

fn takeover_under_way(view: &View<'_>) -> Answer {
    match &view.state.intent {
        None => open("No takeover is under way."),
        Some(intent) if intent.to == *view.to => {
            open(format!("The takeover under way is the one to {}.", view.to))
        }
        Some(intent) => {
            let state = if intent.raised {
                "has raised the generation and is not finished"
            } else {
                "has not raised the generation yet"
            };
            shut(format!(
                "A takeover to {} is under way, claimed {} as {}; it {state}.",
                intent.to,
                duration::ago(intent.claimed, view.now),
                intent.id
            ))
        }
    }
}

fn no_valid_point(view: &View<'_>) -> Answer {
    let to = view.to;
    let Some(applied) = view.applied() else {
        return shut(format!("{to} holds no point of this service."));
    };
    if !view.observed.has_data {
        return shut(format!("{to} is recorded as holding a point, but there is no data there."));
    }
    match view.state.point(applied.snapshot) {
        Some(point) if point.incomplete => shut(format!(
            "{to} holds {}, which is incomplete: some of the source could not be read.",
            point.name()
        )),
        Some(point) => open(format!("{to} holds {}.", point.name())),
        // Removed from the history since; what the standby holds is no worse for it.
        None => open(format!("{to} holds the state of {}.", loss::when(applied.source_time))),
    }
}

fn import_in_progress(view: &View<'_>) -> Answer {
    let to = view.to;
    let recorded = view.state.members.get(to).is_some_and(|member| member.importing);
    if let Some(running) = &view.observed.gives_way {
        open(format!("{running} runs on {to}, and is stopped before anything else is done."))
    } else if recorded || view.observed.importing {
        shut(format!("A refresh is changing the copy of {to}, or was cut short in doing so."))
    } else {
        open(format!("No refresh is changing the copy of {to}."))
    }
}

fn behind_another_standby(view: &View<'_>) -> Answer {
    let to = view.to;
    if view.kind == TakeoverKind::Planned {
        return open(format!("{to} will hold the last point of the primary."));
    }
    let ahead = view.state.members.iter().find_map(|(name, member)| {
        let other = member.applied.as_ref().filter(|_| name != to)?;
        if member.role != Role::Standby || member.importing {
            return None;
        }
        let behind = plan::is_behind(view, other.into());
        (behind && !plan::vault_covers(view, other)).then_some((name, other))
    });
    match (ahead, view.held_time()) {
        (Some((name, other)), Some(held)) => shut(format!(
            "{name} holds the state of {}, {to} only that of {}: taking over on {name} loses less.",
            loss::when(other.source_time),
            loss::when(held)
        )),
        _ => open(format!("No other standby holds newer data than {to}.")),
    }
}

fn copy_modified(view: &View<'_>) -> Answer {
    let to = view.to;
    if let Some(running) = &view.observed.gives_way {
        return open(format!("The copy of {to} is looked at once {running} is over."));
    }
    if view.observed.running == Running::Yes && !view.observed.following {
        return shut(format!(
            "The service runs on {to} and follows nobody, so its copy may have been written to."
        ));
    }
    match &view.observed.copy {
        CopyState::Modified { examples } if examples.is_empty() => {
            shut(format!("The copy of {to} was written to since its last refresh."))
        }
        CopyState::Modified { examples } => shut(format!(
            "The copy of {to} was written to since its last refresh: {}.",
            examples.join(", ")
        )),
        CopyState::Untouched => open(format!("The copy of {to} is what its last refresh left.")),
        CopyState::NotComparable => open(format!("The copy of {to} is kept by its engine.")),
    }
}

/// What is seen later is no reason to refuse now; an override of it holds for then.
fn replay_stands_still(view: &View<'_>) -> Answer {
    let to = view.to;
    match view.overrides.contains_key(Gate::ReplayStandsStill.name()) {
        true => shut(format!("{to} takes over even if it does not replay all that the vault has.")),
        false => open(format!("{to} first replays what the vault has of its log, if it has one.")),
    }
}

fn primary_not_fenced(view: &View<'_>) -> Answer {
    let Some(primary) = &view.state.primary else {
        return open("There is no primary that could still serve.");
    };
    if let Some(proof) = view.own_intent().and_then(|intent| intent.fenced.as_ref()) {
        return open(format!("{primary} is fenced: {}.", plan::proof_words(proof)));
    }
    if view.state.primary_stopped().is_some() {
        return open(format!("{primary} recorded that it is stopped."));
    }
    if view.kind == TakeoverKind::Planned {
        return open(format!("{primary} stops before {} takes over.", view.to));
    }
    // An override beside a hook: the hook is known not to work.
    let overridden = view.overrides.contains_key(Gate::PrimaryNotFenced.name());
    if view.observed.fence_hook.is_some() && !overridden {
        return open(format!("The fence hook will make sure that {primary} does not serve."));
    }
    let hook = match overridden {
        true => "the fence hook, if any, is passed over",
        false => "no fence hook is configured that could stop it",
    };
    match &view.observed.primary {
        Sighting::Alive { by } => shut(format!("{primary} is alive (seen by {by}), and {hook}.")),
        Sighting::Unknown => {
            shut(format!("Nothing proves that {primary} does not serve, and {hook}."))
        }
    }
}

fn nothing_handed_over(view: &View<'_>) -> Answer {
    if view.kind == TakeoverKind::Unplanned {
        return open("An unplanned takeover waits for no last point.");
    }
    let Some(primary) = &view.state.primary else { return open("There is no primary.") };
    match view.state.primary_stopped() {
        None => open(format!("{primary} hands over its last point when it stops.")),
        Some(stopped) if stopped.last_point.is_none() && stopped.last_position.is_none() => {
            shut(format!(
                "{primary} is stopped, but recorded no last point; bring it online and stop it for \
                 the takeover, or ask for an unplanned one."
            ))
        }
        Some(_) => open(format!("{primary} handed over its last point.")),
    }
}
