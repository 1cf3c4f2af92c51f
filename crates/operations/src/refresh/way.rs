//! How each root of a copy is brought on: exchanged for a new one, or changed in its place.
//!
//! A copy that is exchanged gets a name in the new one for each of its files, changed or not. That is
//! nothing for a few hundred, and most of the work where few of very many have changed. Then, and where
//! a copy cannot be exchanged, because something is mounted at its path, it stays where it is: what is
//! new is staged, a redo journal says what becomes of what, and that is applied past the commit marker.
//!
//! | | exchanged | in its place |
//! |---|---|---|
//! | fewer than a thousand names, or more than one in eight changed | always | |
//! | others | where `refresh = "exchange"`; if nobody knows what it holds; where files with several names changed | else |
//! | a mount point | never | always |
//!
//! Only trees of engines that leave restored files as they are.

use crate::member::manifest;
use crate::operation::Operation;
use crate::placing::{self, Amends, Destination, Seed};
use crate::{Error, ServiceSite};
use engines::{Refresh, Root, RootKind, SnapshotMeta};
use model::{CancelToken, OperationId, RecoveryPoint};
use repository::restore::{Extent, Holds, Reuse, extent, recorded_entries};
use std::path::{Path, PathBuf};

/// A copy with fewer names is exchanged as fast.
const MANY: u64 = 1000;
/// At most one name of so many is changed in its place.
const ONE_IN: u64 = 8;

/// Pairs roots with their places on this host. What is staged for one that is a mount point is in it,
/// which is where its file system is.
pub(super) fn destinations(
    site: &ServiceSite,
    meta: &SnapshotMeta,
    targets: Vec<PathBuf>,
    id: &OperationId,
) -> Result<Vec<Destination>, Error> {
    let pairs = meta.roots.iter().cloned().zip(targets);
    pairs
        .map(|(root, target)| {
            if !may_stay(site, &root)? || !placing::is_mount_point(&target) {
                return placing::destination(root, target, id);
            }
            let staged = target.join(format!(".mainstay-{id}"));
            let amends = Some(Amends { holds: None, need: None });
            Ok(Destination { root, staged, target, without: Default::default(), amends })
        })
        .collect()
}

/// Whether a root may be changed in its place: what is staged of it is no copy then, and its engine
/// must have nothing to do there.
fn may_stay(site: &ServiceSite, root: &Root) -> Result<bool, Error> {
    let keeps = site.engine()?.keeps_staged();
    Ok(root.kind == RootKind::Tree && keeps && site.spec().refresh.is_auto())
}

/// Decides for each root. `here` says which of them hold something: what the seed says.
pub(super) fn choose(
    site: &ServiceSite,
    operation: &Operation,
    point: &RecoveryPoint,
    destinations: &mut [Destination],
    seed: Option<Seed>,
    here: &[bool],
) -> Result<(), Error> {
    let many_files = site.engine()?.refresh() == Refresh::Exchange;
    for (number, destination) in destinations.iter_mut().enumerate() {
        let seed = seed.filter(|_| here.get(number).copied().unwrap_or_default());
        let stays = destination.amends.is_some();
        let (Some(seed), true) = (seed, stays || may_stay(site, &destination.root)?) else {
            continue;
        };
        let look = |most| changed(site, point, destination, seed, most, operation.cancel());
        let trusted = |extent: Extent| Amends {
            holds: Some(Holds { snapshot: seed.snapshot, doubted: false, links: extent.links }),
            need: Some(extent.bytes),
        };
        if stays {
            let known = if seed.doubted { None } else { look(u64::MAX)? };
            let by_sight = Holds { snapshot: seed.snapshot, doubted: true, links: true };
            destination.amends =
                Some(known.map_or(Amends { holds: Some(by_sight), need: None }, trusted));
        } else if many_files && !seed.doubted {
            let names = recorded_entries(&manifest(site, number))?;
            if names >= MANY {
                destination.amends =
                    look(names / ONE_IN)?.filter(|extent| !extent.links).map(trusted);
            }
        }
    }
    Ok(())
}

fn changed(
    site: &ServiceSite,
    point: &RecoveryPoint,
    destination: &Destination,
    seed: Seed,
    most: u64,
    cancel: &CancelToken,
) -> Result<Option<Extent>, Error> {
    let redo: &Path = &destination.staged;
    let reuse = Reuse {
        tree: &destination.target,
        snapshot: seed.snapshot,
        hard_links: true,
        redo: Some(redo),
        doubted: false,
    };
    let (repository, path) = (site.repository()?, destination.root.in_snapshot.as_bytes());
    Ok(extent(repository, point.snapshot, path, &reuse, most, cancel)?)
}
