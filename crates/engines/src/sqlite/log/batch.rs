//! Frames in the vault: what an object holds, and what its name says.

use super::frames::{FRAME_HEADER, Place, WalHeader, damaged, is_page_size};
use crate::Error;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt;

/// What every object begins with: a name, and the format's version.
const MAGIC: [u8; 8] = *b"MSTYSQL\x01";
/// Length of the fields before the marks.
const FIXED: usize = 56;
/// Length of a mark.
const MARK: usize = 16;
/// A batch never has more marks.
pub const MAX_MARKS: usize = 4096;

/// Which database of a service, by what it is called in snapshots.
pub fn database_id(in_snapshot: &str) -> u32 {
    let digest = Sha256::digest(in_snapshot.as_bytes());
    digest.iter().take(4).fold(0, |id, byte| id << 8 | u32::from(*byte))
}

/// A commit, and when it was first seen: it was made before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The frame that ends it.
    pub frame: u32,
    /// Pages of the database after it.
    pub pages: u32,
    /// When.
    pub seen: Timestamp,
}

/// Frames of one log that lie side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Before the first of them.
    pub place: Place,
    /// How many frames the log before this one had.
    pub before: u32,
    /// The commits that were seen.
    pub marks: Vec<Mark>,
    /// The frames as SQLite wrote them.
    pub frames: Vec<u8>,
}

impl Batch {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Place { header, frame, sum } = &self.place;
        let mut out = MAGIC.to_vec();
        for field in [
            u32::from(header.big_endian),
            header.page_size,
            header.checkpoint,
            header.salts.0,
            header.salts.1,
            header.sum.0,
            header.sum.1,
            *frame,
            sum.0,
            sum.1,
            self.before,
            u32::try_from(self.marks.len()).unwrap_or(u32::MAX),
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for mark in &self.marks {
            out.extend_from_slice(&mark.frame.to_le_bytes());
            out.extend_from_slice(&mark.pages.to_le_bytes());
            out.extend_from_slice(&mark.seen.as_millisecond().to_le_bytes());
        }
        out.extend_from_slice(&self.frames);
        out
    }

    /// Reads it back. Every frame is verified, and every mark is at a commit.
    pub fn decode(bytes: &[u8]) -> Result<Batch, Error> {
        Batch::parse(bytes).ok_or_else(|| damaged("it does not hold the frames that it should"))
    }

    fn parse(bytes: &[u8]) -> Option<Batch> {
        let (fixed, rest) = bytes.split_at_checked(FIXED)?;
        if fixed.get(..8)? != MAGIC {
            return None;
        }
        let field = |number: usize| le32(fixed, 8 + 4 * number);
        let header = WalHeader {
            big_endian: match field(0)? {
                0 => false,
                1 => true,
                _ => return None,
            },
            page_size: field(1)?,
            checkpoint: field(2)?,
            salts: (field(3)?, field(4)?),
            sum: (field(5)?, field(6)?),
        };
        let place = Place { header, frame: field(7)?, sum: (field(8)?, field(9)?) };
        let count = usize::try_from(field(11)?).ok()?;
        if !is_page_size(header.page_size) || count > MAX_MARKS {
            return None;
        }
        if place.frame == 0 && place.sum != header.sum {
            return None;
        }
        let (marks, frames) = rest.split_at_checked(count.checked_mul(MARK)?)?;
        let mut batch = Batch {
            place,
            before: field(10)?,
            marks: Vec::with_capacity(count),
            frames: Vec::new(),
        };
        for mark in marks.as_chunks::<MARK>().0 {
            let millis = i64::from_le_bytes(mark.get(8..)?.try_into().ok()?);
            batch.marks.push(Mark {
                frame: le32(mark, 0)?,
                pages: le32(mark, 4)?,
                seen: Timestamp::from_millisecond(millis).ok()?,
            });
        }
        let size = usize::try_from(header.frame_bytes()).ok()?;
        if frames.is_empty() || !frames.len().is_multiple_of(size) {
            return None;
        }
        let (mut at, mut left) = (place, batch.marks.iter().peekable());
        for bytes in frames.chunks(size) {
            let frame = at.step(bytes)?;
            if let Some(mark) = left.next_if(|mark| mark.frame == at.frame)
                && (frame.commit == 0 || frame.commit != mark.pages)
            {
                return None;
            }
        }
        if left.next().is_some() {
            return None;
        }
        batch.frames = frames.to_vec();
        Some(batch)
    }

    /// After the last of them.
    pub fn end(&self) -> Place {
        let mut place = self.place;
        for frame in self.each() {
            let _ = place.step(frame);
        }
        place
    }

    /// Pages of the database after the last frame, if that ends a commit.
    pub fn last_commit(&self) -> Option<u32> {
        let pages = super::frames::be32(self.each().last()?, 4)?;
        (pages > 0).then_some(pages)
    }

