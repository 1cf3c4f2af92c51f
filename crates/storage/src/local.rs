//! A directory of this machine.

use crate::key::check_prefix;
use crate::{Entry, Error, ErrorKind, Key, Put, Storage, Whereabouts};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Temporary files carry this in their name and are never listed.
pub(crate) const TEMPORARY: &str = ".mainstay-tmp-";

/// What is kept back for the day when the disk is full. No key has such a name, so nobody ever sees it
/// in a listing.
const RESERVE: &str = ".mainstay~reserve";
/// Its length: locks, a state and the indexes of some hundred thousand blobs. A disk with less free than
/// so many times that is not made smaller by it.
const RESERVE_BYTES: u64 = 8 << 20;
const RESERVE_TIMES: u64 = 8;

/// A temporary file that was not written to for so long has lost its writer.
const LEFTOVER_AGE_SECS: i64 = 24 * 60 * 60;

/// Objects as files below a root directory.
///
/// A put writes a temporary file beside its target, syncs it, renames it, and syncs the directory;
/// directories are synced into their parents first. So after a crash an object is there whole or
/// not at all, and one that was reported stored is there.
///
/// The root may be where a disk is mounted. Once it was seen, it must stay there and on the same
/// device: when it is unmounted under us, what is left is an error and not an empty vault, and
/// nothing is written to the disk beneath.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
    /// The device of the root when it was first seen.
    device: OnceLock<u64>,
    /// Directories whose names are known to be durable, so that each is synced once.
    durable: Mutex<HashSet<PathBuf>>,
    /// What was kept back was given up here, and is wanted back as soon as it fits.
    gave_up: AtomicBool,
}

