//! Trees on disk with everything that a tree can have, and how to compare two of them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::rig::{Rig, noise, snapshot_of};
use mainstay_repository as repository;
use model::progress::Silent;
use model::{CancelToken, SnapshotId};
use repository::restore::{Options, Restored, restore};
use repository::{Archiver, Compression, Error, Finished, LockKind, TreeOptions};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A rig with a source directory and a snapshot of it.
pub(crate) struct Case {
    pub(crate) rig: Rig,
    pub(crate) source: PathBuf,
    pub(crate) snapshot: SnapshotId,
}

impl Case {
    pub(crate) fn new(fill: impl FnOnce(&Path)) -> Case {
        let rig = Rig::new();
        let source = rig.dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        let (finished, snapshot) = archive(&rig, &source, None, &TreeOptions::default());
        assert_eq!(finished.problems, []);
        Case { rig, source, snapshot }
    }

    /// A place beside the source.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.rig.dir.path().join(name)
    }

    /// What the source is called in the snapshot.
    pub(crate) fn root(&self) -> &[u8] {
        self.source.as_os_str().as_bytes()
    }

    pub(crate) fn restore(&self, target: &Path, options: Options<'_>) -> Result<Restored, Error> {
        self.restore_from(self.snapshot, self.source.as_path(), target, options)
    }

    pub(crate) fn restore_from(
        &self,
        snapshot: SnapshotId,
        path: &Path,
        target: &Path,
        options: Options<'_>,
    ) -> Result<Restored, Error> {
        let path = path.as_os_str().as_bytes();
        let (repository, cancel) = (&self.rig.repository, CancelToken::new());
        restore(repository, snapshot, path, target, options, &Silent, &cancel)
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Sets access and modification time, of the link itself if it is one.
pub(crate) fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// An access ACL that gives user 1234 read access (the format is Linux's `posix_acl_xattr.h`).
pub(crate) fn acl() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1u16, 6u16, none), (2, 4, 1234), (4, 4, none), (0x10, 4, none), (0x20, 0, none)]
    {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Makes a tree with one of each.
pub(crate) fn rich_tree(root: &Path) {
    let dir = |path: &str| fs::create_dir_all(root.join(path)).unwrap();
    dir("empty");
    dir("a/deep/er/still");
    dir("closed");
    let write = |path: &[u8], content: &[u8]| {
        let path = root.join(OsStr::from_bytes(path));
        fs::write(&path, content).unwrap();
        path
    };
    write(b"nothing", b"");
    write(b"a/small", b"small");
    write(b"a/deep/er/still/file", b"deep down");
    write(b"a/large", &noise(1, 9 << 20));
    write(b"a/same-again", b"small");
    write(b"a/zeros", &vec![0; 3 << 20]);
    for name in [
        &b"new\nline"[..],
        b"bad\xff\xfe\x01",
        b"quote\"back\\slash",
        b" leading and trailing ",
        b"<&>",
        "\u{2028}\u{e9}\u{1f600}".as_bytes(),
        b"-rf",
        b"~",
        b"...",
        &[b'n'; 255],
    ] {
        write(name, name);
    }
    symlink("a/small", root.join("link")).unwrap();
    symlink("/nowhere/\u{e9}", root.join("dangling")).unwrap();
    symlink(".", root.join("a/loop")).unwrap();
    fs::hard_link(root.join("a/large"), root.join("a/deep/hard")).unwrap();
    fs::hard_link(root.join("a/small"), root.join("closed/hard")).unwrap();

    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(12 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 2_000_000).unwrap();
    sparse.write_all_at(b"far away", 9_000_000).unwrap();
    File::create(root.join("hole")).unwrap().set_len((4 << 20) + 77).unwrap();

    let mode = |path: &str, mode: u32| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .unwrap();
    xattr::set(root.join("a/small"), "user.comment", b"with \0 inside").unwrap();
    xattr::set(root.join("a/small"), "user.empty", b"").unwrap();
    xattr::set(root.join("a/deep"), "user.long", &noise(3, 2000)).unwrap();
    let with_acl = write(b"acl", b"for 1234");
    xattr::set(&with_acl, "system.posix_acl_access", &acl()).unwrap();
    xattr::set(root.join("empty"), "system.posix_acl_default", &acl()).unwrap();
    if is_root() {
        write(b"no-rights-at-all", b"");
        mode("no-rights-at-all", 0);
        let own = |path: &str, uid, gid| {
            std::os::unix::fs::lchown(root.join(path), Some(uid), Some(gid)).unwrap();
        };
        own("a/same-again", 1234, 5678);
        own("a/deep", 65534, 4_000_000_000);
        own("dangling", 1234, 1234);
        for (name, kind) in [("block", FileType::BlockDevice), ("char", FileType::CharacterDevice)]
        {
            let device = rustix::fs::makedev(7, 300);
            rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o600), device)
                .unwrap();
        }
        write(b"program", b"#!/bin/true");
        own("program", 1234, 5678);
        mode("program", 0o6755);
    } else {
        write(b"program", b"#!/bin/true");
        mode("program", 0o6755);
    }
    mode("a/zeros", 0o400);
    mode("a/deep/er", 0o2750);
    mode("empty", 0o1777);
    set_mtime(&root.join("a/small"), 1_234_567_890, 123_456_789);
    set_mtime(&root.join("nothing"), -86_400, 5);
    set_mtime(&root.join("link"), 1_000_000_000, 999_999_999);
    set_mtime(&root.join("sparse"), 4_102_444_800, 1);
    set_mtime(&root.join("fifo"), 1, 0);
    // Nobody but root could remove what is in a directory that is closed to writers.
    mode("closed", if is_root() { 0o500 } else { 0o711 });
    set_mtime(&root.join("a/deep/er"), 1_111_111_111, 7);
    set_mtime(&root.join("closed"), 1_000_000_001, 0);
    set_mtime(root, 1_600_000_000, 42);
}

