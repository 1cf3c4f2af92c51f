//! A fault at every storage call of everything that changes a repository: what was whole before is
//! whole afterwards, by our check and by restic's, and whoever comes next goes on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the unexpected")]

use crate::prune::{ALL, forget, history, prune};
use crate::rig::{self, check, noise, open, password, within};
use mainstay_repository::format::config::Config;
use mainstay_repository::repair::{self, Work};
use mainstay_repository::{Error, Kdf, LockKind, Repository, migrate};
use model::progress::Silent;
use model::{CancelToken, Secret, SnapshotId};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::doubles::{Fault, Flaky, How, Memory, Verb};
use storage::{ErrorKind, Key, Storage};

/// A repository with a past, in memory, and what must be readable whatever happens.
pub(crate) struct Past {
    memory: Arc<Memory>,
    kept: Vec<(SnapshotId, Vec<u8>)>,
    gone: Vec<SnapshotId>,
    /// Something else is damaged already.
    damaged: bool,
}

pub(crate) fn past() -> Past {
    past_of(mainstay_repository::format::config::VERSION)
}

fn past_of(version: u32) -> Past {
    let memory = Arc::new(Memory::new());
    let repository = Repository::create(memory.clone(), &password(), Kdf::Fast).unwrap();
    let config = Config { version, ..repository.config().clone() };
    let sealed = repository.seal().seal(&config.encode().unwrap());
    memory.put(&Key::new("config").unwrap(), &sealed).unwrap();
    let repository = open(memory.clone());
    repository.add_key(&second(), Kdf::Fast).unwrap();
    let all = history(&repository, 4);
    let (gone, kept): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    let kept = kept.into_iter().map(|(_, entry)| entry).collect();
    let gone = gone.into_iter().map(|(_, (id, _))| id).collect();
    Past { memory, kept, gone, damaged: false }
}

/// With a snapshot that lost its bytes, a pack under a wrong name, and one that no index names.
fn damaged_past() -> Past {
    let past = past();
    let packs = || past.memory.list("data").unwrap();
    let before = packs();
    rig::back_up(&open(past.memory.clone()), &noise(50, 60_000));
    let new: Vec<_> = packs().into_iter().filter(|pack| !before.contains(pack)).collect();
    let largest = new.iter().max_by_key(|pack| pack.size_bytes).unwrap();
    let mut bytes = past.memory.read(&largest.key).unwrap();
    bytes[1000] ^= 1;
    past.memory.put(&largest.key, &bytes).unwrap();
    let copied = past.memory.read(&before[0].key).unwrap();
    let wrong = Key::new(format!("data/00/{}", "0".repeat(64))).unwrap();
    past.memory.put(&wrong, &copied).unwrap();
    let indexes = past.memory.list("index").unwrap();
    rig::back_up(&open(past.memory.clone()), &noise(51, 60_000));
    for index in past.memory.list("index").unwrap() {
        if !indexes.contains(&index) {
            past.memory.delete(&index.key).unwrap();
        }
    }
    assert!(!check(&open(past.memory.clone())).errors.is_empty());
    Past { damaged: true, ..past }
}

/// A password whose key nothing here touches.
pub(crate) fn second() -> Secret {
    Secret::new("second".to_owned())
}

/// The password that a change of keys brings.
fn changed() -> Secret {
    Secret::new("changed".to_owned())
}

impl Past {
    pub(crate) fn copy(&self) -> Arc<Memory> {
        copy(&self.memory)
    }

    /// By our check, and by restic's if it is asked.
    #[track_caller]
    pub(crate) fn is_whole(&self, storage: &Arc<Memory>, ask_restic: bool, what: &str) {
        let fresh = Repository::open(storage.clone(), &second()).unwrap();
        fresh.unlock(true).unwrap();
        for (id, content) in &self.kept {
            assert!(rig::read_back(&fresh, *id).unwrap() == *content, "{what}");
        }
        if self.damaged {
            return;
        }
        assert_eq!(check(&fresh).errors, Vec::<String>::new(), "{what}");
        if ask_restic {
            let dir = tempfile::TempDir::new().unwrap();
            write_out(storage, dir.path());
            let mut command = rig::restic_command(dir.path(), &["check", "--read-data"]);
            let output = command.env("RESTIC_PASSWORD", "second").output().unwrap();
            assert!(output.status.success(), "{what}: {output:?}");
        }
    }
}

