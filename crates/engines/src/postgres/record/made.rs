//! Logs that are made for tests, as a server writes them.

use super::super::live::Live;
use super::super::lsn::Lsn;
use super::{CONTINUES, HEADER, LONG};
use model::ClusterId;
use std::path::Path;

/// The database cluster that writes them.
pub const CLUSTER: ClusterId = ClusterId(7);

/// Bytes of a page.
pub const PAGE: u64 = 8192;

/// A log from the beginning of a segment on.
#[derive(Clone, Debug)]
pub struct MadeLog {
    start: u64,
    segment: u64,
    /// What is written.
    pub bytes: Vec<u8>,
    /// Where each record begins and ends.
    pub records: Vec<(u64, u64)>,
}

impl MadeLog {
    /// Nothing yet, of segments of this size.
    pub fn at(start: Lsn, segment: u64) -> MadeLog {
        MadeLog { start: start.0, segment, bytes: Vec::new(), records: Vec::new() }
    }

    /// Where it ends.
    pub fn end(&self) -> Lsn {
        Lsn(self.start + self.bytes.len() as u64)
    }

    /// The header of a page, if one is due.
    pub fn page(&mut self, rest: usize) {
        let at = self.end().0;
        if !at.is_multiple_of(PAGE) {
            return;
        }
        let long = at.is_multiple_of(self.segment);
        let flags = if rest > 0 { CONTINUES } else { 0 } | if long { LONG } else { 0 };
        self.bytes.extend(0xd110_u16.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(low(rest as u64));
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(CLUSTER.0.to_le_bytes());
            self.bytes.extend(low(self.segment));
            self.bytes.extend(low(PAGE));
        }
    }

    /// A record with this content.
    pub fn add(&mut self, body: &[u8]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.page(0);
        let begin = self.end().0;
        let before = self.records.last().map_or(self.start.saturating_sub(64), |(begin, _)| *begin);
        let mut header = Vec::new();
        header.extend(low((HEADER + body.len()) as u64));
        header.extend(9_u32.to_le_bytes());
        header.extend(before.to_le_bytes());
        header.extend([0x10, 77, 0, 0]);
        let sum = crc32c::crc32c_append(crc32c::crc32c(body), &header);
        header.extend(sum.to_le_bytes());
        let record = [&header, body].concat();
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            self.page(rest.len());
            let room = usize::try_from(PAGE - self.end().0 % PAGE).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.records.push((begin, self.end().0));
    }
}

/// The log of the server whose data directory this is, which nobody has asked whether it is.
pub fn live(data_dir: &Path) -> Live {
    Live::at(data_dir)
}

fn low(number: u64) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

/// Lets this data directory be one of the database cluster that wrote all of these logs.
pub fn control(data_dir: &Path) -> std::io::Result<()> {
    let mut bytes = vec![0; 8192];
    bytes[0..8].copy_from_slice(&CLUSTER.0.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&sum.to_le_bytes());
    std::fs::create_dir_all(data_dir.join("global"))?;
    std::fs::write(data_dir.join("global/pg_control"), bytes)
}
