//! A mount outlives the process that serves it: whoever looks there is then told that the end of
//! the connection is missing, until somebody unmounts it. So a second process waits for the end of
//! the first, however it ends, and takes away what that has left.

use super::mounts;
use crate::failure::Failure;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// The guard of a mount. It watches as long as this lives.
pub(super) struct Guard(Child);

impl Guard {
    /// Starts the guard of what will be mounted under this name.
    pub(super) fn start(source: &str) -> Result<Guard, Failure> {
        let failed = |e: std::io::Error| Failure::io("start", "the guard of the mount", &e);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["--quiet", "mount-guard", source]).current_dir("/");
        // Its standard input ends with this process, whatever ends that. In a group of its own, so
        // that a terminal's signals reach only who is to hear them.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Guard(command.process_group(0).spawn().map_err(failed)?))
    }

    /// Ends it, when there is nothing left to guard.
    pub(super) fn end(mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The guard's own work: waits for the end of standard input, then unmounts.
pub(crate) fn guard(source: &str) -> Result<(), Failure> {
    let mut nothing = [0; 64];
    let mut input = std::io::stdin().lock();
    loop {
        match input.read(&mut nothing) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    for place in mounts::places_of(source) {
        mounts::take_away(&place)?;
    }
    Ok(())
}