pub(crate) fn copy(memory: &Memory) -> Arc<Memory> {
    let copy = Arc::new(Memory::new());
    for (key, bytes) in memory.objects() {
        copy.put(&key, &bytes).unwrap();
    }
    copy
}

fn write_out(storage: &Memory, dir: &Path) {
    for below in ["locks", "keys", "snapshots", "index", "data"] {
        fs::create_dir_all(dir.join(below)).unwrap();
    }
    for (key, bytes) in storage.objects() {
        let path = dir.join(key.as_str());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// As whoever comes to a repository: by the password that is there, which a change of keys changes.
#[track_caller]
fn reopen(storage: Arc<dyn Storage>) -> Repository {
    Repository::open(storage.clone(), &changed())
        .or_else(|_| Repository::open(storage, &password()))
        .unwrap()
}

/// restic takes a second for each: it judges one in so many, others for each kind of fault.
pub(crate) const RESTIC_JUDGES_ONE_IN: u32 = 12;

/// The n-th call of the work goes wrong, for every n.
fn at_every_call(
    past: &Past,
    how: How,
    sample: u32,
    work: &(impl Fn(&Past, &Repository) -> Result<(), Error> + Sync),
) {
    let next = AtomicU32::new(1);
    let over = AtomicBool::new(false);
    let failed = Mutex::new(Vec::new());
    let one = || {
        while !over.load(Ordering::SeqCst) {
            let n = next.fetch_add(1, Ordering::SeqCst);
            let inner = past.copy();
            let flaky = Arc::new(Flaky::new(inner.clone()));
            let repository = open(flaky.clone());
            flaky.plan(Fault::nth(n, how));
            let result = if how == How::Hang {
                hang(past, &repository, &flaky, &inner, work)
            } else {
                work(past, &repository)
            };
            drop(repository);
            if flaky.fired() == 0 {
                assert!(result.is_ok(), "without a fault it works: {result:?}");
                over.store(true, Ordering::SeqCst);
            }
            if result.is_err() {
                failed.lock().unwrap().push(n);
            }
            let what = format!("{how:?} at call {n}: {result:?}");
            past.is_whole(&inner, n % RESTIC_JUDGES_ONE_IN == sample, &what);
            // Whoever comes next brings it to its end.
            let again = reopen(inner.clone());
            if let Err(e) = work(past, &again) {
                panic!("after {how:?} at call {n}: {e}");
            }
            drop(again);
            assert_eq!(check(&reopen(inner)).errors, Vec::<String>::new());
        }
    };
    // Most of the time locks settle: side by side that takes no longer.
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(one);
        }
    });
    let failed = failed.into_inner().unwrap();
    match how {
        // Of what only writes, wrong answers to reads may harm nothing.
        How::Wrong => {}
        How::Hang => assert_eq!(failed, [0; 0], "what takes long fails nothing"),
        _ => assert!(!failed.is_empty(), "{how:?} was never noticed"),
    }
}

/// While a call hangs, what is there is what somebody finds who comes when this process is gone.
fn hang(
    past: &Past,
    repository: &Repository,
    flaky: &Flaky,
    inner: &Memory,
    work: &(impl Fn(&Past, &Repository) -> Result<(), Error> + Sync),
) -> Result<(), Error> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let result = work(past, repository);
            ended.store(true, Ordering::SeqCst);
            result
        });
        let hangs = || flaky.wait_for_hang(Duration::from_millis(5));
        rig::wait_for("a call that hangs, or the end", || hangs() || ended.load(Ordering::SeqCst));
        if !ended.load(Ordering::SeqCst) {
            past.is_whole(&copy(inner), false, "while a call hangs");
            assert!(!ended.load(Ordering::SeqCst), "it did not wait for the answer");
        }
        flaky.release();
        working.join().unwrap()
    })
}

