use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use model::{Class, OperationId, ServiceName};
use operations::cancel::{self, Answer};
use operations::{ServiceSite, history};
use std::time::{Duration, Instant};

/// How often the operation is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Stop what runs on this host's member of a service.
///
/// The operation cleans up by itself; past its commit marker it goes on to its end. With --wait
/// this command returns when the operation is over.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// The service.
    service: ServiceName,
}

pub(crate) fn run(app: &App, args: &CancelArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let answer = cancel::request(&service)?;
    let (said, operation) = match &answer {
        Answer::Asked { operation } => (format!("{operation} was asked to stop"), Some(operation)),
        Answer::AskedBefore { operation } => {
            (format!("{operation} was asked to stop before"), Some(operation))
        }
        Answer::Idle => (format!("nothing runs on {}", args.service), None),
    };
    app.out.say(said)?;
    if let (Some(operation), Some(patience)) = (operation, app.globals.wait) {
        wait(app, &service, operation, patience)?;
        app.out.say("it is over")?;
    }
    if app.out.json {
        app.out.document(&answer)?;
    }
    Ok(Exit::DONE)
}

fn wait(
    app: &App,
    service: &ServiceSite,
    id: &OperationId,
    patience: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    while history::list(service)?.iter().any(|one| one.id == *id && one.running) {
        if app.cancel().is_cancelled() {
            return Err(Failure::new(Class::Cancelled, "no longer waiting for it"));
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(Class::Locked, format!("{id} has not stopped yet"))
                .hint(format!("Read `mainstay logs {} {id}`.", service.name())));
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}
