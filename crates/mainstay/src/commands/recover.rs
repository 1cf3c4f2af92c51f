use super::common::Services;
use crate::app::App;
use crate::failure::{Exit, Outcome};
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
    /// units, which come after this, if these start with the host; others are started.
    #[arg(long)]
    booting: bool,
}

pub(crate) fn run(app: &App, args: &RecoverArgs) -> Outcome {
    app.each(&args.services.of(&app.site()?), |service| {
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
