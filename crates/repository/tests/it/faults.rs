//! A fault at every storage call of everything that changes a repository: what was whole before is
//! whole afterwards, by our check and by restic's, and whoever comes next goes on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the unexpected")]

use crate::prune::{ALL, forget, history, prune};
use crate::rig::{self, check, in_time, noise, open, password};
use mainstay_repository::{Error, Kdf, Repository};
use model::{Secret, SnapshotId};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use storage::doubles::{Fault, Flaky, How, Memory};
use storage::{ErrorKind, Storage};

/// A repository with a past, in memory, and what must be readable whatever happens.
struct Past {
    memory: Arc<Memory>,
    kept: Vec<(SnapshotId, Vec<u8>)>,
    gone: Vec<SnapshotId>,
}

fn past() -> Past {
    let memory = Arc::new(Memory::new());
    let repository = Repository::create(memory.clone(), &password(), Kdf::Fast).unwrap();
    repository.add_key(&Secret::new("second".to_owned()), Kdf::Fast).unwrap();
    let all = history(&repository, 4);
    let (gone, kept): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    let kept = kept.into_iter().map(|(_, entry)| entry).collect();
    Past { memory, kept, gone: gone.into_iter().map(|(_, (id, _))| id).collect() }
}

impl Past {
    fn copy(&self) -> Arc<Memory> {
        let copy = Arc::new(Memory::new());
        for (key, bytes) in self.memory.objects() {
            copy.put(&key, &bytes).unwrap();
        }
        copy
    }

    /// By our check, and by restic's.
    #[track_caller]
    fn is_whole(&self, storage: &Arc<Memory>, what: &str) {
        let fresh = open(storage.clone());
        fresh.unlock(true).unwrap();
        assert_eq!(check(&fresh).errors, Vec::<String>::new(), "{what}");
        for (id, content) in &self.kept {
            assert!(rig::read_back(&fresh, *id).unwrap() == *content, "{what}");
        }
        let dir = tempfile::TempDir::new().unwrap();
        write_out(storage, dir.path());
        rig::restic(dir.path(), &["check", "--read-data"]);
    }
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

/// The n-th call of the work goes wrong, for every n.
fn at_every_call(
    past: &Past,
    how: How,
    work: impl Fn(&Past, &Repository) -> Result<(), Error> + Sync,
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
            let result = work(past, &repository);
            drop(repository);
            if flaky.fired() == 0 {
                assert!(result.is_ok(), "without a fault it works: {result:?}");
                over.store(true, Ordering::SeqCst);
            }
            if result.is_err() {
                failed.lock().unwrap().push(n);
            }
            past.is_whole(&inner, &format!("{how:?} at call {n}: {result:?}"));
            // Whoever comes next brings it to its end.
            let again = open(inner.clone());
            if let Err(e) = work(past, &again) {
                panic!("after {how:?} at call {n}: {e}");
            }
            drop(again);
            assert_eq!(check(&open(inner)).errors, Vec::<String>::new());
        }
    };
    // Most of the time locks settle: side by side that takes no longer.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(one);
        }
    });
    // Of what only writes, wrong answers to reads may harm nothing.
    let failed = failed.into_inner().unwrap();
    assert!(how == How::Wrong || !failed.is_empty(), "{how:?} was never noticed");
}

const FAULTS: [How; 4] = [
    How::Before(ErrorKind::Unavailable),
    How::After(ErrorKind::Unavailable),
    How::Before(ErrorKind::NoSpace),
    How::Wrong,
];

fn every_fault(work: impl Fn(&Past, &Repository) -> Result<(), Error> + Sync + Send + 'static) {
    in_time(move || {
        let past = past();
        for how in FAULTS {
            at_every_call(&past, how, &work);
        }
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

/// The old password and the second one: one of them opens it at every instant.
#[test]
fn of_a_new_key() {
    every_fault(|_, repository| {
        repository.add_key(&Secret::new("another".to_owned()), Kdf::Fast)?;
        Ok(())
    });
}
