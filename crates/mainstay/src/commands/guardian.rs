use crate::app::App;
use crate::failure::{Exit, Outcome};
use crate::signals;
use model::{OperationId, ServiceName};
use operations::Run;

/// Wait for the end of an operation, and clean up if it died. Started by operations themselves.
#[derive(Debug, clap::Args)]
pub(crate) struct GuardianArgs {
    service: ServiceName,
    operation: OperationId,
}

pub(crate) fn run(app: &App, args: &GuardianArgs) -> Outcome {
    // Without a warning of other sections: whoever began this has told it.
    let service = app.site()?.service(&args.service)?;
    // Not `app.run()`, whose token a signal sets: whoever ends a session or a unit asks everybody to end,
    // and this is what brings a service back after that. It ends by itself, by SIGKILL, or with its host, after
    // which `recover` takes its place.
    signals::ignore_until_the_host_ends()?;
    let run = Run { progress: app.progress(), ..Run::default() };
    operations::guardian::guard(&service, &args.operation, &run)?;
    Ok(Exit::DONE)
}
