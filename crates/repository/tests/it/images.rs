//! Files with fixed chunks, of which the ranges that changed are known.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]
#![allow(clippy::single_range_in_vec_init, reason = "one range is meant")]
#![allow(clippy::cast_possible_truncation, reason = "these images are small")]

use crate::rig::{Rig, noise};
use crate::trees::{archive, archiver, save};
use mainstay_repository as repository;
use model::{CancelToken, Progress, SnapshotId};
use repository::{
    Archiver, Compression, Error, Finished, Node, Ranges, SnapshotReader, TreeOptions,
};
use std::fs::{self, File, OpenOptions};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

const CHUNK: u64 = 64 << 10;

struct Case {
    rig: Rig,
    image: PathBuf,
}

impl Case {
    /// An image of so many bytes that are all different.
    fn new(bytes: usize) -> Case {
        let rig = Rig::new();
        let image = rig.dir.path().join("disk.img");
        fs::write(&image, noise(1, bytes)).unwrap();
        Case { rig, image }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.open().write_all_at(bytes, at).unwrap();
    }

    fn open(&self) -> File {
        OpenOptions::new().write(true).open(&self.image).unwrap()
    }

    fn archive(&self, parent: Option<SnapshotId>, options: &TreeOptions) -> (Finished, SnapshotId) {
        archive(&self.rig, &self.image, parent, options)
    }

    fn node(&self, snapshot: SnapshotId) -> Node {
        let reader = SnapshotReader::open(&self.rig.repository, snapshot).unwrap();
        reader.node(self.image.to_str().unwrap().as_bytes()).unwrap().unwrap()
    }

    fn content(&self, snapshot: SnapshotId) -> Vec<u8> {
        let reader = SnapshotReader::open(&self.rig.repository, snapshot).unwrap();
        let mut content = Vec::new();
        reader.dump(self.image.to_str().unwrap().as_bytes(), &mut content).unwrap();
        content
    }

    fn now(&self) -> Vec<u8> {
        fs::read(&self.image).unwrap()
    }
}

fn fixed() -> TreeOptions {
    TreeOptions { chunk_bytes: NonZeroU64::new(CHUNK), ..TreeOptions::default() }
}

fn changed(ranges: impl IntoIterator<Item = Range<u64>>) -> TreeOptions {
    TreeOptions { changed: Some(ranges.into_iter().collect()), ..fixed() }
}

#[test]
fn every_chunk_begins_at_a_multiple_of_its_size() {
    let case = Case::new(5 * CHUNK as usize + 17);
    let (finished, first) = case.archive(None, &fixed());
    assert_eq!(case.node(first).content.len(), 6);
    assert_eq!(case.content(first), case.now());
    assert!(finished.problems.is_empty());
    // Each of them is found where it was, though the image grew and something moved.
    let mut bytes = case.now();
    bytes.truncate(5 * CHUNK as usize);
    bytes.rotate_left(CHUNK as usize);
    fs::write(&case.image, &bytes).unwrap();
    let (finished, second) = case.archive(Some(first), &fixed());
    let mut content = case.node(first).content;
    content.truncate(5);
    content.rotate_left(1);
    assert_eq!(case.node(second).content, content);
    // Nothing but the tree.
    assert!(finished.summary.added_bytes < 4096, "{}", finished.summary.added_bytes);
    // What is no longer than a chunk is one.
    fs::write(&case.image, noise(2, CHUNK as usize)).unwrap();
    let (_, third) = case.archive(Some(second), &fixed());
    assert_eq!(case.node(third).content.len(), 1);
}

#[test]
fn with_the_ranges_told_it_is_what_it_is_without() {
    let case = Case::new(20 * CHUNK as usize + 5);
    let (_, mut parent) = case.archive(None, &fixed());
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for round in 0..30_u64 {
        let size = fs::metadata(&case.image).unwrap().len();
        let mut ranges = Vec::new();
        for piece in 0..random(4) {
            let at = random(size);
            let length = 1 + random((size - at).min(3 * CHUNK));
            case.write(at, &noise(round * 8 + piece, length as usize));
            ranges.push(at..at + length);
        }
        // Now and then it gets longer or shorter, to a chunk's end or not.
        match round % 5 {
            1 => case.open().set_len(size + random(2 * CHUNK)).unwrap(),
            2 => case.open().set_len(size - random(2 * CHUNK)).unwrap(),
            3 => case.open().set_len(size.next_multiple_of(CHUNK)).unwrap(),
            _ => {}
        }
        let (told, snapshot) = case.archive(Some(parent), &changed(ranges.clone()));
        assert!(told.problems.is_empty(), "{:?}", told.problems);
        let (_, untold) = case.archive(None, &fixed());
        let content = case.node(snapshot).content;
        assert_eq!(content, case.node(untold).content, "round {round}: {ranges:?}");
        assert_eq!(case.content(snapshot), case.now());
        parent = snapshot;
    }
}

