//! The redo journal: what is to be written into files of an older copy, once it has been decided
//! that it is written.
//!
//! Where the file system cannot clone, a large file of which little changed would have to be copied
//! whole. Instead the new tree gets another name of the older copy's file, and the ranges that differ
//! are collected here. While that happens nothing of the older copy changes, and the journal can be
//! thrown away. Whoever has made it durable, and has noted that the new copy is the one that counts,
//! applies it: writing a range twice is as good as once, so a crash in between costs nothing but
//! time. The format is in `docs/formats/redo-journal.md`.
//!
//! A copy that is [amended](super::amend()) gets all of its changes so: its journal also tells which of
//! the staged files take their places in it, and what goes.

mod names;

use super::site::{Site, chmod_at, remove_other_xattrs};
use crate::format::tree::unquoted;
use crate::{Error, Node, RedoSum, Tree, disk};
use names::Names;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const HEAD: &[u8] = b"mainstay redo 1\n";
/// Of a journal that also moves names.
const HEAD_OF_NAMES: &[u8] = b"mainstay redo 2\n";
/// No record is longer; a longer one was not written by us.
const MAX_PART: u32 = 16 << 20;

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
enum Head {
    /// The bytes at a place of a file.
    Range { path: String, at: u64 },
    /// The file is as long as its node says, and has its attributes. Its last record.
    Attributes { path: String },
    /// What is staged at this path goes to the same path of the copy, in the place of what is there.
    /// The data is its node.
    Take { path: String },
    /// What the copy has at this path goes.
    Drop { path: String },
    /// A directory of the copy has the attributes of its node. Its last record, and after those of
    /// all that is in it.
    Directory { path: String },
    /// Nothing comes after this; the data is the SHA-256 of everything before.
    End { records: u64 },
}

/// Collects what is to be written. Its file is made when there is something to collect.
pub(super) struct Writer {
    path: PathBuf,
    head: &'static [u8],
    inner: Mutex<Inner>,
}

/// What a journal changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The path below the root.
    pub path: Vec<u8>,
    /// Not only what has this path, but all below it.
    pub all_below: bool,
}

/// What a name costs, at most, in the directory that it is new in.
const NAME_BYTES: u64 = 512;

#[derive(Default)]
struct Inner {
    out: Option<BufWriter<File>>,
    hash: Sha256,
    records: u64,
    /// Bytes that the file system must find when the journal is applied.
    grows: u64,
    touched: Vec<Touched>,
}

impl Writer {
    /// For a journal at this path, which must not exist.
    pub(super) fn new(path: &Path) -> Writer {
        Writer { path: path.to_owned(), head: HEAD, inner: Mutex::default() }
    }

    /// The same for one that also moves names.
    pub(super) fn of_names(path: &Path) -> Writer {
        Writer { head: HEAD_OF_NAMES, ..Writer::new(path) }
    }

    /// Notes that applying will need so much new space.
    pub(super) fn will_grow(&self, bytes: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.grows = inner.grows.saturating_add(bytes);
    }

    /// Bytes for a place of a file, named by its path below the root (empty: the root is the file).
    pub(super) fn range(&self, path: &[u8], at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write(&Head::Range { path: disk::shown(path), at }, bytes)
    }

    /// What the file is in the end.
    pub(super) fn attributes(&self, path: &[u8], node: &Node) -> Result<(), Error> {
        self.touch(path, false);
        self.write(&Head::Attributes { path: disk::shown(path) }, &encoded(path, node)?)
    }

    /// What is staged here takes its place.
    pub(super) fn take(&self, path: &[u8], node: &Node) -> Result<(), Error> {
        self.will_grow(NAME_BYTES);
        self.touch(path, true);
        self.write(&Head::Take { path: disk::shown(path) }, &encoded(path, node)?)
    }

    /// This goes, with all below it.
    pub(super) fn remove(&self, path: &[u8]) -> Result<(), Error> {
        self.touch(path, true);
        self.write(&Head::Drop { path: disk::shown(path) }, &[])
    }

    /// What a directory is in the end.
    pub(super) fn directory(&self, path: &[u8], node: &Node) -> Result<(), Error> {
        self.touch(path, false);
        self.write(&Head::Directory { path: disk::shown(path) }, &encoded(path, node)?)
    }

    fn touch(&self, path: &[u8], all_below: bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.touched.push(Touched { path: path.to_vec(), all_below });
    }

