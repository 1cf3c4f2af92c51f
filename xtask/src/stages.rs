//! `cargo xtask test`: one stage after the other, all of them even if one fails, and a summary.

use crate::{Failure, cargo, deps, links, packages, pypi};
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a stage ended.
enum Outcome {
    Passed,
    /// With the reason and what to do about it.
    Skipped(String),
    Failed(String),
}

struct Done {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs every stage. A failed one does not keep the later ones from telling what they found.
pub(crate) fn test(only_tests: bool, filter: &[String]) -> Result<(), Failure> {
    let mut done = Vec::new();
    stage(&mut done, "packages", || match packages::provide().and_then(|()| pypi::provide()) {
        Ok(()) => Outcome::Passed,
        Err(failure) => Outcome::Failed(failure.to_string()),
    });
    // Without what they drive, the tests would fail one by one for the same reason.
    if done.iter().any(Done::failed) {
        return summary(&done);
    }
    if !only_tests {
        stage(&mut done, "format", || {
            component("fmt", "rustfmt", cargo().args(["fmt", "--all", "--check"]))
        });
        stage(&mut done, "directions", || match deps::run() {
            Ok(()) => Outcome::Passed,
            Err(failure) => Outcome::Failed(failure.to_string()),
        });
        stage(&mut done, "lints", || {
            component(
                "clippy",
                "clippy",
                cargo()
                    .args(["clippy", "--locked", "--workspace", "--all-targets", "--quiet"])
                    .args(["--", "-D", "warnings"]),
            )
        });
        stage(&mut done, "links", || match links::run() {
            Ok(()) => Outcome::Passed,
            Err(failure) => Outcome::Failed(failure.to_string()),
        });
        stage(&mut done, "documentation", || {
            run(cargo()
                .args(["doc", "--locked", "--workspace", "--no-deps", "--quiet"])
                .env("RUSTDOCFLAGS", "-D warnings"))
        });
    }
    stage(&mut done, "tests", || {
        run(cargo()
            .args(["test", "--locked", "--workspace", "--no-fail-fast"])
            .arg("--")
            .args(filter)
            .env(THREADS, threads()))
    });
    summary(&done)
}

/// How many tests run at once, as the test runner reads it.
const THREADS: &str = "RUST_TEST_THREADS";

/// Tests wait for servers, for disks and for time to pass more than they compute: two for each
/// processor, unless somebody has said how many.
fn threads() -> OsString {
    let two = || std::thread::available_parallelism().map_or(2, |cores| 2 * cores.get());
    std::env::var_os(THREADS).unwrap_or_else(|| two().to_string().into())
}

fn stage(done: &mut Vec<Done>, name: &'static str, work: impl FnOnce() -> Outcome) {
    println!("== {name}");
    let begun = Instant::now();
    let outcome = work();
    let took = begun.elapsed();
    if let Outcome::Failed(why) | Outcome::Skipped(why) = &outcome {
        println!("{why}");
    }
    done.push(Done { name, outcome, took });
}

/// A stage whose tool is an optional component of the toolchain. A machine without it can still
/// run the tests; the notice and the summary say what was not looked at.
fn component(subcommand: &str, component: &str, command: &mut Command) -> Outcome {
    let there = cargo()
        .args([subcommand, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if there {
        run(command)
    } else {
        Outcome::Skipped(format!(
            "cargo {subcommand} is not installed. To include this stage: rustup component add {component}"
        ))
    }
}

fn run(command: &mut Command) -> Outcome {
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("{} failed: {status}", words(command))),
        Err(e) => Outcome::Failed(format!("cannot start {}: {e}", words(command))),
    }
}

/// The command as one would type it.
fn words(command: &Command) -> String {
    std::iter::once("cargo".into())
        .chain(command.get_args().map(|word| word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn summary(done: &[Done]) -> Result<(), Failure> {
    println!("\n== summary");
    for stage in done {
        let word = match &stage.outcome {
            Outcome::Passed => "ok",
            Outcome::Skipped(_) => "skipped",
            Outcome::Failed(_) => "FAILED",
        };
        println!("{:14} {word:8} {:7.1} s", stage.name, stage.took.as_secs_f64());
    }
    let failed: Vec<_> = done.iter().filter(|stage| stage.failed()).map(|s| s.name).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("failed: {}", failed.join(", "))))
}

impl Done {
    fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }
}
