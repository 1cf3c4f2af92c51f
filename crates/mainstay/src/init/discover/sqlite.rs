//! SQLite databases, told by the first bytes of the file (sqlite.org/fileformat.html).

use super::walk::{Budget, walk};
use super::{Found, What, stem};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// More than this in one search are not services but an application's caches.
const MOST: usize = 20;

/// The databases below these directories, at most [`MOST`], the largest first.
pub(crate) fn below(dirs: &[PathBuf], budget: Budget) -> Vec<Found> {
    let mut found = Vec::new();
    for dir in dirs {
        walk(dir, budget, &mut |path, metadata| {
            if metadata.is_file() && metadata.len() >= 512 && is_database(path) {
                found.push((metadata.len(), path.to_owned()));
            }
            // A server's data directory holds nothing of ours.
            !path.join("PG_VERSION").exists()
        });
    }
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    found.dedup_by(|a, b| a.1 == b.1);
    found.truncate(MOST);
    let service = |(size_bytes, path): (u64, PathBuf)| Found {
        name: stem(&path),
        what: What::Sqlite { path, size_bytes },
    };
    found.into_iter().map(service).collect()
}

fn is_database(path: &Path) -> bool {
    let mut start = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *MAGIC
}
