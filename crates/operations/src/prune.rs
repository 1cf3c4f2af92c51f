//! Prune: what no snapshot needs goes, and with it the log that no kept base needs.

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::room::Room;
use crate::{Error, ServiceSite, cluster, placing};
use engines::postgres::{Lsn, Segments, WalFile, cluster_in};
use model::{CancelToken, Class, ClusterId, OperationId, Position, Progress, ServiceState};
use repository::log::{LogStore, Mark, Part};
use repository::prune::{Figures, Options};
use repository::{RepositoryLock, Work};
use serde::Serialize;
use std::collections::BTreeSet;

/// What was removed, or would be.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pruned {
    /// The operation; none for a dry run, or within another one.
    pub operation: Option<OperationId>,
    /// Snapshots whose data is kept.
    pub snapshots: u64,
    /// Bytes of all packs before.
    pub stored_bytes: u64,
    /// Of these, what snapshots need.
    pub used_bytes: u64,
    /// How much smaller the packs are.
    pub freed_bytes: u64,
    /// What stays although nothing needs it.
    pub left_unused_bytes: u64,
    /// Packs that no index named, and went.
    pub unreferenced_packs: u64,
    /// Packs in which nothing was needed, and went.
    pub removed_packs: u64,
    /// Packs of which what is needed was written anew.
    pub repacked_packs: u64,
    /// What was written anew.
    pub copied_bytes: u64,
    /// Files of the log that no kept point needs, and went.
    pub log_files: u64,
    /// What could not be read; its packs stay.
    pub damaged: Vec<String>,
}

impl Pruned {
    /// Of a repository's figures.
    pub fn of(figures: Figures) -> Pruned {
        let Figures {
            snapshots,
            stored_bytes,
            used_bytes,
            unreferenced_packs,
            removed_packs,
            repacked_packs,
            copied_bytes,
            freed_bytes,
            left_unused_bytes,
            leftovers: _,
            damaged,
        } = figures;
        Pruned {
            operation: None,
            snapshots,
            stored_bytes,
            used_bytes,
            freed_bytes,
            left_unused_bytes,
            unreferenced_packs,
            removed_packs,
            repacked_packs,
            copied_bytes,
            log_files: 0,
            damaged,
        }
    }
}

/// What a prune would do. Changes nothing.
pub fn plan(site: &ServiceSite, options: &Options, run: &Run) -> Result<Pruned, Error> {
    let _room = Room::make(site, &*run.progress);
    let repository = site.repository()?;
    let wait = run.wait.unwrap_or_default();
    let lock = repository.lock_for(Work::Check, wait, &run.cancel)?;
    require_snapshots(site, &site.load_state()?.state)?;
    let none = BTreeSet::new();
    let figures =
        repository::prune::estimate(repository, &none, options, &*run.progress, &run.cancel)?;
    let mut log_files = 0;
    let (places, state) = stored(site)?;
    for place in &places {
        log_files += dispensable_log(site, &state, place)?.len() as u64;
    }
    drop(lock);
    Ok(Pruned { log_files, ..Pruned::of(figures) })
}

/// How many files there are of the log of database clusters of which there is no point, and is not going to
/// be one. Changes nothing.
pub fn log_of_nobody(site: &ServiceSite) -> Result<u64, Error> {
    let (places, state) = stored(site)?;
    let mut files = 0;
    for place in places {
        if place.log.cluster().is_some() && is_over(site, &state, &place.log)? {
            files += place.names.len().saturating_add(place.parts.len()) as u64;
        }
    }
    Ok(files)
}

/// What lies in one place of the log.
struct Place {
    log: LogStore,
    names: Vec<(String, model::Generation)>,
    parts: Vec<(String, Part)>,
    marks: Vec<Mark>,
}

/// What is stored of the log, and then the state. In this order: who stores log of another cluster says so
/// in the state before, and what was stored since nobody has looked at here.
fn stored(site: &ServiceSite) -> Result<(Vec<Place>, ServiceState), Error> {
    let mut places = Vec::new();
    for log in LogStore::new(site.repository()?).places()? {
        let (names, parts, marks) = (log.list()?, log.list_parts()?, log.marks()?);
        places.push(Place { log, names, parts, marks });
    }
    Ok((places, site.load_state()?.state))
}

/// Prunes.
pub fn run(site: &ServiceSite, options: &Options, run: &Run) -> Result<Pruned, Error> {
    let _room = Room::make(site, &*run.progress);
    let mut operation = Operation::begin(site, Kind::Prune, &(), run)?;
    let result = perform(site, &mut operation, options);
    operation.end(site, Kind::Prune, result, |pruned: &Pruned| {
        let outcome = if pruned.damaged.is_empty() { Outcome::Done } else { Outcome::Incomplete };
        (outcome, format!("{} freed", model::size::human(pruned.freed_bytes)))
    })
}

