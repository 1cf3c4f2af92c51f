//! Snapshot files.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, Rig, open, snapshot_of};
use mainstay_repository::{Error, LockKind, Snapshot, TreeId};
use model::{Class, Classify};
use std::fs;
use std::sync::Arc;
use storage::Local;

#[test]
fn snapshots_are_listed_from_old_to_new_by_both() {
    let rig = Rig::new();
    let tree = rig::save_file(&rig.writer(), &rig.repository, b"content");
    let lock = rig.lock(LockKind::Shared);
    let mut expected = Vec::new();
    // Not the order of their text, since offsets differ.
    for time in ["2026-01-02T03:00:00+02:00", "2026-01-02T02:30:00.5Z", "2026-01-01T23:00:00-05:00"]
    {
        let snapshot = Snapshot { time: time.to_owned(), ..snapshot_of(tree) };
        expected.push((rig.repository.save_snapshot(&lock, &snapshot).unwrap(), snapshot));
    }
    drop(lock);
    expected.swap(1, 1);
    assert_eq!(rig.repository.snapshots().unwrap(), expected);
    let json: serde_json::Value =
        serde_json::from_str(&rig.restic(&["snapshots", "--json"])).unwrap();
    let theirs: Vec<&str> =
        json.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    let ours: Vec<String> = expected.iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(theirs, ours);
}

#[test]
fn a_snapshot_is_found_by_a_beginning_that_is_unique() {
    let rig = Rig::new();
    let tree = rig::save_file(&rig.writer(), &rig.repository, b"content");
    let lock = rig.lock(LockKind::Shared);
    let save = |_| rig.repository.save_snapshot(&lock, &snapshot_of(tree)).unwrap().to_string();
    let mut ids: Vec<String> = (0..20).map(save).collect();
    ids.sort();
    let find = |prefix: &str| rig.repository.find_snapshot(prefix);
    for id in &ids {
        assert_eq!(find(id).unwrap().to_string(), *id);
        assert_eq!(find(&id[..16].to_uppercase()).unwrap().to_string(), *id);
    }
    // 20 ids begin with at most 16 different digits.
    let shared =
        ids.windows(2).find(|pair| pair[0][..1] == pair[1][..1]).unwrap()[0][..1].to_owned();
    assert_eq!(find(&shared).unwrap_err().class(), Class::Invalid);
    for wrong in ["", "latest", "../config", "0123456789abcdef0123456789abcdef0"] {
        assert!(find(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_snapshot_that_restic_forgot_is_gone_and_one_that_we_removed_too() {
    let rig = Rig::new();
    let ids: Vec<_> = (0..3).map(|i| rig::back_up(&rig.repository, &[i])).collect();
    rig.restic(&["forget", &ids[0].to_string()]);
    let lock = rig.lock(LockKind::Exclusive);
    rig.repository.remove_snapshot(&lock, ids[1]).unwrap();
    drop(lock);
    let left: Vec<_> = rig.repository.snapshots().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, [ids[2]]);
    assert!(matches!(rig.repository.snapshot(ids[0]), Err(Error::Missing(_))));
    rig.restic(&["check", "--read-data"]);
}

#[test]
fn without_its_lock_no_snapshot_is_written_or_removed() {
    let rig = Rig::new();
    let id = rig::back_up(&rig.repository, b"content");
    let tree: TreeId = rig.repository.snapshot(id).unwrap().tree_id().unwrap();
    let lock = rig.lock(LockKind::Shared);
    lock.still_held().unwrap();
    fs::remove_dir_all(rig.path().join("locks")).unwrap();
    let saved = rig.repository.save_snapshot(&lock, &snapshot_of(tree));
    assert_eq!(saved.unwrap_err().class(), Class::Locked);
    assert_eq!(rig.repository.remove_snapshot(&lock, id).unwrap_err().class(), Class::Locked);
    assert_eq!(rig.repository.snapshot_ids().unwrap(), [id]);
}

#[test]
fn nonsense_is_not_written() {
    let rig = Rig::new();
    let lock = rig.lock(LockKind::Shared);
    let good = snapshot_of(TreeId([1; 32]));
    for bad in [
        Snapshot { tree: "not hex".to_owned(), ..good.clone() },
        Snapshot { time: "yesterday".to_owned(), ..good },
    ] {
        assert!(rig.repository.save_snapshot(&lock, &bad).is_err());
    }
    assert!(rig.repository.snapshot_ids().unwrap().is_empty());
}

/// A repository that stays open finds what others add, and does not trust what others removed.
#[test]
fn an_open_repository_follows_what_restic_does() {
    let rig = Rig::new();
    let file = rig.dir.path().join("file");
    fs::write(&file, b"first content").unwrap();
    let first = rig::back_up(&rig.repository, b"loads the index");
    rig.restic(&["backup", file.to_str().unwrap()]);
    let (theirs, snapshot) =
        rig.repository.snapshots().unwrap().into_iter().find(|(id, _)| *id != first).unwrap();
    let root = snapshot.tree_id().unwrap().into();
    rig.repository.load_blob(mainstay_repository::BlobKind::Tree, &root).unwrap();

    // restic removes it; to back the same up again must store it again.
    rig.restic(&["forget", "--prune", &theirs.to_string()]);
    rig.restic(&["prune"]);
    let writer = rig.writer();
    assert!(!writer.has(mainstay_repository::BlobKind::Tree, &root).unwrap());
    let again = rig::back_up(&rig.repository, b"first content");
    rig.restic(&["check", "--read-data"]);
    let fresh = open(Arc::new(Local::open(rig.path()).unwrap()));
    assert_eq!(rig::read_back(&fresh, again).unwrap(), b"first content");
    assert_eq!(rig::read_back(&fresh, first).unwrap(), b"loads the index");
}
