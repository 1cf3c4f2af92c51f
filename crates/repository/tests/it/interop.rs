//! Trees that we wrote and restic restores, and the other way round.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::rig::Rig;
use crate::trees::{archive, assert_same, rich_tree};
use mainstay_repository::TreeOptions;
use std::fs;

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
