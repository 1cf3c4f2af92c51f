//! Repositories that real restics leave behind: of format 1, raised from it and mixed since, with
//! indexes of its first years, without any, with packs that are there twice, and with snapshots of
//! one instant. Each is judged by restic, too.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::damage::Damage;
use crate::prune::{ALL, forget, prune};
use crate::rig::{self, Rig, check, noise, open, restic};
use crate::trees::{archive, assert_same, rich_tree};
use mainstay_repository::format::config::Config;
use mainstay_repository::repair::{self, Work};
use mainstay_repository::restore;
use mainstay_repository::{Error, LockKind, Repository, TreeOptions, cat, migrate};
use model::progress::Silent;
use model::{CancelToken, SnapshotId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage::Local;

/// A repository that restic made, of this version of its format, and a tree that it has backed up.
fn by_restic(version: u32) -> (Rig, PathBuf) {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("repo");
    fs::create_dir(&path).unwrap();
    restic(&path, &["init", "--repository-version", &version.to_string()]);
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    rich_tree(&source);
    restic(&path, &["backup", source.to_str().unwrap()]);
    let repository = open(Arc::new(Local::open(&path).unwrap()));
    assert_eq!(repository.config().version, version);
    (Rig { dir, repository }, source)
}

fn reopen(rig: Rig) -> Rig {
    let repository = open(Arc::new(Local::open(rig.path()).unwrap()));
    Rig { repository, ..rig }
}

#[track_caller]
fn is_sound(rig: &Rig) {
    let fresh = open(Arc::new(Local::open(rig.path()).unwrap()));
    assert_eq!(check(&fresh).errors, Vec::<String>::new());
    rig.restic(&["check", "--read-data"]);
}

fn newest(rig: &Rig) -> SnapshotId {
    rig.repository.snapshots().unwrap().pop().unwrap().0
}

/// Restored by us and by restic, it is the tree that it was.
#[track_caller]
fn restores(rig: &Rig, id: SnapshotId, source: &Path) {
    let (ours, theirs) = (rig.dir.path().join("ours"), rig.dir.path().join("theirs"));
    let path = source.to_str().unwrap();
    let (options, cancel) = (restore::Options::default(), CancelToken::new());
    restore::restore(&rig.repository, id, path.as_bytes(), &ours, options, &Silent, &cancel)
        .unwrap();
    assert_same(source, &ours);
    rig.restic(&["restore", &id.to_string(), "--target", theirs.to_str().unwrap()]);
    assert_same(source, &theirs.join(path.trim_start_matches('/')));
    // What is closed to writers even its owner cannot clear away.
    make_writable(&ours);
    make_writable(&theirs);
    fs::remove_dir_all(&ours).unwrap();
    fs::remove_dir_all(&theirs).unwrap();
}

fn make_writable(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if root.is_dir() && !root.is_symlink() {
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).unwrap();
        for entry in fs::read_dir(root).unwrap() {
            make_writable(&entry.unwrap().path());
        }
    }
}

/// How many blobs there are in all packs, and how many of them are compressed.
fn blobs(repository: &Repository) -> (usize, usize) {
    let mut counts = (0, 0);
    for pack in cat::list(repository, cat::Kind::Pack).unwrap() {
        let header = cat::pack_header(repository, mainstay_repository::PackId(pack)).unwrap();
        counts.0 += header.blobs.len();
        counts.1 += header.blobs.iter().filter(|blob| blob.uncompressed_length.is_some()).count();
    }
    counts
}

/// Snapshot and index files that are compressed.
fn compressed_files(rig: &Rig) -> usize {
    let compressed = |path: &PathBuf| {
        let sealed = fs::read(path).unwrap();
        rig.repository.seal().open(&sealed).unwrap()[0] == 2
    };
    ["snapshots", "index"]
        .into_iter()
        .flat_map(|dir| {
            let dir = rig.path().join(dir);
            rig::files_below(&dir).into_iter().map(move |file| dir.join(file))
        })
        .filter(compressed)
        .count()
}

fn exclusively<T>(
    rig: &Rig,
    work: impl FnOnce(&mainstay_repository::RepositoryLock) -> Result<T, Error>,
) -> Result<T, Error> {
    let lock =
        rig.repository.lock(LockKind::Exclusive, Duration::ZERO, &CancelToken::new()).unwrap();
    work(&lock)
}

fn raise(rig: &Rig) -> Result<migrate::Migrated, Error> {
    exclusively(rig, |lock| migrate::migrate(&rig.repository, lock, &Silent, &CancelToken::new()))
}

