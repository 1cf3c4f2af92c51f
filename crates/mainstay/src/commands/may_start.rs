use crate::app::App;
use crate::failure::{Exit, Outcome};
use model::ServiceName;
use operations::may_start;

/// Say whether this host's member may serve: the start gate.
///
/// Exit code 0: it may. 1: it must not, and why on one line. It stands before the service's own
/// start, in a systemd unit as `ExecCondition=+/usr/local/bin/mainstay may-start SERVICE`: any
/// exit code from 1 to 254 makes systemd skip the start without calling it a failure. The `+` lets it read
/// what only root may, whoever the service runs as.
#[derive(Debug, clap::Args)]
pub(crate) struct MayStartArgs {
    /// The service.
    service: ServiceName,

    /// Exit with 255, and not with 1, where the vault could not be asked and the answer is no: for systemd the
    /// start has failed then, and `Restart=on-failure` tries it again.
    #[arg(long)]
    fail_when_unreachable: bool,
}

/// What systemd takes for a failure of `ExecCondition=`, and not for a no.
const UNHEARD: Exit = Exit(255);

pub(crate) fn run(app: &App, args: &MayStartArgs) -> Outcome {
    let answer = app.service(&args.service).and_then(|service| Ok(may_start::ask(&service)?));
    let (allowed, why, unheard) = match answer {
        Ok(answer) => (answer.allowed, answer.why, answer.unheard),
        // Whoever cannot be asked has not allowed it.
        Err(failure) => (false, failure.one_line(), false),
    };
    if app.out.json {
        let service = &args.service;
        app.out
            .document(&serde_json::json!({ "service": service, "allowed": allowed, "why": why }))?;
    } else if allowed {
        app.out.say(format_args!("{} may start: {why}", args.service))?;
    } else {
        // Even with --quiet: a service that does not start must say why.
        app.out.complain(format_args!("{} must not start: {why}", args.service));
    }
    Ok(match allowed {
        true => Exit::DONE,
        false if unheard && args.fail_when_unreachable => UNHEARD,
        false => Exit::NOT_WELL,
    })
}
