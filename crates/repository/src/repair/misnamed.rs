//! Puts snapshots that lie under a name that is not theirs where they belong.

use super::{Repaired, Work};
use crate::Error;
use crate::files::FileKind;
use crate::format::unpacked;
use crate::sha256;
use model::SnapshotId;
use std::collections::{BTreeMap, BTreeSet};
use storage::ErrorKind;

/// A whole snapshot file under a wrong name.
struct Misnamed {
    right: [u8; 32],
    sealed: Vec<u8>,
    json: Vec<u8>,
}

/// Stores snapshots that lie under a wrong name under their own. Returns the wrong names, which are
/// gone, or for a dry run would be.
pub(super) fn put_right(
    work: &Work<'_>,
    repaired: &mut Repaired,
) -> Result<BTreeSet<SnapshotId>, Error> {
    let found = find(work)?;
    for (wrong, misnamed) in &found {
        let (wrong, right) = (SnapshotId(*wrong), SnapshotId(misnamed.right));
        repaired
            .done
            .push(format!("snapshot {wrong} is in truth {right}, and is stored under that name"));
    }
    let wrong = found.keys().copied();
    if !work.dry_run {
        move_all(work, &found)?;
    }
    // Of two that were exchanged, each name is right in the end.
    let rights: BTreeSet<[u8; 32]> = found.values().map(|misnamed| misnamed.right).collect();
    let stay = |id: &[u8; 32]| !work.dry_run && rights.contains(id);
    Ok(wrong.filter(|id| !stay(id)).map(SnapshotId).collect())
}

fn find(work: &Work<'_>) -> Result<BTreeMap<[u8; 32], Misnamed>, Error> {
    let files = work.repository.files();
    let mut found = BTreeMap::new();
    for file in files.list(FileKind::Snapshot)? {
        work.check()?;
        let sealed = match files.storage.read(&FileKind::Snapshot.key(file.id)?) {
            Ok(sealed) => sealed,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e.into()),
        };
        let right = sha256::sum(&sealed);
        if right == file.id {
            continue;
        }
        // Whether it is a snapshot that it says, and not an index, is judged with all the others.
        let json = files.key.open(&sealed).ok().and_then(|plain| unpacked::decode(plain).ok());
        let is_snapshot = |json: &Vec<u8>| crate::Snapshot::decode(json).is_ok();
        if let Some(json) = json.filter(is_snapshot) {
            found.insert(file.id, Misnamed { right, sealed, json });
        }
    }
    Ok(found)
}

/// Whoever kills this leaves every snapshot under some name.
fn move_all(work: &Work<'_>, found: &BTreeMap<[u8; 32], Misnamed>) -> Result<(), Error> {
    if found.is_empty() {
        return Ok(());
    }
    work.lock.still_held()?;
    let files = work.repository.files();
    let rights: BTreeSet<[u8; 32]> = found.values().map(|misnamed| misnamed.right).collect();
    let mut copies = Vec::new();
    for misnamed in found.iter().filter(|(wrong, _)| rights.contains(*wrong)).map(|(_, m)| m) {
        // What lies at its place is about to be overwritten.
        copies.push(files.write_json(FileKind::Snapshot, &misnamed.json)?);
    }
    for misnamed in found.values() {
        files.storage.put(&FileKind::Snapshot.key(misnamed.right)?, &misnamed.sealed)?;
    }
    let wrong = found.keys().copied().filter(|wrong| !rights.contains(wrong));
    work.remove(FileKind::Snapshot, wrong.chain(copies))
}