/// Adds what restic 0.14 does not restore: it sets attributes of a symbolic link on what the link
/// leads to, makes hard links to links into links of their own, and loses bytes that are no UTF-8
/// in a link's target.
pub(crate) fn beyond_restic(root: &Path) {
    let mtime = fs::metadata(root).unwrap();
    fs::hard_link(root.join("link"), root.join("hard-link-to-link")).unwrap();
    symlink(OsStr::from_bytes(b"odd\xff\n"), root.join("odd-link")).unwrap();
    if is_root() {
        xattr::set(root.join("link"), "trusted.on-a-link", b"x").unwrap();
    }
    set_mtime(root, mtime.mtime(), mtime.mtime_nsec());
}

/// What two trees must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Looks {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) device: u64,
    pub(crate) target: Option<PathBuf>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same inode.
    pub(crate) linked_to: Option<String>,
    pub(crate) content: Option<(u64, String)>,
}

/// Everything below `root`, by path. Two trees are the same if this is.
pub(crate) fn looks(root: &Path) -> BTreeMap<String, Looks> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut open = vec![(root.to_owned(), String::from("."))];
    while let Some((path, name)) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mut linked_to = None;
        if meta.nlink() > 1 && !kind.is_dir() {
            let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
            linked_to = Some(first.clone());
        }
        let mut xattrs = BTreeMap::new();
        for attribute in xattr::list(&path).unwrap() {
            let value = xattr::get(&path, &attribute).unwrap().unwrap();
            xattrs.insert(attribute.as_bytes().to_vec(), value);
        }
        let special = kind.is_block_device() || kind.is_char_device();
        let looks = Looks {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            device: if special { meta.rdev() } else { 0 },
            target: kind.is_symlink().then(|| fs::read_link(&path).unwrap()),
            xattrs,
            linked_to,
            content: (kind.is_file() && (is_root() || meta.mode() & 0o400 != 0)).then(|| {
                let content = fs::read(&path).unwrap();
                (meta.len(), hex::encode(Sha256::digest(content)))
            }),
        };
        found.insert(name.clone(), looks);
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap()).collect();
            names.sort_by_key(|entry| entry.file_name());
            for entry in names.into_iter().rev() {
                let below = entry.file_name().as_bytes().escape_ascii().to_string();
                open.push((entry.path(), format!("{name}/{below}")));
            }
        }
    }
    found
}

/// Fails with the paths that differ, rather than with two trees.
pub(crate) fn assert_same(expected: &Path, actual: &Path) {
    same(&looks(expected), &looks(actual));
}

/// The same of what was looked at.
#[track_caller]
pub(crate) fn same(expected: &BTreeMap<String, Looks>, actual: &BTreeMap<String, Looks>) {
    let mut wrong = Vec::new();
    for (path, looks) in expected {
        match actual.get(path) {
            None => wrong.push(format!("{path} is missing")),
            Some(other) if other != looks => {
                wrong.push(format!("{path}\n  was {looks:?}\n  is  {other:?}"));
            }
            Some(_) => {}
        }
    }
    wrong.extend(
        actual.keys().filter(|p| !expected.contains_key(*p)).map(|p| format!("{p} is new")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An archiver of the rig's repository.
pub(crate) fn archiver(rig: &Rig, parent: Option<SnapshotId>) -> Archiver {
    Archiver::new(
        &rig.repository,
        parent,
        Compression::default(),
        Arc::new(Silent),
        CancelToken::new(),
    )
    .unwrap()
}

/// Archives one tree as its own path.
pub(crate) fn archive(
    rig: &Rig,
    source: &Path,
    parent: Option<SnapshotId>,
    options: &TreeOptions,
) -> (Finished, SnapshotId) {
    let mut archiver = archiver(rig, parent);
    archiver.tree(source.to_str().unwrap(), source, options).unwrap();
    let finished = archiver.finish().unwrap();
    let id = save(rig, &finished, source);
    (finished, id)
}

/// Makes a snapshot of what an archiver has finished.
pub(crate) fn save(rig: &Rig, finished: &Finished, source: &Path) -> SnapshotId {
    let mut snapshot = snapshot_of(finished.tree.parse().unwrap());
    snapshot.paths = vec![source.to_str().unwrap().to_owned()];
    rig.repository.save_snapshot(&rig.lock(LockKind::Shared), &snapshot).unwrap()
}

/// Runs something as a user who is not root, in a thread of its own (rights belong to threads, and
/// those that it starts inherit them).
pub(crate) fn as_nobody(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = || {
            if is_root() {
                use rustix::process::{Gid, Uid};
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_gid(Gid::from_raw(65534)).unwrap();
                rustix::thread::set_thread_uid(Uid::from_raw(65534)).unwrap();
            }
            assert!(!is_root());
            run();
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}
