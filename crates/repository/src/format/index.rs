//! Index files: which pack holds which blob.

use super::crypto::OVERHEAD_BYTES;
use super::pack::{MAX_LENGTH, PackedBlob};
use super::{BlobId, BlobKind, FormatError, IndexId, PackId};
use serde::{Deserialize, Serialize};

/// Index files are finished at this many blobs.
pub const MAX_BLOBS: usize = 50_000;

/// An index file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Older index files that this one replaces; whoever reads both ignores those.
    pub supersedes: Vec<IndexId>,
    /// Packs with their blobs.
    pub packs: Vec<IndexedPack>,
}

/// One pack with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: PackId,
    /// Its blobs.
    pub blobs: Vec<PackedBlob>,
}

#[derive(Serialize, Deserialize)]
struct IndexJson {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    supersedes: Vec<IndexId>,
    packs: Vec<PackJson>,
}

#[derive(Serialize, Deserialize)]
struct PackJson {
    id: PackId,
    blobs: Vec<BlobJson>,
}

#[derive(Serialize, Deserialize)]
struct BlobJson {
    id: BlobId,
    #[serde(rename = "type")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    uncompressed_length: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Index {
    /// Reads the JSON: the object of today, or the bare list of packs of restic's first years.
    pub fn decode(json: &[u8]) -> Result<Index, FormatError> {
        let index = if json.first() == Some(&b'[') {
            IndexJson { supersedes: Vec::new(), packs: serde_json::from_slice(json)? }
        } else {
            serde_json::from_slice(json)?
        };
        let mut packs = Vec::with_capacity(index.packs.len());
        for pack in index.packs {
            let mut blobs = Vec::with_capacity(pack.blobs.len());
            for blob in pack.blobs {
                let sealed = blob.length as usize;
                let lengths = [blob.length, blob.uncompressed_length];
                if sealed < OVERHEAD_BYTES
                    || lengths.iter().any(|length| *length > MAX_LENGTH)
                    || blob.offset.checked_add(blob.length).is_none()
                {
                    return Err(FormatError(format!(
                        "places blob {} at {} with {} bytes",
                        blob.id, blob.offset, blob.length
                    )));
                }
                blobs.push(PackedBlob {
                    kind: blob.kind,
                    id: blob.id,
                    offset: blob.offset,
                    length: blob.length,
                    plain_length: Some(blob.uncompressed_length).filter(|length| *length != 0),
                });
            }
            packs.push(IndexedPack { id: pack.id, blobs });
        }
        Ok(Index { supersedes: index.supersedes, packs })
    }

    /// The JSON.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let packs = self.packs.iter().map(|pack| PackJson {
            id: pack.id,
            blobs: pack
                .blobs
                .iter()
                .map(|blob| BlobJson {
                    id: blob.id,
                    kind: blob.kind,
                    offset: blob.offset,
                    length: blob.length,
                    uncompressed_length: blob.plain_length.unwrap_or(0),
                })
                .collect(),
        });
        let json = IndexJson { supersedes: self.supersedes.clone(), packs: packs.collect() };
        Ok(serde_json::to_vec(&json)?)
    }
}