fn perform(
    site: &ServiceSite,
    operation: &mut Operation,
    options: &Options,
) -> Result<Pruned, Error> {
    let (_, lock) = operation.open_for(site, Work::Prune)?;
    let pruned = operation.step("prune", (), |operation| {
        let (progress, cancel) = (operation.report(), operation.cancel().clone());
        under_lock(site, &lock, options, &*progress, &cancel)
    })?;
    Ok(Pruned { operation: Some(operation.id().clone()), ..pruned })
}

/// The same, by whoever holds the repository alone. Nothing of it has to be undone: whatever it is
/// killed in, the repository is whole, and the next prune goes on.
pub(crate) fn under_lock(
    site: &ServiceSite,
    lock: &RepositoryLock,
    options: &Options,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Pruned, Error> {
    require_snapshots(site, &site.load_state()?.state)?;
    let repository = site.repository()?;
    let figures = repository::prune::prune(repository, lock, options, progress, cancel)?;
    let mut log_files = 0;
    // That may have taken hours, in which the log went on.
    let (places, state) = stored(site)?;
    for place in places {
        log_files += prune_log(site, lock, &state, place, progress)?;
    }
    Ok(Pruned { log_files, ..Pruned::of(figures) })
}

/// The log in one place. Says how many files went.
fn prune_log(
    site: &ServiceSite,
    lock: &RepositoryLock,
    state: &ServiceState,
    place: Place,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let log = &place.log;
    // Before anything goes that tells whose it is.
    let all = is_over(site, state, log)?;
    let gone = dispensable_log(site, state, &place)?;
    if !gone.is_empty() {
        progress.phase("removing the log that no point needs");
    }
    for (name, generation) in &gone {
        lock.still_trusted()?;
        log.remove(name, *generation)?;
    }
    for (name, part) in &dispensable_parts(&place, &gone, all) {
        lock.still_trusted()?;
        log.remove_parts(name, std::slice::from_ref(part))?;
    }
    let marks = if all { place.marks } else { superseded(place.marks) };
    if !marks.is_empty() {
        lock.still_trusted()?;
        log.remove_marks(&marks)?;
    }
    Ok(gone.len() as u64)
}

/// A point whose snapshot cannot be seen is a reason to stop: what it needs would be taken for
/// garbage, and the snapshot may only be on a disk that is not mounted.
fn require_snapshots(site: &ServiceSite, state: &ServiceState) -> Result<(), Error> {
    let there: BTreeSet<_> = site.repository()?.snapshot_ids()?.into_iter().collect();
    let Some(gone) = state.points.iter().find(|point| !there.contains(&point.snapshot)) else {
        return Ok(());
    };
    let what = format!("the snapshot of point {} is not in the vault; its data stays", gone.name());
    Err(Error::new(Class::Corrupt, what)
        .hinting("Bring it back, or give the point up with `mainstay repair snapshots --forget`."))
}

/// Files of the log that lie before the oldest point that is kept of their cluster. History files stay as
/// long as there is one: they are small, and without them no recovery crosses a timeline.
fn dispensable_log(
    site: &ServiceSite,
    state: &ServiceState,
    place: &Place,
) -> Result<Vec<(String, model::Generation)>, Error> {
    let (log, names) = (&place.log, place.names.clone());
    if names.is_empty() || state.intent.is_some() {
        return Ok(Vec::new());
    }
    if crate::wal::sqlite::is_meant(site) {
        return Ok(crate::wal::sqlite::dispensable(state, names));
    }
    if is_over(site, state, log)? {
        return Ok(names);
    }
    let mut oldest: Option<(u64, &model::RecoveryPoint)> = None;
    for point in needing(site, state, log)? {
        // Of a point that does not say where it stands nobody knows what it needs.
        let Some(Position::Lsn { lsn, .. }) = &point.position else { return Ok(Vec::new()) };
        if oldest.is_none_or(|(least, _)| *lsn < least) {
            oldest = Some((*lsn, point));
        }
    }
    let Some((lsn, point)) = oldest else { return Ok(Vec::new()) };
    let meta = placing::meta(site, point.snapshot)?;
    let size = meta.detail.get("segment-size").and_then(serde_json::Value::as_u64);
    let Some(segments) = size.and_then(Segments::of) else { return Ok(Vec::new()) };
    Ok(names.into_iter().filter(|(name, _)| is_before(name, segments, Lsn(lsn))).collect())
}

/// The points that may need something of what lies in one place of the log.
fn needing<'a>(
    site: &ServiceSite,
    state: &'a ServiceState,
    log: &LogStore,
) -> Result<Vec<&'a model::RecoveryPoint>, Error> {
    let Some(place) = log.cluster() else {
        let wrote = log.wrote(cluster_in)?;
        let may_need = |point: &&model::RecoveryPoint| may_need_old(&wrote, point.cluster);
        return Ok(state.points.iter().filter(may_need).collect());
    };
    let mut needing = Vec::new();
    for point in &state.points {
        if cluster::of_point(site, point)?.is_none_or(|cluster| cluster == place) {
            needing.push(point);
        }
    }
    Ok(needing)
}

