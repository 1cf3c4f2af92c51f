//! One file per command: its words, and what it does with them.

mod completions;
mod config;
mod man;

use crate::app::App;
use crate::failure::Outcome;

/// What can be asked for.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
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
            Command::Config(args) => config::run(app, args),
            Command::Completions(args) => completions::run(app, args),
            Command::Man(args) => man::run(app, args),
            Command::Demo(args) => crate::demo::run(app, args),
            Command::DemoWriter(args) => crate::demo::run_writer(app, args),
        }
    }
}
