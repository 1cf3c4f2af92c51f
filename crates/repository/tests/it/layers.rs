//! What an engine adds below a tree that it has added before.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::rig::{Rig, snapshot_of};
use mainstay_repository as repository;
use model::progress::Silent;
use model::{CancelToken, Class, Classify};
use repository::{Archiver, Compression, LockKind, Node, TreeOptions};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn archiver(rig: &Rig) -> Archiver {
    Archiver::new(
        &rig.repository,
        None,
        Compression::default(),
        Arc::new(Silent),
        CancelToken::new(),
    )
    .unwrap()
}

fn streamed() -> Node {
    Node::streamed(0o600, "2026-01-02T03:04:05Z".parse().unwrap(), 0, 0)
}

/// A tree as a database server has it.
fn tree(rig: &Rig) -> PathBuf {
    let root = rig.dir.path().join("data");
    for dir in ["wal", "global", "base/5"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for (file, text) in
        [("version", "15"), ("wal/recent", "not captured"), ("global/1", "one"), ("base/5/2", "2")]
    {
        fs::write(root.join(file), text).unwrap();
    }
    root
}

fn options() -> TreeOptions {
    TreeOptions { emptied: vec!["wal".to_owned()], ..TreeOptions::default() }
}

#[test]
fn files_and_trees_are_added_below_what_is_there() {
    let rig = Rig::new();
    let root = tree(&rig);
    let other = rig.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("3"), "three").unwrap();
    let lock = rig.lock(LockKind::Shared);
    let mut archiver = archiver(&rig);
    archiver.tree("/db/data", &root, &options()).unwrap();
    let mut add = |at: &str, text: &str| {
        archiver.file(at, streamed(), &mut text.as_bytes()).unwrap();
    };
    add("/db/data/label", "label");
    add("/db/data/wal/0001", "segment");
    add("/db/data/wal/0002", "segment two");
    add("/db/data/global/control", "control");
    add("/db/beside", "beside");
    archiver.tree("/db/data/base/5/more/here", &other, &TreeOptions::default()).unwrap();
    let finished = archiver.finish().unwrap();
    assert_eq!(finished.problems, []);
    let snapshot = snapshot_of(finished.tree.parse().unwrap());
    let id = rig.repository.save_snapshot(&lock, &snapshot).unwrap();
    drop(lock);

    rig.restic(&["check", "--read-data"]);
    let target = rig.dir.path().join("restored");
    rig.restic(&["restore", &id.to_string(), "--target", target.to_str().unwrap()]);
    let read = |path: &str| fs::read_to_string(target.join("db").join(path)).unwrap();
    assert_eq!(read("data/version"), "15");
    assert_eq!(read("data/label"), "label");
    assert_eq!(read("data/wal/0001"), "segment");
    assert_eq!(read("data/wal/0002"), "segment two");
    assert!(!target.join("db/data/wal/recent").exists());
    assert_eq!(read("data/global/1"), "one");
    assert_eq!(read("data/global/control"), "control");
    assert_eq!(read("data/base/5/2"), "2");
    assert_eq!(read("data/base/5/more/here/3"), "three");
    assert_eq!(read("beside"), "beside");
    // The directory that was opened is still the host's.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions();
    assert_eq!(mode(&target.join("db/data")), mode(&root));
}

#[test]
fn nothing_is_there_twice() {
    for (at, why) in [
        ("/db/data/version", "a file"),
        ("/db/data/version/below", "below a file"),
        ("/db/data/global", "a directory"),
        ("/db/data", "the tree"),
        ("/db", "above the tree"),
    ] {
        let rig = Rig::new();
        let root = tree(&rig);
        let mut archiver = archiver(&rig);
        archiver.tree("/db/data", &root, &options()).unwrap();
        let error = archiver.file(at, streamed(), &mut &b"x"[..]).expect_err(why);
        assert_eq!(error.class(), Class::Invalid, "{why}: {error}");
        archiver.finish().expect_err("a part failed");
    }
}
