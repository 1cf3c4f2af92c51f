//! Redo journals: what they change, that they change it once and for all, and what damage does.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::not_shown::not_shown;
use crate::rig::{Rig, noise};
use crate::trees::{archive, is_root, looks};
use mainstay_repository as repository;
use model::progress::Silent;
use model::{CancelToken, SnapshotId};
use repository::restore::{Options, Restored, Reuse, need, redo, restore};
use repository::{Error, TreeOptions};
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const LARGE: usize = 8 << 20;

/// How the files are cut. Where nothing of a file is as before, it is written anew, and cuts by content
/// can have that come of small changes.
fn in_fixed_places() -> TreeOptions {
    TreeOptions { chunk_bytes: NonZeroU64::new(256 << 10), ..TreeOptions::default() }
}

/// The journal at a path, whichever it is.
pub(crate) fn any(path: &Path) -> redo::Journal<'_> {
    redo::Journal { path, written: None }
}

/// A copy of a snapshot, a newer snapshot, and what of the newer one is staged beside the copy. On a
/// file system in memory, which never clones.
struct Case {
    rig: Rig,
    source: PathBuf,
    old: PathBuf,
    snapshots: [SnapshotId; 2],
}

impl Case {
    fn new() -> Option<Case> {
        let fill = |source: &Path| {
            fs::write(source.join("sub/disk"), noise(1, LARGE)).unwrap();
            fs::write(source.join("log"), noise(2, LARGE)).unwrap();
            fs::write(source.join("small"), "small").unwrap();
        };
        let change = |source: &Path| {
            let disk = File::options().write(true).open(source.join("sub/disk")).unwrap();
            disk.write_all_at(b"some other bytes", 5 << 20).unwrap();
            disk.write_all_at(&noise(3, 100_000), LARGE as u64 - 7).unwrap();
            let log = File::options().write(true).open(source.join("log")).unwrap();
            log.set_len(LARGE as u64 * 3 / 4).unwrap();
            fs::set_permissions(source.join("log"), fs::Permissions::from_mode(0o601)).unwrap();
            fs::write(source.join("small"), "other").unwrap();
        };
        Case::of(fill, change)
    }

