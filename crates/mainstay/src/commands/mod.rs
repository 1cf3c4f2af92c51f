//! One file per command: its words, and what it does with them.

mod backup;
mod cat;
mod check;
mod common;
mod completions;
mod config;
mod copy;
mod diff;
mod doctor;
mod drill;
mod dump;
mod find;
mod forget;
mod guardian;
mod init;
mod key;
mod logs;
mod ls;
mod man;
mod may_start;
mod migrate;
mod mount;
mod mount_guard;
mod pin;
mod provision;
mod prune;
mod recover;
mod repair;
mod rescue;
mod restore;
mod snapshots;
mod stats;
mod status;
mod tag;
mod unlock;

mod cancel;
mod offline;
mod online;
pub(crate) mod refresh;
mod rejoin;
pub(crate) mod run_due;
pub(crate) mod scrub;
mod takeover;
mod vault;
mod vault_accept;
mod vault_lock;
mod vault_serve;
mod vault_user;
pub(crate) mod wal;
use crate::app::App;
use crate::failure::Outcome;

/// What can be asked for.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Init(init::InitArgs),
    Backup(backup::BackupArgs),
    Snapshots(snapshots::SnapshotsArgs),
    Ls(ls::LsArgs),
    Dump(dump::DumpArgs),
    Find(find::FindArgs),
    Diff(diff::DiffArgs),
    Stats(stats::StatsArgs),
    Restore(restore::RestoreArgs),
    Mount(mount::MountArgs),
    Copy(copy::CopyArgs),
    Tag(tag::TagArgs),
    /// Keep recovery points whatever the retention says.
    #[command(after_help = "Example:\n  mainstay pin docs latest")]
    Pin(pin::PinArgs),
    /// Leave recovery points that were pinned to the retention again.
    #[command(after_help = "Example:\n  mainstay unpin docs 5f3a09c1")]
    Unpin(pin::PinArgs),
    Drill(drill::DrillArgs),
    Status(status::StatusArgs),
    Logs(logs::LogsArgs),
    MayStart(may_start::MayStartArgs),
    Provision(provision::ProvisionArgs),
    Refresh(refresh::RefreshArgs),
    Scrub(scrub::ScrubArgs),
    Offline(offline::OfflineArgs),
    Online(online::OnlineArgs),
    Takeover(takeover::TakeoverArgs),
    RunDue(run_due::RunDueArgs),
    Recover(recover::RecoverArgs),
    Rejoin(rejoin::RejoinArgs),
    Cancel(cancel::CancelArgs),
    Wal(wal::WalArgs),
    Key(key::KeyArgs),
    Vault(vault::VaultArgs),
    Check(check::CheckArgs),
    Forget(forget::ForgetArgs),
    Prune(prune::PruneArgs),
    Unlock(unlock::UnlockArgs),
    RebuildIndex(repair::RebuildIndexArgs),
    Repair(repair::RepairArgs),
    Migrate(migrate::MigrateArgs),
    Doctor(doctor::DoctorArgs),
    Rescue(rescue::RescueArgs),
    Cat(cat::CatArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    Demo(crate::demo::DemoArgs),
    #[command(hide = true)]
    DemoWriter(crate::demo::WriterArgs),
    #[command(hide = true)]
    Guardian(guardian::GuardianArgs),
    #[command(hide = true)]
    MountGuard(mount_guard::MountGuardArgs),
}

impl Command {
    /// Whether it runs an operation: what it begins must not end because a terminal does. `run-due` starts
    /// a worker for each service.
    pub(crate) fn needs_worker(&self) -> bool {
        matches!(
            self,
            Command::Backup(_)
                | Command::Restore(_)
                | Command::Provision(_)
                | Command::Refresh(_)
                | Command::Scrub(_)
                | Command::Drill(_)
                | Command::Offline(_)
                | Command::Online(_)
                | Command::Takeover(_)
                | Command::Recover(_)
                | Command::Rejoin(_)
                | Command::Forget(_)
                | Command::Prune(_)
                | Command::RebuildIndex(_)
                | Command::Repair(_)
                | Command::Migrate(_)
        )
    }

    /// Runs the command.
    pub(crate) fn run(&self, app: &App) -> Outcome {
        match self {
            Command::Init(args) => init::run(app, args),
            Command::Backup(args) => backup::run(app, args),
            Command::Snapshots(args) => snapshots::run(app, args),
            Command::Ls(args) => ls::run(app, args),
            Command::Dump(args) => dump::run(app, args),
            Command::Find(args) => find::run(app, args),
            Command::Diff(args) => diff::run(app, args),
            Command::Stats(args) => stats::run(app, args),
            Command::Restore(args) => restore::run(app, args),
            Command::Mount(args) => mount::run(app, args),
            Command::Copy(args) => copy::run(app, args),
            Command::Tag(args) => tag::run(app, args),
            Command::Pin(args) => pin::run(app, args, true),
            Command::Unpin(args) => pin::run(app, args, false),
            Command::Drill(args) => drill::run(app, args),
            Command::Status(args) => status::run(app, args),
            Command::Logs(args) => logs::run(app, args),
            Command::MayStart(args) => may_start::run(app, args),
            Command::Provision(args) => provision::run(app, args),
            Command::Refresh(args) => refresh::run(app, args),
            Command::Scrub(args) => scrub::run(app, args),
            Command::Offline(args) => offline::run(app, args),
            Command::Online(args) => online::run(app, args),
            Command::Takeover(args) => takeover::run(app, args),
            Command::RunDue(args) => run_due::run(app, args),
            Command::Recover(args) => recover::run(app, args),
            Command::Rejoin(args) => rejoin::run(app, args),
            Command::Cancel(args) => cancel::run(app, args),
            Command::Wal(args) => wal::run(app, args),
            Command::Key(args) => key::run(app, args),
            Command::Vault(args) => vault::run(app, args),
            Command::Check(args) => check::run(app, args),
            Command::Forget(args) => forget::run(app, args),
            Command::Prune(args) => prune::run(app, args),
            Command::Unlock(args) => unlock::run(app, args),
            Command::RebuildIndex(args) => repair::run_rebuild_index(app, args),
            Command::Repair(args) => repair::run(app, args),
            Command::Migrate(args) => migrate::run(app, args),
            Command::Doctor(args) => doctor::run(app, args),
            Command::Rescue(args) => rescue::run(app, args),
            Command::Cat(args) => cat::run(app, args),
            Command::Config(args) => config::run(app, args),
            Command::Completions(args) => completions::run(app, args),
            Command::Man(args) => man::run(app, args),
            Command::Demo(args) => crate::demo::run(app, args),
            Command::DemoWriter(args) => crate::demo::run_writer(app, args),
            Command::Guardian(args) => guardian::run(app, args),
            Command::MountGuard(args) => mount_guard::run(app, args),
        }
    }
}
