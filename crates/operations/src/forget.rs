//! Forget: points leave the history, by the policy or by name.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `commit` | the vault's state does not name the points any more: this is the commit marker | |
//! | `files` | their snapshot files are gone | removing the rest of them |
//! | `prune` | what only they needed is gone, if that was asked for | (the next prune) |
//!
//! The state comes first. A point without its snapshot would be promised and could not be restored;
//! a snapshot without its point is listed as uncommitted until it is gone, and can be restored.

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, PATIENCE, Run};
use crate::recover::Left;
use crate::room::Room;
use crate::wal::target::base_of_now;
use crate::{Error, ServiceSite, Which, prune, which};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::config::Keep;
use model::retention::{self, Policy};
use model::{OperationId, PointName, ServiceState, SnapshotId, duration};
use repository::prune::{Figures, Options};
use repository::{RepositoryLock, Work};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is asked for.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Points by name; by the policy without any.
    pub points: Vec<String>,
    /// The policy, instead of the service's own `keep`.
    pub keep: Option<Keep>,
    /// Say what would go, and do nothing.
    pub dry_run: bool,
    /// Also remove what nothing needs then.
    #[serde(skip)]
    pub prune: Option<Options>,
    /// Nothing but these may go: what was shown and agreed to.
    #[serde(skip)]
    pub agreed: Option<BTreeSet<SnapshotId>>,
}

/// A point, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// When the vault had it.
    pub received: Option<Timestamp>,
    /// Why it stays; empty for one that goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// What goes and what stays, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// These stay.
    pub keep: Vec<Judged>,
    /// These go.
    pub remove: Vec<Judged>,
}

impl Plan {
    /// The snapshots of what goes.
    pub fn snapshots(&self) -> BTreeSet<SnapshotId> {
        self.remove.iter().map(|judged| judged.snapshot).collect()
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation; none for a dry run.
    pub operation: Option<OperationId>,
    /// What went, and what stayed.
    #[serde(flatten)]
    pub plan: Plan,
    /// What was freed, if that was asked for.
    pub pruned: Option<prune::Pruned>,
}

/// What would go by these words. Changes nothing.
pub fn plan(site: &ServiceSite, params: &Params) -> Result<Plan, Error> {
    let state = site.load_state()?.state;
    judge(site, &state, params)
}

/// What a prune would free if these snapshots were gone.
pub fn would_free(site: &ServiceSite, plan: &Plan, run: &Run) -> Result<Figures, Error> {
    let _room = Room::make(site, &*run.progress);
    let repository = site.repository()?;
    let wait = run.wait.unwrap_or_default();
    let lock = repository.lock_for(Work::Check, wait, &run.cancel)?;
    let (without, options) = (plan.snapshots(), Options::default());
    let figures =
        repository::prune::estimate(repository, &without, &options, &*run.progress, &run.cancel)?;
    drop(lock);
    Ok(figures)
}

/// Forgets.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    if params.dry_run {
        return Ok(Done { operation: None, plan: plan(site, params)?, pruned: None });
    }
    let _room = Room::make(site, &*run.progress);
    let mut operation = Operation::begin(site, Kind::Forget, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Forget, result, |done: &Done| {
        let (gone, kept) = (done.plan.remove.len(), done.plan.keep.len());
        let damaged = done.pruned.as_ref().is_some_and(|pruned| !pruned.damaged.is_empty());
        let outcome = if damaged { Outcome::Incomplete } else { Outcome::Done };
        (outcome, format!("{gone} forgotten, {kept} kept"))
    })
}

fn perform(site: &ServiceSite, operation: &mut Operation, params: &Params) -> Result<Done, Error> {
    let (_, lock) = operation.open_for(site, Work::Forget)?;
    // Anew, under the lock: a backup or a refresh may have ended since it was looked at.
    let mut plan = judge(site, &site.load_state()?.state, params)?;
    if let Some(agreed) = &params.agreed {
        let (going, staying): (Vec<_>, Vec<_>) =
            plan.remove.into_iter().partition(|judged| agreed.contains(&judged.snapshot));
        plan.remove = going;
        plan.keep.extend(staying);
    }
    let state = site.load_state()?.state;
    let (points, uncommitted) =
        plan.snapshots().into_iter().partition(|snapshot| state.point(*snapshot).is_some());
    let going = Going { points, uncommitted };
    if !plan.remove.is_empty() {
        operation.step("commit", &going, |_| {
            lock.still_held()?;
            let ids: Vec<SnapshotId> = going.points.iter().copied().collect();
            let (versioned, ()) = site.state()?.update(|state| state.forget(&ids))?;
            site.remember(&versioned)?;
            Ok(())
        })?;
        operation.forward("files", (), |_| remove_files(site, &lock, &going))?;
    }
    let pruned = match &params.prune {
        Some(options) => Some(operation.step("prune", (), |operation| {
            let (progress, cancel) = (operation.report(), operation.cancel().clone());
            prune::under_lock(site, &lock, options, &*progress, &cancel)
        })?),
        None => None,
    };
    Ok(Done { operation: Some(operation.id().clone()), plan, pruned })
}

/// What the journal needs to bring a forget to its end.
#[derive(Serialize, Deserialize)]
struct Going {
    /// What the state names.
    points: BTreeSet<SnapshotId>,
    /// Snapshots that no commit made history.
    uncommitted: BTreeSet<SnapshotId>,
}

