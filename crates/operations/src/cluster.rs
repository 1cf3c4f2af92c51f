//! Which database cluster something is of, and where in the vault its log is.
//!
//! A cluster that goes on in the place of another, as after an upgrade by `pg_upgrade`, begins on timeline 1
//! again, and writes log of the same names. So whoever asks for log asks for that of a cluster: of the server
//! that wrote it, of the point that a recovery begins with, or of the copy that is to replay it.

use crate::{Error, ServiceSite, placing};
use engines::postgres::{cluster_in, cluster_of};
use model::{Class, Classify, ClusterId, RecoveryPoint, ServiceState, SnapshotId};
use repository::log::LogStore;
use std::collections::BTreeSet;
use std::path::Path;

/// The log of a cluster; without one, that of a service whose engine knows none.
pub(crate) fn log_of(site: &ServiceSite, cluster: Option<ClusterId>) -> Result<LogStore, Error> {
    let repository = site.repository()?;
    Ok(match cluster {
        Some(cluster) => LogStore::of(repository, cluster, cluster_in),
        None => LogStore::new(repository),
    })
}

/// The log of what lies here.
pub(crate) fn own_log(site: &ServiceSite) -> Result<LogStore, Error> {
    log_of(site, own(site)?)
}

/// The cluster that lies here; that of the newest whole point where none does.
pub(crate) fn own(site: &ServiceSite) -> Result<Option<ClusterId>, Error> {
    match here(site)? {
        Some(cluster) => Ok(Some(cluster)),
        None => of_head(site, &site.load_state()?.state),
    }
}

/// The cluster that lies here, if one does.
pub(crate) fn here(site: &ServiceSite) -> Result<Option<ClusterId>, Error> {
    let roots = site.engine()?.roots();
    Ok(roots.first().map_or(Ok(None), |root| cluster_of(&root.on_host))?)
}

/// The cluster whose log a server asks for that wants a file of it here: in `pg_wal`, beside which its
/// control file is.
pub(crate) fn that_asks(site: &ServiceSite, target: &Path) -> Result<Option<ClusterId>, Error> {
    let above = target.parent().and_then(Path::parent);
    match above.map_or(Ok(None), cluster_of)? {
        Some(cluster) => Ok(Some(cluster)),
        None => own(site),
    }
}

/// That of the newest whole point.
pub(crate) fn of_head(
    site: &ServiceSite,
    state: &ServiceState,
) -> Result<Option<ClusterId>, Error> {
    state.head_point().map_or(Ok(None), |head| of_point(site, head))
}

/// That of a point. One that was committed before points said so says it in its snapshot.
pub(crate) fn of_point(
    site: &ServiceSite,
    point: &RecoveryPoint,
) -> Result<Option<ClusterId>, Error> {
    if point.cluster.is_some() || point.engine != "postgres" || point.position.is_none() {
        return Ok(point.cluster);
    }
    if let Some(known) = site.cluster_in(point.snapshot) {
        return Ok(known);
    }
    match placing::meta(site, point.snapshot) {
        Ok(meta) => {
            let cluster = in_detail(&meta.detail);
            site.keep_cluster(point.snapshot, cluster);
            Ok(cluster)
        }
        // What is damaged says nothing.
        Err(e) if matches!(e.class(), Class::Corrupt | Class::Invalid) => Ok(None),
        Err(e) => Err(e),
    }
}

/// That of a snapshot, which need be no point.
pub(crate) fn of_snapshot(
    site: &ServiceSite,
    state: &ServiceState,
    snapshot: SnapshotId,
) -> Result<Option<ClusterId>, Error> {
    match state.point(snapshot) {
        Some(point) => of_point(site, point),
        None => Ok(in_detail(&placing::meta(site, snapshot)?.detail)),
    }
}

/// What an engine says of it in what it notes of a point.
pub(crate) fn in_detail(detail: &serde_json::Value) -> Option<ClusterId> {
    detail.get("system-identifier")?.as_str()?.parse().ok()
}

/// What lies here, if it is of another cluster than a point: positions in their logs compare well, and say
/// nothing.
pub(crate) fn other_than(
    site: &ServiceSite,
    point: &RecoveryPoint,
) -> Result<Option<String>, Error> {
    match (here(site)?, of_point(site, point)?) {
        (Some(here), Some(there)) if here != there => Ok(Some(format!(
            "the copy of {} on this host holds the database cluster {here}, and nothing of {there}, \
             which {} is of",
            site.name(),
            point.name()
        ))),
        _ => Ok(None),
    }
}

/// A state as far as it is of one cluster: the points that are, or may be.
pub(crate) fn only(
    site: &ServiceSite,
    state: &ServiceState,
    cluster: Option<ClusterId>,
) -> Result<ServiceState, Error> {
    let mut only = state.clone();
    let Some(cluster) = cluster else { return Ok(only) };
    let mut others = BTreeSet::new();
    for point in &state.points {
        if of_point(site, point)?.is_some_and(|of| of != cluster) {
            others.insert(point.snapshot);
        }
    }
    only.leave_out(|snapshot| others.contains(snapshot));
    Ok(only)
}
