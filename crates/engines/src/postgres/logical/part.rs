//! A single database, or single tables of one, out of a dump.

use super::listing::{self, Chosen};
use super::load::{Loader, oid_of};
use super::manifest::{self, Database, GLOBALS, Manifest};
use super::script::{Kind, tokens};
use super::swap::Swap;
use super::tools::{self, Tools};
use super::{Logical, calm, catalog, globals, go_on, script};
use crate::postgres::connect::{Address, Session};
use crate::{Context, Error, Part};
use model::{CancelToken, Class};
use std::path::Path;

/// The tables of a part, by schema and name.
pub(super) fn names(part: &Part) -> Result<Vec<(String, String)>, Error> {
    if let Some(name) = part.as_name.as_deref().filter(|name| !manifest::is_name(name)) {
        return Err(Error::invalid(format!("{name:?} cannot be the name of a database")));
    }
    part.tables.iter().map(|table| name(table)).collect()
}

/// `SCHEMA.TABLE`, or `TABLE` in the schema `public`, as they are written in the database; with quotes
/// where there is a dot in one.
fn name(text: &str) -> Result<(String, String), Error> {
    let plain = || match text.split_once('.') {
        None => Some(("public".to_owned(), text.to_owned())),
        Some((schema, table)) if !table.contains('.') => {
            Some((schema.to_owned(), table.to_owned()))
        }
        Some(_) => None,
    };
    let quoted = || {
        let tokens = tokens(text);
        let text = |at: usize| tokens.get(at).and_then(script::Token::name).map(str::to_owned);
        let dot = tokens.get(1).is_some_and(|token| token.kind == Kind::Other);
        match tokens.len() {
            1 => Some(("public".to_owned(), text(0)?)),
            3 if dot => Some((text(0)?, text(2)?)),
            _ => None,
        }
    };
    let found = if text.contains('"') { quoted() } else { plain() };
    found.filter(|(schema, table)| !schema.is_empty() && !table.is_empty()).ok_or_else(|| {
        Error::invalid(format!("{text:?} names no table"))
            .hinting("Write SCHEMA.TABLE, with quotes where there is a dot in a name.")
    })
}

/// Restores it, and says what was done.
pub(super) fn restore(
    engine: &Logical,
    cx: &Context<'_>,
    dump: &Path,
    part: &Part,
) -> Result<Vec<String>, Error> {
    go_on(cx)?;
    let tables = names(part)?;
    let manifest = Manifest::alone(dump)?;
    let database = manifest.database(&part.database)?;
    database.is_there(dump)?;
    let (mut session, _) = catalog::anywhere(&engine.address)?;
    let server = catalog::Server::ask(&mut session)?;
    let tools = engine.tools(cx, server.major.max(manifest.major))?;
    let loader = Loader {
        service: &engine.name,
        address: &engine.address,
        tools: &tools,
        no_tablespaces: false,
    };
    let work = Work { engine, cx, dump, part, database, loader: &loader, tools: &tools };
    loader.ready(&mut session, &manifest, &[database])?;
    let done = match tables.as_slice() {
        [] => work.whole(&mut session),
        tables => work.tables(&mut session, tables),
    };
    if done.is_err() {
        let cancel = CancelToken::new();
        let cx = calm(cx, &cancel);
        if let Err(error) = catalog::drop_leftovers(&cx, &mut session, &engine.name) {
            cx.progress.warn(&error.to_string());
        }
    }
    done
}

struct Work<'a> {
    engine: &'a Logical,
    cx: &'a Context<'a>,
    dump: &'a Path,
    part: &'a Part,
    database: &'a Database,
    loader: &'a Loader<'a>,
    tools: &'a Tools,
}

