use crate::app::App;
use crate::config::{self, place};
use crate::failure::{Exit, Failure, Outcome};
use crate::files::{self, Existing};
use crate::init::make::{self, Did, Made, Options, Recovery};
use crate::init::{discover, propose, timer};
use crate::ui::{ask, init as ui};
use model::Class;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Set this host up: make what the configuration names, or propose a configuration.
///
/// With a configuration in place it asks nothing: it makes what is missing (password file, vault,
/// repositories, membership) and leaves what is there.
///
/// Without one it looks for PostgreSQL servers and SQLite databases, proposes a configuration, and
/// writes it after asking.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Without a configuration: look for databases here instead of in the usual places. A directory
    /// without one becomes a service of engine `files`.
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,

    /// Write the proposed configuration without asking.
    #[arg(short, long)]
    yes: bool,

    /// Print the proposed configuration and do nothing else.
    #[arg(long, conflicts_with_all = ["yes", "dry_run"])]
    print: bool,

    /// Say what is missing, and make nothing.
    #[arg(long)]
    dry_run: bool,

    /// Name of this host in the proposal, instead of its own.
    #[arg(long)]
    name: Option<String>,

    /// Vault in the proposal: a directory, or a bucket as `s3://BUCKET/PREFIX`.
    #[arg(long, value_name = "PLACE")]
    vault: Option<String>,

    /// State directory in the proposal.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Add a new recovery key to every repository, not only to those made now.
    #[arg(long)]
    new_recovery_key: bool,

    /// Make no recovery key.
    #[arg(long, conflicts_with = "new_recovery_key")]
    no_recovery_key: bool,

    /// Install the systemd timer that runs what is due (`mainstay run-due`) every minute.
    #[arg(long)]
    install_timer: bool,

    /// Write the timer's units here, and do not start it.
    #[arg(long, value_name = "DIR", requires = "install_timer")]
    unit_dir: Option<PathBuf>,
}

pub(crate) fn run(app: &App, args: &InitArgs) -> Outcome {
    let file = app.config_file()?;
    if args.print {
        return show(app, &file, &proposal(args, &file)?).map(|()| Exit::DONE);
    }
    let wrote = !file.exists() && propose(app, args, &file)?;
    if !file.exists() {
        return Ok(Exit::DONE);
    }
    if !wrote && !args.dirs.is_empty() {
        return Err(Failure::invalid(format!("there is a configuration: {}", file.display()))
            .hint("Add the service to it, then run `mainstay init`; `--print` shows a proposal."));
    }
    let site = app.whole_site()?;
    let recovery = match (args.new_recovery_key, args.no_recovery_key) {
        (true, _) => Recovery::All,
        (_, true) => Recovery::None,
        _ => Recovery::New,
    };
    let made = make::make(app, &site, Options { dry_run: args.dry_run, recovery })?;
    // The recovery key is shown whatever becomes of the timer: it is never shown again.
    let units = if args.install_timer { install(app, args, &file) } else { Ok(Vec::new()) };
    let written = units.as_deref().unwrap_or_default();
    ui::tell(app, &made, wrote.then_some(file.as_path()), written)?;
    units?;
    if wrote && !args.yes && !args.install_timer && timer::is_wanted(app)? {
        install(app, args, &file)?;
    }
    if made.steps.iter().any(|step| step.did == Did::Made) && made.failures.is_empty() {
        app.out.say(ui::next(&made))?;
    }
    fail_if_any(made)
}

/// Proposes a configuration and writes it, if it is wanted.
fn propose(app: &App, args: &InitArgs, file: &Path) -> Result<bool, Failure> {
    let text = proposal(args, file)?;
    config::parse(&text, file)?;
    if args.dry_run {
        show(app, file, &text)?;
        return Ok(false);
    }
    if !args.yes {
        if !app.out.can_ask() {
            return Err(place::missing(file).hint(
                "Run `mainstay init --print` to see a proposal, or with `--yes` to write it.",
            ));
        }
        app.out.text(&text)?;
        if !ask::yes(&format!("\nWrite this to {}?", file.display()), app.cancel())? {
            return Err(Failure::new(Class::Cancelled, "nothing was written"));
        }
    }
    files::write(file, text.as_bytes(), 0o644, Existing::Keep)?;
    Ok(true)
}

