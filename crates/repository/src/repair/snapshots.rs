//! Writes snapshots of what is left of damaged ones.
//!
//! A file that lacks any of its bytes is left out, never cut short: what is in the new snapshot is
//! as it was. The new one is marked, and no point: it becomes history only by somebody's decision.

use super::{Repaired, Work, header, misnamed};
use crate::files::FileKind;
use crate::format::PackId;
use crate::index::{BlobIndex, Location};
use crate::{
    BlobId, BlobKind, BlobWriter, Compression, Error, Node, NodeKind, Snapshot, Tree, TreeId,
};
use model::SnapshotId;
use std::collections::{HashMap, HashSet};
use storage::ErrorKind;

/// The tags of a snapshot that stands for a damaged one.
const TAGS: [&str; 2] = ["mainstay:repaired", "mainstay:incomplete"];

/// Judges every snapshot, and stores what is left of those that lack something as new ones. The
/// damaged ones stay, for whoever called to remove.
///
/// Goes by the index and the packs that are there; bytes that are damaged within a pack are found
/// by `repair_packs`, which comes before. An index that lacks packs that are there is an error as soon
/// as anything seems to be lost: it may be in one of those.
pub fn repair_snapshots(work: &Work<'_>) -> Result<Repaired, Error> {
    work.begin()?;
    work.repository.refresh_index()?;
    let listed = work.repository.files().list(FileKind::Pack)?;
    let stored: HashMap<PackId, u64> =
        listed.into_iter().map(|file| (PackId(file.id), file.size_bytes)).collect();
    let mut repair = Repair {
        work,
        stored,
        indexed: false,
        writer: None,
        trees: HashMap::new(),
        blobs: HashMap::new(),
        repaired: Repaired::default(),
    };
    work.progress.phase("reading snapshots");
    let misnamed = misnamed::put_right(work, &mut repair.repaired)?;
    for id in work.repository.snapshot_ids()? {
        work.check()?;
        if misnamed.contains(&id) {
            continue;
        }
        let snapshot = work.twice(|| {
            let snapshot = work.repository.snapshot(id)?;
            let root = snapshot.tree_id().map_err(|e| FileKind::Snapshot.damaged(id.0, e))?;
            Ok((snapshot, root))
        });
        let (snapshot, root) = match snapshot {
            Ok(found) => found,
            Err(e @ Error::Damaged { .. }) => {
                repair.repaired.lost.push(e.to_string());
                repair.repaired.damaged_snapshots.push(id);
                continue;
            }
            Err(e) => return Err(e),
        };
        repair.snapshot(id, &snapshot, root)?;
    }
    Ok(repair.repaired)
}

/// What became of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It lacks nothing.
    Whole,
    /// What is left of it.
    Part(TreeId),
    /// It cannot be read.
    Nothing,
}

struct Repair<'a> {
    work: &'a Work<'a>,
    /// The packs that are there, with their sizes.
    stored: HashMap<PackId, u64>,
    /// It is known that the index names all of them.
    indexed: bool,
    /// Made when there is something to write.
    writer: Option<BlobWriter>,
    trees: HashMap<TreeId, Left>,
    blobs: HashMap<BlobId, bool>,
    repaired: Repaired,
}

