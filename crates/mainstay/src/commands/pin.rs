use crate::app::App;
use crate::failure::{Exit, Outcome};
use model::ServiceName;
use operations::{Which, points};
use serde_json::json;

/// Which points.
#[derive(Debug, clap::Args)]
pub(crate) struct PinArgs {
    /// The service.
    service: ServiceName,

    /// The points: their names, their snapshots' ids or the beginnings of them, or `latest`.
    #[arg(value_name = "POINT", required = true)]
    points: Vec<String>,
}

pub(crate) fn run(app: &App, args: &PinArgs, pinned: bool) -> Outcome {
    let service = app.service(&args.service)?;
    let which: Vec<Which> = args.points.iter().map(|point| Which::of(point)).collect();
    let ids = points::pin(&service, &which, pinned)?;
    if app.out.json {
        app.out.document(&json!({
            "service": service.name(),
            "snapshots": ids,
            "pinned": pinned,
        }))?;
        return Ok(Exit::DONE);
    }
    let what = if pinned { "pinned" } else { "unpinned" };
    for id in ids {
        app.out.say(format_args!("{}: {} is {what}", service.name(), id.short()))?;
    }
    Ok(Exit::DONE)
}
