//! The blob writer: what is stored once, where, and what happens when something fails.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at the unexpected"
)]

use crate::rig::{self, Rig, check, in_time, noise, open, password};
use mainstay_repository::{
    BlobId, BlobKind, BlobWriter, Compression, Error, Kdf, PackRead, Repository, TreeId,
};
use model::CancelToken;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use storage::doubles::{Fault, Flaky, How, Memory, Recording, Verb};
use storage::{ErrorKind, Storage};

fn save(writer: &BlobWriter, kind: BlobKind, plain: &[u8]) -> BlobId {
    writer.save(kind, plain.to_vec()).unwrap().wait().unwrap()
}

#[test]
fn blobs_come_back_whatever_their_size() {
    let rig = Rig::new();
    let writer = rig.writer();
    let mut saved = Vec::new();
    for length in [0, 1, 15, 16, 17, 127 << 10, 128 << 10, 1 << 20, 8 << 20, 20 << 20] {
        for plain in [noise(length as u64, length), vec![7; length]] {
            for kind in [BlobKind::Data, BlobKind::Tree] {
                saved.push((kind, save(&writer, kind, &plain), plain.clone()));
            }
        }
    }
    writer.flush().unwrap();
    for (kind, id, plain) in &saved {
        assert_eq!(*id, BlobId::of(plain));
        assert!(rig.repository.load_blob(*kind, id).unwrap() == *plain, "{}", plain.len());
    }
    rig.restic(&["check", "--read-data"]);
    assert_eq!(check(&rig.repository).errors, Vec::<String>::new());
}

#[test]
fn the_same_bytes_are_stored_once_for_each_kind() {
    let rig = Rig::new();
    let writer = rig.writer();
    let plain = noise(1, 300_000);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for kind in [BlobKind::Data, BlobKind::Tree] {
                    save(&writer, kind, &plain);
                }
            });
        }
    });
    writer.flush().unwrap();
    let stats = writer.stats();
    assert_eq!((stats.new_blobs, stats.known_blobs), (2, 14));
    // And by a writer that comes later, here and after opening again.
    for repository in [rig.repository.clone(), open(rig.repository.storage().clone())] {
        let writer = rig::writer(&repository);
        assert!(writer.has(BlobKind::Data, &BlobId::of(&plain)).unwrap());
        save(&writer, BlobKind::Data, &plain);
        writer.flush().unwrap();
        assert_eq!((writer.stats().new_blobs, writer.stats().stored_bytes), (0, 0));
    }
}

#[test]
fn data_and_trees_never_share_a_pack_and_packs_have_their_size() {
    let rig = Rig::new();
    let writer = rig.writer();
    let mut packs: BTreeMap<BlobKind, BTreeSet<_>> = BTreeMap::new();
    let mut ids = Vec::new();
    for i in 0..80 {
        let kind = if i % 4 == 0 { BlobKind::Tree } else { BlobKind::Data };
        ids.push((kind, save(&writer, kind, &noise(i, 700_000))));
    }
    writer.flush().unwrap();
    for (kind, id) in &ids {
        packs.entry(*kind).or_default().insert(rig.repository.locate(*kind, id).unwrap().pack);
    }
    assert!(packs[&BlobKind::Data].is_disjoint(&packs[&BlobKind::Tree]));
    assert_eq!(packs[&BlobKind::Data].len(), 3, "42 MB in packs of 16");
    assert_eq!(packs[&BlobKind::Tree].len(), 1);
    for file in rig.repository.storage().list("data").unwrap() {
        assert!(file.size_bytes < 18 << 20, "{file:?}");
    }
}

