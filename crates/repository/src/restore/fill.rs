//! Writes the content of files, in the order in which it lies in the packs.

use super::amend::Changes;
use super::differing::{Ahead, BLOCK, Density, differing, read_up_to};
use super::layout;
use super::plan::{Batch, Job};
use super::redo;
use super::reuse::{Missing, Old, old_handles};
use super::site::{self, Handles, Site};
use crate::{BlobId, BlobKind, Error, Node, Repository, parallel};
use model::{CancelToken, Progress};
use rustix::fs::{Advice, AtFlags};
use std::collections::HashMap;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Files that stay open between the parts that are written to them.
const MAX_OPEN: usize = 200;
/// Changed files of this size begin to go to the disk before the others are written.
const EARLY: u64 = 1 << 20;
/// Shorter runs of zeros are written: a hole for each would only make the file slower to read.
const MIN_HOLE: usize = 32 << 10;

pub(super) struct Filler<'a> {
    pub(super) repository: &'a Repository,
    pub(super) site: &'a Site,
    pub(super) old: Option<&'a Old>,
    /// The changes of a copy that stays where it is.
    pub(super) changes: Option<&'a Changes>,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a CancelToken,
    pub(super) fetched_bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) linked_files: AtomicU64,
    pub(super) cloned_files: AtomicU64,
    pub(super) patched_files: AtomicU64,
    pub(super) open: AtomicUsize,
    /// Of all files together.
    density: Density,
}

/// Where a blob goes: a file of the batch, and the offset in it.
type Wanted = HashMap<BlobId, Vec<(usize, u64)>>;

