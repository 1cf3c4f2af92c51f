//! Judges a copy on disk by the snapshot that it was restored from, byte by byte.
//!
//! A manifest tells whether anybody wrote to a copy; it trusts the file system. Bits that rot change
//! no time stamp: only reading finds them.

use crate::manifest::{Difference, Times, compare_all};
use crate::reader::{SnapshotReader, blob_length, load_tree};
use crate::{BlobId, Error, Node, NodeKind, Repository, Tree, disk, parallel};
use model::{CancelToken, Progress, SnapshotId};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Files that are read side by side before the next ones are looked up.
const BATCH: usize = 1000;

/// A copy of what is at `path` in `snapshot`.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Where it is on this machine.
    pub root: &'a Path,
    /// What it is a copy of.
    pub snapshot: SnapshotId,
    /// The place in the snapshot.
    pub path: &'a [u8],
}

/// Reads every file of a copy and names those whose content is not the snapshot's: "changed" or
/// "gone", at most `limit`. Files that the snapshot does not have are none of its business.
pub fn scrub(
    repository: &Repository,
    copy: Copy<'_>,
    limit: usize,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Vec<Difference>, Error> {
    let judge = Judge::new(repository, copy, cancel)?;
    let found = Mutex::new(Vec::new());
    let full = || found.lock().unwrap_or_else(PoisonError::into_inner).len() >= limit;
    let check = |batch: &mut Vec<(Vec<u8>, Node)>| {
        progress.expect(batch.len() as u64, batch.iter().map(|(_, node)| node.size).sum());
        parallel::for_each(batch, parallel::readers(), |(path, node)| -> Result<(), Error> {
            if !full()
                && let Some(what) = judge.look(path, node)?
            {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.push(Difference::new(path, what, false));
            }
            progress.advance(1, node.size);
            Ok(())
        })?;
        batch.clear();
        Ok::<(), Error>(())
    };
    let mut batch = Vec::new();
    if judge.node.kind == NodeKind::File {
        batch.push((Vec::new(), judge.node.clone()));
    } else {
        let prefix = copy.path.strip_suffix(b"/").unwrap_or(copy.path).len() + 1;
        judge.reader.walk(copy.path, &mut |path, node| {
            if node.kind == NodeKind::File {
                batch.push((path.get(prefix..).unwrap_or_default().to_vec(), node.clone()));
            }
            if batch.len() >= BATCH && !full() { check(&mut batch) } else { Ok(()) }
        })?;
    }
    check(&mut batch)?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by(|a: &Difference, b| a.path.cmp(&b.path));
    found.truncate(limit);
    Ok(found)
}

/// Compares a copy with its manifest, as [`differences`](crate::differences) does, and reads the
/// files of which nothing but the ctime has changed: they count only if their content is not the
/// snapshot's. So a refresh that was given up, whose hard links to the copy came and went, is not
/// taken for somebody who wrote to it.
pub fn written_to(
    repository: &Repository,
    copy: Copy<'_>,
    manifest: &Path,
    limit: usize,
    cancel: &CancelToken,
) -> Result<Written, Error> {
    let judge = Judge::new(repository, copy, cancel)?;
    // The directory of the last file that had to be read, and its tree.
    let mut last: Option<(Vec<u8>, Option<Tree>)> = None;
    let mut written = Written::default();
    compare_all(copy.root, manifest, &mut |path, what, moved| {
        let mut innocent = false;
        if moved.is_some() {
            let (dir, name) = split(path);
            if last.as_ref().is_none_or(|(known, _)| known != dir) {
                last = Some((dir.to_vec(), judge.tree(dir)?));
            }
            let node = if path.is_empty() {
                Some(&judge.node)
            } else {
                last.as_ref().and_then(|(_, tree)| tree.as_ref()?.get(name))
            };
            innocent = match node {
                // What has no content has shown all it has.
                Some(node) if node.kind != NodeKind::File => true,
                Some(node) => judge.look(path, node)?.is_none(),
                None => false,
            };
        }
        match moved {
            Some((inode, ctime)) if innocent => {
                written.innocent.insert(inode, ctime);
            }
            _ if written.found.len() < limit => {
                written.found.push(Difference::new(path, what, moved.is_some()));
            }
            _ => {}
        }
        Ok(written.found.len() < limit)
    })?;
    Ok(written)
}

/// What [`written_to`] found.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// What was written to.
    pub found: Vec<Difference>,
    /// The ctimes of inodes that have moved, and nothing else.
    pub innocent: Times,
}

