//! Writes trees of a snapshot back to this machine.
//!
//! One thread walks the snapshot's trees, makes directories and collects files in batches; the files
//! of a batch are written in the order in which their blobs lie in packs, each pack read once.
//! Attributes of directories come last, the deepest first.

mod amend;
mod differing;
mod fill;
mod lacking;
mod layout;
mod need;
mod over;
mod plan;
pub mod redo;
mod reuse;
mod site;

pub use amend::{Amend, Holds, OF_THE_FILE_SYSTEM, amend};
pub use lacking::{Lacking, lacking};
pub use need::{Extent, Need, extent, need};
pub use over::{Over, Overwritten, Withheld, restore_over};

pub use crate::manifest::{
    Difference, Link, Links, Times, differences, differences_but_links, record_manifest,
    recorded_entries, update_manifest,
};
use crate::reader::SnapshotReader;
use crate::{Error, Node, NodeKind, Repository, disk};
use fill::Filler;
use model::{CancelToken, Progress, SnapshotId};
use plan::Planner;
use reuse::Old;
use site::Site;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

/// What a restore may reuse, and how it writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// A tree on the same file system that holds `reuse_snapshot`'s state of the same root,
    /// verified untouched: unchanged files are taken from there instead of the repository.
    pub reuse: Option<Reuse<'a>>,
    /// Sync everything to disk before returning.
    pub durable: bool,
}

/// An older copy of the same root.
#[derive(Clone, Copy, Debug)]
pub struct Reuse<'a> {
    /// Where it is.
    pub tree: &'a Path,
    /// The snapshot whose state it has.
    pub snapshot: SnapshotId,
    /// Its files may become files of the new copy by hard links: nobody writes to either before the
    /// older copy is gone. Otherwise reflinks where the file system has them, else copies.
    pub hard_links: bool,
    /// Where the changes of large files may be collected that cannot be cloned, if hard links may be
    /// made; see [`redo`]. It is on the same file system, and not there yet. Who gets a restore with
    /// [`Restored::journal`] has to [apply](redo::apply) it once the new copy is the one that counts.
    pub redo: Option<&'a Path>,
    /// It may hold something else by now, or have rotted: nothing is taken from it unread.
    pub doubted: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Regular files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that came from the repository.
    pub fetched_bytes: u64,
    /// Bytes that were written, to files or to a redo journal.
    pub written_bytes: u64,
    /// Files that are hard links to the older copy's.
    pub linked_files: u64,
    /// Files that began as clones of the older copy's.
    pub cloned_files: u64,
    /// Files that the redo journal is to change in their place.
    pub patched_files: u64,
    /// The redo journal, if one was written.
    pub journal: Option<redo::Written>,
    /// What hard links did to the times of the older copy's files.
    pub links: Links,
    /// What the journal changes of a copy that stays where it is.
    pub touched: Vec<redo::Touched>,
}

/// Restores what is at `path` in the snapshot (a directory or one file) to `target`, which must not
/// exist. Owners and modes as far as our rights go: without root, owners are left out silently.
///
/// After an error the target is unfinished, and the caller removes it. Sockets are not restored.
pub fn restore(
    repository: &Repository,
    snapshot: SnapshotId,
    path: &[u8],
    target: &Path,
    options: Options<'_>,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Restored, Error> {
    let nothing = Lacking::default();
    restore_without(repository, snapshot, path, target, options, &nothing, progress, cancel)
}

