//! Puts staged content in place: one rename, atomic, durable, and told apart after a crash.

use crate::Error;
use crate::journal::kill_at;
use repository::restore::redo::{self, Touched};
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use std::fs::{File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One root to be put in place, as it is journalled before anything moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Placement {
    /// Where the new content is. After an exchange the old content is there.
    pub(crate) staged: PathBuf,
    /// Where it goes.
    pub(crate) target: PathBuf,
    /// Inode of the new content: whoever has this number at `target` knows that it was moved.
    pub(crate) inode: u64,
    /// Where content that stands at `target` is kept after the exchange; without it, that content
    /// stays at `staged` and is removed later.
    pub(crate) keep_old_at: Option<PathBuf>,
    /// What is to be written into files of the old content that are files of the new one, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redo: Option<PathBuf>,
    /// Which journal that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) written: Option<redo::Written>,
    /// Nothing is exchanged: the redo journal says what of the target changes, and what is staged
    /// for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) amends: bool,
    /// What that is, if all else of the target is what its manifest says, and as long as the process
    /// lives that staged it.
    #[serde(skip)]
    pub(crate) touched: Option<Vec<Touched>>,
}

/// The redo journal of what is staged here.
pub(crate) fn redo_of(staged: &Path) -> PathBuf {
    let mut path = staged.as_os_str().to_owned();
    path.push(".redo");
    PathBuf::from(path)
}

/// A name beside `target` on the same file system.
pub(crate) fn beside(target: &Path, suffix: &str) -> Result<PathBuf, Error> {
    let name = target.file_name().ok_or_else(|| {
        Error::invalid(format!(
            "{} cannot be replaced: it has no name of its own",
            target.display()
        ))
    })?;
    let mut name = name.to_os_string();
    name.push(format!(".{suffix}"));
    Ok(target.with_file_name(name))
}

/// A name beside `target` that nothing has yet.
pub(crate) fn aside(target: &Path, what: &str) -> Result<PathBuf, Error> {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut path = beside(target, &format!("{what}-{stamp}"))?;
    let mut number = 2;
    while inode(&path)?.is_some() {
        path = beside(target, &format!("{what}-{stamp}-{number}"))?;
        number += 1;
    }
    Ok(path)
}

/// The inode at a path, without following a link; none if nothing is there.
pub(crate) fn inode(path: &Path) -> Result<Option<u64>, Error> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta.ino())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

impl Placement {
    /// What is staged, to be placed at `target`.
    pub(crate) fn new(
        staged: PathBuf,
        target: PathBuf,
        keep_old_at: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let inode = inode(&staged)?.ok_or_else(|| {
            Error::new(model::Class::Failed, format!("{} is not there", staged.display()))
        })?;
        Ok(Placement {
            staged,
            target,
            inode,
            keep_old_at,
            redo: None,
            written: None,
            amends: false,
            touched: None,
        })
    }

    /// What is staged for a target that stays where it is.
    pub(crate) fn amending(
        staged: PathBuf,
        target: PathBuf,
        touched: Option<Vec<Touched>>,
    ) -> Result<Self, Error> {
        let placement = Placement::new(staged, target, None)?;
        Ok(Placement { amends: true, touched, ..placement })
    }

    /// With the redo journal that was written beside what is staged, if one was.
    pub(crate) fn with_redo(self, written: Option<redo::Written>) -> Self {
        Placement { redo: written.map(|_| redo_of(&self.staged)), written, ..self }
    }

