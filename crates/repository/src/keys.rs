//! Keys of a repository: each is a password's way to the same master key.
//!
//! No order of steps here can lock anybody out: a new key is read back and opened before it counts,
//! and keys are removed only while it is proved that one of those that stay is opened by a password
//! that the caller has.

use crate::files::{self, FileKind};
use crate::format::KeyId;
use crate::locking::RepositoryLock;
use crate::{Error, Kdf, KeyInfo, LockKind, Repository, host};
use model::Secret;

/// A key by its id: who made it and when, or what is wrong with it.
pub type ListedKey = (KeyId, Result<KeyInfo, Error>);

impl Repository {
    /// Adds a key for this password, durable, and proves that it opens what the others open.
    /// `username` is whom the key file names; this process's user without one.
    pub fn add_proven_key(
        &self,
        password: &Secret,
        kdf: Kdf,
        username: Option<&str>,
    ) -> Result<KeyId, Error> {
        let username = username.map_or_else(host::user_name, str::to_owned);
        let id = self.write_key(password, kdf, username)?;
        if self.opens(id, password)? {
            return Ok(id);
        }
        Err(FileKind::Key.damaged(id.0, "it was just written, and does not open"))
    }

    /// All keys that this password opens. Takes as long as all keys together cost.
    pub fn keys_opened_by(&self, password: &Secret) -> Result<Vec<KeyId>, Error> {
        let mut found = Vec::new();
        for listed in self.files().list(FileKind::Key)? {
            match self.opens(KeyId(listed.id), password) {
                Ok(true) => found.push(KeyId(listed.id)),
                // One that is damaged opens nothing, whatever the password.
                Ok(false) | Err(Error::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// Every key file.
    pub fn list_keys(&self) -> Result<Vec<ListedKey>, Error> {
        let listed = self.files().list(FileKind::Key)?;
        Ok(listed.into_iter().map(|key| (KeyId(key.id), self.key_info(key.id))).collect())
    }

    /// Removes keys. Refused unless `password` opens one that stays, and without an exclusive lock:
    /// two that each remove the other's key would leave none. Keys that are gone are no error.
    pub fn remove_keys(
        &self,
        lock: &RepositoryLock,
        ids: &[KeyId],
        password: &Secret,
    ) -> Result<(), Error> {
        if lock.kind() != LockKind::Exclusive {
            return Err(Error::Invalid("keys are removed under an exclusive lock".to_owned()));
        }
        let stays = self.keys_opened_by(password)?.into_iter().any(|id| !ids.contains(&id));
        if !stays {
            return Err(Error::Conflict {
                object: "the keys of the repository".to_owned(),
                what: "the password in use opens no other key, so this one cannot be removed"
                    .to_owned(),
            });
        }
        for id in ids {
            lock.still_held()?;
            self.files().delete(FileKind::Key, id.0)?;
        }
        Ok(())
    }

    /// Whether this key, as it is stored, leads to our own master key by this password.
    fn opens(&self, id: KeyId, password: &Secret) -> Result<bool, Error> {
        let bytes = match files::read(&**self.storage(), FileKind::Key, id.0) {
            Ok(bytes) => bytes,
            Err(Error::Storage(e)) if e.kind() == storage::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let damaged = |e| FileKind::Key.damaged(id.0, e);
        let file = crate::format::keyfile::KeyFile::decode(&bytes).map_err(damaged)?;
        let Some(master) = file.unwrap(password.expose()).map_err(damaged)? else {
            return Ok(false);
        };
        // What our key has sealed, the master key in there must open.
        Ok(model::Seal::open(&master, &self.seal().seal(b"the same")).is_ok())
    }
}
