//! Writes small files so that they are whole, or not there.

use crate::failure::Failure;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and the call fails.
    Keep,
    /// It is replaced in one step.
    Replace,
}

/// Writes a file with this mode, durable on return, with the directories above it.
pub(crate) fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    existing: Existing,
) -> Result<(), Failure> {
    write_by(path, mode, existing, |file| {
        file.write_all(content).map_err(|e| Failure::io("write", path.display(), &e))
    })
}

/// Likewise, through a function that is given the open, still unnamed file.
pub(crate) fn write_by(
    path: &Path,
    mode: u32,
    existing: Existing,
    fill: impl FnOnce(&mut File) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |e: &io::Error| Failure::io("write", path.display(), e);
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir).map_err(|e| Failure::io("make the directory", dir.display(), &e))?;
    let (staged, mut file) = stage(path, mode).map_err(|e| failed(&e))?;
    fill(&mut file)?;
    file.sync_all().map_err(|e| failed(&e))?;
    match existing {
        // A link, unlike a rename, does not replace what is there.
        Existing::Keep => fs::hard_link(&staged.0, path).map_err(|e| failed(&e))?,
        Existing::Replace => fs::rename(&staged.0, path).map_err(|e| failed(&e))?,
    }
    drop(staged);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| failed(&e))
}

/// A temporary file beside its target, removed unless it was renamed away.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn stage(path: &Path, mode: u32) -> io::Result<(Staged, File)> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", hex::encode(random)));
    let staged = path.with_file_name(name);
    let file = File::options().write(true).create_new(true).mode(mode).open(&staged)?;
    Ok((Staged(staged), file))
}
