//! Adopting: what stands in the service's own place, and no refresh put there, becomes the seed of
//! the copy.
//!
//! Nothing of it is believed. A file is shared with the new copy only if every byte of it was read and
//! is what the point holds, if its attributes are the point's, and if it has no other name; of others
//! single blobs are taken that were read and are the point's. The rest comes from the vault. Nothing of
//! what stands there is changed before the commit marker, so that a crash leaves it as it was, or the
//! new point. What the point does not have goes with it in the end.
//!
//! While that lasts it may belong to somebody who writes to it. So its manifest is taken before the
//! first byte is read, and compared just before the exchange.

use super::untouched::{NAMED, told};
use crate::operation::Operation;
use crate::placing::{self, Destination};
use crate::{Error, ServiceSite};
use engines::{RootKind, SnapshotMeta, Staged};
use model::SnapshotId;
use repository::restore::{Links, Times, differences_but_links, record_manifest};
use repository::{NodeKind, SnapshotReader};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What may be done about a place that is not adopted.
const HINT: &str = "Move it away, or build the copy anew with `mainstay refresh --reseed`, which \
     puts it aside.";

/// The roots whose places held something that is adopted, with what it looked like.
#[derive(Debug, Default)]
pub(super) struct Adopted(HashMap<usize, PathBuf>);

impl Adopted {
    /// Takes what stands in a root's place, unless it can be told that it is no copy of it.
    pub(super) fn take(
        &mut self,
        site: &ServiceSite,
        operation: &Operation,
        (point, meta): (SnapshotId, &SnapshotMeta),
        number: usize,
        destination: &Destination,
    ) -> Result<(), Error> {
        let target = &destination.target;
        resembles(site, point, destination)?;
        let copy = Staged {
            root: destination.root.clone(),
            staged: target.clone(),
            target: target.clone(),
        };
        let engine = site.engine()?;
        operation.with_context(site, |cx| engine.may_adopt(cx, meta, &copy)).map_err(|error| {
            Error::refused(format!("{} is not adopted", target.display()))
                .because(error)
                .hinting(HINT)
        })?;
        let manifest = operation.scratch().join(format!("adopted-{number}"));
        record_manifest(target, &manifest)?;
        self.0.insert(number, manifest);
        Ok(())
    }

    /// Whether this root's place held something.
    pub(super) fn has(&self, number: usize) -> bool {
        self.0.contains_key(&number)
    }

    /// Whether any did.
    pub(super) fn is_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Refuses to go on if somebody wrote to it since it was taken. `links` are those that the new
    /// copy made to its files, `staged` is where what comes new lies meanwhile.
    pub(super) fn require_unchanged(
        &self,
        number: usize,
        target: &Path,
        links: &Links,
        staged: &Path,
    ) -> Result<(), Error> {
        let Some(manifest) = self.0.get(&number) else { return Ok(()) };
        let times = Times::default();
        let found = differences_but_links(target, manifest, &times, links, staged, NAMED)?;
        if found.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = found.iter().map(told).collect();
        let what = format!("somebody writes to {}: {}", target.display(), names.join(", "));
        Err(Error::refused(what).hinting("Stop whoever does, and give this again."))
    }
}

/// Whether anything stands in the service's own place.
pub(super) fn is_something_there(site: &ServiceSite) -> Result<bool, Error> {
    for root in site.engine()?.roots() {
        if placing::occupied(&root.on_host)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses what is of another kind than the root, or a directory of which the point has not a single
/// name: that is no old copy, but a place that was named by mistake, and it would be gone.
fn resembles(
    site: &ServiceSite,
    point: SnapshotId,
    destination: &Destination,
) -> Result<(), Error> {
    let target = &destination.target;
    let refused = |what: &str| {
        Err(Error::refused(format!("{} is not adopted: {what}", target.display())).hinting(HINT))
    };
    let there = std::fs::symlink_metadata(target).map_err(|e| Error::io("look at", target, e))?;
    match destination.root.kind {
        _ if there.is_symlink() => return refused("it is a symbolic link"),
        RootKind::File if !there.is_file() => return refused("it is no regular file"),
        RootKind::File => return Ok(()),
        RootKind::Tree if !there.is_dir() => return refused("it is no directory"),
        RootKind::Tree => {}
    }
    let reader = SnapshotReader::open(site.repository()?, point)?;
    let nodes = reader.list(destination.root.in_snapshot.as_bytes())?;
    let common = nodes.iter().any(|node| {
        let place = target.join(OsStr::from_bytes(&node.name));
        std::fs::symlink_metadata(place)
            .is_ok_and(|there| there.is_dir() == (node.kind == NodeKind::Dir))
    });
    match common {
        true => Ok(()),
        false => refused("it has nothing in common with the point"),
    }
}
