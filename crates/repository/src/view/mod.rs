//! The history as directories, for whoever wants to show it: `/SERVICE/TIME/…`, a link `latest`, and
//! links by id. Read-only; what a kernel asks of a file system, without any kernel in it.
//!
//! Everything that is read is verified, and what is kept of it is bounded in bytes. Nothing in a
//! snapshot ever changes; what is at the top is looked at anew from time to time.

mod cache;
mod file;
mod inodes;
mod shelf;

pub use file::Seek;
pub use inodes::ROOT;
pub use shelf::{Shelf, Shown};

use crate::reader::decode_tree;
use crate::{BlobId, BlobKind, Error, Node, NodeKind, Repository, Time, Tree, TreeId};
use cache::Cache;
use file::{OpenFile, Zeros};
use inodes::{At, Base, Place, Table};
use jiff::Timestamp;
use model::Progress;
use shelf::Points;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The link to the newest point of a service.
const LATEST: &str = "latest";
/// The directory of snapshots by id.
const IDS: &str = "ids";
/// Complaints that are remembered, so that each is told once.
const TOLD: usize = 64;
/// What a node takes in memory besides its texts and lists.
const NODE_BYTES: usize = size_of::<Node>() + 64;

type BlobCache = Cache<BlobId, Vec<u8>>;

/// Why something cannot be answered.
#[derive(Debug)]
pub enum Fault {
    /// There is no such name, or it is not there any more.
    NotFound,
    /// It is no directory.
    NotADirectory,
    /// It is a directory.
    IsADirectory,
    /// It is no link, or no file.
    Invalid,
    /// It has no such attribute.
    NoAttribute,
    /// There is nothing at or after that offset.
    NoSuchOffset,
    /// Nothing was opened under this number.
    NotOpen,
    /// It cannot be read. This has been told.
    Unreadable,
}

impl From<Error> for Fault {
    fn from(_: Error) -> Fault {
        Fault::Unreadable
    }
}

/// What a directory says of something, and what the thing says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits with setuid, setgid and sticky.
    pub permissions: u32,
    /// Hard links.
    pub links: u64,
    /// Owner; none for what is no part of a snapshot.
    pub owner: Option<(u32, u32)>,
    /// Bytes.
    pub size: u64,
    /// Of these, in no hole.
    pub allocated: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last access.
    pub atime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// `st_rdev` of a device.
    pub device: u64,
    /// It is part of a snapshot, and stays as it is.
    pub lasting: bool,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its number.
    pub number: u64,
    /// What it is.
    pub kind: NodeKind,
}

/// How a view behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of what was read that are kept. Besides them, each open file keeps one blob.
    pub cache_bytes: usize,
    /// How old the list of a service's points may be.
    pub points_age: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache_bytes: 128 << 20, points_age: Duration::from_secs(5) }
    }
}

/// The history as directories.
pub struct View {
    shelf: Box<dyn Shelf>,
    options: Options,
    progress: Arc<dyn Progress>,
    began: Timestamp,
    table: Table,
    points: Mutex<HashMap<Arc<str>, Arc<Points>>>,
    trees: Cache<TreeId, Tree>,
    blobs: BlobCache,
    zeros: Zeros,
    open: Mutex<HashMap<u64, Open>>,
    opened: AtomicU64,
    told: Mutex<VecDeque<String>>,
}

#[derive(Clone)]
enum Open {
    File(Arc<OpenFile>),
    Dir(Arc<Vec<Entry>>),
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("options", &self.options).finish_non_exhaustive()
    }
}

impl View {
    /// A view of what is on a shelf. What cannot be read is told to `progress`.
    pub fn new(shelf: Box<dyn Shelf>, options: Options, progress: Arc<dyn Progress>) -> View {
        View {
            shelf,
            options,
            progress,
            began: Timestamp::now(),
            table: Table::new(),
            points: Mutex::default(),
            trees: Cache::new(options.cache_bytes / 4),
            blobs: Cache::new(options.cache_bytes / 4 * 3),
            zeros: Zeros::default(),
            open: Mutex::default(),
            opened: AtomicU64::new(1),
            told: Mutex::default(),
        }
    }

