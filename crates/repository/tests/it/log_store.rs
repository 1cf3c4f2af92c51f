//! The log store against its format page: `docs/formats/log-store.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use mainstay_repository::Error;
use mainstay_repository::log::{Effort, LogStore, Mark, Part, Pushed};
use model::{Class, Classify, ClusterId, Generation, Seal, SealError};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use storage::doubles::{Recording, Verb};
use storage::{Key, Local, Storage};

const SEGMENT: &str = "000000010000000A000000FF";
const AT: &str = "mainstay/log/000000010000000A/000000010000000A000000FF@0000000003";

/// Authenticates and hides nothing, so that a test can build records of its own.
struct Glass;

impl Seal for Glass {
    fn seal(&self, plain: &[u8]) -> Vec<u8> {
        [&Sha256::digest(plain)[..], plain].concat()
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (tag, plain) = sealed.split_at_checked(32).ok_or(SealError)?;
        if Sha256::digest(plain)[..] == *tag { Ok(plain.to_vec()) } else { Err(SealError) }
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    storage: Arc<dyn Storage>,
    log: LogStore,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let storage: Arc<dyn Storage> = Arc::new(Local::open(dir.path()).expect("open"));
        storage.put(&key("config"), b"a repository").expect("config");
        let log = LogStore::on(storage.clone(), Arc::new(Glass));
        Bench { _dir: dir, storage, log }
    }

    fn push(&self, generation: u64, name: &str, bytes: &[u8]) -> Result<Pushed, Error> {
        self.log.push(Generation(generation), name, bytes)
    }

    fn objects(&self) -> Vec<String> {
        let entries = self.storage.list("mainstay/log").expect("list");
        entries.iter().map(|entry| entry.key.to_string()).collect()
    }
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

/// A record as the format page describes it, field by field.
struct Parts {
    clear: [u8; 8],
    magic: [u8; 8],
    compression: u16,
    name_length: u16,
    generation: u64,
    length: u64,
    digest: Vec<u8>,
    name: Vec<u8>,
    frame: Vec<u8>,
}

impl Parts {
    fn of(content: &[u8]) -> Parts {
        Parts {
            clear: *b"MSTYLOG\x01",
            magic: *b"MSTYLOG\x01",
            compression: 1,
            name_length: 24,
            generation: 3,
            length: content.len() as u64,
            digest: Sha256::digest(content).to_vec(),
            name: SEGMENT.as_bytes().to_vec(),
            frame: zstd::bulk::compress(content, 1).expect("compress"),
        }
    }

