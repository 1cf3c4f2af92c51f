//! Copies that are brought to another snapshot in their place: what that changes and what it leaves,
//! wherever it is interrupted.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::redo::any;
use crate::rig::{Rig, noise};
use crate::trees::{archive, as_nobody, assert_same, beyond_restic, is_root, looks, rich_tree};
use crate::trees::{same, set_mtime};
use mainstay_repository as repository;
use model::progress::Silent;
use model::{CancelToken, SnapshotId};
use repository::restore::redo::{self, Touched};
use repository::restore::{
    Amend, Extent, Holds, Options, Restored, Reuse, amend, differences_but_links, extent,
    recorded_entries, restore, update_manifest,
};
use repository::{Error, TreeOptions, differences, record_manifest};
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const LARGE: usize = 8 << 20;

/// A copy of a snapshot, and a newer one.
struct Case {
    rig: Rig,
    source: PathBuf,
    copy: PathBuf,
    snapshots: [SnapshotId; 2],
}

impl Case {
    /// In memory, which never clones, where there is such a place.
    fn new(fill: impl Fn(&Path), change: impl Fn(&Path)) -> Case {
        Case::on(Rig::light(), fill, change)
    }

    fn on(rig: Rig, fill: impl Fn(&Path), change: impl Fn(&Path)) -> Case {
        let source = rig.dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        let first = archive(&rig, &source, None, &in_fixed_places()).1;
        change(&source);
        let second = archive(&rig, &source, Some(first), &in_fixed_places()).1;
        let copy = rig.dir.path().join("copy");
        let case = Case { rig, source, copy, snapshots: [first, second] };
        case.make_copy();
        case
    }

    /// Makes the copy of the first snapshot, in the place of whatever is there.
    fn make_copy(&self) {
        for closed in ["changed/closed", "changed/newer"] {
            let closed = self.copy.join(closed);
            if closed.is_dir() {
                mode(&closed, 0o755);
            }
        }
        let _ = fs::remove_dir_all(&self.copy);
        let (repository, cancel) = (&self.rig.repository, CancelToken::new());
        let options = Options { durable: true, ..Options::default() };
        let first = self.snapshots[0];
        restore(repository, first, self.root(), &self.copy, options, &Silent, &cancel).unwrap();
    }

    fn root(&self) -> &[u8] {
        self.source.to_str().unwrap().as_bytes()
    }

    fn staged(&self) -> PathBuf {
        self.rig.dir.path().join("copy.staged")
    }

    fn journal(&self) -> PathBuf {
        self.rig.dir.path().join("copy.staged.redo")
    }

    fn extent(&self, most: u64) -> Option<Extent> {
        let journal = self.journal();
        let reuse = Reuse {
            tree: &self.copy,
            snapshot: self.snapshots[0],
            hard_links: true,
            redo: Some(&journal),
            doubted: false,
        };
        let (repository, cancel) = (&self.rig.repository, CancelToken::new());
        extent(repository, self.snapshots[1], self.root(), &reuse, most, &cancel).unwrap()
    }

    fn stage_at(
        &self,
        staged: &Path,
        journal: &Path,
        holds: Option<Holds>,
    ) -> Result<Restored, Error> {
        let (repository, cancel) = (&self.rig.repository, CancelToken::new());
        let what = Amend { tree: &self.copy, staged, journal, holds };
        amend(repository, self.snapshots[1], self.root(), &what, &Silent, &cancel)
    }

    /// Stages what the trees say.
    fn stage(&self) -> Restored {
        let links = self.extent(u64::MAX).unwrap().links;
        let holds = Holds { snapshot: self.snapshots[0], doubted: false, links };
        let done = self.stage_at(&self.staged(), &self.journal(), Some(holds)).unwrap();
        assert!(done.journal.is_some());
        done
    }

    /// Stages what the copy itself says.
    fn stage_by_sight(&self) -> Restored {
        let holds = Holds { snapshot: self.snapshots[0], doubted: true, links: true };
        self.stage_at(&self.staged(), &self.journal(), Some(holds)).unwrap()
    }

    fn apply(&self, applied: &mut dyn FnMut(u64)) -> Result<(), Error> {
        redo::apply_staged(any(&self.journal()), &self.staged(), &self.copy, applied)
    }

    fn discard(&self) {
        fs::remove_dir_all(self.staged()).unwrap();
        redo::discard(&self.journal()).unwrap();
    }
}

