//! Finds what on this host is worth protecting. It only looks, and not for long.

mod postgres;
mod sqlite;
mod walk;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Something worth protecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// A name for it, not yet unique.
    pub(crate) name: String,
    pub(crate) what: What,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Postgres(Server),
    Sqlite { path: PathBuf, size_bytes: u64 },
    Files { path: PathBuf },
}

/// A PostgreSQL server on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) socket_dir: Option<PathBuf>,
    pub(crate) port: u16,
    /// Major version.
    pub(crate) version: Option<String>,
    pub(crate) unit: Option<String>,
}

/// Looks in these directories, or, if there are none, in the places where such things usually are.
/// A directory that was named and holds no database is a tree of files.
pub(crate) fn discover(named: &[PathBuf]) -> Vec<Found> {
    let mut found = Vec::new();
    if named.is_empty() {
        found.extend(postgres::of_this_host());
        found.extend(sqlite::below(&obvious_places(), walk::Budget::default()));
    }
    for dir in named {
        let mut here = postgres::below(dir);
        here.extend(sqlite::below(std::slice::from_ref(dir), walk::Budget::default()));
        if here.is_empty() {
            here.push(Found { name: stem(dir), what: What::Files { path: dir.clone() } });
        }
        found.extend(here);
    }
    name_apart(&mut found);
    found
}

/// Places of application data, without the system's own.
fn obvious_places() -> Vec<PathBuf> {
    ["/srv", "/opt", "/var/lib", "/var/www", "/home", "/root"].map(PathBuf::from).to_vec()
}

/// A service name made of a file's name.
fn stem(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    let plain = plain.trim_matches('-').to_owned();
    if plain.is_empty() { "data".to_owned() } else { plain }
}

/// Numbers names that occur twice.
fn name_apart(found: &mut [Found]) {
    let mut taken = BTreeSet::new();
    for one in found {
        let mut name = one.name.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{}-{number}", one.name);
            number += 1;
        }
        one.name = name;
    }
}
