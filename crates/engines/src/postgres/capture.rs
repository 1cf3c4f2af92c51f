//! A base backup of a running server, by the low-level API over one session.
//!
//! While the session is in backup mode the files may be read in any order and at any speed: what is
//! torn or mixed in them is repaired when the log from the backup's start to its stop is replayed,
//! and the snapshot holds that log. The session also owns a temporary slot that keeps the server
//! from removing it. If we die, the server notices that the session has ended, and drops both.

use super::connect::Session;
use super::detail::{Detail, Tablespace};
use super::facts::{self, Facts};
use super::layout::{self, Layout};
use super::lsn::{Lsn, Segments};
use super::pg_control::{self, PgControl, State};
use super::wal::{Expected, SegmentReader};
use super::{DATA, Postgres, go_on};
use crate::{CaptureSink, Captured, Context, Error};
use jiff::Timestamp;
use model::{Class, Position};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the server may take to flush the log that it said it has written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// What backup mode gave when it ended.
struct Stopped {
    lsn: Lsn,
    label: String,
    /// Everything committed before this is in the base.
    before: Timestamp,
    /// Everything in the base was committed before this.
    after: Timestamp,
}

pub(super) fn live(
    engine: &Postgres,
    cx: &Context<'_>,
    mut session: Session,
    sink: &mut dyn CaptureSink,
) -> Result<Captured, Error> {
    let captured = in_session(engine, cx, &mut session, sink);
    // The end of the session is what undoes whatever a failure has left.
    if let Err(error) = session.end(&engine.address) {
        cx.progress.warn(&error.to_string());
    }
    captured
}

fn in_session(
    engine: &Postgres,
    cx: &Context<'_>,
    session: &mut Session,
    sink: &mut dyn CaptureSink,
) -> Result<Captured, Error> {
    cx.progress.phase("preparing the server");
    let facts = Facts::ask(session)?;
    facts.require_primary_with_wal()?;
    let data_dir = &engine.data_dir;
    let control = same_server(engine, &facts)?;
    let layout = Layout::look(session, &facts, data_dir)?;
    tell(cx, &facts);

    // Settings of the server must not end a session that waits for us to read terabytes.
    session.set(
        "SET statement_timeout = 0; SET lock_timeout = 0; \
         SET idle_in_transaction_session_timeout = 0",
    )?;
    if facts.major >= 14 {
        // The second one makes the server notice our death even while it works for us.
        session.set("SET idle_session_timeout = 0; SET client_connection_check_interval = '5s'")?;
    }

    let slot = hold_log(session)?;
    cx.progress.phase("waiting for a checkpoint");
    let start = start(cx, session, &facts, &engine.label())?;
    proved_live(engine, &control, start)?;

    cx.progress.phase("reading");
    let tablespaces = read_files(cx, engine, &layout, facts.major, sink)?;

    cx.progress.phase("ending backup mode");
    let stopped = stop(cx, session, &facts)?;
    layout::stream(sink, data_dir, "backup_label", stopped.label.as_bytes())?;
    let name = session.row(
        "name the segments of its log",
        "SELECT pg_walfile_name($1::text::pg_lsn)",
        &[&start.to_string()],
    )?;
    let timeline = u32::from_str_radix(name.get::<_, String>(0).get(..8).unwrap_or_default(), 16)
        .map_err(|e| Error::failed("the server named no timeline").because(e))?;

    cx.progress.phase("reading the log");
    await_flush(cx, session, stopped.lsn)?;
    let span =
        Span { start, stop: stopped.lsn, timeline, segments: facts.segments, switched: true };
    read_log(cx, data_dir, facts.system, &span, sink)?;
    session.row("drop its slot", "SELECT pg_drop_replication_slot($1)", &[&slot])?;

    Ok(Captured {
        source_time: stopped.before,
        position: Some(Position::Lsn { timeline, lsn: stopped.lsn.0 }),
        engine_version: Some(facts.version.clone()),
        detail: Detail {
            system_identifier: facts.system.to_string(),
            timeline,
            start: start.to_string(),
            stop: stopped.lsn.to_string(),
            consistent_at: stopped.after,
            segment_size: facts.segments.size(),
            superuser: Some(facts.superuser.clone()),
            tablespaces,
            in_place_tablespaces: facts.in_place_tablespaces,
            archive_mode: Some(facts.setting("archive_mode").to_owned()),
            listen_addresses: Some(facts.setting("listen_addresses").to_owned()),
            shared_preload_libraries: Some(facts.setting("shared_preload_libraries").to_owned()),
        }
        .to_json()?,
    })
}

