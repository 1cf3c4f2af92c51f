//! Where in the log a restore is to end, and the base that it begins with: the newest that was
//! consistent before that place, and from which the log leads there.
//!
//! What the log says is read off its records, so that a place that is not there is refused before
//! anything is restored, with what is there instead.

use super::timelines::{Timelines, Way, place_of};
use crate::{Error, ServiceSite, Which, cluster, which};
use engines::postgres::{Lsn, What};
use engines::{LogEnd, LogPlace, LogTarget};
use jiff::Timestamp;
use model::{Class, Classify, ClusterId, RecoveryPoint, ServiceState, SnapshotId};

/// Marks that are named if the one that was asked for is not there.
const NAMED: usize = 10;

/// What a copy begins with, and how its replay ends.
pub(crate) struct Begin {
    pub(crate) snapshot: SnapshotId,
    /// None if it ends where the newest timeline does.
    pub(crate) end: Option<LogEnd>,
    /// Replay does not stop at the time that was asked for, but at the end of the log of that time.
    pub(crate) whole: bool,
    /// What is to be known about it.
    pub(crate) note: Option<String>,
}

impl Begin {
    pub(crate) fn with(snapshot: SnapshotId) -> Begin {
        Begin { snapshot, end: None, whole: false, note: None }
    }
}

/// What a copy of the service begins with.
pub(crate) fn begin(
    site: &ServiceSite,
    state: &ServiceState,
    which: &Which,
    end: &LogEnd,
) -> Result<Begin, Error> {
    match along(site, state, which, end) {
        // Only what is asked of the log needs it: the point may be all that is left.
        Err(error) if error.class() == Class::Corrupt && asks_nothing(which, end) => {
            let note = format!("where the log leads is not known: {}", error.chain());
            let snapshot = which::resolve(site, state, which)?;
            Ok(Begin { note: Some(note), ..Begin::with(snapshot) })
        }
        other => other,
    }
}

fn asks_nothing(which: &Which, end: &LogEnd) -> bool {
    *end == LogEnd::default() && !matches!(which, Which::At(_))
}

fn along(
    site: &ServiceSite,
    state: &ServiceState,
    which: &Which,
    end: &LogEnd,
) -> Result<Begin, Error> {
    if !follows_log(site)? {
        return without_log(site, state, which, end);
    }
    // The log of another cluster leads to nothing that this one wrote.
    let cluster = cluster_of(site, state, which)?;
    let state = &cluster::only(site, state, cluster)?;
    let Some(timelines) = Timelines::look(site, state, cluster)? else {
        return without_log(site, state, which, end);
    };

    let newest = timelines.newest()?;
    let named = end.timeline.map(|timeline| timelines.named(site, timeline)).transpose()?;
    let mut begin = match (which, &end.target) {
        (Which::Latest, Some(target)) => {
            let way = match named {
                Some(way) => way,
                None => of_newest(site, state, &timelines, None, &newest)?.1,
            };
            let snapshot = base_for(site, state, target, &timelines, &way)?;
            return Ok(ending(Begin::with(snapshot), end, &way, &newest));
        }
        (Which::Latest, None) => of_newest(site, state, &timelines, named, &newest)?,
        (Which::At(time), _) => of_time(site, state, *time, &timelines, named)?,
        (Which::Named(_), _) => {
            let snapshot = which::resolve(site, state, which)?;
            let place = state.point(snapshot).and_then(place_of);
            let way = match (named, place) {
                (Some(way), Some(place)) if !way.leads_from(place) => {
                    return Err(leads_not(site, state, &way, snapshot));
                }
                (Some(way), _) => way,
                (None, Some(place)) => timelines.from(place)?,
                (None, None) => newest.clone(),
            };
            (Begin::with(snapshot), way)
        }
    };
    begin.0 = ending(begin.0, end, &begin.1, &newest);
    if end.target.is_none() && !matches!(which, Which::At(_)) {
        not_astray(site, state, &timelines, &begin.1, &mut begin.0)?;
    }
    Ok(begin.0)
}

fn follows_log(site: &ServiceSite) -> Result<bool, Error> {
    let engine = site.engine()?;
    Ok(engine.abilities().log && engine.name() == "postgres")
}

