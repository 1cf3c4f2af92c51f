//! Where a restore writes: a directory that it made, and handles of what is below.
//!
//! Every name is created in a directory that this restore created, through a handle of it, and
//! creating fails if the name exists. Names of a tree have no slash and are no `..` (decoding
//! refuses them). So nothing that is restored, and nobody who watches, can make it write elsewhere.

use crate::{Error, Node, NodeKind, Xattr, disk};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

/// The place of a restore, shared by all its threads.
pub(super) struct Site {
    /// All names are below this: the restored directory, or, for a single file, the one it is in.
    pub(super) base: OwnedFd,
    /// The path of `base`, for messages.
    shown: PathBuf,
    /// The base was there before, and what is made in it may inherit from it.
    pub(super) foreign: bool,
    /// The whole tree was there before, and its directories have attributes of their own.
    stood: bool,
    dirs: RwLock<Vec<Dir>>,
    root: bool,
    /// Attributes were left out because the file system has none.
    pub(super) lost_xattrs: AtomicBool,
}

/// A directory of the restored tree; the first one is the base.
struct Dir {
    parent: usize,
    node: Node,
    /// It is new, with all that is in it: it is not the skeleton of one that is changed elsewhere.
    fresh: bool,
}

/// The parent directory and the name of a path that must not exist.
pub(super) fn new_place(target: &Path) -> Result<(OwnedFd, PathBuf, Vec<u8>), Error> {
    let failed = |e| Error::io("restore to", target, e);
    let absolute = std::path::absolute(target).map_err(failed)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Error::Invalid(format!("{} is no place for a restore", target.display())));
    };
    let handle = disk::open_dir(parent).map_err(failed)?;
    match disk::stat_at(&handle, name.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(_) => return Err(exists(target)),
    }
    Ok((handle, parent.to_owned(), name.as_bytes().to_vec()))
}

pub(super) fn exists(target: &Path) -> Error {
    Error::Invalid(format!(
        "{} exists already; a restore goes to a path that does not",
        target.display()
    ))
}

impl Site {
    pub(super) fn new(base: OwnedFd, shown: PathBuf, node: Node, foreign: bool) -> Site {
        Site {
            base,
            shown,
            foreign,
            stood: false,
            dirs: RwLock::new(vec![Dir { parent: 0, node, fresh: true }]),
            root: rustix::process::geteuid().is_root(),
            lost_xattrs: AtomicBool::new(false),
        }
    }

    /// The same for a tree that stands there.
    pub(super) fn standing(self) -> Site {
        Site { stood: true, ..self }
    }

    /// The same for what is staged of a tree that is changed elsewhere.
    pub(super) fn skeleton(self) -> Site {
        let mut dirs = self.dirs.into_inner().unwrap_or_else(PoisonError::into_inner);
        for dir in &mut dirs {
            dir.fresh = false;
        }
        Site { dirs: RwLock::new(dirs), ..self }
    }

    /// Notes a directory that was made, and returns its number.
    pub(super) fn add(&self, parent: usize, node: Node, fresh: bool) -> usize {
        let mut dirs = self.dirs.write().unwrap_or_else(PoisonError::into_inner);
        dirs.push(Dir { parent, node, fresh });
        dirs.len() - 1
    }

    /// Whether a directory is new, with all that is in it.
    pub(super) fn is_fresh(&self, at: usize) -> bool {
        let dirs = self.dirs.read().unwrap_or_else(PoisonError::into_inner);
        dirs.get(at).is_none_or(|dir| dir.fresh)
    }

    /// The number of the directory that a directory is in, and its node.
    pub(super) fn dir(&self, at: usize) -> Option<(usize, Node)> {
        let dirs = self.dirs.read().unwrap_or_else(PoisonError::into_inner);
        dirs.get(at).map(|dir| (dir.parent, dir.node.clone()))
    }

