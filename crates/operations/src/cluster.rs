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

/// How what lies here stands to a point. Of another cluster positions in the log compare well, and say
/// nothing. With one sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Here {
    /// It is of the same cluster, as far as is known.
    OfThePoint,
    /// Only a newer point is going to be of it: the primary writes it now, in the place of the point's.
    Unsaved(String),
    /// It is of the same, which is the newest in the vault, and the primary writes another in its place.
    Outlived(String),
    /// It is of another, which was there before, or has nothing to do with the service.
    Another(String),
}

impl Here {
    /// What to do about a standby whose copy it is.
    pub fn advice(&self, site: &ServiceSite) -> String {
        let name = site.name();
        let base = format!("Run `mainstay backup {name} --allow-another` on the primary");
        match self {
            Here::OfThePoint => String::new(),
            Here::Unsaved(_) => {
                format!("{base}: that makes one. Until then nothing brings it back.")
            }
            Here::Outlived(_) => {
                format!(
                    "{base}, then `mainstay refresh {name} --reseed` here, which builds it anew."
                )
            }
            Here::Another(_) => format!(
                "Look at what is in it; `mainstay refresh {name} --reseed` puts it aside and builds it anew."
            ),
        }
    }
}

/// Compares what lies here with a point.
pub(crate) fn compare(
    site: &ServiceSite,
    state: &ServiceState,
    point: &RecoveryPoint,
) -> Result<Here, Error> {
    let (Some(here), Some(there)) = (here(site)?, of_point(site, point)?) else {
        return Ok(Here::OfThePoint);
    };
    let is_newest = state.head.is_some_and(|head| head.snapshot == point.snapshot);
    let holds =
        format!("the copy of {} on this host holds the database cluster {here}", site.name());
    let point = point.name();
    Ok(match state.written.filter(|_| is_newest) {
        Some(now) if here == now && here != there => Here::Unsaved(format!(
            "{holds}, which the primary writes now, and the vault has no point of that: {point}, the newest, \
             is of {there}"
        )),
        Some(now) if here == there && here != now => Here::Outlived(format!(
            "{holds}, as {point} does, and the primary has gone on with {now} in its place"
        )),
        _ if here == there => Here::OfThePoint,
        _ => Here::Another(format!("{holds}, and nothing of {there}, which {point} is of")),
    })
}

/// The same with the newest whole point.
pub(crate) fn compare_with_head(site: &ServiceSite, state: &ServiceState) -> Result<Here, Error> {
    state.head_point().map_or(Ok(Here::OfThePoint), |head| compare(site, state, head))
}

/// Says in the vault which cluster the primary writes, unless the vault knows that. Before the first piece
/// of its log is stored: a prune looks first at what is stored, then at this, and removes the log of a
/// cluster that was left without a point.
pub(crate) fn say_written(
    site: &ServiceSite,
    state: &ServiceState,
    cluster: Option<ClusterId>,
) -> Result<(), Error> {
    let Some(cluster) = cluster.filter(|cluster| state.written != Some(*cluster)) else {
        return Ok(());
    };
    let (member, generation) = (site.member(), state.generation);
    site.state()?.update(|state| state.writes(member, generation, cluster))?;
    Ok(())
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
