//! The records in a piece of the log: where they end, and the few that say what time it was, or
//! where somebody left a mark.
//!
//! Formats: `XLogRecord` of PostgreSQL's `src/include/access/xlogrecord.h`, `XLogPageHeaderData` of
//! `xlog_internal.h`, `xl_xact_commit` of `xact.h`, `xl_restore_point` and `xl_end_of_recovery` of
//! `xlog_internal.h`, and as far as it is read `CheckPoint` of `catalog/pg_control.h`, the same in all
//! versions that are supported here.

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
const RM_STANDBY: u8 = 8;
/// PostgreSQL's epoch, in microseconds of ours.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Where in a checkpoint its time is, in whole seconds.
const CHECKPOINT_TIME: std::ops::Range<usize> = 64..72;

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
    /// What a server writes by itself, also when nobody uses it: a checkpoint, which transactions run.
    Upkeep {
        /// A time that it was written soon after, or at most a second before, if it says one.
        at: Option<Timestamp>,
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
        let (rest, Walked::Whole(end)) = records.gather(start.0, rest)? else { return None };
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

    /// Up to where in these bytes there is no other record: to their end, if the one that begins after
    /// the last whole one goes on there, as each of its pages that is here confirms. What only looks
    /// like the beginning of a record, or is whole and not sound, reaches nowhere: behind it there may
    /// be others.
    pub fn reach(&self) -> Lsn {
        let begin = self.at.checked_next_multiple_of(8).unwrap_or(self.at);
        let reach = match self.goes_on(begin) {
            Some(()) => self.limit(),
            None => self.cut.after(Lsn(begin), 0).0.min(self.limit()),
        };
        Lsn(reach.max(self.at))
    }

    /// The same at the begin of a segment, if the record that begins before it begins like this.
    pub fn reach_of(bytes: &[u8], start: Lsn, cut: Cut, begun: &[u8]) -> Lsn {
        let records = Records::within(bytes, start, cut, start);
        let length = begun.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
        let length = usize::try_from(length).ok().filter(|length| is_possible(*length));
        let rest = length.and_then(|length| length.checked_sub(begun.len()));
        match rest.and_then(|rest| records.walk(start.0, rest as u64, |_| ())) {
            Some(Walked::Part) => Lsn(records.limit()),
            _ => start,
        }
    }

    /// Where these bytes end.
    fn limit(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }

    /// Whether a record begins here, and goes on after these bytes.
    fn goes_on(&self, begin: u64) -> Option<()> {
        let mut begin = self.inside_page(begin)?;
        loop {
            let length = self.length(begin).filter(|length| is_possible(*length))?;
            let mut header = Vec::new();
            let walked = self.walk(begin, length as u64, |here| {
                header.extend(here.iter().take(HEADER.saturating_sub(header.len())));
            })?;
            match walked {
                Walked::Whole(_) => return None,
                Walked::CutOff(page) => begin = self.inside_page(page)?,
                Walked::Part => return is_header(&header, begin).then_some(()),
            }
        }
    }

    /// The beginning of the record that begins here and goes on after these bytes; none if no
    /// record does.
    pub fn begun(&self) -> Option<Vec<u8>> {
        let begin = self.inside_page(self.at.checked_next_multiple_of(8)?)?;
        let length = self.length(begin)?;
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
        (begun.len() < length && is_possible(length)).then_some(begun)
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
    fn pass_over(&mut self, rest: u64) -> Option<()> {
        let (Walked::Whole(end) | Walked::CutOff(end)) = self.walk(self.at, rest, |_| ())? else {
            return None;
        };
        self.at = end.checked_next_multiple_of(8)?;
        Some(())
    }

    /// Bytes of a record that begins here, and how that ends.
    fn gather(&self, at: u64, length: usize) -> Option<(Vec<u8>, Walked)> {
        // Not more than there is, whatever the length says.
        let mut record = Vec::with_capacity(length.min(self.bytes.len()));
        let walked = self.walk(at, length as u64, |here| record.extend_from_slice(here))?;
        Some((record, walked))
    }

    /// The length of the record that begins here.
    fn length(&self, at: u64) -> Option<usize> {
        let (length, Walked::Whole(_)) = self.gather(at, 4)? else { return None };
        usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()
    }

    /// Goes over so many bytes of a record, from page to page; what is here of each piece is shown. None
    /// where a page does not go on with the record.
    fn walk(&self, mut at: u64, mut rest: u64, mut show: impl FnMut(&[u8])) -> Option<Walked> {
        let limit = self.limit();
        while rest > 0 {
            if at.is_multiple_of(self.cut.page) {
                if at.checked_add(HEADER as u64)? > limit {
                    return Some(Walked::Part);
                }
                let (flags, left) = self.page_header(at)?;
                if flags & OVERWRITES != 0 {
                    return Some(Walked::CutOff(at));
                }
                if flags & CONTINUES == 0 || left != rest {
                    return None;
                }
                at = at.checked_add(self.cut.header(at))?;
            }
            let step = rest.min(self.cut.page - at % self.cut.page);
            let end = at.checked_add(step)?;
            let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
            let to = usize::try_from(end.min(limit).checked_sub(self.start)?).ok()?;
            show(self.bytes.get(from..to).unwrap_or_default());
            if end > limit {
                return Some(Walked::Part);
            }
            (at, rest) = (end, rest - step);
        }
        Some(Walked::Whole(at))
    }
}

/// Whether a record can be that long.
fn is_possible(length: usize) -> bool {
    (HEADER..=LONGEST).contains(&length)
}

/// Whether this can be the header of a record that begins here. One that is not all here can.
fn is_header(header: &[u8], begin: u64) -> bool {
    let before = header.get(8..16).and_then(|prev| prev.try_into().ok()).map(u64::from_le_bytes);
    // Two bytes are there for nothing, and zero.
    let nothing = header.get(18..20).unwrap_or_default();
    before.is_none_or(|before| before < begin) && nothing.iter().all(|byte| *byte == 0)
}

/// How it ends when somebody goes over a record.
enum Walked {
    /// All of it is there; where it ends.
    Whole(u64),
    /// A crash has cut it off: the server leaves what there is of it, and writes over the rest from this
    /// page on.
    CutOff(u64),
    /// There is only its beginning, up to the end of the piece.
    Part,
}

impl Iterator for Records<'_> {
    type Item = Record;

    /// None at the first place where no whole and sound record begins.
    fn next(&mut self) -> Option<Record> {
        let mut begin = self.inside_page(self.at.checked_next_multiple_of(8)?)?;
        let (record, end) = loop {
            let length = self.length(begin)?;
            if !is_possible(length) {
                return None;
            }
            match self.gather(begin, length)? {
                (record, Walked::Whole(end)) => break (record, end),
                (_, Walked::CutOff(page)) => begin = self.inside_page(page)?,
                (_, Walked::Part) => return None,
            }
        };
        let (header, body) = sound(&record)?;
        let xid = header.get(4..8)?.try_into().ok().map(u32::from_le_bytes)?;
        let (info, manager) = (*header.get(16)?, *header.get(17)?);
        self.at = if manager == RM_XLOG && info & 0xf0 == 0x40 {
            // The server went on to the next segment.
            (begin / self.cut.segment + 1).checked_mul(self.cut.segment)?
        } else {
            end.checked_next_multiple_of(8)?
        };
        let what = meaning(manager, info, xid, body).unwrap_or(What::Other);
        Some(Record { start: Lsn(begin), end: Lsn(self.at), what })
    }
}

/// Header and body of a record whose checksum is right.
fn sound(record: &[u8]) -> Option<(&[u8; HEADER], &[u8])> {
    let (header, body) = record.split_first_chunk::<HEADER>()?;
    let stored = header.get(20..)?.try_into().ok().map(u32::from_le_bytes)?;
    let found = crc32c::crc32c_append(crc32c::crc32c(body), header.get(..20)?);
    (found == stored).then_some((header, body))
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
        (RM_XLOG, _, 0x00 | 0x10) => {
            let seconds = data.and_then(|data| data.get(CHECKPOINT_TIME)?.try_into().ok());
            let after = seconds.and_then(|seconds| i64::from_le_bytes(seconds).checked_add(1));
            Some(What::Upkeep { at: after.and_then(|after| Timestamp::from_second(after).ok()) })
        }
        (RM_XLOG, _, 0x90) => Some(What::Upkeep { at: time() }),
        (RM_XLOG | RM_STANDBY, ..) => Some(What::Upkeep { at: None }),
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

#[cfg(any(test, feature = "doubles"))]
pub mod made;
#[cfg(test)]
mod tests;
