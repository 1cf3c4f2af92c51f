//! How much space bringing an older copy to another snapshot takes, from the two snapshots' trees.

use super::Reuse;
use super::amend::is_same;
use super::layout;
use super::reuse::{OldFile, REDO_MIN, can_clone, is_patched};
use crate::reader::{SnapshotReader, blob_length, load_tree};
use crate::{BlobId, Error, Node, NodeKind, Repository, TreeId};
use model::{CancelToken, SnapshotId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a restore that reuses an older copy is going to cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes that must be free beside the older copy.
    pub bytes: u64,
    /// Files can be clones of each other there.
    pub clones: bool,
}

/// Looks at what differs between the snapshot that an older copy holds and this one. What cannot be
/// found out counts as if it had to be written.
///
/// Of a copy of nobody knows what, which is taken as one of this very snapshot and doubted, the two
/// trees tell nothing. There the files are looked at, and what surely has to be written is counted.
pub fn need(
    repository: &Repository,
    snapshot: SnapshotId,
    path: &[u8],
    reuse: &Reuse<'_>,
    cancel: &CancelToken,
) -> Result<Need, Error> {
    let reader = SnapshotReader::open(repository, snapshot)?;
    let node = reader.existing(path)?;
    let clones = can_clone(beside(reuse.tree));
    let old = SnapshotReader::open(repository, reuse.snapshot)
        .and_then(|reader| reader.node(path))
        .ok()
        .flatten();
    let mut walk = Walk { repository, reuse, clones, bytes: 0, names: HashMap::new() };
    if reuse.doubted && reuse.snapshot == snapshot {
        walk.by_sight(&node, cancel)?;
        return Ok(Need { bytes: walk.bytes, clones });
    }
    let mut left = vec![(node, old)];
    while let Some((node, old)) = left.pop() {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match node.kind {
            NodeKind::Dir => walk.dir(&node, old.as_ref(), &mut left)?,
            NodeKind::File => walk.file(&node, old.as_ref())?,
            _ => {}
        }
    }
    Ok(Need { bytes: walk.bytes, clones })
}

/// How much of a copy differs from a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Names that are new, gone, or of something else.
    pub names: u64,
    /// Some of them are of files with several names.
    pub links: bool,
    /// Bytes that must be free beside the copy to [bring it on](super::amend()).
    pub bytes: u64,
}

/// Finds out how much of a copy, to which nobody wrote, differs from what is at `path` in the snapshot,
/// from the two trees, of which only what differs is looked at. None if that are more names than `most`,
/// or if it cannot be told.
pub fn extent(
    repository: &Repository,
    snapshot: SnapshotId,
    path: &[u8],
    reuse: &Reuse<'_>,
    most: u64,
    cancel: &CancelToken,
) -> Result<Option<Extent>, Error> {
    let node = |snapshot| -> Result<Option<Node>, Error> {
        let node = SnapshotReader::open(repository, snapshot)?.node(path)?;
        Ok(node.filter(|node| node.kind == NodeKind::Dir))
    };
    let Some(now) = node(snapshot)? else { return Ok(None) };
    // A snapshot that is damaged says nothing; what needs it will tell.
    let Some(before) = node(reuse.snapshot).ok().flatten() else { return Ok(None) };
    let clones = can_clone(beside(reuse.tree));
    let mut walk = Walk { repository, reuse, clones, bytes: 0, names: HashMap::new() };
    let mut extent = Extent::default();
    let mut left = vec![(now, Some(before))];
    while let Some((now, before)) = left.pop() {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (Some(id), before) = (now.subtree, before.and_then(|before| before.subtree)) else {
            continue;
        };
        if before == Some(id) {
            continue;
        }
        let before = match before.map(|id| load_tree(repository, id)) {
            Some(Ok(tree)) => Some(tree),
            // What it has and the new one has not is not known then.
            Some(Err(_)) => return Ok(None),
            None => None,
        };
        let now = load_tree(repository, id)?;
        let gone = |old: &&Node| now.get(&old.name).is_none();
        for old in before.iter().flat_map(|tree| &tree.nodes).filter(gone) {
            extent.names += 1;
            extent.links |= old.links > 1;
        }
        for node in now.nodes {
            let old = before.as_ref().and_then(|tree| tree.get(&node.name));
            extent.links |= !old.is_some_and(|old| is_same(old, &node))
                && (node.links > 1 || old.is_some_and(|old| old.links > 1));
            match old {
                Some(old) if is_same(old, &node) && node.kind != NodeKind::Dir => {}
                Some(old) if old.kind == NodeKind::Dir && node.kind == NodeKind::Dir => {
                    let old = old.clone();
                    left.push((node, Some(old)));
                }
                old => {
                    extent.names += 1;
                    match node.kind {
                        NodeKind::File => walk.file(&node, old)?,
                        NodeKind::Dir => left.push((node, None)),
                        _ => {}
                    }
                }
            }
        }
        if extent.names > most {
            return Ok(None);
        }
    }
    extent.bytes = walk.bytes;
    Ok(Some(extent))
}

