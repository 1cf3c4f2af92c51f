//! What `run-due` does for a service before anything else, and beside whatever still runs: it cleans up
//! after what died, and looks whether somebody must be told something.

use crate::app::App;
use crate::commands::run_due::{observe_age, with_attempts};
use crate::due::{self, Observed};
use crate::failure::{Exit, Failure};
use crate::teller::Teller;
use crate::units;
use jiff::Timestamp;
use model::Class;
use operations::{Outcome, Run, ServiceSite, history, recover};
use serde_json::{Value, json};
use std::time::Duration;

/// What died longer ago than this is no news.
const NEWS: Duration = Duration::from_secs(24 * 60 * 60);

/// What came of it.
#[derive(Default)]
pub(crate) struct Looked {
    /// What was seen, unless another process is looking.
    pub(crate) seen: Option<Observed>,
    /// What was cleaned up.
    cleaned: Vec<String>,
    exit: Exit,
}

impl Looked {
    /// Both.
    pub(crate) fn and(self, other: Looked) -> Looked {
        let cleaned = self.cleaned.into_iter().chain(other.cleaned).collect();
        Looked { seen: self.seen.or(other.seen), cleaned, exit: self.exit.max(other.exit) }
    }

    /// With what came of a turn.
    pub(crate) fn with(self, exit: Exit, mut value: Value) -> (Exit, Value) {
        if let (Value::Object(map), false) = (&mut value, self.cleaned.is_empty()) {
            map.insert("cleaned-up".to_owned(), json!(self.cleaned));
        }
        (exit.max(self.exit), value)
    }
}

/// Cleans up after what died on this host, where nobody lives who does.
pub(crate) fn clean_up(app: &App, service: &ServiceSite) -> Result<Looked, Failure> {
    let mut cleaned = Vec::new();
    let failed = match sweep(app, service, &mut cleaned) {
        Ok(failed) => failed,
        Err(failure) if failure.class() == Class::Cancelled => return Err(failure),
        // Somebody lives, and works: nothing was left, or they see to it.
        Err(failure) if failure.class() == Class::Locked => return Ok(Looked::default()),
        Err(failure) => return Ok(Looked { cleaned, ..not_cleaned_up(app, service, &failure) }),
    };
    let mut teller = Teller::load(app, service);
    let is_well = failed.is_none();
    teller.tell("clean-up-failed", failed);
    let is_well = !teller.finish() && is_well;
    Ok(Looked { seen: None, cleaned, exit: if is_well { Exit::DONE } else { Exit::NOT_WELL } })
}

/// Says what is still left.
fn sweep(
    app: &App,
    service: &ServiceSite,
    cleaned: &mut Vec<String>,
) -> Result<Option<String>, Failure> {
    if !recover::is_needed(service)? {
        return Ok(None);
    }
    *cleaned = recover::sweep(service, &Run { wait: None, ..app.run() })?;
    cleaned.iter().for_each(|line| app.out.warn(line));
    Ok(recover::is_needed(service)?.then(|| cleaned.join("; ")))
}

/// Tells why it could not be cleaned up, or not even be looked whether it must be.
pub(crate) fn not_cleaned_up(app: &App, service: &ServiceSite, failure: &Failure) -> Looked {
    app.out.warn(failure.one_line());
    let hint = failure.the_hint().map(|hint| format!(". {hint}"));
    let mut teller = Teller::load(app, service);
    let told = format!("{}{}", failure.one_line(), hint.unwrap_or_default());
    teller.tell("clean-up-failed", Some(told));
    teller.finish();
    Looked { exit: Exit::NOT_WELL, ..Looked::default() }
}

/// Looks, and tells what is wrong. Whatever cannot be looked at is told as well, also if it is what was
/// to keep others from looking at once, and keeps nothing else from being told.
pub(crate) fn look(
    app: &App,
    service: &ServiceSite,
    barred: Option<Failure>,
) -> Result<Looked, Failure> {
    let mut teller = Teller::load(app, service);
    let mut wrong: Vec<Failure> = barred.into_iter().collect();
    wrong.extend(workers(service, &mut teller).err());
    wrong.extend(damaged(service, &mut teller).err());
    // Before it is looked at what is due: what is let go now makes a base due.
    let spared = operations::wal::spare(service, &Run { progress: app.warnings(), ..app.run() });
    wrong.extend(spared.err().map(Failure::from));
    // How it went is of no account: who hears nothing takes the log for older than it is.
    let _ = operations::wal::note_quiet(service);
    let seen = observe_age(app, service);
    let age = seen.as_ref().ok().cloned();
    let seen = seen.and_then(|seen| with_attempts(service, seen));
    wrong.iter().for_each(|failure| app.out.warn(failure.one_line()));
    let failures = seen.as_ref().err().into_iter().chain(&wrong);
    let mut lines: Vec<String> = failures.map(Failure::one_line).collect();
    lines.dedup();
    teller.tell("unreachable", (!lines.is_empty()).then(|| lines.join("; ")));
    if let Some(age) = &age {
        tell_age(&mut teller, age);
    }
    let is_well = !teller.finish() && wrong.is_empty();
    let exit = if is_well { Exit::DONE } else { Exit::NOT_WELL };
    Ok(Looked { seen: Some(seen?), cleaned: Vec::new(), exit })
}

