//! The log where its server writes it.
//!
//! What lies before the position up to which the server has flushed is never changed again, so it can
//! be read while the server writes on behind it. The one thing that can happen to a segment is that
//! the server has no more use for it, and renames it to be written once more as a later one.

use crate::Error;
use model::Class;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The largest history that is read: a line for each time that somebody took over.
const LONGEST_HISTORY: u64 = 1 << 20;

/// Where a server writes its log.
#[derive(Clone, Debug)]
pub struct Live {
    dir: PathBuf,
}

impl Live {
    pub(super) fn at(data_dir: &Path) -> Live {
        Live { dir: data_dir.join("pg_wal") }
    }

    /// Bytes of a segment that the server has flushed, in place of what the buffer had. Says no if the
    /// server does not have the segment, or has taken it away while it was read.
    pub fn read(
        &self,
        name: &str,
        from: u64,
        length: u64,
        into: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let path = self.dir.join(name);
        let failed = |e| Error::io("read the log", path.display(), e);
        let file = match File::open(&path) {
            Ok(file) => file,
            // A directory that is not there at all is no answer.
            Err(e) if e.kind() == ErrorKind::NotFound && self.dir.is_dir() => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        let meta = file.metadata().map_err(failed)?;
        if from.checked_add(length).is_none_or(|end| end > meta.len()) {
            return Err(Error::new(
                Class::Corrupt,
                format!("{} has {} bytes, too few", path.display(), meta.len()),
            ));
        }
        into.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        file.read_exact_at(into, from).map_err(failed)?;
        // Renamed first and written to afterwards: what still has its name had its bytes.
        match std::fs::metadata(&path) {
            Ok(now) => Ok((now.dev(), now.ino()) == (meta.dev(), meta.ino())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }

    /// The history of a timeline: its file's name, and what it says. The first has none.
    pub fn history(&self, timeline: u32) -> Result<Option<(String, Vec<u8>)>, Error> {
        let name = format!("{timeline:08X}.history");
        let path = self.dir.join(&name);
        let failed = |e| Error::io("read the history of the timeline", path.display(), e);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > LONGEST_HISTORY => Err(Error::new(
                Class::Corrupt,
                format!("{} has {} bytes, too many for a history", path.display(), meta.len()),
            )),
            Ok(_) => Ok(Some((name, std::fs::read(&path).map_err(failed)?))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Classify;

    const NAME: &str = "000000010000000000000001";

    #[test]
    fn bytes_are_read_where_they_lie() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("pg_wal")).expect("made");
        let live = Live::at(dir.path());
        let mut bytes = b"old".to_vec();
        assert!(!live.read(NAME, 0, 1, &mut bytes).expect("no error"));
        assert_eq!(live.history(2).expect("no error"), None);
        let path = dir.path().join("pg_wal").join(NAME);
        std::fs::write(&path, b"0123456789").expect("written");
        for (from, length, wanted) in [(2, 3, &b"234"[..]), (10, 0, b""), (0, 10, b"0123456789")] {
            assert!(live.read(NAME, from, length, &mut bytes).expect("read"));
            assert_eq!(bytes, wanted);
        }
        for (from, length) in [(10, 1), (0, 11), (u64::MAX, 1), (1, u64::MAX)] {
            let error = live.read(NAME, from, length, &mut bytes).expect_err("short");
            assert_eq!(error.class(), Class::Corrupt);
        }
        let away = Live::at(&dir.path().join("away"));
        assert!(away.read(NAME, 0, 1, &mut bytes).is_err(), "its directory is not there");
        std::fs::write(dir.path().join("pg_wal/00000002.history"), "1\t0/3000000\t\n").expect("w");
        let (name, text) = live.history(2).expect("read").expect("there");
        assert_eq!(
            (name.as_str(), text.as_slice()),
            ("00000002.history", &b"1\t0/3000000\t\n"[..])
        );
    }
}
