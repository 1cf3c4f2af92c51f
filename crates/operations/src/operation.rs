//! One run of an operation: lock, journal, log, progress, cancel, end.

use crate::journal::{Event, FORMAT, Journal, Kind, Outcome};
use crate::lock::MemberLock;
use crate::report::Report;
use crate::{Error, ServiceSite, history, hooks, journal, quiesce, recover};
use jiff::{SignedDuration, Timestamp};
use model::cancel::Held;
use model::{CancelToken, Class, Classify, OperationId, Progress};
use repository::{Repository, RepositoryLock, Work};
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How long another holder of the repository is waited for, if nobody says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a caller brings to an operation.
#[derive(Clone)]
pub struct Run {
    /// Who watches.
    pub progress: Arc<dyn Progress>,
    /// Stops it.
    pub cancel: CancelToken,
    /// How long to wait for another operation's lock; not at all without it.
    pub wait: Option<Duration>,
    /// The host has just started, and services with it: what has to be started again is left to
    /// whatever starts it anyway, if anything does. Waiting for that here would keep it from its turn.
    pub booting: bool,
}

impl Default for Run {
    fn default() -> Self {
        let (progress, cancel) = (Arc::new(model::progress::Silent), CancelToken::new());
        Run { progress, cancel, wait: None, booting: false }
    }
}

/// A running operation. It holds the member's lock until it is dropped.
pub(crate) struct Operation {
    id: OperationId,
    dir: PathBuf,
    journal: Journal,
    report: Arc<Report>,
    cancel: CancelToken,
    /// What ends waiting for the vault; it may be another one.
    vault: CancelToken,
    patience: Duration,
    watch: CancelWatch,
    _alive: File,
    _lock: MemberLock,
}

/// Where a service's operations are.
pub(crate) fn operations_dir(site: &ServiceSite) -> PathBuf {
    site.dir().join("operations")
}

impl Operation {
    /// Takes the lock, cleans up after whoever died, and begins.
    pub(crate) fn begin(
        site: &ServiceSite,
        kind: Kind,
        params: &impl Serialize,
        run: &Run,
    ) -> Result<Operation, Error> {
        let mut lock = MemberLock::take(&site.dir(), kind.as_str(), run.wait, &run.cancel)?;
        for line in recover::sweep_locked(site, run, Some(kind))? {
            run.progress.warn(&line);
        }
        let id = new_id(kind, recover::list(site)?.last().map(PathBuf::as_path))?;
        let dir = operations_dir(site).join(id.as_str());
        crate::member::private_dir(&dir.join("scratch")).map_err(|e| Error::io("make", &dir, e))?;
        // Names are durable before the journal counts on them.
        for above in [operations_dir(site), site.dir()] {
            journal::sync_dir(&above)?;
        }
        let alive = hold_alive(&dir)?;
        let mut journal = Journal::create(&dir)?;
        let report = Arc::new(Report::new(&dir, run.progress.clone())?);
        lock.name(Some(&id), kind.as_str())?;
        journal.write(Event::Start {
            format: FORMAT,
            id: id.clone(),
            kind,
            params: to_value(params)?,
            pid: std::process::id(),
        })?;
        report.log(&format!("{} of {} begins", kind.as_str(), site.name()));
        let watch = CancelWatch::start(&dir, run.cancel.clone());
        Ok(Operation {
            id,
            dir,
            journal,
            report,
            cancel: run.cancel.clone(),
            vault: site.site().cancel().clone(),
            patience: run.wait.unwrap_or(PATIENCE),
            watch,
            _alive: alive,
            _lock: lock,
        })
    }

    /// Its id.
    pub(crate) fn id(&self) -> &OperationId {
        &self.id
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory for its temporary files.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// Its token.
    pub(crate) fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// What its journal says so far.
    pub(crate) fn entries(&self) -> &[journal::Entry] {
        self.journal.entries()
    }

    /// Its progress.
    pub(crate) fn report(&self) -> Arc<Report> {
        self.report.clone()
    }

    /// Opens the service's repository and takes the lock that this work needs. Another holder is
    /// waited for as long as the caller said.
    pub(crate) fn open_for<'s>(
        &self,
        site: &'s ServiceSite,
        work: Work,
    ) -> Result<(&'s Repository, RepositoryLock), Error> {
        self.report.phase("opening the vault");
        let repository = site.repository()?;
        let lock = repository.lock_for(work, self.patience, &self.cancel)?;
        Ok((repository, lock))
    }

