//! What a service left behind when it went back to an earlier point, or when another host took over and went
//! on from less: it stays within reach, but from none of it a recovery gets to what is written now.

use super::Stored;
use super::timelines::{Way, place_of};
use crate::cluster::{self, log_of, own_log};
use crate::{Error, ServiceSite};
use engines::postgres::Lsn;
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
