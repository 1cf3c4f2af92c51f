//! How large snapshots are: what a restore of them writes, what they take in the repository, and
//! what deduplication and compression save. Each unique tree is read once.

use crate::files::FileKind;
use crate::sha256;
use crate::{BlobId, BlobKind, Error, Node, NodeKind, Repository, Tree, TreeId, trees};
use model::CancelToken;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// What a restore of one snapshot writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Contents {
    /// Files; each name of a file with several counts.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of all files; a file with several names counts once.
    pub restore_bytes: u64,
}

/// Files with different content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unique {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Blobs that snapshots need, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Raw {
    /// Blobs of file content.
    pub data_blobs: u64,
    /// Directories as blobs.
    pub tree_blobs: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// The part of them that is file content.
    pub data_bytes: u64,
    /// What they take in packs: compressed, encrypted.
    pub stored_bytes: u64,
}

/// Everything about a set of snapshots.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stats {
    /// For each snapshot, in the order that was asked for.
    pub each: Vec<Contents>,
    /// The sum of all of these.
    pub total: Contents,
    /// Files by content, over all snapshots.
    pub unique: Unique,
    /// Blobs, over all snapshots.
    pub raw: Raw,
    /// Pack files in the repository, whoever needs them.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
}

impl Stats {
    /// How much smaller deduplication makes it: bytes to restore, for each byte of different
    /// content. None if there is no content.
    pub fn dedupe_ratio(&self) -> Option<f64> {
        ratio(self.total.restore_bytes, self.raw.data_bytes)
    }

    /// How much smaller compression makes it: plain bytes for each stored byte.
    pub fn compression_ratio(&self) -> Option<f64> {
        ratio(self.raw.plain_bytes, self.raw.stored_bytes)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(large: u64, small: u64) -> Option<f64> {
    (small > 0).then(|| large as f64 / small as f64)
}

/// Measures the snapshots with these trees.
pub fn stats(
    repository: &Repository,
    roots: &[TreeId],
    cancel: &CancelToken,
) -> Result<Stats, Error> {
    let found = Mutex::new(Found::default());
    trees::each(repository, roots.iter().copied(), cancel, &|id, tree| {
        let tree = tree?;
        let sum = Sum::of(&tree);
        let next = sum.dirs.clone();
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        for node in tree.nodes.iter().filter(|node| node.kind == NodeKind::File) {
            found.blobs.extend(&node.content);
            if found.contents.insert(content_id(node)) {
                found.unique.files += 1;
                found.unique.bytes += node.size;
            }
        }
        found.sums.insert(id, sum);
        Ok(next)
    })?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut stats = Stats { unique: found.unique, ..Stats::default() };
    for root in roots {
        let contents = found.contents_of(*root);
        stats.total.add(&contents);
        stats.each.push(contents);
    }
    for id in &found.blobs {
        stats.raw.add(repository, BlobKind::Data, id)?;
    }
    for id in found.sums.keys() {
        stats.raw.add(repository, BlobKind::Tree, &(*id).into())?;
    }
    for pack in repository.files().list(FileKind::Pack)? {
        stats.packs += 1;
        stats.pack_bytes += pack.size_bytes;
    }
    Ok(stats)
}

#[derive(Default)]
struct Found {
    sums: HashMap<TreeId, Sum>,
    blobs: HashSet<BlobId>,
    /// Of files, by what they hold.
    contents: HashSet<[u8; 32]>,
    unique: Unique,
}

/// What is in one directory, without what is below.
struct Sum {
    own: Contents,
    /// Files with several names: device, inode, bytes.
    linked: Vec<((u64, u64), u64)>,
    dirs: Vec<TreeId>,
}

impl Sum {
    fn of(tree: &Tree) -> Sum {
        let mut sum = Sum { own: Contents::default(), linked: Vec::new(), dirs: Vec::new() };
        for node in &tree.nodes {
            match node.kind {
                NodeKind::File => {
                    sum.own.files += 1;
                    if node.links > 1 && node.inode != 0 {
                        sum.linked.push(((node.device_id, node.inode), node.size));
                    } else {
                        sum.own.restore_bytes += node.size;
                    }
                }
                NodeKind::Dir => {
                    sum.own.dirs += 1;
                    sum.dirs.extend(node.subtree);
                }
                _ => sum.own.others += 1,
            }
        }
        sum
    }
}

impl Found {
    fn contents_of(&self, root: TreeId) -> Contents {
        let mut contents = Contents::default();
        let mut linked = HashSet::new();
        let mut open = vec![root];
        while let Some(sum) = open.pop().and_then(|id| self.sums.get(&id)) {
            contents.add(&sum.own);
            for (inode, size) in &sum.linked {
                if linked.insert(*inode) {
                    contents.restore_bytes += size;
                }
            }
            open.extend(&sum.dirs);
        }
        contents
    }
}

impl Contents {
    fn add(&mut self, other: &Contents) {
        self.files += other.files;
        self.dirs += other.dirs;
        self.others += other.others;
        self.restore_bytes += other.restore_bytes;
    }
}

impl Raw {
    fn add(&mut self, repository: &Repository, kind: BlobKind, id: &BlobId) -> Result<(), Error> {
        let at = repository.locate(kind, id)?;
        let plain = at.plain_bytes();
        match kind {
            BlobKind::Data => {
                self.data_blobs += 1;
                self.data_bytes += plain;
            }
            BlobKind::Tree => self.tree_blobs += 1,
        }
        self.plain_bytes += plain;
        self.stored_bytes += u64::from(at.length);
        Ok(())
    }
}

/// What tells files with different content apart.
fn content_id(node: &Node) -> [u8; 32] {
    match node.content.as_slice() {
        [one] => one.0,
        several => sha256::sum(&several.iter().flat_map(|id| id.0).collect::<Vec<u8>>()),
    }
}
