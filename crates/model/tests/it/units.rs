//! Durations and sizes, read and written.

use mainstay_model::{duration, size};
use proptest::prelude::*;
use std::time::Duration;

#[test]
fn durations_are_read() {
    for (text, seconds) in [
        ("30s", 30),
        ("0s", 0),
        ("5m", 300),
        ("5min", 300),
        ("1h30m", 5400),
        (" 1h 30m ", 5400),
        ("14d", 1_209_600),
        ("2w", 1_209_600),
        ("1y2w3d4h5m6s", 31_536_000 + 1_209_600 + 259_200 + 14_706),
        ("1000y", 31_536_000_000),
    ] {
        assert_eq!(duration::parse(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for bad in [
        "",
        " ",
        "5",
        "m",
        "-5m",
        "+5m",
        "1.5h",
        "5 m",
        "5m5",
        "1m1h",
        "1m1m",
        "5M",
        "5ms",
        "99999999999999999999s",
        "18446744073709551615s",
        "1100y",
        "٣m",
        "5m\0",
        "soon",
    ] {
        let e = duration::parse(bad).unwrap_err().to_string();
        assert!(e.contains("is not a duration; write it as"), "{bad:?}: {e}");
    }
}

#[test]
fn durations_are_written() {
    let shown = |millis| duration::human(Duration::from_millis(millis));
    assert_eq!(shown(0), "0 s");
    assert_eq!(shown(250), "250 ms");
    assert_eq!(shown(59_999), "59 s");
    assert_eq!(shown(192_000), "3 min 12 s");
    assert_eq!(shown(7_200_000), "2 h");
    assert_eq!(shown(356_400_000), "4 d 3 h");
    let now = "2026-11-21T12:00:00Z".parse().unwrap();
    let ago = |then: &str| duration::ago(then.parse().unwrap(), now);
    assert_eq!(ago("2026-11-21T12:00:00Z"), "just now");
    assert_eq!(ago("2026-11-21T11:00:00Z"), "1 h ago");
    assert_eq!(ago("2026-11-21T12:00:01Z"), "in the future");
}

#[test]
fn sizes_are_read_and_written() {
    for (text, bytes) in [
        ("0", 0),
        ("512", 512),
        ("512 B", 512),
        ("64 KiB", 65_536),
        ("2 GiB", 2 << 30),
        ("2GiB", 2 << 30),
        ("2G", 2 << 30),
        ("10 MB", 10_000_000),
        ("16777215 TiB", 16_777_215 << 40),
    ] {
        assert_eq!(size::parse(text), Ok(bytes), "{text}");
    }
    for bad in ["", "GiB", "1.5 GiB", "-1", "1 XiB", "16777216 TiB", "1 GiB.", "2gib", "1 0", "٣"]
    {
        let e = size::parse(bad).unwrap_err().to_string();
        assert!(e.contains("is not a size; write it as"), "{bad:?}: {e}");
    }
    assert_eq!(size::human(0), "0 B");
    assert_eq!(size::human(1023), "1023 B");
    assert_eq!(size::human(1024), "1.00 KiB");
    assert_eq!(size::human(1_500_000), "1.43 MiB");
    assert_eq!(size::human(250 << 20), "250 MiB");
    assert_eq!(size::human(u64::MAX), "16.0 EiB");
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "[0-9a-zA-Z .\\-]{0,30}|\\PC{0,20}") {
        let _ = (duration::parse(&text), size::parse(&text));
    }

    #[test]
    fn what_is_composed_is_read(d in 0..9999_u64, h in 0..23_u64, m in 0..59_u64, s in 0..59_u64) {
        let seconds = d * 86_400 + h * 3600 + m * 60 + s;
        prop_assert_eq!(duration::parse(&format!("{d}d{h}h{m}m{s}s")), Ok(Duration::from_secs(seconds)));
    }

    #[test]
    fn sizes_are_shown_in_at_most_eight_letters_and_near_the_truth(bytes: u64) {
        let shown = size::human(bytes);
        let (number, unit) = shown.split_once(' ').unwrap();
        let factor = 1024_f64.powi(i32::try_from(
            ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().position(|u| *u == unit).unwrap()
        ).unwrap());
        let back = number.parse::<f64>().unwrap() * factor;
        prop_assert!((back - bytes as f64).abs() <= bytes as f64 * 0.006, "{shown} for {bytes}");
        prop_assert!(shown.len() <= 8, "{shown}");
    }
}
