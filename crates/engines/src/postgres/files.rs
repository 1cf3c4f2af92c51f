//! Files of a copy that are read and written by their names.
//!
//! What is in a copy was put there by whoever ran the server, and may be there for root to stumble
//! over: a link under the name that a file is written by would have something else overwritten, and
//! one under the name of the configuration would have something read that its owner may not read. So
//! no link is written through, and one is followed only to what the owner of the copy can read. What
//! root makes or gives away in a directory that is somebody else's goes through a handle of that
//! directory: under its path there may be another one by then.

use super::programs::Owner;
use crate::Error;
use model::{CancelToken, Class};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// How a directory is opened whose name may be somebody else's to exchange.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a file is made: nothing that is there, and no link, is written to.
const NEW: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A copy's directory, or one for a server on it.
pub(super) struct Files {
    handle: File,
    shown: PathBuf,
    owner: Owner,
}

impl Files {
    /// Of the copy in this directory, which belongs to `owner`.
    pub(super) fn open(dir: &Path, owner: Owner) -> Result<Files, Error> {
        let handle = File::open(dir).map_err(|e| Error::io("open", dir.display(), e))?;
        // What root writes there its owner could have written as well.
        if rustix::process::geteuid().is_root() {
            belongs(&handle, dir, owner.uid)?;
        }
        Ok(Files { handle, shown: dir.to_owned(), owner })
    }

    /// Of a directory that was just made by us, for `owner` to have: it stays ours until
    /// [`Files::hand_over`], and what is written there is the owner's at once.
    pub(super) fn made(dir: &Path, owner: Owner) -> Result<Files, Error> {
        let handle = rustix::fs::open(dir, DIRECTORY, Mode::empty())
            .map_err(|e| Error::io("open", dir.display(), e.into()))?;
        Files { handle: File::from(handle), shown: dir.to_owned(), owner }.that_are_ours()
    }

    /// Makes a directory in it.
    pub(super) fn make_dir(&self, name: &str) -> Result<Files, Error> {
        let failed = |e: Errno| self.failed("make", name, e.into());
        rustix::fs::mkdirat(&self.handle, name, Mode::RWXU).map_err(failed)?;
        let handle = rustix::fs::openat(&self.handle, name, DIRECTORY, Mode::empty());
        let handle = File::from(handle.map_err(failed)?);
        Files { handle, shown: self.shown.join(name), owner: self.owner }.that_are_ours()
    }

    /// The one that was made, and none that somebody has put in its place meanwhile.
    fn that_are_ours(self) -> Result<Files, Error> {
        belongs(&self.handle, &self.shown, rustix::process::geteuid().as_raw())?;
        Ok(self)
    }

