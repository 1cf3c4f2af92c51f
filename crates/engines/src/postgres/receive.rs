//! The log as it is written: how far the server is, and what it keeps for us in a slot.

use super::connect::Session;
use super::inspect::stopped_at;
use super::live::Live;
use super::lsn::{Lsn, Segments};
use super::pg_control::{PgControl, State};
use super::server::{branch, timeline_in};
use super::{Postgres, facts};
use crate::Error;
use model::{Class, ClusterId, Position};
use std::time::{Duration, Instant};

/// How long a slot may take to become free after who used it has gone.
const FREE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a primary says of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// It replays another server's log, and has none of its own.
    pub in_recovery: bool,
    /// The database cluster that it works on.
    pub cluster: ClusterId,
    /// The timeline that it writes.
    pub timeline: u32,
    /// Everything before this is durable.
    pub flushed: Lsn,
    /// How it is cut.
    pub segments: Segments,
    /// What it keeps for us.
    pub slot: Option<Slot>,
    /// `max_slot_wal_keep_size` in bytes; none: a slot may fill the disk.
    pub slot_limit: Option<u64>,
}

/// A replication slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// From here on the log is kept.
    pub from: Option<Lsn>,
    /// The server gave up what it should have kept.
    pub lost: bool,
}

/// Why a standby may stand still although nothing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Up to here it has the log from its primary; none if it has nothing from there.
    pub received: Option<Lsn>,
    /// Somebody has paused the replay.
    pub paused: bool,
}

/// One server's log, looked at again and again.
#[derive(Debug)]
pub struct Source<'a> {
    engine: &'a Postgres,
    slot: String,
    session: Option<Session>,
}

impl<'a> Source<'a> {
    pub(super) fn new(engine: &'a Postgres) -> Source<'a> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let mut slot: String =
            "mainstay_".chars().chain(engine.name.as_str().chars().map(plain)).collect();
        slot.truncate(63);
        Source { engine, slot, session: None }
    }

    /// What the slot is called.
    pub fn slot(&self) -> &str {
        &self.slot
    }

    fn session(&mut self) -> Result<&mut Session, Error> {
        if self.session.is_none() {
            self.session = Some(self.engine.address.connect()?);
        }
        self.session.as_mut().ok_or_else(|| Error::failed("there is no session"))
    }

    /// Asks within the open session, and opens another one next time if that failed.
    fn ask<T>(&mut self, ask: impl FnOnce(&mut Session) -> Result<T, Error>) -> Result<T, Error> {
        let answer = self.session().and_then(ask);
        if answer.is_err() {
            self.session = None;
        }
        answer
    }

    /// What the server says now.
    pub fn look(&mut self) -> Result<Log, Error> {
        let slot = self.slot.clone();
        let row = self.ask(|session| {
            session.row(
                "tell of its log",
                "SELECT pg_is_in_recovery(), \
                        CASE WHEN NOT pg_is_in_recovery() \
                             THEN pg_walfile_name(pg_current_wal_flush_lsn()) END, \
                        CASE WHEN NOT pg_is_in_recovery() \
                             THEN pg_current_wal_flush_lsn()::text END, \
                        pg_size_bytes(current_setting('wal_segment_size')), \
                        pg_size_bytes(current_setting('max_slot_wal_keep_size')), \
                        s.slot_name IS NOT NULL, s.restart_lsn::text, s.wal_status = 'lost', \
                        (SELECT system_identifier FROM pg_control_system()) \
                   FROM (SELECT 1) one LEFT JOIN pg_replication_slots s ON slot_name = $1::text",
                &[&slot],
            )
        })?;
        let in_recovery: bool = row.get(0);
        let timeline = match row.get::<_, Option<String>>(1) {
            Some(name) => timeline_in(&name)?,
            None => 0,
        };
        let position = |at: usize| -> Result<Option<Lsn>, Error> {
            row.get::<_, Option<String>>(at).map(|text| facts::lsn(&text)).transpose()
        };
        let size: Option<i64> = row.get(3);
        let segments = size.and_then(|size| Segments::of(u64::try_from(size).ok()?));
        let keep: Option<i64> = row.get(4);
        let slot = if row.get(5) {
            let lost = row.get::<_, Option<bool>>(7).unwrap_or(false);
            Some(Slot { from: position(6)?, lost })
        } else {
            None
        };
        Ok(Log {
            in_recovery,
            cluster: ClusterId(row.get::<_, i64>(8).cast_unsigned()),
            timeline,
            flushed: position(2)?.unwrap_or(Lsn(0)),
            segments: segments.ok_or_else(|| {
                Error::failed(format!("the server's segments have {size:?} bytes"))
            })?,
            slot,
            slot_limit: keep.and_then(|bytes| u64::try_from(bytes).ok()),
        })
    }

    /// What a standby waits with, which replays another server's log.
    pub fn waiting(&mut self) -> Result<Waiting, Error> {
        let row = self.ask(|session| {
            session.row(
                "tell what it has received",
                "SELECT pg_last_wal_receive_lsn()::text, pg_is_wal_replay_paused()",
                &[],
            )
        })?;
        let received = row.get::<_, Option<String>>(0).map(|text| facts::lsn(&text)).transpose()?;
        Ok(Waiting { received, paused: row.get(1) })
    }

