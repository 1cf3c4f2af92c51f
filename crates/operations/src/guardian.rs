//! The guardian: waits for the death of one operation's process, and cleans up after it at once. As long
//! as that lives it looks whether it holds its service still for too long, or could not bring it back
//! (`watch`).
//!
//! It ends when nothing is left to do, and not before: what cannot be read or written now is tried again.
//! **The service comes first, and back before a word is written**, since what was frozen may be what it
//! would be written on.

mod alarm;
mod aside;
mod unheard;
mod watch;

use crate::journal::{self, Steps};
use crate::lock::MemberLock;
use crate::operation::{Run, look, operations_dir};
use crate::quiesce;
use crate::{Error, ServiceSite, may_start, recover, restore};
use alarm::Alarm;
use aside::Aside;
use engines::Running;
use model::config::Quiesce;
use model::{Class, Classify, OperationId};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use unheard::Unheard;
use watch::Watch;

/// How often it looks whether the worker lives, as long as the service may be away, and later.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_BACK: Duration = Duration::from_millis(250);
/// How long it waits before it tries again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often it looks whether somebody has started what it cannot bring back.
const SEE: Duration = Duration::from_secs(5);

/// What one guardian is for.
struct Ward<'a> {
    site: &'a ServiceSite,
    id: &'a OperationId,
    dir: &'a Path,
    run: &'a Run,
    alarm: &'a Alarm,
}

impl Ward<'_> {
    /// Tells what could not be done, and is tried again.
    fn down(&self, why: &str) {
        self.run.progress.warn(why);
        self.alarm.down(&format!("it is not back from {}, and is tried again: {why}", self.id));
    }

    /// Whether its operation's directory was removed: it is long over, whatever it was.
    fn is_gone(&self) -> bool {
        !self.dir.join("journal").exists()
    }

    /// Whether it has ended.
    fn is_over(&self) -> Result<bool, Error> {
        Ok(self.is_gone() || journal::read(self.dir)?.end().is_some())
    }
}

/// Returns when the operation is over and nothing of it is left, whoever saw to that. The token must be
/// one that nobody cancels: what is asked to end first when a host or session ends is this.
pub fn guard(site: &ServiceSite, id: &OperationId, run: &Run) -> Result<(), Error> {
    let dir = operations_dir(site).join(id.as_str());
    let alive_path = dir.join("alive");
    let alive = File::open(&alive_path).map_err(|e| Error::io("open", &alive_path, e))?;
    let ready = quiesce::ready(&dir)?;
    let aside = Arc::new(Aside::to(run.progress.clone()));
    let run = Run { progress: aside.clone(), ..run.clone() };
    let alarm = Alarm::of(site);
    let ward = Ward { site, id, dir: &dir, run: &run, alarm: &alarm };
    let mut watch = Watch::of(&ward);
    let mut unheard = Unheard::new();
    while lives(&alive) {
        watch.look(&ward);
        if watch.is_back() {
            unheard.look(&ward, true);
        }
        std::thread::sleep(if watch.is_back() { LOOK_BACK } else { LOOK });
    }
    let is_back = watch.is_back();
    // It may have held on to the turn.
    drop(watch);
    let cleaned = clean_up(&ward, is_back);
    unheard.follow(&ward);
    see_it_run(&ward);
    alarm.over();
    aside.flush();
    drop(ready);
    cleaned
}

/// Whether the worker does. The kernel ends its lock with it, however it ends.
fn lives(alive: &File) -> bool {
    match rustix::fs::flock(alive, FlockOperation::NonBlockingLockShared) {
        Ok(()) => false,
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => true,
        // As long as nobody can tell, it is not dead.
        Err(_) => {
            std::thread::sleep(FIRST_PAUSE);
            true
        }
    }
}

