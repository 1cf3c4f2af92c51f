//! Locks, by restic's protocol, so that every tool respects every other.
//!
//! A lock is a small file. Whoever wants one looks whether another excludes it, writes its own,
//! waits for a moment so that everybody who does the same sees it (which a directory of a local file
//! system does not need), and looks again; if there is one now, it takes its own away and tries
//! later. A shared lock is excluded by exclusive ones, an
//! exclusive one by any. Holders write their lock anew every five minutes.
//!
//! A lock is stale if its holder was a process of this machine and is dead, or if it was not
//! refreshed for half an hour. Stale locks that are in the way are removed. The second rule trusts
//! the clocks of two machines not to be apart by much; so a holder does not trust that its lock is
//! there but looks ([`RepositoryLock::still_held`]) before it commits anything.
//!
//! A lock that cannot be read may be anybody's. Waiting for its holder is waiting for ever, so it is
//! an error at once, which names it, and only who asks for that removes it ([`Repository::unlock`]).
//! The one exception is an empty file, which a holder can only leave by dying before it had the
//! lock, on a storage that shows files before they are whole. It is in the way of nobody but who
//! wants to be alone.

mod work;

pub use work::{TABLE, Work};

use crate::files::{FileKind, Files, Listed};
use crate::format::LockId;
use crate::format::lock::Lock;
use crate::{Error, Repository, host};
use jiff::Timestamp;
use model::CancelToken;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use storage::ErrorKind;

/// What a repository lock excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Beside other shared ones: backup, restore, check.
    Shared,
    /// Alone: whatever removes data.
    Exclusive,
}

/// The times of the protocol; other ones only in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// A holder refreshes its lock this often.
    pub(crate) refresh: Duration,
    /// After a refresh failed, it tries again this much later.
    pub(crate) retry: Duration,
    /// Without a refresh for this long, others take the lock for stale.
    pub(crate) stale: Duration,
    /// For this long the holder trusts it: less, since refreshing takes time.
    pub(crate) trust: Duration,
    /// Between writing a lock and looking again.
    pub(crate) settle: Duration,
}

impl Timing {
    pub(crate) const PROTOCOL: Timing = Timing {
        refresh: Duration::from_secs(5 * 60),
        retry: Duration::from_secs(15),
        stale: Duration::from_secs(30 * 60),
        trust: Duration::from_secs(25 * 60),
        settle: Duration::from_millis(200),
    };
}

/// A lock that cannot be read may be one that is being written, where a storage shows that: so it
/// is read this many times, with the protocol's pause in between.
const LOOKS: u32 = 3;
/// No lock is this large. One that is larger is not read.
const MAX_LOCK_BYTES: u64 = 64 << 10;

/// How often somebody who waits for a lock tries again, at least and at most.
const TRY_AGAIN: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// A held lock; refreshed in the background, removed on drop.
#[derive(Debug)]
pub struct RepositoryLock {
    shared: Arc<Shared>,
    refresher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    files: Files,
    kind: LockKind,
    timing: Timing,
    held: Mutex<Held>,
    wake: Condvar,
}

#[derive(Debug)]
struct Held {
    id: LockId,
    /// When its file was last known to be there, on the clock of [`host::boot_time`].
    refreshed: Duration,
    lapsed: bool,
    released: bool,
}

