//! Holds a database's log, so that nothing is written over before it was read.
//!
//! A reader's lock keeps the log from being begun anew: either it is on a place in the log, which
//! must stay then, or on the database file alone, when all of the log is in there already. The second
//! lets the log be begun anew, but nothing of the new one gets into the database file while it lasts,
//! so that the log cannot be begun anew a second time. Either way: **what was committed when a lock
//! was taken can go only after that lock is released, and what was committed later stays.** So a new
//! lock is taken before the old one is released, and the old one is released only when everything
//! that was committed when the new one was taken is read.
//!
//! Foreign checkpoints may come and go meanwhile, and nobody can delete the log or leave WAL mode.
//!
//! Only what SQLite has published counts: a commit that a killed writer wrote into the file, but of
//! which nobody was told, is written over by the next one.

use super::super::failure::{failure, is_busy};
use super::super::source;
use super::frames::WalHeader;
use super::wal_path;
use crate::Error;
use model::Class;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a read waits for a lock that is held for an instant (recovery after a crash).
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// How long the lock of the writers is tried for. Nobody waits for whoever tries.
const WRITE_PATIENCE: Duration = Duration::from_millis(150);
/// How often the header is looked at again if it changed meanwhile.
const LOOKS: u32 = 20;

/// What of a log is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The log's header; none if there is nothing in the log at all.
    pub header: Option<WalHeader>,
    /// Frames of it that are committed. 0 with a header is an instant at which the log is begun
    /// anew, and says nothing of how far the old one got.
    pub frames: u32,
}

/// Answers how far a log is committed.
#[derive(Debug)]
pub(in super::super) struct Looker {
    connection: Connection,
    path: PathBuf,
    wal: PathBuf,
}

impl Looker {
    /// None if the database is not in WAL mode.
    pub(in super::super) fn open(path: &Path) -> Result<Option<Looker>, Error> {
        let connection = open(path)?;
        let looker = Looker { connection, path: path.to_owned(), wal: wal_path(path) };
        // Opens the log, which a look alone would not.
        let mode: String = looker
            .connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .map_err(|e| failure("read", path, e))?;
        if !mode.eq_ignore_ascii_case("wal") {
            return Ok(None);
        }
        looker
            .connection
            .query_row("PRAGMA schema_version", [], |_| Ok(()))
            .map_err(|e| failure("read", path, e))?;
        Ok(Some(looker))
    }

    /// How far the log is committed now.
    pub(in super::super) fn look(&self) -> Result<Published, Error> {
        let mut header = WalHeader::read(&self.wal)?;
        for _ in 0..LOOKS {
            let (frames, _) = self.checkpoint("noop")?;
            // The header of a log that is begun anew is written before its first frames are
            // published: the number is of this log if the header is the same before and after.
            let again = WalHeader::read(&self.wal)?;
            if again == header {
                return Ok(Published { header, frames });
            }
            header = again;
        }
        Err(Error::new(
            Class::Unavailable,
            format!("the log of {} is begun anew all the time", self.path.display()),
        ))
    }

    /// Runs a checkpoint; answers how many frames the log has, and how many are in the database.
    fn checkpoint(&self, how: &str) -> Result<(u32, u32), Error> {
        let number = |value: i64| u32::try_from(value).unwrap_or(0);
        self.connection
            .query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| {
                Ok((number(row.get(1)?), number(row.get(2)?)))
            })
            .map_err(|e| failure("look into the log of", &self.path, e))
    }
}

/// A database whose log is held.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    /// Of the file that was opened.
    identity: (u64, u64),
    readers: [Connection; 2],
    /// Which of them holds the log.
    current: usize,
    looker: Looker,
    writer: Connection,
}

/// What came of trying to let the log be begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The next writer begins it anew. Writers were kept waiting for so long.
    Ready(Duration),
    /// Writers or readers were in the way. Writers were kept waiting for so long.
    InTheWay(Duration),
}

impl Held {
    /// Opens the database and holds its log from now on; none if it is not in WAL mode.
    pub fn open(path: &Path) -> Result<Option<Held>, Error> {
        let identity = identity(path)?.ok_or_else(|| {
            Error::new(Class::Unavailable, format!("{} is not there", path.display()))
                .hinting("Correct `path`, or mount what it is on.")
        })?;
        let Some(looker) = Looker::open(path)? else { return Ok(None) };
        let readers = [reader(path)?, reader(path)?];
        let held = Held {
            path: path.to_owned(),
            identity,
            readers,
            current: 0,
            looker,
            writer: open(path)?,
        };
        held.begin(0)?;
        // It may have been exchanged while it was opened.
        if held.is_same_file()? { Ok(Some(held)) } else { Held::open(path) }
    }

    /// Whether the file at the database's path is still the one that is held.
    pub fn is_same_file(&self) -> Result<bool, Error> {
        Ok(identity(&self.path)? == Some(self.identity))
    }

