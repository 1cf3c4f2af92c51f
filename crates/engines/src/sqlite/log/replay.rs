//! Brings frames back into a copy of a database.

use super::batch::Batch;
use super::frames::{Place, damaged};
use crate::Error;
use model::Class;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A copy into which frames are written. It is a database again only when the last frame of the plan
/// is in it, so it must be of no use to anybody before.
#[derive(Debug)]
pub struct Replay {
    path: PathBuf,
    file: File,
    page_size: u32,
    at: Option<Place>,
    pages: Option<u32>,
    /// The last frame that was written ended a commit.
    whole: bool,
    frames: u64,
}

/// Begins to replay into the copy at this path. Nobody else may have it open, and it may be no other
/// name of something else.
pub fn replay(copy: &Path) -> Result<Replay, Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(copy)
        .map_err(|e| Error::io("open", copy.display(), e))?;
    // What is written here would be written to whatever shares the file: a copy that is in use.
    if file.metadata().map_err(|e| Error::io("look at", copy.display(), e))?.nlink() > 1 {
        let what = format!("{} has another name, and is no copy of its own", copy.display());
        return Err(Error::new(Class::Failed, what));
    }
    let page_size = page_size(&file, copy)?;
    let path = copy.to_owned();
    Ok(Replay { path, file, page_size, at: None, pages: None, whole: true, frames: 0 })
}

impl Replay {
    /// Writes the frames of a batch up to the one with this number. Each batch has to go on where the
    /// one before ended, or overlap it.
    pub fn apply(&mut self, batch: &Batch, up_to: u32) -> Result<(), Error> {
        let header = batch.place.header;
        let page_size = self.page_size;
        if header.page_size != page_size {
            return Err(damaged(format!(
                "the log has pages of {} bytes, and {} has pages of {page_size}",
                header.page_size,
                self.path.display()
            )));
        }
        if let Some(at) = &self.at {
            let same = at.header == header;
            let joined = match (same, batch.place.frame) {
                (true, from) if from == at.frame => batch.place == *at,
                (true, from) => from < at.frame,
                (false, from) => {
                    from == 0 && batch.before == at.frame && header.follows(&at.header)
                }
            };
            if !joined {
                return Err(damaged("a part of the log does not go on where the one before ended"));
            }
        }
        let mut place = batch.place;
        for bytes in batch.each() {
            if place.frame >= up_to {
                break;
            }
            let frame =
                place.step(bytes).ok_or_else(|| damaged("a frame of the log is damaged"))?;
            if frame.page == header.lock_page() {
                return Err(damaged("the log writes to the page in which SQLite's locks lie"));
            }
            if let Some(at) = &self.at
                && at.header == header
                && at.frame == place.frame
                && at.sum != place.sum
            {
                return Err(damaged("two parts of the log contradict each other"));
            }
            let offset = u64::from(frame.page - 1) * u64::from(page_size);
            self.file.write_all_at(frame.content, offset).map_err(|e| self.failed(e))?;
            self.frames += 1;
            self.whole = frame.commit > 0;
            if self.whole {
                self.pages = Some(frame.commit);
            }
        }
        let further = self.at.is_none_or(|at| at.header != header || at.frame < place.frame);
        if further {
            self.at = Some(place);
        }
        Ok(())
    }

    /// Makes the copy as long as its last commit says, and durable. Answers how many frames were
    /// written.
    pub fn finish(self) -> Result<u64, Error> {
        if !self.whole {
            return Err(damaged("the log is cut within a commit"));
        }
        if let Some(pages) = self.pages {
            let length = u64::from(pages) * u64::from(self.page_size);
            self.file.set_len(length).map_err(|e| self.failed(e))?;
        }
        self.file.sync_all().map_err(|e| self.failed(e))?;
        Ok(self.frames)
    }

    fn failed(&self, e: io::Error) -> Error {
        Error::io("write", self.path.display(), e)
    }
}

/// As the database's own header says: two bytes at 16, where 1 stands for 65536.
fn page_size(file: &File, path: &Path) -> Result<u32, Error> {
    let mut head = [0; 2];
    match file.read_exact_at(&mut head, 16) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged(format!("{} is no database", path.display())));
        }
        other => other.map_err(|e| Error::io("read", path.display(), e))?,
    }
    Ok(match u16::from_be_bytes(head) {
        1 => 65536,
        size => u32::from(size),
    })
}