impl RepositoryLock {
    /// Fails if the lock lapsed (could not be refreshed in time, or was removed by somebody). Looks
    /// at the storage.
    pub fn still_held(&self) -> Result<(), Error> {
        let held = self.shared.lock();
        if self.shared.files.storage.is_read_only() {
            return Ok(());
        }
        self.shared.check(&held)?;
        // With the refresher kept out, so that the file is not replaced while we look for it.
        let there = self.shared.files.storage.size(&FileKind::Lock.key(held.id.0)?);
        match there {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let mut held = held;
                held.lapsed = true;
                Err(lapsed("somebody has removed it"))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// As [`still_held`](RepositoryLock::still_held), by what is known here and now: cheap enough
    /// to ask before each of many removals.
    pub fn still_trusted(&self) -> Result<(), Error> {
        self.shared.check(&self.shared.lock())
    }

    /// What it excludes.
    pub fn kind(&self) -> LockKind {
        self.shared.kind
    }
}

impl Drop for RepositoryLock {
    fn drop(&mut self) {
        self.shared.lock().released = true;
        self.shared.wake.notify_all();
        if let Some(refresher) = self.refresher.take() {
            let _ = refresher.join();
        }
        let id = self.shared.lock().id;
        // If this fails, others will find the lock stale, since this process will be gone.
        let _ = self.shared.files.delete(FileKind::Lock, id.0);
    }
}

/// A lock that is in a repository, as far as it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    id: LockId,
    /// Who holds it, in words; of one that cannot be read, why not.
    pub holder: String,
    /// It excludes everybody.
    pub exclusive: bool,
    /// Its holder is gone by the rules of the protocol, or its bytes are not a lock: no living
    /// holder leaves one like that.
    pub stale: bool,
    /// It says whose it is.
    pub readable: bool,
}

impl Repository {
    /// Takes a lock by restic's protocol, waiting up to `wait` for one that excludes it.
    ///
    /// An index that was loaded before is brought up to date: whoever was waited for may have moved
    /// what it names.
    pub fn lock(
        &self,
        kind: LockKind,
        wait: Duration,
        cancel: &CancelToken,
    ) -> Result<RepositoryLock, Error> {
        let lock = lock(self.files(), kind, wait, cancel, Timing::PROTOCOL)?;
        self.index().refresh_loaded(self.files())?;
        self.remember_lock(Arc::downgrade(&lock.shared));
        Ok(lock)
    }

    /// Takes the lock that this work needs.
    pub fn lock_for(
        &self,
        work: Work,
        wait: Duration,
        cancel: &CancelToken,
    ) -> Result<RepositoryLock, Error> {
        self.lock(work.lock(), wait, cancel)
    }

    /// All locks, whoever holds them.
    pub fn locks(&self) -> Result<Vec<Standing>, Error> {
        let standing = |(id, found)| match found {
            Found::Lock(lock) => Standing {
                id,
                holder: describe(&lock),
                exclusive: lock.exclusive,
                stale: is_stale(&lock, Timing::PROTOCOL.stale),
                readable: true,
            },
            Found::Empty => unreadable(id, "it is empty", true),
            Found::Unreadable(what) => unreadable(id, &what, true),
            Found::Withheld(what) => unreadable(id, &what, false),
        };
        let found = others(self.files(), None, Timing::PROTOCOL)?;
        Ok(found.into_iter().map(standing).collect())
    }

    /// Removes locks whose holders are gone and those that cannot be read, and with `all` every
    /// lock. Returns what was removed, in words. A holder that lives all the same notices, and
    /// commits nothing more; what it has under way at this instant may still be harmed.
    pub fn unlock(&self, all: bool) -> Result<Vec<String>, Error> {
        self.remove_locks(|lock| all || lock.stale)
    }

    /// Removes locks whose holders are known to be gone: what may be done unasked.
    pub fn remove_stale_locks(&self) -> Result<Vec<String>, Error> {
        self.remove_locks(|lock| lock.stale && lock.readable)
    }

    fn remove_locks(&self, which: impl Fn(&Standing) -> bool) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for lock in self.locks()?.into_iter().filter(which) {
            self.files().delete(FileKind::Lock, lock.id.0)?;
            removed.push(lock.holder);
        }
        Ok(removed)
    }
}

fn unreadable(id: LockId, what: &str, stale: bool) -> Standing {
    let holder = format!("unknown: {} cannot be read: {what}", FileKind::Lock.name(id.0));
    Standing { id, holder, exclusive: true, stale, readable: false }
}

/// The locks that an open repository has taken, so that whatever it writes can ask for them.
#[derive(Debug, Default)]
pub(crate) struct Taken(Mutex<Vec<Weak<Shared>>>);

impl Taken {
    pub(crate) fn remember(&self, lock: Weak<Shared>) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|lock| lock.strong_count() > 0);
        taken.push(lock);
    }

    /// Fails if one of them has lapsed. Does not look at the storage.
    pub(crate) fn still_trusted(&self) -> Result<(), Error> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for lock in taken.iter().filter_map(Weak::upgrade) {
            let held = lock.lock();
            if !held.released {
                lock.check(&held)?;
            }
        }
        Ok(())
    }

    /// Whether one of them is held and has not lapsed. Does not look at the storage.
    pub(crate) fn any(&self) -> bool {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        taken.iter().filter_map(Weak::upgrade).any(|lock| {
            let held = lock.lock();
            !held.released && lock.check(&held).is_ok()
        })
    }
}

