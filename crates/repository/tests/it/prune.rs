//! What no snapshot needs is removed, and nothing else; the real restic judges.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, Rig, check, noise};
use mainstay_repository::prune::{self, Figures, MaxUnused, Options};
use mainstay_repository::{BlobKind, Error, LockKind, Repository, restore};
use model::progress::Silent;
use model::{CancelToken, SnapshotId};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use storage::doubles::Memory;
use storage::{Local, Storage};

pub(crate) const ALL: Options =
    Options { max_unused: MaxUnused::Bytes(0), max_repack_bytes: None, repack_small: false };

/// Prunes a repository.
pub(crate) fn prune(repository: &Repository, options: &Options) -> Result<Figures, Error> {
    let lock =
        repository.lock(LockKind::Exclusive, std::time::Duration::ZERO, &CancelToken::new())?;
    prune::prune(repository, &lock, options, &Silent, &CancelToken::new())
}

/// Forgets snapshots.
pub(crate) fn forget(repository: &Repository, ids: &[SnapshotId]) -> Result<(), Error> {
    let lock =
        repository.lock(LockKind::Exclusive, std::time::Duration::ZERO, &CancelToken::new())?;
    ids.iter().try_for_each(|id| repository.remove_snapshot(&lock, *id))
}

/// Stores a snapshot of one file that is made of these parts, each a blob of its own.
fn back_up_parts(repository: &Repository, parts: &[Vec<u8>]) -> SnapshotId {
    let cancel = CancelToken::new();
    let lock = repository.lock(LockKind::Shared, std::time::Duration::ZERO, &cancel).unwrap();
    let writer = rig::writer(repository);
    let save = |kind, plain| writer.save(kind, plain).unwrap().wait().unwrap();
    let ids: Vec<String> =
        parts.iter().map(|part| format!("\"{}\"", save(BlobKind::Data, part.clone()))).collect();
    let tree = format!(
        "{{\"nodes\":[{{\"name\":\"file\",\"type\":\"file\",\"mode\":420,\
         \"mtime\":\"2026-01-02T03:04:05Z\",\"atime\":\"2026-01-02T03:04:05Z\",\
         \"ctime\":\"2026-01-02T03:04:05Z\",\"uid\":0,\"gid\":0,\"size\":{},\"content\":[{}]}}]}}\n",
        parts.iter().map(Vec::len).sum::<usize>(),
        ids.join(",")
    );
    let tree = save(BlobKind::Tree, tree.into_bytes());
    writer.flush().unwrap();
    repository.save_snapshot(&lock, &rig::snapshot_of(tree.into())).unwrap()
}

/// Snapshots whose contents share parts, so that packs come to be used in part: all share the
/// first, and each two one more.
pub(crate) fn history(repository: &Repository, count: u64) -> Vec<(SnapshotId, Vec<u8>)> {
    (0..count)
        .map(|n| {
            let parts = [
                noise(1, 150_000),
                noise(100 + n, 120_000),
                noise(200 + n / 2, 120_000),
                format!("version {n} ").repeat(1000).into_bytes(),
            ];
            (back_up_parts(repository, &parts), parts.concat())
        })
        .collect()
}

fn stored(path: &Path) -> u64 {
    let data = path.join("data");
    rig::files_below(&data).iter().map(|file| fs::metadata(data.join(file)).unwrap().len()).sum()
}

fn whole(rig: &Rig, kept: &[(SnapshotId, Vec<u8>)]) {
    let fresh = rig::open(Arc::new(Local::open(rig.path()).unwrap()));
    let report = check(&fresh);
    assert_eq!((report.errors, report.notes), (Vec::new(), Vec::new()));
    for (id, content) in kept {
        assert!(rig::read_back(&fresh, *id).unwrap() == *content);
    }
    rig.restic(&["check", "--read-data"]);
}

