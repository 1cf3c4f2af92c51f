use crate::app::App;
use crate::failure::{Exit, Outcome};
use model::{Role, ServiceName};
use operations::offline;

/// Take this host's member out of service.
///
/// A primary stops, captures one last point after the stop, and says so in the vault: a planned
/// takeover then loses nothing. The start gate stays shut until `mainstay online`.
#[derive(Debug, clap::Args)]
pub(crate) struct OfflineArgs {
    /// The service.
    service: ServiceName,
}

pub(crate) fn run(app: &App, args: &OfflineArgs) -> Outcome {
    let done = offline::run(&app.service(&args.service)?, &app.run())?;
    if app.out.json {
        app.out.document(&done)?;
        return Ok(Exit::DONE);
    }
    let name = &args.service;
    app.out.say(match (done.role, done.last_point) {
        (Role::Primary, Some(point)) => {
            format!(
                "{name}: offline; its last point, captured after {}, is {}",
                if done.unguarded { "that" } else { "the stop" },
                point.short()
            )
        }
        (Role::Primary, None) => format!("{name}: offline; its log is in the vault to the end"),
        _ => format!("{name}: offline"),
    })?;
    if done.role == Role::Primary && done.unguarded {
        app.out.say(
            "  Nothing was stopped: nobody said how. Keep its writers away; what they write from now \
             on is in no point.",
        )?;
    }
    app.out.say(format_args!("  `mainstay online {name}` brings it back."))?;
    Ok(Exit::DONE)
}
