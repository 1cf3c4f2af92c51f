//! What is kept, and why.

use crate::support::{at, id, member, number, point};
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use mainstay_model::config::Keep;
use mainstay_model::retention::{HELD_FOR, Plan, Policy, Reason, needed, plan};
use mainstay_model::state::Applied;
use mainstay_model::{Drill, RecoveryPoint, Role, ServiceName, ServiceState, SnapshotId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NOW: &str = "2026-11-21T12:30:00Z";

fn keep() -> Keep {
    Keep::default()
}

/// Points received so many hours ago, numbered by those hours, the newest last.
fn hours_ago(hours: impl IntoIterator<Item = u64>) -> Vec<RecoveryPoint> {
    let before = |h: u64| at(NOW) - SignedDuration::from_hours(i64::try_from(h).unwrap());
    let mut points: Vec<_> = hours.into_iter().map(|h| point(h, before(h))).collect();
    points.sort_by_key(|point| point.received);
    points
}

fn decide(points: &[RecoveryPoint], keep: &Keep) -> Plan {
    let policy = Policy::new(keep).unwrap();
    plan(points, Some(&policy), &BTreeMap::new(), &TimeZone::UTC, at(NOW))
}

/// The numbers that are kept, newest first.
fn kept(plan: &Plan) -> Vec<u64> {
    plan.keep.iter().rev().map(|kept| number(kept.snapshot)).collect()
}

fn why(plan: &Plan, number: u64) -> Vec<String> {
    let found = plan.keep.iter().find(|kept| kept.snapshot == id(number)).unwrap();
    found.reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn each_rule_by_itself() {
    // Every hour for thirty days.
    let points = hours_ago(0..720);
    let by = |keep: Keep| kept(&decide(&points, &keep));
    assert_eq!(by(Keep { last: 3, ..keep() }), [0, 1, 2]);
    assert_eq!(by(Keep { hourly: 3, ..keep() }), [0, 1, 2]);
    // The newest of today (12:30 ago 0), of yesterday (23:30), and so on.
    assert_eq!(by(Keep { daily: 3, ..keep() }), [0, 13, 37]);
    // Weeks begin on Monday: 2026-11-21 is a Saturday; the last point of the week before is
    // Sunday 23:30, 132 + 1 hours ago.
    assert_eq!(by(Keep { weekly: 2, ..keep() }), [0, 133]);
    assert_eq!(by(Keep { monthly: 5, ..keep() }), [0, 493]);
    assert_eq!(by(Keep { yearly: 9, ..keep() }), [0]);
    assert_eq!(by(Keep { within: Some("3h".to_owned()), ..keep() }), [0, 1, 2, 3]);
}

#[test]
fn only_days_that_have_a_point_count() {
    let plan = decide(&hours_ago([1, 50, 400, 401, 5000]), &Keep { daily: 4, ..keep() });
    assert_eq!(kept(&plan), [1, 50, 400, 5000]);
    assert_eq!(plan.remove, [id(401)]);
}

/// What a later drill found wanting is nothing to fall back on, whatever an earlier one proved.
#[test]
fn the_floor_is_a_point_whose_last_drill_did_not_fail() {
    let drill = |sound| Drill {
        at: at(NOW),
        member: member("b"),
        sound,
        recovery_millis: None,
        isolated: true,
    };
    // From the oldest on: proven, proven and then failed, never drilled, failed.
    let mut points = hours_ago([3, 2, 1, 0]);
    (points[0].drilled, points[0].drill) = (Some(at(NOW)), Some(drill(true)));
    (points[1].drilled, points[1].drill) = (Some(at(NOW)), Some(drill(false)));
    points[3].drill = Some(drill(false));
    let tight = decide(&points, &Keep { last: 1, ..keep() });
    assert_eq!(kept(&tight), [0, 1, 3]);
    assert_eq!(why(&tight, 0), ["newest whole point", "last 1"]);
    assert_eq!(why(&tight, 1), ["newer ones failed their drill"]);
    assert_eq!(why(&tight, 3), ["last proven restorable"]);
    // Drilled again, and sound: it takes its place.
    points[1].drill = Some(drill(true));
    points[3].drill = None;
    assert_eq!(kept(&decide(&points, &Keep { last: 1, ..keep() })), [0, 2]);
}

#[test]
fn the_reasons_are_told() {
    let mut points = hours_ago([800, 30, 1, 0]);
    points[0].pinned = true;
    points[1].drilled = Some(at(NOW));
    let policy = Policy::new(&Keep { last: 1, daily: 2, within: Some("2h".into()), ..keep() });
    let needed = BTreeMap::from([(id(1), "the standby b holds it".to_owned())]);
    let plan = plan(&points, Some(&policy.unwrap()), &needed, &TimeZone::UTC, at(NOW));
    assert_eq!(why(&plan, 0), ["newest whole point", "last 1", "day 1", "within"]);
    assert_eq!(why(&plan, 1), ["the standby b holds it", "within"]);
    assert_eq!(why(&plan, 30), ["last proven restorable", "day 2"]);
    assert_eq!(why(&plan, 800), ["pinned"]);
    assert_eq!(plan.remove, []);
}

#[test]
fn the_newest_whole_point_never_goes() {
    // The only whole point is ancient; everything since is incomplete.
    let mut points = hours_ago([90_000, 3, 2, 1]);
    points[1..].iter_mut().for_each(|point| point.incomplete = true);
    let plan = decide(&points, &Keep { last: 3, ..keep() });
    assert_eq!(kept(&plan), [1, 2, 3, 90_000]);
    assert_eq!(why(&plan, 90_000), ["newest whole point", "last 1"]);
    assert_eq!(why(&plan, 1), ["nothing whole is newer"]);
    let plan = decide(&points, &Keep { within: Some("1s".into()), ..keep() });
    assert_eq!(why(&plan, 90_000), ["newest whole point"]);
}

#[test]
fn incomplete_points_fill_no_place_and_go_when_something_whole_is_newer() {
    let mut points = hours_ago([4, 3, 2, 1]);
    points[2].incomplete = true;
    let plan = decide(&points, &Keep { last: 2, ..keep() });
    assert_eq!(kept(&plan), [1, 3]);
    assert_eq!(plan.remove, [id(4), id(2)]);
    let plan = decide(&points, &Keep { within: Some("2h".into()), ..keep() });
    assert_eq!(kept(&plan), [1, 2], "within holds for incomplete ones too");
}

#[test]
fn no_policy_and_an_empty_one_keep_everything() {
    let points = hours_ago(0..10);
    let none = plan(&points, None, &BTreeMap::new(), &TimeZone::UTC, at(NOW));
    assert_eq!((none.keep.len(), none.remove.len()), (10, 0));
    let empty = decide(&points, &keep());
    assert_eq!((empty.keep.len(), empty.remove.len()), (10, 0));
    assert_eq!(decide(&[], &Keep { last: 1, ..keep() }), Plan::default());
}

#[test]
fn the_time_stamps_of_the_source_decide_nothing() {
    let mut points = hours_ago([2, 1, 0]);
    // A producer that claims to come from the year 2000, or from the year 3000.
    points[2].source_time = at("2000-01-01T00:00:00Z");
    points[0].source_time = at("3000-01-01T00:00:00Z");
    assert_eq!(kept(&decide(&points, &Keep { last: 1, ..keep() })), [0]);
    assert_eq!(kept(&decide(&points, &Keep { within: Some("1h".into()), ..keep() })), [0, 1]);
}

/// The clock of a host was wrong for a while, and was set right: what came after that is newer, and what
/// came before that is older.
#[test]
fn a_clock_that_was_wrong_pushes_nothing_out() {
    let stamped = |times: &[&str]| -> Vec<RecoveryPoint> {
        (0..).zip(times).map(|(number, time)| point(number, at(time))).collect()
    };
    let (before, after) = ("2026-11-21T08:00:00Z", "2026-11-21T11:00:00Z");
    for wrong in ["2031-01-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
        let points = stamped(&[before, wrong, wrong, after]);
        let by = |keep: Keep| kept(&decide(&points, &keep));
        assert_eq!(by(Keep { last: 1, ..keep() }), [3], "{wrong}");
        assert_eq!(by(Keep { last: 3, ..keep() }), [3, 2, 1], "{wrong}");
        // All that came after a point that is young is young.
        assert_eq!(by(Keep { within: Some("5h".into()), ..keep() }), [3, 2, 1, 0], "{wrong}");
        // And what came before one that is old is old, whatever it claims.
        assert_eq!(by(Keep { within: Some("1h".into()), ..keep() }), [3], "{wrong}");
        let mut proven = points.clone();
        (proven[0].drilled, proven[1].drilled) = (Some(at(NOW)), Some(at(NOW)));
        assert_eq!(kept(&decide(&proven, &Keep { last: 1, ..keep() })), [3, 1], "{wrong}");
    }
}

#[test]
fn days_begin_where_the_zone_says() {
    let points: Vec<RecoveryPoint> = ["2026-11-20T22:30:00Z", "2026-11-20T23:30:00Z"]
        .iter()
        .zip(0..)
        .map(|(time, number)| point(number, at(time)))
        .collect();
    let policy = Policy::new(&Keep { daily: 9, ..keep() }).unwrap();
    let by = |zone: TimeZone| kept(&plan(&points, Some(&policy), &BTreeMap::new(), &zone, at(NOW)));
    assert_eq!(by(TimeZone::UTC), [1]);
    assert_eq!(by(TimeZone::get("Europe/Berlin").unwrap()), [1, 0]);
}

#[test]
fn an_hour_that_comes_twice_is_two_hours() {
    // Berlin, 2026-10-25: 02:30 comes at 00:30 and at 01:30 UTC.
    let times = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"];
    let points: Vec<RecoveryPoint> =
        times.iter().zip(0..).map(|(time, number)| point(number, at(time))).collect();
    let policy = Policy::new(&Keep { hourly: 9, ..keep() }).unwrap();
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let plan = plan(&points, Some(&policy), &BTreeMap::new(), &zone, at(NOW));
    assert_eq!(kept(&plan), [2, 1, 0]);
}

#[test]
fn what_a_standby_holds_is_kept_for_it_but_not_for_ever() {
    let mut state = ServiceState::new("repository".to_owned(), ServiceName::new("shop").unwrap());
    state.join(&member("a"), Role::Primary, at(NOW)).unwrap();
    for point in hours_ago([900, 600, 500, 1]) {
        state.commit(point).unwrap();
    }
    for (name, held) in [("b", 900), ("c", 600)] {
        state.join(&member(name), Role::Standby, at(NOW)).unwrap();
        let held = state.point(id(held)).unwrap();
        let (snapshot, source_time) = (held.snapshot, held.source_time);
        let applied = Applied { snapshot, source_time, position: None, at: at(NOW) };
        state.applied(&member(name), Some(applied)).unwrap();
    }
    let who = needed(&state, HELD_FOR, at(NOW));
    assert_eq!(
        who,
        BTreeMap::from([
            (id(600), "the standby c holds it".to_owned()),
            (id(1), "it is the newest whole point".to_owned()),
        ])
    );
    let policy = Policy::new(&Keep { last: 1, ..keep() }).unwrap();
    let plan = plan(&state.points, Some(&policy), &who, &TimeZone::UTC, at(NOW));
    assert_eq!(plan.remove, [id(900), id(500)]);
    state.forget(&plan.remove).unwrap();
}

fn any_points() -> impl Strategy<Value = Vec<RecoveryPoint>> {
    let one = (0..60_000_i64, 0..16_u8).prop_map(|(minutes, kind)| {
        // Some share a time; some lie in the future.
        let received = at(NOW) - SignedDuration::from_mins(minutes / 7 * 7 - 500);
        let mut point = point(0, received);
        point.incomplete = kind % 3 == 0;
        point.pinned = kind == 5 || kind == 6;
        point.drilled = (kind % 4 == 1).then(|| at(NOW));
        point
    });
    prop::collection::vec(one, 0..60).prop_map(|mut points| {
        for (number, point) in (0..).zip(&mut points) {
            point.snapshot = id(number);
        }
        points
    })
}

fn any_keep() -> impl Strategy<Value = Keep> {
    let within = prop_oneof![Just(None), Just(Some("1h")), Just(Some("9d")), Just(Some("1000y"))];
    (0..5_u32, 0..5_u32, 0..5_u32, 0..5_u32, 0..3_u32, 0..3_u32, within).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within)| Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within: within.map(str::to_owned),
        },
    )
}

