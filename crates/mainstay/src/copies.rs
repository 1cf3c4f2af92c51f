//! The second vaults of a service: copies that are due, and how old what they hold is.

use crate::app::App;
use crate::commands::run_due::missed;
use crate::due::{self, Attempt};
use crate::failure::{Exit, Failure};
use crate::files::{self, Existing};
use crate::init::password;
use crate::teller::Teller;
use crate::units;
use crate::watch;
use jiff::{SignedDuration, Timestamp};
use model::config::SecondVault;
use model::schedule::Schedule;
use model::{Role, ServiceState, SnapshotId, VaultName, duration};
use operations::copy::{self, Params};
use operations::{ServiceSite, secrets, vault};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A copy that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(10 * 60);
/// What a copy may take before it is missed, if nothing is declared.
const GRACE: Duration = Duration::from_secs(60 * 60);
/// What is remembered, in the service's state directory.
const FILE: &str = "copies.json";

/// What this host remembers of one second vault of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Record {
    /// When a copy was first looked for.
    since: Timestamp,
    /// When the last one began, and whether it came to its end.
    began: Option<Timestamp>,
    well: bool,
    /// When the last one began that came to its end.
    copied: Option<Timestamp>,
    /// The newest whole point there, and its source time.
    head: Option<SnapshotId>,
    holds: Option<Timestamp>,
    /// Why the last one failed.
    error: Option<String>,
}

impl Record {
    fn new(now: Timestamp) -> Record {
        Record {
            since: now,
            began: None,
            well: true,
            copied: None,
            head: None,
            holds: None,
            error: None,
        }
    }

    fn attempts(&self) -> Vec<Attempt> {
        let attempt =
            |began: Timestamp, well| Attempt { began, well, incomplete: false, hook_failed: false };
        let good = self.copied.map(|began| attempt(began, true));
        let last = self.began.filter(|_| !self.well).map(|began| attempt(began, false));
        good.into_iter().chain(last).collect()
    }
}

type Records = BTreeMap<VaultName, Record>;

fn load(service: &ServiceSite) -> Records {
    // Damaged, it only costs a look at what is there already.
    let text = std::fs::read(service.dir().join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn save(service: &ServiceSite, records: &Records) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(records).unwrap_or_default();
    files::write(&service.dir().join(FILE), &text, 0o600, Existing::Replace)
}

/// A second vault, as `status` tells of it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CopyStatus {
    pub(crate) vault: VaultName,
    /// Source time of the newest point there.
    pub(crate) holds: Option<Timestamp>,
    /// When it was last brought there.
    pub(crate) copied: Option<Timestamp>,
    /// What is wrong with its age.
    pub(crate) behind: Option<String>,
    /// Why the last copy failed.
    pub(crate) error: Option<String>,
}

/// What this host, the primary, knows of the second vaults of a service.
pub(crate) fn status(
    service: &ServiceSite,
    state: &ServiceState,
    now: Timestamp,
) -> Result<Vec<CopyStatus>, Failure> {
    if !is_primary(service, state) {
        return Ok(Vec::new());
    }
    let records = load(service);
    let tell = |(name, copy): (&VaultName, &SecondVault)| {
        let record = records.get(name).cloned().unwrap_or_else(|| Record::new(now));
        let behind = behind(service, copy, &record, state, now)?;
        let Record { holds, copied, error, .. } = record;
        Ok(CopyStatus { vault: name.clone(), holds, copied, behind, error })
    };
    of(service).map(tell).collect()
}

/// Whether there is any.
pub(crate) fn are_wanted(service: &ServiceSite) -> bool {
    of(service).next().is_some()
}

fn of(service: &ServiceSite) -> impl Iterator<Item = (&VaultName, &SecondVault)> {
    let copies = service.site().config().copy.iter();
    copies.filter(|(_, copy)| copy.is_for(service.name()))
}

fn is_primary(service: &ServiceSite, state: &ServiceState) -> bool {
    let member = state.members.get(service.member());
    member.is_some_and(|member| member.role == Role::Primary)
}

/// Says what is due.
pub(crate) fn plan(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let state = service.load_state()?.state;
    let (now, records) = (Timestamp::now(), load(service));
    let mut told = Vec::new();
    for (name, copy) in of(service).filter(|_| is_primary(service, &state)) {
        let record = records.get(name).cloned().unwrap_or_else(|| Record::new(now));
        let (due, next) = is_due(service, copy, &record, &state, now)?;
        let what = if due { "is due" } else { "is not due" };
        let shown = next.map(|next| format!("; next {}", units::local(next))).unwrap_or_default();
        app.out.say(format_args!("{}: a copy to {name} {what}{shown}", service.name()))?;
        let behind = behind(service, copy, &record, &state, now)?;
        if let Some(behind) = &behind {
            app.out.say(format_args!("  {behind}"))?;
        }
        told.push(json!({ "vault": name, "due": due, "next": next, "behind": behind }));
    }
    Ok((Exit::DONE, json!({ "copies": told })))
}