    /// Each frame with its header.
    pub(super) fn each(&self) -> impl Iterator<Item = &[u8]> {
        let size = FRAME_HEADER + usize::try_from(self.place.header.page_size).unwrap_or(0);
        self.frames.chunks(size)
    }
}

/// What the name of an object says: all that is needed to tell what follows what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchName {
    /// Of which database.
    pub database: u32,
    /// Which chain: when it was begun, in milliseconds since 1970. Nothing is missing within one.
    pub chain: u64,
    /// Which log of the chain, from 0.
    pub sequence: u32,
    /// The salts of that log.
    pub salts: u64,
    /// After so many of its frames this begins.
    pub from: u32,
    /// And after so many it ends.
    pub to: u32,
    /// How many frames the log before this one had.
    pub before: u32,
    /// It ends with a commit.
    pub whole: bool,
    /// When it was read, in milliseconds since 1970 and 65536ths; greater than that of what is before
    /// it in the chain. Of a [mark of time](BatchName::is_mark): when nothing more was committed.
    pub time: u64,
}

/// What a mark of time holds.
pub const MARK_CONTENT: [u8; 8] = MAGIC;

/// How many bits of the time are less than a millisecond.
const TICKS: u32 = 16;

impl BatchName {
    /// A time as names have it, later than another.
    pub fn time_after(now: Timestamp, other: u64) -> u64 {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        (millis << TICKS).max(other.saturating_add(1))
    }

    /// When it was read.
    pub fn read_at(&self) -> Timestamp {
        let millis = i64::try_from(self.time >> TICKS).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
    }

    /// Whether it holds no frames, and only says up to when there were none.
    pub fn is_mark(&self) -> bool {
        self.from == self.to
    }

    /// Reads a name back; none if it is not one that we would write.
    pub fn parse(name: &str) -> Option<BatchName> {
        let (key, rest) = name.split_at_checked(24)?;
        let fields: Vec<&str> = rest.strip_prefix('.')?.split('.').collect();
        let [chain, sequence, salts, range, before, kind] = fields.try_into().ok()?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let short = |text: &str| u32::from_str_radix(text, 16).ok();
        let (from, to) = range.split_once('-')?;
        let parsed = BatchName {
            database: short(key.get(..8)?)?,
            time: hex(key.get(8..)?)?,
            chain: hex(chain)?,
            sequence: short(sequence)?,
            salts: hex(salts)?,
            from: short(from)?,
            to: short(to)?,
            before: short(before)?,
            whole: match kind {
                "c" | "u" => true,
                "p" => false,
                _ => return None,
            },
        };
        (parsed.to_string() == name && parsed.from <= parsed.to).then_some(parsed)
    }
}

impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchName { database, chain, sequence, salts, from, to, before, whole, time } = self;
        let kind = match (from == to, *whole) {
            (true, _) => 'u',
            (false, true) => 'c',
            (false, false) => 'p',
        };
        write!(
            f,
            "{database:08X}{time:016X}.{chain:012x}.{sequence:08x}.{salts:016x}.{from:08x}-{to:08x}.\
             {before:08x}.{kind}"
        )
    }
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> BatchName {
        BatchName {
            database: 0x1a2b_3c4d,
            chain: 1_763_000_000_000,
            sequence: 3,
            salts: 0x0102_0304_0506_0708,
            from: 10,
            to: 12,
            before: 7,
            whole: true,
            time: 1_763_000_000_500 << TICKS,
        }
    }

    #[test]
    fn names_are_as_documented() {
        let text = "1A2B3C4D0019A79C88DF4000.019a79c886ec.00000003.0102030405060708.\
                    0000000a-0000000c.00000007.c";
        let written = name().to_string();
        assert_eq!(written.len(), text.len());
        assert_eq!(&written[24..], &format!(".{:012x}{}", name().chain, &text[37..]));
        assert_eq!(BatchName::parse(&written), Some(name()));
        assert_eq!(name().read_at().as_millisecond(), 1_763_000_000_500);
        for bad in ["", "000000010000000000000003", &written[1..], &written.to_lowercase()] {
            assert_eq!(BatchName::parse(bad), None, "{bad}");
        }
        assert_eq!(BatchName::parse(&format!("{written}x")), None);
        let mark = BatchName { to: 10, ..name() };
        assert!(mark.is_mark() && mark.to_string().ends_with(".u"), "{mark}");
        assert_eq!(BatchName::parse(&mark.to_string()), Some(mark));
        assert_eq!(BatchName::parse(&BatchName { to: 9, ..name() }.to_string()), None);
    }

    #[test]
    fn times_of_names_grow_when_the_clock_does_not() {
        let now = Timestamp::from_millisecond(1_763_000_000_500).expect("a time");
        let first = BatchName::time_after(now, 0);
        assert_eq!(first, 1_763_000_000_500 << TICKS);
        assert_eq!(BatchName::time_after(now, first), first + 1);
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        for bytes in [&b""[..], b"MSTYSQL\x01", &[0; 100]] {
            assert!(Batch::decode(bytes).is_err());
        }
    }
}
