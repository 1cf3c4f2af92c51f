//! Finds entries in snapshots by name, time, or the blobs that they are made of. However many
//! snapshots are searched, each unique tree is read once.

use crate::glob::Glob;
use crate::{BlobId, Error, Node, NodeKind, Repository, Time, TreeId, trees};
use model::CancelToken;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What is searched for. An entry is found if one of the patterns or ids fits, and the times do.
#[derive(Clone, Debug, Default)]
pub struct Criteria {
    /// Patterns of paths.
    pub patterns: Vec<Glob>,
    /// Blobs of files.
    pub blobs: Vec<IdPrefix>,
    /// Trees of directories.
    pub trees: Vec<IdPrefix>,
    /// Blobs and trees of these ids, as many as there are (those of a pack).
    pub exactly: BTreeSet<BlobId>,
    /// Not modified before.
    pub oldest: Option<jiff::Timestamp>,
    /// Not modified after.
    pub newest: Option<jiff::Timestamp>,
}

/// The first digits of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// One to 64 hex digits.
    pub fn new(text: &str) -> Result<IdPrefix, Error> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !digits || text.len() > 64 {
            return Err(Error::Invalid(format!("{text:?} is no id, nor the beginning of one")));
        }
        Ok(IdPrefix(text.to_ascii_lowercase()))
    }

    /// Whether an id begins so.
    pub fn matches(&self, id: &[u8; 32]) -> bool {
        let digit = |at: usize| {
            let byte = id[at / 2];
            let half = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            char::from_digit(half.into(), 16)
        };
        self.0.chars().enumerate().all(|(at, wanted)| Some(wanted) == digit(at))
    }
}

/// Something that was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// Which of the snapshots it is in, by its place in the list.
    pub snapshot: usize,
    /// The absolute path.
    pub path: &'a [u8],
    /// The entry.
    pub node: &'a Node,
    /// Which of its blobs, or its tree, was asked for, if it was found by that.
    pub ids: Vec<BlobId>,
}

/// What takes what was found.
pub type Take<'a> = dyn FnMut(Found<'_>) -> Result<(), Error> + 'a;

/// Searches the trees of these snapshots, in this order. Returns what could not be searched because
/// it is damaged, each with its name.
pub fn find(
    repository: &Repository,
    roots: &[TreeId],
    criteria: &Criteria,
    cancel: &CancelToken,
    found: &mut Take<'_>,
) -> Result<Vec<String>, Error> {
    let read = Mutex::new(HashMap::new());
    let damage = Mutex::new(BTreeSet::new());
    trees::each(repository, roots.iter().copied(), cancel, &|id, tree| {
        let tree = match tree {
            Ok(tree) => tree,
            Err(e @ (Error::Damaged { .. } | Error::Missing(_))) => {
                damage.lock().unwrap_or_else(PoisonError::into_inner).insert(e.to_string());
                return Ok(Vec::new());
            }
            Err(e) => return Err(e),
        };
        let dirs: Vec<Dir> = tree
            .nodes
            .iter()
            .filter(|node| node.kind == NodeKind::Dir)
            .filter_map(|node| Some((node.name.clone().into(), node.subtree?)))
            .collect();
        let next = dirs.iter().map(|(_, id)| *id).collect();
        let candidates = tree.nodes.into_iter().filter(|node| criteria.may_match(node)).collect();
        let entry = Read { candidates, dirs };
        read.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        Ok(next)
    })?;
    let mut read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    prune(roots, &mut read);
    for (snapshot, root) in roots.iter().enumerate() {
        let mut tell = |path: &[u8], node: &Node| match criteria.matches(path, node) {
            Some(ids) => found(Found { snapshot, path, node, ids }),
            None => Ok(()),
        };
        // The root directory has no node of its own.
        let mut node = Node::new([], 0o040_755);
        node.subtree = Some(*root);
        if criteria.wants_tree(root) {
            tell(b"/", &node)?;
        }
        walk(*root, &read, &mut tell)?;
    }
    Ok(damage.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect())
}

