//! Restores over a tree that is there: what is the same is left as it is, what differs is written in
//! its place, and what the snapshot does not have is removed.
//!
//! This is not atomic, and it is not meant to be: it needs no second copy of the tree, and works on a
//! mount point. Who calls it has made sure that nobody uses the tree, and that nobody will take one
//! that was left half written for a whole one. Given again, it completes what was left.

use super::fill::Filler;
use super::layout;
use super::plan::Job;
use super::reuse::Missing;
use super::site::{self, Handles, Site};
use super::{Restored, finish_dirs, perform};
use crate::reader::SnapshotReader;
use crate::{BlobId, Error, Node, NodeKind, Repository, disk};
use model::{CancelToken, Progress, SnapshotId};
use rustix::fs::AtFlags;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is special about a tree that is restored over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Over<'a> {
    /// Names at its top that are none of the snapshot's business.
    pub kept: &'a [&'a str],
    /// A file that does not get its name yet: the caller gives it, when all is done that has to be
    /// done before anybody may take the tree for whole.
    pub withheld: Option<Withheld<'a>>,
}

/// A file that is written under another name.
#[derive(Clone, Copy, Debug)]
pub struct Withheld<'a> {
    /// Its directory below the root, as a slash path.
    pub dir: &'a str,
    /// Its name in the snapshot.
    pub name: &'a str,
    /// The name that it is written under, in the same directory.
    pub meanwhile: &'a str,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overwritten {
    /// Regular files, written or not.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came from the repository, because what was there differed.
    pub fetched_bytes: u64,
    /// What was removed: files, and directories with all they held.
    pub removed: u64,
}

/// Makes the directory `target`, which is there, into what is at `path` in the snapshot. Every byte
/// is verified, whether it was there or is written. Durable on return.
///
/// After an error or a cancel the tree is in between, and the same call completes it. No symbolic
/// link below `target` is followed, and none of a file's other names is written through.
pub fn restore_over(
    repository: &Repository,
    snapshot: SnapshotId,
    path: &[u8],
    target: &Path,
    over: Over<'_>,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Overwritten, Error> {
    let reader = SnapshotReader::open(repository, snapshot)?;
    let (node, _) = reader.directory(path)?;
    let failed = |e| Error::io("restore over", target, e);
    let base = disk::open_dir(target).map_err(failed)?;
    site::remove_default_acl(&base).map_err(failed)?;
    let site = Site::new(base, target.to_owned(), node.clone(), true).standing();
    let overlay = Overlay { over, removed: AtomicU64::new(0), elsewhere: Mutex::default() };
    let filler = Filler::new(repository, &site, None, progress, cancel);
    let Restored { files, bytes, fetched_bytes, .. } =
        perform(&filler, |planner| planner.over(&overlay).tree(&node))?;
    finish_dirs(&site, &node, reader.is_root(path)?, cancel)?;
    progress.phase("making it durable");
    let elsewhere = overlay.elsewhere.into_inner().unwrap_or_else(PoisonError::into_inner);
    for dir in elsewhere.iter().chain([&site.base]) {
        rustix::fs::syncfs(dir).map_err(|e| failed(e.into()))?;
    }
    Ok(Overwritten { files, bytes, fetched_bytes, removed: overlay.removed.into_inner() })
}

/// A tree that is restored over, as the planner sees it.
pub(super) struct Overlay<'a> {
    over: Over<'a>,
    removed: AtomicU64,
    /// Directories on other file systems than the root's, which have to be synced, too.
    elsewhere: Mutex<Vec<OwnedFd>>,
}