/// Says what is legal but limits what the history is good for.
fn tell(cx: &Context<'_>, facts: &Facts) {
    if facts.setting("archive_mode") == "off" {
        cx.progress.note(
            "archive_mode is off: only the points of base backups can be restored, and standbys \
             cannot follow",
        );
    } else if !facts.setting("archive_command").contains("wal push") {
        cx.progress.note(
            "archive_command does not call `mainstay wal push`: the log between base backups is \
             not in the vault",
        );
    }
    if facts.setting("full_page_writes") == "off" {
        // Backup mode forces them while it lasts, so the base is whole.
        cx.progress.warn("full_page_writes is off: a crash of the server can tear its pages");
    }
}

/// Refuses a data directory that is not this server's, by what can be seen without touching it.
fn same_server(engine: &Postgres, facts: &Facts) -> Result<PgControl, Error> {
    let shown = engine.data_dir.display();
    let control = PgControl::read(&engine.data_dir)?;
    if control.system != facts.system {
        return Err(Error::new(
            Class::Invalid,
            format!(
                "{shown} belongs to another server than {} (system identifier {} and not {})",
                engine.address.shown(),
                control.system,
                facts.system
            ),
        )
        .hinting(engine.place_hint(facts.setting("data_directory"))));
    }
    if control.state != State::InProduction {
        return Err(not_this_copy(engine, facts.setting("data_directory")));
    }
    Ok(control)
}

/// A copy of the server's files, a standby's for one, has the same system identifier. But only the
/// server itself can have noted the checkpoint that it has just made for us.
fn proved_live(engine: &Postgres, before: &PgControl, start: Lsn) -> Result<(), Error> {
    let control = PgControl::read(&engine.data_dir)?;
    let made = control.redo >= start && control.state == State::InProduction;
    if made && control.checkpoint >= before.checkpoint {
        return Ok(());
    }
    Err(not_this_copy(engine, ""))
}

fn not_this_copy(engine: &Postgres, says: &str) -> Error {
    Error::new(
        Class::Invalid,
        format!(
            "{} is another copy than the one that the server at {} works on",
            engine.data_dir.display(),
            engine.address.shown()
        ),
    )
    .hinting(engine.place_hint(says))
}

/// Keeps the server from removing the log, for as long as this session lives.
fn hold_log(session: &mut Session) -> Result<String, Error> {
    let slot = format!(
        "mainstay_{}_{:x}",
        std::process::id(),
        Timestamp::now().as_nanosecond().unsigned_abs()
    );
    session
        .row(
            "make a temporary replication slot",
            "SELECT slot_name::text \
             FROM pg_create_physical_replication_slot($1, true, true)",
            &[&slot],
        )
        .map_err(|e| match model::Classify::hint(&e) {
            Some(_) => e,
            None => e.hinting("Raise max_replication_slots, or drop slots that nobody uses."),
        })?;
    Ok(slot)
}

fn start(
    cx: &Context<'_>,
    session: &mut Session,
    facts: &Facts,
    label: &str,
) -> Result<Lsn, Error> {
    // Both with an immediate checkpoint: spreading it over minutes would make every backup late.
    let sql = if facts.major >= 15 {
        "SELECT pg_backup_start($1, true)::text"
    } else {
        "SELECT pg_start_backup($1, true, false)::text"
    };
    let row = session.long_row(cx, "enter backup mode", sql, &[&label])?;
    facts::lsn(row.get(0))
}

