//! The start gate: whether this host's copy of a service may be started.
//!
//! It stands before the service's own unit (`ExecCondition=`). What it answers does not depend on
//! the configuration's role: the vault's state rules, and what this host remembers of it.

use crate::asking::{Asking, Patience};
use crate::{Error, MemberRecord, ServiceSite};
use engines::Refresh;
use model::config::WhenUnreachable;
use model::state::FenceProof;
use model::{Class, Classify, Role, ServiceState};
use serde::Serialize;
use std::time::Duration;

/// How long a vault is waited for whose answer decides whether a service that was stopped for a while is
/// started again: one that is open, and one that has to be opened first, which takes a calculation.
const PATIENCE: Duration = Duration::from_secs(2);
const OPENING: Duration = Duration::from_secs(10);
/// How long the gate waits for it, before it does what is declared for a vault that cannot be asked.
const GATE: Duration = Duration::from_secs(60);

/// The answer, with the reason in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Answer {
    /// It may start.
    pub allowed: bool,
    /// Why, or why not.
    pub why: String,
}

impl Answer {
    fn yes(why: impl Into<String>) -> Answer {
        Answer { allowed: true, why: why.into() }
    }

    fn no(why: impl Into<String>) -> Answer {
        Answer { allowed: false, why: why.into() }
    }
}

/// Asks the gate.
pub fn ask(site: &ServiceSite) -> Result<Answer, Error> {
    let record = MemberRecord::load(site)?;
    if let Some(operation) = &record.applying {
        return Ok(Answer::no(format!(
            "the copy is half changed by {operation}; any mainstay operation on it finishes that"
        )));
    }
    if let Some(snapshot) = &record.overwriting {
        return Ok(Answer::no(format!(
            "the copy is half restored to {}; give `mainstay restore {} --delta` again",
            snapshot.short(),
            site.name()
        )));
    }
    if let Some(snapshot) = &record.unloaded {
        return Ok(Answer::no(format!(
            "the copy of {} is in place, but its engine refused to load it; restore or refresh again",
            snapshot.short()
        )));
    }
    let follows = site.engine()?.refresh() == Refresh::Follow;
    // Whatever starts the service waits for this.
    let asked = site.clone();
    let state = Asking::new().ask("state", Patience::of(GATE), move || asked.load_state());
    if record.offline.is_some() {
        // Only one that nobody took over meanwhile is brought back by that.
        return Ok(match state {
            Ok(versioned) if is_broken(site, &versioned.state) => {
                judge(site, &versioned.state, follows, record.applied.is_some())
            }
            _ => Answer::no("this member was taken offline; `mainstay online` brings it back"),
        });
    }
    match state {
        Ok(versioned) if versioned.number == 0 => {
            Ok(Answer::no("the vault knows nothing of this service; run `mainstay init` first"))
        }
        Ok(versioned) => Ok(judge(site, &versioned.state, follows, record.applied.is_some())),
        Err(error) if unreachable(&error) => {
            without_vault(site, &error, !follows && record.applied.is_some())
        }
        Err(error) => Err(error),
    }
}

fn is_broken(site: &ServiceSite, state: &ServiceState) -> bool {
    state.members.get(site.member()).is_some_and(|member| member.role == Role::Broken)
}

/// Why what an operation had stopped for a while must not be started again: somebody took over
/// meanwhile, and serves. None if it may, and also if the vault does not answer soon and this host knows
/// of no other primary: a service that stays down because its vault does is no safer than one that
/// was never stopped.
pub(crate) fn barred(site: &ServiceSite) -> Option<String> {
    let record = MemberRecord::load(site).ok()?;
    let me = site.member();
    // Nobody waits for a vault that hangs while a service is down.
    let patience = if site.has_asked() { PATIENCE } else { OPENING };
    let asked = site.clone();
    match Asking::new().ask("state", Patience::of(patience), move || asked.load_state()) {
        Ok(versioned) if versioned.number > 0 => {
            let state = versioned.state;
            // What runs on a standby does not serve as the primary.
            if state.members.get(me).is_none_or(|member| member.role == Role::Standby) {
                return None;
            }
            let follows = site.engine().is_ok_and(|engine| engine.refresh() == Refresh::Follow);
            let answer = judge(site, &state, follows, record.applied.is_some());
            (!answer.allowed).then_some(answer.why)
        }
        _ => {
            let seen = site.witness().remembered().ok()??;
            let other = seen.primary.filter(|primary| primary != me)?;
            // A standby remembers another primary all the time.
            record.applied.is_none().then(|| {
                format!(
                    "{other} was the primary at generation {} when it was last seen",
                    seen.generation
                )
            })
        }
    }
}

