//! The start gate: whether this host's copy of a service may be started.
//!
//! It stands before the service's own unit (`ExecCondition=`). What it answers does not depend on
//! the configuration's role: the vault's state rules, and what this host remembers of it.

use crate::asking::{Asking, Patience};
use crate::{Error, MemberRecord, ServiceSite};
use coordination::Versioned;
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
    /// It must not, and the vault could not be asked: later the answer may be another one.
    pub unheard: bool,
}

impl Answer {
    fn yes(why: impl Into<String>) -> Answer {
        Answer { allowed: true, why: why.into(), unheard: false }
    }

    fn no(why: impl Into<String>) -> Answer {
        Answer { allowed: false, why: why.into(), unheard: false }
    }
}

/// Whether this host alone knows that it must not be started: what is here is half changed, or somebody
/// took it offline.
pub(crate) fn is_shut(site: &ServiceSite) -> Result<bool, Error> {
    let record = MemberRecord::load(site)?;
    Ok(record.offline.is_some() || half_changed(site, &record).is_some())
}

fn half_changed(site: &ServiceSite, record: &MemberRecord) -> Option<String> {
    if let Some(operation) = &record.applying {
        return Some(format!(
            "the copy is half changed by {operation}; any mainstay operation on it finishes that"
        ));
    }
    if let Some(snapshot) = &record.overwriting {
        return Some(format!(
            "the copy is half restored to {}; give `mainstay restore {} --delta` again",
            snapshot.short(),
            site.name()
        ));
    }
    let snapshot = record.unloaded.as_ref()?;
    Some(format!(
        "the copy of {} is in place, but its engine refused to load it; restore or refresh again",
        snapshot.short()
    ))
}

/// Asks the gate.
pub fn ask(site: &ServiceSite) -> Result<Answer, Error> {
    let record = MemberRecord::load(site)?;
    if let Some(why) = half_changed(site, &record) {
        return Ok(Answer::no(why));
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
            let answer = without_vault(site, &error, !follows && record.applied.is_some())?;
            Ok(Answer { unheard: !answer.allowed, ..answer })
        }
        Err(error) => Err(error),
    }
}

fn is_broken(site: &ServiceSite, state: &ServiceState) -> bool {
    state.members.get(site.member()).is_some_and(|member| member.role == Role::Broken)
}

/// Whether what an operation had stopped for a while may be started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The vault says so.
    Free,
    /// The vault has not answered, and this host knows of no other primary: a service that stays down
    /// because its vault does is no safer than one that was never stopped. Whoever starts it sees to it
    /// that somebody goes on asking.
    Unheard,
    /// Somebody took over meanwhile, and serves: why it must not.
    Barred(String),
}

impl Verdict {
    /// Why it must not be started.
    pub(crate) fn barred(self) -> Option<String> {
        match self {
            Verdict::Barred(why) => Some(why),
            Verdict::Free | Verdict::Unheard => None,
        }
    }
}

/// The state, if the vault says it at once: whoever asks has a service wait, and no vault that hangs is
/// worth that.
pub(crate) fn state_soon(site: &ServiceSite) -> Result<Versioned, Error> {
    let patience = if site.has_asked() { PATIENCE } else { OPENING };
    site.state_in_time(Patience::of(patience))
}

/// Judges that. A vault that hangs is not waited for while a service is down.
pub(crate) fn verdict(site: &ServiceSite) -> Verdict {
    match heard(site, state_soon(site)) {
        Some(Heard::Serves | Heard::Elsewhere) => Verdict::Free,
        Some(Heard::MustNot { why, .. }) => Verdict::Barred(why),
        None => by_memory(site).map_or(Verdict::Unheard, Verdict::Barred),
    }
}

/// As [`verdict`], where nobody goes on asking.
pub(crate) fn barred(site: &ServiceSite) -> Option<String> {
    verdict(site).barred()
}

/// What the vault says of this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is the primary, and may serve.
    Serves,
    /// It is none: what runs on a standby does not serve as the primary.
    Elsewhere,
    /// It must not serve.
    MustNot {
        /// Why.
        why: String,
        /// That stays so, until a person decides.
        for_good: bool,
    },
}

/// What an answer of the vault's says; none if it is none.
pub(crate) fn heard(site: &ServiceSite, answer: Result<Versioned, Error>) -> Option<Heard> {
    let state = answer.ok().filter(|versioned| versioned.number > 0)?.state;
    let me = site.member();
    if state.members.get(me).is_none_or(|member| member.role == Role::Standby) {
        return Some(Heard::Elsewhere);
    }
    let seeded = is_seeded(site);
    let follows = site.engine().is_ok_and(|engine| engine.refresh() == Refresh::Follow);
    let Answer { allowed, why, .. } = judge(site, &state, follows, seeded);
    let for_good = state.primary.as_ref() != Some(me);
    Some(if allowed { Heard::Serves } else { Heard::MustNot { why, for_good } })
}

/// What is here is a standby's copy, as far as this host remembers.
fn is_seeded(site: &ServiceSite) -> bool {
    MemberRecord::load(site).is_ok_and(|record| record.applied.is_some())
}

/// Why it must not be started, by what this host was told last.
fn by_memory(site: &ServiceSite) -> Option<String> {
    let seen = site.witness().remembered().ok()??;
    let other = seen.primary.filter(|primary| primary != site.member())?;
    // A standby remembers another primary all the time.
    (!is_seeded(site)).then(|| {
        format!("{other} was the primary at generation {} when it was last seen", seen.generation)
    })
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

/// Whether the vault could not be asked, in contrast to one that answered something bad. Nor could it be where
/// the secret could not be fetched that it is asked with.
fn unreachable(error: &Error) -> bool {
    match error {
        Error::Storage(_) => true,
        Error::State(coordination::Error::Storage(_)) => true,
        Error::Repository(repository::Error::Storage(_) | repository::Error::NoRepository(_)) => {
            true
        }
        // Not one that was fetched, and is the wrong one: the vault says that.
        Error::Own { unfetched: true, .. } => true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Rig;
    use storage::doubles::{Fault, How, Verb};

    /// A guardian asks for as long as a service does not start.
    #[test]
    fn a_vault_that_hangs_is_asked_once_and_its_late_answer_heard() {
        let rig = Rig::new();
        rig.site.load_state().expect("it is remembered");
        rig.vault.plan(Fault::every(Verb::Read, How::Hang).on("shop/mainstay/state/"));
        assert_eq!(verdict(&rig.site), Verdict::Unheard);
        assert!(rig.vault.wait_for_hang(Duration::from_secs(60)));
        let asked = rig.vault.calls();
        assert_eq!(verdict(&rig.site), Verdict::Unheard);
        assert_eq!(rig.vault.calls(), asked);
        rig.vault.heal();
        rig.vault.release();
        assert_eq!(
            heard(&rig.site, rig.site.state_in_time(Patience::of(GATE))),
            Some(Heard::Serves)
        );
    }
}
