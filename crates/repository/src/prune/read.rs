//! Reads blobs of one pack, in few and long requests, without the index of the open repository.

use crate::format::{BlobId, BlobKind, PackId};
use crate::index::Location;
use crate::{Error, Repository};

/// Gaps up to this size are read along.
const GAP_BYTES: u32 = 64 << 10;
/// No request is larger, unless a single blob is: several run at once.
const REQUEST_BYTES: u32 = 4 << 20;

/// A blob that is wanted, and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: BlobKind,
    pub(crate) id: BlobId,
    pub(crate) at: Location,
}

/// What was read of one blob: as it is stored, and verified.
pub(crate) struct Read<'a> {
    pub(crate) sealed: &'a [u8],
    pub(crate) plain: &'a [u8],
}

/// What takes the blobs, one after the other.
pub(crate) type Take<'a> = dyn FnMut(&Wanted, Result<Read<'_>, Error>) -> Result<(), Error> + 'a;

/// Calls `take` for each of these blobs of one pack, which are sorted by their offset, with its
/// bytes or with what is wrong with it. A storage that does not answer ends it.
pub(crate) fn read_pack(
    repository: &Repository,
    pack: PackId,
    wanted: &[Wanted],
    take: &mut Take<'_>,
) -> Result<(), Error> {
    let (mut sealed, mut plain) = (Vec::new(), Vec::new());
    let mut rest = wanted;
    while let Some(first) = rest.first() {
        let (request, after) = rest.split_at(first_request(rest));
        rest = after;
        let start = first.at.offset;
        let end = request.iter().map(|blob| blob.at.offset.saturating_add(blob.at.length)).max();
        let length = end.unwrap_or(start).saturating_sub(start) as usize;
        // If the request as a whole fails, some of its blobs may still be readable by themselves.
        let bytes = match repository.files().read_pack_range(pack, u64::from(start), length) {
            Ok(bytes) => bytes,
            Err(e @ Error::Damaged { .. }) if request.len() == 1 => {
                take(first, Err(e))?;
                continue;
            }
            Err(Error::Damaged { .. }) => Vec::new(),
            Err(e) => return Err(e),
        };
        for blob in request {
            let from = blob.at.offset.saturating_sub(start) as usize;
            sealed.clear();
            match bytes.get(from..from.saturating_add(blob.at.length as usize)) {
                Some(part) => sealed.extend_from_slice(part),
                None => {
                    let (at, length) = (u64::from(blob.at.offset), blob.at.length as usize);
                    match repository.files().read_pack_range(pack, at, length) {
                        Ok(alone) => sealed = alone,
                        Err(e @ Error::Damaged { .. }) => {
                            take(blob, Err(e))?;
                            continue;
                        }
                        Err(e) => return Err(e),
                    }
                }
            }
            verified(repository, blob, &sealed, &mut plain, take)?;
        }
    }
    Ok(())
}

fn verified(
    repository: &Repository,
    blob: &Wanted,
    sealed: &[u8],
    plain: &mut Vec<u8>,
    take: &mut Take<'_>,
) -> Result<(), Error> {
    // Opened where it stands, so in a copy: what is written anew is what was sealed before.
    let mut opening = sealed.to_vec();
    match repository.open_blob(blob.kind, &blob.id, &blob.at, &mut opening, plain) {
        Ok(()) => take(blob, Ok(Read { sealed, plain })),
        Err(e) => take(blob, Err(e)),
    }
}

/// How many of these blobs go into one request.
fn first_request(blobs: &[Wanted]) -> usize {
    let Some((first, rest)) = blobs.split_first() else { return 0 };
    let start = first.at.offset;
    let mut end = start.saturating_add(first.at.length);
    let more = rest.iter().take_while(|blob| {
        let next = blob.at.offset.saturating_add(blob.at.length);
        let near = blob.at.offset <= end.saturating_add(GAP_BYTES);
        let small = next.saturating_sub(start) <= REQUEST_BYTES;
        end = end.max(next);
        near && small
    });
    1 + more.count()
}
