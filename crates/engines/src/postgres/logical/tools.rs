//! PostgreSQL's client programs: which ones, how they reach a server, and what they say when they
//! cannot do their work.

use crate::command::{Command, Output};
use crate::postgres::connect::Address;
use crate::postgres::facts::NEWEST;
use crate::postgres::programs::{MISLEADING, candidates};
use crate::{Context, Error};
use model::{CancelToken, Class, ServiceName};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How long a program may take to say what version it is.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);
/// More sessions at once than this gain nothing and take the server's connections from others.
const MOST_JOBS: usize = 8;
/// What a dump and a restore need.
const NEEDED: [&str; 4] = ["pg_dump", "pg_dumpall", "pg_restore", "vacuumdb"];

/// The client programs of one version.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) bin_dir: PathBuf,
    /// What `pg_dump --version` says.
    pub(super) version: String,
}

impl Tools {
    /// Those that know a server of this major version: in `bin_dir` if that is configured, else
    /// where distributions keep that version or a newer one, else on PATH.
    pub(super) fn find(
        service: &ServiceName,
        bin_dir: Option<&Path>,
        major: u32,
        cancel: &CancelToken,
    ) -> Result<Tools, Error> {
        let places: Vec<PathBuf> = match bin_dir {
            Some(dir) => vec![dir.to_owned()],
            None => (major..=NEWEST).flat_map(candidates).collect(),
        };
        let hint = format!(
            "Install PostgreSQL's client programs, version {major} or newer (Debian: \
             `postgresql-client-{major}`), or name their directory as `bin-dir` in \
             [service.{service}]."
        );
        let mut too_old = None;
        for bin_dir in places {
            if !bin_dir.join("pg_dump").is_file() {
                continue;
            }
            if let Some(missing) = NEEDED.iter().find(|name| !bin_dir.join(name).is_file()) {
                let here = bin_dir.display();
                let what = format!("there is no `{missing}` beside pg_dump in {here}");
                return Err(Error::invalid(what).hinting(hint));
            }
            let (version, found) = version(&bin_dir, cancel)?;
            if found >= major {
                return Ok(Tools { bin_dir, version });
            }
            too_old.get_or_insert((version, bin_dir));
        }
        Err(match (too_old, bin_dir) {
            (Some((version, place)), _) => Error::invalid(format!(
                "{version} in {} is older than the server, which has version {major}",
                place.display()
            )),
            (None, Some(dir)) => {
                Error::invalid(format!("there is no `pg_dump` in {}", dir.display()))
            }
            (None, None) => Error::invalid("there is no `pg_dump` on this host"),
        }
        .hinting(hint))
    }

    /// One of them, as ourselves.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::program(program, self.bin_dir.join(program));
        for name in MISLEADING {
            command = command.without_env(name);
        }
        command.tied()
    }

    /// One of them that speaks to a server.
    pub(super) fn client(&self, program: &str, address: &Address) -> Result<Command, Error> {
        let command = self
            .command(program)
            .arg("--no-password")
            .arg(format!("--dbname={}", address.conninfo(false)));
        Ok(match address.password()? {
            Some(password) => command.secret_env("PGPASSWORD", &password),
            None => command,
        })
    }
}

/// What `pg_dump` says that it is, and its major version.
fn version(bin_dir: &Path, cancel: &CancelToken) -> Result<(String, u32), Error> {
    let output = Command::program("pg_dump", bin_dir.join("pg_dump"))
        .arg("--version")
        .timeout(VERSION_TIMEOUT)
        .run(cancel)?;
    let text = output.stdout_text()?;
    let number = text.split_once(") ").map_or("", |(_, rest)| rest);
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse() {
        Ok(major) => Ok((text, major)),
        Err(_) => Err(Error::failed(format!("pg_dump says that its version is {text:?}"))),
    }
}

/// How many sessions work at once.
pub(super) fn jobs() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_JOBS)
}

/// Runs a program to its end, and explains a failure.
pub(super) fn run(cx: &Context<'_>, command: &Command) -> Result<Output, Error> {
    let output = command.ask(cx.cancel)?;
    if output.success() { Ok(output) } else { Err(explained(&output)) }
}

/// What stands behind a failure, as far as its words tell.
fn explained(output: &Output) -> Error {
    let failure = output.failure().to_string();
    let words = [
        (
            "No space left on device",
            Class::NoSpace,
            "Free some space on the disk that it names; nothing that was there was touched.",
        ),
        (
            "server version mismatch",
            Class::Invalid,
            "Install PostgreSQL's client programs of the server's version, or name their directory \
             as `bin-dir`.",
        ),
        (
            "authentication failed",
            Class::Invalid,
            "Correct the role in `url`, or its password: in `url`, where `url-password-…` says, or in the \
             file that PGPASSFILE names.",
        ),
        (
            "no password supplied",
            Class::Invalid,
            "Put the password where `url-password-file` says, or into `url` or the file that PGPASSFILE \
             names.",
        ),
        (
            "no pg_hba.conf entry",
            Class::Invalid,
            "Let pg_hba.conf of the server admit the role in `url`, to every database.",
        ),
        (
            "is not available",
            Class::Invalid,
            "Install the extension that it names on the server's host.",
        ),
        (
            "could not open extension control file",
            Class::Invalid,
            "Install the extension that it names on the server's host.",
        ),
        (
            "permission denied",
            Class::Invalid,
            "Grant the role in `url` what docs/engines/postgres-logical.md lists.",
        ),
        (
            "row-level security",
            Class::Invalid,
            "Connect as a role with BYPASSRLS: otherwise rows would be missing in the dump.",
        ),
        (
            "too many clients",
            Class::Unavailable,
            "Raise max_connections, or wait until others have gone.",
        ),
    ];
    match words.iter().find(|(words, _, _)| failure.contains(words)) {
        Some((_, class, hint)) => Error::new(*class, failure).hinting(*hint),
        None => Error::failed(failure),
    }
}
