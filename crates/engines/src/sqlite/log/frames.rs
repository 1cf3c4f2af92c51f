//! The header and the frames of a write-ahead log, as SQLite writes them.

use super::super::source::read_beside;
use crate::Error;
use model::Class;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Length of a log's header.
pub(super) const WAL_HEADER: usize = 32;
/// Length of a frame's header; a page follows.
pub const FRAME_HEADER: usize = 24;

/// What a log begins with. A log that is begun anew gets another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalHeader {
    /// Checksums are sums of big-endian words.
    pub big_endian: bool,
    /// Bytes of a page.
    pub page_size: u32,
    /// How often the connection that began the log had begun it anew.
    pub checkpoint: u32,
    /// The first salt, which grows by one whenever the log is begun anew, and the second, which is
    /// random.
    pub salts: (u32, u32),
    /// The checksum so far.
    pub sum: (u32, u32),
}

impl WalHeader {
    /// Reads a header; none if this is not a whole one.
    pub fn parse(bytes: &[u8]) -> Option<WalHeader> {
        let bytes = bytes.get(..WAL_HEADER)?;
        let magic = be32(bytes, 0)?;
        let page_size = be32(bytes, 8)?;
        if magic & !1 != 0x377f_0682 || be32(bytes, 4)? != 3_007_000 || !is_page_size(page_size) {
            return None;
        }
        let big_endian = magic & 1 == 1;
        let sum = (be32(bytes, 24)?, be32(bytes, 28)?);
        (checksum(big_endian, bytes.get(..24)?, (0, 0)) == sum).then_some(WalHeader {
            big_endian,
            page_size,
            checkpoint: be32(bytes, 12)?,
            salts: (be32(bytes, 16)?, be32(bytes, 20)?),
            sum,
        })
    }

    /// The header of the log at this path; none if there is no log, or nothing in it.
    pub fn read(wal: &Path) -> Result<Option<WalHeader>, Error> {
        // A log carries no locks, so it may be opened and closed.
        let file = match read_beside(wal) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", wal.display(), e)),
        };
        let mut bytes = [0; WAL_HEADER];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(WalHeader::parse(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(Error::io("read", wal.display(), e)),
        }
    }

    /// Both salts as one number.
    pub fn salt(&self) -> u64 {
        u64::from(self.salts.0) << 32 | u64::from(self.salts.1)
    }

    /// Whether the log with this header was begun anew after the one with the other header. The number
    /// of checkpoints says nothing of that: each connection counts its own.
    pub fn follows(&self, other: &WalHeader) -> bool {
        let beginnings = self.salts.0.wrapping_sub(other.salts.0);
        (1..1 << 16).contains(&beginnings) && self.page_size == other.page_size
    }

    /// Bytes of a frame.
    pub fn frame_bytes(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.page_size)
    }

    /// The number of the page that SQLite never uses: the one in which its locks lie.
    pub(super) fn lock_page(&self) -> u32 {
        (1 << 30) / self.page_size + 1
    }
}

/// One frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// Number of the page.
    pub(super) page: u32,
    /// Pages of the database after the commit that this frame ends; 0 if it ends none.
    pub(super) commit: u32,
    pub(super) content: &'a [u8],
}

/// A place in a log: after so many of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Place {
    /// Which log.
    pub header: WalHeader,
    /// After so many frames.
    pub frame: u32,
    /// The checksum so far.
    pub sum: (u32, u32),
}

impl Place {
    /// Before the first frame.
    pub fn start(header: WalHeader) -> Place {
        Place { header, frame: 0, sum: header.sum }
    }

    /// Where the next frame begins in the file.
    fn offset(&self) -> u64 {
        WAL_HEADER as u64 + u64::from(self.frame).saturating_mul(self.header.frame_bytes())
    }

    /// Moves past the next frame, which these bytes have to be; none if they are not.
    pub(super) fn step<'b>(&mut self, bytes: &'b [u8]) -> Option<Frame<'b>> {
        let (head, content) = bytes.split_at_checked(FRAME_HEADER)?;
        let page = be32(head, 0)?;
        let salts = (be32(head, 8)?, be32(head, 12)?);
        if content.len() as u64 != u64::from(self.header.page_size)
            || salts != self.header.salts
            || page == 0
        {
            return None;
        }
        let sum = checksum(self.header.big_endian, head.get(..8)?, self.sum);
        let sum = checksum(self.header.big_endian, content, sum);
        if sum != (be32(head, 16)?, be32(head, 20)?) {
            return None;
        }
        self.frame = self.frame.checked_add(1)?;
        self.sum = sum;
        Some(Frame { page, commit: be32(head, 4)?, content })
    }

    /// Reads the frames after this place up to the one with the number `to`, but no more than about
    /// `bytes`, and moves past them. None if what is in the file is not what follows here.
    pub fn read(&mut self, file: &File, to: u32, bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let size = self.header.frame_bytes();
        let count = u64::from(to.saturating_sub(self.frame)).min((bytes / size).max(1));
        let length = usize::try_from(count * size).map_err(io::Error::other)?;
        let mut read = vec![0; length];
        match file.read_exact_at(&mut read, self.offset()) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let mut place = *self;
        let size = usize::try_from(size).map_err(io::Error::other)?;
        if read.chunks(size).any(|frame| place.step(frame).is_none()) {
            return Ok(None);
        }
        *self = place;
        Ok(Some(read))
    }

    /// Whether the log at this path holds this place still: every frame up to it is there.
    pub fn is_in(&self, wal: &Path) -> Result<bool, Error> {
        if WalHeader::read(wal)? != Some(self.header) {
            return Ok(false);
        }
        let failed = |e| Error::io("read", wal.display(), e);
        let file = read_beside(wal).map_err(failed)?;
        let mut place = Place::start(self.header);
        while place.frame < self.frame {
            if place.read(&file, self.frame, 1 << 20).map_err(failed)?.is_none() {
                return Ok(false);
            }
        }
        Ok(place == *self)
    }
}

pub(super) fn is_page_size(size: u32) -> bool {
    (512..=65536).contains(&size) && size.is_power_of_two()
}

/// SQLite's checksum of whole pairs of words, which goes on where another ended.
fn checksum(big_endian: bool, bytes: &[u8], sum: (u32, u32)) -> (u32, u32) {
    let (mut first, mut second) = sum;
    let (pairs, _) = bytes.as_chunks::<8>();
    for [a, b, c, d, e, f, g, h] in pairs {
        let (x, y) = match big_endian {
            true => (u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h])),
            false => (u32::from_le_bytes([*a, *b, *c, *d]), u32::from_le_bytes([*e, *f, *g, *h])),
        };
        first = first.wrapping_add(x).wrapping_add(second);
        second = second.wrapping_add(y).wrapping_add(first);
    }
    (first, second)
}

/// A big-endian number; none if the bytes end before.
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

/// What is in the vault, or in a file, is not what it should be.
pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::new(Class::Corrupt, what)
}
