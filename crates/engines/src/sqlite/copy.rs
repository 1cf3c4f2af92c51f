//! Copies a live database, page by page, by SQLite's backup interface.
//!
//! In WAL mode readers hold nobody up: the copy is made within one read transaction, however long
//! it takes. With a rollback journal a reader keeps writers from committing, and how long they are
//! willing to wait is theirs to say. So a copy that holds its lock is given up after [`HOLD`], and
//! what is too large for that is copied in slices, with room for writers between them; a write then
//! makes SQLite begin again, and after too many beginnings the copy fails and says why.

use super::beside;
use super::failure::{failure, is_busy};
use super::log::{Looker, Published, Reach, Span};
use crate::files::not_cancelled;
use crate::{Context, Error};
use jiff::Timestamp;
use model::{Class, Classify};
use rusqlite::Connection;
use rusqlite::backup::{Backup, Progress, StepResult};
use rusqlite::config::DbConfig;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest that writers of a database with a rollback journal are held up. Below the 5 s that
/// the common bindings wait for a lock.
const HOLD: Duration = Duration::from_secs(2);
/// The same for one slice.
const SLICE: Duration = Duration::from_millis(50);
/// What writers are given between two slices.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a lock of somebody else is tried: more often than SQLite's own waiting does, because
/// a busy writer leaves only short gaps.
const TRY: Duration = Duration::from_millis(3);
/// How often a copy in slices may begin again.
const BEGINNINGS: u32 = 10;
/// How long a lock of somebody else is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a log that is just begun anew may take for it.
const SETTLED: Duration = Duration::from_secs(1);
/// How much is copied between two looks at the clock and the cancel token.
const STRIDE_BYTES: u64 = 1 << 20;

/// What was copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    /// Everything committed before this is in the copy.
    pub(super) source_time: Timestamp,
    pub(super) wal: bool,
    pub(super) page_size: u64,
    pub(super) pages: u64,
    /// Where in its log the copy is, in WAL mode.
    pub(super) span: Option<Span>,
}

/// Copies the database at `source` into the new file `to`.
pub(super) fn copy(cx: &Context<'_>, source: &Path, to: &Path) -> Result<Copied, Error> {
    cx.progress.phase("copying the database");
    let copier = Copier { cx, source, to, connection: open(source)?, hold: HOLD, slice: SLICE };
    let copied = match copier.held()? {
        Some(copied) => copied,
        None => copier.sliced()?,
    };
    copier.connection.close().map_err(|(_, e)| failure("close", source, e))?;
    whole(to, copied)?;
    Ok(copied)
}

/// Opens the source as SQLite's own readers do, but never to checkpoint it.
fn open(source: &Path) -> Result<Connection, Error> {
    let shown = source.display();
    let meta = fs::metadata(source).map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let error = Error::io("read", &shown, error);
        if missing { error.hinting("Correct `path`, or mount what it is on.") } else { error }
    })?;
    if !meta.is_file() {
        return Err(Error::invalid(format!("{shown} is not a file"))
            .hinting("Set `path` to the database file itself."));
    }
    if meta.len() == 0 {
        return Err(Error::failed(format!("{shown} is empty: no database was ever written there"))
            .hinting("Correct `path`, or begin to back up when the application has run."));
    }
    // Where there is no write-ahead log, nobody has the database open in WAL mode, and the default
    // at close removes the empty one that our reading makes. Where there is one, leave it be.
    let has_wal = beside(source, "-wal").exists();
    // Not read-only: a reader who cannot roll back what a killed writer left cannot read at all.
    let opened = |e| failure("open", source, e);
    let connection = super::source::open(source)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_wal)
        .map_err(opened)?;
    connection.execute_batch("PRAGMA query_only = ON").map_err(opened)?;
    // We wait ourselves, to be able to stop waiting.
    connection.busy_timeout(Duration::ZERO).map_err(opened)?;
    Ok(connection)
}

struct Copier<'a> {
    cx: &'a Context<'a>,
    source: &'a Path,
    to: &'a Path,
    connection: Connection,
    hold: Duration,
    slice: Duration,
}

