//! Loads archives into databases of names that nobody knows, where nothing that is there is touched.
//! What is loaded there gets its name when all of it is whole ([`swap`](super::swap)).

use super::catalog::{self, Server};
use super::listing;
use super::manifest::{Database, Manifest};
use super::script::{for_database, quoted, statements, tokens};
use super::tools::{self, Tools};
use crate::postgres::connect::{Address, Session};
use crate::{Context, Error};
use model::{Class, ServiceName};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::Path;

/// In a dump that was loaded: which databases it was loaded into.
pub(super) const RECORD: &str = "import.json";

/// A database that was loaded. Its number outlives a change of its name, so that it can be told
/// after a crash whether it was put in place already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) temporary: String,
    pub(super) oid: u32,
}

/// What was loaded from a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Import {
    pub(super) databases: Vec<Loaded>,
    /// What an earlier import put in place, and nobody has opened since: it goes when this one comes.
    #[serde(default)]
    pub(super) replaces: Vec<Loaded>,
}

impl Import {
    /// Of the dump in this directory; none if it was never loaded.
    pub(super) fn read(dump: &Path) -> Result<Option<Import>, Error> {
        let file = dump.join(RECORD);
        if !file.exists() {
            return Ok(None);
        }
        let text = super::manifest::text(&file)?;
        let import = serde_json::from_str(&text).map_err(|e| {
            Error::new(Class::Corrupt, format!("{} is not valid", file.display())).because(e)
        })?;
        Ok(Some(import))
    }

    /// Durable on return.
    pub(super) fn write(&self, dump: &Path) -> Result<(), Error> {
        let (file, written) = (dump.join(RECORD), dump.join(".import.json.new"));
        let failed = |e| Error::io("write", file.display(), e);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::failed("cannot encode what was loaded").because(e))?;
        fs::write(&written, text).map_err(failed)?;
        File::open(&written).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&written, &file).map_err(failed)?;
        File::open(dump).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

/// Whether a database is one of these.
pub(super) fn holds(loaded: &[Loaded], name: &str, oid: u32) -> bool {
    loaded.iter().any(|one| one.name == name && one.oid == oid)
}

/// A server that is loaded into.
pub(super) struct Loader<'a> {
    pub(super) service: &'a ServiceName,
    pub(super) address: &'a Address,
    pub(super) tools: &'a Tools,
    /// Everything goes into the default tablespace.
    pub(super) no_tablespaces: bool,
}

