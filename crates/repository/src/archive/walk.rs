//! Reads a tree with several threads.
//!
//! Threads take tasks from one stack: enter a directory, look at some of its entries, read a large
//! file. The newest task goes first, so that the walk goes deep before it goes wide and few
//! directories are open at a time. A directory whose entries have all been dealt with goes to one
//! more thread, which waits for the ids of its files' last blobs, encodes it and hands the tree's id
//! to the directory above; children get there before their parents, so it never waits for a tree.

use super::content::{Failure, Intake};
use super::exclude::Excludes;
use super::image::Image;
use super::meta::{self, Owners};
use super::slots::{Previous, Slot, Slots};
use super::{Counts, Problem, TreeOptions};
use crate::disk::{self, Stat};
use crate::{BlobId, BlobKind, BlobWriter, Error, Node, NodeKind, Repository, parallel};
use crate::{Tree, TreeEncoder, TreeId};
use model::{CancelToken, Progress};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Entries of a directory that one thread takes at a time.
const SLICE: usize = 128;
/// Larger files are tasks of their own, which another thread may take.
const INLINE_BYTES: u64 = 4 << 20;
/// Directories that may wait to be encoded.
const WAITING: usize = 512;
/// Problems that are kept by name; more are only counted.
const MAX_PROBLEMS: usize = 10_000;
/// What a directory of a cache says of itself (bford.info/cachedir).
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What a walk needs of the run it is part of.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) repository: &'a Repository,
    pub(super) writer: &'a BlobWriter,
    pub(super) cancel: &'a CancelToken,
    pub(super) progress: &'a dyn Progress,
    pub(super) owners: &'a Owners,
    pub(super) counts: &'a Counts,
}

/// One walk over one tree, or one look at one file.
pub(super) struct Walk<'a> {
    run: Run<'a>,
    options: &'a TreeOptions,
    excludes: Excludes,
    /// The root's path on the host, and in the snapshot.
    source: &'a [u8],
    at: &'a [u8],
    /// The root's file system.
    device: u64,
    tasks: Mutex<Tasks>,
    changed: Condvar,
    outcome: Mutex<Outcome>,
}

#[derive(Default)]
struct Tasks {
    stack: Vec<Task>,
    /// Tasks that were pushed and are not done.
    unfinished: usize,
    /// Something failed: nobody takes another task.
    ended: bool,
}

#[derive(Default)]
struct Outcome {
    failure: Option<Error>,
    problems: Vec<Problem>,
    more_problems: u64,
    root: Option<Root>,
}

/// The directory at the root.
pub(super) struct Root {
    pub(super) node: Node,
    /// Its entries, if they were asked for; else its node has a tree.
    pub(super) entries: Vec<Node>,
}

enum Task {
    Enter { parent: Arc<Dir>, slot: usize, previous: Option<TreeId> },
    Entries { dir: Arc<Dir>, range: Range<usize> },
    File { dir: Arc<Dir>, slot: usize },
}

