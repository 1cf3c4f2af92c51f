//! When something is due.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use mainstay_model::schedule::{Due, Schedule, ScheduleError};
use mainstay_model::{MemberName, ServiceName};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn schedule(text: &str, zone_name: &str) -> Schedule {
    Schedule::parse(text, zone(zone_name)).unwrap()
}

fn spread(schedule: Schedule, host: &str) -> Schedule {
    schedule.spread(&MemberName::new(host).unwrap(), &ServiceName::new("shop").unwrap())
}

/// All due times from `from` (exclusive) to `to` (inclusive).
fn all(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
    let mut times = Vec::new();
    let mut time = at(from);
    while let Some(next) = schedule.next(time).filter(|next| *next <= at(to)) {
        times.push(next.to_string());
        time = next;
    }
    times
}

#[test]
fn the_next_and_the_previous_time() {
    let hourly = schedule("0 * * * *", "UTC");
    let now = at("2026-11-21T10:17:30.5Z");
    assert_eq!(hourly.next(now), Some(at("2026-11-21T11:00:00Z")));
    assert_eq!(hourly.previous(now), Some(at("2026-11-21T10:00:00Z")));
    let exact = at("2026-11-21T10:00:00Z");
    assert_eq!(hourly.next(exact), Some(at("2026-11-21T11:00:00Z")));
    assert_eq!(hourly.previous(exact), Some(exact));
    let just_after = at("2026-11-21T10:00:00.000000001Z");
    assert_eq!(hourly.previous(just_after), Some(exact));
    let weekly = schedule("30 4 * * MON", "Europe/Berlin");
    assert_eq!(weekly.next(now), Some(at("2026-11-23T03:30:00Z")));
    let leap = schedule("0 0 29 2 *", "UTC");
    assert_eq!(leap.next(now), Some(at("2028-02-29T00:00:00Z")));
    assert_eq!(leap.previous(now), Some(at("2024-02-29T00:00:00Z")));
}

