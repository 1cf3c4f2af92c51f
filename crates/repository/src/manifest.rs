//! What a tree on disk looked like when we last wrote to it, so that a change by anybody else shows.
//!
//! A manifest is text: a first line with the format's name, a line for each file in the order of a
//! walk (sorted by name, parents first), and a last line with the number of entries and the SHA-256
//! of everything before. A file that does not end so was cut off or changed, and is an error: an
//! unreadable manifest must never pass for "nothing has changed".

use crate::disk::{self, Stat};
use crate::restore::redo::Touched;
use crate::{Error, NodeKind, Xattr};
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const HEAD: &str = "mainstay manifest 1";

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

/// One line: a path below the root, and what is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: Vec<u8>,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    st_mode: u32,
    uid: u32,
    gid: u32,
    /// None if they were not looked at: with the same time of the last change of the inode they are the
    /// same, and to ask for them takes longer than for all the rest.
    xattrs: Option<String>,
    /// For all but directories, whose times change with their entries, and these have lines.
    file: Option<FileState>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileState {
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    inode: u64,
    special: u64,
    link_target: Vec<u8>,
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

/// How many entries a manifest has, by its own word: all of it is judged when it is compared.
pub fn recorded_entries(manifest: &Path) -> Result<u64, Error> {
    let mut file = File::open(manifest).map_err(|e| Error::io("read", manifest, e))?;
    Ok(End::of(&mut file, manifest)?.count)
}

/// A manifest that is being written.
struct Recording<'a> {
    manifest: &'a Path,
    temporary: PathBuf,
    out: Summed<BufWriter<File>>,
    count: u64,
}

impl<'a> Recording<'a> {
    fn begin(manifest: &'a Path) -> Result<Recording<'a>, Error> {
        let failed = |e| Error::io("write", manifest, e);
        let mut temporary = manifest.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(failed)?;
        let inner = BufWriter::with_capacity(256 << 10, file);
        let mut out = Summed { inner, hash: Sha256::new() };
        writeln!(out, "{HEAD}").map_err(failed)?;
        Ok(Recording { manifest, temporary, out, count: 0 })
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        self.count += 1;
        entry.write(&mut self.out).map_err(|e| Error::io("write", self.manifest, e))
    }

    /// An entry as another manifest has it.
    fn line(&mut self, line: &str) -> Result<(), Error> {
        self.count += 1;
        self.out.write_all(line.as_bytes()).map_err(|e| Error::io("write", self.manifest, e))
    }

    /// Puts it in the place of the one before, durably.
    fn finish(self) -> Result<(), Error> {
        let failed = |e| Error::io("write", self.manifest, e);
        let dir = match self.manifest.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let sum = hex::encode(self.out.hash.finalize());
        let mut out = self.out.inner;
        writeln!(out, "end {} {sum}", self.count).map_err(failed)?;
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&self.temporary, self.manifest).map_err(failed)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
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

/// Hashes what is written through it.
struct Summed<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Entry {
    /// Whether it is as it was recorded, as far as it was looked at.
    fn looks_like(&self, recorded: &Entry) -> bool {
        let (now, before) = (&self.state, &recorded.state);
        self.path == recorded.path
            && (now.st_mode, now.uid, now.gid) == (before.st_mode, before.uid, before.gid)
            && now.file == before.file
            && (now.xattrs.is_none() || now.xattrs == before.xattrs)
    }

    /// Tabs between the fields: quoted names have none.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let state = &self.state;
        let xattrs = state.xattrs.as_deref().unwrap_or_default();
        write!(out, "{:o}\t{}\t{}\t{xattrs}\t", state.st_mode, state.uid, state.gid)?;
        if let Some(file) = &state.file {
            let ((ms, mn), (cs, cn)) = (file.mtime, file.ctime);
            let (size, inode, special) = (file.size, file.inode, file.special);
            let target = disk::shown(&file.link_target);
            write!(out, "{size}\t{ms}.{mn:09}\t{cs}.{cn:09}\t{inode}\t{special}\t{target}\t")?;
        }
        writeln!(out, "{}", disk::shown(&self.path))
    }

    fn parse(line: &str) -> Option<Entry> {
        let mut fields = line.split('\t');
        let st_mode = u32::from_str_radix(fields.next()?, 8).ok()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let xattrs = Some(fields.next()?.to_owned());
        let file = if NodeKind::from_st_mode(st_mode) == NodeKind::Dir {
            None
        } else {
            let size = fields.next()?.parse().ok()?;
            let mut time = || -> Option<(i64, u32)> {
                let (seconds, nanos) = fields.next()?.split_once('.')?;
                Some((seconds.parse().ok()?, nanos.parse().ok()?))
            };
            let (mtime, ctime) = (time()?, time()?);
            let inode = fields.next()?.parse().ok()?;
            let special = fields.next()?.parse().ok()?;
            let link_target = crate::format::tree::unquoted(fields.next()?)?;
            Some(FileState { size, mtime, ctime, inode, special, link_target })
        };
        let path = crate::format::tree::unquoted(fields.next()?)?;
        if fields.next().is_some() {
            return None;
        }
        Some(Entry { path, state: State { st_mode, uid, gid, xattrs, file } })
    }
}

/// The entries of a manifest whose sum has been verified.
struct Recorded {
    lines: io::Take<BufReader<File>>,
    path: PathBuf,
    left: u64,
}

impl Recorded {
    fn open(path: &Path) -> Result<Recorded, Error> {
        let failed = |e| Error::io("read", path, e);
        let damaged = |what| Error::damaged(format!("the manifest {}", path.display()), what);
        let mut file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let what = "there is no manifest of the copy: nobody knows what was put there";
                return Err(Error::Missing(format!("{what} ({})", path.display())));
            }
            file => file.map_err(failed)?,
        };
        let End { count, sum, at: end } = End::of(&mut file, path)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut hash = Sha256::new();
        let mut rest = (&mut file).take(end);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match rest.read(&mut buffer).map_err(failed)? {
                0 => break,
                length => hash.update(&buffer[..length]),
            }
        }
        if hex::encode(hash.finalize()) != sum {
            return Err(damaged("its sum does not fit its content"));
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut lines = BufReader::new(file).take(end);
        let mut head = String::new();
        lines.read_line(&mut head).map_err(failed)?;
        if head.trim_end_matches('\n') != HEAD {
            return Err(damaged("it is none, or of a later version"));
        }
        Ok(Recorded { lines, path: path.to_owned(), left: count })
    }

    fn damaged(&self) -> Error {
        let object = format!("the manifest {}", self.path.display());
        Error::damaged(object, "it has a line that makes no sense")
    }

    fn read(&mut self) -> Result<Option<String>, Error> {
        let mut line = String::new();
        self.lines.read_line(&mut line).map_err(|e| Error::io("read", &self.path, e))?;
        if line.is_empty() {
            return if self.left == 0 { Ok(None) } else { Err(self.damaged()) };
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| self.damaged())?;
        Ok(Some(line))
    }

    /// The next entry.
    fn next(&mut self) -> Result<Option<Entry>, Error> {
        let Some(line) = self.read()? else { return Ok(None) };
        Entry::parse(line.trim_end_matches('\n')).map(Some).ok_or_else(|| self.damaged())
    }

    /// The next entry as it is written, with its path.
    fn line(&mut self) -> Result<Option<(Vec<u8>, String)>, Error> {
        let Some(line) = self.read()? else { return Ok(None) };
        let path = line.trim_end_matches('\n').rsplit('\t').next();
        let path = path.and_then(crate::format::tree::unquoted).ok_or_else(|| self.damaged())?;
        Ok(Some((path, line)))
    }
}

