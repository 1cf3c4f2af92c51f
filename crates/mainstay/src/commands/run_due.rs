use super::{backup, drill, refresh, scrub};
use crate::app::{App, Chosen};
use crate::config::mistakes;
use crate::copies;
use crate::crew;
use crate::due::{self, Action, Observed};
use crate::failure::{Exit, Failure, Outcome};
use crate::promises::Drills;
use crate::status;
use crate::teller::Teller;
use crate::turns::{self, Turn};
use crate::units;
use crate::upkeep;
use crate::watch::{self, Looked};
use jiff::Timestamp;
use model::{Class, Role, ServiceName};
use operations::backup::Params;
use operations::{Kind, ServiceSite, history, look, wal};
use serde_json::{Value, json};
use std::cell::Cell;
use std::time::Duration;

/// Do what is due by the schedules of this host: called by a timer, every minute or so.
///
/// Each service has a process of its own, and none waits for another: first it is cleaned up after what
/// died on this host, and looked whether something is wrong, then what is due runs. What an earlier
/// run-due has begun and not ended is left alone.
///
/// A primary is backed up, a standby refreshed; after that, the history is copied to the second
/// vaults, `keep` is applied where `prune-schedule` says so, and drills and scrubs that are due run.
/// Missed runs are caught up by one, failed ones tried again after ten minutes (drills and scrubs after
/// six hours). An alert is
/// sent when a run fails, when the newest point is older than it may be (so that a schedule that does
/// nothing is noticed too), when a recovery took longer than it may, and when that is over.
#[derive(Debug, clap::Args)]
pub(crate) struct RunDueArgs {
    /// Say what is due, and do nothing.
    #[arg(long)]
    dry_run: bool,

    /// Attend what was begun for so long at most, e.g. `45s`: what takes longer goes on by itself, and
    /// the next run-due leaves it alone [default: until all of it has ended].
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    #[arg(conflicts_with = "dry_run")]
    attend: Option<Duration>,

    /// Only this service's turns, in this process. Given by run-due itself.
    #[arg(long, hide = true, conflicts_with_all = ["dry_run", "attend"])]
    service: Option<ServiceName>,
}

pub(crate) fn run(app: &App, args: &RunDueArgs) -> Outcome {
    if let Some(name) = &args.service {
        app.watch_quietly()?;
        return turns::run(app, name);
    }
    let site = match app.site() {
        Err(failure) if !args.dry_run && failure.class() == Class::Invalid => {
            mistakes::tell_unusable(app, &failure);
            return Err(failure);
        }
        site => site?,
    };
    let names = site.services();
    if !args.dry_run {
        let order = |name: &ServiceName, at: usize| {
            turns::of(&site, name).get(at).map_or(0, |t| *t as usize)
        };
        let worst = mistakes::elsewhere(app, &site);
        // Beside the others: telling may take its time, and nothing that is due waits for it.
        return std::thread::scope(|scope| {
            let tell = || mistakes::tell(app, &site);
            let telling = std::thread::Builder::new().spawn_scoped(scope, tell);
            let ended = crew::run(app, &names, &["run-due"], args.attend, order)?;
            let told = match telling {
                Ok(telling) => telling.join().unwrap_or(Exit::NOT_WELL),
                // The system grants no thread.
                Err(_) => tell(),
            };
            Ok(ended.worst(&[worst, told]))
        });
    }
    let mut all: Vec<(Turn, &ServiceName)> = names
        .iter()
        .flat_map(|name| turns::of(&site, name).into_iter().map(move |turn| (turn, name)))
        .collect();
    all.sort();
    let names: Vec<ServiceName> = all.iter().map(|(_, name)| (*name).clone()).collect();
    // One whose section has a mistake has no turns, but is told.
    let untold = site.services().into_iter().filter(|name| !names.contains(name));
    let names: Vec<ServiceName> = names.iter().cloned().chain(untold).collect();
    let names = Chosen::turns(names, true);
    let turn = Cell::new(0);
    app.each(&names, |service| {
        let turn = turn.replace(turn.get() + 1);
        match all.get(turn).map(|(turn, _)| *turn) {
            Some(Turn::Copy) => copies::plan(app, service),
            Some(Turn::Upkeep) => upkeep::plan(app, service),
            Some(Turn::Drill) => plan_drill(app, service),
            Some(Turn::Scrub) => scrub::plan(app, service),
            _ => plan(app, service),
        }
    })
}

fn plan(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let now = Timestamp::now();
    let seen = observe(app, service)?;
    let decision = due::decide(&seen, now);
    let what = match decision.action {
        Action::Backup => "a backup is due",
        Action::Refresh => "a refresh is due",
        Action::Nothing => "nothing is due",
    };
    let next = decision.next.map(|next| format!("; next {}", units::local(next)));
    let stale = due::staleness(&seen, now);
    app.out.say(format_args!("{}: {what}{}", service.name(), next.unwrap_or_default()))?;
    for told in seen.gap.iter().chain(&stale) {
        app.out.say(format_args!("  {told}"))?;
    }
    let value = json!({ "due": decision.action, "next": decision.next, "stale": stale });
    Ok((Exit::DONE, value))
}

