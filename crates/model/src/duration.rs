//! Durations as people write and read them.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// The longest that is understood: a thousand years, which every clock can add.
const LONGEST_SECS: u64 = 1000 * 366 * 86_400;

/// The text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write it as 30s, 5m, 1h30m, 14d or 2w")]
pub struct DurationError(String);

/// `90s`, `5m`, `1h30m`, `14d`, `2w`, `1y` (365 days). Units come from large to small, each once. A
/// number alone has no unit and is refused.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    seconds(text).map(Duration::from_secs).ok_or_else(|| DurationError(text.to_owned()))
}

fn seconds(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut last_unit = u64::MAX;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit = match unit {
            "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            "y" => 365 * 86_400,
            _ => return None,
        };
        // `1m1h` was meant some other way.
        if unit >= last_unit {
            return None;
        }
        last_unit = unit;
        total = number.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(total)?;
        rest = tail.trim_start();
    }
    (total <= LONGEST_SECS).then_some(total)
}

/// `12 s`, `3 min 12 s`, `2 h 5 min`, `4 d 3 h`: the two units that matter.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |big: u64, big_unit, small: u64, small_unit| {
        if small == 0 {
            format!("{big} {big_unit}")
        } else {
            format!("{big} {big_unit} {small} {small_unit}")
        }
    };
    match seconds {
        0 if duration.as_millis() > 0 => format!("{} ms", duration.as_millis()),
        0..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// How long ago that was; none if it lies in the future.
pub fn age(then: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(now.duration_since(then)).ok()
}

/// `3 min ago`, or that it lies in the future.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    match age(then, now) {
        Some(age) if age.as_secs() < 2 => "just now".to_owned(),
        Some(age) => format!("{} ago", human(age)),
        None => "in the future".to_owned(),
    }
}

/// A duration as `jiff` adds it to times. What [`parse`] returns always fits.
pub fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