    /// With a source that is filled so, and changed so before the newer snapshot.
    fn of(fill: impl Fn(&Path), change: impl Fn(&Path)) -> Option<Case> {
        // Elsewhere a clone may be had, and no journal is written.
        if !Path::new("/dev/shm").is_dir() {
            not_shown("there is no /dev/shm here");
            return None;
        }
        let rig = Rig::light();
        let source = rig.dir.path().join("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        fill(&source);
        let options = in_fixed_places();
        let first = archive(&rig, &source, None, &options).1;
        let old = rig.dir.path().join("old");
        let case = Case { rig, source, old, snapshots: [first, first] };
        case.restore(first, &case.old, None);
        change(&case.source);
        let second = archive(&case.rig, &case.source, Some(first), &options).1;
        Some(Case { snapshots: [first, second], ..case })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.rig.dir.path().join(name)
    }

    fn reuse<'a>(&'a self, journal: &'a Path) -> Reuse<'a> {
        let snapshot = self.snapshots[0];
        let (tree, redo) = (self.old.as_path(), Some(journal));
        Reuse { tree, snapshot, hard_links: true, redo, doubted: false }
    }

    fn restore(&self, snapshot: SnapshotId, to: &Path, reuse: Option<Reuse<'_>>) -> Restored {
        let (path, cancel) = (self.source.to_str().unwrap().as_bytes(), CancelToken::new());
        let options = Options { reuse, durable: true };
        restore(&self.rig.repository, snapshot, path, to, options, &Silent, &cancel).unwrap()
    }

    /// Stages the newer snapshot, with a journal.
    fn stage(&self) -> (PathBuf, PathBuf) {
        let (new, journal) = (self.path("new"), self.path("new.redo"));
        let done = self.restore(self.snapshots[1], &new, Some(self.reuse(&journal)));
        assert!(done.journal.is_some() && done.patched_files == 2, "{done:?}");
        // What differs, in whole blocks, and the small file.
        assert!((100_000..140_000).contains(&done.written_bytes), "{done:?}");
        assert_eq!(done.links.len(), 2);
        (new, journal)
    }

    #[track_caller]
    fn applied_twice_is_the_newer(&self) {
        let (new, journal) = self.stage();
        redo::apply(any(&journal), &new, &mut |_| ()).unwrap();
        redo::apply(any(&journal), &new, &mut |_| ()).unwrap();
        fs::remove_dir_all(&self.old).unwrap();
        assert_eq!(looks(&new), looks(&self.source));
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn large_files_are_changed_in_their_place_when_it_is_applied() {
    let Some(case) = Case::new() else { return };
    let bytes = || ["sub/disk", "log", "small"].map(|name| fs::read(case.old.join(name)).unwrap());
    let before = bytes();
    let cancel = CancelToken::new();
    let path = case.source.to_str().unwrap().as_bytes();
    let journal = case.path("other.redo");
    let (repository, second) = (&case.rig.repository, case.snapshots[1]);
    let need = need(repository, second, path, &case.reuse(&journal), &cancel).unwrap();
    assert!(!need.clones && need.bytes < LARGE as u64 * 3 / 2, "{need:?}");

    let (new, journal) = case.stage();
    // Nothing has changed yet, and what will be needed is set aside.
    assert!(bytes() == before);
    let reserve = case.path("new.redo.reserve");
    assert!(fs::metadata(&reserve).unwrap().len() >= 99_000);
    for name in ["sub/disk", "log"] {
        assert_eq!(inode(&new.join(name)), inode(&case.old.join(name)), "{name}");
    }
    assert_ne!(inode(&new.join("small")), inode(&case.old.join("small")));
    let mut records = 0;
    redo::apply(any(&journal), &new, &mut |count| records = count).unwrap();
    assert!(records >= 4, "{records}");
    assert!(!reserve.exists());
    let whole = case.path("whole");
    case.restore(case.snapshots[1], &whole, None);
    assert_eq!(fs::read(new.join("log")).unwrap(), fs::read(whole.join("log")).unwrap());
    redo::discard(&journal).unwrap();
    redo::discard(&journal).unwrap();
    assert!(!journal.exists());
    redo::apply(any(&journal), &new, &mut |_| panic!("there is none")).unwrap();
}

/// They are written anew even where nothing of them has changed, once for all their names.
#[test]
fn space_for_files_with_several_names_is_asked_for() {
    let fill = |source: &Path| {
        fs::create_dir_all(source.join("kept/below")).unwrap();
        fs::write(source.join("kept/below/one"), noise(1, LARGE)).unwrap();
        fs::hard_link(source.join("kept/below/one"), source.join("kept/two")).unwrap();
        fs::write(source.join("kept/alone"), noise(2, LARGE)).unwrap();
        fs::write(source.join("small"), "small").unwrap();
    };
    let change = |source: &Path| fs::write(source.join("small"), "other").unwrap();
    let Some(case) = Case::of(fill, change) else { return };
    let (new, journal) = (case.path("new"), case.path("new.redo"));
    let path = case.source.to_str().unwrap().as_bytes();
    let (repository, newer) = (&case.rig.repository, case.snapshots[1]);
    let need = need(repository, newer, path, &case.reuse(&journal), &CancelToken::new()).unwrap();
    let once = LARGE as u64..LARGE as u64 * 3 / 2;
    assert!(!need.clones && once.contains(&need.bytes), "{need:?}");
    let done = case.restore(newer, &new, Some(case.reuse(&journal)));
    assert!(once.contains(&done.written_bytes) && done.linked_files == 1, "{done:?}");
    assert!(need.bytes >= done.written_bytes, "{need:?} {done:?}");
}

#[test]
fn applied_it_is_the_newer_snapshot() {
    let Some(case) = Case::new() else { return };
    case.applied_twice_is_the_newer();
}

#[test]
fn what_it_made_read_only_is_written_to_again() {
    if is_root() {
        // Root may write to everything: as another user, in a process of its own.
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "redo::what_it_made_read_only_is_written_to_again"])
            .env_remove("TMPDIR")
            .current_dir("/")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}{output:?}");
        return;
    }
    let Some(mut case) = Case::new() else { return };
    fs::set_permissions(case.source.join("log"), fs::Permissions::from_mode(0o444)).unwrap();
    let first = Some(case.snapshots[0]);
    case.snapshots[1] = archive(&case.rig, &case.source, first, &in_fixed_places()).1;
    case.applied_twice_is_the_newer();
}

