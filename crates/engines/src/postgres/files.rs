//! Files of a copy that are read and written by their names.
//!
//! What is in a copy was put there by whoever ran the server, and may be there for root to stumble
//! over: a link under the name that a file is written by would have something else overwritten, and
//! one under the name of the configuration would have something read that its owner may not read. So
//! no link is written through, and one is followed only to what the owner of the copy can read.

use super::programs::Owner;
use crate::Error;
use model::Class;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// A copy's directory.
pub(super) struct Files {
    handle: File,
    shown: PathBuf,
    owner: Owner,
}

impl Files {
    /// Of the copy in this directory, which belongs to `owner`.
    pub(super) fn open(dir: &Path, owner: Owner) -> Result<Files, Error> {
        let handle = File::open(dir).map_err(|e| Error::io("open", dir.display(), e))?;
        Ok(Files { handle, shown: dir.to_owned(), owner })
    }

    /// The text of a file; none if it is not there.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let failed = |e| self.failed("read", name, e);
        // Opening a pipe must not wait for whoever writes to it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |more| rustix::fs::openat(&self.handle, name, flags | more, Mode::empty());
        let (file, link) = match open(OFlags::NOFOLLOW) {
            Err(Errno::LOOP) => (open(OFlags::empty()), true),
            opened => (opened, false),
        };
        let mut file = match file {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(failed(e.into())),
        };
        let refused = |what: &str| {
            let path = self.shown.join(name);
            Err(Error::new(Class::Refused, format!("{} {what}", path.display()))
                .hinting("Look at what the source has there: it is no server's configuration."))
        };
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return refused("is no regular file");
        }
        let owner = self.owner;
        let readable = meta.mode() & 0o004 != 0
            || (meta.gid() == owner.gid && meta.mode() & 0o040 != 0)
            || meta.uid() == owner.uid;
        if link && !readable && rustix::process::geteuid().is_root() {
            return refused("is a link to a file that the owner of the copy may not read");
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        Ok(Some(text))
    }

    /// Writes a file: whole, durable but for its name, and the owner's.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let failed = |e| self.failed("write", name, e);
        let staged = format!(".{name}.mainstay");
        self.unlink(&staged).map_err(failed)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(&self.handle, &staged, flags | OFlags::NOFOLLOW, mode);
        let mut file = File::from(file.map_err(|e| failed(e.into()))?);
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        if rustix::process::geteuid().is_root() {
            fchown(&file, Some(self.owner.uid), Some(self.owner.gid)).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        rustix::fs::renameat(&self.handle, &staged, &self.handle, name)
            .map_err(|e| failed(e.into()))
    }

    /// Removes a file; one that is not there is no error.
    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        self.unlink(name).map_err(|e| self.failed("remove", name, e))
    }

    /// Removes what is in a directory of the copy, and nothing that a link leads to.
    pub(super) fn empty(&self, name: &CStr) -> Result<(), Error> {
        let shown = name.to_string_lossy();
        empty(&self.handle, name).map_err(|e| self.failed("remove what is in", &shown, e.into()))
    }

    /// The server refuses a directory that others can enter.
    pub(super) fn close_to_others(&self) -> Result<(), Error> {
        let shown = self.shown.display();
        let meta = self.handle.metadata().map_err(|e| Error::io("look at", &shown, e))?;
        if meta.mode() & 0o027 == 0 {
            return Ok(());
        }
        let private = Permissions::from_mode(0o700);
        self.handle.set_permissions(private).map_err(|e| Error::io("set the mode of", &shown, e))
    }

    /// Makes the names durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.handle.sync_all().map_err(|e| Error::io("sync", self.shown.display(), e))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn failed(&self, what: &str, name: &str, e: io::Error) -> Error {
        Error::io(what, self.shown.join(name).display(), e)
    }
}

/// Removes what is in a directory; through handles, so that nobody can exchange it meanwhile.
fn empty(within: impl AsFd, name: &CStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(within, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in names {
        match rustix::fs::unlinkat(&dir, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                empty(&dir, &name)?;
                rustix::fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR)?;
            }
            done => done?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A copy, something outside of it, and what that holds.
    fn copy() -> (tempfile::TempDir, Files, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let (copy, outside) = (dir.path().join("copy"), dir.path().join("outside"));
        fs::create_dir(&copy).expect("the copy");
        fs::create_dir(&outside).expect("outside");
        fs::write(outside.join("precious"), "precious").expect("something");
        let owner = Owner::of(&copy).expect("an owner");
        let files = Files::open(&copy, owner).expect("the copy");
        (dir, files, outside)
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (dir, files, outside) = copy();
        let copy = dir.path().join("copy");
        for name in ["a", ".a.mainstay"] {
            symlink(outside.join("precious"), copy.join(name)).expect("a link");
        }
        files.write("a", "new").expect("written");
        files.remove("b").expect("nothing there");
        assert_eq!(fs::read(outside.join("precious")).expect("read"), b"precious");
        assert_eq!(files.read("a").expect("read").as_deref(), Some("new"));
        let meta = fs::symlink_metadata(copy.join("a")).expect("look");
        assert!(meta.is_file() && meta.mode() & 0o777 == 0o600, "{meta:?}");
        assert!(!copy.join(".a.mainstay").exists());
    }

    #[test]
    fn nothing_is_removed_through_a_link() {
        let (dir, files, outside) = copy();
        let copy = dir.path().join("copy");
        symlink(&outside, copy.join("slots")).expect("a link");
        files.empty(c"slots").expect_err("it is no directory");
        fs::remove_file(copy.join("slots")).expect("the link goes");
        fs::create_dir_all(copy.join("slots/one/more")).expect("a slot");
        fs::write(copy.join("slots/one/state"), "x").expect("its state");
        symlink(&outside, copy.join("slots/one/link")).expect("a link");
        files.empty(c"slots").expect("emptied");
        assert_eq!(fs::read_dir(copy.join("slots")).expect("there").count(), 0);
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let (dir, files, outside) = copy();
        let copy = dir.path().join("copy");
        assert_eq!(files.read("none").expect("nothing"), None);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            copy.join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a pipe");
        files.read("pipe").expect_err("a pipe");
        files.read(".").expect_err("a directory");
        // What the owner of the copy can read is read, wherever it is.
        symlink(outside.join("precious"), copy.join("link")).expect("a link");
        assert_eq!(files.read("link").expect("read").as_deref(), Some("precious"));
        if rustix::process::geteuid().is_root() {
            let secret = outside.join("precious");
            fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("a mode");
            let other = Files { owner: Owner { uid: 65534, gid: 65534 }, ..files };
            let error = other.read("link").expect_err("not the owner's to read");
            assert!(error.to_string().contains("may not read"), "{error}");
        }
    }
}
