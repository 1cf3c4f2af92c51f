//! Every noun of the format as golden text, and round trips of arbitrary ones.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at the unexpected"
)]

use crate::rig;
use mainstay_repository::format::config::{Config, Polynomial};
use mainstay_repository::format::crypto::{MasterKey, OVERHEAD_BYTES};
use mainstay_repository::format::index::{Index, IndexedPack};
use mainstay_repository::format::keyfile::{Cost, KeyFile};
use mainstay_repository::format::lock::Lock;
use mainstay_repository::format::pack::{self, PackedBlob};
use mainstay_repository::format::snapshot::Snapshot;
use mainstay_repository::format::time::Time;
use mainstay_repository::format::{BlobId, BlobKind, IndexId, PackId, unpacked};
use model::Seal;
use proptest::prelude::*;

const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn config_is_what_restic_writes() {
    let json = format!(r#"{{"version":2,"id":"{ID}","chunker_polynomial":"3da3358b4dc173"}}"#);
    let config = Config::decode(json.as_bytes()).unwrap();
    assert_eq!(config.chunker_polynomial, Polynomial(0x3D_A335_8B4D_C173));
    assert_eq!(config.encode().unwrap(), json.as_bytes());
}

#[test]
fn configs_that_cannot_be_handled_rightly_are_refused() {
    let config = |version: u32, id: &str, polynomial: &str| {
        let json =
            format!(r#"{{"version":{version},"id":"{id}","chunker_polynomial":"{polynomial}"}}"#);
        Config::decode(json.as_bytes()).map_err(|e| e.to_string())
    };
    assert!(config(1, ID, "3da3358b4dc173").is_ok());
    assert!(config(3, ID, "3da3358b4dc173").unwrap_err().contains("version 3"));
    assert!(config(2, "short", "3da3358b4dc173").unwrap_err().contains("id"));
    // Divisible by x + 1, of another degree, and a product of two of degrees above 1.
    for polynomial in ["3da3358b4dc172", "1", "7da3358b4dc173", "0", "20000000000003"] {
        assert!(config(2, ID, polynomial).unwrap_err().contains("irreducible"), "{polynomial}");
    }
}

#[test]
fn generated_polynomials_are_irreducible_by_trial_division_too() {
    for _ in 0..3 {
        let p = Polynomial::generate().unwrap();
        assert!(p.is_irreducible());
        // No divisor of degree up to 12, tried one by one.
        assert_eq!((2u64..1 << 13).find(|d| remainder(p.0, *d) == 0), None, "{p:?}");
    }
    // The other way round: the test finds every product of small ones.
    for a in 2u64..200 {
        let product = (0..46).rev().fold(0u64, |sum, bit| {
            let b: u64 = 0x2a5f_37c1_9e4b | 1 << 45;
            (sum << 1) ^ if b >> bit & 1 == 1 { a } else { 0 }
        });
        assert!(!Polynomial(product).is_irreducible());
    }
}

fn remainder(mut a: u64, b: u64) -> u64 {
    while a.leading_zeros() <= b.leading_zeros() {
        a ^= b << (b.leading_zeros() - a.leading_zeros());
        if a == 0 {
            return 0;
        }
    }
    a
}

#[test]
fn index_is_what_restic_writes() {
    let json = format!(
        concat!(
            r#"{{"supersedes":["{id}"],"packs":[{{"id":"{id}","blobs":["#,
            r#"{{"id":"{id}","type":"data","offset":0,"length":38}},"#,
            r#"{{"id":"{id}","type":"data","offset":38,"length":112,"uncompressed_length":511}}"#,
            r#"]}}]}}"#
        ),
        id = ID
    );
    let index = Index::decode(json.as_bytes()).unwrap();
    assert_eq!(index.encode().unwrap(), json.as_bytes());
    assert_eq!(index.packs[0].blobs[0].plain_bytes(), 6);
    assert_eq!(index.packs[0].blobs[1].plain_bytes(), 511);

    let old = format!(
        r#"[{{"id":"{ID}","blobs":[{{"id":"{ID}","type":"tree","offset":0,"length":38}}]}}]"#
    );
    let index = Index::decode(old.as_bytes()).unwrap();
    assert_eq!(index.packs[0].blobs[0].kind, BlobKind::Tree);
    assert!(index.supersedes.is_empty());
}

#[test]
fn snapshot_is_what_restic_writes() {
    let json = format!(
        concat!(
            r#"{{"time":"2026-01-02T03:04:05.678Z","parent":"{id}","tree":"{id}","paths":["/a"],"#,
            r#""hostname":"h","username":"u","uid":1,"gid":2,"excludes":["*.o"],"tags":["t"],"#,
            r#""original":"{id}","program_version":"restic 0.18.0","summary":{{"files_new":1}}}}"#
        ),
        id = ID
    );
    let snapshot = Snapshot::decode(json.as_bytes()).unwrap();
    assert_eq!(snapshot.taken().unwrap().timestamp().as_second(), 1_767_323_045);
    // The same fields with the same values; what we do not know is kept.
    let ours: serde_json::Value = serde_json::from_slice(&snapshot.encode().unwrap()).unwrap();
    let theirs: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(ours, theirs);

    let empty = json.replace("[\"/a\"]", "null").replace("[\"t\"]", "null");
    let snapshot = Snapshot::decode(empty.as_bytes()).unwrap();
    assert!(snapshot.paths.is_empty() && snapshot.tags.is_empty());
}

#[test]
fn lock_is_what_restic_writes() {
    let json = concat!(
        r#"{"time":"2026-01-02T03:04:05.678+01:00","exclusive":true,"hostname":"h","#,
        r#""username":"u","pid":17,"uid":1,"gid":2}"#
    );
    let lock = Lock::decode(json.as_bytes()).unwrap();
    assert_eq!(lock.encode().unwrap(), json.as_bytes());
}

#[test]
fn key_file_is_what_restic_writes() {
    let dir =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/restic-0.14-v2/keys");
    let golden = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap();
    let bytes = std::fs::read(golden.path()).unwrap();
    let file = KeyFile::decode(&bytes).unwrap();
    let (id, again) = file.encode().unwrap();
    assert_eq!(again, bytes);
    assert_eq!(id.to_hex(), golden.file_name().to_str().unwrap());
    assert!(file.unwrap("wrong").unwrap().is_none());
    assert!(file.unwrap(rig::PASSWORD).unwrap().is_some());
}

#[test]
fn a_key_file_opens_with_its_password_alone() {
    let master = MasterKey::generate().unwrap();
    let cost = Cost { n: 16, r: 1, p: 1 };
    let file =
        KeyFile::wrap(&master, "päss wörd", cost, Time::utc(0, 0), "u".into(), "h".into()).unwrap();
    let opened = file.unwrap("päss wörd").unwrap().unwrap();
    assert_eq!(opened.to_json().unwrap(), master.to_json().unwrap());
    assert!(file.unwrap("pass word").unwrap().is_none());
    assert!(!format!("{master:?}").contains(char::is_numeric), "a key must not be shown");
}

/// RFC 8439 has a test vector of Poly1305 (2.5.2); the key's second half is an encrypted nonce
/// here, so what can be compared is a message that restic sealed: the golden repositories do that.
#[test]
fn a_sealed_message_opens_with_its_key_alone() {
    let (key, other) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
    let sealed = Seal::seal(&key, b"");
    assert_eq!(sealed.len(), OVERHEAD_BYTES);
    assert_eq!(Seal::open(&key, &sealed).unwrap(), b"");
    assert!(Seal::open(&other, &sealed).is_err());
    assert!(Seal::open(&key, &sealed[1..]).is_err());
    assert!(Seal::open(&key, &[]).is_err());
    // A nonce is never used twice.
    assert_ne!(sealed[..16], Seal::seal(&key, b"")[..16]);
}

#[test]
fn times_are_those_of_go() {
    for (text, seconds, nanos) in [
        ("2026-01-02T03:04:05.678Z", 1_767_323_045, 678_000_000),
        ("2026-01-02T03:04:05.000000001+05:30", 1_767_303_245, 1),
        ("1969-12-31T23:59:59.999999999-01:00", 3_599, 999_999_999),
        ("0000-01-01T00:00:00Z", -62_167_219_200, 0),
        ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ("9999-12-31T23:59:59Z", 253_402_300_799, 0),
        ("2024-02-29T12:00:00Z", 1_709_208_000, 0),
    ] {
        let time: Time = text.parse().unwrap();
        assert_eq!((time.seconds, time.nanos), (seconds, nanos), "{text}");
        assert_eq!(time.to_string(), text);
    }
    for text in [
        "",
        "2026-01-02",
        "2026-13-02T03:04:05Z",
        "2026-02-29T03:04:05Z",
        "2026-01-02T24:04:05Z",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05+0100",
        "2026-01-02T03:04:05Zx",
        "+026-01-02T03:04:05Z",
        "2026-01-02T03:04:05+24:00",
    ] {
        assert!(text.parse::<Time>().is_err(), "{text}");
    }
}

fn packed_blobs() -> impl Strategy<Value = Vec<PackedBlob>> {
    let blob = (any::<[u8; 32]>(), 32u32..100_000, prop::option::of(1u32..1 << 31), any::<bool>());
    prop::collection::vec(blob, 1..40).prop_map(|blobs| {
        let mut offset = 0;
        let place = |(id, length, plain_length, tree)| {
            let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
            let blob = PackedBlob { kind, id: BlobId(id), offset, length, plain_length };
            offset += length;
            blob
        };
        blobs.into_iter().map(place).collect()
    })
}

fn key() -> impl Strategy<Value = MasterKey> {
    prop::collection::vec(any::<u8>(), 64)
        .prop_map(|bytes| MasterKey::from_bytes(&bytes.try_into().unwrap()))
}

proptest! {
    #[test]
    fn sealed_messages_round_trip(plain: Vec<u8>, key in key(), flip: prop::sample::Index) {
        let mut sealed = Seal::seal(&key, &plain);
        prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD_BYTES);
        prop_assert_eq!(Seal::open(&key, &sealed).unwrap(), plain.clone());
        let mut message = sealed.clone();
        prop_assert_eq!(key.open_in_place(&mut message).unwrap(), &plain[..]);
        let bit = flip.index(sealed.len() * 8);
        sealed[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Seal::open(&key, &sealed).is_err());
        let before = sealed.clone();
        prop_assert!(key.open_in_place(&mut sealed).is_err());
        prop_assert_eq!(sealed, before, "nothing is decrypted before it is authenticated");
    }

    #[test]
    fn pack_headers_round_trip(blobs in packed_blobs(), key in key(), cut: prop::sample::Index) {
        let blob_bytes: usize = blobs.iter().map(|blob| blob.length as usize).sum();
        let mut file = vec![0; blob_bytes];
        pack::append_trailer(&mut file, &blobs, &key).unwrap();
        prop_assert_eq!(file.len() as u64, pack::size_bytes(&blobs));
        let (rest, last) = file.split_last_chunk().unwrap();
        let length = pack::header_length(file.len() as u64, *last).unwrap();
        prop_assert_eq!(length + 4, pack::trailer_bytes_of(&blobs));
        let header = &rest[rest.len() - length..];
        prop_assert_eq!(pack::decode_header(header, blob_bytes as u64, &key).unwrap(), blobs);
        // The blobs must fill the pack exactly.
        for wrong in [blob_bytes as u64 - 1, blob_bytes as u64 + 1, 0] {
            prop_assert!(pack::decode_header(header, wrong, &key).is_err());
        }
        prop_assert!(pack::decode_header(&header[..cut.index(header.len())], blob_bytes as u64, &key).is_err());
    }

    #[test]
    fn indexes_round_trip(packs in prop::collection::vec((any::<[u8; 32]>(), packed_blobs()), 0..4), replaced: Option<[u8; 32]>) {
        let index = Index {
            supersedes: replaced.into_iter().map(IndexId).collect(),
            packs: packs.into_iter().map(|(id, blobs)| IndexedPack { id: PackId(id), blobs }).collect(),
        };
        prop_assert_eq!(Index::decode(&index.encode().unwrap()).unwrap(), index);
    }

    #[test]
    fn unpacked_files_round_trip(text in "\\PC{0,300}", compress: bool) {
        let json = serde_json::to_vec(&serde_json::json!({ "text": text })).unwrap();
        prop_assert_eq!(unpacked::decode(unpacked::encode(&json, compress).unwrap()).unwrap(), json);
    }

    #[test]
    fn times_round_trip(seconds in -62_167_219_200i64..253_402_300_800, nanos in 0u32..1_000_000_000) {
        let time = Time::utc(seconds, nanos);
        prop_assert_eq!(time.to_string().parse::<Time>().unwrap(), time);
        prop_assert_eq!(time.timestamp().as_nanosecond(), i128::from(seconds) * 1_000_000_000 + i128::from(nanos));
    }
}

/// rustic 0.11 writes key files that say only what it takes to open them.
#[test]
fn a_key_file_that_does_not_say_who_made_it() {
    let master = MasterKey::generate().unwrap();
    let cost = Cost { n: 2, r: 1, p: 1 };
    let made = KeyFile::wrap(&master, "password", cost, Time::utc(0, 0), "u".into(), "h".into());
    let (_, bytes) = made.unwrap().encode().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for null in [true, false] {
        for key in ["created", "username", "hostname"] {
            if null {
                json[key] = serde_json::Value::Null;
            } else {
                json.as_object_mut().unwrap().remove(key);
            }
        }
        let file = KeyFile::decode(json.to_string().as_bytes()).unwrap();
        assert_eq!((file.created, file.hostname.as_str()), (None, ""));
        let opened = file.unwrap("password").unwrap().unwrap();
        assert_eq!(opened.to_json().unwrap(), master.to_json().unwrap());
    }
}