impl Work<'_> {
    /// What the database will be called.
    fn target(&self) -> &str {
        self.part.as_name.as_deref().unwrap_or(&self.database.name)
    }

    /// Whether there is such a database with something in it.
    fn is_taken(&self, session: &mut Session) -> Result<bool, Error> {
        let there = catalog::databases(session)?;
        match there.iter().find(|db| db.name == self.target()) {
            None => Ok(false),
            Some(db) if !db.open => Ok(true),
            Some(db) => catalog::has_content(&self.engine.address, &db.name),
        }
    }

    fn roles(&self, session: &mut Session) -> Result<(), Error> {
        let roles = manifest::text(&self.dump.join(GLOBALS))?;
        globals::apply(self.cx, session, &roles).map(drop)
    }

    fn put_in_place(&self, loaded: &[super::load::Loaded]) -> Result<Vec<String>, Error> {
        // One transaction: past its beginning it is too late for a cancel.
        let cancel = CancelToken::new();
        let swap = Swap {
            service: &self.engine.name,
            address: &self.engine.address,
            loaded,
            replaces: &[],
            closed: false,
        };
        go_on(self.cx)?;
        let aside = swap.run(&calm(self.cx, &cancel))?;
        let told = |(name, aside): (String, String)| {
            format!("what stood there, database {name:?}, is put aside as {aside:?}, closed")
        };
        Ok(aside.into_iter().map(told).collect())
    }

    fn whole(&self, session: &mut Session) -> Result<Vec<String>, Error> {
        let target = self.target();
        if !self.part.replace && self.is_taken(session)? {
            return Err(Error::new(
                Class::Refused,
                format!("there is a database {target:?} already"),
            )
            .hinting(
                "Restore it under another name with `--as NAME`, or add `--replace` to put the one \
                 that is there aside.",
            ));
        }
        self.roles(session)?;
        let loaded = self.loader.load(self.cx, session, self.dump, &[(self.database, target)])?;
        let mut said = vec![format!("database {:?} is restored as {target:?}", self.database.name)];
        said.extend(self.put_in_place(&loaded)?);
        Ok(said)
    }

    fn tables(
        &self,
        session: &mut Session,
        tables: &[(String, String)],
    ) -> Result<Vec<String>, Error> {
        let target = self.target();
        let there = oid_of(session, target)?.is_some();
        let archive = self.database.archive(self.dump);
        let entries = listing::of(self.cx, self.tools, &archive)?;
        let chosen = listing::of_tables(&entries, tables, !there)?;
        let mut said = if there {
            let address = self.engine.address.clone().with_database(target);
            free(&address, target, tables)?;
            self.pick(&archive, &entries, &chosen, &address)?;
            Vec::new()
        } else {
            self.roles(session)?;
            self.new_with(session, &archive, &entries, &chosen)?
        };
        let names: Vec<String> =
            tables.iter().map(|(schema, table)| format!("{schema:?}.{table:?}")).collect();
        said.insert(
            0,
            format!("{} of {:?} is in {target:?}", names.join(", "), self.database.name),
        );
        for key in &chosen.left_out {
            said.push(format!(
                "a foreign key was left out, since what it refers to was not restored: {key}"
            ));
        }
        Ok(said)
    }

    /// Tables into a database that is there: all in one transaction.
    fn pick(
        &self,
        archive: &Path,
        entries: &[listing::Entry],
        chosen: &Chosen,
        address: &Address,
    ) -> Result<(), Error> {
        self.cx.progress.phase("loading the tables");
        let wanted = entries.iter().filter(|entry| chosen.ids.contains(&entry.id));
        let list = listing::write(self.cx.scratch.join("tables.list"), wanted)?;
        let command = self
            .tools
            .client("pg_restore", address)?
            .args(["--exit-on-error", "--single-transaction", "--format=directory", "--use-list"])
            .arg(&list)
            .arg(archive);
        tools::run(self.cx, &command).map(drop).map_err(|error| {
            match model::Classify::hint(&error) {
                Some(_) => error,
                None => error.hinting(
                    "Nothing of it was kept. What a table needs of the database that it goes to \
                     (schema, types, what its foreign keys refer to) must be there: with `--as` and \
                     the name of a new database it is restored with all that.",
                ),
            }
        })
    }

    /// Tables into a database that is made for them, and gets its name when it is whole.
    fn new_with(
        &self,
        session: &mut Session,
        archive: &Path,
        entries: &[listing::Entry],
        chosen: &Chosen,
    ) -> Result<Vec<String>, Error> {
        let cx = self.cx;
        catalog::drop_leftovers(cx, session, &self.engine.name)?;
        let temporary = format!("{}0", catalog::prefix(&self.engine.name));
        let like = self.database;
        let make = format!(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
            script::quoted(&temporary),
            script::literal(&like.encoding),
            script::literal(&like.collate),
            script::literal(&like.ctype)
        );
        session.run(cx, "make a database", &make)?;
        let address = self.engine.address.clone().with_database(&temporary);
        self.pick(archive, entries, chosen, &address)?;
        self.loader.analyze(cx, &address)?;
        let oid = oid_of(session, &temporary)?.ok_or_else(|| {
            Error::failed(format!("database {temporary} has vanished while it was loaded"))
        })?;
        let name = self.target().to_owned();
        self.put_in_place(&[super::load::Loaded { name, temporary, oid }])
    }
}

/// Refuses to load a table where there is one.
fn free(address: &Address, target: &str, tables: &[(String, String)]) -> Result<(), Error> {
    let mut session = address.connect()?;
    for (schema, table) in tables {
        let rows = session.rows(
            "look for a table",
            "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
              WHERE n.nspname = $1::text AND c.relname = $2::text",
            &[schema, table],
        )?;
        if !rows.is_empty() {
            return Err(Error::new(
                Class::Refused,
                format!("database {target:?} has a table {schema:?}.{table:?} already"),
            )
            .hinting(
                "Rename or drop it first, or restore the table into a new database with `--as NAME`.",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_as_they_are_written() {
        let pair = |schema: &str, table: &str| (schema.to_owned(), table.to_owned());
        assert_eq!(name("orders").expect("a name"), pair("public", "orders"));
        assert_eq!(name("Sales.Orders").expect("a name"), pair("Sales", "Orders"));
        assert_eq!(name("\"a.b\".\"c\"\"d\"").expect("a name"), pair("a.b", "c\"d"));
        assert_eq!(name("odd name.x y").expect("a name"), pair("odd name", "x y"));
        for bad in ["", ".", "a.", "a.b.c", "\"a\".\"b\".\"c\"", "\"\""] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
