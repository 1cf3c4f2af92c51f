//! Questions to a person at the terminal. Asked on standard error, so that results stay alone on
//! standard output.

use crate::failure::Failure;
use model::{CancelToken, Class, Secret};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{self, BufRead, Write};

/// Asks for a line.
pub(crate) fn line(question: &str, cancel: &CancelToken) -> Result<String, Failure> {
    let mut err = io::stderr().lock();
    err.write_all(question.as_bytes())
        .and_then(|()| err.flush())
        .map_err(|e| Failure::io("write to", "the terminal", &e))?;
    drop(err);
    wait(cancel)?;
    let mut answer = String::new();
    let read = io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|e| Failure::io("read from", "the terminal", &e))?;
    if cancel.is_cancelled() || read == 0 {
        return Err(nothing_done());
    }
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

/// Waits for an answer, and for a signal: reading alone would not notice one.
fn wait(cancel: &CancelToken) -> Result<(), Failure> {
    let stdin = io::stdin();
    let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    loop {
        if cancel.is_cancelled() {
            return Err(nothing_done());
        }
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&tick)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(Failure::io("read from", "the terminal", &e.into())),
        }
    }
}

fn nothing_done() -> Failure {
    Failure::new(Class::Cancelled, "no answer was given; nothing was done")
}

/// Asks yes or no; without an answer it is no.
pub(crate) fn yes(question: &str, cancel: &CancelToken) -> Result<bool, Failure> {
    let answer = line(&format!("{question} [y/N] "), cancel)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks for a password, which is not shown while it is typed.
pub(crate) fn password(question: &str, cancel: &CancelToken) -> Result<Secret, Failure> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).ok();
    if let Some(before) = &before {
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&stdin, OptionalActions::Flush, &hidden)
            .map_err(|e| Failure::io("set up", "the terminal", &e.into()))?;
    }
    let answer = line(question, cancel);
    if let Some(before) = &before {
        // The answer counts even if the terminal stays dark.
        let _ = tcsetattr(&stdin, OptionalActions::Flush, before);
    }
    answer.map(Secret::new)
}
