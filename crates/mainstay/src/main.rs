//! The `mainstay` command: reads the command line, runs one command, and says how it went.
//!
//! One file per command below `commands/`; everything that a terminal sees goes through `ui/`.

mod app;
mod candidate;
mod cli;
mod commands;
mod config;
mod copies;
mod crew;
mod demo;
mod doctor;
mod due;
mod failure;
mod files;
mod init;
mod memory;
mod mount;
mod promises;
mod provision;
mod rescue;
mod signals;
mod status;
mod teller;
mod turns;
mod ui;
mod units;
mod upkeep;
mod watch;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    memory::arrange();
    let code = std::panic::catch_unwind(cli::main).unwrap_or_else(|_| cli::bug());
    ExitCode::from(code)
}
