//! The timelines of a log, and which of them leads where.
//!
//! A server that was restored to a place before its newest one goes on along a new timeline. What it had
//! written beyond that place stays in the vault, with the points that were taken there, but from none of
//! it a recovery gets to what the server wrote later: one that is told to follow the newest timeline
//! refuses to start.

use crate::cluster::log_of;
use crate::{Error, ServiceSite};
use engines::postgres::{Cut, Lsn, Record, Records, Segments, WalFile, What, ancestors};
use jiff::Timestamp;
use model::{Class, ClusterId, Position, RecoveryPoint, ServiceState};
use repository::log::LogStore;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// So much of the next segment is looked at for the end of a record.
const OVERLAP: usize = 1 << 20;

/// The timelines that the vault knows of.
pub(crate) struct Timelines {
    log: LogStore,
    /// The segments that it has, if only in part.
    places: BTreeMap<u32, BTreeSet<u64>>,
    /// Those of which there is anything.
    known: BTreeSet<u32>,
    newest: u32,
    /// What says how long segments are.
    last: Option<String>,
}

/// The way to the end of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Oldest first: each of them from where to where.
    legs: Vec<Leg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leg {
    timeline: u32,
    from: u64,
    to: u64,
}

impl Way {
    /// By the history that the vault has of a timeline.
    pub(super) fn look(log: &LogStore, timeline: u32) -> Result<Way, Error> {
        let history = match timeline {
            ..=1 => None,
            _ => log.fetch(&format!("{timeline:08X}.history"))?,
        };
        Ok(Way::of(timeline, history.as_deref()))
    }

    /// By the history of a timeline. Without one nothing is known to lead to it.
    pub(super) fn of(timeline: u32, history: Option<&[u8]>) -> Way {
        let (mut legs, mut from) = (Vec::new(), 0);
        for (before, left) in history.map(ancestors).unwrap_or_default() {
            legs.push(Leg { timeline: before, from, to: left.0 });
            from = left.0;
        }
        legs.push(Leg { timeline, from, to: u64::MAX });
        Way { legs }
    }

    /// Where it leads.
    pub(crate) fn timeline(&self) -> u32 {
        self.legs.last().map_or(1, |leg| leg.timeline)
    }

    /// Whether this place is on it.
    pub(crate) fn leads_from(&self, (timeline, lsn): (u32, u64)) -> bool {
        self.legs.iter().any(|leg| leg.timeline == timeline && lsn <= leg.to)
    }

    /// Whether a recovery gets from this point to its end. Of one that has no place in a log that is not
    /// asked.
    pub(crate) fn serves(&self, point: &RecoveryPoint) -> bool {
        place_of(point).is_none_or(|place| self.leads_from(place))
    }

    /// Where its last timeline begins.
    fn begins(&self) -> u64 {
        self.legs.last().map_or(0, |leg| leg.from)
    }

    /// The timeline by which a segment on it is named: the last that begins in it or before.
    pub(super) fn timeline_of(&self, segments: Segments, number: u64) -> u32 {
        let begun = |leg: &&Leg| segments.number(Lsn(leg.from)) <= number;
        self.legs.iter().rev().find(begun).map_or(1, |leg| leg.timeline)
    }

    /// Where it leaves a timeline that is on it.
    pub(super) fn leaves(&self, timeline: u32) -> Option<u64> {
        self.legs.iter().find(|leg| leg.timeline == timeline).map(|leg| leg.to)
    }
}

/// Where a point lies in a log.
pub(crate) fn place_of(point: &RecoveryPoint) -> Option<(u32, u64)> {
    match &point.position {
        Some(Position::Lsn { timeline, lsn }) => Some((*timeline, *lsn)),
        _ => None,
    }
}

impl Timelines {
    /// Those of a cluster, of whose points the state is; none if the vault has nothing of its log. Of a
    /// timeline of which it has no log it may have points.
    pub(crate) fn look(
        site: &ServiceSite,
        state: &ServiceState,
        cluster: Option<ClusterId>,
    ) -> Result<Option<Timelines>, Error> {
        let log = log_of(site, cluster)?;
        let whole = log.list()?.into_iter().map(|(name, _)| name);
        let parts = log.list_parts()?.into_iter().map(|(name, _)| name);
        let (places, known) = (BTreeMap::new(), BTreeSet::new());
        let mut found = Timelines { log, places, known, newest: 0, last: None };
        for name in whole.chain(parts) {
            match WalFile::parse(&name) {
                Some(WalFile::Segment { timeline, place }) => {
                    found.known.insert(timeline);
                    found.places.entry(timeline).or_default().insert(place);
                    found.last = found.last.max(Some(name));
                }
                Some(WalFile::History { timeline }) => drop(found.known.insert(timeline)),
                _ => {}
            }
        }
        if found.known.is_empty() {
            return Ok(None);
        }
        let points = state.points.iter().filter_map(place_of).map(|(timeline, _)| timeline);
        found.known.extend(points);
        found.newest = found.known.last().copied().unwrap_or_default();
        Ok(Some(found))
    }

