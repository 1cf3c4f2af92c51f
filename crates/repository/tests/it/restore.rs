//! Restores: exact, safe, and with what an older copy has.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::rig::{Rig, noise, snapshot_of};
use crate::trees::{
    Case, acl, archive, archiver, assert_same, beyond_restic, rich_tree, save, set_mtime,
};
use mainstay_repository as repository;
use model::{CancelToken, Progress, SnapshotId};
use repository::restore::{Options, Reuse};
use repository::{BlobKind, Error, Node, Tree, TreeId, TreeOptions};
use std::fs::{self, File};
use std::io::Read;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

#[test]
fn a_restored_tree_is_the_archived_tree_with_everything_it_had() {
    let case = Case::new(|source| {
        rich_tree(source);
        beyond_restic(source);
    });
    let target = case.path("target");
    let restored = case.restore(&target, Options { durable: true, ..Options::default() }).unwrap();
    assert_same(&case.source, &target);
    let sparse = fs::metadata(target.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 256 << 10, "{} blocks", sparse.blocks());
    assert!(fs::metadata(target.join("hole")).unwrap().blocks() <= 8);
    assert!(restored.fetched_bytes > 9 << 20 && restored.fetched_bytes < 12 << 20);
}

#[test]
fn a_single_file_is_restored_under_a_new_name() {
    let case = Case::new(rich_tree);
    let dir = case.path("elsewhere");
    fs::create_dir(&dir).unwrap();
    // What is made here would inherit this.
    xattr::set(&dir, "system.posix_acl_default", &acl()).unwrap();
    let target = dir.join("renamed");
    let restored =
        case.restore_from(case.snapshot, &case.source.join("a/large"), &target, Options::default());
    assert_eq!(restored.unwrap().files, 1);
    assert_eq!(fs::read(&target).unwrap(), noise(1, 9 << 20));
    let (was, is) =
        (fs::metadata(case.source.join("a/large")).unwrap(), target.metadata().unwrap());
    assert_eq!(
        (was.mode(), was.mtime(), was.mtime_nsec()),
        (is.mode(), is.mtime(), is.mtime_nsec())
    );
    assert_eq!(xattr::list(&target).unwrap().count(), 0);

    let below = dir.join("tree");
    case.restore(&below, Options::default()).unwrap();
    assert_same(&case.source, &below);
}

#[test]
fn the_root_of_a_snapshot_is_restored_too() {
    let rig = Rig::new();
    let mut archiver = archiver(&rig, None);
    let node = Node::streamed(0o640, "2026-01-02T03:04:05.6Z".parse().unwrap(), 0, 0);
    archiver.file("/dump/all.sql", node.clone(), &mut &b"select 1"[..]).unwrap();
    archiver.file("/.mainstay/snapshot.json", node, &mut &b"{}"[..]).unwrap();
    let finished = archiver.finish().unwrap();
    assert_eq!((finished.summary.files, finished.summary.files_read), (2, 2));
    let snapshot = save(&rig, &finished, Path::new("/dump"));
    let source = rig.dir.path().to_owned();
    let case = Case { rig, source, snapshot };
    let target = case.path("target");
    let restored =
        case.restore_from(snapshot, Path::new("/"), &target, Options::default()).unwrap();
    assert_eq!((restored.files, restored.bytes), (2, 10));
    assert_eq!(fs::read(target.join("dump/all.sql")).unwrap(), b"select 1");
    let meta = target.join("dump/all.sql").metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime_nsec()), (0o640, 600_000_000));
}

