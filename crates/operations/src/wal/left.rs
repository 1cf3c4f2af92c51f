//! What a service left behind when it went back to an earlier point, or when another host took over and went
//! on from less: it stays within reach, but from none of it a recovery gets to what is written now.

use super::Stored;
use super::target::cluster_of;
use super::timelines::{Way, place_of};
use crate::{Error, ServiceSite};
use engines::postgres::Lsn;
use model::{Position, RecoveryPoint, ServiceState, SnapshotId};
use repository::log::LogStore;
use std::collections::BTreeSet;

/// The points that were left behind, as far as the vault tells. Of points of another database cluster, in
/// whose place this one goes on, nothing is said.
pub fn left_behind(
    site: &ServiceSite,
    state: &ServiceState,
) -> Result<BTreeSet<SnapshotId>, Error> {
    let mut left = BTreeSet::new();
    let most = state.points.iter().filter_map(place_of).map(|(timeline, _)| timeline).max();
    let (Some(_), Some(most)) = (site.log_server()?, most) else { return Ok(left) };
    let log = LogStore::new(site.repository()?);
    let Some(way) = newest(&log, most)? else { return Ok(left) };
    let placed = state.points.iter().filter(|point| place_of(point).is_some());
    let (served, others): (Vec<&RecoveryPoint>, Vec<_>) = placed.partition(|p| way.serves(p));
    let Some(base) = served.last().filter(|_| !others.is_empty()) else { return Ok(left) };
    let cluster = cluster_of(site, base.snapshot)?;
    for point in others {
        if cluster_of(site, point.snapshot)? == cluster {
            left.insert(point.snapshot);
        }
    }
    Ok(left)
}

/// Where the newest timeline left the one that a standby at this position is on, if it went on past that.
pub(crate) fn went_past(
    site: &ServiceSite,
    position: Option<&Position>,
) -> Result<Option<Lsn>, Error> {
    let Some(Position::Lsn { timeline, .. }) = position else { return Ok(None) };
    // To list all of the log takes long, and mostly there is no other timeline.
    match history(&LogStore::new(site.repository()?), timeline.saturating_add(1))? {
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
