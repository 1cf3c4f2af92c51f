//! The log store: a continuous log (WAL) beside the repository, with the same key.
//!
//! Each database cluster has a place of its own: one that goes on in the place of another, as after an
//! upgrade, writes the same names again, with other content.
//!
//! The format is described byte by byte in `docs/formats/log-store.md`.

mod before;
mod mark;
mod name;
mod object;
mod part;
mod sealed;

pub use mark::Mark;
pub use object::Effort;
pub use part::{Beginning, Part};

use crate::{Error, Repository};
use before::Before;
use model::{ClusterId, Generation, Seal};
use name::LogKey;
use std::collections::BTreeSet;
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

/// Tells, by how a segment begins, which database cluster wrote it.
pub type Wrote = fn(&[u8]) -> Option<ClusterId>;

/// The log of one service, or, of a service whose engine tells database clusters apart, of one cluster.
#[derive(Clone)]
pub struct LogStore {
    storage: Arc<dyn Storage>,
    seal: Arc<dyn Seal>,
    cluster: Option<ClusterId>,
    /// What it wrote before each cluster had a place of its own.
    before: Option<Before>,
}

impl LogStore {
    /// The log beside this repository. Touches neither the repository's index nor the log.
    pub fn new(repository: &Repository) -> LogStore {
        LogStore::on(repository.storage().clone(), repository.seal())
    }

    /// The log on the storage of a repository, with that repository's key.
    pub fn on(storage: Arc<dyn Storage>, seal: Arc<dyn Seal>) -> LogStore {
        LogStore { storage, seal, cluster: None, before: None }
    }

    /// The log of a database cluster. `wrote` tells what of the log that has no cluster in its keys, as
    /// it was written once, is this one's: that is read, and never written to.
    pub fn of(repository: &Repository, cluster: ClusterId, wrote: Wrote) -> LogStore {
        LogStore::new(repository).with_cluster(cluster, wrote)
    }

    /// As [`LogStore::of`], on the same storage.
    pub fn with_cluster(&self, cluster: ClusterId, wrote: Wrote) -> LogStore {
        let own = self.at(Some(cluster));
        let before = Some(Before::new(self.at(None), cluster, wrote));
        LogStore { before, ..own }
    }

    /// What lies in the place of a cluster, or in that of none, and nothing else.
    pub fn at(&self, cluster: Option<ClusterId>) -> LogStore {
        LogStore { cluster, before: None, ..self.clone() }
    }

    /// The places in which there is something, each by itself.
    pub fn places(&self) -> Result<Vec<LogStore>, Error> {
        let mut clusters = BTreeSet::new();
        let below = |root: &str| self.storage.list(root);
        clusters.extend(
            below(name::ROOT)?.iter().filter_map(|at| Some(LogKey::parse(&at.key)?.cluster())),
        );
        clusters.extend(below(part::ROOT)?.iter().filter_map(|at| Some(part::parse(&at.key)?.0)));
        clusters.extend(below(mark::ROOT)?.iter().filter_map(|at| Some(Mark::parse(&at.key)?.0)));
        Ok(clusters.into_iter().map(|cluster| self.at(cluster)).collect())
    }

    /// Whose log it is.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    fn key(&self, name: &str, generation: Generation) -> Result<LogKey, Error> {
        LogKey::new(self.cluster, name, generation)
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
        let key = self.key(name, generation)?;
        let sealed = object::encode(self.seal.as_ref(), &key, bytes, effort)?;
        let parts = self.parts(name)?;
        if parts.iter().any(|part| !known.contains(part))
            && let Some(begun) = self.beginning(name)?
            && (!bytes.starts_with(&begun.bytes) || begun.whole != bytes.len() as u64)
        {
            return Err(conflict(part::prefix(self.cluster, name)));
        }
        for other in self.generations(name)? {
            if other != generation {
                self.compare(&self.key(name, other)?, bytes)?;
            }
        }
        if let Some(before) = &self.before
            && before.fetch(name)?.is_some_and(|stored| stored != bytes)
        {
            return Err(conflict(name));
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
        let near = self.list_own_near(name)?;
        if let Some((_, generation)) = near.iter().rfind(|(there, _)| there == name) {
            return self.read(&self.key(name, *generation)?).map(Some);
        }
        match self.before.as_ref().map_or(Ok(None), |before| before.fetch(name))? {
            Some(bytes) => Ok(Some(bytes)),
            // Its neighbours are there: so is the vault.
            None if !near.is_empty() => Ok(None),
            None => self.require_repository().map(|()| None),
        }
    }

