//! A backup that ends anywhere leaves no snapshot and no index that names missing data.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, check, in_time, noise, open, password, save_file, snapshot_of};
use mainstay_repository::{BlobKind, BlobWriter, Compression, Error, Kdf, LockKind, Repository};
use model::{CancelToken, SnapshotId};
use std::sync::Arc;
use std::time::Duration;
use storage::doubles::{Call, Fault, Flaky, How, Memory, Recording, Verb};
use storage::{ErrorKind, Storage};

fn repository() -> Arc<dyn Storage> {
    let memory: Arc<dyn Storage> = Arc::new(Memory::new());
    Repository::create(memory.clone(), &password(), Kdf::Fast).unwrap();
    memory
}

/// Two flushes of two packs each, then a snapshot.
fn backup(storage: Arc<dyn Storage>) -> Result<SnapshotId, Error> {
    let repository = Repository::open(storage, &password())?;
    let lock = repository.lock(LockKind::Shared, Duration::ZERO, &CancelToken::new())?;
    let writer = BlobWriter::new(&repository, Compression::default(), CancelToken::new())?;
    writer.save(BlobKind::Data, noise(1, 50_000))?.wait()?;
    writer.save(BlobKind::Tree, b"{\"nodes\":[]}\n".to_vec())?.wait()?;
    writer.flush()?;
    let content = writer.save(BlobKind::Data, b"shared content".to_vec())?.wait()?;
    let tree = format!(
        "{{\"nodes\":[{{\"name\":\"file\",\"type\":\"file\",\"mode\":420,\
         \"mtime\":\"2026-01-02T03:04:05Z\",\"atime\":\"2026-01-02T03:04:05Z\",\
         \"ctime\":\"2026-01-02T03:04:05Z\",\"uid\":0,\"gid\":0,\"content\":[\"{content}\"]}}]}}\n"
    );
    let tree = writer.save(BlobKind::Tree, tree.into_bytes())?.wait()?;
    writer.flush()?;
    repository.save_snapshot(&lock, &snapshot_of(tree.into()))
}

#[test]
fn whichever_call_is_not_done_nothing_names_what_is_missing() {
    fails_at_every_call(How::Before(ErrorKind::Unavailable));
}

#[test]
fn whichever_answer_is_lost_nothing_names_what_is_missing() {
    fails_at_every_call(How::After(ErrorKind::Unavailable));
}

#[test]
fn wherever_the_space_ends_nothing_names_what_is_missing() {
    fails_at_every_call(How::Before(ErrorKind::NoSpace));
}

fn fails_at_every_call(how: How) {
    let mut failed = 0;
    for n in 1.. {
        let inner = repository();
        let first = rig::back_up(&open(inner.clone()), b"shared content");
        let flaky = Arc::new(Flaky::new(inner.clone()));
        flaky.plan(Fault::nth(n, how));
        let result = in_time({
            let flaky = flaky.clone();
            move || backup(flaky)
        });
        let fresh = open(inner);
        let report = check(&fresh);
        assert_eq!(report.errors, Vec::<String>::new(), "{how:?} at call {n}");
        assert_eq!(rig::read_back(&fresh, first).unwrap(), b"shared content");
        match result {
            Ok(id) => assert_eq!(rig::read_back(&fresh, id).unwrap(), b"shared content"),
            Err(_) => failed += 1,
        }
        if flaky.fired() == 0 {
            break;
        }
        // Whoever comes next goes on from there.
        if result.is_err() {
            let id = backup_again(&fresh);
            assert_eq!(rig::read_back(&fresh, id).unwrap(), b"shared content");
            assert_eq!(check(&fresh).errors, Vec::<String>::new());
        }
    }
    assert!(failed >= 10, "only {failed} calls could fail the backup");
}

fn backup_again(repository: &Repository) -> SnapshotId {
    // The lock of the interrupted one may be left, held by this living process.
    repository.unlock(true).unwrap();
    backup(repository.storage().clone()).unwrap()
}

#[test]
fn packs_are_durable_before_the_index_and_that_before_the_snapshot() {
    let recording = Arc::new(Recording::new(repository()));
    backup(recording.clone()).unwrap();
    let puts: Vec<String> = recording
        .calls()
        .into_iter()
        .filter(|call: &Call| call.verb == Verb::Put)
        .map(|call| call.key.split('/').next().unwrap().to_owned())
        .filter(|dir| dir != "locks")
        .collect();
    assert_eq!(puts, ["data", "data", "index", "data", "data", "index", "snapshots"]);
}

/// A pack that was uploaded and not indexed by somebody who died is not taken for stored.
#[test]
fn what_no_durable_index_names_is_stored_again() {
    let inner = repository();
    let flaky = Arc::new(Flaky::new(inner.clone()));
    flaky.plan(Fault::every(Verb::Put, How::Before(ErrorKind::Unavailable)).on("index"));
    let interrupted = open(flaky);
    let writer = rig::writer(&interrupted);
    let id = writer.save(BlobKind::Data, b"content".to_vec()).unwrap().wait().unwrap();
    assert!(writer.flush().is_err());
    assert_eq!(inner.list("data").unwrap().len(), 1, "the pack is there");
    // Neither a new writer of the same open repository nor anybody else knows it.
    assert!(!interrupted.contains(BlobKind::Data, &id).unwrap());
    let repository = open(inner.clone());
    let writer = rig::writer(&repository);
    writer.save(BlobKind::Data, b"content".to_vec()).unwrap().wait().unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.stats().new_blobs, 1);
    assert_eq!(inner.list("data").unwrap().len(), 2);
    let report = check(&repository);
    assert_eq!((report.errors.len(), report.notes.len()), (0, 1), "{report:?}");
}

/// An index file that was stored though the answer was lost names packs that are durable: whoever
/// opens the repository next need not store their blobs again.
#[test]
fn interrupted_work_is_not_lost() {
    let inner = repository();
    let flaky = Arc::new(Flaky::new(inner.clone()));
    flaky.plan(Fault::every(Verb::Put, How::Before(ErrorKind::Unavailable)).on("snapshots"));
    assert!(backup(flaky).is_err());
    let repository = open(inner);
    repository.unlock(true).unwrap();
    let writer = rig::writer(&repository);
    save_file(&writer, &repository, b"shared content");
    writer.save(BlobKind::Data, noise(1, 50_000)).unwrap().wait().unwrap();
    writer.flush().unwrap();
    let stats = writer.stats();
    assert_eq!(stats.known_blobs, 2, "{stats:?}");
}
