//! Starts and stops a service and tells whether it runs, by its systemd unit or by the commands of
//! its configuration. The same for all engines.

use crate::command::{Command, Output};
use crate::{Context, Error, Running};
use model::config::Service;
use model::{CancelToken, Class, Classify, ServiceName};
use std::time::{Duration, Instant};

/// How long one try to start or stop may take.
const ACTION_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the question whether it runs may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the service may take, after the command has ended, to be as asked.
const SETTLE: Duration = Duration::from_secs(60);
/// The pauses between tries.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// What starts, stops and looks at one service.
#[derive(Clone, Debug)]
pub struct Control {
    service: ServiceName,
    start: Option<Step>,
    stop: Option<Step>,
    status: Option<Status>,
    password_env: Option<String>,
    settle: Duration,
    pauses: Vec<Duration>,
}

/// What becomes of a service when its host has started, without anybody's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtBoot {
    /// Its host starts it.
    ByItself,
    /// Nobody starts its unit, or something else may: systemd has to be told.
    IfTold,
    /// Nobody starts it: it has no unit.
    ByCommand,
}

/// Whether a unit waits for another when their host starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It does.
    Yes,
    /// It would, but its host does not start the other one.
    IfItStarts,
    /// It does not come after it.
    Not,
}

/// One thing to run.
#[derive(Clone, Debug)]
enum Step {
    Line(String),
    Systemctl { verb: &'static str, unit: String },
}

/// How to ask whether it runs.
#[derive(Clone, Debug)]
enum Status {
    Line(String),
    Unit(String),
}

/// What one look at the service gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Runs,
    Stopped,
    /// On its way from one to the other.
    Between,
    Unknown,
}

impl Control {
    /// Reads it off a service's definition: `start`, `stop` and `status` if they are given, and
    /// for those that are not, its `unit`.
    pub fn of(service: &ServiceName, definition: &Service) -> Self {
        let unit = definition.unit.as_ref();
        let step = |line: &Option<String>, verb| match (line, unit) {
            (Some(line), _) => Some(Step::Line(line.clone())),
            (None, Some(unit)) => Some(Step::Systemctl { verb, unit: unit.clone() }),
            (None, None) => None,
        };
        Control {
            service: service.clone(),
            start: step(&definition.start, "start"),
            stop: step(&definition.stop, "stop"),
            status: match (&definition.status, unit) {
                (Some(line), _) => Some(Status::Line(line.clone())),
                (None, Some(unit)) => Some(Status::Unit(unit.clone())),
                (None, None) => None,
            },
            password_env: definition.password_env.clone(),
            settle: SETTLE,
            pauses: PAUSES.to_vec(),
        }
    }

    /// Whether it can both start and stop the service.
    pub fn can_start_stop(&self) -> bool {
        self.start.is_some() && self.stop.is_some()
    }

    /// Whether the service runs.
    pub fn running(&self, cx: &Context<'_>) -> Result<Running, Error> {
        Ok(match self.look(cx)? {
            // What is starting or stopping has its files open.
            Seen::Runs | Seen::Between => Running::Yes,
            Seen::Stopped => Running::No,
            Seen::Unknown => Running::Unknown,
        })
    }

    /// Starts the service and waits until it runs, as far as that can be seen. Starting one that
    /// runs is no error. Tried again before it counts as failed.
    pub fn start(&self, cx: &Context<'_>) -> Result<(), Error> {
        self.bring(cx, "start", self.start.as_ref(), Seen::Runs)
    }

    /// Stops the service and waits until it has stopped, as far as that can be seen. Stopping a
    /// stopped one is no error. Tried again before it counts as failed.
    pub fn stop(&self, cx: &Context<'_>) -> Result<(), Error> {
        self.bring(cx, "stop", self.stop.as_ref(), Seen::Stopped)
    }

