use crate::app::App;
use crate::failure::{Exit, Outcome};
use model::{Role, ServiceName};
use operations::offline;

/// Bring this host's member back into service.
#[derive(Debug, clap::Args)]
pub(crate) struct OnlineArgs {
    /// The service.
    service: ServiceName,
}

pub(crate) fn run(app: &App, args: &OnlineArgs) -> Outcome {
    let done = offline::online(&app.service(&args.service)?, &app.run())?;
    if app.out.json {
        app.out.document(&done)?;
        return Ok(Exit::DONE);
    }
    let name = &args.service;
    app.out.say(match (done.role, done.running) {
        (Role::Primary, true) => format!("{name}: online, and it runs"),
        (Role::Primary, false) => format!("{name}: online; start it, nobody said how"),
        (_, true) => format!("{name}: online again as a standby, and follows"),
        (_, false) => format!("{name}: online again as a standby"),
    })?;
    Ok(Exit::DONE)
}
