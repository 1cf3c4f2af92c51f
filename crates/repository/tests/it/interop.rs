//! Trees that we wrote and restic restores, and the other way round.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::rig::Rig;
use crate::trees::{archive, assert_same, rich_tree};
use mainstay_repository as repository;
use model::progress::Silent;
use model::{CancelToken, SnapshotId};
use repository::{BlobKind, Node, SnapshotReader, Tree, TreeOptions, restore};
use std::fs;
use std::path::Path;

#[test]
fn restic_restores_what_we_archived_with_everything_it_had() {
    let rig = Rig::new();
    let source = rig.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    rich_tree(&source);
    let (finished, _) = archive(&rig, &source, None, &TreeOptions::default());
    assert_eq!(finished.problems, []);
    rig.restic(&["check", "--read-data"]);
    let target = rig.dir.path().join("target");
    rig.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert_same(&source, &target.join(source.strip_prefix("/").unwrap()));
}

#[test]
fn we_restore_what_restic_backed_up_with_everything_it_had() {
    let rig = Rig::new();
    let source = rig.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    rich_tree(&source);
    rig.restic(&["backup", source.to_str().unwrap()]);
    let (snapshot, _) = rig.repository.snapshots().unwrap().pop().unwrap();
    let target = rig.dir.path().join("target");
    restore::restore(
        &rig.repository,
        snapshot,
        source.to_str().unwrap().as_bytes(),
        &target,
        restore::Options::default(),
        &Silent,
        &CancelToken::new(),
    )
    .unwrap();
    assert_same(&source, &target);
}

/// The trees of a snapshot, without what restic 0.14 writes for every node and newer ones (and we)
/// for hard links only.
fn trees_without_devices(rig: &Rig, snapshot: SnapshotId, source: &Path) -> Vec<(Vec<u8>, Node)> {
    let reader = SnapshotReader::open(&rig.repository, snapshot).unwrap();
    let mut nodes = Vec::new();
    reader
        .walk(source.to_str().unwrap().as_bytes(), &mut |path, node| {
            let mut node = Node { device_id: 0, ..node.clone() };
            if let Some(tree) = node.subtree.take() {
                let bytes = rig.repository.load_blob(BlobKind::Tree, &tree.into()).unwrap();
                let again = Tree::decode(&bytes).unwrap().encode().unwrap();
                assert!(bytes == again, "{}", String::from_utf8_lossy(&bytes));
            }
            nodes.push((path.to_vec(), node));
            Ok(())
        })
        .unwrap();
    nodes
}

#[test]
fn each_finds_what_the_other_has_stored() {
    for we_are_first in [true, false] {
        let rig = Rig::new();
        let source = rig.dir.path().join("source");
        fs::create_dir(&source).unwrap();
        rich_tree(&source);
        let options = TreeOptions::default();
        let backup = || {
            let summary =
                rig.restic(&["backup", "--json", "--ignore-inode", source.to_str().unwrap()]);
            let summary: serde_json::Value =
                serde_json::from_str(summary.lines().last().unwrap()).unwrap();
            summary["data_blobs"].as_u64().unwrap()
        };
        if we_are_first {
            archive(&rig, &source, None, &options);
            assert_eq!(backup(), 0);
        } else {
            assert_ne!(backup(), 0);
            let (theirs, _) = rig.repository.snapshots().unwrap().pop().unwrap();
            // Without their snapshot everything is read, and found to be there;
            let (finished, _) = archive(&rig, &source, None, &options);
            assert_eq!(finished.summary.files_read, finished.summary.files);
            assert!(finished.summary.added_bytes < 30_000, "{:?}", finished.summary);
            // with it nothing is read.
            let (finished, _) = archive(&rig, &source, Some(theirs), &options);
            assert_eq!(finished.summary.files_read, 0);
        }
        let nodes: Vec<_> = rig
            .repository
            .snapshots()
            .unwrap()
            .into_iter()
            .map(|(id, _)| trees_without_devices(&rig, id, &source))
            .collect();
        assert!(nodes.len() > 1);
        for other in &nodes[1..] {
            for (a, b) in nodes[0].iter().zip(other) {
                assert_eq!(a, b);
            }
            assert_eq!(nodes[0].len(), other.len());
        }
        rig.restic(&["check", "--read-data"]);
    }
}
