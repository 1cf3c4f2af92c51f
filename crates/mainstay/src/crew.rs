//! One process for each of several services, attended together.
//!
//! None waits for another, and a signal that ends who attends them ends none of them, but one that asks:
//! it is passed on. What they say goes into files in memory and is shown when they have ended, service by
//! service; one that goes on longer than it is attended can write there still.

use crate::app::App;
use crate::failure::{Exit, Failure};
use crate::worker::{SIGNALLED, WORD, pass_on};
use model::{Class, ServiceName};
use rustix::fs::MemfdFlags;
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The exit code of what somebody wanted to end.
const CANCELLED: Exit = Exit(130);

/// How often it is looked whether one has ended.
const TICK: Duration = Duration::from_millis(20);

/// One of them.
struct Member {
    name: ServiceName,
    child: Child,
    out: File,
    err: File,
}

/// What one came to.
struct Report {
    name: ServiceName,
    exit: Exit,
    /// The entries of its document.
    entries: Vec<Value>,
}

/// How the crew ended.
pub(crate) struct Ended {
    /// Each of those that have.
    exits: Vec<Exit>,
    /// Whoever attended them was asked to stop.
    asked: bool,
}

impl Ended {
    /// The worst of them, and of what else there was. Somebody may have wanted one of them to end: that is how
    /// all ended if they were asked to, or nothing else is wrong, and hides no failure of another.
    pub(crate) fn worst(&self, others: &[Exit]) -> Exit {
        let all = || self.exits.iter().chain(others).copied();
        let wrong = all().filter(|exit| *exit != CANCELLED).max().unwrap_or(Exit::DONE);
        match self.asked || wrong == Exit::DONE {
            true => all().max().unwrap_or(Exit::DONE),
            false => wrong,
        }
    }
}

