//! Repair: the repository says again what is in it, and promises nothing that is not.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `index` | indexes name the packs that are there | (nothing: it is whole at every instant) |
//! | `packs` | what was whole in damaged packs is in new ones | (likewise) |
//! | `snapshots` | what is left of damaged snapshots is in new ones, which are no points | |
//! | `lose` | the state does not name points that cannot be restored | |
//! | `files` | their snapshot files are gone | (the next repair) |

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::{Error, ServiceSite};
use model::{OperationId, SnapshotId};
use repository::repair::{self, Repaired};
use repository::{RepositoryLock, Work};
use serde::Serialize;
use std::collections::BTreeSet;

/// What is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Indexes, from the packs.
    Index,
    /// Packs, from the blobs in them that are whole.
    Packs,
    /// Snapshots, from what is left of their directories.
    Snapshots,
    /// All of it, in this order.
    All,
}

impl Part {
    fn has(self, other: Part) -> bool {
        self == Part::All || self == other
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// What is repaired.
    pub part: Part,
    /// Ask every pack for its own header.
    pub read_all_packs: bool,
    /// Give damaged snapshots up, and points whose snapshot is gone.
    pub forget: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation; none for a dry run.
    pub operation: Option<OperationId>,
    /// What was done, each a sentence.
    pub done: Vec<String>,
    /// What is lost, each with where it was.
    pub lost: Vec<String>,
    /// Snapshots that cannot be restored whole.
    pub damaged_snapshots: Vec<SnapshotId>,
    /// New snapshots with what is left of damaged ones.
    pub replacements: Vec<SnapshotId>,
    /// Points that were given up.
    pub given_up: Vec<String>,
}

impl Done {
    fn add(&mut self, repaired: Repaired) {
        self.done.extend(repaired.done);
        self.lost.extend(repaired.lost);
        self.damaged_snapshots.extend(repaired.damaged_snapshots);
        self.replacements.extend(repaired.replaced.into_iter().map(|(new, _)| new));
    }

    /// Whether there was nothing to repair.
    pub fn is_nothing(&self) -> bool {
        self.done.is_empty() && self.lost.is_empty() && self.given_up.is_empty()
    }
}

/// Repairs.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    if params.dry_run {
        return plan(site, params, run);
    }
    let mut operation = Operation::begin(site, Kind::Repair, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Repair, result, |done: &Done| {
        let message = match done.is_nothing() {
            true => "nothing to repair".to_owned(),
            false => format!("{} repaired, {} lost", done.done.len(), done.lost.len()),
        };
        (Outcome::Done, message)
    })
}

/// Each part by itself, as if those before it had been repaired: what they would change is not there.
fn plan(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    let repository = site.repository()?;
    let wait = run.wait.unwrap_or_default();
    let lock = repository.lock_for(Work::Check, wait, &run.cancel)?;
    let work = repair::Work {
        repository,
        lock: &lock,
        dry_run: true,
        progress: &*run.progress,
        cancel: &run.cancel,
    };
    let mut done = Done::default();
    if params.part.has(Part::Index) {
        done.add(repair::rebuild_index(&work, params.read_all_packs)?);
    }
    // What comes after needs indexes that can be read.
    if params.part != Part::All || done.is_nothing() {
        if params.part.has(Part::Packs) {
            done.add(repair::repair_packs(&work, &[])?);
        }
        if params.part.has(Part::Snapshots) {
            done.add(repair::repair_snapshots(&work)?);
        }
    } else {
        done.done.push("packs and snapshots are looked at when the index is repaired".to_owned());
    }
    Ok(done)
}

fn perform(site: &ServiceSite, operation: &mut Operation, params: &Params) -> Result<Done, Error> {
    let (repository, lock) = operation.open_for(site, Work::Repair)?;
    let mut done = Done { operation: Some(operation.id().clone()), ..Done::default() };
    let mut step = |operation: &mut Operation, name: &str, what: &RepairStep<'_>| {
        operation.step(name, (), |operation| {
            let (progress, cancel) = (operation.report(), operation.cancel().clone());
            let work = repair::Work {
                repository,
                lock: &lock,
                dry_run: false,
                progress: &*progress,
                cancel: &cancel,
            };
            done.add(what(&work)?);
            Ok(())
        })
    };
    if params.part.has(Part::Index) {
        step(operation, "index", &|work| repair::rebuild_index(work, params.read_all_packs))?;
    }
    if params.part.has(Part::Packs) {
        step(operation, "packs", &|work| repair::repair_packs(work, &[]))?;
    }
    if params.part.has(Part::Snapshots) {
        step(operation, "snapshots", &|work| repair::repair_snapshots(work))?;
    }
    if params.forget && params.part.has(Part::Snapshots) {
        give_up(site, operation, &lock, &mut done)?;
    }
    Ok(done)
}

type RepairStep<'a> = dyn Fn(&repair::Work<'_>) -> Result<Repaired, repository::Error> + 'a;

/// Takes what cannot be restored out of the state, and then out of the vault.
fn give_up(
    site: &ServiceSite,
    operation: &mut Operation,
    lock: &RepositoryLock,
    done: &mut Done,
) -> Result<(), Error> {
    let repository = site.repository()?;
    let mut there: BTreeSet<SnapshotId> = repository.snapshot_ids()?.into_iter().collect();
    let damaged: BTreeSet<SnapshotId> = done.damaged_snapshots.iter().copied().collect();
    let state = site.load_state()?.state;
    for point in &state.points {
        // One that the listing lacks is asked for before it counts as gone.
        if !there.contains(&point.snapshot) {
            match repository.snapshot(point.snapshot) {
                Err(repository::Error::Missing(_)) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => drop(there.insert(point.snapshot)),
            }
        }
    }
    let lost = state
        .points
        .iter()
        .filter(|p| damaged.contains(&p.snapshot) || !there.contains(&p.snapshot));
    let (ids, names): (Vec<SnapshotId>, Vec<String>) =
        lost.map(|point| (point.snapshot, point.name().to_string())).unzip();
    if !ids.is_empty() {
        operation.step("lose", &ids, |_| {
            lock.still_held()?;
            let (versioned, ()) = site.state()?.update(|state| state.lose(&ids))?;
            site.remember(&versioned)?;
            Ok(())
        })?;
    }
    done.given_up = names;
    operation.step("files", (), |_| {
        for id in damaged.intersection(&there) {
            repository.remove_snapshot(lock, *id)?;
        }
        Ok(())
    })
}