    /// The way to the newest.
    pub(crate) fn newest(&self) -> Result<Way, Error> {
        self.way(self.newest)
    }

    /// The way to one that somebody named.
    pub(crate) fn named(&self, site: &ServiceSite, timeline: u32) -> Result<Way, Error> {
        let way = self.way(timeline)?;
        if way.legs.len() > 1 || self.places.contains_key(&timeline) {
            return Ok(way);
        }
        let known: Vec<String> = self.places.keys().map(ToString::to_string).collect();
        Err(Error::invalid(format!("the log of {} has no timeline {timeline}", site.name()))
            .hinting(format!("It has: {}.", known.join(", "))))
    }

    /// The way to the newest that is reached from a place.
    pub(crate) fn from(&self, place: (u32, u64)) -> Result<Way, Error> {
        for timeline in self.known.range((Bound::Excluded(place.0), Bound::Unbounded)).rev() {
            let way = self.way(*timeline)?;
            if way.leads_from(place) {
                return Ok(way);
            }
        }
        self.way(place.0)
    }

    /// The way to what the service was at a time, and whether that is all of it: the newest timeline that
    /// had begun by then. Where that is on the way to the newest of all, that.
    pub(crate) fn at(&self, time: Timestamp) -> Result<(Way, bool), Error> {
        let newest = self.newest()?;
        let mut ways = Vec::new();
        for timeline in self.places.keys().rev() {
            ways.push(self.way(*timeline)?);
        }
        let oldest = ways.len().saturating_sub(1);
        for (number, way) in ways.into_iter().enumerate() {
            let timeline = way.timeline();
            // Its server says so first, though nobody writes to it.
            let begun = || self.first(timeline, way.begins(), said);
            if number < oldest && begun()?.is_none_or(|first| first > time) {
                continue;
            }
            let left = newest.leaves(timeline);
            let goes_on_beyond = match left {
                Some(u64::MAX) => false,
                Some(left) => self.first(timeline, left, committed)?.is_some_and(|at| at <= time),
                None => true,
            };
            if !goes_on_beyond {
                return Ok((newest, false));
            }
            let path = self.path_of(timeline)?;
            let (later, _) = path
                .search(way.begins(), |record| committed(&record.what).filter(|at| *at > time))?;
            return Ok((way, later.is_none()));
        }
        Ok((newest, false))
    }

    /// Where a recovery from this place to the end of a way would go astray: the vault has nothing yet of a
    /// timeline where that begins, and has more of the one before it, which a server takes instead. That one,
    /// and where it was left.
    pub(crate) fn astray(
        &self,
        way: &Way,
        from: Option<(u32, u64)>,
    ) -> Result<Option<(u32, u64)>, Error> {
        let begun = from.map_or(0, |(timeline, _)| timeline);
        let pairs = || way.legs.iter().zip(way.legs.iter().skip(1));
        if pairs().next().is_none() {
            return Ok(None);
        }
        let path = self.path(way)?;
        for (before, next) in pairs().filter(|(before, _)| before.timeline >= begun) {
            let start = path.segments.start(path.segments.number(Lsn(next.from))).0;
            if path.starts.get(&start) == Some(&before.timeline)
                && self.find(before.timeline, next.from, |_| Some(()))?.is_some()
            {
                return Ok(Some((before.timeline, next.from)));
            }
        }
        Ok(None)
    }

