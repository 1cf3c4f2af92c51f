//! The kernel's requests, each handed on to a view, and its answer in the kernel's words.

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr,
    Request,
};
use repository::view::{Attributes, Entry, Fault, Seek, View};
use repository::{NodeKind, Time};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

/// How long the kernel may believe what is part of a snapshot, which never changes.
const LASTING: Duration = Duration::from_secs(24 * 60 * 60);
/// And what is above.
const PASSING: Duration = Duration::from_secs(1);
/// How far the kernel may read ahead: into the next blob, usually.
const READ_AHEAD: u32 = 1 << 20;
/// What is said to be a good size for reading.
const BLOCK_BYTES: u32 = 128 << 10;
/// Unit of `st_blocks`.
const SECTOR_BYTES: u64 = 512;
/// The longest name that is shown (Linux' `NAME_MAX`).
const NAME_MAX: u32 = 255;
/// `lseek`: from linux/fs.h.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// A view that a kernel asks.
pub(super) struct Shown {
    pub(super) view: View,
    /// Who owns what is no part of a snapshot.
    pub(super) owner: (u32, u32),
}

impl Shown {
    fn attributes(&self, of: &Attributes) -> FileAttr {
        let (uid, gid) = of.owner.unwrap_or(self.owner);
        FileAttr {
            ino: INodeNo(of.number),
            size: of.size,
            blocks: of.allocated.div_ceil(SECTOR_BYTES),
            atime: instant(of.atime),
            mtime: instant(of.mtime),
            ctime: instant(of.ctime),
            crtime: instant(of.ctime),
            kind: kind(of.kind),
            perm: u16::try_from(of.permissions & 0o7777).unwrap_or_default(),
            nlink: u32::try_from(of.links).unwrap_or(u32::MAX),
            uid,
            gid,
            rdev: device(of.device),
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    /// The entries of an open directory from an offset on, each with the offset of the next.
    fn from(
        &self,
        handle: FileHandle,
        offset: u64,
        mut take: impl FnMut(&Entry, u64) -> bool,
    ) -> Result<(), Errno> {
        let entries = self.view.listing(handle.0).map_err(|fault| errno(&fault))?;
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, entry) in entries.iter().enumerate().skip(first) {
            if take(entry, at as u64 + 1) {
                break;
            }
        }
        Ok(())
    }
}

impl Filesystem for Shown {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if let Err(most) = config.set_max_readahead(READ_AHEAD) {
            let _ = config.set_max_readahead(most);
        }
        // What a kernel has not got, it goes without.
        for flag in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ] {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.view.lookup(parent.0, name.as_bytes()) {
            Ok(found) => reply.entry(&ttl(&found), &self.attributes(&found), Generation(0)),
            Err(fault) => reply.error(errno(&fault)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.view.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.attributes(ino.0) {
            Ok(found) => reply.attr(&ttl(&found), &self.attributes(&found)),
            Err(fault) => reply.error(errno(&fault)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.view.read_link(ino.0) {
            Ok(target) => reply.data(&target),
            Err(fault) => reply.error(errno(&fault)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.view.open(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
            Err(fault) => reply.error(errno(&fault)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.view.read(handle.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(fault) => reply.error(errno(&fault)),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.view.close(handle.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.view.open_dir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(fault) => reply.error(errno(&fault)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let done = self.from(handle, offset, |entry, next| {
            let name = OsStr::from_bytes(&entry.name);
            reply.add(INodeNo(entry.number), next, kind(entry.kind), name)
        });
        match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let done = self.from(handle, offset, |entry, next| {
            let name = OsStr::from_bytes(&entry.name);
            // The kernel takes no hold of these two.
            if matches!(&entry.name[..], b"." | b"..") {
                let Ok(found) = self.view.attributes(ino.0) else { return false };
                let found = Attributes { number: entry.number, ..found };
                let attributes = self.attributes(&found);
                return reply.add(attributes.ino, next, name, &PASSING, &attributes, Generation(0));
            }
            // What cannot be looked up now is missing here and an error when it is asked for.
            let Ok(found) = self.view.lookup(ino.0, &entry.name) else { return false };
            let attributes = self.attributes(&found);
            let (ino, ttl) = (attributes.ino, ttl(&found));
            let full = reply.add(ino, next, name, &ttl, &attributes, Generation(0));
            if full {
                self.view.forget(found.number, 1);
            }
            full
        });
        match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.view.close(handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // Nothing is free, nothing is used: it is somebody else's disk.
        reply.statfs(0, 0, 0, 0, 0, BLOCK_BYTES, NAME_MAX, BLOCK_BYTES);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.view.attribute(ino.0, name.as_bytes()) {
            Ok(value) => sized(&value, size, reply),
            Err(fault) => reply.error(errno(&fault)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.view.attribute_names(ino.0) {
            Ok(names) => {
                let list = names.iter().flat_map(|name| name.bytes().chain([0]));
                sized(&list.collect::<Vec<u8>>(), size, reply);
            }
            Err(fault) => reply.error(errno(&fault)),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            SEEK_DATA => Seek::Data,
            SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.view.seek(handle.0, offset, what) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(fault) => reply.error(errno(&fault)),
        }
    }
}

fn sized(bytes: &[u8], room: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(length) if room == 0 => reply.size(length),
        Ok(length) if length <= room => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

fn ttl(of: &Attributes) -> Duration {
    if of.lasting { LASTING } else { PASSING }
}

fn errno(fault: &Fault) -> Errno {
    match fault {
        Fault::NotFound => Errno::ENOENT,
        Fault::NotADirectory => Errno::ENOTDIR,
        Fault::IsADirectory => Errno::EISDIR,
        Fault::Invalid => Errno::EINVAL,
        Fault::NoAttribute => Errno::ENODATA,
        Fault::NoSuchOffset => Errno::ENXIO,
        Fault::NotOpen => Errno::EBADF,
        Fault::Unreadable => Errno::EIO,
    }
}

fn kind(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Dev => FileType::BlockDevice,
        NodeKind::CharDev => FileType::CharDevice,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        // The last kind is never shown.
        NodeKind::File | NodeKind::Irregular => FileType::RegularFile,
    }
}

fn instant(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(time.nanos.into());
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = match time.seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds),
    };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A device number as the kernel's protocol has it: 12 bits of the major number between 20 of the
/// minor (linux/kdev_t.h, `new_encode_dev`).
fn device(number: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}
