//! Whether a standby that follows the log by itself can go on from where it stands, and if not, how it
//! gets past that. In front of a part of the log that is in no vault it waits for ever, and looks as if
//! nothing had happened at its source.

pub use crate::cluster::Here;

use crate::cluster::own_log;
use crate::wal::{self, Gap};
use crate::{Error, Run, ServiceSite, cluster, placing};
use engines::postgres::{Lsn, Segments, WalFile, left_at, segments_of};
use engines::{Inspection, Refresh};
use jiff::Timestamp;
use model::{Class, Position, RecoveryPoint, Role, ServiceState, SnapshotId};
use repository::log::LogStore;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a standby stands still. One that goes on gets there, however long that takes.
#[derive(Debug, Default)]
pub(crate) struct Still(Option<(Option<Position>, Instant)>);

impl Still {
    /// For how long by now, given where it is seen.
    pub(crate) fn since(&mut self, position: Option<&Position>, now: Instant) -> Duration {
        match &self.0 {
            Some((last, since)) if last.as_ref() == position => now.duration_since(*since),
            _ => {
                self.0 = Some((position.cloned(), now));
                Duration::ZERO
            }
        }
    }
}

/// A standby that stands in front of a gap.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stuck {
    /// How far it has come.
    pub at: Position,
    /// What it cannot get over.
    pub gap: Gap,
    /// How it gets past that, given the newest point.
    pub way: Way,
}

/// How a standby gets past a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The point was taken after the gap, and has all that the standby has: a refresh builds the copy
    /// anew from it.
    Base,
    /// There is no such point yet.
    Awaited,
    /// The standby has what the point has not, or may have, or is of something else, for this reason:
    /// somebody has to decide.
    ByHand(String),
}

impl Stuck {
    /// One sentence for people.
    pub fn told(&self) -> String {
        format!("it stands at {} and cannot go on: {}", self.at, self.gap.told())
    }

    /// What to do about it.
    pub fn advice(&self, site: &ServiceSite) -> String {
        let name = site.name();
        match &self.way {
            Way::Base => format!(
                "Run `mainstay refresh {name}`: the copy is built anew from the newest point, which \
                 was taken after that."
            ),
            Way::Awaited => format!(
                "Run `mainstay backup {name}` on the primary; the next `mainstay refresh {name}` here \
                 builds the copy anew from that."
            ),
            Way::ByHand(why) => format!(
                "Look at what is in it, since {why}; `mainstay refresh {name} --reseed` puts it aside \
                 and begins anew."
            ),
        }
    }
}

/// Why a standby that follows the log by itself gets to nothing of what its primary writes now.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It stands in front of a gap.
    Gap(Stuck),
    /// It went on along what was given up: the primary went back behind it, or another took over with less.
    Left {
        /// How far it has come.
        at: Position,
        /// Where the newest timeline left the one that it is on.
        left: Lsn,
    },
    /// Its database cluster is not that of the newest point, or not the primary's.
    Cluster(Here),
}

impl Trouble {
    /// One sentence for people.
    pub fn told(&self) -> String {
        match self {
            Trouble::Gap(stuck) => stuck.told(),
            Trouble::Left { at, left } => format!(
                "it stands at {at}, past {left}, where the newest timeline left the one that it is on: it \
                 gets nothing of what the primary writes now"
            ),
            Trouble::Cluster(here) => match here {
                Here::Another(what) | Here::Outlived(what) => format!("it cannot go on: {what}"),
                Here::Unsaved(what) => what.clone(),
                Here::OfThePoint => String::new(),
            },
        }
    }

    /// What to do about it.
    pub fn advice(&self, site: &ServiceSite) -> String {
        match self {
            Trouble::Gap(stuck) => stuck.advice(site),
            Trouble::Left { .. } => format!(
                "Look at what is in it; `mainstay refresh {} --reseed` puts it aside and builds the copy \
                 anew, along what the primary writes now.",
                site.name()
            ),
            Trouble::Cluster(here) => here.advice(site),
        }
    }
}