/// The last line of a manifest.
struct End {
    count: u64,
    sum: String,
    /// Where it begins.
    at: u64,
}

impl End {
    fn of(file: &mut File, path: &Path) -> Result<End, Error> {
        let failed = |e| Error::io("read", path, e);
        let cut = || Error::damaged(format!("the manifest {}", path.display()), "it was cut off");
        let size = file.metadata().map_err(failed)?.len();
        // It has at most 4 + 20 + 1 + 64 + 1 bytes.
        let tail_bytes = size.min(90);
        file.seek(SeekFrom::Start(size - tail_bytes)).map_err(failed)?;
        let mut tail = Vec::new();
        file.take(tail_bytes).read_to_end(&mut tail).map_err(failed)?;
        let body = tail.strip_suffix(b"\n").ok_or_else(cut)?;
        let start = body.iter().rposition(|byte| *byte == b'\n').ok_or_else(cut)? + 1;
        let last = std::str::from_utf8(&body[start..]).map_err(|_| cut())?;
        let (count, sum) = last
            .strip_prefix("end ")
            .and_then(|rest| rest.split_once(' '))
            .and_then(|(count, sum)| Some((count.parse::<u64>().ok()?, sum.to_owned())))
            .ok_or_else(cut)?;
        Ok(End { count, sum, at: size - tail_bytes + start as u64 })
    }
}

/// Everything below a root, in the order of a manifest.
struct Walk {
    root: PathBuf,
    /// Directories whose names are not yet all given out.
    open: Vec<OpenDir>,
    /// The root, until it is given out.
    first: Option<Entry>,
    /// Extended attributes of what is no directory are not looked at.
    lazy: bool,
}

struct OpenDir {
    handle: OwnedFd,
    /// Below the root.
    path: Vec<u8>,
    names: std::vec::IntoIter<Box<[u8]>>,
}

