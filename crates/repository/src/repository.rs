//! An open repository.

use crate::chunker::Chunker;
use crate::files::{self, FileKind, Files};
use crate::format::config::Config;
use crate::format::crypto::MasterKey;
use crate::format::keyfile::{Cost, KeyFile};
use crate::format::{FormatError, KeyId};
use crate::index::Live;
use crate::locking::{self, RepositoryLock, Taken};
use crate::{Error, Snapshot, host, parallel};
use model::{Seal, Secret, SnapshotId};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use storage::{ErrorKind, Key, Put, Storage};

/// How expensive the key derivation of a new key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kdf {
    /// For passwords that people think up: hundreds of milliseconds a guess.
    Slow,
    /// For generated passwords of at least 128 bits: guessing is hopeless whatever a guess costs.
    Fast,
}

impl Kdf {
    fn cost(self) -> Cost {
        match self {
            // What restic's calibration comes to on a machine of today: 32 MiB, half a second.
            Kdf::Slow => Cost { n: 1 << 15, r: 8, p: 5 },
            // 1 MiB, milliseconds.
            Kdf::Fast => Cost { n: 1 << 10, r: 8, p: 1 },
        }
    }
}

/// An open repository. Cheap to clone; the index is loaded when first needed.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    files: Files,
    config: Config,
    chunker: Chunker,
    index: Live,
    locks: Taken,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({} at {})", self.id(), self.storage().location())
    }
}

/// A key of a repository, as far as anybody may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key file's name.
    pub id: KeyId,
    /// When it was made, if it says so.
    pub created: Option<jiff::Timestamp>,
    /// The user who made it.
    pub username: String,
    /// The host it was made on.
    pub hostname: String,
}

impl Repository {
    /// Makes a repository: key first, config last, so that one with a config is whole. Of several
    /// that try at once, one succeeds.
    pub fn create(
        storage: Arc<dyn Storage>,
        password: &Secret,
        kdf: Kdf,
    ) -> Result<Repository, Error> {
        let config = Config::generate().map_err(invalid("new config"))?;
        Repository::create_with(storage, password, kdf, config)
    }

    /// Makes a repository that cuts content where `like` does, so that what is backed up into
    /// either of them is the same blobs in both.
    pub fn create_like(
        storage: Arc<dyn Storage>,
        password: &Secret,
        kdf: Kdf,
        like: &Repository,
    ) -> Result<Repository, Error> {
        let fresh = Config::generate().map_err(invalid("new config"))?;
        let chunker_polynomial = like.config().chunker_polynomial;
        Repository::create_with(storage, password, kdf, Config { chunker_polynomial, ..fresh })
    }

    fn create_with(
        storage: Arc<dyn Storage>,
        password: &Secret,
        kdf: Kdf,
        config: Config,
    ) -> Result<Repository, Error> {
        if Repository::exists(&*storage)? {
            return Err(Error::Exists(storage.location()));
        }
        // A place that is not there yet is made by the first put.
        let empty_if_absent = |e: storage::Error| match e.kind() {
            ErrorKind::NotFound => Ok(Vec::new()),
            _ => Err(Error::Storage(e)),
        };
        for dir in ["data", "index", "snapshots"] {
            if !storage.list(dir).or_else(empty_if_absent)?.is_empty() {
                return Err(Error::damaged(
                    format!("repository at {}", storage.location()),
                    format!("it has no config, but something in {dir:?}"),
                ));
            }
        }
        // Left by attempts that did not get to the config. They wrap keys that open nothing.
        let leftover = storage.list("keys").or_else(empty_if_absent)?;
        let master = MasterKey::generate().map_err(invalid("new key"))?;
        let key_id = write_key(&*storage, &master, password, kdf, host::user_name())?;
        let json = config.encode().map_err(invalid("new config"))?;
        let sealed = Seal::seal(&master, &json);
        put_config(&*storage, key_id, &sealed)?;
        for key in leftover {
            storage.delete(&key.key)?;
        }
        Ok(Repository::assemble(storage, master, config))
    }

