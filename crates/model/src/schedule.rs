//! When an operation is due: cron syntax, a time zone, and a jitter that stays the same for a host.
//!
//! A *slot* is a time that the cron text names; it is *due* a little later, by the jitter, so that a
//! hundred hosts with `0 * * * *` do not all come to one vault on the hour.
//!
//! Clocks that change by daylight saving follow the rules of Vixie cron: a fixed time (`30 2 * * *`)
//! that is skipped runs right after the gap, and one that comes twice runs once; schedules by
//! interval (`*/10 * * * *`) follow real time.

use crate::{MemberName, ServiceName, duration};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::time::Duration;

/// The jitter is at most this, and at most a tenth of the time between two slots.
const LARGEST_JITTER: Duration = Duration::from_secs(300);

/// What lies further in the future than this was recorded by a clock that was wrong.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Whether a time lies further in the future than clocks differ: one of the two clocks was wrong, and
/// how long ago it was nobody can tell.
pub fn is_ahead(then: Timestamp, now: Timestamp) -> bool {
    then.duration_since(now) > duration::signed(CLOCK_TOLERANCE)
}

/// The text is not a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not cron syntax.
    #[error(
        "{text:?} is not cron syntax: {why} (minute, hour, day of month, month, day of week; or @hourly, @daily, @weekly)"
    )]
    Syntax {
        /// As it was written.
        text: String,
        /// What the parser says.
        why: String,
    },
    /// Cron syntax, but no such day exists.
    #[error("{0:?} never comes: no such day exists")]
    Never(String),
}

/// A schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    /// Where in the jitter this host and service are, of 2^32.
    lot: u32,
}

/// What a schedule says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whether to run now.
    pub now: bool,
    /// When to ask again if not now, or after this run.
    pub next: Option<Timestamp>,
}

impl Schedule {
    /// Five fields of cron syntax, in this time zone, without jitter.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Schedule, ScheduleError> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed);
        let cron = parser.build().parse(text).map_err(|e| ScheduleError::Syntax {
            text: text.to_owned(),
            why: e.to_string().trim_end_matches('.').to_owned(),
        })?;
        let schedule = Schedule { cron, zone, lot: 0 };
        match schedule.slot_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(text.to_owned())),
        }
    }

    /// With the jitter of this host and service.
    pub fn spread(self, member: &MemberName, service: &ServiceName) -> Schedule {
        let lot = lot(&format!("{member}/{service}"));
        Schedule { lot, ..self }
    }

    /// The first due time after this one; none if there is none for centuries.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        // The slot of a due time after `after` may lie before it, by as much as the jitter.
        let mut from = after.checked_sub(duration::signed(LARGEST_JITTER)).ok()?;
        loop {
            let slot = self.slot_after(from)?;
            let due = self.due_of(slot)?;
            if due > after {
                return Some(due);
            }
            from = slot;
        }
    }

    /// The last due time that is not after this one; none if there was none for centuries.
    pub fn previous(&self, until: Timestamp) -> Option<Timestamp> {
        let mut slot = self.slot_not_after(until)?;
        loop {
            let due = self.due_of(slot)?;
            if due <= until {
                return Some(due);
            }
            slot =
                self.slot_not_after(slot.checked_sub(jiff::SignedDuration::from_secs(1)).ok()?)?;
        }
    }

    /// Whether to run now, given when the last run began. Runs that were missed, however many, are
    /// caught up by one. What never ran is due at once.
    pub fn due(&self, last: Option<Timestamp>, now: Timestamp) -> Due {
        let next = self.next(now);
        let Some(last) = last else { return Due { now: true, next } };
        // A run "in the future" would silence the schedule until then.
        if is_ahead(last, now) {
            return Due { now: true, next };
        }
        let missed = self.previous(now).is_some_and(|due| due > last);
        Due { now: missed, next }
    }

    fn due_of(&self, slot: Timestamp) -> Option<Timestamp> {
        let until_next = duration::age(slot, self.slot_after(slot)?)?;
        let most = LARGEST_JITTER.min(until_next / 10);
        let millis = (u64::try_from(most.as_millis()).ok()? * u64::from(self.lot)) >> 32;
        slot.checked_add(duration::signed(Duration::from_millis(millis))).ok()
    }

    fn slot_after(&self, time: Timestamp) -> Option<Timestamp> {
        let zoned = time.to_zoned(self.zone.clone());
        self.slot(self.cron.find_next_occurrence(&zoned, false))
    }

    fn slot_not_after(&self, time: Timestamp) -> Option<Timestamp> {
        let zoned = time.to_zoned(self.zone.clone());
        self.slot(self.cron.find_previous_occurrence(&zoned, true))
    }

    fn slot(&self, found: Result<Zoned, CronError>) -> Option<Timestamp> {
        found.ok().map(|zoned| zoned.timestamp())
    }
}

/// A number that is the same on every run, machine and version: FNV-1a, mixed once more because
/// its high bits hardly feel the last letters.
fn lot(text: &str) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((hash ^ (hash >> 31)) >> 32).unwrap_or(0)
}
