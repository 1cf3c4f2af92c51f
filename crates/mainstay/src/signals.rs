//! SIGINT and SIGTERM ask the running operation to stop; it cleans up by itself.

use crate::failure::Failure;
use crate::worker::SIGNALLED;
use model::CancelToken;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Sets the token at the first signal. Further ones do nothing: an undo must not be interrupted.
pub(crate) fn watch(token: CancelToken, quiet: bool) -> Result<(), Failure> {
    let mut caught = vec![SIGINT, SIGTERM];
    if !hangup_is_ignored() {
        caught.push(SIGHUP);
    }
    let mut signals = Signals::new(caught).map_err(|e| Failure::io("wait for", "signals", &e))?;
    let watcher = move || {
        for _ in signals.forever() {
            if !token.is_cancelled() && !quiet {
                // Told before the token is set, so that it comes before what the undo says.
                let _ = writeln!(io::stderr().lock(), "Stopping; this cleans up first.");
            }
            token.cancel();
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watcher)
        .map_err(|e| Failure::io("start", "the thread that waits for signals", &e))?;
    Ok(())
}

/// Lets what asks a program to end pass by, unless the host itself is about to: what this one could still
/// start would not live, and the host would wait for it in vain until it kills it. The signals are caught and
/// not ignored: a service that is started here must not inherit that.
pub(crate) fn ignore_until_the_host_ends() -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Failure::io("wait for", "signals", &e))?;
    let watcher = move || {
        for signal in signals.forever() {
            if signal == SIGTERM && host_ends() {
                // As SIGKILL would in a minute.
                std::process::exit((SIGNALLED + 15).into());
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watcher)
        .map_err(|e| Failure::io("start", "the thread that waits for signals", &e))?;
    Ok(())
}

/// Whether systemd shuts the host down: it says so, or what it left in its place at the end is there.
fn host_ends() -> bool {
    let first = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    if first.starts_with("systemd-shutdow") {
        return true;
    }
    let mut ask = Command::new("systemctl");
    ask.arg("is-system-running").stdin(Stdio::null()).stderr(Stdio::null());
    ask.output().is_ok_and(|said| said.stdout.trim_ascii() == b"stopping")
}

/// Whether `nohup` or the like asked for a hang-up to be ignored: bit 0 of `SigIgn` (proc(5)).
pub(crate) fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}
