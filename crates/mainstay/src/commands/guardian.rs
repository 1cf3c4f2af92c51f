use crate::app::App;
use crate::failure::{Exit, Outcome};
use model::{OperationId, ServiceName};

/// Wait for the end of an operation, and clean up if it died. Started by operations themselves.
#[derive(Debug, clap::Args)]
pub(crate) struct GuardianArgs {
    service: ServiceName,
    operation: OperationId,
}

pub(crate) fn run(app: &App, args: &GuardianArgs) -> Outcome {
    let service = app.service(&args.service)?;
    operations::guardian::guard(&service, &args.operation, &app.run())?;
    Ok(Exit::DONE)
}