/// Takes a lock.
pub(crate) fn lock(
    files: &Files,
    kind: LockKind,
    wait: Duration,
    cancel: &CancelToken,
    timing: Timing,
) -> Result<RepositoryLock, Error> {
    // Nobody changes the past, and nothing can be written there, a lock neither.
    if files.storage.is_read_only() && kind == LockKind::Shared {
        let held = Held {
            id: LockId(Default::default()),
            refreshed: host::boot_time(),
            lapsed: false,
            released: true,
        };
        let shared = Shared {
            files: files.clone(),
            kind,
            timing,
            held: Mutex::new(held),
            wake: Condvar::new(),
        };
        return Ok(RepositoryLock { shared: Arc::new(shared), refresher: None });
    }
    let deadline = Instant::now() + wait;
    let mut pause = TRY_AGAIN[0];
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let blocked = match try_lock(files, kind, timing)? {
            Ok(lock) => return Ok(lock),
            Err(blocked) => blocked,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Locked(blocked));
        }
        sleep(jitter(pause).min(left), cancel);
        pause = (pause * 2).min(TRY_AGAIN[1]);
    }
}

/// One try. The inner error says in words what is in the way.
fn try_lock(
    files: &Files,
    kind: LockKind,
    timing: Timing,
) -> Result<Result<RepositoryLock, String>, Error> {
    if let Some(blocked) = conflict(files, kind, None, timing)? {
        return Ok(Err(blocked));
    }
    let begun = host::boot_time();
    // Removed again if anything below fails.
    let mut ours = OwnFile { files, id: Some(write(files, kind)?) };
    // Of two that each write and then look, one sees the other: if what is written shows at once.
    if !files.storage.shows_at_once(FileKind::Lock.dir()) {
        std::thread::sleep(timing.settle);
    }
    if let Some(blocked) = conflict(files, kind, ours.id, timing)? {
        return Ok(Err(blocked));
    }
    let Some(id) = ours.id.take() else { return Ok(Err("our own lock vanished".to_owned())) };
    let shared = Arc::new(Shared {
        files: files.clone(),
        kind,
        timing,
        held: Mutex::new(Held { id, refreshed: begun, lapsed: false, released: false }),
        wake: Condvar::new(),
    });
    let mut lock = RepositoryLock { shared: shared.clone(), refresher: None };
    let refresher = std::thread::Builder::new()
        .name("lock".to_owned())
        .spawn(move || shared.keep_fresh())
        .map_err(|e| Error::io("start thread", "lock", e))?;
    lock.refresher = Some(refresher);
    Ok(Ok(lock))
}

struct OwnFile<'a> {
    files: &'a Files,
    id: Option<LockId>,
}

impl Drop for OwnFile<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let _ = self.files.delete(FileKind::Lock, id.0);
        }
    }
}

impl Shared {
    fn keep_fresh(&self) {
        let mut pause = self.timing.refresh;
        let mut held = self.lock();
        loop {
            // A suspend does not count for the pause, but `refreshed` tells how long it was.
            let until = Instant::now() + pause;
            while !held.released {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                held = self.wake.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            if held.released || self.check(&held).is_err() {
                return;
            }
            pause = match self.refresh(&mut held) {
                Ok(()) => self.timing.refresh,
                Err(_) => self.timing.retry,
            };
        }
    }

    /// Writes the lock anew, then removes the old file: at every moment one is there.
    fn refresh(&self, held: &mut Held) -> Result<(), Error> {
        let begun = host::boot_time();
        match self.files.storage.size(&FileKind::Lock.key(held.id.0)?) {
            // Taken away: whoever did that may have begun to remove data.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                held.lapsed = true;
                return Ok(());
            }
            other => other?,
        };
        let old = std::mem::replace(&mut held.id, write(&self.files, self.kind)?);
        held.refreshed = begun;
        // One too many does no harm; it will be stale.
        let _ = self.files.delete(FileKind::Lock, old.0);
        Ok(())
    }

