//! Judges a copy by starting a server on it: it must replay to a consistent state, and its tables
//! and indexes must agree.
//!
//! Starting a server changes its files, so it works on a copy of the copy, where the file system
//! can without using space for it.

use super::connect::{Address, Session};
use super::files::Files;
use super::pg_control::PgControl;
use super::programs::{Owner, Programs};
use super::server::{self, State};
use super::{Postgres, go_on, preload};
use crate::command::{Output, Process};
use crate::rehearsal::{Enclosure, left};
use crate::{Context, Error, Isolation, Staged, Verdict};
use model::Class;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What the judging server must not do, whatever its files say.
const ISOLATED: [&str; 13] = [
    "listen_addresses=",
    "port=5432",
    "archive_mode=off",
    "log_destination=stderr",
    "max_logical_replication_workers=0",
    "synchronous_standby_names=",
    "primary_conninfo=",
    "ssl=off",
    "logging_collector=off",
    "external_pid_file=",
    // Beside the copy, with which it goes, and not in /dev/shm, where it would stay after a kill.
    "dynamic_shared_memory_type=mmap",
    // Nobody needs this copy when the machine crashes.
    "fsync=off",
    "autovacuum=off",
];

/// The longest path of a socket's directory, with room for its name.
const LONGEST_HOME: usize = 90;

/// The pause between looks at a server.
const TICK: Duration = Duration::from_millis(10);

/// `pg_amcheck` says with this that it found something.
const FOUND: i32 = 2;

/// Checks every B-tree index of a database, for versions whose `pg_amcheck` does not exist yet.
const CHECK_INDEXES: &str = "
    SELECT count(bt_index_check(c.oid::regclass, true)::text) FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am a ON a.oid = c.relam AND a.amname = 'btree'
    WHERE i.indisready AND i.indisvalid AND c.relpersistence = 'p'";

pub(super) fn check(engine: &Postgres, cx: &Context<'_>, data: &Staged) -> Result<Verdict, Error> {
    let dir = &data.staged;
    let programs = engine.programs(dir)?;
    if let Some(postmaster) = server::postmaster(dir)? {
        return Err(Error::new(
            Class::Refused,
            format!("a server (process {}) works on {}", postmaster.pid, dir.display()),
        )
        .hinting("Check a copy on which no server works."));
    }
    let owner = Owner::of(dir)?;
    let home = Home::make(cx, dir, &programs, owner)?;
    let copy = home.path.join("data");

    let mut findings = Vec::new();
    let judged = judge(engine, cx, &programs, &home, &copy, &mut findings)?;
    if !judged && preload::missed(&findings.join("\n"), None).is_some() {
        findings.push(preload::hint(engine, None));
    }
    Ok(Verdict { sound: judged, findings })
}

fn judge(
    engine: &Postgres,
    cx: &Context<'_>,
    programs: &Programs,
    home: &Home,
    copy: &Path,
    findings: &mut Vec<String>,
) -> Result<bool, Error> {
    cx.progress.phase("replaying the log");
    let mut server =
        match Scratch::start(cx, programs, &home.path, copy, &judging(engine), &mut |_| Ok(()))? {
            Ok(server) => server,
            Err(said) => {
                findings.push(said);
                return Ok(false);
            }
        };
    let (superuser, mut session) = server.session(engine, &home.path)?;
    let row = session.row(
        "describe itself",
        "SELECT current_setting('server_version'), pg_current_wal_lsn()::text, \
                current_setting('data_checksums') = 'on'",
        &[],
    )?;
    let (version, lsn, checksums): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
    findings.push(format!("PostgreSQL {version} replayed the copy to {lsn} and accepts work"));

    cx.progress.phase("comparing tables and indexes");
    let mut sound = compare_tables(cx, programs, &home.path, &superuser, &mut session, findings)?;
    drop(session);
    server.stop(cx)?;
    if checksums && !page_checksums(cx, programs, copy, findings)? {
        sound = false;
    }
    let control = PgControl::read(copy)?;
    findings.push(format!("it ended at {} on timeline {}", control.checkpoint, control.timeline));
    Ok(sound)
}