struct Judge<'a> {
    repository: &'a Repository,
    cancel: &'a CancelToken,
    reader: SnapshotReader,
    /// The copy's root in the snapshot.
    node: Node,
    /// The copy, or the directory that a single file is in.
    base: OwnedFd,
    /// The name of a single file.
    name: Vec<u8>,
}

impl<'a> Judge<'a> {
    fn new(
        repository: &'a Repository,
        copy: Copy<'_>,
        cancel: &'a CancelToken,
    ) -> Result<Judge<'a>, Error> {
        let reader = SnapshotReader::open(repository, copy.snapshot)?;
        let node = reader.existing(copy.path)?;
        let failed = |e| Error::io("look at", copy.root, e);
        let (base, name) = if node.kind == NodeKind::Dir {
            (disk::open_dir(copy.root).map_err(failed)?, Vec::new())
        } else {
            let real = std::fs::canonicalize(copy.root).map_err(failed)?;
            let dir = disk::open_dir(real.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
            (dir, real.file_name().unwrap_or_default().as_bytes().to_vec())
        };
        Ok(Judge { repository, cancel, reader, node, base, name })
    }

    /// The tree of a directory below the root; none if there is none.
    fn tree(&self, dir: &[u8]) -> Result<Option<Tree>, Error> {
        let Some(mut id) = self.node.subtree else { return Ok(None) };
        for part in dir.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            match load_tree(self.repository, id)?.get(part).and_then(|node| node.subtree) {
                Some(next) => id = next,
                None => return Ok(None),
            }
        }
        load_tree(self.repository, id).map(Some)
    }

    /// What is the matter with a file; none if its content is the node's.
    fn look(&self, path: &[u8], node: &Node) -> Result<Option<&'static str>, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match self.open(path) {
            Ok(Some(file)) => Ok((!self.is_content(&file, node)?).then_some("changed")),
            Ok(None) => Ok(Some("changed")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some("gone")),
            Err(e) => Err(Error::io("read", disk::shown(path), e)),
        }
    }

    /// Opens a file below the base, through no link. None: it is no regular file.
    fn open(&self, path: &[u8]) -> io::Result<Option<File>> {
        let path = if path.is_empty() { &self.name } else { path };
        let (dirs, name) = split(path);
        let mut handle: Option<OwnedFd> = None;
        for part in dirs.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            handle = Some(disk::open_dir_at(handle.as_ref().unwrap_or(&self.base), part)?);
        }
        let (file, stat) = disk::open_file_at(handle.as_ref().unwrap_or(&self.base), name)?;
        Ok((stat.kind() == NodeKind::File).then(|| File::from(file)))
    }

    fn is_content(&self, file: &File, node: &Node) -> Result<bool, Error> {
        if !file.metadata().is_ok_and(|meta| meta.len() == node.size) {
            return Ok(false);
        }
        // What the memory still has of the file says nothing about the disk.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        let mut at = 0;
        let mut bytes = Vec::new();
        for id in &node.content {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let length = blob_length(self.repository, id)?;
            bytes.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
            // A sector that cannot be read is as lost as one that is wrong.
            if file.read_exact_at(&mut bytes, at).is_err() || BlobId::of(&bytes) != *id {
                return Ok(false);
            }
            at += length;
        }
        Ok(at == node.size)
    }
}

/// The directory of a path, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}
