//! One changing operation per member at a time.
//!
//! The lock is an flock on a file that names its holder. The kernel releases it when the holder's
//! process ends, however it ends, so a lock that is held has a living holder; no pid is trusted.

use crate::Error;
use jiff::Timestamp;
use model::{CancelToken, Class, Classify, OperationId};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// The operation; none while a leftover is cleaned up before one begins.
    pub operation: Option<OperationId>,
    /// What it does.
    pub kind: String,
    /// Its process, for people.
    pub pid: u32,
    /// Since when.
    pub since: Timestamp,
}

/// The lock, held.
#[derive(Debug)]
pub(crate) struct MemberLock {
    file: File,
    path: PathBuf,
}

/// How long a lock is tried for when nobody asked to wait.
const GRACE: Duration = Duration::from_millis(200);

fn path(dir: &Path) -> PathBuf {
    dir.join("lock")
}

impl MemberLock {
    /// Takes the lock, waiting up to `wait` for another holder.
    pub(crate) fn take(
        dir: &Path,
        kind: &str,
        wait: Option<Duration>,
        cancel: &CancelToken,
    ) -> Result<MemberLock, Error> {
        crate::member::private_dir(dir).map_err(|e| {
            Error::io("make the state directory", dir, e)
                .hinting("Correct `state-dir` in [host], or run as the user it belongs to.")
        })?;
        let path = path(dir);
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| Error::io("open the lock", &path, e))?;
        hold(&file, dir, wait, cancel)?;
        let mut lock = MemberLock { file, path };
        match lock.name(None, kind) {
            // Its name is for people. A full disk must not keep anybody from bringing a service back.
            Err(e) if e.class() == Class::NoSpace => Ok(lock),
            named => named.map(|()| lock),
        }
    }

    /// Takes it without writing anything, not even who has it.
    pub(crate) fn take_unnamed(dir: &Path, cancel: &CancelToken) -> Result<MemberLock, Error> {
        let path = path(dir);
        let file = File::open(&path).map_err(|e| Error::io("open the lock", &path, e))?;
        hold(&file, dir, None, cancel)?;
        Ok(MemberLock { file, path })
    }

    /// Writes who holds it.
    pub(crate) fn name(
        &mut self,
        operation: Option<&OperationId>,
        kind: &str,
    ) -> Result<(), Error> {
        let holder = Holder {
            operation: operation.cloned(),
            kind: kind.to_owned(),
            pid: std::process::id(),
            since: Timestamp::now(),
        };
        let text = serde_json::to_vec(&holder).unwrap_or_default();
        let mut write = || {
            self.file.rewind()?;
            self.file.set_len(0)?;
            self.file.write_all(&text)
        };
        write().map_err(|e| Error::io("write", &self.path, e))
    }
}

/// Locks it, and waits up to `wait` for another holder.
fn hold(
    file: &File,
    dir: &Path,
    wait: Option<Duration>,
    cancel: &CancelToken,
) -> Result<(), Error> {
    // Somebody who only looks who holds the lock holds it for an instant himself.
    let deadline = Instant::now() + wait.unwrap_or_default().max(GRACE);
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Error::io("lock", path(dir), e.into())),
        }
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        if Instant::now() >= deadline {
            return Err(busy(dir));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Who holds the lock now; none if nobody does.
pub(crate) fn holder(dir: &Path) -> Result<Option<Holder>, Error> {
    let path = path(dir);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open the lock", &path, e)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => return Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(e) => return Err(Error::io("look at the lock", &path, e.into())),
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|e| Error::io("read", &path, e))?;
    // The holder is writing its name at this very moment, or could not.
    Ok(Some(serde_json::from_str(&text).unwrap_or(Holder {
        operation: None,
        kind: "operation".to_owned(),
        pid: 0,
        since: Timestamp::now(),
    })))
}

fn busy(dir: &Path) -> Error {
    let who = match holder(dir) {
        Ok(Some(Holder { operation: Some(id), pid, since, .. })) => {
            format!("{id} runs since {since} (process {pid})")
        }
        Ok(Some(Holder { kind, pid, .. })) => format!("a {kind} runs (process {pid})"),
        _ => "another operation runs".to_owned(),
    };
    Error::new(Class::Locked, format!("this member is busy: {who}"))
        .hinting("Wait for it with `--wait 10m`, watch it with `mainstay status`, or stop it with `mainstay cancel`.")
}
