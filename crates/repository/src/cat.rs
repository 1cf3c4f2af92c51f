//! Single objects of a repository as they are, decrypted, for people who look into one.

use crate::files::{self, FileKind};
use crate::format::pack::{self, PackedBlob};
use crate::{BlobId, BlobKind, Error, PackId, Repository};
use serde::Serialize;
use storage::Key;

/// Kinds of files that can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A list of blobs by packs.
    Index,
    /// A snapshot.
    Snapshot,
    /// A key; the master key in it stays sealed.
    Key,
    /// A lock.
    Lock,
    /// Blobs with a header.
    Pack,
}

impl Kind {
    fn file(self) -> FileKind {
        match self {
            Kind::Index => FileKind::Index,
            Kind::Snapshot => FileKind::Snapshot,
            Kind::Key => FileKind::Key,
            Kind::Lock => FileKind::Lock,
            Kind::Pack => FileKind::Pack,
        }
    }
}

/// A pack as its own header describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackHeader {
    /// The pack.
    pub id: PackId,
    /// Bytes of the file.
    pub size: u64,
    /// What is in it, in order.
    pub blobs: Vec<PackedEntry>,
}

/// One blob of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackedEntry {
    /// Its id.
    pub id: BlobId,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: BlobKind,
    /// Where it begins.
    pub offset: u32,
    /// How long it is there.
    pub length: u32,
    /// How long it is plain, if it is compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncompressed_length: Option<u32>,
}

/// The JSON of the config.
pub fn config(repository: &Repository) -> Result<Vec<u8>, Error> {
    let key = Key::new("config").map_err(|e| Error::Invalid(e.to_string()))?;
    let files = repository.files();
    files.key.open(&files.storage.read(&key)?).map_err(|e| Error::damaged("config", e))
}

/// The one file of a kind whose id begins with these hex digits.
pub fn find(repository: &Repository, kind: Kind, prefix: &str) -> Result<[u8; 32], Error> {
    let wanted = crate::find::IdPrefix::new(prefix)?;
    let file = kind.file();
    let mut listed = repository.files().list(file)?;
    listed.retain(|listed| wanted.matches(&listed.id));
    match listed.as_slice() {
        [one] => Ok(one.id),
        [] => Err(Error::Missing(format!("there is no {file} {prefix}"))),
        several => Err(Error::Invalid(format!(
            "the ids of {} files begin with {prefix}; give more digits",
            several.len()
        ))),
    }
}

/// The ids of all files of a kind.
pub fn list(repository: &Repository, kind: Kind) -> Result<Vec<[u8; 32]>, Error> {
    Ok(repository.files().list(kind.file())?.into_iter().map(|file| file.id).collect())
}

/// What a file holds: JSON, or, of a pack, its bytes as they are stored.
pub fn file(repository: &Repository, kind: Kind, id: [u8; 32]) -> Result<Vec<u8>, Error> {
    match kind {
        Kind::Pack | Kind::Key => files::read(&**repository.storage(), kind.file(), id),
        _ => repository.files().read_json(kind.file(), id),
    }
}

/// What a pack says of itself.
pub fn pack_header(repository: &Repository, id: PackId) -> Result<PackHeader, Error> {
    let files = repository.files();
    let size = match files.storage.size(&FileKind::Pack.key(id.0)?) {
        Ok(size) => size,
        Err(e) if e.kind() == storage::ErrorKind::NotFound => {
            return Err(Error::Missing(format!("there is no pack {id}")));
        }
        Err(e) => return Err(e.into()),
    };
    let damaged = |what: &dyn ToString| FileKind::Pack.damaged(id.0, what.to_string());
    let Some(at) = size.checked_sub(pack::LENGTH_BYTES as u64) else {
        return Err(damaged(&"too short for a pack"));
    };
    let last = files.read_pack_range(id, at, pack::LENGTH_BYTES)?;
    let last = last.try_into().map_err(|_| damaged(&"its end could not be read"))?;
    let length = pack::header_length(size, last).map_err(|e| damaged(&e))?;
    let blob_bytes = at - length as u64;
    let sealed = files.read_pack_range(id, blob_bytes, length)?;
    let blobs = pack::decode_header(&sealed, blob_bytes, &files.key).map_err(|e| damaged(&e))?;
    Ok(PackHeader { id, size, blobs: blobs.into_iter().map(PackedEntry::from).collect() })
}

impl From<PackedBlob> for PackedEntry {
    fn from(blob: PackedBlob) -> PackedEntry {
        let PackedBlob { kind, id, offset, length, plain_length } = blob;
        PackedEntry { id, kind, offset, length, uncompressed_length: plain_length }
    }
}