/// Whether this host's standby can go on. Nothing is said of one that does not run, or does not answer:
/// where it stands is not known.
pub fn trouble(
    site: &ServiceSite,
    state: &ServiceState,
    run: &Run,
) -> Result<Option<Trouble>, Error> {
    let engine = site.engine()?;
    let me = state.members.get(site.member());
    if engine.refresh() != Refresh::Follow || me.is_none_or(|me| me.role != Role::Standby) {
        return Ok(None);
    }
    let seen = crate::look(site, run, |cx| engine.inspect(cx))?;
    seen_trouble(site, state, &seen)
}

/// The same of a standby that was looked at. One that streams passes over a gap in the vault's log.
pub(crate) fn seen_trouble(
    site: &ServiceSite,
    state: &ServiceState,
    seen: &Inspection,
) -> Result<Option<Trouble>, Error> {
    match beside_gaps(site, state, seen)? {
        // It lacks more than what is missing of its own log.
        Some(Trouble::Cluster(here)) if !matches!(here, Here::Unsaved(_)) => {
            Ok(Some(Trouble::Cluster(here)))
        }
        other => Ok(match seen_stuck(site, state, seen, state.head_point())? {
            Some(stuck) => Some(Trouble::Gap(stuck)),
            None => other,
        }),
    }
}

/// The same but for gaps.
pub(crate) fn beside_gaps(
    site: &ServiceSite,
    state: &ServiceState,
    seen: &Inspection,
) -> Result<Option<Trouble>, Error> {
    let Some(at) = seen.position.as_ref().filter(|_| seen.following) else { return Ok(None) };
    let here = cluster::compare_with_head(site, state)?;
    if matches!(here, Here::Another(_) | Here::Outlived(_)) {
        return Ok(Some(Trouble::Cluster(here)));
    }
    Ok(match wal::went_past(site, Some(at))? {
        Some(left) => Some(Trouble::Left { at: at.clone(), left }),
        None => (here != Here::OfThePoint).then_some(Trouble::Cluster(here)),
    })
}

/// Whether a standby that was looked at stands in front of a gap, and how it gets to this point.
pub(crate) fn seen_stuck(
    site: &ServiceSite,
    state: &ServiceState,
    seen: &Inspection,
    point: Option<&RecoveryPoint>,
) -> Result<Option<Stuck>, Error> {
    let (true, Some(at)) = (seen.following, &seen.position) else { return Ok(None) };
    let Some(gap) = in_front_of(site, state, at)? else { return Ok(None) };
    let way = match point {
        // No place in the log of another cluster is past it.
        Some(point) if !is_of(site, point)? => Way::Awaited,
        point => way(site, at, &gap, point)?,
    };
    Ok(Some(Stuck { at: at.clone(), gap, way }))
}

/// Whether a point is of the cluster that lies here, as far as is known.
fn is_of(site: &ServiceSite, point: &RecoveryPoint) -> Result<bool, Error> {
    let both = cluster::here(site)?.zip(cluster::of_point(site, point)?);
    Ok(both.is_none_or(|(here, there)| here == there))
}

/// Whether a standby that stands still has something to go on with all the same: what it received from
/// its primary, or what somebody has told it not to replay.
pub(crate) fn has_more(site: &ServiceSite, at: &Position) -> Result<bool, Error> {
    let (Position::Lsn { lsn, .. }, Some(server)) = (at, site.log_server()?) else {
        return Ok(true);
    };
    let waiting = server.source().waiting()?;
    Ok(waiting.paused || waiting.received.is_some_and(|received| received.0 > *lsn))
}