    /// How many directories there are. A directory's number is higher than its parent's.
    pub(super) fn len(&self) -> usize {
        self.dirs.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The names from the base to a directory.
    pub(super) fn names(&self, mut at: usize) -> Vec<Vec<u8>> {
        let dirs = self.dirs.read().unwrap_or_else(PoisonError::into_inner);
        let mut names = Vec::new();
        while let Some(dir) = dirs.get(at).filter(|_| at > 0) {
            names.push(dir.node.name.clone());
            at = dir.parent;
        }
        names.reverse();
        names
    }

    /// The path of a name below what is restored; empty if that is the one file.
    pub(super) fn below(&self, dir: usize, name: &[u8]) -> Vec<u8> {
        if self.foreign {
            return Vec::new();
        }
        let mut parts = self.names(dir);
        parts.push(name.to_vec());
        parts.join(&b'/')
    }

    /// The path of a name, for messages.
    pub(super) fn path(&self, dir: usize, name: &[u8]) -> PathBuf {
        let mut path = self.shown.clone();
        for part in self.names(dir) {
            path.push(std::ffi::OsStr::from_bytes(&part));
        }
        path.push(std::ffi::OsStr::from_bytes(name));
        path
    }

    pub(super) fn error(&self, what: &'static str, dir: usize, name: &[u8], e: io::Error) -> Error {
        Error::io(what, self.path(dir, name), e)
    }

    /// Gives a directory its attributes. After this, nothing is made in it.
    pub(super) fn finish_dir(&self, at: usize) -> Result<(), Error> {
        let Some((_, node)) = self.dir(at) else { return Ok(()) };
        let failed = |e| self.error("give its attributes to", at, b"", e);
        let mut handles = Handles::new(self, &self.base);
        let handle = handles.get(at).map_err(failed)?;
        if self.stood {
            remove_other_xattrs(handle, &node).map_err(failed)?;
        }
        self.give_attributes(handle, &node).map_err(failed)
    }

    /// Takes from the root what the root of a snapshot has none of.
    pub(super) fn bare_root(&self, root: &Node) -> io::Result<()> {
        if self.stood {
            remove_other_xattrs(self.base.as_fd(), root)?;
        }
        Ok(rustix::fs::fchmod(&self.base, Mode::from_raw_mode(root.permissions()))?)
    }

    /// Gives an open file or directory its attributes, times last: each other call changes them, a
    /// change of the owner also takes setuid bits and capabilities away.
    pub(super) fn give_attributes(&self, file: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
        let owned = self.chown(node, |uid, gid| rustix::fs::fchown(file, uid, gid))?;
        self.set_xattrs(node, |name, value| {
            rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
        })?;
        rustix::fs::fchmod(file, mode(node, owned))?;
        Ok(rustix::fs::futimens(file, &times(node))?)
    }

    /// The same for what cannot be opened: links, devices and pipes. The directory they are in is
    /// ours alone until its turn comes; but one that stood there may be somebody else's, so no link is
    /// followed that was put there meanwhile.
    pub(super) fn give_attributes_at(&self, dir: &OwnedFd, node: &Node) -> io::Result<()> {
        let name = node.name.as_slice();
        let link = AtFlags::SYMLINK_NOFOLLOW;
        let owned = self.chown(node, |uid, gid| rustix::fs::chownat(dir, name, uid, gid, link))?;
        let path = disk::path_at(dir, name);
        self.set_xattrs(node, |attribute, value| {
            rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty())
        })?;
        if node.kind != NodeKind::Symlink {
            chmod_at(dir, name, |_| mode(node, owned))?;
        }
        Ok(rustix::fs::utimensat(dir, name, &times(node), link)?)
    }

    /// Whether an open file already has the attributes that it would be given, its times excepted. Where
    /// some of them could not be given, it has not.
    pub(super) fn has_attributes(
        &self,
        file: BorrowedFd<'_>,
        stat: &disk::Stat,
        node: &Node,
    ) -> bool {
        if (stat.uid, stat.gid) != (node.uid, node.gid)
            || stat.st_mode & 0o7777 != mode(node, true).as_raw_mode()
        {
            return false;
        }
        let Ok(there) = disk::xattrs(file) else { return false };
        let other = |xattr: &Xattr| !of_its_place(&xattr.name) && !node.xattrs.contains(xattr);
        node.xattrs.iter().all(|xattr| there.contains(xattr)) && !there.iter().any(other)
    }