#[test]
fn what_does_not_compress_is_stored_as_it_is() {
    let rig = Rig::new();
    let stored = |compression, plain: Vec<u8>| {
        let writer = BlobWriter::new(&rig.repository, compression, CancelToken::new()).unwrap();
        let id = save(&writer, BlobKind::Data, &plain);
        writer.flush().unwrap();
        let at = rig.repository.locate(BlobKind::Data, &id).unwrap();
        (at.length as usize, at.plain_length.is_some())
    };
    let text = |seed: u8| [seed, b'x', b'y', b'\n'].repeat(100_000);
    assert_eq!(stored(Compression::default(), noise(1, 1_000_000)), (1_000_032, false));
    assert_eq!(stored(Compression::default(), noise(2, 1_000)), (1_032, false));
    let (length, compressed) = stored(Compression::Level(19), text(1));
    assert!(compressed && length < 1_000);
    assert_eq!(stored(Compression::Off, text(2)), (400_032, false));
    // Noise in front does not hide what is compressible behind it.
    let mixed = [noise(3, 300_000), text(3)].concat();
    assert!(stored(Compression::default(), mixed).1);
    rig.restic(&["check", "--read-data"]);
}

#[test]
fn index_files_hold_at_most_fifty_thousand_blobs() {
    let memory: Arc<dyn Storage> = Arc::new(Memory::new());
    let repository = Repository::create(memory.clone(), &password(), Kdf::Fast).unwrap();
    let writer = rig::writer(&repository);
    let count = 70_000u32;
    let tickets: Vec<_> = (0..count)
        .map(|i| writer.save(BlobKind::Data, i.to_le_bytes().to_vec()).unwrap())
        .collect();
    let ids: Vec<BlobId> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
    writer.flush().unwrap();
    assert_eq!(memory.list("index").unwrap().len(), 2);
    let fresh = open(memory);
    for (i, id) in ids.iter().enumerate() {
        if i % 1_000 == 0 {
            let plain = fresh.load_blob(BlobKind::Data, id).unwrap();
            assert_eq!(plain, (i as u32).to_le_bytes());
        } else {
            assert!(fresh.contains(BlobKind::Data, id).unwrap());
        }
    }
    // In as few requests as there are packs, each blob once.
    let reads: Vec<PackRead> =
        fresh.plan_reads(BlobKind::Data, ids.iter().chain(&ids).copied()).unwrap();
    assert!(reads.len() <= 6, "{}", reads.len());
    let mut read = BTreeSet::new();
    for plan in &reads {
        let mut take = |id: &BlobId, plain: Result<&[u8], Error>| {
            assert_eq!(BlobId::of(plain?), *id);
            assert!(read.insert(*id), "twice");
            Ok(())
        };
        fresh.read_pack(plan, &mut take).unwrap();
    }
    assert_eq!(read.len(), ids.len());
}

#[test]
fn a_writer_can_be_flushed_again_and_again() {
    let rig = Rig::new();
    let writer = rig.writer();
    writer.flush().unwrap();
    for i in 0..5 {
        save(&writer, BlobKind::Data, &noise(i, 10_000));
        writer.flush().unwrap();
        writer.flush().unwrap();
    }
    assert_eq!(rig.repository.storage().list("data").unwrap().len(), 5);
    assert_eq!(rig.repository.storage().list("index").unwrap().len(), 5);
}

#[test]
fn dropped_without_a_flush_it_leaves_nothing_that_counts() {
    let rig = Rig::new();
    let writer = rig.writer();
    for i in 0..40 {
        save(&writer, BlobKind::Data, &noise(i, 1 << 20));
    }
    in_time(move || drop(writer));
    let fresh = open(rig.repository.storage().clone());
    assert!(!fresh.contains(BlobKind::Data, &BlobId::of(&noise(0, 1 << 20))).unwrap());
    let report = check(&fresh);
    assert_eq!(report.errors, Vec::<String>::new());
    assert_eq!(report.notes.len() as u64, report.packs);
    rig.restic(&["check"]);
}

/// Many threads that save without end: all of them hear of it, and nobody hangs.
fn fails_everywhere(
    writer: BlobWriter,
    begin: impl FnOnce() + Send + 'static,
    expected: fn(&Error) -> bool,
) {
    in_time(move || {
        let seed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    loop {
                        let plain = noise(seed.fetch_add(1, Ordering::Relaxed).into(), 500_000);
                        let saved =
                            writer.save(BlobKind::Data, plain).and_then(|ticket| ticket.wait());
                        if let Err(e) = saved {
                            assert!(expected(&e), "{e}");
                            return;
                        }
                    }
                });
            }
            begin();
        });
        for result in [
            writer.flush(),
            writer.save(BlobKind::Tree, Vec::new()).map(drop),
            writer.has(BlobKind::Data, &BlobId::of(b"")).map(drop),
        ] {
            assert!(expected(&result.unwrap_err()));
        }
    });
}

