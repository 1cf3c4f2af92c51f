use super::{backup, refresh};
use crate::app::App;
use crate::due::{self, Action, Attempt, Observed, Tell, Told};
use crate::failure::{Exit, Failure, Outcome};
use crate::files::{self, Existing};
use crate::units;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::schedule::Schedule;
use model::{Class, Role};
use operations::alert::{self, Alert};
use operations::{Kind, ServiceSite, history, look};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Do what is due by the schedules of this host: called by a timer, every minute or so.
///
/// A primary is backed up, a standby refreshed. Missed runs are caught up by one, failed ones tried
/// again after ten minutes. An alert is sent when a run fails, when the newest point is older than
/// it may be (so that a schedule that does nothing is noticed too), and when that is over.
#[derive(Debug, clap::Args)]
pub(crate) struct RunDueArgs {
    /// Say what is due, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(app: &App, args: &RunDueArgs) -> Outcome {
    app.each(&app.site()?.services(), |service| {
        if args.dry_run { plan(app, service) } else { one(app, service) }
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
    if let Some(stale) = &stale {
        app.out.say(format_args!("  {stale}"))?;
    }
    let value = json!({ "due": decision.action, "next": decision.next, "stale": stale });
    Ok((Exit::DONE, value))
}

fn one(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let mut teller = Teller::load(app, service);
    let seen = match observe(app, service) {
        Ok(seen) => {
            teller.tell("unreachable", None);
            seen
        }
        Err(failure) => {
            teller.tell("unreachable", Some(failure.one_line()));
            teller.save()?;
            return Err(failure);
        }
    };
    let decision = due::decide(&seen, Timestamp::now());
    let (event, ran) = match decision.action {
        Action::Backup => ("backup-failed", Some(backup::one(app, service, false))),
        Action::Refresh => ("refresh-failed", Some(refresh::newest(app, service))),
        Action::Nothing => ("", None),
    };
    let result = match ran {
        None => {
            app.out.detail(match decision.next {
                Some(next) => format!("{}: next at {}", service.name(), units::local(next)),
                None => format!("{}: nothing is scheduled", service.name()),
            });
            Ok((Exit::DONE, Value::Null))
        }
        Some(Err(failure)) if failure.class() == Class::Locked => {
            app.out.detail(format_args!("{}: {}", service.name(), failure.one_line()));
            Ok((Exit::DONE, Value::Null))
        }
        // Somebody wanted it to end.
        Some(Err(failure)) if failure.class() == Class::Cancelled => return Err(failure),
        Some(Err(failure)) => {
            teller.tell(event, Some(failure.one_line()));
            Err(failure)
        }
        Some(Ok((exit, value))) => {
            teller.tell(event, None);
            let incomplete = exit == Exit::UNREADABLE;
            let what = "something of the source could not be read; the point is incomplete";
            teller.tell("backup-incomplete", incomplete.then(|| what.to_owned()));
            Ok((exit, value))
        }
    };
    let seen = if result.is_ok() { observe(app, service)? } else { seen };
    let stale = due::staleness(&seen, Timestamp::now());
    teller.tell("rpo-exceeded", stale.clone());
    let unsent = teller.save()?;
    let (exit, value) = result?;
    let exit = if stale.is_some() || unsent { exit.max(Exit::NOT_WELL) } else { exit };
    Ok((
        exit,
        json!({ "ran": decision.action, "result": value, "stale": stale, "next": decision.next }),
    ))
}

fn observe(app: &App, service: &ServiceSite) -> Result<Observed, Failure> {
    let state = service.load_state()?.state;
    let Some(me) = state.members.get(service.member()) else {
        return Err(Failure::invalid(format!("{} is not a member yet", service.member()))
            .hint("Run `mainstay init` on this host."));
    };
    let spec = service.spec();
    let zone = match &spec.time_zone {
        Some(zone) => TimeZone::get(zone).map_err(|e| Failure::invalid(e.to_string()))?,
        None => TimeZone::system(),
    };
    let schedule = match &spec.schedule {
        Some(text) => {
            let schedule = Schedule::parse(text, zone);
            let schedule = schedule.map_err(|e| Failure::invalid(e.to_string()))?;
            Some(schedule.spread(service.member(), service.name()))
        }
        None => None,
    };
    let kind = if me.role == Role::Primary { Kind::Backup } else { Kind::Refresh };
    let runs = history::list(service)?.into_iter().filter(|one| one.kind == kind && !one.running);
    let attempt = |one: history::Operation| Attempt {
        began: one.started,
        well: crate::ui::words::went_well(one.outcome)
            || one.outcome == Some(operations::Outcome::Incomplete),
    };
    let engine = service.engine()?;
    let log = engine.abilities().log;
    let mut holds = me.applied.as_ref().map(|applied| applied.source_time);
    if me.role == Role::Standby && log {
        // What it has replayed beyond the point that it was seeded with.
        holds = holds.max(look(service, &app.run(), |cx| engine.inspect(cx))?.replayed);
    }
    let newest = state.head_point().map(|head| head.source_time);
    Ok(Observed {
        role: me.role,
        schedule,
        rpo: crate::status::declared_rpo(service),
        attempts: runs.map(attempt).collect(),
        newest: newest.max(if log { super::wal::last_push(service) } else { None }),
        holds,
        since: me.since,
    })
}

/// Sends alerts, and remembers which.
struct Teller<'a> {
    app: &'a App,
    service: &'a ServiceSite,
    file: PathBuf,
    told: Told,
    before: Told,
    unsent: bool,
}

impl<'a> Teller<'a> {
    fn load(app: &'a App, service: &'a ServiceSite) -> Teller<'a> {
        let file = service.dir().join("alerts.json");
        let told: Told = match std::fs::read(&file) {
            // Damaged, it is as if nobody had been told: better twice than never.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(_) => Told::default(),
        };
        Teller { app, service, file, before: told.clone(), told, unsent: false }
    }

    /// Tells that it is wrong, and how, or that it is well, if somebody must hear that now.
    fn tell(&mut self, event: &str, wrong: Option<String>) {
        let now = Timestamp::now();
        let tell = self.told.tell(event, wrong.is_some(), now);
        let (event_sent, message) = match (tell, wrong) {
            (Tell::Wrong, Some(message)) => (event.to_owned(), message),
            (Tell::Recovered, _) => (format!("{event}-over"), format!("{event} is over")),
            _ => return,
        };
        let alert = Alert {
            host: self.service.member().clone(),
            service: Some(self.service.name().clone()),
            event: event_sent,
            message: format!("{}: {message}", self.service.name()),
            at: now,
        };
        match alert::send(self.service.site(), &alert) {
            Ok(()) => self.told.remember(event, tell, now),
            Err(error) => {
                self.unsent = true;
                self.app.out.warn(Failure::from(error).one_line());
            }
        }
    }

    /// Remembers it for the next run; says whether something could not be sent.
    fn save(self) -> Result<bool, Failure> {
        if self.told != self.before {
            let text = serde_json::to_vec(&self.told).unwrap_or_default();
            files::write(&self.file, &text, 0o600, Existing::Replace)?;
        }
        Ok(self.unsent)
    }
}
