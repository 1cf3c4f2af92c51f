//! What a server says of itself and of its databases.

use super::manifest::{Extension, Tablespace, every_server_has};
use crate::postgres::connect::{Address, Session};
use crate::postgres::facts;
use crate::{Context, Error};
use model::ServiceName;
use sha2::{Digest, Sha256};

/// What is in a database that a new one has not: everything that `initdb` makes has a lower number.
const CONTENT: &str = "
    SELECT EXISTS (SELECT FROM pg_class WHERE oid >= 16384)
        OR EXISTS (SELECT FROM pg_proc WHERE oid >= 16384)
        OR EXISTS (SELECT FROM pg_type WHERE oid >= 16384)
        OR EXISTS (SELECT FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_')
        OR EXISTS (SELECT FROM pg_extension WHERE oid >= 16384)
        OR EXISTS (SELECT FROM pg_cast WHERE oid >= 16384)
        OR EXISTS (SELECT FROM pg_foreign_data_wrapper WHERE oid >= 16384)
        OR EXISTS (SELECT FROM pg_event_trigger)
        OR EXISTS (SELECT FROM pg_publication)
        OR EXISTS (SELECT FROM pg_largeobject_metadata)";

/// A server, as a role sees it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) major: u32,
    pub(super) version: String,
    pub(super) in_recovery: bool,
    /// The role may do everything.
    pub(super) is_super: bool,
    /// The role may read the roles' passwords.
    pub(super) reads_passwords: bool,
    /// The bootstrap superuser.
    pub(super) superuser: String,
    /// Its data directory, if the role may know.
    pub(super) data_directory: Option<String>,
}

impl Server {
    pub(super) fn ask(session: &mut Session) -> Result<Server, Error> {
        let row = session.row(
            "tell its version",
            "SELECT current_setting('server_version_num')::int4, \
                    current_setting('server_version'), \
                    pg_is_in_recovery(), \
                    coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false), \
                    has_table_privilege('pg_catalog.pg_authid', 'SELECT'), \
                    (SELECT rolname::text FROM pg_roles WHERE oid = 10), \
                    (SELECT setting FROM pg_settings WHERE name = 'data_directory')",
            &[],
        )?;
        Ok(Server {
            major: facts::major_of(row.get(0))?,
            version: row.get(1),
            in_recovery: row.get(2),
            is_super: row.get(3),
            reads_passwords: row.get(4),
            superuser: row.get::<_, Option<String>>(5).unwrap_or_else(|| "postgres".to_owned()),
            data_directory: row.get(6),
        })
    }
}

/// A database, as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) owner: String,
    pub(super) encoding: String,
    pub(super) collate: String,
    pub(super) ctype: String,
    /// It accepts connections.
    pub(super) open: bool,
    /// The role may connect.
    pub(super) admits: bool,
    pub(super) size_bytes: u64,
}

/// All databases but `template0`.
pub(super) fn databases(session: &mut Session) -> Result<Vec<Listed>, Error> {
    let rows = session.rows(
        "list its databases",
        "SELECT oid, datname::text, pg_get_userbyid(datdba)::text, \
                pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, \
                datallowconn, has_database_privilege(oid, 'CONNECT'), \
                CASE WHEN has_database_privilege(oid, 'CONNECT') \
                     THEN pg_database_size(oid) ELSE 0 END \
           FROM pg_database WHERE datname <> 'template0' ORDER BY datname",
        &[],
    )?;
    let listed = |row: &postgres::Row| Listed {
        oid: row.get(0),
        name: row.get(1),
        owner: row.get(2),
        encoding: row.get(3),
        collate: row.get(4),
        ctype: row.get(5),
        open: row.get(6),
        admits: row.get(7),
        size_bytes: u64::try_from(row.get::<_, i64>(8)).unwrap_or(0),
    };
    Ok(rows.iter().map(listed).collect())
}

