//! Whether bytes are the segment of the log that their name says.
//!
//! Formats: `XLogPageHeaderData` and `XLogLongPageHeaderData` of PostgreSQL's
//! `src/include/access/xlog_internal.h`, the same in all versions that are supported here.

use super::lsn::{Lsn, Segments, WalFile};
use super::record::Cut;
use model::ClusterId;
use std::io::{self, Read};

/// Size of the header of a segment's first page.
const LONG_HEADER: usize = 40;
/// Size of every other page's header.
const SHORT_HEADER: usize = 24;
/// The pages that PostgreSQL can be built with.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1 << 10..=64 << 10;

/// What is known of a segment before its bytes are seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// The server's own number, if it is known.
    pub(crate) system: Option<u64>,
    /// The timeline in its name.
    pub(crate) timeline: u32,
    /// Where it begins.
    pub(crate) start: Lsn,
    /// How long it is.
    pub(crate) size: u64,
    /// Before this position no page may be empty: the records up to here are needed.
    pub(crate) needed: Lsn,
    /// The server is done with it. In one that it still writes to there may be anything after
    /// `needed`: segments are made of old ones.
    pub(crate) finished: bool,
}

/// Passes a segment's bytes on and fails if they are not what is expected. It sees torn, recycled
/// and foreign segments; that each record is whole is what replaying them finds out.
pub(crate) struct SegmentReader<R> {
    inner: R,
    expected: Expected,
    /// Bytes passed on so far.
    done: u64,
    /// Where in the segment the page begins at which we are.
    page: u64,
    /// Bytes of a page; known once the first header was seen.
    page_size: u64,
    /// As much of this page's header as was seen.
    header: Vec<u8>,
    /// A page without header was seen: the log was switched to the next segment there.
    switched: bool,
}

impl<R: Read> SegmentReader<R> {
    pub(crate) fn new(inner: R, expected: Expected) -> Self {
        SegmentReader {
            inner,
            expected,
            done: 0,
            page: 0,
            page_size: 0,
            header: Vec::with_capacity(LONG_HEADER),
            switched: false,
        }
    }

    fn see(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let header = if self.page == 0 { LONG_HEADER } else { SHORT_HEADER };
            let in_header = self.done < self.page + header as u64;
            let end = self.page + if in_header { header as u64 } else { self.page_size };
            let step = usize::try_from(end - self.done).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(step);
            bytes = rest;
            self.done += step as u64;
            if in_header {
                self.header.extend_from_slice(now);
                if self.done == end {
                    self.judge()?;
                    self.header.clear();
                }
            } else if self.done == end {
                self.page = end;
            }
        }
        Ok(())
    }

    /// Judges the header of a page.
    fn judge(&mut self) -> Result<(), String> {
        let at = Lsn(self.expected.start.0.saturating_add(self.page));
        let first = self.page == 0;
        if !first && !self.expected.finished && at >= self.expected.needed {
            return Ok(());
        }
        if self.header.iter().all(|byte| *byte == 0) {
            if first {
                return Err("it is empty".to_owned());
            }
            if at < self.expected.needed {
                return Err(format!("nothing was written at {at}"));
            }
            self.switched = true;
            return Ok(());
        }
        if self.switched {
            return Err(format!("there is something at {at}, after its end"));
        }
        let field = |from: usize, to: usize| {
            self.header
                .get(from..to)
                .unwrap_or_default()
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let (magic, timeline, address) = (field(0, 2), field(4, 8), field(8, 16));
        if magic >> 8 != 0xd1 {
            return Err(format!("the page at {at} is no page of the log"));
        }
        if address != at.0 {
            return Err(format!("the page at {at} says that it is at {}", Lsn(address)));
        }
        // A timeline's first segment begins with pages of its parent.
        if timeline == 0 || timeline > u64::from(self.expected.timeline) {
            return Err(format!("the page at {at} is of timeline {timeline}"));
        }
        if first {
            let (system, size, page) = (field(24, 32), field(32, 36), field(36, 40));
            if self.expected.system.is_some_and(|expected| expected != system) {
                return Err(format!("it is of the server with system identifier {system}"));
            }
            if size != self.expected.size {
                return Err(format!("it says that segments have {size} bytes"));
            }
            let good = u32::try_from(page)
                .is_ok_and(|page| page.is_power_of_two() && PAGE_SIZES.contains(&page));
            if !good {
                return Err(format!("it says that pages have {page} bytes"));
            }
            self.page_size = page;
        }
        Ok(())
    }
}

impl<R: Read> Read for SegmentReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if count == 0 && !buffer.is_empty() {
            return if self.done == self.expected.size {
                Ok(0)
            } else {
                let (has, size) = (self.done, self.expected.size);
                Err(wrong(format!("it has {has} bytes of {size}")))
            };
        }
        if self.done + count as u64 > self.expected.size {
            return Err(wrong(format!("it has more than {} bytes", self.expected.size)));
        }
        let seen = buffer.get(..count).unwrap_or_default();
        self.see(seen).map_err(wrong)?;
        Ok(count)
    }
}

/// Which database cluster wrote a segment, or a partial one, that begins like this.
pub fn cluster_in(bytes: &[u8]) -> Option<ClusterId> {
    let header = bytes.get(..LONG_HEADER)?;
    let is_first_page = header.get(1) == Some(&0xd1) && Cut::of(header).is_some();
    let system = header.get(24..32)?.try_into().ok().map(u64::from_le_bytes)?;
    is_first_page.then_some(ClusterId(system))
}

/// Refuses bytes that are not the file of the log that `name` says, as far as one file can tell:
/// what a server archives must be worth keeping. Returns the words for people.
pub fn check_file(name: &str, bytes: &[u8]) -> Result<(), String> {
    let file = WalFile::parse(name).ok_or("the server archives no file of this name")?;
    match file {
        WalFile::History { .. } | WalFile::Backup => {
            let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
            if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(()) }
        }
        WalFile::Segment { .. } | WalFile::Partial => {
            let Some(WalFile::Segment { timeline, place }) =
                name.get(..24).and_then(WalFile::parse)
            else {
                return Err("its name is no segment's".to_owned());
            };
            let size = bytes.len() as u64;
            let segments = Segments::of(size)
                .ok_or_else(|| format!("no segment of the log has {size} bytes"))?;
            let start = segments
                .start_of(place)
                .ok_or_else(|| format!("segments of {size} bytes have no such name"))?;
            let expected =
                Expected { system: None, timeline, start, size, needed: start, finished: true };
            let mut reader = SegmentReader::new(bytes, expected);
            if file == WalFile::Partial {
                // What follows the end of a partial one may be left over from what was there before.
                return reader.see(bytes.get(..LONG_HEADER).unwrap_or_default());
            }
            io::copy(&mut reader, &mut io::sink()).map(drop).map_err(|e| e.to_string())
        }
    }
}