/// Whether a point that says this of its cluster may need what has no cluster in its keys. That names the
/// first and the last who wrote it; whoever wrote between them did so when points said nothing yet.
fn may_need_old(wrote: &[ClusterId], said: Option<ClusterId>) -> bool {
    wrote.is_empty() || said.is_none_or(|cluster| wrote.contains(&cluster))
}

/// Whether there were points of the cluster whose log it is, and are none any more, or there never will be
/// one. Of one that is written, and of which there was none yet, the first is about to be taken.
fn is_over(site: &ServiceSite, state: &ServiceState, log: &LogStore) -> Result<bool, Error> {
    if state.intent.is_some() || crate::wal::sqlite::is_meant(site) {
        return Ok(false);
    }
    let is_over = match log.cluster() {
        Some(cluster) if state.written == Some(cluster) => false,
        Some(cluster) => state.clusters.contains(&cluster) || was_left(site, state, cluster)?,
        None => log.wrote(cluster_in)?.iter().any(|cluster| state.clusters.contains(cluster)),
    };
    Ok(is_over && needing(site, state, log)?.is_empty())
}

/// Whether the primary left a cluster before any point was taken of it, and writes another of which there is
/// one. Should it come back, its first point needs only what is written from then on.
fn was_left(site: &ServiceSite, state: &ServiceState, cluster: ClusterId) -> Result<bool, Error> {
    let writes_another = state.written.is_some_and(|written| written != cluster);
    Ok(writes_another
        && !state.lost.contains(&cluster)
        && cluster::of_head(site, state)? == state.written)
}

/// Parts of segments that are whole by now, or go with what lies beside them.
fn dispensable_parts(
    place: &Place,
    gone: &[(String, model::Generation)],
    all: bool,
) -> Vec<(String, Part)> {
    let parts = place.parts.clone();
    if parts.is_empty() || all {
        return parts;
    }
    let whole: BTreeSet<&str> = place.names.iter().map(|(name, _)| name.as_str()).collect();
    // Names grow with the place, whatever the timeline.
    let last_gone = gone.iter().filter_map(|(name, _)| name.get(8..24)).max();
    let dispensable = |name: &str| {
        let before = last_gone.is_some_and(|last| name.get(8..24).is_some_and(|own| own <= last));
        whole.contains(name) || before
    };
    parts.into_iter().filter(|(name, _)| dispensable(name)).collect()
}

/// Marks of the log that nobody reads: newer ones of the newest generation say more.
fn superseded(mut marks: Vec<Mark>) -> Vec<Mark> {
    // By place first, which no clock makes greater.
    marks.sort_by_key(|mark| (mark.generation, mark.timeline, mark.place, mark.until));
    marks.truncate(marks.len().saturating_sub(crate::wal::LAST_MARKS));
    marks
}

/// Whether a file of the log ends at or before this position, whatever its timeline.
fn is_before(name: &str, segments: Segments, position: Lsn) -> bool {
    let segment = match WalFile::parse(name) {
        Some(WalFile::Segment { .. }) => name,
        Some(WalFile::Partial | WalFile::Backup) => name.get(..24).unwrap_or_default(),
        Some(WalFile::History { .. }) | None => return false,
    };
    let Some(WalFile::Segment { place, .. }) = WalFile::parse(segment) else { return false };
    segments
        .start_of(place)
        .is_some_and(|start| start.0.saturating_add(segments.size()) <= position.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of three clusters that wrote one after the other to one place, it names two.
    #[test]
    fn what_lay_in_one_place_is_kept_for_all_who_may_have_written_it() {
        let [first, last, later] = [1, 3, 4].map(ClusterId);
        let wrote = [first, last];
        for (said, may_need) in
            [(None, true), (Some(first), true), (Some(last), true), (Some(later), false)]
        {
            assert_eq!(may_need_old(&wrote, said), may_need, "{said:?}");
        }
        assert!(may_need_old(&[], Some(later)), "if nobody knows who wrote it");
    }

    #[test]
    fn what_ends_before_the_oldest_base_is_dispensable_on_every_timeline() {
        let segments = Segments::of(16 << 20).expect("segments");
        let position: Lsn = "1/03000028".parse().expect("a position");
        for (name, before) in [
            ("000000010000000100000002", true),
            ("000000020000000100000002", true),
            ("0000000100000000000000FF", true),
            ("000000010000000100000003", false),
            ("000000010000000200000000", false),
            ("000000010000000100000002.partial", true),
            ("000000010000000100000003.partial", false),
            ("000000010000000100000002.00000028.backup", true),
            ("000000010000000100000003.00000028.backup", false),
            ("00000002.history", false),
            ("something", false),
        ] {
            assert_eq!(is_before(name, segments, position), before, "{name}");
        }
    }
}