    fn object(&self) -> Vec<u8> {
        let record = [
            &self.magic[..],
            &self.compression.to_le_bytes(),
            &self.name_length.to_le_bytes(),
            &self.generation.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.digest,
            &self.name,
            &self.frame,
        ]
        .concat();
        [&self.clear[..], &Glass.seal(&record)].concat()
    }
}

#[test]
fn an_object_of_version_1_is_read() {
    // Written down once: "twelve bytes", in one zstd frame without compression.
    let record = concat!(
        "4d5354594c4f4701", // magic, version
        "0100",             // zstd
        "1800",             // 24 bytes of name
        "0300000000000000", // generation 3
        "0c00000000000000", // 12 bytes
        "d4ce2c527afe674c7a086bd74e256019e3d5dcdb31eeb6eaadef5ada8c4383b9",
        "303030303030303130303030303030413030303030304646",
        "28b52ffd200c610000",
        "7477656c7665206279746573",
    );
    let record = hex::decode(record).expect("hex");
    let bench = Bench::new();
    let object = [b"MSTYLOG\x01".to_vec(), Glass.seal(&record)].concat();
    bench.storage.put(&key(AT), &object).expect("put");
    assert_eq!(bench.log.fetch(SEGMENT).expect("fetch"), Some(b"twelve bytes".to_vec()));
}

#[test]
fn an_object_is_written_as_the_page_says() {
    let bench = Bench::new();
    let content = vec![7; 100_000];
    bench.push(3, SEGMENT, &content).expect("push");
    assert_eq!(bench.objects(), [AT]);
    let stored = bench.storage.read(&key(AT)).expect("read");
    let mut parts = Parts::of(&content);
    let record = Glass.open(&stored[8..]).expect("open");
    // Which bytes zstd makes is its own business; that they are one frame at the end is ours.
    parts.frame = record[84..].to_vec();
    assert_eq!(stored, parts.object());
    assert_eq!(zstd::bulk::decompress(&parts.frame, 100_000).expect("a frame"), content);
    assert!(stored.len() < 1000, "{} bytes are not compressed", stored.len());
}

#[test]
fn what_was_pushed_is_fetched() {
    let bench = Bench::new();
    for (name, bytes) in [
        (SEGMENT, vec![1; 1 << 20]),
        ("00000002.history", b"1\t0/3000000\tno recovery target specified\n".to_vec()),
        ("000000010000000A000000FE.00000028.backup", b"START WAL LOCATION".to_vec()),
        ("000000010000000A000000FF.partial", vec![2; 4096]),
        ("empty", Vec::new()),
    ] {
        assert_eq!(bench.push(1, name, &bytes).expect(name), Pushed::Stored);
        assert_eq!(bench.log.fetch(name).expect(name), Some(bytes), "{name}");
    }
    assert_eq!(bench.log.fetch("000000010000000B00000000").expect("fetch"), None);
    assert_eq!(bench.log.fetch("00000003.history").expect("fetch"), None);
}

#[test]
fn the_same_bytes_again_are_success_and_others_are_refused() {
    let bench = Bench::new();
    assert_eq!(bench.push(1, SEGMENT, b"one").expect("push"), Pushed::Stored);
    assert_eq!(bench.push(1, SEGMENT, b"one").expect("again"), Pushed::Already);
    for other in [&b"two"[..], b"one!", b"on", b""] {
        let error = bench.push(1, SEGMENT, other).expect_err("other bytes");
        assert_eq!(error.class(), Class::Refused, "{error}");
    }
    assert_eq!(bench.log.fetch(SEGMENT).expect("fetch"), Some(b"one".to_vec()));
}

#[test]
fn a_name_has_one_content_over_all_generations() {
    let bench = Bench::new();
    bench.push(2, SEGMENT, b"one").expect("push");
    for generation in [1, 3] {
        let error = bench.push(generation, SEGMENT, b"two").expect_err("other bytes");
        assert_eq!(error.class(), Class::Refused, "{error}");
    }
    assert_eq!(bench.objects().len(), 1);
    bench.push(3, SEGMENT, b"one").expect("the same bytes");
    assert_eq!(bench.objects().len(), 2);
}

#[test]
fn the_newest_generation_is_fetched_and_all_are_listed_in_order() {
    let bench = Bench::new();
    // Two that pushed at the same instant: neither saw the other's.
    let mut old = Parts::of(b"old");
    old.generation = 3;
    bench.storage.put(&key(AT), &old.object()).expect("put");
    let mut new = Parts::of(b"new");
    new.generation = 12;
    bench.storage.put(&key(&AT.replace("03", "12")), &new.object()).expect("put");
    bench.push(4, "00000002.history", b"h").expect("push");
    bench.push(4, "000000010000000A00000001", b"s").expect("push");
    // Not of the log.
    bench.storage.put(&key("mainstay/log/other/README"), b"?").expect("put");

    assert_eq!(bench.log.fetch(SEGMENT).expect("fetch"), Some(b"new".to_vec()));
    assert_eq!(bench.log.fetch_from(SEGMENT, Generation(3)).expect("fetch"), b"old");
    let names: Vec<(String, u64)> =
        bench.log.list().expect("list").into_iter().map(|(name, g)| (name, g.0)).collect();
    let expected =
        [("000000010000000A00000001", 4), (SEGMENT, 3), (SEGMENT, 12), ("00000002.history", 4)];
    assert_eq!(names, expected.map(|(name, g)| (name.to_owned(), g)));

    let near = bench.log.list_near("000000010000000A00000007").expect("near");
    assert_eq!(near.len(), 3);
    bench.log.remove(SEGMENT, Generation(12)).expect("remove");
    bench.log.remove(SEGMENT, Generation(12)).expect("again");
    assert_eq!(bench.log.fetch(SEGMENT).expect("fetch"), Some(b"old".to_vec()));
}

#[test]
fn names_that_are_none_are_refused() {
    let bench = Bench::new();
    for bad in ["", "a/b", "../config", ".hidden", "-x", "a@1", "a b", "ä"] {
        assert_eq!(bench.push(1, bad, b"x").expect_err(bad).class(), Class::Invalid, "{bad:?}");
        assert_eq!(bench.log.fetch(bad).expect_err(bad).class(), Class::Invalid, "{bad:?}");
    }
    assert_eq!(bench.objects(), Vec::<String>::new());
}

#[test]
fn a_vault_that_is_not_there_is_not_an_empty_log() {
    let bench = Bench::new();
    bench.storage.delete(&key("config")).expect("delete");
    let error = bench.log.fetch(SEGMENT).expect_err("no repository");
    assert_eq!(error.class(), Class::NoRepository, "{error}");
}

#[test]
fn an_object_under_another_key_is_refused() {
    let bench = Bench::new();
    bench.push(3, SEGMENT, b"content").expect("push");
    let stored = bench.storage.read(&key(AT)).expect("read");
    let other_name = AT.replace("000000FF@", "000000FE@");
    let other_generation = AT.replace("@0000000003", "@0000000004");
    bench.storage.put(&key(&other_name), &stored).expect("put");
    bench.storage.put(&key(&other_generation), &stored).expect("put");
    for name in ["000000010000000A000000FE", SEGMENT] {
        let error = bench.log.fetch(name).expect_err(name);
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        assert!(error.to_string().contains("instead"), "{error}");
    }
}

#[test]
fn every_kind_of_damage_is_refused() {
    let bench = Bench::new();
    let content = b"content of a segment";
    type Change = fn(&mut Parts);
    let changes: [(&str, Change); 13] = [
        ("magic in the clear", |p| p.clear[0] ^= 1),
        ("magic", |p| p.magic[3] ^= 1),
        ("version inside", |p| p.magic[7] = 2),
        ("compression", |p| p.compression = 0),
        ("no name", |p| p.name_length = 0),
        ("shorter name", |p| p.name_length = 23),
        ("longer name", |p| p.name_length = 25),
        ("endless name", |p| p.name_length = u16::MAX),
        ("length less", |p| p.length -= 1),
        ("length more", |p| p.length += 1),
        ("length absurd", |p| p.length = u64::MAX),
        ("digest", |p| p.digest[31] ^= 0x80),
        ("something after the frame", |p| p.frame.push(0)),
    ];
    for (what, change) in changes {
        let mut parts = Parts::of(content);
        change(&mut parts);
        bench.storage.put(&key(AT), &parts.object()).expect("put");
        let error = bench.log.fetch(SEGMENT).expect_err(what);
        assert_eq!(error.class(), Class::Corrupt, "{what}: {error}");
    }
    bench.storage.put(&key(AT), &Parts::of(content).object()).expect("put");
    assert_eq!(bench.log.fetch(SEGMENT).expect("fetch"), Some(content.to_vec()));
}

#[test]
fn a_later_version_is_named_and_not_called_damage() {
    let bench = Bench::new();
    let mut parts = Parts::of(b"content");
    parts.clear[7] = 2;
    bench.storage.put(&key(AT), &parts.object()).expect("put");
    let error = bench.log.fetch(SEGMENT).expect_err("version 2");
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn a_frame_that_swells_is_refused_without_its_memory() {
    let bench = Bench::new();
    let mut parts = Parts::of(b"");
    // 800 MiB of zeros in 26 kB, where the record promises ten bytes.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("encoder");
    let zeros = vec![0; 1 << 20];
    for _ in 0..800 {
        std::io::Write::write_all(&mut encoder, &zeros).expect("compress");
    }
    parts.frame = encoder.finish().expect("a frame");
    parts.length = 10;
    bench.storage.put(&key(AT), &parts.object()).expect("put");
    let error = bench.log.fetch(SEGMENT).expect_err("a bomb");
    assert_eq!(error.class(), Class::Corrupt, "{error}");
}

#[test]
fn an_object_of_absurd_size_is_refused_before_it_is_read() {
    let bench = Bench::new();
    bench.push(3, SEGMENT, b"content").expect("push");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(std::path::Path::new(&bench.storage.location()).join(AT))
        .expect("open");
    file.set_len(1 << 40).expect("a sparse file");
    let error = bench.log.fetch(SEGMENT).expect_err("too large");
    assert_eq!(error.class(), Class::Corrupt, "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bit_or_cut_is_refused(at in 0.0..1.0f64, bit in 0..8u8, cut: bool) {
        let bench = Bench::new();
        bench.push(3, SEGMENT, &vec![5; 5000]).expect("push");
        let mut stored = bench.storage.read(&key(AT)).expect("read");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = (at * stored.len() as f64) as usize;
        if cut {
            stored.truncate(at);
        } else {
            stored[at] ^= 1 << bit;
        }
        bench.storage.put(&key(AT), &stored).expect("put");
        let error = bench.log.fetch(SEGMENT).expect_err("damage");
        prop_assert!(matches!(error.class(), Class::Corrupt | Class::Invalid), "{}", error);
        // Nor does damage pass for the same bytes.
        prop_assert!(bench.push(3, SEGMENT, &vec![5; 5000]).is_err());
    }
}

#[test]
fn parts_are_read_as_the_beginning_of_their_file() {
    let bench = Bench::new();
    let (first, generation) = ("000000010000000A000000FE", Generation(3));
    assert_eq!(bench.log.beginning(first).expect("none"), None);
    let put = |start, bytes: &[u8]| bench.log.push_part(generation, first, start, 64, bytes);
    put(0, b"abc").expect("first");
    put(3, b"defg").expect("second");
    put(3, b"defg").expect("again");
    let begun = bench.log.beginning(first).expect("read").expect("some");
    assert_eq!((begun.bytes.as_slice(), begun.whole), (&b"abcdefg"[..], 64));
    assert_eq!(begun.padded(), [&b"abcdefg"[..], &[0; 57]].concat());
    // What no part before leads to does not count; a longer one takes the place of several.
    put(9, b"xyz").expect("behind a hole");
    assert_eq!(bench.log.beginning(first).expect("read").expect("some").bytes, b"abcdefg");
    let whole = put(0, b"abcdefgh").expect("together");
    for part in bench.log.parts(first).expect("parts") {
        if part != whole {
            bench.log.remove_parts(first, &[part]).expect("remove");
        }
    }
    assert_eq!(bench.log.beginning(first).expect("read").expect("some").bytes, b"abcdefgh");
    // They are no files of the log.
    assert_eq!(bench.log.fetch(first).expect("fetch"), None);
    assert_eq!(bench.log.list().expect("list"), []);
    for (start, bytes) in [(60, &b"12345"[..]), (0, b"")] {
        assert_eq!(put(start, bytes).expect_err("no part").class(), Class::Invalid);
    }
}

/// Of parts that the caller knows nothing is read; of any other everything is, whoever put it.
#[test]
fn a_file_takes_the_place_of_its_parts() {
    let bench = Bench::new();
    let generation = Generation(3);
    let whole = [7; 64];
    let put = |start, bytes: &[u8]| {
        bench.log.push_part(generation, SEGMENT, start, 64, bytes).expect("a part")
    };
    let ours = [put(0, &whole[..10]), put(10, &whole[10..30])];
    let theirs = put(30, &[8; 10]);
    let push =
        |known: &[Part]| bench.log.push_grown(generation, SEGMENT, &whole, known, Effort::Little);
    assert_eq!(push(&ours).expect_err("theirs are others").class(), Class::Refused);
    bench.log.remove_parts(SEGMENT, &[theirs]).expect("removed");
    let (pushed, parts) = push(&ours).expect("the same");
    assert_eq!((pushed, parts.as_slice()), (Pushed::Stored, &ours[..]));
    assert_eq!(push(&[]).expect("again").0, Pushed::Already);
    bench.log.remove_parts(SEGMENT, &ours).expect("removed");
    assert_eq!(bench.log.fetch(SEGMENT).expect("fetch"), Some(whole.to_vec()));
}

#[test]
fn parts_that_contradict_each_other_or_the_file_are_refused() {
    let bench = Bench::new();
    let put = |generation, start, bytes: &[u8]| {
        bench.log.push_part(Generation(generation), SEGMENT, start, 8, bytes)
    };
    put(3, 0, b"abcd").expect("first");
    assert_eq!(put(3, 0, b"abXd").expect_err("other bytes").class(), Class::Refused);
    // The file itself has to begin so, at whatever generation.
    for other in [&b"abXdefgh"[..], b"abc", b"abcdefghi"] {
        assert_eq!(bench.push(4, SEGMENT, other).expect_err("other bytes").class(), Class::Refused);
    }
    assert_eq!(bench.push(4, SEGMENT, b"abcdefgh").expect("the file"), Pushed::Stored);
    put(4, 2, b"Xdef").expect("of another server");
    assert_eq!(bench.log.beginning(SEGMENT).expect_err("they differ").class(), Class::Refused);
}

#[test]
fn a_damaged_part_is_never_taken() {
    let bench = Bench::new();
    let part = bench.log.push_part(Generation(3), SEGMENT, 0, 64, b"some bytes").expect("put");
    let at = key(&format!("mainstay/log-parts/{SEGMENT}/00000000-0000000A@0000000003"));
    let good = bench.storage.read(&at).expect("read");
    for byte in [0, 7, 8, 45, 60, 84, good.len() - 1] {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        bench.storage.put(&at, &bad).expect("damage");
        let error = bench.log.read_part(SEGMENT, &part).expect_err("damaged");
        let expected = if byte == 7 { Class::Invalid } else { Class::Corrupt };
        assert_eq!(error.class(), expected, "byte {byte}: {error}");
    }
    // Whole, but of another place.
    bench.storage.put(&at, &good).expect("repair");
    let moved = key(&format!("mainstay/log-parts/{SEGMENT}/00000001-0000000B@0000000003"));
    bench.storage.put(&moved, &good).expect("move");
    let there = bench.log.parts(SEGMENT).expect("parts");
    assert_eq!(there.len(), 2);
    assert_eq!(bench.log.read_part(SEGMENT, &there[1]).expect_err("moved").class(), Class::Corrupt);
}

#[test]
fn a_mark_is_listed_by_its_time_and_a_damaged_one_is_never_taken() {
    let bench = Bench::new();
    let mark = |generation, second, place| Mark {
        until: jiff::Timestamp::from_second(second).expect("a time"),
        timeline: 1,
        place,
        generation: Generation(generation),
    };
    let (first, second, later) = (mark(3, 1000, 9), mark(3, 2000, 9), mark(4, 1500, 9));
    assert!(!bench.log.has_mark(&first).expect("none"));
    for one in [&second, &first, &later, &first] {
        bench.log.put_mark(one).expect("put");
        assert!(bench.log.has_mark(one).expect("ask"));
    }
    assert_eq!(bench.log.marks().expect("list"), [first, later, second]);
    assert!(bench.log.list().expect("list").is_empty(), "they are nothing of the log itself");
    bench.log.remove_marks(&[second, second]).expect("remove");
    assert_eq!(bench.log.marks().expect("list"), [first, later]);

    let at = |micros: u64| {
        key(&format!("mainstay/log-until/{micros:016X}-00000001-0000000000000009@0000000003"))
    };
    let good = bench.storage.read(&at(1_000_000_000)).expect("read");
    for byte in [0, 7, 8, 60, good.len() - 1] {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        bench.storage.put(&at(1_000_000_000), &bad).expect("damage");
        let expected = if byte == 7 { Class::Invalid } else { Class::Corrupt };
        let error = bench.log.has_mark(&first).expect_err("damaged");
        assert_eq!(error.class(), expected, "byte {byte}: {error}");
    }
    // Whole, but of another time.
    bench.storage.put(&at(2_000_000_000), &good).expect("move");
    assert_eq!(bench.log.has_mark(&second).expect_err("moved").class(), Class::Corrupt);
}

const ONE: ClusterId = ClusterId(7_500_000_000_000_000_001);
const OTHER: ClusterId = ClusterId(7_500_000_000_000_000_002);

/// Segments of these tests begin with the number of the cluster that wrote them.
fn wrote(bytes: &[u8]) -> Option<ClusterId> {
    match bytes.first()? {
        1 => Some(ONE),
        2 => Some(OTHER),
        _ => None,
    }
}

#[test]
fn each_cluster_has_the_same_names_in_a_place_of_its_own() {
    let bench = Bench::new();
    let [one, other] = [ONE, OTHER].map(|cluster| bench.log.with_cluster(cluster, wrote));
    let history = "00000002.history";
    for (log, number) in [(&one, 1), (&other, 2)] {
        log.push(Generation(3), SEGMENT, &[number; 100]).expect("a segment");
        log.push(Generation(3), history, &[number]).expect("a history");
        log.push_part(Generation(3), "000000010000000A00000100", 0, 64, &[number; 10])
            .expect("a part");
        let until = "2026-11-21T12:00:00Z".parse().expect("a time");
        let (timeline, place) = (1, u64::from(number));
        log.put_mark(&Mark { until, timeline, place, generation: Generation(3) }).expect("a mark");
    }
    let at = format!("mainstay/log/{ONE}/000000010000000A/{SEGMENT}@0000000003");
    assert!(bench.objects().contains(&at), "{:?}", bench.objects());
    for (log, number) in [(&one, 1), (&other, 2)] {
        assert_eq!(log.fetch(SEGMENT).expect("asked"), Some(vec![number; 100]));
        assert_eq!(log.fetch(history).expect("asked"), Some(vec![number]));
        assert_eq!(
            (log.list().expect("listed").len(), log.list_near(SEGMENT).expect("near").len()),
            (2, 1)
        );
        let parts = log.list_parts().expect("parts");
        assert_eq!(parts.len(), 1);
        let begun = log.beginning(&parts[0].0).expect("asked").expect("begun");
        assert_eq!(begun.bytes, [number; 10]);
        let marks = log.marks().expect("marks");
        assert_eq!(marks.len(), 1);
        assert_eq!(marks[0].place, u64::from(number));
        assert!(log.has_mark(&marks[0]).expect("there"));
    }
    // Nothing of that is a log of no cluster.
    assert!(bench.log.list().expect("listed").is_empty());
    assert!(
        bench.log.list_parts().expect("listed").is_empty()
            && bench.log.marks().expect("listed").is_empty()
    );
    assert_eq!(bench.log.fetch(SEGMENT).expect("asked"), None);
    let places = bench.log.places().expect("places");
    let clusters: Vec<_> = places.iter().map(LogStore::cluster).collect();
    assert_eq!(clusters, [Some(ONE), Some(OTHER)]);

    // What is moved to the place of another is not what it says there.
    let moved = bench.storage.read(&key(&at)).expect("read");
    bench
        .storage
        .put(&key(&at.replace(&ONE.to_string(), &OTHER.to_string())), &moved)
        .expect("put");
    let error = other.fetch(SEGMENT).expect_err("moved");
    assert_eq!(error.class(), Class::Corrupt, "{error}");
}

/// As the log was written before there were clusters in its keys.
#[test]
fn a_log_without_a_cluster_in_its_keys_is_read_by_the_one_that_wrote_it() {
    let bench = Bench::new();
    let (next, begun) = ("000000010000000A00000100", "000000010000000A00000101");
    let history = "00000002.history";
    bench.push(1, SEGMENT, &[1; 100]).expect("a segment");
    bench.push(1, history, b"whose?").expect("a history");
    bench.log.push_part(Generation(1), begun, 0, 64, &[1; 10]).expect("a part");
    let until = "2026-11-21T12:00:00Z".parse().expect("a time");
    let mark = Mark { until, timeline: 1, place: 9, generation: Generation(1) };
    bench.log.put_mark(&mark).expect("a mark");

    let [one, other] = [ONE, OTHER].map(|cluster| bench.log.with_cluster(cluster, wrote));
    one.push(Generation(2), next, &[1; 100]).expect("the next");
    one.push_part(Generation(2), begun, 10, 64, &[1; 10]).expect("it goes on");
    assert_eq!(one.fetch(SEGMENT).expect("asked"), Some(vec![1; 100]));
    assert_eq!(one.fetch_from(SEGMENT, Generation(1)).expect("read"), vec![1; 100]);
    assert_eq!(one.fetch(history).expect("asked"), Some(b"whose?".to_vec()));
    let names: Vec<String> =
        one.list().expect("listed").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [SEGMENT, next, history]);
    assert_eq!(one.list_near(next).expect("listed").len(), 2);
    assert_eq!(one.beginning(begun).expect("asked").expect("begun").bytes, [1; 20]);
    assert_eq!(one.marks().expect("marks"), [mark]);
    assert!(one.has_mark(&mark).expect("asked"));
    // The same name has the same bytes, wherever it lies.
    one.push(Generation(2), SEGMENT, &[1; 99]).expect_err("other bytes");
    one.push(Generation(2), SEGMENT, &[1; 100]).expect("the same");

    assert_eq!(other.fetch(SEGMENT).expect("asked"), None);
    assert_eq!(other.fetch(history).expect("asked"), None);
    assert!(
        other.list().expect("listed").is_empty() && other.list_parts().expect("listed").is_empty()
    );
    assert!(other.list_near(SEGMENT).expect("near").is_empty());
    assert!(other.marks().expect("marks").is_empty() && !other.has_mark(&mark).expect("asked"));
    other.push(Generation(2), SEGMENT, &[2; 100]).expect("its own");
    assert_eq!(one.fetch(SEGMENT).expect("asked"), Some(vec![1; 100]));
}

/// An old segment that is damaged, and that nobody may need any more, keeps nobody from the rest of the log,
/// and least of all from adding to it.
#[test]
fn who_wrote_a_log_without_a_cluster_is_told_by_what_is_whole_of_it() {
    let bench = Bench::new();
    let [first, second, third] =
        [0x10, 0x11, 0x12].map(|number| format!("000000010000000A{number:08X}"));
    for name in [&first, &second, &third] {
        bench.push(1, name, &[1; 100]).expect("a segment");
    }
    let at = |name: &str| key(&format!("mainstay/log/000000010000000A/{name}@0000000001"));
    for name in [&first, &third] {
        let mut stored = bench.storage.read(&at(name)).expect("read");
        let last = stored.len() - 1;
        stored[last] ^= 1;
        bench.storage.put(&at(name), &stored).expect("damage");
    }
    let one = bench.log.with_cluster(ONE, wrote);
    assert_eq!(one.fetch(&first).expect_err("damaged").class(), Class::Corrupt);
    assert_eq!(one.list().expect("listed").len(), 3);
    assert_eq!(one.list_near(&second).expect("near").len(), 3);
    assert_eq!(one.fetch(&second).expect("asked"), Some(vec![1; 100]));
    one.push(Generation(1), "000000010000000A00000013", &[1; 100]).expect("the next");
    assert!(bench.log.with_cluster(OTHER, wrote).list().expect("listed").is_empty());
    // If none tells, it is nobody's.
    let mut stored = bench.storage.read(&at(&second)).expect("read");
    stored[20] ^= 1;
    bench.storage.put(&at(&second), &stored).expect("damage");
    assert!(bench.log.wrote(wrote).expect("asked").is_empty());
}

/// A standby asks for the next segment every few seconds, and mostly it is not there yet.
#[test]
fn what_is_not_there_yet_costs_a_look_at_each_place() {
    let bench = Bench::new();
    let storage = Arc::new(Recording::new(bench.storage.clone()));
    let log = LogStore::on(storage.clone(), Arc::new(Glass)).with_cluster(ONE, wrote);
    log.push(Generation(1), SEGMENT, &[1; 100]).expect("pushed");
    storage.take();
    assert_eq!(log.fetch("000000010000000A00000100").expect("asked"), None);
    let calls = storage.take();
    assert!(calls.len() == 2 && calls.iter().all(|call| call.verb == Verb::List), "{calls:?}");
}
