//! Takes from an older copy of the same tree what has not changed since.

use super::fill::Filler;
use super::plan::Job;
use super::site::Handles;
use super::{Reuse, site};
use crate::reader::{SnapshotReader, blob_length};
use crate::{BlobId, Error, Node, NodeKind, Repository, disk};
use rustix::fs::AtFlags;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// An older copy.
pub(super) struct Old {
    base: OwnedFd,
    hard_links: bool,
    /// Clones work between the two places, as far as is known.
    clones: AtomicBool,
    /// The root directory's node in the older snapshot.
    pub(super) root: Option<Node>,
    /// The file's node there, if the copy is one file.
    pub(super) file: Option<OldFile>,
}

/// A file of the older copy.
pub(super) struct OldFile {
    /// Its name there, if it is another one.
    name: Option<Vec<u8>>,
    node: Node,
    /// It may become a name of the same file.
    same: bool,
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
            Some(Old { base, hard_links: reuse.hard_links, clones, root, file })
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
        Some(OldFile { name, node: old.clone(), same })
    }
}

/// What could not be taken from the copy: blobs, and where they go.
pub(super) type Missing = Vec<(BlobId, u64)>;

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
        let Ok((source, stat)) = disk::open_file_at(old_dir, name) else { return all() };
        // The caller has verified that nobody wrote to the copy; this costs nothing.
        let untouched = stat.kind() == NodeKind::File
            && stat.size == file.node.size
            && stat.mtime == (file.node.mtime.seconds, file.node.mtime.nanos);
        if !untouched {
            return all();
        }
        let failed = |e| self.site.error("write", job.dir, &job.node.name, e);
        let dir = handles.get(job.dir).map_err(failed)?;
        if old.hard_links && file.same {
            let name_now = job.node.name.as_slice();
            if rustix::fs::linkat(old_dir, name, dir, name_now, AtFlags::empty()).is_ok() {
                self.done(1, job.node.size);
                return Ok(None);
            }
        }
        let wanted = self.offsets(job)?;
        let there = self.there(&file.node);
        // A clone shares everything at once, so it is worth it for a single blob in its place.
        let in_place = |(id, at): &(BlobId, u64)| there.get(id).is_some_and(|o| o.contains(at));
        if old.clones.load(Ordering::Relaxed) && wanted.iter().any(in_place) {
            let target = self.file(job, dir)?;
            match rustix::fs::ioctl_ficlone(&*target, &source) {
                Ok(()) => job.cloned.store(true, Ordering::Relaxed),
                Err(_) => old.clones.store(false, Ordering::Relaxed),
            }
        }
        let source = File::from(source);
        let mut missing = Missing::new();
        let mut written = 0;
        for (id, at) in wanted {
            self.check()?;
            if job.cloned.load(Ordering::Relaxed) && in_place(&(id, at)) {
                self.done(0, self.length(&id)?);
                written += 1;
                continue;
            }
            let bytes = match there.get(&id).and_then(|offsets| offsets.first()) {
                Some(from) => self.copy_of(&source, &id, *from)?,
                None => None,
            };
            match bytes {
                Some(bytes) => {
                    self.write_at(&*self.file(job, dir)?, job, at, &bytes)?;
                    written += 1;
                }
                None => missing.push((id, at)),
            }
        }
        if written > 0 {
            self.wrote(job, dir, written)?;
        }
        Ok(Some(missing).filter(|missing| !missing.is_empty()))
    }

    /// Where the older file has which blob.
    fn there(&self, node: &Node) -> HashMap<BlobId, Vec<u64>> {
        let mut there: HashMap<BlobId, Vec<u64>> = HashMap::new();
        let mut at = 0;
        for id in &node.content {
            // What is no longer in the repository is in nothing that is restored.
            let Ok(length) = self.length(id) else { break };
            there.entry(*id).or_default().push(at);
            at += length;
        }
        there
    }

    /// A blob as the older file has it, if it really has: it is hashed on the way.
    fn copy_of(&self, source: &File, id: &BlobId, from: u64) -> Result<Option<Vec<u8>>, Error> {
        let length = usize::try_from(self.length(id)?).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        let read = source.read_exact_at(&mut bytes, from);
        Ok(Some(bytes).filter(|bytes| read.is_ok() && BlobId::of(bytes) == *id))
    }

    /// How long a blob is.
    pub(super) fn length(&self, id: &BlobId) -> Result<u64, Error> {
        blob_length(self.repository, id)
    }
}

/// Handles of the older copy's directories, which have the same names as the new ones.
pub(super) fn old_handles<'a>(site: &'a site::Site, old: &'a Old) -> Handles<'a> {
    Handles::new(site, &old.base)
}
