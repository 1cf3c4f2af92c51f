//! Walks the tree that is restored: makes its directories, links and devices, and collects its
//! files in batches, so that a tree of any size takes bounded memory.

use super::amend::{Changes, Meets};
use super::differing::Density;
use super::fill::Filler;
use super::lacking::Lacking;
use super::over::Overlay;
use super::reuse::{Old, OldFile};
use super::site::{self, Site};
use crate::reader::load_tree;
use crate::{BlobId, Error, Node, NodeKind, Repository, Tree};
use model::{CancelToken, Progress};
use rustix::fs::{FileType, Mode};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::SyncSender;

/// A batch is full with this many files,
const BATCH_FILES: usize = 20_000;
/// or this many blobs.
const BATCH_BLOBS: usize = 200_000;

/// A file whose content is to be written.
pub(super) struct Job {
    pub(super) dir: usize,
    pub(super) node: Node,
    /// The file of the older copy that has some of its content.
    pub(super) old: Option<Box<OldFile>>,
    /// Blobs that are not written yet.
    pub(super) left: AtomicUsize,
    /// Zeros at the end were left out.
    pub(super) holes: AtomicBool,
    /// It began as a clone of another file, or stood there: what is to be zero must be written.
    pub(super) cloned: AtomicBool,
    /// It is another name of the older copy's file, and what differs goes to the redo journal.
    pub(super) patched: AtomicBool,
    /// It stands in its place already, and has to be compared.
    pub(super) stands: bool,
    pub(super) density: Density,
    pub(super) opened: Mutex<Opened>,
}

#[derive(Default)]
pub(super) struct Opened {
    pub(super) exists: bool,
    pub(super) file: Option<Arc<OwnedFd>>,
}

impl Job {
    pub(super) fn new(dir: usize, node: Node, old: Option<OldFile>) -> Job {
        Job {
            dir,
            old: old.map(Box::new),
            left: AtomicUsize::new(node.content.len()),
            node,
            holes: AtomicBool::new(false),
            cloned: AtomicBool::new(false),
            density: Density::default(),
            patched: AtomicBool::new(false),
            stands: false,
            opened: Mutex::default(),
        }
    }

    /// One whose file stands in its place, if it does.
    fn standing(self, stands: bool) -> Job {
        let opened = Mutex::new(Opened { exists: stands, file: None });
        Job { stands, cloned: AtomicBool::new(stands), opened, ..self }
    }
}

/// One more name of something that is there, or will be when the batch's files are written.
pub(super) struct Link {
    pub(super) dir: usize,
    /// Its node, without the content.
    pub(super) node: Node,
    pub(super) to: (usize, Vec<u8>),
}

/// Files to be written together, and the links to make after that.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) jobs: Vec<Job>,
    pub(super) links: Vec<Link>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    blobs: usize,
}

/// The first name of an inode that has several.
struct First {
    at: (usize, Vec<u8>),
    kind: NodeKind,
    size: u64,
    content: Vec<BlobId>,
}

pub(super) struct Planner<'a> {
    pub(super) repository: &'a Repository,
    pub(super) site: &'a Site,
    pub(super) old: Option<&'a Old>,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a CancelToken,
    pub(super) batches: SyncSender<Batch>,
    /// What is left out because it lacks bytes.
    without: Option<&'a Lacking>,
    /// What stands there already.
    over: Option<&'a Overlay<'a>>,
    /// What is changed elsewhere, of which only what is new comes here.
    changes: Option<&'a Changes>,
    batch: Batch,
    /// By device and inode.
    linked: HashMap<(u64, u64), First>,
}

/// A directory that is being walked.
struct Level {
    number: usize,
    handle: OwnedFd,
    nodes: std::vec::IntoIter<Node>,
    old: Option<Tree>,
    at: Place,
}

/// How a directory relates to what is changed elsewhere.
struct Place {
    /// It has no part in that: all that is in it is new.
    fresh: bool,
    /// Its counterpart, where that has to be looked at.
    there: Option<OwnedFd>,
}

