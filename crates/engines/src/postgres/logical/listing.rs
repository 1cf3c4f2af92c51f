//! The table of contents of an archive, as `pg_restore --list` shows it.

use super::tools::{self, Tools};
use crate::{Context, Error};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its number in the archive.
    pub(super) id: u32,
    /// What it is, in which schema, what it is called, whose it is: words with spaces between.
    pub(super) rest: String,
    /// The numbers of what it needs.
    pub(super) needs: Vec<u32>,
}

/// Entries that say what a database is, and not what is in it.
const OF_THE_DATABASE: [&str; 5] = [
    "DATABASE - ",
    "DATABASE PROPERTIES - ",
    "ACL - DATABASE ",
    "COMMENT - DATABASE ",
    "SECURITY LABEL - DATABASE ",
];

/// What belongs to a table and carries its name.
const NAMED_AFTER_TABLE: [&str; 8] = [
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "TRIGGER",
    "RULE",
    "DEFAULT",
    "POLICY",
    "ROW SECURITY",
];

/// What belongs to whatever it needs, be it the table or something of it.
const BELONGS: [&str; 9] = [
    "TABLE DATA",
    "INDEX",
    "STATISTICS",
    "STATISTICS DATA",
    "SEQUENCE",
    "SEQUENCE SET",
    "SEQUENCE OWNED BY",
    "ACL",
    "COMMENT",
];

impl Entry {
    pub(super) fn is_of_database(&self) -> bool {
        OF_THE_DATABASE.iter().any(|what| self.rest.starts_with(what))
    }

    /// Whether it is of this kind. Names of kinds are capitals, and the schema follows, so that none
    /// is taken for one that only begins alike.
    fn is(&self, kind: &str) -> bool {
        let after = self.rest.strip_prefix(kind).and_then(|rest| rest.strip_prefix(' '));
        after.is_some_and(|after| {
            let next = after.split(' ').next().unwrap_or_default();
            !KINDS_GO_ON.contains(&next)
        })
    }
}

/// Second words of kinds of two words or more.
const KINDS_GO_ON: [&str; 8] =
    ["DATA", "ATTACH", "SET", "OWNED", "PROPERTIES", "CONSTRAINT", "SECURITY", "TEMPLATE"];

/// Reads the table of contents of an archive, which proves that it can be read.
pub(super) fn of(cx: &Context<'_>, tools: &Tools, archive: &Path) -> Result<Vec<Entry>, Error> {
    // Into a file: it may be longer than what is kept of a program's output.
    let file = cx.scratch.join("contents.list");
    let command =
        tools.command("pg_restore").args(["--list", "--verbose", "--file"]).arg(&file).arg(archive);
    let listed = tools::run(cx, &command);
    let text =
        listed.and_then(|_| fs::read(&file).map_err(|e| Error::io("read", file.display(), e)));
    let _ = fs::remove_file(&file);
    Ok(parse(&String::from_utf8_lossy(&text?)))
}

fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        if let Some(needs) = line.strip_prefix(";\tdepends on:") {
            if let Some(last) = entries.last_mut() {
                last.needs = needs.split_whitespace().filter_map(|id| id.parse().ok()).collect();
            }
            continue;
        }
        // `215; 1259 16385 TABLE public accounts postgres`
        let Some((id, rest)) = line.split_once("; ") else { continue };
        let Ok(id) = id.parse() else { continue };
        let rest = rest.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
        entries.push(Entry { id, rest, needs: Vec::new() });
    }
    entries
}

/// Writes which entries `pg_restore --use-list` is to work on.
pub(super) fn write<'e>(
    file: PathBuf,
    entries: impl Iterator<Item = &'e Entry>,
) -> Result<PathBuf, Error> {
    let text: String = entries.map(|entry| format!("{};\n", entry.id)).collect();
    fs::write(&file, text).map_err(|e| Error::io("write", file.display(), e))?;
    Ok(file)
}

