use super::common::Services;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::promises::Scrubs;
use crate::status;
use crate::teller::Teller;
use crate::ui::words::{count, shown};
use crate::units;
use crate::watch;
use engines::Refresh;
use jiff::Timestamp;
use model::{Class, Role};
use operations::scrub::{self, Done, Params};
use operations::{JudgedBy, ServiceSite, history};
use serde_json::{Value, json};
use std::time::Duration;

/// The event of the alert for what has rotted.
const ROTTEN: &str = "standby-rotten";
/// The event of the alert for a scrub that did not come to its end.
const FAILED: &str = "scrub-failed";

const EXAMPLES: &str = "\
Examples:
  mainstay scrub shop                   read it, and replace what has rotted
  mainstay scrub shop --no-heal         only read it

`scrub-schedule` in the configuration runs it by `mainstay run-due`.";

/// Read this host's standby, every byte of it, and replace what has rotted.
///
/// A refresh takes over what nobody has written to, and bits that rot on a disk leave no trace in the
/// times of their file. A scrub compares the content of every file with the point that the standby is
/// at. What differs is named, and replaced from the vault in one step, as a refresh does it; with
/// --no-heal the next refresh does. A copy that went along a log is no point byte for byte: its engine's
/// own check judges it, and the result says so. Exit code 1 if something has rotted and is still there.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ScrubArgs {
    #[command(flatten)]
    services: Services,

    /// Only name what has rotted.
    #[arg(long)]
    no_heal: bool,
}

pub(crate) fn run(app: &App, args: &ScrubArgs) -> Outcome {
    let names = args.services.of(app)?;
    app.each(&names, |service| {
        if args.services.all() && !can_be_scrubbed(service)? {
            app.out.say(format_args!("{}: no standby that is scrubbed", service.name()))?;
            return Ok((Exit::DONE, json!({ "skipped": "no standby that is scrubbed" })));
        }
        one(app, service, &Params { no_heal: args.no_heal })
    })
}

fn can_be_scrubbed(service: &ServiceSite) -> Result<bool, Failure> {
    let state = service.load_state()?.state;
    let role = state.members.get(service.member()).map(|member| member.role);
    Ok(role == Some(Role::Standby) && service.engine()?.refresh() != Refresh::Follow)
}

fn one(app: &App, service: &ServiceSite, params: &Params) -> Result<(Exit, Value), Failure> {
    let done = scrub::run(service, params, &app.run())?;
    if !app.out.json {
        tell(app, service, &done)?;
    }
    let left = !done.rotten.is_empty() && !done.healed;
    let exit = if left { Exit::NOT_WELL } else { Exit::DONE };
    Ok((exit, serde_json::to_value(&done).unwrap_or_default()))
}

fn tell(app: &App, service: &ServiceSite, done: &Done) -> Result<(), Failure> {
    let out = &app.out;
    let took = units::duration(Duration::from_secs_f64(done.seconds.max(0.0)));
    let read = format!("{} read in {took}", units::size(done.bytes));
    let by_engine = done.judged_by == JudgedBy::Engine;
    if done.rotten.is_empty() {
        let good =
            if by_engine { "its engine finds the copy sound" } else { "every byte is right" };
        let good = out.paint.good(good);
        out.say(format_args!("{}: {good} ({read})", service.name()))?;
        if by_engine {
            what_was_checked(app, done)?;
        }
        return Ok(());
    }
    let found = count(done.rotten.len() as u64, "file", "files");
    let bad = out.paint.bad(&format!("{found} rotted"));
    out.line(format_args!("{}: {bad} ({read})", service.name()))?;
    for one in &done.rotten {
        out.line(format_args!("  {} ({})", shown(&one.path), one.what))?;
    }
    if by_engine {
        what_was_checked(app, done)?;
    }
    match done.healed {
        true => {
            out.line("  Replaced from the vault. Look at the disk: where one bit rots, more do.")
        }
        false => out.line(format_args!(
            "  `mainstay refresh {}` replaces them: it takes nothing of this copy unread.",
            service.name()
        )),
    }
}

/// What an engine's own check covered, which is less than every byte.
fn what_was_checked(app: &App, done: &Done) -> Result<(), Failure> {
    for finding in &done.findings {
        app.out.say(format_args!("  {}", shown(finding)))?;
    }
    app.out.say(
        "  The log was replayed into this copy: its bytes could not be compared with a snapshot.",
    )
}

/// Whether `run-due` has anything to do with scrubs of a service.
pub(crate) fn is_scheduled(service: &model::config::Service) -> bool {
    service.scrub_schedule.is_some()
}

fn observe(service: &ServiceSite) -> Result<Scrubs, Failure> {
    let state = service.load_state()?.state;
    status::scrubs(service, &state, &history::list(service)?)
}

/// Says whether a scrub is due.
pub(crate) fn plan(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let now = Timestamp::now();
    let scrubs = observe(service)?;
    let (due, next) = scrubs.due(now);
    let what = if due { "a scrub is due" } else { "no scrub is due" };
    let shown = next.map(|next| format!("; next {}", units::local(next)));
    app.out.say(format_args!("{}: {what}{}", service.name(), shown.unwrap_or_default()))?;
    let (overdue, rot) = (scrubs.overdue(now), scrubs.rot());
    for told in [&overdue, &rot].into_iter().flatten() {
        app.out.say(format_args!("  {told}"))?;
    }
    let due = if due { "scrub" } else { "nothing" };
    Ok((Exit::DONE, json!({ "due": due, "next": next, "overdue": overdue, "rotten": rot })))
}

/// Scrubs if that is due, and tells what came of it.
pub(crate) fn one_due(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let (due, next) = observe(service)?.due(Timestamp::now());
    let mut teller = Teller::load(app, service);
    let result = match due.then(|| one(app, service, &Params { no_heal: false })) {
        None => Ok((Exit::DONE, Value::Null)),
        Some(Err(failure)) if failure.class() == Class::Cancelled => return Err(failure),
        // It is due again in a minute.
        Some(Err(failure)) if failure.class() == Class::Locked => {
            app.out.detail(format_args!("{}: {}", service.name(), failure.one_line()));
            Ok((Exit::DONE, Value::Null))
        }
        Some(Err(failure)) => {
            teller.tell(FAILED, Some(failure.one_line()));
            Err(failure)
        }
        Some(done) => done,
    };
    let (scrubs, now) = (observe(service)?, Timestamp::now());
    if scrubs.attempts.last().is_some_and(|last| last.well) {
        teller.tell(FAILED, None);
    }
    let (overdue, rot) = (scrubs.overdue(now), scrubs.rot());
    teller.tell("scrub-overdue", overdue.clone());
    teller.tell(ROTTEN, scrubs.found());
    watch::say(app, service, overdue.iter().chain(&rot));
    let unsent = teller.finish();
    let (exit, value) = result?;
    let broken = unsent || overdue.is_some() || rot.is_some();
    let exit = if broken { exit.max(Exit::NOT_WELL) } else { exit };
    let ran = if due { "scrub" } else { "nothing" };
    Ok((
        exit,
        json!({ "ran": ran, "result": value, "overdue": overdue, "rotten": rot, "next": next }),
    ))
}
