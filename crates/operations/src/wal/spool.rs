//! The directory into which the server's own program receives the log, before it is in the vault.
//!
//! That program names a segment `NAME.partial`, in its full length, as long as it writes to it, and
//! `NAME` when it is whole and durable. Where it goes on after a pause it tells by the newest file.

use crate::Error;
use engines::postgres::{Lsn, Segments, WalFile};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What is in it.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Histories of timelines.
    pub(super) histories: Vec<String>,
    /// Whole segments, in the order of timeline and place.
    pub(super) whole: Vec<String>,
    /// The segment that is written to: its name without the suffix.
    pub(super) partial: Option<String>,
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    pub(super) dir: PathBuf,
}

impl Spool {
    pub(super) fn open(dir: &Path) -> Result<Spool, Error> {
        crate::member::private_dir(dir).map_err(|e| Error::io("make the directory", dir, e))?;
        Ok(Spool { dir: dir.to_owned() })
    }

    pub(super) fn list(&self) -> Result<Content, Error> {
        let failed = |e| Error::io("list", &self.dir, e);
        let mut content = Content::default();
        let mut partial = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            match WalFile::parse(name) {
                Some(WalFile::History { .. }) => content.histories.push(name.to_owned()),
                Some(WalFile::Segment { .. }) => content.whole.push(name.to_owned()),
                Some(WalFile::Partial) => {
                    partial.push(name.trim_end_matches(".partial").to_owned())
                }
                Some(WalFile::Backup) | None => {}
            }
        }
        content.histories.sort();
        content.whole.sort();
        // An older one was left behind where a timeline ended: its successor begins with its bytes.
        content.partial = partial.into_iter().max();
        Ok(content)
    }

    /// Where a stream that goes on from here begins: its timeline and the segment's start; none if
    /// there is nothing to go on from.
    pub(super) fn next(&self, segments: Segments) -> Result<Option<(u32, Lsn)>, Error> {
        let content = self.list()?;
        let place = |name: &String| match WalFile::parse(name) {
            Some(WalFile::Segment { timeline, place }) => {
                Some((timeline, segments.start_of(place)?))
            }
            _ => None,
        };
        let partial = content.partial.as_ref().and_then(place);
        let after = content.whole.iter().filter_map(place).max_by_key(|(_, start)| *start);
        let after = after.map(|(timeline, start)| (timeline, Lsn(start.0 + segments.size())));
        Ok(partial.into_iter().chain(after).max_by_key(|(timeline, start)| (*start, *timeline)))
    }

    /// Where what is in it begins.
    pub(super) fn oldest(&self, segments: Segments) -> Result<Option<Lsn>, Error> {
        let content = self.list()?;
        let starts = content.whole.iter().chain(&content.partial).filter_map(|name| {
            match WalFile::parse(name) {
                Some(WalFile::Segment { place, .. }) => segments.start_of(place),
                _ => None,
            }
        });
        Ok(starts.min())
    }

    /// Makes the next stream begin with this segment. The program fills an empty file up.
    pub(super) fn seed(&self, name: &str) -> Result<(), Error> {
        let path = self.partial(name);
        File::create(&path).map(drop).map_err(|e| Error::io("make", &path, e))
    }

    /// Empties a segment of which only a beginning was made, since the disk was full. The program
    /// makes a segment in its full length before it writes anything into it, and refuses any other.
    pub(super) fn mend(&self, segments: Segments) -> Result<(), Error> {
        let Some(name) = self.list()?.partial else { return Ok(()) };
        let path = self.partial(&name);
        let failed = |e| Error::io("mend", &path, e);
        let length = std::fs::metadata(&path).map_err(failed)?.len();
        if length == 0 || length == segments.size() {
            return Ok(());
        }
        let file = File::options().write(true).open(&path).map_err(failed)?;
        file.set_len(0).and_then(|()| file.sync_all()).map_err(failed)
    }

    pub(super) fn partial(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.partial"))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path, e))
            }
            _ => Ok(()),
        }
    }

    /// Forgets everything. What was to be stored is.
    pub(super) fn clear(&self) -> Result<(), Error> {
        let content = self.list()?;
        for name in content.histories.iter().chain(&content.whole) {
            self.remove(name)?;
        }
        let failed = |e| Error::io("list", &self.dir, e);
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().filter(|name| name.ends_with(".partial")) {
                self.remove(name)?;
            }
        }
        Ok(())
    }
}
