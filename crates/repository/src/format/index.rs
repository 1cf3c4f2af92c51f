//! Index files: which pack holds which blob.

use super::crypto::OVERHEAD_BYTES;
use super::pack::{MAX_LENGTH, PackedBlob};
use super::{BlobId, BlobKind, FormatError, IndexId, PackId};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, Serialize};
use std::fmt;

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

#[derive(Serialize)]
struct IndexJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
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
        let mut packs = Vec::new();
        let supersedes = Index::decode_each(json, &mut |pack| packs.push(pack))?;
        Ok(Index { supersedes, packs })
    }

    /// Reads the JSON and hands over each pack as it comes, so that not all of them are held at
    /// once. Returns the older index files that this one replaces. What was handed over before an
    /// error counts for nothing.
    pub fn decode_each(
        json: &[u8],
        take: &mut dyn FnMut(IndexedPack),
    ) -> Result<Vec<IndexId>, FormatError> {
        let mut from = serde_json::Deserializer::from_slice(json);
        let supersedes = if json.first() == Some(&b'[') {
            Packs(take).deserialize(&mut from).map(|()| Vec::new())
        } else {
            from.deserialize_map(Object(take))
        }?;
        from.end()?;
        Ok(supersedes)
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

/// The object of an index file.
struct Object<'a>(&'a mut dyn FnMut(IndexedPack));

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Vec<IndexId>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an index")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<IndexId>, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "lowercase")]
        enum Name {
            Supersedes,
            Packs,
            #[serde(other)]
            Other,
        }
        let (mut supersedes, mut packs) = (None, None);
        while let Some(name) = map.next_key()? {
            match name {
                Name::Supersedes if supersedes.is_some() => {
                    return Err(A::Error::duplicate_field("supersedes"));
                }
                Name::Packs if packs.is_some() => return Err(A::Error::duplicate_field("packs")),
                Name::Supersedes => supersedes = Some(map.next_value()?),
                Name::Packs => packs = Some(map.next_value_seed(Packs(self.0))?),
                Name::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        packs.ok_or_else(|| A::Error::missing_field("packs"))?;
        Ok(supersedes.unwrap_or_default())
    }
}

/// The list of packs.
struct Packs<'a>(&'a mut dyn FnMut(IndexedPack));

impl<'de> DeserializeSeed<'de> for Packs<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Packs<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of packs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut packs: A) -> Result<(), A::Error> {
        while let Some(pack) = packs.next_element::<PackJson>()? {
            (self.0)(pack.judged().map_err(A::Error::custom)?);
        }
        Ok(())
    }
}

impl PackJson {
    /// Refuses places that no blob can have.
    fn judged(self) -> Result<IndexedPack, FormatError> {
        let mut blobs = Vec::with_capacity(self.blobs.len());
        for blob in self.blobs {
            let lengths = [blob.length, blob.uncompressed_length];
            if (blob.length as usize) < OVERHEAD_BYTES
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
        Ok(IndexedPack { id: self.id, blobs })
    }
}
