//! What a service left behind when it went back to an earlier point, or when another host took over and went
//! on from less: it stays within reach, but from none of it a recovery gets to what is written now.

use super::Stored;
use super::timelines::{Way, place_of};
use crate::cluster::{self, log_of, own_log};
use crate::{Error, ServiceSite};
use engines::postgres::{Lsn, Segments, WalFile};
use model::{Position, RecoveryPoint, ServiceState, SnapshotId};
use repository::log::LogStore;
use std::collections::BTreeSet;

/// The points that were left behind, as far as the vault tells. Of points of another database cluster than
/// the newest, in whose place that goes on, nothing is said.
pub fn left_behind(
    site: &ServiceSite,
    state: &ServiceState,
) -> Result<BTreeSet<SnapshotId>, Error> {
    let none = BTreeSet::new();
    let (Some(_), Some(head)) = (site.log_server()?, state.head_point()) else { return Ok(none) };
    let cluster = cluster::of_point(site, head)?;
    let state = cluster::only(site, state, cluster)?;
    let most = state.points.iter().filter_map(place_of).map(|(timeline, _)| timeline).max();
    let Some(most) = most else { return Ok(none) };
    let Some(way) = newest(&log_of(site, cluster)?, most)? else { return Ok(none) };
    let placed = state.points.iter().filter(|point| place_of(point).is_some());
    let (served, others): (Vec<&RecoveryPoint>, Vec<_>) = placed.partition(|p| way.serves(p));
    if served.is_empty() {
        return Ok(none);
    }
    Ok(others.into_iter().map(|point| point.snapshot).collect())
}

/// Where the newest timeline left the one that a standby at this position is on, if it went on past that.
pub(crate) fn went_past(
    site: &ServiceSite,
    position: Option<&Position>,
) -> Result<Option<Lsn>, Error> {
    let Some(Position::Lsn { timeline, .. }) = position else { return Ok(None) };
    // To list all of the log takes long, and mostly there is no other timeline.
    match history(&own_log(site)?, timeline.saturating_add(1))? {
        Some(_) => Stored::look(site)?.left(site, position),
        None => Ok(None),
    }
}

/// What is missing of the log where the newest timeline left the one that a standby at this place is on, in
/// the same segment: on which timeline, from where to where. Who took over there had thrown it away when
/// somebody began to store its log, and no point needs it, so that nobody has noted it.
pub(crate) fn lacks_branch(
    log: &LogStore,
    segments: Segments,
    (timeline, lsn): (u32, u64),
) -> Result<Option<(u32, Lsn, Lsn)>, Error> {
    let next = timeline.saturating_add(1);
    let way = match history(log, next)? {
        Some(_) => newest(log, next)?,
        None => None,
    };
    let left = way.as_ref().and_then(|way| way.leaves(timeline));
    let (Some(way), Some(left)) = (way, left) else { return Ok(None) };
    let number = segments.number(Lsn(left));
    if lsn > left || segments.number(Lsn(lsn)) != number {
        return Ok(None);
    }
    let on = way.timeline_of(segments, number);
    let name = segments.name(on, number);
    let shard = (4 << 30) / segments.size().max(1);
    let mut there = log.list_near(&name)?;
    there.extend(log.list_near(&segments.name(on, number.saturating_add(shard)))?);
    let starts = there.iter().filter_map(|(other, _)| match WalFile::parse(other) {
        Some(WalFile::Segment { timeline, place }) if timeline == on && *other > name => {
            segments.start_of(place)
        }
        _ => None,
    });
    let Some(goes_on) = starts.min() else { return Ok(None) };
    // A listing is not of one instant: what is missing in it may have come with what is not.
    let is_there = log.list_near(&name)?.iter().any(|(other, _)| *other == name);
    let lacks = !is_there && log.parts(&name)?.is_empty();
    Ok(lacks.then(|| (on, segments.start(number), goes_on)))
}

/// The way to the newest timeline, from one that is known on. A server that begins one takes the first
/// number of which there is no history. None if it is not known how the newest came about.
fn newest(log: &LogStore, known: u32) -> Result<Option<Way>, Error> {
    let mut way = match known {
        ..=1 => Some(Way::of(known, None)),
        _ => history(log, known)?.map(|history| Way::of(known, Some(&history))),
    };
    let mut next = known.saturating_add(1);
    while let Some(history) = history(log, next)? {
        way = Some(Way::of(next, Some(&history)));
        next = next.saturating_add(1);
    }
    Ok(way)
}

fn history(log: &LogStore, timeline: u32) -> Result<Option<Vec<u8>>, Error> {
    Ok(log.fetch(&format!("{timeline:08X}.history"))?)
}