/// How a standby gets past a gap to this point.
pub(crate) fn way(
    site: &ServiceSite,
    at: &Position,
    gap: &Gap,
    point: Option<&RecoveryPoint>,
) -> Result<Way, Error> {
    let place = |position: &Position| match position {
        Position::Lsn { timeline, lsn } => Some((*timeline, *lsn)),
        _ => None,
    };
    let base = point.and_then(|point| point.position.as_ref()).and_then(place);
    let (Some(at), Some(base)) = (place(at), base) else { return Ok(Way::Awaited) };
    // What tells how the point's timeline came about is in the vault as long as the log is.
    let history = match base.0 > at.0 {
        true => history(site, base.0)?,
        false => None,
    };
    match (judge(at, gap.to, base, history.as_deref()), point) {
        (Way::Base, Some(point)) => {
            Ok(of_another(site, point.snapshot)?.map_or(Way::Base, Way::ByHand))
        }
        (way, _) => Ok(way),
    }
}

/// What stands here, if it can be told to be no copy of what the point is of: places in two logs compare
/// well, and say nothing.
fn of_another(site: &ServiceSite, point: SnapshotId) -> Result<Option<String>, Error> {
    let (engine, meta) = (site.engine()?, placing::meta(site, point)?);
    crate::look(site, &Run::default(), |cx| engine.another(cx, &meta))
}

/// Where the way to this goal left the timeline that a standby is on, if the standby has gone on past
/// that: it never gets there.
pub(crate) fn gone_past(
    site: &ServiceSite,
    at: Option<&Position>,
    goal: Option<&Position>,
) -> Result<Option<Lsn>, Error> {
    let (Some(Position::Lsn { timeline: on, lsn }), Some(Position::Lsn { timeline, .. })) =
        (at, goal)
    else {
        return Ok(None);
    };
    let history = if timeline > on { history(site, *timeline)? } else { None };
    let left = history.and_then(|history| left_at(&history, *on));
    Ok(left.filter(|left| *lsn > left.0))
}

/// Whether the primary gave up, when it began the timeline that a standby at this position is on, what lies
/// at this goal: the standby never gets there, and is not meant to.
pub(crate) fn was_given_up(
    site: &ServiceSite,
    at: Option<&Position>,
    goal: Option<&Position>,
) -> Result<bool, Error> {
    let (Some(Position::Lsn { timeline: on, .. }), Some(Position::Lsn { timeline, lsn })) =
        (at, goal)
    else {
        return Ok(false);
    };
    let history = if on > timeline { history(site, *on)? } else { None };
    let is_on_the_way =
        |history: &[u8]| left_at(history, *timeline).is_some_and(|left| *lsn <= left.0);
    Ok(history.is_some_and(|history| !is_on_the_way(&history)))
}

/// How a timeline of the cluster here came about, if the vault knows.
fn history(site: &ServiceSite, timeline: u32) -> Result<Option<Vec<u8>>, Error> {
    Ok(own_log(site)?.fetch(&format!("{timeline:08X}.history"))?)
}

/// Judges by timelines and places alone. `history` is that of the point's timeline.
fn judge(at: (u32, u64), gap_to: Option<u64>, base: (u32, u64), history: Option<&[u8]>) -> Way {
    if base.0 < at.0 {
        return Way::ByHand(format!(
            "it is on timeline {}, and the newest point on timeline {}",
            at.0, base.0
        ));
    }
    if base.0 > at.0 {
        match history.and_then(|history| left_at(history, at.0)) {
            Some(left) if at.1 <= left.0 => {}
            Some(left) => {
                return Way::ByHand(format!(
                    "it went on past {left}, where timeline {} left the one that it is on",
                    base.0
                ));
            }
            None => {
                return Way::ByHand(format!(
                    "nothing in the vault says where timeline {} left the one that it is on",
                    base.0
                ));
            }
        }
    }
    // Never back: what it holds may be all that there is of it.
    match gap_to {
        Some(to) if base.1 >= to && base.1 > at.1 => Way::Base,
        _ => Way::Awaited,
    }
}