impl Loader<'_> {
    /// Refuses what cannot end well, before anything is made.
    pub(super) fn ready(
        &self,
        session: &mut Session,
        manifest: &Manifest,
        databases: &[&Database],
    ) -> Result<(), Error> {
        let server = Server::ask(session)?;
        if server.in_recovery {
            return Err(Error::new(
                Class::Refused,
                "the server is a standby of another one, and takes no data of its own",
            )
            .hinting("Name a server in `url` that accepts writes."));
        }
        if !server.is_super {
            return Err(Error::invalid(format!(
                "role {:?} is no superuser: it cannot make roles, owners and extensions as they were",
                self.address.user()
            ))
            .hinting("Restore as a superuser, by the `url` of this host."));
        }
        if server.major < manifest.major {
            return Err(Error::new(
                Class::Refused,
                format!(
                    "the dump is of PostgreSQL {}, and the server has version {}",
                    manifest.major, server.major
                ),
            )
            .hinting("Load it into a server of that version or a newer one."));
        }
        if !self.no_tablespaces {
            super::globals::require_tablespaces(session, manifest, databases)?;
        }
        let rows = session.rows(
            "list the extensions that it could have",
            "SELECT name::text FROM pg_available_extensions",
            &[],
        )?;
        let available: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        for database in databases {
            let missing =
                database.extensions.iter().find(|wanted| !available.contains(&wanted.name));
            if let Some(missing) = missing {
                return Err(Error::invalid(format!(
                    "database {:?} needs the extension {}, which the server has not",
                    database.name, missing.name
                ))
                .hinting("Install its package on the server's host."));
            }
        }
        // Where it is the server's host that we are on.
        if let Some(data) = server.data_directory.filter(|data| Path::new(data).is_dir()) {
            let need = databases.iter().fold(0_u64, |sum, one| sum.saturating_add(one.size_bytes));
            super::dump::room_for(Path::new(&data), need, "the databases")?;
        }
        Ok(())
    }

    /// Loads databases, each under a name of its own that tells nobody anything.
    pub(super) fn load(
        &self,
        cx: &Context<'_>,
        session: &mut Session,
        dump: &Path,
        databases: &[(&Database, &str)],
    ) -> Result<Vec<Loaded>, Error> {
        catalog::drop_leftovers(cx, session, self.service)?;
        let mut loaded = Vec::new();
        for (number, (database, name)) in databases.iter().enumerate() {
            super::go_on(cx)?;
            let temporary = format!("{}{number}", catalog::prefix(self.service));
            self.one(cx, session, &database.archive(dump), database, &temporary)?;
            let oid = oid_of(session, &temporary)?.ok_or_else(|| {
                Error::failed(format!("database {temporary} has vanished while it was loaded"))
            })?;
            loaded.push(Loaded { name: (*name).to_owned(), temporary, oid });
        }
        Ok(loaded)
    }

    fn one(
        &self,
        cx: &Context<'_>,
        session: &mut Session,
        archive: &Path,
        database: &Database,
        temporary: &str,
    ) -> Result<(), Error> {
        cx.progress.phase(&format!("loading {}", database.name));
        let rest = self.create(cx, session, archive, database, temporary)?;
        let address = self.address.clone().with_database(temporary);
        let mut command = self
            .tools
            .client("pg_restore", &address)?
            .args(["--exit-on-error", "--format=directory"])
            .arg(format!("--jobs={}", tools::jobs()));
        if self.no_tablespaces {
            command = command.arg("--no-tablespaces");
        }
        tools::run(cx, &command.arg(archive))?;
        cx.progress.phase(&format!("gathering statistics of {}", database.name));
        self.analyze(cx, &address)?;
        // Last: among these may be what keeps writers and sessions away.
        for statement in rest {
            session.run(cx, "give a database its properties", &statement)?;
        }
        Ok(())
    }

    pub(super) fn analyze(&self, cx: &Context<'_>, address: &Address) -> Result<(), Error> {
        let command = self
            .tools
            .client("vacuumdb", address)?
            .args(["--analyze-only", "--quiet"])
            .arg(format!("--jobs={}", tools::jobs()));
        tools::run(cx, &command).map(drop)
    }

    /// Makes a database as the archive says that it was, under this name. What else the archive says
    /// of it (settings, rights, comments) is returned as statements.
    fn create(
        &self,
        cx: &Context<'_>,
        session: &mut Session,
        archive: &Path,
        database: &Database,
        temporary: &str,
    ) -> Result<Vec<String>, Error> {
        let entries = listing::of(cx, self.tools, archive)?;
        let of_it = entries.iter().filter(|entry| entry.is_of_database());
        let list = listing::write(cx.scratch.join("database.list"), of_it)?;
        let script = cx.scratch.join("database.sql");
        let mut command = self
            .tools
            .command("pg_restore")
            .args(["--create", "--format=directory", "--use-list"])
            .arg(&list)
            .arg("--file")
            .arg(&script);
        if self.no_tablespaces {
            command = command.arg("--no-tablespaces");
        }
        tools::run(cx, &command.arg(archive))?;
        let text = super::manifest::text(&script)?;
        for file in [&list, &script] {
            let _ = fs::remove_file(file);
        }
        let renamed = statements(&text)
            .into_iter()
            .filter_map(|statement| for_database(statement, &database.name, temporary));
        let (mut create, mut rest) = (None, Vec::new());
        for statement in renamed {
            match tokens(&statement).first().is_some_and(|first| first.is("CREATE")) {
                true => create = Some(statement),
                false => rest.push(statement),
            }
        }
        let create = create.ok_or_else(|| {
            Error::new(
                Class::Corrupt,
                format!("the dump of {:?} does not say what it was", database.name),
            )
        })?;
        session.run(cx, "make a database", &create)?;
        // Who owns it must do so before what is in it is made.
        let (owner, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|statement| {
            let tokens = tokens(statement);
            tokens.first().is_some_and(|first| first.is("ALTER"))
                && tokens.iter().any(|token| token.is("OWNER"))
        });
        for statement in owner {
            session.run(cx, "give a database its owner", &statement)?;
        }
        Ok(rest)
    }
}

/// The number of a database; none if there is none.
pub(super) fn oid_of(session: &mut Session, name: &str) -> Result<Option<u32>, Error> {
    let rows = session.rows(
        "look for a database",
        "SELECT oid FROM pg_database WHERE datname = $1::text",
        &[&name],
    )?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// Lets a database accept connections, or none at all, not even of superusers.
pub(super) fn admit(
    cx: &Context<'_>,
    session: &mut Session,
    name: &str,
    open: bool,
) -> Result<(), Error> {
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {open}", quoted(name));
    session.run(cx, "open or close a database", &sql)
}
