//! The guardian: waits for the death of one operation's process, and cleans up after it at once.

use crate::journal::{self, Steps};
use crate::lock::MemberLock;
use crate::operation::{Run, operations_dir};
use crate::{Error, ServiceSite, recover};
use model::{Class, OperationId};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// How long it waits before it tries again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Returns when the operation is over and nothing of it is left, whoever saw to that.
pub fn guard(site: &ServiceSite, id: &OperationId, run: &Run) -> Result<(), Error> {
    let dir = operations_dir(site).join(id.as_str());
    let alive_path = dir.join("alive");
    let alive = File::open(&alive_path).map_err(|e| Error::io("open", &alive_path, e))?;
    let ready = dir.join("guardian.ready");
    std::fs::write(&ready, b"").map_err(|e| Error::io("write", &ready, e))?;
    loop {
        // Blocks until the worker's process ends, however it ends.
        match rustix::fs::flock(&alive, FlockOperation::LockShared) {
            Ok(()) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("wait on", &alive_path, e.into())),
        }
    }
    let mut pause = FIRST_PAUSE;
    loop {
        if is_over(&dir)? {
            return Ok(());
        }
        let cleaned = MemberLock::take(&site.dir(), "guardian", None, &run.cancel)
            .and_then(|_lock| recover::sweep_locked(site, run, None));
        match cleaned {
            // What could not be done was told, and is tried again.
            Ok(_) if is_over(&dir)? => return Ok(()),
            Ok(said) => said.iter().for_each(|line| run.progress.warn(line)),
            // Somebody else is there; they have cleaned up before they began, or will.
            Err(error) if model::Classify::class(&error) == Class::Locked => {
                pause = FIRST_PAUSE;
            }
            Err(error) => {
                run.progress.warn(&error.chain());
                // What needs the vault can wait for the next command; the service cannot.
                if journal::read(&dir)?.done("resume").is_some() {
                    return Err(error);
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether nothing is left to do: it has ended, or was so old that its directory is gone.
fn is_over(dir: &Path) -> Result<bool, Error> {
    Ok(!dir.join("journal").exists() || journal::read(dir)?.end().is_some())
}
