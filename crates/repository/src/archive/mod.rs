//! Turns trees of this machine, and streams, into one tree of the repository.

mod above;
mod content;
mod exclude;
mod image;
mod meta;
mod ranges;
mod slots;
mod walk;

use crate::{BlobWriter, Compression, Error, Node, NodeKind, Repository, TreeId, disk, reader};
use above::Above;
use content::{Failure, Intake};
pub use ranges::Ranges;

use meta::Owners;
use model::config::{CHUNK_BYTES, CHUNK_WORDS};
use model::{CancelToken, Progress};
use std::fs;
use std::io::Read;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use walk::{Root, Run, Walk};

/// How a tree is read. See `engines::TreeOptions`, which `operations` translates into this.
#[derive(Clone, Debug, Default)]
pub struct TreeOptions {
    /// Patterns of what is left out, in gitignore's style of matching: without a slash a name
    /// anywhere, with one a path below the root of the tree, beginning with one a path of the host
    /// (or of the snapshot, where that is another). A trailing slash matches directories only, `!`
    /// takes back what an earlier pattern matched. A pattern that makes no sense is an error.
    pub exclude: Vec<String>,
    /// Leave out the content of directories with a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out regular files larger than this.
    pub exclude_larger_than: Option<u64>,
    /// Do not cross into other file systems.
    pub one_file_system: bool,
    /// Files may change or vanish while they are read.
    pub changes_expected: bool,
    /// Directories at the top of the tree that are written empty.
    pub emptied: Vec<String>,
    /// Read every file, whatever the parent says.
    pub distrust_times: bool,
    /// Cut files that are longer than this at every multiple of it (disk images, database files:
    /// what is not written to stays in its place), between 4 KiB and 8 MiB. Else restic's cuts.
    pub chunk_bytes: Option<NonZeroU64>,
    /// The source is one file, which has fixed chunks and was written to in these ranges since the
    /// parent, and nowhere else: nothing else of it is read. Whoever says so must know.
    pub changed: Option<Ranges>,
}

/// Something that could not be captured as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path on the host.
    pub path: String,
    /// What is wrong: "permission denied", "changed while it was read".
    pub what: String,
}

/// What an archive run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Regular files in the tree.
    pub files: u64,
    /// Of these: read because they are new or look changed.
    pub files_read: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes added to the storage.
    pub added_bytes: u64,
}

/// The result: all packs and indexes are durable, and a snapshot may refer to `tree`.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Root tree, 64 hex digits.
    pub tree: String,
    /// Counts.
    pub summary: Summary,
    /// What could not be captured. Not empty: the point is incomplete.
    pub problems: Vec<Problem>,
}

/// Numbers that several threads add to.
#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    files_read: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn found(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self, files: u64) {
        self.files_read.fetch_add(files, Ordering::Relaxed);
    }

    /// Says how much has been found.
    fn tell(&self, progress: &dyn Progress) {
        let (files, bytes) = (&self.files, &self.bytes);
        progress.expect(files.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
    }
}

/// Builds one tree. Dropping it leaves at most unreferenced packs behind, never a snapshot.
///
/// Hold a shared lock on the repository from before it is made until the snapshot is saved.
pub struct Archiver {
    repository: Repository,
    writer: BlobWriter,
    /// Root tree of the parent snapshot.
    parent: Option<TreeId>,
    progress: Arc<dyn Progress>,
    cancel: CancelToken,
    owners: Owners,
    counts: Counts,
    problems: Vec<Problem>,
    top: Above,
    /// A part failed: what is there is not what was to be captured, and never becomes a tree.
    failed: bool,
}

impl Archiver {
    /// Begins; `parent` is a snapshot whose unchanged files need not be read again.
    pub fn new(
        repository: &Repository,
        parent: Option<model::SnapshotId>,
        compression: Compression,
        progress: Arc<dyn Progress>,
        cancel: CancelToken,
    ) -> Result<Archiver, Error> {
        let writer = BlobWriter::new(repository, compression, cancel.clone())?;
        let parent = match parent.map(|id| parent_tree(repository, id)) {
            None => None,
            Some(Ok(tree)) => Some(tree),
            // Nothing depends on the parent but speed.
            Some(Err(e @ (Error::Damaged { .. } | Error::Missing(_)))) => {
                progress
                    .warn(&format!("all files are read: the previous snapshot is no help: {e}"));
                None
            }
            Some(Err(e)) => return Err(e),
        };
        Ok(Archiver {
            repository: repository.clone(),
            writer,
            parent,
            progress,
            cancel,
            owners: Owners::load(),
            counts: Counts::default(),
            problems: Vec::new(),
            top: Above::default(),
            failed: false,
        })
    }

    /// Adds the tree or file at `source` as `at` (an absolute slash path in the snapshot). The
    /// directories above get the attributes of the host's directories of that path if `at` is the
    /// source's own path, else plain ones.
    ///
    /// What is added below a directory that was added before lies in it, beside what it has: an
    /// engine reads a tree first and then adds files to it. The same path twice is refused.
    ///
    /// A `source` that is a symbolic link stands for what it leads to. Sockets are left out, as by
    /// restic. A source that cannot be read is an error; what cannot be read below it is a
    /// [`Problem`], and left out.
    pub fn tree(&mut self, at: &str, source: &Path, options: &TreeOptions) -> Result<(), Error> {
        let done = self.add_tree(at, source, options);
        self.failed |= done.is_err();
        done
    }

