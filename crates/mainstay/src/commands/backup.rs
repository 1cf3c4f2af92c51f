use super::common::Services;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::{count, shown};
use crate::units;
use model::Role;
use operations::ServiceSite;
use operations::backup::{self, BackedUp, Done, Params, Plan};
use serde_json::{Value, json};
use std::time::Duration;

/// Problems that are named one by one.
const NAMED: usize = 20;

/// Back a service up: its state of now becomes a recovery point in the vault.
///
/// Exit code 3: a point was made, but something of the source could not be read. It is marked
/// incomplete, and a restore does not take it by default.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    services: Services,

    /// Say what would be read, and store nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(app: &App, args: &BackupArgs) -> Outcome {
    let names = args.services.of(&app.site()?);
    app.each(&names, |service| {
        if args.services.all() && is_elsewhere(service)? {
            app.out
                .say(format_args!("{}: not the primary, so not backed up here", service.name()))?;
            return Ok((Exit::DONE, json!({ "skipped": "not the primary" })));
        }
        one(app, service, args.dry_run)
    })
}

/// With `--all`, what this host has only a standby of is no failure.
fn is_elsewhere(service: &ServiceSite) -> Result<bool, Failure> {
    let state = service.load_state()?.state;
    let member = state.members.get(service.member());
    Ok(member.is_some_and(|member| member.role != Role::Primary))
}

/// Backs one service up and tells what came of it.
pub(crate) fn one(
    app: &App,
    service: &ServiceSite,
    dry_run: bool,
) -> Result<(Exit, Value), Failure> {
    let done = backup::run(service, &Params { dry_run }, &app.run())?;
    let value = serde_json::to_value(&done).unwrap_or_default();
    let exit = match &done {
        Done::Planned(plan) => tell_plan(app, service, plan)?,
        Done::BackedUp(done) => tell(app, service, done)?,
    };
    Ok((exit, value))
}

fn tell(app: &App, service: &ServiceSite, done: &BackedUp) -> Result<Exit, Failure> {
    let out = &app.out;
    out.say(format_args!(
        "{}: {}  {} ({} read), {}, {} added, in {}{}",
        service.name(),
        out.paint.bold(&done.name),
        count(done.files, "file", "files"),
        done.files_read,
        units::size(done.point.size_bytes),
        units::size(done.point.added_bytes),
        units::duration(Duration::from_secs_f64(done.seconds.max(0.0))),
        match done.stopped_seconds {
            Some(seconds) => format!(", stopped for {seconds:.1} s"),
            None => String::new(),
        },
    ))?;
    if done.problems.is_empty() {
        return Ok(Exit::DONE);
    }
    if !out.json {
        out.warn(format_args!(
            "{} could not be read, so {} is incomplete and not the head:",
            count(done.problems.len() as u64, "thing", "things"),
            done.name
        ));
        for problem in done.problems.iter().take(NAMED) {
            out.complain(format_args!("  {}: {}", shown(&problem.path), problem.what));
        }
        if done.problems.len() > NAMED {
            let operation = &done.operation;
            let more = done.problems.len() - NAMED;
            out.complain(format_args!(
                "  and {more} more; `mainstay logs {} {operation}` names them",
                service.name()
            ));
        }
    }
    Ok(Exit::UNREADABLE)
}

fn tell_plan(app: &App, service: &ServiceSite, plan: &Plan) -> Result<Exit, Failure> {
    let out = &app.out;
    let size = plan.size_bytes.map(|bytes| format!(" ({})", units::size(bytes)));
    out.say(format_args!(
        "{}: would be backed up by {} at generation {}; {}{}",
        service.name(),
        plan.member,
        plan.generation,
        plan.service,
        size.unwrap_or_default(),
    ))?;
    for root in &plan.roots {
        out.say(format_args!("  {} as {}", root.on_host.display(), root.in_snapshot))?;
    }
    match plan.parent {
        Some(parent) => out.say(format_args!("  only what changed since {}", parent.short()))?,
        None => out.say("  everything: this is the first point")?,
    }
    Ok(Exit::DONE)
}