/// After the worker's death.
fn clean_up(ward: &Ward<'_>, mut back: bool) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        if ward.is_over().unwrap_or(false) {
            ward.alarm.back();
            return Ok(());
        }
        match try_once(ward, &mut back) {
            Ok(()) if ward.is_over().unwrap_or(false) => continue,
            Ok(()) => {}
            // Somebody else is there; they have cleaned up before they began, or will.
            Err(error) if error.class() == Class::Locked => pause = FIRST_PAUSE,
            Err(error) => {
                ward.run.progress.warn(&error.chain());
                // What needs the vault can wait for the next command; the service cannot.
                if back && is_known(ward) {
                    return Err(error);
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether the service was away, and who comes next knows that it is back.
fn is_known(ward: &Ward<'_>) -> bool {
    let resumed = journal::read(ward.dir).is_ok_and(|entries| entries.done("resume").is_some());
    resumed || quiesce::is_known(ward.dir)
}

/// The service first, and then whatever else is left.
fn try_once(ward: &Ward<'_>, back: &mut bool) -> Result<(), Error> {
    let (site, run) = (ward.site, ward.run);
    if !*back {
        let _lock = lock(ward)?;
        ward.alarm.trying();
        match quiesce::rescue(site, ward.id, ward.dir, run) {
            Ok(done) => *back = done,
            Err(error) => {
                ward.down(&error.chain());
                return Ok(());
            }
        }
        if !*back {
            return Ok(());
        }
    } else if quiesce::has_begun(ward.dir) {
        // It may be that this could not be written down before.
        quiesce::say_back(ward.dir);
    }
    let down = || journal::read(ward.dir).is_ok_and(|entries| restore::is_stopped(&entries));
    if !down() {
        ward.alarm.back();
    }
    let swept = MemberLock::take(&site.dir(), "guardian", None, &run.cancel)
        .and_then(|_lock| recover::sweep_locked(site, run, None));
    let said = match &swept {
        Ok(said) => said.join("; "),
        Err(error) => error.chain(),
    };
    // What could not be done was told, and is tried again.
    if !ward.is_over().unwrap_or(false) {
        let is_busy = swept.as_ref().is_err_and(|error| error.class() == Class::Locked);
        if down() && !is_busy {
            ward.down(&said);
        } else if swept.is_ok() && !said.is_empty() {
            run.progress.warn(&said);
        }
    }
    swept.map(drop)
}

/// Keeps others from beginning while the service comes back. Where nothing can be written they cannot
/// begin anyway.
fn lock(ward: &Ward<'_>) -> Result<Option<MemberLock>, Error> {
    let (dir, cancel) = (ward.site.dir(), &ward.run.cancel);
    let unnamed = || MemberLock::take_unnamed(&dir, cancel);
    let taken = match ward.site.spec().quiesce {
        // Who writes to what is frozen hangs.
        Quiesce::Freeze => unnamed(),
        Quiesce::None | Quiesce::Stop => {
            MemberLock::take(&dir, "guardian", None, cancel).or_else(|error| match error.class() {
                Class::Locked => Err(error),
                _ => unnamed(),
            })
        }
    };
    match taken {
        Err(error) if error.class() == Class::Locked => Err(error),
        taken => Ok(taken.ok()),
    }
}

/// A service that does not start with what a restore has put in place is down for good: there is nothing
/// to go back to. Somebody is told, and when it runs.
fn see_it_run(ward: &Ward<'_>) {
    let is_left_down =
        || journal::read(ward.dir).is_ok_and(|entries| restore::is_left_down(&entries));
    if !is_left_down() || may_start::barred(ward.site).is_some() {
        return;
    }
    let why = format!("{} had stopped it, and it does not start with its new content", ward.id);
    loop {
        let running = ward
            .site
            .engine()
            .and_then(|engine| look(ward.site, ward.run, |cx| engine.running(cx)));
        match running {
            Ok(Running::Yes) => return ward.alarm.back(),
            Ok(Running::No) => ward.alarm.down(&why),
            // Nobody can tell when it does.
            Ok(Running::Unknown) | Err(_) => return ward.alarm.down(&why),
        }
        let newest = recover::list(ward.site).ok().and_then(|dirs| dirs.last().cloned());
        if newest.as_deref() != Some(ward.dir) {
            return;
        }
        std::thread::sleep(SEE);
    }
}
