//! What is in a repository, as compactly as a prune can do with: where each blob is (48 bytes) and
//! whether it is used (a bit).

use crate::files::FileKind;
use crate::format::index::Index;
use crate::format::pack::PackedBlob;
use crate::format::{BlobId, BlobKind, IndexId, PackId};
use crate::index::Location;
use crate::{Error, Repository, parallel};
use model::CancelToken;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// One place of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) id: [u8; 32],
    /// The number of its pack.
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    /// 0 if it is not compressed.
    plain: u32,
}

/// A pack that an index names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pack {
    pub(crate) id: PackId,
    /// Where its last blob ends; its header follows.
    pub(crate) end_bytes: u64,
    /// How long it is; none if it is not there.
    pub(crate) stored_bytes: Option<u64>,
}

impl Pack {
    /// Whether all its blobs can be there; their bytes may be damaged all the same.
    pub(crate) fn is_there(&self) -> bool {
        self.stored_bytes.is_some_and(|stored| stored > self.end_bytes)
    }
}

/// An index file.
#[derive(Clone, Debug)]
pub(crate) struct IndexFile {
    pub(crate) id: IndexId,
    /// The packs that it names.
    pub(crate) packs: Vec<PackId>,
    pub(crate) blobs: usize,
    /// Another one replaces it: what it says does not count.
    pub(crate) superseded: bool,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) packs: Vec<Pack>,
    pub(crate) data: Blobs,
    pub(crate) trees: Blobs,
    pub(crate) indexes: Vec<IndexFile>,
    /// Packs that no index names, with their size.
    pub(crate) unreferenced: Vec<(PackId, u64)>,
}

/// All places of all blobs of one kind, sorted.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) places: Vec<Place>,
    used: Vec<AtomicU64>,
}

