//! The files of a repository: where each kind lies, read verified and written durably.

use crate::Error;
use crate::format::crypto::MasterKey;
use crate::format::{PackId, unpacked};
use crate::sha256;
use std::fmt;
use std::sync::Arc;
use storage::{ErrorKind, Key, Storage};

/// The kinds of files that are named by their SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Key,
    Lock,
    Snapshot,
    Index,
    Pack,
}

impl FileKind {
    pub(crate) fn dir(self) -> &'static str {
        match self {
            FileKind::Key => "keys",
            FileKind::Lock => "locks",
            FileKind::Snapshot => "snapshots",
            FileKind::Index => "index",
            FileKind::Pack => "data",
        }
    }

    /// The error for a file of this kind that is damaged.
    pub(crate) fn damaged(self, id: [u8; 32], what: impl ToString) -> Error {
        Error::damaged(self.name(id), what)
    }

    /// What messages call this file.
    pub(crate) fn name(self, id: [u8; 32]) -> String {
        format!("{self} {}", hex::encode(id))
    }

    /// The storage key of the file with this id.
    pub(crate) fn key(self, id: [u8; 32]) -> Result<Key, Error> {
        let name = hex::encode(id);
        let path = match self {
            FileKind::Pack => format!("data/{}/{name}", &name[..2]),
            _ => format!("{}/{name}", self.dir()),
        };
        Key::new(path).map_err(|e| Error::Invalid(e.to_string()))
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Key => "key",
            FileKind::Lock => "lock",
            FileKind::Snapshot => "snapshot",
            FileKind::Index => "index",
            FileKind::Pack => "pack",
        })
    }
}

/// A file in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: [u8; 32],
    pub(crate) size_bytes: u64,
}

/// A storage, and the key to what is on it.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) key: Arc<MasterKey>,
    /// The format's version knows compression.
    pub(crate) compress: bool,
}

/// All files of a kind. What has no id for a name (left by other tools) is ignored.
pub(crate) fn list(storage: &dyn Storage, kind: FileKind) -> Result<Vec<Listed>, Error> {
    let entries = storage.list(kind.dir())?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| {
            let mut id = [0; 32];
            hex::decode_to_slice(entry.key.name(), &mut id).ok()?;
            let in_place = kind.key(id).is_ok_and(|key| key == entry.key);
            in_place.then_some(Listed { id, size_bytes: entry.size_bytes })
        })
        .collect())
}

/// The bytes of a file, which must be those that it is named after.
pub(crate) fn read(storage: &dyn Storage, kind: FileKind, id: [u8; 32]) -> Result<Vec<u8>, Error> {
    let bytes = storage.read(&kind.key(id)?)?;
    if sha256::sum(&bytes) != id {
        return Err(kind.damaged(id, "its bytes are not those it is named after"));
    }
    Ok(bytes)
}

/// Stores a new file that nothing refers to yet, durable on return.
///
/// One that fails is taken back, should a store have kept half of it: half of an index would hide
/// what all the others say, and a key or snapshot whose maker was told that there is none must not
/// be there after all. Where that cannot be done, `check` names it, and a repair removes it.
pub(crate) fn put_or_nothing(storage: &dyn Storage, key: &Key, bytes: &[u8]) -> Result<(), Error> {
    storage.put(key, bytes).map_err(|e| {
        let _ = storage.delete(key);
        e.into()
    })
}

impl Files {
    pub(crate) fn list(&self, kind: FileKind) -> Result<Vec<Listed>, Error> {
        list(&*self.storage, kind)
    }

    /// The JSON in a snapshot, index or lock file.
    pub(crate) fn read_json(&self, kind: FileKind, id: [u8; 32]) -> Result<Vec<u8>, Error> {
        let sealed = read(&*self.storage, kind, id)?;
        let plain = self.key.open(&sealed).map_err(|e| kind.damaged(id, e))?;
        unpacked::decode(plain).map_err(|e| kind.damaged(id, e))
    }

    /// Stores JSON as a snapshot, index or lock file, durable on return.
    pub(crate) fn write_json(&self, kind: FileKind, json: &[u8]) -> Result<[u8; 32], Error> {
        let plain = unpacked::encode(json, self.compress)
            .map_err(|e| Error::Invalid(format!("new {kind} file: {e}")))?;
        let mut sealed = Vec::new();
        self.key.seal_into(&plain, &mut sealed);
        let id = sha256::sum(&sealed);
        put_or_nothing(&*self.storage, &kind.key(id)?, &sealed)?;
        Ok(id)
    }

    /// Removes a file.
    pub(crate) fn delete(&self, kind: FileKind, id: [u8; 32]) -> Result<(), Error> {
        Ok(self.storage.delete(&kind.key(id)?)?)
    }

    /// How much of a pack is read at once.
    pub(crate) fn request_bytes(&self) -> u32 {
        self.storage.request_bytes()
    }

    /// A part of a pack. A pack that is not there or ends before is damage: an index names it.
    pub(crate) fn read_pack_range(
        &self,
        pack: PackId,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.read_pack_range_into(pack, offset, length, &mut bytes)?;
        Ok(bytes)
    }

    /// The same, in the place of what a buffer held.
    pub(crate) fn read_pack_range_into(
        &self,
        pack: PackId,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let key = FileKind::Pack.key(pack.0)?;
        let read = self.storage.read_range_into(&key, offset, length, buffer);
        read.map_err(|e| match e.kind() {
            ErrorKind::NotFound => FileKind::Pack.damaged(pack.0, "it is missing"),
            ErrorKind::Truncated => FileKind::Pack.damaged(pack.0, "it is too short"),
            _ => e.into(),
        })
    }
}
