//! Stops or freezes a service for a capture, and brings it back, whatever happens.
//!
//! The order is what makes it safe: the journal says `quiesce` before the service is touched, and a
//! guardian, a process of its own, is waiting on the worker's sign of life before that. Whoever is
//! first to notice the worker's death (the guardian, or the next command) brings the service back. The
//! guardian also does when that takes too long (`limit`), and when the worker could not. Whose turn it is,
//! and what is known of it, is in `turn`.

mod limit;
mod turn;

pub(crate) use limit::limit;
pub(crate) use turn::{Over, Turn, has_begun, heard, is_known, is_over, is_unheard, ready};

use crate::journal::{self, Entry, Steps};
use crate::may_start::{self, Verdict};
use crate::operation::{Operation, Parts, Run};
use crate::recover::{After, Left};
use crate::{Error, ServiceSite, hooks};
use engines::{AtBoot, Running};
use model::config::{Quiesce, WhenUnreachable};
use model::{Class, Classify, OperationId, Progress};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// How often thawing a service is tried before it counts as failed.
pub(crate) const TRIES: usize = 3;
/// The first pause between two of them.
const PAUSE: Duration = Duration::from_millis(500);
/// Who stops something for others, as a container's daemon, gives it ten seconds before it kills it.
const LINGER: Duration = Duration::from_secs(13);
/// How long the start of a service may take at the start of its host. Others wait for that meanwhile, and what
/// it waits for itself may be among them.
const START_AT_BOOT: Duration = Duration::from_secs(20);
/// How long a small file may take to be written beside the journal, once the service is frozen.
const NOTE: Duration = Duration::from_secs(10);

/// The step that stands in journals between the stop and the return.
pub(crate) const STEP: &str = "quiesce";

/// Whether the service's definition asks for it.
pub(crate) fn wanted(site: &ServiceSite) -> bool {
    site.spec().quiesce != Quiesce::None
}

/// Arms the guardian, then stops or freezes the service.
pub(crate) fn quiesce(site: &ServiceSite, operation: &mut Operation) -> Result<(), Error> {
    guard(site, operation)?;
    // Once more: what was done since it was asked first may have taken long. A vault that hangs now
    // would keep the service down, and one that has another primary by now does not let it up again.
    operation.report().phase("asking the vault");
    let state = site.load_state()?.state;
    state.require_primary(site.member(), state.generation)?;
    turn::begin(operation.dir())?;
    let held = operation.step(STEP, site.spec().quiesce, |operation| {
        operation.report().phase(match site.spec().quiesce {
            Quiesce::Freeze => "freezing the service",
            _ => "stopping the service",
        });
        match site.spec().quiesce {
            Quiesce::None => Ok(()),
            Quiesce::Stop => {
                let engine = site.engine()?;
                operation.with_context(site, |cx| engine.stop(cx))
            }
            Quiesce::Freeze => {
                hook(site, "freeze", &site.spec().hooks.freeze, operation)?;
                notes_can_be_taken(site, operation)
            }
        }
    });
    held.map_err(|error| match is_over(operation.dir()) {
        true => limit::exceeded(site),
        false => error,
    })
}

/// Arms the guardian: whoever stops a service for a while does this first.
pub(crate) fn guard(site: &ServiceSite, operation: &mut Operation) -> Result<(), Error> {
    turn::not_heard(operation.dir())?;
    operation.step("arm", (), |operation| arm(site, operation)).map(|_| ())
}