    fn redo(&self) -> Option<redo::Journal<'_>> {
        Some(redo::Journal { path: self.redo.as_deref()?, written: self.written })
    }

    /// Whether files at the target are still to be written to.
    pub(crate) fn is_half_applied(&self) -> bool {
        self.redo.as_ref().is_some_and(|redo| redo.exists())
    }

    /// Whether the new content is in place already. Of a target that stays where it is some may be,
    /// which nobody can tell: there is only forward.
    pub(crate) fn is_placed(&self) -> Result<bool, Error> {
        Ok(self.amends || inode(&self.target)? == Some(self.inode))
    }

    /// Whether the new content is gone: what is staged is something else, which can only be what
    /// stood at the target before the two were exchanged.
    pub(crate) fn is_lost(&self) -> Result<bool, Error> {
        let staged = inode(&self.staged)?;
        Ok(!self.is_placed()? && staged.is_some_and(|staged| staged != self.inode))
    }

    /// Moves what stood at the target before out of the way of the next attempt, and says where it is.
    pub(crate) fn keep_old(&self) -> Result<PathBuf, Error> {
        let kept = match &self.keep_old_at {
            Some(path) if inode(path)?.is_none() => path.clone(),
            _ => aside(&self.target, "left")?,
        };
        rename(&self.staged, &kept, RenameFlags::NOREPLACE)
            .map_err(|e| Error::io("put aside", &self.staged, e.into()))?;
        self.sync()?;
        Ok(kept)
    }

    /// Puts the content in place, durable on return. Does nothing if it is there already, so that
    /// it can be repeated after a crash.
    pub(crate) fn place(&self) -> Result<(), Error> {
        let explain = |e: rustix::io::Errno| {
            let error = Error::io("put new content at", &self.target, e.into());
            match e {
                rustix::io::Errno::BUSY | rustix::io::Errno::XDEV => error.hinting(format!(
                    "Use a directory below {} as the path: a mount point cannot be exchanged in one step.",
                    self.target.display()
                )),
                _ => error,
            }
        };
        if self.is_lost()? {
            let what = format!("the new content of {} is gone", self.target.display());
            return Err(Error::new(model::Class::Corrupt, what));
        }
        if self.amends {
            kill_at("place:moved");
            if let Some(redo) = self.redo() {
                let mut applied = |records| kill_at(&format!("redo:{records}"));
                redo::apply_staged(redo, &self.staged, &self.target, &mut applied)?;
            }
            kill_at("redo:done");
            return Ok(());
        }
        if !self.is_placed()? {
            if inode(&self.target)?.is_some() {
                // One step even where the old content is kept: a crash in between must not leave
                // the place empty.
                rename(&self.staged, &self.target, RenameFlags::EXCHANGE).map_err(explain)?;
            } else {
                rename(&self.staged, &self.target, RenameFlags::NOREPLACE).map_err(explain)?;
            }
        }
        if let Some(aside) = &self.keep_old_at
            && inode(&self.staged)?.is_some()
        {
            rename(&self.staged, aside, RenameFlags::NOREPLACE)
                .map_err(|e| Error::io("put aside what stood at", &self.target, e.into()))?;
        }
        self.sync()?;
        kill_at("place:moved");
        if let Some(redo) = self.redo() {
            redo::apply(redo, &self.target, &mut |records| kill_at(&format!("redo:{records}")))?;
            kill_at("redo:done");
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let parent = self.target.parent().unwrap_or(Path::new("/"));
        crate::journal::sync_dir(parent)
    }

    /// Removes what is left at the staging place: the old content after an exchange, or new
    /// content that was never placed.
    pub(crate) fn drop_staged(&self) -> Result<(), Error> {
        if !self.amends || self.staged.parent() != Some(&self.target) {
            return discard(&self.staged);
        }
        // It lies in the copy. That keeps its times, and must not be found written to after a crash.
        let failed = |e: std::io::Error| Error::io("finish", &self.target, e);
        let dir = File::open(&self.target).map_err(failed)?;
        let before = dir.metadata().map_err(failed)?;
        discard(&self.staged)?;
        let put_back = || {
            let times = FileTimes::new().set_accessed(before.accessed()?);
            dir.set_times(times.set_modified(before.modified()?))?;
            dir.sync_all()
        };
        put_back().map_err(failed)
    }
}

/// Removes what is staged, and its redo journal. The journal goes last: it is what tells that there
/// is something to be removed, and nobody needs it less for being there.
pub(crate) fn discard(staged: &Path) -> Result<(), Error> {
    remove(staged)?;
    Ok(redo::discard(&redo_of(staged))?)
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), rustix::io::Errno> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags)
}

/// Removes a tree or file; nothing there is no error. Directories that their owner may not write
/// to (a restored `0555`) are opened up first.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("look at", path, e)),
    };
    let result =
        if meta.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && meta.is_dir() => {
            open_up(path)?;
            std::fs::remove_dir_all(path).map_err(|e| Error::io("remove", path, e))
        }
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

fn open_up(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let io = |e| Error::io("make writable", dir, e);
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(io)?;
    for item in std::fs::read_dir(dir).map_err(io)? {
        let item = item.map_err(io)?;
        if item.file_type().map_err(io)?.is_dir() {
            open_up(&item.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

    use super::*;

    #[test]
    fn what_stood_there_before_is_never_taken_for_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let (staged, target) = (dir.path().join("staged"), dir.path().join("target"));
        std::fs::write(&staged, "new").unwrap();
        std::fs::write(&target, "old").unwrap();
        let placement = Placement::new(staged.clone(), target.clone(), None).unwrap();
        placement.place().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        placement.place().unwrap();
        // Somebody removes it before the old content is gone.
        std::fs::remove_file(&target).unwrap();
        assert!(placement.is_lost().unwrap());
        placement.place().unwrap_err();
        assert_eq!(std::fs::read(&staged).unwrap(), b"old");
        assert!(!target.exists());
        let kept = placement.keep_old().unwrap();
        assert_eq!(std::fs::read(kept).unwrap(), b"old");
        assert!(!staged.exists());
    }
}
