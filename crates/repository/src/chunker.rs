//! Cuts content into chunks, exactly where restic cuts.
//!
//! A Rabin fingerprint runs over a window of 64 bytes. A chunk ends where the lowest 20 bits of the
//! fingerprint are zero, but not before 512 KiB and at the latest at 8 MiB. restic does not look at
//! the bytes before the last 64 of the minimum, and after these 64 nothing remains of what it
//! primes its window with: so whether a chunk may end somewhere depends on the 64 bytes before
//! alone. That lets the search run on several stretches at once, which it needs to be fast: each
//! step of one fingerprint waits for the step before.

use crate::buffers::Buffers;
use crate::format::config::{DEGREE, Polynomial};
use std::io::{self, Read};
use std::sync::Arc;

/// Bytes that decide about a cut.
const WINDOW: usize = 64;
/// No chunk but the last is shorter.
pub const MIN_BYTES: usize = 512 << 10;
/// No chunk is longer.
pub const MAX_BYTES: usize = 8 << 20;
/// Bits of the fingerprint that are zero at a cut.
const MASK: u64 = (1 << 20) - 1;
/// Stretches that are searched at once.
const LANES: usize = 4;
/// Bytes of a stretch. Longer ones waste more behind a cut, shorter ones more on priming.
const LANE_BYTES: usize = 4096;
/// Bytes read from a source at a time.
const READ_BYTES: usize = 256 << 10;

/// How content is cut.
#[derive(Clone, Debug)]
pub struct Chunker(Rule);

#[derive(Clone, Debug)]
enum Rule {
    Rabin(Arc<Tables>),
    Fixed(usize),
}

#[derive(Debug)]
struct Tables {
    /// What the byte that leaves the window has contributed, once the next byte is in.
    leave: [u64; 256],
    /// Takes the 8 bits above the degree away and adds what they are modulo the polynomial.
    reduce: [u64; 256],
}

impl Chunker {
    /// As restic cuts in a repository with this polynomial.
    pub fn rabin(polynomial: Polynomial) -> Chunker {
        let p = polynomial.0;
        let mut reduce = [0; 256];
        for (top, entry) in (0u64..).zip(&mut reduce) {
            let mut rest = top << DEGREE;
            for bit in (DEGREE..DEGREE + 8).rev() {
                if rest >> bit & 1 == 1 {
                    rest ^= p << (bit - DEGREE);
                }
            }
            *entry = top << DEGREE | rest;
        }
        let mut tables = Tables { leave: [0; 256], reduce };
        for byte in 0..=u8::MAX {
            let in_first_place = tables.append(0, byte);
            let left = (0..WINDOW).fold(in_first_place, |digest, _| tables.append(digest, 0));
            tables.leave[usize::from(byte)] = left;
        }
        Chunker(Rule::Rabin(Arc::new(tables)))
    }

    /// Into chunks of one size (the last may be shorter): for disk images and database files, whose
    /// changes keep everything else in place. The size is kept between 4 KiB and [`MAX_BYTES`].
    pub fn fixed(size_bytes: usize) -> Chunker {
        Chunker(Rule::Fixed(size_bytes.clamp(4096, MAX_BYTES)))
    }

    /// How long the chunk is that `data` begins with; none if its end is not in `data` (if there is
    /// no more data, all of it is the chunk). The first `searched` bytes have been searched before,
    /// in vain.
    pub fn cut(&self, data: &[u8], searched: usize) -> Option<usize> {
        match &self.0 {
            Rule::Fixed(size) => Some(*size).filter(|size| data.len() >= *size),
            Rule::Rabin(tables) => {
                let data = &data[..data.len().min(MAX_BYTES)];
                let first = MIN_BYTES.max(searched + 1);
                tables.find(data, first).or((data.len() == MAX_BYTES).then_some(MAX_BYTES))
            }
        }
    }

    /// The chunks of what `source` delivers until its end. Their buffers come from `buffers`.
    /// `expected_bytes` is a guess that saves memory and time on small files.
    pub fn chunks<R: Read>(
        &self,
        source: R,
        buffers: &Buffers,
        expected_bytes: Option<u64>,
    ) -> Chunks<R> {
        Chunks {
            source,
            chunker: self.clone(),
            buffers: buffers.clone(),
            pending: buffers.take(),
            // One more than expected, so that the end is seen without another buffer.
            expected: expected_bytes.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            ended: false,
        }
    }
}

impl Tables {
    /// The fingerprint after one more byte, with none leaving.
    fn append(&self, digest: u64, byte: u8) -> u64 {
        (digest << 8 | u64::from(byte)) ^ self.reduce[top(digest)]
    }

    /// The fingerprint with `enters` in and `leaves` out of the window. What leaves is off the
    /// chain of dependent steps: shift, look up, add.
    fn slide(&self, digest: u64, enters: u8, leaves: u8) -> u64 {
        let change = u64::from(enters) ^ self.leave[usize::from(leaves)];
        (digest << 8 ^ change) ^ self.reduce[top(digest)]
    }

