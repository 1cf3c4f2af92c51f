//! Whether what is there now can be the next state of what the head holds. Two things that are not look
//! like one, and would be whole points, which the next refresh brings to every standby:
//!
//! * a tree that has become empty: so looks a disk that is not mounted, or a share that did not answer;
//! * a database that was made anew in the place of the one that the history is of, as by a package that
//!   was installed again, or by a start before the restore.

use crate::backup::Params;
use crate::operation::Operation;
use crate::{Error, ServiceSite, placing};
use engines::{Refresh, Root, RootKind};
use model::{Class, Classify, SnapshotId};
use repository::SnapshotReader;
use repository::restore::OF_THE_FILE_SYSTEM;

/// Refuses what can be no successor of the head, as far as nobody said that it is meant.
pub(crate) fn require(
    site: &ServiceSite,
    operation: &Operation,
    head: Option<SnapshotId>,
    params: &Params,
) -> Result<(), Error> {
    let Some(head) = head else { return Ok(()) };
    // What a capture fills itself is empty before.
    if !params.allow_empty && site.engine()?.refresh() != Refresh::Import {
        emptied(site, head, &site.engine()?.roots())?;
    }
    if !params.allow_another && site.engine()?.tells_others_apart() {
        another(site, operation, head)?;
    }
    Ok(())
}

/// A tree is empty now that held something.
fn emptied(site: &ServiceSite, head: SnapshotId, roots: &[Root]) -> Result<(), Error> {
    let trees = roots.iter().filter(|root| root.kind == RootKind::Tree);
    for root in trees {
        if placing::occupied(&root.on_host)? || !held(site, head, root) {
            continue;
        }
        let what = format!("{} is empty, and was not at {}", root.on_host.display(), head.short());
        return Err(Error::refused(what).hinting(format!(
            "Check that its disk is mounted. If it was emptied on purpose, say so once: `mainstay \
             backup {} --allow-empty`.",
            site.name()
        )));
    }
    Ok(())
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

/// The engine knows what is here to be something else.
fn another(site: &ServiceSite, operation: &Operation, head: SnapshotId) -> Result<(), Error> {
    let meta = match placing::meta(site, head) {
        Ok(meta) => meta,
        // A history that is damaged, or has lost a pack, keeps nobody from adding to it what is whole.
        Err(e) if matches!(e.class(), Class::Corrupt | Class::Invalid) => return Ok(()),
        Err(e) => return Err(e),
    };
    let engine = site.engine()?;
    let Some(what) = operation.with_context(site, |cx| engine.another(cx, &meta))? else {
        return Ok(());
    };
    Err(Error::refused(format!("{what}, as at {}", head.short())).hinting(format!(
        "Was it made anew before the restore? `mainstay restore {name} --replace` brings the other back. \
         If this one goes on in its place, as after an upgrade by `pg_upgrade`, say so once: `mainstay \
         backup {name} --allow-another`.",
        name = site.name()
    )))
}
