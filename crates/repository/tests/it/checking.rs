//! What the check finds that no damaged byte is the cause of: objects that name what is not there,
//! or say two things.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, Rig, check, noise, snapshot_of};
use mainstay_repository::check::ReadData;
use mainstay_repository::format::crypto::MasterKey;
use mainstay_repository::format::index::{Index, IndexedPack};
use mainstay_repository::format::keyfile::KeyFile;
use mainstay_repository::format::pack::PackedBlob;
use mainstay_repository::format::{IndexId, PackId, unpacked};
use mainstay_repository::log::LogStore;
use mainstay_repository::{BlobId, BlobKind, Error, LockKind, Repository, TreeId};
use model::progress::Silent;
use model::{CancelToken, Generation, Progress};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use storage::doubles::{Fault, Flaky, How, Verb};
use storage::{ErrorKind, Local};

/// Stores a tree of these bytes and a snapshot of it.
fn snapshot_with_tree(rig: &Rig, tree: &str) -> TreeId {
    let writer = rig.writer();
    let id = writer.save(BlobKind::Tree, tree.as_bytes().to_vec()).unwrap().wait().unwrap();
    writer.flush().unwrap();
    let lock = rig.lock(LockKind::Shared);
    rig.repository.save_snapshot(&lock, &snapshot_of(id.into())).unwrap();
    id.into()
}

fn node(name: &str, rest: &str) -> String {
    format!(
        "{{\"name\":\"{name}\",\"mode\":420,\"mtime\":\"2026-01-02T03:04:05Z\",\
         \"atime\":\"2026-01-02T03:04:05Z\",\"ctime\":\"2026-01-02T03:04:05Z\",{rest}}}"
    )
}

fn tree(nodes: &[String]) -> String {
    format!("{{\"nodes\":[{}]}}\n", nodes.join(","))
}

#[track_caller]
fn finds(rig: &Rig, expected: &[&str]) {
    let errors = check(&rig.repository).errors;
    assert!(
        errors.iter().any(|error| expected.iter().all(|part| error.contains(part))),
        "{expected:?} is not in {errors:#?}"
    );
}

#[test]
fn trees_that_name_what_is_not_there() {
    let rig = Rig::new();
    let missing = BlobId::of(b"missing").to_hex();
    let id = snapshot_with_tree(
        &rig,
        &tree(&[
            node("b", &format!("\"type\":\"dir\",\"subtree\":\"{missing}\"")),
            node("c", &format!("\"type\":\"file\",\"content\":[\"{missing}\"]")),
        ]),
    )
    .to_hex();
    finds(&rig, &[&id, "\"b\"", &missing, "in no index"]);
    finds(&rig, &[&id, "\"c\"", &missing, "in no index"]);
    let id = snapshot_with_tree(&rig, &tree(&[node("a", "\"type\":\"dir\"")])).to_hex();
    finds(&rig, &[&id, "\"a\"", "no tree"]);
}

#[test]
fn trees_with_names_twice_or_out_of_order_or_that_are_none() {
    for (first, second, what) in
        [("a", "a", "twice"), ("b", "a", "out of order"), ("a", "b/c", "slash")]
    {
        let rig = Rig::new();
        let file = "\"type\":\"file\",\"content\":[]";
        let id = snapshot_with_tree(&rig, &tree(&[node(first, file), node(second, file)]));
        finds(&rig, &[&id.to_hex(), what]);
    }
}

#[test]
fn a_snapshot_whose_tree_is_nowhere() {
    let rig = Rig::new();
    let lock = rig.lock(LockKind::Shared);
    let missing = TreeId::of(b"missing");
    let id = rig.repository.save_snapshot(&lock, &snapshot_of(missing)).unwrap();
    finds(&rig, &[&id.to_string(), &missing.to_hex()]);
}

#[test]
fn an_error_does_not_hide_the_next_one() {
    let rig = Rig::new();
    let missing: Vec<String> = (0..50u8).map(|i| BlobId::of(&[i]).to_hex()).collect();
    for id in &missing {
        let file = format!("\"type\":\"file\",\"content\":[\"{id}\"]");
        snapshot_with_tree(&rig, &tree(&[node("file", &file)]));
    }
    for id in &missing {
        finds(&rig, &[id]);
    }
}

