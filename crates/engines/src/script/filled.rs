//! Tells whether anybody has written to a directory, without asking a clock: two looks at names,
//! inodes, sizes and change times of all that is in it are equal, or something was written.

use crate::Error;
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How coarse the change times of file systems are, with room to spare: the kernel stamps with its
/// tick.
const TICK: Duration = Duration::from_millis(20);

/// One look.
#[derive(Debug)]
pub(super) struct Fingerprint {
    /// Regular files in the directory.
    pub(super) files: u64,
    /// Sums over all entries, because a directory has no order.
    sums: [u64; 4],
    newest: Option<Duration>,
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.sums == other.sums
    }
}

impl Fingerprint {
    /// Looks at everything in the directory.
    pub(super) fn of(dir: &Path) -> Result<Self, Error> {
        let mut seen = Fingerprint { files: 0, sums: [0; 4], newest: None };
        let mut waiting: Vec<PathBuf> = vec![dir.to_owned()];
        while let Some(path) = waiting.pop() {
            let failed = |e| Error::io("read", path.display(), e);
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                // Removed while we look: the next look finds it gone.
                Err(e) if e.kind() == io::ErrorKind::NotFound && path != dir => continue,
                Err(e) => return Err(failed(e)),
            };
            seen.add(&path, &meta);
            if meta.is_dir() {
                for entry in fs::read_dir(&path).map_err(failed)? {
                    waiting.push(entry.map_err(failed)?.path());
                }
            }
        }
        Ok(seen)
    }

    /// A file written again within the same tick of the clock would look untouched. So whoever
    /// looks before a write lets the tick of the newest change pass.
    pub(super) fn let_time_pass(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.newest.is_some_and(|newest| newest + TICK > now) {
            std::thread::sleep(TICK);
        }
    }

    fn add(&mut self, path: &Path, meta: &fs::Metadata) {
        self.files += u64::from(meta.is_file());
        let changed = u64::try_from(meta.ctime())
            .map(|s| Duration::new(s, u32::try_from(meta.ctime_nsec()).unwrap_or(0)));
        self.newest = self.newest.max(changed.ok());
        let mut hash = Sha256::new();
        hash.update(path.as_os_str().as_bytes());
        hash.update([0]);
        for number in [meta.dev(), meta.ino(), meta.size(), u64::from(meta.mode())] {
            hash.update(number.to_le_bytes());
        }
        hash.update(meta.ctime().to_le_bytes());
        hash.update(meta.ctime_nsec().to_le_bytes());
        let digest = hash.finalize();
        for (sum, part) in self.sums.iter_mut().zip(digest.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(part);
            *sum = sum.wrapping_add(u64::from_le_bytes(word));
        }
    }
}