impl Copier<'_> {
    /// Copies within one read transaction; `None` if that would hold writers up for too long.
    fn held(&self) -> Result<Option<Copied>, Error> {
        let looker = self.looker()?;
        let before = looker.as_ref().map(|looker| self.published(looker)).transpose()?;
        let source_time = self.begin()?;
        let began = Instant::now();
        let copied = self.within(source_time, began, || {
            let after = looker.as_ref().map(|looker| self.published(looker)).transpose()?;
            Ok(before.zip(after).map(|(before, after)| span(before, after)))
        });
        // Before the connection that may remove an empty log.
        drop(looker);
        // Writers wait for this.
        let ended = self.connection.execute_batch("ROLLBACK");
        let copied = copied?;
        ended.map_err(|e| self.failed(e))?;
        Ok(copied)
    }

    fn within(
        &self,
        source_time: Timestamp,
        began: Instant,
        span: impl FnOnce() -> Result<Option<Span>, Error>,
    ) -> Result<Option<Copied>, Error> {
        let copied = Copied { span: span()?, ..self.look(source_time)? };
        let mut to = self.target(copied)?;
        let backup = Backup::new(&self.connection, &mut to).map_err(|e| self.failed(e))?;
        let stride = pages(STRIDE_BYTES / copied.page_size.max(1));
        loop {
            not_cancelled(self.cx)?;
            match backup.step(stride).map_err(|e| self.failed(e))? {
                StepResult::Done => return Ok(Some(copied)),
                _ if !copied.wal && self.too_long(began.elapsed(), backup.progress()) => {
                    return Ok(None);
                }
                _ => {}
            }
        }
    }

    /// Whether the time is up, or can be seen to be up before the copy is done: then writers need not
    /// wait for nothing.
    fn too_long(&self, elapsed: Duration, progress: Progress) -> bool {
        if elapsed <= self.hold {
            let pages = f64::from(progress.pagecount.max(1));
            let done = f64::from((progress.pagecount - progress.remaining).max(1));
            return elapsed > 4 * self.slice
                && elapsed.as_secs_f64() * pages / done > 2.0 * self.hold.as_secs_f64();
        }
        true
    }

    /// Copies in slices. Each step takes and drops the lock; one that finds the database changed
    /// begins again, so that the last one finds all that was copied still true.
    fn sliced(&self) -> Result<Copied, Error> {
        let seen = self.look(Timestamp::now())?;
        let mut to = self.target(seen)?;
        let backup = Backup::new(&self.connection, &mut to).map_err(|e| self.failed(e))?;
        let mut stride = pages(STRIDE_BYTES / seen.page_size.max(1));
        let mut remaining = i32::MAX;
        let mut beginnings = 0;
        let mut patience = Instant::now() + PATIENCE;
        loop {
            not_cancelled(self.cx)?;
            let source_time = Timestamp::now();
            let began = Instant::now();
            match backup.step(stride).map_err(|e| self.failed(e))? {
                StepResult::Done => {
                    let pages = u64::try_from(backup.progress().pagecount).unwrap_or(0);
                    return Ok(Copied { source_time, pages, ..seen });
                }
                StepResult::More => {
                    patience = Instant::now() + PATIENCE;
                    // A step that goes on leaves less to do. One that began again does not.
                    let now = backup.progress().remaining;
                    beginnings += u32::from(now >= remaining);
                    remaining = now;
                    if beginnings > BEGINNINGS {
                        return Err(self.too_lively());
                    }
                    stride = match began.elapsed() {
                        took if took > self.slice => (stride / 2).max(1),
                        took if took < self.slice / 2 => stride.saturating_mul(2),
                        _ => stride,
                    };
                }
                _ if Instant::now() > patience => return Err(self.locked()),
                _ => {
                    std::thread::sleep(TRY);
                    continue;
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Tells how far the log is committed; none if the database is not in WAL mode.
    fn looker(&self) -> Result<Option<Looker>, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            not_cancelled(self.cx)?;
            match Looker::open(self.source) {
                Err(e) if e.class() == Class::Unavailable && Instant::now() < deadline => {
                    std::thread::sleep(TRY);
                }
                Err(e) if e.class() == Class::Unavailable => return Err(self.locked().because(e)),
                other => return other,
            }
        }
    }

    /// A log that is begun anew at this very moment says little, and is looked at again.
    fn published(&self, looker: &Looker) -> Result<Published, Error> {
        let deadline = Instant::now() + SETTLED;
        loop {
            match looker.look() {
                Ok(Published { header: Some(_), frames: 0 }) if Instant::now() < deadline => {}
                Err(e) if e.class() == Class::Unavailable && Instant::now() < deadline => {}
                other => return other,
            }
            not_cancelled(self.cx)?;
            std::thread::sleep(TRY);
        }
    }

    /// Begins a read transaction and returns a time that was not later.
    fn begin(&self) -> Result<Timestamp, Error> {
        self.patiently(|connection| {
            let before = Timestamp::now();
            // BEGIN alone reads nothing and would fix nothing.
            let begun = connection.execute_batch("BEGIN; PRAGMA schema_version");
            if begun.is_err() && !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK")?;
            }
            begun.map(|()| before)
        })
    }

    fn look(&self, source_time: Timestamp) -> Result<Copied, Error> {
        self.patiently(|connection| {
            let number = |sql: &str| -> rusqlite::Result<u64> {
                let number: i64 = connection.query_row(sql, [], |row| row.get(0))?;
                Ok(u64::try_from(number).unwrap_or(0))
            };
            let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
            Ok(Copied {
                source_time,
                wal: mode.eq_ignore_ascii_case("wal"),
                page_size: number("PRAGMA page_size")?,
                pages: number("PRAGMA page_count")?,
                span: None,
            })
        })
    }

    /// Tries again while somebody else holds the lock.
    fn patiently<T>(
        &self,
        mut ask: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            not_cancelled(self.cx)?;
            match ask(&self.connection) {
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    std::thread::sleep(TRY);
                }
                Err(error) if is_busy(&error) => return Err(self.locked().because(error)),
                Err(error) => return Err(self.failed(error)),
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// A new, empty database to copy into. It is never used again after a crash, so it needs
    /// neither a journal nor to be synced.
    fn target(&self, size: Copied) -> Result<Connection, Error> {
        let failed = |e| failure("write", self.to, e);
        match fs::remove_file(self.to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", self.to.display(), e));
            }
            _ => {}
        }
        enough_space(self.cx.scratch, size.pages.saturating_mul(size.page_size))?;
        let to = Connection::open(self.to).map_err(failed)?;
        to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(failed)?;
        Ok(to)
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        failure("copy", self.source, error)
    }

    fn locked(&self) -> Error {
        let shown = self.source.display();
        Error::new(Class::Unavailable, format!("{shown} has been locked for {PATIENCE:?}")).hinting(
            "Find the process that keeps it locked; an application in \
                 `locking_mode = EXCLUSIVE` must be stopped for a backup (`quiesce = \"stop\"`).",
        )
    }

    fn too_lively(&self) -> Error {
        let shown = self.source.display();
        Error::new(
            Class::Unavailable,
            format!(
                "{shown} is too large to be copied within {HOLD:?}, and is written to so often \
                 that a copy in parts never ends"
            ),
        )
        .hinting(
            "Switch the database to WAL mode (`PRAGMA journal_mode = WAL`), where reading holds \
             nobody up, or set `quiesce = \"stop\"`.",
        )
    }
}