/// Runs what is due, after it was looked at.
pub(crate) fn one(
    app: &App,
    service: &ServiceSite,
    mut looked: Looked,
) -> Result<(Exit, Value), Failure> {
    let mut teller = Teller::load(app, service);
    let seen = match looked.seen.take() {
        Some(seen) => Ok(seen),
        None => {
            let seen = observe(app, service);
            teller.tell("unreachable", seen.as_ref().err().map(Failure::one_line));
            seen
        }
    };
    let done = match seen {
        Ok(seen) => act(app, service, seen, &mut teller),
        Err(failure) => Err(failure),
    };
    let unsent = teller.finish();
    let (exit, value) = done?;
    Ok(looked.with(if unsent { exit.max(Exit::NOT_WELL) } else { exit }, value))
}

/// Runs what is due, and tells what came of it and how old the history is after it.
fn act(
    app: &App,
    service: &ServiceSite,
    mut seen: Observed,
    teller: &mut Teller<'_>,
) -> Result<(Exit, Value), Failure> {
    let decision = due::decide(&seen, Timestamp::now());
    let (event, other, kind) = match seen.role {
        Role::Primary => ("backup-failed", "refresh-failed", "backup"),
        _ => ("refresh-failed", "backup-failed", "refresh"),
    };
    let ran = match decision.action {
        Action::Backup => Some(backup::one(app, service, &Params::default())),
        Action::Refresh => Some(refresh::newest(app, service)),
        Action::Nothing => None,
    };
    let result = match ran {
        Some(ran) => {
            let result = match ran {
                Err(failure) => missed(app, service, teller, event, failure)?,
                Ok(done) => Ok(done),
            };
            seen = observe(app, service)?;
            result
        }
        None => {
            app.out.detail(match decision.next {
                Some(next) => format!("{}: next at {}", service.name(), units::local(next)),
                None => format!("{}: nothing is scheduled", service.name()),
            });
            Ok((Exit::DONE, Value::Null))
        }
    };
    // Whoever made it: a run by hand ends a failure too. What another role failed at is past.
    if let Some(last) = seen.attempts.last().filter(|last| last.well) {
        teller.tell(event, None);
        let what = "something of the source could not be read; the point is incomplete";
        teller.tell("backup-incomplete", last.incomplete.then(|| what.to_owned()));
        teller.tell("hook-failed", last.hook_failed.then(|| hook_failed(service, &result, kind)));
    }
    teller.tell(other, None);
    let (stale, behind) = watch::tell_age(teller, &seen);
    let waits = waits(service, &decision, kind);
    let unwell = seen.gap.is_some() || stale.is_some() || behind.is_some() || decision.retries;
    if unwell {
        watch::say(app, service, seen.gap.iter().chain(&stale).chain(&behind).chain(&waits));
    }
    let (exit, value) = result?;
    let exit = if stale.is_some() || behind.is_some() { exit.max(Exit::NOT_WELL) } else { exit };
    Ok((
        exit,
        json!({
            "ran": decision.action,
            "result": value,
            "stale": stale,
            "behind": behind,
            "next": decision.next,
        }),
    ))
}

/// Why nothing was done now, and when something is.
fn waits(service: &ServiceSite, decision: &due::Decision, kind: &str) -> Option<String> {
    let next = decision.next.map(units::local);
    match (decision.action, decision.retries, next) {
        (Action::Nothing, true, Some(next)) => Some(format!(
            "the last {kind} failed, which `mainstay logs {}` tells of, and is tried again at {next}",
            service.name()
        )),
        (Action::Nothing, _, Some(next)) => Some(format!("the next {kind} is due at {next}")),
        (Action::Nothing, _, None) => Some(format!("no {kind} is scheduled here")),
        _ => None,
    }
}

/// What somebody is told of a hook that failed after a run, this one or one by hand.
fn hook_failed(
    service: &ServiceSite,
    result: &Result<(Exit, Value), Failure>,
    kind: &str,
) -> String {
    let done = result.as_ref().ok().and_then(|(_, done)| done["hook-failed"]["message"].as_str());
    match done {
        Some(why) => format!("the {kind} is done, but {why}"),
        None => {
            let name = service.name();
            format!("the {kind} is done, but its hook failed; `mainstay logs {name}` tells why")
        }
    }
}

/// What becomes of a run that did not come to its end. That somebody wanted it to end ends all of it;
/// that something else runs is no failure, since it is due again in a minute; anything else is told.
pub(crate) fn missed(
    app: &App,
    service: &ServiceSite,
    teller: &mut Teller<'_>,
    event: &str,
    failure: Failure,
) -> Result<Result<(Exit, Value), Failure>, Failure> {
    match failure.class() {
        Class::Cancelled => Err(failure),
        Class::Locked => {
            app.out.detail(format_args!("{}: {}", service.name(), failure.one_line()));
            Ok(Ok((Exit::DONE, Value::Null)))
        }
        _ => {
            teller.failed(event, failure.one_line());
            Ok(Err(failure))
        }
    }
}

