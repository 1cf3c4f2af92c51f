//! Disk images and database files: cut at a fixed size, so that what nobody wrote to need not be
//! read when somebody knows where that is.

use super::content::{Content, Failure, Intake};
use crate::{BlobId, Error, Node, NodeKind, Ranges, parallel, reader};
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// How an image is read.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) chunk_bytes: NonZeroU64,
    /// The file in the parent snapshot, and the ranges that were written to since. Nothing else was.
    pub(super) since: Option<(&'a Node, &'a Ranges)>,
}

/// What is known of an image without reading it.
struct Known<'a> {
    ids: &'a [BlobId],
    bytes: u64,
    chunk: u64,
    changed: &'a Ranges,
}

/// A chunk that is to be read.
struct Unread {
    at: usize,
    range: Range<u64>,
}

/// Chunks that one thread reads and hashes together: two at once are hashed faster than one after
/// the other.
const TOGETHER: usize = 2;

impl Intake<'_> {
    /// Saves an image of `size` bytes. One that became shorter ends where it ends.
    ///
    /// Who reads a chunk hashes it, too, while it is in the processor's cache: of most chunks of an
    /// image that was saved before nothing more is needed.
    pub(super) fn image(
        &self,
        file: &File,
        size: u64,
        image: &Image<'_>,
    ) -> Result<Content, Failure> {
        let chunk = image.chunk_bytes.get();
        let known = match image.since {
            Some((node, changed)) => self.known(node, changed, chunk)?,
            None => None,
        };
        if known.is_none() {
            // A hint; who cannot take it reads as before.
            let _ = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
        }
        let zeros = OnceLock::new();
        let mut holes = Holes { file, data_from: 0 };
        let (mut ids, mut unread) = (Vec::new(), Vec::new());
        for (at, start) in (0..size).step_by(usize::try_from(chunk).unwrap_or(1)).enumerate() {
            let range = start..start.saturating_add(chunk).min(size);
            let length = range.end - range.start;
            if let Some(id) = known.as_ref().and_then(|known| known.id(at, &range)) {
                ids.push(*id);
            } else if length == chunk && holes.holds(&range)? {
                ids.push(self.zeros(&zeros, chunk)?);
            } else {
                ids.push(NOT_READ);
                unread.push(Unread { at, range });
                continue;
            }
            (self.advance)(length);
        }
        let ids = Mutex::new(ids);
        let end = AtomicU64::new(size);
        let groups: Vec<&[Unread]> = unread.chunks(TOGETHER).collect();
        parallel::for_each(&groups, parallel::cores(), |group| -> Result<(), Failure> {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            let read = self.read_and_save(file, group, chunk, &zeros, &end)?;
            let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
            for (unread, id) in group.iter().zip(read) {
                if let Some(slot) = ids.get_mut(unread.at) {
                    *slot = id;
                }
            }
            Ok(())
        })?;
        let mut ids = ids.into_inner().unwrap_or_else(PoisonError::into_inner);
        let end = end.into_inner();
        ids.truncate(usize::try_from(end.div_ceil(chunk)).unwrap_or(usize::MAX));
        Ok(Content::of_known(ids, end))
    }

    /// Reads a few chunks, saves what is new, and says their ids. Where one ends early, so does the
    /// image.
    fn read_and_save(
        &self,
        file: &File,
        group: &[Unread],
        chunk: u64,
        zeros: &OnceLock<BlobId>,
        end: &AtomicU64,
    ) -> Result<[BlobId; TOGETHER], Failure> {
        let mut read: [Vec<u8>; TOGETHER] = [(); TOGETHER].map(|()| self.writer.buffers().take());
        for (bytes, Unread { range, .. }) in read.iter_mut().zip(group) {
            let length = range.end - range.start;
            read_at(file, range.start, length, bytes)?;
            if (bytes.len() as u64) < length {
                end.fetch_min(range.start + bytes.len() as u64, Ordering::Relaxed);
            }
            (self.advance)(length);
        }
        let [one, two] = &read;
        let mut ids = [NOT_READ; TOGETHER];
        if is_zero(one) || is_zero(two) {
            for (id, bytes) in ids.iter_mut().zip(&read) {
                let whole = bytes.len() as u64 == chunk && is_zero(bytes);
                *id = if whole { self.zeros(zeros, chunk)? } else { BlobId::of(bytes) };
            }
        } else {
            ids = BlobId::of_two(one, two);
        }
        for (id, mut bytes) in ids.iter().zip(read) {
            if !bytes.is_empty() && zeros.get() != Some(id) {
                self.writer.save_hashed(*id, &mut bytes)?;
            }
            self.writer.buffers().give(bytes);
        }
        Ok(ids)
    }

    /// What the parent has of the image; nothing if it is not all there, or was cut otherwise.
    fn known<'a>(
        &self,
        node: &'a Node,
        changed: &'a Ranges,
        chunk: u64,
    ) -> Result<Option<Known<'a>>, Error> {
        if node.kind != NodeKind::File || node.content.len() as u64 != node.size.div_ceil(chunk) {
            return Ok(None);
        }
        let mut left = node.size;
        for id in &node.content {
            let length = left.min(chunk);
            left -= length;
            match reader::blob_length(self.repository, id) {
                Ok(stored) if stored == length => {}
                Ok(_) | Err(Error::Missing(_)) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(Known { ids: &node.content, bytes: node.size, chunk, changed }))
    }

    /// The id of a chunk of zeros, which is saved.
    fn zeros(&self, zeros: &OnceLock<BlobId>, chunk: u64) -> Result<BlobId, Error> {
        if let Some(id) = zeros.get() {
            return Ok(*id);
        }
        let mut bytes = vec![0; usize::try_from(chunk).unwrap_or_default()];
        let id = BlobId::of(&bytes);
        self.writer.save_hashed(id, &mut bytes)?;
        Ok(*zeros.get_or_init(|| id))
    }
}

