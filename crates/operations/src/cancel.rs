//! Asks the running operation of a member to stop, or ends its process.

use crate::journal::{self, Steps};
use crate::operation::{is_alive, operations_dir};
use crate::{Error, ServiceSite, lock, recover};
use model::{Class, OperationId};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the request met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It was asked to stop.
    Asked {
        /// Which operation.
        operation: OperationId,
    },
    /// It had been asked already; a second request does nothing.
    AskedBefore {
        /// Which operation.
        operation: OperationId,
    },
    /// Nothing runs.
    Idle,
}

/// Asks. The operation cleans up by itself; past its commit marker it goes on to its end.
pub fn request(site: &ServiceSite) -> Result<Answer, Error> {
    let Some((operation, dir)) = running(site)? else { return Ok(Answer::Idle) };
    Ok(match ask(&dir, "")? {
        true => Answer::Asked { operation },
        false => Answer::AskedBefore { operation },
    })
}

/// Why something is stopped that nobody has asked to stop by itself.
pub(crate) const GONE_FIRST: &str = "a takeover goes first";

/// Asks the operation of a directory, for a reason if there is one. Says whether nobody had before.
pub(crate) fn ask(dir: &Path, why: &str) -> Result<bool, Error> {
    let file = request_file(dir);
    match std::fs::File::options().write(true).create_new(true).open(&file) {
        Ok(mut open) => {
            // It is the file that counts. A full disk must not keep anybody from stopping.
            let _ = open.write_all(why.as_bytes());
            Ok(true)
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("write", &file, e)),
    }
}

/// The reason for which an operation was asked to stop, if one was given.
pub(crate) fn reason(dir: &Path) -> Option<String> {
    let why = std::fs::read_to_string(request_file(dir)).ok()?;
    (!why.is_empty()).then_some(why)
}

/// How long the kernel may take to end a killed process.
const DYING: Duration = Duration::from_secs(10);

/// Ends the process of the operation that runs; says which. What it leaves is cleaned up by the
/// next command, as after any death.
pub fn kill(site: &ServiceSite) -> Result<Option<OperationId>, Error> {
    let Some((operation, dir)) = running(site)? else { return Ok(None) };
    let (entries, _) = journal::look(&dir)?;
    let Some(pid) = entries.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else {
        return Err(Error::new(Class::Failed, format!("the process of {operation} is not known")));
    };
    let failed = |e: rustix::io::Errno| {
        Error::new(Class::Failed, format!("cannot end {operation} (process {pid:?})"))
            .because(std::io::Error::from(e))
    };
    // Held by this, the number cannot come to mean another process between the look and the end.
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(Some(operation)),
        Err(e) => return Err(failed(e)),
    };
    if !holds(pid, &dir.join("alive")) {
        return Err(Error::new(
            Class::Failed,
            format!("process {} is not that of {operation}", pid.as_raw_pid()),
        )
        .hinting(
            "It runs in another name space of processes, a container perhaps: end it there.",
        ));
    }
    pidfd_send_signal(&process, Signal::KILL).map_err(failed)?;
    let deadline = Instant::now() + DYING;
    while is_alive(&dir)? {
        if Instant::now() >= deadline {
            let what = format!("{operation} (process {}) does not die", pid.as_raw_pid());
            return Err(Error::new(Class::Locked, format!("{what}: it hangs in the kernel"))
                .hinting("Nothing else is begun on this member until it is gone: look at what it waits for, a network file system perhaps."));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Some(operation))
}

/// Whether an operation was asked to stop.
pub(crate) fn was_asked(dir: &Path) -> bool {
    request_file(dir).exists()
}

fn request_file(dir: &Path) -> PathBuf {
    dir.join("cancel")
}

/// The operation that runs, by its lock or, if somebody removed that, by its own sign of life.
fn running(site: &ServiceSite) -> Result<Option<(OperationId, PathBuf)>, Error> {
    if let Some(id) = lock::holder(&site.dir())?.and_then(|holder| holder.operation) {
        let dir = operations_dir(site).join(id.as_str());
        return Ok(Some((id, dir)));
    }
    for dir in recover::list(site)?.into_iter().rev() {
        let (entries, _) = journal::look(&dir)?;
        let Some((id, _)) = entries.start() else { continue };
        if entries.end().is_none() && is_alive(&dir)? {
            return Ok(Some((id.clone(), dir)));
        }
    }
    Ok(None)
}

/// Whether a process has this file open.
fn holds(pid: Pid, file: &Path) -> bool {
    let Ok(wanted) = std::fs::metadata(file) else { return false };
    let Ok(open) = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())) else {
        return false;
    };
    open.flatten()
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .any(|held| (held.dev(), held.ino()) == (wanted.dev(), wanted.ino()))
}
