//! Cleans up after operations whose process died, by what their journals say.
//!
//! Only one table decides: each kind's `undo` looks at the journal and either takes back what was
//! begun or, past its commit marker, brings it to its end. A live operation that fails uses the
//! very same function, so that the path after a crash is walked every day.

use crate::journal::{self, Entry, Event, Journal, Kind, Outcome, Steps};
use crate::lock::MemberLock;
use crate::operation::{Parts, Run, is_alive, operations_dir, remove_scratch};
use crate::{
    Error, ServiceSite, backup, drill, forget, history, may_start, offline, quiesce, refresh,
    rejoin, restore, takeover,
};
use model::{CancelToken, Class, OperationId, ServiceState};
use std::path::{Path, PathBuf};

/// How many finished operations are kept for `mainstay logs`. Besides, of each kind, the last one that went
/// well and the last one that did not: schedules go by them, and some come round once a month.
const KEPT: usize = 200;

/// Cleans up after whoever died on this member; says what was done.
pub fn sweep(site: &ServiceSite, run: &Run) -> Result<Vec<String>, Error> {
    let _lock = MemberLock::take(&site.dir(), "clean-up", run.wait, &run.cancel)?;
    sweep_locked(site, run, None)
}

/// The same, by whoever holds the lock already, and begins this next.
pub(crate) fn sweep_locked(
    site: &ServiceSite,
    run: &Run,
    next: Option<Kind>,
) -> Result<Vec<String>, Error> {
    let mut said = Vec::new();
    let dirs = list(site)?;
    let newest = dirs.last().cloned();
    let mut ended = Vec::new();
    for dir in dirs {
        let (entries, wrong) = journal::look(&dir)?;
        if let Some(wrong) = wrong {
            said.push(unreadable(site, &dir, &entries, wrong, newest.as_deref())?);
            continue;
        }
        let Some((id, kind)) = entries.start().map(|(id, kind)| (id.clone(), kind)) else {
            // It died before its first line: nothing was begun.
            crate::exchange::remove(&dir)?;
            continue;
        };
        if let Some((outcome, _)) = entries.end() {
            let well = matches!(outcome, Outcome::Done | Outcome::Incomplete);
            ended.push((dir, (kind, well)));
            continue;
        }
        if is_alive(&dir)? {
            return Err(without_lock(&id, kind));
        }
        // The service's unit is to come after this; whoever promotes and starts it would wait for itself.
        if run.booting && kind == Kind::Takeover && takeover::is_raised(&entries) {
            said.push(format!(
                "{id} had died past its point of no return; the next command brings it to its end"
            ));
            continue;
        }
        let mut journal = Journal::reopen(&dir)?;
        let lines = match undo(site, kind, &id, &dir, &mut journal, run, After::Death) {
            Ok(lines) => lines,
            // A service that does not start, or a copy that cannot be promoted, must not bar the way to
            // a restore of it. It is told, and tried again by its guardian and by every command that
            // follows.
            Err(error) if may_wait(kind, journal.entries(), next) => {
                said.push(format!("{id} had died: {}", error.chain()));
                continue;
            }
            Err(error) => return Err(error),
        };
        remove_scratch(&dir);
        unlock(site, run);
        let what = match lines.as_slice() {
            [] => "it had left nothing".to_owned(),
            lines => lines.join("; "),
        };
        let (outcome, how) = match crate::cancel::was_asked(&dir) {
            true => (Outcome::Cancelled, "was asked to stop, and had died"),
            false => (Outcome::Died, "had died"),
        };
        let message = format!("{id} {how}; {what}");
        journal.write(Event::End { outcome, message: message.clone() })?;
        said.push(message);
    }
    for dir in surplus(ended) {
        crate::exchange::remove(&dir)?;
    }
    Ok(said)
}

/// Of operations that have ended, oldest first, each with its kind and whether it went well: those that
/// need not be kept.
fn surplus(ended: Vec<(PathBuf, (Kind, bool))>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut gone = Vec::new();
    for (place, (dir, what)) in ended.into_iter().rev().enumerate() {
        let first = !seen.contains(&what);
        if first {
            seen.push(what);
        } else if place >= KEPT {
            gone.push(dir);
        }
    }
    gone
}

/// Whether what could not be cleaned up may wait for another time, while this is done.
fn may_wait(kind: Kind, entries: &[Entry], next: Option<Kind>) -> bool {
    match kind {
        Kind::Backup => !quiesce::is_back(entries),
        // It is a copy that nobody needs.
        Kind::Drill => true,
        Kind::Restore => restore::is_stopped(entries),
        Kind::Takeover => {
            takeover::is_raised(entries) && matches!(next, Some(Kind::Restore | Kind::Drill))
        }
        _ => false,
    }
}

