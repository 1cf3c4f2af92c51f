use crate::app::App;
use crate::cli::Cli;
use crate::failure::{Exit, Failure, Outcome};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;

/// Print the completions of a shell.
///
/// For bash: mainstay completions bash > /usr/share/bash-completion/completions/mainstay
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(app: &App, args: &CompletionsArgs) -> Outcome {
    // The generator panics if it cannot write; into memory it always can.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mainstay", &mut script);
    app.out.bytes().write_all(&script).map_err(|e| Failure::output(&e))?;
    Ok(Exit::DONE)
}