    /// The bytes that this generation stored under this name.
    pub fn fetch_from(&self, name: &str, generation: Generation) -> Result<Vec<u8>, Error> {
        let read = self.read(&self.key(name, generation)?);
        self.or_before(read, |before| before.fetch_from(name, generation))
    }

    /// All names with their generation, in the order of (name, generation).
    pub fn list(&self) -> Result<Vec<(String, Generation)>, Error> {
        self.below(name::ROOT, |key| {
            LogKey::parse(key).map(|key| (key.cluster(), key.into_parts()))
        })
    }

    /// As [`LogStore::list`], of the names that lie in the same shard as this one: for a segment,
    /// its neighbours on the timeline.
    pub fn list_near(&self, name: &str) -> Result<Vec<(String, Generation)>, Error> {
        let own = self.list_own_near(name)?;
        match &self.before {
            Some(before) => Ok(both(own, before.if_ours(before.flat().list_own_near(name)?)?)),
            None => Ok(own),
        }
    }

    fn list_own_near(&self, name: &str) -> Result<Vec<(String, Generation)>, Error> {
        self.list_below(&self.key(name, Generation::FIRST)?.shard())
    }

    /// Removes one object. One that is not there is no error.
    pub fn remove(&self, name: &str, generation: Generation) -> Result<(), Error> {
        Ok(self.storage.delete(&self.key(name, generation)?.storage_key()?)?)
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
        let name = self.key(name, generation)?;
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
        let own = self.own_parts(name)?;
        match &self.before {
            Some(before) => Ok(both(own, before.if_ours(before.flat().own_parts(name)?)?)),
            None => Ok(own),
        }
    }

    fn own_parts(&self, name: &str) -> Result<Vec<Part>, Error> {
        let name = self.key(name, Generation::FIRST)?;
        let entries = self.storage.list(&part::prefix(self.cluster, name.name()))?;
        let mut parts: Vec<Part> = entries
            .iter()
            .filter_map(|entry| part::parse(&entry.key))
            .filter(|(cluster, _, _)| *cluster == self.cluster)
            .map(|(_, _, part)| part)
            .collect();
        parts.sort();
        Ok(parts)
    }

    /// All parts with their file's name, in the order of (name, place).
    pub fn list_parts(&self) -> Result<Vec<(String, Part)>, Error> {
        self.below(part::ROOT, |key| {
            part::parse(key).map(|(cluster, name, part)| (cluster, (name, part)))
        })
    }

    /// The bytes of a part, and how long its file is going to be.
    pub fn read_part(&self, name: &str, part: &Part) -> Result<(Vec<u8>, u64), Error> {
        let read = self.read_own_part(name, part);
        self.or_before(read, |before| before.read_own_part(name, part))
    }

