//! A shipper, a vault that fails where it is told to, and logs that are made for the purpose.

use super::*;
use crate::rig::Rig;
use engines::postgres::made::{CLUSTER, MadeLog, live};
use std::fs;
use storage::ErrorKind;
use storage::doubles::{Fault, How, Verb};

/// Where a log has its second segment.
fn second(size: u64) -> (Segments, Lsn) {
    let segments = Segments::of(size).expect("a size");
    (segments, segments.start(1))
}

/// The server has written this, from the segment on that begins here.
fn written(rig: &Rig, segments: Segments, from: Lsn, log: &MadeLog) {
    let dir = rig.dir.path().join("data/pg_wal");
    fs::create_dir_all(&dir).expect("pg_wal");
    let size = usize::try_from(segments.size()).expect("small");
    for (number, bytes) in (segments.number(from)..).zip(log.bytes.chunks(size)) {
        let mut bytes = bytes.to_vec();
        bytes.resize(size, 0);
        fs::write(dir.join(segments.name(1, number)), bytes).expect("write");
    }
}

fn goal(rig: &Rig, segments: Segments, from: Lsn, flushed: Lsn) -> Goal {
    let live = live(&rig.dir.path().join("data"));
    Goal {
        run: 1,
        live,
        cluster: CLUSTER,
        timeline: 1,
        segments,
        from,
        flushed,
        asked: Instant::now(),
    }
}

fn ship(shipper: &mut Shipper<'_>, goal: &Goal) -> Result<Went, Error> {
    assert!(shipper.is_due(Some(goal), Instant::now(), Duration::ZERO));
    shipper.ship(Some(goal))
}

/// The second part that is put from now on is not stored.
fn second_part_fails(rig: &Rig) {
    let fails = Fault::next(Verb::PutIfAbsent, How::Before(ErrorKind::Unavailable));
    rig.vault.plan(Fault { skip: 1, ..fails.on("shop/mainstay/log-parts/") });
}

fn begun(rig: &Rig, segments: Segments, number: u64) -> Vec<u8> {
    let log = log_of(&rig.site, Some(CLUSTER)).expect("a log");
    log.beginning(&segments.name(1, number)).expect("asked").expect("parts").bytes
}

/// What is new is stored in several parts, and the vault fails between two of them: the first ends in
/// the midst of a record. Whoever goes on, the same process or another, finds where records begin.
#[test]
fn a_part_that_ends_within_a_record_stops_nothing() {
    let (segments, start) = second(64 << 20);
    let mut log = MadeLog::at(start, segments.size());
    while log.bytes.len() < 20 << 20 {
        log.add(&[3; 100_000]);
    }
    for by_another in [false, true] {
        let rig = Rig::new();
        written(&rig, segments, start, &log);
        let goal = goal(&rig, segments, start, log.end());
        let mut shipper = Shipper::new(&rig.site).expect("open");
        second_part_fails(&rig);
        ship(&mut shipper, &goal).expect_err("the second part");
        assert_eq!(begun(&rig, segments, 1).len(), 16 << 20);
        if by_another {
            shipper = Shipper::new(&rig.site).expect("open");
        }
        assert!(ship(&mut shipper, &goal).expect("shipped").covered);
        assert_eq!(shipper.shipped().expect("shipped").end, log.end(), "{by_another}");
        assert!(begun(&rig, segments, 1) == log.bytes, "{by_another}");
    }
}

/// The same where the record began in the segment before.
#[test]
fn so_does_one_within_a_record_of_the_segment_before() {
    let (segments, start) = second(32 << 20);
    let mut log = MadeLog::at(start, segments.size());
    log.add(b"short");
    log.add(&vec![5; 50 << 20]);
    let after = log.end();
    log.add(b"what follows");
    let next = segments.start(2);
    for (by_another, flushed) in [(false, after), (true, after), (true, log.end())] {
        let rig = Rig::new();
        written(&rig, segments, start, &log);
        let from_before = goal(&rig, segments, start, flushed);
        let mut shipper = Shipper::new(&rig.site).expect("open");
        ship(&mut shipper, &from_before).expect("the whole one");
        second_part_fails(&rig);
        let failed = std::iter::repeat_with(|| shipper.ship(Some(&from_before))).take(3);
        assert!(failed.take_while(Result::is_ok).count() < 3, "the second part was stored");
        assert_eq!(begun(&rig, segments, 2).len(), 16 << 20);
        let mut from = from_before;
        if by_another {
            shipper = Shipper::new(&rig.site).expect("open");
            from = goal(&rig, segments, next, flushed);
            assert!(shipper.is_due(Some(&from), Instant::now(), Duration::ZERO));
        }
        assert!(shipper.ship(Some(&from)).expect("shipped").covered);
        assert_eq!(shipper.shipped().expect("shipped").end, flushed, "{by_another}");
        let length = usize::try_from(flushed.0 - next.0).expect("small");
        assert!(begun(&rig, segments, 2) == log.bytes[32 << 20..][..length]);
    }
}

/// A server whose files went back to an earlier time, within a segment that the vault has as a whole.
#[test]
fn other_bytes_of_a_segment_that_the_vault_has_are_refused() {
    let (segments, start) = second(1 << 20);
    let made = |fill: u8| {
        let mut log = MadeLog::at(start, segments.size());
        for n in 0..200 {
            log.add(&[if n < 10 { 0 } else { fill }; 10_000]);
        }
        log
    };
    let rig = Rig::new();
    let (first, again) = (made(1), made(2));
    let name = segments.name(1, 1);
    let log = log_of(&rig.site, Some(CLUSTER)).expect("a log");
    log.push(Generation::FIRST, &name, &first.bytes[..1 << 20]).expect("push");
    written(&rig, segments, start, &again);
    // What both have is the same; nothing is stored beside the whole one.
    let both = Lsn(first.records[9].1.next_multiple_of(8));
    let mut shipper = Shipper::new(&rig.site).expect("open");
    let went = ship(&mut shipper, &goal(&rig, segments, start, both)).expect("nothing is wrong");
    assert!(went.behind && !went.covered);
    assert_eq!(shipper.shipped(), None);
    assert_eq!(log.parts(&name).expect("listed"), []);
    let other = Lsn(again.records[20].1.next_multiple_of(8));
    let error = shipper.ship(Some(&goal(&rig, segments, start, other))).expect_err("other bytes");
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert!(error.to_string().contains("another server has pushed"), "{error}");
}
