//! The priority that a command is started with.

use rustix::process::{getpriority_process, setpriority_process};

/// Gives this thread its own priority back when it goes.
#[derive(Debug)]
pub(super) struct Usual(i32);

/// Takes back for this thread, and for what it starts meanwhile, that this process is nice: on Linux each
/// thread has a priority of its own, which its children inherit. None where there is nothing to take back,
/// or where that is not allowed, as for who is not root: then the command is as nice as this process.
pub(super) fn usual() -> Option<Usual> {
    let nice = getpriority_process(None).ok().filter(|nice| *nice > 0)?;
    setpriority_process(None, 0).ok().map(|()| Usual(nice))
}

impl Drop for Usual {
    fn drop(&mut self) {
        // To become nicer is always allowed.
        let _ = setpriority_process(None, self.0);
    }
}