    /// What becomes of the service when its host has just started. Nothing is done for it.
    pub fn at_boot(&self, cx: &Context<'_>) -> Result<AtBoot, Error> {
        let Some(unit) = self.started_unit() else { return Ok(AtBoot::ByCommand) };
        let output = self.systemctl(cx, &["is-enabled"], unit).ask(cx.cancel)?;
        // Others (`static`, `disabled`, `linked`) may be started by something else, or not; so may what a
        // generator enables (`enabled-runtime`, `generated`): Debian's PostgreSQL clusters come with another
        // unit, which can be disabled. To tell systemd to start what it starts anyway changes nothing.
        let starts = ["enabled", "alias"];
        let by_itself = output.success()
            && output.stdout_text().is_ok_and(|text| starts.contains(&text.trim()));
        Ok(if by_itself { AtBoot::ByItself } else { AtBoot::IfTold })
    }

    /// Tells systemd to start the service's unit when its turn comes. Never waits for it: what runs at the
    /// start of a host is often ordered before it.
    pub fn start_in_turn(&self, cx: &Context<'_>) -> Result<(), Error> {
        let Some(unit) = self.started_unit() else { return self.start(cx) };
        self.systemctl(cx, &["start", "--no-block"], unit).run(cx.cancel).map(|_| ())
    }

    /// Whether the service's unit waits for another when their host starts; none if it has no unit, or that
    /// other one is not there.
    pub fn waits_for(&self, other: &str, cx: &Context<'_>) -> Result<Option<Waits>, Error> {
        let Some(unit) = self.started_unit() else { return Ok(None) };
        let look = |of: &str| {
            let properties = ["show", "--property=LoadState,UnitFileState,After"];
            self.systemctl(cx, &properties, of).run(cx.cancel)
        };
        // In this order: what another unit says of the order is known once that was loaded.
        let others = look(other)?.stdout_text()?;
        let after = look(unit)?.stdout_text()?;
        let has = |line: &str| others.lines().any(|said| said == line);
        if !has("LoadState=loaded") {
            return Ok(None);
        }
        let mut after = after.lines().filter_map(|line| line.strip_prefix("After="));
        Ok(Some(match after.any(|units| units.split(' ').any(|unit| unit == other)) {
            false => Waits::Not,
            true if has("UnitFileState=enabled") => Waits::Yes,
            true => Waits::IfItStarts,
        }))
    }

    fn started_unit(&self) -> Option<&str> {
        match &self.start {
            Some(Step::Systemctl { unit, .. }) => Some(unit),
            Some(Step::Line(_)) | None => None,
        }
    }

    fn systemctl(&self, cx: &Context<'_>, words: &[&str], unit: &str) -> Command {
        let what = format!("`systemctl {} {unit}`", words.first().unwrap_or(&""));
        let command = Command::program(what, "systemctl").args(words).args(["--", unit]);
        self.command(cx, command).timeout(STATUS_TIMEOUT)
    }

