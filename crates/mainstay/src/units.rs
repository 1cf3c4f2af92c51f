//! Durations, sizes and times as people write and read them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// `90s`, `5m`, `1h30m`, `14d`, `2w`. A number alone has no unit and is refused.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write it as 30s, 5m, 1h30m, 14d or 2w");
    let mut total: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number.checked_mul(seconds).and_then(|s| total.checked_add(s)).ok_or_else(wrong)?;
        rest = tail.trim_start();
    }
    // A thousand years is no duration that anybody means, and fits every clock type.
    if total > 1000 * 366 * 86_400 { Err(wrong()) } else { Ok(Duration::from_secs(total)) }
}

/// `512`, `64 KiB`, `2 GiB`, `2G`, `10 MB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write it as 64 KiB, 100 MiB or 2 GiB");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A point in time: RFC 3339, the same without zone (this host's zone is meant), `20261121T010442Z`
/// as in the names of points, or `2h ago`.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Some(ago) = text.strip_suffix("ago") {
        let ago = parse_duration(ago.trim())?;
        let ago = SignedDuration::try_from(ago).map_err(|e| e.to_string())?;
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

/// `1.4 GiB`: three digits that matter.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `12 s`, `3 min 12 s`, `2 h 5 min`, `4 d 3 h`: the two units that matter.
pub(crate) fn duration(duration: Duration) -> String {
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
pub(crate) fn age(then: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(now.duration_since(then)).ok()
}

/// `3 min ago`, or that it lies in the future.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    match age(then, now) {
        Some(age) if age.as_secs() < 2 => "just now".to_owned(),
        Some(age) => format!("{} ago", duration(age)),
        None => "in the future".to_owned(),
    }
}

/// The time in this host's zone: `2026-11-21 01:04:42`.
pub(crate) fn local(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, seconds) in
            [("30s", 30), ("5m", 300), ("1h30m", 5400), ("1h 30m", 5400), ("14d", 1_209_600)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "5", "m", "-5m", "5y", "1.5h", "99999999999999999999s", "5m5"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        let shown = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(shown(0), "0 s");
        assert_eq!(shown(59), "59 s");
        assert_eq!(shown(192), "3 min 12 s");
        assert_eq!(shown(7200), "2 h");
        assert_eq!(shown(4 * 86_400 + 3 * 3600), "4 d 3 h");
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("512", 512), ("2 GiB", 2 << 30), ("2G", 2 << 30), ("10 MB", 10_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "GiB", "1.5 GiB", "-1", "1 XiB", "99999999999 TiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.00 KiB");
        assert_eq!(size(1_500_000), "1.43 MiB");
        assert_eq!(size(250 << 20), "250 MiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

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
