use crate::app::App;
use crate::failure::{Exit, Outcome};
use crate::mount;

/// Wait for the end of `mount`, and unmount what it has left. Started by `mount` itself.
#[derive(Debug, clap::Args)]
pub(crate) struct MountGuardArgs {
    /// The name of the mount.
    source: String,
}

pub(crate) fn run(app: &App, args: &MountGuardArgs) -> Outcome {
    // A signal that is meant for all does not end it before its time.
    let _ = app.cancel();
    mount::guard(&args.source)?;
    Ok(Exit::DONE)
}
