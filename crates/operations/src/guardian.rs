//! The guardian: waits for the death of one operation's process, and cleans up after it at once. It also
//! counts how long that holds its service still, and ends it when that is too long.

use crate::alert::{self, Alert};
use crate::journal::{self, Steps};
use crate::lock::MemberLock;
use crate::operation::{Run, operations_dir};
use crate::quiesce::{self, Watch};
use crate::{Error, ServiceSite, recover};
use jiff::Timestamp;
use model::{Class, OperationId};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// How often it looks whether a service was held still for too long.
const LOOK: Duration = Duration::from_millis(50);
/// How long it waits for an alert, in the end.
const ALERT_PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits before it tries again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Returns when the operation is over and nothing of it is left, whoever saw to that. The token must be
/// one that nobody cancels: what is asked to end first when a host or session ends is this.
pub fn guard(site: &ServiceSite, id: &OperationId, run: &Run) -> Result<(), Error> {
    let dir = operations_dir(site).join(id.as_str());
    let alive_path = dir.join("alive");
    let alive = File::open(&alive_path).map_err(|e| Error::io("open", &alive_path, e))?;
    let ready = dir.join("guardian.ready");
    std::fs::write(&ready, b"").map_err(|e| Error::io("write", &ready, e))?;
    let mut alarm = Alarm::new(site);
    let mut watch = Watch::of(site, id, &dir);
    loop {
        let how = match &watch {
            // Blocks until the worker's process ends, however it ends.
            None => FlockOperation::LockShared,
            Some(_) => FlockOperation::NonBlockingLockShared,
        };
        match (rustix::fs::flock(&alive, how), &mut watch) {
            (Ok(()), _) => break,
            (Err(rustix::io::Errno::WOULDBLOCK), Some(watch)) => {
                if let Err(error) = watch.look(run) {
                    run.progress.warn(&error.chain());
                    alarm.down(&error.chain());
                }
                std::thread::sleep(LOOK);
            }
            (Err(rustix::io::Errno::INTR), _) => {}
            (Err(e), _) => return Err(Error::io("wait on", &alive_path, e.into())),
        }
    }
    let mut pause = FIRST_PAUSE;
    loop {
        if is_over(&dir)? {
            alarm.over();
            return Ok(());
        }
        let cleaned = MemberLock::take(&site.dir(), "guardian", None, &run.cancel)
            .and_then(|_lock| recover::sweep_locked(site, run, None));
        match cleaned {
            // What could not be done was told, and is tried again.
            Ok(_) if is_over(&dir)? => {
                alarm.over();
                return Ok(());
            }
            Ok(said) => {
                said.iter().for_each(|line| run.progress.warn(line));
                if !quiesce::is_back(&journal::read(&dir)?) {
                    alarm.down(&said.join("; "));
                }
            }
            // Somebody else is there; they have cleaned up before they began, or will.
            Err(error) if model::Classify::class(&error) == Class::Locked => {
                pause = FIRST_PAUSE;
            }
            Err(error) => {
                run.progress.warn(&error.chain());
                // What needs the vault can wait for the next command; the service cannot.
                if journal::read(&dir)?.done("resume").is_some() {
                    alarm.over();
                    return Err(error);
                }
                if !quiesce::is_back(&journal::read(&dir)?) {
                    alarm.down(&error.chain());
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Tells a person that a service is down which this was to bring back, once, and when that is over.
struct Alarm<'a> {
    site: &'a ServiceSite,
    told: bool,
}

impl<'a> Alarm<'a> {
    fn new(site: &'a ServiceSite) -> Alarm<'a> {
        Alarm { site, told: false }
    }

    fn down(&mut self, why: &str) {
        if !std::mem::replace(&mut self.told, true) {
            let what = format!("it is not back from a backup, and is tried again: {why}");
            drop(self.send("service-down", &what));
        }
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.told) {
            let sent = self.send("service-down-over", "it is back");
            let _ = sent.recv_timeout(ALERT_PATIENCE);
        }
    }

    /// In a thread of its own: whatever an alert waits for, the service does not.
    fn send(&self, event: &str, what: &str) -> Receiver<()> {
        let alert = Alert {
            host: self.site.member().clone(),
            service: Some(self.site.name().clone()),
            event: event.to_owned(),
            message: format!("{}: {what}", self.site.name()),
            at: Timestamp::now(),
        };
        let (site, (tell, sent)) = (self.site.site().clone(), sync_channel(1));
        std::thread::spawn(move || {
            alert::send_by_all(&site, &alert);
            let _ = tell.send(());
        });
        sent
    }
}

/// Whether nothing is left to do: it has ended, or was so old that its directory is gone.
fn is_over(dir: &Path) -> Result<bool, Error> {
    Ok(!dir.join("journal").exists() || journal::read(dir)?.end().is_some())
}
