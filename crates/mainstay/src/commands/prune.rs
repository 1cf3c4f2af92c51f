use super::common::Services;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::count;
use crate::units;
use operations::ServiceSite;
use operations::prune::{self, Pruned};
use repository::prune::{MaxUnused, Options};

const EXAMPLES: &str = "\
Examples:
  mainstay prune shop --dry-run              what would be freed
  mainstay prune --all
  mainstay prune shop --max-unused 0%        leave nothing that is of no use
  mainstay prune shop --max-repack-size 5GiB write no more than so much anew";

/// Free the space of what no recovery point needs any more.
///
/// It needs the repository for itself. Whatever it is killed in, every point stays whole, and the
/// next run goes on. On a disk that is nearly full it frees first what needs no space, and on one that is
/// full it begins with what the vault has kept back.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    services: Services,

    /// Say what would be freed, and do nothing.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    limits: Limits,
}

/// How far a prune goes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Limits {
    /// How much may stay that nothing needs: `5%` of what is stored, a size, or `unlimited`.
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    max_unused: MaxUnused,

    /// Write packs of no more than this size in all anew.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    max_repack_size: Option<u64>,

    /// Put packs together that are much smaller than others.
    #[arg(long)]
    repack_small: bool,
}

impl Limits {
    /// As the repository knows them.
    pub(crate) fn options(&self) -> Options {
        Options {
            max_unused: self.max_unused,
            max_repack_bytes: self.max_repack_size,
            repack_small: self.repack_small,
        }
    }
}

pub(crate) fn run(app: &App, args: &PruneArgs) -> Outcome {
    let names = args.services.of(app)?;
    app.each(&names, |service| {
        let options = args.limits.options();
        let pruned = match args.dry_run {
            true => prune::plan(service, &options, &app.run())?,
            false => prune::run(service, &options, &app.run())?,
        };
        if !app.out.json {
            tell(app, service, &pruned, args.dry_run)?;
        }
        let exit = if pruned.damaged.is_empty() { Exit::DONE } else { Exit::NOT_WELL };
        Ok((exit, serde_json::to_value(&pruned).unwrap_or_default()))
    })
}

/// Says what was freed.
pub(crate) fn tell(
    app: &App,
    service: &ServiceSite,
    pruned: &Pruned,
    planned: bool,
) -> Result<(), Failure> {
    let out = &app.out;
    let packs = |n: u64| count(n, "pack", "packs");
    out.say(format_args!(
        "{}: {} of {} {}: {} removed, {} written anew ({} copied)",
        service.name(),
        units::size(pruned.freed_bytes),
        units::size(pruned.stored_bytes),
        if planned { "would be freed" } else { "freed" },
        packs(pruned.removed_packs + pruned.unreferenced_packs),
        packs(pruned.repacked_packs),
        units::size(pruned.copied_bytes),
    ))?;
    if pruned.log_files > 0 {
        let files = count(pruned.log_files, "file of the log", "files of the log");
        out.say(format_args!("  {files}, older than every point"))?;
    }
    if pruned.left_unused_bytes > 0 {
        let left = units::size(pruned.left_unused_bytes);
        out.say(format_args!("  {left} of no use stay, within the limit of --max-unused"))?;
    }
    for damage in &pruned.damaged {
        out.line(format_args!("  {} {damage}", out.paint.bad("damaged:")))?;
    }
    Ok(())
}