    /// Gives the directory itself to the owner. From now on its path may lead anywhere.
    pub(super) fn hand_over(&self) -> Result<(), Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        fchown(&self.handle, Some(self.owner.uid), Some(self.owner.gid))
            .map_err(|e| Error::io("change the owner of", self.shown.display(), e))
    }

    /// Where it was when it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.shown
    }

    /// The names that are in it, as far as they are text.
    pub(super) fn names(&self) -> Result<Vec<String>, Error> {
        let names = names_in(&self.handle)
            .map_err(|e| Error::io("look into", self.shown.display(), e.into()))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
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
        self.put(name, |file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
    }

    /// The same of one that a crash may take.
    pub(super) fn put(
        &self,
        name: &str,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), Error> {
        let failed = |e| self.failed("write", name, e);
        let staged = format!(".{name}.mainstay");
        self.unlink(&staged).map_err(failed)?;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.handle, &staged, NEW, mode);
        let mut file = File::from(file.map_err(|e| failed(e.into()))?);
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        if rustix::process::geteuid().is_root() {
            fchown(&file, Some(self.owner.uid), Some(self.owner.gid)).map_err(failed)?;
        }
        fill(&mut file).map_err(failed)?;
        rustix::fs::renameat(&self.handle, &staged, &self.handle, name)
            .map_err(|e| failed(e.into()))
    }

    /// Copies everything below `from` to this name, with owners and modes; links become what they
    /// lead to, since the copy must not share a file with anything. To be done before the directory
    /// is handed over.
    pub(super) fn copy_in(
        &self,
        cancel: &CancelToken,
        from: &Path,
        name: &str,
    ) -> Result<(), Error> {
        copy_tree(cancel, from, &self.handle, OsStr::new(name))
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

/// Refuses a directory that is not this user's.
fn belongs(handle: &File, dir: &Path, uid: u32) -> Result<(), Error> {
    let shown = dir.display();
    let has = handle.metadata().map_err(|e| Error::io("look at", &shown, e))?.uid();
    if has == uid {
        return Ok(());
    }
    let what = format!("{shown} belongs to user {has} and not to user {uid}");
    Err(Error::new(Class::Refused, what)
        .hinting("Somebody exchanged it meanwhile. Look at who may write to the directory above."))
}

/// Gives a directory and all that is in it to its owner, the top last: one that was cut off is
/// noticed by that.
pub(super) fn give(dir: &Path, owner: Owner) -> Result<(), Error> {
    let failed = |e: Errno| Error::io("change the owner of", dir.display(), e.into());
    let open = |more| rustix::fs::open(dir, more, Mode::empty());
    let handle = match open(DIRECTORY) {
        // A link of root's nobody else has put there.
        Err(Errno::LOOP | Errno::NOTDIR) if links_by_root(dir) => {
            open(DIRECTORY.difference(OFlags::NOFOLLOW))
        }
        opened => opened,
    };
    let handle = handle.map_err(failed)?;
    let before = rustix::fs::fstat(&handle).map_err(failed)?.st_uid;
    let known = [before, owner.uid];
    give_within(&handle, owner, known).map_err(failed)?;
    chown(&handle, owner).map_err(failed)
}

fn links_by_root(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_symlink() && meta.uid() == 0)
}

fn give_within(dir: &OwnedFd, owner: Owner, known: [u32; 2]) -> Result<(), Errno> {
    for name in names_in(dir)? {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, &name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Another name of a file of somebody else's.
        if kind == FileType::RegularFile && stat.st_nlink > 1 && !known.contains(&stat.st_uid) {
            return Err(Errno::MLINK);
        }
        if kind == FileType::Directory {
            let within = rustix::fs::openat(&file, c".", DIRECTORY, Mode::empty())?;
            give_within(&within, owner, known)?;
        }
        chown(&file, owner)?;
    }
    Ok(())
}

