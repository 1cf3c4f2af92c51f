//! Copies that rot, and copies that only look as if somebody had written to them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::trees::{Case, rich_tree, set_mtime};
use mainstay_repository as repository;
use model::CancelToken;
use model::progress::Silent;
use repository::restore::{Options, Reuse};
use repository::scrub::{Copy, scrub, written_to};
use repository::{Difference, Error, differences, record_manifest};
use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

/// A case with a restored copy, and the manifest of that.
struct Copied {
    case: Case,
    copy: PathBuf,
    manifest: PathBuf,
}

impl Deref for Copied {
    type Target = Case;

    fn deref(&self) -> &Case {
        &self.case
    }
}

impl Copied {
    fn new() -> Copied {
        let case = Case::new(rich_tree);
        let (copy, manifest) = (case.path("copy"), case.path("manifest"));
        case.restore(&copy, Options::default()).unwrap();
        record_manifest(&copy, &manifest).unwrap();
        Copied { case, copy, manifest }
    }

    fn copy(&self) -> Copy<'_> {
        Copy { root: &self.copy, snapshot: self.snapshot, path: self.root() }
    }

    fn scrub(&self) -> Vec<(String, String)> {
        let cancel = CancelToken::new();
        let found = scrub(&self.rig.repository, self.copy(), 100, &Silent, &cancel).unwrap();
        found.into_iter().map(|d| (d.path, d.what)).collect()
    }

    fn written_to(&self) -> Vec<Difference> {
        let cancel = CancelToken::new();
        written_to(&self.rig.repository, self.copy(), &self.manifest, 100, &cancel).unwrap().found
    }

    /// Changes bytes of a file, and no time that anybody can set.
    fn rot(&self, path: &str, at: u64) {
        let path = self.copy.join(path);
        let meta = fs::metadata(&path).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(b"\x17", at).unwrap();
        set_mtime(&path, meta.mtime(), meta.mtime_nsec());
    }
}

#[test]
fn a_scrub_finds_what_rotted_and_what_is_gone() {
    let case = Copied::new();
    assert_eq!(case.scrub(), []);
    case.rot("a/large", 8 << 20);
    case.rot("sparse", 5 << 20);
    case.rot("new\nline", 0);
    fs::remove_file(case.copy.join("a/same-again")).unwrap();
    let changed = |path: &str| (path.to_owned(), "changed".to_owned());
    let gone = ("a/same-again".to_owned(), "gone".to_owned());
    let expected = [
        changed("a/deep/hard"),
        changed("a/large"),
        gone,
        changed(r"new\nline"),
        changed("sparse"),
    ];
    assert_eq!(case.scrub(), expected);
}

#[test]
fn a_refresh_that_was_given_up_did_not_write_to_the_copy() {
    let case = Copied::new();
    let target = case.rig.dir.path().join("given-up");
    let reuse = Some(Reuse {
        tree: &case.copy,
        snapshot: case.snapshot,
        hard_links: true,
        redo: None,
        doubted: false,
    });
    case.restore(&target, Options { reuse, durable: false }).unwrap();
    fs::remove_dir_all(&target).unwrap();
    let by_manifest = differences(&case.copy, &case.manifest, 100).unwrap();
    assert!(by_manifest.len() > 5 && by_manifest.iter().all(|d| d.only_ctime), "{by_manifest:?}");
    assert_eq!(case.written_to(), []);

    case.rot("a/same-again", 3);
    fs::write(case.copy.join("nothing"), "something").unwrap();
    let found: Vec<_> = case.written_to().into_iter().map(|d| (d.path, d.only_ctime)).collect();
    assert_eq!(found, [("a/same-again".to_owned(), true), ("nothing".to_owned(), false)]);
}

#[test]
fn a_single_file_is_judged_too() {
    let case = Copied::new();
    let path = format!("{}/a/large", case.source.display());
    let root = case.copy.join("a/large");
    let copy = Copy { root: &root, snapshot: case.snapshot, path: path.as_bytes() };
    let cancel = CancelToken::new();
    let judge = || scrub(&case.rig.repository, copy, 1, &Silent, &cancel).unwrap();
    assert_eq!(judge(), []);
    case.rot("a/large", 1);
    assert_eq!((judge()[0].path.as_str(), judge()[0].what.as_str()), (".", "changed"));
    let none = Copy { path: b"/none", ..copy };
    let error = scrub(&case.rig.repository, none, 1, &Silent, &cancel).unwrap_err();
    assert!(matches!(error, Error::Missing(_)));
    cancel.cancel();
    let error = scrub(&case.rig.repository, copy, 1, &Silent, &cancel).unwrap_err();
    assert!(matches!(error, Error::Cancelled));
}
