//! Opens databases that belong to somebody else.
//!
//! Who owns a database's directory can put anything where SQLite keeps its log, its index and its
//! journal, and links above all. Root, who opens the database after that, would write to where they
//! lead. SQLite itself follows no link there; what is said here is said before it is tried, in words,
//! and covers what SQLite does not look at. It cannot cover who exchanges directories at that very
//! moment.

use super::beside;
use super::failure::failure;
use crate::Error;
use model::Class;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::OFlags;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What SQLite keeps beside a database.
pub(super) const SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Opens a database to read and write, if nobody has put anything in the way.
pub(super) fn open(database: &Path) -> Result<Connection, Error> {
    let place = place(database)?;
    judge(&place)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    Connection::open_with_flags(&place, flags).map_err(|e| failure("open", database, e))
}

/// Opens what is beside a database to read it: not where a link leads, and never waiting for who
/// would write to a pipe.
pub(super) fn read_beside(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path)
}

/// The same place by a path whose directories are no links: those may be, and are the user's to make.
fn place(database: &Path) -> Result<PathBuf, Error> {
    let (Some(dir), Some(name)) = (database.parent(), database.file_name()) else {
        return Ok(database.to_owned());
    };
    let dir = fs::canonicalize(dir).map_err(|e| Error::io("look at", dir.display(), e))?;
    Ok(dir.join(name))
}

fn judge(database: &Path) -> Result<(), Error> {
    let look = |path: &Path| match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path.display(), e)),
    };
    let Some(own) = look(database)? else { return Ok(()) };
    if own.is_symlink() {
        return Err(refused(
            database,
            "is a symbolic link, and databases are not opened through one",
        )
        .hinting("Write the path that it leads to into the configuration."));
    }
    let is_root = rustix::process::geteuid().is_root();
    for path in SUFFIXES.map(|suffix| beside(database, suffix)) {
        let Some(meta) = look(&path)? else { continue };
        let what = if meta.is_symlink() {
            "is a symbolic link"
        } else if !meta.is_file() {
            "is no regular file"
        } else if is_root && meta.nlink() > 1 {
            "has another name, too, and may be another file than it looks"
        } else {
            continue;
        };
        let what = format!("{what}; SQLite would write to it for {}", database.display());
        return Err(refused(&path, &what).hinting(
            "Find out who put it there. A log of SQLite's own is an ordinary file with one name; it may \
             hold commits that the database does not have yet.",
        ));
    }
    Ok(())
}

fn refused(path: &Path, what: &str) -> Error {
    Error::new(Class::Refused, format!("{} {what}", path.display()))
}