/// Between which places of its log a transaction is that was begun between two looks.
fn span(before: Published, after: Published) -> Span {
    let reach = |seen: Published| {
        let header = seen.header?;
        Some(Reach { salts: header.salt(), frame: (seen.frames > 0).then_some(seen.frames) })
    };
    Span { from: reach(before), to: reach(after), chain: None }
}

/// A count of pages as SQLite takes it, at least one.
fn pages(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX).max(1)
}

/// Refuses to begin what cannot end.
fn enough_space(scratch: &Path, needed: u64) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(scratch)
        .map_err(|e| Error::io("look at the space of", scratch.display(), e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed {
        return Err(Error::new(
            Class::NoSpace,
            format!(
                "a copy of the database needs {needed} bytes at {}, where {free} are free",
                scratch.display()
            ),
        )
        .hinting("Free space there, or move `state-dir` to a larger file system."));
    }
    Ok(())
}

/// A copy that ended well has all its pages.
fn whole(to: &Path, copied: Copied) -> Result<(), Error> {
    let size = fs::metadata(to).map_err(|e| Error::io("read", to.display(), e))?.len();
    let expected = copied.pages.saturating_mul(copied.page_size);
    if size == 0 || size != expected {
        return Err(Error::failed(format!(
            "the copy {} has {size} bytes where {expected} were expected",
            to.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::progress::Silent;
    use model::{CancelToken, Classify};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// A database of about 15 MB, and where to copy it.
    fn bench(mode: &str) -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let source = dir.path().join("app.db");
        Connection::open(&source)
            .and_then(|c| {
                c.execute_batch(&format!(
                    "PRAGMA journal_mode = {mode}; CREATE TABLE t (n INTEGER);
                     CREATE TABLE big (x); BEGIN;
                     WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 1500)
                     INSERT INTO big SELECT randomblob(10000) FROM i; COMMIT;"
                ))
            })
            .expect("a database");
        let to = dir.path().join("copy.db");
        (dir, source, to)
    }

    /// Copies with no patience for holding a lock, so that it must be in slices.
    fn copy_in_slices(source: &Path, to: &Path) -> Result<Option<u64>, Error> {
        let cancel = CancelToken::new();
        let scratch = source.parent().expect("a parent");
        let cx = Context {
            cancel: &cancel,
            progress: &Silent,
            scratch,
            callback: &[],
            variables: &[],
            enclosed: None,
        };
        let connection = open(source)?;
        let slice = Duration::from_millis(1);
        let copier = Copier { cx: &cx, source, to, connection, hold: Duration::ZERO, slice };
        if copier.held()?.is_some() {
            return Ok(None);
        }
        whole(to, copier.sliced()?)?;
        let copy = Connection::open(to).expect("open the copy");
        let check: String =
            copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check");
        assert_eq!(check, "ok");
        let count: i64 =
            copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("count");
        Ok(Some(u64::try_from(count).expect("a count")))
    }

    #[test]
    fn slices_hold_what_was_committed_before_the_last_of_them() {
        let (_dir, source, to) = bench("DELETE");
        assert_eq!(copy_in_slices(&source, &to).expect("copy"), Some(0));
        let (copying, written) = (AtomicBool::new(true), AtomicU64::new(0));
        std::thread::scope(|scope| {
            // Three commits into the midst, each of which makes the copy begin again.
            scope.spawn(|| {
                let writer = Connection::open(&source).expect("open");
                writer.busy_timeout(Duration::from_secs(5)).expect("timeout");
                while copying.load(Ordering::SeqCst) && written.load(Ordering::SeqCst) < 3 {
                    writer.execute("INSERT INTO t VALUES (1)", []).expect("never refused");
                    written.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let count = copy_in_slices(&source, &to).expect("copy");
            copying.store(false, Ordering::SeqCst);
            assert!(count.is_some_and(|count| count <= 3), "{count:?}");
        });
        let written = written.load(Ordering::SeqCst);
        assert_eq!(copy_in_slices(&source, &to).expect("copy"), Some(written));
    }

    #[test]
    fn a_database_that_is_never_quiet_is_given_up_with_a_way_out() {
        let (_dir, source, to) = bench("DELETE");
        let copying = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let writer = Connection::open(&source).expect("open");
                writer.busy_timeout(Duration::from_secs(5)).expect("timeout");
                while copying.load(Ordering::SeqCst) {
                    writer.execute("INSERT INTO t VALUES (1)", []).expect("never refused");
                }
            });
            let copied = copy_in_slices(&source, &to);
            copying.store(false, Ordering::SeqCst);
            let error = copied.expect_err("it never gets to the end");
            assert_eq!(error.class(), Class::Unavailable, "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("WAL")));
        });
    }

    #[test]
    fn in_wal_mode_no_copy_is_ever_in_slices() {
        let (_dir, source, to) = bench("WAL");
        assert_eq!(copy_in_slices(&source, &to).expect("copy"), None);
    }
}