    /// The log along a way.
    pub(crate) fn path(&self, way: &Way) -> Result<Path<'_>, Error> {
        let segments = self.segments()?;
        let mut starts = BTreeMap::new();
        for leg in way.legs.iter().rev() {
            let first = segments.start(segments.number(Lsn(leg.from))).0;
            // The segment in which it was left is the next one's, if that is there.
            for start in self.starts(segments, leg.timeline) {
                if (first..=leg.to).contains(&start) {
                    starts.entry(start).or_insert(leg.timeline);
                }
            }
        }
        Ok(Path { log: &self.log, segments, starts })
    }

    /// The segments of a timeline alone.
    fn path_of(&self, timeline: u32) -> Result<Path<'_>, Error> {
        let segments = self.segments()?;
        let starts = self.starts(segments, timeline).map(|start| (start, timeline)).collect();
        Ok(Path { log: &self.log, segments, starts })
    }

    fn starts(&self, segments: Segments, timeline: u32) -> impl Iterator<Item = u64> {
        let places = self.places.get(&timeline).into_iter().flatten();
        places.filter_map(move |place| segments.start_of(*place)).map(|start| start.0)
    }

    /// How long segments are, the first bytes of any of them say.
    fn segments(&self) -> Result<Segments, Error> {
        let name = self.last.as_deref().unwrap_or_default();
        let cut = Cut::of(&content(&self.log, name)?);
        cut.and_then(|cut| Segments::of(cut.segment)).ok_or_else(|| {
            Error::new(Class::Corrupt, format!("{name} in the vault does not begin like a log"))
        })
    }

    fn way(&self, timeline: u32) -> Result<Way, Error> {
        Way::look(&self.log, timeline)
    }

    /// The first time that is told on a timeline from this place on.
    fn first(
        &self,
        timeline: u32,
        from: u64,
        told: fn(&What) -> Option<Timestamp>,
    ) -> Result<Option<Timestamp>, Error> {
        self.find(timeline, from, |record| told(&record.what))
    }

    /// What is looked for in the records of a timeline, from this place on.
    fn find<T>(
        &self,
        timeline: u32,
        from: u64,
        wanted: impl Fn(&Record) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let path = self.path_of(timeline)?;
        let first = path.segments.start(path.segments.number(Lsn(from))).0;
        for (start, _) in path.starts.range(first..) {
            let mut bytes = path.bytes(*start)?;
            let next = start.saturating_add(bytes.len() as u64);
            if path.starts.contains_key(&next) {
                let after = path.bytes(next)?;
                bytes.extend(after.get(..after.len().min(OVERLAP)).unwrap_or_default());
            }
            let records = Records::new(&bytes, Lsn(*start)).into_iter().flatten();
            let mut later = records.filter(|record| record.start.0 >= from);
            if let Some(found) = later.find_map(|record| wanted(&record)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn committed(what: &What) -> Option<Timestamp> {
    match what {
        What::Ended { at, .. } => Some(*at),
        What::Mark { .. } | What::Upkeep { .. } | What::Other => None,
    }
}

fn said(what: &What) -> Option<Timestamp> {
    match what {
        What::Ended { at, .. } | What::Mark { at, .. } => Some(*at),
        What::Upkeep { at } => *at,
        What::Other => None,
    }
}

/// Segments of a log, one after the other.
pub(crate) struct Path<'a> {
    log: &'a LogStore,
    segments: Segments,
    /// The timeline of each segment, by where it begins.
    starts: BTreeMap<u64, u32>,
}

impl Path<'_> {
    fn bytes(&self, start: u64) -> Result<Vec<u8>, Error> {
        let timeline = self.starts.get(&start).copied().unwrap_or(1);
        content(self.log, &self.segments.name(timeline, self.segments.number(Lsn(start))))
    }

    /// Goes through the records from the newest segment back, down to the one that holds `least`,
    /// until `stop` finds what it looks for. Within a segment, in the order of the log.
    pub(crate) fn search<T>(
        &self,
        least: u64,
        mut stop: impl FnMut(&Record) -> Option<T>,
    ) -> Result<(Option<T>, Option<Lsn>), Error> {
        let mut next: Option<(u64, Vec<u8>)> = None;
        let mut end = None;
        for start in self.starts.keys().rev() {
            if start.saturating_add(self.segments.size()) <= least {
                break;
            }
            let mut bytes = self.bytes(*start)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As servers write it: one went back on timeline 1 and went on along 3, past where 2 had begun.
    #[test]
    fn a_way_leads_from_what_it_did_not_leave_before() {
        let history = b"1\t0/3000000\tbefore 2026-01-01\n";
        let way = Way::of(3, Some(history));
        assert_eq!(way.timeline(), 3);
        assert!(way.leads_from((1, 0x200_0000)) && way.leads_from((1, 0x300_0000)));
        assert!(way.leads_from((3, 0x900_0000)));
        assert!(!way.leads_from((1, 0x300_0001)) && !way.leads_from((2, 0x200_0000)));
        assert_eq!(
            (way.begins(), way.leaves(1), way.leaves(2)),
            (0x300_0000, Some(0x300_0000), None)
        );
    }

    #[test]
    fn without_a_history_only_its_own_timeline_leads_on() {
        let way = Way::of(4, None);
        assert!(way.leads_from((4, 1)) && !way.leads_from((3, 1)));
        assert_eq!(way.leaves(4), Some(u64::MAX));
    }
}