/// The cluster that is meant.
fn cluster_of(
    site: &ServiceSite,
    state: &ServiceState,
    which: &Which,
) -> Result<Option<ClusterId>, Error> {
    cluster::of_snapshot(site, state, which::resolve(site, state, which)?)
}

/// The vault has points alone.
fn without_log(
    site: &ServiceSite,
    state: &ServiceState,
    which: &Which,
    end: &LogEnd,
) -> Result<Begin, Error> {
    let snapshot = match &end.target {
        Some(target) if *which == Which::Latest => {
            let error =
                Error::invalid(format!("{} is not there: the vault has no log", shown(target)));
            return Err(error.hinting("Restore a point, by `--snapshot` or `--at`."));
        }
        _ => which::resolve(site, state, which)?,
    };
    if let Some(timeline) = end.timeline {
        return Err(Error::invalid(format!(
            "timeline {timeline} is not there: the vault has no log of {}",
            site.name()
        )));
    }
    let end = Some(end.clone()).filter(|end| end.target.is_some());
    Ok(Begin { end, ..Begin::with(snapshot) })
}

/// Ends a recovery where the service left a timeline, as long as the vault has nothing of the next: it would
/// go on along what was given up.
fn not_astray(
    site: &ServiceSite,
    state: &ServiceState,
    timelines: &Timelines,
    way: &Way,
    begin: &mut Begin,
) -> Result<(), Error> {
    let place = state.point(begin.snapshot).and_then(place_of);
    let (timeline, lsn) = match timelines.astray(way, place) {
        Ok(Some(left)) => left,
        Ok(None) => return Ok(()),
        // A server stumbles over that itself, if it gets there.
        Err(error) if error.class() == Class::Corrupt => return Ok(()),
        Err(error) => return Err(error),
    };
    let target = LogTarget { place: LogPlace::Lsn(lsn), exclusive: true };
    begin.end = Some(LogEnd { target: Some(target), timeline: Some(timeline) });
    begin.note = Some(format!(
        "the vault has nothing yet of what {} wrote since it left timeline {timeline} at {}: this ends there",
        site.name(),
        Lsn(lsn)
    ));
    Ok(())
}

/// The newest timeline is where a server goes that is told nothing.
fn ending(begin: Begin, asked: &LogEnd, way: &Way, newest: &Way) -> Begin {
    let timeline = Some(way.timeline()).filter(|_| way != newest);
    let end = LogEnd { target: asked.target.clone(), timeline };
    Begin { end: Some(end).filter(|end| *end != LogEnd::default()), ..begin }
}

/// Begins with the newest point from which the log leads on.
fn of_newest(
    site: &ServiceSite,
    state: &ServiceState,
    timelines: &Timelines,
    named: Option<Way>,
    newest: &Way,
) -> Result<(Begin, Way), Error> {
    let head = which::resolve(site, state, &Which::Latest)?;
    let way = named.clone().unwrap_or_else(|| newest.clone());
    if state.point(head).is_none_or(|head| way.serves(head)) {
        return Ok((Begin::with(head), way));
    }
    let is_asked = named.is_some();
    match (newest_on(state, &way), named) {
        (Some(point), _) => {
            let behind = state.point(head).map(|head| head.name().to_string()).unwrap_or_default();
            let note = format!(
                "the log does not lead on from {behind}: the service went back behind it, along \
                 timeline {}; this begins with {}",
                way.timeline(),
                point.name()
            );
            let note = Some(note).filter(|_| !is_asked);
            let begin = Begin { note, ..Begin::with(point.snapshot) };
            Ok((begin, way))
        }
        (None, Some(way)) => Err(leads_not(site, state, &way, head)),
        (None, None) => {
            let place = state.point(head).and_then(place_of);
            let way = place.map_or_else(|| Ok(newest.clone()), |place| timelines.from(place))?;
            let note = format!(
                "no point leads to timeline {} of the log in the vault: this ends with timeline {}",
                newest.timeline(),
                way.timeline()
            );
            Ok((Begin { note: Some(note), ..Begin::with(head) }, way))
        }
    }
}