impl Overlay<'_> {
    /// Deals with what the directory `number` should hold, and removes what it should not.
    pub(super) fn level(
        &self,
        site: &Site,
        number: usize,
        handle: &OwnedFd,
        nodes: &mut Vec<Node>,
    ) -> Result<(), Error> {
        if let Some(withheld) = &self.over.withheld
            && site.names(number).join(&b'/') == withheld.dir.as_bytes()
        {
            // Left over from when the source was itself restored so.
            nodes.retain(|node| node.name != withheld.meanwhile.as_bytes());
            let name = withheld.name.as_bytes();
            if let Some(node) = nodes.iter_mut().find(|node| node.name == name) {
                node.name = withheld.meanwhile.as_bytes().to_vec();
            }
        }
        let wanted: HashSet<&[u8]> = nodes.iter().map(|node| node.name.as_slice()).collect();
        let failed = |name: &[u8], e| site.error("remove", number, name, e);
        for name in disk::names(handle).map_err(|e| failed(b"", e))? {
            let kept = number == 0 && self.over.kept.iter().any(|kept| kept.as_bytes() == &*name);
            if !kept && !wanted.contains(&*name) {
                remove(handle, &name).map_err(|e| failed(&name, e))?;
                self.removed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Opens a directory, or makes it in the place of whatever else stands there.
    pub(super) fn dir(&self, within: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
        match disk::stat_at(within, name) {
            Ok(stat) if stat.kind() == NodeKind::Dir => {
                let ours = rustix::fs::Mode::from_raw_mode(0o700);
                let dir = match disk::open_dir_at(within, name) {
                    // By its name only where it cannot be opened: root always can, and must not be
                    // led to another place by a link that was put there meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                        rustix::fs::chmodat(within, name, ours, AtFlags::empty())?;
                        disk::open_dir_at(within, name)?
                    }
                    opened => opened?,
                };
                site::remove_default_acl(&dir)?;
                // Its own mode comes when all is done that is to be done in it.
                if stat.st_mode & 0o700 != 0o700 {
                    rustix::fs::fchmod(&dir, ours)?;
                }
                if disk::stat(within)?.device != stat.device {
                    let mut others = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
                    others.push(dir.try_clone()?);
                }
                return Ok(dir);
            }
            Ok(_) => self.make_room(within, name)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let dir = site::create_dir(within, name)?;
        site::remove_inherited_acls(&dir, 0o700)?;
        Ok(dir)
    }

    /// Whether a regular file stands there that its owner may read and write. Everything else goes,
    /// and so does a file that has other names.
    pub(super) fn stands(&self, within: &OwnedFd, name: &[u8]) -> io::Result<bool> {
        match disk::stat_at(within, name) {
            Ok(stat)
                if stat.kind() == NodeKind::File
                    && stat.links == 1
                    && stat.st_mode & 0o600 == 0o600 =>
            {
                Ok(true)
            }
            Ok(_) => self.make_room(within, name).map(|()| false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes whatever stands there.
    pub(super) fn make_room(&self, within: &OwnedFd, name: &[u8]) -> io::Result<()> {
        match remove(within, name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Removes a name and all below it, through no link.
fn remove(within: &OwnedFd, name: &[u8]) -> io::Result<()> {
    if disk::stat_at(within, name)?.kind() != NodeKind::Dir {
        return Ok(rustix::fs::unlinkat(within, name, AtFlags::empty())?);
    }
    let dir = disk::open_dir_at(within, name)?;
    for below in disk::names(&dir)? {
        remove(&dir, &below)?;
    }
    Ok(rustix::fs::unlinkat(within, name, AtFlags::REMOVEDIR)?)
}

impl Filler<'_> {
    /// Finds out by its content what of a file that stands there is not as it should be. Returns
    /// that; none: nothing, the file is complete.
    ///
    /// Sizes and times are not asked: what stands there was not put there by us, and what was cut
    /// off in the middle of a write looks like anything.
    pub(super) fn differing(
        &self,
        job: &Job,
        handles: &mut Handles<'_>,
    ) -> Result<Option<Missing>, Error> {
        let failed = |e| self.site.error("read", job.dir, &job.node.name, e);
        let dir = handles.get(job.dir).map_err(failed)?;
        let file = File::from(self.file(job, dir)?.try_clone().map_err(failed)?);
        let (mut missing, mut same) = (Missing::new(), 0);
        let mut bytes = Vec::new();
        let wanted = self.offsets(job)?;
        for (number, (id, at)) in wanted.iter().enumerate() {
            self.check()?;
            let length = layout::length(&wanted, number, job.node.size);
            bytes.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
            // What is not there is written anew.
            if file.read_exact_at(&mut bytes, *at).is_ok() && BlobId::of(&bytes) == *id {
                self.done(0, length);
                same += 1;
            } else {
                missing.push((*id, *at));
            }
        }
        if same > 0 {
            self.wrote(job, dir, same)?;
        }
        Ok(Some(missing).filter(|missing| !missing.is_empty()))
    }
}