    /// Where the log ends of a server that was stopped cleanly, of which cluster and on which timeline: all
    /// of it is durable. None if it was not.
    pub fn stopped(&self) -> Option<(ClusterId, u32, Lsn)> {
        let data_dir = &self.engine.data_dir;
        let control = PgControl::read(data_dir).ok()?;
        match stopped_at(data_dir, &control)? {
            Position::Lsn { timeline, lsn } => {
                Some((ClusterId(control.system), timeline, Lsn(lsn)))
            }
            _ => None,
        }
    }

    /// Makes the slot, which keeps the log from now on.
    pub fn make_slot(&mut self) -> Result<(), Error> {
        let slot = self.slot.clone();
        let made = self.ask(|session| {
            session.row(
                "make a replication slot",
                "SELECT slot_name::text FROM pg_create_physical_replication_slot($1::text, true)",
                &[&slot],
            )
        });
        made.map(drop).map_err(|e| match model::Classify::hint(&e) {
            Some(_) => e,
            None => e.hinting("Raise max_replication_slots, or drop slots that nobody uses."),
        })
    }

    /// Makes the slot if it is not there.
    pub fn have_slot(&mut self) -> Result<(), Error> {
        match self.look()?.slot {
            Some(_) => Ok(()),
            None => self.make_slot(),
        }
    }

    /// Lets the server, a standby too, throw nothing of its log away as long as this is there.
    pub fn keep(&mut self) -> Result<(), Error> {
        let slot = format!("mainstay_keeps_{}", std::process::id());
        let made = self.ask(|session| {
            session.row(
                "keep its log for a while",
                "SELECT slot_name::text FROM \
                 pg_create_physical_replication_slot($1::text, true, true)",
                &[&slot],
            )
        });
        made.map(drop)
    }

    /// Drops the slot, so that the server keeps nothing for us. Whoever used it must have ended.
    pub fn drop_slot(&mut self) -> Result<(), Error> {
        let slot = self.slot.clone();
        let deadline = Instant::now() + FREE_TIMEOUT;
        loop {
            let dropped = self.ask(|session| {
                session.rows(
                    "drop its replication slot",
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                      WHERE slot_name = $1::text",
                    &[&slot],
                )
            });
            match dropped {
                Ok(_) => return Ok(()),
                // The server has not noticed yet that who used it is gone.
                Err(error) if Instant::now() < deadline && is_active(&error) => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The first position that has to be received on this timeline: what lies before it was written
    /// on the one that it branched off.
    pub fn branched(&self, timeline: u32) -> Option<Lsn> {
        branch(&self.engine.data_dir, timeline)
    }

    /// Lets the server remove what lies before this position: it is kept elsewhere.
    pub fn advance(&mut self, to: Lsn) -> Result<(), Error> {
        let (slot, to) = (self.slot.clone(), to.to_string());
        let moved = self.ask(|session| {
            session.row(
                "let go of what is stored",
                "SELECT end_lsn::text FROM \
                 pg_replication_slot_advance($1::text, $2::text::pg_lsn)",
                &[&slot, &to],
            )
        });
        moved.map(drop)
    }

    /// Whether the server hands its log over by our own `archive_command`.
    pub fn archives(&mut self) -> Result<bool, Error> {
        let row = self.ask(|session| {
            session.row(
                "tell how it archives",
                "SELECT current_setting('archive_mode') <> 'off' \
                    AND current_setting('archive_command') LIKE '%wal push%'",
                &[],
            )
        })?;
        Ok(row.get(0))
    }

    /// Where the server writes its log. There must be a slot: that it lies beside the log, and that the
    /// control file there is the one that the server writes, proves that the server works on these
    /// files, and on no copy of them.
    pub fn live(&mut self) -> Result<Live, Error> {
        let data_dir = &self.engine.data_dir;
        let slot = data_dir.join("pg_replslot").join(&self.slot);
        let mut says = None;
        // A checkpoint may fall between the two looks.
        for _ in 0..3 {
            let row = self.ask(|session| {
                session.row(
                    "tell what it works on",
                    "SELECT system_identifier, checkpoint_lsn::text, \
                            (SELECT reset_val FROM pg_settings WHERE name = 'data_directory') \
                       FROM pg_control_system(), pg_control_checkpoint()",
                    &[],
                )
            })?;
            let control = PgControl::read(data_dir)?;
            let same = control.system == row.get::<_, i64>(0).cast_unsigned()
                && control.checkpoint == facts::lsn(row.get(1))?
                && control.state == State::InProduction;
            if same && slot.is_dir() {
                return Ok(Live::at(data_dir));
            }
            says = row.get::<_, Option<String>>(2);
        }
        Err(Error::new(
            Class::Invalid,
            format!(
                "{} is not what the server at {} works on",
                data_dir.display(),
                self.engine.address.shown()
            ),
        )
        .hinting(self.engine.place_hint(says.as_deref().unwrap_or_default())))
    }
}

fn is_active(error: &Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.to_string().contains("is active for") {
            return true;
        }
        cause = inner.source();
    }
    false
}