    /// The smallest length from `first` on (at least a window) at which `data` may be cut.
    fn find(&self, data: &[u8], first: usize) -> Option<usize> {
        let mut from = first;
        while let Some(stretch) = data.get(from - WINDOW..)
            && let Some(lanes) = lanes(stretch)
        {
            if let Some(at) = self.find_in_lanes(lanes) {
                return Some(from + at);
            }
            from += LANES * LANE_BYTES;
        }
        let window = data.get(from - WINDOW..from)?;
        let mut digest = window.iter().fold(0, |digest, byte| self.append(digest, *byte));
        if digest & MASK == 0 {
            return Some(from);
        }
        for (i, enters) in data[from..].iter().enumerate() {
            digest = self.slide(digest, *enters, data[from + i - WINDOW]);
            if digest & MASK == 0 {
                return Some(from + i + 1);
            }
        }
        None
    }

    /// Searches lanes side by side; each begins with the window of its first place. The first hit
    /// in the first lane that has one counts.
    fn find_in_lanes(&self, lanes: [&Lane; LANES]) -> Option<usize> {
        let mut digests = lanes
            .map(|lane| lane[..WINDOW].iter().fold(0, |digest, byte| self.append(digest, *byte)));
        let mut hits = [None; LANES];
        for i in 0..LANE_BYTES {
            for l in 0..LANES {
                if digests[l] & MASK == 0 && hits[l].is_none() {
                    hits[l] = Some(l * LANE_BYTES + i);
                }
                digests[l] = self.slide(digests[l], lanes[l][WINDOW + i], lanes[l][i]);
            }
            if hits[0].is_some() {
                break;
            }
        }
        hits.into_iter().flatten().next()
    }
}

/// A stretch with the window before its first place. The last byte only completes the last slide.
type Lane = [u8; WINDOW + LANE_BYTES];

/// The lanes that `stretch` begins with.
fn lanes(stretch: &[u8]) -> Option<[&Lane; LANES]> {
    let lane = |l: usize| stretch.get(l * LANE_BYTES..)?.first_chunk();
    Some([lane(0)?, lane(1)?, lane(2)?, lane(3)?])
}

/// The 8 highest bits of a fingerprint (its degree is below 53).
fn top(digest: u64) -> usize {
    (digest >> (DEGREE - 8) & 0xff) as usize
}

/// The chunks of a source, in order.
#[derive(Debug)]
pub struct Chunks<R> {
    source: R,
    chunker: Chunker,
    buffers: Buffers,
    /// Read, and not yet part of a chunk.
    pending: Vec<u8>,
    expected: Option<usize>,
    ended: bool,
}

impl<R: Read> Chunks<R> {
    fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(length) = self.chunker.cut(&self.pending, searched) {
                return Ok(Some(self.split(length)));
            }
            searched = self.pending.len();
            if self.ended {
                let last = std::mem::take(&mut self.pending);
                return Ok(Some(last).filter(|last| !last.is_empty()));
            }
            self.read_more()?;
        }
    }

    /// The first `length` bytes; what is behind them waits for the next chunk.
    fn split(&mut self, length: usize) -> Vec<u8> {
        let mut rest = self.buffers.take();
        rest.extend_from_slice(&self.pending[length..]);
        let mut chunk = std::mem::replace(&mut self.pending, rest);
        chunk.truncate(length);
        chunk
    }

    fn read_more(&mut self) -> io::Result<()> {
        let start = self.pending.len();
        // Nothing is cut below the minimum: read up to there at once. Later less, since what is
        // behind the cut has to be moved.
        let mut want = if start < MIN_BYTES { MIN_BYTES - start } else { READ_BYTES };
        if let Some(expected) = self.expected.take() {
            want = want.min(expected.saturating_add(1));
        }
        let end = start + want;
        if self.pending.capacity() < end {
            // By powers of two, but not to twice the maximum for the few bytes behind a cut.
            let capacity = end.next_power_of_two().min(MAX_BYTES + READ_BYTES).max(end);
            self.pending.reserve_exact(capacity - start);
        }
        self.pending.resize(end, 0);
        let mut filled = start;
        let result = loop {
            match self.source.read(&mut self.pending[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break Ok(());
                }
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
            if filled == self.pending.len() {
                break Ok(());
            }
        };
        self.pending.truncate(filled);
        result
    }
}

impl<R: Read> Iterator for Chunks<R> {
    type Item = io::Result<Vec<u8>>;

    /// After an error the source's content is incomplete, whatever comes next.
    fn next(&mut self) -> Option<Self::Item> {
        self.next_chunk().transpose()
    }
}

impl<R> Drop for Chunks<R> {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.pending));
    }
}
