//! From the spool into the vault: whole segments, and of the one that is written to what is new.

use super::spool::Spool;
use super::{allowed, gap};
use crate::{Error, ServiceSite};
use engines::postgres::{Cut, Lsn, Records, Segments, WalFile, check_wal_file};
use model::{Class, Classify, Generation};
use repository::log::{LogStore, Part};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The most that one part holds.
const PART_BYTES: u64 = 16 << 20;
/// So many parts of a kind are put together into one, so that a slow server does not fill the vault
/// with small objects.
const TOGETHER: usize = 16;
/// So much of it is looked at for new records at once.
const WINDOW: u64 = 32 << 20;

/// How far the vault has the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shipped {
    pub(super) timeline: u32,
    pub(super) end: Lsn,
    /// Up to here the server has written no other whole record: only what one begins with.
    pub(super) reach: Lsn,
}

pub(super) struct Shipper<'a> {
    site: &'a ServiceSite,
    spool: Spool,
    log: LogStore,
    tip: Option<Tip>,
    /// The record that began in a segment that was whole, and goes on in the one that begins here.
    begun: Option<(Lsn, Vec<u8>)>,
    /// An append-only vault keeps every part until somebody else prunes.
    may_remove: bool,
    shipped: Option<Shipped>,
    /// Bytes that went to the vault, as they were before compression.
    pub(super) bytes: u64,
}

/// The segment that is written to, as the vault has it.
struct Tip {
    name: String,
    sent: u64,
    parts: Vec<(Part, u32)>,
    cut: Cut,
}

