//! Whatever bytes come, every decoder returns, and returns an error rather than nonsense.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

#[path = "../../../../fuzz/entries/repository.rs"]
mod entries;
#[path = "../../../../fuzz/entries/mutate.rs"]
mod mutate;

use mainstay_repository::format::config::Config;
use mainstay_repository::format::crypto::MasterKey;
use mainstay_repository::format::index::Index;
use mainstay_repository::format::keyfile::KeyFile;
use mainstay_repository::format::lock::Lock;
use mainstay_repository::format::snapshot::Snapshot;
use mainstay_repository::format::time::Time;
use mainstay_repository::format::{BlobId, pack, unpacked};
use mainstay_repository::{Chunker, Tree};
use model::Seal;
use proptest::prelude::*;

fn key() -> MasterKey {
    MasterKey::from_bytes(&[7; 64])
}

/// Bytes that get further than random ones: JSON with a few changes.
fn almost_json() -> impl Strategy<Value = Vec<u8>> {
    let samples = prop::sample::select(vec![
        r#"{"version":2,"id":"0123456789012345678901234567890123456789012345678901234567890123","chunker_polynomial":"25b468838dcb75"}"#,
        r#"{"packs":[{"id":"0123456789012345678901234567890123456789012345678901234567890123","blobs":[{"id":"0123456789012345678901234567890123456789012345678901234567890123","type":"data","offset":0,"length":40,"uncompressed_length":99}]}]}"#,
        r#"{"time":"2026-01-02T03:04:05Z","exclusive":false,"hostname":"h","username":"u","pid":1}"#,
        r#"{"time":"2026-01-02T03:04:05Z","tree":"00","paths":["/"],"hostname":"h"}"#,
        r#"{"created":"2026-01-02T03:04:05Z","kdf":"scrypt","N":2,"r":1,"p":1,"salt":"AAAA","data":"AAAA"}"#,
        r#"{"nodes":[{"name":"a","type":"file","mode":420,"content":[]}]}"#,
    ]);
    (samples, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(
        |(text, changes)| {
            let mut bytes = text.as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    )
}

fn decode_everything(bytes: &[u8]) {
    let key = key();
    let _ = Config::decode(bytes);
    let _ = Index::decode(bytes);
    let _ = Lock::decode(bytes);
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        let _ = (snapshot.taken(), snapshot.tree_id(), snapshot.encode().unwrap());
    }
    let _ = Tree::decode(bytes);
    let _ = MasterKey::from_json(bytes);
    let _ = unpacked::decode(bytes.to_vec());
    let _ = key.open(bytes);
    let _ = String::from_utf8_lossy(bytes).parse::<Time>();
    let _ = String::from_utf8_lossy(bytes).parse::<BlobId>();
    let _ = pack::decode_header(bytes, bytes.len() as u64, &key);
    if let Some((rest, last)) = bytes.split_last_chunk() {
        let _ = pack::header_length(rest.len() as u64, *last);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decode_everything(&bytes);
    }

    #[test]
    fn bytes_that_are_almost_right(bytes in almost_json()) {
        decode_everything(&bytes);
    }

    /// What is inside the encryption is no more to be believed: another tool may be wrong, too.
    #[test]
    fn arbitrary_headers_rightly_sealed(
        header in prop::collection::vec(any::<u8>(), 0..300),
        blob_bytes in 0u64..1 << 33,
    ) {
        let key = key();
        if let Ok(blobs) = pack::decode_header(&Seal::seal(&key, &header), blob_bytes, &key) {
            let sum: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
            prop_assert_eq!(sum, blob_bytes);
        }
    }

    #[test]
    fn arbitrary_frames(mut frame in prop::collection::vec(any::<u8>(), 0..300)) {
        frame.insert(0, 2);
        let _ = unpacked::decode(frame.clone());
        // And with a zstd magic number.
        frame.splice(1..1, [0x28, 0xb5, 0x2f, 0xfd]);
        let _ = unpacked::decode(frame);
    }

    /// A key file may come from anybody: its cost is bounded before anything is allocated.
    #[test]
    fn arbitrary_costs(n: u32, r: u32, p: u32) {
        let json = format!(
            "{{\"created\":\"2026-01-02T03:04:05Z\",\"kdf\":\"scrypt\",\"N\":{n},\"r\":{r},\
             \"p\":{p},\"salt\":\"AAAA\",\"data\":\"AAAA\"}}"
        );
        let file = KeyFile::decode(json.as_bytes()).unwrap();
        let reasonable = n.is_power_of_two() && u64::from(n) * u64::from(r) <= 1 << 22;
        if !reasonable {
            prop_assert!(file.unwrap("password").is_err());
        }
    }

    #[test]
    fn arbitrary_content_for_the_chunker(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        searched in 0usize..1 << 24,
    ) {
        let polynomial = mainstay_repository::format::config::Polynomial(0x3D_A335_8B4D_C173);
        prop_assert_eq!(Chunker::rabin(polynomial).cut(&bytes, searched), None);
    }
}

#[test]
fn a_frame_that_would_fill_the_memory_is_refused() {
    // A gigabyte of zeros in 32 KiB.
    let mut encoder = zstd::Encoder::new(vec![2], 1).unwrap();
    for _ in 0..1024 {
        std::io::Write::write_all(&mut encoder, &vec![0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 200_000, "{}", bomb.len());
    assert!(unpacked::decode(bomb).unwrap_err().to_string().contains("larger"));
}

/// What the fuzz targets do for as long as they are let, for a few seconds.
#[test]
fn changed_samples_of_every_kind_of_file() {
    for (name, parser) in entries::ALL {
        mutate::try_out(name, &mutate::seeds(name), parser);
    }
}
