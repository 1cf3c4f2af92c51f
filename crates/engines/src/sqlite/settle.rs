//! Makes an old copy fit to be replaced: whole in its one file, and nobody has it open.
//!
//! A journal of an old database beside a new one is deadly: SQLite would replay the old pages into
//! the new file. Moving the journal away before the exchange would tear the old copy, moving it
//! after would leave a moment with both. So SQLite itself first brings the journal into the old
//! file, and what is left beside it is empty and can go. Then one exchange is all that remains.

use super::beside;
use super::failure::{failure, is_busy};
use super::source::{self, SUFFIXES};
use crate::Error;
use crate::files::no_link;
use model::Class;
use rusqlite::ErrorCode;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a shipper of the log is waited for.
const SHIPPER_PATIENCE: Duration = Duration::from_secs(10);

/// Whether the journal at this suffix holds pages that are not in the database.
pub(super) fn is_hot(database: &Path, suffix: &str) -> Result<bool, Error> {
    let path = beside(database, suffix);
    let read = |e| Error::io("read", path.display(), e);
    // Journals carry no locks, so they may be opened.
    let mut file = match source::read_beside(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(read(e)),
    };
    let mut first = [0];
    let n = file.read(&mut first).map_err(read)?;
    // A rollback journal that was finished by zeroing its header is done with; a write-ahead log
    // begins with 0x37.
    Ok(n == 1 && first != [0])
}

/// See the module's head. May be called again after a crash at any step.
pub(super) fn settle(target: &Path) -> Result<(), Error> {
    no_link(target)?;
    released(target)?;
    if target.exists() {
        recover(target)?;
    }
    for suffix in ["-wal", "-journal"] {
        if is_hot(target, suffix)? {
            let (journal, shown) = (beside(target, suffix), target.display());
            return Err(Error::new(
                Class::Refused,
                format!(
                    "{} holds changes that cannot be brought into {shown}, and would destroy a \
                     restored copy there",
                    journal.display()
                ),
            )
            .hinting(format!("Move {} away together with {shown}.", journal.display())));
        }
    }
    remove_leftovers(target)
}

/// Lets SQLite do what the next opener of the old copy would have to do. A file that is no sound
/// database is left as it is: to replace it may be the very purpose.
fn recover(target: &Path) -> Result<(), Error> {
    let connection = source::open(target)?;
    let recover = || -> rusqlite::Result<bool> {
        connection.busy_timeout(Duration::from_secs(2))?;
        // Rolls back a hot journal, and fails if anybody is reading or writing.
        connection.execute_batch("BEGIN EXCLUSIVE; ROLLBACK")?;
        let busy: i64 =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        Ok(busy != 0)
    };
    let recovered = recover();
    let closed = connection.close().map_err(|(_, error)| error);
    match recovered.and_then(|busy| closed.map(|()| busy)) {
        Ok(false) => Ok(()),
        Ok(true) => Err(in_use(target, "a reader or writer keeps its write-ahead log")),
        Err(error) if is_busy(&error) => Err(in_use(target, "it is locked").because(error)),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Ok(()),
            _ => Err(failure("settle", target, error)),
        },
    }
}

fn in_use(target: &Path, how: &str) -> Error {
    Error::new(Class::Refused, format!("{} is in use: {how}", target.display()))
        .hinting("Stop the application that uses it.")
}

/// Whoever ships the log of the database lets go of it when he sees that an operation runs.
fn released(target: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + SHIPPER_PATIENCE;
    loop {
        match nobody_has_it_open(target) {
            Ok(None) => return Ok(()),
            Ok(Some((pid, program))) => {
                let ours = fs::read_to_string("/proc/self/comm").unwrap_or_default();
                let shipper = program == ours.trim() && pid != std::process::id().to_string();
                if !shipper || Instant::now() >= deadline {
                    let who = format!("process {pid} ({program}) has it open");
                    return Err(in_use(target, &who));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e),
        }
    }
}

/// A process with an old file open would go on writing to it after the exchange, unseen.
fn nobody_has_it_open(target: &Path) -> Result<Option<(String, String)>, Error> {
    let mut wanted = Vec::new();
    for path in std::iter::once(target.to_owned()).chain(SUFFIXES.map(|s| beside(target, s))) {
        match fs::metadata(&path) {
            Ok(meta) => wanted.push((meta.dev(), meta.ino())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", path.display(), e)),
        }
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    // Processes of others are hidden from anybody but root, and those of other containers from
    // everybody; the lock that `recover` takes finds the busy ones among them.
    let Ok(processes) = fs::read_dir("/proc") else { return Ok(None) };
    for process in processes.flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        if has_open(&process.path(), &wanted) {
            let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Ok(Some((name, program.trim().to_owned())));
        }
    }
    Ok(None)
}

fn has_open(process: &Path, wanted: &[(u64, u64)]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        // Follows the link of the kernel to the open file itself, even if it has no name any more.
        let open: PathBuf = descriptor.path();
        fs::metadata(open).is_ok_and(|meta| wanted.contains(&(meta.dev(), meta.ino())))
    })
}

/// Removes what has nothing in it that the database has not, and makes that durable.
fn remove_leftovers(target: &Path) -> Result<(), Error> {
    let mut removed = false;
    for path in SUFFIXES.map(|suffix| beside(target, suffix)) {
        match fs::remove_file(&path) {
            Ok(()) => removed = true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("remove", path.display(), e)),
        }
    }
    if let (true, Some(dir)) = (removed, target.parent()) {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|e| Error::io("sync", dir.display(), e))?;
    }
    Ok(())
}
