//! The damage matrix of repairs: whatever is damaged in whatever way, what could be restored before
//! can be restored afterwards, and the repository is sound again by our check and by restic's.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::damage::{ALL, Damage, Victim};
use crate::rig::{self, Rig, check, noise};
use mainstay_repository::repair::{self, Repaired, Work};
use mainstay_repository::restore::{self, Options};
use mainstay_repository::{Error, LockKind, Repository};
use model::progress::Silent;
use model::{CancelToken, SnapshotId};
use sha2::Digest;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// What is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Index,
    Packs,
    Snapshots,
}

fn repair(repository: &Repository, part: Part, dry_run: bool) -> Result<Repaired, Error> {
    let cancel = CancelToken::new();
    let lock = repository.lock(LockKind::Exclusive, Duration::ZERO, &cancel)?;
    let work = Work { repository, lock: &lock, dry_run, progress: &Silent, cancel: &cancel };
    match part {
        Part::Index => repair::rebuild_index(&work, false),
        Part::Packs => repair::repair_packs(&work, &[]),
        Part::Snapshots => {
            let repaired = repair::repair_snapshots(&work)?;
            if !dry_run {
                for id in &repaired.damaged_snapshots {
                    repository.remove_snapshot(&lock, *id)?;
                }
            }
            Ok(repaired)
        }
    }
}

/// Everything, in the order in which it has to be; what was done.
fn repair_all(repository: &Repository) -> Vec<String> {
    let mut done = Vec::new();
    for part in [Part::Index, Part::Packs, Part::Snapshots] {
        let repaired = repair(repository, part, false).unwrap_or_else(|e| panic!("{part:?}: {e}"));
        done.extend(repaired.done);
        done.extend(repaired.lost);
    }
    done
}

/// Which of the contents can be read back, each by what finds its snapshot.
fn readable(victim: &Victim) -> Vec<SnapshotId> {
    let Ok(repository) = victim.open() else { return Vec::new() };
    let whole = victim.contents.iter().filter(|(id, content)| {
        rig::read_back(&repository, *id).is_ok_and(|read| read == *content)
    });
    whole.map(|(id, _)| *id).collect()
}

fn every_damage() -> Vec<Damage> {
    let mut all = ALL.to_vec();
    all.extend([Damage::Duplicated, Damage::Swapped]);
    all
}

#[test]
fn after_a_repair_it_is_sound_and_nothing_more_is_lost() {
    let mut cases = Vec::new();
    for (dir, files) in [("data", 4), ("index", 2), ("snapshots", 2)] {
        for i in 0..files {
            cases.extend(every_damage().into_iter().map(|damage| (dir, i, damage)));
        }
    }
    let cases = Mutex::new(cases);
    // Most of the time locks settle: side by side that takes no longer.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let victim = Victim::new();
                loop {
                    let Some((dir, i, damage)) = cases.lock().unwrap().pop() else { break };
                    repairs(&victim, dir, i, damage);
                    victim.heal();
                }
            });
        }
    });
}

fn repairs(victim: &Victim, dir: &str, i: usize, damage: Damage) {
    let mut files = victim.files(dir);
    // So that the same ones are meant in every repository.
    files.sort_by_key(|file| (fs::metadata(file).unwrap().len(), file.clone()));
    let (file, other) = (&files[i], &files[(i + 1) % files.len()]);
    let what = format!("{damage:?} of {dir} {}", file.display());
    damage.inflict(file, other);
    let before = readable(victim);
    let found = check(&victim.open().unwrap()).errors;
    // Nobody can miss a snapshot that is not there.
    let silent = dir == "snapshots" && damage == Damage::Deleted;
    assert_eq!(found.is_empty(), silent, "{what}: {found:?}");
    let named = match damage {
        Damage::Duplicated => vec![Damage::twin(file)],
        Damage::Swapped => vec![file.clone(), other.clone()],
        // Without an index, what it named is missed.
        Damage::Deleted if dir != "data" => Vec::new(),
        _ => vec![file.clone()],
    };
    for file in named {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(found.iter().any(|error| error.contains(name)), "{what}: {found:?}");
    }

    let files_before = rig::files_below(&victim.rig.path());
    let index = repair(&victim.open().unwrap(), Part::Index, true).unwrap();
    let snapshots = repair(&victim.open().unwrap(), Part::Snapshots, true);
    assert_eq!(files_before, rig::files_below(&victim.rig.path()), "{what}: dry run");
    let done = repair_all(&victim.open().unwrap());
    assert!(index.done.iter().all(|line| done.contains(line)), "{what}: {index:?}");
    if dir == "snapshots" {
        let snapshots = snapshots.unwrap();
        assert!(snapshots.done.iter().all(|line| done.contains(line)), "{what}: {snapshots:?}");
    }
    assert_eq!(done.is_empty(), silent, "{what}: {done:?}");

    let repository = victim.open().unwrap();
    let report = check(&repository);
    assert_eq!(report.errors, Vec::<String>::new(), "{what}: {done:?}");
    // A sample, for it takes a second each time.
    if i == 0 || damage == Damage::Swapped {
        victim.rig.restic(&["check", "--read-data"]);
    }
    let after = readable(victim);
    assert!(before.iter().all(|id| after.contains(id)), "{what}: {before:?} {after:?}");
    // Only one content can have been hit, and an index can be made anew.
    let nothing_lost = dir == "index" || matches!(damage, Damage::Duplicated | Damage::Swapped);
    assert!(after.len() >= if nothing_lost { 2 } else { 1 }, "{what}: {after:?}");
    // Backups go on.
    rig::back_up(&repository, b"more");
    assert_eq!(repair_all(&repository), Vec::<String>::new(), "{what}: once more");
}

