//! Brings a copy from one snapshot to another in its place, at the cost of what differs.
//!
//! Nothing is built anew that stays as it is: no name is made for it, and none is removed. New files,
//! and new versions of others, are staged; a [journal](super::redo) says which of them go where, what
//! else is written, and what goes. While that happens the copy does not change. Who has noted that the
//! new state is the one that counts lets the journal be [applied](super::redo::apply_staged), which
//! can be done again after a crash. In between the copy is neither.
//!
//! What differs follows from the two snapshots' trees, or, where nobody knows what the copy holds, from
//! the copy itself, of which every byte is then read.

use super::fill::Filler;
use super::redo::{Touched, Writer};
use super::reuse::Old;
use super::site::{self, Site};
use super::{Restored, Reuse, perform, warn_of_lost_attributes};
use crate::reader::SnapshotReader;
use crate::{Error, Node, NodeKind, Repository, Tree, disk};
use model::{CancelToken, Progress, SnapshotId};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the root of a file system has of its own.
pub const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// A copy to be brought on.
#[derive(Clone, Copy, Debug)]
pub struct Amend<'a> {
    /// Where it is: a directory. It may be a mount point.
    pub tree: &'a Path,
    /// Where what is new is staged: on the same file system and not there yet, beside the copy or at
    /// the top of it.
    pub staged: &'a Path,
    /// Where the journal is written; not there yet either.
    pub journal: &'a Path,
    /// What the copy holds; nothing, if it is empty.
    pub holds: Option<Holds>,
}

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds {
    /// The state of this snapshot.
    pub snapshot: SnapshotId,
    /// Or something like it, which has to be looked at.
    pub doubted: bool,
    /// Files with several names have changed: which of their names belong together is then made anew
    /// for all of them.
    pub links: bool,
}

/// Stages what brings the copy to what is at `path` in the snapshot, and writes the journal. Durable on
/// return, the names of both in their directory included.
///
/// After an error both are unfinished, and the caller removes them.
pub fn amend(
    repository: &Repository,
    snapshot: SnapshotId,
    path: &[u8],
    amend: &Amend<'_>,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Restored, Error> {
    let reader = SnapshotReader::open(repository, snapshot)?;
    let (node, _) = reader.directory(path)?;
    let old = match amend.holds {
        None => None,
        Some(Holds { snapshot, doubted, .. }) => {
            let reuse = Reuse { tree: amend.tree, snapshot, hard_links: true, redo: None, doubted };
            let old = Old::open(repository, &reuse, path, &node);
            Some(old.ok_or_else(|| {
                let tree = amend.tree.display();
                Error::Missing(format!("nothing in {} tells what {tree} holds", snapshot.short()))
            })?)
        }
    };
    let failed = |e| Error::io("restore to", amend.staged, e);
    let changes = Changes::new(amend)?;
    let (parent, _, name) = site::new_place(amend.staged)?;
    let base = site::create_dir(&parent, &name).map_err(failed)?;
    site::remove_inherited_acls(&base, 0o700).map_err(failed)?;
    let site = Site::new(base, amend.staged.to_owned(), node.clone(), false).skeleton();
    let filler = Filler::new(repository, &site, old.as_ref(), progress, cancel).amending(&changes);
    let mut restored = perform(&filler, |planner| planner.tree(&node))?;
    // The root of a snapshot has no attributes.
    changes.finish(&site, !reader.is_root(path)?, cancel)?;
    warn_of_lost_attributes(&site, progress);
    restored.journal = changes.redo.finish()?;
    restored.touched = changes.redo.touched();
    changes.require_one_file_system(amend.tree, &restored.touched)?;
    progress.phase("making it durable");
    // One call for the whole file system, instead of one for each file; it also tells of writes that
    // failed since `base` was opened, before anything was written.
    rustix::fs::syncfs(&site.base).map_err(|e| failed(e.into()))?;
    Ok(restored)
}