    /// Looks up a name in a directory, and takes hold of it until it is forgotten as often.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attributes, Fault> {
        let place = self.find(parent, name)?;
        let mut attributes = self.describe(&place)?;
        attributes.number = self.table.hold(place);
        Ok(attributes)
    }

    /// Lets go of something so many times.
    pub fn forget(&self, number: u64, count: u64) {
        self.table.release(number, count);
    }

    /// How many places somebody holds.
    pub fn held(&self) -> usize {
        self.table.len()
    }

    /// What there is to say of something.
    pub fn attributes(&self, number: u64) -> Result<Attributes, Fault> {
        let mut attributes = self.describe(&self.place(number)?)?;
        attributes.number = number;
        Ok(attributes)
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, number: u64) -> Result<Vec<u8>, Fault> {
        let place = self.place(number)?;
        self.link_target(&place)?.ok_or(Fault::Invalid)
    }

    /// The names of the extended attributes.
    pub fn attribute_names(&self, number: u64) -> Result<Vec<String>, Fault> {
        match self.place(number)? {
            Place::Node(at) => self.with_node(&at, |node| {
                Ok(node.xattrs.iter().map(|xattr| xattr.name.clone()).collect())
            }),
            _ => Ok(Vec::new()),
        }
    }

    /// The value of an extended attribute.
    pub fn attribute(&self, number: u64, name: &[u8]) -> Result<Vec<u8>, Fault> {
        match self.place(number)? {
            Place::Node(at) => self.with_node(&at, |node| {
                let found = node.xattrs.iter().find(|xattr| xattr.name.as_bytes() == name);
                found.map(|xattr| xattr.value.clone()).ok_or(Fault::NoAttribute)
            }),
            _ => Err(Fault::NoAttribute),
        }
    }

    /// Opens a file.
    pub fn open(&self, number: u64) -> Result<u64, Fault> {
        let at = match self.place(number)? {
            Place::Node(at) => at,
            Place::Latest(_) | Place::Id(..) => return Err(Fault::Invalid),
            _ => return Err(Fault::IsADirectory),
        };
        let file = self.with_node(&at, |node| match node.kind {
            NodeKind::File => self.told(OpenFile::open(&at.base.repository, node)),
            NodeKind::Dir => Err(Fault::IsADirectory),
            _ => Err(Fault::Invalid),
        })?;
        Ok(self.remember(Open::File(Arc::new(file))))
    }

    /// Up to `length` bytes of an open file; fewer only at its end.
    pub fn read(&self, handle: u64, offset: u64, length: usize) -> Result<Vec<u8>, Fault> {
        let file = self.open_file(handle)?;
        self.told(file.read(&self.blobs, offset, length))
    }

    /// Where data or a hole is in an open file, at or after an offset.
    pub fn seek(&self, handle: u64, offset: u64, what: Seek) -> Result<u64, Fault> {
        let found = self.open_file(handle)?.seek(&self.zeros, offset, what);
        self.told(found)?.ok_or(Fault::NoSuchOffset)
    }

    /// Opens a directory: what is listed is what was there when it was opened.
    pub fn open_dir(&self, number: u64) -> Result<u64, Fault> {
        let entries = self.entries(number)?;
        Ok(self.remember(Open::Dir(Arc::new(entries))))
    }

    /// The entries of an open directory, the first two of which are itself and its parent.
    pub fn listing(&self, handle: u64) -> Result<Arc<Vec<Entry>>, Fault> {
        match lock(&self.open).get(&handle) {
            Some(Open::Dir(entries)) => Ok(entries.clone()),
            _ => Err(Fault::NotOpen),
        }
    }

    /// Closes what was opened.
    pub fn close(&self, handle: u64) {
        let closed = lock(&self.open).remove(&handle);
        drop(closed);
    }

    fn remember(&self, open: Open) -> u64 {
        let handle = self.opened.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(handle, open);
        handle
    }

    fn open_file(&self, handle: u64) -> Result<Arc<OpenFile>, Fault> {
        match lock(&self.open).get(&handle) {
            Some(Open::File(file)) => Ok(file.clone()),
            _ => Err(Fault::NotOpen),
        }
    }

    fn place(&self, number: u64) -> Result<Place, Fault> {
        self.table.get(number).ok_or(Fault::NotFound)
    }

    /// What a name in a directory is.
    fn find(&self, parent: u64, name: &[u8]) -> Result<Place, Fault> {
        let place = self.place(parent)?;
        let text = || std::str::from_utf8(name).map_err(|_| Fault::NotFound);
        match &place {
            Place::Root => {
                let name = text()?;
                let known = self.shelf.services().iter().any(|service| service == name);
                if known { Ok(Place::Service(name.into())) } else { Err(Fault::NotFound) }
            }
            Place::Service(service) => match text()? {
                LATEST => {
                    let points = self.points(service)?;
                    points.latest().ok_or(Fault::NotFound)?;
                    Ok(Place::Latest(service.clone()))
                }
                IDS => Ok(Place::Ids(service.clone())),
                name => self.snapshot(service, name),
            },
            Place::Ids(service) => {
                let id = self.points(service)?.by_id(text()?).ok_or(Fault::NotFound)?;
                Ok(Place::Id(service.clone(), id))
            }
            Place::Snapshot(base) => self.below(base, parent, self.root(base)?, name),
            Place::Node(at) => {
                let tree = self.subtree(at)?;
                self.below(&at.base, parent, tree, name)
            }
            Place::Latest(_) | Place::Id(..) => Err(Fault::NotADirectory),
        }
    }

    /// The point whose directory has this name.
    fn snapshot(&self, service: &Arc<str>, name: &str) -> Result<Place, Fault> {
        let points = self.points(service)?;
        let shown = points.get(name).ok_or(Fault::NotFound)?;
        Ok(Place::Snapshot(base_of(service, &points, shown)))
    }

    /// The tree of a snapshot.
    fn root(&self, base: &Base) -> Result<TreeId, Fault> {
        if let Some(root) = base.root.get() {
            return Ok(*root);
        }
        let snapshot = match base.repository.snapshot(base.snapshot) {
            // It was removed since it was listed.
            Err(Error::Missing(_)) => return Err(Fault::NotFound),
            other => self.told(other)?,
        };
        let root = snapshot.tree_id();
        let root = root.map_err(|e| Error::damaged(format!("snapshot {}", base.snapshot), e));
        let root = self.told(root)?;
        Ok(*base.root.get_or_init(|| root))
    }

    fn below(
        &self,
        base: &Arc<Base>,
        parent: u64,
        tree: TreeId,
        name: &[u8],
    ) -> Result<Place, Fault> {
        let nodes = self.tree(&base.repository, tree)?;
        let node = nodes.get(name).filter(|node| node.kind != NodeKind::Irregular);
        let node = node.ok_or(Fault::NotFound)?;
        Ok(place_of(base, parent, tree, node))
    }

    fn subtree(&self, at: &At) -> Result<TreeId, Fault> {
        self.with_node(at, |node| match node.kind {
            NodeKind::Dir => node.subtree.ok_or(Fault::Unreadable),
            _ => Err(Fault::NotADirectory),
        })
    }

    fn entries(&self, number: u64) -> Result<Vec<Entry>, Fault> {
        let place = self.place(number)?;
        let dir = |name: &[u8], number| Entry { name: name.to_vec(), number, kind: NodeKind::Dir };
        let mut entries = vec![dir(b".", number), dir(b"..", self.parent(&place))];
        let mut add = |name: &str, place: Place, kind| {
            entries.push(Entry { name: name.into(), number: place.number(), kind });
        };
        match &place {
            Place::Root => {
                for service in self.shelf.services() {
                    let place = Place::Service(service.as_str().into());
                    add(&service, place, NodeKind::Dir);
                }
            }
            Place::Service(service) => {
                let points = self.points(service)?;
                for (name, shown) in points.iter() {
                    let base = base_of(service, &points, *shown);
                    add(name, Place::Snapshot(base), NodeKind::Dir);
                }
                if points.latest().is_some() {
                    add(LATEST, Place::Latest(service.clone()), NodeKind::Symlink);
                }
                add(IDS, Place::Ids(service.clone()), NodeKind::Dir);
            }
            Place::Ids(service) => {
                for (name, id) in self.points(service)?.ids() {
                    add(&name, Place::Id(service.clone(), id), NodeKind::Symlink);
                }
            }
            Place::Snapshot(base) => {
                self.nodes(base, number, self.root(base)?, &mut entries)?;
            }
            Place::Node(at) => {
                let tree = self.subtree(at)?;
                self.nodes(&at.base, number, tree, &mut entries)?;
            }
            Place::Latest(_) | Place::Id(..) => return Err(Fault::NotADirectory),
        }
        Ok(entries)
    }

    fn nodes(
        &self,
        base: &Arc<Base>,
        parent: u64,
        tree: TreeId,
        entries: &mut Vec<Entry>,
    ) -> Result<(), Fault> {
        let nodes = self.tree(&base.repository, tree)?;
        let shown = nodes.nodes.iter().filter(|node| node.kind != NodeKind::Irregular);
        entries.extend(shown.map(|node| Entry {
            name: node.name.clone(),
            number: place_of(base, parent, tree, node).number(),
            kind: node.kind,
        }));
        Ok(())
    }

    fn parent(&self, place: &Place) -> u64 {
        match place {
            Place::Root | Place::Service(_) => ROOT,
            Place::Node(at) => at.parent,
            other => other.service().map_or(ROOT, |name| Place::Service(name.clone()).number()),
        }
    }

    fn describe(&self, place: &Place) -> Result<Attributes, Fault> {
        let link = |size: usize| (NodeKind::Symlink, 0o777, size as u64);
        let dir = (NodeKind::Dir, 0o555, 0);
        let ((kind, permissions, size), time) = match place {
            Place::Node(at) => {
                return self.with_node(at, |node| {
                    let allocated = self.zeros.allocated(&at.base.repository, node);
                    Ok(Attributes { allocated: self.told(allocated)?, ..attributes(node) })
                });
            }
            Place::Root => (dir, self.began),
            // Not asking for its points: to list services none of them need be reached.
            Place::Service(_) | Place::Ids(_) => (dir, self.began),
            Place::Snapshot(base) => (dir, base.taken),
            Place::Latest(service) | Place::Id(service, _) => {
                let target = self.link_target(place)?.unwrap_or_default();
                let newest = self.points(service)?.newest();
                (link(target.len()), newest.unwrap_or(self.began))
            }
        };
        let time = Time::from(time);
        Ok(Attributes {
            number: 0,
            kind,
            permissions,
            links: if kind == NodeKind::Dir { 2 } else { 1 },
            owner: None,
            size,
            allocated: 0,
            mtime: time,
            atime: time,
            ctime: time,
            device: 0,
            lasting: matches!(place, Place::Snapshot(_)),
        })
    }

    fn link_target(&self, place: &Place) -> Result<Option<Vec<u8>>, Fault> {
        Ok(match place {
            Place::Latest(service) => {
                let points = self.points(service)?;
                Some(points.latest().ok_or(Fault::NotFound)?.as_bytes().to_vec())
            }
            Place::Id(service, id) => {
                let points = self.points(service)?;
                let name = points.name_of(*id).ok_or(Fault::NotFound)?;
                Some(format!("../{name}").into_bytes())
            }
            Place::Node(at) => self.with_node(at, |node| {
                Ok((node.kind == NodeKind::Symlink).then(|| node.link_target.clone()))
            })?,
            _ => None,
        })
    }

    /// The node at a place.
    fn with_node<T>(
        &self,
        at: &At,
        use_it: impl FnOnce(&Node) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let tree = self.tree(&at.base.repository, at.tree)?;
        use_it(tree.get(&at.name).ok_or(Fault::NotFound)?)
    }

    fn tree(&self, repository: &Repository, id: TreeId) -> Result<Arc<Tree>, Fault> {
        self.told(self.trees.get(id, || {
            let bytes = repository.load_blob(BlobKind::Tree, &id.into())?;
            let tree = decode_tree(id, &bytes)?;
            let weight = weight(&tree);
            Ok((tree, weight))
        }))
    }

    /// The points of a service, not older than they may be.
    fn points(&self, service: &Arc<str>) -> Result<Arc<Points>, Fault> {
        let known = lock(&self.points).get(service).cloned();
        if let Some(known) = &known
            && !known.is_older_than(self.options.points_age)
        {
            return Ok(known.clone());
        }
        match self.shelf.points(service) {
            Ok((repository, shown)) => {
                let points = Arc::new(Points::new(repository, shown));
                lock(&self.points).insert(service.clone(), points.clone());
                Ok(points)
            }
            Err(e) => match known {
                // What is there stays visible while the vault is not to be reached.
                Some(known) => {
                    self.complain(&e);
                    Ok(known)
                }
                None => self.told(Err(e)),
            },
        }
    }

    /// Tells of what went wrong, once.
    fn told<T>(&self, result: Result<T, Error>) -> Result<T, Fault> {
        result.map_err(|e| {
            self.complain(&e);
            Fault::from(e)
        })
    }

    fn complain(&self, error: &Error) {
        let mut line = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            line.push_str(&format!(": {error}"));
            cause = error.source();
        }
        let mut told = lock(&self.told);
        if told.contains(&line) {
            return;
        }
        if told.len() == TOLD {
            told.pop_front();
        }
        self.progress.warn(&line);
        told.push_back(line);
    }
}

