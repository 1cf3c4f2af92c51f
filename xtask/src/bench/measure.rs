//! Time and peak memory of one command.
//!
//! A process is told the peak memory of its *finished children* only as the largest of all of them.
//! So each command gets a parent of its own: this program, started again as `measure`.

use super::failed;
use crate::Failure;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What a command cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Wall clock.
    pub(crate) seconds: f64,
    /// Processor time, of all its threads and children.
    pub(crate) cpu_seconds: f64,
    /// Resident memory at its highest, of the largest process.
    pub(crate) peak_bytes: u64,
}

/// Runs a command that must succeed. What it prints goes to a log that is shown if it fails.
pub(crate) fn run(command: &mut Command, scratch: &Path) -> Result<Figures, Failure> {
    let report = scratch.join("figures.json");
    let log = scratch.join("log");
    let here = std::env::current_exe()
        .map_err(|e| Failure::new(format!("cannot find this program: {e}")))?;
    let out = std::fs::File::create(&log).map_err(|e| failed("make", &log, &e))?;
    let err = out.try_clone().map_err(|e| failed("make", &log, &e))?;
    let mut measured = Command::new(here);
    measured.arg("measure").arg(&report).arg("--").arg(command.get_program());
    measured.args(command.get_args()).stdin(Stdio::null()).stdout(out).stderr(err);
    if let Some(directory) = command.get_current_dir() {
        measured.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => measured.env(name, value),
            None => measured.env_remove(name),
        };
    }
    let ended = measured.status().map_err(|e| Failure::new(format!("cannot measure: {e}")))?;
    if !ended.success() {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let program = command.get_program().to_string_lossy().into_owned();
        return Err(Failure::new(format!("{program} failed:\n{said}")));
    }
    let figures = std::fs::read(&report).map_err(|e| failed("read", &report, &e))?;
    serde_json::from_slice(&figures)
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", report.display())))
}

/// The other end: runs the command as the only child and writes down what it cost.
pub(crate) fn child(report: &Path, command: &[String]) -> Result<(), Failure> {
    let Some((program, words)) = command.split_first() else {
        return Err(Failure::new("there is no command to measure"));
    };
    let begun = Instant::now();
    let status = Command::new(program)
        .args(words)
        .status()
        .map_err(|e| Failure::new(format!("cannot start {program}: {e}")))?;
    let seconds = begun.elapsed().as_secs_f64();
    if !status.success() {
        return Err(Failure::new(format!("{program}: {status}")));
    }
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)
        .map_err(|e| Failure::new(format!("cannot ask for the usage of {program}: {e}")))?;
    let secs = |time: nix::sys::time::TimeVal| {
        std::time::Duration::from_micros(
            u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0),
        )
        .as_secs_f64()
    };
    let figures = Figures {
        seconds,
        cpu_seconds: secs(usage.user_time()) + secs(usage.system_time()),
        // Linux counts in KiB.
        peak_bytes: u64::try_from(usage.max_rss()).unwrap_or(0) * 1024,
    };
    let text = serde_json::to_vec(&figures)
        .map_err(|e| Failure::new(format!("cannot write the figures: {e}")))?;
    std::fs::write(report, text).map_err(|e| failed("write", report, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_the_commands_own() {
        let scratch = tempfile::tempdir().unwrap();
        let report = scratch.path().join("figures.json");
        // 64 MiB in one variable of a shell.
        let script = "x=$(head -c 67108864 /dev/zero | tr '\\0' x); [ ${#x} = 67108864 ]";
        child(&report, &["sh".to_owned(), "-c".to_owned(), script.to_owned()]).unwrap();
        let figures: Figures = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert!(figures.peak_bytes > 64 << 20, "{figures:?}");
        assert!(figures.seconds > 0.0 && figures.cpu_seconds > 0.0, "{figures:?}");
    }

    #[test]
    fn a_command_that_fails_has_no_figures() {
        let scratch = tempfile::tempdir().unwrap();
        let report = scratch.path().join("figures.json");
        assert!(child(&report, &["false".to_owned()]).is_err());
        assert!(!report.exists());
    }
}