#[test]
fn a_file_with_another_name_is_written_anew() {
    let Some(case) = Case::new() else { return };
    // Somebody keeps the copy as it was, by links.
    let kept = case.path("kept");
    fs::hard_link(case.old.join("log"), &kept).unwrap();
    let before = fs::read(&kept).unwrap();
    let (new, journal) = (case.path("new"), case.path("new.redo"));
    let done = case.restore(case.snapshots[1], &new, Some(case.reuse(&journal)));
    assert_eq!(done.patched_files, 1, "{done:?}");
    redo::apply(any(&journal), &new, &mut |_| ()).unwrap();
    assert_ne!(inode(&new.join("log")), inode(&kept));
    assert!(fs::read(&kept).unwrap() == before);
    fs::remove_dir_all(&case.old).unwrap();
    assert_eq!(looks(&new), looks(&case.source));
}

#[test]
fn one_file_is_changed_in_its_place_too() {
    let Some(case) = Case::new() else { return };
    let (source, old) = (case.source.join("sub/disk"), case.old.join("sub/disk"));
    let (new, journal) = (case.path("one"), case.path("one.redo"));
    let (path, cancel) = (source.to_str().unwrap().as_bytes(), CancelToken::new());
    let (tree, redo_at) = (old.as_path(), Some(journal.as_path()));
    let snapshot = case.snapshots[0];
    let reuse = Some(Reuse { tree, snapshot, hard_links: true, redo: redo_at, doubted: false });
    let options = Options { reuse, durable: true };
    let second = case.snapshots[1];
    let done = restore(&case.rig.repository, second, path, &new, options, &Silent, &cancel);
    assert!(done.unwrap().journal.is_some());
    assert_eq!(inode(&new), inode(&old));
    redo::apply(any(&journal), &old, &mut |_| ()).unwrap();
    assert_eq!(fs::read(&old).unwrap(), fs::read(&source).unwrap());
    assert_eq!(fs::metadata(&old).unwrap().mtime(), fs::metadata(&source).unwrap().mtime());
}

#[test]
fn only_the_journal_that_was_written_here_is_applied() {
    let Some(case) = Case::new() else { return };
    let (new, path) = (case.path("new"), case.path("new.redo"));
    let done = case.restore(case.snapshots[1], &new, Some(case.reuse(&path)));
    let ours = redo::Journal { path: &path, written: done.journal };
    let before = looks(&new);
    // Another one that is as sound: its files have other times.
    let Some(elsewhere) = Case::new() else { return };
    let others = elsewhere.path("new.redo");
    let reuse = Some(elsewhere.reuse(&others));
    let done = elsewhere.restore(elsewhere.snapshots[1], &elsewhere.path("new"), reuse);
    assert!(done.journal.is_some() && done.journal != ours.written, "{done:?}");
    let (aside, applied) = (case.path("aside"), &mut |_| panic!("applied"));
    fs::rename(&path, &aside).unwrap();
    let mut refused = || {
        let error = redo::apply(ours, &new, applied).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. } | Error::Invalid(_)), "{error}");
        assert_eq!(looks(&new), before);
        fs::remove_file(&path).unwrap();
        error.to_string()
    };
    fs::copy(&others, &path).unwrap();
    assert!(refused().contains("another one than was written"));
    if is_root() {
        // What somebody else could write to while it is read.
        fs::copy(&aside, &path).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(refused().contains("belongs to user 65534"));
    }
    fs::rename(&aside, &path).unwrap();
    redo::apply(ours, &new, &mut |_| ()).unwrap();
    assert_ne!(looks(&new), before);
    // Not by way of a link.
    let moved = case.path("moved");
    fs::rename(&path, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &path).unwrap();
    redo::apply(ours, &new, &mut |_| panic!("applied")).unwrap_err();
}

