//! Reads blobs, each verified by its SHA-256.

use crate::files::FileKind;
use crate::format::{BlobId, BlobKind, PackId};
use crate::index::{IndexSize, Location};
use crate::pipeline::BlobDecompressor;
use crate::{Error, Repository};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Gaps up to this size are read along rather than asked for in two requests.
const GAP_BYTES: u32 = 128 << 10;

/// Blobs of one pack that are wanted, in the order in which they lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRead {
    /// The pack.
    pub pack: PackId,
    /// The kind of all of them.
    pub kind: BlobKind,
    /// The blobs and where they are.
    pub blobs: Vec<(BlobId, Location)>,
}

impl PackRead {
    /// Sealed bytes of these blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, location)| u64::from(location.length)).sum()
    }
}

/// What takes the blobs of a [`PackRead`], one after the other: plain bytes, or why there are none.
pub type TakeBlob<'a> = dyn FnMut(&BlobId, Result<&[u8], Error>) -> Result<(), Error> + 'a;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<BlobDecompressor>> = const { RefCell::new(None) };
}

impl Repository {
    /// Brings the index up to date with what others have added and removed.
    pub fn refresh_index(&self) -> Result<(), Error> {
        self.index().refresh(self.files())
    }

    /// How large the index is, which is loaded if need be.
    pub fn index_size(&self) -> Result<IndexSize, Error> {
        self.index().with(self.files(), |index| IndexSize {
            blobs: index.len(),
            memory_bytes: index.memory_bytes(),
        })
    }

    /// Fails unless every pack that the index names is there and long enough. Asked before anything
    /// is added: what the index has is not stored again, so a snapshot that was built on a lost
    /// pack could not be restored. Bytes that changed in place only a `check` finds.
    pub(crate) fn require_packs(&self) -> Result<(), Error> {
        let stored: HashMap<PackId, u64> = self
            .files()
            .list(FileKind::Pack)?
            .into_iter()
            .map(|file| (PackId(file.id), file.size_bytes))
            .collect();
        let lost = self.index().with(self.files(), |index| {
            index.packs().find(|(id, end)| stored.get(id).is_none_or(|size| size <= end))
        })?;
        let Some((id, end)) = lost else { return Ok(()) };
        Err(Error::damaged(
            format!("pack {id}"),
            match stored.get(&id) {
                None => "it is missing, and nothing can be added that relies on it".to_owned(),
                Some(size) => format!("it has {size} bytes, and its blobs alone take {end}"),
            },
        ))
    }

    /// Whether a durable index file names this blob.
    pub fn contains(&self, kind: BlobKind, id: &BlobId) -> Result<bool, Error> {
        self.index().with(self.files(), |index| index.contains(kind, id))
    }

    /// Where a blob is. If it is not in the index as loaded, the index is brought up to date, since
    /// somebody else may have added it.
    pub fn locate(&self, kind: BlobKind, id: &BlobId) -> Result<Location, Error> {
        Ok(self.all_locations(kind, id)?[0])
    }

    /// All places where a blob is; at least one.
    pub(crate) fn all_locations(
        &self,
        kind: BlobKind,
        id: &BlobId,
    ) -> Result<Vec<Location>, Error> {
        let ask = || {
            self.index().with(self.files(), |index| index.locations(kind, id).collect::<Vec<_>>())
        };
        let mut found = ask()?;
        if found.is_empty() {
            self.refresh_index()?;
            found = ask()?;
        }
        if found.is_empty() {
            return Err(in_no_index(kind, id));
        }
        Ok(found)
    }

    /// The plain bytes of a blob. One that is stored more than once is read from the first place
    /// where it is whole.
    pub fn load_blob(&self, kind: BlobKind, id: &BlobId) -> Result<Vec<u8>, Error> {
        match self.load_known(kind, id) {
            // Nothing is moved beside a lock. Whoever has none may know an index that was true before
            // somebody's prune.
            Err(Error::Damaged { .. }) if !self.is_locked() => {
                self.refresh_index()?;
                self.load_known(kind, id)
            }
            other => other,
        }
    }

