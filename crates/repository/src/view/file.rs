//! A file of a view that is open: any part of it, each blob verified.

use super::BlobCache;
use crate::index::BlobIndex;
use crate::reader::blob_length;
use crate::{BlobId, BlobKind, Error, Node, Repository, disk};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A blob of zeros compresses to less than this part of itself, so that few others are looked at
/// more closely.
const ZEROS_RATIO: u64 = 200;
/// Lengths of zeros whose names are remembered.
const LENGTHS: usize = 1024;
/// Blobs of a file that are looked at to say how much of it is no hole.
const LOOKED_AT: usize = 4096;

/// Where a search begins, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is in no hole.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    repository: Repository,
    blobs: Vec<BlobId>,
    /// Where each of them ends.
    ends: Vec<u64>,
    /// The last blob that was read: one that is too large for the cache is not read anew for every
    /// page of it.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

impl OpenFile {
    /// Opens a file, whose blobs must be there and as long together as it is.
    pub(super) fn open(repository: &Repository, node: &Node) -> Result<OpenFile, Error> {
        let mut ends = Vec::with_capacity(node.content.len());
        let mut end = 0_u64;
        for id in &node.content {
            end = end.saturating_add(blob_length(repository, id)?);
            ends.push(end);
        }
        if end != node.size {
            return Err(Error::damaged(
                format!("the file {}", disk::shown(&node.name)),
                format!("it should have {} bytes, and its blobs have {end}", node.size),
            ));
        }
        Ok(OpenFile {
            repository: repository.clone(),
            blobs: node.content.clone(),
            ends,
            last: Mutex::default(),
        })
    }

    fn size(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The blob that has the byte at this offset.
    fn at(&self, offset: u64) -> usize {
        self.ends.partition_point(|end| *end <= offset)
    }

    fn start(&self, blob: usize) -> u64 {
        blob.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0)
    }

    /// Up to `length` bytes from this offset; fewer only at the end of the file.
    pub(super) fn read(
        &self,
        cache: &BlobCache,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        let left = self.size().saturating_sub(offset);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        let mut bytes = Vec::with_capacity(length);
        let mut blob = self.at(offset);
        while bytes.len() < length {
            let plain = self.blob(cache, blob)?;
            let skip = (offset + bytes.len() as u64).saturating_sub(self.start(blob));
            let part = usize::try_from(skip).ok().and_then(|skip| plain.get(skip..));
            let part = part.unwrap_or_default();
            if part.is_empty() {
                // Its length was compared with the index; this cannot be, and must not go on.
                return Err(Error::Invalid("a blob is shorter than the index says".to_owned()));
            }
            let take = part.len().min(length - bytes.len());
            bytes.extend_from_slice(&part[..take]);
            blob += 1;
        }
        Ok(bytes)
    }

    fn blob(&self, cache: &BlobCache, blob: usize) -> Result<Arc<Vec<u8>>, Error> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, plain)) = &*last()
            && *at == blob
        {
            return Ok(plain.clone());
        }
        let id = *self.blobs.get(blob).ok_or_else(|| {
            Error::Invalid("a read goes beyond the last blob of its file".to_owned())
        })?;
        let plain = cache.get(id, || {
            let plain = self.repository.load_blob(BlobKind::Data, &id)?;
            let bytes = plain.len();
            Ok((plain, bytes))
        })?;
        let should = self.ends.get(blob).copied().unwrap_or(0) - self.start(blob);
        if plain.len() as u64 != should {
            return Err(Error::damaged(
                format!("data blob {id}"),
                format!("it has {} bytes, and the index says {should}", plain.len()),
            ));
        }
        *last() = Some((blob, plain.clone()));
        Ok(plain)
    }

    /// Where data or a hole is at or after an offset. Holes are blobs of zeros, known by their
    /// names without being read; smaller ones are not told.
    pub(super) fn seek(
        &self,
        zeros: &Zeros,
        offset: u64,
        what: Seek,
    ) -> Result<Option<u64>, Error> {
        if offset >= self.size() {
            return Ok(None);
        }
        let first = self.at(offset);
        for (blob, id) in self.blobs.iter().enumerate().skip(first) {
            if zeros.is(&self.repository, id)? == (what == Seek::Hole) {
                return Ok(Some(self.start(blob).max(offset)));
            }
        }
        Ok((what == Seek::Hole).then(|| self.size()))
    }
}

/// Knows blobs of zeros by their names.
#[derive(Debug, Default)]
pub(super) struct Zeros(Mutex<HashMap<u64, BlobId>>);

impl Zeros {
    /// Whether a blob is nothing but zeros. One that is in no index is not.
    fn is(&self, repository: &Repository, id: &BlobId) -> Result<bool, Error> {
        let find = |index: &BlobIndex| index.locate(BlobKind::Data, id);
        let Some(at) = repository.index().with(repository.files(), find)? else {
            return Ok(false);
        };
        let Some(plain) = at.plain_length.map(u64::from) else { return Ok(false) };
        if u64::from(at.length) > 64 + plain / ZEROS_RATIO {
            return Ok(false);
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= LENGTHS {
            known.clear();
        }
        Ok(*known.entry(plain).or_insert_with(|| of_zeros(plain)) == *id)
    }

    /// How many bytes of a file are in no hole, as far as its first blobs tell.
    pub(super) fn allocated(&self, repository: &Repository, node: &Node) -> Result<u64, Error> {
        let mut allocated = node.size;
        for id in node.content.iter().take(LOOKED_AT) {
            if self.is(repository, id)? {
                allocated = allocated.saturating_sub(blob_length(repository, id)?);
            }
        }
        Ok(allocated)
    }
}

/// The name of a blob of so many zeros.
fn of_zeros(mut length: u64) -> BlobId {
    let zeros = [0; 4096];
    let mut hash = Sha256::new();
    while length > 0 {
        let take = usize::try_from(length).map_or(zeros.len(), |left| left.min(zeros.len()));
        hash.update(&zeros[..take]);
        length -= take as u64;
    }
    BlobId(hash.finalize().into())
}
