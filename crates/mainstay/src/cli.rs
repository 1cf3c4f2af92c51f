//! The command line's shape, and the way from its words to an exit code.

use crate::app::App;
use crate::commands::Command;
use crate::commands::wal::COULD_NOT_ASK;
use crate::failure::{BUG, Exit, Failure, panic_hook};
use crate::ui::color::Color;
use crate::ui::out::Out;
use crate::{units, worker};
use clap::{CommandFactory, FromArgMatches, Parser};
use engines::postgres::asks_again;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 a bug, 3 done but something could not be read,
10 no repository, 11 locked, 12 wrong password, 130 cancelled.";

/// Keeps a service standing: backup, history, warm standbys and takeover.
#[derive(Debug, Parser)]
#[command(name = "mainstay", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
#[command(max_term_width = 100, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command has.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Configuration file [default: /etc/mainstay/mainstay.toml, else the user's own].
    #[arg(long, global = true, value_name = "FILE", env = "MAINSTAY_CONFIG")]
    #[arg(hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,

    /// Print the result as one JSON document on standard output, errors as JSON on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say nothing unless something is wrong.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Say more; twice for details.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Colours. `auto`, the default: on a terminal, and not if NO_COLOR is set.
    #[arg(long, global = true, value_enum, value_name = "auto|always|never")]
    #[arg(default_value = "auto", hide_possible_values = true, hide_default_value = true)]
    pub(crate) color: Color,

    /// How long to wait for another operation on the same service to end, e.g. `30s` or `5m`.
    #[arg(long, global = true, value_name = "DURATION", value_parser = units::parse_duration)]
    pub(crate) wait: Option<Duration>,
}

/// The whole program, from its words to its exit code.
pub(crate) fn main() -> u8 {
    panic_hook();
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let is_worker = worker::become_one(&mut words);
    let parsed = definition(&words)
        .try_get_matches_from(&words)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return failed_as(&words, usage(&words, &error)),
    };
    let out = Out::new(&cli.globals);
    if cli.command.needs_worker() && !is_worker {
        return worker::attend(&words).unwrap_or_else(|failure| failure.report(&out).0);
    }
    let app = App::new(cli.globals, out.clone());
    let outcome = cli.command.run(&app).and_then(|exit| {
        app.out.finish()?;
        Ok(exit)
    });
    match outcome {
        Ok(exit) => exit.0,
        Err(failure) => failed_as(&words, failure.report(&out).0),
    }
}

/// The exit code of a panic.
pub(crate) fn bug() -> u8 {
    let words: Vec<OsString> = std::env::args_os().collect();
    failed_as(&words, BUG)
}

/// The exit code of a failure. To PostgreSQL up to 125 is an answer (the log ends here), so a fetch
/// that fails in whatever way, wrong words included, says more than that. Not to a standby, which would
/// end, and for which no answer is not the end.
fn failed_as(words: &[OsString], code: u8) -> u8 {
    let fetches = words.windows(2).any(|pair| pair[0] == "wal" && pair[1] == "fetch");
    match code {
        0 => 0,
        // A server calls this in its data directory.
        _ if fetches && asks_again(Path::new(".")) => Exit::NOT_WELL.0,
        _ if fetches => COULD_NOT_ASK.0,
        code => code,
    }
}

/// The command line as clap knows it. Help is printed before `--color` is parsed, so the words are
/// looked through for it.
fn definition(words: &[OsString]) -> clap::Command {
    let choice = match Color::among(words) {
        Color::Auto => clap::ColorChoice::Auto,
        Color::Always => clap::ColorChoice::Always,
        Color::Never => clap::ColorChoice::Never,
    };
    Cli::command().color(choice)
}

/// Help and version are what was asked for; everything else is a mistake in the words.
fn usage(words: &[OsString], error: &clap::Error) -> u8 {
    use clap::error::ErrorKind;
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if error.kind() == ErrorKind::MissingSubcommand && words.len() == 1 {
        let _ = definition(words).print_help();
        return 1;
    }
    let json = words.iter().any(|word| word == "--json");
    if json && !asked {
        let text = error.render().to_string();
        // What is wrong may be a list, and ends where it is said how the command is used.
        let lines = text.lines().map(str::trim);
        let wrong = lines.take_while(|line| !line.starts_with("Usage:"));
        let wrong: Vec<&str> = wrong.filter(|line| !line.is_empty()).collect();
        let message = wrong.join(" ");
        let message = message.trim_start_matches("error: ").to_owned();
        return Failure::invalid(message)
            .hint("Run the command with `--help`.")
            .report(&Out::json())
            .0;
    }
    // A closed pipe is no reason to complain about.
    let _ = error.print();
    if asked { 0 } else { 1 }
}