/// A directory on the copy's file system: the one that it is in, unless it is mounted there.
fn beside(tree: &Path) -> &Path {
    let device = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.dev()).ok();
    let parent = tree.parent().filter(|parent| device(parent) == device(tree));
    match parent {
        Some(parent) => parent,
        None if tree.is_dir() => tree,
        None => tree.parent().unwrap_or(Path::new("/")),
    }
}

struct Walk<'a> {
    repository: &'a Repository,
    reuse: &'a Reuse<'a>,
    clones: bool,
    bytes: u64,
    /// Files with several names, which are written once, and what they hold.
    names: HashMap<(u64, u64), Vec<BlobId>>,
}

impl Walk<'_> {
    fn dir(
        &mut self,
        node: &Node,
        old: Option<&Node>,
        left: &mut Vec<(Node, Option<Node>)>,
    ) -> Result<(), Error> {
        let subtree = |node: &Node| -> Option<TreeId> { node.subtree };
        let old = old.filter(|old| old.kind == NodeKind::Dir);
        let same = node.subtree.is_some() && old.and_then(subtree) == node.subtree;
        let Some(id) = node.subtree else { return Ok(()) };
        // What is the same takes nothing, unless it has to be copied.
        if same && self.clones {
            return Ok(());
        }
        if same && self.reuse.hard_links {
            // As a file with several names has to be: which of them are names of one file in the
            // older copy, nobody says.
            for node in load_tree(self.repository, id)?.nodes {
                if node.kind == NodeKind::Dir || node.links > 1 {
                    left.push((node.clone(), Some(node)));
                }
            }
            return Ok(());
        }
        let before = old.and_then(|old| load_tree(self.repository, old.subtree?).ok());
        for node in load_tree(self.repository, id)?.nodes {
            let old = before.as_ref().and_then(|tree| tree.get(&node.name)).cloned();
            left.push((node, old));
        }
        Ok(())
    }

    /// Counts all below a node by how the files of the copy look.
    fn by_sight(&mut self, root: &Node, cancel: &CancelToken) -> Result<(), Error> {
        let mut left = vec![(root.clone(), self.reuse.tree.to_owned())];
        while let Some((node, place)) = left.pop() {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match (node.kind, node.subtree) {
                (NodeKind::Dir, Some(id)) => {
                    let below = load_tree(self.repository, id)?.nodes;
                    left.extend(below.into_iter().map(|node| {
                        let place = place.join(OsStr::from_bytes(&node.name));
                        (node, place)
                    }));
                }
                (NodeKind::File, _) if !self.is_another_name(&node) => {
                    self.bytes = self.bytes.saturating_add(self.least(&node, place));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The least that a file takes beside what stands at its place in the copy.
    fn least(&self, node: &Node, place: PathBuf) -> u64 {
        let there = fs::symlink_metadata(place).ok().filter(|there| there.is_file());
        let Some(there) = there else { return node.size };
        let alone = node.links < 2 && there.nlink() == 1 && self.reuse.hard_links;
        let looks_same = (there.len(), there.mtime(), there.mtime_nsec())
            == (node.size, node.mtime.seconds, i64::from(node.mtime.nanos));
        let patched = self.reuse.redo.is_some() && node.size >= REDO_MIN;
        match self.clones || (alone && (looks_same || patched)) {
            true => node.size.saturating_sub(there.len()),
            false => node.size,
        }
    }

    /// Whether it is one more name of a file that was counted.
    fn is_another_name(&mut self, node: &Node) -> bool {
        if node.links < 2 || node.inode == 0 {
            return false;
        }
        match self.names.entry((node.device_id, node.inode)) {
            // The same by number, but not in what they hold, they are files of their own.
            Entry::Occupied(first) => *first.get() == node.content,
            Entry::Vacant(vacant) => {
                vacant.insert(node.content.clone());
                false
            }
        }
    }

    fn file(&mut self, node: &Node, old: Option<&Node>) -> Result<(), Error> {
        if self.is_another_name(node) {
            return Ok(());
        }
        let old = old.and_then(|old| OldFile::of(old, node, None));
        let need = match old {
            None => node.size,
            Some(old) if old.same && (self.reuse.hard_links || self.clones) => 0,
            Some(old) => {
                let kept = self.kept(&old.node, node)?;
                let rest = node.size.saturating_sub(kept);
                let patched = self.reuse.hard_links
                    && self.reuse.redo.is_some()
                    && is_patched(&old, node, kept);
                match (self.clones && kept > 0, patched) {
                    (true, _) => rest,
                    // The journal, and what is set aside for what grows.
                    (_, true) => rest.saturating_mul(2),
                    _ => node.size,
                }
            }
        };
        self.bytes = self.bytes.saturating_add(need);
        Ok(())
    }

    /// Bytes that are in both, at the same place.
    fn kept(&self, old: &Node, new: &Node) -> Result<u64, Error> {
        let length = |id: &BlobId| blob_length(self.repository, id);
        let (layout, end) = layout::of(&new.content, length)?;
        let old = layout::older(&old.content, (&layout, end), length);
        let stays = layout::in_place(&layout, &old).into_iter().enumerate();
        let kept = stays.filter(|(_, stays)| *stays);
        Ok(kept.map(|(number, _)| layout::length(&layout, number, end)).sum())
    }
}