    fn check(&self, held: &Held) -> Result<(), Error> {
        if held.lapsed {
            return Err(lapsed("somebody has removed it"));
        }
        if host::boot_time().saturating_sub(held.refreshed) > self.timing.trust {
            return Err(lapsed("it could not be refreshed in time"));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lapsed(why: &str) -> Error {
    Error::Locked(format!("our own lock was lost: {why}"))
}

/// A lock file as found.
enum Found {
    Lock(Lock),
    /// There is nothing in it.
    Empty,
    /// What is in it is no lock of this repository, for this reason.
    Unreadable(String),
    /// The storage does not give it to us, for this reason. It may be anything.
    Withheld(String),
}

/// All locks but `own`.
fn others(
    files: &Files,
    own: Option<LockId>,
    timing: Timing,
) -> Result<Vec<(LockId, Found)>, Error> {
    let mut found = Vec::new();
    for file in files.list(FileKind::Lock)? {
        let id = LockId(file.id);
        if Some(id) == own {
            continue;
        }
        let mut look = find(files, file)?;
        for _ in 1..LOOKS {
            if let None | Some(Found::Lock(_)) = look {
                break;
            }
            std::thread::sleep(timing.settle);
            look = find(files, file)?;
        }
        found.extend(look.map(|look| (id, look)));
    }
    Ok(found)
}

/// One lock, unless it was released since it was listed.
fn find(files: &Files, listed: Listed) -> Result<Option<Found>, Error> {
    let id = listed.id;
    if listed.size_bytes > MAX_LOCK_BYTES {
        return Ok(Some(Found::Unreadable("it is too large for a lock".to_owned())));
    }
    let lock = files
        .read_json(FileKind::Lock, id)
        .and_then(|json| Lock::decode(&json).map_err(|e| FileKind::Lock.damaged(id, e)));
    let what = match lock {
        Ok(lock) => return Ok(Some(Found::Lock(lock))),
        Err(Error::Damaged { what, .. }) => what,
        Err(Error::Storage(e)) => match e.kind() {
            ErrorKind::NotFound => return Ok(None),
            ErrorKind::Permission => return Ok(Some(Found::Withheld(e.to_string()))),
            _ => return Err(e.into()),
        },
        Err(e) => return Err(e),
    };
    match files.storage.size(&FileKind::Lock.key(id)?) {
        Ok(0) => Ok(Some(Found::Empty)),
        Ok(_) => Ok(Some(Found::Unreadable(what))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What excludes a lock of this kind, in words. Stale locks are removed. One that cannot be read is
/// an error: what it excludes is not known, and waiting does not tell.
fn conflict(
    files: &Files,
    kind: LockKind,
    own: Option<LockId>,
    timing: Timing,
) -> Result<Option<String>, Error> {
    let unreadable = |id: LockId, what: String| {
        Err(Error::UnreadableLock { lock: FileKind::Lock.name(id.0), what })
    };
    for (id, found) in others(files, own, timing)? {
        match found {
            // Whoever writes it still will find ours when it looks again.
            Found::Empty if kind == LockKind::Shared => {}
            Found::Empty => return unreadable(id, "it is empty".to_owned()),
            Found::Unreadable(what) | Found::Withheld(what) => return unreadable(id, what),
            Found::Lock(lock) if kind == LockKind::Shared && !lock.exclusive => {}
            Found::Lock(lock) if is_stale(&lock, timing.stale) => {
                files.delete(FileKind::Lock, id.0)?;
            }
            Found::Lock(lock) => return Ok(Some(describe(&lock))),
        }
    }
    Ok(None)
}

fn is_stale(lock: &Lock, after: Duration) -> bool {
    let age = Timestamp::now().duration_since(lock.time.timestamp());
    let old = age > jiff::SignedDuration::try_from(after).unwrap_or(jiff::SignedDuration::MAX);
    old || (lock.hostname == host::host_name() && !host::is_alive(lock.pid))
}

fn describe(lock: &Lock) -> String {
    let kind = if lock.exclusive { "exclusively " } else { "" };
    format!(
        "{kind}by process {} of {} on {}, last refreshed {}",
        lock.pid, lock.username, lock.hostname, lock.time
    )
}

fn write(files: &Files, kind: LockKind) -> Result<LockId, Error> {
    let lock = Lock {
        time: Timestamp::now().into(),
        exclusive: kind == LockKind::Exclusive,
        hostname: host::host_name(),
        username: host::user_name(),
        pid: i64::from(std::process::id()),
        uid: Some(host::user_id()),
        gid: Some(host::group_id()),
    };
    let json = lock.encode().map_err(|e| Error::Invalid(format!("new lock: {e}")))?;
    files.write_json(FileKind::Lock, &json).map(LockId)
}

/// Up to half as long again, so that two that wait for each other do not do so in step.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0];
    let _ = getrandom::fill(&mut random);
    pause + pause * u32::from(random[0]) / 512
}

fn sleep(duration: Duration, cancel: &CancelToken) {
    let until = Instant::now() + duration;
    while !cancel.is_cancelled() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LockKind::Shared => "shared",
            LockKind::Exclusive => "exclusive",
        })
    }
}

#[cfg(test)]
mod tests;
