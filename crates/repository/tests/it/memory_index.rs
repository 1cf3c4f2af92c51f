//! The index in memory against a map that anybody can read.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at the unexpected"
)]

use mainstay_repository::format::index::IndexedPack;
use mainstay_repository::format::pack::PackedBlob;
use mainstay_repository::format::{BlobId, BlobKind, PackId};
use mainstay_repository::index::{BlobIndex, Location};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn blob(kind: BlobKind, id: BlobId, offset: u32) -> PackedBlob {
    PackedBlob { kind, id, offset, length: 40, plain_length: Some(100) }
}

/// Ids of few different bytes, so that the same come up again and that their beginnings agree.
fn ids() -> impl Strategy<Value = BlobId> {
    prop_oneof![
        (0u8..4, 0u8..40).prop_map(|(first, last)| {
            let mut id = [first * 85; 32];
            id[31] = last;
            BlobId(id)
        }),
        any::<[u8; 32]>().prop_map(BlobId),
    ]
}

proptest! {
    #[test]
    fn finds_what_was_added_and_nothing_else(
        batches in prop::collection::vec(
            prop::collection::vec((0u8..20, prop::collection::vec((any::<bool>(), ids()), 0..30)), 0..6),
            0..12,
        ),
        others in prop::collection::vec(ids(), 0..30),
    ) {
        let mut index = BlobIndex::default();
        let mut expected: BTreeMap<(BlobKind, BlobId), BTreeSet<(PackId, u32)>> = BTreeMap::new();
        let mut offset = 0;
        for batch in &batches {
            let mut packs = Vec::new();
            for (pack, blobs) in batch {
                let id = PackId([*pack; 32]);
                let blobs = blobs.iter().map(|(tree, blob_id)| {
                    offset += 40;
                    let kind = if *tree { BlobKind::Tree } else { BlobKind::Data };
                    expected.entry((kind, *blob_id)).or_default().insert((id, offset));
                    blob(kind, *blob_id, offset)
                });
                packs.push(IndexedPack { id, blobs: blobs.collect() });
            }
            index.add(&packs);
            // Told twice, it counts once.
            index.add(&packs[..packs.len().min(1)]);
        }
        for ((kind, id), places) in &expected {
            let found: BTreeSet<(PackId, u32)> =
                index.locations(*kind, id).map(|at: Location| (at.pack, at.offset)).collect();
            prop_assert_eq!(&found, places);
            prop_assert!(index.contains(*kind, id));
        }
        for id in others {
            for kind in [BlobKind::Data, BlobKind::Tree] {
                prop_assert_eq!(index.contains(kind, &id), expected.contains_key(&(kind, id)));
            }
        }
    }
}

#[test]
fn a_chunk_takes_less_than_48_bytes() {
    let mut index = BlobIndex::default();
    let mut count = 0u32;
    for file in 0..25u32 {
        let packs: Vec<IndexedPack> = (0..400u32)
            .map(|pack| IndexedPack {
                id: PackId::of(&[file.to_le_bytes(), pack.to_le_bytes()].concat()),
                blobs: (0..50)
                    .map(|_| {
                        count += 1;
                        blob(BlobKind::Data, BlobId::of(&count.to_le_bytes()), count)
                    })
                    .collect(),
            })
            .collect();
        index.add(&packs);
    }
    assert_eq!(index.len(), 500_000);
    for i in (1..=count).step_by(97) {
        let at = index.locate(BlobKind::Data, &BlobId::of(&i.to_le_bytes())).unwrap();
        assert_eq!(at.offset, i);
    }
    assert!(!index.contains(BlobKind::Data, &BlobId::of(b"something else")));
    assert!(!index.contains(BlobKind::Tree, &BlobId::of(&1u32.to_le_bytes())));
    let packs = 25 * 400 * 32;
    let per_blob = (index.memory_bytes() - packs) as f64 / index.len() as f64;
    assert!(per_blob <= 48.0, "{per_blob} bytes a blob");
}

#[test]
fn places_at_the_limits_are_kept() {
    let max = mainstay_repository::format::pack::MAX_LENGTH;
    let places = [
        (0, 32, None),
        (u32::MAX, max, Some(max)),
        (u32::MAX, 32, Some(1)),
        (1, max, None),
        (0x8000_0000, 0x4000_0001, Some(0x2000_0003)),
    ];
    let id = BlobId::of(b"one");
    for (offset, length, plain_length) in places {
        let mut index = BlobIndex::default();
        let blobs = vec![PackedBlob { kind: BlobKind::Data, id, offset, length, plain_length }];
        index.add(&[IndexedPack { id: PackId::of(b"pack"), blobs }]);
        let at = index.locate(BlobKind::Data, &id).unwrap();
        assert_eq!((at.offset, at.length, at.plain_length), (offset, length, plain_length));
        assert_eq!(at.pack, PackId::of(b"pack"));
    }
}
