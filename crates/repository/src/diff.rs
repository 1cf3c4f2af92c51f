//! What changed between two snapshots.
//!
//! Two directories with the same tree id are the same, so only directories that differ are read:
//! the cost follows the change and not the size of what was captured.

use crate::reader::{SnapshotReader, load_tree};
use crate::{BlobId, BlobKind, Error, Node, NodeKind, Repository, TreeId, trees};
use model::CancelToken;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// How two snapshots are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Tell also what differs in owner, mode, times or attributes alone.
    pub metadata: bool,
    /// Count as added or removed only what the other snapshot has nowhere, not even in a directory
    /// that did not change. For that every tree of both is read.
    pub exact: bool,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only the second snapshot has it.
    Added,
    /// Only the first snapshot has it.
    Removed,
    /// Its content is another: the bytes of a file, the target of a link, the numbers of a device.
    Modified,
    /// It is a thing of another kind.
    Type,
    /// Owner, mode, times or attributes, and nothing else.
    Metadata,
}

/// Entries and blobs that only one of the two snapshots has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Side {
    /// Files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Everything else.
    pub others: u64,
    /// Blobs of file content.
    pub data_blobs: u64,
    /// Directories as blobs.
    pub tree_blobs: u64,
    /// Plain bytes of these blobs.
    pub bytes: u64,
}

/// How many changes there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Entries whose content changed.
    pub modified: u64,
    /// Entries that became a thing of another kind.
    pub retyped: u64,
    /// Entries of which only metadata changed, if that was asked for.
    pub metadata: u64,
    /// What the second snapshot has and the first has not.
    pub added: Side,
    /// What the first snapshot has and the second has not.
    pub removed: Side,
}

/// Told each change, in the order of the paths: the absolute path, what happened, and the entry
/// before and after.
pub type Told<'a> =
    dyn FnMut(&[u8], Change, Option<&Node>, Option<&Node>) -> Result<(), Error> + 'a;

/// Compares what two snapshots have at `path`, a directory of both (`/`: all of them).
pub fn diff(
    before: &SnapshotReader,
    after: &SnapshotReader,
    path: &[u8],
    options: Options,
    cancel: &CancelToken,
    told: &mut Told<'_>,
) -> Result<Summary, Error> {
    let repository = before.repository();
    let roots = (before.directory(path)?.1, after.directory(path)?.1);
    let mut diff = Diff {
        repository,
        options,
        told,
        summary: Summary::default(),
        before: Blobs::default(),
        after: Blobs::default(),
        same: HashSet::new(),
    };
    if roots.0 == roots.1 {
        return Ok(diff.summary);
    }
    diff.before.trees.insert(roots.0);
    diff.after.trees.insert(roots.1);
    diff.walk(path, roots, cancel)?;
    diff.count_blobs(cancel)
}

/// Blobs of directories that differ.
#[derive(Default)]
struct Blobs {
    data: HashSet<BlobId>,
    trees: HashSet<TreeId>,
}

impl Blobs {
    fn add(&mut self, node: Option<&Node>) {
        let Some(node) = node else { return };
        self.data.extend(&node.content);
        self.trees.extend(node.subtree.filter(|_| node.kind == NodeKind::Dir));
    }
}

struct Diff<'a, 'b> {
    repository: &'a Repository,
    options: Options,
    told: &'a mut Told<'b>,
    summary: Summary,
    before: Blobs,
    after: Blobs,
    /// Trees that both have at the same path.
    same: HashSet<TreeId>,
}

/// An entry as it was and as it is.
type Pair = (Option<Node>, Option<Node>);

