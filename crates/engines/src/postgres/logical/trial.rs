//! Tries a dump: a server is made for it, everything is loaded there, and the server's own checker
//! judges what came of it.

use super::load::Loader;
use super::manifest::{Database, GLOBALS, Manifest};
use super::swap::Swap;
use super::tools::Tools;
use super::{Logical, catalog, clear, globals, go_on, listing};
use crate::command::Command;
use crate::postgres::check::{self, Scratch, Scratching};
use crate::postgres::connect::Address;
use crate::postgres::programs::{Owner, Programs, has_account};
use crate::postgres::rehearse::{ask, with_cause};
use crate::{Context, Error, Isolation, Rehearsal, Rehearsed, Verdict};
use model::{Class, Classify};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What the server must not do, and what it need not.
const SETTINGS: [&str; 17] = [
    "listen_addresses=",
    "port=5432",
    "max_connections=50",
    "archive_mode=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_logical_replication_workers=0",
    "ssl=off",
    "logging_collector=off",
    "log_destination=stderr",
    "shared_buffers=128MB",
    "huge_pages=off",
    // Beside the files, with which it goes, and not in /dev/shm, where it would stay after a kill.
    "dynamic_shared_memory_type=mmap",
    // Nobody needs this server when the machine crashes.
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "autovacuum=off",
];

/// What a fresh server takes by itself.
const EMPTY_SERVER: u64 = 64 << 20;

/// As whom a server is run that may not be run by us: `postgres`, or, where there is no such account,
/// somebody who owns nothing.
pub(super) fn server_user() -> Option<Owner> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let postgres = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (name == "postgres").then_some(Owner { uid, gid })
    });
    Some(postgres.unwrap_or(Owner { uid: 65534, gid: 65534 }))
}

/// What came of loading a dump.
struct Tried {
    verdict: Verdict,
    /// Until everything was loaded.
    answered_after: Option<std::time::Duration>,
    answer: Option<String>,
}

pub(super) fn rehearse(
    engine: &Logical,
    cx: &Context<'_>,
    rehearsal: &Rehearsal<'_>,
    dump: &Path,
) -> Result<Rehearsed, Error> {
    let trial = Trial {
        engine,
        cx,
        dump,
        home: rehearsal.home,
        isolation: rehearsal.isolation,
        rehearsal: Some(rehearsal),
    };
    let Tried { verdict, answered_after, answer } = trial.run()?;
    Ok(Rehearsed { verdict, answered_after, answer })
}

pub(super) fn check(engine: &Logical, cx: &Context<'_>, dump: &Path) -> Result<Verdict, Error> {
    let home = Home::make(cx, dump)?;
    let isolation = Isolation::none("a check is no drill");
    let trial = Trial { engine, cx, dump, home: &home.0, isolation: &isolation, rehearsal: None };
    Ok(trial.run()?.verdict)
}

/// A directory for a server of ours. Removed when it is dropped.
struct Home(PathBuf);

impl Home {
    fn make(cx: &Context<'_>, dump: &Path) -> Result<Home, Error> {
        let user = server_user();
        let beside = dump.parent().unwrap_or(dump);
        let places = [cx.scratch, beside, Path::new("/var/tmp"), Path::new("/tmp")];
        let fits = |place: &&Path| {
            // With room for the name of a socket.
            place.as_os_str().len() < 60
                && place.is_dir()
                && user.is_none_or(|user| check::can_enter(place, user))
        };
        let Some(place) = places.into_iter().find(fits) else {
            return Err(Error::failed("there is no place where a server could be tried"));
        };
        let dir = tempfile::Builder::new()
            .prefix("mainstay-check-")
            .tempdir_in(place)
            .map_err(|e| Error::io("make a directory in", place.display(), e))?;
        Ok(Home(dir.keep()))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        clear(&self.0);
    }
}

struct Trial<'a> {
    engine: &'a Logical,
    cx: &'a Context<'a>,
    dump: &'a Path,
    home: &'a Path,
    isolation: &'a Isolation,
    rehearsal: Option<&'a Rehearsal<'a>>,
}