impl Blobs {
    fn finish(&mut self) {
        self.places.sort_unstable();
        self.places.dedup();
        self.places.shrink_to_fit();
        self.used = (0..self.places.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    }

    /// The first place of a blob; the others follow it.
    pub(crate) fn first(&self, id: &BlobId) -> Option<usize> {
        let at = self.places.partition_point(|place| place.id < id.0);
        self.places.get(at).filter(|place| place.id == id.0).map(|_| at)
    }

    /// All places of the blob whose first place this is.
    pub(crate) fn from(&self, first: usize) -> &[Place] {
        let rest = self.places.get(first..).unwrap_or_default();
        let Some(place) = rest.first() else { return rest };
        let same = rest.iter().take_while(|other| other.id == place.id).count();
        rest.get(..same).unwrap_or_default()
    }

    pub(crate) fn is_used(&self, at: usize) -> bool {
        self.used
            .get(at / 64)
            .is_some_and(|bits| bits.load(Ordering::Relaxed) >> (at % 64) & 1 == 1)
    }

    /// Marks a place; whether it was not marked before.
    pub(crate) fn mark(&self, at: usize) -> bool {
        let bit = 1 << (at % 64);
        self.used.get(at / 64).is_some_and(|bits| bits.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    pub(crate) fn unmark(&self, at: usize) {
        if let Some(bits) = self.used.get(at / 64) {
            bits.fetch_and(!(1 << (at % 64)), Ordering::Relaxed);
        }
    }
}

impl Contents {
    /// Reads all index files and lists all packs. A damaged index file is an error: what it names
    /// would be taken for garbage.
    pub(crate) fn read(repository: &Repository, cancel: &CancelToken) -> Result<Contents, Error> {
        let files = repository.files();
        // Before the packs: a pack that comes later is in neither and not touched.
        let ids: Vec<IndexId> =
            files.list(FileKind::Index)?.into_iter().map(|file| IndexId(file.id)).collect();
        let building = Mutex::new(Building::default());
        parallel::for_each(&ids, parallel::readers(), |id| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let json = files.read_json(FileKind::Index, id.0)?;
            let index = Index::decode(&json).map_err(|e| FileKind::Index.damaged(id.0, e))?;
            building.lock().unwrap_or_else(PoisonError::into_inner).add(*id, &index);
            Ok(())
        })?;
        let building = building.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut contents = building.finish();
        contents.look_at_packs(repository)?;
        Ok(contents)
    }

    fn look_at_packs(&mut self, repository: &Repository) -> Result<(), Error> {
        let mut stored: HashMap<PackId, u64> = repository
            .files()
            .list(FileKind::Pack)?
            .into_iter()
            .map(|file| (PackId(file.id), file.size_bytes))
            .collect();
        for pack in &mut self.packs {
            pack.stored_bytes = stored.remove(&pack.id);
        }
        self.unreferenced = stored.into_iter().collect();
        self.unreferenced.sort_unstable();
        Ok(())
    }

    pub(crate) fn of(&self, kind: BlobKind) -> &Blobs {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }

    pub(crate) fn pack(&self, number: u32) -> Option<&Pack> {
        self.packs.get(number as usize)
    }

    pub(crate) fn location(&self, place: &Place) -> Option<Location> {
        Some(Location {
            pack: self.pack(place.pack)?.id,
            offset: place.offset,
            length: place.length,
            plain_length: Some(place.plain).filter(|plain| *plain != 0),
        })
    }
}

/// Contents while index files are read.
#[derive(Default)]
struct Building {
    contents: Contents,
    numbers: HashMap<PackId, u32>,
    superseded: BTreeSet<IndexId>,
}

impl Building {
    fn add(&mut self, id: IndexId, index: &Index) {
        self.superseded.extend(&index.supersedes);
        let mut packs = Vec::with_capacity(index.packs.len());
        for indexed in &index.packs {
            let number = self.number(indexed.id, &indexed.blobs);
            packs.push(indexed.id);
            for blob in &indexed.blobs {
                let place = Place {
                    id: blob.id.0,
                    pack: number,
                    offset: blob.offset,
                    length: blob.length,
                    plain: blob.plain_length.unwrap_or(0),
                };
                match blob.kind {
                    BlobKind::Data => self.contents.data.places.push(place),
                    BlobKind::Tree => self.contents.trees.places.push(place),
                }
            }
        }
        let blobs = index.packs.iter().map(|pack| pack.blobs.len()).sum();
        self.contents.indexes.push(IndexFile { id, packs, blobs, superseded: false });
    }

    fn number(&mut self, id: PackId, blobs: &[PackedBlob]) -> u32 {
        let end = |blob: &PackedBlob| u64::from(blob.offset) + u64::from(blob.length);
        let end_bytes = blobs.iter().map(end).max().unwrap_or(0);
        if let Some(number) = self.numbers.get(&id) {
            if let Some(known) = self.contents.packs.get_mut(*number as usize) {
                known.end_bytes = known.end_bytes.max(end_bytes);
            }
            return *number;
        }
        let number = u32::try_from(self.contents.packs.len()).unwrap_or(u32::MAX);
        self.numbers.insert(id, number);
        self.contents.packs.push(Pack { id, end_bytes, stored_bytes: None });
        number
    }

    fn finish(self) -> Contents {
        let Building { mut contents, numbers, superseded } = self;
        if contents.indexes.iter().any(|file| superseded.contains(&file.id)) {
            for file in &mut contents.indexes {
                file.superseded = superseded.contains(&file.id);
            }
            let of = |superseded: bool| {
                let files = contents.indexes.iter().filter(move |f| f.superseded == superseded);
                files.flat_map(|file| &file.packs).copied().collect::<HashSet<PackId>>()
            };
            let (replaced, living) = (of(true), of(false));
            let dead: HashSet<u32> =
                replaced.difference(&living).filter_map(|id| numbers.get(id)).copied().collect();
            let Contents { data, trees, .. } = &mut contents;
            for blobs in [data, trees] {
                blobs.places.retain(|place| !dead.contains(&place.pack));
            }
        }
        contents.data.finish();
        contents.trees.finish();
        contents.indexes.sort_by_key(|file| file.id);
        contents
    }
}
