//! The records in a piece of the log: where they end, and the few that say what time it was, or
//! where somebody left a mark.
//!
//! Formats: `XLogRecord` of PostgreSQL's `src/include/access/xlogrecord.h`, `XLogPageHeaderData` of
//! `xlog_internal.h`, `xl_xact_commit` of `xact.h` and `xl_restore_point` of `xlog_internal.h`, the
//! same in all versions that are supported here.

use super::lsn::Lsn;
use jiff::Timestamp;

/// Size of a record's header.
const HEADER: usize = 24;
/// A record is never longer (`XLogRecordMaxSize`).
const LONGEST: usize = 1020 << 20;
/// Flags of a page: it begins with the rest of a record; it has the long header; it begins with a record
/// that was written over the rest of one, which a crash had cut off.
const CONTINUES: u16 = 1;
const LONG: u16 = 2;
const OVERWRITES: u16 = 8;
/// Resource managers.
const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;
/// PostgreSQL's epoch, in microseconds of ours.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A whole record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub start: Lsn,
    /// Where the next one begins, but for a page's header.
    pub end: Lsn,
    /// What of it matters here.
    pub what: What,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A transaction was committed, or aborted.
    Ended {
        /// Which.
        xid: u32,
        /// When, on the server's clock.
        at: Timestamp,
        /// It was committed.
        committed: bool,
    },
    /// Somebody called `pg_create_restore_point`.
    Mark {
        /// Its name.
        name: String,
        /// When.
        at: Timestamp,
    },
    /// Anything else.
    Other,
}

/// Reads the records of a piece of the log that begins where a page does.
#[derive(Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    /// Where the piece begins.
    start: u64,
    cut: Cut,
    at: u64,
}

/// How a log is cut, as the first page of each segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of a segment.
    pub segment: u64,
    /// Bytes of a page.
    pub page: u64,
}

impl Cut {
    /// Reads it off the beginning of a segment.
    pub fn of(bytes: &[u8]) -> Option<Cut> {
        let field =
            |from: usize| bytes.get(from..from + 4)?.try_into().ok().map(u32::from_le_bytes);
        let (segment, page) = (u64::from(field(32)?), u64::from(field(36)?));
        let good = page.is_power_of_two()
            && segment.is_power_of_two()
            && (1 << 10..=64 << 10).contains(&page)
            && page < segment;
        good.then_some(Cut { segment, page })
    }

    /// Where bytes of a record end that begin here, past the headers of the pages that they lie on.
    pub fn after(&self, at: Lsn, length: usize) -> Lsn {
        let (mut at, mut rest) = (at.0, length as u64);
        loop {
            if at.is_multiple_of(self.page) {
                at = at.saturating_add(self.header(at));
            }
            let step = rest.min(self.page - at % self.page);
            at = at.saturating_add(step);
            rest -= step;
            if rest == 0 {
                return Lsn(at);
            }
        }
    }

    /// Size of the header of the page that begins here.
    fn header(&self, page: u64) -> u64 {
        if page.is_multiple_of(self.segment) { 40 } else { 24 }
    }
}

