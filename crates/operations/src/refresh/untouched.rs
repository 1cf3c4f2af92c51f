//! Whether somebody has written to a copy since a refresh put it there.

use super::is_point;
use crate::member::manifest;
use crate::operation::Run;
use crate::{Error, MemberRecord, ServiceSite, placing};
use engines::{Purpose, RootKind};
use model::{CancelToken, SnapshotId};
use repository::restore::{Difference, Times, differences};
use repository::scrub::{self, Copy, Written};
use std::path::{Path, PathBuf};

/// How many differences of a standby that was written to are named.
pub(super) const NAMED: usize = 10;

/// Refuses a copy that somebody wrote to since the last refresh.
pub(super) fn untouched(target: &Path, found: Vec<Difference>) -> Result<(), Error> {
    if found.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = found.iter().take(NAMED).map(told).collect();
    if found.len() > NAMED {
        lines.push("and more".to_owned());
    }
    Err(Error::refused(format!(
        "the standby at {} was written to since its last refresh: {}",
        target.display(),
        lines.join(", ")
    ))
    .hinting("Keep what you need of it; `mainstay refresh --reseed` puts the copy aside and builds it anew."))
}

pub(super) fn told(difference: &Difference) -> String {
    format!("{} ({})", difference.path, difference.what)
}

/// What was changed of a copy that no snapshot holds byte for byte: the manifest alone tells.
fn by_manifest(site: &ServiceSite, number: usize, target: &Path) -> Result<Written, Error> {
    let found = differences(target, &manifest(site, number), NAMED + 1)?;
    Ok(Written { found, innocent: Times::default() })
}

/// How the copy of one root differs from what the last refresh left. Files of which only the ctime
/// has moved are read: a refresh that died had hard links to them. Where no snapshot tells any more
/// what they should hold, the manifest alone does.
pub(super) fn written_to(
    site: &ServiceSite,
    held: SnapshotId,
    number: usize,
    target: &Path,
    cancel: &CancelToken,
) -> Result<Written, Error> {
    let replayed = MemberRecord::load(site)?.applied.is_some_and(|held| held.replayed);
    let (mut written, kind) = if replayed || !is_point(site, held)? {
        let kind = site.engine()?.roots().get(number).map(|root| root.kind);
        (by_manifest(site, number, target)?, kind)
    } else {
        let meta = placing::meta(site, held)?;
        let root = meta.roots.get(number).ok_or_else(|| {
            let held = held.short();
            Error::refused(format!("nothing in {held} tells what {} should be", target.display()))
        })?;
        let copy = Copy { root: target, snapshot: held, path: root.in_snapshot.as_bytes() };
        let manifest = manifest(site, number);
        let found = scrub::written_to(site.repository()?, copy, &manifest, NAMED + 1, cancel)?;
        (found, Some(root.kind))
    };
    if kind == Some(RootKind::File) {
        written.found.extend(journals(target)?);
    }
    Ok(written)
}

/// A database that was written to may hold the changes in a journal beside its file, and the file
/// itself be as it was.
fn journals(file: &Path) -> Result<Vec<Difference>, Error> {
    let mut found = Vec::new();
    for suffix in ["-wal", "-journal"] {
        let mut name = file.as_os_str().to_os_string();
        name.push(suffix);
        let path = PathBuf::from(name);
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.len() > 0 => found.push(Difference {
                path: path.display().to_string(),
                what: "new".to_owned(),
                only_ctime: false,
            }),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("look at", &path, e)),
        }
    }
    Ok(found)
}

/// Refuses a standby that somebody wrote to since its last refresh.
pub(crate) fn require_untouched(
    site: &ServiceSite,
    held: SnapshotId,
    cancel: &CancelToken,
) -> Result<(), Error> {
    for (number, root) in site.engine()?.roots().iter().enumerate() {
        untouched(&root.on_host, written_to(site, held, number, &root.on_host, cancel)?.found)?;
    }
    Ok(())
}

/// What of this host's standby was changed since its last refresh, by name; empty if nothing was,
/// or if the engine follows by itself.
pub fn modified(site: &ServiceSite) -> Result<Vec<String>, Error> {
    let Some(applied) = MemberRecord::load(site)?.applied else { return Ok(Vec::new()) };
    let roots = site.engine()?.roots();
    let mut found = Vec::new();
    for (number, root) in roots.iter().enumerate().take(applied.roots) {
        let here = written_to(site, applied.snapshot, number, &root.on_host, &CancelToken::new())?;
        found.extend(here.found.iter().map(told));
    }
    // What the engine keeps elsewhere, by any description of the service that is left.
    let state = site.load_state()?.state;
    let described = match state.point(applied.snapshot) {
        Some(held) => Some(held.snapshot),
        None => state.head.map(|head| head.snapshot),
    };
    if let Some(described) = described.filter(|_| applied.roots > 0) {
        let engine = site.engine()?;
        let meta = placing::meta(site, described)?;
        found.extend(crate::look(site, &Run::default(), |cx| {
            engine.occupied(cx, &meta, &Purpose::Standby)
        })?);
    }
    Ok(found)
}