fn rebuild_index(rig: &Rig) -> repair::Repaired {
    let cancel = CancelToken::new();
    exclusively(rig, |lock| {
        let repository = &rig.repository;
        let work = Work { repository, lock, dry_run: false, progress: &Silent, cancel: &cancel };
        repair::rebuild_index(&work, false)
    })
    .unwrap()
}

#[test]
fn format_1_is_read_written_and_pruned_as_it_is() {
    let (rig, source) = by_restic(1);
    is_sound(&rig);
    let theirs = newest(&rig);
    restores(&rig, theirs, &source);

    // What compresses well and is new; nothing of it is compressed.
    fs::write(source.join("more"), b"more ".repeat(100_000)).unwrap();
    let (finished, ours) = archive(&rig, &source, Some(theirs), &TreeOptions::default());
    assert_eq!(finished.problems, []);
    is_sound(&rig);
    restores(&rig, ours, &source);
    assert!(blobs(&rig.repository).0 > 10);
    assert_eq!((blobs(&rig.repository).1, compressed_files(&rig)), (0, 0));

    fs::remove_file(source.join("a/large")).unwrap();
    let (_, last) = archive(&rig, &source, Some(ours), &TreeOptions::default());
    forget(&rig.repository, &[theirs, ours]).unwrap();
    let figures = prune(&rig.repository, &ALL).unwrap();
    assert!(figures.repacked_packs > 0, "{figures:?}");
    is_sound(&rig);
    restores(&rig, last, &source);
    assert_eq!((blobs(&rig.repository).1, compressed_files(&rig)), (0, 0));
    rig.restic(&["backup", source.to_str().unwrap()]);
    is_sound(&rig);
}

#[test]
fn raised_it_holds_both_formats_and_everything_goes_on() {
    let (rig, source) = by_restic(1);
    let old = newest(&rig);
    let old_tree = rig.dir.path().join("as-it-was");
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .args([&source, &old_tree])
            .status()
            .unwrap()
            .success()
    );
    let plain = blobs(&rig.repository);
    assert_eq!(raise(&rig).unwrap(), migrate::Migrated { from: 1, to: 2 });
    let rig = reopen(rig);
    assert_eq!(rig.repository.config().version, 2);
    assert_eq!(raise(&rig).unwrap(), migrate::Migrated { from: 2, to: 2 });
    is_sound(&rig);
    assert_eq!(blobs(&rig.repository), plain, "what was there stays as it is");

    fs::write(source.join("more"), b"more ".repeat(100_000)).unwrap();
    let (_, ours) = archive(&rig, &source, Some(old), &TreeOptions::default());
    let mixed = blobs(&rig.repository);
    assert!(mixed.0 > plain.0 && mixed.1 > 0, "{mixed:?}");
    fs::write(source.join("again"), b"again ".repeat(100_000)).unwrap();
    rig.restic(&["backup", source.to_str().unwrap()]);
    is_sound(&rig);
    // Nothing that was there already was stored again by either.
    assert!(blobs(&rig.repository).0 < mixed.0 + 10);

    let theirs = newest(&rig);
    restores(&rig, theirs, &source);
    // Old packs that are used in part are written anew, in the format of now.
    forget(&rig.repository, &[ours]).unwrap();
    fs::remove_file(source.join("a/large")).unwrap();
    let (_, last) = archive(&rig, &source, Some(theirs), &TreeOptions::default());
    forget(&rig.repository, &[old, theirs]).unwrap();
    prune(&rig.repository, &ALL).unwrap();
    is_sound(&rig);
    restores(&rig, last, &source);
}

/// restic raises one itself, in its own way.
#[test]
fn what_restic_raised_is_read_and_added_to() {
    let (rig, source) = by_restic(1);
    rig.restic(&["migrate", "upgrade_repo_v2"]);
    let rig = reopen(rig);
    assert_eq!(rig.repository.config().version, 2);
    restores(&rig, newest(&rig), &source);
    rig.restic(&["prune", "--repack-uncompressed"]);
    let rig = reopen(rig);
    assert!(blobs(&rig.repository).1 > 0);
    fs::write(source.join("more"), b"more ".repeat(100_000)).unwrap();
    let (_, ours) = archive(&rig, &source, None, &TreeOptions::default());
    restores(&rig, ours, &source);
    is_sound(&rig);
}

#[test]
fn one_that_is_damaged_or_in_use_is_not_raised() {
    let (rig, _) = by_restic(1);
    let shared = rig.lock(LockKind::Shared);
    let refused = migrate::migrate(&rig.repository, &shared, &Silent, &CancelToken::new());
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    drop(shared);
    let data = rig.path().join("data");
    let pack = data.join(rig::files_below(&data).pop().unwrap());
    let bytes = fs::read(&pack).unwrap();
    fs::remove_file(&pack).unwrap();
    let before = fs::read(rig.path().join("config")).unwrap();
    let refused = raise(&rig);
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    assert!(fs::read(rig.path().join("config")).unwrap() == before);
    fs::write(&pack, bytes).unwrap();
    let rig = reopen(rig);
    raise(&rig).unwrap();
    // Nothing but the number has changed.
    let now = reopen(rig);
    let config = |version| Config { version, ..now.repository.config().clone() };
    let old = Config::decode(&now.repository.seal().open(&before).unwrap()).unwrap();
    assert_eq!((old, now.repository.config().clone()), (config(1), config(2)));
}