impl Local {
    /// Opens a root directory. It need not exist yet; the first put makes it.
    pub fn open(root: impl AsRef<Path>) -> Result<Local, Error> {
        let root = root.as_ref();
        if root.as_os_str().is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "vault", "the path is empty"));
        }
        let root =
            std::path::absolute(root).map_err(|e| Error::io(root.display(), "resolve", e))?;
        let local = Local {
            root,
            device: OnceLock::new(),
            durable: Mutex::default(),
            gave_up: AtomicBool::new(false),
        };
        local.root_exists()?;
        Ok(local)
    }

    /// Whether the root is there; an error if it was, and is not any more.
    fn root_exists(&self) -> Result<bool, Error> {
        let gone = |what: &str| {
            let message = format!("{what}; is its disk still mounted?");
            Err(Error::new(ErrorKind::Unavailable, self.root.display(), message))
        };
        match fs::metadata(&self.root) {
            Ok(meta) if !meta.is_dir() => {
                Err(Error::new(ErrorKind::Invalid, self.root.display(), "not a directory"))
            }
            Ok(meta) if *self.device.get_or_init(|| meta.dev()) == meta.dev() => Ok(true),
            Ok(_) => gone("this directory is on another device than before"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => match self.device.get() {
                None => Ok(false),
                Some(_) => gone("this directory has vanished"),
            },
            Err(e) => Err(Error::io(self.root.display(), "look at", e)),
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn open_file(&self, path: &Path) -> io::Result<(File, Metadata)> {
        // Without O_NONBLOCK, a FIFO that somebody put there would hold us for ever.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let meta = file.metadata()?;
        if meta.is_file() {
            Ok((file, meta))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
    }

    /// Makes the directory and each missing one above it, and syncs every name that this instance
    /// has not synced yet: another process may have made it and not have come to that.
    fn make_dir(&self, dir: &Path) -> Result<(), Error> {
        if self.durable().contains(dir) {
            return Ok(());
        }
        // Never in the place of a root that was there: its disk is not mounted any more.
        if dir == self.root && self.root_exists()? {
            return Ok(());
        }
        if !dir.starts_with(&self.root) && dir.is_dir() {
            return Ok(());
        }
        let Some(parent) = dir.parent() else { return Ok(()) };
        self.make_dir(parent)?;
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                self.root_exists()?;
                return Err(Error::io(dir.display(), "make this directory", e));
            }
        }
        sync_dir(parent)?;
        self.durable().insert(dir.to_owned());
        Ok(())
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an empty temporary file beside `path`.
    fn begin(&self, path: &Path) -> Result<(Staged, File), Error> {
        self.root_exists()?;
        let dir = path.parent().unwrap_or(&self.root);
        self.make_dir(dir)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| {
            Error::new(ErrorKind::Failed, path.display(), format!("no random bytes: {e}"))
        })?;
        let name = dir.join(format!("{TEMPORARY}{}", hex::encode(random)));
        let create = || File::options().write(true).create_new(true).open(&name);
        let file = match create() {
            // Somebody removed the directory since we made it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.durable().clear();
                self.make_dir(dir)?;
                create()
            }
            result => result,
        }
        .map_err(|e| Error::io(path.display(), "write", e))?;
        Ok((Staged(name), file))
    }

    /// Begins an object that is written piece by piece.
    pub(crate) fn upload(&self, key: &Key) -> Result<Upload, Error> {
        let path = self.path(key);
        let (staged, file) = self.begin(&path)?;
        Ok(Upload { staged, file, path })
    }

    /// The object's file, for who reads it piece by piece, and its length.
    pub(crate) fn object(&self, key: &Key) -> Result<(File, u64), Error> {
        let path = self.path(key);
        let (file, meta) =
            self.open_file(&path).map_err(|e| Error::io(path.display(), "read", e))?;
        Ok((file, meta.len()))
    }

    /// All regular files below a prefix, ours or not.
    fn walk(&self, prefix: &str) -> Result<Vec<Found>, Error> {
        check_prefix(prefix)?;
        if !self.root_exists()? {
            let message = "there is no vault: this directory does not exist; is its disk mounted?";
            return Err(Error::new(ErrorKind::NotFound, self.root.display(), message));
        }
        let mut found = Vec::new();
        // Each directory once, and none above the prefix: links can make loops.
        let start = self.root.join(prefix);
        let above = start.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.root));
        let mut seen: HashSet<(u64, u64)> =
            above.filter_map(|dir| fs::metadata(dir).ok()).map(|m| (m.dev(), m.ino())).collect();
        let mut open = vec![(start, prefix.to_owned())];
        while let Some((dir, name)) = open.pop() {
            let opened = fs::metadata(&dir).and_then(|meta| Ok((fs::read_dir(&dir)?, meta)));
            let (items, meta) = match opened {
                Ok(opened) => opened,
                Err(e) if is_absence(&e) => continue,
                Err(e) => return Err(Error::io(dir.display(), "list", e)),
            };
            if !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            for item in items {
                let item = item.map_err(|e| Error::io(dir.display(), "list", e))?;
                let (path, file_name) = (item.path(), item.file_name());
                let Some(file_name) = file_name.to_str() else { continue };
                let name = if name.is_empty() {
                    file_name.to_owned()
                } else {
                    format!("{name}/{file_name}")
                };
                // Followed, because people move parts of a vault to other disks by symbolic links.
                let meta = match fs::metadata(&path) {
                    Ok(meta) => meta,
                    // Removed by somebody else since the directory was read.
                    Err(e) if is_absence(&e) => continue,
                    Err(e) => return Err(Error::io(path.display(), "look at", e)),
                };
                if meta.is_file() {
                    found.push(Found { name, size_bytes: meta.len(), mtime: meta.mtime() });
                } else if meta.is_dir() && Key::new(&name).is_ok() {
                    open.push((path, name));
                }
            }
        }
        // Unmounted while we looked: then what was seen is not all there is.
        self.root_exists()?;
        Ok(found)
    }
}

/// A file in a walk.
struct Found {
    /// Path below the root.
    name: String,
    size_bytes: u64,
    /// Seconds, by the clock of the file system.
    mtime: i64,
}