fn of_time(
    site: &ServiceSite,
    state: &ServiceState,
    time: Timestamp,
    timelines: &Timelines,
    named: Option<Way>,
) -> Result<(Begin, Way), Error> {
    let (way, whole) = match named {
        Some(way) => (way, false),
        None => timelines.at(time)?,
    };
    let before = state.points.iter().filter(|p| !p.incomplete && p.source_time <= time);
    let base = before.filter(|point| way.serves(point)).max_by_key(|point| point.source_time);
    let Some(base) = base else {
        return Err(Error::invalid(format!(
            "no recovery point of {} at or before {time} leads along timeline {}",
            site.name(),
            way.timeline()
        ))
        .hinting("`--snapshot` takes a point for itself; list them with `mainstay snapshots`."));
    };
    if !whole {
        require_time(site, state, time, (timelines, &way))?;
    }
    Ok((Begin { whole, ..Begin::with(base.snapshot) }, way))
}

/// A point that was named, and a timeline to which nothing leads from it.
fn leads_not(site: &ServiceSite, state: &ServiceState, way: &Way, point: SnapshotId) -> Error {
    let name = state.point(point).map_or_else(|| point.short(), |point| point.name().to_string());
    let error = Error::invalid(format!(
        "the log of {} does not lead from {name} to timeline {}",
        site.name(),
        way.timeline()
    ));
    match newest_on(state, way) {
        Some(other) => {
            error.hinting(format!("The newest point from which it does is {}.", other.name()))
        }
        None => error.hinting("From no point it does: run `mainstay backup` on the primary."),
    }
}

/// The newest whole point that lies on a way.
fn newest_on<'a>(state: &'a ServiceState, way: &Way) -> Option<&'a RecoveryPoint> {
    let serves = |p: &&RecoveryPoint| !p.incomplete && place_of(p).is_some() && way.serves(p);
    state.points.iter().rev().find(serves)
}

/// The point that a recovery to what the service writes now begins with, where that is not the newest.
pub(crate) fn base_of_now(
    site: &ServiceSite,
    state: &ServiceState,
) -> Result<Option<SnapshotId>, Error> {
    let Some(head) = state.head_point() else { return Ok(None) };
    let cluster = cluster::of_point(site, head)?;
    let own = cluster::only(site, state, cluster)?;
    let Some(timelines) = Timelines::look(site, &own, cluster)? else { return Ok(None) };
    let newest = timelines.newest()?;
    let base = newest_on(&own, &newest).filter(|_| !newest.serves(head));
    Ok(base.map(|base| base.snapshot))
}

/// A standby can only go on along the newest timeline.
pub(crate) fn for_standby(
    site: &ServiceSite,
    state: &ServiceState,
    which: &Which,
) -> Result<SnapshotId, Error> {
    let begin = begin(site, state, which, &LogEnd::default())?;
    if !follows_log(site)? {
        return Ok(begin.snapshot);
    }
    let cluster = cluster::of_snapshot(site, state, begin.snapshot)?;
    let of_now = cluster::of_head(site, state)?;
    if cluster.is_some() && of_now.is_some() && cluster != of_now {
        let name = state.point(begin.snapshot).map(|point| point.name().to_string());
        let what = format!(
            "{} is of another database cluster than the newest point of {}: a standby would follow \
             what nobody writes any more",
            name.unwrap_or_else(|| begin.snapshot.short()),
            site.name()
        );
        return Err(Error::invalid(what)
            .hinting("Take a newer point; `mainstay restore` brings back this one for itself."));
    }
    if let (Some(_), Some(note)) =
        (begin.end.as_ref().and_then(|end| end.target.as_ref()), &begin.note)
    {
        let what = format!("a standby cannot begin now: {note}");
        return Err(Error::new(Class::Unavailable, what).hinting(format!(
            "Run this again when the primary of {} has archived the segment that it writes to; \
             `SELECT pg_switch_wal()` there lets it do so at once.",
            site.name()
        )));
    }
    if begin.end.is_some_and(|end| end.timeline.is_some())
        && let Some(timelines) =
            Timelines::look(site, &cluster::only(site, state, cluster)?, cluster)?
    {
        return Err(leads_not(site, state, &timelines.newest()?, begin.snapshot));
    }
    Ok(begin.snapshot)
}

/// The whole points that have a position on a way, and where each is consistent.
fn bases<'a>(
    state: &'a ServiceState,
    way: &'a Way,
) -> impl Iterator<Item = (u64, &'a RecoveryPoint)> {
    let whole = state.points.iter().filter(|point| !point.incomplete && way.serves(point));
    whole.filter_map(|point| place_of(point).map(|(_, lsn)| (lsn, point)))
}

