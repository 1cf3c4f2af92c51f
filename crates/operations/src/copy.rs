//! Copies the history of a service to a second vault: snapshots, log, and what the state says of the
//! points, in this order, so that the second vault never speaks of what it has not got.
//!
//! The second vault is a copy and nothing more: it has no members and no primary, nobody's head is
//! there, and no takeover looks at it. Whoever configures it as his vault makes it one. Everything
//! can be repeated; a copy that was interrupted goes on where it was.

use crate::journal::kill_at;
use crate::{Error, Run, ServiceSite, Which, which};
use coordination::StateStore;
use model::state::Refusal;
use model::{Class, Secret, ServiceState, SnapshotId};
use repository::copy::{self, CopiedLog, Planned};
use repository::log::LogStore;
use repository::{Kdf, Repository, Snapshot, Work};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::probe::Proved;
use storage::{ErrorKind, Key, Prefixed, Storage};

/// Space that must stay free in the second vault.
const SPACE_MARGIN: u64 = 64 << 20;

/// What is asked for.
pub struct Params {
    /// The second vault.
    pub to: Arc<dyn Storage>,
    /// The password of the repository there.
    pub password: Secret,
    /// How expensive the key of a new repository must be.
    pub kdf: Kdf,
    /// Which points; all snapshots without any.
    pub points: Vec<Which>,
    /// Say what would be copied, and do nothing.
    pub dry_run: bool,
}

/// What came of it, or what would.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// Where the copy is.
    pub location: String,
    /// Nothing was done.
    pub dry_run: bool,
    /// The repository there was made now, or would be.
    pub created: bool,
    /// Snapshots that were copied, or would be.
    pub copied: Vec<Copy>,
    /// Snapshots that were there already.
    pub present: Vec<Copy>,
    /// Snapshots that could not be copied, with what is wrong with them.
    pub failed: Vec<Failed>,
    /// Blobs that were missing there.
    pub missing_blobs: u64,
    /// Bytes that they take here.
    pub missing_bytes: u64,
    /// Bytes that were stored there.
    pub stored_bytes: u64,
    /// Objects of the log that were copied, or would be.
    pub log_copied: u64,
    /// Objects of the log that were there already.
    pub log_present: u64,
    /// Objects of the log that could not be copied.
    pub log_failed: Vec<String>,
    /// The repository there cuts content at other places: what is backed up there directly shares
    /// nothing with what is copied.
    pub other_chunks: bool,
    /// Why the points were not recorded there; none if they were.
    pub not_recorded: Option<String>,
}

impl Outcome {
    /// Whether all that was to be copied is there: snapshots, and the log, without which nothing but
    /// the points themselves could be restored from there.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.log_failed.is_empty()
    }
}

/// A snapshot, and what it is called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Copy {
    /// The snapshot here.
    pub snapshot: SnapshotId,
    /// The snapshot there; none if it is not copied yet.
    pub copy: Option<SnapshotId>,
}

/// A snapshot that could not be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failed {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What is wrong with it.
    pub reasons: Vec<String>,
}

/// Copies points to a second vault.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Outcome, Error> {
    let (progress, cancel, wait) = (&*run.progress, &run.cancel, run.wait.unwrap_or_default());
    progress.phase("opening the vaults");
    let from = site.repository()?;
    let prefix = Key::new(site.name().as_str()).map_err(|e| Error::invalid(e.to_string()))?;
    let storage: Arc<dyn Storage> = Arc::new(Prefixed::new(params.to.clone(), prefix));
    let there = match Repository::exists(&*storage)? {
        true => Some(Repository::open(storage.clone(), &params.password)?),
        false => None,
    };
    if there.as_ref().is_some_and(|there| there.id() == from.id()) {
        let error = Error::invalid(format!("{} is the service's own vault", storage.location()));
        return Err(error.hinting("Name another place with `--to`."));
    }
    let _from_lock = from.lock_for(Work::CopyFrom, wait, cancel)?;
    let mut there_lock = match &there {
        Some(there) => Some(there.lock_for(Work::CopyTo, wait, cancel)?),
        None => None,
    };
    let snapshots = snapshots(site, from, &params.points)?;
    // After the snapshots: a point whose snapshot is not among them is left for the next time.
    let state = site.load_state()?.state;

    progress.phase("looking what is missing there");
    let planned = copy::plan(from, there.as_ref(), &snapshots, cancel)?;
    let mut outcome = Outcome {
        location: storage.location(),
        dry_run: params.dry_run,
        created: there.is_none(),
        missing_blobs: planned.blobs,
        missing_bytes: planned.bytes,
        other_chunks: there.as_ref().is_some_and(|there| {
            there.config().chunker_polynomial != from.config().chunker_polynomial
        }),
        ..Outcome::default()
    };
    if params.dry_run {
        return foresee(outcome, planned, &LogStore::new(from), there.as_ref());
    }
    check_space(&*storage, planned.bytes)?;
    let to = match there {
        Some(there) => there,
        None => Repository::create_like(storage.clone(), &params.password, params.kdf, from)?,
    };
    kill_at("copy:created");
    let to_lock = match there_lock.take() {
        Some(lock) => lock,
        None => to.lock_for(Work::CopyTo, wait, cancel)?,
    };

    progress.phase("copying");
    progress.expect(0, planned.bytes);
    let copied = copy::copy_snapshots(from, &to, &snapshots, &to_lock, progress, cancel)?;
    kill_at("copy:snapshots");
    outcome.stored_bytes = copied.written.stored_bytes;
    outcome.failed = failed(copied.failed);
    let ids: BTreeMap<SnapshotId, SnapshotId> =
        copied.copied.iter().chain(&copied.present).copied().collect();
    (outcome.copied, outcome.present) = (pairs(copied.copied), pairs(copied.present));

    progress.phase("copying the log");
    let CopiedLog { copied, present, failed } =
        copy::copy_log(&LogStore::new(from), &LogStore::new(&to), progress, cancel)?;
    (outcome.log_copied, outcome.log_present, outcome.log_failed) = (copied, present, failed);
    kill_at("copy:log");

    to_lock.still_held()?;
    outcome.not_recorded = record(site, &to, &state, &ids)?;
    Ok(outcome)
}