    /// The same, from where the index as it is loaded has it.
    fn load_known(&self, kind: BlobKind, id: &BlobId) -> Result<Vec<u8>, Error> {
        let mut failure = None;
        for location in self.all_locations(kind, id)? {
            match self.load_from(kind, id, &location) {
                Ok(plain) => return Ok(plain),
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        Err(failure.unwrap_or_else(|| in_no_index(kind, id)))
    }

    /// The plain bytes of a blob, from this place and no other.
    pub(crate) fn load_from(
        &self,
        kind: BlobKind,
        id: &BlobId,
        at: &Location,
    ) -> Result<Vec<u8>, Error> {
        let offset = u64::from(at.offset);
        let mut sealed = self.files().read_pack_range(at.pack, offset, at.length as usize)?;
        let mut plain = Vec::new();
        self.open_blob(kind, id, at, &mut sealed, &mut plain)?;
        Ok(plain)
    }

    /// Groups blobs by the packs they are in, for reads that are as few and as long as possible.
    /// A blob that is named more than once comes once.
    pub fn plan_reads(
        &self,
        kind: BlobKind,
        ids: impl IntoIterator<Item = BlobId>,
    ) -> Result<Vec<PackRead>, Error> {
        let mut packs: BTreeMap<PackId, Vec<(BlobId, Location)>> = BTreeMap::new();
        let mut planned = HashSet::new();
        for id in ids {
            if planned.insert(id) {
                let location = self.locate(kind, &id)?;
                packs.entry(location.pack).or_default().push((id, location));
            }
        }
        let reads = packs.into_iter().map(|(pack, mut blobs)| {
            blobs.sort_by_key(|(_, location)| location.offset);
            PackRead { pack, kind, blobs }
        });
        Ok(reads.collect())
    }

    /// Reads the blobs of a plan and calls `take` with each, in order: with its plain bytes, or
    /// with what is wrong with it (after every other place where it is stored was tried). Ends
    /// early only if `take` fails.
    pub fn read_pack(&self, read: &PackRead, take: &mut TakeBlob<'_>) -> Result<(), Error> {
        let (mut plain, mut bytes) = ([Vec::new(), Vec::new()], Vec::new());
        let mut rest = read.blobs.as_slice();
        let most = self.files().request_bytes();
        while !rest.is_empty() {
            let (request, after) = rest.split_at(first_request(rest, most));
            rest = after;
            let start = request[0].1.offset;
            let end = request.iter().map(|(_, at)| at.offset.saturating_add(at.length)).max();
            let length = end.unwrap_or(start) - start;
            // If the whole request fails, some of its blobs may still be readable by themselves.
            let (files, from, length) = (self.files(), u64::from(start), length as usize);
            if files.read_pack_range_into(read.pack, from, length, &mut bytes).is_err() {
                bytes.clear();
            }
            for two in request.chunks(2) {
                self.open_two(read.kind, start, two, &mut bytes, &mut plain, take)?;
            }
        }
        Ok(())
    }

    /// Opens one or two blobs of what was read from `start` on, and hands them over. Two are
    /// verified at once, which is faster.
    fn open_two(
        &self,
        kind: BlobKind,
        start: u32,
        blobs: &[(BlobId, Location)],
        bytes: &mut [u8],
        plain: &mut [Vec<u8>; 2],
        take: &mut TakeBlob<'_>,
    ) -> Result<(), Error> {
        plain.iter_mut().for_each(Vec::clear);
        let mut opened = [Ok(()), Ok(())];
        for (((id, at), plain), opened) in blobs.iter().zip(&mut *plain).zip(&mut opened) {
            let from = (at.offset - start) as usize;
            *opened = match bytes.get_mut(from..from + at.length as usize) {
                Some(sealed) => self.unpack(kind, id, at, sealed, plain),
                None => Err(in_no_index(kind, id)),
            };
        }
        let [one, two] = &*plain;
        let ids = match (&opened, blobs) {
            ([Ok(()), Ok(())], [_, _]) => BlobId::of_two(one, two),
            _ => [BlobId::of(one), BlobId::of(two)],
        };
        for ((((id, at), plain), opened), is) in blobs.iter().zip(&*plain).zip(opened).zip(ids) {
            match opened.and_then(|()| verify(kind, id, at, is)) {
                Ok(()) => take(id, Ok(plain))?,
                Err(_) => match self.load_blob(kind, id) {
                    Ok(plain) => take(id, Ok(&plain))?,
                    Err(e) => take(id, Err(e))?,
                },
            }
        }
        Ok(())
    }

    /// Decrypts (where it stands), decompresses and verifies a blob.
    pub(crate) fn open_blob(
        &self,
        kind: BlobKind,
        id: &BlobId,
        at: &Location,
        sealed: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.unpack(kind, id, at, sealed, plain)?;
        verify(kind, id, at, BlobId::of(plain))
    }

    /// Decrypts (where it stands) and decompresses a blob. What it is has to be verified.
    pub(crate) fn unpack(
        &self,
        kind: BlobKind,
        id: &BlobId,
        at: &Location,
        sealed: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let damaged = |what: String| damaged(kind, id, at, &what);
        let opened = self.files().key.open_in_place(sealed).map_err(|e| damaged(e.to_string()))?;
        match at.plain_length {
            None => {
                plain.clear();
                plain.extend_from_slice(opened);
            }
            Some(length) => DECOMPRESSOR.with_borrow_mut(|slot| {
                let decompressor = match slot {
                    Some(decompressor) => decompressor,
                    None => slot.insert(BlobDecompressor::new()?),
                };
                decompressor.decompress(opened, length as usize, plain).map_err(damaged)
            })?,
        }
        Ok(())
    }
}

/// Whether a blob is what it is named after.
pub(crate) fn verify(kind: BlobKind, id: &BlobId, at: &Location, is: BlobId) -> Result<(), Error> {
    if is == *id {
        return Ok(());
    }
    Err(damaged(kind, id, at, "its bytes are not those it is named after"))
}

fn damaged(kind: BlobKind, id: &BlobId, at: &Location, what: &str) -> Error {
    Error::damaged(
        format!("{kind} blob {id}"),
        format!("{what} ({} at {})", FileKind::Pack.name(at.pack.0), at.offset),
    )
}

fn in_no_index(kind: BlobKind, id: &BlobId) -> Error {
    Error::Missing(format!("{kind} blob {id} is in no index"))
}

/// How many of these blobs go into one request: as long as gaps are small, and the sum is no more than this,
/// unless a single one is.
fn first_request(blobs: &[(BlobId, Location)], most: u32) -> usize {
    let Some(((_, first), rest)) = blobs.split_first() else { return 0 };
    let mut end = first.offset.saturating_add(first.length);
    let more = rest.iter().take_while(|(_, at)| {
        let next = at.offset.saturating_add(at.length);
        let near = at.offset <= end.saturating_add(GAP_BYTES);
        let small = next - first.offset <= most;
        end = end.max(next);
        near && small
    });
    1 + more.count()
}