#[test]
fn a_time_that_is_skipped_in_spring_runs_right_after_the_gap() {
    // Berlin, 2027-03-28: 02:00 becomes 03:00 (01:00 UTC).
    let nightly = schedule("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        all(&nightly, "2027-03-26T12:00:00Z", "2027-03-29T12:00:00Z"),
        ["2027-03-27T01:30:00Z", "2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]
    );
    assert_eq!(nightly.previous(at("2027-03-28T12:00:00Z")), Some(at("2027-03-28T01:00:00Z")));
    let quarters = schedule("*/30 * * * *", "Europe/Berlin");
    assert_eq!(
        all(&quarters, "2027-03-28T00:00:00Z", "2027-03-28T02:00:00Z"),
        [
            "2027-03-28T00:30:00Z",
            "2027-03-28T01:00:00Z",
            "2027-03-28T01:30:00Z",
            "2027-03-28T02:00:00Z"
        ]
    );
}

#[test]
fn a_time_that_comes_twice_in_autumn_runs_once_and_an_interval_goes_on() {
    // Berlin, 2026-10-25: 03:00 becomes 02:00 (01:00 UTC).
    let nightly = schedule("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        all(&nightly, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    // In the second 02:45, the run of the first 02:30 is the last one.
    assert_eq!(nightly.previous(at("2026-10-25T01:45:00Z")), Some(at("2026-10-25T00:30:00Z")));
    let done = nightly.due(Some(at("2026-10-25T00:30:05Z")), at("2026-10-25T01:30:30Z"));
    assert!(!done.now);
    let hourly = schedule("0 * * * *", "Europe/Berlin");
    assert_eq!(all(&hourly, "2026-10-24T23:30:00Z", "2026-10-25T03:00:00Z").len(), 4);
}

#[test]
fn missed_runs_are_caught_up_once() {
    let hourly = schedule("0 * * * *", "UTC");
    let now = at("2026-11-21T10:17:00Z");
    let due = |last: &str| hourly.due(Some(at(last)), now);
    let next = Some(at("2026-11-21T11:00:00Z"));
    // A week of missed runs, and after the one that catches up, none.
    assert_eq!(due("2026-11-14T10:00:01Z"), Due { now: true, next });
    assert_eq!(due("2026-11-21T10:17:00Z"), Due { now: false, next });
    assert_eq!(due("2026-11-21T10:00:00Z"), Due { now: false, next });
    assert_eq!(due("2026-11-21T09:59:59Z"), Due { now: true, next });
    assert_eq!(hourly.due(None, now), Due { now: true, next });
}

#[test]
fn a_last_run_in_the_future_does_not_silence_the_schedule() {
    let daily = schedule("0 3 * * *", "UTC");
    let now = at("2026-11-21T10:00:00Z");
    assert!(daily.due(Some(at("2031-01-01T00:00:00Z")), now).now);
    assert!(!daily.due(Some(at("2026-11-21T10:00:30Z")), now).now, "clocks are never exact");
}

#[test]
fn the_jitter_is_small_stays_the_same_and_differs_between_hosts() {
    let hourly = schedule("0 * * * *", "UTC");
    let slot = at("2026-11-21T11:00:00Z");
    let mut delays = BTreeSet::new();
    for host in 0..200 {
        let own = spread(hourly.clone(), &format!("host{host}"));
        let next = own.next(at("2026-11-21T10:30:00Z")).unwrap();
        let delay = next.duration_since(slot);
        assert!(delay >= SignedDuration::ZERO && delay < SignedDuration::from_mins(5), "{delay}");
        let later = own.next(at("2027-02-03T04:30:00Z")).unwrap();
        assert_eq!(later.duration_since(at("2027-02-03T05:00:00Z")), delay);
        delays.insert(delay.as_secs() / 30);
    }
    assert_eq!(delays.len(), 10, "200 hosts fill the five minutes");
    // Frozen: a new version must not move the backups of every host.
    let db1 = spread(hourly, "db1").next(slot).unwrap();
    assert_eq!(db1.to_string(), "2026-11-21T11:01:40.653Z");
    let every_minute = spread(schedule("* * * * *", "UTC"), "db1");
    let next = every_minute.next(slot).unwrap();
    assert!(next.duration_since(slot) < SignedDuration::from_secs(66), "at most a tenth");
}

#[test]
fn texts_that_are_no_schedule_are_told_why() {
    for bad in ["", "every hour", "* * * *", "* * * * * *", "61 * * * *", "0 25 * * *", "a b c d e"]
    {
        let e = Schedule::parse(bad, TimeZone::UTC).unwrap_err();
        assert!(matches!(e, ScheduleError::Syntax { .. }), "{bad}: {e}");
        assert!(e.to_string().contains("is not cron syntax: "), "{e}");
    }
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
        let e = Schedule::parse(never, TimeZone::UTC).unwrap_err();
        assert!(matches!(e, ScheduleError::Never(_)), "{never}: {e}");
    }
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/St_Johns",
];

fn crons() -> impl Strategy<Value = String> {
    let minute = prop_oneof![Just("0"), Just("30"), Just("*/7"), Just("5,35"), Just("*")];
    let hour = prop_oneof![Just("*"), Just("2"), Just("1-3"), Just("*/2"), Just("0"), Just("23")];
    let day = prop_oneof![Just("*"), Just("1"), Just("L"), Just("28-31"), Just("*/5")];
    let weekday = prop_oneof![Just("*"), Just("SUN"), Just("1-5")];
    (minute, hour, day, weekday).prop_map(|(m, h, d, w)| format!("{m} {h} {d} * {w}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Forwards and backwards agree, near changes of clocks too, with jitter and without.
    #[test]
    fn next_and_previous_enclose_every_moment(
        cron in crons(),
        zone_name in prop::sample::select(&ZONES[..]),
        // Three days around a change of clocks, or any time.
        base in prop::sample::select(&[
            "2026-10-24T00:00:00Z", "2027-03-27T00:00:00Z", "2026-10-31T00:00:00Z",
            "2027-03-13T00:00:00Z", "2026-04-04T00:00:00Z", "2026-07-01T00:00:00Z",
        ][..]),
        offset in 0..3 * 86_400_i64,
        jitter: bool,
    ) {
        let mut schedule = schedule(&cron, zone_name);
        if jitter {
            schedule = spread(schedule, "db1");
        }
        let now = at(base) + SignedDuration::from_secs(offset);
        let next = schedule.next(now).unwrap();
        let previous = schedule.previous(now).unwrap();
        prop_assert!(previous <= now && now < next, "{previous} {now} {next}");
        prop_assert_eq!(schedule.next(previous), Some(next), "nothing between them");
        let just_before = next - SignedDuration::from_nanos(1);
        prop_assert_eq!(schedule.previous(just_before), Some(previous));
        prop_assert_eq!(schedule.previous(next), Some(next));
        // Whatever ran last, one run catches up.
        let due = schedule.due(Some(previous - SignedDuration::from_secs(1)), now);
        prop_assert_eq!(due, Due { now: true, next: Some(next) });
        prop_assert_eq!(schedule.due(Some(now), now), Due { now: false, next: Some(next) });
        prop_assert!(!schedule.due(Some(previous), just_before).now);
    }
}
