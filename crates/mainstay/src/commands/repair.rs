use super::common::Services;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::ask;
use operations::ServiceSite;
use operations::repair::{self, Done, Params, Part};

const EXAMPLES: &str = "\
Examples:
  mainstay check shop --read-data            what is damaged
  mainstay repair all shop --dry-run         what could be done about it
  mainstay repair all shop
  mainstay repair snapshots shop --forget    give up what cannot be restored whole";

/// Repair a damaged repository, as far as that goes.
///
/// `index` makes the index from the packs. `packs` saves what is whole in damaged packs. `snapshots`
/// stores what is left of damaged snapshots as new ones, without the files that lack bytes; with
/// --forget the damaged ones, and points whose snapshot is gone, leave the history. `all` is all
/// three. Nothing that can be restored is lost by it; take a copy of the vault first all the same.
/// The next backup of a service that still has its data brings lost bytes back.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RepairArgs {
    /// What is repaired.
    #[arg(value_enum)]
    part: PartWord,

    #[command(flatten)]
    services: Services,

    /// Give up snapshots that cannot be restored whole, and points without a snapshot. Asks first.
    #[arg(long)]
    forget: bool,

    /// Do not ask.
    #[arg(long, short, requires = "forget")]
    yes: bool,

    /// Ask every pack what is in it, and not only those that the index has doubts about.
    #[arg(long)]
    read_all_packs: bool,

    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PartWord {
    Index,
    Packs,
    Snapshots,
    All,
}

/// Make the index anew from what is in the packs. The same as `repair index`.
#[derive(Debug, clap::Args)]
pub(crate) struct RebuildIndexArgs {
    #[command(flatten)]
    services: Services,

    /// Ask every pack what is in it, and not only those that the index has doubts about.
    #[arg(long)]
    read_all_packs: bool,

    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(app: &App, args: &RepairArgs) -> Outcome {
    let part = match args.part {
        PartWord::Index => Part::Index,
        PartWord::Packs => Part::Packs,
        PartWord::Snapshots => Part::Snapshots,
        PartWord::All => Part::All,
    };
    let params = Params {
        part,
        read_all_packs: args.read_all_packs,
        forget: args.forget,
        dry_run: args.dry_run,
    };
    if params.forget && !params.dry_run && !args.yes {
        confirm(app)?;
    }
    perform(app, &args.services, &params)
}

/// The command `rebuild-index`.
pub(crate) fn run_rebuild_index(app: &App, args: &RebuildIndexArgs) -> Outcome {
    let params = Params {
        part: Part::Index,
        read_all_packs: args.read_all_packs,
        forget: false,
        dry_run: args.dry_run,
    };
    perform(app, &args.services, &params)
}

fn confirm(app: &App) -> Result<(), Failure> {
    if !app.out.can_ask() {
        return Err(Failure::refused(
            "to give points up has to be confirmed, and there is no terminal",
        )
        .hint("Look at it with `--dry-run`, then add `--yes`."));
    }
    if ask::yes("Give up what cannot be restored whole?", app.cancel())? {
        return Ok(());
    }
    Err(Failure::new(model::Class::Cancelled, "nothing was done"))
}

fn perform(app: &App, services: &Services, params: &Params) -> Outcome {
    let names = services.of(app)?;
    app.each(&names, |service| {
        let done = repair::run(service, params, &app.run())?;
        if !app.out.json {
            tell(app, service, params, &done)?;
        }
        // What is lost is not well, whatever was repaired.
        let exit = if done.lost.is_empty() { Exit::DONE } else { Exit::NOT_WELL };
        Ok((exit, serde_json::to_value(&done).unwrap_or_default()))
    })
}

fn tell(app: &App, service: &ServiceSite, params: &Params, done: &Done) -> Result<(), Failure> {
    let out = &app.out;
    if done.is_nothing() {
        return out.say(format_args!("{}: nothing to repair", service.name()));
    }
    let heading = if params.dry_run { "would be repaired" } else { "repaired" };
    out.say(format_args!("{}: {heading}", service.name()))?;
    for line in &done.done {
        out.say(format_args!("  {line}"))?;
    }
    for line in &done.lost {
        out.line(format_args!("  {} {line}", out.paint.bad("lost:")))?;
    }
    for name in &done.given_up {
        out.say(format_args!("  given up: {name}"))?;
    }
    let left = !done.damaged_snapshots.is_empty() && !params.forget && !params.dry_run;
    if left {
        out.say(
            "  The damaged snapshots are still there: `mainstay restore --partial` takes what is\n  \
             whole out of them, `mainstay repair snapshots --forget` gives them up.",
        )?;
    }
    Ok(())
}
