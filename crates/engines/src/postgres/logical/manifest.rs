//! What a dump says of itself, in `manifest.json` beside it: for the restore, and for people.

use crate::Error;
use jiff::Timestamp;
use model::Class;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Its name in a dump.
pub(super) const FILE: &str = "manifest.json";
/// Roles, their memberships and tablespaces, as `pg_dumpall --globals-only` writes them.
pub(super) const GLOBALS: &str = "globals.sql";
/// The directory with an archive per database, each as `pg_dump --format=directory` writes it.
pub(super) const DATABASES: &str = "databases";
/// The table of contents of an archive.
const TOC: &str = "toc.dat";
/// No manifest and no list of roles is larger.
const LARGEST: u64 = 64 << 20;
/// PostgreSQL's own limit on names.
const LONGEST_NAME: usize = 63;

/// A dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Manifest {
    /// 1.
    pub(super) format: u32,
    /// The server's, as it writes it.
    pub(super) server_version: String,
    /// Its major version.
    pub(super) major: u32,
    /// What `pg_dump --version` said.
    pub(super) pg_dump: String,
    /// The server's clock before anything was read.
    pub(super) taken: Timestamp,
    /// The bootstrap superuser.
    pub(super) superuser: String,
    /// The roles' passwords are in.
    pub(super) role_passwords: bool,
    /// Tablespaces other than the server's own two.
    pub(super) tablespaces: Vec<Tablespace>,
    /// By name.
    pub(super) databases: Vec<Database>,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Tablespace {
    pub(super) name: String,
    pub(super) owner: String,
    pub(super) location: String,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Database {
    pub(super) name: String,
    /// Below [`DATABASES`].
    pub(super) directory: String,
    pub(super) owner: String,
    pub(super) encoding: String,
    pub(super) collate: String,
    pub(super) ctype: String,
    /// On the server, with its indexes.
    pub(super) size_bytes: u64,
    /// Of its dump.
    pub(super) dump_bytes: u64,
    /// The server's clock before it was read: everything that was committed in it before is in.
    pub(super) began: Timestamp,
    /// There is something in it that a new database has not.
    pub(super) content: bool,
    pub(super) extensions: Vec<Extension>,
    /// The names of the tablespaces that it and what is in it lie in.
    pub(super) tablespaces: Vec<String>,
}

/// An extension that a database uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Extension {
    pub(super) name: String,
    pub(super) version: String,
}

/// What of it a snapshot's description tells, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Detail {
    /// `logical`.
    pub(super) method: String,
    pub(super) databases: Vec<Told>,
}

/// What is told of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) directory: String,
    pub(super) content: bool,
}

impl Manifest {
    /// Reads and judges the manifest of a dump, and that every archive it names is there.
    pub(super) fn read(dump: &Path) -> Result<Manifest, Error> {
        let manifest = Manifest::alone(dump)?;
        for database in &manifest.databases {
            database.is_there(dump)?;
        }
        Ok(manifest)
    }

    /// The same of a part of a dump, of which archives may be missing.
    pub(super) fn alone(dump: &Path) -> Result<Manifest, Error> {
        let file = dump.join(FILE);
        let damaged = |what: &str| {
            Error::new(
                Class::Corrupt,
                format!("{} is no manifest of a dump: {what}", file.display()),
            )
        };
        let text = text(&file)?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|e| damaged("it is not valid").because(e))?;
        if manifest.format != 1 {
            return Err(Error::invalid(format!(
                "{} has format {}; this version of mainstay knows 1",
                file.display(),
                manifest.format
            )));
        }
        let (mut names, mut directories) = (BTreeSet::new(), BTreeSet::new());
        for database in &manifest.databases {
            if !plain(&database.directory) || !is_name(&database.name) {
                return Err(damaged("a database has a name that cannot be"));
            }
            if !names.insert(&database.name) || !directories.insert(&database.directory) {
                return Err(damaged("a database is named twice"));
            }
        }
        Ok(manifest)
    }

    /// The database of this name.
    pub(super) fn database(&self, name: &str) -> Result<&Database, Error> {
        self.databases
            .iter()
            .find(|database| database.name == name)
            .ok_or_else(|| not_there(name, self.databases.iter().map(|database| &database.name)))
    }

    /// Those that a restore of all puts in place: of the two that every server has, only what
    /// somebody has put something into.
    pub(super) fn restorable(&self) -> impl Iterator<Item = &Database> {
        self.databases.iter().filter(|database| database.is_restored())
    }

    /// Writes it.
    pub(super) fn write(&self, dump: &Path) -> Result<(), Error> {
        let file = dump.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::failed("cannot encode the manifest").because(e))?;
        fs::write(&file, text + "\n").map_err(|e| Error::io("write", file.display(), e))
    }

    pub(super) fn detail(&self) -> Result<serde_json::Value, Error> {
        let told = |database: &Database| Told {
            name: database.name.clone(),
            directory: database.directory.clone(),
            content: database.content,
        };
        let databases = self.databases.iter().map(told).collect();
        serde_json::to_value(Detail { method: "logical".to_owned(), databases })
            .map_err(|e| Error::failed("cannot describe the dump").because(e))
    }
}

