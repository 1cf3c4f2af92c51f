//! The file system of this machine, by handles of directories.
//!
//! Everything is named by an open directory and one name in it, and no symbolic link is followed:
//! whoever can write to a tree while we walk it (as root) cannot lead us out of it.

use crate::{NodeKind, Xattr};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the system knows about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) st_mode: u32,
    pub(crate) links: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The device that a device node stands for.
    pub(crate) special: u64,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) ctime: (i64, u32),
}

impl Stat {
    pub(crate) fn kind(&self) -> NodeKind {
        NodeKind::from_st_mode(self.st_mode)
    }

    /// Whether nobody wrote to the file between the two, as far as the system tells.
    pub(crate) fn same_state(&self, later: &Stat) -> bool {
        (self.device, self.inode, self.st_mode, self.size, self.mtime, self.ctime)
            == (later.device, later.inode, later.st_mode, later.size, later.mtime, later.ctime)
    }
}

#[allow(clippy::unnecessary_cast, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
impl From<rustix::fs::Stat> for Stat {
    // The widths of these fields differ between architectures; nanoseconds fit 32 bits.
    fn from(stat: rustix::fs::Stat) -> Self {
        Stat {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            st_mode: stat.st_mode as u32,
            links: stat.st_nlink as u64,
            uid: stat.st_uid,
            gid: stat.st_gid,
            special: stat.st_rdev as u64,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }
    }
}

/// Looks at an open file.
pub(crate) fn stat(file: impl AsFd) -> io::Result<Stat> {
    Ok(rustix::fs::fstat(file)?.into())
}

/// Looks at a name in a directory.
pub(crate) fn stat_at(dir: impl AsFd, name: &[u8]) -> io::Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.into())
}

/// Looks at what a name in a directory leads to.
pub(crate) fn stat_behind(dir: impl AsFd, name: &[u8]) -> io::Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::empty())?.into())
}

/// Opens a directory that a path leads to, through symbolic links if there are any.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens a directory in a directory.
pub(crate) fn open_dir_at(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens a file in a directory for reading, and looks at it. The caller has seen a regular file
/// there, but it may have become something else since: opening a FIFO does not wait for a writer,
/// and the caller must look at the kind again.
pub(crate) fn open_file_at(dir: impl AsFd, name: &[u8]) -> io::Result<(OwnedFd, Stat)> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = stat(&file)?;
    Ok((file, stat))
}

/// All names in a directory, sorted by their bytes.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    let mut entries = rustix::fs::Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.into()),
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The target of a symbolic link.
pub(crate) fn link_target_at(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// A path to a name in an open directory, for calls that take nothing but paths. The last part is
/// not followed by the calls used with it, and the part before is the open directory itself.
pub(crate) fn path_at(dir: impl AsFd, name: &[u8]) -> PathBuf {
    let mut path = path_of(dir);
    path.push(std::ffi::OsStr::from_bytes(name));
    path
}

/// A path to what is open, for calls that take nothing but paths and follow this one.
pub(crate) fn path_of(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// The extended attributes of a name in a directory, in the system's order.
pub(crate) fn xattrs_at(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<Xattr>> {
    let path = path_at(dir, name);
    xattrs_by(
        |list| rustix::fs::llistxattr(&path, list),
        |name, value| rustix::fs::lgetxattr(&path, name, value),
    )
}

/// The extended attributes of an open file or directory.
pub(crate) fn xattrs(file: impl AsFd) -> io::Result<Vec<Xattr>> {
    let file = file.as_fd();
    xattrs_by(
        |list| rustix::fs::flistxattr(file, list),
        |name, value| rustix::fs::fgetxattr(file, name, value),
    )
}

fn xattrs_by(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&str, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<Xattr>> {
    let names = match filled(&list) {
        Ok(names) => names,
        // The file system has none.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = std::str::from_utf8(name).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "an extended attribute has a name that is not UTF-8",
            )
        })?;
        match filled(&|value| get(name, value)) {
            Ok(value) => found.push(Xattr { name: name.to_owned(), value }),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

/// Calls with a small buffer, and with the largest that Linux can fill if that is too small.
fn filled(call: &dyn Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match call(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; 64 << 10];
            let length = call(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

/// How long a file system may give out the same time stamp: one tick of the kernel's clock (at most
/// 10 ms), and as much again.
pub(crate) const TICK: std::time::Duration = std::time::Duration::from_millis(20);

/// Whether a file could be written to now and keep the time stamp that it has.
pub(crate) fn is_fresh(ctime: (i64, u32)) -> bool {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let age = i128::from(now.tv_sec - ctime.0) * 1_000_000_000 + i128::from(now.tv_nsec)
        - i128::from(ctime.1);
    let tick = i128::try_from(TICK.as_nanos()).unwrap_or(0);
    (-tick..tick).contains(&age)
}

/// A path as text for people.
pub(crate) fn shown(path: &[u8]) -> String {
    crate::format::tree::quoted(path)
}
