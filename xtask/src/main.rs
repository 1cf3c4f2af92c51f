//! `cargo xtask`: what a developer does with this workspace beyond building it.
//!
//! Kept out of the product: nothing here is linked into `mainstay`.

// This is a command line program: its output is what it is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod deps;
mod licences;
mod links;
mod packages;
// The tests' own: they look where this task puts things.
#[expect(unreachable_pub, reason = "others use the same file")]
#[path = "../../crates/storage/src/doubles/provided.rs"]
mod provided;
mod pypi;
mod stages;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tests, rules and measurements of this workspace")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that must hold before a change lands: format, directions, lints, docs, tests
    ///
    /// Installs the Debian packages that the tests need if it may (root, and apt-get is there),
    /// else names them with the command that installs them. Runs two tests for each processor at
    /// once, unless RUST_TEST_THREADS says how many.
    Test {
        /// Only what cargo test would run: no format, lint, documentation or direction check
        #[arg(long)]
        only_tests: bool,
        /// Names of tests to run, as for `cargo test`
        filter: Vec<String>,
    },
    /// Installs what the tests drive, as `test` does before it begins
    Provide,
    /// Which crate may know which, licences, and one crypto provider in the whole tree
    Deps,
    /// Measures Mainstay beside restic and borg on the same tree
    Bench(bench::Args),
    /// Runs a command and writes its time and peak memory as JSON to a file
    #[command(hide = true)]
    Measure {
        /// Where the figures go
        report: PathBuf,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

/// What ends a task: one sentence, already complete.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

impl Failure {
    fn new(what: impl Into<String>) -> Failure {
        Failure(what.into())
    }
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Test { only_tests, filter } => stages::test(only_tests, &filter),
        Command::Provide => packages::provide().and_then(|()| pypi::provide()),
        Command::Deps => deps::run(),
        Command::Bench(args) => bench::run(&args),
        Command::Measure { report, command } => bench::measure::child(&report, &command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root directory: this crate's manifest is one level below it.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The cargo that runs this task, so that a toolchain override holds for what it starts.
fn cargo() -> std::process::Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.current_dir(root());
    command
}