/// What is done to the copy, beside what is staged.
pub(super) struct Changes {
    pub(super) redo: Writer,
    /// The copy.
    tree: OwnedFd,
    /// What it holds is looked at.
    by_sight: bool,
    /// No file that has several names is left as it is.
    links: bool,
    /// Names at its top that begin so are ours.
    own: Option<Vec<u8>>,
}

/// What a directory meets in the copy.
pub(super) enum Meets {
    /// The same directory, to the last byte below it.
    TheSame,
    /// Another one; by sight, its handle.
    Another(Option<OwnedFd>),
    /// None.
    Nothing,
}

impl Changes {
    fn new(amend: &Amend<'_>) -> Result<Changes, Error> {
        let failed = |e| Error::io("open", amend.tree, e);
        let within = amend.staged.parent() == Some(amend.tree);
        let own = amend.staged.file_name().filter(|_| within);
        Ok(Changes {
            redo: Writer::of_names(amend.journal),
            tree: disk::open_dir(amend.tree).map_err(failed)?,
            by_sight: amend.holds.is_some_and(|holds| holds.doubted),
            links: amend.holds.is_some_and(|holds| holds.links),
            own: own.map(|name| name.as_bytes().to_vec()),
        })
    }

    /// The handle of the copy, if it is looked at.
    pub(super) fn root(&self) -> io::Result<Option<OwnedFd>> {
        self.by_sight.then(|| self.tree.try_clone()).transpose()
    }

    /// Whether what is no directory stays as it is in the copy.
    pub(super) fn leaves(&self, node: &Node, old: Option<&Node>) -> bool {
        let Some(old) = old.filter(|_| !self.by_sight) else { return false };
        let several = old.links > 1 || node.links > 1;
        !(several && self.links) && is_same(old, node)
    }

    /// Looks what a directory meets. `there` is the counterpart of the one that it is in.
    pub(super) fn dir(
        &self,
        there: Option<&OwnedFd>,
        node: &Node,
        old: Option<&Node>,
    ) -> io::Result<Meets> {
        if self.by_sight {
            let Some(within) = there else { return Ok(Meets::Nothing) };
            return match disk::stat_at(within, &node.name) {
                Ok(stat) if stat.kind() == NodeKind::Dir => {
                    Ok(Meets::Another(Some(disk::open_dir_at(within, &node.name)?)))
                }
                Ok(_) => Ok(Meets::Nothing),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Meets::Nothing),
                Err(e) => Err(e),
            };
        }
        Ok(match old.filter(|old| old.kind == NodeKind::Dir) {
            None => Meets::Nothing,
            Some(old) if !self.links && old.subtree == node.subtree && is_same(old, node) => {
                Meets::TheSame
            }
            Some(_) => Meets::Another(None),
        })
    }

    /// Notes what a directory of the copy has and the new one has not.
    pub(super) fn level(
        &self,
        site: &Site,
        number: usize,
        nodes: &[Node],
        old: Option<&Tree>,
        there: Option<&OwnedFd>,
    ) -> Result<(), Error> {
        let wanted: HashSet<&[u8]> = nodes.iter().map(|node| node.name.as_slice()).collect();
        if let Some(there) = there {
            let failed = |e| site.error("list", number, b"", e);
            for name in disk::names(there).map_err(failed)? {
                let ours = number == 0 && self.keeps(&name);
                if !ours && !wanted.contains(&*name) {
                    self.redo.remove(&site.below(number, &name))?;
                }
            }
        } else if let Some(old) = old.filter(|_| !self.by_sight) {
            for node in old.nodes.iter().filter(|node| !wanted.contains(node.name.as_slice())) {
                self.redo.remove(&site.below(number, &node.name))?;
            }
        }
        Ok(())
    }

    /// Whether a name at the top of the copy is none of the snapshot's business.
    fn keeps(&self, name: &[u8]) -> bool {
        let own = self.own.as_ref().is_some_and(|own| name.starts_with(own));
        own || name == OF_THE_FILE_SYSTEM.as_bytes()
    }

    /// Gives what is staged as a whole its attributes, and notes those of directories of the copy, each
    /// after all that is in it.
    fn finish(&self, site: &Site, with_root: bool, cancel: &CancelToken) -> Result<(), Error> {
        for at in (0..site.len()).rev() {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let Some((parent, node)) = site.dir(at) else { continue };
            let fresh = site.is_fresh(at);
            if fresh {
                site.finish_dir(at)?;
            }
            // One that is put in place as a whole, too: that may need another mode for a moment.
            if (at > 0 || with_root) && !(fresh && site.is_fresh(parent)) {
                self.redo.directory(&site.names(at).join(&b'/'), &node)?;
            }
        }
        Ok(())
    }

    /// Nothing can be renamed from one file system to another, and past the commit marker that would
    /// be found out too late.
    fn require_one_file_system(&self, tree: &Path, touched: &[Touched]) -> Result<(), Error> {
        let failed = |path: &[u8], e| Error::io("look at", tree.join(OsStr::from_bytes(path)), e);
        let device = disk::stat(&self.tree).map_err(|e| failed(b"", e))?.device;
        for touched in touched {
            let found = elsewhere(&self.tree, touched, device);
            if let Some(path) = found.map_err(|e| failed(&touched.path, e))? {
                let path = tree.join(OsStr::from_bytes(&path));
                return Err(Error::Invalid(format!(
                    "{} is on another file system than {}, and what is in it has changed: such a copy \
                     cannot be brought on in one step",
                    path.display(),
                    tree.display()
                )));
            }
        }
        Ok(())
    }
}

