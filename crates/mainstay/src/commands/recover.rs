use super::common::Services;
use crate::app::App;
use crate::failure::{Exit, Outcome};
use model::OperationId;
use operations::{Run, recover};
use serde_json::json;

/// Clean up after operations that died on this host: after a crash, a kill, or a reboot.
///
/// Every command on a service does this first, so this one is for the start of the host, when there
/// is none yet: what was half done is taken back or brought to its end before the service starts.
/// An operation that still runs is left alone, and its service too.
#[derive(Debug, clap::Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    services: Services,

    /// The host has just started: services that had been stopped for a moment are left to their own
    /// units, which come after this, if these start with the host; others are started. Nothing is waited
    /// for that may come after this.
    #[arg(long)]
    booting: bool,

    /// Give up what this operation had begun, whose journal cannot be read and bars all others. It is put
    /// aside, and not cleaned up: first see that the service and its copy are as they should be.
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["all", "booting"])]
    set_aside: Option<OperationId>,
}

pub(crate) fn run(app: &App, args: &RecoverArgs) -> Outcome {
    app.each(&args.services.of(app)?, |service| {
        if let Some(id) = &args.set_aside {
            let kept = recover::set_aside(service, id, &app.run())?;
            let (name, kept) = (service.name(), kept.display().to_string());
            app.out.say(format_args!("{name}: {id} was put aside, and is kept in {kept}"))?;
            return Ok((Exit::DONE, json!({ "set-aside": id, "kept": kept })));
        }
        let said = recover::sweep(service, &Run { booting: args.booting, ..app.run() })?;
        for line in &said {
            app.out.say(format_args!("{}: {line}", service.name()))?;
        }
        if said.is_empty() {
            app.out.say(format_args!("{}: nothing was left", service.name()))?;
        }
        Ok((Exit::DONE, json!({ "cleaned-up": said })))
    })
}
