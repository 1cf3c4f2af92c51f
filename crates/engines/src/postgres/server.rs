//! Whether the server runs; starting, stopping and promoting it.
//!
//! Whether it runs is read off its own `postmaster.pid` and the process that this names, so it
//! holds whoever started it. Readiness is read there, too: the server writes its state into it.

use super::connect::Session;
use super::files::Files;
use super::lsn::Lsn;
use super::programs::Owner;
use super::{Postgres, STARTUP_LOG, STARTUP_LOG_OLD, collation, facts, go_on, pg_control};
use crate::{Context, Error, Promoted, Running};
use model::{Class, Classify, Position};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where a server writes what it is.
const NOTE: &str = "postmaster.pid";
/// How long `pg_ctl` itself waits for a start; we go on waiting after that.
const START_SECONDS: u32 = 5;
/// How long a server that was asked to stop may take: it writes a checkpoint and archives the log.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a promotion may take.
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(600);
/// The pause between looks.
const TICK: Duration = Duration::from_millis(10);
/// A startup log that is larger is put aside before a start.
const LOG_LIMIT: u64 = 8 << 20;
/// How much of its end an error shows.
const LOG_TAIL: u64 = 4 << 10;
/// How many lines.
const LOG_LINES: usize = 12;

/// A server that works on a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    pub(super) state: State,
}

/// What it says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It accepts sessions. Whether it accepts writes, too, this does not say.
    Ready,
    /// It replays a log with `hot_standby` off and accepts nobody.
    Standby,
    /// On its way.
    Between,
}

/// The server that works on this directory; none if there is none.
pub(super) fn postmaster(data_dir: &Path) -> Result<Option<Postmaster>, Error> {
    let noted = noted(data_dir)?;
    Ok(noted.filter(|noted| noted.pid == 0 || alive(noted.pid.saturating_abs(), data_dir)))
}

/// What a server has written of itself into this directory, whether it still runs or not. In a namespace of
/// processes of its own it knows itself by another number.
pub(super) fn noted(data_dir: &Path) -> Result<Option<Postmaster>, Error> {
    let file = data_dir.join(NOTE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("read", file.display(), e)),
    };
    let mut lines = text.lines();
    // Negative for a single-user server. An empty file is one that is just being written.
    let Some(pid) = lines.next().and_then(|pid| pid.trim().parse::<i32>().ok()) else {
        return Ok(text.is_empty().then_some(Postmaster { pid: 0, state: State::Between }));
    };
    let state = match lines.nth(6).map(str::trim) {
        Some("ready") => State::Ready,
        Some("standby") => State::Standby,
        _ => State::Between,
    };
    Ok(Some(Postmaster { pid, state }))
}

/// Removes what a server has written of itself into a directory on which none works.
pub(super) fn forget_note(data_dir: &Path) -> Result<(), Error> {
    let file = data_dir.join(NOTE);
    match fs::remove_file(&file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", file.display(), e))
        }
        _ => Ok(()),
    }
}

/// Asks the server on this directory to end its sessions and stop, in whatever namespace of processes it
/// runs. Says whether there is one.
pub(super) fn interrupt(data_dir: &Path) -> Result<bool, Error> {
    let Some(noted) = noted(data_dir)? else { return Ok(false) };
    let failed = |e: rustix::io::Errno| {
        Error::io("stop the server on", data_dir.display(), io::Error::from(e))
    };
    let dir = data_dir.canonicalize().map_err(|e| Error::io("look at", data_dir.display(), e))?;
    let processes = fs::read_dir("/proc").map_err(|e| Error::io("list", "/proc", e))?;
    let pids = processes.flatten().filter_map(|one| one.file_name().to_str()?.parse().ok());
    for pid in pids.filter_map(Pid::from_raw) {
        // Looked at when its number cannot become another process's any more.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if !is_known_as(pid, noted.pid, &dir) {
            continue;
        }
        return match pidfd_send_signal(&process, Signal::INT) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(failed(error)),
        };
    }
    Ok(false)
}

/// Whether this process works in this directory, and has this number where it runs.
fn is_known_as(pid: Pid, number: i32, dir: &Path) -> bool {
    let place = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    fs::read_link(place("cwd")).is_ok_and(|cwd| cwd == dir)
        && fs::read_to_string(place("status")).is_ok_and(|status| {
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let own = numbers.and_then(|numbers| numbers.split_whitespace().next_back());
            own.and_then(|own| own.parse().ok()) == Some(number)
        })
}