    /// What it changes, in no order.
    pub(super) fn touched(&self) -> Vec<Touched> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).touched.clone()
    }

    fn write(&self, head: &Head, data: &[u8]) -> Result<(), Error> {
        let failed = |e| Error::io("write", &self.path, e);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.out.is_none() {
            let mut new = File::options();
            let file = new.write(true).create_new(true).mode(0o600).open(&self.path);
            let file = file.map_err(failed)?;
            inner.out = Some(BufWriter::with_capacity(1 << 20, file));
            inner.put(self.head).map_err(failed)?;
        }
        inner.record(head, data).map_err(failed)?;
        inner.records += 1;
        Ok(())
    }

    /// Makes it durable, its name excepted, and sets aside the space that applying it needs. Returns
    /// what it is known by; nothing if there was nothing to collect.
    pub(super) fn finish(&self) -> Result<Option<Written>, Error> {
        let failed = |e| Error::io("write", &self.path, e);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.out.is_none() {
            return Ok(None);
        }
        let sum = RedoSum(inner.hash.clone().finalize().into());
        let records = inner.records;
        inner.record(&Head::End { records }, &sum.0).map_err(failed)?;
        let Some(out) = inner.out.take() else { return Ok(None) };
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        // Not who we are: a file system may give files to somebody else.
        let owner = file.metadata().map_err(failed)?.uid();
        if inner.grows > 0 {
            set_aside(&reserve(&self.path), inner.grows)?;
        }
        Ok(Some(Written { sum, owner }))
    }
}

impl Inner {
    fn record(&mut self, head: &Head, data: &[u8]) -> io::Result<()> {
        let head = serde_json::to_vec(head).map_err(io::Error::other)?;
        for part in [head.as_slice(), data] {
            let length = u32::try_from(part.len()).ok().filter(|length| *length <= MAX_PART);
            let length = length.ok_or_else(|| io::Error::other("a record is too long"))?;
            self.put(&length.to_le_bytes())?;
            self.put(part)?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(out) = &mut self.out {
            out.write_all(bytes)?;
        }
        self.hash.update(bytes);
        Ok(())
    }
}

/// A node without its content: that is in the ranges, or in what is staged, and a list of it may be
/// long.
fn encoded(path: &[u8], node: &Node) -> Result<Vec<u8>, Error> {
    let node = Node { content: Vec::new(), ..node.clone() };
    Tree { nodes: vec![node] }
        .encode()
        .map_err(|e| Error::damaged(format!("the node of {}", disk::shown(path)), e))
}

/// Where the space for what grows is kept free: a disk that fills up between the decision and the
/// writing would leave a copy that is neither old nor new until somebody makes room.
fn reserve(journal: &Path) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(".reserve");
    PathBuf::from(name)
}

fn set_aside(path: &Path, bytes: u64) -> Result<(), Error> {
    let failed = |e| Error::io("set aside space at", path, e);
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(failed)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // What cannot be set aside was at least looked for before.
        Err(Errno::OPNOTSUPP) => Ok(()),
        done => done.map_err(|e| failed(e.into())),
    }
}

/// Removes a journal, and what was set aside for it; nothing there is no error.
pub fn discard(journal: &Path) -> Result<(), Error> {
    for path in [reserve(journal), journal.to_owned()] {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a journal is known by that was written. It lies where the copy lies, which need not be our place:
/// who may change names there could put another one there, or one that they change while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its content.
    pub sum: RedoSum,
    /// The user who can write to it.
    pub owner: u32,
}

/// A journal that is to be applied.
#[derive(Clone, Copy, Debug)]
pub struct Journal<'a> {
    /// Where it lies.
    pub path: &'a Path,
    /// The one that was written; without, every journal that is sound will do.
    pub written: Option<Written>,
}

/// Applies a journal to the files below a root (or to the root, if it is a file), durably, and
/// leaves it there: a second time changes nothing. `applied` is told after each record how many were.
/// A journal that is not there was applied before. One that is damaged, or another than was written,
/// changes nothing, as long as nobody writes to it who owns it.
pub fn apply(journal: Journal<'_>, root: &Path, applied: &mut dyn FnMut(u64)) -> Result<(), Error> {
    carry_out(journal, None, root, applied)
}

/// As [`apply`], for a journal that also moves what is staged.
pub fn apply_staged(
    journal: Journal<'_>,
    staged: &Path,
    root: &Path,
    applied: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    carry_out(journal, Some(staged), root, applied)
}

