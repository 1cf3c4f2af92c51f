//! A directory of this machine.

use crate::{Entry, Error, ErrorKind, Key, Put, Storage};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Temporary files carry this in their name and are never listed.
const TEMPORARY: &str = ".mainstay-tmp-";

/// Objects as files below a root directory.
///
/// A put writes a temporary file beside its target, syncs it, renames it, and syncs the directory;
/// directories that had to be made are synced into their parents first. So after a crash an object
/// is there whole or not at all, and one that was reported stored is there.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
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
        Ok(Local { root })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Makes the directory and each missing one above it, and syncs every new name.
    fn make_dir(&self, dir: &Path) -> Result<(), Error> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent();
        if let Some(parent) = parent {
            self.make_dir(parent)?;
        }
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io(dir.display(), "make this directory", e)),
        }
        if let Some(parent) = parent {
            sync_dir(parent)?;
        }
        Ok(())
    }

    /// Writes the bytes, durable, under a temporary name beside `path`.
    fn stage(&self, path: &Path, bytes: &[u8]) -> Result<Staged, Error> {
        let dir = path.parent().unwrap_or(&self.root);
        self.make_dir(dir)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| {
            Error::new(ErrorKind::Failed, path.display(), format!("no random bytes: {e}"))
        })?;
        let staged = Staged(dir.join(format!("{TEMPORARY}{}", hex::encode(random))));
        let write = || -> io::Result<()> {
            let mut file = File::options().write(true).create_new(true).open(&staged.0)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| Error::io(path.display(), "write", e))?;
        Ok(staged)
    }
}

/// A temporary file, removed unless it was renamed away.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(dir.display(), "sync this directory", e))
}

impl Storage for Local {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        let path = self.path(key);
        fs::read(&path).map_err(|e| Error::io(path.display(), "read", e))
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let path = self.path(key);
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&path)?;
            let size = file.metadata()?.len();
            // Asked before allocating: a length that comes from damaged bytes may be anything.
            if offset.checked_add(length as u64).is_none_or(|end| end > size) {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{length} bytes from {offset} of {size}"),
                ));
            }
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|e| Error::io(path.display(), "read", e))
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        let path = self.path(key);
        let meta = fs::metadata(&path).map_err(|e| Error::io(path.display(), "look at", e))?;
        Ok(meta.len())
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(key);
        let staged = self.stage(&path, bytes)?;
        fs::rename(&staged.0, &path).map_err(|e| Error::io(path.display(), "put in place", e))?;
        sync_dir(path.parent().unwrap_or(&self.root))
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        let path = self.path(key);
        let staged = self.stage(&path, bytes)?;
        // link(2) fails if the name exists, whoever made it: the compare-and-set of a directory.
        match fs::hard_link(&staged.0, &path) {
            Ok(()) => {
                sync_dir(path.parent().unwrap_or(&self.root))?;
                Ok(Put::Created)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Put::Exists),
            Err(e) => Err(Error::io(path.display(), "put in place", e)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let mut open = vec![(self.root.join(prefix), prefix.to_owned())];
        while let Some((dir, name)) = open.pop() {
            let items = match fs::read_dir(&dir) {
                Ok(items) => items,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io(dir.display(), "list", e)),
            };
            for item in items {
                let item = item.map_err(|e| Error::io(dir.display(), "list", e))?;
                let file_name = item.file_name();
                let Some(file_name) = file_name.to_str() else { continue };
                if file_name.starts_with(TEMPORARY) {
                    continue;
                }
                let full = if name.is_empty() {
                    file_name.to_owned()
                } else {
                    format!("{name}/{file_name}")
                };
                let meta = match item.metadata() {
                    Ok(meta) => meta,
                    // Removed by somebody else since the directory was read.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(Error::io(item.path().display(), "look at", e)),
                };
                if meta.is_dir() {
                    open.push((item.path(), full));
                } else if let Ok(key) = Key::new(full) {
                    entries.push(Entry { key, size_bytes: meta.len() });
                }
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(path.parent().unwrap_or(&self.root)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io(path.display(), "remove", e)),
        }
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        let existing = self.root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        let stat = rustix::fs::statvfs(existing)
            .map_err(|e| Error::io(existing.display(), "ask for free space of", e.into()))?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
}
