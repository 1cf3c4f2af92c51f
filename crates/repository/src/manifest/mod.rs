//! What a tree on disk looked like when we last wrote to it, so that a change by anybody else shows.
//!
//! A manifest is text: a first line with the format's name, a line for each file in the order of a
//! walk (sorted by name, parents first), and a last line with the number of entries and the SHA-256
//! of everything before. A file that does not end so was cut off or changed, and is an error: an
//! unreadable manifest must never pass for "nothing has changed".

mod entry;
mod recorded;
mod walk;

use crate::restore::redo::Touched;
use crate::{Error, disk};
use entry::{Entry, FileState, State};
pub use recorded::recorded_entries;
use recorded::{Recorded, Recording};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use walk::Walk;

/// How a tree on disk differs from what was last put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path below the root, `.` for the root itself.
    pub path: String,
    /// "changed", "new", "gone".
    pub what: String,
    /// Nothing but the time of the last change of the inode has changed. That also happens when a
    /// hard link to the file is made or removed, as a restore with [`Reuse`](crate::restore::Reuse)
    /// does; the content decides: see [`written_to`](crate::scrub::written_to).
    pub only_ctime: bool,
}

/// Records size, times, inode and attributes of everything below `root` (a tree or a file), so that
/// [`differences`] can tell later whether anybody wrote to it. Durable on return.
pub fn record_manifest(root: &Path, manifest: &Path) -> Result<(), Error> {
    if !is_settled(root)? {
        // What is written after this has another time stamp than what was written before.
        std::thread::sleep(disk::TICK);
    }
    let mut out = Recording::begin(manifest)?;
    let mut walk = Walk::new(root)?;
    while let Some(entry) = walk.next()? {
        out.entry(&entry)?;
    }
    out.finish()
}

/// Records anew what was touched of a tree since its manifest was, and leaves the rest of that as it is:
/// what somebody else has written to meanwhile still shows. Durable on return.
pub fn update_manifest(root: &Path, manifest: &Path, touched: &[Touched]) -> Result<(), Error> {
    if touched.iter().any(|one| is_fresh(root, &one.path)) {
        std::thread::sleep(disk::TICK);
    }
    let mut touched: Vec<&Touched> = touched.iter().collect();
    // Of several of one path, that which goes deepest is the first.
    touched.sort_by(|a, b| {
        parts(&a.path).cmp(parts(&b.path)).then_with(|| b.all_below.cmp(&a.all_below))
    });
    let mut before = Recorded::open(manifest)?;
    let mut out = Recording::begin(manifest)?;
    let mut line = before.line()?;
    let mut done: Option<&Touched> = None;
    let is_done = |done: Option<&Touched>, path: &[u8]| {
        done.is_some_and(|done| done.path == path || (done.all_below && below(path, &done.path)))
    };
    for one in touched {
        if is_done(done, &one.path) {
            continue;
        }
        while let Some((path, text)) = &line {
            if parts(path).cmp(parts(&one.path)) != Ordering::Less {
                break;
            }
            if !is_done(done, path) {
                out.line(text)?;
            }
            line = before.line()?;
        }
        let mut walk = Walk::at(root, &one.path)?;
        while let Some(entry) = walk.next()? {
            out.entry(&entry)?;
            if !one.all_below {
                break;
            }
        }
        done = Some(one);
    }
    while let Some((path, text)) = &line {
        if !is_done(done, path) {
            out.line(text)?;
        }
        line = before.line()?;
    }
    out.finish()
}

/// A tree with more entries is not looked through for that: waiting takes no longer.
const FEW: usize = 1000;

/// Whether nothing in a tree was written to so shortly ago that a later write could have the same time.
fn is_settled(root: &Path) -> Result<bool, Error> {
    let mut walk = Walk::new(root)?;
    walk.lazy = true;
    for _ in 0..FEW {
        let Some(entry) = walk.next()? else { return Ok(true) };
        if entry.state.file.is_some_and(|file| disk::is_fresh(file.ctime)) {
            return Ok(false);
        }
    }
    Ok(false)
}

