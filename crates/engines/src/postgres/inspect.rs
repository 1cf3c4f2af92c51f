//! What can be seen of the server without changing it.

use super::collation::Collations;
use super::connect::Session;
use super::lsn::{Lsn, Segments, WalFile};
use super::pg_control::{self, PgControl, State};
use super::{Postgres, facts, over, programs, server};
use crate::{Context, Error, Inspection, Running};
use jiff::Timestamp;
use model::{ClusterId, Position};
use std::fs;
use std::path::{Path, PathBuf};

/// Size of the header at the beginning of each segment.
const SEGMENT_HEADER: u64 = 40;

pub(super) fn inspect(engine: &Postgres, cx: &Context<'_>) -> Result<Inspection, Error> {
    let data_dir = &engine.data_dir;
    let Ok(major) = programs::data_version(data_dir) else {
        return Ok(Inspection {
            running: Running::No,
            has_data: false,
            version: None,
            size_bytes: None,
            position: None,
            replayed: None,
            following: false,
            unarchived: None,
            doubts: Vec::new(),
            summary: format!("{} holds no server", data_dir.display()),
        });
    };
    let running = server::running(engine, cx)?;
    let standby = data_dir.join("standby.signal").exists();
    let mut found = Inspection {
        running,
        has_data: true,
        version: Some(major.to_string()),
        size_bytes: None,
        position: None,
        replayed: None,
        following: standby,
        unarchived: None,
        doubts: Vec::new(),
        summary: String::new(),
    };
    if running == Running::No && over::is_marked(data_dir) {
        found.following = false;
        found.summary = format!("PostgreSQL {major}, half restored: give the restore again");
        return Ok(found);
    }
    if running == Running::No {
        let control = PgControl::read(data_dir)?;
        found.position = stopped_at(data_dir, &control);
        let how = match (control.state, standby) {
            (_, true) => "stopped, a standby",
            (State::ShutDown, _) => "stopped cleanly",
            _ => "not running, and was not stopped cleanly",
        };
        found.summary = format!("PostgreSQL {major}, {how}");
        return Ok(found);
    }
    let asked = engine.address.connect();
    let seen = asked.and_then(|mut session| ask(data_dir, &mut session, &mut found));
    if let Err(error) = seen {
        found.summary = format!("PostgreSQL {major} runs, and does not answer: {error}");
    }
    Ok(found)
}

fn ask(data_dir: &Path, session: &mut Session, found: &mut Inspection) -> Result<(), Error> {
    let row = session.row(
        "describe itself",
        "SELECT current_setting('server_version'), pg_is_in_recovery(), \
                (SELECT sum(pg_database_size(oid))::int8 FROM pg_database \
                 WHERE has_database_privilege(oid, 'CONNECT'))",
        &[],
    )?;
    let version: String = row.get(0);
    found.following = row.get(1);
    found.size_bytes = row.get::<_, Option<i64>>(2).and_then(|size| u64::try_from(size).ok());
    found.version = Some(version.clone());
    let position = if found.following {
        let row = session.row(
            "tell how far it has replayed",
            "SELECT pg_last_wal_replay_lsn()::text, \
                    greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
                             (SELECT min_recovery_end_timeline FROM pg_control_recovery())), \
                    (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::int8",
            &[],
        )?;
        found.replayed = row
            .get::<_, Option<i64>>(2)
            .and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let lsn = row.get::<_, Option<&str>>(0).map(facts::lsn).transpose()?;
        lsn.map(|lsn| {
            let noted = row.get::<_, i32>(1).cast_unsigned();
            (timeline_of(data_dir, lsn).map_or(noted, |timeline| timeline.max(noted)), lsn)
        })
    } else {
        let row = session.row(
            "tell its position",
            "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_lsn()::text",
            &[],
        )?;
        Some((server::timeline_in(row.get(0))?, facts::lsn(row.get(1))?))
    };
    found.position = position.map(|(timeline, lsn)| Position::Lsn { timeline, lsn: lsn.0 });
    let role = if found.following { "a standby that replays the log" } else { "a primary" };
    found.summary = format!("PostgreSQL {version}, {role}");
    if let Some(position) = &found.position {
        found.summary.push_str(&format!(" at {position}"));
    }
    if !found.following {
        found.unarchived = fails_to_archive(session);
    }
    let mut collations = Collations::default();
    collations.of_databases(session)?;
    found.doubts = collations.doubts();
    Ok(())
}

/// The timeline that a standby replays. It notes a new one in its control file only when it writes
/// pages; but the segment that it is in has the timeline in its name.
fn timeline_of(data_dir: &Path, replayed: Lsn) -> Option<u32> {
    let segments = segments_of(data_dir)?;
    let current = segments.start(segments.number(Lsn(replayed.0.saturating_sub(1))));
    let entries = fs::read_dir(data_dir.join("pg_wal")).ok()?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| match WalFile::parse(&name) {
            Some(WalFile::Segment { timeline, place })
                if segments.start_of(place) == Some(current) =>
            {
                Some(timeline)
            }
            _ => None,
        })
        .max()
}

/// What the server failed to archive, if it has archived nothing since.
fn fails_to_archive(session: &mut Session) -> Option<String> {
    let row = session
        .row(
            "tell of its archiver",
            "SELECT last_failed_wal FROM pg_stat_archiver \
             WHERE last_failed_time > coalesce(last_archived_time, '-infinity')",
            &[],
        )
        .ok()?;
    row.get(0)
}

/// Where a primary that was stopped cleanly has ended.
///
/// A server that archives switches to a new segment before it writes its last checkpoint, which
/// says nothing but that it stopped. What a standby can replay ends where that segment begins.
pub(super) fn stopped_at(data_dir: &Path, control: &PgControl) -> Option<Position> {
    if control.state != State::ShutDown {
        return None;
    }
    let segments = segments_of(data_dir);
    let lsn = match segments {
        Some(segments) if control.checkpoint.0 % segments.size() == SEGMENT_HEADER => {
            Lsn(control.checkpoint.0 - SEGMENT_HEADER)
        }
        _ => control.checkpoint,
    };
    Some(Position::Lsn { timeline: control.timeline, lsn: lsn.0 })
}

/// Which database cluster lies in this data directory: different for every `initdb`. None if none does.
pub fn cluster_of(data_dir: &Path) -> Result<Option<ClusterId>, Error> {
    if !data_dir.join(pg_control::PATH).exists() {
        return Ok(None);
    }
    PgControl::read(data_dir).map(|control| Some(ClusterId(control.system)))
}

/// How the log of the server in this data directory is cut, by what lies there.
pub fn segments_of(data_dir: &Path) -> Option<Segments> {
    let entries = fs::read_dir(data_dir.join("pg_wal")).ok()?;
    let size = entries.flatten().find_map(|entry| {
        let name = entry.file_name();
        let segment = matches!(WalFile::parse(name.to_str()?), Some(WalFile::Segment { .. }));
        if segment { entry.metadata().ok().map(|meta| meta.len()) } else { None }
    })?;
    Segments::of(size)
}

/// The files of a stopped server's log that it had not archived yet, in the order in which it would
/// have: histories first.
pub fn unarchived(data_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let wal = data_dir.join("pg_wal");
    let status = wal.join("archive_status");
    let entries = match fs::read_dir(&status) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", status.display(), e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", status.display(), e))?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".ready"))
            && let Some(file) = WalFile::parse(name)
        {
            names.push((!matches!(file, WalFile::History { .. }), name.to_owned()));
        }
    }
    names.sort();
    Ok(names.into_iter().map(|(_, name)| wal.join(name)).collect())
}