impl Repair<'_> {
    fn snapshot(&mut self, id: SnapshotId, old: &Snapshot, root: TreeId) -> Result<(), Error> {
        let left = match self.tree(root, b"/", 0)? {
            Left::Whole => return Ok(()),
            _ if !self.indexed => {
                self.require_index()?;
                self.indexed = true;
                return self.snapshot(id, old, root);
            }
            Left::Nothing => {
                self.repaired.lost.push(format!("snapshot {id}: its root directory"));
                self.repaired.damaged_snapshots.push(id);
                return Ok(());
            }
            Left::Part(left) => left,
        };
        self.repaired.damaged_snapshots.push(id);
        self.repaired.done.push(format!("snapshot {id}: what is left of it is stored anew"));
        if self.work.dry_run {
            return Ok(());
        }
        if let Some(writer) = &self.writer {
            writer.flush()?;
        }
        let mut new = Snapshot { tree: left.to_hex(), ..old.clone() };
        new.tags.extend(TAGS.map(str::to_owned));
        new.other.insert("original".to_owned(), serde_json::Value::String(id.to_string()));
        let new = self.work.repository.save_snapshot(self.work.lock, &new)?;
        self.repaired.replaced.push((new, id));
        Ok(())
    }

    /// Fails if a pack is there that the index does not name. One whose header cannot be read helps
    /// nobody.
    fn require_index(&self) -> Result<(), Error> {
        let named: HashSet<PackId> = {
            let repository = self.work.repository;
            let packs = |index: &BlobIndex| index.packs().map(|(id, _)| id).collect();
            repository.index().with(repository.files(), packs)?
        };
        for (id, size) in self.stored.iter().filter(|(id, _)| !named.contains(id)) {
            self.work.check()?;
            match self.work.twice(|| header(self.work.repository, *id, *size)) {
                Ok(_) => {
                    let what = format!(
                        "it does not name pack {id}, which may have what seems to be lost; repair it \
                         first"
                    );
                    return Err(Error::damaged("the index", what));
                }
                Err(Error::Damaged { .. }) => {}
                Err(Error::Storage(e)) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What is left of a directory. Deep trees are refused rather than the stack overrun.
    fn tree(&mut self, id: TreeId, path: &[u8], depth: usize) -> Result<Left, Error> {
        if let Some(known) = self.trees.get(&id) {
            return Ok(*known);
        }
        if depth > MAX_DEPTH {
            return Err(Error::Unsupported(format!("directories more than {MAX_DEPTH} deep")));
        }
        self.work.check()?;
        let left = match self.load(id)? {
            None => Left::Nothing,
            Some(tree) => self.nodes(tree, path, depth)?,
        };
        self.trees.insert(id, left);
        Ok(left)
    }

    fn load(&self, id: TreeId) -> Result<Option<Tree>, Error> {
        let load = || self.work.repository.load_blob(BlobKind::Tree, &id.into());
        let bytes = match self.work.twice(load) {
            Ok(bytes) => bytes,
            Err(Error::Damaged { .. } | Error::Missing(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        match Tree::decode(&bytes) {
            Ok(tree) => Ok(Some(tree)),
            Err(Error::Damaged { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn nodes(&mut self, tree: Tree, path: &[u8], depth: usize) -> Result<Left, Error> {
        let mut changed = false;
        let mut nodes = Vec::with_capacity(tree.nodes.len());
        for mut node in tree.nodes {
            let full = join(path, &node.name);
            let keep = match (node.kind, node.subtree) {
                (NodeKind::Dir, Some(subtree)) => match self.tree(subtree, &full, depth + 1)? {
                    Left::Whole => true,
                    Left::Part(left) => {
                        node.subtree = Some(left);
                        changed = true;
                        true
                    }
                    Left::Nothing => false,
                },
                (NodeKind::File, _) => self.has_all(&node)?,
                _ => true,
            };
            if keep {
                nodes.push(node);
            } else {
                changed = true;
                self.repaired.lost.push(shown(&full));
            }
        }
        if !changed {
            return Ok(Left::Whole);
        }
        let bytes = Tree { nodes }.encode()?;
        let id = TreeId::of(&bytes);
        if !self.work.dry_run {
            self.writer()?.save(BlobKind::Tree, bytes)?.wait()?;
        }
        Ok(Left::Part(id))
    }

    /// Whether all of a file's bytes can be there.
    fn has_all(&mut self, node: &Node) -> Result<bool, Error> {
        for id in &node.content {
            let there = match self.blobs.get(id) {
                Some(there) => *there,
                None => {
                    let there = match self.work.repository.all_locations(BlobKind::Data, id) {
                        Ok(places) => self.any_is_stored(&places)?,
                        Err(Error::Missing(_)) => false,
                        Err(e) => return Err(e),
                    };
                    self.blobs.insert(*id, there);
                    there
                }
            };
            if !there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A pack that the listing lacks is asked for before it counts as gone.
    fn any_is_stored(&mut self, places: &[Location]) -> Result<bool, Error> {
        for at in places {
            if self.stored.contains_key(&at.pack) {
                return Ok(true);
            }
            if let Some(size) = self.work.stored_size(at.pack)? {
                self.stored.insert(at.pack, size);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn writer(&mut self) -> Result<&BlobWriter, Error> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => {
                let cancel = self.work.cancel.clone();
                let writer = BlobWriter::new(self.work.repository, Compression::default(), cancel)?;
                Ok(none.insert(writer))
            }
        }
    }
}

/// Deeper than any file system goes, and shallow enough for the stack of a thread.
const MAX_DEPTH: usize = 1000;

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut full = path.to_vec();
    if full.last() != Some(&b'/') {
        full.push(b'/');
    }
    full.extend_from_slice(name);
    full
}

fn shown(path: &[u8]) -> String {
    crate::disk::shown(path).to_string()
}