    /// Gives a file away, as far as our rights go. False: it stays ours.
    fn chown(
        &self,
        node: &Node,
        chown: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> io::Result<bool> {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        match chown(Some(uid), Some(gid)) {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::INVAL) if !self.root => {
                // A group that we are a member of can be given.
                let _ = chown(None, Some(gid));
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn set_xattrs(
        &self,
        node: &Node,
        set: impl Fn(&str, &[u8]) -> rustix::io::Result<()>,
    ) -> io::Result<()> {
        for xattr in &node.xattrs {
            match set(&xattr.name, &xattr.value) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => self.lost_xattrs.store(true, Ordering::Relaxed),
                // `trusted.` and `security.` are root's.
                Err(Errno::PERM | Errno::ACCESS) if !self.root => {}
                Err(e) => {
                    let e = io::Error::from(e);
                    let what = format!("extended attribute {:?}: {e}", xattr.name);
                    return Err(io::Error::new(e.kind(), what));
                }
            }
        }
        Ok(())
    }
}

/// Changes the mode of what is at a name, and never of what a link leads to. `mode` is told the one it
/// has.
pub(super) fn chmod_at(
    dir: impl AsFd,
    name: &[u8],
    mode: impl FnOnce(u32) -> Mode,
) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = disk::stat(&file)?;
    if stat.kind() == NodeKind::Symlink {
        return Err(Errno::LOOP.into());
    }
    // By its path: fchmod does not take what was opened without rights.
    Ok(rustix::fs::chmod(disk::path_of(&file), mode(stat.st_mode & 0o7777))?)
}

/// Rights that go with a file's owner are not given to a file that stays ours.
fn mode(node: &Node, owned: bool) -> Mode {
    let bits = if owned { node.permissions() } else { node.permissions() & 0o1777 };
    Mode::from_raw_mode(bits)
}

fn times(node: &Node) -> Timestamps {
    let spec = |time: crate::Time| Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: spec(node.atime), last_modification: spec(node.mtime) }
}

/// Takes the extended attributes and ACLs off an open file that its node has not: it stood there
/// before. An ACL goes before the mode is set, which it would have a part in.
pub(super) fn remove_other_xattrs(file: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
    for had in disk::xattrs(file)? {
        if of_its_place(&had.name) || node.xattrs.iter().any(|xattr| xattr.name == had.name) {
            continue;
        }
        match rustix::fs::fremovexattr(file, had.name.as_str()) {
            // What is not ours to remove was not ours to set.
            Ok(()) | Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// What the system gives to every new file by the place that it is made in.
fn of_its_place(name: &str) -> bool {
    ["security.selinux", "security.SMACK64", "btrfs."].iter().any(|own| name.starts_with(own))
}

/// Lets what is made in a directory that stood there inherit nothing; its own attributes come last.
pub(super) fn remove_default_acl(dir: impl AsFd) -> io::Result<()> {
    match rustix::fs::fremovexattr(dir, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Takes the ACLs off a directory or file that it inherited from the one it is in: what is made
/// below would inherit them in turn, and they may not even let us in.
pub(super) fn remove_inherited_acls(file: impl AsFd, mode: u32) -> io::Result<()> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match rustix::fs::fremovexattr(&file, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Opens the site's directories below a base (the site's own, or that of an older copy), and keeps
/// the last one: work comes sorted by directory.
pub(super) struct Handles<'a> {
    site: &'a Site,
    base: &'a OwnedFd,
    last: Option<(usize, OwnedFd)>,
}

impl<'a> Handles<'a> {
    pub(super) fn new(site: &'a Site, base: &'a OwnedFd) -> Handles<'a> {
        Handles { site, base, last: None }
    }

    pub(super) fn get(&mut self, at: usize) -> io::Result<BorrowedFd<'_>> {
        if at == 0 {
            return Ok(self.base.as_fd());
        }
        if self.last.as_ref().is_none_or(|(last, _)| *last != at) {
            let mut handle: Option<OwnedFd> = None;
            for name in self.site.names(at) {
                let within = handle.as_ref().unwrap_or(self.base);
                handle = Some(disk::open_dir_at(within, &name)?);
            }
            self.last = handle.map(|handle| (at, handle));
        }
        Ok(self.last.as_ref().map_or(self.base.as_fd(), |(_, handle)| handle.as_fd()))
    }
}

/// Makes a file that must not exist, readable by nobody else until it is finished.
pub(super) fn create_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?)
}

/// Opens a file that [`create_file`] has made.
pub(super) fn reopen_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Makes a directory that must not exist.
pub(super) fn create_dir(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))?;
    disk::open_dir_at(dir, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_mode_is_changed_through_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("a file");
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode));
        mode(0o640).expect("a mode");
        symlink(&file, dir.path().join("link")).expect("a link");
        let handle = disk::open_dir(dir.path()).expect("a handle");
        let change =
            |name: &str| chmod_at(&handle, name.as_bytes(), |had| Mode::from_raw_mode(had | 0o007));
        let has = || fs::metadata(&file).expect("a file").permissions().mode() & 0o7777;
        change("link").expect_err("a link");
        assert_eq!(has(), 0o640);
        change("file").expect("changed");
        assert_eq!(has(), 0o647);
        mode(0o600).expect("a mode");
    }
}