impl<'a> Records<'a> {
    /// From the first record on that begins in these bytes of a segment; none if they do not begin
    /// like one, or hold less than the end of the record that began before.
    pub fn new(bytes: &'a [u8], start: Lsn) -> Option<Records<'a>> {
        let mut records = Records::of(bytes, start)?;
        let (flags, rest) = records.page_header(start.0)?;
        if flags & CONTINUES != 0 {
            records.pass_over(rest)?;
        }
        Some(records)
    }

    /// The same, if the record that begins before these bytes begins like this, and is sound.
    pub fn after(bytes: &'a [u8], start: Lsn, begun: &[u8]) -> Option<Records<'a>> {
        let mut records = Records::of(bytes, start)?;
        let length = begun.get(..4)?.try_into().ok().map(u32::from_le_bytes)?;
        let rest = usize::try_from(length).ok()?.checked_sub(begun.len())?;
        let (rest, end) = records.gather(start.0, rest)?;
        let record = [begun, &rest].concat();
        sound(&record)?;
        records.at = end.checked_next_multiple_of(8)?;
        Some(records)
    }

    /// From a place between two records on. The bytes begin with a page.
    pub fn within(bytes: &'a [u8], start: Lsn, cut: Cut, at: Lsn) -> Records<'a> {
        Records { bytes, start: start.0, cut, at: at.0 }
    }

    fn of(bytes: &'a [u8], start: Lsn) -> Option<Records<'a>> {
        let cut = Cut::of(bytes)?;
        let whole = start.0.is_multiple_of(cut.segment);
        whole.then_some(Records { bytes, start: start.0, cut, at: start.0 })
    }

    /// Where the last whole record ends.
    pub fn end(&self) -> Lsn {
        Lsn(self.at)
    }

    /// Up to where there is no other record, whole or not: where the one would end that begins after the
    /// last whole one, as far as its length is here already.
    pub fn reach(&self) -> Lsn {
        let begin = self.at.checked_next_multiple_of(8).unwrap_or(self.at);
        let length = self.inside_page(begin).and_then(|begin| {
            let (length, _) = self.gather(begin, 4)?;
            usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()
        });
        let length = length.filter(|length| (HEADER..=LONGEST).contains(length)).unwrap_or(0);
        self.cut.after(Lsn(begin), length)
    }

    /// The beginning of the record that begins here and goes on after these bytes; none if no
    /// record does.
    pub fn begun(&self) -> Option<Vec<u8>> {
        let begin = self.inside_page(self.at.checked_next_multiple_of(8)?)?;
        let (length, _) = self.gather(begin, 4)?;
        let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
        let end = self.start.checked_add(self.bytes.len() as u64)?;
        let mut begun = Vec::new();
        let mut at = begin;
        while at < end && begun.len() < length {
            if at.is_multiple_of(self.cut.page) {
                at += self.cut.header(at);
            }
            let step = (self.cut.page - at % self.cut.page).min(end.checked_sub(at)?);
            let from = usize::try_from(at - self.start).ok()?;
            let step = usize::try_from(step).ok()?.min(length - begun.len());
            begun.extend_from_slice(self.bytes.get(from..from + step)?);
            at += step as u64;
        }
        (begun.len() < length && length <= LONGEST).then_some(begun)
    }

    /// Flags of the page that begins here, and how much of a record it goes on with.
    fn page_header(&self, at: u64) -> Option<(u16, u64)> {
        let offset = usize::try_from(at.checked_sub(self.start)?).ok()?;
        let header = self.bytes.get(offset..offset.checked_add(HEADER)?)?;
        let number = |from: usize, count: usize| {
            let field = header.get(from..from + count).unwrap_or_default();
            field.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let flags = u16::try_from(number(2, 2)).ok()?;
        let long = at.is_multiple_of(self.cut.segment);
        let good = number(0, 2) >> 8 == 0xd1 && number(8, 8) == at && (flags & LONG != 0) == long;
        good.then(|| (flags, number(16, 4)))
    }

    /// Past the header of a page, if one begins here.
    fn inside_page(&self, at: u64) -> Option<u64> {
        if !at.is_multiple_of(self.cut.page) {
            return Some(at);
        }
        self.page_header(at)?;
        Some(at + self.cut.header(at))
    }

    /// Goes over the rest of a record that began in an earlier segment.
    fn pass_over(&mut self, mut rest: u64) -> Option<()> {
        let mut at = self.at;
        while rest > 0 {
            let (flags, left) = self.page_header(at)?;
            if flags & OVERWRITES != 0 {
                break;
            }
            if flags & CONTINUES == 0 || left != rest {
                return None;
            }
            at += self.cut.header(at);
            let step = rest.min(self.cut.page - at % self.cut.page);
            at += step;
            rest -= step;
        }
        self.at = at.next_multiple_of(8);
        Some(())
    }

    /// The page on which the log goes on after a record that begins here, and that a crash has cut off:
    /// the server leaves what there is of it, and writes over the rest from that page on.
    fn overwritten(&self, begin: u64, length: usize) -> Option<u64> {
        let mut rest = length as u64;
        let mut at = begin;
        loop {
            if at.is_multiple_of(self.cut.page) && at > begin {
                let (flags, left) = self.page_header(at)?;
                if flags & OVERWRITES != 0 {
                    return Some(at);
                }
                if flags & CONTINUES == 0 || left != rest {
                    return None;
                }
                at += self.cut.header(at);
            }
            let step = rest.min(self.cut.page - at % self.cut.page);
            at += step;
            rest -= step;
            if rest == 0 {
                return None;
            }
        }
    }

    /// Bytes of a record that begins here, and where it ends.
    fn gather(&self, at: u64, length: usize) -> Option<(Vec<u8>, u64)> {
        // Not more than there is, whatever the length says.
        let mut record = Vec::with_capacity(length.min(self.bytes.len()));
        let mut at = at;
        while record.len() < length {
            if at.is_multiple_of(self.cut.page) {
                let (flags, left) = self.page_header(at)?;
                if flags & CONTINUES == 0 || left != (length - record.len()) as u64 {
                    return None;
                }
                at += self.cut.header(at);
            }
            let room = usize::try_from(self.cut.page - at % self.cut.page).ok()?;
            let step = room.min(length - record.len());
            let offset = usize::try_from(at.checked_sub(self.start)?).ok()?;
            record.extend_from_slice(self.bytes.get(offset..offset.checked_add(step)?)?);
            at += step as u64;
        }
        Some((record, at))
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    /// None at the first place where no whole and sound record begins.
    fn next(&mut self) -> Option<Record> {
        let mut begin = self.inside_page(self.at.checked_next_multiple_of(8)?)?;
        let (record, end) = loop {
            let (length, _) = self.gather(begin, 4)?;
            let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
            if !(HEADER..=LONGEST).contains(&length) {
                return None;
            }
            match self.gather(begin, length) {
                Some(whole) => break whole,
                None => begin = self.inside_page(self.overwritten(begin, length)?)?,
            }
        };
        let (header, body) = sound(&record)?;
        let xid = header.get(4..8)?.try_into().ok().map(u32::from_le_bytes)?;
        let (info, manager) = (*header.get(16)?, *header.get(17)?);
        self.at = end.next_multiple_of(8);
        if manager == RM_XLOG && info & 0xf0 == 0x40 {
            // The server went on to the next segment.
            self.at = (begin / self.cut.segment + 1) * self.cut.segment;
        }
        let what = meaning(manager, info, xid, body).unwrap_or(What::Other);
        Some(Record { start: Lsn(begin), end: Lsn(self.at), what })
    }
}

/// Header and body of a record whose checksum is right.
fn sound(record: &[u8]) -> Option<(&[u8; HEADER], &[u8])> {
    let (header, body) = record.split_first_chunk::<HEADER>()?;
    let stored = header.get(20..)?.try_into().ok().map(u32::from_le_bytes)?;
    (!crc32c(crc32c(u32::MAX, body), header.get(..20)?) == stored).then_some((header, body))
}

fn meaning(manager: u8, info: u8, xid: u32, body: &[u8]) -> Option<What> {
    let data = main_data(body);
    let time = || {
        let micros = data?.get(..8)?.try_into().ok().map(i64::from_le_bytes)?;
        Timestamp::from_microsecond(micros.checked_add(EPOCH_MICROS)?).ok()
    };
    match (manager, info & 0x70, info & 0xf0) {
        (RM_XACT, operation @ (0x00 | 0x20), _) => {
            Some(What::Ended { xid, at: time()?, committed: operation == 0 })
        }
        (RM_XLOG, _, 0x70) => {
            let name = data?.get(8..72)?.split(|byte| *byte == 0).next()?;
            Some(What::Mark { name: String::from_utf8_lossy(name).into_owned(), at: time()? })
        }
        _ => None,
    }
}

/// A record's own data, of records that have no blocks.
fn main_data(mut body: &[u8]) -> Option<&[u8]> {
    loop {
        let (kind, rest) = body.split_first()?;
        body = match kind {
            // Origin, and the transaction above a subtransaction.
            253 => rest.get(2..)?,
            252 => rest.get(4..)?,
            254 => return rest.get(4..),
            255 => return rest.get(1..),
            _ => return None,
        };
    }
}

/// CRC-32C (Castagnoli), eight bytes at a time: this goes over the whole log, on the host of a server
/// that has other things to do.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    let at = |table: usize, byte: u8| TABLES[table][usize::from(byte)];
    let (eights, rest) = bytes.as_chunks::<8>();
    let crc = eights.iter().fold(crc, |crc, eight| {
        let [a, b, c, d, e, f, g, h] = (u64::from_le_bytes(*eight) ^ u64::from(crc)).to_le_bytes();
        at(7, a) ^ at(6, b) ^ at(5, c) ^ at(4, d) ^ at(3, e) ^ at(2, f) ^ at(1, g) ^ at(0, h)
    });
    rest.iter().fold(crc, |crc, byte| crc >> 8 ^ at(0, crc.to_le_bytes()[0] ^ byte))
}

/// What a byte does to the checksum, by how many bytes come after it.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let (mut index, mut number) = (0, 0u32);
    while index < 256 {
        let mut value = number;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        tables[0][index] = value;
        index += 1;
        number += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[table - 1][index];
            tables[table][index] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            index += 1;
        }
        table += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(!crc32c(u32::MAX, b"123456789"), 0xe306_9283);
        // However it is cut.
        let bytes: Vec<u8> = (0..100u8).collect();
        let whole = crc32c(u32::MAX, &bytes);
        for at in 0..bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(crc32c(crc32c(u32::MAX, head), tail), whole, "cut at {at}");
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let mut bytes = vec![0xd1; 64 << 10];
        assert!(Records::new(&bytes, Lsn(0)).is_none());
        bytes[32..36].copy_from_slice(&(1u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
        bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
        bytes[8..16].fill(0);
        let mut records = Records::new(&bytes, Lsn(0)).expect("a segment");
        assert_eq!(records.next(), None);
        assert_eq!(Records::new(&bytes, Lsn(8)).map(|r| r.end()), None);
        assert!(Records::new(&bytes[..39], Lsn(0)).is_none());
        let cut = Cut::of(&bytes).expect("a segment");
        assert_eq!(Records::within(&bytes, Lsn(0), cut, Lsn(u64::MAX - 7)).next(), None);
    }
}
