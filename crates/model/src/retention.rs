//! Which points are kept. A pure function of the policy, the points and the vault's clock.
//!
//! Which of two points is the newer one is decided by the order in which they were committed, which no
//! clock can change. Hours and days, and how old a point is, go by the time at which it was *received*:
//! the source's own time stamps are shown to people. A host whose clock is wrong, or that lies, must not
//! be able to push good points out of the history.
//!
//! An incomplete point never takes the place of a whole one: it fills no hour and no day. It stays
//! while nothing whole is newer, and then goes by `within` and pins alone.

use crate::config::Keep;
use crate::duration::{self, DurationError};
use crate::state::transitions::{NEWEST, PINNED};
use crate::{RecoveryPoint, ServiceState, SnapshotId};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// A checked policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    last: u32,
    /// In the order of [`Period`].
    periods: [u32; 5],
    within: Option<Duration>,
}

/// Why a point is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is the newest whole point: the floor under every policy.
    Newest,
    /// It is the newest whole point that no drill found wanting, and newer ones are.
    NotUnsound,
    /// It is the newest point that was proven restorable.
    Proven,
    /// Someone pinned it.
    Pinned,
    /// Someone needs it; who, as a sentence.
    Needed(String),
    /// There is no policy: everything is kept.
    NoPolicy,
    /// It is incomplete, but nothing whole is newer.
    NewerThanWhole,
    /// It is the so manieth of the last.
    Last(u32),
    /// It is the newest of the so manieth hour, day… that has one.
    Period(Period, u32),
    /// It is younger than `within`.
    Within,
}

/// A stretch of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// An ISO week, from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

const PERIODS: [Period; 5] = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

/// One point that is kept, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The point.
    pub snapshot: SnapshotId,
    /// All reasons; never empty.
    pub reasons: Vec<Reason>,
}

/// What becomes of each point; both lists are ordered from the oldest to the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// These stay.
    pub keep: Vec<Kept>,
    /// These go.
    pub remove: Vec<SnapshotId>,
}

impl Policy {
    /// Checks a policy as it is configured.
    pub fn new(keep: &Keep) -> Result<Policy, DurationError> {
        Ok(Policy {
            last: keep.last,
            periods: [keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly],
            within: keep.within.as_deref().map(duration::parse).transpose()?,
        })
    }

    /// Nothing would be kept by it. It is taken for no policy, not for the wish to lose everything.
    fn is_empty(&self) -> bool {
        self.last == 0 && self.periods == [0; 5] && self.within.is_none()
    }
}

/// What a standby holds is kept for it so long after it was received, if nobody says otherwise. One
/// that lags further is refreshed in full.
pub const HELD_FOR: Duration = Duration::from_secs(30 * 86_400);

/// The points of a service that somebody needs, with a sentence who. What a standby holds is needed
/// for as long as `held_for` after it was received.
pub fn needed(
    state: &ServiceState,
    held_for: Duration,
    now: Timestamp,
) -> BTreeMap<SnapshotId, String> {
    let mut needed = BTreeMap::new();
    for point in &state.points {
        let id = point.snapshot;
        let young = duration::age(point.received, now).is_none_or(|age| age <= held_for);
        let why = if young { state.needed(id) } else { state.must_stay(id) };
        if let Some(why) = why {
            needed.insert(id, why);
        }
    }
    needed
}

/// Of points in the order of their commits: the newest whole one that the last drill of it proved
/// restorable.
pub fn newest_proven(points: &[RecoveryPoint]) -> Option<&RecoveryPoint> {
    points.iter().rfind(|point| !point.incomplete && point.is_proven())
}