/// Whether this process is there and works on this directory. A number that outlived a reboot may
/// be anybody's; a server's working directory is its data directory.
fn alive(pid: i32, data_dir: &Path) -> bool {
    let Some(number) = Pid::from_raw(pid) else { return false };
    match test_kill_process(number) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(_) => return false,
    }
    match (fs::read_link(format!("/proc/{pid}/cwd")), data_dir.canonicalize()) {
        (Ok(cwd), Ok(data_dir)) => cwd == data_dir,
        // It ended just now.
        (Err(e), _) if e.kind() == io::ErrorKind::NotFound => false,
        // Somebody else's process, of which we may know no more than its name.
        _ => fs::read_to_string(format!("/proc/{pid}/comm"))
            .map_or(true, |name| name.contains("postgres") || name.contains("postmaster")),
    }
}

pub(super) fn running(engine: &Postgres, cx: &Context<'_>) -> Result<Running, Error> {
    if postmaster(&engine.data_dir)?.is_some() {
        return Ok(Running::Yes);
    }
    match engine.control.running(cx)? {
        Running::Unknown => {}
        known => return Ok(known),
    }
    // In a container the server has other process numbers than those we see. Then there is a file,
    // and a server that answers, with our data.
    if engine.data_dir.join("postmaster.pid").exists()
        && let Ok(mut session) = engine.address.connect()
        && let Ok(control) = pg_control::PgControl::read(&engine.data_dir)
    {
        let row = session.row(
            "tell its system identifier",
            "SELECT system_identifier FROM pg_control_system()",
            &[],
        )?;
        if row.get::<_, i64>(0).cast_unsigned() == control.system {
            return Ok(Running::Yes);
        }
    }
    Ok(Running::No)
}

pub(super) fn start(engine: &Postgres, cx: &Context<'_>) -> Result<(), Error> {
    let data_dir = &engine.data_dir;
    // A copy that recovers up to its end, and only then is what was asked for.
    let to_the_end = data_dir.join("recovery.signal").exists();
    let done = |postmaster: &Postmaster| match postmaster.state {
        State::Ready if to_the_end => in_production(data_dir),
        State::Ready => Ok(true),
        State::Standby => Ok(!to_the_end),
        State::Between => Ok(false),
    };
    if let Some(postmaster) = postmaster(data_dir)?
        && done(&postmaster)?
    {
        return Ok(());
    }
    let log = data_dir.join(STARTUP_LOG);
    let mut log_from = 0;
    if engine.own_start {
        log_from = rotate(data_dir)?;
        if postmaster(data_dir)?.is_none() {
            let programs = engine.programs(data_dir)?;
            let begun = programs
                .command("pg_ctl")
                .args(["start", "--wait", "--silent"])
                .arg(format!("--timeout={START_SECONDS}"))
                .arg("--pgdata")
                .arg(data_dir)
                .arg("--log")
                .arg(&log)
                .with_usual_priority()
                .ask(cx.cancel)?;
            // It also fails when the server takes longer than that, which is no failure.
            if !begun.success() && postmaster(data_dir)?.is_none() {
                return Err(explained(begun.failure(), &log, log_from));
            }
        }
    } else {
        engine.control.start(cx)?;
    }
    if to_the_end {
        cx.progress.phase("replaying the log");
    }
    // No deadline: replaying takes as long as there is log. A server that fails ends.
    let mut seen = false;
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        match postmaster(data_dir)? {
            Some(postmaster) if done(&postmaster)? => {
                // What was restored may come from another host.
                if to_the_end && let Ok(mut session) = engine.address.connect() {
                    collation::warn(cx, &mut session, engine.address.database());
                }
                return Ok(());
            }
            Some(_) => seen = true,
            None if seen || engine.own_start || Instant::now() >= patience => {
                let error = Error::failed(format!(
                    "the server on {} ended before it accepted work",
                    data_dir.display()
                ));
                return Err(explained(error, &log, log_from));
            }
            None => {}
        }
        go_on(cx)?;
        std::thread::sleep(TICK);
    }
}

/// Whether the server that works on this directory accepts writes. While it replays, its control
/// file says so.
pub(super) fn in_production(data_dir: &Path) -> Result<bool, Error> {
    Ok(pg_control::PgControl::read(data_dir)?.state == pg_control::State::InProduction)
}

/// Puts a large log aside and tells where what follows will begin.
fn rotate(data_dir: &Path) -> Result<u64, Error> {
    let log = data_dir.join(STARTUP_LOG);
    let size = match fs::metadata(&log) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(Error::io("look at", log.display(), e)),
    };
    if size <= LOG_LIMIT {
        return Ok(size);
    }
    fs::rename(&log, data_dir.join(STARTUP_LOG_OLD))
        .map_err(|e| Error::io("rename", log.display(), e))?;
    Ok(0)
}

