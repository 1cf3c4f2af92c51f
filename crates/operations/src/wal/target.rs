//! Where in the log a restore is to end, and the base that it begins with: the newest that was
//! consistent before that place.
//!
//! What the log says is read off its records, so that a place that is not there is refused before
//! anything is restored, with what is there instead.

use crate::{Error, ServiceSite};
use engines::postgres::{Lsn, Records, Segments, WalFile, What};
use engines::{LogPlace, LogTarget};
use jiff::Timestamp;
use model::{Position, RecoveryPoint, ServiceState, SnapshotId};
use repository::log::LogStore;
use std::collections::{BTreeMap, BTreeSet};

/// So much of the next segment is looked at for the end of a record.
const OVERLAP: usize = 1 << 20;
/// Marks that are named if the one that was asked for is not there.
const NAMED: usize = 10;

/// The log of a service on the way to its newest timeline.
struct Path {
    log: LogStore,
    segments: Segments,
    /// The timeline of each segment, by where it begins.
    starts: BTreeMap<u64, u32>,
}

impl Path {
    /// None if the vault has nothing of a log.
    fn look(site: &ServiceSite) -> Result<Option<Path>, Error> {
        let log = LogStore::new(site.repository()?);
        let whole = log.list()?.into_iter().map(|(name, _)| name);
        let parts = log.list_parts()?.into_iter().map(|(name, _)| name);
        let names: BTreeSet<String> = whole
            .chain(parts)
            .filter(|name| matches!(WalFile::parse(name), Some(WalFile::Segment { .. })))
            .collect();
        // How long segments are, the first bytes of any of them say.
        let Some(newest) = names.last() else { return Ok(None) };
        let bytes = content(&log, newest)?;
        let cut = engines::postgres::Cut::of(&bytes);
        let Some(segments) = cut.and_then(|cut| Segments::of(cut.segment)) else { return Ok(None) };
        let mut timelines: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for name in &names {
            if let Some(WalFile::Segment { timeline, place }) = WalFile::parse(name)
                && let Some(start) = segments.start_of(place)
            {
                timelines.entry(timeline).or_default().insert(start.0);
            }
        }
        let (mut starts, mut end) = (BTreeMap::new(), u64::MAX);
        for (timeline, own) in timelines.iter().rev() {
            for start in own.range(..end) {
                starts.insert(*start, *timeline);
            }
            end = own.first().map_or(end, |first| end.min(*first));
        }
        Ok(Some(Path { log, segments, starts }))
    }

    /// Goes through the records from the newest segment back, down to the one that holds `least`,
    /// until `stop` finds what it looks for. Within a segment, in the order of the log.
    fn search<T>(
        &self,
        least: u64,
        mut stop: impl FnMut(&engines::postgres::Record) -> Option<T>,
    ) -> Result<(Option<T>, Option<Lsn>), Error> {
        let mut next: Option<(u64, Vec<u8>)> = None;
        let mut end = None;
        for (start, timeline) in self.starts.iter().rev() {
            if start.saturating_add(self.segments.size()) <= least {
                break;
            }
            let name = self.segments.name(*timeline, self.segments.number(Lsn(*start)));
            let mut bytes = content(&self.log, &name)?;
            let own = bytes.get(..bytes.len().min(OVERLAP)).unwrap_or_default().to_vec();
            if let Some((_, after)) =
                next.take().filter(|(at, _)| *at == *start + bytes.len() as u64)
            {
                bytes.extend(after);
            }
            next = Some((*start, own));
            let mut found = None;
            if let Some(mut records) = Records::new(&bytes, Lsn(*start)) {
                // The last of several, as one that came later is what is meant.
                for record in records.by_ref() {
                    found = stop(&record).or(found);
                }
                end.get_or_insert(records.end());
            }
            if found.is_some() {
                return Ok((found, end));
            }
        }
        Ok((None, end))
    }
}

fn content(log: &LogStore, name: &str) -> Result<Vec<u8>, Error> {
    match log.fetch(name)? {
        Some(bytes) => Ok(bytes),
        None => Ok(log.beginning(name)?.map(|begun| begun.bytes).unwrap_or_default()),
    }
}

/// The whole points that have a position, and where each is consistent.
fn bases(state: &ServiceState) -> impl Iterator<Item = (u64, &RecoveryPoint)> {
    state.points.iter().filter(|point| !point.incomplete).filter_map(|point| {
        match &point.position {
            Some(Position::Lsn { lsn, .. }) => Some((*lsn, point)),
            _ => None,
        }
    })
}

/// The base from which this place is reached.
pub(crate) fn base_for(
    site: &ServiceSite,
    state: &ServiceState,
    target: &LogTarget,
) -> Result<SnapshotId, Error> {
    let shown = shown(target);
    let Some(oldest) = bases(state).map(|(lsn, _)| lsn).min() else {
        return Err(Error::invalid(format!("{} has no base to begin with", site.name()))
            .hinting("Run `mainstay backup` on its primary first."));
    };
    let Some(path) = Path::look(site)? else {
        return Err(Error::invalid(format!("{shown} is not there: the vault has no log"))
            .hinting("Restore a point, by `--snapshot` or `--at`."));
    };
    let mut marks = Vec::new();
    let mut last: Option<Timestamp> = None;
    let (at, end) = path.search(oldest, |record| {
        match &record.what {
            What::Ended { at, .. } => last = last.max(Some(*at)),
            What::Mark { name, .. } if marks.len() < NAMED => {
                marks.push((record.start.0, name.clone()));
            }
            What::Mark { .. } | What::Upkeep | What::Other => {}
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
        marks.sort();
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
    let base = bases(state).filter(|(lsn, _)| *lsn <= at).max_by_key(|(lsn, _)| *lsn);
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
pub(crate) fn require_time(
    site: &ServiceSite,
    state: &ServiceState,
    time: Timestamp,
) -> Result<(), Error> {
    let Some(oldest) = bases(state).map(|(lsn, _)| lsn).min() else { return Ok(()) };
    let Some(path) = Path::look(site)? else { return Ok(()) };
    let mut newest: Option<Timestamp> = None;
    let (beyond, end) = path.search(oldest, |record| match &record.what {
        What::Ended { at, .. } | What::Mark { at, .. } => {
            newest = newest.max(Some(*at));
            // Any segment with a commit in it tells: those before it are older.
            Some(*at > time)
        }
        What::Upkeep | What::Other => None,
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