/// What another process is at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hung {
    CleanUp,
    Look,
}

/// Another process is at it. Tells if that has been so for too long.
pub(crate) fn hangs(
    app: &App,
    service: &ServiceSite,
    what: Hung,
    since: Option<Timestamp>,
    limit: Duration,
) -> Looked {
    let age = since.and_then(|since| units::age(since, Timestamp::now()));
    let Some(age) = age.filter(|age| *age >= limit) else { return Looked::default() };
    let age = units::duration(age);
    let (event, said) = match what {
        Hung::CleanUp => (
            "clean-up-failed",
            format!(
                "cleaning up began {age} ago and has not come to its end: a hook or the vault hangs"
            ),
        ),
        Hung::Look => (
            "unreachable",
            format!(
                "looking began {age} ago and has not come to its end: the vault or the service hangs"
            ),
        ),
    };
    let mut teller = Teller::load(app, service);
    app.out.warn(format_args!("{}: {said}", service.name()));
    teller.tell(event, Some(said));
    teller.finish();
    Looked { exit: Exit::NOT_WELL, ..Looked::default() }
}

/// Tells how old the history is, and what is missing of it. Says what is wrong: of what is here, and of
/// what other hosts hold.
pub(crate) fn tell_age(
    teller: &mut Teller<'_>,
    seen: &Observed,
) -> (Option<String>, Option<String>) {
    let now = Timestamp::now();
    teller.tell("log-gap", seen.gap.clone());
    let stale = due::staleness(seen, now);
    teller.tell("rpo-exceeded", stale.clone());
    let behind = due::behind(seen, now);
    teller.tell("standby-rpo-exceeded", behind.clone());
    (stale, behind)
}

/// Says of a service what is not well, on one line. Beside JSON it is in the document.
pub(crate) fn say<'w>(
    app: &App,
    service: &ServiceSite,
    wrong: impl IntoIterator<Item = &'w String>,
) {
    let wrong: Vec<&str> = wrong.into_iter().map(String::as_str).collect();
    if !app.out.json && !wrong.is_empty() {
        app.out.warn(format_args!("{}: {}", service.name(), wrong.join("; ")));
    }
}

/// Tells what is wrong with what runs here, and what has died, whoever cleaned up after it.
fn workers(service: &ServiceSite, teller: &mut Teller<'_>) -> Result<(), Failure> {
    let operations = history::list(service)?;
    let silent = operations.iter().find_map(|one| {
        let silent = units::duration(Duration::from_secs(one.silent_seconds?));
        let name = service.name();
        Some(format!(
            "{} runs, and has given no sign of life for {silent}; nothing is begun beside it. `mainstay \
             cancel {name} --kill` ends it",
            one.id
        ))
    });
    teller.tell("worker-silent", silent);
    let now = Timestamp::now();
    let is_news = |at: Timestamp| units::age(at, now).is_none_or(|age| age < NEWS);
    let died = operations.iter().filter(|one| one.outcome == Some(Outcome::Died));
    let died = died.filter(|one| one.ended.is_some_and(is_news));
    let died: Vec<(String, String)> =
        died.map(|one| (one.id.to_string(), one.message.clone().unwrap_or_default())).collect();
    teller.news("operation-died", &died);
    teller.tell("worker-contradicts", history::contradiction(service)?);
    Ok(())
}

/// Tells what was damaged, and is kept.
fn damaged(service: &ServiceSite, teller: &mut Teller<'_>) -> Result<(), Failure> {
    let aside = recover::kept_aside(service)?;
    let aside: Vec<String> = aside.iter().map(|dir| dir.display().to_string()).collect();
    teller.tell(
        "journal-damaged",
        (!aside.is_empty()).then(|| {
            format!(
                "the journal of an operation was damaged, and is kept in {}: look at it, then remove it",
                aside.join(", ")
            )
        }),
    );
    Ok(())
}
