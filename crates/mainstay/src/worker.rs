//! Runs what changes something in a process of its own, and attends it.
//!
//! The command that was given only waits. Its worker is the same program with the same words, in a
//! session of its own, so that what happens to a terminal, to a connection or to whatever gave the
//! command does not touch the work: `status` shows it, `logs --follow` attends it again, `cancel`
//! stops it. What the worker says goes to where the command's own words would go, as long as there
//! is somebody to read it.

use crate::failure::Failure;
use model::Class;
use rustix::process::{Pid, Signal, kill_process, setsid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

/// The first word of a worker's command line; the others are those of the command.
pub(crate) const WORD: &str = "worker";

/// What a shell adds to the number of a signal for the exit code of what died of it.
pub(crate) const SIGNALLED: u8 = 128;

/// If these are a worker's words, gives it a session of its own, and takes the word out.
pub(crate) fn become_one(words: &mut Vec<OsString>) -> bool {
    let is_one = words.get(1).is_some_and(|word| word == OsStr::new(WORD));
    if is_one {
        words.remove(1);
        // Refused to who leads a group of processes already; that one is as much on its own.
        let _ = setsid();
    }
    is_one
}

/// Starts a worker with these words, waits for it, and gives its exit code. Who asks this process to
/// end asks the worker; a terminal that goes away ends this process alone.
pub(crate) fn attend(words: &[OsString]) -> Result<u8, Failure> {
    let failed = |what: &str, e: &std::io::Error| Failure::io(what, "the worker", e);
    let mut caught = vec![SIGINT, SIGTERM, SIGCHLD];
    if !crate::signals::hangup_is_ignored() {
        caught.push(SIGHUP);
    }
    // Before it starts, so that its end is not missed.
    let mut signals = Signals::new(caught).map_err(|e| failed("wait for", &e))?;
    let program = std::env::current_exe().map_err(|e| Failure::io("find", "this program", &e))?;
    let mut worker = Command::new(program)
        .arg(WORD)
        .args(words.iter().skip(1))
        .spawn()
        .map_err(|e| failed("start", &e))?;
    let mut asked = false;
    for signal in signals.forever() {
        match signal {
            SIGCHLD => {
                if let Some(status) = worker.try_wait().map_err(|e| failed("wait for", &e))? {
                    return end(status, asked);
                }
            }
            SIGHUP => return Ok(SIGNALLED + 1),
            signal => {
                asked = true;
                pass_on(&worker, signal);
            }
        }
    }
    // The signals have no end; should they have one, the worker has, too.
    end(worker.wait().map_err(|e| failed("wait for", &e))?, asked)
}

/// Passes a signal on to a worker that was not waited for yet.
pub(crate) fn pass_on(worker: &Child, signal: i32) {
    let signal = if signal == SIGTERM { Signal::TERM } else { Signal::INT };
    // It was not waited for, so the number is still its own; it may have ended by itself.
    let _ = kill_process(Pid::from_child(worker), signal);
}

fn end(status: ExitStatus, asked: bool) -> Result<u8, Failure> {
    if let Some(code) = status.code() {
        return Ok(u8::try_from(code).unwrap_or(1));
    }
    let signal = status.signal().unwrap_or_default();
    let code = SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or_default());
    if asked && (signal == SIGINT || signal == SIGTERM) {
        // It had not begun anything, or it would have cleaned up.
        return Ok(code);
    }
    Err(Failure::new(Class::Failed, format!("the worker was killed by signal {signal}"))
        .hint("What it left is cleaned up by the next command on the service.")
        .exiting(code))
}