/// The files of one directory, one of which lost its bytes.
fn half_lost() -> (Rig, SnapshotId, PathBuf) {
    let rig = Rig::light();
    let source = rig.dir.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("good"), noise(1, 100_000)).unwrap();
    fs::write(source.join("sub/fine"), b"fine").unwrap();
    fs::create_dir(source.join("empty")).unwrap();
    let id = archive(&rig, &source);
    let pack = rig.path().join("data");
    let before = rig::files_below(&pack);
    fs::write(source.join("lost"), noise(2, 3_000_000)).unwrap();
    fs::hard_link(source.join("lost"), source.join("sub/also-lost")).unwrap();
    let second = archive(&rig, &source);
    assert_ne!(id, second);
    let largest = rig::files_below(&pack)
        .into_iter()
        .filter(|file| !before.contains(file))
        .map(|file| pack.join(file))
        .max_by_key(|file| fs::metadata(file).unwrap().len());
    (rig, second, largest.unwrap())
}

fn archive(rig: &Rig, source: &std::path::Path) -> SnapshotId {
    let out = rig::restic_output(
        &rig.path(),
        &["backup", "--json", "--tag", "test", source.to_str().unwrap()],
    );
    assert!(out.status.success(), "{out:?}");
    let newest = rig.repository.snapshots().unwrap().pop().unwrap();
    newest.0
}

fn path_of(rig: &Rig) -> Vec<u8> {
    rig.dir.path().join("source").to_str().unwrap().as_bytes().to_vec()
}

fn fresh(rig: &Rig) -> Repository {
    rig::open(std::sync::Arc::new(storage::Local::open(rig.path()).unwrap()))
}

#[test]
fn what_is_whole_is_restored_and_what_is_not_is_named() {
    let (rig, id, victim) = half_lost();
    let (path, cancel) = (path_of(&rig), CancelToken::new());
    let whole = restore::lacking(&fresh(&rig), id, &path, &Silent, &cancel).unwrap();
    assert!(whole.is_nothing() && !whole.all);
    let good = fs::read(&victim).unwrap();
    for damage in [Damage::Truncated, Damage::Emptied, Damage::Flipped(50), Damage::Deleted] {
        damage.inflict(&victim, &victim);
        let repository = fresh(&rig);
        let target = rig.dir.path().join("plain");
        let plain =
            restore::restore(&repository, id, &path, &target, Options::default(), &Silent, &cancel);
        assert!(matches!(plain, Err(Error::Damaged { .. })), "{damage:?}: {plain:?}");
        fs::remove_dir_all(&target).unwrap();

        let lacking = restore::lacking(&repository, id, &path, &Silent, &cancel).unwrap();
        let names: Vec<&str> = lacking
            .paths
            .iter()
            .filter_map(|path| path.rsplit_once("source/"))
            .map(|p| p.1)
            .collect();
        assert_eq!(names, ["lost", "sub/also-lost"], "{damage:?}");
        let target = rig.dir.path().join("partial");
        restore::restore_without(
            &repository,
            id,
            &path,
            &target,
            Options::default(),
            &lacking,
            &Silent,
            &cancel,
        )
        .unwrap();
        let mut found = rig::files_below(&target);
        found.sort();
        assert_eq!(found, [PathBuf::from("good"), PathBuf::from("sub/fine")], "{damage:?}");
        assert!(fs::read(target.join("good")).unwrap() == noise(1, 100_000));
        assert!(target.join("empty").is_dir());
        fs::remove_dir_all(&target).unwrap();
        fs::write(&victim, &good).unwrap();
    }
}