impl Going {
    fn all(&self) -> BTreeSet<SnapshotId> {
        self.points.union(&self.uncommitted).copied().collect()
    }
}

fn remove_files(site: &ServiceSite, lock: &RepositoryLock, going: &Going) -> Result<(), Error> {
    let repository = site.repository()?;
    let there: BTreeSet<SnapshotId> = repository.snapshot_ids()?.into_iter().collect();
    for snapshot in going.all().intersection(&there) {
        repository.remove_snapshot(lock, *snapshot)?;
    }
    Ok(())
}

/// Past the commit the files go, too; before it nothing has happened.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    let Some(data) = left.begun("commit") else { return Ok(()) };
    if left.done("files").is_some() {
        return Ok(());
    }
    let going: Going = serde_json::from_value(data).map_err(|e| {
        Error::new(model::Class::Corrupt, "the journal of a forget is not understood").because(e)
    })?;
    let site = left.site;
    let state = left.state_after("commit")?;
    // The state drops all of them or none.
    let committed = going.points.iter().all(|point| state.point(*point).is_none());
    if !committed || (going.points.is_empty() && left.begun("files").is_none()) {
        return Ok(());
    }
    let repository = site.repository()?;
    let lock = repository.lock_for(Work::Forget, PATIENCE, &left.run.cancel)?;
    remove_files(site, &lock, &going)?;
    left.finished("files", "what it had forgotten is gone")
}

fn judge(site: &ServiceSite, state: &ServiceState, params: &Params) -> Result<Plan, Error> {
    if params.points.is_empty() {
        by_policy(site, state, params)
    } else {
        by_name(site, state, params)
    }
}

/// Of a service that went back behind its newest point.
const LEADS_ON: &str = "from no newer one the log leads to what the service writes now";

fn by_policy(site: &ServiceSite, state: &ServiceState, params: &Params) -> Result<Plan, Error> {
    let Some(keep) = params.keep.as_ref().or(site.spec().keep.as_ref()) else {
        return Err(Error::invalid(format!(
            "nothing says which points of {} are kept",
            site.name()
        ))
        .hinting("Set `keep` in its section, or give e.g. `--keep-daily 7`, or name points."));
    };
    let policy = Policy::new(keep).map_err(|e| Error::invalid(e.to_string()))?;
    let zone = match &site.spec().time_zone {
        Some(name) => TimeZone::get(name).map_err(|e| Error::invalid(e.to_string()))?,
        None => TimeZone::system(),
    };
    let now = Timestamp::now();
    let held_for = match &site.spec().keep_for_standbys {
        Some(text) => duration::parse(text).map_err(|e| Error::invalid(e.to_string()))?,
        None => retention::HELD_FOR,
    };
    let mut needed = retention::needed(state, held_for, now);
    if let Some(base) = base_of_now(site, state)? {
        needed.insert(base, LEADS_ON.to_owned());
    }
    let decided = retention::plan(&state.points, Some(&policy), &needed, &zone, now);
    let keep = decided.keep.into_iter().map(|kept| {
        let reasons = kept.reasons.iter().map(ToString::to_string).collect();
        judged(state, kept.snapshot, reasons)
    });
    let remove = decided.remove.into_iter().map(|id| judged(state, id, Vec::new()));
    Ok(Plan { keep: keep.collect(), remove: remove.collect() })
}

fn by_name(site: &ServiceSite, state: &ServiceState, params: &Params) -> Result<Plan, Error> {
    let mut going: BTreeMap<SnapshotId, Judged> = BTreeMap::new();
    let proven = retention::newest_proven(&state.points).map(|point| point.snapshot);
    let base = base_of_now(site, state)?;
    for name in &params.points {
        let id = which::resolve(site, state, &Which::of(name))?;
        if let Some(why) = state.needed(id) {
            return Err(Error::refused(format!("{name} cannot be forgotten: {why}")));
        }
        if base == Some(id) {
            return Err(Error::refused(format!("{name} cannot be forgotten: {LEADS_ON}"))
                .hinting(format!("Run `mainstay backup {}` on the primary first.", site.name())));
        }
        if proven == Some(id) {
            return Err(Error::refused(format!(
                "{name} cannot be forgotten: it is the newest that was proven restorable"
            ))
            .hinting(format!("Prove a newer one with `mainstay drill {}` first.", site.name())));
        }
        going.insert(id, judged(state, id, Vec::new()));
    }
    let mut remove: Vec<Judged> = going.values().cloned().collect();
    remove.sort_by(|a, b| a.name.cmp(&b.name));
    let staying = state.points.iter().filter(|point| !going.contains_key(&point.snapshot));
    let keep = staying.map(|p| judged(state, p.snapshot, vec!["not named".to_owned()])).collect();
    Ok(Plan { keep, remove })
}

fn judged(state: &ServiceState, snapshot: SnapshotId, reasons: Vec<String>) -> Judged {
    let point = state.point(snapshot);
    let name = point.map(|point| point.name());
    Judged {
        name: name.as_ref().map_or_else(|| snapshot.short(), |name: &PointName| name.to_string()),
        snapshot,
        received: point.map(|point| point.received),
        reasons,
    }
}