/// Decides on points in the order of their commits. `needed` names points that somebody needs, with a
/// sentence who; `zone` is where days begin; `now` is the clock of whoever asks.
pub fn plan(
    points: &[RecoveryPoint],
    policy: Option<&Policy>,
    needed: &BTreeMap<SnapshotId, String>,
    zone: &TimeZone,
    now: Timestamp,
) -> Plan {
    let policy = policy.filter(|policy| !policy.is_empty());
    // Newest first. A point that is listed twice counts once, or it would fill two places.
    let mut seen = BTreeSet::new();
    let mut points: Vec<&RecoveryPoint> =
        points.iter().filter(|point| seen.insert(point.snapshot)).collect();
    points.reverse();

    let mut reasons: BTreeMap<SnapshotId, Vec<Reason>> = BTreeMap::new();
    let mut give = |point: &RecoveryPoint, reason: Reason| {
        reasons.entry(point.snapshot).or_default().push(reason);
    };

    let whole: Vec<&RecoveryPoint> =
        points.iter().copied().filter(|point| !point.incomplete).collect();
    if let Some(newest) = whole.first() {
        give(newest, Reason::Newest);
    }
    // One that cannot be restored is no floor to stand on.
    let sound = whole.iter().find(|point| !point.is_unsound());
    if let Some(sound) = sound.filter(|sound| whole.first().is_some_and(|first| first != *sound)) {
        give(sound, Reason::NotUnsound);
    }
    if let Some(proven) = whole.iter().find(|point| point.is_proven()) {
        give(proven, Reason::Proven);
    }
    for point in points.iter().take_while(|point| point.incomplete) {
        give(point, Reason::NewerThanWhole);
    }
    for point in &points {
        if point.pinned {
            give(point, Reason::Pinned);
        }
        let is_newest = whole.first().is_some_and(|newest| newest == point);
        let is_told =
            |who: &&String| (point.pinned && *who == PINNED) || (is_newest && *who == NEWEST);
        if let Some(who) = needed.get(&point.snapshot).filter(|who| !is_told(who)) {
            give(point, Reason::Needed(who.clone()));
        }
    }
    match policy {
        None => points.iter().for_each(|point| give(point, Reason::NoPolicy)),
        Some(policy) => {
            for (place, point) in (1..=policy.last).zip(&whole) {
                give(point, Reason::Last(place));
            }
            for (period, count) in PERIODS.into_iter().zip(policy.periods) {
                for (place, point) in (1..=count).zip(newest_of_each(period, &whole, zone)) {
                    give(point, Reason::Period(period, place));
                }
            }
            if let Some(within) = policy.within {
                for point in younger(&points, within, now) {
                    give(point, Reason::Within);
                }
            }
        }
    }

    let mut plan = Plan::default();
    for point in points.iter().rev() {
        match reasons.remove(&point.snapshot) {
            Some(reasons) => plan.keep.push(Kept { snapshot: point.snapshot, reasons }),
            None => plan.remove.push(point.snapshot),
        }
    }
    plan
}

/// The points that are younger than that, and those that a wrong clock makes older than one that was
/// there before them. One from the future is young until one is old that came after it.
fn younger<'p>(
    newest_first: &[&'p RecoveryPoint],
    within: Duration,
    now: Timestamp,
) -> Vec<&'p RecoveryPoint> {
    let age = |point: &RecoveryPoint| duration::age(point.received, now);
    let is_young = |point: &&RecoveryPoint| age(point).is_some_and(|age| age <= within);
    let is_old = |point: &&RecoveryPoint| age(point).is_some_and(|age| age > within);
    let oldest_young = newest_first.iter().rposition(is_young);
    let newest_old = newest_first.iter().position(is_old);
    let kept = newest_first.iter().enumerate().filter(|(place, point)| {
        let after_a_young_one = oldest_young.is_some_and(|young| *place <= young);
        let before_all_old_ones = newest_old.is_none_or(|old| *place < old);
        after_a_young_one || (age(point).is_none() && before_all_old_ones)
    });
    kept.map(|(_, point)| *point).collect()
}

/// The newest point of each period that has one, newest first.
fn newest_of_each<'p>(
    period: Period,
    newest_first: &[&'p RecoveryPoint],
    zone: &TimeZone,
) -> Vec<&'p RecoveryPoint> {
    // By what was seen, not by the neighbour: some zones turn their clock back over midnight.
    let mut seen = BTreeSet::new();
    let bucket = |point: &RecoveryPoint| period.bucket(&point.received.to_zoned(zone.clone()));
    newest_first.iter().copied().filter(|point| seen.insert(bucket(point))).collect()
}

impl Period {
    /// A number that all times of one period share.
    fn bucket(self, time: &Zoned) -> i64 {
        let month = i64::from(time.year()) * 100 + i64::from(time.month());
        match self {
            // By real time, so that an hour that comes twice in autumn is two hours. Where the
            // offset is not whole hours, hours begin as the clocks there show them.
            Period::Hour => {
                let odd = i64::from(time.offset().seconds()).rem_euclid(3600);
                (time.timestamp().as_second() + odd).div_euclid(3600)
            }
            Period::Day => month * 100 + i64::from(time.day()),
            Period::Week => {
                let week = time.date().iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Period::Month => month,
            Period::Year => i64::from(time.year()),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
            Period::Year => "year",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Newest => f.write_str("newest whole point"),
            Reason::NotUnsound => f.write_str("newer ones failed their drill"),
            Reason::Proven => f.write_str("last proven restorable"),
            Reason::Pinned => f.write_str("pinned"),
            Reason::Needed(who) => f.write_str(who),
            Reason::NoPolicy => f.write_str("no policy"),
            Reason::NewerThanWhole => f.write_str("nothing whole is newer"),
            Reason::Last(place) => write!(f, "last {place}"),
            Reason::Period(period, place) => write!(f, "{period} {place}"),
            Reason::Within => f.write_str("within"),
        }
    }
}