/// The gap that a position is in front of.
fn in_front_of(
    site: &ServiceSite,
    state: &ServiceState,
    at: &Position,
) -> Result<Option<Gap>, Error> {
    let Position::Lsn { timeline, lsn } = at else { return Ok(None) };
    let roots = site.engine()?.roots();
    let Some(segments) = roots.first().and_then(|root| segments_of(&root.on_host)) else {
        return Ok(None);
    };
    let shelf = Shelf { log: own_log(site)?, segments, timeline: *timeline };
    // It is in this one, or asks for it. A gap may have been noted from further back than where the log
    // turned out to end.
    let own = segments.number(Lsn(*lsn));
    let next = own.saturating_add(1);
    let near = shelf.near(own)?;
    let missing = [own, next].into_iter().find(|n| !near.contains(&shelf.name(*n)));
    let Some(missing) = missing else { return Ok(None) };
    for name in near.iter().filter(|name| shelf.notes_before(name, missing)) {
        let Some(bytes) = shelf.log.fetch(name)? else { continue };
        let gap: Gap = serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(Class::Corrupt, format!("{name} in the vault is not valid")).because(e)
        })?;
        let is_in = gap.to.is_some_and(|to| *lsn < to && segments.start(missing).0 < to);
        if is_in && segments.number(Lsn(gap.from)) <= missing && gap.timeline >= *timeline {
            return Ok(if shelf.goes_on(missing)? { None } else { Some(gap) });
        }
    }
    // In the midst of a segment it has that, and asks for the one after it.
    let asked = segments.number(Lsn(lsn.saturating_add(segments.size() - 1)));
    if near.contains(&shelf.name(asked)) {
        return Ok(None);
    }
    match shelf.removed(state, asked, &near)? {
        Some(gap) => Ok(Some(gap)),
        None => {
            let lacks = wal::lacks_branch(&shelf.log, segments, (*timeline, *lsn))?;
            Ok(lacks.map(|(timeline, from, to)| shelf.unnoted(timeline, from, to)))
        }
    }
}

/// The log of one timeline in the vault.
struct Shelf {
    log: LogStore,
    segments: Segments,
    timeline: u32,
}

impl Shelf {
    fn name(&self, number: u64) -> String {
        self.segments.name(self.timeline, number)
    }

    /// What is there around a segment.
    fn near(&self, number: u64) -> Result<BTreeSet<String>, Error> {
        let shard = (4 << 30) / self.segments.size().max(1);
        let mut near = BTreeSet::new();
        for number in BTreeSet::from([number.saturating_sub(shard), number, number + 1]) {
            let listed = self.log.list_near(&self.name(number))?;
            near.extend(listed.into_iter().map(|(name, _)| name));
        }
        Ok(near)
    }

    /// Whether this is the note of a gap that begins at or before a segment, on this timeline or one that
    /// may have come of it. Its name says so: one that lies elsewhere concerns nobody here, sound or not.
    fn notes_before(&self, name: &str, number: u64) -> bool {
        match name.strip_suffix(".gap").and_then(WalFile::parse) {
            Some(WalFile::Segment { timeline, place }) => {
                let start = self.segments.start_of(place);
                timeline >= self.timeline
                    && start.is_some_and(|at| self.segments.number(at) <= number)
            }
            _ => false,
        }
    }

