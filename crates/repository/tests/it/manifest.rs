//! What was put on disk, and what somebody changed since.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use mainstay_repository::Error;
use mainstay_repository::manifest::{Difference, differences, record_manifest};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

struct Copy {
    _dir: tempfile::TempDir,
    root: PathBuf,
    manifest: PathBuf,
}

impl Copy {
    fn new() -> Copy {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("copy");
        let manifest = dir.path().join("copy.manifest");
        for path in ["a/deep/er", "a b/x", "z"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in
            ["a/deep/er/file", "a/deep-file", "a b/x/\n\t\"odd\"\\", "z/one", "z/two", "top"]
        {
            fs::write(root.join(path), path).unwrap();
        }
        symlink("somewhere", root.join("z/link")).unwrap();
        Copy { _dir: dir, root, manifest }
    }

    fn recorded() -> Copy {
        let copy = Copy::new();
        record_manifest(&copy.root, &copy.manifest).unwrap();
        copy
    }

    fn found(&self) -> Vec<(String, String, bool)> {
        let found = differences(&self.root, &self.manifest, 100).unwrap();
        found.into_iter().map(|d: Difference| (d.path, d.what, d.only_ctime)).collect()
    }

    fn assert(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(p, w)| ((*p).to_owned(), (*w).to_owned(), false)).collect();
        assert_eq!(self.found(), expected);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

#[test]
fn an_untouched_copy_has_no_differences_even_when_it_was_read_and_moved() {
    let copy = Copy::recorded();
    fs::read(copy.path("top")).unwrap();
    copy.assert(&[]);
    let moved = copy.root.with_file_name("moved");
    fs::rename(&copy.root, &moved).unwrap();
    assert_eq!(differences(&moved, &copy.manifest, 100).unwrap(), []);
}

#[test]
fn every_kind_of_change_is_named() {
    let same_size = Copy::recorded();
    fs::write(same_size.path("top"), "TOP").unwrap();
    same_size.assert(&[("top", "changed")]);

    let mode = Copy::recorded();
    fs::set_permissions(mode.path("z/one"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(mode.path("a/deep"), fs::Permissions::from_mode(0o700)).unwrap();
    mode.assert(&[("a/deep", "changed"), ("z/one", "changed")]);

    let replaced = Copy::recorded();
    fs::remove_file(replaced.path("z/link")).unwrap();
    symlink("elsewhere", replaced.path("z/link")).unwrap();
    replaced.assert(&[("z/link", "changed")]);

    let attribute = Copy::recorded();
    xattr::set(attribute.path("z"), "user.x", b"y").unwrap();
    attribute.assert(&[("z", "changed")]);

    let kind = Copy::recorded();
    fs::remove_dir_all(kind.path("a/deep")).unwrap();
    fs::write(kind.path("a/deep"), "").unwrap();
    kind.assert(&[("a/deep", "changed"), ("a/deep/er", "gone")]);
}

#[test]
fn new_and_vanished_trees_are_one_difference_each() {
    let copy = Copy::recorded();
    fs::remove_dir_all(copy.path("a")).unwrap();
    fs::create_dir_all(copy.path("b/c/d")).unwrap();
    fs::write(copy.path("b/c/file"), "").unwrap();
    fs::write(copy.path("z/three"), "").unwrap();
    copy.assert(&[("a", "gone"), ("b", "new"), ("z/three", "new")]);
    assert_eq!(differences(&copy.root, &copy.manifest, 2).unwrap().len(), 2);

    fs::remove_dir_all(&copy.root).unwrap();
    copy.assert(&[(".", "gone")]);
}

#[test]
fn a_new_neighbour_whose_name_sorts_between_a_directory_and_its_content_is_found() {
    let copy = Copy::recorded();
    // As bytes "a!" sorts before "a/", but a walk enters "a" first.
    fs::write(copy.path("a!"), "").unwrap();
    fs::write(copy.path("a/!"), "").unwrap();
    copy.assert(&[("a/!", "new"), ("a!", "new")]);
}

#[test]
fn a_write_that_hides_behind_its_old_times_shows_by_its_ctime() {
    let copy = Copy::recorded();
    let file = copy.path("top");
    let mtime = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "TOP").unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(mtime).unwrap();
    assert_eq!(copy.found(), [("top".to_owned(), "changed".to_owned(), true)]);
}

#[test]
fn a_single_file_has_a_manifest_too() {
    let copy = Copy::new();
    let file = copy.path("top");
    record_manifest(&file, &copy.manifest).unwrap();
    assert_eq!(differences(&file, &copy.manifest, 9).unwrap(), []);
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(SystemTime::now() + Duration::from_secs(5))
        .unwrap();
    let found = differences(&file, &copy.manifest, 9).unwrap();
    assert_eq!((found[0].path.as_str(), found[0].what.as_str()), (".", "changed"));
    fs::remove_file(&file).unwrap();
    assert_eq!(differences(&file, &copy.manifest, 9).unwrap()[0].what, "gone");
}

#[test]
fn a_damaged_manifest_is_an_error_and_never_no_difference() {
    let copy = Copy::recorded();
    let good = fs::read(&copy.manifest).unwrap();
    let judge = |bytes: &[u8]| {
        fs::write(&copy.manifest, bytes).unwrap();
        differences(&copy.root, &copy.manifest, 100)
    };
    assert_eq!(judge(&good).unwrap(), []);
    for cut in 0..good.len() {
        assert!(matches!(judge(&good[..cut]), Err(Error::Damaged { .. })), "cut at {cut}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(matches!(judge(&bad), Err(Error::Damaged { .. })), "changed at {at}");
    }
    let lines: Vec<&[u8]> = good.split_inclusive(|b| *b == b'\n').collect();
    for gone in 0..lines.len() {
        let rest: Vec<u8> = lines
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != gone)
            .flat_map(|(_, l)| l.to_vec())
            .collect();
        assert!(judge(&rest).is_err(), "without line {gone}");
    }
    fs::remove_file(&copy.manifest).unwrap();
    let error = differences(&copy.root, &copy.manifest, 100).unwrap_err();
    assert!(matches!(error, Error::Missing(_)), "{error}");
}

#[test]
fn recording_replaces_the_manifest_and_leaves_nothing_beside_it() {
    let copy = Copy::recorded();
    fs::write(copy.path("top"), "longer than before").unwrap();
    record_manifest(&copy.root, &copy.manifest).unwrap();
    copy.assert(&[]);
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(copy.manifest.parent().unwrap()), ["copy", "copy.manifest"]);
    assert!(fs::metadata(&copy.manifest).unwrap().size() > 0);
}

#[test]
fn a_root_that_is_not_there_cannot_be_recorded() {
    let copy = Copy::new();
    assert!(record_manifest(&copy.path("none"), &copy.manifest).is_err());
    assert!(!copy.manifest.exists());
}

#[test]
fn of_very_many_files_every_change_is_named_too_and_a_damaged_line_is_an_error() {
    let copy = Copy::new();
    for dir in 0..5 {
        let dir = copy.path(&format!("many/{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..1000 {
            File::create(dir.join(format!("{file:04}"))).unwrap();
        }
    }
    record_manifest(&copy.root, &copy.manifest).unwrap();
    copy.assert(&[]);
    fs::remove_file(copy.path("many/0/0000")).unwrap();
    assert_eq!(differences(&copy.root, &copy.manifest, 1).unwrap().len(), 1);
    fs::write(copy.path("many/2/0500"), "x").unwrap();
    fs::remove_dir_all(copy.path("many/3")).unwrap();
    fs::create_dir_all(copy.path("many/30/deep")).unwrap();
    fs::write(copy.path("z/two"), "x").unwrap();
    fs::write(copy.path("zz"), "x").unwrap();
    copy.assert(&[
        ("many/0/0000", "gone"),
        ("many/2/0500", "changed"),
        ("many/3", "gone"),
        ("many/30", "new"),
        ("z/two", "changed"),
        ("zz", "new"),
    ]);
    // A line in the middle, below a sum that fits.
    let text = fs::read_to_string(&copy.manifest).unwrap();
    let (body, end) = text.trim_end().rsplit_once('\n').unwrap();
    let count = end.split(' ').nth(1).unwrap();
    let sealed = |body: &str, count: &str| {
        let sum = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(body.as_bytes()));
        fs::write(&copy.manifest, format!("{body}end {count} {sum}\n")).unwrap();
    };
    let body = format!("{body}\n");
    sealed(&body, count);
    assert_eq!(copy.found().len(), 6);
    sealed(&body.replacen("many/4/0500", "many/4/0500\tx", 1), count);
    let said = differences(&copy.root, &copy.manifest, 100).unwrap_err();
    assert!(matches!(said, Error::Damaged { .. }), "{said}");
    // The same with fewer lines, and with more, than it says.
    for wrong in ["5000", "6000"] {
        sealed(&body, wrong);
        let said = differences(&copy.root, &copy.manifest, 100).unwrap_err();
        assert!(matches!(said, Error::Damaged { .. }), "{said}");
    }
}
