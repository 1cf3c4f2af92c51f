//! The log store: a continuous log (WAL) beside the repository, with the same key.
//!
//! The format is described byte by byte in `docs/formats/log-store.md`.

mod mark;
mod name;
mod object;
mod part;
mod sealed;

pub use mark::Mark;
pub use object::Effort;
pub use part::{Beginning, Part};

use crate::{Error, Repository};
use model::{Generation, Seal};
use name::LogKey;
use std::fmt;
use std::sync::Arc;
use storage::{ErrorKind, Key, Put, Storage};

/// How often the parts of a file are looked up again when one went meanwhile.
const GONE_TRIES: u32 = 5;

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Stored now.
    Stored,
    /// The same bytes were there under this name already.
    Already,
}

/// The log of one service.
#[derive(Clone)]
pub struct LogStore {
    storage: Arc<dyn Storage>,
    seal: Arc<dyn Seal>,
}

impl LogStore {
    /// The log beside this repository. Touches neither the repository's index nor the log.
    pub fn new(repository: &Repository) -> LogStore {
        LogStore::on(repository.storage().clone(), repository.seal())
    }

    /// The log on the storage of a repository, with that repository's key.
    pub fn on(storage: Arc<dyn Storage>, seal: Arc<dyn Seal>) -> LogStore {
        LogStore { storage, seal }
    }

    /// Stores one segment or history file, durable on return. The same name with other bytes is
    /// refused, whatever the generations.
    pub fn push(&self, generation: Generation, name: &str, bytes: &[u8]) -> Result<Pushed, Error> {
        self.push_grown(generation, name, bytes, &[], Effort::Usual).map(|(pushed, _)| pushed)
    }

    /// The same of a file that has parts. `known` are those that hold bytes of this file for certain,
    /// since the caller has put or compared them: of any other the bytes are read and compared. Returns
    /// the parts that there are, too; the file takes their place.
    pub fn push_grown(
        &self,
        generation: Generation,
        name: &str,
        bytes: &[u8],
        known: &[Part],
        effort: Effort,
    ) -> Result<(Pushed, Vec<Part>), Error> {
        let key = LogKey::new(name, generation)?;
        let sealed = object::encode(self.seal.as_ref(), &key, bytes, effort)?;
        let parts = self.parts(name)?;
        if parts.iter().any(|part| !known.contains(part))
            && let Some(begun) = self.beginning(name)?
            && (!bytes.starts_with(&begun.bytes) || begun.whole != bytes.len() as u64)
        {
            return Err(conflict(part::prefix(name)));
        }
        for other in self.generations(name)? {
            if other != generation {
                self.compare(&LogKey::new(name, other)?, bytes)?;
            }
        }
        // Ours is put even if the listing showed it: only a put makes sure that what another
        // process left there, perhaps just before it died, is durable.
        let pushed = match self.storage.put_if_absent(&key.storage_key()?, &sealed)? {
            Put::Created => Pushed::Stored,
            Put::Exists => self.compare(&key, bytes).map(|()| Pushed::Already)?,
        };
        Ok((pushed, parts))
    }

    /// The bytes of a segment, from the newest generation that has it; none if none has.
    pub fn fetch(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.generations(name)?.pop() {
            Some(generation) => self.fetch_from(name, generation).map(Some),
            None => {
                self.require_repository()?;
                Ok(None)
            }
        }
    }

    /// The bytes that this generation stored under this name.
    pub fn fetch_from(&self, name: &str, generation: Generation) -> Result<Vec<u8>, Error> {
        self.read(&LogKey::new(name, generation)?)
    }

    /// All names with their generation, in the order of (name, generation).
    pub fn list(&self) -> Result<Vec<(String, Generation)>, Error> {
        self.list_below(name::ROOT)
    }

