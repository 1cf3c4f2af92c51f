//! The whole assessment.

use crate::{Gate, GateReport, Loss, Observation, Request, Step, Verdict, gates, loss, plan};
use jiff::Timestamp;
use model::state::{Applied, Intent, TakeoverKind};
use model::{Generation, MemberName, Position, ServiceState};
use serde::Serialize;
use std::collections::BTreeMap;

/// What is to be said about a takeover at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Assessment {
    /// The takeover may go on: every gate is open or overridden, and the request makes sense.
    pub allowed: bool,
    /// Planned or unplanned: as asked for, or as it was claimed if it can only go forward.
    pub kind: TakeoverKind,
    /// What is under way already.
    pub standing: Standing,
    /// All gates; none once the generation was raised, for then there is no way back.
    pub gates: Vec<GateReport>,
    /// What is wrong with the request itself, as sentences.
    pub mistakes: Vec<String>,
    /// What would be lost.
    pub loss: Loss,
    /// What is still to do, first things first; nothing if it is not allowed.
    pub steps: Vec<Step>,
    /// One sentence that sums it up.
    pub sentence: String,
    /// Overrides that open a gate, or did when this takeover was claimed.
    pub overrides: BTreeMap<String, String>,
    #[serde(skip)]
    claim: Claim,
}

/// What is under way already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "standing", rename_all = "kebab-case")]
pub enum Standing {
    /// Nothing.
    Nothing,
    /// This takeover, claimed but not raised: it can go on or be abandoned.
    Ours {
        /// Its operation.
        id: String,
    },
    /// This takeover, raised: it can only go forward.
    OnlyForward {
        /// Its operation.
        id: String,
    },
    /// Somebody else's.
    Theirs {
        /// Its operation.
        id: String,
        /// Its candidate.
        to: MemberName,
        /// It has raised the generation.
        raised: bool,
    },
}

/// What a claim against the assessed state says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    from: Option<MemberName>,
    to: MemberName,
    generation: Generation,
}

impl Assessment {
    /// The intent for [`Step::Claim`], to be claimed by compare-and-set. If this very takeover
    /// stands already, its own id must be given, so that the claim adds to it.
    pub fn intent(&self, id: &str, now: Timestamp) -> Intent {
        Intent {
            id: id.to_owned(),
            kind: self.kind,
            from: self.claim.from.clone(),
            to: self.claim.to.clone(),
            generation: self.claim.generation,
            claimed: now,
            fenced: None,
            overrides: self.overrides.clone(),
            raised: false,
        }
    }

    /// The gates that are shut.
    pub fn shut(&self) -> impl Iterator<Item = &GateReport> {
        self.gates.iter().filter(|gate| matches!(gate.verdict, Verdict::Shut { .. }))
    }

    /// Whether what stands can still be given back.
    pub fn may_abandon(&self) -> bool {
        matches!(self.standing, Standing::Ours { .. })
    }
}

/// What everything is computed from.
pub(crate) struct View<'a> {
    pub(crate) state: &'a ServiceState,
    pub(crate) observed: &'a Observation,
    pub(crate) to: &'a MemberName,
    pub(crate) kind: TakeoverKind,
    pub(crate) as_is: bool,
    /// By gate: what was typed now, and what was recorded with the claim.
    pub(crate) overrides: BTreeMap<String, String>,
    pub(crate) now: Timestamp,
}

impl View<'_> {
    /// The takeover under way, if it is this one.
    pub(crate) fn own_intent(&self) -> Option<&Intent> {
        self.state.intent.as_ref().filter(|intent| intent.to == *self.to)
    }

    /// What the candidate is recorded as holding.
    pub(crate) fn applied(&self) -> Option<&Applied> {
        self.state.members.get(self.to)?.applied.as_ref()
    }

    /// The source time of what the candidate holds.
    pub(crate) fn held_time(&self) -> Option<Timestamp> {
        let applied = self.applied()?.source_time;
        // What was replayed from the log lies beyond the snapshot.
        Some(self.observed.replayed.map_or(applied, |replayed| replayed.max(applied)))
    }

    /// Up to when the log in the vault brings the candidate, unless it is taken as it is.
    pub(crate) fn log_until(&self) -> Option<Timestamp> {
        self.observed.log_until.filter(|_| !self.as_is)
    }

    /// Where the candidate is in the log.
    pub(crate) fn held_position(&self) -> Option<&Position> {
        self.observed.position.as_ref().or(self.applied()?.position.as_ref())
    }
}