    /// How far the log is committed now.
    pub fn look(&self) -> Result<Published, Error> {
        self.looker.look()
    }

    /// Takes another lock besides the one that is held.
    pub fn take_next(&self) -> Result<(), Error> {
        self.begin(1 - self.current)
    }

    /// Releases the lock that [`Held::take_next`] took, and keeps the older one.
    pub fn release_next(&self) -> Result<(), Error> {
        self.end(1 - self.current)
    }

    /// Releases the older lock. Everything that was committed when the newer one was taken must have
    /// been read.
    pub fn release_previous(&mut self) -> Result<(), Error> {
        self.end(self.current)?;
        self.current = 1 - self.current;
        Ok(())
    }

    /// Brings into the database file what nobody's reading forbids. Never waits, and nobody waits
    /// for it. Answers how many frames the log has, and how many of them are in the database.
    pub fn checkpoint(&self) -> Result<(u32, u32), Error> {
        self.looker.checkpoint("passive")
    }

    /// Keeps writers out for the moment in which the rest of the log is read by `rest` and brought
    /// into the database, so that the log can be begun anew. `rest` says whether it read everything.
    /// Readers are never waited for.
    pub fn restart(
        &mut self,
        rest: impl FnOnce(Published) -> Result<bool, Error>,
    ) -> Result<Restart, Error> {
        let deadline = Instant::now() + WRITE_PATIENCE;
        loop {
            match self.writer.execute_batch("BEGIN IMMEDIATE") {
                Ok(()) => break,
                Err(e) if is_busy(&e) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) if is_busy(&e) => return Ok(Restart::InTheWay(Duration::ZERO)),
                Err(e) => return Err(failure("lock", &self.path, e)),
            }
        }
        let began = Instant::now();
        let ready = self.locked(rest);
        let ended = self.writer.execute_batch("ROLLBACK");
        let took = began.elapsed();
        let ready = ready?;
        ended.map_err(|e| failure("unlock", &self.path, e))?;
        Ok(if ready { Restart::Ready(took) } else { Restart::InTheWay(took) })
    }

    fn locked(
        &mut self,
        rest: impl FnOnce(Published) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        if !rest(self.look()?)? {
            return Ok(false);
        }
        self.take_next()?;
        self.release_previous()?;
        let (frames, done) = self.checkpoint()?;
        if done < frames {
            return Ok(false);
        }
        // All of the log is in the database: this lock is on the database file alone.
        self.take_next()?;
        self.release_previous()?;
        Ok(true)
    }

    fn begin(&self, which: usize) -> Result<(), Error> {
        let Some(reader) = self.readers.get(which) else { return Ok(()) };
        if !reader.is_autocommit() {
            return Ok(());
        }
        let deadline = Instant::now() + READ_PATIENCE;
        loop {
            // BEGIN alone reads nothing and would hold nothing.
            let begun = reader.execute_batch("BEGIN; PRAGMA schema_version");
            if begun.is_err() && !reader.is_autocommit() {
                let _ = reader.execute_batch("ROLLBACK");
            }
            match begun {
                Err(e) if is_busy(&e) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(3));
                }
                Err(e) => return Err(failure("read", &self.path, e)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn end(&self, which: usize) -> Result<(), Error> {
        match self.readers.get(which) {
            Some(reader) if !reader.is_autocommit() => {
                reader.execute_batch("ROLLBACK").map_err(|e| failure("stop reading", &self.path, e))
            }
            _ => Ok(()),
        }
    }
}

/// Brings into the database file what is in a log that nobody holds, and makes a log short that is
/// longer than so many bytes. Never waits.
pub fn tidy(path: &Path, longest: u64) -> Result<(), Error> {
    let Some(looker) = Looker::open(path)? else { return Ok(()) };
    let (frames, done) = looker.checkpoint("passive")?;
    let length = fs::metadata(&looker.wal).map_or(0, |meta| meta.len());
    // With next to nothing left to do, writers are kept out for an instant.
    if frames.saturating_sub(done) < 1000 && length > longest {
        looker.checkpoint("truncate")?;
    }
    Ok(())
}

fn reader(path: &Path) -> Result<Connection, Error> {
    let connection = open(path)?;
    connection.execute_batch("PRAGMA query_only = ON").map_err(|e| failure("open", path, e))?;
    Ok(connection)
}

/// A connection that leaves the log as it is when it is closed.
fn open(path: &Path) -> Result<Connection, Error> {
    let opened = |e| failure("open", path, e);
    let connection = source::open(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(opened)?;
    connection.busy_timeout(Duration::ZERO).map_err(opened)?;
    Ok(connection)
}

/// Which file is at a path; none if there is none, or nothing in it.
fn identity(path: &Path) -> Result<Option<(u64, u64)>, Error> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() == 0 => Ok(None),
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path.display(), e)),
    }
}