fn is_absence(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A temporary file, removed unless it was renamed away.
#[derive(Debug)]
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An object that is being written. Nothing of it is visible before it is put in place, and nothing
/// remains of one that is dropped.
#[derive(Debug)]
pub(crate) struct Upload {
    staged: Staged,
    file: File,
    path: PathBuf,
}

impl Upload {
    /// Adds bytes at the end.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|e| Error::io(self.path.display(), "write", e))
    }

    /// Puts the object in place, durable, replacing one of the same key.
    pub(crate) fn replace(self) -> Result<(), Error> {
        self.sync()?;
        fs::rename(&self.staged.0, &self.path)
            .map_err(|e| Error::io(self.path.display(), "put in place", e))?;
        self.sync_dir()
    }

    /// Puts the object in place, durable, unless there is one of the same key.
    pub(crate) fn create(&self) -> Result<Put, Error> {
        self.sync()?;
        // link(2) fails if the name exists, whoever made it: the compare-and-set of a directory.
        let put = match fs::hard_link(&self.staged.0, &self.path) {
            Ok(()) => Put::Created,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Put::Exists,
            Err(e) => return Err(Error::io(self.path.display(), "put in place", e)),
        };
        // Also if it exists: whoever made it may have died before the name was durable, and who is
        // told that it exists counts on it.
        self.sync_dir()?;
        Ok(put)
    }

    fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|e| Error::io(self.path.display(), "write", e))
    }

    fn sync_dir(&self) -> Result<(), Error> {
        sync_dir(self.path.parent().unwrap_or(Path::new("/")))
    }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(dir.display(), "sync this directory", e))
}

/// Makes an empty file take so much of the disk.
fn take_space(file: &File, bytes: u64) -> io::Result<()> {
    let taken = |file: &File| -> io::Result<u64> { Ok(file.metadata()?.blocks() * 512) };
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) if taken(file)? >= bytes => return Ok(()),
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(e) => return Err(e.into()),
    }
    // Bytes that no file system makes less of.
    let mut block = vec![0; 1 << 20];
    getrandom::fill(&mut block).map_err(|e| io::Error::other(format!("no random bytes: {e}")))?;
    let mut file = file;
    file.rewind()?;
    (0..bytes.div_ceil(1 << 20)).try_for_each(|_| file.write_all(&block))
}

impl Storage for Local {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn writers(&self) -> usize {
        // While one is made durable.
        2
    }

    fn request_bytes(&self) -> u32 {
        1 << 20
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        let path = self.path(key);
        let read = || -> io::Result<Vec<u8>> {
            let (mut file, meta) = self.open_file(&path)?;
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(usize::try_from(meta.len()).unwrap_or(usize::MAX))?;
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|e| Error::io(path.display(), "read", e))
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.read_range_into(key, offset, length, &mut bytes)?;
        Ok(bytes)
    }