impl Walk {
    fn new(root: &Path) -> Result<Walk, Error> {
        let failed = |e| Error::io("look at", root, e);
        // The root's own name may be a link; nothing below is followed.
        let real = std::fs::canonicalize(root).map_err(failed)?;
        let (parent, name) = match (real.parent(), real.file_name()) {
            (Some(parent), Some(name)) => (parent, name.as_bytes()),
            _ => (Path::new("/"), &b"."[..]),
        };
        let parent = disk::open_dir(parent).map_err(failed)?;
        let found = look(&parent, name, Vec::new(), false).map_err(failed)?;
        let (root, open) = (root.to_owned(), Vec::new());
        let mut walk = Walk { root, open, first: None, lazy: false };
        walk.first = found.map(|found| walk.enter(found));
        Ok(walk)
    }

    /// Everything at a path below a root, and below that; nothing, if there is none.
    fn at(root: &Path, path: &[u8]) -> Result<Walk, Error> {
        if path.is_empty() {
            return Walk::new(root);
        }
        let mut walk = Walk { root: root.to_owned(), open: Vec::new(), first: None, lazy: false };
        let found = || {
            let mut handle = disk::open_dir(root)?;
            let mut parts: Vec<&[u8]> = parts(path).collect();
            let name = parts.pop().unwrap_or_default();
            for part in parts {
                handle = disk::open_dir_at(&handle, part)?;
            }
            look(&handle, name, path.to_vec(), false)
        };
        let failed = |e| Error::io("look at", root.join(OsStr::from_bytes(path)), e);
        walk.first = match found() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            found => found.map_err(failed)?.map(|found| walk.enter(found)),
        };
        Ok(walk)
    }

    /// Looks at the extended attributes of the entry that was given out last, if that was not done.
    fn look_closer(&self, entry: &mut Entry) -> Result<(), Error> {
        if entry.state.xattrs.is_some() {
            return Ok(());
        }
        let Some(dir) = self.open.last() else { return Ok(()) };
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        entry.state.xattrs = match disk::xattrs_at(&dir.handle, name) {
            Ok(xattrs) => Some(sum(xattrs)),
            // It has vanished, which is a difference whatever it had.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                let path = self.root.join(OsStr::from_bytes(&entry.path));
                return Err(Error::io("look at", path, e));
            }
        };
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Entry>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while let Some(dir) = self.open.last_mut() {
            let Some(name) = dir.names.next() else {
                self.open.pop();
                continue;
            };
            let mut path = dir.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            match look(&dir.handle, &name, path, self.lazy) {
                Ok(Some(found)) => return Ok(Some(self.enter(found))),
                Ok(None) => {}
                Err(e) => {
                    let below = self.open.last().map_or(&[][..], |dir| &dir.path);
                    let dir = self.root.join(OsStr::from_bytes(below));
                    let path = dir.join(OsStr::from_bytes(&name));
                    return Err(Error::io("look at", path, e));
                }
            }
        }
        Ok(None)
    }

    fn enter(&mut self, (entry, dir): (Entry, Option<OpenDir>)) -> Entry {
        self.open.extend(dir);
        entry
    }

    /// Leaves out the content of the directory that was given out last.
    fn skip_directory(&mut self) {
        self.open.pop();
    }
}

/// Looks at one name, and opens it if it is a directory. None if it vanished.
fn look(
    dir: &OwnedFd,
    name: &[u8],
    path: Vec<u8>,
    lazy: bool,
) -> io::Result<Option<(Entry, Option<OpenDir>)>> {
    let stat = match disk::stat_at(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !path.is_empty() => return Ok(None),
        stat => stat?,
    };
    let (st_mode, uid, gid) = (stat.st_mode, stat.uid, stat.gid);
    if stat.kind() == NodeKind::Dir {
        let handle = disk::open_dir_at(dir, name)?;
        let names = disk::names(&handle)?.into_iter();
        let xattrs = Some(sum(disk::xattrs(&handle)?));
        let state = State { st_mode, uid, gid, xattrs, file: None };
        let open = OpenDir { handle, path: path.clone(), names };
        return Ok(Some((Entry { path, state }, Some(open))));
    }
    let link_target = match stat.kind() {
        NodeKind::Symlink => disk::link_target_at(dir, name)?,
        _ => Vec::new(),
    };
    let xattrs = if lazy { None } else { Some(sum(disk::xattrs_at(dir, name)?)) };
    let state = State { st_mode, uid, gid, xattrs, file: Some(FileState::new(&stat, link_target)) };
    Ok(Some((Entry { path, state }, None)))
}

impl FileState {
    fn new(stat: &Stat, link_target: Vec<u8>) -> FileState {
        let (mtime, ctime, inode) = (stat.mtime, stat.ctime, stat.inode);
        FileState { size: stat.size, mtime, ctime, inode, special: stat.special, link_target }
    }
}

/// A short sum of extended attributes; nothing if there are none.
fn sum(mut xattrs: Vec<Xattr>) -> String {
    if xattrs.is_empty() {
        return String::new();
    }
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    for xattr in xattrs {
        for part in [xattr.name.as_bytes(), &xattr.value] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hex::encode(&hash.finalize()[..16])
}