    /// Opens a repository.
    pub fn open(storage: Arc<dyn Storage>, password: &Secret) -> Result<Repository, Error> {
        let sealed = match storage.read(&config_key()?) {
            Ok(sealed) => sealed,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(Error::NoRepository(storage.location()));
            }
            Err(e) => return Err(e.into()),
        };
        let keys = files::list(&*storage, FileKind::Key)?;
        if keys.is_empty() {
            let place = format!("repository at {}", storage.location());
            return Err(Error::damaged(place, "it has no key"));
        }
        let mut trouble = None;
        let mut files = Vec::with_capacity(keys.len());
        for key in keys {
            match read_key(&*storage, key.id) {
                Ok(file) => files.push((key.id, file)),
                // Another key may still be whole.
                Err(e) => trouble = trouble.or(Some(e)),
            }
        }
        // What a person can remember takes a second to try, and what a host has made for itself nothing.
        files.sort_by_key(|(_, file)| file.cost().work());
        for (id, file) in files {
            match unwrapped(&file, id, password) {
                Ok(Some(master)) => match master.open(&sealed) {
                    Ok(json) => {
                        let config = Config::decode(&json).map_err(unsupported)?;
                        return Ok(Repository::assemble(storage, master, config));
                    }
                    // A key that was left by a `create` that came to nothing, or a damaged config.
                    Err(e) => trouble = Some(Error::damaged("config", e)),
                },
                Ok(None) => {}
                // Another key may still be whole.
                Err(e) => trouble = trouble.or(Some(e)),
            }
        }
        Err(trouble.unwrap_or_else(|| Error::WrongPassword(storage.location())))
    }

    fn assemble(storage: Arc<dyn Storage>, master: MasterKey, config: Config) -> Repository {
        Repository(Arc::new(Inner {
            files: Files { storage, key: Arc::new(master), compress: config.compresses() },
            chunker: Chunker::rabin(config.chunker_polynomial),
            config,
            index: Live::default(),
            locks: Taken::default(),
        }))
    }

    /// Whether there is a repository (a `config`).
    pub fn exists(storage: &dyn Storage) -> Result<bool, Error> {
        match storage.size(&config_key()?) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The repository's id, 64 hex digits.
    pub fn id(&self) -> &str {
        &self.0.config.id
    }

    /// The storage it is on.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.0.files.storage
    }

    /// Seals bytes with the repository's master key.
    pub fn seal(&self) -> Arc<dyn Seal> {
        self.0.files.key.clone()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Cuts content as this repository's polynomial says.
    pub fn chunker(&self) -> &Chunker {
        &self.0.chunker
    }

    pub(crate) fn files(&self) -> &Files {
        &self.0.files
    }

    pub(crate) fn remember_lock(&self, lock: Weak<locking::Shared>) {
        self.0.locks.remember(lock);
    }

    /// Fails if a lock that this repository has taken, and not given back, has lapsed: somebody may
    /// have begun to remove what this process relies on.
    pub(crate) fn locks_still_trusted(&self) -> Result<(), Error> {
        self.0.locks.still_trusted()
    }

    /// Whether this repository holds a lock now that can be relied on.
    pub(crate) fn is_locked(&self) -> bool {
        self.0.locks.any()
    }

    pub(crate) fn index(&self) -> &Live {
        &self.0.index
    }

    /// Adds a key, so that another password opens the repository too. Returns its name.
    pub fn add_key(&self, password: &Secret, kdf: Kdf) -> Result<String, Error> {
        Ok(self.write_key(password, kdf, host::user_name())?.to_hex())
    }

    pub(crate) fn write_key(
        &self,
        password: &Secret,
        kdf: Kdf,
        username: String,
    ) -> Result<KeyId, Error> {
        let files = self.files();
        write_key(&*files.storage, &files.key, password, kdf, username)
    }

    /// All keys. A damaged key file is an error that names it.
    pub fn keys(&self) -> Result<Vec<KeyInfo>, Error> {
        let listed = self.files().list(FileKind::Key)?;
        listed.into_iter().map(|key| self.key_info(key.id)).collect()
    }

    pub(crate) fn key_info(&self, id: [u8; 32]) -> Result<KeyInfo, Error> {
        let file = self.key_file(id)?;
        Ok(KeyInfo {
            id: KeyId(id),
            created: file.created.map(|time| time.timestamp()),
            username: file.username,
            hostname: file.hostname,
        })
    }

    /// One key file, verified and understood.
    pub(crate) fn key_file(&self, id: [u8; 32]) -> Result<KeyFile, Error> {
        read_key(&**self.storage(), id)
    }

    /// All snapshot files, oldest first.
    ///
    /// The index as it is loaded later names everything that these refer to. One that was loaded
    /// before is brought up to date when something is not found in it.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, Snapshot)>, Error> {
        let ids = self.snapshot_ids()?;
        let loaded = Mutex::new(Vec::with_capacity(ids.len()));
        parallel::for_each(&ids, parallel::readers(), |id| -> Result<(), Error> {
            let snapshot = match self.snapshot(*id) {
                // Removed by somebody else since it was listed.
                Err(Error::Missing(_)) => return Ok(()),
                other => other?,
            };
            let taken =
                snapshot.taken().map_err(|e| FileKind::Snapshot.damaged(id.0, e))?.timestamp();
            let entry = (taken, *id, snapshot);
            loaded.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
            Ok(())
        })?;
        let mut loaded = loaded.into_inner().unwrap_or_else(PoisonError::into_inner);
        loaded.sort_by_key(|(taken, id, _)| (*taken, *id));
        Ok(loaded.into_iter().map(|(_, id, snapshot)| (id, snapshot)).collect())
    }

    /// The ids of all snapshot files, without reading them.
    pub fn snapshot_ids(&self) -> Result<Vec<SnapshotId>, Error> {
        let listed = self.files().list(FileKind::Snapshot)?;
        Ok(listed.into_iter().map(|file| SnapshotId(file.id)).collect())
    }

    /// The one snapshot whose id begins with these hex digits.
    pub fn find_snapshot(&self, prefix: &str) -> Result<SnapshotId, Error> {
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::Invalid(format!("{prefix:?} is no beginning of a snapshot id")));
        }
        let prefix = prefix.to_ascii_lowercase();
        let mut ids = self.snapshot_ids()?;
        ids.retain(|id| id.to_string().starts_with(&prefix));
        match ids.as_slice() {
            [id] => Ok(*id),
            [] => Err(Error::Missing(format!("there is no snapshot {prefix}"))),
            several => Err(Error::Invalid(format!(
                "{} snapshots begin with {prefix}; give more digits",
                several.len()
            ))),
        }
    }

    /// One snapshot file.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Snapshot, Error> {
        let json = match self.files().read_json(FileKind::Snapshot, id.0) {
            Err(Error::Storage(e)) if e.kind() == ErrorKind::NotFound => {
                return Err(Error::Missing(format!("there is no snapshot {id}")));
            }
            other => other?,
        };
        Snapshot::decode(&json).map_err(|e| FileKind::Snapshot.damaged(id.0, e))
    }

    /// Stores a snapshot file, durable on return. Everything it refers to must be durable before,
    /// and must not have been removable since it was looked at: so this is refused if the lock has
    /// lapsed.
    pub fn save_snapshot(
        &self,
        lock: &RepositoryLock,
        snapshot: &Snapshot,
    ) -> Result<SnapshotId, Error> {
        let json = snapshot.encode().map_err(invalid("new snapshot"))?;
        snapshot.tree_id().map_err(invalid("new snapshot"))?;
        snapshot.taken().map_err(invalid("new snapshot"))?;
        lock.still_held()?;
        self.files().write_json(FileKind::Snapshot, &json).map(SnapshotId)
    }

    /// Gives a snapshot other tags, as restic does: a new file, durable, with the id of the first in
    /// `original`; then the old file is removed. Returns the new id. Whoever knows the snapshot by
    /// its id does not know it any more. One that was interrupted leaves both files, and does not
    /// leave a third when it is repeated.
    pub fn retag_snapshot(
        &self,
        lock: &RepositoryLock,
        id: SnapshotId,
        tags: Vec<String>,
    ) -> Result<SnapshotId, Error> {
        let before = self.snapshot(id)?;
        if before.tags == tags {
            return Ok(id);
        }
        let mut after = Snapshot { tags, ..before };
        after.other.entry("original").or_insert_with(|| id.to_string().into());
        let same = self.snapshots()?.into_iter().find(|(_, snapshot)| *snapshot == after);
        let new = match same {
            Some((new, _)) => new,
            None => self.save_snapshot(lock, &after)?,
        };
        self.remove_snapshot(lock, id)?;
        Ok(new)
    }

    /// Removes a snapshot file (not its data). Refused if the lock has lapsed.
    pub fn remove_snapshot(&self, lock: &RepositoryLock, id: SnapshotId) -> Result<(), Error> {
        lock.still_held()?;
        self.files().delete(FileKind::Snapshot, id.0)
    }
}

