//! Every kind of file, damaged in every way: it is noticed and named, or it does no harm; and
//! whatever can still be read is right.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, Rig, check, noise};
use mainstay_repository::{BlobWriter, Compression, Error, LockKind, Repository};
use model::{CancelToken, Class, Classify, SnapshotId};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage::Local;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Truncated,
    Emptied,
    /// One bit, at this many hundredths of the file.
    Flipped(usize),
    Grown,
    /// By a whole file of the same kind.
    Replaced,
    Deleted,
    /// Under a name that it does not have.
    Duplicated,
    /// With another file of the same kind.
    Swapped,
}

pub(crate) const ALL: [Damage; 9] = [
    Damage::Truncated,
    Damage::Emptied,
    Damage::Flipped(0),
    Damage::Flipped(20),
    Damage::Flipped(50),
    Damage::Flipped(99),
    Damage::Grown,
    Damage::Replaced,
    Damage::Deleted,
];

impl Damage {
    /// Where a file lies the second time: the last digit of its name is another.
    pub(crate) fn twin(file: &Path) -> PathBuf {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (rest, last) = name.split_at(name.len() - 1);
        file.with_file_name(format!("{rest}{}", if last == "0" { "1" } else { "0" }))
    }

    pub(crate) fn inflict(self, file: &Path, other: &Path) {
        let mut bytes = fs::read(file).unwrap();
        match self {
            Damage::Truncated => bytes.truncate(bytes.len() / 2),
            Damage::Emptied => bytes.clear(),
            Damage::Flipped(percent) => {
                let at = bytes.len() * percent / 100;
                bytes[at] ^= 0x40;
            }
            Damage::Grown => bytes.push(0),
            Damage::Replaced => bytes = fs::read(other).unwrap(),
            Damage::Swapped => {
                let others = fs::read(other).unwrap();
                fs::write(other, std::mem::replace(&mut bytes, others)).unwrap();
            }
            Damage::Deleted => return fs::remove_file(file).unwrap(),
            Damage::Duplicated => return fs::write(Damage::twin(file), bytes).unwrap(),
        }
        fs::write(file, bytes).unwrap();
    }
}

/// A repository with two of every kind of file, and its contents.
pub(crate) struct Victim {
    pub(crate) rig: Rig,
    pub(crate) contents: Vec<(SnapshotId, Vec<u8>)>,
    undamaged: Vec<(PathBuf, Vec<u8>)>,
}

impl Victim {
    pub(crate) fn new() -> Victim {
        let rig = Rig::light();
        rig.repository.add_key(&rig::password(), mainstay_repository::Kdf::Fast).unwrap();
        let mut contents = Vec::new();
        for seed in [1, 2] {
            let mut content = noise(seed, 700_000);
            content.extend(b"text ".repeat(1000 * usize::try_from(seed).unwrap()));
            contents.push((rig::back_up(&rig.repository, &content), content));
        }
        let files = rig::files_below(&rig.path());
        let undamaged = files
            .into_iter()
            .map(|file| (file.clone(), fs::read(rig.path().join(file)).unwrap()))
            .collect();
        Victim { rig, contents, undamaged }
    }

    pub(crate) fn files(&self, dir: &str) -> Vec<PathBuf> {
        let below = self.undamaged.iter().filter(|(path, _)| path.starts_with(dir));
        below.map(|(path, _)| self.rig.path().join(path)).collect()
    }

    pub(crate) fn heal(&self) {
        for file in rig::files_below(&self.rig.path()) {
            if !self.undamaged.iter().any(|(path, _)| *path == file) {
                fs::remove_file(self.rig.path().join(file)).unwrap();
            }
        }
        for (path, bytes) in &self.undamaged {
            fs::write(self.rig.path().join(path), bytes).unwrap();
        }
    }

    pub(crate) fn open(&self) -> Result<Repository, Error> {
        let storage = Arc::new(Local::open(self.rig.path()).unwrap());
        Repository::open(storage, &rig::password())
    }