/// Adds what the server said.
fn explained(error: Error, log: &Path, from: u64) -> Error {
    let said = tail(log, from);
    if said.is_empty() {
        return error.hinting(format!("Look into the server's log ({}).", log.display()));
    }
    // What the server says of a port or a socket that another one has.
    let taken = ["Address already in use", "is another postmaster", "Is another postmaster"];
    if taken.iter().any(|words| said.contains(words)) {
        return Error::new(error.class(), format!("{error}; it said:\n{said}")).hinting(
            "Another server has its port: stop that one, or let this one have another `port`. Its \
             data is whole, and waits to be started.",
        );
    }
    let late = said.contains("recovery ended before configured recovery target was reached");
    let class = error.class();
    let error = Error::new(class, format!("{error}; it said:\n{said}"));
    if late {
        error.hinting(
            "The log in the vault ends before the time that was asked for. Name an earlier one, or \
             none for everything there is.",
        )
    } else {
        error.hinting(format!("Look into the server's log ({}).", log.display()))
    }
}

/// The last lines of a log from this place on.
pub(super) fn tail(log: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(size.saturating_sub(LOG_TAIL))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES);
    lines.get(first..).unwrap_or_default().join("\n")
}

pub(super) fn stop(engine: &Postgres, cx: &Context<'_>) -> Result<(), Error> {
    let data_dir = &engine.data_dir;
    if !engine.own_stop {
        engine.control.stop(cx)?;
    } else if postmaster(data_dir)?.is_some() {
        // Fast: sessions are ended, a checkpoint is written, the log is archived to its end.
        let stopped = engine
            .programs(data_dir)?
            .command("pg_ctl")
            .args(["stop", "--wait", "--silent", "--mode=fast"])
            .arg(format!("--timeout={}", STOP_TIMEOUT.as_secs()))
            .arg("--pgdata")
            .arg(data_dir)
            .ask(cx.cancel)?;
        if !stopped.success() && postmaster(data_dir)?.is_some() {
            return Err(stopped.failure());
        }
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    while let Some(postmaster) = postmaster(data_dir)? {
        if Instant::now() >= deadline {
            return Err(Error::failed(format!(
                "the server (process {}) still works on {}",
                postmaster.pid,
                data_dir.display()
            ))
            .hinting("Something starts it again, or a session holds it up."));
        }
        go_on(cx)?;
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// In the data directory of a standby that is promoted: by us, and until the server has heard of it, by
/// whomever.
pub(super) const PROMOTING: &str = "mainstay_promoting";
const PROMOTE: &str = "promote";

/// Whether no answer is not the end of the log for a server in this directory. One that only follows asks
/// again for what it does not get now; told that something went wrong it would end, and with it whoever
/// reads there. One that is to stop somewhere in its log, or about to be promoted, takes no answer for the
/// end of that. One that has neither file any more is past it: it asks how its timeline came about, which it
/// knows, and if it ended over that it would come up without a timeline of its own.
pub fn asks_again(data_dir: &Path) -> bool {
    let has = |name: &str| data_dir.join(name).exists();
    match (has("standby.signal"), has("recovery.signal")) {
        (true, _) => !has(PROMOTING) && !has(PROMOTE),
        (false, recovers) => !recovers && has("PG_VERSION"),
    }
}

pub(super) fn promote(engine: &Postgres, cx: &Context<'_>) -> Result<Promoted, Error> {
    // One that is down can be promoted as well, once it is up.
    if running(engine, cx)? == Running::No {
        start(engine, cx)?;
    }
    let mut session = engine.address.connect()?;
    if in_recovery(&mut session)? {
        cx.progress.phase("promoting");
        // Without it, as on a full disk, an outage meanwhile may be taken for the end of the log.
        let files = Files::open(&engine.data_dir, Owner::of(&engine.data_dir)?)?;
        if let Err(error) = files.write(PROMOTING, "") {
            cx.progress.note(&error.to_string());
        }
        ask_to_promote(engine, cx, &mut session)?;
        await_promotion(cx, &mut session)?;
        let _ = files.remove(PROMOTING);
    }
    let row = session.row(
        "tell its position",
        "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_lsn()::text",
        &[],
    )?;
    collation::warn(cx, &mut session, engine.address.database());
    let timeline = timeline_in(row.get(0))?;
    let lsn = match branch(&engine.data_dir, timeline) {
        Some(lsn) => lsn,
        None => facts::lsn(row.get(1))?,
    };
    Ok(Promoted { position: Some(Position::Lsn { timeline, lsn: lsn.0 }) })
}

/// Not waiting in the server: a statement that waits while it replays the rest of its log is one
/// that it ends when that log removes rows.
fn ask_to_promote(engine: &Postgres, cx: &Context<'_>, session: &mut Session) -> Result<(), Error> {
    match session.row("promote itself", "SELECT pg_promote(false)", &[]) {
        Ok(_) => Ok(()),
        // The role may not; its owner may.
        Err(error) if error.class() == Class::Invalid => {
            let output = engine
                .programs(&engine.data_dir)?
                .command("pg_ctl")
                .args(["promote", "--no-wait", "--silent", "--pgdata"])
                .arg(&engine.data_dir)
                .ask(cx.cancel)?;
            if output.success() { Ok(()) } else { Err(output.failure().because(error)) }
        }
        // A repeat of the first look: it may just have been promoted.
        Err(error) => match in_recovery(session) {
            Ok(false) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Waits until it accepts writes. It first replays everything that it can get.
fn await_promotion(cx: &Context<'_>, session: &mut Session) -> Result<(), Error> {
    let deadline = Instant::now() + PROMOTE_TIMEOUT;
    loop {
        match in_recovery(session) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) if error.class() == Class::Unavailable => return Err(error),
            // Even so short a question can be in the way of what is replayed.
            Err(error) => cx.progress.note(&error.to_string()),
        }
        if Instant::now() >= deadline {
            return Err(Error::failed(format!(
                "the server was asked to promote itself and had not done so after \
                 {PROMOTE_TIMEOUT:?}"
            ))
            .hinting("Look into its log: what is it still replaying?"));
        }
        go_on(cx)?;
        std::thread::sleep(TICK);
    }
}

pub(super) fn in_recovery(session: &mut Session) -> Result<bool, Error> {
    Ok(session.row("tell whether it is a standby", "SELECT pg_is_in_recovery()", &[])?.get(0))
}

/// The timeline in a segment's name.
pub(super) fn timeline_in(name: &str) -> Result<u32, Error> {
    let digits = name.get(..8).unwrap_or_default();
    u32::from_str_radix(digits, 16)
        .map_err(|e| Error::failed(format!("the server named a segment {name:?}")).because(e))
}

/// Where a timeline branched off, as its history says.
pub(super) fn branch(data_dir: &Path, timeline: u32) -> Option<Lsn> {
    let file = data_dir.join(format!("pg_wal/{timeline:08X}.history"));
    let text = fs::read_to_string(file).ok()?;
    left(&text).last().map(|(_, at)| at)
}

/// Where on the way to a timeline another one was left, as the history of the former says; none if it is
/// not on that way.
///
/// A recovery that ended before the place where an earlier timeline had been left went another way from
/// there on, though the line of that one stays as it was.
pub fn left_at(history: &[u8], timeline: u32) -> Option<Lsn> {
    ancestors(history).into_iter().find(|(left, _)| *left == timeline).map(|(_, at)| at)
}

/// The timelines on the way to the one that this is the history of, oldest first, each with where that way
/// left it.
pub fn ancestors(history: &[u8]) -> Vec<(u32, Lsn)> {
    let mut way: Vec<(u32, Lsn)> = left(std::str::from_utf8(history).unwrap_or_default()).collect();
    let mut first = Lsn(u64::MAX);
    for (_, at) in way.iter_mut().rev() {
        first = first.min(*at);
        *at = first;
    }
    way
}

/// The timelines that a history names, oldest first, each with where it was left.
fn left(history: &str) -> impl Iterator<Item = (u32, Lsn)> {
    history.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let timeline = words.next()?.parse().ok()?;
        Some((timeline, words.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_was_left_where_the_way_turned_off_first() {
        // As a server writes it: timeline 3 began on timeline 2, before the place where that had begun.
        let history =
            b"1\t0/6000090\tno recovery target specified\n\n2\t0/4000090\tbefore 2000-01-01\n";
        let lsn = |text: &str| text.parse::<Lsn>().ok();
        assert_eq!(left_at(history, 1), lsn("0/4000090"));
        assert_eq!(left_at(history, 2), lsn("0/4000090"));
        assert_eq!(left_at(history, 3), None);
        let history =
            b"1\t0/4000090\tno recovery target specified\n\n2\t0/6000090\tbefore 2000-01-01\n";
        assert_eq!(left_at(history, 1), lsn("0/4000090"));
        assert_eq!(left_at(history, 2), lsn("0/6000090"));
    }
}