/// The same for one path below a root. What cannot be told counts as fresh.
fn is_fresh(root: &Path, path: &[u8]) -> bool {
    use std::os::unix::fs::MetadataExt;
    match std::fs::symlink_metadata(root.join(OsStr::from_bytes(path))) {
        // A directory that is new was filled before it got its name, which has set its time.
        Ok(meta) => u32::try_from(meta.ctime_nsec())
            .map_or(true, |nanos| disk::is_fresh((meta.ctime(), nanos))),
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

/// Compares `root` with a recorded manifest; at most `limit` differences are named. A new or
/// vanished directory is one difference, whatever it holds.
pub fn differences(root: &Path, manifest: &Path, limit: usize) -> Result<Vec<Difference>, Error> {
    let mut found = Vec::new();
    compare_all(root, manifest, &mut |path, what, moved| {
        if found.len() < limit {
            found.push(Difference::new(path, what, moved.is_some()));
        }
        Ok(found.len() < limit)
    })?;
    Ok(found)
}

/// The times of the last change of inodes, by their numbers.
pub type Times = HashMap<u64, (i64, u32)>;

/// What making hard links to files did to these times.
pub type Links = HashMap<u64, Link>;

/// A file got another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its time right before: if somebody has written to it since it was looked at, this shows it.
    pub before: (i64, u32),
    /// And right after: what is done to it later shows in this.
    pub after: (i64, u32),
}

/// As [`differences`], but that these hard links were made is none, and neither are times of files
/// that were looked at and found to be `innocent`: they count only if something has happened to them
/// since, or between that look and the link. Nor are names at the top that begin as what is `staged`,
/// if that is there.
pub fn differences_but_links(
    root: &Path,
    manifest: &Path,
    innocent: &Times,
    links: &Links,
    staged: &Path,
    limit: usize,
) -> Result<Vec<Difference>, Error> {
    let mut found = Vec::new();
    let known = |inode: u64, was: (i64, u32), is: (i64, u32)| {
        let looked_at = innocent.get(&inode).copied().unwrap_or(was);
        match links.get(&inode) {
            Some(link) => link.before == looked_at && link.after == is,
            None => looked_at == is,
        }
    };
    let own = staged.file_name().filter(|_| staged.parent() == Some(root));
    let own = own.map(|name| name.as_bytes());
    compare(root, manifest, own, &known, &mut |path, what, moved| {
        found.push(Difference::new(path, what, moved.is_some()));
        Ok(found.len() < limit)
    })?;
    Ok(found)
}

/// Told a path below the root, what is the matter with it, and if that is its ctime alone, the inode
/// and that time. Returns whether to go on.
pub(crate) type Found<'a> =
    dyn FnMut(&[u8], &str, Option<(u64, (i64, u32))>) -> Result<bool, Error> + 'a;

/// Calls `found` for each difference between `root` and a manifest.
pub(crate) fn compare_all(
    root: &Path,
    manifest: &Path,
    found: &mut Found<'_>,
) -> Result<(), Error> {
    compare(root, manifest, None, &|_, _, _| false, found)
}

/// Told an inode of which nothing but the time of its last change differs, and what it was and is: says
/// whether that is no difference.
type Known<'a> = dyn Fn(u64, (i64, u32), (i64, u32)) -> bool + 'a;

fn compare(
    root: &Path,
    manifest: &Path,
    own: Option<&[u8]>,
    known: &Known<'_>,
    found: &mut Found<'_>,
) -> Result<(), Error> {
    let mut recorded = Recorded::open(manifest)?;
    let mut before = recorded.next()?;
    let mut walk = match Walk::new(root) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return found(b"", "gone", None).map(|_| ());
        }
        walk => walk?,
    };
    walk.lazy = true;
    let own = |entry: &Entry| own.is_some_and(|own| entry.path.starts_with(own));
    let mut now = walk.next()?;
    let mut go_on = true;
    while go_on {
        let order = match (&before, &now) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            // Nearly always.
            (Some(before), Some(now)) if before.path == now.path => Ordering::Equal,
            (Some(before), Some(now)) => parts(&before.path).cmp(parts(&now.path)),
        };
        match (order, before.take(), now.take()) {
            (Ordering::Equal, Some(old), Some(mut new)) => {
                if !new.looks_like(&old) {
                    walk.look_closer(&mut new)?;
                }
                if !new.looks_like(&old) {
                    let moved = only_ctime(&old, &new);
                    let is_known = moved.is_some_and(|(inode, is)| {
                        old.state.file.as_ref().is_some_and(|file| known(inode, file.ctime, is))
                    });
                    if !is_known {
                        go_on = found(&new.path, "changed", moved)?;
                    }
                }
                before = recorded.next()?;
                now = walk.next()?;
            }
            (Ordering::Less, Some(old), kept) => {
                go_on = found(&old.path, "gone", None)?;
                now = kept;
                before = recorded.next()?;
                while before.as_ref().is_some_and(|entry| below(&entry.path, &old.path)) {
                    before = recorded.next()?;
                }
            }
            (_, kept, Some(new)) => {
                go_on = own(&new) || found(&new.path, "new", None)?;
                before = kept;
                if new.state.file.is_none() {
                    walk.skip_directory();
                }
                now = walk.next()?;
            }
            _ => break,
        }
    }
    Ok(())
}

impl Difference {
    pub(crate) fn new(path: &[u8], what: &str, only_ctime: bool) -> Difference {
        let path = if path.is_empty() { ".".to_owned() } else { disk::shown(path) };
        Difference { path, what: what.to_owned(), only_ctime }
    }
}

/// The inode and its ctime, if nothing else differs.
fn only_ctime(old: &Entry, new: &Entry) -> Option<(u64, (i64, u32))> {
    let (Some(old_file), Some(new_file)) = (&old.state.file, &new.state.file) else { return None };
    let aligned = FileState { ctime: new_file.ctime, ..old_file.clone() };
    let same = State { file: Some(aligned), ..old.state.clone() } == new.state
        && new.state.xattrs.is_some();
    same.then_some((new_file.inode, new_file.ctime))
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

fn below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}
