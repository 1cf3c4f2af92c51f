//! What points say of their service, and what people say of them: pins and tags.
//!
//! Pins and tags are kept in the service's state and not in the snapshot's file. A file is named by its
//! content, so that another tag would be another snapshot; but standbys, takeovers and proofs know a
//! point by its id, and an append-only vault lets nobody replace a file. Only a snapshot that is no
//! committed point (plain restic made it) is rewritten, as restic's own `tag` does.

use crate::{Error, Run, ServiceSite, Which, placing, which};
use engines::SnapshotMeta;
use model::{Class, RecoveryPoint, SnapshotId, TagChange};
use repository::LockKind;
use serde::Serialize;
use std::collections::BTreeSet;

/// Whether a tag is one of ours in the files of snapshots, which nobody changes.
pub fn is_own_tag(tag: &str) -> bool {
    tag == "mainstay" || tag.starts_with("mainstay:")
}

/// The newest point, and what it says of its service, its definition among it. Nothing of this is
/// remembered on this host, which need not be a member, nor know the service.
pub fn newest(site: &ServiceSite) -> Result<(RecoveryPoint, SnapshotMeta), Error> {
    let state = site.state()?.load()?.state;
    let Some(head) = state.head_point() else {
        return Err(Error::invalid(format!("{} has no recovery point yet", site.name()))
            .hinting("Run `mainstay backup` on its primary first."));
    };
    Ok((head.clone(), placing::meta(site, head.snapshot)?))
}

/// A point with its tags, after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tagged {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The id it had before, if its file was rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<SnapshotId>,
    /// All tags that people gave it.
    pub tags: BTreeSet<String>,
}

/// Pins points, or unpins them: all of them, or none. A pinned point is kept whatever the retention
/// says.
pub fn pin(site: &ServiceSite, points: &[Which], pinned: bool) -> Result<Vec<SnapshotId>, Error> {
    let state = site.load_state()?.state;
    let mut ids = Vec::new();
    for point in points {
        let id = which::resolve(site, &state, point)?;
        if state.point(id).is_none() {
            return Err(Error::refused(format!(
                "the snapshot {} is no committed point of {}",
                id.short(),
                site.name()
            ))
            .hinting("Only points that `mainstay backup` made can be pinned."));
        }
        ids.push(id);
    }
    let (versioned, ()) =
        site.state()?.update(|state| ids.iter().try_for_each(|id| state.pin(*id, pinned)))?;
    site.remember(&versioned)?;
    Ok(ids)
}

/// Changes the tags of one point.
pub fn tag(
    site: &ServiceSite,
    point: &Which,
    change: &TagChange,
    run: &Run,
) -> Result<Tagged, Error> {
    for tag in change.add.iter().chain(&change.remove).chain(change.set.iter().flatten()) {
        check(tag)?;
    }
    let state = site.load_state()?.state;
    let id = which::resolve(site, &state, point)?;
    if state.point(id).is_none() {
        return rewrite(site, id, change, run);
    }
    let (versioned, ()) = site.state()?.update(|state| state.tag(id, change))?;
    site.remember(&versioned)?;
    let tags = versioned.state.point(id).map(|point| point.tags.clone()).unwrap_or_default();
    Ok(Tagged { snapshot: id, before: None, tags })
}

/// A tag is a word: restic parts them by commas.
fn check(tag: &str) -> Result<(), Error> {
    let plain = !tag.is_empty() && !tag.contains(',') && !tag.chars().any(char::is_control);
    if !plain || tag.len() > 255 || tag.trim() != tag {
        return Err(Error::invalid(format!("{tag:?} is no tag"))
            .hinting("A tag is a word without commas and control characters."));
    }
    if is_own_tag(tag) {
        return Err(Error::new(Class::Refused, format!("the tag {tag:?} is not for people"))
            .hinting("Tags that begin with `mainstay` say what a snapshot is."));
    }
    Ok(())
}

/// Gives a snapshot that is no committed point other tags.
fn rewrite(
    site: &ServiceSite,
    id: SnapshotId,
    change: &TagChange,
    run: &Run,
) -> Result<Tagged, Error> {
    let repository = site.repository()?;
    let wait = run.wait.unwrap_or_default();
    // Alone, as restic: somebody else might rewrite the same snapshot.
    let lock = repository.lock(LockKind::Exclusive, wait, &run.cancel)?;
    let file = repository.snapshot(id)?;
    let (own, theirs): (Vec<String>, Vec<String>) =
        file.tags.into_iter().partition(|tag| is_own_tag(tag));
    let theirs: BTreeSet<String> = theirs.into_iter().collect();
    let tags = change.apply(&theirs);
    if tags == theirs {
        return Ok(Tagged { snapshot: id, before: None, tags });
    }
    let all = own.into_iter().chain(tags.iter().cloned()).collect();
    let snapshot = repository.retag_snapshot(&lock, id, all)?;
    Ok(Tagged { snapshot, before: Some(id), tags })
}
