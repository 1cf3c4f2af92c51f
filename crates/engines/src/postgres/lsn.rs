//! Positions in the write-ahead log, and the names of the files that hold them.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Lsn, String> {
        let half = |digits: &str| {
            let hex = (1..=8).contains(&digits.len())
                && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            if hex { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        let halves = text.split_once('/').and_then(|(high, low)| half(high).zip(half(low)));
        halves
            .map(|(high, low)| Lsn(high << 32 | low))
            .ok_or_else(|| format!("{text:?} is not a log position"))
    }
}

/// What a file of the log is, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalFile {
    /// A whole segment.
    Segment {
        /// Its timeline.
        timeline: u32,
        /// The other 16 digits: they grow with the position, whatever the size of segments.
        place: u64,
    },
    /// The segment in which a timeline ended.
    Partial,
    /// What a base backup needs, written for people.
    Backup,
    /// Where a timeline branched off.
    History {
        /// The timeline.
        timeline: u32,
    },
}

impl WalFile {
    /// Reads a name; none if the server would never archive a file under it.
    pub fn parse(name: &str) -> Option<WalFile> {
        let hex = |digits: &str, count: usize| {
            let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
            if digits.len() == count && digits.bytes().all(upper) {
                u64::from_str_radix(digits, 16).ok()
            } else {
                None
            }
        };
        let timeline = |digits: &str| {
            hex(digits, 8).and_then(|t| u32::try_from(t).ok()).filter(|timeline| *timeline > 0)
        };
        if let Some(digits) = name.strip_suffix(".history") {
            return timeline(digits).map(|timeline| WalFile::History { timeline });
        }
        let (digits, suffix) = name.split_at_checked(24)?;
        let segment =
            WalFile::Segment { timeline: timeline(&digits[..8])?, place: hex(&digits[8..], 16)? };
        match suffix {
            "" => Some(segment),
            ".partial" => Some(WalFile::Partial),
            _ => {
                let offset = suffix.strip_prefix('.')?.strip_suffix(".backup")?;
                hex(offset, 8).map(|_| WalFile::Backup)
            }
        }
    }
}

/// How the log is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    size: u64,
}

impl Segments {
    /// Segments of this many bytes: a power of two from 1 MiB to 1 GiB; none otherwise.
    pub fn of(size: u64) -> Option<Segments> {
        let good = size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size);
        good.then_some(Segments { size })
    }

    /// Bytes of one.
    pub fn size(self) -> u64 {
        self.size
    }

    /// The number of the segment that a position is in.
    pub fn number(self, lsn: Lsn) -> u64 {
        lsn.0 / self.size
    }

    /// Where a segment begins.
    pub fn start(self, number: u64) -> Lsn {
        Lsn(number.saturating_mul(self.size))
    }

    /// The name of a segment on a timeline.
    pub fn name(self, timeline: u32, number: u64) -> String {
        let per_high = (1 << 32) / self.size;
        format!("{timeline:08X}{:08X}{:08X}", number / per_high, number % per_high)
    }

    /// Where the segment of this name begins.
    pub fn start_of(self, place: u64) -> Option<Lsn> {
        let per_high = (1 << 32) / self.size;
        let (high, low) = (place >> 32, place & 0xffff_ffff);
        (low < per_high).then(|| Lsn((high << 32) + low * self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_and_shown_as_the_server_does() {
        for text in ["0/0", "0/3000028", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().expect(text).to_string(), text);
        }
        for bad in ["", "/", "0", "0/", "/0", "0/+1", "1/123456789", "x/1", "0/1/2", " 0/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn segments_are_named_as_the_server_does() {
        // pg_walfile_name() of a server with the default and one with another segment size.
        let default = Segments::of(16 << 20).expect("16 MiB");
        let number = default.number("1/FF000028".parse().expect("lsn"));
        assert_eq!(default.name(3, number), "0000000300000001000000FF");
        assert_eq!(default.start(number), "1/FF000000".parse().expect("lsn"));
        let large = Segments::of(64 << 20).expect("64 MiB");
        let number = large.number("2/48000000".parse().expect("lsn"));
        assert_eq!(large.name(1, number), "000000010000000200000012");
        assert_eq!(large.start_of(0x2_0000_0012), Some("2/48000000".parse().expect("lsn")));
        assert_eq!(large.start_of(0x2_0000_0040), None);
        for bad in [0, 1, 1 << 19, 1 << 31, (16 << 20) + 1] {
            assert!(Segments::of(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_names_that_a_server_archives_are_known() {
        let segment = WalFile::Segment { timeline: 1, place: 0xA_0000_00FF };
        assert_eq!(WalFile::parse("000000010000000A000000FF"), Some(segment));
        assert_eq!(WalFile::parse("0000000A.history"), Some(WalFile::History { timeline: 10 }));
        assert_eq!(WalFile::parse("000000010000000A000000FF.partial"), Some(WalFile::Partial));
        assert_eq!(
            WalFile::parse("000000010000000A000000FF.00000028.backup"),
            Some(WalFile::Backup)
        );
        for bad in [
            "",
            "000000010000000a000000ff",
            "000000010000000A000000F",
            "000000010000000A000000FF0",
            "000000000000000A000000FF",
            "000000010000000A000000FF.",
            "000000010000000A000000FF.backup",
            "000000010000000A000000FF.28.backup",
            "000000010000000A000000FF.partial.gz",
            "00000000.history",
            "2.history",
            "00000002.history.tmp",
            "RECOVERYXLOG",
            "../000000010000000A000000FF",
            "00000001ä0000000A00000F",
        ] {
            assert_eq!(WalFile::parse(bad), None, "{bad:?}");
        }
    }
}