/// Assesses a takeover.
pub fn assess(
    state: &ServiceState,
    observed: &Observation,
    request: &Request,
    now: Timestamp,
) -> Assessment {
    let standing = standing(state, &request.to);
    let mut mistakes = Vec::new();
    let overrides = overrides(state, request, &standing, &mut mistakes);
    // What has raised the generation goes on as what it was claimed as.
    let kind = match (&standing, &state.intent) {
        (Standing::OnlyForward { .. }, Some(intent)) => intent.kind,
        _ => request.kind,
    };
    let as_is = request.as_is && kind == TakeoverKind::Unplanned;
    let to = &request.to;
    let mut view = View { state, observed, to, kind, as_is, overrides, now };
    let forward = matches!(standing, Standing::OnlyForward { .. });
    let here = observed.member == *to;
    let gates = if forward && here { Vec::new() } else { gates::ask(&view) };
    // Only what opens a gate is recorded. An override of an open one would lie in wait, unseen,
    // until the gate shuts.
    let recorded = state.intent.as_ref().filter(|intent| intent.to == *to && intent.kind == kind);
    view.overrides.retain(|name, _| {
        let used = gates.iter().any(|report| {
            report.gate.name() == name && matches!(report.verdict, Verdict::Overridden { .. })
        });
        used || recorded.is_some_and(|intent| intent.overrides.contains_key(name))
    });
    let shut = gates.iter().any(|report| matches!(report.verdict, Verdict::Shut { .. }));
    let allowed = mistakes.is_empty() && !shut;
    let steps = if allowed { plan::steps(&view) } else { Vec::new() };
    let sentence = sum_up(&view, &standing, allowed, &gates, &mistakes);
    Assessment {
        allowed,
        kind,
        standing,
        loss: loss::estimate(&view),
        steps,
        sentence,
        claim: claim(state, to),
        overrides: view.overrides,
        gates,
        mistakes,
    }
}

fn standing(state: &ServiceState, to: &MemberName) -> Standing {
    match &state.intent {
        None => Standing::Nothing,
        Some(intent) if intent.to != *to => {
            Standing::Theirs { id: intent.id.clone(), to: intent.to.clone(), raised: intent.raised }
        }
        Some(intent) if intent.raised => Standing::OnlyForward { id: intent.id.clone() },
        Some(intent) => Standing::Ours { id: intent.id.clone() },
    }
}

fn overrides(
    state: &ServiceState,
    request: &Request,
    standing: &Standing,
    mistakes: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let mut overrides = match (&state.intent, standing) {
        (Some(intent), Standing::Ours { .. } | Standing::OnlyForward { .. })
            if intent.kind == request.kind =>
        {
            intent.overrides.clone()
        }
        _ => BTreeMap::new(),
    };
    // What can only go forward is what was asked for, whatever has become of the generation since.
    let forward = matches!(standing, Standing::OnlyForward { .. });
    if request.seen.generation != state.generation && !forward {
        mistakes.push(format!(
            "It was asked for at generation {}, and the service is at generation {} by now; look \
             again, and ask again.",
            request.seen.generation, state.generation
        ));
    }
    for (name, reason) in &request.overrides {
        match Gate::by_name(name) {
            Some(Gate::TakeoverUnderWay) if matches!(standing, Standing::Theirs { id, .. } if request.seen.intent.as_ref() != Some(id)) =>
            {
                mistakes.push(
                    "Another takeover is under way than the one that was to be overridden; look \
                     again, and ask again."
                        .to_owned(),
                );
            }
            None => {
                let names: Vec<&str> = Gate::all().map(Gate::name).collect();
                mistakes
                    .push(format!("There is no gate {name:?}; gates are {}.", names.join(", ")));
            }
            Some(gate) if !gate.overridable(request.kind) => mistakes.push(match gate {
                Gate::PrimaryNotFenced | Gate::ReplayStandsStill => format!(
                    "The gate {gate} cannot be overridden in a planned takeover; ask for an \
                     unplanned one."
                ),
                _ => format!("The gate {gate} cannot be overridden."),
            }),
            Some(gate) if reason.trim().is_empty() => {
                mistakes.push(format!("The override of the gate {gate} needs a reason."));
            }
            Some(_) => {
                overrides.insert(name.clone(), reason.trim().to_owned());
            }
        }
    }
    overrides
}

fn claim(state: &ServiceState, to: &MemberName) -> Claim {
    Claim { from: state.primary.clone(), to: to.clone(), generation: state.generation }
}

fn sum_up(
    view: &View<'_>,
    standing: &Standing,
    allowed: bool,
    gates: &[GateReport],
    mistakes: &[String],
) -> String {
    let to = view.to;
    let what = match view.kind {
        TakeoverKind::Planned => "planned",
        TakeoverKind::Unplanned => "unplanned",
    };
    if let Some(mistake) = mistakes.first() {
        return format!("The request is refused. {mistake}");
    }
    if !allowed {
        let shut: Vec<&str> = gates
            .iter()
            .filter(|report| matches!(report.verdict, Verdict::Shut { .. }))
            .map(|report| report.gate.name())
            .collect();
        return format!("The {what} takeover to {to} is refused by: {}.", shut.join(", "));
    }
    match standing {
        Standing::OnlyForward { .. } => format!(
            "{to} is the primary since generation {} and only has to be finished.",
            view.state.generation
        ),
        Standing::Ours { .. } => {
            format!("The {what} takeover to {to} was begun; it can go on or be abandoned.")
        }
        _ => {
            let overridden = gates
                .iter()
                .filter(|report| matches!(report.verdict, Verdict::Overridden { .. }))
                .count();
            match overridden {
                0 => format!("The {what} takeover to {to} can begin."),
                1 => format!("The {what} takeover to {to} can begin, with one gate overridden."),
                n => format!("The {what} takeover to {to} can begin, with {n} gates overridden."),
            }
        }
    }
}
