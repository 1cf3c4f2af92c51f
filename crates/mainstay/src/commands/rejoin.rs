use super::refresh::told;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::ask;
use model::{Class, ServiceName};
use operations::rejoin::{self, Params};

/// Make a primary that was taken over a standby of the new one.
///
/// What it has beyond the point at which it was taken over is given up. A PostgreSQL server with
/// `stream-from` is rewound, so that only what differs travels; where that cannot be, the old copy is
/// put aside and not removed.
#[derive(Debug, clap::Args)]
pub(crate) struct RejoinArgs {
    /// The service.
    service: ServiceName,

    /// Put the old copy aside and build a new one, even if it could be rewound.
    #[arg(long)]
    reseed: bool,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(app: &App, args: &RejoinArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let name = &args.service;
    if !args.yes && app.out.can_ask() {
        let question = format!(
            "What {} wrote to {name} after it was last backed up is given up. Go on?",
            service.member()
        );
        if !ask::yes(&question, app.cancel())? {
            return Err(Failure::new(Class::Cancelled, "nothing was done"));
        }
    }
    let done = rejoin::run(&service, &Params { reseed: args.reseed }, &app.run())?;
    if app.out.json {
        app.out.document(&done)?;
        return Ok(Exit::DONE);
    }
    app.out.say(format_args!(
        "{name}: a standby again, at generation {}; {}",
        done.generation,
        told(&done.refreshed, false)
    ))?;
    if done.rewound {
        app.out.say("  Its old copy was rewound.")?;
    }
    for aside in &done.put_aside {
        app.out.say(format_args!("  its old copy: {}", aside.display()))?;
    }
    Ok(Exit::DONE)
}