impl<'a> Planner<'a> {
    /// Plans for somebody who writes.
    pub(super) fn new(filler: &Filler<'a>, batches: SyncSender<Batch>) -> Planner<'a> {
        Planner {
            repository: filler.repository,
            site: filler.site,
            old: filler.old,
            progress: filler.progress,
            cancel: filler.cancel,
            batches,
            without: None,
            over: None,
            changes: filler.changes,
            batch: Batch::default(),
            linked: HashMap::new(),
        }
    }

    /// Goes over a tree that stands there.
    pub(super) fn over(self, overlay: &'a Overlay<'a>) -> Planner<'a> {
        Planner { over: Some(overlay), ..self }
    }

    /// Leaves out what lacks bytes.
    pub(super) fn without(self, lacking: &'a Lacking) -> Planner<'a> {
        let without = (!lacking.is_nothing()).then_some(lacking);
        Planner { without, ..self }
    }

    /// Plans a directory whose own name exists already.
    pub(super) fn tree(mut self, node: &Node) -> Result<(), Error> {
        let failed = |e| self.site.error("open", 0, b"", e);
        let handle = self.site.base.try_clone().map_err(failed)?;
        let old = self.old.and_then(|old| old.root.as_ref());
        let at = match self.changes {
            Some(changes) => Place { fresh: false, there: changes.root().map_err(failed)? },
            None => Place { fresh: true, there: None },
        };
        let first = self.level(0, handle, node, old, at)?;
        let mut open = vec![first];
        while let Some(level) = open.last_mut() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let Some(node) = level.nodes.next() else {
                open.pop();
                continue;
            };
            if self.without.is_some_and(|lacking| lacking.has(&node)) {
                continue;
            }
            let old = level.old.as_ref().and_then(|tree| tree.get(&node.name));
            let changes = self.changes.filter(|_| !level.at.fresh);
            if node.kind != NodeKind::Dir {
                if changes.is_some_and(|changes| changes.leaves(&node, old)) {
                    continue;
                }
                let old = old.and_then(|old| OldFile::of(old, &node, None));
                self.entry(level.number, &level.handle, node, old)?;
                continue;
            }
            let mut at = Place { fresh: true, there: None };
            if let Some(changes) = changes {
                let failed = |e| self.site.error("look at", level.number, &node.name, e);
                match changes.dir(level.at.there.as_ref(), &node, old).map_err(failed)? {
                    Meets::TheSame => continue,
                    Meets::Another(there) => at = Place { fresh: false, there },
                    Meets::Nothing => {
                        changes.redo.take(&self.site.below(level.number, &node.name), &node)?;
                    }
                }
            }
            let made = match self.over {
                Some(over) => over.dir(&level.handle, &node.name),
                None => site::create_dir(&level.handle, &node.name),
            };
            let handle = made
                .map_err(|e| self.site.error("make the directory", level.number, &node.name, e))?;
            let old = old.cloned();
            let number = self.site.add(level.number, node.clone(), at.fresh);
            let next = self.level(number, handle, &node, old.as_ref(), at)?;
            open.push(next);
        }
        self.send()
    }

    /// Plans a single file, which gets the site's name.
    pub(super) fn file(mut self, node: Node, old: Option<OldFile>) -> Result<(), Error> {
        self.count(&node);
        self.batch.jobs.push(Job::new(0, node, old));
        self.send()
    }

    fn level(
        &self,
        number: usize,
        handle: OwnedFd,
        node: &Node,
        old: Option<&Node>,
        at: Place,
    ) -> Result<Level, Error> {
        let mut nodes = match node.subtree {
            Some(id) => load_tree(self.repository, id)?.nodes,
            None => Vec::new(),
        };
        if let Some(over) = self.over {
            over.level(self.site, number, &handle, &mut nodes)?;
        }
        let tree = old.filter(|old| old.kind == NodeKind::Dir).and_then(|old| old.subtree);
        let old = match tree.map(|id| load_tree(self.repository, id)) {
            Some(Ok(tree)) => Some(tree),
            // What it has and the new one has not would stay.
            Some(Err(e)) if !at.fresh && self.changes.is_some() => return Err(e),
            // Without the old tree its files are fetched like all others.
            _ => None,
        };
        if let Some(changes) = self.changes.filter(|_| !at.fresh) {
            changes.level(self.site, number, &nodes, old.as_ref(), at.there.as_ref())?;
        }
        Ok(Level { number, handle, nodes: nodes.into_iter(), old, at })
    }

