//! Stops or freezes a service for a capture, and brings it back, whatever happens.
//!
//! The order is what makes it safe: the journal says `quiesce` before the service is touched, and a
//! guardian, a process of its own, is waiting on the worker's sign of life before that. Whoever is
//! first to notice the worker's death (the guardian, or the next command) brings the service back. The
//! guardian also does when that takes too long (`limit`).

mod limit;

pub(crate) use limit::{Watch, is_over};

use crate::hooks;
use crate::journal::{Entry, Steps};
use crate::may_start;
use crate::operation::Operation;
use crate::recover::{After, Left};
use crate::{Error, ServiceSite};
use engines::{AtBoot, Running};
use limit::Turn;
use model::config::Quiesce;
use model::{Class, Progress};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often thawing a service is tried before it counts as failed.
const TRIES: u32 = 3;
/// Who stops something for others, as a container's daemon, gives it ten seconds before it kills it.
const LINGER: Duration = Duration::from_secs(13);

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
    limit::begin(operation.dir())?;
    let held = operation.step(STEP, site.spec().quiesce, |operation| {
        operation.report().phase("stopping the service");
        match site.spec().quiesce {
            Quiesce::None => Ok(()),
            Quiesce::Stop => {
                let engine = site.engine()?;
                operation.with_context(site, |cx| engine.stop(cx))
            }
            Quiesce::Freeze => {
                hook(site, "freeze", &site.spec().hooks.freeze, operation).map(|_| ())
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
    operation.step("arm", (), |operation| arm(site, operation)).map(|_| ())
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
    let resumed = operation.forward("resume", (), |operation| {
        if turn.is_back(operation.dir()) {
            return Ok(());
        }
        operation.report().phase("starting the service");
        // A fresh token: whoever cancelled the backup did not ask for the service to stay down.
        let calm = operation.calm(site);
        bring_back(site, &calm.context())?;
        turn.back(operation.dir());
        Ok(())
    });
    (resumed, in_time)
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
        return left.finished("resume", "the service had been let go when its time was over");
    }
    let booting = left.run.booting;
    if booting && site.spec().quiesce == Quiesce::Stop {
        let said = start_at_boot(left)?;
        return left.finished("resume", said);
    }
    let stopping = left.done(STEP).is_none() && site.spec().quiesce == Quiesce::Stop && !booting;
    let after = left.after;
    left.with_context(|cx| {
        // Other services wait for this at the start of their host. It is tried again later.
        let tries = if booting { 1 } else { TRIES };
        let back = || {
            bring_back_in(site, cx, tries).map_err(|e| {
                engines::Error::new(Class::Failed, "the service could not be brought back")
                    .because(e)
            })
        };
        if stopping { start_after_stop(site, cx, after, back) } else { back() }
    })?;
    turn.back(left.dir);
    left.finished("resume", "the service was brought back")
}

/// Starts a service that an operation had stopped when its host went down, unless its host starts it
/// anyway: that comes after this, and would be waited for in vain. What was done, in a sentence.
pub(crate) fn start_at_boot(left: &Left<'_>) -> Result<String, Error> {
    if let Some(why) = may_start::barred(left.site) {
        return Ok(format!("the service is not started again: {why}"));
    }
    let engine = left.site.engine()?;
    left.with_context(|cx| match engine.control().start_at_boot(cx)? {
        AtBoot::ByItself => Ok("the service starts with its host"),
        AtBoot::Told => Ok("systemd was told to start the service, which does not start by itself"),
        AtBoot::ByCommand => {
            engine.start(cx).map(|()| "the service was started, which no unit of its host does")
        }
    })
    .map(str::to_owned)
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

fn bring_back(site: &ServiceSite, cx: &engines::Context<'_>) -> Result<(), Error> {
    bring_back_in(site, cx, TRIES)
}

fn bring_back_in(site: &ServiceSite, cx: &engines::Context<'_>, tries: u32) -> Result<(), Error> {
    let variables = &cx.variables.to_vec();
    // An engine tries a start again by itself.
    let most = if site.spec().quiesce == Quiesce::Stop { 1 } else { tries };
    // While it was stopped, or its host was gone, somebody may have taken over.
    if site.spec().quiesce == Quiesce::Stop
        && let Some(why) = may_start::barred(site)
    {
        cx.progress.warn(&format!("the service is not started again: {why}"));
        return Ok(());
    }
    let mut tries = 1;
    loop {
        let result = match site.spec().quiesce {
            Quiesce::None => Ok(()),
            Quiesce::Stop => site.engine()?.start(cx).map_err(Error::from),
            Quiesce::Freeze => match &site.spec().hooks.thaw {
                Some(thaw) => hooks::run(site, "thaw", thaw, variables, cx.cancel).map(|_| ()),
                None => Ok(()),
            },
        };
        match result {
            Ok(()) => return Ok(()),
            Err(error) if tries >= most => return Err(error),
            Err(error) => {
                cx.progress.warn(&format!("try {tries} of {most} failed: {}", error.chain()));
                std::thread::sleep(Duration::from_millis(500) * tries);
                tries += 1;
            }
        }
    }
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
    let ready = operation.dir().join("guardian.ready");
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