/// What a dry run tells.
fn foresee(
    mut outcome: Outcome,
    planned: Planned,
    log: &LogStore,
    there: Option<&Repository>,
) -> Result<Outcome, Error> {
    let missing = planned.missing.into_iter();
    outcome.copied = missing.map(|snapshot| Copy { snapshot, copy: None }).collect();
    outcome.present = pairs(planned.present);
    outcome.failed = failed(planned.failed);
    for log in log.places()? {
        let known = match there {
            Some(there) => LogStore::new(there).at(log.cluster()).list()?.into_iter().collect(),
            None => std::collections::HashSet::new(),
        };
        let (present, missing): (Vec<_>, Vec<_>) =
            log.list()?.into_iter().partition(|object| known.contains(object));
        outcome.log_copied += missing.len() as u64;
        outcome.log_present += present.len() as u64;
    }
    Ok(outcome)
}

/// Writes down there what is known of the points. Answers why not, where that is as it should be.
fn record(
    site: &ServiceSite,
    to: &Repository,
    state: &ServiceState,
    ids: &BTreeMap<SnapshotId, SnapshotId>,
) -> Result<Option<String>, Error> {
    if !state.points.iter().any(|point| ids.contains_key(&point.snapshot)) {
        return Ok(None);
    }
    // Nothing of the state is written to a place that was not tried.
    let proved = Proved::new(to.storage().clone(), &site.dir().join("copy-proof"));
    let there = StateStore::new(Arc::new(proved), to.seal(), to.id(), site.name().clone());
    match there.update(|copy| copy.mirror(state, ids)) {
        Ok(_) => Ok(None),
        Err(coordination::Error::Refused(refusal @ Refusal::HasMembers(_))) => {
            Ok(Some(refusal.to_string()))
        }
        // The snapshots are there, and a rescue needs no more.
        Err(coordination::Error::Storage(e)) if e.kind() == ErrorKind::Unfit => {
            Ok(Some(e.to_string()))
        }
        Err(e) => Err(e.into()),
    }
}

/// The snapshots that are meant, oldest first.
fn snapshots(
    site: &ServiceSite,
    from: &Repository,
    points: &[Which],
) -> Result<Vec<(SnapshotId, Snapshot)>, Error> {
    let mut snapshots = from.snapshots()?;
    if !points.is_empty() {
        let state = site.load_state()?.state;
        let mut wanted = Vec::new();
        for point in points {
            wanted.push(which::resolve(site, &state, point)?);
        }
        snapshots.retain(|(id, _)| wanted.contains(id));
    }
    Ok(snapshots)
}

fn check_space(storage: &dyn Storage, bytes: u64) -> Result<(), Error> {
    let Some(free) = storage.free_bytes()? else { return Ok(()) };
    let need = bytes + SPACE_MARGIN;
    if bytes == 0 || free >= need {
        return Ok(());
    }
    let what = format!(
        "too little space in the vault {}: {} are free, {} are needed",
        storage.location(),
        model::size::human(free),
        model::size::human(need)
    );
    Err(Error::new(Class::NoSpace, what)
        .hinting("Free some space, or copy fewer points; nothing was touched."))
}

fn pairs(ids: Vec<(SnapshotId, SnapshotId)>) -> Vec<Copy> {
    ids.into_iter().map(|(snapshot, copy)| Copy { snapshot, copy: Some(copy) }).collect()
}

fn failed(snapshots: Vec<(SnapshotId, Vec<String>)>) -> Vec<Failed> {
    snapshots.into_iter().map(|(snapshot, reasons)| Failed { snapshot, reasons }).collect()
}