fn base_of(service: &Arc<str>, points: &Points, shown: Shown) -> Arc<Base> {
    Arc::new(Base {
        service: service.clone(),
        snapshot: shown.snapshot,
        root: OnceLock::new(),
        taken: shown.taken,
        repository: points.repository.clone(),
    })
}

fn place_of(base: &Arc<Base>, parent: u64, tree: TreeId, node: &Node) -> Place {
    Place::Node(At {
        base: base.clone(),
        parent,
        tree,
        name: node.name.as_slice().into(),
        link: inodes::link_of(node),
    })
}

fn attributes(node: &Node) -> Attributes {
    let size = match node.kind {
        NodeKind::File => node.size,
        NodeKind::Symlink => node.link_target.len() as u64,
        _ => 0,
    };
    Attributes {
        number: 0,
        kind: node.kind,
        permissions: node.permissions(),
        links: node.links.max(1),
        owner: Some((node.uid, node.gid)),
        size,
        allocated: size,
        mtime: node.mtime,
        atime: node.atime,
        ctime: node.ctime,
        device: node.device,
        lasting: true,
    }
}

/// About what a tree takes in memory.
fn weight(tree: &Tree) -> usize {
    let of = |node: &Node| {
        let texts = node.name.len() + node.link_target.len() + node.user.len() + node.group.len();
        let xattrs: usize = node.xattrs.iter().map(|x| x.name.len() + x.value.len() + 64).sum();
        NODE_BYTES + texts + xattrs + node.content.len() * size_of::<BlobId>()
    };
    tree.nodes.iter().map(of).sum()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