/// Seals JSON as an index file.
fn put_index(rig: &Rig, json: &Value) -> String {
    let sealed = rig.repository.seal().seal(&serde_json::to_vec(json).unwrap());
    let name = hex::encode(Sha256::digest(&sealed));
    fs::write(rig.path().join("index").join(&name), sealed).unwrap();
    name
}

/// The packs that all index files name, as JSON, and the files' names.
fn take_indexes(rig: &Rig) -> (Vec<Value>, Vec<String>) {
    let (mut packs, mut names) = (Vec::new(), Vec::new());
    for id in cat::list(&rig.repository, cat::Kind::Index).unwrap() {
        let json = cat::file(&rig.repository, cat::Kind::Index, id).unwrap();
        let index: Value = serde_json::from_slice(&json).unwrap();
        packs.extend(index["packs"].as_array().unwrap().iter().cloned());
        names.push(hex::encode(id));
        fs::remove_file(rig.path().join("index").join(hex::encode(id))).unwrap();
    }
    (packs, names)
}

/// A bare list of packs.
#[test]
fn indexes_of_restics_first_years_are_read_and_replaced() {
    let (rig, source) = by_restic(1);
    let (packs, _) = take_indexes(&rig);
    let name = put_index(&rig, &Value::Array(packs));
    let rig = reopen(rig);
    restores(&rig, newest(&rig), &source);
    assert_eq!(check(&rig.repository).errors, Vec::<String>::new());
    fs::write(source.join("more"), b"more ".repeat(1000)).unwrap();
    let (_, last) = archive(&rig, &source, None, &TreeOptions::default());
    fs::remove_file(source.join("a/large")).unwrap();
    let (_, smaller) = archive(&rig, &source, None, &TreeOptions::default());
    let all = rig.repository.snapshot_ids().unwrap();
    let gone: Vec<_> = all.into_iter().filter(|id| *id != smaller).collect();
    assert!(gone.contains(&last));
    forget(&rig.repository, &gone).unwrap();
    prune(&rig.repository, &ALL).unwrap();
    assert!(!rig.path().join("index").join(&name).exists(), "what is not true any more is gone");
    is_sound(&rig);
    restores(&reopen(rig), smaller, &source);
}

/// An index that says that another counts no more.
#[test]
fn superseded_indexes_do_not_count() {
    let (rig, source) = by_restic(2);
    let (packs, _) = take_indexes(&rig);
    let gone = json!({"id": "ab".repeat(32), "blobs": [{"id": "cd".repeat(32), "type": "data",
        "offset": 0, "length": 40}]});
    let mut stale = packs.clone();
    stale.push(gone);
    let old = put_index(&rig, &json!({ "packs": stale }));
    let new = put_index(&rig, &json!({ "supersedes": [old], "packs": packs }));
    let rig = reopen(rig);
    restores(&rig, newest(&rig), &source);
    assert_eq!(check(&rig.repository).errors, Vec::<String>::new());
    // A new index for all: neither of the two is needed after it.
    let repaired = rebuild_index(&rig);
    assert_eq!(repaired.lost, Vec::<String>::new());
    let left: Vec<String> = cat::list(&rig.repository, cat::Kind::Index)
        .unwrap()
        .into_iter()
        .map(hex::encode)
        .collect();
    assert_eq!(left, [new]);
    is_sound(&rig);
}

/// Once the index that replaces it is gone, an old one would count again, with packs that are not
/// there: what is backed up then would be taken to be in them.
#[test]
fn a_repair_of_packs_brings_no_superseded_index_back() {
    let (rig, _) = by_restic(2);
    let (packs, _) = take_indexes(&rig);
    let gone = json!({"id": "ab".repeat(32), "blobs": [{"id": "cd".repeat(32), "type": "data",
        "offset": 0, "length": 40}]});
    let old = put_index(&rig, &json!({ "packs": [gone] }));
    put_index(&rig, &json!({ "supersedes": [old], "packs": packs }));
    let data = rig.path().join("data");
    let victim = data.join(&rig::files_below(&data)[0]);
    Damage::Flipped(20).inflict(&victim, &victim);
    let rig = reopen(rig);
    let (lock, cancel) = (rig.lock(LockKind::Exclusive), CancelToken::new());
    let work = Work {
        repository: &rig.repository,
        lock: &lock,
        dry_run: false,
        progress: &Silent,
        cancel: &cancel,
    };
    let repaired = repair::repair_packs(&work, &[]).unwrap();
    assert!(repaired.done[0].contains("is damaged"), "{repaired:?}");
    drop(lock);
    let rig = reopen(rig);
    assert!(!rig.path().join("index").join(&old).exists(), "it counts again");
    let errors = check(&rig.repository).errors;
    assert!(!errors.iter().any(|error| error.contains(&"ab".repeat(32))), "{errors:?}");
}

