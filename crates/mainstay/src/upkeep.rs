//! What `run-due` does for the history on the primary besides making points: it applies `keep` and
//! frees what nothing needs any more, and renews the locks of a bucket.

use crate::app::App;
use crate::commands::run_due::missed;
use crate::due;
use crate::failure::{Exit, Failure};
use crate::promises;
use crate::status;
use crate::teller::Teller;
use crate::units;
use crate::watch;
use jiff::{SignedDuration, Timestamp};
use model::config::{Service, Vault};
use model::{Class, Role, duration};
use operations::{Kind, ServiceSite, forget, history, prune};
use repository::prune::Options;
use serde_json::{Value, json};
use std::time::Duration;

/// A run that failed is tried again after this, and not only at the schedule's next time.
const RETRY: Duration = Duration::from_secs(60 * 60);
/// What one run may take, and a few more tries, before it is missed.
const GRACE: Duration = Duration::from_secs(4 * 60 * 60);
/// When the locks of a bucket were renewed, in the service's state directory.
const LOCKED: &str = "locked-again";
const FAILED: &str = "retention-failed";
const OVERDUE: &str = "retention-overdue";
const LOCK_FAILED: &str = "lock-failed";

/// Whether there is ever anything to do.
pub(crate) fn is_wanted(service: &Service, vault: &Vault) -> bool {
    service.prune_schedule.is_some() || lock_period(vault).is_some()
}

/// Locks are renewed when a quarter of their time has passed: three more chances are left.
fn lock_period(vault: &Vault) -> Option<Duration> {
    let s3 = vault.s3.as_ref().filter(|s3| s3.object_lock.is_some())?;
    let days = s3.object_lock_days?;
    Some(Duration::from_secs(u64::from(days) * 24 * 60 * 60 / 4))
}

/// What is due.
struct Due {
    retention: bool,
    next: Option<Timestamp>,
    locks: bool,
}

fn look(service: &ServiceSite, now: Timestamp) -> Result<Option<Due>, Failure> {
    let state = service.load_state()?.state;
    let role = state.members.get(service.member()).map(|member| member.role);
    if role != Some(Role::Primary) {
        return Ok(None);
    }
    let schedule = status::schedule(service, service.spec().prune_schedule.as_deref())?;
    let (retention, next) = match &schedule {
        Some(schedule) => {
            let attempts = status::attempts(&history::list(service)?, kind(service));
            due::scheduled(schedule, &attempts, RETRY, now)
        }
        None => (false, None),
    };
    let locks = lock_period(&service.site().config().vault).is_some_and(|period| {
        let renewed = std::fs::read_to_string(service.dir().join(LOCKED)).ok();
        let renewed = renewed.and_then(|text| text.parse::<Timestamp>().ok());
        // A time in the future is of a clock that was wrong.
        let age = renewed.and_then(|renewed| duration::age(renewed, now));
        age.is_none_or(|age| age >= period)
    });
    Ok(Some(Due { retention, next, locks }))
}

/// What the history's own operation is called.
fn kind(service: &ServiceSite) -> Kind {
    if service.spec().keep.is_some() { Kind::Forget } else { Kind::Prune }
}

/// Says what is due, and what it would free.
pub(crate) fn plan(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let Some(due) = look(service, Timestamp::now())? else {
        return Ok((Exit::DONE, json!({ "upkeep": "nothing" })));
    };
    let (out, name) = (&app.out, service.name());
    if due.locks {
        out.say(format_args!("{name}: the locks of the bucket are due"))?;
    }
    if !due.retention {
        let next = due.next.map(|next| format!("; next {}", units::local(next)));
        out.say(format_args!("{name}: no retention is due{}", next.unwrap_or_default()))?;
        let value = json!({ "upkeep": "nothing", "locks": due.locks, "next": due.next });
        return Ok((Exit::DONE, value));
    }
    let options = Options::default();
    let (gone, freed) = match service.spec().keep {
        Some(_) => {
            let plan = forget::plan(service, &forget::Params::default())?;
            let figures = forget::would_free(service, &plan, &app.run())?;
            (plan.remove, figures.freed_bytes)
        }
        None => (Vec::new(), prune::plan(service, &options, &app.run())?.freed_bytes),
    };
    out.say(format_args!(
        "{name}: retention is due: {} would go, and {} would be freed",
        crate::ui::words::count(gone.len() as u64, "point", "points"),
        units::size(freed)
    ))?;
    for point in &gone {
        out.say(format_args!("  - {}", point.name))?;
    }
    let value = json!({
        "upkeep": "retention",
        "locks": due.locks,
        "remove": gone,
        "would-free-bytes": freed,
        "next": due.next,
    });
    Ok((Exit::DONE, value))
}