fn in_fixed_places() -> TreeOptions {
    TreeOptions { chunk_bytes: NonZeroU64::new(256 << 10), ..TreeOptions::default() }
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A bit of everything, none with several names.
fn fill(source: &Path) {
    for dir in ["kept/deep", "changed/closed", "gone/below", "becomes-a-file/x", "attributes"] {
        fs::create_dir_all(source.join(dir)).unwrap();
    }
    for file in [
        "kept/deep/same",
        "kept/too",
        "changed/other",
        "changed/closed/gone",
        "changed/closed/stays",
        "gone/below/this",
        "becomes-a-file/x/y",
        "becomes-a-dir",
        "attributes/same",
        "mode",
        "to-a-link",
    ] {
        fs::write(source.join(file), file).unwrap();
    }
    symlink("kept", source.join("link")).unwrap();
    symlink("kept", source.join("same-link")).unwrap();
    fs::write(source.join("changed/large"), noise(1, LARGE)).unwrap();
    mode(&source.join("changed/closed"), 0o555);
}

fn change(source: &Path) {
    fs::write(source.join("changed/other"), "another").unwrap();
    fs::write(source.join("changed/new"), "new").unwrap();
    fs::create_dir_all(source.join("changed/newer/deep")).unwrap();
    fs::write(source.join("changed/newer/deep/file"), "deep").unwrap();
    mode(&source.join("changed/newer"), 0o555);
    mode(&source.join("changed/closed"), 0o755);
    fs::remove_file(source.join("changed/closed/gone")).unwrap();
    fs::write(source.join("changed/closed/come"), "come").unwrap();
    mode(&source.join("changed/closed"), 0o555);
    fs::remove_dir_all(source.join("gone")).unwrap();
    fs::remove_dir_all(source.join("becomes-a-file")).unwrap();
    fs::write(source.join("becomes-a-file"), "a file").unwrap();
    fs::remove_file(source.join("becomes-a-dir")).unwrap();
    fs::create_dir(source.join("becomes-a-dir")).unwrap();
    fs::write(source.join("becomes-a-dir/x"), "x").unwrap();
    mode(&source.join("attributes"), 0o700);
    mode(&source.join("mode"), 0o640);
    fs::remove_file(source.join("to-a-link")).unwrap();
    symlink("mode", source.join("to-a-link")).unwrap();
    fs::remove_file(source.join("link")).unwrap();
    symlink("mode", source.join("link")).unwrap();
    let large = File::options().write(true).open(source.join("changed/large")).unwrap();
    large.write_all_at(&noise(2, 100_000), 5 << 20).unwrap();
    large.write_all_at(b"it grows", LARGE as u64).unwrap();
}

#[test]
fn it_is_the_newer_snapshot_afterwards_and_the_older_one_before() {
    let case = Case::new(fill, change);
    let before = looks(&case.copy);
    let kept = inode(&case.copy.join("kept/deep/same"));
    let done = case.stage();
    same(&before, &looks(&case.copy));
    // What did not change costs nothing.
    assert_eq!((done.linked_files, done.links.len()), (0, 0), "{done:?}");
    assert!(!case.staged().join("kept").exists());
    assert!(done.written_bytes < 1 << 20, "{done:?}");
    case.apply(&mut |_| ()).unwrap();
    assert_same(&case.source, &case.copy);
    assert_eq!(inode(&case.copy.join("kept/deep/same")), kept);
    case.apply(&mut |_| ()).unwrap();
    case.discard();
    // As it is done when the staged files are gone already, and the journal is not.
    case.apply(&mut |_| panic!("there is no journal")).unwrap();
    assert_same(&case.source, &case.copy);
}

#[test]
fn with_everything_that_a_tree_can_have() {
    let fill = |source: &Path| {
        rich_tree(source);
        beyond_restic(source);
    };
    let change = |source: &Path| {
        fs::write(source.join("a/deep/new"), "new").unwrap();
        fs::remove_file(source.join("nothing")).unwrap();
        let large = File::options().write(true).open(source.join("a/large")).unwrap();
        large.write_all_at(b"changed", 4 << 20).unwrap();
        mode(&source.join("a/same-again"), 0o611);
        fs::remove_file(source.join("program")).unwrap();
        fs::create_dir(source.join("program")).unwrap();
        fs::write(source.join("program/x"), "x").unwrap();
        fs::remove_dir(source.join("empty")).unwrap();
        symlink("a", source.join("empty")).unwrap();
        // Names of one file come and go.
        fs::hard_link(source.join("sparse"), source.join("sparse-again")).unwrap();
        fs::remove_file(source.join("hard-link-to-link")).unwrap();
        fs::create_dir(source.join("newer")).unwrap();
        fs::hard_link(source.join("a/zeros"), source.join("newer/zeros")).unwrap();
        fs::remove_file(source.join("fifo")).unwrap();
        xattr::set(source.join("a/deep"), "user.long", b"short").unwrap();
    };
    let case = Case::on(Rig::new(), fill, change);
    let extent = case.extent(u64::MAX).unwrap();
    assert!(extent.links, "{extent:?}");
    case.stage();
    case.apply(&mut |_| ()).unwrap();
    assert_same(&case.source, &case.copy);
    case.discard();
    // And by sight.
    case.make_copy();
    case.stage_by_sight();
    case.apply(&mut |_| ()).unwrap();
    assert_same(&case.source, &case.copy);
}

#[test]
fn what_differs_is_counted() {
    let case = Case::new(fill, change);
    let found = case.extent(u64::MAX).unwrap();
    // Of `change` these are: other, new, newer with two below it, gone and come of closed, gone, two that
    // became something else and what is in one of them, mode, two links, large.
    assert_eq!((found.names, found.links), (15, false), "{found:?}");
    assert_eq!(case.extent(15), Some(found));
    assert_eq!(case.extent(14), None);
    let same = Case::new(fill, |_| ());
    assert_eq!(same.extent(0), Some(Extent::default()));
}

fn interrupted_everywhere() {
    let case = Case::new(fill, change);
    let mut records = 0;
    case.stage();
    case.apply(&mut |count| records = count).unwrap();
    case.discard();
    assert!(records >= 15, "{records}");
    for stop in 1..=records {
        case.make_copy();
        case.stage();
        let died = catch_unwind(AssertUnwindSafe(|| {
            let mut stop_there = |count| assert!(count != stop, "stopped");
            case.apply(&mut stop_there)
        }));
        assert!(died.is_err(), "{stop}");
        case.apply(&mut |_| ()).unwrap();
        assert_same(&case.source, &case.copy);
        case.discard();
    }
}

#[test]
fn it_is_brought_to_its_end_wherever_it_was_interrupted() {
    interrupted_everywhere();
}

#[test]
fn also_without_the_rights_of_root() {
    as_nobody(interrupted_everywhere);
}

#[test]
fn what_is_staged_may_lie_in_the_copy() {
    let case = Case::new(fill, change);
    let (staged, journal) = (case.copy.join(".own-1"), case.copy.join(".own-1.redo"));
    let manifest = case.rig.dir.path().join("manifest");
    record_manifest(&case.copy, &manifest).unwrap();
    let links = case.extent(u64::MAX).unwrap().links;
    for doubted in [false, true] {
        let holds = Holds { snapshot: case.snapshots[0], doubted, links };
        let done = case.stage_at(&staged, &journal, Some(holds)).unwrap();
        let (times, none) = (Default::default(), Default::default());
        let found = differences_but_links(&case.copy, &manifest, &times, &none, &staged, 9);
        assert_eq!(found.unwrap(), [], "what is ours is no difference");
        redo::apply_staged(any(&journal), &staged, &case.copy, &mut |_| ()).unwrap();
        fs::remove_dir_all(&staged).unwrap();
        redo::discard(&journal).unwrap();
        let root = fs::metadata(&case.source).unwrap();
        set_mtime(&case.copy, root.mtime(), root.mtime_nsec());
        assert_same(&case.source, &case.copy);
        let ours = |touched: &Touched| touched.path.starts_with(b".own");
        assert!(!done.touched.iter().any(ours), "{done:?}");
        case.make_copy();
        record_manifest(&case.copy, &manifest).unwrap();
    }
}

#[test]
fn an_empty_directory_is_filled() {
    let case = Case::new(fill, change);
    fs::remove_dir_all(&case.copy).unwrap();
    fs::create_dir_all(case.copy.join("lost+found")).unwrap();
    case.stage_at(&case.staged(), &case.journal(), None).unwrap();
    case.apply(&mut |_| ()).unwrap();
    fs::remove_dir(case.copy.join("lost+found")).unwrap();
    let root = fs::metadata(&case.source).unwrap();
    set_mtime(&case.copy, root.mtime(), root.mtime_nsec());
    assert_same(&case.source, &case.copy);
}

#[test]
fn a_copy_that_nobody_knows_is_looked_at() {
    let case = Case::new(fill, change);
    let copy = |name: &str| case.copy.join(name);
    // Another size, other bytes with the same times, and what is there that should not be.
    fs::write(copy("kept/too"), "longer than it was").unwrap();
    let same = fs::metadata(copy("kept/deep/same")).unwrap();
    fs::write(copy("kept/deep/same"), "kept/deep/SAME").unwrap();
    set_mtime(&copy("kept/deep/same"), same.mtime(), same.mtime_nsec());
    fs::create_dir_all(copy("kept/foreign/below")).unwrap();
    fs::write(copy("kept/foreign/below/x"), "x").unwrap();
    fs::write(copy("another"), "x").unwrap();
    fs::remove_file(copy("mode")).unwrap();
    fs::create_dir(copy("mode")).unwrap();
    fs::create_dir(copy("lost+found")).unwrap();
    let untouched = inode(&copy("attributes/same"));
    case.stage_by_sight();
    case.apply(&mut |_| ()).unwrap();
    // What a file system has of its own is left to it.
    fs::remove_dir(copy("lost+found")).unwrap();
    let root = fs::metadata(&case.source).unwrap();
    set_mtime(&case.copy, root.mtime(), root.mtime_nsec());
    assert_same(&case.source, &case.copy);
    assert_eq!(inode(&copy("attributes/same")), untouched);
}

#[test]
fn its_manifest_is_brought_on_too() {
    let case = Case::new(fill, change);
    let (manifest, anew) =
        (case.rig.dir.path().join("manifest"), case.rig.dir.path().join("manifest-anew"));
    record_manifest(&case.copy, &manifest).unwrap();
    let done = case.stage();
    case.apply(&mut |_| ()).unwrap();
    case.discard();
    update_manifest(&case.copy, &manifest, &done.touched).unwrap();
    record_manifest(&case.copy, &anew).unwrap();
    assert_eq!(fs::read_to_string(&manifest).unwrap(), fs::read_to_string(&anew).unwrap());
    assert_eq!(recorded_entries(&manifest).unwrap(), looks(&case.copy).len() as u64);
    assert_eq!(differences(&case.copy, &manifest, 9).unwrap(), []);
}

#[test]
fn what_somebody_wrote_meanwhile_still_shows() {
    let case = Case::new(fill, change);
    let manifest = case.rig.dir.path().join("manifest");
    record_manifest(&case.copy, &manifest).unwrap();
    let done = case.stage();
    case.apply(&mut |_| ()).unwrap();
    case.discard();
    fs::write(case.copy.join("kept/too"), "by somebody").unwrap();
    fs::write(case.copy.join("kept/foreign"), "by somebody").unwrap();
    fs::remove_file(case.copy.join("same-link")).unwrap();
    update_manifest(&case.copy, &manifest, &done.touched).unwrap();
    let found = differences(&case.copy, &manifest, 9).unwrap();
    let told: Vec<(&str, &str)> =
        found.iter().map(|found| (found.path.as_str(), found.what.as_str())).collect();
    let expected = [("kept/foreign", "new"), ("kept/too", "changed"), ("same-link", "gone")];
    assert_eq!(told, expected);
}

#[test]
fn a_damaged_journal_changes_nothing_and_lost_files_are_told() {
    let case = Case::new(fill, change);
    case.stage();
    let before = looks(&case.copy);
    let whole = fs::read(case.journal()).unwrap();
    for at in (0..whole.len()).step_by(1237) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(case.journal(), &damaged).unwrap();
        let error = case.apply(&mut |_| panic!("applied")).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    same(&before, &looks(&case.copy));
    fs::write(case.journal(), &whole).unwrap();
    // One of the journals that only write to files needs nothing that is staged.
    let error = redo::apply(any(&case.journal()), &case.copy, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("nothing was staged"), "{error}");
    fs::remove_file(case.staged().join("changed/new")).unwrap();
    let error = case.apply(&mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("put in place"), "{error}");
}

#[test]
fn no_link_leads_out_of_the_copy() {
    let case = Case::new(fill, change);
    case.stage();
    let outside = case.rig.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("other"), "not ours").unwrap();
    if !is_root() {
        mode(&case.copy.join("changed/closed"), 0o755);
    }
    fs::remove_dir_all(case.copy.join("changed")).unwrap();
    symlink(&outside, case.copy.join("changed")).unwrap();
    assert!(case.apply(&mut |_| ()).is_err());
    assert_eq!(fs::read(outside.join("other")).unwrap(), b"not ours");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}