fn chown(file: &OwnedFd, owner: Owner) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::chownat(file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

fn copy_tree(cancel: &CancelToken, from: &Path, within: &File, name: &OsStr) -> Result<(), Error> {
    let failed = |e| Error::io("copy", from.display(), e);
    if cancel.is_cancelled() {
        return Err(Error::new(Class::Cancelled, "cancelled"));
    }
    let kind = fs::metadata(from).map_err(failed)?;
    if !kind.is_dir() && !kind.is_file() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = rustix::fs::open(from, flags, Mode::empty());
    let mut source = File::from(source.map_err(|e| failed(e.into()))?);
    let meta = source.metadata().map_err(failed)?;
    let to = if meta.is_dir() {
        let made = rustix::fs::mkdirat(within, name, Mode::RWXU)
            .and_then(|()| rustix::fs::openat(within, name, DIRECTORY, Mode::empty()));
        let to = File::from(made.map_err(|e| failed(e.into()))?);
        for name in names_in(&source).map_err(|e| failed(e.into()))? {
            let name = OsStr::from_bytes(name.to_bytes());
            copy_tree(cancel, &from.join(name), &to, name)?;
        }
        to
    } else if meta.is_file() {
        let made = rustix::fs::openat(within, name, NEW, Mode::RUSR | Mode::WUSR);
        let mut to = File::from(made.map_err(|e| failed(e.into()))?);
        // A clone where the file system has them.
        io::copy(&mut source, &mut to).map_err(failed)?;
        to
    } else {
        return Ok(());
    };
    if rustix::process::geteuid().is_root() {
        fchown(&to, Some(meta.uid()), Some(meta.gid())).map_err(failed)?;
    }
    to.set_permissions(Permissions::from_mode(meta.mode() & 0o7777)).map_err(failed)
}

/// The names in a directory, but for itself and the one above.
fn names_in(dir: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes what is in a directory; through handles, so that nobody can exchange it meanwhile.
fn empty(within: impl AsFd, name: &CStr) -> Result<(), Errno> {
    let dir = rustix::fs::openat(within, name, DIRECTORY, Mode::empty())?;
    for name in names_in(&dir)? {
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

    /// Somebody who is not root, if we are.
    fn somebody() -> Owner {
        match rustix::process::geteuid().is_root() {
            true => Owner { uid: 65534, gid: 65534 },
            false => Owner::of(Path::new("/proc/self")).expect("ourselves"),
        }
    }

    #[test]
    fn what_is_given_away_is_the_tree_and_nothing_that_it_leads_to() {
        let (dir, _, outside) = copy();
        let copy = dir.path().join("copy");
        fs::create_dir_all(copy.join("base/1")).expect("directories");
        fs::write(copy.join("base/1/2"), "a page").expect("a file");
        symlink(&outside, copy.join("base/link")).expect("a link");
        symlink(outside.join("precious"), copy.join("base/1/link")).expect("a link");
        let owner = somebody();
        give(&copy, owner).expect("given");
        for name in ["", "base", "base/1", "base/1/2", "base/link", "base/1/link"] {
            let meta = fs::symlink_metadata(copy.join(name)).expect("look");
            assert_eq!((meta.uid(), meta.gid()), (owner.uid, owner.gid), "{name}");
        }
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let ours = |path: &Path| fs::metadata(path).expect("look").uid() == 0;
        assert!(ours(&outside) && ours(&outside.join("precious")));
        // Somebody's link in place of the tree itself, and another name of root's file in it.
        fs::rename(&copy, dir.path().join("away")).expect("away");
        symlink(&outside, &copy).expect("a link");
        rustix::fs::chownat(
            rustix::fs::CWD,
            &copy,
            Some(Uid::from_raw(owner.uid)),
            None,
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .expect("somebody's");
        give(&copy, owner).expect_err("a link");
        fs::hard_link(outside.join("precious"), dir.path().join("away/base/name")).expect("a name");
        give(&dir.path().join("away"), owner).expect_err("another name");
        assert!(ours(&outside) && ours(&outside.join("precious")));
    }

    #[test]
    fn a_directory_that_somebody_has_exchanged_is_refused() {
        let (dir, _, outside) = copy();
        let made = dir.path().join("made");
        symlink(&outside, &made).expect("a link");
        assert!(Files::made(&made, somebody()).is_err(), "a link");
        if rustix::process::geteuid().is_root() {
            let copy = dir.path().join("copy");
            std::os::unix::fs::chown(&copy, Some(65534), Some(65534)).expect("somebody's");
            assert!(Files::made(&copy, somebody()).is_err(), "somebody else's");
            assert!(Files::open(&outside, somebody()).is_err(), "not the owner's");
            let error = Files::open(&copy, Owner { uid: 1, gid: 1 }).err().expect("another's");
            assert!(error.to_string().contains("belongs to user 65534"), "{error}");
        }
    }

    #[test]
    fn a_tree_is_copied_in_with_what_its_links_lead_to() {
        let (dir, files, outside) = copy();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("base")).expect("directories");
        fs::write(from.join("base/1"), "a page").expect("a file");
        fs::set_permissions(from.join("base/1"), Permissions::from_mode(0o640)).expect("a mode");
        symlink(&outside, from.join("pg_wal")).expect("a link");
        files.copy_in(&CancelToken::new(), &from, "data").expect("copied");
        let data = dir.path().join("copy/data");
        assert_eq!(fs::read(data.join("base/1")).expect("read"), b"a page");
        assert_eq!(fs::metadata(data.join("base/1")).expect("look").mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(data.join("pg_wal")).expect("look").is_dir());
        assert_eq!(fs::read(data.join("pg_wal/precious")).expect("read"), b"precious");
        // Nothing is written to what is there.
        symlink(&outside, dir.path().join("copy/other")).expect("a link");
        files.copy_in(&CancelToken::new(), &from, "other").expect_err("a link");
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
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
