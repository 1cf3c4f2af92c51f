use crate::app::App;
use crate::failure::{Exit, Outcome};
use crate::units;
use jiff::Timestamp;
use model::{ClusterId, ServiceName};
use operations::wal::{self, Fetched};
use operations::{Run, ServiceSite};
use std::path::PathBuf;
use std::time::Duration;

/// Exit code of a fetch that could not find out. PostgreSQL takes up to 125 for the end of the log,
/// and more for a reason to stop and ask again later (its documentation on `restore_command`).
pub(crate) const COULD_NOT_ASK: Exit = Exit(200);

/// Keep the log of a database: ship it as it is written; PostgreSQL's archive_command and
/// restore_command.
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

        /// The database cluster whose log it is, by its system identifier. Otherwise that in whose
        /// `pg_wal` the file is put.
        #[arg(long, value_name = "SYSTEM-IDENTIFIER")]
        cluster: Option<ClusterId>,
    },
    /// Receive the log as it is written, and ship about every second what is new: what a lost host
    /// takes with it is a second.
    ///
    /// Runs until it is stopped, best as a unit of its own; on a host that is not the primary it waits
    /// until it is. Of PostgreSQL, reads the server's files, and uses a replication slot; works beside
    /// archive_command, and without. Of SQLite databases, holds their write-ahead logs while
    /// they are read, runs the checkpoints, and makes a point where a log has none to begin with.
    Receive {
        /// The service.
        service: ServiceName,

        /// End when the vault has what the server had written when this began. PostgreSQL's slot
        /// stays, so that nothing is missing before the next run; if none comes, `run-due` lets go of
        /// what it keeps past `log-queue`.
        #[arg(long)]
        once: bool,

        /// How often what is new is shipped.
        #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
        #[arg(default_value = "1s")]
        every: Duration,
    },
}

pub(crate) fn run(app: &App, args: &WalArgs) -> Outcome {
    match &args.what {
        What::Push { service, file } => {
            let service = app.service(service)?;
            if let Err(error) = wal::push_or_spare(&service, file) {
                if !wal::let_go(&service, file, &error, &*app.warnings())? {
                    return Err(error.into());
                }
                // In the server's log, and by `run-due`, `status` and `doctor` until a base is made.
                app.out.warn(format_args!(
                    "{} is let go, since too much of the log waits for the vault ({}); a new base \
                     is needed once the vault answers",
                    file.display(),
                    error.chain()
                ));
                return Ok(Exit::DONE);
            }
            wal::note_pushed(&service, file);
            Ok(Exit::DONE)
        }
        What::Receive { service, once, every } => {
            let service = app.service(service)?;
            let params = wal::Receive { once: *once, every: *every };
            let run = Run { progress: app.warnings(), ..app.run() };
            if wal::sqlite::is_meant(&service) {
                return receive_sqlite(app, &service, &params, &run);
            }
            let received = wal::receive(&service, &params, &run)?;
            if app.out.json {
                app.out.document(&received)?;
            } else if let Some(position) = &received.position {
                app.out.say(format_args!(
                    "{}: the vault has the log up to {position}",
                    service.name()
                ))?;
            }
            if let Some(slot) = &received.slot {
                app.out.detail(format_args!(
                    "slot {slot} of the server keeps the log for the next run, which must come: drop \
                     it with pg_drop_replication_slot('{slot}') if none will"
                ));
            }
            Ok(Exit::DONE)
        }
        What::Fetch { service, name, file, cluster } => {
            // A standby asks every few seconds: mistakes in the sections of others are told elsewhere.
            let fetched = app.site().and_then(|site| {
                let service = site.service(service)?;
                let cluster = match cluster {
                    Some(cluster) => Some(*cluster),
                    None => wal::that_asks(&service, file)?,
                };
                let fetched = wal::fetch(&service, cluster, name, file)?;
                // Told in the server's log, where somebody will look for the reason.
                if fetched == Fetched::NotThere && wal::is_gap(&service, cluster, name)? {
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

fn receive_sqlite(app: &App, service: &ServiceSite, params: &wal::Receive, run: &Run) -> Outcome {
    let shipped = wal::sqlite::run(service, params, run)?;
    if app.out.json {
        app.out.document(&shipped)?;
    } else if let Some(until) = shipped.until {
        app.out.say(format_args!(
            "{}: the vault has everything that was committed before {}",
            service.name(),
            units::local(until)
        ))?;
    }
    Ok(Exit::DONE)
}

/// Whether the service has a log that reaches beyond its points: its server keeps one, or it was
/// shipped once.
pub(crate) fn keeps_log(service: &ServiceSite) -> bool {
    service.engine().is_ok_and(|engine| engine.abilities().log)
        || wal::sqlite::is_meant(service) && last_push(service).is_some()
}

/// Up to when this host has stored the log, apart from what it let go.
pub(crate) fn last_push(service: &ServiceSite) -> Option<Timestamp> {
    wal::stored_until(service)
}