/// Shows a proposal.
fn show(app: &App, file: &Path, text: &str) -> Result<(), Failure> {
    match app.out.json {
        true => app.out.document(&json!({ "file": file, "proposed-configuration": text })),
        false => app.out.text(text),
    }
}

fn proposal(args: &InitArgs, file: &Path) -> Result<String, Failure> {
    let whole = |path: &Path| {
        std::path::absolute(path).map_err(|e| Failure::io("find", path.display(), &e))
    };
    let mut dirs = Vec::new();
    for dir in &args.dirs {
        if !dir.is_dir() {
            return Err(Failure::invalid(format!("{} is not a directory", dir.display())));
        }
        dirs.push(dir.canonicalize().map_err(|e| Failure::io("find", dir.display(), &e))?);
    }
    let defaults = place::Defaults::of_this_user();
    let vault = match &args.vault {
        Some(url) => match model::config::vault_dir(url) {
            Some(dir) => whole(dir)?.display().to_string(),
            None => url.clone(),
        },
        None => defaults.vault.display().to_string(),
    };
    let host = args.name.clone().unwrap_or_else(place::host_name);
    let found = discover::discover(&dirs);
    let proposal = propose::Proposal {
        host: &host,
        state_dir: &whole(args.state_dir.as_deref().unwrap_or(&defaults.state_dir))?,
        vault: &vault,
        password_file: file.with_file_name("vault.password"),
        found: &found,
    };
    Ok(proposal.text())
}

fn install(app: &App, args: &InitArgs, config: &Path) -> Result<Vec<PathBuf>, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::io("find", "this program", &e))?;
    let own = args.unit_dir.as_deref();
    let dir = own.unwrap_or(Path::new(timer::SYSTEM_UNITS));
    let loaded = app.load_config()?;
    let services: Vec<timer::Of<'_>> = loaded
        .config
        .service
        .values()
        .filter_map(|service| {
            let lies = matches!(service.engine.as_str(), "files" | "sqlite");
            Some(timer::Of { unit: service.unit.as_deref()?, lies })
        })
        .collect();
    let written = timer::write(dir, &program, config, &services, args.dry_run)?;
    if own.is_none() && !args.dry_run {
        timer::enable()?;
        app.out.say("The timer runs; `systemctl list-timers mainstay.timer` shows it.")?;
    }
    // Of PostgreSQL, which has `archive_command` as well, the guide says what is to be decided.
    let logs = loaded.config.service.iter().filter(|(_, service)| service.engine == "sqlite");
    for (name, _) in logs {
        let unit = timer::log_unit(name);
        if own.is_none() && !args.dry_run && timer::log_is_wanted(app, name)? {
            timer::start(&unit)?;
            app.out.say(format_args!("{unit} ships the log of {name}."))?;
        } else {
            app.out.say(format_args!(
                "`systemctl enable --now {unit}` ships the log of {name} as it is written."
            ))?;
        }
    }
    Ok(written)
}

/// Tells the first failure; the others in its list.
fn fail_if_any(mut made: Made) -> Outcome {
    if made.failures.len() == 1 {
        let (_, failure) = made.failures.remove(0);
        return Err(failure);
    }
    let Some((_, first)) = made.failures.first() else { return Ok(Exit::DONE) };
    let lines =
        made.failures.iter().map(|(name, failure)| format!("{name}: {}", failure.one_line()));
    let mut failure = Failure::new(
        first.class(),
        format!("{} services could not be set up", made.failures.len()),
    )
    .listing(lines.collect());
    if let Some(hint) = first.the_hint() {
        failure = failure.hint(hint);
    }
    Err(failure)
}
