//! Pack files: sealed blobs end to end, then a sealed header that lists them, then its length.
//!
//! A header entry is `type (1) ‖ length (4) ‖ id (32)`, or for a compressed blob
//! `type (1) ‖ length (4) ‖ plain length (4) ‖ id (32)`, numbers little-endian; lengths are those of
//! the sealed blobs. Offsets are not stored: there are no gaps.

use super::crypto::{MasterKey, OVERHEAD_BYTES};
use super::{BlobId, BlobKind, FormatError};

/// Bytes of the length at the very end.
pub const LENGTH_BYTES: usize = 4;
/// Bytes of a header entry for an uncompressed blob.
const PLAIN_ENTRY: usize = 37;
/// Bytes of a header entry for a compressed blob.
const COMPRESSED_ENTRY: usize = 41;
/// No sealed header is larger.
pub const MAX_HEADER_BYTES: usize = 16 << 20;

/// No blob is longer, sealed or plain: it would be half of what offsets can say.
pub const MAX_LENGTH: u32 = (1 << 31) - 1;

/// One blob of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedBlob {
    /// What it holds.
    pub kind: BlobKind,
    /// The SHA-256 of its plain bytes.
    pub id: BlobId,
    /// Where the sealed blob begins in the pack.
    pub offset: u32,
    /// How long the sealed blob is.
    pub length: u32,
    /// How long the plain blob is, if it is compressed.
    pub plain_length: Option<u32>,
}

impl PackedBlob {
    /// How long the plain blob is. (Nothing for a sealed length that no blob can have.)
    pub fn plain_bytes(&self) -> u64 {
        let sealed = u64::from(self.length);
        self.plain_length.map_or(sealed.saturating_sub(OVERHEAD_BYTES as u64), u64::from)
    }
}

/// How long the sealed header for these blobs and its length are.
pub fn trailer_bytes_of<'a>(blobs: impl IntoIterator<Item = &'a PackedBlob>) -> usize {
    let entries = blobs.into_iter().map(|blob| match blob.plain_length {
        Some(_) => COMPRESSED_ENTRY,
        None => PLAIN_ENTRY,
    });
    entries.sum::<usize>() + OVERHEAD_BYTES + LENGTH_BYTES
}

/// How long a whole pack with these blobs is.
pub fn size_bytes(blobs: &[PackedBlob]) -> u64 {
    let sealed: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
    sealed + trailer_bytes_of(blobs) as u64
}

/// Appends the sealed header for `blobs`, and its length, to the blobs in `pack`.
pub fn append_trailer(
    pack: &mut Vec<u8>,
    blobs: &[PackedBlob],
    key: &MasterKey,
) -> Result<(), FormatError> {
    let mut header = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY);
    for blob in blobs {
        let kind = match blob.kind {
            BlobKind::Data => 0,
            BlobKind::Tree => 1,
        };
        header.push(if blob.plain_length.is_some() { kind + 2 } else { kind });
        header.extend_from_slice(&blob.length.to_le_bytes());
        if let Some(plain) = blob.plain_length {
            header.extend_from_slice(&plain.to_le_bytes());
        }
        header.extend_from_slice(&blob.id.0);
    }
    let sealed_length = u32::try_from(header.len() + OVERHEAD_BYTES)
        .ok()
        .filter(|length| *length as usize <= MAX_HEADER_BYTES)
        .ok_or_else(|| FormatError::new("too many blobs for one pack"))?;
    key.seal_into(&header, pack);
    pack.extend_from_slice(&sealed_length.to_le_bytes());
    Ok(())
}

/// How many bytes before the end of a pack of `size` bytes the sealed header begins, from the
/// pack's last four bytes. Neither may be believed before it is checked: this checks.
pub fn header_length(size: u64, last: [u8; LENGTH_BYTES]) -> Result<usize, FormatError> {
    let length = u32::from_le_bytes(last) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(FormatError(format!("says that its header has {length} bytes")));
    }
    if length < OVERHEAD_BYTES + PLAIN_ENTRY {
        return Err(FormatError(format!("says that its header has only {length} bytes")));
    }
    if (length + LENGTH_BYTES) as u64 > size {
        return Err(FormatError(format!("has {size} bytes, fewer than its header ({length})")));
    }
    Ok(length)
}

/// Opens a sealed header. `blob_bytes` is how long the part in front of it is: the blobs must fill
/// it exactly.
pub fn decode_header(
    sealed: &[u8],
    blob_bytes: u64,
    key: &MasterKey,
) -> Result<Vec<PackedBlob>, FormatError> {
    let header = key.open(sealed)?;
    let mut blobs = Vec::with_capacity(header.len() / PLAIN_ENTRY);
    let mut rest = header.as_slice();
    let mut offset = 0u32;
    while !rest.is_empty() {
        let (blob, after) = decode_entry(rest, offset)?;
        offset = offset
            .checked_add(blob.length)
            .filter(|end| u64::from(*end) <= blob_bytes)
            .ok_or_else(|| FormatError::new("its header lists more than the pack holds"))?;
        blobs.push(blob);
        rest = after;
    }
    if u64::from(offset) != blob_bytes {
        return Err(FormatError(format!(
            "its header lists {offset} bytes of blobs, but there are {blob_bytes}"
        )));
    }
    Ok(blobs)
}

fn decode_entry(rest: &[u8], offset: u32) -> Result<(PackedBlob, &[u8]), FormatError> {
    let short = || FormatError::new("its header ends in the middle of an entry");
    let (&[code], rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (kind, compressed) = match code {
        0 => (BlobKind::Data, false),
        1 => (BlobKind::Tree, false),
        2 => (BlobKind::Data, true),
        3 => (BlobKind::Tree, true),
        other => return Err(FormatError(format!("its header has a blob of unknown type {other}"))),
    };
    let (length, mut rest) = rest.split_first_chunk().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length);
    if (length as usize) < OVERHEAD_BYTES || length > MAX_LENGTH {
        return Err(FormatError(format!("its header has a blob of {length} bytes")));
    }
    let mut plain_length = None;
    if compressed {
        let (plain, after) = rest.split_first_chunk().ok_or_else(short)?;
        let plain = u32::from_le_bytes(*plain);
        if plain > MAX_LENGTH {
            return Err(FormatError(format!("its header has a blob of {plain} plain bytes")));
        }
        plain_length = Some(plain);
        rest = after;
    }
    let (id, rest) = rest.split_first_chunk().ok_or_else(short)?;
    Ok((PackedBlob { kind, id: BlobId(*id), offset, length, plain_length }, rest))
}