/// What a table is restored from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) ids: BTreeSet<u32>,
    /// Foreign keys that lead to what is not restored with it.
    pub(super) left_out: Vec<String>,
}

/// The entries of these tables and of what belongs to them: data, indexes, constraints, sequences of
/// its own, triggers, policies, rights. Into a database that is `new`, also what they need: schemas,
/// types, functions; and no foreign key that leads elsewhere.
pub(super) fn of_tables(
    entries: &[Entry],
    tables: &[(String, String)],
    new: bool,
) -> Result<Chosen, Error> {
    let mut ids = BTreeSet::new();
    for (schema, table) in tables {
        ids.insert(table_id(entries, schema, table)?);
    }
    let belongs = |entry: &Entry, ids: &BTreeSet<u32>| {
        let needs_one = entry.needs.iter().any(|id| ids.contains(id));
        let named_after = || {
            tables.iter().any(|(schema, table)| {
                NAMED_AFTER_TABLE.iter().any(|kind| {
                    let begins = format!("{kind} {schema} {table}");
                    entry.rest.starts_with(&begins)
                })
            })
        };
        needs_one && (BELONGS.iter().any(|kind| entry.is(kind)) || named_after())
    };
    loop {
        let before = ids.len();
        for entry in entries {
            if belongs(entry, &ids) {
                ids.insert(entry.id);
            }
            if ids.contains(&entry.id) && entry.rest.starts_with("SEQUENCE OWNED BY ") {
                let sequences = entries
                    .iter()
                    .filter(|one| entry.needs.contains(&one.id) && one.is("SEQUENCE"));
                ids.extend(sequences.map(|one| one.id));
            }
        }
        if ids.len() == before {
            break;
        }
    }
    let mut left_out = Vec::new();
    if new {
        let keys = entries.iter().filter(|entry| entry.rest.starts_with("FK CONSTRAINT "));
        for key in keys {
            if ids.contains(&key.id) && !key.needs.iter().all(|id| ids.contains(id)) {
                ids.remove(&key.id);
                left_out.push(key.rest.trim_start_matches("FK CONSTRAINT ").to_owned());
            }
        }
        add_needed(entries, &mut ids);
    }
    Ok(Chosen { ids, left_out })
}

/// Adds what the chosen entries need, and what those need. The data of nothing.
fn add_needed(entries: &[Entry], ids: &mut BTreeSet<u32>) {
    loop {
        let needed: BTreeSet<u32> = entries
            .iter()
            .filter(|entry| ids.contains(&entry.id))
            .flat_map(|entry| entry.needs.iter().copied())
            .filter(|id| !ids.contains(id))
            .filter(|id| entries.iter().any(|entry| entry.id == *id && !entry.is("TABLE DATA")))
            .collect();
        if needed.is_empty() {
            // A schema that is needed is not always said to be.
            let schemas: Vec<u32> = entries
                .iter()
                .filter(|schema| schema.rest.starts_with("SCHEMA - "))
                .filter(|schema| !ids.contains(&schema.id))
                .filter(|schema| {
                    let name = schema.rest.split(' ').nth(2).unwrap_or_default();
                    entries.iter().any(|entry| {
                        ids.contains(&entry.id) && entry.rest.contains(&format!(" {name} "))
                    })
                })
                .map(|schema| schema.id)
                .collect();
            if schemas.is_empty() {
                return;
            }
            ids.extend(schemas);
            continue;
        }
        ids.extend(needed);
    }
}

