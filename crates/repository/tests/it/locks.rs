//! Locks between processes and with restic.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, Rig, in_time, open, wait_for};
use mainstay_repository::{BlobKind, Error, LockKind, Repository};
use model::{CancelToken, Class, Classify};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use storage::doubles::Memory;
use storage::{Local, Storage};

/// Whole lock files: restic writes them under another name first.
fn locks(repository: &Path) -> usize {
    let whole = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().len() == 64;
    fs::read_dir(repository.join("locks"))
        .map_or(0, |dir| dir.map(whole).filter(|whole| *whole).count())
}

fn try_lock(repository: &Repository, kind: LockKind) -> Result<(), Error> {
    repository.lock(kind, Duration::ZERO, &CancelToken::new()).map(drop)
}

/// A restic that backs up its standard input, and waits for it with its lock held.
fn waiting_restic(repository: &Path) -> Child {
    let child = rig::restic_command(repository, &["backup", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("restic takes its lock", || locks(repository) == 1);
    child
}

#[test]
fn a_lock_of_restic_excludes_ours() {
    let rig = Rig::new();
    let mut child = waiting_restic(&rig.path());
    let error = try_lock(&rig.repository, LockKind::Exclusive).unwrap_err();
    assert!(matches!(error, Error::Locked(_)), "{error}");
    assert!(error.to_string().contains(&child.id().to_string()), "{error}");
    try_lock(&rig.repository, LockKind::Shared).unwrap();
    assert!(rig.repository.unlock(false).unwrap().is_empty(), "its holder lives");
    // It ends well: its input ends.
    child.stdin.take().unwrap().write_all(b"content").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    try_lock(&rig.repository, LockKind::Exclusive).unwrap();
}

#[test]
fn the_lock_of_a_restic_that_was_killed_is_stale() {
    let rig = Rig::new();
    let mut child = waiting_restic(&rig.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(locks(&rig.path()), 1, "it left its lock");
    try_lock(&rig.repository, LockKind::Exclusive).unwrap();
    assert_eq!(locks(&rig.path()), 0);

    let mut child = waiting_restic(&rig.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(rig.repository.unlock(false).unwrap().len(), 1);
    assert_eq!(locks(&rig.path()), 0);
}

#[test]
fn our_locks_exclude_restic() {
    let rig = Rig::new();
    let file = rig.dir.path().join("file");
    fs::write(&file, b"content").unwrap();
    let backup = ["backup", file.to_str().unwrap()];
    let held = rig.lock(LockKind::Exclusive);
    let output = rig::restic_output(&rig.path(), &backup);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains(&format!("PID {}", std::process::id())), "{message}");
    drop(held);

    let held = rig.lock(LockKind::Shared);
    rig.restic(&backup);
    assert!(!rig::restic_output(&rig.path(), &["prune"]).status.success());
    drop(held);
    rig.restic(&["prune"]);
}

#[test]
fn unlock_removes_what_nobody_living_holds_and_all_if_asked() {
    let rig = Rig::new();
    let held = rig.lock(LockKind::Exclusive);
    fs::write(rig.path().join("locks").join("00".repeat(32)), b"damaged").unwrap();
    assert_eq!(rig.repository.unlock(false).unwrap().len(), 1);
    held.still_held().unwrap();
    assert_eq!(rig.repository.unlock(true).unwrap().len(), 1);
    assert!(held.still_held().is_err());
}

/// Many holders, each with a repository of its own as processes have: exclusive ones are alone.
fn many_holders(storage: &Arc<dyn Storage>) {
    let (shared, exclusive) = (AtomicU32::new(0), AtomicU32::new(0));
    let turns = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for i in 0..6 {
            let repository = open(storage.clone());
            let (shared, exclusive, turns) = (&shared, &exclusive, &turns);
            scope.spawn(move || {
                for turn in 0..2 {
                    let kind =
                        if (i + turn) % 3 == 0 { LockKind::Exclusive } else { LockKind::Shared };
                    let held = repository
                        .lock(kind, Duration::from_secs(100), &CancelToken::new())
                        .unwrap();
                    let mine = if kind == LockKind::Exclusive { exclusive } else { shared };
                    mine.fetch_add(1, Ordering::SeqCst);
                    for _ in 0..20 {
                        let now = (shared.load(Ordering::SeqCst), exclusive.load(Ordering::SeqCst));
                        match kind {
                            LockKind::Exclusive => assert_eq!(now, (0, 1)),
                            LockKind::Shared => assert_eq!(now.1, 0),
                        }
                        std::thread::yield_now();
                    }
                    held.still_held().unwrap();
                    mine.fetch_sub(1, Ordering::SeqCst);
                    drop(held);
                    turns.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(turns.load(Ordering::SeqCst), 12);
    assert!(storage.list("locks").unwrap().is_empty());
}

#[test]
fn an_exclusive_holder_is_alone() {
    in_time(|| {
        let memory: Arc<dyn Storage> = Arc::new(Memory::new());
        let kdf = mainstay_repository::Kdf::Fast;
        Repository::create(memory.clone(), &rig::password(), kdf).unwrap();
        many_holders(&memory);
    });
    in_time(|| {
        let rig = Rig::new();
        let local: Arc<dyn Storage> = Arc::new(Local::open(rig.path()).unwrap());
        many_holders(&local);
    });
}

/// A prune that took our lock for stale may have removed packs that no index named yet.
#[test]
fn a_writer_whose_lock_lapsed_writes_no_index() {
    let rig = Rig::new();
    let lock = rig.lock(LockKind::Shared);
    let writer = rig.writer();
    writer.save(BlobKind::Data, b"content".to_vec()).unwrap().wait().unwrap();
    assert_eq!(rig.repository.unlock(true).unwrap().len(), 1);
    assert!(lock.still_held().is_err());
    let error = writer.flush().unwrap_err();
    assert_eq!(error.class(), Class::Locked, "{error}");
    assert!(!rig.path().join("index").exists(), "an index was written");
    // One that took no lock at all is somebody else's business.
    drop((writer, lock));
    let writer = rig.writer();
    writer.save(BlobKind::Data, b"content".to_vec()).unwrap().wait().unwrap();
    writer.flush().unwrap();
}