fn stop(cx: &Context<'_>, session: &mut Session, facts: &Facts) -> Result<Stopped, Error> {
    let before = facts::now(session)?;
    // Not waiting for the archiver: the snapshot holds the log itself.
    let sql = if facts.major >= 15 {
        "SELECT lsn::text, labelfile FROM pg_backup_stop(false)"
    } else {
        "SELECT lsn::text, labelfile FROM pg_stop_backup(false, false)"
    };
    let row = session.long_row(cx, "leave backup mode", sql, &[])?;
    Ok(Stopped {
        lsn: facts::lsn(row.get(0))?,
        label: row.get(1),
        before,
        after: facts::now(session)?,
    })
}

pub(super) fn read_files(
    cx: &Context<'_>,
    engine: &Postgres,
    layout: &Layout,
    major: u32,
    sink: &mut dyn CaptureSink,
) -> Result<Vec<Tablespace>, Error> {
    let data_dir = &engine.data_dir;
    let tablespaces = layout::tablespaces(data_dir, major)?;
    sink.tree(DATA, data_dir, &layout.tree_options(engine.chunk))?;
    for (tablespace, versions) in &tablespaces {
        for (name, dir) in versions {
            let at = format!("{DATA}/pg_tblspc/{}/{name}", tablespace.oid);
            sink.tree(&at, dir, &layout::relation_options(engine.chunk))?;
        }
        cx.progress.note(&format!(
            "tablespace {} of {} goes into the data directory's own pg_tblspc",
            tablespace.oid, tablespace.location
        ));
    }
    layout.stream_configuration(data_dir, sink)?;
    // Last, so that it is never older than what lies beside it.
    let control = PgControl::read(data_dir)?;
    layout::stream(sink, data_dir, pg_control::PATH, &control.bytes)?;
    Ok(tablespaces.into_iter().map(|(tablespace, _)| tablespace).collect())
}

fn await_flush(cx: &Context<'_>, session: &mut Session, stop: Lsn) -> Result<(), Error> {
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    loop {
        let row = session.row(
            "tell how far its log is flushed",
            "SELECT pg_current_wal_flush_lsn()::text",
            &[],
        )?;
        if facts::lsn(row.get(0))? >= stop {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::failed(format!(
                "the server did not flush its log up to {stop} within {FLUSH_TIMEOUT:?}"
            )));
        }
        go_on(cx)?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A part of the log.
pub(super) struct Span {
    pub(super) start: Lsn,
    pub(super) stop: Lsn,
    pub(super) timeline: u32,
    pub(super) segments: Segments,
    /// The server went on to a new segment at its stop.
    pub(super) switched: bool,
}

/// Adds the segments that replay needs, and the histories that explain their timeline.
pub(super) fn read_log(
    cx: &Context<'_>,
    data_dir: &Path,
    system: u64,
    span: &Span,
    sink: &mut dyn CaptureSink,
) -> Result<(), Error> {
    let wal = data_dir.join("pg_wal");
    let first = span.segments.number(span.start);
    let last = span.segments.number(Lsn(span.stop.0.saturating_sub(1))).max(first);
    for number in first..=last {
        go_on(cx)?;
        let name = span.segments.name(span.timeline, number);
        let path = wal.join(&name);
        let lost = |e| {
            Error::io("read the segment", path.display(), e).hinting(
                "Is max_slot_wal_keep_size too small for one backup, or were files removed by \
                 hand? The log from the backup's start must stay until it has ended.",
            )
        };
        let file = File::open(&path).map_err(lost)?;
        let expected = Expected {
            system: Some(system),
            timeline: span.timeline,
            start: span.segments.start(number),
            size: span.segments.size(),
            needed: if number == last { span.stop } else { span.segments.start(number) },
            finished: span.switched || number != last,
        };
        let meta = layout::meta_of(&file.metadata().map_err(lost)?);
        let mut content = SegmentReader::new(file, expected);
        sink.file(&format!("{DATA}/pg_wal/{name}"), &meta, &mut content)?;
    }
    for timeline in 2..=span.timeline {
        let name = format!("{timeline:08X}.history");
        match fs::read(wal.join(&name)) {
            Ok(bytes) => layout::stream(sink, data_dir, &format!("pg_wal/{name}"), &bytes)?,
            // The server itself needs it no more; the log store has it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", wal.join(&name).display(), e)),
        }
    }
    Ok(())
}