fn plan_drill(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let now = Timestamp::now();
    let drills = observe_drills(service)?;
    let (due, next) = drills.due(now);
    let what = if due { "a drill is due" } else { "no drill is due" };
    let shown = next.map(|next| format!("; next {}", units::local(next)));
    app.out.say(format_args!("{}: {what}{}", service.name(), shown.unwrap_or_default()))?;
    let (overdue, slow) = (drills.overdue(now), drills.slow());
    for told in [&overdue, &slow].into_iter().flatten() {
        app.out.say(format_args!("  {told}"))?;
    }
    let due = if due { "drill" } else { "nothing" };
    Ok((Exit::DONE, json!({ "due": due, "next": next, "overdue": overdue, "slow": slow })))
}

/// Runs a drill if one is due, and tells what came of it and whether what is promised holds.
pub(crate) fn one_drill(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let (due, next) = observe_drills(service)?.due(Timestamp::now());
    let mut teller = Teller::load(app, service);
    let ran = due.then(|| drill::newest(app, service));
    let result = match ran {
        Some(Err(failure)) => missed(app, service, &mut teller, drill::FAILED, failure)?,
        Some(Ok((why, value))) => {
            let exit = if why.is_some() { Exit::NOT_WELL } else { Exit::DONE };
            teller.tell(drill::FAILED, why);
            Ok((exit, value))
        }
        None => Ok((Exit::DONE, Value::Null)),
    };
    let (drills, now) = (observe_drills(service)?, Timestamp::now());
    if drills.attempts.last().is_some_and(|last| last.well) {
        teller.tell(drill::FAILED, None);
    }
    let (overdue, slow) = (drills.overdue(now), drills.slow());
    teller.tell("drill-overdue", overdue.clone());
    teller.tell("rto-exceeded", slow.clone());
    watch::say(app, service, overdue.iter().chain(&slow));
    let unsent = teller.finish();
    let (exit, value) = result?;
    let broken = unsent || overdue.is_some() || slow.is_some();
    let exit = if broken { exit.max(Exit::NOT_WELL) } else { exit };
    let ran = if due { "drill" } else { "nothing" };
    Ok((
        exit,
        json!({ "ran": ran, "result": value, "overdue": overdue, "slow": slow, "next": next }),
    ))
}

fn observe_drills(service: &ServiceSite) -> Result<Drills, Failure> {
    let state = service.load_state()?.state;
    status::drills(service, &state, &history::list(service)?)
}

pub(crate) fn observe(app: &App, service: &ServiceSite) -> Result<Observed, Failure> {
    let seen = observe_age(app, service)?;
    with_attempts(service, seen)
}

/// With what ran on this host: looked at last, since what was asked before may have taken long.
pub(crate) fn with_attempts(service: &ServiceSite, seen: Observed) -> Result<Observed, Failure> {
    let kind = if seen.role == Role::Primary { Kind::Backup } else { Kind::Refresh };
    let attempts = status::attempts(&history::list(service)?, kind);
    Ok(Observed { attempts, ..seen })
}

/// The same without what ran on this host: it tells how old the history is, and not what is due.
pub(crate) fn observe_age(app: &App, service: &ServiceSite) -> Result<Observed, Failure> {
    let state = service.load_state()?.state;
    let Some(me) = state.members.get(service.member()) else {
        return Err(Failure::invalid(format!("{} is not a member yet", service.member()))
            .hint("Run `mainstay init` on this host."));
    };
    let spec = service.spec();
    let schedule = status::schedule(service, spec.schedule.as_deref())?;
    let engine = service.engine()?;
    let follows = engine.abilities().log;
    let mut holds = me.applied.as_ref().map(|applied| applied.source_time);
    if me.role == Role::Standby && follows {
        // What it has replayed beyond the point that it was seeded with.
        let seen = look(service, &app.run(), |cx| engine.inspect(cx))?;
        holds = holds.max(wal::Until::look(service, &state)?.held(&seen)?);
    }
    let newest = state.newest_sound().map(|point| point.source_time);
    let went_back = wal::went_back(service, &state)?.filter(|_| me.role == Role::Primary);
    let is_refused = went_back.as_ref().is_some_and(|went_back| went_back.is_another);
    // What is missing of the log of another cluster is not what keeps anybody from this one's.
    let gap = if is_refused { None } else { wal::open_gap(service, &state)? };
    Ok(Observed {
        role: me.role,
        schedule,
        rpo: crate::status::declared_rpo(service),
        attempts: Vec::new(),
        newest: newest.max(wal::reaches(service, &state)?),
        holds,
        standbys: status::standbys(service, &state),
        since: me.since,
        gap: gap.map(|gap| gap.told()).or(went_back.map(|went_back| went_back.why)),
        is_refused,
    })
}