impl Trial<'_> {
    fn run(&self) -> Result<Tried, Error> {
        let cx = self.cx;
        go_on(cx)?;
        let mut verdict = Verdict { sound: true, findings: Vec::new() };
        let begun = Instant::now();
        let nothing = |verdict| Tried { verdict, answered_after: None, answer: None };
        let manifest = match Manifest::read(self.dump) {
            Ok(manifest) => manifest,
            Err(error) if error.class() == Class::Corrupt => {
                verdict.bad(error.to_string());
                return Ok(nothing(verdict));
            }
            Err(error) => return Err(error),
        };
        let tools = self.engine.tools(cx, manifest.major)?;
        let need = manifest
            .databases
            .iter()
            .fold(EMPTY_SERVER, |sum, one| sum.saturating_add(one.size_bytes));
        super::dump::room_for(self.home, need, "a server with the databases")?;
        if let Err(error) = self.read_contents(&tools, &manifest) {
            judged(error, &mut verdict)?;
            return Ok(nothing(verdict));
        }
        verdict.findings.push(format!(
            "pg_restore read the contents of {} databases",
            manifest.databases.len()
        ));
        let user = server_user();
        let cluster = self.cluster(&tools, &manifest, user)?;
        let programs = Programs::find(&self.engine.name, Some(&tools.bin_dir), &cluster)?;
        let scratching = Scratching {
            settings: SETTINGS.map(str::to_owned).to_vec(),
            isolation: self.isolation,
        };
        cx.progress.phase("starting a server");
        let started =
            Scratch::start(cx, &programs, self.home, &cluster, &scratching, &mut |_| Ok(()))?;
        let mut server = started.map_err(|said| {
            Error::failed(format!("a server for the dump did not come up: {said}"))
        })?;
        let address = Address::in_dir(self.home, &manifest.superuser);
        let loaded = self.load(&tools, &manifest, &address);
        let answered_after = match loaded {
            Ok(()) => {
                verdict.findings.push(format!(
                    "{} databases were loaded into a server of their own",
                    manifest.restorable().count()
                ));
                Some(begun.elapsed())
            }
            Err(error) => {
                judged(error, &mut verdict)?;
                None
            }
        };
        let mut answer = None;
        if answered_after.is_some() {
            cx.progress.phase("comparing tables and indexes");
            let (findings, superuser) = (&mut verdict.findings, &manifest.superuser);
            let mut session = address.connect()?;
            verdict.sound &=
                check::compare_tables(cx, &programs, self.home, superuser, &mut session, findings)?;
            if let Some(rehearsal) = self.rehearsal {
                let address = address.clone().with_database(self.engine.address.database());
                answer = ask(cx, rehearsal, &address, &mut verdict)?;
            }
        }
        let doubt = server.stop(cx)?;
        if self.rehearsal.is_some() {
            verdict.doubt(doubt);
        }
        Ok(Tried { verdict, answered_after, answer })
    }

    fn read_contents(&self, tools: &Tools, manifest: &Manifest) -> Result<(), Error> {
        self.cx.progress.phase("reading the dump's contents");
        for database in &manifest.databases {
            let entries = listing::of(self.cx, tools, &database.archive(self.dump))?;
            if !entries.iter().any(listing::Entry::is_of_database) {
                return Err(Error::new(
                    Class::Corrupt,
                    format!("the dump of {:?} does not say what it was", database.name),
                ));
            }
        }
        Ok(())
    }

    /// The files of a server that has nothing yet.
    fn cluster(
        &self,
        tools: &Tools,
        manifest: &Manifest,
        user: Option<Owner>,
    ) -> Result<PathBuf, Error> {
        let initdb = tools.bin_dir.join("initdb");
        if !initdb.is_file() {
            let here = tools.bin_dir.display();
            return Err(Error::invalid(format!(
                "there is no `initdb` in {here}: a dump is tried in a server of its own"
            ))
            .hinting(format!(
                "Install PostgreSQL's server programs of version {} (Debian: `postgresql-{}`), or \
                 name their directory as `bin-dir`.",
                manifest.major, manifest.major
            )));
        }
        let cluster = check::make_home(self.home, user, |home| {
            let cluster = home.make_dir("cluster")?;
            cluster.hand_over()?;
            Ok(cluster.path().to_owned())
        })?;
        let mut command = Command::program("initdb", &initdb);
        if let Some(user) = user {
            let groups = if has_account(user.uid) { "--init-groups" } else { "--clear-groups" };
            command = Command::program("initdb", "setpriv")
                .arg(format!("--reuid={}", user.uid))
                .arg(format!("--regid={}", user.gid))
                .args([groups, "--"])
                .arg(&initdb);
        }
        self.cx.progress.phase("making a server");
        command
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .arg(format!("--username={}", manifest.superuser))
            .arg("--pgdata")
            .arg(&cluster)
            .dir(&cluster)
            .tied()
            .run(self.cx.cancel)?;
        Ok(cluster)
    }

    /// Everything, by the way that a restore takes.
    fn load(&self, tools: &Tools, manifest: &Manifest, address: &Address) -> Result<(), Error> {
        let cx = self.cx;
        let loader = Loader {
            service: &self.engine.name,
            address,
            tools,
            // What lay in a tablespace of the source's lies anywhere here.
            no_tablespaces: true,
        };
        let (mut session, _) = catalog::anywhere(address)?;
        let databases: Vec<&Database> = manifest.restorable().collect();
        loader.ready(&mut session, manifest, &databases)?;
        let roles = super::manifest::text(&self.dump.join(GLOBALS))?;
        globals::apply(cx, &mut session, &roles)?;
        let named: Vec<_> = databases.iter().map(|one| (*one, one.name.as_str())).collect();
        let loaded = loader.load(cx, &mut session, self.dump, &named)?;
        drop(session);
        let service = &self.engine.name;
        Swap { service, address, loaded: &loaded, replaces: &[], closed: false }.run(cx).map(drop)
    }
}

/// A failure that says something of the dump is a finding; any other stays a failure.
fn judged(error: Error, verdict: &mut Verdict) -> Result<(), Error> {
    match error.class() {
        Class::Failed | Class::Corrupt => {
            verdict.bad(with_cause(&error));
            Ok(())
        }
        _ => Err(error),
    }
}
