//! Logs that are made for the purpose, whole, cut anywhere, and damaged anywhere.

use super::made::{MadeLog, PAGE};
use super::*;

const SEGMENT: u64 = 1 << 20;
/// The second segment of a log.
const START: u64 = SEGMENT;

/// Records with so many bytes of content, one after the other.
fn log_of(lengths: impl IntoIterator<Item = usize>) -> MadeLog {
    let mut log = MadeLog::at(Lsn(START), SEGMENT);
    for length in lengths {
        let body: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).expect("small")).collect();
        log.add(&body);
    }
    log
}

/// How far whole records are there, and where they reach.
fn read(bytes: &[u8]) -> (u64, u64) {
    let Some(mut records) = Records::new(bytes, Lsn(START)) else { return (START, START) };
    records.by_ref().for_each(drop);
    (records.end().0, records.reach().0)
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

fn some_log() -> MadeLog {
    let mut dice = Dice(7);
    // Short ones, one that goes over many pages, and those that fill a page to its end.
    let mut lengths: Vec<usize> = (0..60).map(|_| dice.below(300)).collect();
    lengths.extend([20_000, 5, 0, 8192 - 24 - 24, 8, 9000, 16]);
    log_of(lengths)
}

#[test]
fn any_bytes_are_read_without_harm() {
    let mut bytes = vec![0xd1; 64 << 10];
    assert!(Records::new(&bytes, Lsn(0)).is_none());
    bytes[32..36].copy_from_slice(&(1u32 << 20).to_le_bytes());
    bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[8..16].fill(0);
    let mut records = Records::new(&bytes, Lsn(0)).expect("a segment");
    assert_eq!(records.next(), None);
    assert_eq!(Records::new(&bytes, Lsn(8)).map(|r| r.end()), None);
    assert!(Records::new(&bytes[..39], Lsn(0)).is_none());
    let cut = Cut::of(&bytes).expect("a segment");
    let mut far = Records::within(&bytes, Lsn(0), cut, Lsn(u64::MAX - 7));
    assert_eq!(far.next(), None);
    far.reach();
}

#[test]
fn a_log_that_is_cut_anywhere_reaches_to_its_end() {
    let log = some_log();
    for length in (40..log.bytes.len()).step_by(37).chain([log.bytes.len()]) {
        let (end, reach) = read(&log.bytes[..length]);
        let limit = START + length as u64;
        let last = log.records.iter().map(|(_, end)| *end).filter(|end| *end <= limit).max();
        assert_eq!(end, last.map_or(START, |end| end.next_multiple_of(8)), "{length}");
        assert!(reach >= end, "{length}: {reach} {end}");
        // But for the few bytes that do not even say how long the next record is.
        assert!(reach.max(end) + 64 > limit, "{length}: {reach}, not {limit}");
        let begun = log.records.iter().any(|(begin, end)| begin + 4 <= limit && limit < *end);
        assert!(!begun || reach == limit, "{length}: {reach}, not {limit}");
    }
}

#[test]
fn a_length_that_is_damaged_reaches_no_further_than_what_is_there_confirms() {
    let log = some_log();
    let limit = START + log.bytes.len() as u64;
    for (begin, _) in &log.records {
        for length in
            [0, 23, 24, 25, 5000, 20_000, 1 << 20, 1 << 29, LONGEST, LONGEST + 1, usize::MAX]
        {
            let mut bytes = log.bytes.clone();
            let at = usize::try_from(begin - START).expect("small");
            let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
            if bytes[at..at + 4] == length {
                continue;
            }
            bytes[at..at + 4].copy_from_slice(&length);
            let (end, reach) = read(&bytes);
            assert!(end <= begin.next_multiple_of(8), "{begin}: {end}");
            // Nothing tells it apart from a long record before a page says that it does not go on.
            let next_page = (begin + 1).next_multiple_of(PAGE);
            let most = if next_page + 24 <= limit { begin + 64 } else { limit };
            assert!(reach <= most, "{begin}, {length:?}: {reach}, at most {most}");
        }
    }
}

#[test]
fn bytes_that_are_damaged_anywhere_are_read_without_harm() {
    let log = some_log();
    let mut dice = Dice(11);
    for _ in 0..1000 {
        let length = 40 + dice.below(log.bytes.len() - 40);
        let mut bytes = log.bytes[..length].to_vec();
        for _ in 0..=dice.below(4) {
            let at = dice.below(length);
            bytes[at] = u8::try_from(dice.below(256)).expect("a byte");
        }
        let (end, reach) = read(&bytes);
        let limit = START + length as u64;
        assert!(end <= reach.max(START) && reach <= limit.next_multiple_of(8), "{end} {reach}");
        // As whoever reads on from somewhere does, and whoever has the beginning of a record.
        let cut = Cut { segment: SEGMENT, page: PAGE };
        let at = Lsn(START + dice.below(length) as u64);
        let mut records = Records::within(&bytes, Lsn(START), cut, at);
        records.by_ref().for_each(drop);
        assert!(records.reach() >= at && records.reach().0 <= limit.next_multiple_of(8).max(at.0));
        records.begun();
        let begun = &bytes[..dice.below(length.min(100))];
        assert!(Records::reach_of(&bytes, Lsn(START), cut, begun).0 <= limit);
        let _ = Records::after(&bytes, Lsn(START), begun);
    }
}

#[test]
fn a_record_that_goes_on_from_another_segment_is_believed_only_if_its_pages_are() {
    let cut = Cut { segment: SEGMENT, page: PAGE };
    // One that began 100 bytes before the segment.
    let mut begun = (30_000_u32).to_le_bytes().to_vec();
    begun.resize(100, 1);
    let mut log = MadeLog::at(Lsn(START), SEGMENT);
    let mut rest = 29_900;
    while rest > 0 {
        log.page(rest);
        let step = rest.min(usize::try_from(PAGE - log.end().0 % PAGE).expect("small"));
        log.bytes.resize(log.bytes.len() + step, 2);
        rest -= step;
    }
    for length in (40..log.bytes.len()).step_by(13) {
        let bytes = &log.bytes[..length];
        let reach = |begun: &[u8]| Records::reach_of(bytes, Lsn(START), cut, begun).0 - START;
        assert_eq!(reach(&begun), length as u64);
        for other in [99_u32, 100, 29_999, 30_001, 1 << 29, u32::MAX] {
            let other = [&other.to_le_bytes(), &begun[4..]].concat();
            assert_eq!(reach(&other), 0);
        }
    }
    // Whole, and not sound.
    assert_eq!(Records::reach_of(&log.bytes, Lsn(START), cut, &begun).0, START);
}