pub(crate) const FAULTS: [How; 6] = [
    How::Before(ErrorKind::Unavailable),
    How::After(ErrorKind::Unavailable),
    How::Before(ErrorKind::NoSpace),
    How::Torn(30),
    How::Wrong,
    How::Hang,
];

fn every_fault(work: impl Fn(&Past, &Repository) -> Result<(), Error> + Sync + Send + 'static) {
    every_fault_in(past(), &FAULTS, work);
}

fn every_fault_in(
    past: Past,
    faults: &'static [How],
    work: impl Fn(&Past, &Repository) -> Result<(), Error> + Sync + Send + 'static,
) {
    within(Duration::from_secs(400), move || {
        for (sample, how) in (1..).step_by(5).zip(faults) {
            at_every_call(&past, *how, sample % RESTIC_JUDGES_ONE_IN, &work);
        }
        // Slow at every call at once.
        let inner = past.copy();
        let flaky = Arc::new(Flaky::new(inner.clone()));
        let repository = open(flaky.clone());
        flaky
            .plan(Fault { times: u32::MAX, ..Fault::nth(1, How::Slow(Duration::from_millis(20))) });
        work(&past, &repository).unwrap();
        drop(repository);
        past.is_whole(&inner, true, "slow at every call");
    });
}

#[test]
fn of_a_forget() {
    every_fault(|past, repository| forget(repository, &past.gone));
}

#[test]
fn of_a_prune() {
    every_fault(|past, repository| {
        forget(repository, &past.gone)?;
        let figures = prune(repository, &ALL)?;
        match figures.damaged.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(Error::damaged("prune", first)),
        }
    });
}

#[test]
fn of_a_backup() {
    every_fault(|_, repository| {
        let lock = repository.lock_for(
            mainstay_repository::Work::Backup,
            std::time::Duration::ZERO,
            &model::CancelToken::new(),
        )?;
        let writer = mainstay_repository::BlobWriter::new(
            repository,
            mainstay_repository::Compression::default(),
            model::CancelToken::new(),
        )?;
        let content = writer.save(mainstay_repository::BlobKind::Data, noise(9, 50_000))?.wait()?;
        let tree = format!(
            "{{\"nodes\":[{{\"name\":\"file\",\"type\":\"file\",\"mode\":420,\
             \"mtime\":\"2026-01-02T03:04:05Z\",\"atime\":\"2026-01-02T03:04:05Z\",\
             \"ctime\":\"2026-01-02T03:04:05Z\",\"uid\":0,\"gid\":0,\"content\":[\"{content}\"]}}]}}\n"
        );
        let tree = writer.save(mainstay_repository::BlobKind::Tree, tree.into_bytes())?.wait()?;
        writer.flush()?;
        repository.save_snapshot(&lock, &rig::snapshot_of(tree.into()))?;
        Ok(())
    });
}

/// Faults of the repository that is copied to. What it had stays whole, and the copy is complete in
/// the end.
#[test]
fn of_a_copy() {
    let source = Repository::create(Arc::new(Memory::new()), &password(), Kdf::Fast).unwrap();
    history(&source, 3);
    rig::back_up(&source, b"one more");
    every_fault(move |_, repository| {
        let done = crate::copying::copy_all(&source, repository)?;
        match done.failed.as_slice() {
            [] => Ok(()),
            [(id, reasons), ..] => Err(Error::damaged(format!("snapshot {id}"), &reasons[0])),
        }
    });
}

/// As a change of the password goes: the new key, proved, and then the old ones are removed. One of
/// the two passwords opens it at every instant.
#[test]
fn of_a_change_of_keys() {
    every_fault(|_, repository| {
        if repository.keys_opened_by(&changed())?.is_empty() {
            repository.add_proven_key(&changed(), Kdf::Fast, None)?;
        }
        let old = repository.keys_opened_by(&password())?;
        let lock = repository.lock(LockKind::Exclusive, Duration::ZERO, &CancelToken::new())?;
        repository.remove_keys(&lock, &old, &changed())?;
        if repository.keys_opened_by(&password())?.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid("the old password opens it still".to_owned()))
        }
    });
}