#[test]
fn nothing_but_the_ranges_is_read() {
    let case = Case::new(8 * CHUNK as usize);
    let before = case.now();
    let (_, parent) = case.archive(None, &fixed());
    // Written, and not told: only who does not read it does not see it.
    case.write(0, b"unseen");
    case.write(3 * CHUNK + 100, b"seen");
    let told = changed([3 * CHUNK + 100..3 * CHUNK + 104]);
    let (_, snapshot) = case.archive(Some(parent), &told);
    let mut expected = before;
    expected[3 * CHUNK as usize + 100..][..4].copy_from_slice(b"seen");
    assert_eq!(case.content(snapshot), expected);
}

#[test]
fn a_parent_with_other_chunks_is_no_help_and_does_no_harm() {
    let case = Case::new(40 * CHUNK as usize);
    let other = NonZeroU64::new(2 * CHUNK);
    for options in
        [TreeOptions::default(), TreeOptions { chunk_bytes: other, ..TreeOptions::default() }]
    {
        let (_, parent) = case.archive(None, &options);
        case.write(5, b"changed");
        // It says that nothing changed, but what was not cut so has to be read all the same.
        let (_, snapshot) = case.archive(Some(parent), &changed([]));
        assert_eq!(case.content(snapshot), case.now());
        assert_eq!(case.node(snapshot).content.len(), 40);
    }
}

#[test]
fn holes_are_zeros() {
    let case = Case::new(0);
    case.open().set_len(64 * CHUNK + 9).unwrap();
    case.write(10 * CHUNK + 1, b"data");
    case.write(40 * CHUNK, &vec![0; CHUNK as usize]);
    let (finished, snapshot) = case.archive(None, &fixed());
    assert_eq!(case.content(snapshot), case.now());
    let content = case.node(snapshot).content;
    assert_eq!(content.len(), 65);
    // Zeros that were written are the same chunk as a hole.
    assert_eq!(content.iter().filter(|id| **id == content[0]).count(), 63);
    assert_eq!(finished.summary.bytes, 64 * CHUNK + 9);
}

#[test]
fn ranges_are_put_in_order() {
    let ranges: Ranges = [9..12, 3..4, 5..5, 10..20, 4..6].into_iter().collect();
    assert_eq!(ranges, [3..6, 9..20].into_iter().collect());
    for (range, meets) in
        [(0..3, false), (0..4, true), (5..6, true), (6..9, false), (19..30, true), (20..30, false)]
    {
        assert_eq!(ranges.meet(&range), meets, "{range:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let case = Case::new(10);
    for bytes in [1, 4095, (8 << 20) + 1] {
        let options = TreeOptions { chunk_bytes: NonZeroU64::new(bytes), ..fixed() };
        let error =
            archiver(&case.rig, None).tree("/x", &case.image, &options).expect_err("a bad size");
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    let error = archiver(&case.rig, None)
        .tree("/x", case.rig.dir.path(), &changed([0..1]))
        .expect_err("a directory has no ranges");
    assert!(error.to_string().contains("is not a file"), "{error}");
}

/// Writes to the image when half of it has been read.
struct Writer {
    image: PathBuf,
}

impl Progress for Writer {
    fn advance(&self, _: u64, bytes: u64) {
        if bytes > 0 {
            let file = OpenOptions::new().write(true).open(&self.image).unwrap();
            file.write_all_at(b"!", 0).unwrap();
        }
    }
}

#[test]
fn a_write_meanwhile_makes_it_incomplete_since_nobody_told_its_range() {
    let case = Case::new(8 * CHUNK as usize);
    let (_, parent) = case.archive(None, &fixed());
    case.write(CHUNK, b"told");
    let mut archiver = Archiver::new(
        &case.rig.repository,
        Some(parent),
        Compression::default(),
        Arc::new(Writer { image: case.image.clone() }),
        CancelToken::new(),
    )
    .unwrap();
    let at = case.image.to_str().unwrap();
    archiver.tree(at, &case.image, &changed([CHUNK..CHUNK + 4])).unwrap();
    let finished = archiver.finish().unwrap();
    save(&case.rig, &finished, &case.image);
    assert_eq!(finished.problems.len(), 1, "{:?}", finished.problems);
    assert!(finished.problems[0].what.contains("changed while it was read"));
}