    /// What was removed with the points that needed it leaves no note: all that tells is that there is
    /// more of the log after it.
    fn removed(
        &self,
        state: &ServiceState,
        missing: u64,
        near: &BTreeSet<String>,
    ) -> Result<Option<Gap>, Error> {
        let mut later = self.after(missing, near);
        let end = self.segments.start(missing.saturating_add(1));
        if later.is_none() && lies_before_all_points(state, end) {
            let all = self.log.list()?.into_iter().map(|(name, _)| name).collect();
            later = self.after(missing, &all);
        }
        let Some(to) = later else { return Ok(None) };
        // A listing is not of one instant: what is missing in it may have come with what is not.
        let name = self.name(missing);
        if self.has(&name)? || self.goes_on(missing)? || !self.log.parts(&name)?.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.unnoted(self.timeline, self.segments.start(missing), to)))
    }

    /// A gap of which there is no note.
    fn unnoted(&self, timeline: u32, from: Lsn, to: Lsn) -> Gap {
        Gap {
            cluster: self.log.cluster(),
            timeline,
            from: from.0,
            to: Some(to.0),
            noticed: Timestamp::now(),
            why: "no point that is kept needs it, or it was never stored".to_owned(),
            recorded: false,
        }
    }

    /// Whether the log goes on with this segment on the next timeline.
    fn goes_on(&self, number: u64) -> Result<bool, Error> {
        self.has(&self.segments.name(self.timeline.saturating_add(1), number))
    }

    fn has(&self, name: &str) -> Result<bool, Error> {
        Ok(self.log.list_near(name)?.iter().any(|(there, _)| there == name))
    }

    /// Where the first segment after this one begins.
    fn after(&self, number: u64, names: &BTreeSet<String>) -> Option<Lsn> {
        let own = self.name(number);
        let mut later = names.range(own.clone()..).filter(|name| **name != own);
        later.find_map(|name| match WalFile::parse(name) {
            Some(WalFile::Segment { timeline, place }) if timeline == self.timeline => {
                self.segments.start_of(place)
            }
            _ => None,
        })
    }
}

/// Whether every point was taken after this place.
fn lies_before_all_points(state: &ServiceState, place: Lsn) -> bool {
    !state.points.is_empty()
        && state.points.iter().all(
            |point| matches!(point.position, Some(Position::Lsn { lsn, .. }) if lsn >= place.0),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Timeline 3 left 2 at 0/400, which had left 1 at 0/200.
    const HISTORY: &[u8] =
        b"1\t0/200\tno recovery target specified\n\n2\t0/400\tbefore 2000-01-01\n";

    fn by_hand(way: Way) -> bool {
        matches!(way, Way::ByHand(_))
    }

    #[test]
    fn a_standby_that_goes_on_never_stands_still() {
        let (mut still, mut now) = (Still::default(), Instant::now());
        let step = Duration::from_secs(599);
        for lsn in 0..10 {
            let at = Position::Lsn { timeline: 1, lsn };
            now += step;
            assert_eq!(still.since(Some(&at), now), Duration::ZERO);
            assert_eq!(still.since(Some(&at), now + step), step);
        }
        assert_eq!(still.since(None, now), Duration::ZERO);
        assert_eq!(still.since(None, now + step), step, "one that does not answer");
    }

    #[test]
    fn only_a_base_beyond_the_gap_is_a_way() {
        assert_eq!(judge((1, 0x100), Some(0x300), (1, 0x300), None), Way::Base);
        assert_eq!(judge((1, 0x100), Some(0x300), (1, 0x2ff), None), Way::Awaited);
        assert_eq!(judge((1, 0x100), None, (1, 0x900), None), Way::Awaited, "it has no end yet");
        // What it has may be all that there is of it.
        assert_eq!(judge((1, 0x500), Some(0x300), (1, 0x400), None), Way::Awaited);
        assert_eq!(judge((1, 0x500), Some(0x300), (1, 0x500), None), Way::Awaited);
    }

    #[test]
    fn a_copy_that_is_no_ancestor_of_the_point_is_for_somebody_to_decide() {
        let history = Some(HISTORY);
        assert_eq!(judge((1, 0x200), Some(0x300), (3, 0x500), history), Way::Base);
        assert_eq!(judge((2, 0x400), Some(0x450), (3, 0x500), history), Way::Base);
        assert!(by_hand(judge((1, 0x201), Some(0x300), (3, 0x500), history)));
        assert!(by_hand(judge((2, 0x401), Some(0x450), (3, 0x500), history)));
        assert!(by_hand(judge((4, 0x100), Some(0x300), (3, 0x500), history)));
        for unknown in [None, Some(&b"no history"[..]), Some(&b"9\t0/200\t"[..])] {
            assert!(by_hand(judge((1, 0x100), Some(0x300), (3, 0x500), unknown)));
        }
        assert_eq!(judge((1, 0x100), Some(0x300), (3, 0x290), history), Way::Awaited);
    }
}