/// A file system that is frozen takes nothing, and lets nobody go who tries to write. If it is the one that
/// the journal is on, whoever wrote there next would hang, and the service would stay frozen with them.
fn notes_can_be_taken(site: &ServiceSite, operation: &Operation) -> Result<(), Error> {
    let (path, (tell, written)) = (operation.dir().join("note"), sync_channel(1));
    std::thread::spawn(move || {
        // What fails does not hang.
        let _ = File::create(&path).and_then(|_| std::fs::remove_file(&path));
        let _ = tell.send(());
    });
    if written.recv_timeout(NOTE).is_ok() {
        return Ok(());
    }
    if let Some(thaw) = &site.spec().hooks.thaw {
        let variables = hooks::variables(site, Some(operation.id()));
        // How it went cannot be written down. It is thawed once more as soon as it can.
        let _ = hooks::run(site, "thaw", thaw, &variables, &model::CancelToken::new());
    }
    let place = site.site().config().host.state_dir.display();
    Err(Error::refused(format!(
        "nothing can be written to {place} while {} is frozen: there is no point of it",
        site.name()
    ))
    .hinting(
        "Let the hook `freeze` freeze less, or move `state-dir` in [host] to another file system.",
    ))
}

/// Brings it back after a capture. A cancel does not stop this. Says first whether that went well, and
/// then whether the service was still until now: if not, what was captured is no point.
pub(crate) fn resume(
    site: &ServiceSite,
    operation: &mut Operation,
) -> (Result<(), Error>, Result<(), Error>) {
    let turn = Turn::wait(operation.dir());
    let in_time = match turn.is_in_time(operation.dir()) {
        true => Ok(()),
        false => Err(limit::exceeded(site)),
    };
    (return_now(site, operation, turn, false), in_time)
}

/// Brings it back after its stop or freeze has failed, maybe half. What comes after that in a backup that
/// failed, a hook or a vault, may take long or hang.
pub(crate) fn give_up(site: &ServiceSite, operation: &mut Operation) -> Result<(), Error> {
    if operation.entries().begun(STEP).is_none() {
        return Ok(());
    }
    let stopping = operation.entries().done(STEP).is_none() && site.spec().quiesce == Quiesce::Stop;
    let turn = Turn::wait(operation.dir());
    return_now(site, operation, turn, stopping)
}

fn return_now(
    site: &ServiceSite,
    operation: &mut Operation,
    turn: Turn,
    stopping: bool,
) -> Result<(), Error> {
    let _held = operation.hold();
    let back = return_in(site, operation, &turn, stopping);
    // Whoever waits here, for a file system that takes nothing, is in nobody's way.
    drop(turn);
    let noted = operation.note("resume", back.is_ok());
    if back.is_ok() && site.spec().quiesce == Quiesce::Freeze {
        // Only now, since before it could not be written.
        operation.report().note("the service is thawed");
    }
    if let (Ok(()), Err(error)) = (&back, noted) {
        // Its mark is gone, which says as much.
        operation.report().warn(&error.chain());
    }
    back
}

fn return_in(
    site: &ServiceSite,
    operation: &Operation,
    turn: &Turn,
    stopping: bool,
) -> Result<(), Error> {
    if turn.is_back(operation.dir()) {
        return Ok(());
    }
    if site.spec().quiesce == Quiesce::Stop {
        operation.report().phase("starting the service");
    }
    // A fresh token: whoever cancelled the backup did not ask for the service to stay down.
    let calm = operation.calm(site);
    let stopping = stopping.then_some(After::Failure);
    bring_back(site, operation.dir(), &calm.context(), stopping, TRIES, Asks::On)?;
    turn.back(operation.dir());
    Ok(())
}

/// After a crash or failure: the service comes back before anything else is looked at, since
/// nothing else is as urgent, and a vault that does not answer is not waited for.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    if left.begun(STEP).is_none() || left.done("resume").is_some() {
        return Ok(());
    }
    let site = left.site;
    let turn = Turn::wait(left.dir);
    if turn.is_back(left.dir) {
        return left.finished("resume", "the service was brought back");
    }
    let booting = left.run.booting;
    if booting && site.spec().quiesce == Quiesce::Stop {
        let said = start_at_boot(left, || barred_after(left))?;
        return left.finished("resume", said);
    }
    let stopping = left.done(STEP).is_none() && site.spec().quiesce == Quiesce::Stop;
    let stopping = stopping.then_some(left.after);
    // Other services wait for this at the start of their host. It is tried again later.
    let tries = if booting { 1 } else { TRIES };
    let asks = Asks::after(left);
    left.with_context(|cx| {
        bring_back(site, left.dir, cx, stopping, tries, asks).map_err(|e| {
            engines::Error::new(Class::Failed, "the service could not be brought back").because(e)
        })
    })?;
    turn.back(left.dir);
    left.finished("resume", "the service was brought back")
}

