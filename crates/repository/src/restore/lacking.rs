//! Finds out what of a snapshot cannot be restored, by reading all of it.

use crate::reader::{SnapshotReader, load_tree};
use crate::{BlobId, BlobKind, Error, Node, NodeKind, Repository, TreeId, disk, parallel};
use model::{CancelToken, Progress, SnapshotId};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// What of a snapshot lacks bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Absolute paths in the snapshot: files, and directories of which nothing is known.
    pub paths: Vec<String>,
    /// Blobs that cannot be read.
    blobs: HashSet<BlobId>,
    trees: HashSet<TreeId>,
    /// What was asked for lacks bytes itself.
    pub all: bool,
}

impl Lacking {
    /// Whether everything is there.
    pub fn is_nothing(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether a node is left out.
    pub(super) fn has(&self, node: &Node) -> bool {
        match node.kind {
            NodeKind::Dir => node.subtree.is_some_and(|tree| self.trees.contains(&tree)),
            NodeKind::File => node.content.iter().any(|blob| self.blobs.contains(blob)),
            _ => false,
        }
    }
}

/// Reads what is at `path` in a snapshot, every byte of it, and says what cannot be read.
pub fn lacking(
    repository: &Repository,
    snapshot: SnapshotId,
    path: &[u8],
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Lacking, Error> {
    let reader = SnapshotReader::open(repository, snapshot)?;
    let node = reader.existing(path)?;
    progress.phase("looking for what cannot be read");
    let mut walk = Walk { repository, cancel, lacking: Lacking::default(), blobs: HashSet::new() };
    walk.run(path, &node)?;
    let wanted = std::mem::take(&mut walk.blobs);
    walk.lacking.blobs = unreadable(repository, wanted, progress, cancel)?;
    if !walk.lacking.blobs.is_empty() {
        // Once more, for the names.
        walk.run(path, &node)?;
    }
    let mut lacking = walk.lacking;
    lacking.paths.sort();
    lacking.paths.dedup();
    lacking.all = lacking.has(&node);
    Ok(lacking)
}

struct Walk<'a> {
    repository: &'a Repository,
    cancel: &'a CancelToken,
    lacking: Lacking,
    blobs: HashSet<BlobId>,
}

impl Walk<'_> {
    fn run(&mut self, path: &[u8], node: &Node) -> Result<(), Error> {
        let mut open = vec![(path.to_vec(), node.clone())];
        while let Some((path, node)) = open.pop() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match (node.kind, node.subtree) {
                (NodeKind::Dir, Some(id)) => match load_tree(self.repository, id) {
                    Ok(tree) => {
                        for child in tree.nodes {
                            let mut full = path.clone();
                            if full.last() != Some(&b'/') {
                                full.push(b'/');
                            }
                            full.extend_from_slice(&child.name);
                            open.push((full, child));
                        }
                    }
                    Err(Error::Damaged { .. } | Error::Missing(_)) => {
                        self.lacking.trees.insert(id);
                        self.lacking.paths.push(disk::shown(&path));
                    }
                    Err(e) => return Err(e),
                },
                (NodeKind::File, _) => {
                    if self.lacking.has(&node) {
                        self.lacking.paths.push(disk::shown(&path));
                    }
                    self.blobs.extend(&node.content);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Those of the blobs that cannot be read from anywhere.
fn unreadable(
    repository: &Repository,
    wanted: HashSet<BlobId>,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<HashSet<BlobId>, Error> {
    let mut bad = HashSet::new();
    let mut known = Vec::with_capacity(wanted.len());
    for id in wanted {
        match repository.locate(BlobKind::Data, &id) {
            Ok(_) => known.push(id),
            Err(Error::Missing(_)) => {
                bad.insert(id);
            }
            Err(e) => return Err(e),
        }
    }
    let reads = repository.plan_reads(BlobKind::Data, known)?;
    progress.expect(0, reads.iter().map(crate::PackRead::bytes).sum());
    let bad = Mutex::new(bad);
    parallel::for_each(&reads, parallel::readers(), |read| -> Result<(), Error> {
        repository.read_pack(read, &mut |id, bytes| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match bytes {
                Ok(_) => Ok(()),
                Err(Error::Damaged { .. } | Error::Missing(_)) => {
                    bad.lock().unwrap_or_else(PoisonError::into_inner).insert(*id);
                    Ok(())
                }
                Err(e) => Err(e),
            }
        })?;
        progress.advance(0, read.bytes());
        Ok(())
    })?;
    Ok(bad.into_inner().unwrap_or_else(PoisonError::into_inner))
}
