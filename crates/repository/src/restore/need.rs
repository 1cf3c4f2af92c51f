//! How much space bringing an older copy to another snapshot takes, from the two snapshots' trees.

use super::Reuse;
use super::reuse::{OldFile, can_clone, is_patched};
use crate::reader::{SnapshotReader, blob_length, load_tree};
use crate::{BlobId, Error, Node, NodeKind, Repository, TreeId, disk};
use model::{CancelToken, SnapshotId};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;

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
pub fn need(
    repository: &Repository,
    snapshot: SnapshotId,
    path: &[u8],
    reuse: &Reuse<'_>,
    cancel: &CancelToken,
) -> Result<Need, Error> {
    let reader = SnapshotReader::open(repository, snapshot)?;
    let Some(node) = reader.node(path)? else {
        let path = disk::shown(path);
        return Err(Error::Missing(format!("there is no {path} in snapshot {}", snapshot.short())));
    };
    let beside = reuse.tree.parent().unwrap_or(Path::new("/"));
    let clones = can_clone(beside);
    let old = SnapshotReader::open(repository, reuse.snapshot)
        .and_then(|reader| reader.node(path))
        .ok()
        .flatten();
    let mut walk = Walk { repository, reuse, clones, bytes: 0, names: HashMap::new() };
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

    fn file(&mut self, node: &Node, old: Option<&Node>) -> Result<(), Error> {
        if node.links > 1 && node.inode != 0 {
            match self.names.entry((node.device_id, node.inode)) {
                // The same by number, but not in what they hold, they are files of their own.
                Entry::Occupied(first) if *first.get() != node.content => {}
                Entry::Occupied(_) => return Ok(()),
                Entry::Vacant(vacant) => {
                    vacant.insert(node.content.clone());
                }
            }
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
        let mut there = HashSet::with_capacity(old.content.len());
        let mut at = 0;
        for id in &old.content {
            let Ok(length) = blob_length(self.repository, id) else { break };
            there.insert((*id, at));
            at += length;
        }
        let (mut at, mut kept) = (0, 0);
        for id in &new.content {
            let length = blob_length(self.repository, id)?;
            if there.contains(&(*id, at)) {
                kept += length;
            }
            at += length;
        }
        Ok(kept)
    }
}