impl Diff<'_, '_> {
    fn walk(
        &mut self,
        path: &[u8],
        roots: (TreeId, TreeId),
        cancel: &CancelToken,
    ) -> Result<(), Error> {
        let mut full = path.to_vec();
        // What is left of each directory on the way, the next entry last, and how long the
        // directory's path is. No recursion: a snapshot may be as deep as it likes.
        let mut open = vec![(self.pairs(Some(roots.0), Some(roots.1))?, full.len())];
        while let Some((pairs, length)) = open.last_mut() {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            full.truncate(*length);
            let Some((before, after)) = pairs.pop() else {
                open.pop();
                continue;
            };
            if full.last() != Some(&b'/') {
                full.push(b'/');
            }
            if let Some(node) = before.as_ref().or(after.as_ref()) {
                full.extend_from_slice(&node.name);
            }
            let (before, after) = (before.as_ref(), after.as_ref());
            self.entry(&full, before, after)?;
            let below = (subtree(before), subtree(after));
            if below.0 == below.1 {
                self.same.extend(below.0);
            } else {
                open.push((self.pairs(below.0, below.1)?, full.len()));
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &[u8],
        before: Option<&Node>,
        after: Option<&Node>,
    ) -> Result<(), Error> {
        self.before.add(before);
        self.after.add(after);
        let change = match (before, after) {
            (None, None) => return Ok(()),
            (Some(node), None) => {
                self.summary.removed.count(node);
                Change::Removed
            }
            (None, Some(node)) => {
                self.summary.added.count(node);
                Change::Added
            }
            (Some(before), Some(after)) => {
                let Some(change) = compare(before, after, self.options.metadata) else {
                    return Ok(());
                };
                match change {
                    Change::Type => self.summary.retyped += 1,
                    Change::Metadata => self.summary.metadata += 1,
                    _ => self.summary.modified += 1,
                }
                change
            }
        };
        (self.told)(path, change, before, after)
    }

    /// The entries of two directories by name, the last first.
    fn pairs(&self, before: Option<TreeId>, after: Option<TreeId>) -> Result<Vec<Pair>, Error> {
        let nodes = |id: Option<TreeId>| match id {
            Some(id) => load_tree(self.repository, id).map(|tree| tree.nodes),
            None => Ok(Vec::new()),
        };
        let mut before = nodes(before)?.into_iter().peekable();
        let mut after = nodes(after)?.into_iter().peekable();
        let mut pairs = Vec::new();
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) => before.name.cmp(&after.name),
            };
            pairs.push(match order {
                Ordering::Less => (before.next(), None),
                Ordering::Greater => (None, after.next()),
                Ordering::Equal => (before.next(), after.next()),
            });
        }
        pairs.reverse();
        Ok(pairs)
    }

    fn count_blobs(mut self, cancel: &CancelToken) -> Result<Summary, Error> {
        let (before, after) = (std::mem::take(&mut self.before), std::mem::take(&mut self.after));
        let mut removed = Blobs {
            data: before.data.difference(&after.data).copied().collect(),
            trees: before.trees.difference(&after.trees).copied().collect(),
        };
        let mut added = Blobs {
            data: after.data.difference(&before.data).copied().collect(),
            trees: after.trees.difference(&before.trees).copied().collect(),
        };
        if self.options.exact {
            let sides = Mutex::new((&mut removed, &mut added));
            trees::each(self.repository, self.same.iter().copied(), cancel, &|id, tree| {
                let tree = tree?;
                let mut sides = sides.lock().unwrap_or_else(PoisonError::into_inner);
                let (removed, added) = &mut *sides;
                for side in [removed, added] {
                    side.trees.remove(&id);
                    for blob in tree.nodes.iter().flat_map(|node| &node.content) {
                        side.data.remove(blob);
                    }
                }
                Ok(tree.nodes.iter().filter_map(|node| subtree(Some(node))).collect())
            })?;
        }
        self.summary.removed.measure(self.repository, &removed)?;
        self.summary.added.measure(self.repository, &added)?;
        Ok(self.summary)
    }
}

impl Side {
    fn count(&mut self, node: &Node) {
        match node.kind {
            NodeKind::File => self.files += 1,
            NodeKind::Dir => self.dirs += 1,
            _ => self.others += 1,
        }
    }

    fn measure(&mut self, repository: &Repository, blobs: &Blobs) -> Result<(), Error> {
        self.data_blobs = blobs.data.len() as u64;
        self.tree_blobs = blobs.trees.len() as u64;
        for id in &blobs.data {
            self.bytes += repository.locate(BlobKind::Data, id)?.plain_bytes();
        }
        for id in &blobs.trees {
            self.bytes += repository.locate(BlobKind::Tree, &(*id).into())?.plain_bytes();
        }
        Ok(())
    }
}

fn subtree(node: Option<&Node>) -> Option<TreeId> {
    node.filter(|node| node.kind == NodeKind::Dir)?.subtree
}

/// What is the difference between two entries of the same name.
fn compare(before: &Node, after: &Node, metadata: bool) -> Option<Change> {
    if before.kind != after.kind || before.unknown_kind != after.unknown_kind {
        return Some(Change::Type);
    }
    let content = match before.kind {
        NodeKind::File => before.content != after.content,
        NodeKind::Symlink => before.link_target != after.link_target,
        NodeKind::Dev | NodeKind::CharDev => before.device != after.device,
        _ => false,
    };
    if content {
        return Some(Change::Modified);
    }
    // What a directory holds is told by its entries.
    let subtree = before.subtree;
    let differs = metadata && *before != Node { subtree, ..after.clone() };
    differs.then_some(Change::Metadata)
}