#[test]
fn a_damaged_journal_changes_nothing() {
    let Some(case) = Case::new() else { return };
    let (new, journal) = case.stage();
    let before = looks(&new);
    let whole = fs::read(&journal).unwrap();
    let cut = (0..whole.len()).step_by(9973).chain([whole.len() - 1]);
    let mut damaged: Vec<Vec<u8>> = cut.map(|length| whole[..length].to_vec()).collect();
    for at in (0..whole.len()).step_by(7919).chain([whole.len() - 1]) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        damaged.push(flipped);
    }
    damaged.push([&whole[..], b"more"].concat());
    // A length that nobody should make room for.
    damaged.push([&b"mainstay redo 1\n"[..], &u32::MAX.to_le_bytes()].concat());
    for bytes in damaged {
        fs::write(&journal, &bytes).unwrap();
        let error = redo::apply(any(&journal), &new, &mut |_| panic!("applied")).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    assert_eq!(looks(&new), before);
    // Nor does a path that leads elsewhere.
    fs::remove_dir_all(new.join("sub")).unwrap();
    std::os::unix::fs::symlink(&case.old, new.join("sub")).unwrap();
    fs::write(&journal, &whole).unwrap();
    assert!(redo::apply(any(&journal), &new, &mut |_| ()).is_err());
}

/// Where most differs it is written without a look at what is there; that is as right, and where little
/// does, little is written, whatever came before.
#[test]
fn a_long_stretch_that_has_changed_and_single_blocks_that_have() {
    const BLOCK: u64 = 4096;
    const BLOB: u64 = 256 << 10;
    const MIB: usize = 1 << 20;
    let blocks: Vec<u64> = (0..30).map(|n| n * 2 * BLOB + 3 * BLOCK).collect();
    let fill = |source: &Path| {
        fs::write(source.join("a-long"), noise(1, 40 * MIB)).unwrap();
        fs::write(source.join("b-single"), noise(2, 20 * MIB)).unwrap();
        // Zeros where there was something, and something where zeros were.
        let mut holes = noise(3, 16 * MIB);
        holes[2 * MIB..6 * MIB].fill(0);
        fs::write(source.join("c-holes"), &holes).unwrap();
    };
    let change = |source: &Path| {
        let open = |name| File::options().write(true).open(source.join(name)).unwrap();
        // Three quarters of each blob.
        let long = open("a-long");
        for n in 0..64 {
            long.write_all_at(&noise(4, 192 << 10), 3 * MIB as u64 + n * BLOB).unwrap();
        }
        let single = open("b-single");
        for at in &blocks {
            single.write_all_at(&noise(*at, 100), *at).unwrap();
        }
        let holes = open("c-holes");
        holes.write_all_at(&noise(5, 2 * MIB), 3 * MIB as u64).unwrap();
        holes.write_all_at(&vec![0; 2 * MIB], 10 * MIB as u64).unwrap();
    };
    let Some(case) = Case::of(fill, change) else { return };
    let (new, journal) = (case.path("new"), case.path("new.redo"));
    let done = case.restore(case.snapshots[1], &new, Some(case.reuse(&journal)));
    assert_eq!(done.patched_files, 3, "{done:?}");
    // Of the blobs of which most differs all, but for those that were looked at; of the others what
    // differs, but for the first ones, before it is seen that a look pays there.
    let mib = MIB as u64;
    let (least, most) = (18 * mib, 20 * mib + 14 * BLOB);
    assert!((least..most).contains(&done.written_bytes), "{done:?}");
    redo::apply(any(&journal), &new, &mut |_| ()).unwrap();
    for name in ["a-long", "b-single", "c-holes"] {
        let bytes = |dir: &Path| fs::read(dir.join(name)).unwrap();
        assert!(bytes(&new) == bytes(&case.source), "{name}");
    }
}