    /// As [`LogStore::list`], of the names that lie in the same shard as this one: for a segment,
    /// its neighbours on the timeline.
    pub fn list_near(&self, name: &str) -> Result<Vec<(String, Generation)>, Error> {
        self.list_below(&LogKey::new(name, Generation::FIRST)?.shard())
    }

    /// Removes one object. One that is not there is no error.
    pub fn remove(&self, name: &str, generation: Generation) -> Result<(), Error> {
        Ok(self.storage.delete(&LogKey::new(name, generation)?.storage_key()?)?)
    }

    /// Stores bytes of a file that is not whole yet, from `start` on, durable on return. `whole` is
    /// how long it is going to be. A part is never changed; the same one with other bytes is refused.
    pub fn push_part(
        &self,
        generation: Generation,
        name: &str,
        start: u64,
        whole: u64,
        bytes: &[u8],
    ) -> Result<Part, Error> {
        let name = LogKey::new(name, generation)?;
        let (part, sealed) = part::encode(self.seal.as_ref(), &name, start, whole, bytes)?;
        let key = part::key(&name, &part)?;
        if self.storage.put_if_absent(&key, &sealed)? == Put::Exists
            && self.read_part(name.name(), &part)?.0 != bytes
        {
            return Err(conflict(key));
        }
        Ok(part)
    }

    /// The parts of a file, in the order of their places.
    pub fn parts(&self, name: &str) -> Result<Vec<Part>, Error> {
        let entries =
            self.storage.list(&part::prefix(LogKey::new(name, Generation::FIRST)?.name()))?;
        let mut parts: Vec<Part> =
            entries.iter().filter_map(|entry| Some(part::parse(&entry.key)?.1)).collect();
        parts.sort();
        Ok(parts)
    }

    /// All parts with their file's name, in the order of (name, place).
    pub fn list_parts(&self) -> Result<Vec<(String, Part)>, Error> {
        let entries = self.storage.list(part::ROOT)?;
        let mut parts: Vec<_> =
            entries.iter().filter_map(|entry| part::parse(&entry.key)).collect();
        parts.sort();
        Ok(parts)
    }

    /// The bytes of a part, and how long its file is going to be.
    pub fn read_part(&self, name: &str, part: &Part) -> Result<(Vec<u8>, u64), Error> {
        let name = LogKey::new(name, part.generation)?;
        let at = part::key(&name, part)?;
        let size = self.storage.size(&at)?;
        if size > sealed::MAX_OBJECT {
            return Err(Error::damaged(&at, format!("it has {size} bytes, too many for a log")));
        }
        part::decode(self.seal.as_ref(), &name, part, &self.storage.read(&at)?)
    }

