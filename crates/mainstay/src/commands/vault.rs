use super::{vault_accept, vault_lock, vault_serve, vault_user};
use crate::app::App;
use crate::failure::Outcome;

/// Be a vault host: serve a directory to other hosts, and to restic. Lock a bucket again. Go by a
/// vault that was restored from a copy.
#[derive(Debug, clap::Args)]
pub(crate) struct VaultArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Accept(vault_accept::AcceptArgs),
    Lock(vault_lock::LockArgs),
    Serve(vault_serve::ServeArgs),
    User(vault_user::UserArgs),
}

pub(crate) fn run(app: &App, args: &VaultArgs) -> Outcome {
    match &args.what {
        What::Accept(args) => vault_accept::run(app, args),
        What::Lock(args) => vault_lock::run(app, args),
        What::Serve(args) => vault_serve::run(app, args),
        What::User(args) => vault_user::run(app, args),
    }
}
