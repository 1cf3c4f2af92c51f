//! Where every blob is, in memory: 47 bytes for each, and half a byte to find it by.

mod live;
mod table;

pub(crate) use live::Live;

use crate::format::crypto::OVERHEAD_BYTES;
use crate::format::index::IndexedPack;
use crate::format::{BlobId, BlobKind, PackId};
use table::{Entry, Sorted, Table};

/// Where a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// Where the sealed blob begins.
    pub offset: u32,
    /// How long the sealed blob is.
    pub length: u32,
    /// How long the plain blob is, if it is compressed.
    pub plain_length: Option<u32>,
}

impl Location {
    /// How long the plain blob is. (Nothing for a sealed length that no blob can have.)
    pub fn plain_bytes(&self) -> u64 {
        let sealed = u64::from(self.length);
        self.plain_length.map_or(sealed.saturating_sub(OVERHEAD_BYTES as u64), u64::from)
    }
}

/// How large an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSize {
    /// Blobs in it; one that is stored twice counts twice.
    pub blobs: usize,
    /// What they take in memory, packs included.
    pub memory_bytes: usize,
}

/// What is to be added, as it comes: no more memory than it will take in the index.
#[derive(Debug, Default)]
struct Gathered {
    data: Vec<Entry>,
    trees: Vec<Entry>,
    packs: Vec<(PackId, u32)>,
}

impl Gathered {
    fn push(&mut self, pack: &IndexedPack) {
        let number = self.packs.len();
        let end = pack.blobs.iter().map(|blob| blob.offset.saturating_add(blob.length)).max();
        self.packs.push((pack.id, end.unwrap_or(0)));
        for blob in &pack.blobs {
            let entries = match blob.kind {
                BlobKind::Data => &mut self.data,
                BlobKind::Tree => &mut self.trees,
            };
            entries.extend(Entry::new(number, blob));
        }
    }

    /// The long part of the work, before anybody has to wait for it.
    fn sorted(mut self) -> Absorbable {
        self.packs.shrink_to_fit();
        let (data, trees) = (Sorted::new(self.data), Sorted::new(self.trees));
        Absorbable { data, trees, packs: self.packs }
    }
}

/// What is to be added, in order.
#[derive(Debug)]
struct Absorbable {
    data: Sorted,
    trees: Sorted,
    packs: Vec<(PackId, u32)>,
}

/// All blobs of a repository by kind and id.
#[derive(Debug, Default)]
pub struct BlobIndex {
    data: Table,
    trees: Table,
    /// By their numbers, with where the last blob of each ends. One that was added twice has two.
    packs: Vec<(PackId, u32)>,
}

impl BlobIndex {
    /// Adds packs.
    pub fn add(&mut self, packs: &[IndexedPack]) {
        let mut gathered = Gathered::default();
        for pack in packs {
            gathered.push(pack);
        }
        self.absorb(gathered.sorted());
    }

    fn absorb(&mut self, new: Absorbable) {
        let before = self.packs.len();
        if before == 0 {
            self.packs = new.packs;
        } else {
            self.packs.reserve_exact(new.packs.len());
            self.packs.extend(new.packs);
        }
        self.data.add(new.data.renumbered(before));
        self.trees.add(new.trees.renumbered(before));
    }

    /// Whether a blob is there.
    pub fn contains(&self, kind: BlobKind, id: &BlobId) -> bool {
        !self.table(kind).find(id).is_empty_now()
    }

    /// Where a blob is; one of several places if it was stored more than once.
    pub fn locate(&self, kind: BlobKind, id: &BlobId) -> Option<Location> {
        self.locations(kind, id).next()
    }

    /// All places where a blob is.
    pub fn locations(&self, kind: BlobKind, id: &BlobId) -> impl Iterator<Item = Location> {
        self.table(kind).find(id).filter_map(|entry| {
            let (pack, offset, length, plain_length) = entry.place();
            Some(Location { pack: self.packs.get(pack)?.0, offset, length, plain_length })
        })
    }

    /// Every pack with the length that its blobs need; its header follows them.
    pub fn packs(&self) -> impl Iterator<Item = (PackId, u64)> {
        self.packs.iter().map(|(id, end)| (*id, u64::from(*end)))
    }

    /// How many blobs there are; one that was stored twice counts twice.
    pub fn len(&self) -> usize {
        self.data.len() + self.trees.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the blobs take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.data.memory_bytes()
            + self.trees.memory_bytes()
            + self.packs.capacity() * size_of::<(PackId, u32)>()
    }

    fn table(&self, kind: BlobKind) -> &Table {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }
}
