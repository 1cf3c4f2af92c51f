//! Every parser of a repository's bytes. Each takes anything, and returns.

use mainstay_repository::format::config::Config;
use mainstay_repository::format::crypto::MasterKey;
use mainstay_repository::format::index::Index;
use mainstay_repository::format::keyfile::KeyFile;
use mainstay_repository::format::lock::Lock;
use mainstay_repository::format::snapshot::Snapshot;
use mainstay_repository::format::time::Time;
use mainstay_repository::format::{BlobId, pack, unpacked};
use mainstay_repository::log::LogStore;
use mainstay_repository::{Chunker, Tree};
use model::{Generation, Seal};
use std::sync::Arc;
use storage::doubles::Memory;
use storage::{Key, Storage};

/// By its name.
pub(crate) type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const ALL: &[Entry] = &[
    ("config", config),
    ("key_file", key_file),
    ("index", index),
    ("lock", lock),
    ("snapshot", snapshot),
    ("tree", tree),
    ("pack_header", pack_header),
    ("unpacked", unpacked_file),
    ("sealed", sealed),
    ("chunks", chunks),
    ("log_object", log_object),
];

fn key() -> MasterKey {
    MasterKey::from_bytes(&[7; 64])
}

/// What is understood is written so that it is understood in the same way.
pub(crate) fn config(bytes: &[u8]) {
    if let Ok(config) = Config::decode(bytes) {
        let again = config.encode().and_then(|json| Config::decode(&json));
        assert!(again.is_ok_and(|again| again == config));
    }
}

/// The cost that a key file asks for is bounded before anything is allocated.
pub(crate) fn key_file(bytes: &[u8]) {
    let Ok(file) = KeyFile::decode(bytes) else { return };
    // Deriving is slow by design: only what is refused, or cheap, is tried to the end.
    let text = String::from_utf8_lossy(bytes);
    if text.contains("\"N\":2,") || text.contains("\"N\":0") {
        let _ = file.unwrap("password");
    }
    let _ = MasterKey::from_json(bytes);
}

pub(crate) fn index(bytes: &[u8]) {
    if let Ok(index) = Index::decode(bytes) {
        let again = index.encode().and_then(|json| Index::decode(&json));
        assert!(again.is_ok_and(|again| again == index));
    }
}

pub(crate) fn lock(bytes: &[u8]) {
    let _ = Lock::decode(bytes);
}

pub(crate) fn snapshot(bytes: &[u8]) {
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        let _ = (snapshot.taken(), snapshot.tree_id());
        let again = snapshot.encode().and_then(|json| Snapshot::decode(&json));
        assert!(again.is_ok_and(|again| again == snapshot));
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = (text.parse::<Time>(), text.parse::<BlobId>());
}

/// No name in a tree leads out of its directory, and both ways of reading one agree.
pub(crate) fn tree(bytes: &[u8]) {
    if let (Some(short), long) = Tree::decode_both_ways(bytes) {
        assert!(long.is_ok_and(|long| long == short));
    }
    let Ok(tree) = Tree::decode(bytes) else { return };
    for node in &tree.nodes {
        assert!(!node.name.contains(&b'/') && !node.name.contains(&0));
        assert!(!node.name.is_empty() && node.name != b"." && node.name != b"..");
    }
    if let Ok(json) = tree.encode() {
        assert!(Tree::decode(&json).is_ok_and(|again| again.nodes.len() == tree.nodes.len()));
    }
}

/// What is inside the encryption is no more to be believed: another tool may be wrong, too.
pub(crate) fn pack_header(bytes: &[u8]) {
    let key = key();
    let _ = pack::decode_header(bytes, bytes.len() as u64, &key);
    if let Some((rest, last)) = bytes.split_last_chunk() {
        let _ = pack::header_length(rest.len() as u64, *last);
    }
    // The first bytes are where the header begins.
    let Some((at, header)) = bytes.split_first_chunk::<4>() else { return };
    let at = u64::from(u32::from_le_bytes(*at));
    if let Ok(blobs) = pack::decode_header(&key.seal(header), at, &key) {
        let sum: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
        assert_eq!(sum, at, "gaps or overlaps");
    }
}

pub(crate) fn unpacked_file(bytes: &[u8]) {
    let _ = unpacked::decode(bytes.to_vec());
    let frame = [&[2], bytes].concat();
    let _ = unpacked::decode(frame);
}

/// What nobody with the key has sealed is not opened.
pub(crate) fn sealed(bytes: &[u8]) {
    let key = key();
    assert!(key.open(bytes).is_err());
    let mut other = key.seal(bytes);
    assert!(key.open(&other).is_ok_and(|plain| plain == bytes));
    let middle = other.len() / 2;
    other[middle] ^= 1;
    assert!(key.open(&other).is_err());
}

/// The same cuts, however the content comes.
pub(crate) fn chunks(bytes: &[u8]) {
    let polynomial = mainstay_repository::format::config::Polynomial(0x3D_A335_8B4D_C173);
    assert_eq!(Chunker::rabin(polynomial).cut(bytes, bytes.len()), None);
}

/// The bytes as an object of the log, as its plain content, and as its key.
pub(crate) fn log_object(bytes: &[u8]) {
    let (name, generation) = ("000000010000000000000001", Generation(1));
    let memory = Arc::new(Memory::new());
    let log = LogStore::on(memory.clone(), Arc::new(key()));
    if log.push(generation, name, b"content").is_err() {
        panic!("the log takes a segment");
    }
    let Some(entry) = memory.list("").ok().and_then(|list| list.into_iter().next()) else {
        panic!("the log is on the storage");
    };
    let magic = memory.read(&entry.key).unwrap_or_default();
    let magic = magic.first_chunk::<8>().copied().unwrap_or_default();
    let key = key();
    for object in [bytes.to_vec(), [&magic[..], &key.seal(bytes)].concat()] {
        if memory.put(&entry.key, &object).is_ok()
            && let Ok(content) = log.fetch_from(name, generation)
        {
            // Only a whole record is.
            assert!(content.len() < 64 << 20);
        }
    }
    if let Ok(key) = Key::new(String::from_utf8_lossy(bytes)) {
        let _ = memory.put(&key, b"");
        let _ = (log.list(), log.list_near(key.name()));
    }
}