#[test]
fn a_failed_upload_fails_everything_after_it() {
    let memory: Arc<dyn Storage> = Arc::new(Memory::new());
    Repository::create(memory.clone(), &password(), Kdf::Fast).unwrap();
    let flaky = Arc::new(Flaky::new(memory.clone()));
    flaky.plan(Fault {
        skip: 1,
        ..Fault::every(Verb::Put, How::Before(ErrorKind::NoSpace)).on("data")
    });
    let writer = rig::writer(&open(flaky));
    fails_everywhere(
        writer,
        || (),
        |e| {
            use model::Classify;
            e.class() == model::Class::NoSpace
        },
    );
    assert!(memory.list("index").unwrap().is_empty());
}

#[test]
fn a_cancel_is_heard_by_everybody() {
    let rig = Rig::new();
    let cancel = CancelToken::new();
    let writer = BlobWriter::new(&rig.repository, Compression::default(), cancel.clone()).unwrap();
    fails_everywhere(writer, move || cancel.cancel(), |e| matches!(e, Error::Cancelled));
    assert_eq!(check(&rig.repository).errors, Vec::<String>::new());
}

#[test]
fn missing_blobs_are_named() {
    let rig = Rig::new();
    rig::back_up(&rig.repository, b"content");
    let id = BlobId::of(b"never stored");
    let errors = [
        rig.repository.load_blob(BlobKind::Data, &id).map(drop),
        rig.repository.locate(BlobKind::Data, &id).map(drop),
        rig.repository.plan_reads(BlobKind::Data, [id]).map(drop),
        // A data blob is no tree.
        rig.repository
            .load_blob(BlobKind::Tree, &TreeId::of(b"content").into())
            .map(drop)
            .map_err(|_| Error::Missing(id.to_string())),
    ];
    for error in errors {
        assert!(error.unwrap_err().to_string().contains(&id.to_string()));
    }
}

/// What lies close together is read at once, what lies far apart is not read along.
#[test]
fn blobs_of_a_pack_are_read_in_few_requests() {
    let recording = Arc::new(Recording::new(Arc::new(Memory::new())));
    let repository = Repository::create(recording.clone(), &password(), Kdf::Fast).unwrap();
    let writer = rig::writer(&repository);
    let ids: Vec<BlobId> = (0..60)
        .map(|i| {
            save(&writer, BlobKind::Data, &noise(i, if i % 20 == 19 { 1 << 20 } else { 9_000 }))
        })
        .collect();
    writer.flush().unwrap();
    // Every third of the small ones: gaps of 18 kB, and three of more than a megabyte.
    let wanted: Vec<BlobId> = ids
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 20 != 19 && i % 3 == 0)
        .map(|(_, id)| *id)
        .collect();
    let reads = repository.plan_reads(BlobKind::Data, wanted.iter().copied()).unwrap();
    assert_eq!(reads.len(), 1);
    assert_eq!(reads[0].bytes(), wanted.len() as u64 * 9_032);
    recording.take();
    let mut read = Vec::new();
    let mut take = |id: &BlobId, plain: Result<&[u8], Error>| {
        assert_eq!(BlobId::of(plain?), *id);
        read.push(*id);
        Ok(())
    };
    repository.read_pack(&reads[0], &mut take).unwrap();
    assert_eq!(read.len(), wanted.len());
    let mut requests = recording.take();
    requests.retain(|call| call.verb == Verb::ReadRange);
    // Blobs may change places a little on their way into the pack.
    assert!((2..=4).contains(&requests.len()), "{requests:?}");
    assert!(requests.iter().map(|call| call.bytes).sum::<u64>() < 1 << 20, "{requests:?}");
    // Who takes them may end it.
    let mut stop = |_: &BlobId, _: Result<&[u8], Error>| Err(Error::Cancelled);
    assert!(matches!(repository.read_pack(&reads[0], &mut stop), Err(Error::Cancelled)));
}
