//! Which processes belong to a demo host, and ending them.
//!
//! A host of the demo is a directory, and a process is on it if it works there: the shop, a
//! PostgreSQL server with all its backends, and every command that the demo or the server starts
//! for it. The directory's name is random, so nothing else can be meant.

use crate::failure::Failure;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long processes that were killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// The processes that work at or below a directory, this one aside.
pub(crate) fn below(directory: &Path) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|pid| *pid != rustix::process::getpid() && works_below(*pid, directory))
        .collect()
}

fn works_below(pid: Pid, directory: &Path) -> bool {
    let link = PathBuf::from(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
    // A zombie and a process of another user show nothing; neither is ours.
    std::fs::read_link(link).is_ok_and(|cwd| cwd.starts_with(directory))
}

/// Sends a signal to all of them, and says to how many.
pub(crate) fn signal(directory: &Path, signal: Signal) -> usize {
    let pids = below(directory);
    pids.into_iter().filter(|pid| signal_one(*pid, directory, signal)).count()
}

/// The number of a process that ended may be given to another one: the descriptor is opened first,
/// and then it is asked again whose process this is.
fn signal_one(pid: Pid, directory: &Path, signal: Signal) -> bool {
    pidfd_open(pid, PidfdFlags::empty()).is_ok_and(|process| {
        works_below(pid, directory) && pidfd_send_signal(&process, signal).is_ok()
    })
}

/// Kills every process of a host, as a power cut would, and returns when none is left.
pub(crate) fn kill(directory: &Path) -> Result<usize, Failure> {
    let deadline = Instant::now() + GONE_WITHIN;
    let mut killed = 0;
    loop {
        // A server may have started one more while it was being killed.
        killed += signal(directory, Signal::KILL);
        if below(directory).is_empty() {
            return Ok(killed);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(
                model::Class::Failed,
                format!("processes in {} do not end though they were killed", directory.display()),
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn only_what_works_in_the_directory_is_killed() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sleeper = |place: &Path| {
            Command::new("sleep").arg("60").current_dir(place).stdin(Stdio::null()).spawn().unwrap()
        };
        let (mut inside, mut outside) = (sleeper(ours.path()), sleeper(other.path()));
        let directory = ours.path().canonicalize().unwrap();
        assert_eq!(below(&directory).len(), 1);
        // Somebody has to take note of its end, or it stays in the list of processes.
        let reaper = std::thread::spawn(move || inside.wait().unwrap());
        assert!(kill(&directory).unwrap() >= 1);
        assert!(!reaper.join().unwrap().success());
        assert!(outside.try_wait().unwrap().is_none());
        outside.kill().unwrap();
        outside.wait().unwrap();
    }
}