/// Whether there is something in a database that a new one has not.
pub(super) fn has_content(address: &Address, database: &str) -> Result<bool, Error> {
    let mut session = address.clone().with_database(database).connect()?;
    content(&mut session)
}

/// The same within a session with it.
pub(super) fn content(session: &mut Session) -> Result<bool, Error> {
    Ok(session.row("tell what is in a database", CONTENT, &[])?.get(0))
}

/// The extensions of a session's database but the one that every database has.
pub(super) fn extensions(session: &mut Session) -> Result<Vec<Extension>, Error> {
    let rows = session.rows(
        "list its extensions",
        "SELECT extname::text, extversion::text FROM pg_extension \
          WHERE extname <> 'plpgsql' ORDER BY 1",
        &[],
    )?;
    let one = |row: &postgres::Row| Extension { name: row.get(0), version: row.get(1) };
    Ok(rows.iter().map(one).collect())
}

/// The tablespaces that a session's database and what is in it lie in, of those that somebody made.
pub(super) fn used_tablespaces(session: &mut Session) -> Result<Vec<String>, Error> {
    let rows = session.rows(
        "list the tablespaces of a database",
        "SELECT spcname::text FROM pg_tablespace WHERE spcname !~ '^pg_' AND \
                (oid IN (SELECT reltablespace FROM pg_class) OR \
                 oid = (SELECT dattablespace FROM pg_database \
                         WHERE datname = current_database())) ORDER BY 1",
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The tablespaces that somebody made.
pub(super) fn tablespaces(session: &mut Session) -> Result<Vec<Tablespace>, Error> {
    let rows = session.rows(
        "list its tablespaces",
        "SELECT spcname::text, pg_get_userbyid(spcowner)::text, pg_tablespace_location(oid) \
           FROM pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1",
        &[],
    )?;
    let one = |row: &postgres::Row| Tablespace {
        name: row.get(0),
        owner: row.get(1),
        location: row.get(2),
    };
    Ok(rows.iter().map(one).collect())
}

/// A session with any database of the server: the one that is configured may not be there yet, or
/// accept nobody.
pub(super) fn anywhere(address: &Address) -> Result<(Session, Address), Error> {
    let first = match address.connect() {
        Ok(session) => return Ok((session, address.clone())),
        Err(error) => error,
    };
    for name in ["postgres", "template1"] {
        let other = address.clone().with_database(name);
        if let Ok(session) = other.connect() {
            return Ok((session, other));
        }
    }
    Err(first)
}

/// What the databases that an import of this service works on are called before they are whole.
pub(super) fn prefix(service: &ServiceName) -> String {
    let digest = Sha256::digest(service.as_str().as_bytes());
    format!("mainstay_import_{}_", hex::encode(digest.get(..4).unwrap_or_default()))
}

/// The same of any service.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with("mainstay_import_")
}

/// Drops what a previous import left.
pub(super) fn drop_leftovers(
    cx: &Context<'_>,
    session: &mut Session,
    service: &ServiceName,
) -> Result<u32, Error> {
    let prefix = prefix(service);
    let mut dropped = 0;
    for left in databases(session)?.iter().filter(|left| left.name.starts_with(&prefix)) {
        drop_database(cx, session, &left.name)?;
        dropped += 1;
    }
    Ok(dropped)
}

/// Drops a database, whoever uses it.
pub(super) fn drop_database(
    cx: &Context<'_>,
    session: &mut Session,
    name: &str,
) -> Result<(), Error> {
    let shown = super::script::quoted(name);
    // One that is a template cannot be dropped.
    if every_server_has(name) || is_temporary(name) {
        let sql = format!("ALTER DATABASE {shown} IS_TEMPLATE false");
        let _ = session.run(cx, "change a database", &sql);
    }
    session.run(cx, "drop a database", &format!("DROP DATABASE IF EXISTS {shown} WITH (FORCE)"))
}