    /// Runs the step until the service is seen to be as wanted or the tries are used up.
    fn bring(
        &self,
        cx: &Context<'_>,
        verb: &'static str,
        step: Option<&Step>,
        wanted: Seen,
    ) -> Result<(), Error> {
        let Some(step) = step else {
            return Err(Error::invalid(format!(
                "service {} cannot be told to {verb}: it has neither a `{verb}` command nor a `unit`",
                self.service
            ))
            .hinting(format!("Add `unit` or `{verb}` to [service.{}].", self.service)));
        };
        if self.look_quietly(cx)? == wanted {
            return Ok(());
        }
        let mut pauses = self.pauses.iter();
        loop {
            let error = match self.try_once(cx, verb, step, wanted) {
                Ok(()) => return Ok(()),
                Err(error) if error.class() == Class::Cancelled => return Err(error),
                Err(error) => error,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            cx.progress.warn(&format!("{error}; it is tried again"));
            wait(*pause, cx.cancel)?;
        }
    }

    fn try_once(
        &self,
        cx: &Context<'_>,
        verb: &'static str,
        step: &Step,
        wanted: Seen,
    ) -> Result<(), Error> {
        let mut command = self.step(cx, verb, step).timeout(ACTION_TIMEOUT);
        if wanted == Seen::Runs {
            // It stays, and must not be slow because what started it may be.
            command = command.with_usual_priority();
        } else {
            // Whoever cleans up after our death starts the service again; a stop that goes on
            // beside that would win in the end.
            command = command.tied();
        }
        let output = command.ask(cx.cancel)?;
        if !output.success() {
            // Some commands fail when there is nothing to do. What counts is the service.
            if self.look_quietly(cx)? == wanted {
                cx.progress
                    .warn(&format!("{}; yet the service is as it should be", output.failure()));
                return Ok(());
            }
            return Err(output.failure());
        }
        let deadline = Instant::now() + self.settle;
        loop {
            match self.look_quietly(cx)? {
                seen if seen == wanted => return Ok(()),
                // Without a way to see, the command's word is all there is.
                Seen::Unknown => return Ok(()),
                _ if Instant::now() >= deadline => break,
                _ => wait(Duration::from_millis(100), cx.cancel)?,
            }
        }
        let is = if wanted == Seen::Runs { "does not run" } else { "still runs" };
        Err(output.failure_as(&format!("succeeded, but after {:?} the service {is}", self.settle)))
    }

    fn step(&self, cx: &Context<'_>, verb: &str, step: &Step) -> Command {
        self.command(
            cx,
            match step {
                Step::Line(line) => Command::shell(format!("the {verb} command"), line),
                Step::Systemctl { verb, unit } => {
                    Command::program(format!("`systemctl {verb} {unit}`"), "systemctl").args([
                        verb,
                        "--",
                        unit.as_str(),
                    ])
                }
            },
        )
    }

    /// Every command of a service knows its name, and none inherits its password.
    fn command(&self, cx: &Context<'_>, command: Command) -> Command {
        let command = command.envs(cx.variables).env("MAINSTAY_SERVICE", self.service.as_str());
        match &self.password_env {
            Some(name) => command.without_env(name),
            None => command,
        }
    }

    /// As [`Control::look`], where not being able to tell must not keep anybody from trying.
    fn look_quietly(&self, cx: &Context<'_>) -> Result<Seen, Error> {
        match self.look(cx) {
            Err(error) if error.class() == Class::Cancelled => Err(error),
            Err(error) => {
                cx.progress.warn(&error.to_string());
                Ok(Seen::Unknown)
            }
            seen => seen,
        }
    }

    fn look(&self, cx: &Context<'_>) -> Result<Seen, Error> {
        match &self.status {
            None => Ok(Seen::Unknown),
            Some(Status::Line(line)) => {
                let command = self.command(cx, Command::shell("the status command", line));
                let output = command.timeout(STATUS_TIMEOUT).ask(cx.cancel)?;
                match output.code() {
                    Some(0) => Ok(Seen::Runs),
                    Some(3) => Ok(Seen::Stopped),
                    _ => Err(output.failure().hinting(
                        "Let the status command exit with 0 if the service runs and 3 if it does \
                         not.",
                    )),
                }
            }
            Some(Status::Unit(unit)) => {
                let command = Command::program(format!("`systemctl show {unit}`"), "systemctl")
                    .args(["show", "--property=LoadState,ActiveState", "--", unit]);
                let output = self.command(cx, command).timeout(STATUS_TIMEOUT).run(cx.cancel)?;
                unit_state(&output, unit)
            }
        }
    }
}

/// `systemctl is-active` calls a unit that is still starting, and one that does not exist,
/// inactive; the properties tell them apart.
fn unit_state(output: &Output, unit: &str) -> Result<Seen, Error> {
    let text = output.stdout_text()?;
    let property = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    };
    match property("LoadState") {
        "not-found" => {
            return Err(Error::invalid(format!("there is no systemd unit {unit} on this host"))
                .hinting("Correct `unit`, or install the service."));
        }
        "masked" => {
            return Err(Error::invalid(format!("the systemd unit {unit} is masked"))
                .hinting(format!("Run `systemctl unmask {unit}`.")));
        }
        _ => {}
    }
    match property("ActiveState") {
        "active" | "reloading" | "refreshing" => Ok(Seen::Runs),
        "inactive" | "failed" => Ok(Seen::Stopped),
        "activating" | "deactivating" | "maintenance" => Ok(Seen::Between),
        _ => Err(output.failure_as("gave no ActiveState that is known")),
    }
}

fn wait(pause: Duration, cancel: &CancelToken) -> Result<(), Error> {
    let end = Instant::now() + pause;
    while Instant::now() < end {
        if cancel.is_cancelled() {
            return Err(Error::new(Class::Cancelled, "the service's start or stop was cancelled"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