impl<'a> Filler<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        site: &'a Site,
        old: Option<&'a Old>,
        progress: &'a dyn Progress,
        cancel: &'a CancelToken,
    ) -> Filler<'a> {
        Filler {
            repository,
            site,
            old,
            changes: None,
            progress,
            cancel,
            fetched_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            linked_files: AtomicU64::new(0),
            cloned_files: AtomicU64::new(0),
            patched_files: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            density: Density::default(),
        }
    }

    /// Writes only what is new in a copy that stays where it is.
    pub(super) fn amending(self, changes: &'a Changes) -> Filler<'a> {
        Filler { changes: Some(changes), ..self }
    }

    /// Writes a batch's files and makes its links.
    pub(super) fn batch(&self, batch: &Batch) -> Result<(), Error> {
        let wanted = self.begin(batch)?;
        self.fetch(batch, &wanted)?;
        self.links(batch)
    }

    /// Writes what needs nothing from the repository, and finds out what the rest needs.
    fn begin(&self, batch: &Batch) -> Result<Wanted, Error> {
        let missing: Mutex<Vec<(usize, Missing)>> = Mutex::default();
        parallel::for_each(&slices(&batch.jobs), parallel::readers(), |(first, jobs)| {
            let mut handles = Handles::new(self.site, &self.site.base);
            let mut old = self.old.map(|old| (old, old_handles(self.site, old)));
            for (i, job) in jobs.iter().enumerate() {
                self.check()?;
                let rest = if job.node.content.is_empty() {
                    self.empty(job, &mut handles)?;
                    None
                } else if job.stands {
                    self.differing(job, &mut handles)?
                } else if let Some((old, old_handles)) = &mut old {
                    self.reuse(old, job, &mut handles, old_handles)?
                } else {
                    Some(self.offsets(job)?)
                };
                if let Some(rest) = rest {
                    let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
                    missing.push((first + i, rest));
                }
            }
            Ok::<(), Error>(())
        })?;
        let mut wanted = Wanted::new();
        for (job, rest) in missing.into_inner().unwrap_or_else(PoisonError::into_inner) {
            for (id, at) in rest {
                wanted.entry(id).or_default().push((job, at));
            }
        }
        Ok(wanted)
    }

    /// The blobs of a file and where each goes. They must be as long together as the file.
    pub(super) fn offsets(&self, job: &Job) -> Result<Missing, Error> {
        let (offsets, at) = layout::of(&job.node.content, |id| self.length(id))
            .map_err(|e| self.of_file(job, e))?;
        if at == job.node.size {
            return Ok(offsets);
        }
        let what = format!("its blobs have {at} bytes, and it should have {}", job.node.size);
        Err(self.of_file(job, Error::damaged("its node", what)))
    }

    /// Says which file an error is about.
    fn of_file(&self, job: &Job, error: Error) -> Error {
        match error {
            Error::Damaged { .. } | Error::Missing(_) => {
                let path = self.site.path(job.dir, &job.node.name);
                Error::damaged(format!("the content of {}", path.display()), error)
            }
            error => error,
        }
    }

    /// Reads what is wanted pack by pack, the packs in the order of the files.
    fn fetch(&self, batch: &Batch, wanted: &Wanted) -> Result<(), Error> {
        let mut reads = self.repository.plan_reads(BlobKind::Data, wanted.keys().copied())?;
        let first_file = |read: &crate::PackRead| {
            let files = read.blobs.iter().filter_map(|(id, _)| wanted.get(id)?.first());
            files.map(|(file, _)| *file).min()
        };
        reads.sort_by_cached_key(first_file);
        parallel::for_each(&reads, parallel::readers(), |read| -> Result<(), Error> {
            let mut handles = Handles::new(self.site, &self.site.base);
            let mut before = Vec::new();
            let mut ahead = Ahead::default();
            self.repository.read_pack(read, &mut |id, bytes| {
                self.check()?;
                if self.old.is_some() {
                    let ask = |id: &BlobId| self.read_ahead(id, batch, wanted, &mut handles);
                    ahead.behind(&read.blobs, id, ask)?;
                }
                let places = wanted.get(id).map_or(&[][..], Vec::as_slice);
                let first = places.first().and_then(|(job, _)| batch.jobs.get(*job));
                let bytes = bytes.map_err(|e| match first {
                    Some(job) => self.of_file(job, e),
                    None => e,
                })?;
                self.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                for (job, at) in places {
                    let Some(job) = batch.jobs.get(*job) else { continue };
                    let dir = handles
                        .get(job.dir)
                        .map_err(|e| self.site.error("write", job.dir, &job.node.name, e))?;
                    self.write_at(&*self.file(job, dir)?, job, *at, bytes, &mut before)?;
                    self.wrote(job, dir, 1)?;
                }
                Ok(())
            })
        })
    }

    /// Asks for what a blob is going to be compared with, and says how long it is. It is only advice.
    fn read_ahead(
        &self,
        id: &BlobId,
        batch: &Batch,
        wanted: &Wanted,
        handles: &mut Handles<'_>,
    ) -> Result<u64, Error> {
        let length = self.length(id)?;
        for (job, at) in wanted.get(id).map_or(&[][..], Vec::as_slice) {
            let Some(job) = batch.jobs.get(*job) else { continue };
            let is_there =
                job.patched.load(Ordering::Relaxed) || job.cloned.load(Ordering::Relaxed);
            if is_there && job.density.pays(&self.density) {
                let failed = |e| self.site.error("write", job.dir, &job.node.name, e);
                let file = self.file(job, handles.get(job.dir).map_err(failed)?)?;
                let _ = rustix::fs::fadvise(&*file, *at, NonZeroU64::new(length), Advice::WillNeed);
            }
        }
        Ok(length)
    }

    fn empty(&self, job: &Job, handles: &mut Handles<'_>) -> Result<(), Error> {
        if job.node.size > 0 {
            let what = format!("it has no blobs, and should have {} bytes", job.node.size);
            return Err(self.of_file(job, Error::damaged("its node", what)));
        }
        let failed = |e| self.site.error("write", job.dir, &job.node.name, e);
        let dir = handles.get(job.dir).map_err(failed)?;
        let file = self.file(job, dir)?;
        self.finish(job, &file)
    }

    /// The open file of a job; it is made when it is first asked for.
    pub(super) fn file(&self, job: &Job, dir: BorrowedFd<'_>) -> Result<Arc<OwnedFd>, Error> {
        let failed = |e| self.site.error("write", job.dir, &job.node.name, e);
        let mut opened = job.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &opened.file {
            return Ok(file.clone());
        }
        let stays = self.changes.is_some() && job.patched.load(Ordering::Relaxed);
        let file = if stays {
            self.file_of_old(job).map_err(failed)?
        } else if opened.exists {
            site::reopen_file(dir, &job.node.name).map_err(failed)?
        } else {
            let file = site::create_file(dir, &job.node.name).map_err(failed)?;
            if self.site.foreign {
                site::remove_inherited_acls(&file, 0o600).map_err(failed)?;
            }
            file
        };
        opened.exists = true;
        let file = Arc::new(file);
        if job.node.content.len() > 1 && self.open.load(Ordering::Relaxed) < MAX_OPEN {
            self.open.fetch_add(1, Ordering::Relaxed);
            opened.file = Some(file.clone());
        }
        Ok(file)
    }

    /// The file of the older copy, which is to be changed where it is.
    fn file_of_old(&self, job: &Job) -> io::Result<OwnedFd> {
        let old = self.old.ok_or(io::ErrorKind::NotFound)?;
        site::reopen_file(old_handles(self.site, old).get(job.dir)?, &job.node.name)
    }

    /// Writes bytes of a file, leaving long runs of zeros out; of one that began as a clone, or that
    /// is to be changed in its place, what differs, as far as that is [worth a look](Density). What is
    /// there is read into `before`.
    pub(super) fn write_at(
        &self,
        file: &OwnedFd,
        job: &Job,
        at: u64,
        bytes: &[u8],
        before: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let failed = |e| self.site.error("write", job.dir, &job.node.name, e);
        let patched = job.patched.load(Ordering::Relaxed);
        if patched || job.cloned.load(Ordering::Relaxed) {
            let runs = if job.density.is_worth_a_look(&self.density) || has_hole(bytes, at) {
                before.resize(bytes.len(), 0);
                read_up_to(file, before, bytes, at).map_err(failed)?;
                let runs = differing(before, bytes, at);
                let differed = runs.iter().map(Range::len).sum();
                job.density.note(bytes.len(), differed);
                self.density.note(bytes.len(), differed);
                runs
            } else {
                std::iter::once(0..bytes.len()).collect()
            };
            for run in runs {
                let (bytes, at) = (&bytes[run.clone()], at + run.start as u64);
                self.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                match self.redo().filter(|_| patched) {
                    Some(redo) => {
                        redo.range(&self.site.below(job.dir, &job.node.name), at, bytes)?
                    }
                    None => write_all(file, bytes, at).map_err(failed)?,
                }
            }
        } else {
            let mut rest = bytes;
            let mut at = at;
            while !rest.is_empty() {
                let (data, hole) = split_at_hole(rest, at);
                write_all(file, &rest[..data], at).map_err(failed)?;
                self.written_bytes.fetch_add(data as u64, Ordering::Relaxed);
                if hole > 0 {
                    job.holes.store(true, Ordering::Relaxed);
                }
                rest = &rest[data + hole..];
                at += (data + hole) as u64;
            }
        }
        self.done(0, bytes.len() as u64);
        Ok(())
    }

    /// Notes that blobs of a file were written, and finishes it with the last one.
    pub(super) fn wrote(&self, job: &Job, dir: BorrowedFd<'_>, blobs: usize) -> Result<(), Error> {
        if job.left.fetch_sub(blobs, Ordering::AcqRel) == blobs {
            let file = self.file(job, dir)?;
            self.finish(job, &file)?;
        }
        Ok(())
    }

    fn finish(&self, job: &Job, file: &OwnedFd) -> Result<(), Error> {
        let failed = |e| self.site.error("finish", job.dir, &job.node.name, e);
        match self.redo().filter(|_| job.patched.load(Ordering::Relaxed)) {
            Some(redo) => {
                redo.attributes(&self.site.below(job.dir, &job.node.name), &job.node)?;
            }
            None => {
                if job.holes.load(Ordering::Relaxed) || job.cloned.load(Ordering::Relaxed) {
                    rustix::fs::ftruncate(file, job.node.size).map_err(|e| failed(e.into()))?;
                }
                if job.stands {
                    site::remove_other_xattrs(file.as_fd(), &job.node).map_err(failed)?;
                }
                self.site.give_attributes(file.as_fd(), &job.node).map_err(failed)?;
                if self.old.is_some() && job.node.size >= EARLY {
                    // Begins to write it out, which whoever makes all of it durable would wait for
                    // later. It is only advice.
                    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
                }
                self.takes(job.dir, &job.node)?;
            }
        }
        let mut opened = job.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.file.take().is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        self.done(1, 0);
        Ok(())
    }

    /// Notes that what was staged belongs in its place in a copy that stays where it is.
    fn takes(&self, dir: usize, node: &Node) -> Result<(), Error> {
        match self.changes.filter(|_| !self.site.is_fresh(dir)) {
            Some(changes) => changes.redo.take(&self.site.below(dir, &node.name), node),
            None => Ok(()),
        }
    }

    pub(super) fn redo(&self) -> Option<&redo::Writer> {
        match self.changes {
            Some(changes) => Some(&changes.redo),
            None => self.old.and_then(|old| old.redo.as_ref()),
        }
    }

    fn links(&self, batch: &Batch) -> Result<(), Error> {
        let mut handles = Handles::new(self.site, &self.site.base);
        let mut from = Handles::new(self.site, &self.site.base);
        for link in &batch.links {
            self.check()?;
            let name = link.node.name.as_slice();
            let failed = |e| self.site.error("make the link", link.dir, name, e);
            let (to_dir, to_name) = &link.to;
            let to_dir = from.get(*to_dir).map_err(failed)?;
            let dir = handles.get(link.dir).map_err(failed)?;
            rustix::fs::linkat(to_dir, to_name.as_slice(), dir, name, AtFlags::empty())
                .map_err(|e| failed(e.into()))?;
            self.takes(link.dir, &link.node)?;
            self.done(1, 0);
        }
        Ok(())
    }

    pub(super) fn done(&self, files: u64, bytes: u64) {
        self.progress.advance(files, bytes);
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// What one thread takes at once: so many small files that what it needs for them is shared, and no more
/// of large ones than others could do meanwhile.
fn slices(jobs: &[Job]) -> Vec<(usize, &[Job])> {
    const FILES: usize = 64;
    const BLOBS: usize = 256;
    let mut slices = Vec::new();
    let (mut first, mut blobs) = (0, 0);
    for (number, job) in jobs.iter().enumerate() {
        blobs += job.node.content.len();
        // A file that is read to be compared is much work.
        if job.stands || number + 1 - first == FILES || blobs >= BLOBS {
            slices.push((first, &jobs[first..=number]));
            (first, blobs) = (number + 1, 0);
        }
    }
    if first < jobs.len() {
        slices.push((first, &jobs[first..]));
    }
    slices
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                at += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// How many bytes come before the next hole, and how long the hole is. `at` is where they go.
fn split_at_hole(bytes: &[u8], at: u64) -> (usize, usize) {
    let into_block = usize::try_from(at % BLOCK as u64).unwrap_or(0);
    let mut start = (BLOCK - into_block) % BLOCK;
    let mut end = start;
    while end < bytes.len() {
        let next = (end + BLOCK).min(bytes.len());
        if is_zero(&bytes[end..next]) {
            end = next;
            continue;
        }
        if end - start >= MIN_HOLE {
            return (start, end - start);
        }
        start = next;
        end = next;
    }
    if end.saturating_sub(start) >= MIN_HOLE { (start, end - start) } else { (bytes.len(), 0) }
}

/// Whether there are zeros of which nothing need be written where a file has none there already.
fn has_hole(bytes: &[u8], at: u64) -> bool {
    split_at_hole(bytes, at).1 > 0
}

fn is_zero(block: &[u8]) -> bool {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    ZEROS.get(..block.len()).is_some_and(|zeros| zeros == block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_aligned_runs_of_zeros_are_holes() {
        let mut bytes = vec![1; 200_000];
        assert_eq!(split_at_hole(&bytes, 0), (200_000, 0));
        bytes[10_000..90_000].fill(0);
        assert_eq!(split_at_hole(&bytes, 0), (12_288, 86_016 - 12_288));
        // Elsewhere in the file the blocks begin elsewhere.
        assert_eq!(split_at_hole(&bytes, 96), (12_288 - 96, 86_016 - 12_288));
        bytes[10_000..30_000].fill(1);
        bytes[40_000..].fill(1);
        assert_eq!(split_at_hole(&bytes, 0), (200_000, 0));
        // The end need not be aligned.
        assert_eq!(split_at_hole(&vec![0; 100_001], 0), (0, 100_001));
        assert_eq!(split_at_hole(&[0; 100], 0), (100, 0));
        assert_eq!(split_at_hole(&[], 5), (0, 0));
    }
}
