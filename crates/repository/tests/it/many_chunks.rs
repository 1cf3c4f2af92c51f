//! An index of a million chunks, as a repository of many terabytes has it.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, Rig, noise};
use mainstay_repository::format::index::{Index, IndexedPack, MAX_BLOBS};
use mainstay_repository::format::pack::{self, PackedBlob};
use mainstay_repository::format::{IndexId, unpacked};
use mainstay_repository::{BlobId, BlobKind, Compression, LockKind, PackId};
use mainstay_repository::{BlobWriter, Repository};
use model::CancelToken;
use std::fs;
use std::sync::Arc;
use storage::{Key, Local};

const CHUNKS: usize = 1_000_000;
const PER_PACK: usize = 1000;
const SEALED_BYTES: u32 = 1000;

/// Chunk by chunk as if a content had been stored that is not.
fn id(number: usize) -> BlobId {
    BlobId::of(&noise(number as u64, 100))
}

fn packs() -> Vec<IndexedPack> {
    let blob = |number: usize| PackedBlob {
        kind: BlobKind::Data,
        id: id(number),
        offset: u32::try_from(number % PER_PACK).unwrap() * SEALED_BYTES,
        length: SEALED_BYTES,
        plain_length: Some(3000),
    };
    let pack = |number: usize| IndexedPack {
        id: PackId::of(&noise(number as u64, 50)),
        blobs: (number * PER_PACK..(number + 1) * PER_PACK).map(blob).collect(),
    };
    (0..CHUNKS / PER_PACK).map(pack).collect()
}

/// Index files of the usual size; and files in the place of packs, as long and without bytes.
fn fill(rig: &Rig, packs: Vec<IndexedPack>) {
    let storage = rig.repository.storage();
    for pack in &packs {
        let name = pack.id.to_hex();
        let dir = rig.path().join("data").join(&name[..2]);
        fs::create_dir_all(&dir).unwrap();
        let file = fs::File::create(dir.join(name)).unwrap();
        file.set_len(pack::size_bytes(&pack.blobs)).unwrap();
    }
    let mut packs = packs.into_iter().peekable();
    while packs.peek().is_some() {
        let packs = packs.by_ref().take(MAX_BLOBS / PER_PACK).collect();
        let json = Index { supersedes: Vec::new(), packs }.encode().unwrap();
        let sealed = rig.repository.seal().seal(&unpacked::encode(&json, true).unwrap());
        let key = Key::new(format!("index/{}", IndexId::of(&sealed))).unwrap();
        storage.put(&key, &sealed).unwrap();
    }
}

fn reopen(rig: &Rig) -> Repository {
    rig::open(Arc::new(Local::open(rig.path()).unwrap()))
}

#[test]
fn a_million_chunks_open_small_and_are_not_stored_again() {
    let rig = Rig::light();
    fill(&rig, packs());

    let repository = reopen(&rig);
    let size = repository.index_size().unwrap();
    assert_eq!(size.blobs, CHUNKS);
    // 47 and half a byte for each chunk, and 36 for each pack.
    assert!(size.memory_bytes <= 48 * CHUNKS, "{size:?}");
    for number in (0..CHUNKS).step_by(9973) {
        let at = repository.locate(BlobKind::Data, &id(number)).unwrap();
        assert_eq!(at.offset as usize, number % PER_PACK * SEALED_BYTES as usize);
        assert_eq!(at.pack, PackId::of(&noise((number / PER_PACK) as u64, 50)));
    }
    assert!(!repository.contains(BlobKind::Tree, &id(0)).unwrap());

    // What is there by the index is not stored; what is new is, and is there for who comes next.
    let lock = repository.lock(LockKind::Shared, Default::default(), &CancelToken::new()).unwrap();
    let writer = BlobWriter::new(&repository, Compression::default(), CancelToken::new()).unwrap();
    let known = noise(123_456, 100);
    assert_eq!(writer.save(BlobKind::Data, known).unwrap().wait().unwrap(), id(123_456));
    assert_eq!((writer.stats().known_blobs, writer.stats().new_blobs), (1, 0));
    let tree = rig::save_file(&writer, &repository, b"something new");
    assert_eq!((writer.stats().known_blobs, writer.stats().new_blobs), (1, 2));
    let snapshot = repository.save_snapshot(&lock, &rig::snapshot_of(tree)).unwrap();
    drop((writer, lock));

    let grown = repository.index_size().unwrap();
    assert_eq!(grown.blobs, CHUNKS + 2);
    assert!(grown.memory_bytes <= 48 * (CHUNKS + 2), "{grown:?}");
    let again = reopen(&rig);
    assert_eq!(rig::read_back(&again, snapshot).unwrap(), b"something new");
    assert_eq!(again.index_size().unwrap().blobs, CHUNKS + 2);
}
