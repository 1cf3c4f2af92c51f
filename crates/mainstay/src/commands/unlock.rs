use super::common::named_or_all;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::ask;
use crate::ui::words::{count, shown};
use model::{Class, ServiceName};
use operations::ServiceSite;
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  mainstay unlock shop
  mainstay unlock shop --remove-all          also locks of holders that may live";

/// Remove locks of a repository whose holders are gone.
///
/// A holder is gone if it was a process of this host that has ended, or if it has not refreshed its
/// lock for half an hour. Locks of restic count as well as our own. A lock file whose bytes are no
/// lock is removed too: other commands stop at it, since it may be anybody's. With --remove-all every
/// lock goes, after asking: only if you know that nobody works there.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UnlockArgs {
    /// The services [default: all of this host].
    #[arg(value_name = "SERVICE")]
    services: Vec<ServiceName>,

    /// Remove every lock, whoever holds it.
    #[arg(long)]
    remove_all: bool,

    /// Do not ask before every lock is removed.
    #[arg(long, short, requires = "remove_all")]
    yes: bool,
}

pub(crate) fn run(app: &App, args: &UnlockArgs) -> Outcome {
    let names = named_or_all(app, &app.site()?, &args.services)?;
    app.each(&names, |service| one(app, args, service))
}

fn one(app: &App, args: &UnlockArgs, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let repository = service.repository()?;
    let before = repository.locks()?;
    let living: Vec<&str> =
        before.iter().filter(|lock| !lock.stale).map(|lock| lock.holder.as_str()).collect();
    if args.remove_all && !args.yes && !living.is_empty() {
        confirm(app, service, &living)?;
    }
    let removed = repository.unlock(args.remove_all)?;
    let left = if args.remove_all { Vec::new() } else { living };
    if !app.out.json {
        let locks = count(removed.len() as u64, "lock", "locks");
        app.out.say(format_args!("{}: {locks} removed", service.name()))?;
        for holder in &removed {
            app.out.say(format_args!("  {}", shown(holder)))?;
        }
        for holder in &left {
            app.out.say(format_args!("  stays, its holder may live: {}", shown(holder)))?;
        }
    }
    Ok((Exit::DONE, json!({ "removed": removed, "left": left })))
}

fn confirm(app: &App, service: &ServiceSite, living: &[&str]) -> Result<(), Failure> {
    let holders = living.join("; ");
    if !app.out.can_ask() {
        let what = format!("{} is locked by holders that may live: {holders}", service.name());
        return Err(Failure::refused(what).hint("Make sure that they are gone, then add `--yes`."));
    }
    let question = format!("Held {}. Remove all the same?", shown(&holders));
    if ask::yes(&question, app.cancel())? {
        return Ok(());
    }
    Err(Failure::new(Class::Cancelled, "nothing was done"))
}
