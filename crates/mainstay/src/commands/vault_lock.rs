use super::common::named_or_all;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::count;
use model::ServiceName;
use operations::ServiceSite;
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  mainstay vault lock
  mainstay vault lock shop --json";

/// Lock the history in a bucket again, for the whole time from now on.
///
/// The lock of an object ends `object-lock-days` after it was written, also if newer points still
/// use it. Run this more often than that, from a timer. It makes one request for each object.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LockArgs {
    /// The services [default: all of this host].
    #[arg(value_name = "SERVICE")]
    services: Vec<ServiceName>,
}

pub(crate) fn run(app: &App, args: &LockArgs) -> Outcome {
    let site = app.site()?;
    let names = named_or_all(app, &site, &args.services)?;
    if site.config().vault.s3.as_ref().is_none_or(|s3| s3.object_lock.is_none()) {
        return Err(Failure::invalid("nothing in this vault is locked").hint(
            "Set `object-lock` in [vault.s3] of a vault in a bucket that was made with locks.",
        ));
    }
    app.each(&names, |service| one(app, service))
}

fn one(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let locked = service.storage()?.lock_again("")?.unwrap_or(0);
    if locked == 0 {
        // No repository has nothing to lock; said so, it must not look like protection.
        let failure = Failure::new(model::Class::NoRepository, "there is nothing to lock");
        return Err(failure.hint("Run `mainstay init` and `mainstay backup` first."));
    }
    if !app.out.json {
        let objects = count(locked, "object", "objects");
        app.out.say(format_args!("{}: {objects} locked again", service.name()))?;
    }
    Ok((Exit::DONE, json!({ "locked": locked })))
}