/// An open directory.
struct Dir {
    handle: OwnedFd,
    stat: Stat,
    /// Below the root of the tree.
    path: Vec<u8>,
    names: Vec<Box<[u8]>>,
    parent: Option<(Arc<Dir>, usize)>,
    slots: Arc<Slots>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        run: Run<'a>,
        options: &'a TreeOptions,
        source: &'a [u8],
        at: &'a [u8],
    ) -> Result<Walk<'a>, Error> {
        Ok(Walk {
            run,
            options,
            excludes: Excludes::parse(&options.exclude)?,
            source: source.strip_suffix(b"/").unwrap_or(source),
            at: at.strip_suffix(b"/").unwrap_or(at),
            device: 0,
            tasks: Mutex::default(),
            changed: Condvar::new(),
            outcome: Mutex::default(),
        })
    }

    /// Archives the directory at the root. With `keep_entries` its entries are returned instead of
    /// being written as a tree.
    pub(super) fn tree(
        mut self,
        handle: OwnedFd,
        previous: Option<TreeId>,
        keep_entries: bool,
    ) -> Result<(Root, Vec<Problem>), Error> {
        let failed = |e| Error::Io { what: "read", path: disk::shown(self.source), source: e };
        let stat = disk::stat(&handle).map_err(failed)?;
        let names = disk::names(&handle).map_err(failed)?;
        self.device = stat.device;
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::scope(|scope| {
            let walk = &self;
            let encoder = std::thread::Builder::new()
                .name("trees".to_owned())
                .spawn_scoped(scope, move || walk.encode_all(receiver, keep_entries))
                .map_err(|e| Error::io("start thread", "trees", e))?;
            if let Err(e) = walk.open(handle, &stat, names, Vec::new(), previous, None, &sender) {
                walk.fail(e);
            }
            for i in 1..parallel::cores().max(2) {
                let sender = sender.clone();
                // This thread works too, and does it all if the system grants no other.
                let _ = std::thread::Builder::new()
                    .name(format!("read-{i}"))
                    .spawn_scoped(scope, move || walk.work(&sender));
            }
            walk.work(&sender);
            drop(sender);
            // A panic there is passed on by the scope.
            let _ = encoder.join();
            Ok::<(), Error>(())
        })?;
        let mut outcome = self.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = outcome.failure {
            return Err(failure);
        }
        if outcome.more_problems > 0 {
            outcome.problems.push(Problem {
                path: disk::shown(self.source),
                what: format!("{} more of its files have problems", outcome.more_problems),
            });
        }
        outcome.problems.sort_by(|a, b| a.path.cmp(&b.path));
        match outcome.root {
            Some(root) => Ok((root, outcome.problems)),
            None => Err(Error::Invalid("a thread of the archiver died".to_owned())),
        }
    }

    /// Archives a single file, which is the root. `name` is its name in `dir`.
    pub(super) fn file(
        self,
        dir: &OwnedFd,
        name: &[u8],
        previous: Option<&Node>,
    ) -> Result<(Node, Vec<Problem>), Error> {
        let failed = |e| Error::Io { what: "read", path: disk::shown(self.source), source: e };
        let stat = disk::stat_at(dir, name).map_err(failed)?;
        self.found(1, stat.size);
        if let Some(before) = previous
            && self.is_stored(&stat, before)?
        {
            let mut node = meta::node(name, &stat, self.run.owners);
            node.xattrs = disk::xattrs_at(dir, name).map_err(failed)?;
            node.content.clone_from(&before.content);
            return Ok((node, Vec::new()));
        }
        let slot = self.read(dir, name, &[], previous)?;
        let mut outcome = self.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        match slot {
            Slot::File(mut node, content) => {
                node.content = content.ids()?;
                Ok((*node, outcome.problems))
            }
            // The root itself must be readable.
            _ => {
                let what = outcome.problems.pop().map_or_else(String::new, |p| p.what);
                Err(Error::Io {
                    what: "read",
                    path: disk::shown(self.source),
                    source: io::Error::other(what),
                })
            }
        }
    }

    fn work(&self, sender: &SyncSender<Arc<Slots>>) {
        while let Some(task) = self.next() {
            let _done = Done(self);
            if let Err(e) = self.perform(task, sender) {
                self.fail(e);
            }
        }
    }

    fn perform(&self, task: Task, sender: &SyncSender<Arc<Slots>>) -> Result<(), Error> {
        match task {
            Task::Enter { parent, slot, previous } => self.enter(parent, slot, previous, sender),
            Task::Entries { dir, range } => {
                for slot in range {
                    if self.run.cancel.is_cancelled() {
                        return Err(Error::Cancelled);
                    }
                    if let Some(entry) = self.entry(&dir, slot)? {
                        self.settle(&dir, Some((slot, entry)), sender)?;
                    }
                }
                self.run.counts.tell(self.run.progress);
                Ok(())
            }
            Task::File { dir, slot } => {
                let name = dir.names.get(slot).map_or(&[][..], |name| name);
                let entry = self.read(&dir.handle, name, &dir.path, None)?;
                self.settle(&dir, Some((slot, entry)), sender)
            }
        }
    }

    /// Opens a directory below the root.
    fn enter(
        &self,
        parent: Arc<Dir>,
        slot: usize,
        previous: Option<TreeId>,
        sender: &SyncSender<Arc<Slots>>,
    ) -> Result<(), Error> {
        let name = parent.names.get(slot).map_or(&[][..], |name| name);
        let path = join(&parent.path, name);
        let opened = disk::open_dir_at(&parent.handle, name).and_then(|handle| {
            let stat = disk::stat(&handle)?;
            let names = disk::names(&handle)?;
            Ok((handle, stat, names))
        });
        match opened {
            Ok((handle, stat, mut names)) => {
                if self.options.exclude_caches && self.is_cache(&handle, &names) {
                    names.retain(|name| **name == *CACHE_TAG);
                }
                self.open(handle, &stat, names, path, previous, Some((parent, slot)), sender)
            }
            Err(e) => {
                self.trouble(&path, &e);
                self.settle(&parent, Some((slot, Slot::Out)), sender)
            }
        }
    }

    /// Makes tasks of a directory's entries.
    #[allow(clippy::too_many_arguments, reason = "all of it belongs to the directory")]
    fn open(
        &self,
        handle: OwnedFd,
        stat: &Stat,
        names: Vec<Box<[u8]>>,
        path: Vec<u8>,
        previous: Option<TreeId>,
        parent: Option<(Arc<Dir>, usize)>,
        sender: &SyncSender<Arc<Slots>>,
    ) -> Result<(), Error> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let mut node = meta::node(name, stat, self.run.owners);
        node.xattrs = self.attributes(disk::xattrs(&handle), &path);
        let previous = match previous {
            Some(id) => self.previous_tree(id, &path)?,
            None => None,
        };
        let same = parent.as_ref().and_then(|(above, slot)| {
            let (at, before) = above.slots.before(name, *slot)?;
            node.subtree = before.subtree;
            let same = node == *before;
            node.subtree = None;
            same.then_some(at)
        });
        let count = names.len();
        let slots = Arc::new(Slots {
            node,
            previous,
            same,
            entries: Mutex::new(names.iter().map(|_| Slot::Open).collect()),
            left: AtomicUsize::new(count + 1),
            parent: parent.as_ref().map(|(dir, slot)| (dir.slots.clone(), *slot)),
        });
        let dir = Arc::new(Dir { handle, stat: *stat, path, names, parent, slots });
        // The last slice goes in first, so that the first one is taken first.
        for start in (0..count).step_by(SLICE).rev() {
            let range = start..count.min(start + SLICE);
            self.push(Task::Entries { dir: dir.clone(), range });
        }
        self.settle(&dir, None, sender)
    }

    /// Deals with one entry. None: another task will.
    fn entry(&self, dir: &Arc<Dir>, slot: usize) -> Result<Option<Slot>, Error> {
        let Some(name) = dir.names.get(slot) else { return Ok(None) };
        let stat = match disk::stat_at(&dir.handle, name) {
            Ok(stat) => stat,
            Err(e) => {
                self.trouble(&join(&dir.path, name), &e);
                return Ok(Some(Slot::Out));
            }
        };
        let kind = stat.kind();
        if self.excluded(&dir.path, name, kind) {
            return Ok(Some(Slot::Out));
        }
        let at_top = dir.path.is_empty();
        let before = dir.slots.before(name, slot);
        match kind {
            NodeKind::Dir | NodeKind::Symlink
                if at_top && self.options.emptied.iter().any(|n| n.as_bytes() == &**name) =>
            {
                Ok(Some(self.emptied(dir, name, stat)?))
            }
            NodeKind::Dir if self.options.one_file_system && stat.device != self.device => {
                Ok(Some(self.emptied(dir, name, stat)?))
            }
            NodeKind::Dir => {
                let previous = before.and_then(|(_, node)| node.subtree);
                self.push(Task::Enter { parent: dir.clone(), slot, previous });
                Ok(None)
            }
            NodeKind::File => self.regular(dir, slot, name, &stat, before),
            // The end of a connection of a running process: nothing that could be restored.
            NodeKind::Socket | NodeKind::Irregular => Ok(Some(Slot::Out)),
            _ => {
                let mut node = meta::node(name, &stat, self.run.owners);
                if kind == NodeKind::Symlink {
                    match disk::link_target_at(&dir.handle, name) {
                        Ok(target) => node.link_target = target,
                        Err(e) => {
                            self.trouble(&join(&dir.path, name), &e);
                            return Ok(Some(Slot::Out));
                        }
                    }
                }
                node.xattrs = self.attributes_at(dir, name);
                Ok(Some(match before {
                    Some((at, before)) if *before == node => Slot::Same(at),
                    _ => Slot::Node(Box::new(node)),
                }))
            }
        }
    }

    fn regular(
        &self,
        dir: &Arc<Dir>,
        slot: usize,
        name: &[u8],
        stat: &Stat,
        before: Option<(usize, &Node)>,
    ) -> Result<Option<Slot>, Error> {
        if self.options.exclude_larger_than.is_some_and(|limit| stat.size > limit) {
            return Ok(Some(Slot::Out));
        }
        self.found(1, stat.size);
        if let Some((at, before)) = before
            && self.is_stored(stat, before)?
        {
            if meta::same_node(stat, before, self.run.owners) {
                return Ok(Some(Slot::Same(at)));
            }
            let mut node = meta::node(name, stat, self.run.owners);
            node.xattrs = self.attributes_at(dir, name);
            node.content.clone_from(&before.content);
            return Ok(Some(Slot::Node(Box::new(node))));
        }
        if stat.size > INLINE_BYTES {
            self.push(Task::File { dir: dir.clone(), slot });
            return Ok(None);
        }
        self.read(&dir.handle, name, &dir.path, None).map(Some)
    }

    /// Whether a file is what the parent snapshot has of it, and its content is all in the index.
    fn is_stored(&self, stat: &Stat, before: &Node) -> Result<bool, Error> {
        let told = self.options.changed.is_some();
        if self.options.distrust_times || told || !meta::unchanged(stat, before) {
            return Ok(false);
        }
        // A pack may have been lost; then the file is there to read, and restores again.
        for id in &before.content {
            if !self.run.writer.has(BlobKind::Data, id)? {
                return Ok(false);
            }
        }
        if before.content.is_empty() && stat.size > 0 {
            return Ok(false);
        }
        self.run.progress.advance(1, stat.size);
        Ok(true)
    }

    /// Reads a regular file. One that is written to meanwhile is read once more: most are not
    /// written to all the time.
    fn read(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        dir_path: &[u8],
        before: Option<&Node>,
    ) -> Result<Slot, Error> {
        let path = || join(dir_path, name);
        let expected = self.options.changes_expected;
        let Run { repository, writer, cancel, progress, counts, .. } = self.run;
        let advance = |bytes| progress.advance(0, bytes);
        let intake = Intake { repository, writer, cancel, advance: &advance };
        // What was written to meanwhile is in no range that we were told.
        let mut again = !expected && self.options.changed.is_none();
        loop {
            let (file, stat) = match disk::open_file_at(dir, name) {
                Ok(opened) => opened,
                Err(e) => {
                    self.trouble(&path(), &e);
                    return Ok(Slot::Out);
                }
            };
            if stat.kind() != NodeKind::File {
                if !expected {
                    self.problem(&path(), "it became something else while it was read".to_owned());
                }
                return Ok(Slot::Out);
            }
            let xattrs = disk::xattrs(&file);
            let read = match intake.file(file, self.image(&stat, before).as_ref()) {
                Ok(read) => read,
                Err(Failure::Fatal(e)) => return Err(e),
                Err(Failure::Source(e)) => {
                    self.trouble(&path(), &e);
                    return Ok(Slot::Out);
                }
            };
            if read.changed && again {
                again = false;
                continue;
            }
            if read.changed && !expected {
                self.problem(&path(), "it was changed while it was read".to_owned());
            }
            let mut node = meta::node(name, &read.stat, self.run.owners);
            node.size = read.content.size;
            node.xattrs = self.attributes(xattrs, &path());
            counts.read(1);
            progress.advance(1, 0);
            return Ok(Slot::File(Box::new(node), read.content));
        }
    }

    /// How a file is read that has fixed chunks.
    fn image<'n>(&'n self, stat: &Stat, before: Option<&'n Node>) -> Option<Image<'n>> {
        let chunk_bytes = self.options.chunk_bytes.filter(|chunk| stat.size > chunk.get())?;
        Some(Image { chunk_bytes, since: before.zip(self.options.changed.as_ref()) })
    }

    /// A directory without its content. A symbolic link becomes the directory that it leads to: as
    /// a link it would lead a restored copy to the original's directory.
    fn emptied(&self, dir: &Dir, name: &[u8], stat: Stat) -> Result<Slot, Error> {
        let mut node = if stat.kind() == NodeKind::Dir {
            let mut node = meta::node(name, &stat, self.run.owners);
            node.xattrs = self.attributes_at(dir, name);
            node
        } else {
            match disk::stat_behind(&dir.handle, name) {
                Ok(behind) if behind.kind() == NodeKind::Dir => {
                    meta::node(name, &behind, self.run.owners)
                }
                // Leads nowhere, or to a file: then as the directory that it is in.
                _ => meta::node(name, &dir.stat, self.run.owners),
            }
        };
        node.subtree = Some(save_tree(self.run.writer, TreeEncoder::new().finish())?);
        Ok(Slot::Node(Box::new(node)))
    }

    fn excluded(&self, dir: &[u8], name: &[u8], kind: NodeKind) -> bool {
        if self.excludes.is_empty() {
            return false;
        }
        let in_tree = join(dir, name);
        let on_host = [self.source, b"/", &in_tree].concat();
        let at = [self.at, b"/", &in_tree].concat();
        self.excludes.matches(&in_tree, &[&on_host, &at], kind == NodeKind::Dir)
    }

    fn is_cache(&self, dir: &OwnedFd, names: &[Box<[u8]>]) -> bool {
        if names.binary_search_by(|name| (**name).cmp(CACHE_TAG)).is_err() {
            return false;
        }
        let Ok((file, stat)) = disk::open_file_at(dir, CACHE_TAG) else { return false };
        let mut signature = Vec::new();
        stat.kind() == NodeKind::File
            && std::fs::File::from(file)
                .take(CACHE_SIGNATURE.len() as u64)
                .read_to_end(&mut signature)
                .is_ok()
            && signature == CACHE_SIGNATURE
    }

    /// A directory of the parent snapshot. One that cannot be read only makes the run slower.
    fn previous_tree(&self, id: TreeId, path: &[u8]) -> Result<Option<Previous>, Error> {
        let loaded = self.run.repository.load_blob(BlobKind::Tree, &id.into());
        match loaded.and_then(|bytes| Tree::decode(&bytes)) {
            Ok(tree) => Ok(Some(Previous { id, tree })),
            Err(e @ (Error::Damaged { .. } | Error::Missing(_))) => {
                let path = disk::shown(&join(self.source, path));
                self.run.progress.warn(&format!(
                    "{path} is read in full: its state in the previous snapshot is not readable: {e}"
                ));
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Notes that an entry is dealt with (none: that all are listed), and passes a directory on
    /// when its last one is.
    fn settle(
        &self,
        dir: &Arc<Dir>,
        entry: Option<(usize, Slot)>,
        sender: &SyncSender<Arc<Slots>>,
    ) -> Result<(), Error> {
        if let Some((at, slot)) = entry {
            dir.slots.put(at, slot);
        }
        let mut dir = dir;
        while dir.slots.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let expected = self.options.changes_expected;
            if !expected && disk::stat(&dir.handle).is_ok_and(|now| now.mtime != dir.stat.mtime) {
                // A file that was moved to where we had been already is in neither place.
                let what = "files were added, removed or renamed while it was read";
                self.problem(&dir.path, what.to_owned());
            }
            // The receiver ends last; if it does not, its panic is passed on.
            if sender.send(dir.slots.clone()).is_err() {
                return Err(Error::Cancelled);
            }
            match &dir.parent {
                Some((parent, _)) => dir = parent,
                None => break,
            }
        }
        Ok(())
    }

    fn encode_all(&self, receiver: Receiver<Arc<Slots>>, keep_entries: bool) {
        let mut failed = false;
        for slots in receiver {
            // After a failure the queue is only emptied, so that nobody waits to put something in.
            if !failed && let Err(e) = self.encode(&slots, keep_entries) {
                failed = true;
                self.fail(e);
            }
        }
    }

    fn encode(&self, slots: &Slots, keep_entries: bool) -> Result<(), Error> {
        let entries = {
            let mut entries = slots.entries.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *entries)
        };
        let keep = keep_entries && slots.parent.is_none();
        if !keep && let Some(tree) = slots.unchanged(&entries) {
            return self.encoded(slots, Some(tree), Vec::new());
        }
        let mut kept = Vec::new();
        let mut encoder = TreeEncoder::new();
        for slot in entries {
            let node = match slot {
                Slot::Out => continue,
                Slot::Same(at) => {
                    let node = slots.known(at)?;
                    if keep {
                        kept.push(node.clone());
                    } else {
                        encoder.push(node)?;
                    }
                    continue;
                }
                Slot::Node(node) => node,
                Slot::File(mut node, content) => {
                    node.content = content.ids()?;
                    node
                }
                Slot::Open => {
                    return Err(Error::Invalid("a directory was left unfinished".to_owned()));
                }
            };
            if keep {
                kept.push(*node);
            } else {
                encoder.push(&node)?;
            }
        }
        let tree = if keep { None } else { Some(save_tree(self.run.writer, encoder.finish())?) };
        self.encoded(slots, tree, kept)
    }

    /// Hands a directory to the one above it.
    fn encoded(
        &self,
        slots: &Slots,
        tree: Option<TreeId>,
        entries: Vec<Node>,
    ) -> Result<(), Error> {
        let Some((parent, at)) = &slots.parent else {
            let node = Node { subtree: tree, ..slots.node.clone() };
            self.outcome().root = Some(Root { node, entries });
            return Ok(());
        };
        let slot = match slots.same {
            Some(same) if parent.known(same)?.subtree == tree => Slot::Same(same),
            _ => Slot::Node(Box::new(Node { subtree: tree, ..slots.node.clone() })),
        };
        parent.put(*at, slot);
        Ok(())
    }

    fn attributes(&self, read: io::Result<Vec<crate::Xattr>>, path: &[u8]) -> Vec<crate::Xattr> {
        read.unwrap_or_else(|e| {
            if !(self.options.changes_expected && meta::is_replaced(&e)) {
                self.problem(path, format!("its extended attributes: {}", meta::why(&e)));
            }
            Vec::new()
        })
    }

    fn attributes_at(&self, dir: &Dir, name: &[u8]) -> Vec<crate::Xattr> {
        match disk::xattrs_at(&dir.handle, name) {
            Ok(xattrs) => xattrs,
            Err(e) => self.attributes(Err(e), &join(&dir.path, name)),
        }
    }

    fn found(&self, files: u64, bytes: u64) {
        self.run.counts.found(files, bytes);
    }

    /// Names what could not be read, unless it vanished or was replaced and that was to be expected.
    fn trouble(&self, path: &[u8], error: &io::Error) {
        if !(self.options.changes_expected && meta::is_replaced(error)) {
            self.problem(path, meta::why(error));
        }
    }

    fn problem(&self, path: &[u8], what: String) {
        let mut outcome = self.outcome();
        if outcome.problems.len() < MAX_PROBLEMS {
            let path = disk::shown(&join(self.source, path));
            outcome.problems.push(Problem { path, what });
        } else {
            outcome.more_problems += 1;
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Task) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.unfinished += 1;
        tasks.stack.push(task);
        drop(tasks);
        self.changed.notify_one();
    }

    /// The next task; none when all are done, or one has failed.
    fn next(&self) -> Option<Task> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if tasks.ended {
                return None;
            }
            if let Some(task) = tasks.stack.pop() {
                return Some(task);
            }
            if tasks.unfinished == 0 {
                return None;
            }
            tasks = self.changed.wait(tasks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Keeps the first failure and ends the walk.
    fn fail(&self, error: Error) {
        self.outcome().failure.get_or_insert(error);
        let dropped = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.ended = true;
            std::mem::take(&mut tasks.stack)
        };
        drop(dropped);
        self.changed.notify_all();
    }
}

/// Counts a task as done, whatever came of it.
struct Done<'a, 'b>(&'a Walk<'b>);

impl Drop for Done<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Invalid("a thread of the archiver died".to_owned()));
        }
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.unfinished = tasks.unfinished.saturating_sub(1);
        if tasks.unfinished == 0 {
            drop(tasks);
            self.0.changed.notify_all();
        }
    }
}

/// Saves a tree, unless it is there. Its id needs no waiting for: it is hashed here.
pub(super) fn save_tree(writer: &BlobWriter, bytes: Vec<u8>) -> Result<TreeId, Error> {
    let id = BlobId::of(&bytes);
    if !writer.has(BlobKind::Tree, &id)? {
        writer.save(BlobKind::Tree, bytes)?;
    }
    Ok(id.into())
}

/// A name below a path.
fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match (path.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => path.to_vec(),
        _ => [path, b"/", name].concat(),
    }
}