    fn add_tree(&mut self, at: &str, source: &Path, options: &TreeOptions) -> Result<(), Error> {
        let parts = above::parts(at)?;
        let failed = |e| Error::io("read", source, e);
        let absolute = std::path::absolute(source).map_err(failed)?;
        let kind = fs::metadata(source).map_err(failed)?.file_type();
        if options.chunk_bytes.is_some_and(|bytes| !CHUNK_BYTES.contains(&bytes.get())) {
            return Err(Error::Invalid(format!("chunks have a size {CHUNK_WORDS}")));
        }
        if options.changed.is_some() && !kind.is_file() {
            let what = format!("{} is not a file, and has no ranges", source.display());
            return Err(Error::Invalid(what));
        }
        let run = Run {
            repository: &self.repository,
            writer: &self.writer,
            cancel: &self.cancel,
            progress: &*self.progress,
            owners: &self.owners,
            counts: &self.counts,
        };
        let walk = Walk::new(run, options, absolute.as_os_str().as_bytes(), at.as_bytes())?;
        let (root, problems) = if kind.is_dir() {
            let handle = disk::open_dir(source).map_err(failed)?;
            let previous = match (self.parent, parts.is_empty()) {
                (Some(root), true) => Some(root),
                (Some(root), false) => self.previous(root, &parts)?.and_then(|node| node.subtree),
                (None, _) => None,
            };
            walk.tree(handle, previous, parts.is_empty())?
        } else if kind.is_file() && !parts.is_empty() {
            let real = fs::canonicalize(source).map_err(failed)?;
            let (Some(dir), Some(name)) = (real.parent(), real.file_name()) else {
                return Err(Error::Invalid(format!("{} has no name", source.display())));
            };
            let dir = disk::open_dir(dir).map_err(failed)?;
            let previous = match self.parent {
                Some(root) => self.previous(root, &parts)?,
                None => None,
            };
            let (node, problems) = walk.file(&dir, name.as_bytes(), previous.as_ref())?;
            (Root { node, entries: Vec::new() }, problems)
        } else {
            return Err(Error::Invalid(format!(
                "{} is neither a directory nor a regular file",
                source.display()
            )));
        };
        self.problems.extend(problems);
        if absolute == Path::new(at) {
            self.top.describe(&parts, &self.owners);
        }
        self.counts.tell(&*self.progress);
        if parts.is_empty() {
            self.top.merge(root.entries, &|tree| open(&self.repository, &self.writer, tree))
        } else {
            self.top.add(&parts, root.node, &|tree| open(&self.repository, &self.writer, tree))
        }
    }

    /// Adds a streamed file as `at` with the attributes of `node` (its name, content and size are
    /// filled in here). Fails if the reader does, and then nothing comes of the whole run.
    pub fn file(&mut self, at: &str, node: Node, content: &mut dyn Read) -> Result<(), Error> {
        let done = self.add_file(at, node, content);
        self.failed |= done.is_err();
        done
    }

    fn add_file(&mut self, at: &str, mut node: Node, content: &mut dyn Read) -> Result<(), Error> {
        let parts = above::parts(at)?;
        if node.kind != NodeKind::File || parts.is_empty() {
            return Err(Error::Invalid(format!("{at} cannot be a file")));
        }
        let advance = |bytes| self.progress.advance(0, bytes);
        let intake = Intake {
            repository: &self.repository,
            writer: &self.writer,
            cancel: &self.cancel,
            advance: &advance,
        };
        let content = match intake.stream(content, None) {
            Ok(content) => content,
            Err(Failure::Fatal(e)) => return Err(e),
            Err(Failure::Source(e)) => return Err(Error::io("read the stream for", at, e)),
        };
        node.size = content.size;
        node.content = content.ids()?;
        self.counts.found(1, node.size);
        self.counts.read(1);
        self.progress.advance(1, 0);
        self.top.add(&parts, node, &|tree| open(&self.repository, &self.writer, tree))
    }

    /// Writes everything out and returns when it is durable.
    pub fn finish(self) -> Result<Finished, Error> {
        if self.failed {
            return Err(Error::Invalid(
                "a part of the snapshot could not be captured, so there is none".to_owned(),
            ));
        }
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let tree = self.top.save(&self.writer)?;
        self.writer.flush()?;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let summary = Summary {
            files: count(&self.counts.files),
            files_read: count(&self.counts.files_read),
            bytes: count(&self.counts.bytes),
            added_bytes: self.writer.stats().stored_bytes,
        };
        Ok(Finished { tree: tree.to_hex(), summary, problems: self.problems })
    }

    /// The node at this path in the parent snapshot.
    fn previous(&self, root: TreeId, parts: &[&[u8]]) -> Result<Option<Node>, Error> {
        match reader::find(&self.repository, root, parts) {
            Err(Error::Damaged { .. } | Error::Missing(_)) => Ok(None),
            found => found,
        }
    }
}

/// The entries of a directory of this run. It may still be on its way out.
fn open(repository: &Repository, writer: &BlobWriter, tree: TreeId) -> Result<Vec<Node>, Error> {
    let loaded = match reader::load_tree(repository, tree) {
        Err(Error::Missing(_)) => {
            writer.flush()?;
            reader::load_tree(repository, tree)?
        }
        loaded => loaded?,
    };
    Ok(loaded.nodes)
}

fn parent_tree(repository: &Repository, id: model::SnapshotId) -> Result<TreeId, Error> {
    let snapshot = match repository.snapshot(id) {
        Err(Error::Storage(e)) if e.kind() == storage::ErrorKind::NotFound => {
            return Err(Error::Missing(format!("snapshot {} is gone", id.short())));
        }
        snapshot => snapshot?,
    };
    snapshot.tree.parse().map_err(|e| Error::damaged(format!("snapshot {}", id.short()), e))
}