#[test]
fn a_target_that_exists_is_not_touched() {
    let case = Case::new(|source| fs::write(source.join("file"), "new").unwrap());
    let target = case.path("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("file"), "old").unwrap();
    let error = case.restore(&target, Options::default()).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    let link = case.path("link");
    symlink("nowhere", &link).unwrap();
    assert!(case.restore(&link, Options::default()).is_err());
    let file = case.source.join("file");
    assert!(
        case.restore_from(case.snapshot, &file, &target.join("file"), Options::default()).is_err()
    );
    assert_eq!(fs::read(target.join("file")).unwrap(), b"old");
    assert!(case.restore(&case.path("no/parent"), Options::default()).is_err());
    let none = case.source.join("none");
    let error = case.restore_from(case.snapshot, &none, &case.path("x"), Options::default());
    assert!(matches!(error.unwrap_err(), Error::Missing(_)));
}

/// Saves a tree that no archiver would make.
fn save_tree(case: &Case, bytes: Vec<u8>) -> TreeId {
    let writer = case.rig.writer();
    let id = writer.save(BlobKind::Tree, bytes).unwrap().wait().unwrap();
    writer.flush().unwrap();
    id.into()
}

#[test]
fn a_tree_cannot_write_outside_of_the_target() {
    let case = Case::new(|source| fs::write(source.join("x"), "x").unwrap());
    let outside = case.path("outside");
    fs::create_dir(&outside).unwrap();
    let file = |name: &str| {
        let mut node = Node::streamed(0o644, "2026-01-02T03:04:05Z".parse().unwrap(), 0, 0);
        node.name = name.as_bytes().to_vec();
        node
    };
    let good = String::from_utf8(Tree { nodes: vec![file("PLACE")] }.encode().unwrap()).unwrap();
    for name in ["..", "../outside/x", "/tmp/x", "a/b", ".", r"..\\x2foutside\\x2fx"] {
        let tree = save_tree(&case, good.replace("PLACE", name).into_bytes());
        let snapshot = case
            .rig
            .repository
            .save_snapshot(&case.rig.lock(repository::LockKind::Shared), &snapshot_of(tree))
            .unwrap();
        let target = case.path("target");
        let error = case.restore_from(snapshot, Path::new("/"), &target, Options::default());
        assert!(matches!(error.unwrap_err(), Error::Damaged { .. }), "{name}");
        fs::remove_dir_all(target).unwrap();
    }

    // A link to the outside, and a directory of the same name: the second must not be followed.
    let mut link = Node::new("a", 0o120_777);
    link.link_target = outside.to_str().unwrap().into();
    let inner = save_tree(&case, Tree { nodes: vec![file("planted")] }.encode().unwrap());
    let mut dir = Node::new("b", 0o040_755);
    dir.subtree = Some(inner);
    let twice = Tree { nodes: vec![link, dir] }.encode().unwrap();
    let twice = String::from_utf8(twice).unwrap().replace("\"name\":\"b\"", "\"name\":\"a\"");
    let tree = save_tree(&case, twice.into_bytes());
    let snapshot = case
        .rig
        .repository
        .save_snapshot(&case.rig.lock(repository::LockKind::Shared), &snapshot_of(tree))
        .unwrap();
    let target = case.path("target");
    let error = case.restore_from(snapshot, Path::new("/"), &target, Options::default());
    assert!(matches!(error.unwrap_err(), Error::Damaged { .. }));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn damaged_content_fails_the_restore_and_names_the_file() {
    let case = Case::new(|source| fs::write(source.join("precious"), noise(7, 3 << 20)).unwrap());
    let packs = case.rig.path().join("data");
    let mut damaged = 0;
    for dir in fs::read_dir(packs).unwrap() {
        for pack in fs::read_dir(dir.unwrap().path()).unwrap() {
            let path = pack.unwrap().path();
            if path.metadata().unwrap().len() > 1 << 20 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                let file = File::options().read(true).write(true).open(&path).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, 600_000).unwrap();
                file.write_all_at(&[byte[0] ^ 1], 600_000).unwrap();
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    let error = case.restore(&case.path("target"), Options::default()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("target/precious"), "{error}");
}

#[test]
fn a_cancelled_restore_says_so() {
    // However it is cut, more chunks than are written at the same time.
    let case = Case::new(|source| fs::write(source.join("x"), noise(1, 40 << 20)).unwrap());
    struct CancelAtFirst(CancelToken);
    impl Progress for CancelAtFirst {
        fn advance(&self, _: u64, _: u64) {
            self.0.cancel();
        }
    }
    let cancel = CancelToken::new();
    let progress = CancelAtFirst(cancel.clone());
    let error = repository::restore::restore(
        &case.rig.repository,
        case.snapshot,
        case.source.to_str().unwrap().as_bytes(),
        &case.path("target"),
        Options::default(),
        &progress,
        &cancel,
    );
    assert!(matches!(error.unwrap_err(), Error::Cancelled));
}

/// A first restore, then changes in the source and a second snapshot.
fn changed() -> (Case, PathBuf, SnapshotId) {
    let mut case = Case::new(rich_tree);
    // In fixed places: cuts by content are each repository's own, and a large file may have two of them.
    let options = TreeOptions { chunk_bytes: NonZeroU64::new(1 << 20), ..TreeOptions::default() };
    case.snapshot = archive(&case.rig, &case.source, None, &options).1;
    let old = case.path("old");
    case.restore(&old, Options::default()).unwrap();
    let source = &case.source;
    fs::write(source.join("a/deep/new"), "new").unwrap();
    fs::remove_file(source.join("nothing")).unwrap();
    // In place, in the middle of a large file that has another name.
    let large = File::options().write(true).open(source.join("a/large")).unwrap();
    large.write_all_at(b"changed", 4 << 20).unwrap();
    // Only its attributes.
    fs::set_permissions(source.join("a/same-again"), fs::Permissions::from_mode(0o611)).unwrap();
    // A file becomes a directory, and a directory a link.
    fs::remove_file(source.join("program")).unwrap();
    fs::create_dir(source.join("program")).unwrap();
    fs::write(source.join("program/x"), "x").unwrap();
    fs::remove_dir(source.join("empty")).unwrap();
    symlink("a", source.join("empty")).unwrap();
    let snapshot = archive(&case.rig, &case.source, Some(case.snapshot), &options).1;
    (case, old, snapshot)
}

#[test]
fn an_older_copy_gives_what_has_not_changed() {
    for hard_links in [false, true] {
        let (case, old, snapshot) = changed();
        let before = crate::trees::looks(&old);
        let target = case.path("target");
        let reuse = Some(Reuse {
            tree: &old,
            snapshot: case.snapshot,
            hard_links,
            redo: None,
            doubted: false,
        });
        let options = Options { reuse, durable: true };
        let restored = case.restore_from(snapshot, &case.source, &target, options).unwrap();
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let linked = inode(target.join("a/zeros")) == inode(old.join("a/zeros"));
        assert_eq!(linked, hard_links);
        // Not what has several names, nor what has other attributes.
        for path in ["a/small", "a/same-again", "a/large"] {
            assert_ne!(inode(target.join(path)), inode(old.join(path)), "{path}");
        }
        assert!(restored.fetched_bytes < 4 << 20, "{restored:?}");
        fs::remove_dir_all(&old).unwrap();
        assert_same(&case.source, &target);
        drop(before);
    }
}

#[test]
fn an_older_copy_is_left_as_it_is() {
    let (case, old, snapshot) = changed();
    let before = crate::trees::looks(&old);
    let reuse = Some(Reuse {
        tree: &old,
        snapshot: case.snapshot,
        hard_links: false,
        redo: None,
        doubted: false,
    });
    let options = Options { reuse, durable: false };
    case.restore_from(snapshot, &case.source, &case.path("target"), options).unwrap();
    assert_eq!(crate::trees::looks(&old), before);
}

#[test]
fn bytes_that_rotted_in_an_older_copy_are_not_taken_over() {
    let (case, old, snapshot) = changed();
    let rotten = old.join("a/large");
    let mtime = fs::metadata(&rotten).unwrap();
    File::options().write(true).open(&rotten).unwrap().write_all_at(b"rot", 77).unwrap();
    set_mtime(&rotten, mtime.mtime(), mtime.mtime_nsec());
    let target = case.path("target");
    let reuse = Some(Reuse {
        tree: &old,
        snapshot: case.snapshot,
        hard_links: false,
        redo: None,
        doubted: false,
    });
    let options = Options { reuse, durable: false };
    case.restore_from(snapshot, &case.source, &target, options).unwrap();
    assert_same(&case.source, &target);
}

#[test]
fn a_copy_that_was_written_to_gives_what_is_still_in_it() {
    let (case, old, snapshot) = changed();
    let rotten = old.join("a/large");
    let before = fs::metadata(&rotten).unwrap();
    File::options().write(true).open(&rotten).unwrap().write_all_at(b"other", 77).unwrap();
    // With the times that it had, so that nothing but its content tells; and then with others.
    for (round, time) in [(0, before.mtime()), (1, before.mtime() + 7)] {
        set_mtime(&rotten, time, before.mtime_nsec());
        // And as the seed of what it never was a copy of.
        for (name, of) in [("target", case.snapshot), ("seeded", snapshot)] {
            let target = case.path(&format!("{name}-{round}"));
            let reuse =
                Reuse { tree: &old, snapshot: of, hard_links: false, redo: None, doubted: true };
            let options = Options { reuse: Some(reuse), durable: false };
            let restored = case.restore_from(snapshot, &case.source, &target, options).unwrap();
            assert_same(&case.source, &target);
            assert!(restored.fetched_bytes < 4 << 20, "{name}: {restored:?}");
        }
    }
}

#[test]
fn a_file_takes_from_its_older_copy_too() {
    let (case, old, snapshot) = changed();
    let target = case.path("target");
    let tree = old.join("a/large");
    let reuse = Some(Reuse {
        tree: &tree,
        snapshot: case.snapshot,
        hard_links: false,
        redo: None,
        doubted: false,
    });
    let options = Options { reuse, durable: true };
    let source = case.source.join("a/large");
    let restored = case.restore_from(snapshot, &source, &target, options).unwrap();
    assert_eq!(fs::read(&target).unwrap(), fs::read(&source).unwrap());
    assert!(restored.fetched_bytes < 4 << 20, "{restored:?}");
}

#[test]
fn a_copy_whose_snapshot_is_gone_is_no_help_and_no_error() {
    let (case, old, snapshot) = changed();
    let target = case.path("target");
    let reuse = Some(Reuse {
        tree: &old,
        snapshot: SnapshotId([7; 32]),
        hard_links: true,
        redo: None,
        doubted: false,
    });
    let options = Options { reuse, durable: false };
    case.restore_from(snapshot, &case.source, &target, options).unwrap();
    assert_same(&case.source, &target);
}

#[test]
fn a_snapshot_is_read_without_being_restored() {
    let case = Case::new(rich_tree);
    let reader = repository::SnapshotReader::open(&case.rig.repository, case.snapshot).unwrap();
    let path = |below: &str| case.source.join(below).to_str().unwrap().as_bytes().to_vec();
    assert_eq!(reader.node(&path("a/small")).unwrap().unwrap().size, 5);
    assert_eq!(reader.node(&path("a/none")).unwrap(), None);
    assert_eq!(reader.node(&path("a/small/below")).unwrap(), None);
    assert_eq!(reader.node(b"/").unwrap().unwrap().subtree, Some(reader.root()));
    assert!(reader.node(b"relative").is_err());
    let names: Vec<_> = reader.list(&path("a/deep")).unwrap().into_iter().map(|n| n.name).collect();
    assert_eq!(names, [&b"er"[..], b"hard"]);
    assert!(reader.list(&path("a/small")).is_err());

    let mut dumped = Vec::new();
    reader.dump(&path("a/large"), &mut dumped).unwrap();
    assert_eq!(dumped, noise(1, 9 << 20));
    let mut streamed = Vec::new();
    reader.content(&path("a/large")).unwrap().read_to_end(&mut streamed).unwrap();
    assert_eq!(streamed, dumped);
    assert!(reader.dump(&path("a"), &mut Vec::new()).is_err());

    let mut walked = Vec::new();
    reader
        .walk(&path("a"), &mut |path, _| {
            walked.push(String::from_utf8(path.to_vec()).unwrap());
            Ok(())
        })
        .unwrap();
    let below: Vec<_> =
        walked.iter().map(|p| p.strip_prefix(case.source.to_str().unwrap()).unwrap()).collect();
    let expected = [
        "/a/deep",
        "/a/deep/er",
        "/a/deep/er/still",
        "/a/deep/er/still/file",
        "/a/deep/hard",
        "/a/large",
        "/a/loop",
        "/a/same-again",
        "/a/small",
        "/a/zeros",
    ];
    assert_eq!(below, expected);
    let mut all = 0;
    reader
        .walk(b"/", &mut |path, _| {
            assert!(path.starts_with(b"/") && !path.starts_with(b"//"));
            all += 1;
            Ok(())
        })
        .unwrap();
    assert!(all > 30);
}
