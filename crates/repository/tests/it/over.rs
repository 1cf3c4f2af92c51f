//! Restores over a tree that is there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::rig::noise;
use crate::trees::{Case, acl, assert_same, rich_tree};
use mainstay_repository as repository;
use model::CancelToken;
use model::progress::Silent;
use repository::Error;
use repository::restore::{Options, Over, Overwritten, Withheld, restore_over};
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A case with a restored copy.
struct Copied {
    case: Case,
    copy: PathBuf,
}

impl Deref for Copied {
    type Target = Case;

    fn deref(&self) -> &Case {
        &self.case
    }
}

impl Copied {
    fn new(fill: impl FnOnce(&Path)) -> Copied {
        let case = Case::new(fill);
        let copy = case.path("copy");
        case.restore(&copy, Options::default()).unwrap();
        Copied { case, copy }
    }

    fn over(&self, over: Over<'_>, cancel: &CancelToken) -> Result<Overwritten, Error> {
        let repository = &self.rig.repository;
        restore_over(repository, self.snapshot, self.root(), &self.copy, over, &Silent, cancel)
    }

    fn again(&self) -> Overwritten {
        self.over(Over::default(), &CancelToken::new()).unwrap()
    }
}

/// Without hard links, of which all but the first name are made anew.
fn plain_tree(source: &Path) {
    fs::create_dir_all(source.join("dir/below")).unwrap();
    fs::write(source.join("large"), noise(1, 20 << 20)).unwrap();
    fs::write(source.join("dir/zeros"), vec![0; 3 << 20]).unwrap();
    fs::write(source.join("dir/empty"), "").unwrap();
    fs::write(source.join("dir/below/read-only"), "read only").unwrap();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(source.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("dir/below/read-only", 0o400);
    mode("dir/below", 0o500);
}

#[test]
fn what_is_the_same_stays_and_only_what_differs_is_fetched() {
    let case = Copied::new(plain_tree);
    let done = case.again();
    assert_eq!((done.files, done.removed), (4, 0));
    assert!(done.fetched_bytes < 100, "{done:?}");
    assert_same(&case.source, &case.copy);

    // Neither its size nor its times tell.
    let large = case.copy.join("large");
    let times = fs::metadata(&large).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&large).unwrap();
    file.write_all_at(b"something else", 5 << 20).unwrap();
    file.set_modified(times).unwrap();
    drop(file);
    let done = case.again();
    assert!((1..=16 << 20).contains(&done.fetched_bytes), "{done:?}");
    assert_same(&case.source, &case.copy);
}

#[test]
fn whatever_was_done_to_the_copy_it_becomes_the_snapshot_again() {
    let case = Copied::new(rich_tree);
    let copy = &case.copy;
    // Removed, cut off, prolonged, of another kind, with other rights, and more of them.
    let outside = case.rig.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    symlink(&outside, copy.join("link-out")).unwrap();
    fs::create_dir_all(copy.join("new/below/it")).unwrap();
    fs::write(copy.join("new/below/it/file"), noise(7, 5000)).unwrap();
    let names: Vec<_> = fs::read_dir(copy.join("a")).unwrap().map(|e| e.unwrap().path()).collect();
    for (number, path) in names.iter().enumerate() {
        if !path.is_symlink() && path.is_file() {
            match number % 3 {
                0 => fs::remove_file(path).unwrap(),
                1 => fs::write(path, "short").unwrap(),
                _ => {
                    fs::remove_file(path).unwrap();
                    fs::create_dir(path).unwrap();
                    fs::write(path.join("in the way"), "x").unwrap();
                }
            }
        }
    }
    fs::set_permissions(copy.join("a"), fs::Permissions::from_mode(0o711)).unwrap();
    let done = case.again();
    assert!(done.removed >= 2, "{done:?}");
    assert_same(&case.source, copy);
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
}