fn carry_out(
    journal: Journal<'_>,
    staged: Option<&Path>,
    root: &Path,
    applied: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let mut records = match Records::open(journal) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        records => records?,
    };
    // All of it is judged before the first byte is written.
    let sum = loop {
        if let Next::End(sum) = records.next()? {
            break sum;
        }
    };
    if journal.written.is_some_and(|written| written.sum != sum) {
        return Err(records.damaged("it is another one than was written here"));
    }
    // What was judged, and no other that has its name by now.
    let mut records = records.again()?;
    match std::fs::remove_file(reserve(journal.path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", reserve(journal.path), e));
        }
        _ => {}
    }
    let place = Place::open(root)?;
    let mut names = Names::new(&place.site, staged)?;
    let mut open: Option<(Vec<u8>, File)> = None;
    let mut count = 0;
    while let Next::Record(head, data) = records.next()? {
        let Some(path) = head.path() else { break };
        let path = records.path_of(path)?;
        match &head {
            Head::Range { .. } | Head::Attributes { .. } => {
                if open.as_ref().is_none_or(|(known, _)| *known != path) {
                    open = Some((path.clone(), place.file(&path)?));
                }
                let Some((_, file)) = &open else { break };
                if let Head::Range { at, .. } = head {
                    file.write_all_at(&data, at).map_err(|e| place.error("write", &path, e))?;
                } else {
                    let node = records.node_of(&data)?;
                    place.finish(file, &node).map_err(|e| place.error("finish", &path, e))?;
                }
            }
            _ if staged.is_none() => {
                return Err(records.damaged("it moves names, and nothing was staged for it"));
            }
            Head::Take { .. } => {
                let node = records.node_of(&data)?;
                names.take(&path, &node).map_err(|e| place.error("put in place", &path, e))?;
            }
            Head::Drop { .. } => {
                names.remove(&path).map_err(|e| place.error("remove", &path, e))?;
            }
            _ => {
                let node = records.node_of(&data)?;
                names.directory(&path, &node).map_err(|e| place.error("finish", &path, e))?;
            }
        }
        count += 1;
        applied(count);
    }
    // One call for the whole file system, instead of one for each file; it also tells of writes that
    // failed since the base was opened, before anything was written.
    rustix::fs::syncfs(&place.site.base).map_err(|e| Error::io("sync", root, e.into()))
}

impl Head {
    /// What it is about; nothing, at the end.
    fn path(&self) -> Option<&str> {
        match self {
            Head::Range { path, .. }
            | Head::Attributes { path }
            | Head::Take { path }
            | Head::Drop { path }
            | Head::Directory { path } => Some(path),
            Head::End { .. } => None,
        }
    }
}

/// Opens a journal that nobody else can write to while it is read.
fn open_ours(journal: Journal<'_>) -> Result<File, Error> {
    let Journal { path: journal, written } = journal;
    let mut options = File::options();
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened = options.read(true).custom_flags(flags).open(journal);
    let file = opened.map_err(|e| Error::io("open", journal, e))?;
    let meta = file.metadata().map_err(|e| Error::io("look at", journal, e))?;
    let shown = journal.display();
    if !meta.is_file() {
        return Err(Error::damaged(format!("the redo journal {shown}"), "it is no file"));
    }
    if let Some(written) = written.filter(|written| written.owner != meta.uid()) {
        // Whoever gave it away can give it back.
        return Err(Error::Invalid(format!(
            "the redo journal {shown} belongs to user {} and was written as user {}'s: who could change \
             it while it is read",
            meta.uid(),
            written.owner
        )));
    }
    Ok(file)
}

/// The root that a journal is applied to.
struct Place {
    site: Site,
    /// The name of a root that is a file.
    name: Vec<u8>,
}

impl Place {
    fn open(root: &Path) -> Result<Place, Error> {
        let failed = |e| Error::io("open", root, e);
        let is_dir = std::fs::symlink_metadata(root).map_err(failed)?.is_dir();
        let (dir, name) = match (is_dir, root.parent(), root.file_name()) {
            (false, Some(parent), Some(name)) => (parent, name.as_bytes().to_vec()),
            _ => (root, Vec::new()),
        };
        let base = disk::open_dir(dir).map_err(failed)?;
        let site = Site::new(base, dir.to_owned(), Node::default(), !is_dir);
        Ok(Place { site, name })
    }

    /// Opens a file for writing, through no link.
    fn file(&self, path: &[u8]) -> Result<File, Error> {
        self.open_file(path).map_err(|e| self.error("open", path, e))
    }