/// Writes an index of our own making, sealed with the repository's key.
fn replace_index(rig: &Rig, change: impl Fn(&mut Index)) {
    let dir = rig.path().join("index");
    for file in rig::files_below(&dir) {
        let sealed = fs::read(dir.join(&file)).unwrap();
        let plain = rig.repository.seal().open(&sealed).unwrap();
        let mut index = Index::decode(&unpacked::decode(plain).unwrap()).unwrap();
        change(&mut index);
        let json = unpacked::encode(&index.encode().unwrap(), true).unwrap();
        let sealed = rig.repository.seal().seal(&json);
        fs::remove_file(dir.join(file)).unwrap();
        fs::write(dir.join(IndexId::of(&sealed).to_hex()), sealed).unwrap();
    }
}

#[test]
fn an_index_that_says_something_else_than_the_pack() {
    let changes: [fn(&mut Index); 5] = [
        |index| index.packs[0].blobs[0].id = BlobId([9; 32]),
        |index| index.packs[0].blobs[0].length += 1,
        |index| index.packs[0].blobs[0].plain_length = Some(17),
        |index| index.packs[0].blobs[0].kind = BlobKind::Tree,
        |index| index.packs[0].blobs.truncate(2),
    ];
    for change in changes {
        let rig = Rig::new();
        let writer = rig.writer();
        for seed in 0..3 {
            writer.save(BlobKind::Data, noise(seed, 5_000)).unwrap().wait().unwrap();
        }
        writer.flush().unwrap();
        let pack = rig::files_below(&rig.path().join("data")).pop().unwrap();
        let pack = pack.file_name().unwrap().to_str().unwrap().to_owned();
        replace_index(&rig, change);
        for read_data in [false, true] {
            let storage = Arc::new(Local::open(rig.path()).unwrap());
            let report = mainstay_repository::check::check(
                &rig::open(storage),
                read_data,
                &model::progress::Silent,
                &CancelToken::new(),
            )
            .unwrap();
            assert!(report.errors.join("\n").contains(&pack), "{report:?}");
        }
    }
}

#[test]
fn what_a_superseded_index_names_does_not_count() {
    let rig = Rig::new();
    let id = rig::back_up(&rig.repository, b"content");
    // An old index that names a pack that is no more, and its successor.
    let gone = PackedBlob {
        kind: BlobKind::Data,
        id: BlobId([9; 32]),
        offset: 0,
        length: 40,
        plain_length: None,
    };
    let packs = vec![IndexedPack { id: PackId([9; 32]), blobs: vec![gone] }];
    let old = Index { supersedes: Vec::new(), packs };
    let sealed = rig.repository.seal().seal(&old.encode().unwrap());
    let old_id = IndexId::of(&sealed);
    replace_index(&rig, |index| index.supersedes.push(old_id));
    let old_file = rig.path().join("index").join(old_id.to_hex());
    fs::write(&old_file, sealed).unwrap();

    let fresh = rig::open(Arc::new(Local::open(rig.path()).unwrap()));
    assert_eq!(rig::read_back(&fresh, id).unwrap(), b"content");
    assert!(!fresh.contains(BlobKind::Data, &gone.id).unwrap());
    assert_eq!(check(&fresh).errors, Vec::<String>::new());
    // Without its successor it would.
    replace_index(&rig, |index| index.supersedes.clear());
    finds(&rig, &[&PackId([9; 32]).to_hex(), "missing"]);
}

