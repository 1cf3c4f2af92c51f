//! One file per command: its words, and what it does with them.

mod check;
mod common;
mod completions;
mod config;
mod dump;
mod init;
mod ls;
mod man;
mod rescue;
mod snapshots;

use crate::app::App;
use crate::failure::Outcome;

/// What can be asked for.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Init(init::InitArgs),
    Snapshots(snapshots::SnapshotsArgs),
    Ls(ls::LsArgs),
    Dump(dump::DumpArgs),
    Check(check::CheckArgs),
    Rescue(rescue::RescueArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    Demo(crate::demo::DemoArgs),
    #[command(hide = true)]
    DemoWriter(crate::demo::WriterArgs),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self, app: &App) -> Outcome {
        match self {
            Command::Init(args) => init::run(app, args),
            Command::Snapshots(args) => snapshots::run(app, args),
            Command::Ls(args) => ls::run(app, args),
            Command::Dump(args) => dump::run(app, args),
            Command::Check(args) => check::run(app, args),
            Command::Rescue(args) => rescue::run(app, args),
            Command::Config(args) => config::run(app, args),
            Command::Completions(args) => completions::run(app, args),
            Command::Man(args) => man::run(app, args),
            Command::Demo(args) => crate::demo::run(app, args),
            Command::DemoWriter(args) => crate::demo::run_writer(app, args),
        }
    }
}
