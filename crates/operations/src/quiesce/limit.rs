//! How long a service may be held still for a backup.
//!
//! A capture can hang: in a vault that takes data and never answers, in a file system that is gone.
//! So the guardian, which is a process of its own, counts, and brings the service back when the time
//! is over. What is read after that is of no one moment and becomes no point: **that the time is over
//! is marked before the service is touched, and the worker looks for the mark when it has read
//! everything**, both under one lock, so that exactly one of them is first.
//!
//! Marks are files that are removed: that takes no space on a disk that is full.

use super::{STEP, bring_back, end_of_stop};
use crate::journal::{self, Steps};
use crate::operation::{Parts, Run};
use crate::{Error, ServiceSite};
use model::config::Quiesce;
use model::{Class, OperationId, duration};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a service may be frozen if its definition does not say. What is stopped is stopped on
/// purpose, for as long as its capture takes.
const FROZEN: Duration = Duration::from_secs(300);
/// How long a worker may take to end a stop or a freeze that has not come to its end.
const GRACE: Duration = Duration::from_secs(20);
/// The pause after a service could not be brought back, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Whoever brings the service back locks this one. It is there from before the service is touched.
const LOCK: &str = "still.lock";
/// Gone: the time is over.
const IN_TIME: &str = "still.in-time";
/// Gone: the service is back.
const AWAY: &str = "still.away";

/// How long this service may be held still; none if for as long as it takes.
pub(super) fn of(site: &ServiceSite) -> Option<Duration> {
    let said = site.spec().quiesce_limit.as_deref().and_then(|text| duration::parse(text).ok());
    match site.spec().quiesce {
        Quiesce::None => None,
        Quiesce::Stop => said,
        Quiesce::Freeze => Some(said.unwrap_or(FROZEN)),
    }
}

/// From now on it counts.
pub(super) fn begin(dir: &Path) -> Result<(), Error> {
    for mark in [IN_TIME, AWAY, LOCK] {
        let path = dir.join(mark);
        File::create(&path).map_err(|e| Error::io("make", &path, e))?;
    }
    // After a crash, one that is not there must have been removed.
    journal::sync_dir(dir)
}

/// Whether an operation has held its service still for longer than it may.
pub(crate) fn is_over(dir: &Path) -> bool {
    has_begun(dir) && !dir.join(IN_TIME).exists()
}

fn has_begun(dir: &Path) -> bool {
    dir.join(LOCK).exists()
}

/// What a backup says that took too long.
pub(super) fn exceeded(site: &ServiceSite) -> Error {
    let limit = duration::human(of(site).unwrap_or_default());
    let (was, back) = match site.spec().quiesce {
        Quiesce::Freeze => ("frozen", "thawed"),
        _ => ("stopped", "started"),
    };
    Error::new(
        Class::Failed,
        format!(
            "{} was {was} for longer than {limit}, and was {back} before all of it was read: there \
             is no point of it",
            site.name()
        ),
    )
    .hinting(format!(
        "Look whether the vault answers fast enough, or raise `quiesce-limit` in [service.{}].",
        site.name()
    ))
}

/// The right to bring the service back.
pub(super) struct Turn {
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
    fn try_now(dir: &Path) -> Option<Turn> {
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
    pub(super) fn is_back(&self, dir: &Path) -> bool {
        self.lock.is_some() && !dir.join(AWAY).exists()
    }

    /// Somebody did.
    pub(super) fn back(&self, dir: &Path) {
        // Who does not see it brings back what is back, which is no error.
        let _ = std::fs::remove_file(dir.join(AWAY));
    }
}

/// Counts, outside of the worker, and brings the service back when its time is over.
pub(crate) struct Watch<'a> {
    site: &'a ServiceSite,
    id: &'a OperationId,
    dir: &'a Path,
    limit: Duration,
    since: Option<Instant>,
    retry: (Instant, Duration),
    back: bool,
}

impl<'a> Watch<'a> {
    /// None if the service may be held still for as long as it takes.
    pub(crate) fn of(
        site: &'a ServiceSite,
        id: &'a OperationId,
        dir: &'a Path,
    ) -> Option<Watch<'a>> {
        let retry = (Instant::now(), PAUSE.0);
        of(site).map(|limit| Watch { site, id, dir, limit, since: None, retry, back: false })
    }

    /// Does what is due now. What could not be done is tried again, later.
    pub(crate) fn look(&mut self, run: &Run) -> Result<(), Error> {
        let now = Instant::now();
        if self.since.is_none() && has_begun(self.dir) {
            self.since = Some(now);
        }
        let Some(since) = self.since else { return Ok(()) };
        if self.back || since.elapsed() < self.limit || now < self.retry.0 {
            return Ok(());
        }
        let ended = self.end(since, run);
        self.retry = match ended {
            Ok(_) => (now + PAUSE.0, PAUSE.0),
            Err(_) => (Instant::now() + self.retry.1, (self.retry.1 * 2).min(PAUSE.1)),
        };
        self.back = ended?;
        Ok(())
    }

    /// Says whether it is back.
    fn end(&self, since: Instant, run: &Run) -> Result<bool, Error> {
        // The worker, or who cleans up after it, brings it back just now.
        let Some(turn) = Turn::try_now(self.dir) else { return Ok(false) };
        if turn.is_back(self.dir) {
            return Ok(true);
        }
        let entries = journal::read(self.dir)?;
        if entries.begun(STEP).is_none() {
            return Ok(false);
        }
        // Everything was read in time, and it could not be brought back: that costs no backup.
        let mark = self.dir.join(IN_TIME);
        if entries.begun("resume").is_none() && mark.exists() {
            std::fs::remove_file(&mark).map_err(|e| Error::io("remove", &mark, e))?;
            let limit = duration::human(self.limit);
            run.progress.warn(&format!("the service was held still for {limit}, and is let go"));
        }
        let still = entries.done(STEP).is_some();
        if !still && since.elapsed() < self.limit + GRACE {
            // The worker has seen the mark, and ends what it had begun, if it can.
            return Ok(false);
        }
        let scratch = self.dir.join("scratch");
        crate::member::private_dir(&scratch).map_err(|e| Error::io("make", &scratch, e))?;
        let (progress, cancel) = (run.progress.clone(), run.cancel.clone());
        let parts = Parts::new(self.site, Some(self.id), scratch, progress, cancel);
        if !still {
            end_of_stop(self.site, &parts.context());
        }
        bring_back(self.site, &parts.context())?;
        turn.back(self.dir);
        Ok(true)
    }
}