impl<'a> Shipper<'a> {
    pub(super) fn new(site: &'a ServiceSite, spool: Spool) -> Result<Shipper<'a>, Error> {
        let log = LogStore::new(site.repository()?);
        Ok(Shipper {
            site,
            spool,
            log,
            tip: None,
            begun: None,
            may_remove: true,
            shipped: None,
            bytes: 0,
        })
    }

    /// Stores what is new. Returns how far the vault has the log now, as far as that is known.
    ///
    /// Of the segment that is written to, whole records go, and each is sound: what somebody is just
    /// writing there, or never wrote, is not shipped.
    pub(super) fn ship(&mut self) -> Result<Option<Shipped>, Error> {
        let content = self.spool.list()?;
        let generation = allowed(self.site)?;
        for name in &content.histories {
            let bytes = self.read(name)?;
            check_wal_file(name, &bytes).map_err(|what| corrupt(name, &what))?;
            self.log.push(generation, name, &bytes)?;
            self.spool.remove(name)?;
        }
        let mut segments = None;
        for name in &content.whole {
            let bytes = self.read(name)?;
            check_wal_file(name, &bytes).map_err(|what| corrupt(name, &what))?;
            segments = Segments::of(bytes.len() as u64);
            self.log.push(generation, name, &bytes)?;
            self.bytes += bytes.len() as u64;
            if let (Some(segments), Some(WalFile::Segment { timeline, place })) =
                (segments, WalFile::parse(name))
                && let Some(start) = segments.start_of(place)
            {
                let end = Lsn(start.0 + segments.size());
                self.shipped = Some(Shipped { timeline, end, reach: end });
                self.begun = begun_in(&bytes, start).map(|begun| (end, begun));
            }
            if self.tip.as_ref().is_some_and(|tip| tip.name == *name) {
                self.tip = None;
            }
            self.remove_parts(name, &self.log.parts(name)?)?;
            self.spool.remove(name)?;
        }
        if let Some(name) = &content.partial
            && let Some(found) = self.partial(generation, name)?
        {
            segments = Some(found);
        }
        if let Some(segments) = segments {
            gap::record(self.site, &self.log, segments)?;
        }
        Ok(self.shipped)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.spool.dir.join(name);
        std::fs::read(&path).map_err(|e| Error::io("read", &path, e))
    }

    fn remove_parts(&mut self, name: &str, parts: &[Part]) -> Result<(), Error> {
        if !self.may_remove || parts.is_empty() {
            return Ok(());
        }
        match self.log.remove_parts(name, parts).map_err(Error::from) {
            // No answer is one thing, a no another.
            Err(e) if matches!(e.class(), Class::Refused | Class::Invalid | Class::Failed) => {
                self.may_remove = false;
                Ok(())
            }
            other => other,
        }
    }

    fn partial(&mut self, generation: Generation, name: &str) -> Result<Option<Segments>, Error> {
        let path = self.spool.partial(name);
        let failed = |e| Error::io("read", &path, e);
        let file = match File::open(&path) {
            Ok(file) => file,
            // It has just become whole; the next look finds it so.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let whole = file.metadata().map_err(failed)?.len();
        let (Some(WalFile::Segment { timeline, place }), Some(segments)) =
            (WalFile::parse(name), Segments::of(whole))
        else {
            return Ok(None);
        };
        let Some(start) = segments.start_of(place) else { return Ok(None) };
        if self.tip.as_ref().is_none_or(|tip| tip.name != name) {
            self.tip = self.look(name, &file, whole)?;
        }
        let Some(mut tip) = self.tip.take() else { return Ok(Some(segments)) };
        let (end, reach) = self.whole_records(&file, whole, start, &tip).map_err(failed)?;
        let result = self.send(&mut tip, generation, &file, end, whole);
        let sent = tip.sent;
        self.tip = Some(tip);
        result?;
        if sent > 0 {
            self.shipped = Some(Shipped { timeline, end: Lsn(start.0 + sent), reach });
        } else if let Some(shipped) = self.shipped.as_mut().filter(|shipped| shipped.end == start) {
            shipped.reach = reach;
        }
        Ok(Some(segments))
    }

    /// What the vault has of a segment; none as long as we have less of it, and cannot compare.
    fn look(&self, name: &str, file: &File, whole: u64) -> Result<Option<Tip>, Error> {
        let failed = |e| Error::io("read", self.spool.partial(name), e);
        let mut header = [0; 40];
        file.read_exact_at(&mut header, 0).map_err(failed)?;
        let Some(cut) = Cut::of(&header).filter(|cut| cut.segment == whole) else {
            return Ok(None);
        };
        let parts: Vec<Part> = self.log.parts(name)?;
        let Some(begun) = self.log.beginning(name)? else {
            return Ok(Some(Tip { name: name.to_owned(), sent: 0, parts: Vec::new(), cut }));
        };
        let mut ours = vec![0; begun.bytes.len()];
        file.read_exact_at(&mut ours, 0).map_err(failed)?;
        if ours != begun.bytes {
            // It is being received once more from its beginning.
            let first = ours.iter().zip(&begun.bytes).position(|(a, b)| a != b).unwrap_or(0);
            if ours.get(first..).unwrap_or_default().iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            return Err(Error::refused(format!(
                "the vault has other bytes of the segment {name} than this server wrote: another \
                 server has pushed to it, on the same timeline"
            )));
        }
        let mut chain: Vec<(Part, u32)> = Vec::new();
        for part in parts {
            if chain.last().map_or(0, |(last, _)| last.end) == part.start {
                chain.push((part, 0));
            }
        }
        let sent = chain.last().map_or(0, |(last, _)| last.end);
        Ok(Some(Tip { name: name.to_owned(), sent, parts: chain, cut }))
    }

    /// Where in the segment the last whole record ends, and up to where there is no other.
    fn whole_records(
        &self,
        file: &File,
        whole: u64,
        start: Lsn,
        tip: &Tip,
    ) -> std::io::Result<(u64, Lsn)> {
        let from = tip.sent - tip.sent % tip.cut.page;
        let length = WINDOW.min(whole - from);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, from)?;
        let mut records = match tip.sent {
            0 => {
                let begun = self.begun.as_ref().filter(|(at, _)| *at == start);
                let followed = begun.and_then(|(_, begun)| Records::after(&bytes, start, begun));
                let certain = followed.is_some();
                let begun = begun.map(|(_, begun)| begun.as_slice());
                let nothing = (0, begun.map_or(start, |begun| rest_of(begun, start, tip.cut)));
                let Some(mut records) = followed.or_else(|| Records::new(&bytes, start)) else {
                    return Ok(nothing);
                };
                // What ends a record that began before is only known to be whole by what follows.
                if records.next().is_none() && !certain {
                    return Ok(nothing);
                }
                records
            }
            sent => Records::within(&bytes, Lsn(start.0 + from), tip.cut, Lsn(start.0 + sent)),
        };
        records.by_ref().for_each(drop);
        Ok((records.end().0.saturating_sub(start.0).min(whole), records.reach()))
    }

    fn send(
        &mut self,
        tip: &mut Tip,
        generation: Generation,
        file: &File,
        limit: u64,
        whole: u64,
    ) -> Result<(), Error> {
        while tip.sent < limit {
            let end = limit.min(tip.sent + PART_BYTES);
            let part = self.put(&tip.name, generation, file, (tip.sent, end), whole)?;
            self.bytes += end - tip.sent;
            tip.sent = end;
            tip.parts.push((part, 0));
        }
        // As one counts: sixteen of a kind become one of the next.
        while self.may_remove && tip.parts.len() >= TOGETHER {
            let from = tip.parts.len() - TOGETHER;
            let last = tip.parts.split_off(from);
            let (Some((first, level)), Some((end, _))) = (last.first(), last.last()) else { break };
            let same = last.iter().all(|(_, other)| other == level);
            if !same || end.end - first.start > PART_BYTES {
                tip.parts.extend(last);
                break;
            }
            let (range, level) = ((first.start, end.end), level + 1);
            let together = self.put(&tip.name, generation, file, range, whole)?;
            let old = last.iter().map(|(part, _)| *part).filter(|part| *part != together);
            self.remove_parts(&tip.name, &old.collect::<Vec<Part>>())?;
            tip.parts.push((together, level));
        }
        Ok(())
    }

    fn put(
        &self,
        name: &str,
        generation: Generation,
        file: &File,
        (start, end): (u64, u64),
        whole: u64,
    ) -> Result<Part, Error> {
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(&mut bytes, start)
            .map_err(|e| Error::io("read", self.spool.partial(name), e))?;
        Ok(self.log.push_part(generation, name, start, whole, &bytes)?)
    }
}

fn corrupt(name: &str, what: &str) -> Error {
    Error::new(Class::Corrupt, format!("{name} was received, and is not stored: {what}"))
}

/// Where the record ends that begins like this before a segment.
fn rest_of(begun: &[u8], start: Lsn, cut: Cut) -> Lsn {
    let length = begun.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    let rest = usize::try_from(length).unwrap_or(0).saturating_sub(begun.len());
    cut.after(start, rest)
}

/// The beginning of the record that goes on after this segment.
fn begun_in(bytes: &[u8], start: Lsn) -> Option<Vec<u8>> {
    let mut records = Records::new(bytes, start)?;
    records.by_ref().for_each(drop);
    records.begun()
}
