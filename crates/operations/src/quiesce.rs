//! Stops or freezes a service for a capture, and brings it back, whatever happens.
//!
//! The order is what makes it safe: the journal says `quiesce` before the service is touched, and a
//! guardian, a process of its own, is waiting on the worker's sign of life before that. Whoever is
//! first to notice the worker's death (the guardian, or the next command) brings the service back.

use crate::hooks;
use crate::journal::{Entry, Steps};
use crate::may_start;
use crate::operation::Operation;
use crate::recover::{After, Left};
use crate::{Error, ServiceSite};
use model::config::Quiesce;
use model::{Class, Progress};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How often thawing a service is tried before it counts as failed.
const TRIES: u32 = 3;

/// The step that stands in journals between the stop and the return.
pub(crate) const STEP: &str = "quiesce";

/// Whether the service's definition asks for it.
pub(crate) fn wanted(site: &ServiceSite) -> bool {
    site.spec().quiesce != Quiesce::None
}

/// Arms the guardian, then stops or freezes the service.
pub(crate) fn quiesce(site: &ServiceSite, operation: &mut Operation) -> Result<(), Error> {
    guard(site, operation)?;
    operation.step(STEP, site.spec().quiesce, |operation| {
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
    })
}

/// Arms the guardian: whoever stops a service for a while does this first.
pub(crate) fn guard(site: &ServiceSite, operation: &mut Operation) -> Result<(), Error> {
    operation.step("arm", (), |operation| arm(site, operation)).map(|_| ())
}

/// Brings it back after a capture. A cancel does not stop this.
pub(crate) fn resume(site: &ServiceSite, operation: &mut Operation) -> Result<(), Error> {
    operation.forward("resume", (), |operation| {
        operation.report().phase("starting the service");
        // A fresh token: whoever cancelled the backup did not ask for the service to stay down.
        let calm = operation.calm(site);
        bring_back(site, &calm.context())
    })
}

/// After a crash or failure: the service comes back before anything else is looked at, since
/// nothing else is as urgent and nothing of it needs the vault.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    if left.begun(STEP).is_none() || left.done("resume").is_some() {
        return Ok(());
    }
    let site = left.site;
    if left.run.booting && site.spec().quiesce == Quiesce::Stop {
        return left.finished("resume", "the service starts with its host");
    }
    let interrupted = left.done(STEP).is_none() && left.after == After::Death;
    left.with_context(|cx| {
        if interrupted && site.spec().quiesce == Quiesce::Stop {
            // The stop was under way and may still be: a service that looks as if it ran would go
            // down after it was left alone. Once it has surely stopped it can be started.
            if let Err(error) = site.engine().map_err(told).and_then(|engine| engine.stop(cx)) {
                cx.progress.warn(&format!("the stop could not be brought to its end: {error}"));
            }
        }
        bring_back(site, cx).map_err(|e| {
            engines::Error::new(Class::Failed, "the service could not be brought back").because(e)
        })
    })?;
    left.finished("resume", "the service was brought back")
}

fn told(error: Error) -> engines::Error {
    engines::Error::new(model::Classify::class(&error), error.chain())
}

/// Whether a service that may have been stopped is known to be back.
pub(crate) fn is_back(entries: &[Entry]) -> bool {
    entries.begun(STEP).is_none() || entries.done("resume").is_some()
}

fn bring_back(site: &ServiceSite, cx: &engines::Context<'_>) -> Result<(), Error> {
    let variables = &cx.variables.to_vec();
    // An engine tries a start again by itself.
    let most = if site.spec().quiesce == Quiesce::Stop { 1 } else { TRIES };
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
                Some(thaw) => hooks::run("thaw", thaw, variables, cx.cancel).map(|_| ()),
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
    hooks::run_tied(name, command, &variables, operation.cancel())
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
        .map_err(|e| Error::io("start the guardian", program, e))?;
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
