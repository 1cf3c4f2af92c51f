//! Snapshots go to another repository, with another key; the real restic judges what arrives.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::prune::history;
use crate::rig::{self, Rig, check, in_time, noise, open, password};
use crate::trees::archive;
use mainstay_repository::copy::{self, Copied};
use mainstay_repository::log::LogStore;
use mainstay_repository::{BlobKind, Error, Kdf, LockKind, Repository, TreeOptions, repair};
use model::progress::Silent;
use model::{CancelToken, Generation, Progress, Secret, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use storage::doubles::{Fault, Flaky, How, Memory, Recording, Verb};
use storage::{ErrorKind, Key, Local, Storage};

/// Copies everything, under locks on both.
pub(crate) fn copy_all(from: &Repository, to: &Repository) -> Result<Copied, Error> {
    copy_with(from, to, &Silent, &CancelToken::new())
}

fn copy_with(
    from: &Repository,
    to: &Repository,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Copied, Error> {
    let _reading = from.lock(LockKind::Shared, Duration::ZERO, cancel)?;
    let writing = to.lock(LockKind::Shared, Duration::ZERO, cancel)?;
    copy::copy_snapshots(from, to, &from.snapshots()?, &writing, progress, cancel)
}

fn create(storage: Arc<dyn Storage>) -> Repository {
    Repository::create(storage, &password(), Kdf::Fast).unwrap()
}

fn memory() -> (Arc<Memory>, Repository) {
    let memory = Arc::new(Memory::new());
    let repository = create(memory.clone());
    (memory, repository)
}

/// Every place of every blob.
fn places(repository: &Repository) -> Vec<(BlobKind, String)> {
    let mut found = Vec::new();
    for pack in repository.storage().list("data").unwrap() {
        let id = pack.key.name().parse().unwrap();
        let header = mainstay_repository::cat::pack_header(repository, id).unwrap();
        found.extend(header.blobs.iter().map(|blob| (blob.kind, blob.id.to_hex())));
    }
    found.sort();
    found
}

/// What was copied is what it is a copy of, nothing is there twice, and no byte is as it was.
fn is_copy(from: &Repository, to: &Repository, ids: &[(SnapshotId, SnapshotId)]) {
    for (old, new) in ids {
        assert!(rig::read_back(from, *old).unwrap() == rig::read_back(to, *new).unwrap());
        let (a, b) = (from.snapshot(*old).unwrap(), to.snapshot(*new).unwrap());
        assert_eq!((&a.tree, &a.time, &a.tags, &a.paths), (&b.tree, &b.time, &b.tags, &b.paths));
        assert_eq!(b.other["original"], old.to_string());
    }
    let report = check(to);
    assert_eq!((report.errors, report.notes), (Vec::new(), Vec::new()));
    let all = places(to);
    let different: BTreeSet<_> = all.iter().collect();
    assert_eq!(all.len(), different.len(), "something was stored twice");
}

#[test]
fn snapshots_arrive_whole_under_another_key_and_only_once() {
    let dir = tempfile::TempDir::new().unwrap();
    let (_, from) = memory();
    let past = history(&from, 5);
    let path = dir.path().join("there");
    let recording = Arc::new(Recording::new(Arc::new(Local::open(&path).unwrap())));
    let other = Secret::new("quite another password".to_owned());
    let to = Repository::create_like(recording.clone(), &other, Kdf::Fast, &from).unwrap();
    assert_eq!(to.config().chunker_polynomial, from.config().chunker_polynomial);
    assert_ne!(to.id(), from.id());

    let expected =
        copy::plan(&from, Some(&to), &from.snapshots().unwrap(), &CancelToken::new()).unwrap();
    assert_eq!(expected.missing.len(), 5);
    let done = copy_all(&from, &to).unwrap();
    assert_eq!((done.copied.len(), done.present.len(), done.failed.len()), (5, 0, 0));
    assert_eq!(expected.blobs, done.written.new_blobs, "as many as were foreseen");
    assert_eq!(done.written.known_blobs, 0, "nothing was handed over twice");
    assert!(expected.bytes.abs_diff(done.written.stored_bytes) < 10_000, "{expected:?} {done:?}");
    is_copy(&from, &to, &done.copied);
    let copied: BTreeMap<_, _> = done.copied.iter().copied().collect();
    for (id, content) in &past {
        assert!(rig::read_back(&to, copied[id]).unwrap() == *content);
    }

    // Again, nothing is left to do; a dry run says so too, and neither writes.
    recording.take();
    let again = copy_all(&from, &to).unwrap();
    assert_eq!((again.copied.len(), again.present.len()), (0, 5));
    assert_eq!(again.present.iter().copied().collect::<BTreeMap<_, _>>(), copied);
    assert_eq!((again.written.new_blobs, again.written.stored_bytes), (0, 0));
    let snapshots = from.snapshots().unwrap();
    let planned = copy::plan(&from, Some(&to), &snapshots, &CancelToken::new()).unwrap();
    assert_eq!((planned.missing.len(), planned.present.len(), planned.bytes), (0, 5, 0));
    let puts = recording.take().into_iter().filter(|call| call.verb == Verb::Put);
    let puts: Vec<_> = puts.filter(|call| !call.key.starts_with("locks/")).collect();
    assert!(puts.is_empty(), "{puts:?}");

    // What came since travels, and nothing else.
    rig::back_up(&from, b"something new");
    let more = copy_all(&from, &to).unwrap();
    assert_eq!((more.copied.len(), more.present.len(), more.written.new_blobs), (1, 5, 2));

    let restic = |words: &[&str]| {
        let mut command = rig::restic_command(&path, words);
        let output = command.env("RESTIC_PASSWORD", "quite another password").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    restic(&["check", "--read-data"]);
    let (id, content) = &past[3];
    assert!(restic(&["dump", &copied[id].to_string(), "/file"]) == *content);
    assert!(matches!(
        Repository::open(Arc::new(Local::open(&path).unwrap()), &password()),
        Err(Error::WrongPassword(_))
    ));
}

/// Of a repository that is not there yet, a plan is made without making it.
#[test]
fn a_plan_needs_no_repository() {
    let (_, from) = memory();
    history(&from, 2);
    let snapshots = from.snapshots().unwrap();
    let planned = copy::plan(&from, None, &snapshots, &CancelToken::new()).unwrap();
    assert_eq!((planned.missing.len(), planned.present.len()), (2, 0));
    assert_eq!(planned.blobs, places(&from).len() as u64);
}

#[test]
fn a_repository_is_not_copied_to_itself() {
    let (memory, from) = memory();
    rig::back_up(&from, b"content");
    let error = copy_all(&from, &open(memory)).unwrap_err();
    assert!(error.to_string().contains("itself"), "{error}");
}

/// Whichever store fails: what was stored before is not stored again by the next run.
#[test]
fn an_interrupted_copy_goes_on_where_it_was() {
    let (_, from) = memory();
    for n in 0..2 {
        // Three packs each.
        rig::back_up(&from, &noise(n, 40 << 20));
    }
    let mut interrupted = 0;
    for n in (1..).step_by(2) {
        let (inner, _) = memory();
        let flaky = Arc::new(Flaky::new(inner.clone()));
        let to = open(flaky.clone());
        flaky.plan(Fault {
            skip: n,
            times: u32::MAX,
            ..Fault::next(Verb::Put, How::Before(ErrorKind::Unavailable)).on("data")
        });
        let result = copy_all(&from, &to);
        if flaky.fired() == 0 {
            is_copy(&from, &to, &result.unwrap().copied);
            break;
        }
        result.unwrap_err();
        interrupted += 1;
        flaky.heal();
        let stored = inner.list("data").unwrap().len();
        assert_eq!(stored, n as usize, "every pack before the fault is there");
        drop(to);
        let fresh = open(inner.clone());
        assert_eq!(check(&fresh).errors, Vec::<String>::new());
        let done = copy_all(&from, &fresh).unwrap();
        assert_eq!(done.copied.len() + done.present.len(), 2);
        // Each blob in one place: nothing that was stored was stored again.
        is_copy(&from, &fresh, &done.copied);
    }
    assert!(interrupted >= 3, "{interrupted}");
}

/// Cancels when so many bytes have travelled.
struct CancelAfter(std::sync::atomic::AtomicU64, CancelToken);

impl Progress for CancelAfter {
    fn advance(&self, _files: u64, bytes: u64) {
        let left = &self.0;
        let before = left.fetch_sub(bytes, std::sync::atomic::Ordering::SeqCst);
        if before <= bytes || before > 1 << 40 {
            self.1.cancel();
        }
    }
}

#[test]
fn a_cancelled_copy_ends_and_keeps_what_it_has() {
    in_time(|| {
        let (_, from) = memory();
        rig::back_up(&from, &noise(1, 30 << 20));
        rig::back_up(&from, &noise(2, 80 << 20));
        let (inner, to) = memory();
        let cancel = CancelToken::new();
        let progress = CancelAfter((60 << 20).into(), cancel.clone());
        assert!(matches!(copy_with(&from, &to, &progress, &cancel), Err(Error::Cancelled)));
        drop(to);
        let stored = inner.list("data").unwrap().len();
        assert!(stored > 0);
        assert!(inner.list("locks").unwrap().is_empty());
        let fresh = open(inner);
        let done = copy_all(&from, &fresh).unwrap();
        is_copy(&from, &fresh, &done.copied);
        let packs = fresh.storage().list("data").unwrap().len();
        assert!(packs > stored, "{packs} {stored}");
    });
}

/// Flips a byte in the middle of every pack that holds this blob.
fn damage(
    memory: &Memory,
    repository: &Repository,
    id: &mainstay_repository::BlobId,
) -> (Key, Vec<u8>) {
    let at = repository.locate(BlobKind::Data, id).unwrap();
    let key = memory
        .list("data")
        .unwrap()
        .into_iter()
        .map(|entry| entry.key)
        .find(|key| key.name() == at.pack.to_hex())
        .unwrap();
    let whole = memory.read(&key).unwrap();
    let mut bytes = whole.clone();
    bytes[at.offset as usize + 20] ^= 1;
    memory.put(&key, &bytes).unwrap();
    (key, whole)
}

#[test]
fn a_damaged_snapshot_is_named_and_the_others_are_copied() {
    let (memory_from, from) = memory();
    let first = rig::back_up(&from, &noise(1, 100_000));
    let second = rig::back_up(&from, &noise(2, 100_000));
    let third = rig::back_up(&from, &noise(3, 100_000));
    let bad = mainstay_repository::BlobId::of(&noise(2, 100_000));
    let (key, whole) = damage(&memory_from, &from, &bad);
    let (_, to) = memory();
    let done = copy_all(&from, &to).unwrap();
    let copied: BTreeSet<_> = done.copied.iter().map(|(id, _)| *id).collect();
    assert_eq!(copied, BTreeSet::from([first, third]));
    assert_eq!(done.failed.len(), 1);
    let (failed, reasons) = &done.failed[0];
    assert_eq!(*failed, second);
    assert!(reasons[0].contains(&bad.to_hex()), "{reasons:?}");
    assert!(!to.contains(BlobKind::Data, &bad).unwrap());
    assert_eq!(check(&to).errors, Vec::<String>::new());

    // Healed, it follows.
    memory_from.put(&key, &whole).unwrap();
    let healed = copy_all(&from, &to).unwrap();
    assert_eq!(healed.copied.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [second]);
    is_copy(&from, &to, &healed.copied);
}

/// What arrives wrong from the source is never stored, whichever read it is.
#[test]
fn wrong_bytes_from_the_source_never_arrive() {
    let (inner, from) = memory();
    let past = history(&from, 3);
    drop(from);
    for n in 1.. {
        let flaky = Arc::new(Flaky::new(inner.clone()));
        let from = open(flaky.clone());
        flaky.plan(Fault { skip: n - 1, ..Fault::next(Verb::ReadRange, How::Wrong) });
        let (_, to) = memory();
        let done = copy_all(&from, &to).unwrap();
        // What came wrong once is asked for again, and comes right.
        assert_eq!((done.copied.len(), done.failed.len()), (3, 0));
        assert_eq!(check(&to).errors, Vec::<String>::new(), "read {n}");
        let contents: BTreeMap<_, _> = past.iter().cloned().collect();
        for (old, new) in &done.copied {
            assert!(rig::read_back(&to, *new).unwrap() == contents[old]);
        }
        if flaky.fired() == 0 {
            break;
        }
    }
}

/// What is there is looked for there, and not concluded from the snapshots that are there: one that
/// lost something is made whole by the next snapshot that shares it.
#[test]
fn what_was_lost_there_is_stored_again() {
    let (here, there) = (Rig::new(), Rig::new());
    let source = here.dir.path().join("source");
    fs::create_dir_all(source.join("a/deep")).unwrap();
    fs::write(source.join("a/deep/stays"), noise(1, 300_000)).unwrap();
    fs::write(source.join("changes"), b"before").unwrap();
    let (_, old) = archive(&here, &source, None, &TreeOptions::default());
    copy_all(&here.repository, &there.repository).unwrap();
    let lost = rig::files_below(&there.path().join("data"));
    for pack in lost {
        fs::remove_file(there.path().join("data").join(pack)).unwrap();
    }
    let damaged = open(Arc::new(Local::open(there.path()).unwrap()));
    let lock = damaged.lock(LockKind::Exclusive, Duration::ZERO, &CancelToken::new()).unwrap();
    let (repository, cancel) = (&damaged, &CancelToken::new());
    let work = repair::Work { repository, lock: &lock, dry_run: false, progress: &Silent, cancel };
    repair::rebuild_index(&work, false).unwrap();
    drop(lock);
    assert!(!check(&damaged).errors.is_empty());

    fs::write(source.join("changes"), b"after").unwrap();
    archive(&here, &source, None, &TreeOptions::default());
    let to = open(Arc::new(Local::open(there.path()).unwrap()));
    // The old one first, so that the new one could be taken for a change of it.
    let mut snapshots = here.repository.snapshots().unwrap();
    snapshots.sort_by_key(|(id, _)| *id != old);
    let lock = to.lock(LockKind::Shared, Duration::ZERO, cancel).unwrap();
    let done =
        copy::copy_snapshots(&here.repository, &to, &snapshots, &lock, &Silent, cancel).unwrap();
    drop(lock);
    assert_eq!((done.copied.len(), done.present.len(), done.failed.len()), (1, 1, 0));
    // The new one is whole; of the old one only what they do not share is still missing.
    let new = done.copied[0].1.to_string();
    let path = source.join("a/deep/stays").display().to_string();
    let dumped = rig::restic_output(&there.path(), &["dump", &new, &path]);
    assert!(dumped.stdout == noise(1, 300_000), "{dumped:?}");
    let words = ["restore", &new, "--target", &there.dir.path().join("out").display().to_string()];
    there.restic(&words);
}

#[test]
fn between_repositories_of_restic_in_both_directions() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let source = path("source");
    fs::create_dir(&source).unwrap();
    for n in 0..20 {
        fs::write(source.join(format!("file {n}")), noise(n, 70_000)).unwrap();
    }
    fs::write(source.join("large"), noise(77, 6_000_000)).unwrap();
    let old = path("format-1");
    rig::restic(&old, &["init", "--repository-version", "1"]);
    let backup = |repository: &Path| {
        rig::restic(repository, &["backup", "--tag", "a,b", source.to_str().unwrap()]);
    };
    backup(&old);
    fs::write(source.join("file 3"), b"changed").unwrap();
    backup(&old);

    // From format 1 into a repository of restic's, of format 2.
    let new = path("format-2");
    rig::restic(&new, &["init"]);
    let from = open(Arc::new(Local::open(&old).unwrap()));
    let to = open(Arc::new(Local::open(&new).unwrap()));
    let done = copy_all(&from, &to).unwrap();
    assert_eq!(done.copied.len(), 2);
    rig::restic(&new, &["check", "--read-data"]);
    for (before, after) in &done.copied {
        let names = |repository: &Path, id: SnapshotId| {
            rig::restic(repository, &["ls", "--long", &id.to_string()])
        };
        assert_eq!(names(&old, *before), names(&new, *after));
        let dump = |repository: &Path, id: SnapshotId| {
            let file = source.join("large").to_str().unwrap().to_owned();
            rig::restic_output(repository, &["dump", &id.to_string(), &file]).stdout
        };
        assert!(dump(&new, *after) == noise(77, 6_000_000));
        assert!(dump(&old, *before) == dump(&new, *after));
    }

    // restic knows our copies for copies of what it would copy, and we know its.
    let copy = |from: &Path, to: &Path| {
        let mut command = rig::restic_command(from, &["copy", "--repo2", to.to_str().unwrap()]);
        let output = command.env("RESTIC_PASSWORD2", rig::PASSWORD).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    copy(&old, &new);
    assert_eq!(to.snapshot_ids().unwrap().len(), 2, "restic copied nothing again");
    let theirs = path("theirs");
    rig::restic(&theirs, &["init"]);
    copy(&old, &theirs);
    let theirs = open(Arc::new(Local::open(&theirs).unwrap()));
    let again = copy_all(&from, &theirs).unwrap();
    assert_eq!((again.copied.len(), again.present.len()), (0, 2));
    // And a copy of a copy is known for one of the first.
    let third = copy_all(&to, &theirs).unwrap();
    assert_eq!((third.copied.len(), third.present.len()), (0, 2));
}

#[test]
fn the_log_goes_along_once_and_damage_in_it_is_named() {
    let (memory_from, from) = memory();
    let (_, to) = memory();
    let (log, there) = (LogStore::new(&from), LogStore::new(&to));
    let segment = |n: u32| format!("0000000100000000{n:08X}");
    for n in 1..6 {
        log.push(Generation(1), &segment(n), &noise(n.into(), 50_000)).unwrap();
    }
    log.push(Generation(2), "00000002.history", b"1\t0/3000000\tpromoted\n").unwrap();
    let key = format!("mainstay/log/0000000100000000/{}@0000000001", segment(4));
    let key = Key::new(key).unwrap();
    let mut bytes = memory_from.read(&key).unwrap();
    let whole = bytes.clone();
    bytes[100] ^= 1;
    memory_from.put(&key, &bytes).unwrap();

    let run = || copy::copy_log(&log, &there, &Silent, &CancelToken::new()).unwrap();
    let first = run();
    assert_eq!((first.copied, first.present), (5, 0));
    assert_eq!(first.failed.len(), 1);
    assert!(first.failed[0].contains(&segment(4)), "{first:?}");
    memory_from.put(&key, &whole).unwrap();
    let second = run();
    assert_eq!((second.copied, second.present, second.failed.len()), (1, 5, 0));
    assert_eq!(run().present, 6);
    assert_eq!(log.list().unwrap(), there.list().unwrap());
    for (name, generation) in there.list().unwrap() {
        assert_eq!(
            there.fetch_from(&name, generation).unwrap(),
            log.fetch_from(&name, generation).unwrap()
        );
    }
    // Sealed with the other key.
    let sealed = |repository: &Repository| repository.storage().read(&key).unwrap();
    assert_ne!(sealed(&from), sealed(&to));
    assert!(LogStore::on(to.storage().clone(), from.seal()).fetch(&segment(4)).is_err());
}
