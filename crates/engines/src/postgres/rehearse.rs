//! Rehearses a recovery: starts a server on a scratch copy, lets it replay the log, and judges what
//! it then is.
//!
//! What the copy must not do was written into its configuration when it was prepared. Here it is
//! said once more on the server's command line, which wins over every file of the copy. The server
//! is cut off from the network, so it cannot ask the vault for its log: its `restore_command` puts
//! the name of what it wants into a directory, and this process fetches that.

use super::check::{self, Scratch, Scratching};
use super::collation::Collations;
use super::connect::{Address, Session};
use super::detail::Detail;
use super::files::Files;
use super::lsn::WalFile;
use super::programs::{Owner, Programs, data_version};
use super::server;
use super::{Postgres, conf, data_of, go_on, preload};
use crate::command::Command;
use crate::rehearsal::Asked;
use crate::{Context, Error, Rehearsal, Rehearsed, Verdict};
use model::{Class, Classify};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What the server must not do, whatever its files say.
const CUT_OFF: [&str; 18] = [
    "listen_addresses=",
    "port=5432",
    "archive_mode=off",
    "archive_command=",
    "archive_cleanup_command=",
    "recovery_end_command=",
    "max_logical_replication_workers=0",
    "synchronous_standby_names=",
    "primary_conninfo=",
    "primary_slot_name=",
    "ssl=off",
    "logging_collector=off",
    "log_destination=stderr",
    "external_pid_file=",
    // A service may run on this host, and needs its memory.
    "shared_buffers=128MB",
    "huge_pages=off",
    // Beside the copy, with which it goes, and not in /dev/shm, where it would stay after a kill.
    "dynamic_shared_memory_type=mmap",
    // What it would do in the background is of no use to anybody.
    "autovacuum=off",
];

/// Exit codes above this mean that the vault could not be asked, and not that it has nothing.
const COULD_NOT_ASK: i32 = 125;

/// What the server says if there is no log up to the time that was asked for.
const TOO_LATE: &str = "recovery ended before configured recovery target was reached";

pub(super) fn rehearse(
    engine: &Postgres,
    cx: &Context<'_>,
    rehearsal: &Rehearsal<'_>,
) -> Result<Rehearsed, Error> {
    let left_out = preload::left_out(engine, &Detail::of(rehearsal.meta)?);
    let left_out = left_out.as_deref();
    let rehearsed = bring_to_life(engine, cx, rehearsal, left_out);
    if let Err(error) = &rehearsed
        && error.class() != Class::Cancelled
        && let Some(line) = preload::missed(&with_cause(error), left_out)
    {
        return Err(preload::needed(engine, line, left_out));
    }
    let mut rehearsed = rehearsed?;
    if let Some(left_out) = left_out.filter(|left_out| !left_out.is_empty()) {
        let what =
            format!("libraries of the source that were not preloaded: {}", left_out.join(", "));
        rehearsed.verdict.findings.insert(0, what);
    }
    Ok(rehearsed)
}