/// Brings it back after its worker's death, where that is needed, before anything else is done and before
/// anything is written: what was frozen may be what it would be written on, or what can only be read by
/// now. Says whether nothing is left to do; not, if somebody else is about to.
pub(crate) fn rescue(
    site: &ServiceSite,
    id: &OperationId,
    dir: &Path,
    run: &Run,
) -> Result<bool, Error> {
    let Some(turn) = Turn::try_now(dir) else { return Ok(false) };
    if turn.is_back(dir) {
        return Ok(true);
    }
    let half = match journal::read(dir) {
        Ok(entries) if is_back(&entries) || entries.end().is_some() => return Ok(true),
        Ok(entries) => entries.done(STEP).is_none(),
        // The marks tell as much: it may have been touched, and it is not known to be back.
        Err(_) if has_begun(dir) => true,
        Err(error) => return Err(error),
    };
    let stopping = (half && site.spec().quiesce == Quiesce::Stop).then_some(After::Death);
    let parts = Parts::of_left(site, id, dir, run)?;
    bring_back(site, dir, &parts.context(), stopping, TRIES, Asks::On)?;
    turn.back(dir);
    Ok(true)
}

/// Says that it is back, if that could not be said before.
pub(crate) fn say_back(dir: &Path) {
    if let Some(turn) = Turn::try_now(dir) {
        turn.back(dir);
    }
}

/// Starts a service that an operation had stopped when its host went down. What has a unit comes after this,
/// and would be waited for in vain. `barred`: why it must not be started; not asked if its host starts it. What
/// was done, in a sentence.
pub(crate) fn start_at_boot(
    left: &Left<'_>,
    barred: impl FnOnce() -> Result<Option<String>, Error>,
) -> Result<String, Error> {
    let engine = left.site.engine()?;
    let at_boot = left.with_context(|cx| engine.control().at_boot(cx))?;
    let in_turn = || left.with_context(|cx| engine.control().start_in_turn(cx));
    // Its own start gate decides, and the vault is not waited for here.
    if at_boot == AtBoot::ByItself {
        // Its turn may be over: this may be called again long after the host has started.
        in_turn()?;
        return Ok("the service starts with its host".to_owned());
    }
    if let Some(why) = barred()? {
        return Ok(format!("the service is not started again: {why}"));
    }
    Ok(match at_boot {
        AtBoot::ByCommand => {
            start_in_time(left)?;
            "the service was started, which no unit of its host does"
        }
        AtBoot::ByItself | AtBoot::IfTold => {
            in_turn()?;
            "systemd was told to start the service, which does not start by itself"
        }
    }
    .to_owned())
}

/// A start command may wait for a unit that comes after this one: for ever, as long as it is waited for.
fn start_in_time(left: &Left<'_>) -> Result<(), Error> {
    let engine = left.site.engine()?;
    let cancel = left.run.cancel.child();
    let (over, (started, ended)) = (cancel.clone(), sync_channel::<()>(0));
    std::thread::Builder::new()
        .name("start-at-boot".to_owned())
        .spawn(move || {
            if ended.recv_timeout(START_AT_BOOT) == Err(RecvTimeoutError::Timeout) {
                over.cancel();
            }
        })
        .map_err(|e| Error::new(Class::Failed, "cannot start a thread").because(e))?;
    let run = Run { cancel, ..left.run.clone() };
    let parts = Parts::of_left(left.site, left.id, left.dir, &run)?;
    let how = parts.call(|cx| engine.start(cx));
    drop(started);
    how.map_err(|error| {
        if error.class() != Class::Cancelled || left.run.cancel.is_cancelled() {
            return error;
        }
        let name = left.site.name();
        Error::new(
            Class::Unavailable,
            format!("{name} did not start within {START_AT_BOOT:?} at the start of its host"),
        )
        .hinting(format!(
            "It is tried again by the next command, and by the timer. If `start` in [service.{name}] is a \
             `systemctl start`, give `unit` instead: that is not waited for."
        ))
    })
}