#[test]
fn what_no_snapshot_needs_goes_and_every_other_byte_stays() {
    let rig = Rig::new();
    let history = history(&rig.repository, 6);
    let before = stored(&rig.path());
    let (gone, kept): (Vec<_>, Vec<_>) =
        history.into_iter().enumerate().partition(|(n, _)| n % 3 != 0);
    let kept: Vec<_> = kept.into_iter().map(|(_, entry)| entry).collect();
    let gone: Vec<SnapshotId> = gone.into_iter().map(|(_, (id, _))| id).collect();

    let without: BTreeSet<SnapshotId> = gone.iter().copied().collect();
    let expected =
        prune::estimate(&rig.repository, &without, &ALL, &Silent, &CancelToken::new()).unwrap();
    assert_eq!(stored(&rig.path()), before, "an estimate changes nothing");
    forget(&rig.repository, &gone).unwrap();
    let figures = prune(&rig.repository, &ALL).unwrap();
    let after = stored(&rig.path());
    assert_eq!(figures.freed_bytes, before - after);
    assert!(figures.freed_bytes > 400_000, "{figures:?}");
    assert!(figures.repacked_packs > 0 && figures.removed_packs > 0, "{figures:?}");
    // The headers of the new packs are not foreseen.
    assert!(expected.freed_bytes.abs_diff(figures.freed_bytes) < 5_000, "{expected:?} {figures:?}");
    assert_eq!(expected.stored_bytes, before);
    whole(&rig, &kept);
    // The repository that was open goes on, and has nothing of what went.
    for (id, content) in &kept {
        assert!(rig::read_back(&rig.repository, *id).unwrap() == *content);
    }
    let again = prune(&rig.repository, &ALL).unwrap();
    assert_eq!((again.freed_bytes, again.copied_bytes), (0, 0), "{again:?}");
    // And restic's own prune finds nothing to do, and is at ease.
    rig.restic(&["prune", "--max-unused", "0"]);
    whole(&rig, &kept);
}

/// Whoever had looked into the repository before somebody pruned it: what stays is somewhere else now.
#[test]
fn who_waited_for_a_prune_or_reads_beside_one_finds_what_stays() {
    for locks in [true, false] {
        let rig = Rig::new();
        let history = history(&rig.repository, 4);
        let (id, content) = &history[1];
        let reader = rig::open(Arc::new(Local::open(rig.path()).unwrap()));
        reader.index_size().unwrap();
        forget(&rig.repository, &[history[0].0, history[2].0]).unwrap();
        let figures = prune(&rig.repository, &ALL).unwrap();
        assert!(figures.repacked_packs > 0, "{figures:?}");
        let cancel = CancelToken::new();
        let lock = locks
            .then(|| reader.lock(LockKind::Shared, std::time::Duration::ZERO, &cancel).unwrap());
        assert!(rig::read_back(&reader, *id).unwrap() == *content);
        // Whole packs at a time, as a restore reads.
        let target = rig.dir.path().join("target");
        let options = restore::Options { reuse: None, durable: false };
        restore::restore(&reader, *id, b"/", &target, options, &Silent, &cancel).unwrap();
        assert!(fs::read(target.join("file")).unwrap() == *content);
        drop(lock);
    }
}

#[test]
fn waste_below_the_limit_stays_and_repacking_has_a_limit() {
    let rig = Rig::new();
    let history = history(&rig.repository, 6);
    forget(&rig.repository, &[history[0].0, history[2].0]).unwrap();
    let before = stored(&rig.path());
    let unlimited = Options { max_unused: MaxUnused::Unlimited, ..Options::default() };
    let figures = prune(&rig.repository, &unlimited).unwrap();
    assert_eq!(figures.repacked_packs, 0);
    assert!(figures.left_unused_bytes > 0, "{figures:?}");
    assert!(stored(&rig.path()) <= before);
    let none = Options { max_repack_bytes: Some(1000), ..ALL };
    assert_eq!(prune(&rig.repository, &none).unwrap().copied_bytes, 0);
    let figures = prune(&rig.repository, &ALL).unwrap();
    assert!(figures.repacked_packs > 0);
    assert_eq!(figures.left_unused_bytes, 0);
    let kept: Vec<_> = [1, 3, 4, 5].map(|n: usize| history[n].clone()).to_vec();
    whole(&rig, &kept);
}

#[test]
fn small_packs_are_put_together_if_asked() {
    let rig = Rig::new();
    let contents: Vec<_> = (0..12u64)
        .map(|seed| {
            let content = noise(seed, 10_000);
            (rig::back_up(&rig.repository, &content), content)
        })
        .collect();
    let packs = |rig: &Rig| rig::files_below(&rig.path().join("data")).len();
    assert_eq!(packs(&rig), 24);
    assert_eq!(prune(&rig.repository, &ALL).unwrap().repacked_packs, 0);
    prune(&rig.repository, &Options { repack_small: true, ..ALL }).unwrap();
    assert_eq!(packs(&rig), 2);
    assert_eq!(rig::files_below(&rig.path().join("index")).len(), 1);
    whole(&rig, &contents);
}