/// The one file without which there is nothing is replaced. A store that keeps half of what it is
/// given instead of replacing a file in one step is no store; all else it must bear.
#[test]
fn of_a_migration() {
    const WHOLE_FILES: [How; 5] = [
        How::Before(ErrorKind::Unavailable),
        How::After(ErrorKind::Unavailable),
        How::Before(ErrorKind::NoSpace),
        How::Wrong,
        How::Hang,
    ];
    every_fault_in(past_of(1), &WHOLE_FILES, |_, repository| {
        let cancel = CancelToken::new();
        let lock = repository.lock(LockKind::Exclusive, Duration::ZERO, &cancel)?;
        let migrated = migrate::migrate(repository, &lock, &Silent, &cancel)?;
        assert_eq!(migrated.to, 2);
        Ok(())
    });
}

/// A repair that does not get to its end leaves nothing worse than it was.
#[test]
fn of_a_repair() {
    every_fault_in(damaged_past(), &FAULTS, |_, repository| {
        let cancel = CancelToken::new();
        let lock = repository.lock(LockKind::Exclusive, Duration::ZERO, &cancel)?;
        let work =
            Work { repository, lock: &lock, dry_run: false, progress: &Silent, cancel: &cancel };
        repair::rebuild_index(&work, true)?;
        repair::repair_packs(&work, &[])?;
        for id in repair::repair_snapshots(&work)?.damaged_snapshots {
            repository.remove_snapshot(&lock, id)?;
        }
        Ok(())
    });
}

/// Where half of a file cannot be taken back either, it is named, and a repair puts it right.
#[test]
fn half_of_a_file_that_stays_is_named_and_repaired() {
    for dir in ["index", "snapshots", "keys", "data"] {
        let past = past();
        let inner = past.copy();
        let flaky = Arc::new(Flaky::new(inner.clone()));
        let repository = open(flaky.clone());
        flaky.plan(Fault::next(Verb::Put, How::Torn(30)).on(dir));
        flaky.plan(Fault::every(Verb::Delete, How::Before(ErrorKind::Failed)).on(dir));
        let failed = match dir {
            "keys" => repository.add_key(&changed(), Kdf::Fast).map(drop),
            _ => rig::try_back_up(&repository, b"content").map(drop),
        };
        assert!(failed.is_err(), "{dir}");
        drop(repository);
        let before = past.memory.objects();
        let left = inner.objects();
        // Other packs of the same backup may be there in whole.
        let left = left.iter().find(|(key, bytes)| {
            key.as_str().starts_with(dir) && bytes.len() == 30 && !before.contains_key(*key)
        });
        let name = left.unwrap().0.name().to_owned();
        let fresh = open(inner.clone());
        fresh.unlock(true).unwrap();
        let report = check(&fresh);
        let told = [report.errors, report.notes].concat().join("\n");
        assert!(told.contains(&name), "{dir}: {told}");
        let cancel = CancelToken::new();
        let lock = fresh.lock(LockKind::Exclusive, Duration::ZERO, &cancel).unwrap();
        let work = Work {
            repository: &fresh,
            lock: &lock,
            dry_run: false,
            progress: &Silent,
            cancel: &cancel,
        };
        repair::rebuild_index(&work, false).unwrap();
        repair::repair_packs(&work, &[]).unwrap();
        for id in repair::repair_snapshots(&work).unwrap().damaged_snapshots {
            fresh.remove_snapshot(&lock, id).unwrap();
        }
        if dir == "keys" {
            // Which nobody could open it by, and which is removed as any key is.
            let bad = fresh.list_keys().unwrap().into_iter().filter(|(_, key)| key.is_err());
            let bad: Vec<_> = bad.map(|(id, _)| id).collect();
            fresh.remove_keys(&lock, &bad, &second()).unwrap();
        }
        drop(lock);
        past.is_whole(&inner, true, dir);
    }
}
