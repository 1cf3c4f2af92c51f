//! Locks: what is locked, that it really is, and whether a lock holds.

use super::S3;
use super::http::{Retain, block_on};
use super::options::{Lock, LockMode};
use super::trouble::Trouble;
use crate::probe::Retention;
use crate::{Error, ErrorKind, Key, Storage};
use jiff::Timestamp;
use object_store::{Extensions, ObjectStore, PutOptions, PutPayload};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::Method;

/// What is locked, where locking is asked for: what is never replaced, and never removed but by a
/// prune; and the log. Locks of restic's protocol and state objects come and go, and could not.
const LOCKED: [&str; 5] = ["config", "data", "index", "keys", "snapshots"];
const LOG: &str = "mainstay/log/";

/// A part of the log that a whole one follows.
const PARTIAL: &str = ".partial@";

/// How long the probe's object is locked if nothing was said about locks. Longer than the probe
/// takes, by far.
const PROBE_PERIOD: Duration = Duration::from_secs(120);

/// So many objects are locked again at once.
const AT_ONCE: usize = 8;

fn is_locked(key: &Key) -> bool {
    // The first part is the service; what is its own stands below it, or in the root of a
    // repository that is opened by itself.
    let whole = key.as_str();
    let below = whole.split_once('/').map_or("", |(_, below)| below);
    let log = [whole, below].iter().any(|key| key.starts_with(LOG)) && !whole.contains(PARTIAL);
    log || whole.split('/').take(2).any(|part| LOCKED.contains(&part))
}

impl S3 {
    /// The lock of an object, if it is to have one.
    fn lock_of(&self, key: &Key) -> Option<Lock> {
        self.0.lock.filter(|_| is_locked(key))
    }

    /// What a put of this object carries for us.
    pub(super) fn extensions(&self, key: &Key) -> Extensions {
        let mut extensions = Extensions::new();
        if let Some(lock) = self.lock_of(key) {
            extensions.insert(Retain(lock));
        }
        extensions
    }

    /// Locks an object that was stored in parts, if it is to be and is not yet: some servers forget
    /// what they were told when the upload began.
    pub(super) fn lock_stored(&self, key: &Key) -> Result<(), Trouble> {
        let Some(lock) = self.lock_of(key) else { return Ok(()) };
        let name = self.name(key);
        let found = self.own(&Method::HEAD, &name, &[])?;
        if found.headers().contains_key("x-amz-object-lock-mode") {
            return Ok(());
        }
        self.retain_from_now(&name, lock)
    }

    /// Locks what is there for the whole period from now.
    fn retain_from_now(&self, name: &str, lock: Lock) -> Result<(), Trouble> {
        let document = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{}</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            lock.mode.as_str(),
            lock.until(Timestamp::now())
        );
        self.own_with(&Method::PUT, name, &[("retention", "")], document).map(|_| ())
    }

    /// Locks again what is to be locked below a prefix; how many objects.
    pub(super) fn lock_again(&self, prefix: &str) -> Result<Option<u64>, Error> {
        let Some(lock) = self.0.lock else { return Ok(None) };
        let keys: Vec<Key> = self.list(prefix)?.into_iter().map(|entry| entry.key).collect();
        let keys: Vec<Key> = keys.into_iter().filter(is_locked).collect();
        let (next, locked) = (AtomicUsize::new(0), AtomicU64::new(0));
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(key) = keys.get(next.fetch_add(1, Ordering::SeqCst)) {
                        match self.retain_from_now(&self.name(key), lock) {
                            Ok(()) => {
                                locked.fetch_add(1, Ordering::SeqCst);
                            }
                            // Removed since it was listed: nothing is there, or the mark of it.
                            Err(trouble) if matches!(trouble.status(), Some(404 | 405)) => {}
                            Err(trouble) => {
                                let error = trouble.about(&self.shown(key));
                                let mut failed =
                                    failed.lock().unwrap_or_else(PoisonError::into_inner);
                                failed.get_or_insert(error);
                                next.store(keys.len(), Ordering::SeqCst);
                                return;
                            }
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Some(locked.into_inner())),
        }
    }

    /// Removes one version for good; refused while it is locked.
    fn delete_version(&self, key: &Key, version: &str) -> Result<(), Error> {
        let query = [("versionId", version)];
        match self.own(&Method::DELETE, &self.name(key), &query) {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.status() == Some(404) => Ok(()),
            Err(trouble @ Trouble::Answer { status: 403, .. }) => {
                let what = format!("this version is locked and cannot be removed yet ({trouble})");
                Err(Error::new(ErrorKind::Permission, self.shown(key), what))
            }
            Err(trouble) => Err(trouble.about(&self.shown(key))),
        }
    }

    /// Locks an object for a short time, and tries to remove it for good.
    pub(super) fn probe_lock(&self, key: &Key) -> Result<Retention, Error> {
        let path = self.path(key)?;
        let shown = self.shown(key);
        let mode = self.0.lock.map_or(LockMode::Governance, |lock| lock.mode);
        let payload = PutPayload::from_static(b"probe");
        let put = self.library(&shown, |library| {
            let mut extensions = Extensions::new();
            extensions.insert(Retain(Lock { mode, period: PROBE_PERIOD }));
            let options = PutOptions { extensions, ..PutOptions::default() };
            block_on(library.put_opts(&path, payload.clone(), options))
        });
        let put = match put {
            Ok(put) => put,
            // What servers say whose bucket was made without locks, or that know none.
            Err(e) if matches!(e.kind(), ErrorKind::Failed | ErrorKind::Invalid) => {
                return Ok(Retention::Refused(format!("the bucket takes no locks ({e})")));
            }
            Err(e) => return Err(e),
        };
        let Some(version) = put.version else {
            self.delete(key)?;
            return Ok(Retention::Refused("the bucket keeps no versions".to_owned()));
        };
        let removed = self.delete_version(key, &version);
        // Hides the version that is locked; it goes when its time is over and somebody removes
        // old versions.
        self.delete(key)?;
        match removed {
            Ok(()) => {
                let what = "an object that was to be locked could be removed for good";
                Ok(Retention::Refused(what.to_owned()))
            }
            Err(e) if e.kind() == ErrorKind::Permission => Ok(Retention::Holds),
            Err(e) => Err(e),
        }
    }
}
