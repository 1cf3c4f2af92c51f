use super::common::Services;
use crate::app::App;
use crate::failure::{Exit, Outcome};
use operations::migrate;

const EXAMPLES: &str = "\
Examples:
  mainstay migrate shop --dry-run
  mainstay migrate --all";

/// Raise a repository to the newest version of its format, where it stands.
///
/// restic before 0.14 made format 1, which knows no compression. What is there stays as it is and
/// readable; what is added from then on is compressed. Programs that know only format 1 cannot read
/// it any more.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    services: Services,

    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(app: &App, args: &MigrateArgs) -> Outcome {
    let names = args.services.of(app)?;
    app.each(&names, |service| {
        let done = migrate::run(service, args.dry_run, &app.run())?;
        let (name, from, to) = (service.name(), done.from, done.to);
        let told = match (from == to, args.dry_run) {
            (true, _) => format!("{name}: format {to} already"),
            (false, true) => format!("{name}: format {from} would become format {to}"),
            (false, false) => format!("{name}: format {from} has become format {to}"),
        };
        app.out.say(told)?;
        Ok((Exit::DONE, serde_json::to_value(&done).unwrap_or_default()))
    })
}