    fn read_own_part(&self, name: &str, part: &Part) -> Result<(Vec<u8>, u64), Error> {
        let name = self.key(name, part.generation)?;
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
                return Err(conflict(part::prefix(self.cluster, name)));
            }
            let known = known.map_or(0, <[u8]>::len);
            begun.bytes.extend_from_slice(bytes.get(known..).unwrap_or_default());
        }
        Ok(begun)
    }

    /// Removes parts of a file. One that is not there is no error.
    pub fn remove_parts(&self, name: &str, parts: &[Part]) -> Result<(), Error> {
        let key = |part: &Part| part::key(&self.key(name, part.generation)?, part);
        let keys = parts.iter().map(key).collect::<Result<Vec<Key>, Error>>()?;
        Ok(self.storage.delete_all(&keys)?)
    }

    /// Stores that the log reaches up to a time; durable on return. Its time is cut to microseconds.
    pub fn put_mark(&self, mark: &Mark) -> Result<(), Error> {
        let sealed = mark.encode(self.cluster, self.seal.as_ref())?;
        // One that is there says the same.
        self.storage.put_if_absent(&mark.key(self.cluster)?, &sealed)?;
        Ok(())
    }

    /// All marks, oldest first. Nothing is proven of them before [`LogStore::has_mark`].
    pub fn marks(&self) -> Result<Vec<Mark>, Error> {
        self.below(mark::ROOT, Mark::parse)
    }

    /// Whether this mark is there; an error if something else is in its place.
    pub fn has_mark(&self, mark: &Mark) -> Result<bool, Error> {
        if self.has_own_mark(mark)? {
            return Ok(true);
        }
        match &self.before {
            Some(before) => Ok(before.flat().has_own_mark(mark)? && before.ours()?),
            None => Ok(false),
        }
    }

    fn has_own_mark(&self, mark: &Mark) -> Result<bool, Error> {
        let key = mark.key(self.cluster)?;
        let stored = match self.storage.size(&key) {
            Ok(..=mark::LARGEST) => self.storage.read(&key),
            Ok(_) => return Err(Error::damaged(&key, "it is too large for a mark")),
            Err(e) => Err(e),
        };
        match stored {
            Ok(stored) => mark.check(self.cluster, self.seal.as_ref(), &stored).map(|()| true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes marks. One that is not there is no error.
    pub fn remove_marks(&self, marks: &[Mark]) -> Result<(), Error> {
        let keys =
            marks.iter().map(|mark| mark.key(self.cluster)).collect::<Result<Vec<Key>, Error>>()?;
        Ok(self.storage.delete_all(&keys)?)
    }

    fn list_below(&self, prefix: &str) -> Result<Vec<(String, Generation)>, Error> {
        let entries = self.storage.list(prefix)?;
        let mut names: Vec<(String, Generation)> = entries
            .iter()
            .filter_map(|entry| LogKey::parse(&entry.key))
            .filter(|key| key.cluster() == self.cluster)
            .map(LogKey::into_parts)
            .collect();
        names.sort();
        Ok(names)
    }

    /// What lies below one of the roots in this place, or lay there before, in order.
    fn below<T: Ord>(
        &self,
        root: &str,
        parse: impl Fn(&Key) -> Option<(Option<ClusterId>, T)>,
    ) -> Result<Vec<T>, Error> {
        // One list shows both.
        let from = match &self.before {
            Some(_) => root.to_owned(),
            None => name::place(root, self.cluster),
        };
        let (mut own, mut flat) = (Vec::new(), Vec::new());
        for entry in self.storage.list(&from)? {
            match parse(&entry.key) {
                Some((cluster, found)) if cluster == self.cluster => own.push(found),
                Some((None, found)) => flat.push(found),
                _ => {}
            }
        }
        own.sort();
        match &self.before {
            Some(before) => Ok(both(own, before.if_ours(flat)?)),
            None => Ok(own),
        }
    }

    /// What is not in this place may be where the log lay before.
    fn or_before<T>(
        &self,
        read: Result<T, Error>,
        again: impl FnOnce(&LogStore) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match read {
            Err(Error::Storage(e)) if e.kind() == ErrorKind::NotFound => match &self.before {
                Some(before) => {
                    let read = again(before.flat())?;
                    if before.ours()? { Ok(read) } else { Err(Error::Storage(e)) }
                }
                None => Err(Error::Storage(e)),
            },
            other => other,
        }
    }

    /// The generations that have this name in this place, oldest first.
    fn generations(&self, name: &str) -> Result<Vec<Generation>, Error> {
        let near = self.list_own_near(name)?;
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

/// What is in one of two places, or in both.
fn both<T: Ord>(mut own: Vec<T>, before: Vec<T>) -> Vec<T> {
    if !before.is_empty() {
        own.extend(before);
        own.sort();
        own.dedup();
    }
    own
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
        let mut shown = f.debug_struct("LogStore");
        shown
            .field("storage", &self.storage)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}
