use super::common::{self, Services};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::{count, shown};
use crate::units;
use model::Role;
use model::config::Quiesce;
use operations::backup::{self, BackedUp, Changed, Done, Params, Plan};
use operations::{ServiceSite, Which};
use repository::Ranges;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Problems that are named one by one.
const NAMED: usize = 20;

/// Back a service up: its state of now becomes a recovery point in the vault.
///
/// Exit code 3: a point was made, but something of the source could not be read. It is marked
/// incomplete, and a restore does not take it by default. Exit code 1 with a point: the hook
/// `after-backup` failed, and nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    services: Services,

    /// Say what would be read, and store nothing.
    #[arg(long)]
    dry_run: bool,

    /// Of a service that is one file with a `chunk-size`, read only what this file lists: a line for
    /// each range that was written to since the point of `--since`, OFFSET LENGTH, in bytes.
    #[arg(long, value_name = "FILE", requires = "since", conflicts_with_all = ["all", "dry_run"])]
    changed: Option<PathBuf>,

    /// The point that the ranges of `--changed` begin at, by its name or id (not `latest`). It must
    /// be the head, made by this member, with nothing restored since.
    #[arg(long, value_name = "POINT", requires = "changed")]
    since: Option<String>,

    /// Back up a tree that is empty, and was not at the head, too. Without this it is refused: a disk
    /// that is not mounted looks like that.
    #[arg(long, conflicts_with = "all")]
    allow_empty: bool,

    /// Back up a database cluster that is another one than the head's (made anew, or by `pg_upgrade`).
    /// Without this it is refused: its first backup would become what standbys are brought to.
    #[arg(long, conflicts_with = "all")]
    allow_another: bool,
}

pub(crate) fn run(app: &App, args: &BackupArgs) -> Outcome {
    let names = args.services.of(app)?;
    let changed = match (&args.changed, &args.since) {
        (Some(file), Some(since)) => {
            Some(Changed { since: Which::of(since), ranges: read_ranges(file)? })
        }
        _ => None,
    };
    let params = Params {
        dry_run: args.dry_run,
        changed,
        allow_empty: args.allow_empty,
        allow_another: args.allow_another,
    };
    app.each(&names, |service| {
        if args.services.all() && is_elsewhere(service)? {
            app.out
                .say(format_args!("{}: not the primary, so not backed up here", service.name()))?;
            return Ok((Exit::DONE, json!({ "skipped": "not the primary" })));
        }
        one(app, service, &params)
    })
}

/// The ranges that a file lists.
fn read_ranges(file: &Path) -> Result<Ranges, Failure> {
    let wrong = |what: String| {
        Failure::invalid(format!("{}: {what}", file.display()))
            .hint("Write a line for each range: OFFSET LENGTH, in bytes.")
    };
    let text = fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
    let mut ranges = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let range = line.split_once(char::is_whitespace).and_then(|(offset, length)| {
            let offset: u64 = offset.parse().ok()?;
            Some(offset..offset.checked_add(length.trim().parse().ok()?)?)
        });
        ranges.push(range.ok_or_else(|| wrong(format!("line {number}: {line:?} is no range")))?);
    }
    Ok(ranges.into_iter().collect())
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
    params: &Params,
) -> Result<(Exit, Value), Failure> {
    let done = backup::run(service, params, &app.run())?;
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
            Some(seconds) if service.spec().quiesce == Quiesce::Freeze => {
                format!(", frozen for {seconds:.1} s")
            }
            Some(seconds) => format!(", stopped for {seconds:.1} s"),
            None => String::new(),
        },
    ))?;
    let hook = match &done.hook_failed {
        Some(hook) => common::hook_failed(app, service, hook, "the point was made and is kept"),
        None => Exit::DONE,
    };
    if done.problems.is_empty() {
        return Ok(hook);
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
    Ok(hook.max(Exit::UNREADABLE))
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
