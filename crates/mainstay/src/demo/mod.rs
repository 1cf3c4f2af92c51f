//! `mainstay demo`: the product, watched once. A live shop, a standby, a loss, a takeover, and an
//! old primary that comes back, with the real commands as real processes, in a temporary directory.

mod host;
mod judge;
mod ledger;
mod narrator;
mod processes;
mod shop;
mod stage;
mod story;
mod writer;

pub(crate) use writer::WriterArgs;

use crate::app::App;
use crate::failure::Outcome;

/// Watch a shop lose its host and go on: backup, standby, takeover, in a minute.
///
/// Two hosts are two directories below the temporary directory, with a configuration each and one
/// vault between them. Every command that is shown is really run. At the end everything that was
/// promised is counted; the exit code is 0 only if all of it held.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// What keeps the shop's data.
    #[arg(long, value_enum, default_value_t)]
    engine: shop::Kind,
    /// Leave the directories there, to be looked at.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo.
pub(crate) fn run(app: &App, args: &DemoArgs) -> Outcome {
    story::tell(app, args.engine, args.keep)
}

/// Runs the demo's shop.
pub(crate) fn run_writer(app: &App, args: &WriterArgs) -> Outcome {
    writer::run(app, args)
}