/// `left_out`: the libraries that it has to do without. What fails for want of one is an error, and no
/// verdict on the copy.
fn bring_to_life(
    engine: &Postgres,
    cx: &Context<'_>,
    rehearsal: &Rehearsal<'_>,
    left_out: Option<&[String]>,
) -> Result<Rehearsed, Error> {
    go_on(cx)?;
    let dir = &data_of(rehearsal.copy)?.staged;
    if let Some(postmaster) = server::postmaster(dir)? {
        let what = format!("a server (process {}) works on {}", postmaster.pid, dir.display());
        return Err(Error::new(Class::Refused, what));
    }
    let programs = engine.programs(dir)?;
    let service = rehearsal.meta.service.to_string();
    let cluster = Detail::of(rehearsal.meta)?.system_identifier;
    let mut feed = Feed::make(cx, rehearsal.home, programs.owner(), service, cluster)?;
    let mut settings = CUT_OFF.map(str::to_owned).to_vec();
    let major = data_version(dir)?;
    if major >= 15 {
        settings.push("archive_library=".to_owned());
    }
    if major >= 17 {
        settings.push("event_triggers=off".to_owned());
    }
    settings.push(format!("restore_command={}", feed.restore_command()));
    settings.extend(preload::on_command_line(engine));
    let scratching = Scratching { settings, isolation: rehearsal.isolation };

    cx.progress.phase("replaying the log");
    let stage = Stage { cx, rehearsal, programs: &programs, left_out };
    let begun = Instant::now();
    let started =
        Scratch::start(cx, &programs, rehearsal.home, dir, &scratching, &mut |cx| feed.serve(cx))?;
    let mut verdict = Verdict { sound: true, findings: Vec::new() };
    let mut server = match started {
        Ok(server) => server,
        Err(said) => {
            // That nobody could give it its log says nothing about the copy.
            feed.was_reached()?;
            if said.contains(TOO_LATE) {
                let what = "the log in the vault ends before the time that was asked for";
                return Err(Error::invalid(what)
                    .hinting("Name an earlier time, or none for everything there is."));
            }
            if preload::missed(&said, left_out).is_some() {
                return Err(Error::failed(said));
            }
            verdict.bad(said);
            return Ok(Rehearsed { verdict, answered_after: None, answer: None });
        }
    };
    let (superuser, session) = server.session(engine, rehearsal.home)?;
    let answered_after = Some(begun.elapsed());
    let checksums = stage.judge(&superuser, session, &mut verdict)?;
    let address = Address::in_dir(rehearsal.home, &superuser);
    let address = address.with_database(engine.address.database());
    let was_sound = verdict.sound;
    let answer = ask(cx, rehearsal, &address, &mut verdict)?;
    let said = verdict.findings.last().filter(|_| was_sound && !verdict.sound);
    if let Some(said) = said.filter(|said| preload::missed(said, left_out).is_some()) {
        return Err(Error::failed(said.clone()));
    }
    verdict.doubt(server.stop(cx)?);
    if checksums && !check::page_checksums(cx, &programs, dir, &mut verdict.findings)? {
        verdict.sound = false;
    }
    Ok(Rehearsed { verdict, answered_after, answer })
}

/// A copy on which a server runs.
struct Stage<'a> {
    cx: &'a Context<'a>,
    rehearsal: &'a Rehearsal<'a>,
    programs: &'a Programs,
    left_out: Option<&'a [String]>,
}

impl Stage<'_> {
    /// Whether its databases can be read, and its tables and indexes agree. Says whether it has page
    /// checksums.
    fn judge(
        &self,
        superuser: &str,
        mut session: Session,
        verdict: &mut Verdict,
    ) -> Result<bool, Error> {
        let (cx, home) = (self.cx, self.rehearsal.home);
        let row = session.row(
            "describe itself",
            "SELECT current_setting('server_version'), pg_current_wal_lsn()::text, \
                    current_setting('data_checksums') = 'on'",
            &[],
        )?;
        let (version, lsn): (String, String) = (row.get(0), row.get(1));
        let replayed = format!("PostgreSQL {version} replayed the copy to {lsn} and accepts work");
        verdict.findings.push(replayed);
        let databases = session.rows(
            "list its databases",
            "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1",
            &[],
        )?;
        let mut collations = Collations::default();
        collations.of_databases(&mut session)?;
        for row in &databases {
            let name: String = row.get(0);
            let read = Address::in_dir(home, superuser).with_database(&name).connect().and_then(
                |mut session| {
                    session.text(cx, "list its tables", "SELECT count(*) FROM pg_class")?;
                    collations.of_indexes(&mut session, &name)
                },
            );
            match read {
                Ok(()) => {}
                Err(error) if error.class() == Class::Cancelled => return Err(error),
                Err(error) if preload::missed(&with_cause(&error), self.left_out).is_some() => {
                    return Err(error);
                }
                Err(error) => verdict.bad(format!("database {name}: {}", with_cause(&error))),
            }
        }
        verdict.findings.push(format!("it opened {} databases", databases.len()));
        for doubt in collations.doubts() {
            cx.progress.warn(&doubt.found);
            verdict.findings.push(doubt.to_string());
        }
        cx.progress.phase("comparing tables and indexes");
        let findings = &mut verdict.findings;
        verdict.sound &=
            check::compare_tables(cx, self.programs, home, superuser, &mut session, findings)?;
        Ok(row.get(2))
    }
}

