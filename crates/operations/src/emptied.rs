//! A place that has become empty since the last point. A disk that is not mounted looks like that, and
//! so does a share that did not answer: captured, it would be a whole point, which the next refresh
//! brings to every standby.

use crate::{Error, ServiceSite, placing};
use engines::{Root, RootKind};
use model::SnapshotId;
use repository::SnapshotReader;
use repository::restore::OF_THE_FILE_SYSTEM;
use std::path::Path;

/// Refuses if a tree is empty now that held something at `parent`.
pub(crate) fn refuse(
    site: &ServiceSite,
    parent: Option<SnapshotId>,
    roots: &[Root],
) -> Result<(), Error> {
    let Some(parent) = parent else { return Ok(()) };
    let trees = roots.iter().filter(|root| root.kind == RootKind::Tree);
    for root in trees {
        if placing::occupied(&root.on_host)? || !held(site, parent, root) {
            continue;
        }
        return Err(refused(site, parent, &root.on_host));
    }
    Ok(())
}

fn refused(site: &ServiceSite, parent: SnapshotId, path: &Path) -> Error {
    let name = site.name();
    let what = format!("{} is empty, and was not at {}", path.display(), parent.short());
    Error::refused(what).hinting(format!(
        "Check that its disk is mounted. If it was emptied on purpose, say so once: `mainstay backup \
         {name} --allow-empty`."
    ))
}

/// Whether a root held something at a point. One that cannot be read did, as far as is known.
fn held(site: &ServiceSite, point: SnapshotId, root: &Root) -> bool {
    let look = || -> Result<bool, Error> {
        let reader = SnapshotReader::open(site.repository()?, point)?;
        let path = root.in_snapshot.as_bytes();
        if reader.node(path)?.is_none() {
            return Ok(false);
        }
        let own = OF_THE_FILE_SYSTEM.as_bytes();
        Ok(reader.list(path)?.iter().any(|node| node.name != own))
    };
    look().unwrap_or(true)
}