/// Stands where an id will be.
const NOT_READ: BlobId = BlobId([0; 32]);

/// Reads so many bytes, or as many as there are.
fn read_at(file: &File, start: u64, length: u64, bytes: &mut Vec<u8>) -> Result<(), Failure> {
    let length = usize::try_from(length).unwrap_or_default();
    bytes.reserve_exact(length);
    while bytes.len() < length {
        let at = start + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Failure::Source(e.into())),
        }
    }
    // The buffer may have had room for more than the chunk.
    bytes.truncate(length);
    Ok(())
}

/// Whether there is nothing but zeros. A block at a time, which is compared at the memory's speed.
fn is_zero(bytes: &[u8]) -> bool {
    const BLOCK: [u8; 4096] = [0; 4096];
    bytes.chunks(BLOCK.len()).all(|part| *part == BLOCK[..part.len()])
}

impl Known<'_> {
    /// The id of a chunk that is as it was.
    fn id(&self, at: usize, range: &Range<u64>) -> Option<&BlobId> {
        let id = self.ids.get(at)?;
        // The last chunk, of then or of now, may be shorter than the others.
        let whole = range.end == range.start.saturating_add(self.chunk).min(self.bytes);
        (whole && !self.changed.meet(range)).then_some(id)
    }
}

/// Where a sparse file has nothing.
struct Holes<'a> {
    file: &'a File,
    /// Nothing but a hole lies between the last place that was asked for and this one.
    data_from: u64,
}

impl Holes<'_> {
    /// Whether a range lies in a hole.
    fn holds(&mut self, range: &Range<u64>) -> Result<bool, Failure> {
        if self.data_from <= range.start {
            self.data_from = match rustix::fs::seek(self.file, SeekFrom::Data(range.start)) {
                Ok(at) => at,
                Err(Errno::NXIO) => u64::MAX,
                // The file system does not know; then all of it is data.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => range.start,
                Err(e) => return Err(Failure::Source(e.into())),
            };
        }
        Ok(self.data_from >= range.end)
    }
}