#[test]
fn packs_of_writers_that_died_go_and_with_no_snapshot_everything() {
    let rig = Rig::new();
    let kept = history(&rig.repository, 1);
    let before = stored(&rig.path());
    // Its index is lost: nothing names the packs.
    let indexes = rig::files_below(&rig.path().join("index"));
    let id = rig::back_up(&rig.repository, &noise(77, 30_000));
    forget(&rig.repository, &[id]).unwrap();
    for file in rig::files_below(&rig.path().join("index")) {
        if !indexes.contains(&file) {
            fs::remove_file(rig.path().join("index").join(file)).unwrap();
        }
    }
    let figures = prune(&rig.repository, &ALL).unwrap();
    assert_eq!(figures.unreferenced_packs, 2);
    assert_eq!(stored(&rig.path()), before);
    whole(&rig, &kept);
    forget(&rig.repository, &[kept[0].0]).unwrap();
    prune(&rig.repository, &ALL).unwrap();
    assert_eq!(stored(&rig.path()), 0);
    whole(&rig, &[]);
}

/// What cannot be read might be needed: nothing is removed then.
#[test]
fn damage_that_hides_what_is_needed_ends_it_before_anything_goes() {
    let rig = Rig::new();
    let history = history(&rig.repository, 3);
    forget(&rig.repository, &[history[1].0]).unwrap();
    let path = rig.path();
    let largest = |dir: &str| {
        let files =
            rig::files_below(&path.join(dir)).into_iter().map(|file| path.join(dir).join(file));
        files.max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap()
    };
    let snapshot = path.join("snapshots").join(history[0].0.to_string());
    let root = rig.repository.snapshot(history[0].0).unwrap().tree_id().unwrap();
    let trees = rig.repository.locate(BlobKind::Tree, &root.into()).unwrap().pack.to_hex();
    let trees = path.join("data").join(&trees[..2]).join(trees);
    for victim in [snapshot, largest("index"), trees, largest("data")] {
        let good = fs::read(&victim).unwrap();
        // A flipped bit, too short, and gone.
        let mut cases = vec![None, Some(good[..good.len() / 2].to_vec())];
        if !victim.starts_with(path.join("data")) {
            let mut flipped = good.clone();
            flipped[good.len() / 2] ^= 1;
            cases.push(Some(flipped));
        }
        for bytes in cases {
            let is_snapshot = victim.starts_with(path.join("snapshots"));
            match bytes {
                Some(bytes) => fs::write(&victim, bytes).unwrap(),
                // Nobody can miss a snapshot that is not there.
                None if is_snapshot => continue,
                None => fs::remove_file(&victim).unwrap(),
            }
            let files = rig::files_below(&path);
            let fresh = rig::open(Arc::new(Local::open(&path).unwrap()));
            let error = prune(&fresh, &ALL).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{}: {error}", victim.display());
            let after: Vec<_> = rig::files_below(&path);
            assert_eq!(files, after, "{}", victim.display());
            fs::write(&victim, &good).unwrap();
        }
    }
    whole(&rig, &[history[0].clone(), history[2].clone()]);
}

/// A copy that is kept must be a whole one.
#[test]
fn of_several_copies_a_whole_one_stays() {
    for victim in [0, 1] {
        let rig = Rig::new();
        let content = noise(5, 200_000);
        let id = rig::back_up(&rig.repository, &content);
        // Stored once more by somebody who did not see the index.
        let index = rig::files_below(&rig.path().join("index")).remove(0);
        let hidden = rig.dir.path().join("hidden");
        fs::rename(rig.path().join("index").join(&index), &hidden).unwrap();
        let other = rig::open(Arc::new(Local::open(rig.path()).unwrap()));
        let second = rig::back_up(&other, &content);
        fs::rename(&hidden, rig.path().join("index").join(&index)).unwrap();
        let data = rig.path().join("data");
        let mut packs: Vec<_> = rig::files_below(&data).iter().map(|f| data.join(f)).collect();
        packs.retain(|pack| fs::metadata(pack).unwrap().len() > 100_000);
        assert_eq!(packs.len(), 2);
        let mut bytes = fs::read(&packs[victim]).unwrap();
        bytes[1000] ^= 1;
        fs::write(&packs[victim], bytes).unwrap();
        let fresh = rig::open(Arc::new(Local::open(rig.path()).unwrap()));
        prune(&fresh, &ALL).unwrap();
        assert!(!packs[victim].exists() && packs[1 - victim].exists());
        whole(&rig, &[(id, content.clone()), (second, content)]);
    }
}

