//! Takes from an older copy of the same tree what has not changed since.

use super::fill::Filler;
use super::layout::Layout;
use super::plan::Job;
use super::redo;
use super::site::Handles;
use super::{Link, Links, Reuse, layout, site};
use crate::reader::{SnapshotReader, blob_length};
use crate::{BlobId, Error, Node, NodeKind, Repository, disk};
use rustix::fs::{Advice, AtFlags, Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Smaller files are written anew: a journal for them would cost as much.
pub(super) const REDO_MIN: u64 = 4 << 20;

/// An older copy.
pub(super) struct Old {
    base: OwnedFd,
    hard_links: bool,
    /// Nothing of it is believed before it was read.
    doubted: bool,
    /// Clones work between the two places, as far as is known.
    clones: AtomicBool,
    /// Where changes of its own files are collected.
    pub(super) redo: Option<redo::Writer>,
    /// Its files that have got another name.
    pub(super) links: Mutex<Links>,
    /// The root directory's node in the older snapshot.
    pub(super) root: Option<Node>,
    /// The file's node there, if the copy is one file.
    pub(super) file: Option<OldFile>,
}

/// A file of the older copy.
pub(super) struct OldFile {
    /// Its name there, if it is another one.
    name: Option<Vec<u8>>,
    pub(super) node: Node,
    /// In neither snapshot has it another name.
    pub(super) alone: bool,
    /// It may become a name of the same file.
    pub(super) same: bool,
}

impl Old {
    /// Opens the copy. None if nothing can be taken from it.
    pub(super) fn open(
        repository: &Repository,
        reuse: &Reuse<'_>,
        path: &[u8],
        node: &Node,
    ) -> Option<Old> {
        let reader = SnapshotReader::open(repository, reuse.snapshot).ok()?;
        let old = reader.node(path).ok()?.filter(|old| old.kind == node.kind)?;
        let make = |base, root, file| {
            let clones = AtomicBool::new(true);
            let redo = reuse.redo.filter(|_| reuse.hard_links).map(redo::Writer::new);
            let (hard_links, doubted, links) = (reuse.hard_links, reuse.doubted, Mutex::default());
            Some(Old { base, hard_links, doubted, clones, redo, links, root, file })
        };
        if node.kind == NodeKind::Dir {
            return make(disk::open_dir(reuse.tree).ok()?, Some(old), None);
        }
        let real = std::fs::canonicalize(reuse.tree).ok()?;
        let base = disk::open_dir(real.parent()?).ok()?;
        let name = real.file_name()?.as_bytes().to_vec();
        make(base, None, OldFile::of(&old, node, Some(name)))
    }
}

impl OldFile {
    /// The file, if it may have something in common with the new one.
    pub(super) fn of(old: &Node, new: &Node, name: Option<Vec<u8>>) -> Option<OldFile> {
        let regular = old.kind == NodeKind::File && new.kind == NodeKind::File;
        if !regular || new.content.is_empty() {
            return None;
        }
        // Names of one file in one of the snapshots may be different files in the other.
        let alone = old.links < 2 && new.links < 2;
        let same = alone
            && (old.mode, old.uid, old.gid, old.size) == (new.mode, new.uid, new.gid, new.size)
            && (old.mtime.seconds, old.mtime.nanos) == (new.mtime.seconds, new.mtime.nanos)
            && old.content == new.content
            && old.xattrs == new.xattrs;
        Some(OldFile { name, node: old.clone(), alone, same })
    }
}

/// What could not be taken from the copy: blobs, and where they go.
pub(super) type Missing = Layout;

impl Filler<'_> {
    /// Writes of a file what the older copy has. Returns the rest; none: the file is complete.
    pub(super) fn reuse(
        &self,
        old: &Old,
        job: &Job,
        handles: &mut Handles<'_>,
        old_handles: &mut Handles<'_>,
    ) -> Result<Option<Missing>, Error> {
        let all = || self.offsets(job).map(Some);
        let Some(file) = &job.old else { return all() };
        let name = file.name.as_deref().unwrap_or(&job.node.name);
        let Ok(old_dir) = old_handles.get(job.dir) else { return all() };
        // Of a copy to which nobody wrote, as the caller has verified; this costs nothing.
        let untouched = |stat: &disk::Stat| {
            stat.kind() == NodeKind::File
                && stat.size == file.node.size
                && stat.mtime == (file.node.mtime.seconds, file.node.mtime.nanos)
        };
        let failed = |e| self.site.error("write", job.dir, &job.node.name, e);
        let dir = handles.get(job.dir).map_err(failed)?;
        let may_link = old.hard_links && file.same;
        if may_link
            && !old.doubted
            && disk::stat_at(old_dir, name).is_ok_and(|stat| untouched(&stat))
            && self.link(old, old_dir, name, dir, job)
        {
            return Ok(None);
        }
        // To open a device may do something.
        if !disk::stat_at(old_dir, name).is_ok_and(|stat| stat.kind() == NodeKind::File) {
            return all();
        }
        let Ok((source, stat)) = disk::open_file_at(old_dir, name) else { return all() };
        let fits = untouched(&stat) || (old.doubted && stat.kind() == NodeKind::File);
        if !fits {
            return all();
        }
        let source = File::from(source);
        let wanted = self.offsets(job)?;
        if old.doubted {
            // What the memory still has of the file says nothing about the disk.
            let _ = rustix::fs::fadvise(&source, 0, None, rustix::fs::Advice::DontNeed);
            // With other attributes it would bring those along, and with other names it would still be
            // a file of somebody else.
            if may_link
                && untouched(&stat)
                && stat.links == 1
                && self.site.has_attributes(source.as_fd(), &stat, &job.node)
                && self.holds(&source, &wanted, job.node.size)?
                && self.link(old, old_dir, name, dir, job)
            {
                return Ok(None);
            }
        }
        let length = |number| layout::length(&wanted, number, job.node.size);
        let there =
            layout::older(&file.node.content, (&wanted, job.node.size), |id| self.length(id));
        let mut in_place = layout::in_place(&wanted, &there);
        let mut kept_bytes = 0;
        let mut readable = true;
        for (number, ((id, at), keep)) in wanted.iter().zip(&mut in_place).enumerate() {
            if *keep && old.doubted {
                *keep = copy_of(&source, id, *at, length(number)).is_some();
                readable &= *keep || can_be_read(&source, *at, length(number));
            }
            kept_bytes += if *keep { length(number) } else { 0 };
        }
        // A file with sectors that cannot be read is written anew, to others. A clone shares everything
        // at once, so it is worth it for a single blob in its place.
        let shares = readable && kept_bytes > 0;
        if shares && old.clones.load(Ordering::Relaxed) {
            let target = self.file(job, dir)?;
            match rustix::fs::ioctl_ficlone(&*target, &source) {
                Ok(()) => {
                    job.cloned.store(true, Ordering::Relaxed);
                    self.cloned_files.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => old.clones.store(false, Ordering::Relaxed),
            }
        }
        let cloned = job.cloned.load(Ordering::Relaxed);
        if shares
            && !cloned
            && let Some(redo) = self.redo()
            && is_patched(file, &job.node, kept_bytes)
            && self.patch(old, old_dir, name, dir, job)?
        {
            redo.will_grow(growth(file, &job.node, kept_bytes, &source));
            self.patched_files.fetch_add(1, Ordering::Relaxed);
        }
        let keeps = cloned || job.patched.load(Ordering::Relaxed);
        let stays = |number: usize| keeps && in_place.get(number) == Some(&true);
        // Of the others the older file may have some elsewhere.
        let moved = (0..wanted.len()).filter(|number| !stays(*number));
        let moved: HashSet<BlobId> = moved.filter_map(|n| Some(wanted.get(n)?.0)).collect();
        let mut elsewhere: HashMap<BlobId, u64> = HashMap::new();
        for (id, from) in there.iter().filter(|(id, _)| moved.contains(id)) {
            elsewhere.entry(*id).or_insert(*from);
        }
        let mut missing = Missing::new();
        let mut before = Vec::new();
        let mut written = 0;
        for (number, (id, at)) in wanted.iter().enumerate() {
            self.check()?;
            if stays(number) {
                self.done(0, length(number));
                written += 1;
                continue;
            }
            let from = elsewhere.get(id);
            match from.and_then(|from| copy_of(&source, id, *from, length(number))) {
                Some(bytes) => {
                    self.write_at(&*self.file(job, dir)?, job, *at, &bytes, &mut before)?;
                    written += 1;
                }
                None => missing.push((*id, *at)),
            }
        }
        if written > 0 {
            self.wrote(job, dir, written)?;
        }
        // What is fetched is compared with what is there, and not with what lies around that: a file
        // that is changed in a few places was read several times over for each of them.
        if keeps && !missing.is_empty() && missing.len() < wanted.len() / 2 {
            let _ = rustix::fs::fadvise(&*self.file(job, dir)?, 0, None, Advice::Random);
        }
        Ok(Some(missing).filter(|missing| !missing.is_empty()))
    }

    /// Whether the older file has all of the blobs where they go, in a file that ends at `end`.
    fn holds(&self, source: &File, wanted: &Missing, end: u64) -> Result<bool, Error> {
        for (number, (id, at)) in wanted.iter().enumerate() {
            self.check()?;
            if copy_of(source, id, *at, layout::length(wanted, number, end)).is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets an unchanged file be that of the older copy.
    fn link(
        &self,
        old: &Old,
        old_dir: BorrowedFd<'_>,
        name: &[u8],
        dir: BorrowedFd<'_>,
        job: &Job,
    ) -> bool {
        // In a copy that stays where it is it is left as it is.
        let linked = self.changes.is_some() || self.name_again(old, old_dir, name, dir, job);
        if linked {
            self.linked_files.fetch_add(1, Ordering::Relaxed);
            self.done(1, job.node.size);
        }
        linked
    }

    /// Makes the older file have the new name, too, and remembers the time that it had until then and
    /// that which this left on it: by the one somebody is told who has written to it since the copy was
    /// looked at, by the other who writes to it later. Between the two looks at it there is nothing but
    /// the link.
    fn name_again(
        &self,
        old: &Old,
        old_dir: BorrowedFd<'_>,
        name: &[u8],
        dir: BorrowedFd<'_>,
        job: &Job,
    ) -> bool {
        let name_now = job.node.name.as_slice();
        let Ok(before) = disk::stat_at(old_dir, name) else { return false };
        if rustix::fs::linkat(old_dir, name, dir, name_now, AtFlags::empty()).is_err() {
            return false;
        }
        // What is not remembered counts as written to.
        if let Ok(after) = disk::stat_at(dir, name_now)
            && after.inode == before.inode
        {
            let link = Link { before: before.ctime, after: after.ctime };
            let mut links = old.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.insert(after.inode, link);
        }
        true
    }

    /// Lets the new name be one of the older file, whose changes go to the journal. False: it must
    /// be written anew, as what we may not write to, what runs, or what somebody has given another
    /// name: that would change with it.
    fn patch(
        &self,
        old: &Old,
        old_dir: BorrowedFd<'_>,
        name: &[u8],
        dir: BorrowedFd<'_>,
        job: &Job,
    ) -> Result<bool, Error> {
        let mut opened = job.opened.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been made, for a clone that did not work.
        if opened.exists {
            if opened.file.take().is_some() {
                self.open.fetch_sub(1, Ordering::Relaxed);
            }
            opened.exists = false;
            rustix::fs::unlinkat(dir, job.node.name.as_slice(), AtFlags::empty())
                .map_err(|e| self.site.error("write", job.dir, &job.node.name, e.into()))?;
        }
        if !disk::stat_at(old_dir, name).is_ok_and(|stat| stat.links == 1)
            || site::reopen_file(old_dir, name).is_err()
        {
            return Ok(false);
        }
        if self.changes.is_none() {
            if !self.name_again(old, old_dir, name, dir, job) {
                return Ok(false);
            }
            opened.exists = true;
        }
        job.patched.store(true, Ordering::Relaxed);
        Ok(true)
    }

    /// How long a blob is.
    pub(super) fn length(&self, id: &BlobId) -> Result<u64, Error> {
        blob_length(self.repository, id)
    }
}

/// A blob as the older file has it, if it really has: it is hashed on the way.
fn copy_of(source: &File, id: &BlobId, from: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = source.read_exact_at(&mut bytes, from);
    Some(bytes).filter(|bytes| read.is_ok() && BlobId::of(bytes) == *id)
}

/// Whether no byte that the older file has there fails to be read. It may end before that, or in the
/// middle of it.
fn can_be_read(source: &File, from: u64, length: u64) -> bool {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    match source.read_exact_at(&mut bytes, from) {
        Ok(()) => true,
        Err(e) => e.kind() == io::ErrorKind::UnexpectedEof,
    }
}

/// Handles of the older copy's directories, which have the same names as the new ones.
pub(super) fn old_handles<'a>(site: &'a site::Site, old: &'a Old) -> Handles<'a> {
    Handles::new(site, &old.base)
}

/// Whether changing a file in its place is worth the journal.
pub(super) fn is_patched(old: &OldFile, new: &Node, kept_bytes: u64) -> bool {
    old.alone && old.node.size >= REDO_MIN && kept_bytes >= new.size / 2
}

/// Space that a file which is changed in its place may need beyond what it has: what comes behind
/// its end, and what is written into its holes.
fn growth(old: &OldFile, new: &Node, kept_bytes: u64, source: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let allocated = source.metadata().map_or(0, |meta| meta.blocks().saturating_mul(512));
    let holes = old.node.size.saturating_sub(allocated);
    let changes = new.size.saturating_sub(kept_bytes);
    new.size.saturating_sub(old.node.size).saturating_add(holes.min(changes)).min(changes)
}

/// Whether files in a directory can be clones of each other.
pub(super) fn can_clone(dir: &Path) -> bool {
    let nameless = || {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600))
    };
    let (Ok(from), Ok(to)) = (nameless(), nameless()) else { return false };
    rustix::io::write(&from, &[1; 4096]).is_ok() && rustix::fs::ioctl_ficlone(&to, &from).is_ok()
}
