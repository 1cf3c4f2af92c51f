//! A bounded walk through directories: it ends, whatever it meets.

use std::collections::VecDeque;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How much a walk may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Directories below the first.
    pub(crate) depth: usize,
    /// Entries altogether.
    pub(crate) entries: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { depth: 5, entries: 50_000 }
    }
}

/// Directories that hold no service's data, or somebody else's bookkeeping.
const SKIPPED: [&str; 18] = [
    ".cache",
    ".cargo",
    ".git",
    ".local",
    ".mozilla",
    ".rustup",
    ".npm",
    "apt",
    "cache",
    "containers",
    "docker",
    "dpkg",
    "mainstay",
    "node_modules",
    "PackageKit",
    "snapd",
    "systemd",
    "target",
];

/// Whether something of this name is what an operation put aside, or has not put in place:
/// `shop.db.replaced-20261121T010203Z`. It is no service, but what is left of one.
fn is_left_over(name: &str) -> bool {
    let left = |suffix: &str| {
        let (what, rest) = suffix.split_once('-')?;
        let (date, _) = rest.split_once('T')?;
        let ours = ["replaced", "diverged", "left", "mainstay"].contains(&what);
        Some(ours && date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()))
    };
    name.rsplit_once('.').and_then(|(_, suffix)| left(suffix)).unwrap_or(false)
}

/// Calls `visit` for every directory (with its metadata) and regular file below `dir`, near ones
/// first, on one file system, without following links. A directory is not entered if `visit`
/// returns false for it.
pub(crate) fn walk(dir: &Path, budget: Budget, visit: &mut dyn FnMut(&Path, &Metadata) -> bool) {
    let Ok(top) = fs::metadata(dir) else { return };
    if !top.is_dir() || !visit(dir, &top) {
        return;
    }
    let mut left = budget.entries;
    let mut queue = VecDeque::from([(dir.to_owned(), 0)]);
    while let Some((dir, depth)) = queue.pop_front() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            if left == 0 {
                return;
            }
            left -= 1;
            let path = entry.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let enter = visit_one(&path, &metadata, visit);
            if enter && depth < budget.depth && metadata.dev() == top.dev() {
                queue.push_back((path, depth + 1));
            }
        }
    }
}

fn visit_one(
    path: &Path,
    metadata: &Metadata,
    visit: &mut dyn FnMut(&Path, &Metadata) -> bool,
) -> bool {
    if path.file_name().and_then(|name| name.to_str()).is_some_and(is_left_over) {
        return false;
    }
    if metadata.is_file() {
        visit(path, metadata);
        return false;
    }
    let skipped = path.file_name().is_some_and(|name| SKIPPED.iter().any(|skip| name == *skip));
    metadata.is_dir() && !skipped && visit(path, metadata)
}