#[test]
fn without_any_index_it_is_made_anew_from_the_packs() {
    for version in [1, 2] {
        let (rig, source) = by_restic(version);
        let id = newest(&rig);
        let (packs, names) = take_indexes(&rig);
        assert!(!names.is_empty());
        let rig = reopen(rig);
        assert!(!check(&rig.repository).errors.is_empty());
        // Nobody may take it for empty.
        let refused = prune(&rig.repository, &ALL);
        assert!(refused.is_err(), "{refused:?}");
        let repaired = rebuild_index(&rig);
        assert_eq!((repaired.done.len(), repaired.lost.len()), (packs.len(), 0), "{repaired:?}");
        is_sound(&rig);
        restores(&rig, id, &source);
    }
}

/// Two machines that stored the same at the same time.
#[test]
fn packs_that_are_there_twice_are_told_apart_and_one_goes() {
    let (rig, source) = by_restic(2);
    let hidden = rig.dir.path().join("hidden");
    fs::rename(rig.path().join("index"), &hidden).unwrap();
    fs::create_dir(rig.path().join("index")).unwrap();
    // Neither its index nor its snapshot is known to the second machine.
    rig.restic(&["backup", "--force", source.to_str().unwrap()]);
    for file in rig::files_below(&hidden) {
        fs::rename(hidden.join(&file), rig.path().join("index").join(&file)).unwrap();
    }
    let rig = reopen(rig);
    is_sound(&rig);
    let before = blobs(&rig.repository).0;
    let (finished, last) = archive(&rig, &source, None, &TreeOptions::default());
    assert_eq!(finished.problems, []);
    prune(&rig.repository, &ALL).unwrap();
    let after = blobs(&rig.repository).0;
    assert!(after < before && after * 2 >= before, "{before} {after}");
    is_sound(&rig);
    for id in rig.repository.snapshot_ids().unwrap() {
        restores(&rig, id, &source);
    }
    assert!(rig.repository.snapshot_ids().unwrap().contains(&last));
}

#[test]
fn snapshots_of_one_instant_are_all_there_and_always_in_one_order() {
    let (rig, _) = by_restic(2);
    let source = rig.dir.path().join("other");
    fs::create_dir(&source).unwrap();
    for n in 0..3 {
        fs::write(source.join("file"), noise(n, 1000)).unwrap();
        let host = format!("odd\nhost {n}");
        let arguments =
            ["backup", "--time", "2026-01-01 00:00:00", "--tag", "a b,\u{e9}", "--host", &host];
        rig.restic(&[&arguments[..], &[source.to_str().unwrap()]].concat());
    }
    let order = |rig: &Rig| {
        let all = rig.repository.snapshots().unwrap();
        let same = all.iter().filter(|(_, snapshot)| snapshot.hostname.starts_with("odd\n"));
        same.map(|(id, snapshot)| (*id, snapshot.time.clone())).collect::<Vec<_>>()
    };
    let first = order(&rig);
    assert_eq!(first.len(), 3);
    assert!(first.iter().all(|(_, time)| *time == first[0].1));
    assert!(first.is_sorted());
    let rig = reopen(rig);
    assert_eq!(order(&rig), first);
    let ids: Vec<_> = first.iter().map(|(id, _)| *id).collect();
    let contents: Vec<Vec<u8>> = ids
        .iter()
        .map(|id| {
            let reader = mainstay_repository::SnapshotReader::open(&rig.repository, *id).unwrap();
            let mut content = Vec::new();
            reader.dump(source.join("file").to_str().unwrap().as_bytes(), &mut content).unwrap();
            content
        })
        .collect();
    let mut seeds: Vec<_> =
        contents.iter().map(|c| (0..3).find(|n| *c == noise(*n, 1000)).unwrap()).collect();
    seeds.sort_unstable();
    assert_eq!(seeds, [0, 1, 2]);
    forget(&rig.repository, &ids[..2]).unwrap();
    prune(&rig.repository, &ALL).unwrap();
    is_sound(&rig);
    assert_eq!(order(&rig), first[2..]);
}
