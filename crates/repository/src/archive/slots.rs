//! What becomes of a directory's entries while they are dealt with.

use super::content::Content;
use crate::{Error, Node, Tree, TreeId};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// A directory in the parent snapshot.
pub(super) struct Previous {
    pub(super) id: TreeId,
    pub(super) tree: Tree,
}

/// What becomes of a directory's entries. Outlives the open directory.
pub(super) struct Slots {
    pub(super) node: Node,
    /// The same directory in the parent snapshot.
    pub(super) previous: Option<Previous>,
    /// Which entry of the directory above had this very node there, but for its subtree.
    pub(super) same: Option<usize>,
    pub(super) entries: Mutex<Vec<Slot>>,
    /// Entries that are not dealt with, and one for whoever lists them.
    pub(super) left: AtomicUsize,
    pub(super) parent: Option<(Arc<Slots>, usize)>,
}

pub(super) enum Slot {
    /// Not dealt with; or a directory, which is filled in when it is encoded.
    Open,
    /// Not part of the tree.
    Out,
    /// What this entry of the same directory in the parent snapshot is.
    Same(usize),
    Node(Box<Node>),
    File(Box<Node>, Content),
}

impl Slots {
    /// The entry of this name in the parent snapshot; the name is in this place now.
    pub(super) fn before(&self, name: &[u8], now: usize) -> Option<(usize, &Node)> {
        let tree = &self.previous.as_ref()?.tree;
        let at = tree.find_near(name, now)?;
        Some((at, tree.nodes.get(at)?))
    }

    /// An entry of the parent snapshot.
    pub(super) fn known(&self, at: usize) -> Result<&Node, Error> {
        let node = self.previous.as_ref().and_then(|previous| previous.tree.nodes.get(at));
        node.ok_or_else(|| Error::Invalid("an entry of no directory is taken over".to_owned()))
    }

    /// The tree of the parent snapshot, if these entries are all of its own and nothing else.
    pub(super) fn unchanged(&self, entries: &[Slot]) -> Option<TreeId> {
        let previous = self.previous.as_ref()?;
        let mut same = 0..previous.tree.nodes.len();
        let kept = entries.iter().filter(|slot| !matches!(slot, Slot::Out));
        let all = kept.into_iter().all(|slot| match slot {
            Slot::Same(at) => same.next() == Some(*at),
            _ => false,
        });
        (all && same.is_empty()).then_some(previous.id)
    }

    pub(super) fn put(&self, at: usize, slot: Slot) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(at) {
            *entry = slot;
        }
    }
}