/// Does what is due, and tells what came of it.
pub(crate) fn one(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let due = look(service, Timestamp::now())?;
    let mut teller = Teller::load(app, service);
    let Some(due) = due else {
        // Another host is the primary, and sees to that.
        for event in [FAILED, OVERDUE, LOCK_FAILED] {
            teller.tell(event, None);
        }
        let exit = if teller.finish() { Exit::NOT_WELL } else { Exit::DONE };
        return Ok((exit, json!({ "upkeep": "nothing" })));
    };
    let locked = match due.locks {
        true => done(app, service, &mut teller, LOCK_FAILED, renew(service))?,
        false => Ok((Exit::DONE, Value::Null)),
    };
    let ran = due.retention.then(|| retain(app, service));
    // Somebody else uses the history. It is tried again, and told once that has gone on for too long.
    let failed = ran.as_ref().and_then(|ran| ran.as_ref().err());
    let in_the_way = failed.filter(|e| e.class() == Class::Locked).map(Failure::one_line);
    let kept = match ran {
        Some(ran) => done(app, service, &mut teller, FAILED, ran)?,
        None => Ok((Exit::DONE, Value::Null)),
    };
    let overdue = overdue(service, Timestamp::now())?;
    let overdue = overdue.map(|overdue| match &in_the_way {
        Some(why) => format!("{overdue}: {why}"),
        None => overdue,
    });
    teller.tell(OVERDUE, overdue.clone());
    watch::say(app, service, &overdue);
    let unsent = teller.finish();
    let ((lock_exit, locked), (exit, kept)) = (locked?, kept?);
    let exit = exit.max(lock_exit);
    let ran = match (due.retention, &in_the_way) {
        (true, None) => "retention",
        (true, Some(_)) => "waits",
        (false, _) => "nothing",
    };
    let value = json!({
        "upkeep": ran,
        "in-the-way": in_the_way,
        "result": kept,
        "locked": locked,
        "overdue": overdue,
        "next": due.next,
    });
    let broken = unsent || overdue.is_some();
    Ok((if broken { exit.max(Exit::NOT_WELL) } else { exit }, value))
}

/// One sentence if nothing was freed since the last but one time that the schedule named.
fn overdue(service: &ServiceSite, now: Timestamp) -> Result<Option<String>, Failure> {
    let schedule = status::schedule(service, service.spec().prune_schedule.as_deref())?;
    let state = service.load_state()?.state;
    let me = state.members.get(service.member());
    let (Some(schedule), Some(me)) = (schedule, me) else { return Ok(None) };
    let attempts = status::attempts(&history::list(service)?, kind(service));
    let well = attempts.iter().filter(|one| one.well).map(|one| one.began).max();
    Ok(promises::overdue(("retention", GRACE), &schedule, well, me.since, now))
}

fn done(
    app: &App,
    service: &ServiceSite,
    teller: &mut Teller<'_>,
    event: &str,
    result: Result<(Exit, Value), Failure>,
) -> Result<Result<(Exit, Value), Failure>, Failure> {
    match result {
        Ok(done) => {
            teller.tell(event, None);
            Ok(Ok(done))
        }
        Err(failure) => missed(app, service, teller, event, failure),
    }
}

fn renew(service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let began = Timestamp::now();
    let locked = service.storage()?.lock_again("").map_err(operations::Error::from)?;
    // A little earlier than it was, never later.
    let noted = began.checked_sub(SignedDuration::from_secs(60)).unwrap_or(began);
    let file = service.dir().join(LOCKED);
    let text = noted.to_string();
    crate::files::write(&file, text.as_bytes(), 0o600, crate::files::Existing::Replace)?;
    Ok((Exit::DONE, json!(locked.unwrap_or(0))))
}

fn retain(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let options = Options::default();
    let (gone, pruned) = match service.spec().keep {
        Some(_) => {
            let params = forget::Params { prune: Some(options), ..forget::Params::default() };
            let done = forget::run(service, &params, &app.run())?;
            (done.plan.remove, done.pruned.unwrap_or_default())
        }
        None => (Vec::new(), prune::run(service, &options, &app.run())?),
    };
    app.out.detail(format_args!(
        "{}: {} forgotten, {} freed",
        service.name(),
        crate::ui::words::count(gone.len() as u64, "point", "points"),
        units::size(pruned.freed_bytes)
    ));
    let exit = if pruned.damaged.is_empty() { Exit::DONE } else { Exit::NOT_WELL };
    Ok((exit, json!({ "remove": gone, "pruned": pruned })))
}