    /// What the parts of a file say it begins with; none if there are none. Parts that contradict
    /// each other are refused.
    pub fn beginning(&self, name: &str) -> Result<Option<Beginning>, Error> {
        // A part that went while it was asked for has given way to a longer one, or to the file.
        for _ in 0..GONE_TRIES {
            match self.beginning_of(name, &self.parts(name)?) {
                Err(Error::Storage(e)) if e.kind() == ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Ok(None)
    }

    fn beginning_of(&self, name: &str, parts: &[Part]) -> Result<Option<Beginning>, Error> {
        let mut begun: Option<Beginning> = None;
        for part in part::chain(parts) {
            let (bytes, whole) = self.read_part(name, &part)?;
            let begun = begun.get_or_insert(Beginning { bytes: Vec::new(), whole });
            let known = usize::try_from(part.start).ok().and_then(|start| begun.bytes.get(start..));
            let same = known.is_some_and(|known| bytes.starts_with(known));
            if !same || whole != begun.whole {
                return Err(conflict(part::prefix(name)));
            }
            let known = known.map_or(0, <[u8]>::len);
            begun.bytes.extend_from_slice(bytes.get(known..).unwrap_or_default());
        }
        Ok(begun)
    }

    /// Removes parts of a file. One that is not there is no error.
    pub fn remove_parts(&self, name: &str, parts: &[Part]) -> Result<(), Error> {
        let key = |part: &Part| part::key(&LogKey::new(name, part.generation)?, part);
        let keys = parts.iter().map(key).collect::<Result<Vec<Key>, Error>>()?;
        Ok(self.storage.delete_all(&keys)?)
    }

    /// Stores that the log reaches up to a time; durable on return. Its time is cut to microseconds.
    pub fn put_mark(&self, mark: &Mark) -> Result<(), Error> {
        let sealed = mark.encode(self.seal.as_ref())?;
        // One that is there says the same.
        self.storage.put_if_absent(&mark.key()?, &sealed)?;
        Ok(())
    }

    /// All marks, oldest first. Nothing is proven of them before [`LogStore::has_mark`].
    pub fn marks(&self) -> Result<Vec<Mark>, Error> {
        let entries = self.storage.list(mark::ROOT)?;
        let mut marks: Vec<Mark> =
            entries.iter().filter_map(|entry| Mark::parse(&entry.key)).collect();
        marks.sort();
        Ok(marks)
    }

    /// Whether this mark is there; an error if something else is in its place.
    pub fn has_mark(&self, mark: &Mark) -> Result<bool, Error> {
        let key = mark.key()?;
        let stored = match self.storage.size(&key) {
            Ok(..=mark::LARGEST) => self.storage.read(&key),
            Ok(_) => return Err(Error::damaged(&key, "it is too large for a mark")),
            Err(e) => Err(e),
        };
        match stored {
            Ok(stored) => mark.check(self.seal.as_ref(), &stored).map(|()| true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes marks. One that is not there is no error.
    pub fn remove_marks(&self, marks: &[Mark]) -> Result<(), Error> {
        let keys = marks.iter().map(Mark::key).collect::<Result<Vec<Key>, Error>>()?;
        Ok(self.storage.delete_all(&keys)?)
    }

    fn list_below(&self, prefix: &str) -> Result<Vec<(String, Generation)>, Error> {
        let entries = self.storage.list(prefix)?;
        let mut names: Vec<(String, Generation)> = entries
            .iter()
            .filter_map(|entry| LogKey::parse(&entry.key))
            .map(LogKey::into_parts)
            .collect();
        names.sort();
        Ok(names)
    }

    /// The generations that have this name, oldest first.
    fn generations(&self, name: &str) -> Result<Vec<Generation>, Error> {
        let near = self.list_near(name)?;
        Ok(near.into_iter().filter(|(n, _)| n == name).map(|(_, generation)| generation).collect())
    }

    fn read(&self, key: &LogKey) -> Result<Vec<u8>, Error> {
        let at = key.storage_key()?;
        // Asked first, so that a damaged or planted object cannot fill the memory.
        let size = self.storage.size(&at)?;
        if size > sealed::MAX_OBJECT {
            return Err(Error::damaged(&at, format!("it has {size} bytes, too many for a log")));
        }
        let stored = self.storage.read(&at)?;
        object::decode(self.seal.as_ref(), key, &stored)
    }

    /// Refuses unless what is stored is these bytes.
    fn compare(&self, key: &LogKey, bytes: &[u8]) -> Result<(), Error> {
        if self.read(key)? == bytes {
            return Ok(());
        }
        Err(conflict(key.storage_key()?))
    }

    /// A vault that is not mounted is not an empty log.
    fn require_repository(&self) -> Result<(), Error> {
        let config = Key::new("config").map_err(|e| Error::Invalid(e.to_string()))?;
        match self.storage.size(&config) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Error::NoRepository(self.storage.location()))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Two servers wrote the same file.
fn conflict(object: impl ToString) -> Error {
    Error::Conflict {
        object: object.to_string(),
        what: "the log has other bytes under this name: another server has pushed to it, on the \
               same timeline"
            .to_owned(),
    }
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("storage", &self.storage).finish_non_exhaustive()
    }
}
