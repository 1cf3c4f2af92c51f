use crate::app::App;
use crate::failure::{Exit, Outcome};
use jiff::Timestamp;
use model::ServiceName;
use operations::ServiceSite;
use operations::wal::{self, Fetched};
use std::path::PathBuf;

/// Exit code of a fetch that could not find out. PostgreSQL takes up to 125 for the end of the log,
/// and more for a reason to stop and ask again later (its documentation on `restore_command`).
pub(crate) const COULD_NOT_ASK: Exit = Exit(200);

/// Keep PostgreSQL's log: what its archive_command and restore_command call.
#[derive(Debug, clap::Args)]
pub(crate) struct WalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Store a segment; returns when it is durable in the vault.
    ///
    /// archive_command = 'mainstay wal push SERVICE %p'
    Push {
        /// The service.
        service: ServiceName,
        /// The segment, as PostgreSQL names it: a path below its data directory.
        file: PathBuf,
    },
    /// Fetch a segment. Exit code 1: it is not there; above 125: that could not be found out.
    ///
    /// restore_command = 'mainstay wal fetch SERVICE %f %p'
    Fetch {
        /// The service.
        service: ServiceName,
        /// The segment's name.
        name: String,
        /// Where to put it.
        file: PathBuf,
    },
}

pub(crate) fn run(app: &App, args: &WalArgs) -> Outcome {
    match &args.what {
        What::Push { service, file } => {
            let service = app.service(service)?;
            wal::push(&service, file)?;
            // Only a note for `run-due`; the segment is durable whatever becomes of it.
            let _ = std::fs::write(note(&service), Timestamp::now().to_string());
            Ok(Exit::DONE)
        }
        What::Fetch { service, name, file } => {
            let fetched = app.service(service).and_then(|service| {
                let fetched = wal::fetch(&service, name, file)?;
                // Told in the server's log, where somebody will look for the reason.
                if fetched == Fetched::NotThere && wal::is_gap(&service, name)? {
                    app.out.warn(format_args!(
                        "{name} is missing in the vault, which has later segments: no recovery \
                         gets over this gap; take a new base with `mainstay backup`"
                    ));
                }
                Ok(fetched)
            });
            // A failure gets its code from `cli`, as everything that fails before it comes here.
            match fetched? {
                Fetched::Found => Ok(Exit::DONE),
                Fetched::NotThere => {
                    app.out.detail(format_args!("{name} is not in the vault"));
                    Ok(Exit::NOT_WELL)
                }
            }
        }
    }
}

/// When this host last stored a segment: what its vault has is at least as new as that.
pub(crate) fn last_push(service: &ServiceSite) -> Option<Timestamp> {
    std::fs::read_to_string(note(service)).ok()?.parse().ok()
}

fn note(service: &ServiceSite) -> PathBuf {
    service.dir().join("log-pushed")
}