#[test]
fn a_check_can_be_cancelled_and_reports_its_progress() {
    #[derive(Default)]
    struct Count(AtomicU64, AtomicU64);
    impl Progress for Count {
        fn expect(&self, _files: u64, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
        fn advance(&self, _files: u64, bytes: u64) {
            self.1.fetch_add(bytes, Ordering::Relaxed);
        }
    }
    let rig = Rig::new();
    rig::back_up(&rig.repository, &noise(1, 3_000_000));
    let (count, cancel) = (Count::default(), CancelToken::new());
    let run = |cancel: &CancelToken| {
        mainstay_repository::check::check(&rig.repository, true, &count, cancel)
    };
    let report = run(&cancel).unwrap();
    assert_eq!(count.0.load(Ordering::Relaxed), report.verified_bytes);
    assert_eq!(count.1.load(Ordering::Relaxed), report.verified_bytes);
    cancel.cancel();
    assert!(matches!(run(&cancel), Err(Error::Cancelled)));
}

/// Damage that only reading finds is found by a part that has the pack, and by no other.
#[test]
fn a_part_of_the_data_is_read() {
    let rig = Rig::new();
    for seed in 0..8 {
        rig::back_up(&rig.repository, &noise(seed, 100_000));
    }
    let data = rig.path().join("data");
    let files = rig::files_below(&data).into_iter().map(|file| data.join(file));
    // A pack of data: those of trees are read by every check.
    let victim = files.max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let mut bytes = fs::read(&victim).unwrap();
    bytes[50] ^= 1;
    fs::write(&victim, &bytes).unwrap();
    let name = victim.file_name().unwrap().to_str().unwrap();
    let run = |part: &str| {
        let read = ReadData::Part(part.parse().unwrap());
        mainstay_repository::check::check(&rig.repository, read, &Silent, &CancelToken::new())
            .unwrap()
    };
    let first = u8::from_str_radix(&name[..2], 16).unwrap();
    let (mut verified, mut found) = (0, Vec::new());
    for part in 1..=3 {
        let report = run(&format!("{part}/3"));
        verified += report.verified_bytes;
        if report.errors.iter().any(|error| error.contains(name)) {
            found.push(part);
        }
    }
    assert_eq!(found, [first % 3 + 1]);
    let all = run("100%");
    assert_eq!(all.verified_bytes, verified);
    assert!(!all.errors.is_empty());
    let some = run("150000");
    assert!(some.verified_bytes < verified);
}

/// The log beside the repository is read with everything else.
#[test]
fn damage_of_the_log_is_found() {
    let rig = Rig::new();
    rig::back_up(&rig.repository, b"content");
    let log = LogStore::new(&rig.repository);
    for name in ["000000010000000000000001", "000000010000000000000002"] {
        log.push(Generation::FIRST, name, &noise(1, 1000)).unwrap();
    }
    assert_eq!(check(&rig.repository).errors, Vec::<String>::new());
    let below = rig.path().join("mainstay/log");
    for file in rig::files_below(&below) {
        let mut bytes = fs::read(below.join(&file)).unwrap();
        bytes[500] ^= 1;
        fs::write(below.join(&file), bytes).unwrap();
    }
    finds(&rig, &["000000010000000000000001"]);
    finds(&rig, &["000000010000000000000002"]);
}

/// A vault that does not answer is no damage: the check fails, and reports nothing.
#[test]
fn an_outage_is_no_damage() {
    let rig = Rig::new();
    rig::back_up(&rig.repository, b"content");
    for (verb, prefix) in [
        (Verb::List, "data"),
        (Verb::Read, "index"),
        (Verb::Read, "data"),
        (Verb::Read, "snapshots"),
        (Verb::ReadRange, "data"),
    ] {
        let flaky = Arc::new(Flaky::new(rig.repository.storage().clone()));
        let repository = Repository::open(flaky.clone(), &rig::password()).unwrap();
        flaky.plan(Fault::every(verb, How::Before(ErrorKind::Unavailable)).on(prefix));
        let result = mainstay_repository::check::check(
            &repository,
            true,
            &model::progress::Silent,
            &CancelToken::new(),
        );
        assert!(matches!(result, Err(Error::Storage(_))), "{verb:?} {prefix}: {result:?}");
    }
}

/// restic agrees with the key that we make up for tests of the format.
#[test]
fn a_wrapped_key_is_one_that_restic_reads() {
    let rig = Rig::new();
    let file = rig::files_below(&rig.path().join("keys")).pop().unwrap();
    let bytes = fs::read(rig.path().join("keys").join(file)).unwrap();
    let master = KeyFile::decode(&bytes).unwrap().unwrap(rig::PASSWORD).unwrap().unwrap();
    let theirs: serde_json::Value =
        serde_json::from_str(&rig.restic(&["cat", "masterkey"])).unwrap();
    let ours: serde_json::Value = serde_json::from_slice(&master.to_json().unwrap()).unwrap();
    assert_eq!(ours, theirs);
    let again = MasterKey::from_json(&serde_json::to_vec(&theirs).unwrap()).unwrap();
    assert_eq!(*again.to_json().unwrap(), *master.to_json().unwrap());
}