/// Nor do ACLs, which what is made anew would inherit.
#[test]
fn attributes_that_the_snapshot_has_not_do_not_stay() {
    let case = Copied::new(rich_tree);
    let copy = &case.copy;
    assert_same(&case.source, copy);
    let set = |path: &str, name: &str, value: &[u8]| {
        xattr::set(copy.join(path), name, value).unwrap();
    };
    for path in [".", "a", "a/deep", "empty", "nothing", "sparse", "acl", "a/large"] {
        set(path, "user.added", b"by somebody");
    }
    for path in ["sparse", "nothing", "a", "."] {
        set(path, "system.posix_acl_access", &acl());
    }
    for path in [".", "a", "a/deep"] {
        set(path, "system.posix_acl_default", &acl());
    }
    // What it has is given back, too.
    xattr::remove(copy.join("acl"), "system.posix_acl_access").unwrap();
    xattr::remove(copy.join("empty"), "system.posix_acl_default").unwrap();
    set("a/deep", "user.long", b"another value");
    for path in ["fifo", "hole", "a/small", "link"] {
        fs::remove_file(copy.join(path)).unwrap();
    }
    let done = case.again();
    assert_same(&case.source, copy);
    assert_eq!(done.removed, 0);
}

#[test]
fn no_other_name_of_a_file_is_written_through_and_no_link_is_followed() {
    let case = Copied::new(|source| {
        fs::create_dir(source.join("dir")).unwrap();
        fs::write(source.join("dir/file"), noise(1, 100_000)).unwrap();
        fs::write(source.join("file"), noise(2, 100_000)).unwrap();
    });
    let outside = case.rig.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(case.copy.join("file"), "precious").unwrap();
    fs::hard_link(case.copy.join("file"), outside.join("precious")).unwrap();
    fs::rename(case.copy.join("dir"), outside.join("dir")).unwrap();
    fs::write(outside.join("dir/file"), "untouched").unwrap();
    symlink(outside.join("dir"), case.copy.join("dir")).unwrap();
    case.again();
    assert_same(&case.source, &case.copy);
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "precious");
    assert_eq!(fs::read_to_string(outside.join("dir/file")).unwrap(), "untouched");
}

#[test]
fn a_file_that_is_withheld_has_its_other_name_and_what_is_kept_stays() {
    let case = Copied::new(|source| {
        fs::create_dir(source.join("global")).unwrap();
        fs::write(source.join("global/control"), "the last").unwrap();
        fs::write(source.join("global/other"), "other").unwrap();
        fs::write(source.join("control"), "not that one").unwrap();
    });
    fs::write(case.copy.join("mark"), "mine").unwrap();
    fs::write(case.copy.join("global/mark"), "only at the top").unwrap();
    let withheld = Withheld { dir: "global", name: "control", meanwhile: "control.new" };
    let over = Over { kept: &["mark"], withheld: Some(withheld) };
    for _ in 0..2 {
        case.over(over, &CancelToken::new()).unwrap();
        assert_eq!(fs::read_to_string(case.copy.join("global/control.new")).unwrap(), "the last");
        assert!(!case.copy.join("global/control").exists());
        assert!(!case.copy.join("global/mark").exists());
        assert_eq!(fs::read_to_string(case.copy.join("mark")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(case.copy.join("control")).unwrap(), "not that one");
    }
}

#[test]
fn one_that_was_cancelled_is_completed_by_the_same_call() {
    let case = Copied::new(plain_tree);
    fs::write(case.copy.join("large"), noise(9, 6 << 20)).unwrap();
    let cancel = CancelToken::new();
    cancel.cancel();
    assert!(matches!(case.over(Over::default(), &cancel), Err(Error::Cancelled)));
    let done = case.again();
    assert!(done.fetched_bytes > 1 << 20, "{done:?}");
    assert_same(&case.source, &case.copy);
    assert!(case.again().fetched_bytes < 100);
}

#[test]
fn only_a_directory_is_restored_over() {
    let case = Copied::new(rich_tree);
    let path = case.source.join("a/large");
    let path = path.to_str().unwrap().as_bytes();
    let (repository, cancel) = (&case.rig.repository, CancelToken::new());
    let over = |path: &[u8], target: &Path| {
        restore_over(repository, case.snapshot, path, target, Over::default(), &Silent, &cancel)
    };
    assert!(matches!(over(path, &case.copy), Err(Error::Invalid(_))));
    assert!(over(b"/nowhere", &case.copy).is_err());
    assert!(over(case.root(), &case.path("not there")).is_err());
    assert!(over(case.root(), &case.copy.join("a/large")).is_err());
    assert_same(&case.source, &case.copy);
}