/// Copies what is due, and tells what came of it and how old what is there is. A vault that cannot be
/// reached keeps no other from its turn.
pub(crate) fn all(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let state = service.load_state()?.state;
    if !is_primary(service, &state) {
        return Ok((Exit::DONE, json!({ "copies": [] })));
    }
    let mut teller = Teller::load(app, service);
    let mut records = load(service);
    let (mut worst, mut told, mut failed) = (Exit::DONE, Vec::new(), None);
    for (name, copy) in of(service) {
        let now = Timestamp::now();
        let record = records.entry(name.clone()).or_insert_with(|| Record::new(now));
        let (due, next) = is_due(service, copy, record, &state, now)?;
        let mut ran = "nothing";
        if due {
            ran = "copy";
            let done = one(app, service, copy);
            record.began = Some(now);
            record.well = matches!(&done, Ok(outcome) if outcome.is_whole());
            record.error = None;
            let result = match done {
                Ok(outcome) => {
                    let parts = outcome.failed.len() + outcome.log_failed.len();
                    if record.well {
                        let head = state.head_point();
                        record.copied = Some(now);
                        record.head = head.map(|head| head.snapshot);
                        record.holds = head.map(|head| head.source_time);
                    }
                    match parts {
                        0 => Ok((Exit::DONE, Value::Null)),
                        _ => Err(Failure::new(
                            model::Class::Corrupt,
                            format!("{parts} things could not be copied to {name}"),
                        )
                        .hint("`mainstay copy` to there names them.")),
                    }
                }
                Err(failure) => Err(failure),
            };
            match result {
                Ok((exit, _)) => {
                    teller.tell(&failed_event(name), None);
                    worst = worst.max(exit);
                }
                Err(failure) => {
                    record.error = Some(failure.one_line());
                    let missed = missed(app, service, &mut teller, &failed_event(name), failure);
                    match missed {
                        Ok(Ok((exit, _))) => worst = worst.max(exit),
                        Ok(Err(failure)) => failed = Some(failure),
                        Err(failure) => {
                            save(service, &records)?;
                            teller.finish();
                            return Err(failure);
                        }
                    }
                }
            }
        }
        let Some(record) = records.get(name) else { continue };
        let behind = behind(service, copy, record, &state, Timestamp::now())?;
        teller.tell(&format!("copy-behind:{name}"), behind.clone());
        let waits = next.filter(|_| ran == "nothing").map(units::local);
        let waits = waits.map(|next| format!("the next copy is due at {next}"));
        let place = behind.as_ref().map(|behind| format!("{name}: {behind}"));
        watch::say(app, service, place.iter().chain(waits.iter().filter(|_| place.is_some())));
        if behind.is_some() {
            worst = worst.max(Exit::NOT_WELL);
        }
        told.push(json!({
            "vault": name,
            "ran": ran,
            "holds": record.holds,
            "behind": behind,
            "error": record.error,
            "next": next,
        }));
        save(service, &records)?;
    }
    let unsent = teller.finish();
    if let Some(failure) = failed {
        return Err(failure);
    }
    let exit = if unsent { worst.max(Exit::NOT_WELL) } else { worst };
    Ok((exit, json!({ "copies": told })))
}

fn failed_event(name: &VaultName) -> String {
    format!("copy-failed:{name}")
}

fn one(app: &App, service: &ServiceSite, to: &SecondVault) -> Result<copy::Outcome, Failure> {
    let run = app.run();
    let storage = vault::open(&to.vault, &run.cancel)?;
    let password = secrets::of_vault(&to.vault)
        .map_or_else(|| secrets::source(service.site().config(), Some(service.spec())), Ok)?;
    let password = secrets::read(&password)?;
    let kdf = password::kdf(&password);
    let params = Params { to: storage, password, kdf, points: Vec::new(), dry_run: false };
    let done = copy::run(service, &params, &run)?;
    app.out.detail(format_args!(
        "{}: {} copied to {}",
        service.name(),
        crate::ui::words::count(done.copied.len() as u64, "point", "points"),
        done.location
    ));
    Ok(done)
}

fn schedule(service: &ServiceSite, copy: &SecondVault) -> Result<Option<Schedule>, Failure> {
    crate::status::schedule(service, copy.schedule.as_deref())
}

fn is_due(
    service: &ServiceSite,
    copy: &SecondVault,
    record: &Record,
    state: &ServiceState,
    now: Timestamp,
) -> Result<(bool, Option<Timestamp>), Failure> {
    let attempts = record.attempts();
    if let Some(schedule) = schedule(service, copy)? {
        return Ok(due::scheduled(&schedule, &attempts, RETRY, now));
    }
    let newest = state.head.map(|head| head.snapshot);
    let wanted = newest.is_some() && newest != record.head;
    let retry = due::retry(&attempts, RETRY, now);
    Ok((wanted && retry.is_none(), retry))
}

/// One sentence if what is there is older than it may be, or if nothing happens at all.
fn behind(
    service: &ServiceSite,
    copy: &SecondVault,
    record: &Record,
    state: &ServiceState,
    now: Timestamp,
) -> Result<Option<String>, Failure> {
    let limit = match (copy.rpo.as_deref(), schedule(service, copy)?) {
        (Some(rpo), _) => {
            let rpo = units::parse_duration(rpo).map_err(Failure::invalid)?;
            now.checked_sub(duration::signed(rpo)).ok()
        }
        (None, Some(schedule)) => before_last(&schedule, now),
        // What the vault has had for so long should be there.
        (None, None) => {
            let old = now.checked_sub(duration::signed(GRACE)).ok();
            let due = state
                .points
                .iter()
                .rfind(|point| !point.incomplete && old.is_some_and(|old| point.received <= old));
            due.map(|point| point.source_time)
        }
    };
    let Some(limit) = limit else { return Ok(None) };
    let from = record.holds.unwrap_or(record.since);
    if from >= limit {
        return Ok(None);
    }
    let human = |then| duration::age(then, now).map(duration::human).unwrap_or_default();
    Ok(Some(match record.holds {
        Some(holds) => {
            format!("what is in the copy is {} old; {} are allowed", human(holds), human(limit))
        }
        None => format!("nothing was copied in {}", human(record.since)),
    }))
}

/// The last but one time that a schedule named, of those that are over.
fn before_last(schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let over = now.checked_sub(duration::signed(GRACE)).ok()?;
    let last = schedule.previous(over)?;
    schedule.previous(last.checked_sub(SignedDuration::from_secs(1)).ok()?)
}
