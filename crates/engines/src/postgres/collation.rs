//! Whether this host sorts text as the one did on which the indexes of a server were built.
//!
//! The order of text comes from a library of the operating system. Another release of it may sort
//! otherwise; then an index of text is wrong on this host, although every byte of it is the source's:
//! rows are not found, and what is unique is there twice. The server notes the version that it built
//! with, of a database from version 15 on, and of single collations since long before.

use super::connect::Session;
use crate::{Context, Doubt, Error};
use std::collections::{BTreeMap, BTreeSet};

/// The first version that notes it of databases.
const OF_DATABASES: i32 = 150_000;

/// Databases whose own collation is of another version here.
const DATABASES: &str = "
    SELECT datname::text, datcollversion, \
           coalesce(pg_database_collation_actual_version(oid), 'none')
    FROM pg_database
    WHERE datallowconn AND datcollversion IS NOT NULL
      AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
    ORDER BY 1";

/// Collations that an index of this database uses and that are of another version here.
const COLLATIONS: &str = "
    SELECT c.collname::text, c.collversion, coalesce(pg_collation_actual_version(c.oid), 'none')
    FROM pg_collation c
    WHERE c.collversion IS NOT NULL
      AND c.oid IN (SELECT unnest(indcollation) FROM pg_index)
      AND c.collversion IS DISTINCT FROM pg_collation_actual_version(c.oid)
    ORDER BY 1";

/// What is of another version here, by the versions.
#[derive(Debug, Default)]
pub(super) struct Collations {
    databases: BTreeMap<(String, String), BTreeSet<String>>,
    single: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Collations {
    /// Looks at the collations of all databases.
    pub(super) fn of_databases(&mut self, session: &mut Session) -> Result<(), Error> {
        let what = "tell the versions of its collations";
        let version = "SELECT current_setting('server_version_num')::int4";
        if session.row(what, version, &[])?.get::<_, i32>(0) < OF_DATABASES {
            return Ok(());
        }
        for row in session.rows(what, DATABASES, &[])? {
            self.databases.entry((row.get(1), row.get(2))).or_default().insert(row.get(0));
        }
        Ok(())
    }

    /// Looks at the single collations that indexes of the session's database use.
    pub(super) fn of_indexes(
        &mut self,
        session: &mut Session,
        database: &str,
    ) -> Result<(), Error> {
        for row in session.rows("tell the versions of its collations", COLLATIONS, &[])? {
            let name = format!("{} of {database}", row.get::<_, String>(0));
            self.single.entry((row.get(1), row.get(2))).or_default().insert(name);
        }
        Ok(())
    }

    /// What to say of them.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        let databases = self.databases.iter().map(|(versions, names)| {
            doubt(
                "the collation of the databases",
                versions,
                names,
                "DATABASE",
                "COLLATION VERSION",
            )
        });
        let single = self.single.iter().map(|(versions, names)| {
            doubt("the collation", versions, names, "COLLATION", "VERSION")
        });
        databases.chain(single).collect()
    }
}

fn doubt(
    kind: &str,
    (was, is): &(String, String),
    names: &BTreeSet<String>,
    object: &str,
    version: &str,
) -> Doubt {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Doubt {
        found: format!(
            "{kind} {} is of version {is} on this host, and indexes were built with {was}: text may \
             be sorted otherwise here, and not be found by them",
            names.join(", ")
        ),
        advice: format!(
            "On the primary, if that has this version, run REINDEX DATABASE and then ALTER {object} \
             … REFRESH {version}."
        ),
    }
}

/// Warns of what a server that is to serve sorts otherwise than its indexes do. That this cannot be
/// found out is in nobody's way.
pub(super) fn warn(cx: &Context<'_>, session: &mut Session, database: &str) {
    let mut collations = Collations::default();
    let looked =
        collations.of_databases(session).and_then(|()| collations.of_indexes(session, database));
    if let Err(error) = looked {
        cx.progress.note(&error.to_string());
    }
    for doubt in collations.doubts() {
        cx.progress.warn(&doubt.to_string());
    }
}