    fn open_file(&self, path: &[u8]) -> io::Result<File> {
        let path = if path.is_empty() { &self.name } else { path };
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let name = parts.pop().unwrap_or_default();
        let mut handle: Option<OwnedFd> = None;
        for part in parts {
            if matches!(part, b"" | b"." | b"..") {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            handle = Some(disk::open_dir_at(handle.as_ref().unwrap_or(&self.site.base), part)?);
        }
        let dir = handle.as_ref().unwrap_or(&self.site.base);
        match super::site::reopen_file(dir.as_fd(), name) {
            // It got a mode without that when the journal was applied before.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                // The last record of a file restores its mode.
                chmod_at(dir, name, |mode| Mode::from_raw_mode(mode | 0o600))?;
                Ok(File::from(super::site::reopen_file(dir.as_fd(), name)?))
            }
            opened => Ok(File::from(opened?)),
        }
    }

    /// Gives a file its length and its attributes. It is made durable with all others.
    fn finish(&self, file: &File, node: &Node) -> io::Result<()> {
        rustix::fs::ftruncate(file, node.size)?;
        remove_other_xattrs(file.as_fd(), node)?;
        self.site.give_attributes(file.as_fd(), node)
    }

    fn error(&self, what: &'static str, path: &[u8], e: io::Error) -> Error {
        let path = if path.is_empty() { &self.name } else { path };
        self.site.error(what, 0, path, e)
    }
}

/// Reads a journal, and judges it on the way.
struct Records {
    from: BufReader<File>,
    journal: PathBuf,
    hash: Sha256,
    records: u64,
}

/// What a journal has next.
enum Next {
    Record(Head, Vec<u8>),
    /// Nothing; and the sum, which was found to be the right one.
    End(RedoSum),
}

impl Records {
    fn open(journal: Journal<'_>) -> Result<Records, Error> {
        Records::of(open_ours(journal)?, journal.path)
    }

    /// The same from its beginning.
    fn again(self) -> Result<Records, Error> {
        let (mut file, journal) = (self.from.into_inner(), self.journal);
        file.rewind().map_err(|e| Error::io("read", &journal, e))?;
        Records::of(file, &journal)
    }

    fn of(file: File, journal: &Path) -> Result<Records, Error> {
        let (from, hash) = (BufReader::with_capacity(1 << 20, file), Sha256::new());
        let mut records = Records { from, journal: journal.to_owned(), hash, records: 0 };
        let mut head = vec![0; HEAD.len()];
        records.fill(&mut head)?;
        if head != HEAD && head != HEAD_OF_NAMES {
            return Err(records.damaged("it is none, or of a later version"));
        }
        Ok(records)
    }

    fn next(&mut self) -> Result<Next, Error> {
        let before = self.hash.clone();
        let head = self.part()?;
        let data = self.part()?;
        let head: Head = serde_json::from_slice(&head)
            .map_err(|e| self.damaged(&format!("it has a record that makes no sense: {e}")))?;
        if let Head::End { records } = head {
            let sum = RedoSum(before.finalize().into());
            let whole = records == self.records && data == sum.0;
            let mut rest = [0];
            let read =
                self.from.read(&mut rest).map_err(|e| Error::io("read", &self.journal, e))?;
            if !whole || read > 0 {
                return Err(self.damaged("its sum does not fit its content"));
            }
            return Ok(Next::End(sum));
        }
        self.records += 1;
        Ok(Next::Record(head, data))
    }

    fn part(&mut self) -> Result<Vec<u8>, Error> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_PART {
            return Err(self.damaged("it has a record that is too long"));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        match self.from.read_exact(bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.damaged("it was cut off"));
            }
            Err(e) => return Err(Error::io("read", &self.journal, e)),
        }
        self.hash.update(bytes);
        Ok(())
    }

    fn path_of(&self, quoted: &str) -> Result<Vec<u8>, Error> {
        unquoted(quoted).ok_or_else(|| self.damaged("it has a path that makes no sense"))
    }

    fn node_of(&self, bytes: &[u8]) -> Result<Node, Error> {
        let tree = Tree::decode(bytes).map_err(|e| self.damaged(&e.to_string()))?;
        tree.nodes.into_iter().next().ok_or_else(|| self.damaged("it lacks a file's attributes"))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::damaged(format!("the redo journal {}", self.journal.display()), what)
    }
}