    fn entry(
        &mut self,
        dir: usize,
        handle: &OwnedFd,
        node: Node,
        old: Option<OldFile>,
    ) -> Result<(), Error> {
        let file = node.kind == NodeKind::File;
        if file {
            self.count(&node);
        }
        let link = self.link(dir, &node);
        let stands = match self.over {
            Some(over) if file && link.is_none() => over.stands(handle, &node.name),
            Some(over) => over.make_room(handle, &node.name).map(|()| false),
            None => Ok(false),
        };
        let stands = stands.map_err(|e| self.site.error("replace", dir, &node.name, e))?;
        if let Some(link) = link {
            self.batch.links.push(link);
        } else if file {
            self.batch.blobs += node.content.len();
            self.batch.jobs.push(Job::new(dir, node, old).standing(stands));
        } else {
            let made = self.special(dir, handle, &node)?;
            if !made {
                // Nothing can be linked to it.
                self.linked.remove(&(node.device_id, node.inode));
            }
            if let Some(changes) = self.changes.filter(|_| !self.site.is_fresh(dir)) {
                let path = self.site.below(dir, &node.name);
                match made {
                    true => changes.redo.take(&path, &node)?,
                    false => changes.redo.remove(&path)?,
                }
            }
        }
        let batch = &self.batch;
        if batch.jobs.len() >= BATCH_FILES || batch.blobs >= BATCH_BLOBS {
            self.send()?;
        }
        Ok(())
    }

    fn count(&mut self, node: &Node) {
        self.batch.files += 1;
        self.batch.bytes += node.size;
    }

    /// The link to make, if this is another name of something that was there before. Inodes that
    /// are the same by number but not in what they hold are none of one file.
    fn link(&mut self, dir: usize, node: &Node) -> Option<Link> {
        if node.links < 2 || node.inode == 0 {
            return None;
        }
        match self.linked.entry((node.device_id, node.inode)) {
            Entry::Vacant(vacant) => {
                let at = (dir, node.name.clone());
                let (kind, size, content) = (node.kind, node.size, node.content.clone());
                vacant.insert(First { at, kind, size, content });
                None
            }
            Entry::Occupied(first) => {
                let first = first.get();
                let same = first.kind == node.kind
                    && first.size == node.size
                    && first.content == node.content;
                let named = || Node { content: Vec::new(), ..node.clone() };
                same.then(|| Link { dir, node: named(), to: first.at.clone() })
            }
        }
    }

    /// Makes what has no content. False: it is left out.
    fn special(&self, dir: usize, handle: &OwnedFd, node: &Node) -> Result<bool, Error> {
        let name = node.name.as_slice();
        let private = Mode::from_raw_mode(0o600);
        let make = |kind, device| rustix::fs::mknodat(handle, name, kind, private, device);
        let made = match node.kind {
            NodeKind::Symlink => {
                let target = node.link_target.as_slice();
                rustix::fs::symlinkat(target, handle, name)
            }
            NodeKind::Fifo => make(FileType::Fifo, 0),
            NodeKind::Dev => make(FileType::BlockDevice, node.device),
            NodeKind::CharDev => make(FileType::CharacterDevice, node.device),
            // The end of a connection that is long closed.
            NodeKind::Socket => return Ok(false),
            NodeKind::Irregular | NodeKind::File | NodeKind::Dir => {
                let path = self.site.path(dir, name);
                let kind = node.unknown_kind.as_deref().unwrap_or(node.kind.name());
                self.progress.warn(&format!(
                    "{} is left out: nobody here knows what a \"{kind}\" is",
                    path.display()
                ));
                return Ok(false);
            }
        };
        match made {
            Err(rustix::io::Errno::PERM) if !rustix::process::geteuid().is_root() => {
                let path = self.site.path(dir, name);
                let what = "is left out: only root makes devices";
                self.progress.warn(&format!("{} {what}", path.display()));
                return Ok(false);
            }
            made => made.map_err(|e| self.site.error("make", dir, name, e.into()))?,
        }
        self.site
            .give_attributes_at(handle, node)
            .map_err(|e| self.site.error("give its attributes to", dir, name, e))?;
        Ok(true)
    }

    fn send(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        // Nobody takes it: whoever should has failed, and says so.
        self.batches.send(batch).map_err(|_| Error::Cancelled)
    }
}