/// Asks the user's question of a server on the copy, at this address.
pub(super) fn ask(
    cx: &Context<'_>,
    rehearsal: &Rehearsal<'_>,
    address: &Address,
    verdict: &mut Verdict,
) -> Result<Option<String>, Error> {
    let Some(question) = rehearsal.question else { return Ok(None) };
    let sql = match &question.asked {
        Asked::Query(sql) => sql,
        Asked::Command(line) => {
            let home = rehearsal.home.display().to_string();
            let variables = [
                ("PGHOST", home.clone()),
                ("PGPORT", "5432".to_owned()),
                ("PGUSER", address.user().to_owned()),
                ("PGDATABASE", address.database().to_owned()),
                ("MAINSTAY_DRILL_SOCKET", home),
            ]
            .map(|(name, value)| (name.to_owned(), value));
            return rehearsal.command(cx, question, line, &variables, verdict);
        }
    };
    cx.progress.phase("asking the copy");
    let asked =
        address.connect().and_then(|mut session| session.text(cx, "answer the drill query", sql));
    match asked {
        Ok(answer) => {
            question.judge(&answer, verdict);
            Ok(Some(answer))
        }
        Err(error) if error.class() == Class::Cancelled => Err(error),
        Err(error) => {
            verdict.bad(format!("the question was not answered: {}", with_cause(&error)));
            Ok(None)
        }
    }
}

/// A failure and all that stands behind it, in one line: what the server said comes last.
pub(super) fn with_cause(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        line.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    line
}

/// Gives a server that is cut off the files of its log.
struct Feed<'a> {
    /// `NAME.want` is what it wants, NAME the file, `NAME.code` that it has been asked for. The
    /// server's user may do there what it likes.
    files: Files,
    /// Where the files come to first: a place of ours, if that user is another.
    fetched: PathBuf,
    callback: &'a [String],
    service: String,
    /// The copy's: what is fetched does not come to its data directory at once, which would tell.
    cluster: String,
    /// Why the vault could not be asked.
    unreached: Option<Error>,
}