#[test]
fn a_repaired_snapshot_has_whole_files_only_and_says_so() {
    let (rig, id, victim) = half_lost();
    Damage::Flipped(50).inflict(&victim, &victim);
    let repository = fresh(&rig);
    repair(&repository, Part::Index, false).unwrap();
    let packs = repair(&repository, Part::Packs, false).unwrap();
    assert!(packs.lost.iter().any(|line| line.contains("blob")), "{packs:?}");
    let dry = repair(&repository, Part::Snapshots, true).unwrap();
    assert_eq!((dry.damaged_snapshots.as_slice(), dry.replaced.len()), (&[id][..], 0));
    let repaired = repair(&repository, Part::Snapshots, false).unwrap();
    assert_eq!(repaired.lost, dry.lost);
    assert_eq!(repaired.lost.len(), 2, "{repaired:?}");
    assert!(repaired.lost[0].ends_with("/lost"), "{repaired:?}");
    let [(new, old)] = repaired.replaced.as_slice() else { panic!("{repaired:?}") };
    assert_eq!(*old, id);
    let snapshot = repository.snapshot(*new).unwrap();
    for tag in ["test", "mainstay:repaired", "mainstay:incomplete"] {
        assert!(snapshot.tags.iter().any(|t| t == tag), "{tag}: {:?}", snapshot.tags);
    }
    let target = rig.dir.path().join("target");
    let (path, cancel) = (path_of(&rig), CancelToken::new());
    restore::restore(&repository, *new, &path, &target, Options::default(), &Silent, &cancel)
        .unwrap();
    assert_eq!(rig::files_below(&target), [PathBuf::from("good"), PathBuf::from("sub/fine")]);
    assert_eq!(check(&repository).errors, Vec::<String>::new());
    rig.restic(&["check", "--read-data"]);
    // The source still has it: the next backup brings the bytes back.
    let again = archive(&rig, &rig.dir.path().join("source"));
    assert!(restore::lacking(&fresh(&rig), again, &path, &Silent, &cancel).unwrap().is_nothing());
}

/// What is missed only because an index was lost is in the packs still.
#[test]
fn snapshots_are_not_judged_by_an_index_that_lacks_packs() {
    let victim = Victim::new();
    for lost in [victim.files("index"), victim.files("index").split_off(1)] {
        for file in &lost {
            fs::remove_file(file).unwrap();
        }
        let files = rig::files_below(&victim.rig.path().join("snapshots"));
        for dry_run in [true, false] {
            let repaired = repair(&victim.open().unwrap(), Part::Snapshots, dry_run);
            let told = repaired.expect_err("judged by half an index").to_string();
            assert!(told.contains("index") && told.contains("pack"), "{told}");
        }
        assert_eq!(files, rig::files_below(&victim.rig.path().join("snapshots")));
        let repository = victim.open().unwrap();
        repair(&repository, Part::Index, false).unwrap();
        assert_eq!(repair(&repository, Part::Snapshots, false).unwrap(), Repaired::default());
        assert_eq!(readable(&victim).len(), 2);
        victim.heal();
    }
}

/// A pack that nobody can read does not keep what is lost from being given up.
#[test]
fn a_pack_without_a_header_hides_nothing() {
    let (rig, id, victim) = half_lost();
    let unreadable = [7; 100];
    let name = hex::encode(sha2::Sha256::digest(unreadable));
    let dir = rig.path().join("data").join(&name[..2]);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(&name), unreadable).unwrap();
    fs::remove_file(&victim).unwrap();
    let repaired = repair(&fresh(&rig), Part::Snapshots, true).unwrap();
    assert_eq!(repaired.damaged_snapshots, [id]);
}

#[test]
fn a_repair_needs_the_repository_for_itself() {
    let rig = Rig::new();
    let (lock, cancel) = (rig.lock(LockKind::Shared), CancelToken::new());
    let work = Work {
        repository: &rig.repository,
        lock: &lock,
        dry_run: false,
        progress: &Silent,
        cancel: &cancel,
    };
    assert!(matches!(repair::rebuild_index(&work, false), Err(Error::Invalid(_))));
    assert!(matches!(repair::repair_packs(&work, &[]), Err(Error::Invalid(_))));
    assert!(matches!(repair::repair_snapshots(&work), Err(Error::Invalid(_))));
}
