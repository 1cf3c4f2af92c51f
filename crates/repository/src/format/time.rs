//! Times as Go writes them (`RFC3339Nano`): `2026-11-21T01:04:42.5+01:00`.
//!
//! Nanoseconds with trailing zeros cut off, a numeric offset or `Z`, years 0 to 9999, no name of a
//! zone. A time keeps the offset it was written with, since tree ids depend on it.

use super::FormatError;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use std::str::FromStr;

/// An instant, and the offset from UTC it is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970 in UTC, negative before.
    pub seconds: i64,
    /// Nanoseconds after these seconds, below 1,000,000,000.
    pub nanos: u32,
    /// Seconds that local time is ahead of UTC: whole minutes, within a day.
    pub offset_seconds: i32,
}

/// 0000-01-01T00:00:00.
const YEAR_0: i64 = -62_167_219_200;
/// 9999-12-31T23:59:59.
const YEAR_9999_END: i64 = 253_402_300_799;
const DAY: i64 = 86_400;

impl Time {
    /// An instant in UTC. Years outside 0 to 9999 are moved to the nearest end, since the format
    /// has no words for them.
    pub fn utc(seconds: i64, nanos: u32) -> Time {
        Time::local(seconds, nanos, 0)
    }

    /// An instant told with an offset; see [`Time::utc`].
    pub fn local(seconds: i64, nanos: u32, offset_seconds: i32) -> Time {
        // Offsets with seconds (local mean times of the past) have no words either.
        let offset = i64::from(offset_seconds / 60 * 60).clamp(-DAY + 60, DAY - 60);
        let clamped = seconds.clamp(YEAR_0 - offset, YEAR_9999_END - offset);
        Time {
            seconds: clamped,
            nanos: if clamped == seconds { nanos.min(999_999_999) } else { 0 },
            offset_seconds: i32::try_from(offset).unwrap_or(0),
        }
    }

    /// As a timestamp, whatever the offset.
    pub fn timestamp(self) -> jiff::Timestamp {
        let nanos = i32::try_from(self.nanos).unwrap_or(0);
        // Years 0 to 9999 are within jiff's range, so the default is never used.
        jiff::Timestamp::new(self.seconds, nanos).unwrap_or_default()
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(time: jiff::Timestamp) -> Time {
        // jiff rounds towards zero: before 1970 its nanoseconds are negative.
        let nanos = time.subsec_nanosecond();
        let (seconds, nanos) = if nanos < 0 {
            (time.as_second() - 1, nanos + 1_000_000_000)
        } else {
            (time.as_second(), nanos)
        };
        Time::utc(seconds, u32::try_from(nanos).unwrap_or(0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.seconds + i64::from(self.offset_seconds);
        let (year, month, day) = civil_of(local.div_euclid(DAY));
        let second = local.rem_euclid(DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        if self.offset_seconds == 0 {
            return f.write_char('Z');
        }
        let sign = if self.offset_seconds < 0 { '-' } else { '+' };
        let minutes = self.offset_seconds.abs() / 60;
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl FromStr for Time {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Time, FormatError> {
        parse(text).ok_or_else(|| FormatError(format!("{text:?} is no time (RFC 3339)")))
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

fn parse(text: &str) -> Option<Time> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let at = |i: usize, byte: u8| bytes.get(i).is_some_and(|b| b.eq_ignore_ascii_case(&byte));
    if !(at(4, b'-') && at(7, b'-') && at(10, b't') && at(13, b':') && at(16, b':')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = 19;
    let mut nanos = 0;
    if at(rest, b'.') {
        let digits = bytes[rest + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        // What is finer than nanoseconds is cut off, as Go does.
        let kept = digits.min(9);
        nanos = number(rest + 1, rest + 1 + kept)?;
        for _ in kept..9 {
            nanos *= 10;
        }
        rest += 1 + digits;
    }
    let offset = if at(rest, b'z') {
        rest += 1;
        0
    } else {
        let sign = match bytes.get(rest)? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let (hours, minutes) = (number(rest + 1, rest + 3)?, number(rest + 4, rest + 6)?);
        if !at(rest + 3, b':') || hours > 23 || minutes > 59 {
            return None;
        }
        rest += 6;
        sign * (hours * 3600 + minutes * 60)
    };
    if rest != bytes.len() {
        return None;
    }
    let local = days_of(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    Some(Time {
        seconds: local - offset,
        nanos: u32::try_from(nanos).ok()?,
        offset_seconds: i32::try_from(offset).ok()?,
    })
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a day of the Gregorian calendar, by counting years from March so that
/// the leap day comes last (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_of`].
fn civil_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}