impl<'a> Feed<'a> {
    /// Makes the home of the server, too: what is ours in it has to be made before that is its own.
    fn make(
        cx: &Context<'a>,
        home: &Path,
        runs_as: Option<Owner>,
        service: String,
        cluster: String,
    ) -> Result<Feed<'a>, Error> {
        let files = check::make_home(home, runs_as, |home| {
            let files = home.make_dir("log")?;
            files.hand_over()?;
            Ok(files)
        })?;
        let fetched = runs_as.map_or_else(|| files.path().to_owned(), |_| cx.scratch.to_owned());
        Ok(Feed { files, fetched, callback: cx.callback, service, cluster, unreached: None })
    }

    /// What the server runs: it waits as long as there is somebody to serve it, which is as long as
    /// the directory is there.
    fn restore_command(&self) -> String {
        let dir = conf::command_words(&[self.files.path().display().to_string()]);
        format!(
            "d={dir}; f=\"$d\"/%f; : >\"$f.want\" || exit 200; \
             while [ ! -e \"$f.code\" ]; do [ -d \"$d\" ] || exit 200; sleep 0.02; done; \
             c=$(cat \"$f.code\"); rm -f \"$f.code\"; [ \"$c\" = 0 ] || exit \"$c\"; \
             mv \"$f\" \"%p\" || exit 200"
        )
    }

    /// Fetches what is wanted now.
    fn serve(&mut self, cx: &Context<'_>) -> Result<(), Error> {
        for name in self.files.names()? {
            let Some(wanted) = name.strip_suffix(".want") else { continue };
            self.files.remove(&name)?;
            let code = self.fetch(cx, wanted)?.to_string();
            self.files.put(&format!("{wanted}.code"), |file| file.write_all(code.as_bytes()))?;
        }
        Ok(())
    }

    /// With the exit code that a `restore_command` would have.
    fn fetch(&mut self, cx: &Context<'_>, name: &str) -> Result<i32, Error> {
        let (Some(_), Some((program, words))) = (WalFile::parse(name), self.callback.split_first())
        else {
            return Ok(1);
        };
        let target = self.fetched.join(name);
        let output = Command::program("the request for the log", program)
            .args(words)
            .args(["wal", "fetch", &self.service, name])
            .arg(&target)
            .args(["--cluster", &self.cluster])
            .tied()
            .ask(cx.cancel)?;
        let code = output.code().unwrap_or(COULD_NOT_ASK + 1);
        if code == 0 && self.fetched != self.files.path() {
            let read = |e| Error::io("read", target.display(), e);
            let mut fetched = File::open(&target).map_err(read)?;
            self.files.put(name, |file| io::copy(&mut fetched, file).map(drop))?;
            fs::remove_file(&target).map_err(|e| Error::io("remove", target.display(), e))?;
        } else if code > COULD_NOT_ASK {
            self.unreached = Some(output.failure());
        }
        Ok(code)
    }

    /// An error if the vault could not be asked for something.
    fn was_reached(self) -> Result<(), Error> {
        match self.unreached {
            None => Ok(()),
            Some(error) => {
                let what = "the copy could not be given its log";
                Err(Error::new(Class::Unavailable, what).because(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::CancelToken;
    use model::progress::Silent;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const SEGMENT: &str = "000000010000000000000001";

    /// The server's user owns the directory that the log is handed over by, and may put there what
    /// would lead root elsewhere.
    #[test]
    fn the_log_is_handed_over_and_nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (home, scratch) = (dir.path().join("run"), dir.path().join("scratch"));
        fs::create_dir(&home).expect("a home");
        fs::create_dir(&scratch).expect("scratch");
        let canary = dir.path().join("canary");
        fs::write(&canary, "alive").expect("a canary");
        let runs_as =
            rustix::process::geteuid().is_root().then_some(Owner { uid: 65534, gid: 65534 });
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("a mode");
        // In place of `mainstay wal fetch SERVICE NAME TARGET`.
        let fetch = r#"echo bytes >"$5.tmp" && mv "$5.tmp" "$5""#;
        let callback = ["sh", "-c", fetch, "mainstay"].map(str::to_owned);
        let cancel = CancelToken::new();
        let cx = Context {
            cancel: &cancel,
            progress: &Silent,
            scratch: &scratch,
            callback: &callback,
            variables: &[],
            enclosed: None,
        };
        let mut feed =
            Feed::make(&cx, &home, runs_as, "shop".to_owned(), "7".to_owned()).expect("a feed");
        let log = home.join("log");
        for name in [SEGMENT, "X.new", "X.code"] {
            symlink(&canary, log.join(name)).expect("a link");
        }
        for name in ["new", "code", "mainstay"] {
            symlink(&canary, log.join(format!("{SEGMENT}.{name}"))).expect("a link");
            symlink(&canary, log.join(format!(".{SEGMENT}.{name}.mainstay"))).expect("a link");
        }
        fs::write(log.join(format!("{SEGMENT}.want")), "").expect("a wish");
        feed.serve(&cx).expect("served");
        feed.was_reached().expect("reached");
        assert_eq!(fs::read(&canary).expect("read"), b"alive");
        let uid = |path: &Path| fs::symlink_metadata(path).expect("look").uid();
        assert_eq!(uid(&canary), uid(dir.path()));
        assert_eq!(uid(&log.join(SEGMENT)), runs_as.map_or(uid(&canary), |owner| owner.uid));
        let read = |name: &str| fs::read(log.join(name)).expect("read");
        assert_eq!(read(&format!("{SEGMENT}.code")), b"0");
        assert_eq!(read(SEGMENT), b"bytes\n");
        assert!(!fs::symlink_metadata(log.join(SEGMENT)).expect("look").is_symlink());
        assert_eq!(fs::read_dir(&scratch).expect("there").count(), 0);
    }
}
