//! Saves what is whole in damaged packs.

use super::{Repaired, Work, header};
use crate::files::FileKind;
use crate::format::index::Index;
use crate::format::pack::PackedBlob;
use crate::format::{IndexId, PackId};
use crate::index::Location;
use crate::prune::{IndexWriter, Wanted, copy_blobs};
use crate::{Error, parallel};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use storage::ErrorKind;

/// Looks at every byte of these packs (of all without any), and writes what is whole in those that
/// are damaged to new packs. What is not is named, and gone with its pack.
pub fn repair_packs(work: &Work<'_>, only: &[PackId]) -> Result<Repaired, Error> {
    work.begin()?;
    let mut repaired = Repaired::default();
    let files = work.repository.files();
    let mut stored: Vec<(PackId, u64)> = files
        .list(FileKind::Pack)?
        .into_iter()
        .map(|file| (PackId(file.id), file.size_bytes))
        .collect();
    if !only.is_empty() {
        stored.retain(|(id, _)| only.contains(id));
    }
    work.progress.phase("reading packs");
    work.progress.expect(stored.len() as u64, stored.iter().map(|(_, size)| size).sum());
    let damaged: Mutex<BTreeMap<PackId, u64>> = Mutex::default();
    parallel::for_each(&stored, parallel::cores() + 1, |(id, size)| -> Result<(), Error> {
        work.check()?;
        if !is_whole(work, *id)? {
            damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, *size);
        }
        work.progress.advance(1, *size);
        Ok(())
    })?;
    let damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    if damaged.is_empty() {
        return Ok(repaired);
    }
    // Everything is known before anything is written: an index that cannot be read ends it here.
    let indexes = Indexes::read(work)?;
    let mut wanted = Vec::new();
    for (id, size) in &damaged {
        let mut blobs: Vec<PackedBlob> = match work.twice(|| header(work.repository, *id, *size)) {
            Ok(blobs) => blobs,
            Err(Error::Damaged { .. }) => Vec::new(),
            Err(e) => return Err(e),
        };
        blobs.extend(indexes.blobs.get(id).into_iter().flatten());
        blobs.sort_by_key(|blob| (blob.offset, blob.kind, blob.id));
        blobs.dedup();
        wanted.push((*id, blobs.iter().map(|blob| wanted_of(*id, blob)).collect::<Vec<_>>()));
    }
    if work.dry_run {
        for (id, blobs) in &wanted {
            let (good, bad) = try_out(work, *id, blobs)?;
            tell(&mut repaired, *id, good, &bad);
        }
        return Ok(repaired);
    }
    work.progress.phase("saving what is whole in damaged packs");
    let copied = copy_blobs(work.repository, &wanted, work.progress, work.cancel)?;
    for (id, blobs) in &wanted {
        let bad = copied.damaged.get(id).cloned().unwrap_or_default();
        tell(&mut repaired, *id, blobs.len().saturating_sub(bad.len()), &bad);
    }
    let dropped: HashSet<PackId> = damaged.keys().copied().collect();
    let mut writer = IndexWriter::new(work.repository);
    for pack in copied.packs {
        writer.add(pack)?;
    }
    let affected = |packs: &Vec<PackId>| packs.iter().any(|pack| dropped.contains(pack));
    let old: Vec<IndexId> =
        indexes.files.iter().filter(|(_, packs)| affected(packs)).map(|(id, _)| *id).collect();
    for id in &old {
        writer.carry_over(*id, &dropped)?;
    }
    writer.finish()?;
    // Those that others replace first: without the others they would count again.
    work.remove(FileKind::Index, indexes.superseded.iter().chain(&old).map(|id| id.0))?;
    work.repository.index().unload();
    work.remove(FileKind::Pack, dropped.iter().map(|id| id.0))?;
    Ok(repaired)
}

/// Whether a pack's bytes are those it is named after. Read once more before it is condemned: it
/// may be the way here that flipped a bit.
fn is_whole(work: &Work<'_>, id: PackId) -> Result<bool, Error> {
    let key = FileKind::Pack.key(id.0)?;
    for _ in 0..2 {
        match work.repository.files().storage.read(&key) {
            Ok(bytes) if PackId::of(&bytes) == id => return Ok(true),
            Ok(_) => {}
            // Gone is no damage of its bytes; the index drops it.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

fn wanted_of(pack: PackId, blob: &PackedBlob) -> Wanted {
    let PackedBlob { kind, id, offset, length, plain_length } = *blob;
    Wanted { kind, id, at: Location { pack, offset, length, plain_length } }
}

/// How many of these blobs can be read, and what is wrong with the others.
fn try_out(work: &Work<'_>, pack: PackId, blobs: &[Wanted]) -> Result<(usize, Vec<String>), Error> {
    let (mut good, mut bad) = (0, Vec::new());
    crate::prune::read_pack(work.repository, pack, blobs, &mut |_, read| {
        work.check()?;
        match read {
            Ok(_) => good += 1,
            Err(e) => bad.push(e.to_string()),
        }
        Ok(())
    })?;
    Ok((good, bad))
}

fn tell(repaired: &mut Repaired, id: PackId, good: usize, bad: &[String]) {
    let lost = bad.len();
    repaired.done.push(format!("pack {id} is damaged: {good} of its blobs are saved, {lost} lost"));
    repaired.lost.extend(bad.iter().cloned());
}

/// What the index files say.
struct Indexes {
    /// Those that count, with the packs that they name.
    files: BTreeMap<IndexId, Vec<PackId>>,
    /// Those that others replace.
    superseded: Vec<IndexId>,
    /// Where blobs may be, by whichever of them says so.
    blobs: HashMap<PackId, Vec<PackedBlob>>,
}

impl Indexes {
    fn read(work: &Work<'_>) -> Result<Indexes, Error> {
        let files = work.repository.files();
        let mut indexes =
            Indexes { files: BTreeMap::new(), superseded: Vec::new(), blobs: HashMap::new() };
        let mut superseded = HashSet::new();
        for file in files.list(FileKind::Index)? {
            let index = work.twice(|| {
                let json = files.read_json(FileKind::Index, file.id)?;
                Index::decode(&json).map_err(|e| FileKind::Index.damaged(file.id, e))
            })?;
            superseded.extend(index.supersedes);
            let packs = index.packs.iter().map(|pack| pack.id).collect();
            indexes.files.insert(IndexId(file.id), packs);
            for pack in index.packs {
                indexes.blobs.entry(pack.id).or_default().extend(pack.blobs);
            }
        }
        indexes.superseded =
            superseded.into_iter().filter(|id| indexes.files.contains_key(id)).collect();
        indexes.files.retain(|id, _| !indexes.superseded.contains(id));
        Ok(indexes)
    }
}