/// As [`restore`], but leaves out what lacks bytes: no part of a file is restored without the rest.
#[expect(clippy::too_many_arguments, reason = "those of `restore`, and one more")]
pub fn restore_without(
    repository: &Repository,
    snapshot: SnapshotId,
    path: &[u8],
    target: &Path,
    options: Options<'_>,
    without: &Lacking,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Restored, Error> {
    let reader = SnapshotReader::open(repository, snapshot)?;
    let mut node = reader.existing(path)?;
    let mut old = match &options.reuse {
        None => None,
        Some(reuse) => {
            let old = Old::open(repository, reuse, path, &node);
            if old.is_none() {
                progress.note("nothing can be taken from the older copy");
            }
            old
        }
    };
    let (parent, parent_path, name) = site::new_place(target)?;
    node.name.clone_from(&name);
    let failed = |e| Error::io("restore to", target, e);
    let site = match node.kind {
        NodeKind::Dir => {
            let base = site::create_dir(&parent, &name).map_err(failed)?;
            site::remove_inherited_acls(&base, 0o700).map_err(failed)?;
            Site::new(base, target.to_owned(), node.clone(), false)
        }
        NodeKind::File => {
            let base = parent.try_clone().map_err(failed)?;
            Site::new(base, parent_path, Node::default(), true)
        }
        _ => {
            let path = disk::shown(path);
            return Err(Error::Invalid(format!("{path} is neither a directory nor a file")));
        }
    };
    let old_file = old.as_mut().and_then(|old| old.file.take());
    let filler = Filler::new(repository, &site, old.as_ref(), progress, cancel);
    let mut restored = perform(&filler, |planner| {
        let planner = planner.without(without);
        match node.kind {
            NodeKind::Dir => planner.tree(&node),
            _ => planner.file(node.clone(), old_file),
        }
    })?;
    if node.kind == NodeKind::Dir {
        finish_dirs(&site, &node, reader.is_root(path)?, cancel)?;
    }
    warn_of_lost_attributes(&site, progress);
    if let Some(redo) = old.as_ref().and_then(|old| old.redo.as_ref()) {
        restored.journal = redo.finish()?;
    }
    if options.durable {
        progress.phase("making it durable");
        // One call for the whole file system, instead of one for each file; it also tells of
        // writes that failed since `base` was opened, before anything was written.
        rustix::fs::syncfs(&site.base).map_err(|e| failed(e.into()))?;
        rustix::fs::fsync(&parent).map_err(|e| failed(e.into()))?;
    }
    if let Some(old) = &old {
        let mut links = old.links.lock().unwrap_or_else(PoisonError::into_inner);
        restored.links = std::mem::take(&mut *links);
    }
    Ok(restored)
}

fn warn_of_lost_attributes(site: &Site, progress: &dyn Progress) {
    if site.lost_xattrs.load(Ordering::Relaxed) {
        progress.warn(
            "the file system of the target has no extended attributes or ACLs: they are left out",
        );
    }
}

/// Writes what is planned meanwhile in a thread of its own.
fn perform<'a>(
    filler: &Filler<'a>,
    plan: impl FnOnce(Planner<'a>) -> Result<(), Error> + Send,
) -> Result<Restored, Error> {
    let (sender, batches) = sync_channel(1);
    let planner = Planner::new(filler, sender);
    let mut restored = Restored::default();
    std::thread::scope(|scope| {
        let planned = std::thread::Builder::new()
            .name("plan".to_owned())
            .spawn_scoped(scope, move || plan(planner))
            .map_err(|e| Error::io("start thread", "plan", e))?;
        // The channel is gone when this ends early, and then the planner ends, too.
        let filled = batches.into_iter().try_for_each(|batch| {
            restored.files += batch.files;
            restored.bytes += batch.bytes;
            filler.progress.expect(restored.files, restored.bytes);
            filler.batch(&batch)
        });
        let planned = match planned.join() {
            Ok(planned) => planned,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        filled.and(planned)
    })?;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    restored.fetched_bytes = count(&filler.fetched_bytes);
    restored.written_bytes = count(&filler.written_bytes);
    restored.linked_files = count(&filler.linked_files);
    restored.cloned_files = count(&filler.cloned_files);
    restored.patched_files = count(&filler.patched_files);
    Ok(restored)
}

/// Gives directories their attributes, each after all that is in it.
fn finish_dirs(
    site: &Site,
    root: &Node,
    synthetic: bool,
    cancel: &CancelToken,
) -> Result<(), Error> {
    for at in (1..site.len()).rev() {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        site.finish_dir(at)?;
    }
    if synthetic {
        // The root of a snapshot has no attributes.
        return site.bare_root(root).map_err(|e| site.error("give its attributes to", 0, b"", e));
    }
    site.finish_dir(0)
}