/// Starts a service whose stop was begun, and did not come to its end.
pub(crate) fn start_after_stop(
    site: &ServiceSite,
    cx: &engines::Context<'_>,
    after: After,
    start: impl Fn() -> Result<(), engines::Error>,
) -> Result<(), engines::Error> {
    if after == After::Death {
        end_of_stop(site, cx);
        return start();
    }
    start()?;
    if goes_down(site, cx)? { start() } else { Ok(()) }
}

/// A stop that was under way may still be: a service that looks as if it ran would go down after it
/// was left alone. Once it has surely stopped it can be started.
fn end_of_stop(site: &ServiceSite, cx: &engines::Context<'_>) {
    if let Err(error) = site.engine().map_err(told).and_then(|engine| engine.stop(cx)) {
        cx.progress.warn(&format!("the stop could not be brought to its end: {error}"));
    }
}

/// A stop that failed or was given up may only have been asked for by its command: who carries it out goes
/// on. To stop it once more would take down what may serve all the time, so it is watched for a while:
/// whether it goes down after all.
fn goes_down(site: &ServiceSite, cx: &engines::Context<'_>) -> Result<bool, engines::Error> {
    let engine = site.engine().map_err(told)?;
    let deadline = Instant::now() + LINGER;
    // A unit of the host's, and a server that we end ourselves, are waited for as they are started.
    while site.spec().stop.is_some() && Instant::now() < deadline {
        if engine.running(cx)? == Running::No {
            cx.progress.warn("the stop that was given up took effect after all");
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(false)
}

fn told(error: Error) -> engines::Error {
    engines::Error::new(model::Classify::class(&error), error.chain())
}

/// Whether a service that may have been stopped is known to be back.
pub(crate) fn is_back(entries: &[Entry]) -> bool {
    entries.begun(STEP).is_none() || entries.done("resume").is_some()
}

/// Why a service must not be started again: see [`may_start::verdict`]. If the vault has not answered, its
/// guardian goes on asking.
pub(crate) fn barred(site: &ServiceSite, dir: &Path) -> Option<String> {
    let verdict = may_start::verdict(site);
    if verdict != Verdict::Unheard {
        turn::heard(dir);
    }
    verdict.barred()
}

/// The same for what an operation left. It is an error if the vault has not answered, nobody goes on asking,
/// and that is declared to be no reason to serve: whoever cleans up next asks again.
pub(crate) fn barred_after(left: &Left<'_>) -> Result<Option<String>, Error> {
    Asks::after(left).barred(left.site, left.dir)
}

/// Who asks the vault on, after a service was started again of which it has not said whether it may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// The guardian of the operation.
    On,
    /// Nobody: it is dead, as after a crash of the host.
    NoMore,
}

impl Asks {
    fn after(left: &Left<'_>) -> Asks {
        match left.after == After::Failure || turn::is_guarded(left.dir) {
            true => Asks::On,
            false => Asks::NoMore,
        }
    }

    fn barred(self, site: &ServiceSite, dir: &Path) -> Result<Option<String>, Error> {
        let declared = site.site().config().vault.when_unreachable;
        if self == Asks::On || declared == WhenUnreachable::LastKnown {
            return Ok(barred(site, dir));
        }
        let verdict = may_start::verdict(site);
        if verdict != Verdict::Unheard {
            turn::heard(dir);
            return Ok(verdict.barred());
        }
        let name = site.name();
        Err(Error::new(
            Class::Unavailable,
            format!(
                "{name} is not started again yet: the vault does not say whether somebody took over, and \
                 `when-unreachable` in [vault] is \"refuse\""
            ),
        )
        .hinting(format!(
            "It is asked again by the next command, and by the timer; `mainstay recover {name}` asks now."
        )))
    }
}

/// Brings it back, in so many tries. `stopping`: its stop was begun, and did not come to its end, and this
/// is what ended it.
pub(crate) fn bring_back(
    site: &ServiceSite,
    dir: &Path,
    cx: &engines::Context<'_>,
    stopping: Option<After>,
    tries: usize,
    asks: Asks,
) -> Result<(), Error> {
    match site.spec().quiesce {
        Quiesce::None => Ok(()),
        Quiesce::Freeze => thaw(site, cx, tries),
        Quiesce::Stop => {
            let engine = site.engine()?;
            let start = || {
                // While it was stopped, or its host was gone, somebody may have taken over.
                if let Some(why) = asks.barred(site, dir).map_err(told)? {
                    cx.progress.warn(&format!("the service is not started again: {why}"));
                    return Ok(());
                }
                // An engine tries a start again by itself.
                engine.start(cx)
            };
            let started = match stopping {
                Some(after) => start_after_stop(site, cx, after, start),
                None => start(),
            };
            started.map_err(Error::from)
        }
    }
}

/// Nothing is said before it is thawed, or given up: what is said is written down, maybe to what is frozen.
fn thaw(site: &ServiceSite, cx: &engines::Context<'_>, most: usize) -> Result<(), Error> {
    let Some(thaw) = &site.spec().hooks.thaw else { return Ok(()) };
    let variables = &cx.variables.to_vec();
    let mut failed = Vec::new();
    loop {
        match hooks::run(site, "thaw", thaw, variables, cx.cancel) {
            Ok(_) => break,
            Err(error) if failed.len() + 1 >= most => return Err(error),
            Err(error) => failed.push(error.chain()),
        }
        std::thread::sleep(PAUSE * u32::try_from(failed.len()).unwrap_or(1));
    }
    for (number, why) in failed.iter().enumerate() {
        cx.progress.warn(&format!("try {} of {most} failed: {why}", number + 1));
    }
    Ok(())
}

fn hook(
    site: &ServiceSite,
    name: &str,
    command: &Option<String>,
    operation: &Operation,
) -> Result<String, Error> {
    let Some(command) = command else {
        return Err(Error::invalid(format!("quiesce = \"freeze\" needs the hook `{name}`")));
    };
    let variables = hooks::variables(site, Some(operation.id()));
    // It must not go on after our death: somebody thaws then.
    hooks::run_tied(site, name, command, &variables, operation.cancel())
}

/// Starts `mainstay guardian SERVICE OPERATION` in a session of its own, so that neither a signal
/// to our process group nor the end of our terminal reaches it.
fn arm(site: &ServiceSite, operation: &Operation) -> Result<u32, Error> {
    let Some(program) = site.site().program() else {
        return Err(Error::invalid(
            "no guardian can be armed: the program's own path is not known",
        ));
    };
    let log = operation.dir().join("guardian.log");
    let log = std::fs::File::create(&log).map_err(|e| Error::io("make", &log, e))?;
    let errors = log.try_clone().map_err(|e| Error::io("share", operation.dir(), e))?;
    let mut child = Command::new("setsid")
        .arg("--fork")
        .arg(program)
        .arg("--config")
        .arg(site.site().config_file())
        .args(["guardian", site.name().as_str(), operation.id().as_str()])
        // The test hooks that end the worker must not end its guardian.
        .env_remove("MAINSTAY_TEST_KILL_AT")
        .env_remove("MAINSTAY_TEST_STOP_AT")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::invalid("there is no program `setsid`")
                .because(e)
                .hinting("Install it (util-linux has it), or correct PATH; nothing was stopped."),
            _ => Error::io("start the guardian", program, e),
        })?;
    let status = child.wait().map_err(|e| Error::io("start the guardian", program, e))?;
    if !status.success() {
        return Err(Error::new(Class::Failed, format!("the guardian did not start ({status})")));
    }
    // It writes this file once it waits; only then is it safe to stop anything.
    let ready = operation.dir().join(turn::READY);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !ready.exists() {
        if std::time::Instant::now() >= deadline {
            return Err(Error::new(Class::Failed, "the guardian did not become ready"));
        }
        operation.check_cancel()?;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(std::process::id())
}