/// The base from which this place is reached.
fn base_for(
    site: &ServiceSite,
    state: &ServiceState,
    target: &LogTarget,
    timelines: &Timelines,
    way: &Way,
) -> Result<SnapshotId, Error> {
    let shown = shown(target);
    let Some(oldest) = bases(state, way).map(|(lsn, _)| lsn).min() else {
        return Err(Error::invalid(format!("{} has no base to begin with", site.name()))
            .hinting("Run `mainstay backup` on its primary first."));
    };
    let path = timelines.path(way)?;
    let mut marks = Vec::new();
    let mut last: Option<Timestamp> = None;
    let (at, end) = path.search(oldest, |record| {
        match &record.what {
            What::Ended { at, .. } => last = last.max(Some(*at)),
            What::Mark { name, .. } if marks.len() < NAMED => {
                marks.push((record.start.0, name.clone()));
            }
            What::Mark { .. } | What::Upkeep { .. } | What::Other => {}
        }
        match (&target.place, &record.what) {
            (LogPlace::Name(wanted), What::Mark { name, .. }) if wanted == name => {
                Some(record.start.0)
            }
            (LogPlace::Xid(wanted), What::Ended { xid, .. }) if wanted == xid => {
                Some(record.start.0)
            }
            // The server stops at the first record that begins there or later.
            (LogPlace::Lsn(wanted), _) if record.start.0 >= *wanted => Some(*wanted),
            _ => None,
        }
    })?;
    let Some(at) = at else {
        let end = end.map_or_else(|| "nowhere".to_owned(), |end| end.to_string());
        let last = last.map(|at| format!(", and its last commit is of {at}")).unwrap_or_default();
        // What lies where two segments meet is seen with both.
        marks.sort();
        marks.dedup();
        let marks: Vec<String> = marks.into_iter().map(|(_, name)| name).collect();
        let marks = match marks.is_empty() {
            true => String::new(),
            false => format!(" Restore points in it: {}.", marks.join(", ")),
        };
        return Err(Error::invalid(format!(
            "{shown} is not in the log of {}: it goes from {} to {end}{last}",
            site.name(),
            Lsn(oldest)
        ))
        .hinting(format!("Name a place between these.{marks}")));
    };
    let base = bases(state, way).filter(|(lsn, _)| *lsn <= at).max_by_key(|(lsn, _)| *lsn);
    base.map(|(_, point)| point.snapshot).ok_or_else(|| {
        Error::invalid(format!(
            "{shown} lies before the oldest base of {}, which is consistent from {} on",
            site.name(),
            Lsn(oldest)
        ))
    })
}

/// Refuses a time that the log does not reach: a server would find that out only when it has replayed
/// everything, and end.
fn require_time(
    site: &ServiceSite,
    state: &ServiceState,
    time: Timestamp,
    (timelines, way): (&Timelines, &Way),
) -> Result<(), Error> {
    let Some(oldest) = bases(state, way).map(|(lsn, _)| lsn).min() else { return Ok(()) };
    let path = timelines.path(way)?;
    let mut newest: Option<Timestamp> = None;
    let (beyond, end) = path.search(oldest, |record| match &record.what {
        What::Ended { at, .. } | What::Mark { at, .. } => {
            newest = newest.max(Some(*at));
            // Any segment with a commit in it tells: those before it are older.
            Some(*at > time)
        }
        What::Upkeep { .. } | What::Other => None,
    })?;
    if beyond.is_none() || newest.is_some_and(|newest| newest > time) {
        return Ok(());
    }
    let newest = newest.map(|at| at.to_string()).unwrap_or_default();
    let end = end.map(|end| end.to_string()).unwrap_or_default();
    Err(Error::invalid(format!(
        "the log of {} in the vault ends before {time}: its last commit is of {newest}, at {end}",
        site.name()
    ))
    .hinting("Name an earlier time, or none for everything there is."))
}

pub(crate) fn shown(target: &LogTarget) -> String {
    match &target.place {
        LogPlace::Name(name) => format!("the restore point {name:?}"),
        LogPlace::Lsn(lsn) => format!("the position {}", Lsn(*lsn)),
        LogPlace::Xid(xid) => format!("the end of transaction {xid}"),
    }
}