/// The first path of a change that is on another device; of a directory that goes, below it, too.
fn elsewhere(tree: &OwnedFd, touched: &Touched, device: u64) -> io::Result<Option<Vec<u8>>> {
    let mut handle = tree.try_clone()?;
    let mut parts: Vec<&[u8]> = touched.path.split(|byte| *byte == b'/').collect();
    let name = parts.pop().unwrap_or_default();
    for part in parts {
        handle = match disk::open_dir_at(&handle, part) {
            // Where nothing can be looked at, nothing is known.
            Err(_) => return Ok(None),
            Ok(next) => next,
        };
    }
    if disk::stat(&handle)?.device != device {
        return Ok(Some(touched.path.clone()));
    }
    if name.is_empty() {
        return Ok(None);
    }
    let is_there = |stat: &disk::Stat| stat.kind() == NodeKind::Dir;
    match disk::stat_at(&handle, name) {
        Ok(stat) if stat.device != device => Ok(Some(touched.path.clone())),
        Ok(stat) if is_there(&stat) && touched.all_below => {
            let dir = disk::open_dir_at(&handle, name)?;
            let other = below_elsewhere(&dir, device)?;
            Ok(other.then(|| touched.path.clone()))
        }
        _ => Ok(None),
    }
}

fn below_elsewhere(dir: &OwnedFd, device: u64) -> io::Result<bool> {
    for name in disk::names(dir)? {
        let stat = disk::stat_at(dir, &name)?;
        if stat.device != device
            || (stat.kind() == NodeKind::Dir
                && below_elsewhere(&disk::open_dir_at(dir, &name)?, device)?)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether what a restore makes of the two is the same, apart from what is in a directory.
pub(super) fn is_same(old: &Node, new: &Node) -> bool {
    (old.kind, old.mode, old.uid, old.gid) == (new.kind, new.mode, new.uid, new.gid)
        && (old.mtime.seconds, old.mtime.nanos) == (new.mtime.seconds, new.mtime.nanos)
        && (old.size, old.device, old.links > 1) == (new.size, new.device, new.links > 1)
        && old.unknown_kind == new.unknown_kind
        && old.content == new.content
        && old.link_target == new.link_target
        && old.xattrs == new.xattrs
}
