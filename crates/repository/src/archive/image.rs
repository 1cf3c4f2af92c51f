//! Disk images and database files: cut at a fixed size, so that what nobody wrote to need not be
//! read when somebody knows where that is.

use super::content::{Content, Failure, Intake};
use crate::{BlobId, BlobKind, Error, Node, NodeKind, Ranges, reader};
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;

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

impl Intake<'_> {
    /// Saves an image of `size` bytes. One that became shorter ends where it ends.
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
        let mut content = Content::default();
        let mut holes = Holes { file, data_from: 0, zeros: None };
        for (at, start) in (0..size).step_by(usize::try_from(chunk).unwrap_or(1)).enumerate() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            let range = start..start.saturating_add(chunk).min(size);
            let length = range.end - range.start;
            (self.advance)(length);
            if let Some(id) = known.as_ref().and_then(|known| known.id(at, &range)) {
                content.push_known(*id, length)?;
            } else if length == chunk && holes.holds(&range)? {
                let id = match holes.zeros {
                    Some(id) => id,
                    None => self.zeros(chunk)?,
                };
                holes.zeros = Some(id);
                content.push_known(id, length)?;
            } else {
                let bytes = self.read_at(file, start, length)?;
                let short = (bytes.len() as u64) < length;
                if !bytes.is_empty() {
                    content.push(self.writer, bytes)?;
                }
                if short {
                    break;
                }
            }
        }
        Ok(content)
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
    fn zeros(&self, chunk: u64) -> Result<BlobId, Error> {
        let bytes = vec![0; usize::try_from(chunk).unwrap_or_default()];
        self.writer.save(BlobKind::Data, bytes)?.wait()
    }

    fn read_at(&self, file: &File, start: u64, length: u64) -> Result<Vec<u8>, Failure> {
        let length = usize::try_from(length).unwrap_or_default();
        let mut bytes = self.writer.buffers().take();
        bytes.reserve_exact(length);
        while bytes.len() < length {
            let at = start + bytes.len() as u64;
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Failure::Source(e.into())),
            }
        }
        // The buffer may have had room for more than the chunk.
        bytes.truncate(length);
        Ok(bytes)
    }
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
    /// The id of a chunk of zeros.
    zeros: Option<BlobId>,
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