fn config_key() -> Result<Key, Error> {
    Key::new("config").map_err(|e| Error::Invalid(e.to_string()))
}

/// Stores the config unless there is one. If it is not ours in the end, our key is removed.
fn put_config(storage: &dyn Storage, own_key: KeyId, sealed: &[u8]) -> Result<(), Error> {
    let config = config_key()?;
    let lost = match storage.put_if_absent(&config, sealed) {
        Ok(Put::Created) => return Ok(()),
        Ok(Put::Exists) => Error::Exists(storage.location()),
        Err(e) => e.into(),
    };
    // It may have been stored all the same, and the answer lost.
    let lost = match storage.read(&config) {
        Ok(found) if found == sealed => return Ok(()),
        Ok(_) => Error::Exists(storage.location()),
        Err(e) if e.kind() == ErrorKind::NotFound => lost,
        // Not known. Our key stays: if the config is ours, it is needed, and otherwise it opens
        // nothing.
        Err(_) => return Err(lost),
    };
    storage.delete(&FileKind::Key.key(own_key.0)?)?;
    Err(lost)
}

fn write_key(
    storage: &dyn Storage,
    master: &MasterKey,
    password: &Secret,
    kdf: Kdf,
    username: String,
) -> Result<KeyId, Error> {
    let now = jiff::Timestamp::now().into();
    let hostname = host::host_name();
    let (id, bytes) = KeyFile::wrap(master, password.expose(), kdf.cost(), now, username, hostname)
        .and_then(|file| file.encode())
        .map_err(invalid("new key"))?;
    files::put_or_nothing(storage, &FileKind::Key.key(id.0)?, &bytes)?;
    Ok(id)
}

fn read_key(storage: &dyn Storage, id: [u8; 32]) -> Result<KeyFile, Error> {
    let bytes = files::read(storage, FileKind::Key, id)?;
    KeyFile::decode(&bytes).map_err(|e| FileKind::Key.damaged(id, e))
}

fn unwrapped(file: &KeyFile, id: [u8; 32], password: &Secret) -> Result<Option<MasterKey>, Error> {
    file.unwrap(password.expose()).map_err(|e| FileKind::Key.damaged(id, e))
}

fn invalid(what: &'static str) -> impl Fn(FormatError) -> Error {
    move |e| Error::Invalid(format!("{what}: {e}"))
}

/// What was sealed with the right key is whole; if it is not understood, it is of another version.
fn unsupported(e: FormatError) -> Error {
    Error::Unsupported(format!("config: {e}"))
}
