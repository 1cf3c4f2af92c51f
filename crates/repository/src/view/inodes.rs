//! Numbers for what a view shows.
//!
//! A number follows from the place alone, so a listing tells it before anybody has looked there, and
//! what was forgotten comes back under the same number. What the kernel holds is in a table, a few
//! words each; the nodes themselves are read again from their trees.

use crate::{Node, NodeKind, Repository, TreeId};
use jiff::Timestamp;
use model::SnapshotId;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The number of the root directory.
pub const ROOT: u64 = 1;

/// A snapshot that is shown.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) service: Arc<str>,
    pub(super) snapshot: SnapshotId,
    /// Its tree, once somebody has looked.
    pub(super) root: OnceLock<TreeId>,
    pub(super) taken: Timestamp,
    pub(super) repository: Repository,
}

/// A file or directory of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) base: Arc<Base>,
    /// The number of the directory that it was first seen in.
    pub(super) parent: u64,
    /// The tree of that directory, and the name there.
    pub(super) tree: TreeId,
    pub(super) name: Box<[u8]>,
    /// Of several names of one file: what they have in common.
    pub(super) link: Option<u64>,
}

/// What has a number.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The directory of all services.
    Root,
    /// A service: the directory of its points.
    Service(Arc<str>),
    /// The link to its newest point.
    Latest(Arc<str>),
    /// The directory of its snapshots by id.
    Ids(Arc<str>),
    /// A link there.
    Id(Arc<str>, SnapshotId),
    /// The root of a snapshot.
    Snapshot(Arc<Base>),
    /// What is in it.
    Node(At),
}

impl Place {
    /// The same place, whatever was looked at in between.
    fn is(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Root, Place::Root) => true,
            (Place::Service(a), Place::Service(b))
            | (Place::Latest(a), Place::Latest(b))
            | (Place::Ids(a), Place::Ids(b)) => a == b,
            (Place::Id(a, x), Place::Id(b, y)) => a == b && x == y,
            (Place::Snapshot(a), Place::Snapshot(b)) => a.is(b),
            (Place::Node(a), Place::Node(b)) => {
                a.base.is(&b.base)
                    && match (a.link, b.link) {
                        (None, None) => a.parent == b.parent && a.name == b.name,
                        (a, b) => a == b,
                    }
            }
            _ => false,
        }
    }

    /// The number that it has unless another took it.
    pub(super) fn number(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        match self {
            Place::Root => return ROOT,
            Place::Service(service) => (1, service).hash(&mut hash),
            Place::Latest(service) => (2, service).hash(&mut hash),
            Place::Ids(service) => (3, service).hash(&mut hash),
            Place::Id(service, id) => (4, service, id.0).hash(&mut hash),
            Place::Snapshot(base) => (5, &base.service, base.snapshot.0).hash(&mut hash),
            Place::Node(At { base, link: Some(link), .. }) => {
                (6, &base.service, base.snapshot.0, link).hash(&mut hash);
            }
            Place::Node(at) => return child(at.parent, &at.name),
        }
        usable(hash.finish())
    }

    /// The service that it belongs to.
    pub(super) fn service(&self) -> Option<&Arc<str>> {
        match self {
            Place::Root => None,
            Place::Service(service)
            | Place::Latest(service)
            | Place::Ids(service)
            | Place::Id(service, _) => Some(service),
            Place::Snapshot(base) | Place::Node(At { base, .. }) => Some(&base.service),
        }
    }
}

impl Base {
    fn is(&self, other: &Base) -> bool {
        self.snapshot == other.snapshot && self.service == other.service
    }
}

/// The number of a name in a directory.
fn child(parent: u64, name: &[u8]) -> u64 {
    let mut hash = DefaultHasher::new();
    (7, parent, name).hash(&mut hash);
    usable(hash.finish())
}

/// Zero is no number, and one is the root's.
fn usable(number: u64) -> u64 {
    if number <= ROOT { number + 2 } else { number }
}

/// What the names of one file have in common; none if it has only one. The content is part of it: a
/// file that changed between two of its names is shown as two.
pub(super) fn link_of(node: &Node) -> Option<u64> {
    if node.links < 2 || node.kind == NodeKind::Dir || node.inode == 0 {
        return None;
    }
    let mut hash = DefaultHasher::new();
    (node.device_id, node.inode, node.size, node.mode, node.uid, node.gid).hash(&mut hash);
    (node.mtime.timestamp(), node.links, node.device, &node.link_target).hash(&mut hash);
    node.content.iter().for_each(|id| id.0.hash(&mut hash));
    for xattr in &node.xattrs {
        (&xattr.name, &xattr.value).hash(&mut hash);
    }
    Some(hash.finish())
}

/// What somebody holds, by its number.
#[derive(Debug)]
pub(super) struct Table(Mutex<HashMap<u64, Held>>);

#[derive(Debug)]
struct Held {
    place: Place,
    count: u64,
}

impl Table {
    pub(super) fn new() -> Table {
        let root = Held { place: Place::Root, count: 1 };
        Table(Mutex::new(HashMap::from([(ROOT, root)])))
    }

    /// Takes hold of a place once more. Answers with its number.
    pub(super) fn hold(&self, place: Place) -> u64 {
        let mut held = self.lock();
        let mut number = place.number();
        loop {
            match held.get_mut(&number) {
                None => {
                    held.insert(number, Held { place, count: 1 });
                    return number;
                }
                Some(known) if known.place.is(&place) => {
                    known.count = known.count.saturating_add(1);
                    return number;
                }
                // Two places of one number: the later one gets another.
                Some(_) => number = usable(number.wrapping_add(1)),
            }
        }
    }

    /// Lets go so many times.
    pub(super) fn release(&self, number: u64, count: u64) {
        let mut held = self.lock();
        if let Some(known) = held.get_mut(&number) {
            known.count = known.count.saturating_sub(count);
            if known.count == 0 && number != ROOT {
                held.remove(&number);
            }
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<Place> {
        self.lock().get(&number).map(|held| held.place.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_free_when_nobody_holds_it() {
        let table = Table::new();
        let shop = || Place::Service("shop".into());
        let number = table.hold(shop());
        assert_eq!(table.hold(shop()), number);
        assert_ne!(table.hold(Place::Latest("shop".into())), number);
        assert_eq!(table.len(), 3);
        table.release(number, 1);
        assert!(table.get(number).is_some());
        table.release(number, 1);
        assert!(table.get(number).is_none());
        assert_eq!(table.hold(shop()), number);
        table.release(ROOT, u64::MAX);
        assert!(table.get(ROOT).is_some());
    }

    #[test]
    fn two_places_never_share_a_number() {
        let table = Table::new();
        let other = Place::Service("other".into());
        // As if both had come to the same one.
        table.lock().insert(other.number(), Held { place: Place::Ids("x".into()), count: 1 });
        let number = table.hold(other.clone());
        assert_ne!(number, other.number());
        assert_eq!(table.hold(other), number);
    }
}