/// What the judging server is told, whatever its files say.
fn judging(engine: &Postgres) -> Scratching<'static> {
    static CONNECTED: OnceLock<Isolation> = OnceLock::new();
    let isolation = CONNECTED.get_or_init(|| Isolation::none("a check is no drill"));
    let mut settings = ISOLATED.map(str::to_owned).to_vec();
    settings.extend(preload::on_command_line(engine));
    Scratching { settings, isolation }
}

/// Whether every page of a stopped server is as it was written.
pub(super) fn page_checksums(
    cx: &Context<'_>,
    programs: &Programs,
    copy: &Path,
    findings: &mut Vec<String>,
) -> Result<bool, Error> {
    cx.progress.phase("verifying page checksums");
    let output = programs
        .command("pg_checksums")
        .args(["--check", "--pgdata"])
        .arg(copy)
        .tied()
        .ask(cx.cancel)?;
    if output.success() {
        findings.push("pg_checksums found every page as it was written".to_owned());
    } else {
        findings.push(output.failure().to_string());
    }
    Ok(output.success())
}

/// Whether tables and indexes say the same, as far as the extension for that is on this host.
pub(super) fn compare_tables(
    cx: &Context<'_>,
    programs: &Programs,
    home: &Path,
    superuser: &str,
    session: &mut Session,
    findings: &mut Vec<String>,
) -> Result<bool, Error> {
    let there = session.row(
        "list the extensions that can be had",
        "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')",
        &[],
    )?;
    if !there.get::<_, bool>(0) {
        findings.push(
            "tables and indexes were not compared: the extension amcheck is not installed on this \
             host"
                .to_owned(),
        );
        return Ok(true);
    }
    if programs.has("pg_amcheck") {
        amcheck(cx, programs, home, superuser, findings)
    } else {
        amcheck_by_hand(cx, home, superuser, session, findings)
    }
}

fn amcheck(
    cx: &Context<'_>,
    programs: &Programs,
    home: &Path,
    superuser: &str,
    findings: &mut Vec<String>,
) -> Result<bool, Error> {
    let output = programs
        .command("pg_amcheck")
        .args(["--all", "--install-missing", "--heapallindexed", "--no-password", "--port=5432"])
        .arg("--host")
        .arg(home)
        .arg("--username")
        .arg(superuser)
        .tied()
        .ask(cx.cancel)?;
    match output.code() {
        Some(0) => {
            findings.push("pg_amcheck found no fault in any table or index".to_owned());
            Ok(true)
        }
        Some(FOUND) => {
            findings.push(format!(
                "pg_amcheck found faults: {}",
                last_words(&String::from_utf8_lossy(output.stdout()?))
            ));
            Ok(false)
        }
        _ => Err(output.failure()),
    }
}

fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().take(10).copied().collect::<Vec<_>>().join("; ")
}