    /// Whatever can be read is what was written. Returns how many contents can.
    pub(crate) fn readable(&self, repository: &Repository) -> usize {
        let read =
            self.contents.iter().filter(|(id, content)| match rig::read_back(repository, *id) {
                Ok(read) => {
                    assert!(read == *content, "wrong bytes were read as right ones");
                    true
                }
                Err(e) => {
                    // A deleted index leaves blobs that are nowhere, a deleted snapshot none at all.
                    assert!(matches!(e.class(), Class::Corrupt | Class::Invalid), "{e}");
                    false
                }
            });
        read.count()
    }
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

#[test]
fn undamaged_it_is_whole() {
    let victim = Victim::new();
    let repository = victim.open().unwrap();
    let report = check(&repository);
    assert_eq!((report.errors, report.notes), (Vec::new(), Vec::new()));
    assert_eq!((report.snapshots, report.packs), (2, 4));
    let stored: u64 = victim.files("data").iter().map(|f| fs::metadata(f).unwrap().len()).sum();
    assert_eq!(report.verified_bytes, stored);
    assert_eq!(victim.readable(&repository), 2);
}

#[test]
fn damaged_packs_and_indexes_are_named_and_never_read_wrong() {
    let victim = Victim::new();
    for dir in ["data", "index"] {
        let files = victim.files(dir);
        for (i, file) in files.iter().enumerate() {
            for damage in ALL {
                damage.inflict(file, &files[(i + 1) % files.len()]);
                let repository = victim.open().unwrap();
                let report = check(&repository);
                let errors = report.errors.join("\n");
                let deleted_index = dir == "index" && damage == Damage::Deleted;
                // A deleted index leaves no name, but what it named is missed.
                let named = if deleted_index { "in no index" } else { name(file) };
                assert!(errors.contains(named), "{damage:?} of {dir} {}: {errors}", name(file));
                if dir == "index" && !deleted_index {
                    // Which of the contents it named is not known: better none than some.
                    assert_eq!(victim.readable(&repository), 0, "{damage:?}");
                } else {
                    assert!(victim.readable(&repository) <= 2);
                }
                victim.heal();
            }
        }
    }
    assert_eq!(check(&victim.open().unwrap()).errors, Vec::<String>::new(), "not healed");
}

#[test]
fn damaged_snapshots_are_named_and_the_others_are_read() {
    let victim = Victim::new();
    let files = victim.files("snapshots");
    for damage in ALL {
        damage.inflict(&files[0], &files[1]);
        let repository = victim.open().unwrap();
        let report = check(&repository);
        if damage == Damage::Deleted {
            // Nothing names a snapshot, so nobody can miss one.
            assert_eq!((report.errors.len(), report.snapshots), (0, 1));
            assert_eq!(repository.snapshots().unwrap().len(), 1);
        } else {
            assert!(report.errors.join("\n").contains(name(&files[0])), "{damage:?}: {report:?}");
            let error = repository.snapshots().unwrap_err();
            assert!(error.to_string().contains(name(&files[0])), "{damage:?}: {error}");
        }
        assert_eq!(victim.readable(&repository), 1, "{damage:?}");
        victim.heal();
    }
}

#[test]
fn a_damaged_key_is_named_and_the_other_opens() {
    let victim = Victim::new();
    let files = victim.files("keys");
    for damage in ALL {
        damage.inflict(&files[0], &files[1]);
        let repository = victim.open().unwrap();
        let errors = check(&repository).errors.join("\n");
        assert_eq!(
            errors.contains(name(&files[0])),
            damage != Damage::Deleted,
            "{damage:?}: {errors}"
        );
        assert_eq!(victim.readable(&repository), 2);
        // Both: it says which, and does not blame the password.
        damage.inflict(&files[1], &files[0]);
        if damage != Damage::Replaced {
            let error = victim.open().unwrap_err();
            assert_eq!(error.class(), Class::Corrupt, "{damage:?}: {error}");
        }
        victim.heal();
    }
}

#[test]
fn a_damaged_config_is_named() {
    let victim = Victim::new();
    let config = victim.rig.path().join("config");
    let other = victim.files("keys").remove(0);
    for damage in ALL {
        damage.inflict(&config, &other);
        let error = victim.open().unwrap_err();
        let expected = if damage == Damage::Deleted { Class::NoRepository } else { Class::Corrupt };
        assert_eq!(error.class(), expected, "{damage:?}: {error}");
        if damage != Damage::Deleted {
            assert!(error.to_string().contains("config"), "{error}");
        }
        victim.heal();
    }
}

/// The locks of two holders that live, one of them damaged.
fn a_damaged_lock(damage: Damage) {
    let rig = Rig::light();
    let held = [LockKind::Shared, LockKind::Shared].map(|kind| rig.lock(kind));
    let dir = rig.path().join("locks");
    let files: Vec<_> = rig::files_below(&dir).into_iter().map(|file| dir.join(file)).collect();
    damage.inflict(&files[0], &files[1]);
    let bad = match damage {
        Damage::Deleted => vec![],
        Damage::Duplicated => vec![Damage::twin(&files[0])],
        Damage::Swapped => files.clone(),
        _ => vec![files[0].clone()],
    };
    // As another process, and with patience that must not be needed.
    let other = rig::open(Arc::new(Local::open(rig.path()).unwrap()));
    let lock = |kind, secs| other.lock(kind, Duration::from_secs(secs), &CancelToken::new());
    for kind in [LockKind::Shared, LockKind::Exclusive] {
        let stops = !bad.is_empty() && (damage, kind) != (Damage::Emptied, LockKind::Shared);
        match lock(kind, if stops { 3600 } else { 0 }).map(drop) {
            Ok(()) => {
                assert!(!stops && kind == LockKind::Shared, "{damage:?}: {kind} passed it over")
            }
            Err(Error::Locked(_)) => assert!(!stops && kind == LockKind::Exclusive, "{damage:?}"),
            Err(e) => {
                assert!(stops && bad.iter().any(|bad| e.to_string().contains(name(bad))), "{e}");
                assert_eq!(e.class(), Class::Corrupt, "{damage:?}: nobody is told to wait");
                assert!(e.hint().unwrap().contains("mainstay unlock"), "{damage:?}");
            }
        }
    }
    let standing = other.locks().unwrap();
    assert_eq!(standing.iter().filter(|lock| !lock.readable).count(), bad.len(), "{damage:?}");
    // Unasked nobody removes it; asked it is gone, and no other.
    assert!(other.remove_stale_locks().unwrap().is_empty(), "{damage:?}");
    let removed = other.unlock(false).unwrap();
    assert_eq!(removed.len(), bad.len(), "{damage:?}: {removed:?}");
    assert!(bad.iter().all(|bad| removed.iter().any(|line| line.contains(name(bad)))));
    for bad in bad {
        assert!(!bad.exists(), "{damage:?}");
    }
    lock(LockKind::Shared, 0).unwrap();
    let lost = held.iter().filter(|lock| lock.still_held().is_err()).count();
    assert_eq!(lost, files.iter().filter(|file| !file.exists()).count(), "{damage:?}");
    drop(held);
    lock(LockKind::Exclusive, 0).unwrap();
}

/// It is an error that names it, and no reason to wait; `unlock` removes it.
#[test]
fn a_damaged_lock_stops_whom_it_may_exclude_and_can_be_removed() {
    rig::in_time(|| {
        std::thread::scope(|scope| {
            for damage in ALL.into_iter().chain([Damage::Duplicated, Damage::Swapped]) {
                scope.spawn(move || a_damaged_lock(damage));
            }
        });
    });
}

#[test]
fn structure_alone_finds_what_needs_no_reading_of_data() {
    let victim = Victim::new();
    let quick = || {
        let repository = victim.open().unwrap();
        mainstay_repository::check::check(
            &repository,
            false,
            &model::progress::Silent,
            &model::CancelToken::new(),
        )
        .unwrap()
    };
    assert_eq!(quick().errors, Vec::<String>::new());
    let files = victim.files("data");
    for (i, file) in files.iter().enumerate() {
        // The last byte is of the header's length, the bytes before of the header.
        for damage in [
            Damage::Truncated,
            Damage::Emptied,
            Damage::Grown,
            Damage::Deleted,
            Damage::Flipped(99),
        ] {
            damage.inflict(file, &files[(i + 1) % files.len()]);
            let errors = quick().errors.join("\n");
            let big_data =
                damage == Damage::Flipped(99) && fs::metadata(file).unwrap().len() > 10_000;
            assert!(errors.contains(name(file)) != big_data, "{damage:?}: {errors}");
            victim.heal();
        }
    }
    // A pack that nothing refers to is no error.
    fs::remove_file(&victim.files("snapshots")[0]).unwrap();
    for index in victim.files("index") {
        fs::remove_file(index).unwrap();
    }
    fs::remove_file(&victim.files("snapshots")[1]).unwrap();
    let report = quick();
    assert_eq!(report.errors, Vec::<String>::new());
    assert_eq!(report.notes.len(), 4);
}

/// One bad copy of a blob that is stored twice does no harm.
#[test]
fn a_blob_is_read_from_any_place_where_it_is_whole() {
    let rig = Rig::new();
    let content = noise(3, 100_000);
    // Two writers that know nothing of each other.
    let (first, second) = (rig.writer(), rig.writer());
    let tree = rig::save_file(&first, &rig.repository, &content);
    let before = rig::files_below(&rig.path().join("data"));
    let copy = Rig { dir: tempfile::TempDir::new().unwrap(), repository: rig.repository.clone() };
    drop(copy);
    drop(second);
    let lock = rig.lock(mainstay_repository::LockKind::Shared);
    let id = rig.repository.save_snapshot(&lock, &rig::snapshot_of(tree)).unwrap();
    drop(lock);
    // A second index and pack with the same blobs, made by restic's own copy.
    let index = rig::files_below(&rig.path().join("index"));
    let hidden = rig.dir.path().join("hidden");
    fs::rename(rig.path().join("index").join(&index[0]), &hidden).unwrap();
    let storage = Arc::new(Local::open(rig.path()).unwrap());
    let other = Repository::open(storage.clone(), &rig::password()).unwrap();
    rig::save_file(&rig::writer(&other), &other, &content);
    fs::rename(&hidden, rig.path().join("index").join(&index[0])).unwrap();
    let after = rig::files_below(&rig.path().join("data"));
    assert_eq!(after.len(), 2 * before.len());

    for file in before.iter().chain(after.iter().filter(|file| !before.contains(file))) {
        let path = rig.path().join("data").join(file);
        let whole = fs::read(&path).unwrap();
        Damage::Flipped(30).inflict(&path, &path);
        let fresh = Repository::open(storage.clone(), &rig::password()).unwrap();
        assert!(rig::read_back(&fresh, id).unwrap() == content);
        let reads = fresh
            .plan_reads(
                mainstay_repository::BlobKind::Data,
                [mainstay_repository::BlobId::of(&content)],
            )
            .unwrap();
        let mut read = Vec::new();
        fresh
            .read_pack(&reads[0], &mut |_, plain| {
                read.extend_from_slice(plain?);
                Ok(())
            })
            .unwrap();
        assert!(read == content);
        assert!(!check(&fresh).errors.is_empty(), "the bad copy is still an error");
        fs::write(&path, whole).unwrap();
    }
}

/// A backup onto a vault that lost a pack would say "ok" and not restore.
#[test]
fn nothing_is_added_to_a_repository_that_lost_a_pack() {
    for cut in [false, true] {
        let rig = Rig::new();
        rig::back_up(&rig.repository, &noise(1, 100_000));
        let pack = rig::files_below(&rig.path().join("data")).pop().unwrap();
        let pack = rig.path().join("data").join(pack);
        if cut {
            let whole = fs::read(&pack).unwrap();
            fs::write(&pack, &whole[..20]).unwrap();
        } else {
            fs::remove_file(&pack).unwrap();
        }
        let again = rig::open(Arc::new(Local::open(rig.path()).unwrap()));
        let refused = BlobWriter::new(&again, Compression::default(), CancelToken::new());
        let error = refused.map(drop).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}
