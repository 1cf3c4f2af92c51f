use super::common::Point;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::count;
use crate::units;
use engines::postgres::Lsn;
use engines::{LogEnd, LogPlace, LogTarget, Part};
use jiff::Timestamp;
use model::{Position, ServiceName};
use operations::ServiceSite;
use operations::restore::{self, Done, Params, part};
use std::path::PathBuf;
use std::time::Duration;

/// Restore a service, or a copy of it, from its history.
///
/// Without --target or --as the service itself is restored in its own place; what stands there is
/// put aside, and only if --replace says so. The engine and the definition come from the snapshot.
///
/// Of dumps of databases (engine postgres, method = "logical"), --database restores one of them into
/// the server that runs here, and --table some tables of it:
///
/// mainstay restore shop --database orders --as orders_yesterday --at '1d ago'
///
/// mainstay restore shop --database orders --table sales.invoices
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The service.
    service: ServiceName,

    #[command(flatten)]
    point: Point,

    #[command(flatten)]
    place: Place,

    /// Restore to this directory instead of the service's own place.
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,

    /// Restore under a new name, which must be free; with --database, that of the database that it
    /// goes to.
    #[arg(long = "as", value_name = "NAME")]
    as_name: Option<String>,

    /// Restore this database, of a service that is dumped, into its server. One that is there stays,
    /// unless --replace says that it is put aside.
    #[arg(long, value_name = "NAME")]
    #[arg(conflicts_with_all = ["target", "partial", "no_start", "place", "delta"])]
    database: Option<String>,

    /// Restore only this table of the database, with its data, indexes, constraints and sequences.
    /// Can be given several times. A table that is there is not touched.
    #[arg(long = "table", value_name = "SCHEMA.TABLE", requires = "database")]
    #[arg(conflicts_with = "replace")]
    tables: Vec<String>,

    /// Leave out what happened at the very place that --target-lsn or --target-xid names.
    #[arg(long, requires = "place")]
    target_exclusive: bool,

    /// Replay along this timeline of PostgreSQL's log, and not along the newest that leads on from the
    /// point, or, with --at, the one that the service was on then.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(conflicts_with = "database")]
    target_timeline: Option<u32>,

    /// Put aside what stands at the service's own place.
    #[arg(long, conflicts_with = "target")]
    replace: bool,

    /// Restore over what stands there, which must be a stopped copy of the same server: only what
    /// differs is written, and what the point does not have is removed. There is no way back; one
    /// that was cut off does not start, and is completed by giving the same again. PostgreSQL only.
    #[arg(long, conflicts_with_all = ["replace", "as_name", "partial"])]
    delta: bool,

    /// Leave the service stopped.
    #[arg(long)]
    no_start: bool,

    /// Of a damaged snapshot, restore what is whole and name the rest; to a directory of its own.
    /// No file is restored in part. Exit code 3 if anything is left out.
    #[arg(long, requires = "target", conflicts_with = "as_name")]
    partial: bool,

    /// Lock nothing: for a vault that cannot be written to; to a directory of its own.
    #[arg(long, requires = "target")]
    no_lock: bool,

    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Where in PostgreSQL's log replay ends. The newest base before that place is taken.
#[derive(Debug, clap::Args)]
#[group(id = "place", multiple = false, conflicts_with = "at")]
struct Place {
    /// Replay up to a restore point, as pg_create_restore_point() made it.
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,

    /// Replay up to a position in the log, as 16/B374D848.
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<Lsn>,

    /// Replay up to the end of a transaction.
    #[arg(long, value_name = "XID")]
    target_xid: Option<u32>,
}

impl Place {
    fn target(&self, exclusive: bool) -> Option<LogTarget> {
        let name = self.target_name.clone().map(LogPlace::Name);
        let lsn = || self.target_lsn.map(|lsn| LogPlace::Lsn(lsn.0));
        let place = name.or_else(lsn).or_else(|| self.target_xid.map(LogPlace::Xid))?;
        Some(LogTarget { place, exclusive })
    }
}

