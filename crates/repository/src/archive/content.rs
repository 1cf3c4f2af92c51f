//! Contents of files and streams, cut into blobs.

use super::image::Image;
use crate::disk::{self, Stat};
use crate::{BlobId, BlobKind, BlobWriter, Error, Repository, Ticket};
use model::CancelToken;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

/// Ids of a file's blobs that a file may wait for before it is read on. The writer's own queue
/// holds fewer bytes than this many chunks, so the wait is short.
const MAX_TICKETS: usize = 256;
/// How often a file that was just written to is looked at again.
const SETTLING: u32 = 3;
/// Files up to this size are one blob, whatever they hold.
const ONE_BLOB_BYTES: u64 = crate::chunker::MIN_BYTES as u64;

/// The blobs of one file, in order; some may still be on their way to be hashed.
#[derive(Debug, Default)]
pub(super) struct Content {
    known: Vec<BlobId>,
    pending: VecDeque<Ticket>,
    pub(super) size: u64,
}

impl Content {
    pub(super) fn push(&mut self, writer: &BlobWriter, bytes: Vec<u8>) -> Result<(), Error> {
        self.size += bytes.len() as u64;
        self.pending.push_back(writer.save(BlobKind::Data, bytes)?);
        self.settle(MAX_TICKETS)
    }

    /// Of blobs that are stored, or in the writer's hands.
    pub(super) fn of_known(known: Vec<BlobId>, size: u64) -> Content {
        Content { known, pending: VecDeque::new(), size }
    }

    /// Waits until no more than so many are pending.
    fn settle(&mut self, most: usize) -> Result<(), Error> {
        while self.pending.len() > most {
            let Some(first) = self.pending.pop_front() else { break };
            self.known.push(first.wait()?);
        }
        Ok(())
    }

    /// Waits for the last blobs' ids.
    pub(super) fn ids(mut self) -> Result<Vec<BlobId>, Error> {
        self.settle(0)?;
        Ok(self.known)
    }
}

/// Why a file or stream could not be read to its end.
pub(super) enum Failure {
    /// Its own fault.
    Source(io::Error),
    /// Everybody's: the repository failed, or the run was cancelled.
    Fatal(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Fatal(error)
    }
}

/// Where content goes.
pub(super) struct Intake<'a> {
    pub(super) repository: &'a Repository,
    pub(super) writer: &'a BlobWriter,
    pub(super) cancel: &'a CancelToken,
    /// Told the bytes as they are read.
    pub(super) advance: &'a (dyn Fn(u64) + Sync),
}

/// What reading an open file gave.
pub(super) struct FileRead {
    pub(super) content: Content,
    /// As it was before the first byte was read.
    pub(super) stat: Stat,
    /// It was written to meanwhile.
    pub(super) changed: bool,
}

impl Intake<'_> {
    /// Saves a stream to its end. `expected` is a guess at its length.
    pub(super) fn stream(
        &self,
        source: impl Read,
        expected: Option<u64>,
    ) -> Result<Content, Failure> {
        let mut content = Content::default();
        let chunks = self.repository.chunker().chunks(source, self.writer.buffers(), expected);
        for chunk in chunks {
            let chunk = chunk.map_err(Failure::Source)?;
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            (self.advance)(chunk.len() as u64);
            content.push(self.writer, chunk)?;
        }
        Ok(content)
    }

    /// Saves what an open regular file holds, as long as it was when it was looked at: one that
    /// grows as fast as it is read has an end, too.
    pub(super) fn file(
        &self,
        file: OwnedFd,
        image: Option<&Image<'_>>,
    ) -> Result<FileRead, Failure> {
        let file = File::from(file);
        let look = || disk::stat(&file).map_err(Failure::Source);
        let mut before = look()?;
        // Until a write that comes after our look shows, now or in the next run. More than once,
        // because a file system's clock may be a little ahead.
        for _ in 0..SETTLING {
            if !disk::is_fresh(before.ctime) {
                break;
            }
            std::thread::sleep(disk::TICK);
            before = look()?;
        }
        let settled = !disk::is_fresh(before.ctime);
        let content = match image {
            Some(image) => self.image(&file, before.size, image)?,
            None if before.size <= ONE_BLOB_BYTES => self.small(&file, before.size)?,
            None => self.stream((&file).take(before.size), Some(before.size))?,
        };
        let changed = content.size != before.size || !before.same_state(&look()?);
        if !settled {
            // It is written to all the time. The next run must read it again, whatever its times
            // say then: nothing has this one.
            before.ctime = (0, 0);
        }
        Ok(FileRead { content, stat: before, changed })
    }

    fn small(&self, file: &File, size: u64) -> Result<Content, Failure> {
        let mut content = Content::default();
        if size == 0 {
            return Ok(content);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        file.take(size).read_to_end(&mut bytes).map_err(Failure::Source)?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled.into());
        }
        (self.advance)(bytes.len() as u64);
        if !bytes.is_empty() {
            content.push(self.writer, bytes)?;
        }
        Ok(content)
    }
}
