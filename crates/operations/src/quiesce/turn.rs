//! Whose turn it is to bring the service back, and what is known of that.
//!
//! What is known are marks in the operation's directory: files that are there from before the service is
//! touched, and are removed, which takes no space on a disk that is full. What is read when the time is
//! over is of no one moment and becomes no point: **that it is over is marked before the service comes
//! back, and the worker looks for the mark when it has read everything**, both under one lock, so that
//! exactly one of them is first.

use crate::{Error, journal};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Whoever brings the service back locks this one.
const LOCK: &str = "still.lock";
/// Gone: the time is over.
const IN_TIME: &str = "still.in-time";
/// Gone: the service is back.
const AWAY: &str = "still.away";
/// Written by a guardian that is ready, and locked as long as it lives.
pub(super) const READY: &str = "guardian.ready";
/// Gone: the vault was asked whether it may be started again, and has answered.
const UNHEARD: &str = "unheard";

/// From now on it counts.
pub(super) fn begin(dir: &Path) -> Result<(), Error> {
    for mark in [IN_TIME, AWAY, LOCK] {
        make(dir, mark)?;
    }
    // After a crash, one that is not there must have been removed.
    journal::sync_dir(dir)
}

fn make(dir: &Path, mark: &str) -> Result<(), Error> {
    let path = dir.join(mark);
    File::create(&path).map(drop).map_err(|e| Error::io("make", &path, e))
}

/// Whether an operation has come so far that it may have touched the service.
pub(crate) fn has_begun(dir: &Path) -> bool {
    dir.join(LOCK).exists()
}

/// Whether an operation has held its service still for longer than it may.
pub(crate) fn is_over(dir: &Path) -> bool {
    has_begun(dir) && !dir.join(IN_TIME).exists()
}

/// Whether it is known to whoever comes next that the service is back.
pub(crate) fn is_known(dir: &Path) -> bool {
    has_begun(dir) && !dir.join(AWAY).exists()
}

/// Nobody has heard from the vault yet whether the service may be started again.
pub(super) fn not_heard(dir: &Path) -> Result<(), Error> {
    make(dir, UNHEARD)
}

/// It has answered.
pub(crate) fn heard(dir: &Path) {
    // Who does not see it asks once more.
    let _ = std::fs::remove_file(dir.join(UNHEARD));
}

/// Whether the vault has to be asked yet.
pub(crate) fn is_unheard(dir: &Path) -> bool {
    dir.join(UNHEARD).exists()
}

/// A guardian is ready, and is one until it lets go of this, or ends.
pub(crate) fn ready(dir: &Path) -> Result<File, Error> {
    let path = dir.join(READY);
    let ready = File::create(&path).map_err(|e| Error::io("make", &path, e))?;
    // Who cannot see it takes it for dead, and only asks the vault once more before a service is started.
    let _ = rustix::fs::flock(&ready, FlockOperation::NonBlockingLockExclusive);
    Ok(ready)
}

/// Whether an operation has a guardian that lives.
pub(super) fn is_guarded(dir: &Path) -> bool {
    let Ok(ready) = File::open(dir.join(READY)) else { return false };
    let tried = rustix::fs::flock(&ready, FlockOperation::NonBlockingLockShared);
    tried == Err(rustix::io::Errno::WOULDBLOCK)
}

/// The right to bring the service back.
pub(crate) struct Turn {
    /// None if that is not to be had: in an operation of an older version, which has no marks, or where
    /// nothing can be read any more. A service is not left down for that.
    lock: Option<File>,
}

impl Turn {
    /// Waits for whoever is about to bring it back.
    pub(super) fn wait(dir: &Path) -> Turn {
        Turn::take(dir, FlockOperation::LockExclusive).unwrap_or(Turn { lock: None })
    }

    /// None if somebody is about to.
    pub(crate) fn try_now(dir: &Path) -> Option<Turn> {
        Turn::take(dir, FlockOperation::NonBlockingLockExclusive)
    }

    fn take(dir: &Path, how: FlockOperation) -> Option<Turn> {
        let Ok(file) = File::open(dir.join(LOCK)) else { return Some(Turn { lock: None }) };
        loop {
            match rustix::fs::flock(&file, how) {
                Ok(()) => return Some(Turn { lock: Some(file) }),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return None,
                Err(_) => return Some(Turn { lock: None }),
            }
        }
    }

    /// Whether the service was still until now, and nobody lets it go as long as this is held.
    pub(super) fn is_in_time(&self, dir: &Path) -> bool {
        self.lock.is_some() && dir.join(IN_TIME).exists()
    }

    /// Whether somebody brought it back.
    pub(crate) fn is_back(&self, dir: &Path) -> bool {
        self.lock.is_some() && !dir.join(AWAY).exists()
    }

    /// Somebody did, and nobody holds it still again.
    pub(crate) fn back(&self, dir: &Path) {
        // Who does not see it brings back what is back, which is no error.
        let _ = std::fs::remove_file(dir.join(AWAY));
    }
}

/// The word that the time is over. What was frozen may be what it would be written on: nobody waits for
/// that before the service is let go.
pub(crate) struct Over {
    path: PathBuf,
    open: Option<Receiver<io::Result<()>>>,
}

impl Over {
    pub(crate) fn in_dir(dir: &Path) -> Over {
        Over { path: dir.join(IN_TIME), open: None }
    }

    /// Whether it was given already.
    pub(crate) fn is_said(&self) -> bool {
        !self.path.exists()
    }

    /// Gives it. Says whether that came to its end in this time.
    pub(crate) fn say(&mut self, patience: Duration) -> bool {
        let open = self.open.take().unwrap_or_else(|| {
            let (path, (tell, said)) = (self.path.clone(), sync_channel(1));
            std::thread::spawn(move || {
                let _ = tell.send(std::fs::remove_file(path));
            });
            said
        });
        match open.recv_timeout(patience) {
            Ok(Ok(())) => true,
            Ok(Err(e)) => e.kind() == ErrorKind::NotFound,
            Err(RecvTimeoutError::Timeout) => {
                self.open = Some(open);
                false
            }
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }
}
