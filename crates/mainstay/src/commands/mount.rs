use crate::app::App;
use crate::config::mistakes;
use crate::failure::{Exit, Failure, Outcome};
use crate::mount::{Options, Session};
use crate::units;
use model::{Class, ServiceName};
use operations::mount::Services;
use repository::view::{self, View};
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  mainstay mount /mnt/history                  every service of this host
  mainstay mount /mnt/history docs shop
  ls /mnt/history/docs/latest/                 the newest point
  diff -r /mnt/history/docs/2026-11-20T10:00:00Z/srv/docs /srv/docs";

/// Show the history as directories, read-only (FUSE).
///
/// SERVICE/TIME/ is a point, by the time of its source in UTC; SERVICE/latest leads to the newest,
/// and SERVICE/ids/ to each by the id of its snapshot. New points appear by themselves. Every byte is
/// verified when it is read; what is damaged is an error there, and is named here.
///
/// Ends at Ctrl-C, SIGTERM or `umount`, and leaves no mount behind, even if it is killed. As long as
/// it runs, nothing that it shows is removed: `forget` and `prune` have to wait.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MountArgs {
    /// An empty directory.
    dir: PathBuf,

    /// The services [default: all of this host].
    #[arg(value_name = "SERVICE")]
    services: Vec<ServiceName>,

    /// Let other users look, as far as owners and modes of the files let them.
    #[arg(long)]
    allow_other: bool,

    /// Lock nothing: for a vault that cannot be written to. What is removed meanwhile is then an
    /// error where it was.
    #[arg(long)]
    no_lock: bool,

    /// Memory for what was read.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "128 MiB")]
    cache_size: u64,
}

pub(crate) fn run(app: &App, args: &MountArgs) -> Outcome {
    let site = app.site()?;
    let names = if args.services.is_empty() { site.services() } else { args.services.clone() };
    mistakes::warn(app, &site, &names);
    let shelf = Services::new(&site, &names, !args.no_lock, app.run());
    let result = shown(app, args, &names, &shelf);
    shelf.close();
    result
}

fn shown(app: &App, args: &MountArgs, names: &[ServiceName], shelf: &Services) -> Outcome {
    // A service that was asked for is opened now; of all, those that can be.
    let mut failure = None;
    let mut opened = 0;
    for name in names {
        match shelf.open(name) {
            Ok(()) => opened += 1,
            Err(e) if args.services.is_empty() => {
                let e = Failure::from(e);
                app.out.warn(format_args!("{name}: {}", e.one_line()));
                failure = failure.or(Some(e));
            }
            Err(e) => return Err(e.into()),
        }
    }
    if opened == 0 {
        let nothing = || Failure::new(Class::Invalid, "this host has no service to show");
        return Err(failure.unwrap_or_else(nothing));
    }
    let cache_bytes = usize::try_from(args.cache_size).unwrap_or(usize::MAX);
    let options = view::Options { cache_bytes, ..view::Options::default() };
    // Not a bar: nobody knows what will be read, or when it is over.
    let view = View::new(Box::new(shelf.clone()), options, app.warnings());
    let session = Session::start(view, &args.dir, Options { allow_other: args.allow_other })?;
    let stop = app.cancel();
    if app.out.json {
        app.out.document(&json!({ "mounted": session.place(), "services": names }))?;
    } else {
        let place = session.place().display();
        app.out.say(format_args!("Mounted on {place}; Ctrl-C or `umount` ends it."))?;
    }
    if session.serve(stop)? {
        app.out.warn("somebody still uses the mount: for them it ends now");
    }
    Ok(Exit::DONE)
}