    fn read_range_into(
        &self,
        key: &Key,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let path = self.path(key);
        let mut read = || -> io::Result<()> {
            let (mut file, meta) = self.open_file(&path)?;
            let size = meta.len();
            // Asked before allocating: a length that comes from damaged bytes may be anything.
            if offset.checked_add(length as u64).is_none_or(|end| end > size) {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{length} bytes from {offset} of {size}"),
                ));
            }
            file.seek(SeekFrom::Start(offset))?;
            if buffer.capacity() < length {
                // The system's zeros cost less than ours.
                *buffer = vec![0; length];
            }
            buffer.resize(length, 0);
            file.read_exact(buffer)
        };
        read().map_err(|e| Error::io(path.display(), "read", e))
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        let path = self.path(key);
        let meta = fs::metadata(&path).map_err(|e| Error::io(path.display(), "look at", e))?;
        Ok(meta.len())
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        let mut upload = self.upload(key)?;
        upload.write(bytes)?;
        upload.replace()
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        let mut upload = self.upload(key)?;
        upload.write(bytes)?;
        upload.create()
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = self
            .walk(prefix)?
            .into_iter()
            .filter_map(|found| {
                let key = Key::new(found.name).ok()?;
                Some(Entry { key, size_bytes: found.size_bytes })
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.delete_all(std::slice::from_ref(key))
    }

    fn delete_all(&self, keys: &[Key]) -> Result<(), Error> {
        // A directory is made durable once, and also if it is the last thing that succeeds.
        let mut touched = BTreeSet::new();
        let mut remove = |key: &Key| {
            let path = self.path(key);
            match fs::remove_file(&path) {
                Ok(()) => {
                    touched.insert(path.parent().unwrap_or(&self.root).to_owned());
                    Ok(())
                }
                Err(e) if is_absence(&e) => Ok(()),
                Err(e) => Err(Error::io(path.display(), "remove", e)),
            }
        };
        let removed = keys.iter().try_for_each(&mut remove);
        touched.iter().try_for_each(|dir| sync_dir(dir))?;
        removed
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        let existing = self.root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        let stat = rustix::fs::statvfs(existing)
            .map_err(|e| Error::io(existing.display(), "ask for free space of", e.into()))?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    fn keep_reserve(&self) -> Result<(), Error> {
        let path = self.root.join(RESERVE);
        if !self.root_exists()? || path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let times = if self.gave_up.load(Ordering::Relaxed) { 1 } else { RESERVE_TIMES };
        if self.free_bytes()?.is_none_or(|free| free < RESERVE_BYTES * times) {
            return Ok(());
        }
        let (staged, file) = self.begin(&path)?;
        take_space(&file, RESERVE_BYTES)
            .map_err(|e| Error::io(path.display(), "keep space for", e))?;
        // Of several at once, one is enough.
        Upload { staged, file, path }.create()?;
        self.gave_up.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn give_up_reserve(&self) -> Result<bool, Error> {
        let path = self.root.join(RESERVE);
        match fs::remove_file(&path) {
            // Only what is durable is free on every file system.
            Ok(()) => {
                self.gave_up.store(true, Ordering::Relaxed);
                sync_dir(&self.root).map(|()| true)
            }
            Err(e) if is_absence(&e) => Ok(false),
            Err(e) => Err(Error::io(path.display(), "remove", e)),
        }
    }

    fn remove_leftovers(&self, prefix: &str) -> Result<u64, Error> {
        let found = self.walk(prefix)?;
        let is_temporary = |found: &&Found| {
            found.name.rsplit('/').next().is_some_and(|name| name.starts_with(TEMPORARY))
        };
        let mut temporaries = found.iter().filter(is_temporary).peekable();
        if temporaries.peek().is_none() {
            return Ok(0);
        }
        // The time of a file that is made now: the clock of a network disk is not ours.
        let (probe, _) = self.begin(&self.root.join("probe"))?;
        let now =
            fs::metadata(&probe.0).map_err(|e| Error::io(probe.0.display(), "look at", e))?.mtime();
        let mut removed = 0;
        for found in temporaries {
            if now.saturating_sub(found.mtime) >= LEFTOVER_AGE_SECS {
                let path = self.root.join(&found.name);
                match fs::remove_file(&path) {
                    Ok(()) => removed += 1,
                    Err(e) if is_absence(&e) => {}
                    Err(e) => return Err(Error::io(path.display(), "remove", e)),
                }
            }
        }
        Ok(removed)
    }

    /// `link(2)` makes one name once.
    fn needs_proof(&self) -> bool {
        false
    }

    fn shows_at_once(&self, prefix: &str) -> bool {
        Whereabouts::of(&self.root.join(prefix)) == Whereabouts::Here
    }

    /// Read from the root alone: a vault may hold many files.
    fn first_parts(&self) -> Result<Vec<String>, Error> {
        if !self.root_exists()? {
            return self.walk("").map(|_| Vec::new());
        }
        let failed = |e| Error::io(self.root.display(), "list", e);
        let mut parts = Vec::new();
        for item in fs::read_dir(&self.root).map_err(failed)? {
            let name = item.map_err(failed)?.file_name();
            parts.extend(name.to_str().filter(|name| Key::new(*name).is_ok()).map(str::to_owned));
        }
        parts.sort_unstable();
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is about to be written when a vault goes away makes none in its place.
    #[test]
    fn no_directory_is_made_in_the_place_of_a_root_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("vault");
        let local = Local::open(&root).unwrap();
        // The first one makes it.
        local.make_dir(&root.join("data/00")).unwrap();
        assert!(local.root_exists().unwrap());
        fs::rename(&root, dir.path().join("away")).unwrap();
        for known in [true, false] {
            if !known {
                local.durable().clear();
            }
            let error = local.make_dir(&root.join("data/01")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(!root.exists());
        }
    }
}
