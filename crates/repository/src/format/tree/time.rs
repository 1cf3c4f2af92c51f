//! Times of nodes: RFC 3339 with nanoseconds, as Go writes them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::Write;
use std::sync::LazyLock;

const DAY: i64 = 86_400;

/// A point in time and the offset it is written with. Unlike a [`Timestamp`] it holds whatever a
/// file system can: it is cut to the years 0 to 9999 only when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds since that second.
    pub nanos: u32,
    /// What the text adds to UTC.
    pub offset_secs: i32,
}

impl Default for NodeTime {
    /// The first instant of the year 1, as Go writes a time that was never set.
    fn default() -> Self {
        NodeTime { seconds: -62_135_596_800, nanos: 0, offset_secs: 0 }
    }
}

impl From<Timestamp> for NodeTime {
    fn from(time: Timestamp) -> Self {
        let nanos = time.as_nanosecond();
        let seconds = nanos.div_euclid(1_000_000_000);
        let rest = nanos.rem_euclid(1_000_000_000);
        NodeTime::local(
            i64::try_from(seconds).unwrap_or_default(),
            u32::try_from(rest).unwrap_or_default(),
        )
    }
}

impl NodeTime {
    /// A time that is written with this host's offset, as restic does: the same file then has the
    /// same node, whichever of the two wrote it.
    pub fn local(seconds: i64, nanos: u32) -> NodeTime {
        static ZONE: LazyLock<TimeZone> = LazyLock::new(TimeZone::system);
        let offset_secs = match Timestamp::from_second(seconds) {
            Ok(time) => ZONE.to_offset(time).seconds(),
            Err(_) => 0,
        };
        // Offsets with seconds (before standard time) have no place in RFC 3339.
        let offset_secs = if offset_secs % 60 == 0 { offset_secs } else { 0 };
        NodeTime { seconds, nanos: nanos.min(999_999_999), offset_secs }
    }

    /// Whether it is the same instant, whatever the offset.
    pub fn same_instant(&self, other: &NodeTime) -> bool {
        (self.seconds, self.nanos) == (other.seconds, other.nanos)
    }

    /// As text.
    pub(super) fn write(&self, out: &mut String) {
        let local = self.seconds.saturating_add(i64::from(self.offset_secs));
        let (mut year, mut month, mut day) = civil(local.div_euclid(DAY));
        if !(0..=9999).contains(&year) {
            year = year.clamp(0, 9999);
            if (month, day) == (2, 29) && !leap(year) {
                (month, day) = (3, 1);
            }
        }
        let second = local.rem_euclid(DAY);
        let _ = write!(
            out,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        );
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            out.push('.');
            out.push_str(digits.trim_end_matches('0'));
        }
        if self.offset_secs == 0 {
            out.push('Z');
        } else {
            let sign = if self.offset_secs < 0 { '-' } else { '+' };
            let minutes = self.offset_secs.unsigned_abs() / 60;
            let _ = write!(out, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        }
    }

    /// Reads the text; none if it is no such time.
    pub(super) fn parse(text: &str) -> Option<NodeTime> {
        let bytes = text.as_bytes();
        let fixed = |at: usize, length: usize| number(bytes.get(at..at + length)?);
        let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
        if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
            return None;
        }
        let (year, month, day) = (fixed(0, 4)?, fixed(5, 2)?, fixed(8, 2)?);
        let (hour, minute, second) = (fixed(11, 2)?, fixed(14, 2)?, fixed(17, 2)?);
        if !(1..=12).contains(&month)
            || !(1..=days_in(year, month)).contains(&day)
            || hour > 23
            || minute > 59
            || second > 59
        {
            return None;
        }
        let mut rest = &bytes[19..];
        let mut nanos = 0;
        if let Some(fraction) = rest.strip_prefix(b".") {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            // Finer than nanoseconds is cut, as Go does.
            for at in 0..9 {
                let digit = if at < digits { u32::from(fraction[at] - b'0') } else { 0 };
                nanos = nanos * 10 + digit;
            }
            rest = &fraction[digits..];
        }
        let offset_secs = match rest {
            b"Z" => 0,
            [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
                let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let offset = i32::try_from(hours * 3600 + minutes * 60).ok()?;
                if *sign == b'-' { -offset } else { offset }
            }
            _ => return None,
        };
        let local = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
        Some(NodeTime { seconds: local - i64::from(offset_secs), nanos, offset_secs })
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'))
    })
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

// Both directions count in eras of 400 years (146,097 days) that begin on 1 March, so that the
// leap day is the last of its year; 719,468 days lie between 0000-03-01 and 1970-01-01.

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}