/// What is kept of a tree.
struct Read {
    /// Entries that match, or would with the right directories above them.
    candidates: Vec<Node>,
    dirs: Vec<Dir>,
}

/// A directory's name and tree.
type Dir = (Arc<[u8]>, TreeId);

impl Criteria {
    /// Whether an entry with this node is found at some path.
    fn may_match(&self, node: &Node) -> bool {
        let named = self.patterns.iter().any(|pattern| pattern.may_end_in(&node.name));
        self.in_time(&node.mtime) && (named || !self.ids_in(node).is_empty())
    }

    /// Whether an entry is found, and by which ids.
    fn matches(&self, path: &[u8], node: &Node) -> Option<Vec<BlobId>> {
        let ids = self.ids_in(node);
        let root = path == b"/";
        let named = || !root && self.patterns.iter().any(|pattern| pattern.matches(path));
        (!ids.is_empty() || named()).then_some(ids)
    }

    fn ids_in(&self, node: &Node) -> Vec<BlobId> {
        let wanted = |id: &&BlobId| {
            self.exactly.contains(id) || self.blobs.iter().any(|prefix| prefix.matches(&id.0))
        };
        let tree = node.subtree.filter(|id| self.wants_tree(id)).map(BlobId::from);
        let mut ids: Vec<BlobId> =
            node.content.iter().filter(wanted).copied().chain(tree).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn wants_tree(&self, id: &TreeId) -> bool {
        self.exactly.contains(&BlobId::from(*id))
            || self.trees.iter().any(|prefix| prefix.matches(&id.0))
    }

    fn in_time(&self, modified: &Time) -> bool {
        let at = modified.timestamp();
        self.oldest.is_none_or(|oldest| at >= oldest)
            && self.newest.is_none_or(|newest| at <= newest)
    }
}

/// Drops the ways that lead to no candidate, so that each snapshot's walk goes only where something
/// may be.
fn prune(roots: &[TreeId], read: &mut HashMap<TreeId, Read>) {
    let mut open: Vec<(TreeId, usize)> = roots.iter().map(|root| (*root, 0)).collect();
    // Trees that lead somewhere (or not), as far as that is known.
    let mut useful: HashMap<TreeId, bool> = HashMap::new();
    while let Some((id, next)) = open.last_mut() {
        let child = read.get(id).and_then(|tree| tree.dirs.get(*next)).map(|(_, child)| *child);
        if let Some(child) = child {
            *next += 1;
            if !useful.contains_key(&child) {
                open.push((child, 0));
            }
            continue;
        }
        let id = *id;
        open.pop();
        let Some(tree) = read.get_mut(&id) else { continue };
        tree.dirs.retain(|(_, child)| useful.get(child) == Some(&true));
        let leads = !tree.dirs.is_empty() || !tree.candidates.is_empty();
        useful.insert(id, leads);
    }
}

fn walk(
    root: TreeId,
    read: &HashMap<TreeId, Read>,
    tell: &mut crate::reader::Visit<'_>,
) -> Result<(), Error> {
    let mut full = b"/".to_vec();
    let mut open: Vec<(usize, Vec<Dir>)> = Vec::new();
    let mut enter = Some(root);
    loop {
        if let Some(id) = enter.take()
            && let Some(tree) = read.get(&id)
        {
            let length = full.len();
            for node in &tree.candidates {
                push(&mut full, &node.name);
                tell(&full, node)?;
                full.truncate(length);
            }
            open.push((length, tree.dirs.iter().rev().cloned().collect()));
        }
        let Some((length, dirs)) = open.last_mut() else { return Ok(()) };
        full.truncate(*length);
        match dirs.pop() {
            Some((name, id)) => {
                push(&mut full, &name);
                enter = Some(id);
            }
            None => {
                open.pop();
            }
        }
    }
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