/// What is needed and damaged is named, and its pack stays for whoever repairs it.
#[test]
fn a_damaged_blob_keeps_its_pack() {
    let rig = Rig::new();
    let history = history(&rig.repository, 4);
    forget(&rig.repository, &[history[0].0]).unwrap();
    let data = rig.path().join("data");
    let files = rig::files_below(&data).into_iter().map(|file| data.join(file));
    // The first pack has what all share: it is used in part. Which of its blobs are, the places of the
    // cuts say: all are damaged, and its header is not.
    let victim = files.max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let mut bytes = fs::read(&victim).unwrap();
    let header = bytes.len() - 4096;
    bytes[..header].iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    fs::write(&victim, bytes).unwrap();
    let name = victim.file_name().unwrap().to_str().unwrap();
    let figures = prune(&rig.repository, &ALL).unwrap();
    assert!(figures.damaged.iter().any(|line| line.contains(name)), "{figures:?}");
    assert!(victim.exists());
}

#[test]
fn it_needs_the_repository_for_itself() {
    let rig = Rig::new();
    let shared = rig.lock(LockKind::Shared);
    let cancel = CancelToken::new();
    let refused = prune::prune(&rig.repository, &shared, &ALL, &Silent, &cancel);
    assert!(matches!(refused, Err(Error::Invalid(_))));
    assert!(matches!(prune(&rig.repository, &ALL), Err(Error::Locked(_))));
    drop(shared);
    // A lock that somebody removed ends it before anything goes.
    let history = history(&rig.repository, 2);
    forget(&rig.repository, &[history[0].0]).unwrap();
    let before = stored(&rig.path());
    let lock = rig.lock(LockKind::Exclusive);
    rig.repository.unlock(true).unwrap();
    let refused = prune::prune(&rig.repository, &lock, &ALL, &Silent, &cancel);
    assert!(matches!(refused, Err(Error::Locked(_))), "{refused:?}");
    assert!(stored(&rig.path()) >= before);
}

/// A full disk must not keep the very prune from working that would empty it.
#[test]
fn with_little_space_it_frees_what_it_can_first() {
    let memory = Arc::new(Memory::new());
    let repository =
        Repository::create(memory.clone(), &rig::password(), mainstay_repository::Kdf::Fast)
            .unwrap();
    let history = history(&repository, 6);
    forget(&repository, &[history[0].0, history[2].0, history[4].0]).unwrap();
    let objects = memory.objects();
    let full: u64 = objects.values().map(|bytes| bytes.len() as u64).sum();
    // Room for a lock and an index, and for one pack at a time.
    let tight = Arc::new(Memory::with_capacity(full + 6_000));
    for (key, bytes) in &objects {
        tight.put(key, bytes).unwrap();
    }
    let repository = rig::open(tight.clone());
    // As it goes: what does not fit yet fails, and what was freed before stays freed.
    let first = prune(&repository, &ALL);
    let now: u64 = tight.objects().values().map(|bytes| bytes.len() as u64).sum();
    assert!(now < full, "{first:?}: {now} of {full}");
    let fresh = rig::open(tight);
    assert_eq!(check(&fresh).errors, Vec::<String>::new());
    for n in [1, 3, 5] {
        assert!(rig::read_back(&fresh, history[n].0).unwrap() == history[n].1);
    }
}

#[test]
fn it_can_be_cancelled() {
    let rig = Rig::new();
    let history = history(&rig.repository, 2);
    let lock = rig.lock(LockKind::Exclusive);
    let cancel = CancelToken::new();
    cancel.cancel();
    let cancelled = prune::prune(&rig.repository, &lock, &ALL, &Silent, &cancel);
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    drop(lock);
    whole(&rig, &history);
}