    /// What an engine is given.
    pub(crate) fn with_context<T>(
        &self,
        site: &ServiceSite,
        call: impl FnOnce(&engines::Context<'_>) -> Result<T, engines::Error>,
    ) -> Result<T, Error> {
        self.parts(site, self.cancel.clone()).call(call)
    }

    /// The same for what a cancel must not stop.
    pub(crate) fn calm(&self, site: &ServiceSite) -> Parts {
        self.parts(site, CancelToken::new())
    }

    fn parts(&self, site: &ServiceSite, cancel: CancelToken) -> Parts {
        Parts::new(site, Some(&self.id), self.scratch(), self.report.clone(), cancel)
    }

    /// Fails if somebody asked for a stop.
    pub(crate) fn check_cancel(&self) -> Result<(), Error> {
        // Whoever watches for it looks only now and then.
        if crate::cancel::was_asked(&self.dir) || quiesce::is_over(&self.dir) {
            self.cancel.cancel();
        }
        if self.cancel.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Until what this gives is dropped a cancel stops nothing, and no waiting for the vault either.
    pub(crate) fn hold(&self) -> [Held; 2] {
        [self.cancel.hold(), self.vault.hold()]
    }

    /// One step: its intent is durable before it begins, its outcome after. A cancel is noticed
    /// before it begins.
    pub(crate) fn step<T: Serialize>(
        &mut self,
        name: &str,
        intent: impl Serialize,
        work: impl FnOnce(&mut Operation) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.check_cancel()?;
        self.journalled(name, intent, work)
    }

    /// A step past the commit marker: a cancel stops neither it nor anything that it waits for, an
    /// engine or the vault.
    pub(crate) fn forward<T: Serialize>(
        &mut self,
        name: &str,
        intent: impl Serialize,
        work: impl FnOnce(&mut Operation) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _held = self.hold();
        self.journalled(name, intent, work)
    }

    /// A step that was done before a word of it could be written, and how it went.
    pub(crate) fn note(&mut self, name: &str, well: bool) -> Result<(), Error> {
        let (step, data) = (name.to_owned(), Value::Null);
        self.journal.write(Event::Begin { step: step.clone(), data: data.clone() })?;
        if well { self.journal.write(Event::Done { step, data }) } else { Ok(()) }
    }

    fn journalled<T: Serialize>(
        &mut self,
        name: &str,
        intent: impl Serialize,
        work: impl FnOnce(&mut Operation) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.journal.write(Event::Begin { step: name.to_owned(), data: to_value(&intent)? })?;
        let value = work(self)?;
        self.journal.write(Event::Done { step: name.to_owned(), data: to_value(&value)? })?;
        Ok(value)
    }

    /// Ends it: undoes what a failure left (by the same rules as after a crash), writes the last
    /// line, and hands the result on.
    pub(crate) fn end<T>(
        mut self,
        site: &ServiceSite,
        kind: Kind,
        result: Result<T, Error>,
        describe: impl FnOnce(&T) -> (Outcome, String),
    ) -> Result<T, Error> {
        self.watch.heed_nobody();
        let result = result.map_err(|error| match crate::cancel::reason(&self.dir) {
            Some(why) if error.class() == Class::Cancelled => {
                Error::new(Class::Cancelled, format!("the {} was stopped: {why}", kind.as_str()))
            }
            _ => error,
        });
        let (outcome, message) = match &result {
            Ok(value) => describe(value),
            Err(error) => {
                let outcome = match error.class() {
                    Class::Cancelled => Outcome::Cancelled,
                    _ => Outcome::Failed,
                };
                (outcome, error.chain())
            }
        };
        let mut left = Ok(());
        if result.is_err() {
            // Cleaning up must not be stopped by the cancel that made it necessary.
            let calm = Run { progress: self.report.clone(), ..Run::default() };
            left = recover::undo(
                site,
                kind,
                &self.id,
                &self.dir,
                &mut self.journal,
                &calm,
                recover::After::Failure,
            )
            .map(|lines| {
                for line in lines {
                    self.report.note(&line);
                }
            });
        }
        self.report.log(&format!("{}: {message}", outcome_word(outcome)));
        if let Err(error) = left {
            // Without a last line the next command tries the clean-up again.
            self.report.warn(&format!("cleaning up failed: {}", error.chain()));
            return result.and(Err(error));
        }
        remove_scratch(&self.dir);
        self.journal.write(Event::End { outcome, message })?;
        result
    }
}

/// Everything that an engine's context borrows.
pub(crate) struct Parts {
    cancel: CancelToken,
    progress: Arc<dyn Progress>,
    scratch: PathBuf,
    callback: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Parts {
    /// For an operation, or for looking at a service without one.
    pub(crate) fn new(
        site: &ServiceSite,
        id: Option<&OperationId>,
        scratch: PathBuf,
        progress: Arc<dyn Progress>,
        cancel: CancelToken,
    ) -> Parts {
        let callback = site.site().callback();
        Parts { cancel, progress, scratch, callback, variables: hooks::variables(site, id) }
    }

    /// What an engine is given.
    pub(crate) fn context(&self) -> engines::Context<'_> {
        engines::Context {
            cancel: &self.cancel,
            progress: &*self.progress,
            scratch: &self.scratch,
            callback: &self.callback,
            variables: &self.variables,
            enclosed: None,
        }
    }

    /// For what an operation has left in its directory.
    pub(crate) fn of_left(
        site: &ServiceSite,
        id: &OperationId,
        dir: &Path,
        run: &Run,
    ) -> Result<Parts, Error> {
        let scratch = dir.join("scratch");
        crate::member::private_dir(&scratch).map_err(|e| Error::io("make", &scratch, e))?;
        Ok(Parts::new(site, Some(id), scratch, run.progress.clone(), run.cancel.clone()))
    }

    /// Calls an engine.
    pub(crate) fn call<T>(
        &self,
        call: impl FnOnce(&engines::Context<'_>) -> Result<T, engines::Error>,
    ) -> Result<T, Error> {
        call(&self.context()).map_err(Error::from)
    }
}

/// Asks the engine about the service, outside of any operation.
pub fn look<T>(
    site: &ServiceSite,
    run: &Run,
    call: impl FnOnce(&engines::Context<'_>) -> Result<T, engines::Error>,
) -> Result<T, Error> {
    let scratch = std::env::temp_dir();
    Parts::new(site, None, scratch, run.progress.clone(), run.cancel.clone()).call(call)
}

pub(crate) fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Incomplete => "done, but incomplete",
        Outcome::Failed => "failed",
        Outcome::Cancelled => "cancelled",
        Outcome::Died => "died",
    }
}

/// Scratch that cannot be removed now is removed with its operation's directory later.
pub(crate) fn remove_scratch(dir: &Path) {
    let _ = crate::exchange::remove(&dir.join("scratch"));
}

pub(crate) fn to_value(data: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(data)
        .map_err(|e| Error::new(Class::Failed, "cannot encode a journal entry").because(e))
}

/// The worker's sign of life, which the guardian waits on: an flock that ends with the process.
fn hold_alive(dir: &Path) -> Result<File, Error> {
    let path = alive_path(dir);
    let file = File::create(&path).map_err(|e| Error::io("make", &path, e))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| Error::io("lock", &path, e.into()))?;
    Ok(file)
}

fn alive_path(dir: &Path) -> PathBuf {
    dir.join("alive")
}

/// Whether an operation's process lives, whatever its lock says.
pub(crate) fn is_alive(dir: &Path) -> Result<bool, Error> {
    let path = alive_path(dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("open", &path, e)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(Error::io("look at", &path, e.into())),
    }
}

/// How long a living process has given no sign of life: none that is stopped, or hangs in the
/// kernel, gives any.
pub(crate) fn silent_for(dir: &Path) -> Option<Duration> {
    let last = std::fs::metadata(alive_path(dir)).ok()?.modified().ok()?;
    // A clock that was set back says nothing.
    last.elapsed().ok()
}

/// `20261121T010442Z-backup-5f3a09c1`. Names are in the order in which operations began: where the clock
/// was set back since the last one, the name is of the second after that.
fn new_id(kind: Kind, last: Option<&Path>) -> Result<OperationId, Error> {
    let mut random = [0; 4];
    getrandom::fill(&mut random)
        .map_err(|e| Error::new(Class::Failed, format!("no random bytes: {e}")))?;
    let now = Timestamp::now();
    let after = last
        .and_then(history::time_in_name)
        .filter(|last| last.as_second() > now.as_second())
        .and_then(|last| last.checked_add(SignedDuration::from_secs(1)).ok());
    let time = after.unwrap_or(now).strftime("%Y%m%dT%H%M%SZ");
    OperationId::new(&format!("{time}-{}-{}", kind.as_str(), hex::encode(random)))
        .map_err(|e| Error::invalid(e.to_string()))
}

/// How often a process shows that it lives.
const BEAT: Duration = Duration::from_secs(5);

/// Turns the appearance of a file `cancel` into a cancelled token: `mainstay cancel` writes it. So does
/// the end of the time for which a service may be held still. And shows meanwhile that the process lives.
struct CancelWatch {
    over: Arc<AtomicBool>,
    deaf: Arc<AtomicBool>,
}

impl CancelWatch {
    fn start(dir: &Path, cancel: CancelToken) -> CancelWatch {
        let watch = CancelWatch { over: Arc::default(), deaf: Arc::default() };
        let (here, file, alive) = (dir.to_owned(), dir.join("cancel"), alive_path(dir));
        let (over, deaf) = (watch.over.clone(), watch.deaf.clone());
        std::thread::spawn(move || {
            let mut beat = Instant::now();
            while !over.load(Ordering::SeqCst) {
                let is_asked = || file.exists() || quiesce::is_over(&here);
                if !deaf.load(Ordering::SeqCst) && is_asked() {
                    cancel.cancel();
                }
                if beat.elapsed() >= BEAT {
                    beat = Instant::now();
                    // Whoever misses it is told, and does nothing on its own.
                    let _ = File::options()
                        .write(true)
                        .open(&alive)
                        .and_then(|alive| alive.set_modified(SystemTime::now()));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        watch
    }

    /// From now on it only shows that the process lives, which may clean up for long.
    fn heed_nobody(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }
}

impl Drop for CancelWatch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}
