use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use model::{Class, OperationId, ServiceName};
use operations::cancel::{self, Answer};
use operations::{ServiceSite, history, recover};
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

    /// End its process, if it is not over after --wait (10 seconds without it). What it leaves is
    /// cleaned up at once: where it had stopped the service, the service is started again.
    #[arg(long)]
    kill: bool,
}

/// How long an operation may take to stop by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let patience = app.globals.wait.or(args.kill.then_some(PATIENCE));
    if let (Some(operation), Some(patience)) = (operation, patience) {
        match wait(app, &service, operation, patience) {
            Err(failure) if args.kill && failure.class() == Class::Locked => {
                kill(app, &service)?;
            }
            waited => waited?,
        }
        app.out.say("it is over")?;
    }
    if app.out.json {
        app.out.document(&answer)?;
    }
    Ok(Exit::DONE)
}

fn kill(app: &App, service: &ServiceSite) -> Result<(), Failure> {
    let Some(killed) = cancel::kill(service)? else { return Ok(()) };
    app.out.say(format_args!("{killed} did not stop and was killed"))?;
    for line in recover::sweep(service, &app.run())? {
        app.out.say(line)?;
    }
    Ok(())
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
