use super::common::{Looking, NamedSnapshot, snapshots};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::table::{Column, table};
use crate::ui::words::count;
use crate::units;
use model::ServiceName;
use operations::ServiceSite;
use repository::stats::{self, Contents, Stats};
use serde_json::{Value, json};

/// Show how large the history of a service is, and what deduplication and compression save.
///
/// `restore size` is what a restore writes; `content` are the different bytes that this comes to,
/// each counted once; `stored` is what they take in the vault.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mainstay stats docs
  mainstay stats docs --snapshot latest
  mainstay stats docs --each")]
pub(crate) struct StatsArgs {
    /// The service.
    service: ServiceName,

    /// Count only this point: its name, its snapshot's id or the beginning of it, or `latest`.
    #[arg(short, long, value_name = "POINT")]
    snapshot: Vec<String>,

    /// Show each point by itself too.
    #[arg(long)]
    each: bool,

    #[command(flatten)]
    looking: Looking,
}

pub(crate) fn run(app: &App, args: &StatsArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let lock = args.looking.lock(app, &service)?;
    let points = snapshots(&service, &args.snapshot)?;
    let mut roots = Vec::new();
    for point in &points {
        let damaged = |e| repository::Error::damaged(format!("snapshot {}", point.id), e);
        roots.push(point.file.tree_id().map_err(damaged)?);
    }
    let stats = stats::stats(service.repository()?, &roots, app.cancel())?;
    drop(lock);
    if app.out.json {
        app.out.document(&document(&service, &points, &stats))?;
        return Ok(Exit::DONE);
    }
    if args.each {
        each(app, &points, &stats.each)?;
    }
    app.out.text(&tell(points.len() as u64, &stats))?;
    Ok(Exit::DONE)
}

fn document(service: &ServiceSite, points: &[NamedSnapshot], stats: &Stats) -> Value {
    let each: Vec<Value> = points
        .iter()
        .zip(&stats.each)
        .map(|(point, contents)| {
            json!({ "snapshot": point.id, "name": point.name, "contents": contents })
        })
        .collect();
    json!({
        "service": service.name(),
        "snapshots": each,
        "total": stats.total,
        "unique": stats.unique,
        "raw": stats.raw,
        "packs": stats.packs,
        "pack-bytes": stats.pack_bytes,
        "dedupe-ratio": stats.dedupe_ratio(),
        "compression-ratio": stats.compression_ratio(),
    })
}

fn each(app: &App, points: &[NamedSnapshot], all: &[Contents]) -> Result<(), Failure> {
    let titles = [
        ("NAME", Column::Left),
        ("FILES", Column::Right),
        ("DIRECTORIES", Column::Right),
        ("OTHER", Column::Right),
        ("RESTORE SIZE", Column::Right),
    ];
    let rows = points.iter().zip(all).map(|(point, contents)| {
        vec![
            point.name.clone(),
            contents.files.to_string(),
            contents.dirs.to_string(),
            contents.others.to_string(),
            units::size(contents.restore_bytes),
        ]
    });
    app.out.text(&table(&titles, rows.collect(), &app.out.paint))?;
    app.out.line("")
}

fn tell(points: u64, stats: &Stats) -> String {
    let times = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
    let (total, raw, unique) = (&stats.total, &stats.raw, &stats.unique);
    let lines = [
        ("points", points.to_string()),
        (
            "restore size",
            format!(
                "{} in {}, {}, {} other",
                units::size(total.restore_bytes),
                count(total.files, "file", "files"),
                count(total.dirs, "directory", "directories"),
                total.others
            ),
        ),
        ("different files", format!("{} of {}", units::size(unique.bytes), unique.files)),
        (
            "content",
            format!(
                "{} in {}, {} of directories in {}",
                units::size(raw.data_bytes),
                count(raw.data_blobs, "blob", "blobs"),
                units::size(raw.plain_bytes - raw.data_bytes),
                count(raw.tree_blobs, "blob", "blobs"),
            ),
        ),
        ("stored", units::size(raw.stored_bytes)),
        ("deduplication", times(stats.dedupe_ratio())),
        ("compression", times(stats.compression_ratio())),
        (
            "whole repository",
            format!("{} in {}", units::size(stats.pack_bytes), count(stats.packs, "pack", "packs")),
        ),
    ];
    lines.iter().map(|(name, value)| format!("{name:17} {value}\n")).collect()
}
