//! SQLite's own judgement of a copy, without changing a byte of it.

use super::beside;
use super::failure::failure;
use super::settle::is_hot;
use crate::files::not_cancelled;
use crate::{Context, Error, Staged, Verdict};
use model::Class;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How many findings of each kind are named.
const NAMED: usize = 100;

/// Opens a copy that nobody writes to. `immutable` keeps SQLite from making journals beside it,
/// from taking locks and from rolling anything back.
fn open(copy: &Path) -> Result<Connection, Error> {
    let mut uri = String::from("file:");
    for &byte in copy.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags).map_err(|e| failure("open", copy, e))
}

/// An error if the copy's header and schema cannot be read: a source so damaged is no history.
pub(super) fn opens(copy: &Path) -> Result<(), Error> {
    let connection = open(copy)?;
    let count: Result<i64, _> =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
    match count {
        Ok(_) => Ok(()),
        Err(error) => {
            let damaged = matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
            );
            let error = failure("read the schema of the copy", copy, error);
            Err(if damaged {
                Error::new(Class::Corrupt, "the database is damaged at its source")
                    .because(error)
                    .hinting("Run `PRAGMA integrity_check` on it, and restore an earlier point.")
            } else {
                error
            })
        }
    }
}

/// Runs SQLite's checks over every copy.
pub(super) fn judge(cx: &Context<'_>, copies: &[Staged]) -> Result<Verdict, Error> {
    cx.progress.phase("checking the database");
    let mut verdict = Verdict { sound: true, findings: Vec::new() };
    for copy in copies {
        let mut judge = Judge { cx, path: &copy.staged, verdict: &mut verdict };
        judge.run()?;
    }
    Ok(verdict)
}

struct Judge<'a> {
    cx: &'a Context<'a>,
    path: &'a Path,
    verdict: &'a mut Verdict,
}

impl Judge<'_> {
    fn run(&mut self) -> Result<(), Error> {
        let size =
            fs::metadata(self.path).map_err(|e| Error::io("read", self.path.display(), e))?.len();
        // What is shorter than the smallest page SQLite takes for a new, sound database.
        if size < 512 {
            self.bad(format!("the file has only {size} bytes"));
            return Ok(());
        }
        for suffix in ["-wal", "-journal"] {
            if is_hot(self.path, suffix)? {
                self.bad(format!(
                    "{} holds changes that the file itself has not",
                    beside(self.path, suffix).display()
                ));
            }
        }
        let mut connection = open(self.path)?;
        // A cancel must not wait for the check of a large database.
        let cancel = self.cx.cancel.clone();
        connection
            .progress_handler(100_000, Some(move || cancel.is_cancelled()))
            .map_err(|e| failure("check", self.path, e))?;
        if !self.integrity(&connection)? {
            return Ok(());
        }
        self.foreign_keys(&connection)?;
        let version = rusqlite::version();
        self.verdict.findings.push(format!(
            "SQLite {version} checked {} ({size} bytes): integrity and foreign keys",
            self.path.display()
        ));
        Ok(())
    }

    /// Whether it could be run at all.
    fn integrity(&mut self, connection: &Connection) -> Result<bool, Error> {
        match rows(connection, &format!("PRAGMA integrity_check({NAMED})")) {
            Ok(found) => {
                self.report(found);
                Ok(true)
            }
            Err(error) if lacks_the_application(&error) => self.by_table(connection, &error),
            Err(error) => self.broken("integrity check", error).map(|()| false),
        }
    }

    /// An index that needs a function or collation of the application ends the check of everything.
    /// Table by table, only what needs it stays unchecked.
    fn by_table(&mut self, connection: &Connection, why: &rusqlite::Error) -> Result<bool, Error> {
        self.verdict
            .findings
            .push(format!("not all can be checked without the application: {why}"));
        let tables = match rows(
            connection,
            "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name",
        ) {
            Ok(tables) => tables,
            Err(error) => return self.broken("list of tables", error).map(|()| false),
        };
        for table in tables {
            let name = table.replace('\'', "''");
            match rows(connection, &format!("PRAGMA integrity_check('{name}')")) {
                Ok(found) => self.report(found),
                Err(error) if lacks_the_application(&error) => {
                    self.verdict.findings.push(format!("table {table:?} was not checked: {error}"));
                }
                Err(error) => return self.broken("integrity check", error).map(|()| false),
            }
        }
        Ok(true)
    }

    fn foreign_keys(&mut self, connection: &Connection) -> Result<(), Error> {
        let sql = format!(
            "SELECT printf('row %s of %s refers to no row of %s', rowid, \"table\", parent) \
             FROM pragma_foreign_key_check LIMIT {NAMED}"
        );
        match rows(connection, &sql) {
            // SQLite enforces foreign keys only for applications that ask for it; a database that
            // never did may hold such rows and still be what its application wants.
            Ok(found) => {
                for one in found {
                    self.verdict.findings.push(format!("foreign keys: {one}"));
                }
                Ok(())
            }
            Err(error) if lacks_the_application(&error) => {
                self.verdict.findings.push(format!("foreign keys were not checked: {error}"));
                Ok(())
            }
            Err(error) => {
                // "foreign key mismatch": the schema itself is at odds, as the application left it.
                if error.sqlite_error_code() == Some(ErrorCode::Unknown) {
                    self.verdict.findings.push(format!("foreign keys: {error}"));
                    return Ok(());
                }
                self.broken("foreign key check", error)
            }
        }
    }

    fn report(&mut self, found: Vec<String>) {
        for one in found {
            if one != "ok" {
                self.bad(one);
            }
        }
    }

    /// A check that could not be finished: cancelled, or the copy is too damaged.
    fn broken(&mut self, what: &str, error: rusqlite::Error) -> Result<(), Error> {
        not_cancelled(self.cx)?;
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                self.bad(format!("{what}: {error}"));
                Ok(())
            }
            _ => Err(failure("check", self.path, error)),
        }
    }

    fn bad(&mut self, finding: String) {
        self.verdict.sound = false;
        self.verdict.findings.push(finding);
    }
}

/// Asks a copy; what it answers as text, columns by `|` and rows by lines. None if it cannot answer,
/// which is a finding.
pub(super) fn ask(
    cx: &Context<'_>,
    copy: &Path,
    sql: &str,
    verdict: &mut Verdict,
) -> Result<Option<String>, Error> {
    cx.progress.phase("asking the copy");
    let mut connection = open(copy)?;
    let cancel = cx.cancel.clone();
    connection
        .progress_handler(100_000, Some(move || cancel.is_cancelled()))
        .map_err(|e| failure("ask", copy, e))?;
    let answered = text_of(&connection, sql);
    not_cancelled(cx)?;
    match answered {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => {
            verdict.bad(format!("the question was not answered: {error}"));
            Ok(None)
        }
    }
}

fn text_of(connection: &Connection, sql: &str) -> rusqlite::Result<String> {
    use rusqlite::types::ValueRef;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            values.push(match row.get_ref(column)? {
                ValueRef::Null => String::new(),
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Real(number) => number.to_string(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                ValueRef::Blob(bytes) => hex::encode(bytes),
            });
        }
        lines.push(values.join("|"));
    }
    Ok(lines.join("\n").trim().to_owned())
}

fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.collect()
}

/// SQLite lacks what only the application brings along.
fn lacks_the_application(error: &rusqlite::Error) -> bool {
    let text = error.to_string();
    ["no such collation", "no such function", "no such module", "no such tokenizer"]
        .iter()
        .any(|lack| text.contains(lack))
}