/// Starts the program with these words for each service, and `--service NAME`, and attends them until all
/// have ended, or for so long. `order` says where an entry of a service's document belongs among those of
/// the others.
pub(crate) fn run(
    app: &App,
    names: &[ServiceName],
    words: &[&str],
    attend: Option<Duration>,
    order: impl Fn(&ServiceName, usize) -> usize,
) -> Result<Ended, Failure> {
    let mut caught = vec![SIGINT, SIGTERM];
    if !crate::signals::hangup_is_ignored() {
        caught.push(SIGHUP);
    }
    // Before they start, so that none is missed.
    let mut signals = Signals::new(caught).map_err(|e| Failure::io("wait for", "signals", &e))?;
    let deadline = attend.and_then(|attend| Instant::now().checked_add(attend));
    let progress = app.progress();
    let mut reports = Vec::new();
    let mut crew = Vec::new();
    for name in names {
        match start(app, name, words) {
            Ok(member) => crew.push(member),
            Err(failure) => reports.push(failed(app, name, failure)),
        }
    }
    let (mut waiting, mut asked) = (0, false);
    while !crew.is_empty() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        for signal in signals.pending() {
            if signal == SIGHUP {
                return Ok(Ended { exits: vec![Exit(SIGNALLED + 1)], asked });
            }
            if !asked && !app.out.quiet() && !app.out.json {
                app.out.complain("Stopping; this cleans up first.");
            }
            asked = true;
            crew.iter().for_each(|member| pass_on(&member.child, signal));
        }
        let mut going = Vec::new();
        for mut member in crew {
            match member.child.try_wait() {
                Ok(None) => going.push(member),
                Ok(Some(status)) => reports.push(report(app, member, status, asked)?),
                Err(e) => {
                    let failure = Failure::io("wait for", "the worker", &e);
                    reports.push(failed(app, &member.name, failure));
                }
            }
        }
        crew = going;
        if crew.len() != waiting {
            waiting = crew.len();
            let left: Vec<&str> = crew.iter().map(|member| member.name.as_str()).collect();
            if !left.is_empty() {
                progress.phase(&format!("waiting for {}", left.join(", ")));
            }
        }
        std::thread::sleep(TICK);
    }
    drop(progress);
    for member in crew {
        let name = member.name;
        app.out
            .say(format_args!("{name}: goes on by itself; `mainstay status {name}` shows it"))?;
        let entries = vec![json!({ "service": name, "goes-on": true })];
        reports.push(Report { name, exit: Exit::DONE, entries });
    }
    let exits = reports.iter().map(|report| report.exit).collect();
    if app.out.json {
        let entries = reports.into_iter().flat_map(|Report { name, entries, .. }| {
            let entries = entries.into_iter().enumerate();
            entries.map(|(at, value)| (order(&name, at), name.clone(), value)).collect::<Vec<_>>()
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let entries: Vec<Value> = entries.into_iter().map(|(_, _, value)| value).collect();
        app.out.document(&json!({ "services": entries }))?;
    }
    Ok(Ended { exits, asked })
}

fn start(app: &App, name: &ServiceName, words: &[&str]) -> Result<Member, Failure> {
    let failed = |what: &str, e: &io::Error| Failure::io(what, "the worker", e);
    let memory = || {
        let file = rustix::fs::memfd_create("mainstay-crew", MemfdFlags::CLOEXEC);
        file.map(File::from).map_err(|e| failed("hear", &e.into()))
    };
    let (out, err) = (memory()?, memory()?);
    let program = std::env::current_exe().map_err(|e| Failure::io("find", "this program", &e))?;
    let mut command = Command::new(program);
    command.arg(WORD).arg("--config").arg(app.config_file()?);
    let globals = &app.globals;
    // What it writes goes where ours does.
    let painted = app.out.paint.is_on() && app.out.err_paint.is_on();
    command.args(["--color", if painted { "always" } else { "never" }]);
    command.args(globals.json.then_some("--json"));
    command.args(globals.quiet.then_some("--quiet"));
    command.args((0..globals.verbose).map(|_| "--verbose"));
    if let Some(wait) = globals.wait {
        command.args(["--wait".to_owned(), format!("{}s", wait.as_secs().max(1))]);
    }
    command.args(words).args(["--service", name.as_str()]);
    command.stdin(Stdio::null());
    command.stdout(out.try_clone().map_err(|e| failed("hear", &e))?);
    command.stderr(err.try_clone().map_err(|e| failed("hear", &e))?);
    let child = command.spawn().map_err(|e| failed("start", &e))?;
    Ok(Member { name: name.clone(), child, out, err })
}

/// Shows what one has said, and how it ended.
fn report(app: &App, member: Member, status: ExitStatus, asked: bool) -> Result<Report, Failure> {
    let Member { name, out, err, .. } = member;
    let (said, complained) = (text(&out), text(&err));
    let document = serde_json::from_str::<Value>(&said).ok().filter(|_| app.out.json);
    if !app.out.json {
        app.out.text(&said)?;
    }
    if !complained.is_empty() && !app.out.json {
        // There is nobody left to tell if it is closed.
        let _ = io::stderr().lock().write_all(complained.as_bytes());
    }
    let Some(code) = status.code() else {
        let signal = status.signal().unwrap_or_default();
        if asked && (signal == SIGINT || signal == SIGTERM) {
            // It had not begun anything, or it would have cleaned up.
            return Ok(Report { name, exit: CANCELLED, entries: Vec::new() });
        }
        let failure =
            Failure::new(Class::Failed, format!("the worker was killed by signal {signal}"))
                .hint("What it left is cleaned up by the next command on the service.")
                .exiting(SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or_default()));
        return Ok(failed(app, &name, failure));
    };
    let exit = Exit(u8::try_from(code).unwrap_or(1));
    let mut entries = Vec::new();
    if app.out.json {
        let document = document.as_ref();
        let warnings = document.and_then(|document| document["warnings"].as_array());
        for warning in warnings.into_iter().flatten().filter_map(Value::as_str) {
            app.out.warn(warning);
        }
        entries = match document.and_then(|document| document["services"].as_array()) {
            Some(entries) => entries.clone(),
            // It ended before it came to its turns, and said why.
            None => {
                let error = serde_json::from_str::<Value>(complained.trim());
                let error = error.unwrap_or_else(|_| Value::from(complained));
                vec![json!({ "service": name, "error": error })]
            }
        };
    }
    Ok(Report { name, exit, entries })
}

/// One that could not be started, or was lost.
fn failed(app: &App, name: &ServiceName, failure: Failure) -> Report {
    let entries = vec![json!({ "service": name, "error": failure.to_json() })];
    let exit = match app.out.json {
        true => failure.exit(),
        false => failure.about(name).report(&app.out),
    };
    Report { name: name.clone(), exit, entries }
}

/// What was written there so far; whoever writes keeps its own place.
fn text(file: &File) -> String {
    let size = file.metadata().map_or(0, |meta| meta.len());
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}