fn judge(site: &ServiceSite, state: &ServiceState, follows: bool, seeded: bool) -> Answer {
    let me = site.member();
    let generation = state.generation;
    let Some(member) = state.members.get(me) else {
        return Answer::no(format!(
            "{me} is not a member of {}; run `mainstay init` first",
            site.name()
        ));
    };
    match member.role {
        Role::Primary if member.stopped.is_some() => Answer::no(
            "this primary has handed over and said that it is stopped; `mainstay online` takes that back",
        ),
        // Promotion is what makes it forget that it is a copy. Before that its import may not be done.
        // A server that follows is promoted while it runs.
        Role::Primary if seeded && !follows => Answer::no(not_promoted(site)),
        Role::Primary => match &state.intent {
            // Somebody is taking over from us and has proof that we do not run.
            Some(intent)
                if intent.from.as_ref() == Some(me) && !intent.raised && fenced(&intent.fenced) =>
            {
                Answer::no(format!("{} is taking over from this member", intent.to))
            }
            // The state's own rule, which also bars whoever an unplanned takeover has claimed.
            _ => match state.may_serve(me) {
                Ok(()) => Answer::yes(format!("{me} is the primary at generation {generation}")),
                Err(refusal) => Answer::no(refusal.to_string()),
            },
        },
        Role::Standby if follows && seeded => {
            Answer::yes(format!("{me} is a standby that follows, at generation {generation}"))
        }
        Role::Standby => Answer::no(format!("{me} is a standby; it serves only after a takeover")),
        Role::Broken => {
            let by = state.primary.as_ref().map(|p| format!(" by {p}")).unwrap_or_default();
            Answer::no(format!(
                "{me} was taken over{by} at generation {generation} and must not serve; `mainstay rejoin` makes it a standby"
            ))
        }
    }
}

fn not_promoted(site: &ServiceSite) -> String {
    format!(
        "{} has taken over, but its copy is not promoted yet; any mainstay operation on it finishes that",
        site.member()
    )
}

fn fenced(proof: &Option<FenceProof>) -> bool {
    matches!(
        proof,
        Some(FenceProof::Stopped | FenceProof::Hook { .. } | FenceProof::Override { .. })
    )
}

/// Whether the vault could not be asked, in contrast to one that answered something bad.
fn unreachable(error: &Error) -> bool {
    match error {
        Error::Storage(_) => true,
        Error::State(coordination::Error::Storage(_)) => true,
        Error::Repository(repository::Error::Storage(_) | repository::Error::NoRepository(_)) => {
            true
        }
        other => other.class() == Class::Unavailable,
    }
}

/// `copy`: what is here is a standby's copy, or that of a takeover that is not promoted yet.
fn without_vault(site: &ServiceSite, error: &Error, copy: bool) -> Result<Answer, Error> {
    let cannot = format!("the vault cannot be asked ({})", error.chain());
    match site.site().config().vault.when_unreachable {
        WhenUnreachable::Refuse => Ok(Answer::no(format!(
            "{cannot}, and `when-unreachable` in [vault] is \"refuse\": two primaries are worse than none"
        ))),
        WhenUnreachable::LastKnown => Ok(match site.witness().remembered()? {
            Some(seen) if seen.primary.as_ref() == Some(site.member()) && copy => {
                Answer::no(format!("{cannot}; {}", not_promoted(site)))
            }
            Some(seen) if seen.primary.as_ref() == Some(site.member()) => Answer::yes(format!(
                "{cannot}; {} was the primary at generation {} when it was last seen",
                site.member(),
                seen.generation
            )),
            Some(seen) => Answer::no(format!(
                "{cannot}; {} was not the primary at generation {} when it was last seen",
                site.member(),
                seen.generation
            )),
            None => Answer::no(format!("{cannot}, and this host has never seen it")),
        }),
    }
}