impl Detail {
    /// What a snapshot's description says.
    pub(super) fn of(detail: &serde_json::Value) -> Result<Detail, Error> {
        let parsed: Detail = serde_json::from_value(detail.clone()).map_err(|e| {
            Error::invalid("this snapshot does not hold a dump of databases").because(e).hinting(
                "It was made with another `method`. Restore it with `--target DIR`, or with a \
                 definition of that method.",
            )
        })?;
        match parsed.databases.iter().find(|told| !plain(&told.directory)) {
            Some(told) => Err(Error::new(
                Class::Corrupt,
                format!("the snapshot names a database's directory {:?}", told.directory),
            )),
            None => Ok(parsed),
        }
    }

    /// The database of this name.
    pub(super) fn database(&self, name: &str) -> Result<&Told, Error> {
        self.databases
            .iter()
            .find(|told| told.name == name)
            .ok_or_else(|| not_there(name, self.databases.iter().map(|told| &told.name)))
    }
}

impl Told {
    /// As of [`Database::is_restored`].
    pub(super) fn is_restored(&self) -> bool {
        self.content || !every_server_has(&self.name)
    }
}

impl Database {
    /// Whether a restore of all puts it in place.
    pub(super) fn is_restored(&self) -> bool {
        self.content || !every_server_has(&self.name)
    }

    /// Its archive.
    pub(super) fn archive(&self, dump: &Path) -> PathBuf {
        dump.join(DATABASES).join(&self.directory)
    }

    pub(super) fn is_there(&self, dump: &Path) -> Result<(), Error> {
        let toc = self.archive(dump).join(TOC);
        match fs::metadata(&toc) {
            Ok(meta) if meta.is_file() && meta.len() > 0 => Ok(()),
            Ok(_) => Err(Error::new(Class::Corrupt, format!("{} is empty", toc.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
                Class::Corrupt,
                format!("the dump of database {:?} is missing: {}", self.name, toc.display()),
            )),
            Err(e) => Err(Error::io("look at", toc.display(), e)),
        }
    }
}

fn not_there<'n>(name: &str, names: impl Iterator<Item = &'n String>) -> Error {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    Error::invalid(format!("the dump has no database {name:?}"))
        .hinting(format!("It has {}.", names.join(", ")))
}

/// A file of a dump that is read as a whole, if it is not larger than any such file can be.
pub(super) fn text(file: &Path) -> Result<String, Error> {
    let failed = |e| Error::io("read", file.display(), e);
    let mut text = String::new();
    let mut opened = fs::File::open(file).map_err(failed)?.take(LARGEST + 1);
    opened.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST {
        return Err(Error::new(Class::Corrupt, format!("{} is too large", file.display())));
    }
    Ok(text)
}

/// The databases of which a server has one before anybody made one.
pub(super) fn every_server_has(name: &str) -> bool {
    matches!(name, "postgres" | "template1")
}

/// Whether it can be a database's name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains('\0')
}

/// Whether it is the name of a directory and of nothing else.
fn plain(directory: &str) -> bool {
    !directory.is_empty() && directory == encoded(&decoded(directory))
}

/// The name of a database's directory: what no file system and no shell takes for something else
/// stays as it is.
pub(super) fn encoded(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.char_indices() {
        let odd = c.is_control() || matches!(c, '/' | '%' | '\\') || (at == 0 && c == '.');
        if odd {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn decoded(directory: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = directory.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%');
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_so_that_no_name_leads_elsewhere() {
        for (name, directory) in [
            ("shop", "shop"),
            ("größe ü", "größe ü"),
            ("..", "%2E."),
            ("a/b", "a%2Fb"),
            ("100%", "100%25"),
            ("a\"b'c", "a\"b'c"),
        ] {
            assert_eq!(encoded(name), directory);
            assert_eq!(decoded(directory), name);
            assert!(plain(directory), "{directory}");
        }
        for bad in ["", "..", ".", "a/b", "../x", "a%2fb", "a\0"] {
            assert!(!plain(bad), "{bad}");
        }
    }

    #[test]
    fn a_manifest_that_makes_no_sense_is_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let manifest = |text: &str| {
            fs::write(dir.path().join(FILE), text).expect("write");
            Manifest::read(dir.path()).expect_err("not valid")
        };
        manifest("");
        manifest("{\"format\": 1}");
        assert!(Detail::of(&serde_json::Value::Null).is_err());
        let evil = serde_json::json!({
            "method": "logical",
            "databases": [{ "name": "x", "directory": "../../etc", "content": true }]
        });
        assert!(Detail::of(&evil).is_err());
    }
}