fn amcheck_by_hand(
    cx: &Context<'_>,
    home: &Path,
    superuser: &str,
    session: &mut Session,
    findings: &mut Vec<String>,
) -> Result<bool, Error> {
    let rows = session.rows(
        "list its databases",
        "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1",
        &[],
    )?;
    let mut sound = true;
    for row in rows {
        let database: String = row.get(0);
        let mut session = Address::in_dir(home, superuser).with_database(&database).connect()?;
        session.set("CREATE EXTENSION IF NOT EXISTS amcheck")?;
        match session.long_row(cx, "compare tables and indexes", CHECK_INDEXES, &[]) {
            Ok(row) => findings.push(format!(
                "amcheck found no fault in the {} indexes of {database}",
                row.get::<_, i64>(0)
            )),
            // The server has looked, and says what is wrong.
            Err(error) if model::Classify::class(&error) == Class::Failed => {
                sound = false;
                let mut said: &dyn std::error::Error = &error;
                while let Some(cause) = said.source() {
                    said = cause;
                }
                findings.push(format!("amcheck found faults in {database}: {said}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sound)
}

/// A directory for the judging server: a copy of its files, its socket. Removed when it is dropped.
struct Home {
    path: PathBuf,
}

impl Home {
    fn make(
        cx: &Context<'_>,
        copied: &Path,
        programs: &Programs,
        owner: Owner,
    ) -> Result<Home, Error> {
        let beside = copied.parent().unwrap_or(copied);
        let runs_as = programs.owner();
        let reachable = |place: &Path| {
            let socket = place.as_os_str().len() + 60 < 107;
            socket && runs_as.is_none_or(|owner| can_enter(place, owner))
        };
        let places = [cx.scratch, beside, Path::new("/tmp")];
        let Some(place) = places.into_iter().find(|place| reachable(place)) else {
            return Err(Error::failed(format!(
                "user {} cannot enter {}, where its server would be tried",
                owner.uid,
                cx.scratch.display()
            )));
        };
        let needed = tree_size(copied)?;
        let free = rustix::fs::statvfs(place)
            .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
            .map_err(|e| Error::io("ask for free space of", place.display(), e.into()))?;
        if free < needed {
            return Err(Error::new(
                Class::NoSpace,
                format!(
                    "trying the copy needs {needed} bytes in {}, where {free} are free",
                    place.display()
                ),
            ));
        }
        let dir = tempfile::Builder::new()
            .prefix("mainstay-check-")
            .tempdir_in(place)
            .map_err(|e| Error::io("make a directory in", place.display(), e))?;
        let home = Home { path: dir.keep() };
        // What is above it may be the owner's, who could put something else there.
        let files = Files::made(&home.path, owner)?;
        files.write(HBA, ADMITS)?;
        cx.progress.phase("copying, to try it");
        files.copy_in(cx.cancel, copied, "data")?;
        // A standby would wait for more; what is there must do.
        files.remove("data/standby.signal")?;
        files.hand_over()?;
        Ok(home)
    }
}

/// In the directory of a judging server's socket: nobody but its owner gets there.
const HBA: &str = "pg_hba.conf";

/// What is in it.
const ADMITS: &str = "local all all trust\n";

/// Makes a directory that was just made a place for the socket of a server that runs as this user;
/// `make` makes what else is to be there while it is still ours.
pub(super) fn make_home<T>(
    dir: &Path,
    runs_as: Option<Owner>,
    make: impl FnOnce(&Files) -> Result<T, Error>,
) -> Result<T, Error> {
    if dir.as_os_str().len() > LONGEST_HOME {
        return Err(Error::invalid(format!("{} is too long for a socket", dir.display()))
            .hinting("Name a directory with a shorter path as `drill-dir`."));
    }
    let owner = match runs_as {
        Some(owner) => owner,
        None => Owner::of(dir)?,
    };
    let files = Files::made(dir, owner)?;
    files.write(HBA, ADMITS)?;
    let made = make(&files)?;
    files.hand_over()?;
    let Some(owner) = runs_as else { return Ok(made) };
    if !can_enter(dir, owner) {
        return Err(Error::invalid(format!(
            "user {} cannot enter {}, where its server would run",
            owner.uid,
            dir.display()
        ))
        .hinting("Name a directory that it can enter as `drill-dir`."));
    }
    Ok(made)
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether a user can go to a directory and, as its owner, work below it.
pub(super) fn can_enter(place: &Path, owner: Owner) -> bool {
    place.canonicalize().is_ok_and(|place| {
        place.ancestors().all(|dir| {
            fs::metadata(dir).is_ok_and(|meta| {
                let bit = match meta {
                    _ if meta.uid() == owner.uid => 0o100,
                    _ if meta.gid() == owner.gid => 0o010,
                    _ => 0o001,
                };
                meta.mode() & bit != 0
            })
        })
    })
}

/// How a scratch server is started.
pub(super) struct Scratching<'a> {
    /// Settings that win over all that its files say: `name=value`.
    pub(super) settings: Vec<String>,
    /// Where it runs.
    pub(super) isolation: &'a Isolation,
}

/// A server in the foreground. It dies with us, and so do the sessions that it has begun: a busy one
/// would not notice for as long as it is busy.
pub(super) struct Scratch {
    process: Option<Process>,
    enclosure: Enclosure,
    home: PathBuf,
    copy: PathBuf,
}

impl Scratch {
    /// Starts it, with its socket in `home`, and waits until it accepts work; what it said if it did
    /// not come to that. While it is on its way, `serve` is called again and again.
    pub(super) fn start(
        cx: &Context<'_>,
        programs: &Programs,
        home: &Path,
        copy: &Path,
        scratching: &Scratching<'_>,
        serve: &mut dyn FnMut(&Context<'_>) -> Result<(), Error>,
    ) -> Result<Result<Scratch, String>, Error> {
        // What another server wrote before it was copied is not to be taken for this one's.
        server::forget_note(copy)?;
        let mut command = programs.command("postgres").arg("-D").arg(copy);
        let own = [
            format!("data_directory={}", copy.display()),
            format!("hba_file={}", home.join(HBA).display()),
            format!("unix_socket_directories={}", home.display()),
        ];
        for setting in scratching.settings.iter().chain(&own) {
            command = command.arg("-c").arg(setting);
        }
        let enclosure = scratching.isolation.enclosing(false, cx.cancel)?;
        let process = enclosure.around(command, home).tied().spawn()?;
        let (home, copy) = (home.to_owned(), copy.to_owned());
        let mut scratch = Scratch { process: Some(process), enclosure, home, copy };
        loop {
            serve(cx)?;
            let state = server::noted(&scratch.copy)?.map(|noted| noted.state);
            if state == Some(State::Ready) && server::in_production(&scratch.copy)? {
                return Ok(Ok(scratch));
            }
            if let Some(output) = scratch.ended(cx)? {
                return Ok(Err(output.failure_as("did not come up on the copy").to_string()));
            }
            go_on(cx)?;
            std::thread::sleep(TICK);
        }
    }

    /// What it said if it has ended.
    fn ended(&mut self, cx: &Context<'_>) -> Result<Option<Output>, Error> {
        match self.process.as_mut().map(Process::has_ended).transpose()? {
            Some(true) => {}
            _ => return Ok(None),
        }
        self.process.take().map(|process| process.wait(cx.cancel)).transpose()
    }

    /// A session as its superuser, whatever that is called.
    pub(super) fn session(
        &self,
        engine: &Postgres,
        home: &Path,
    ) -> Result<(String, Session), Error> {
        let mut names = vec!["postgres".to_owned(), engine.address.user().to_owned()];
        names.dedup();
        let mut last = None;
        for name in names {
            match Address::in_dir(home, &name).connect() {
                Err(error) => last = Some(error),
                Ok(mut session) => {
                    let row = session.row(
                        "name its superuser",
                        "SELECT rolname::text FROM pg_roles WHERE oid = 10",
                        &[],
                    )?;
                    let superuser: String = row.get(0);
                    let session = Address::in_dir(home, &superuser).connect()?;
                    return Ok((superuser, session));
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::failed("the copy has no role to connect as")))
    }

    /// Stops it; a sentence where it cannot be made sure that nothing of it is left.
    pub(super) fn stop(&mut self, cx: &Context<'_>) -> Result<Option<String>, Error> {
        if !server::interrupt(&self.copy)? {
            let what =
                format!("the server on {} ended before it was asked to", self.copy.display());
            return Err(Error::failed(what));
        }
        let deadline = Instant::now() + server::STOP_TIMEOUT;
        let output = loop {
            if let Some(output) = self.ended(cx)? {
                break output;
            }
            go_on(cx)?;
            if Instant::now() >= deadline {
                let what = format!("the server on {} did not stop", self.copy.display());
                return Err(Error::failed(what));
            }
            std::thread::sleep(TICK);
        };
        if !output.success() {
            return Err(output.failure_as("did not stop on the copy as it should"));
        }
        Ok(self.enclosure.end_what_is_left(&self.home, &self.copy))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::KILL);
            let _ = process.end();
        }
        // All of it is dead or dying, and writes nothing once this is over.
        left::end(&self.home, &self.copy);
    }
}

fn tree_size(path: &Path) -> Result<u64, Error> {
    let failed = |e| Error::io("look at", path.display(), e);
    let meta = fs::metadata(path).map_err(failed)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut size = 0;
    for entry in fs::read_dir(path).map_err(failed)? {
        size += tree_size(&entry.map_err(failed)?.path())?;
    }
    Ok(size)
}
