//! Durations, sizes and times as people write and read them on the command line.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use model::duration;
use std::time::Duration;

use model::duration::human;
pub(crate) use model::duration::{age, ago, human as duration};
pub(crate) use model::size::human as size;

/// A duration, for clap.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|e| e.to_string())
}

/// A size, for clap.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    model::size::parse(text).map_err(|e| e.to_string())
}

/// A point in time: RFC 3339, the same without zone (this host's zone is meant), `20261121T010442Z`
/// as in the names of points, or `2h ago`.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Some(ago) = text.strip_suffix("ago") {
        let ago = duration::signed(parse_duration(ago.trim())?);
        return Timestamp::now().checked_sub(ago).map_err(|e| e.to_string());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let zoned = |civil: DateTime, zone: TimeZone| {
        civil.to_zoned(zone).map(|zoned| zoned.timestamp()).map_err(|e| e.to_string())
    };
    if let Ok(civil) = DateTime::strptime("%Y%m%dT%H%M%SZ", text) {
        return zoned(civil, TimeZone::UTC);
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return zoned(civil, TimeZone::system());
    }
    Err(format!(
        "{text:?} is not a time; write it as 2026-11-21T01:04:42Z, '2026-11-21 01:04' or '2h ago'"
    ))
}

/// How old that is, in whole seconds; none if it lies in the future.
pub(crate) fn old(then: Timestamp, now: Timestamp) -> Option<String> {
    age(then, now).map(|age| human(Duration::from_secs(age.as_secs())))
}

/// The time in this host's zone: `2026-11-21 01:04:42`.
pub(crate) fn local(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let expected: Timestamp = "2026-11-21T01:04:42Z".parse().unwrap();
        assert_eq!(parse_time("2026-11-21T01:04:42Z"), Ok(expected));
        assert_eq!(parse_time("2026-11-21T03:04:42+02:00"), Ok(expected));
        assert_eq!(parse_time("20261121T010442Z"), Ok(expected));
        assert!(parse_time("2026-11-21 01:04").is_ok());
        assert!(parse_time("2026-11-21").is_ok());
        assert!(parse_time("2h ago").unwrap() < Timestamp::now());
        for bad in ["", "yesterday", "2026-13-01", "ago"] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
    }
}