fn table_id(entries: &[Entry], schema: &str, table: &str) -> Result<u32, Error> {
    let kinds = ["TABLE", "FOREIGN TABLE", "MATERIALIZED VIEW", "VIEW"];
    let named = |entry: &&Entry| {
        kinds.iter().any(|kind| {
            let begins = format!("{kind} {schema} {table} ");
            entry.is(kind) && entry.rest.starts_with(&begins)
        })
    };
    let mut found: Vec<&Entry> = entries.iter().filter(named).collect();
    if found.len() > 1 {
        // A name with a space in it begins like a shorter one; an owner has seldom one.
        let words = |entry: &&Entry| entry.rest.split(' ').count();
        let least = found.iter().map(words).min();
        found.retain(|entry| Some(words(entry)) == least);
    }
    match found.as_slice() {
        [one] => Ok(one.id),
        [] => Err(Error::invalid(format!("the dump has no table {schema:?}.{table:?}")).hinting(
            "Name it as SCHEMA.TABLE, as it is written in the database; quote what has a dot in it.",
        )),
        _ => Err(Error::invalid(format!("the dump has several tables {schema:?}.{table:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = ";\n; Archive created at 2026-11-21\n;     dbname: shop\n;\n;\n\
        ; Selected TOC Entries:\n;\n\
        6; 2615 16386 SCHEMA - sales postgres\n\
        3360; 1262 16384 DATABASE - shop postgres\n\
        3361; 0 0 ACL - DATABASE shop postgres\n\
        3362; 0 0 DATABASE PROPERTIES - shop postgres\n\
        600; 1247 16390 TYPE sales state postgres\n;\tdepends on: 6\n\
        210; 1259 16391 TABLE sales orders postgres\n;\tdepends on: 6 600\n\
        211; 1259 16400 SEQUENCE sales orders_n_seq postgres\n;\tdepends on: 6\n\
        3363; 0 0 SEQUENCE OWNED BY sales orders_n_seq postgres\n;\tdepends on: 211 210\n\
        3200; 2604 16401 DEFAULT sales orders n postgres\n;\tdepends on: 211 210 210\n\
        212; 1259 16410 TABLE sales lines postgres\n;\tdepends on: 6\n\
        3350; 0 16391 TABLE DATA sales orders postgres\n;\tdepends on: 210\n\
        3351; 0 16410 TABLE DATA sales lines postgres\n;\tdepends on: 212\n\
        3364; 0 0 SEQUENCE SET sales orders_n_seq postgres\n;\tdepends on: 211\n\
        3210; 2606 16420 CONSTRAINT sales orders orders_pkey postgres\n;\tdepends on: 210\n\
        3211; 1259 16421 INDEX sales by_day postgres\n;\tdepends on: 210\n\
        3212; 2606 16430 FK CONSTRAINT sales lines lines_order postgres\n;\tdepends on: 212 210 3210\n\
        3365; 0 0 ACL sales TABLE orders postgres\n;\tdepends on: 210\n";

    fn ids(tables: &[&str], new: bool) -> Chosen {
        let tables: Vec<_> =
            tables.iter().map(|name| ("sales".to_owned(), (*name).to_owned())).collect();
        of_tables(&parse(LIST), &tables, new).expect("tables")
    }

    #[test]
    fn a_table_takes_along_what_belongs_to_it_and_nothing_else() {
        let chosen = ids(&["orders"], false);
        let wanted = [210, 211, 3200, 3210, 3211, 3350, 3363, 3364, 3365];
        assert_eq!(chosen.ids, BTreeSet::from(wanted));
        let chosen = ids(&["orders"], true);
        assert_eq!(chosen.ids, BTreeSet::from_iter(wanted.into_iter().chain([6, 600])));
        assert!(chosen.left_out.is_empty());
        let chosen = ids(&["lines"], true);
        assert_eq!(chosen.ids, BTreeSet::from([6, 212, 3351]));
        assert_eq!(chosen.left_out, ["sales lines lines_order postgres"]);
        let both = ids(&["lines", "orders"], true);
        assert!(both.left_out.is_empty() && both.ids.contains(&3212));
        assert!(of_tables(&parse(LIST), &[("sales".into(), "no".into())], false).is_err());
    }

    #[test]
    fn what_a_database_is_stands_apart() {
        let found: Vec<u32> =
            parse(LIST).iter().filter(|one| one.is_of_database()).map(|one| one.id).collect();
        assert_eq!(found, [3360, 3361, 3362]);
    }
}
