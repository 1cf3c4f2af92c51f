//! A tree on disk, in the order of a manifest.

use super::entry::{Entry, FileState, State};
use super::parts;
use crate::disk;
use crate::{Error, NodeKind, Xattr};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Everything below a root, in the order of a manifest.
pub(super) struct Walk {
    root: PathBuf,
    /// Directories whose names are not yet all given out.
    open: Vec<OpenDir>,
    /// The root, until it is given out.
    first: Option<Entry>,
    /// Extended attributes of what is no directory are not looked at.
    pub(super) lazy: bool,
}

struct OpenDir {
    handle: OwnedFd,
    /// Below the root.
    path: Vec<u8>,
    names: std::vec::IntoIter<Box<[u8]>>,
}

impl Walk {
    pub(super) fn new(root: &Path) -> Result<Walk, Error> {
        let failed = |e| Error::io("look at", root, e);
        // The root's own name may be a link; nothing below is followed.
        let real = std::fs::canonicalize(root).map_err(failed)?;
        let (parent, name) = match (real.parent(), real.file_name()) {
            (Some(parent), Some(name)) => (parent, name.as_bytes()),
            _ => (Path::new("/"), &b"."[..]),
        };
        let parent = disk::open_dir(parent).map_err(failed)?;
        let found = look(&parent, name, Vec::new(), false).map_err(failed)?;
        let (root, open) = (root.to_owned(), Vec::new());
        let mut walk = Walk { root, open, first: None, lazy: false };
        walk.first = found.map(|found| walk.enter(found));
        Ok(walk)
    }

    /// Everything at a path below a root, and below that; nothing, if there is none.
    pub(super) fn at(root: &Path, path: &[u8]) -> Result<Walk, Error> {
        if path.is_empty() {
            return Walk::new(root);
        }
        let mut walk = Walk { root: root.to_owned(), open: Vec::new(), first: None, lazy: false };
        let found = || {
            let mut handle = disk::open_dir(root)?;
            let mut parts: Vec<&[u8]> = parts(path).collect();
            let name = parts.pop().unwrap_or_default();
            for part in parts {
                handle = disk::open_dir_at(&handle, part)?;
            }
            look(&handle, name, path.to_vec(), false)
        };
        let failed = |e| Error::io("look at", root.join(OsStr::from_bytes(path)), e);
        walk.first = match found() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            found => found.map_err(failed)?.map(|found| walk.enter(found)),
        };
        Ok(walk)
    }

    /// Looks at the extended attributes of the entry that was given out last, if that was not done.
    pub(super) fn look_closer(&self, entry: &mut Entry) -> Result<(), Error> {
        if entry.state.xattrs.is_some() {
            return Ok(());
        }
        let Some(dir) = self.open.last() else { return Ok(()) };
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        entry.state.xattrs = match disk::xattrs_at(&dir.handle, name) {
            Ok(xattrs) => Some(sum(xattrs)),
            // It has vanished, which is a difference whatever it had.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                let path = self.root.join(OsStr::from_bytes(&entry.path));
                return Err(Error::io("look at", path, e));
            }
        };
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while let Some(dir) = self.open.last_mut() {
            let Some(name) = dir.names.next() else {
                self.open.pop();
                continue;
            };
            let mut path = dir.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            match look(&dir.handle, &name, path, self.lazy) {
                Ok(Some(found)) => return Ok(Some(self.enter(found))),
                Ok(None) => {}
                Err(e) => {
                    let below = self.open.last().map_or(&[][..], |dir| &dir.path);
                    let dir = self.root.join(OsStr::from_bytes(below));
                    let path = dir.join(OsStr::from_bytes(&name));
                    return Err(Error::io("look at", path, e));
                }
            }
        }
        Ok(None)
    }

    fn enter(&mut self, (entry, dir): (Entry, Option<OpenDir>)) -> Entry {
        self.open.extend(dir);
        entry
    }

    /// Leaves out the content of the directory that was given out last.
    pub(super) fn skip_directory(&mut self) {
        self.open.pop();
    }
}

/// Looks at one name, and opens it if it is a directory. None if it vanished.
fn look(
    dir: &OwnedFd,
    name: &[u8],
    path: Vec<u8>,
    lazy: bool,
) -> io::Result<Option<(Entry, Option<OpenDir>)>> {
    let stat = match disk::stat_at(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !path.is_empty() => return Ok(None),
        stat => stat?,
    };
    let (st_mode, uid, gid) = (stat.st_mode, stat.uid, stat.gid);
    if stat.kind() == NodeKind::Dir {
        let handle = disk::open_dir_at(dir, name)?;
        let names = disk::names(&handle)?.into_iter();
        let xattrs = Some(sum(disk::xattrs(&handle)?));
        let state = State { st_mode, uid, gid, xattrs, file: None };
        let open = OpenDir { handle, path: path.clone(), names };
        return Ok(Some((Entry { path, state }, Some(open))));
    }
    let link_target = match stat.kind() {
        NodeKind::Symlink => disk::link_target_at(dir, name)?,
        _ => Vec::new(),
    };
    let xattrs = if lazy { None } else { Some(sum(disk::xattrs_at(dir, name)?)) };
    let state = State { st_mode, uid, gid, xattrs, file: Some(FileState::new(&stat, link_target)) };
    Ok(Some((Entry { path, state }, None)))
}

/// A short sum of extended attributes; nothing if there are none.
fn sum(mut xattrs: Vec<Xattr>) -> String {
    if xattrs.is_empty() {
        return String::new();
    }
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    for xattr in xattrs {
        for part in [xattr.name.as_bytes(), &xattr.value] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hex::encode(&hash.finalize()[..16])
}
