use super::common::{Point, engine_of};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::rescue::{Opened, Rescue, restore};
use crate::ui::ask;
use crate::ui::table::{Column, table};
use crate::ui::words::count;
use crate::units;
use jiff::Timestamp;
use model::{PointName, Secret, ServiceName};
use operations::secrets::{self, Source};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Reach the history with nothing but this program, the vault and a password.
///
/// Works on a machine without configuration, with the service's password or with the recovery key,
/// and also when the vault's state objects are lost: then by the snapshot files, and it says so.
#[derive(Debug, clap::Args)]
pub(crate) struct RescueArgs {
    /// The vault that holds the services' repositories: a directory, or a bucket as
    /// `s3://BUCKET/PREFIX`, whose access key comes from the environment (docs/guide/s3.md).
    #[arg(long, value_name = "PLACE")]
    vault: String,

    /// See a bucket that keeps versions as it was at this time.
    #[arg(long, value_name = "TIME")]
    vault_as_of: Option<Timestamp>,

    /// File with the password or recovery key; asked for at the terminal without it.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the services in the vault and their newest points; so does no word at all.
    List,
    /// Restore a service's data into a new directory.
    Restore(RestoreArgs),
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// The service.
    service: ServiceName,

    /// The directory to restore into, which must not exist.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,

    #[command(flatten)]
    point: Point,

    /// Restore the files as they were captured, without the engine making a service of them.
    #[arg(long)]
    plain: bool,
}

pub(crate) fn run(app: &App, args: &RescueArgs) -> Outcome {
    let password = password(app, args.password_file.as_deref())?;
    let rescue = Rescue::new(&args.vault, args.vault_as_of, password)?;
    match &args.what {
        None | Some(What::List) => list(app, &rescue),
        Some(What::Restore(args)) => restore(app, &rescue, args),
    }
}

fn password(app: &App, file: Option<&Path>) -> Result<Secret, Failure> {
    match file {
        Some(file) => Ok(secrets::read(&Source::File(file.to_owned()))?),
        None if app.out.can_ask() => ask::password("Password or recovery key: ", app.cancel()),
        None => Err(Failure::invalid("no password was given, and there is no terminal to ask at")
            .hint("Name a file with `--password-file`.")),
    }
}

fn list(app: &App, rescue: &Rescue) -> Outcome {
    let now = Timestamp::now();
    let mut rows = Vec::new();
    let mut values = Vec::new();
    let mut refused = None;
    let mut opened_one = false;
    for name in rescue.services()? {
        let (row, value) = match rescue.open(&name) {
            Ok(opened) => {
                opened_one = true;
                line(&opened, now)
            }
            Err(failure) => {
                let told = failure.one_line();
                let value = json!({ "service": name, "error": failure.to_json() });
                refused.get_or_insert(failure);
                (vec![name.to_string(), String::new(), String::new(), String::new(), told], value)
            }
        };
        rows.push(row);
        values.push(value);
    }
    if let (Some(failure), false) = (refused, opened_one) {
        return Err(failure);
    }
    if app.out.json {
        app.out.document(&json!({ "services": values }))?;
    } else {
        let titles = [
            ("SERVICE", Column::Left),
            ("SNAPSHOTS", Column::Right),
            ("NEWEST", Column::Left),
            ("AGE", Column::Right),
            ("", Column::Left),
        ];
        app.out.text(&table(&titles, rows, &app.out.paint))?;
        app.out
            .say("\nRestore one: mainstay rescue --vault PLACE restore SERVICE --target NEW-DIR")?;
    }
    Ok(Exit::DONE)
}

fn line(opened: &Opened, now: Timestamp) -> (Vec<String>, Value) {
    let newest = opened.snapshots.last();
    let time: Option<Timestamp> = newest.and_then(|(_, file)| file.time.parse().ok());
    let name = newest.zip(time).map(|((id, file), time)| {
        PointName::of(time, engine_of(file).unwrap_or("restic"), *id).to_string()
    });
    let age = time.and_then(|time| units::old(time, now));
    let row = vec![
        opened.name.to_string(),
        opened.snapshots.len().to_string(),
        name.clone().unwrap_or_else(|| "nothing was ever backed up".to_owned()),
        age.unwrap_or_default(),
        String::new(),
    ];
    let value = json!({
        "service": opened.name,
        "snapshots": opened.snapshots.len(),
        "newest": newest.map(|(id, _)| id),
        "newest-name": name,
        "newest-time": time,
    });
    (row, value)
}

fn restore(app: &App, rescue: &Rescue, args: &RestoreArgs) -> Outcome {
    let opened = rescue.open(&args.service)?;
    let target = std::path::absolute(&args.target)
        .map_err(|e| Failure::io("find", args.target.display(), &e))?;
    let which = args.point.which();
    let done = restore::restore(app, rescue, &opened, &which, &target, args.plain)?;
    if app.out.json {
        app.out.document(&done)?;
        return Ok(Exit::DONE);
    }
    app.out.say(format_args!(
        "{}: restored from {}; {}, {}",
        args.service,
        done.snapshot.short(),
        count(done.files, "file", "files"),
        units::size(done.bytes),
    ))?;
    for target in &done.targets {
        app.out.say(format_args!("  to {}", target.display()))?;
    }
    if let Some(dir) = &done.kept {
        app.out.say(format_args!(
            "  Until the server has replayed its log, keep {}: it fetches the log with the\n  \
             configuration and the password in there.",
            dir.display()
        ))?;
    }
    Ok(Exit::DONE)
}