pub(crate) fn run(app: &App, args: &RestoreArgs) -> Outcome {
    let service = app.service(&args.service)?;
    if let Some(database) = &args.database {
        return of_database(app, args, &service, database);
    }
    let as_name = args.as_name.as_deref().map(ServiceName::new).transpose();
    let as_name = as_name.map_err(|e| Failure::invalid(e.to_string()))?;
    if as_name.is_some() && args.replace {
        return Err(Failure::invalid("a restore under a new name replaces nothing")
            .hint("Leave out `--replace`, or `--as`."));
    }
    let target = match &args.target {
        Some(target) => Some(
            std::path::absolute(target).map_err(|e| Failure::io("find", target.display(), &e))?,
        ),
        None => None,
    };
    let params = Params {
        which: args.point.which(),
        end: LogEnd {
            target: args.place.target(args.target_exclusive),
            timeline: args.target_timeline,
        },
        target,
        as_name: as_name.clone(),
        replace: args.replace,
        delta: args.delta,
        no_start: args.no_start,
        dry_run: args.dry_run,
        partial: args.partial,
        no_lock: args.no_lock,
    };
    let done = restore::run(&service, &params, &app.run())?;
    if app.out.json {
        app.out.document(&done)?;
    } else {
        tell(app, args, as_name.as_ref(), &done)?;
    }
    Ok(if done.lacking.is_empty() { Exit::DONE } else { Exit::UNREADABLE })
}

fn of_database(app: &App, args: &RestoreArgs, service: &ServiceSite, database: &str) -> Outcome {
    let params = part::Params {
        which: args.point.which(),
        part: Part {
            database: database.to_owned(),
            tables: args.tables.clone(),
            as_name: args.as_name.clone(),
            replace: args.replace,
        },
        dry_run: args.dry_run,
    };
    let done = part::run(service, &params, &app.run())?;
    if app.out.json {
        app.out.document(&done)?;
        return Ok(Exit::DONE);
    }
    let what = format!(
        "{}, as it was at {} ({})",
        done.snapshot.short(),
        units::local(done.source_time),
        units::ago(done.source_time, Timestamp::now())
    );
    if args.dry_run {
        app.out.say(format_args!(
            "{}: database {database:?} would be restored from {what}; {} to fetch",
            args.service,
            units::size(done.bytes)
        ))?;
        return Ok(Exit::DONE);
    }
    app.out.say(format_args!(
        "{}: restored from {what}; {}, in {}",
        args.service,
        units::size(done.bytes),
        units::duration(Duration::from_secs_f64(done.seconds.max(0.0))),
    ))?;
    for line in &done.said {
        app.out.say(format_args!("  {line}"))?;
    }
    Ok(Exit::DONE)
}

fn tell(
    app: &App,
    args: &RestoreArgs,
    as_name: Option<&ServiceName>,
    done: &Done,
) -> Result<(), Failure> {
    let out = &app.out;
    let name = as_name.unwrap_or(&args.service);
    let point = done.snapshot.short();
    let (at, ago) =
        (units::local(done.source_time), units::ago(done.source_time, Timestamp::now()));
    let named = args.place.target(args.target_exclusive).is_some();
    let time = match (done.until, &done.position) {
        (Some(until), _) => format!("{point} and its log up to {}", units::local(until)),
        // The server replays it by itself when it is started.
        (None, Some(Position::Lsn { .. })) if named => {
            format!("{point}, of {at} ({ago}), and its log up to the place that was named")
        }
        (None, Some(Position::Lsn { .. })) => {
            format!("{point}, of {at} ({ago}), and what the vault has of its log")
        }
        _ => format!("{point}, as it was at {at} ({ago})"),
    };
    if args.dry_run {
        out.say(format_args!("{name}: would be restored from {time}"))?;
    } else {
        out.say(format_args!(
            "{name}: restored from {time}; {}, {}, in {}",
            count(done.files, "file", "files"),
            units::size(done.bytes),
            units::duration(Duration::from_secs_f64(done.seconds.max(0.0))),
        ))?;
    }
    for target in &done.targets {
        out.say(format_args!("  to {}", target.display()))?;
    }
    if let Some(changed) = &done.changed {
        out.say(format_args!(
            "  over what stood there: {} came from the vault, {} removed",
            units::size(changed.fetched_bytes),
            count(changed.removed, "entry", "entries"),
        ))?;
    }
    for aside in &done.put_aside {
        out.say(format_args!("  what stood there: {}", aside.display()))?;
    }
    for path in &done.lacking {
        out.line(format_args!("  {} {path}", out.paint.bad("lacks bytes, left out:")))?;
    }
    if done.started {
        out.say("  The service runs.")?;
    }
    if let Some(name) = as_name {
        let text = toml::to_string(&crate::config::brief(&done.definition)).unwrap_or_default();
        out.say(format_args!(
            "\nTo make it a service of this host, add to the configuration what follows, with what \
             starts and stops it;\nthat of {} is left out.\n\n[service.{name}]\n{text}",
            args.service
        ))?;
    }
    Ok(())
}