/// Whether there is anything to clean up: looked at without the lock, so that nobody is kept from it
/// for nothing.
pub fn is_needed(site: &ServiceSite) -> Result<bool, Error> {
    for dir in list(site)? {
        let (entries, wrong) = journal::look(&dir)?;
        let over = entries.start().is_none() || entries.end().is_some();
        if wrong.is_some() || (!over && !is_alive(&dir)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What becomes of an operation whose journal cannot be read. One that has ended has left nothing, nor
/// has one that another came after, which has cleaned up before it began; they are set aside. What the
/// last one had begun nobody knows, and a person has to look.
fn unreadable(
    site: &ServiceSite,
    dir: &Path,
    entries: &[Entry],
    wrong: Error,
    newest: Option<&Path>,
) -> Result<String, Error> {
    let id = dir.file_name().unwrap_or_default().to_string_lossy();
    if is_alive(dir)? {
        let what = format!("{id} runs, and its journal cannot be read");
        return Err(Error::new(Class::Locked, what).because(wrong).hinting(format!(
            "Let it end, or stop it with `mainstay cancel {} --kill`.",
            site.name()
        )));
    }
    // Names tell the second only.
    let second = |dir: &Path| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split('-').next().map(str::to_owned)
    };
    let how = match entries.end().is_some() {
        true => "it had ended",
        false if newest.and_then(second) > second(dir) && !may_be_open(dir, entries) => {
            "another operation has run since"
        }
        false => {
            let what = format!("nobody knows what {id} had begun");
            return Err(Error::new(Class::Corrupt, what).because(wrong).hinting(format!(
                "See that the service and its copy are as they should be, then run `mainstay recover {} \
                 --set-aside {id}`.",
                site.name()
            )));
        }
    };
    let kept = put_aside(site, dir)?;
    Ok(format!("{}; {how}, and {} keeps what is there", wrong.chain(), kept.display()))
}

/// Whether others may have been let by before this one was cleaned up.
fn may_be_open(dir: &Path, entries: &[Entry]) -> bool {
    let kind = entries.start().map(|(_, kind)| kind);
    let kind = kind.or_else(|| history::by_name(dir).map(|(_, kind)| kind));
    kind.is_none_or(|kind| may_wait(kind, entries, Some(Kind::Restore)))
}

/// Gives up what an operation had begun whose journal cannot be read; says where it is kept. One that
/// can be read is cleaned up as always, and not given up.
pub fn set_aside(site: &ServiceSite, id: &OperationId, run: &Run) -> Result<PathBuf, Error> {
    let _lock = MemberLock::take(&site.dir(), "clean-up", run.wait, &run.cancel)?;
    let dir = operations_dir(site).join(id.as_str());
    if !dir.is_dir() {
        let what = format!("there is no operation {id} of {} on this host", site.name());
        return Err(Error::invalid(what)
            .hinting(format!("List them with `mainstay logs {} --list`.", site.name())));
    }
    if is_alive(&dir)? {
        return Err(Error::new(Class::Locked, format!("{id} runs"))
            .hinting(format!("Stop it with `mainstay cancel {} --kill`.", site.name())));
    }
    if journal::look(&dir)?.1.is_none() {
        return Err(Error::refused(format!("the journal of {id} can be read"))
            .hinting(format!("Run `mainstay recover {}`: it cleans up by it.", site.name())));
    }
    put_aside(site, &dir)
}

fn put_aside(site: &ServiceSite, dir: &Path) -> Result<PathBuf, Error> {
    let above = damaged_dir(site);
    crate::member::private_dir(&above).map_err(|e| Error::io("make", &above, e))?;
    remove_scratch(dir);
    let kept = above.join(dir.file_name().unwrap_or_default());
    std::fs::rename(dir, &kept).map_err(|e| Error::io("set aside", dir, e))?;
    for changed in [&above, &operations_dir(site)] {
        journal::sync_dir(changed)?;
    }
    Ok(kept)
}

/// Where operations are kept whose journals could not be read.
fn damaged_dir(site: &ServiceSite) -> PathBuf {
    site.dir().join("damaged")
}

/// The operations that were set aside and are still kept.
pub fn kept_aside(site: &ServiceSite) -> Result<Vec<PathBuf>, Error> {
    list_in(&damaged_dir(site))
}

/// A process that works without the lock is not ours to end, and nothing may be done beside it.
fn without_lock(id: &OperationId, kind: Kind) -> Error {
    let what = format!("{id} runs, and does not hold this member's lock");
    Error::new(Class::Locked, format!("{what}: somebody has removed the lock's file"))
        .hinting(format!("Let the {} end, or stop it with `mainstay cancel`.", kind.as_str()))
}

/// Removes the repository lock of a dead process. It bars nobody who shares the repository, but
/// restic's own `check` and `prune` would stop at it. Not being able to bars nobody here either:
/// the service is back by now, and the vault may be what is missing. At the start of the host, where
/// services wait for this, the vault is not asked for that alone: who needs the lock next removes it.
fn unlock(site: &ServiceSite, run: &Run) {
    if run.booting && !site.has_asked() {
        return;
    }
    if let Ok(repository) = site.repository() {
        let _ = repository.remove_stale_locks();
    }
}

/// Takes back, or brings to its end, what a journal without a last line says was begun. Can be
/// repeated: it may itself be killed.
pub(crate) fn undo(
    site: &ServiceSite,
    kind: Kind,
    id: &OperationId,
    dir: &Path,
    journal: &mut Journal,
    run: &Run,
    after: After,
) -> Result<Vec<String>, Error> {
    let mut left = Left { site, id, dir, journal, run, after, said: Vec::new() };
    match kind {
        Kind::Backup => backup::undo(&mut left)?,
        Kind::Restore => restore::undo(&mut left)?,
        Kind::Refresh | Kind::Scrub => refresh::undo(&mut left)?,
        Kind::Takeover => takeover::undo(&mut left)?,
        Kind::Offline | Kind::Online => offline::undo(&mut left)?,
        Kind::Rejoin => rejoin::undo(&mut left)?,
        Kind::Forget => forget::undo(&mut left)?,
        Kind::Drill => drill::undo(&mut left)?,
        // Whatever they are killed in, the repository is whole; what they left the next one removes.
        Kind::Prune | Kind::Repair | Kind::Migrate => {}
    }
    Ok(left.said)
}

/// What ended an operation before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// An error or a cancel: whatever it had started has ended.
    Failure,
    /// The death of its process: what it had started may go on.
    Death,
}

/// What an unfinished operation left, as its `undo` sees it.
pub(crate) struct Left<'a> {
    /// The service.
    pub(crate) site: &'a ServiceSite,
    /// The operation.
    pub(crate) id: &'a OperationId,
    /// Its directory.
    pub(crate) dir: &'a Path,
    journal: &'a mut Journal,
    /// For progress; its token is not cancelled.
    pub(crate) run: &'a Run,
    /// What ended it.
    pub(crate) after: After,
    said: Vec<String>,
}

