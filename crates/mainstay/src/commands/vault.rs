use super::{vault_lock, vault_serve, vault_user};
use crate::app::App;
use crate::failure::Outcome;

/// Be a vault host: serve a directory to other hosts, and to restic. Lock a bucket again.
#[derive(Debug, clap::Args)]
pub(crate) struct VaultArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Lock(vault_lock::LockArgs),
    Serve(vault_serve::ServeArgs),
    User(vault_user::UserArgs),
}

pub(crate) fn run(app: &App, args: &VaultArgs) -> Outcome {
    match &args.what {
        What::Lock(args) => vault_lock::run(app, args),
        What::Serve(args) => vault_serve::run(app, args),
        What::User(args) => vault_user::run(app, args),
    }
}