fn ids(plan: &Plan) -> BTreeSet<SnapshotId> {
    plan.keep.iter().map(|kept| kept.snapshot).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_the_points_and_the_policy(points in any_points(), keep in any_keep(), zone_at in 0..3_usize) {
        let zone = TimeZone::get(["UTC", "Europe/Berlin", "Australia/Lord_Howe"][zone_at]).unwrap();
        let policy = Policy::new(&keep).unwrap();
        let none = BTreeMap::new();
        let now = at(NOW);
        let decided = plan(&points, Some(&policy), &none, &zone, now);
        let kept = ids(&decided);

        // Each point is decided on once, and every decision has a reason.
        let removed: BTreeSet<SnapshotId> = decided.remove.iter().copied().collect();
        prop_assert_eq!(kept.len() + removed.len(), points.len());
        prop_assert!(kept.is_disjoint(&removed));
        prop_assert!(decided.keep.iter().all(|kept| !kept.reasons.is_empty()));

        // The floor: the newest whole point, everything pinned, the newest proven one.
        let newest = |which: &dyn Fn(&RecoveryPoint) -> bool| {
            points.iter().rfind(|p| which(p)).map(|p| p.snapshot)
        };
        for floor in [newest(&|p| !p.incomplete), newest(&|p| !p.incomplete && p.drilled.is_some())] {
            prop_assert!(floor.is_none_or(|id| kept.contains(&id)));
        }
        prop_assert!(points.iter().filter(|p| p.pinned).all(|p| kept.contains(&p.snapshot)));

        // No more places are filled than the policy has, and never by incomplete points.
        let places = |which: &dyn Fn(&Reason) -> bool| {
            decided.keep.iter().filter(|kept| kept.reasons.iter().any(which)).count()
        };
        prop_assert!(places(&|r| matches!(r, Reason::Last(_))) <= keep.last as usize);
        let calendar = keep.hourly + keep.daily + keep.weekly + keep.monthly + keep.yearly;
        prop_assert!(places(&|r| matches!(r, Reason::Period(..))) <= calendar as usize);
        for one in &decided.keep {
            let incomplete = points.iter().any(|p| p.snapshot == one.snapshot && p.incomplete);
            let place = one.reasons.iter().any(|r| matches!(r, Reason::Last(_) | Reason::Period(..) | Reason::Newest | Reason::NotUnsound | Reason::Proven));
            prop_assert!(!(incomplete && place));
        }

        // To give one twice changes nothing.
        let mut twice = points.clone();
        twice.extend(points.first().cloned());
        prop_assert_eq!(&plan(&twice, Some(&policy), &none, &zone, now), &decided);

        // What was kept is kept again: a prune that runs twice removes nothing the second time.
        let rest: Vec<RecoveryPoint> = points.iter().filter(|p| kept.contains(&p.snapshot)).cloned().collect();
        prop_assert_eq!(plan(&rest, Some(&policy), &none, &zone, now).remove, []);

        // A more generous policy keeps no less.
        let more = Keep { last: keep.last + 1, daily: keep.daily + 2, ..keep.clone() };
        let generous = plan(&points, Some(&Policy::new(&more).unwrap()), &none, &zone, now);
        let empty = keep == Keep::default();
        prop_assert!(empty || kept.is_subset(&ids(&generous)));

        // Somebody's need adds that point and takes none away.
        if let Some(gone) = decided.remove.first() {
            let needed = BTreeMap::from([(*gone, "b holds it".to_owned())]);
            let with = ids(&plan(&points, Some(&policy), &needed, &zone, now));
            prop_assert!(with.contains(gone) && kept.is_subset(&with));
        }
    }

    /// A new point never makes another one go that is not older than one that stays for the same
    /// reason; in particular the newest so many stay the newest so many.
    #[test]
    fn the_last_are_the_last(points in any_points(), last in 1..5_u32) {
        let policy = Policy::new(&Keep { last, ..Keep::default() }).unwrap();
        let decided = plan(&points, Some(&policy), &BTreeMap::new(), &TimeZone::UTC, at(NOW));
        let whole = points.iter().rev().filter(|p| !p.incomplete);
        for point in whole.take(last as usize) {
            prop_assert!(ids(&decided).contains(&point.snapshot));
        }
    }
}