impl Left<'_> {
    /// The data of a step that was begun, and not undone.
    pub(crate) fn begun(&self, step: &str) -> Option<serde_json::Value> {
        self.journal.entries().begun(step).cloned()
    }

    /// The data of a step that was done, and not undone.
    pub(crate) fn done(&self, step: &str) -> Option<serde_json::Value> {
        self.journal.entries().done(step).cloned()
    }

    /// Whether the vault answers, where services wait for this: at the start of the host. What needs a vault
    /// that says nothing is left to the next command.
    pub(crate) fn vault_answers(&self) -> Result<(), Error> {
        match self.run.booting {
            true => may_start::state_soon(self.site).map(drop),
            false => Ok(()),
        }
    }

    /// The state, when what this step has sent to it either is in it or will never be.
    pub(crate) fn state_after(&self, step: &str) -> Result<ServiceState, Error> {
        self.vault_answers()?;
        let site = self.site;
        let unheard = self.begun(step).is_some() && self.done(step).is_none();
        if unheard {
            let versioned = site.state()?.settle()?;
            site.remember(&versioned)?;
        }
        Ok(site.load_state()?.state)
    }

    /// Says what was found, where nothing had to be done.
    pub(crate) fn found(&mut self, said: impl Into<String>) {
        self.said.push(said.into());
    }

    /// Records that a step was taken back.
    pub(crate) fn undone(&mut self, step: &str, said: impl Into<String>) -> Result<(), Error> {
        self.said.push(said.into());
        self.journal.write(Event::Undone { step: step.to_owned() })
    }

    /// Records that a step was brought to its end.
    pub(crate) fn finished(&mut self, step: &str, said: impl Into<String>) -> Result<(), Error> {
        self.said.push(said.into());
        self.journal.write(Event::Done { step: step.to_owned(), data: serde_json::Value::Null })
    }

    /// What an engine is given.
    pub(crate) fn with_context<T>(
        &self,
        call: impl FnOnce(&engines::Context<'_>) -> Result<T, engines::Error>,
    ) -> Result<T, Error> {
        Parts::of_left(self.site, self.id, self.dir, self.run)?.call(call)
    }

    /// The same for what a cancel must not stop.
    pub(crate) fn with_calm_context<T>(
        &self,
        call: impl FnOnce(&engines::Context<'_>) -> Result<T, engines::Error>,
    ) -> Result<T, Error> {
        let calm = Run { cancel: CancelToken::new(), ..self.run.clone() };
        Parts::of_left(self.site, self.id, self.dir, &calm)?.call(call)
    }
}

/// The directories of all operations, oldest first.
pub(crate) fn list(site: &ServiceSite) -> Result<Vec<PathBuf>, Error> {
    list_in(&operations_dir(site))
}

fn list_in(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let items = match std::fs::read_dir(dir) {
        Ok(items) => items,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    let mut dirs = Vec::new();
    for item in items {
        let item = item.map_err(|e| Error::io("list", dir, e))?;
        if item.file_name().to_str().is_some_and(|name| OperationId::new(name).is_ok()) {
            dirs.push(item.path());
        }
    }
    dirs.sort();
    Ok(dirs)
}
