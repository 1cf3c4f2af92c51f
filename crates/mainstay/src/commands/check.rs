use super::common::named_or_all;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::count;
use crate::units;
use jiff::Timestamp;
use model::{Class, Classify, ServiceName, SnapshotId, Verified};
use operations::ServiceSite;
use repository::check::{self, ReadData, Subset};
use repository::{Repository, Work};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Check that the history in the vault is whole.
///
/// Checks config, keys, indexes against packs, every tree of every snapshot, and that the service's
/// state is authentic and names only snapshots that are there. With --read-data also every byte of
/// the packs and of the log, which is recorded beside the points. Names everything that is damaged. Exit code 1 if anything is.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The services [default: all of this host].
    #[arg(value_name = "SERVICE")]
    services: Vec<ServiceName>,

    /// Read and verify every byte of the repository.
    #[arg(long)]
    read_data: bool,

    /// Read and verify every byte of some of the packs: `2/7` (the second of seven parts; a pack is
    /// always in the same part), `5%` or `10GiB` (drawn by lot).
    #[arg(long, value_name = "PART", conflicts_with = "read_data")]
    read_data_subset: Option<Subset>,
}

pub(crate) fn run(app: &App, args: &CheckArgs) -> Outcome {
    let names = named_or_all(app, &app.site()?, &args.services)?;
    let read = match args.read_data_subset {
        Some(subset) => ReadData::Part(subset),
        None => ReadData::from(args.read_data),
    };
    app.each(&names, |service| one(app, service, read))
}

fn one(app: &App, service: &ServiceSite, read: ReadData) -> Result<(Exit, Value), Failure> {
    let began = Instant::now();
    let progress = app.progress();
    let repository = service.repository()?;
    // What comes later is not read, or not all of it.
    let begun = match read {
        ReadData::No => BTreeSet::new(),
        _ => committed(service),
    };
    let lock =
        repository.lock_for(Work::Check, app.globals.wait.unwrap_or_default(), app.cancel())?;
    progress.phase(&format!("checking {}", service.name()));
    let mut report = check::check(repository, read, &*progress, app.cancel())?;
    report.errors.extend(points(service, repository)?);
    drop(lock);
    let took = began.elapsed();
    let sound = report.errors.is_empty();
    if sound && !begun.is_empty() {
        record(app, service, begun, read);
    }
    if !app.out.json {
        tell(app, service, &report, took)?;
    }
    let value = json!({
        "sound": sound,
        "errors": report.errors,
        "notes": report.notes,
        "snapshots": report.snapshots,
        "packs": report.packs,
        "verified-bytes": report.verified_bytes,
        "seconds": took.as_secs_f64(),
    });
    Ok((if sound { Exit::DONE } else { Exit::NOT_WELL }, value))
}

/// The points that there are. Whether the state can be read is told with the other findings.
fn committed(service: &ServiceSite) -> BTreeSet<SnapshotId> {
    let state = service.load_state().map(|versioned| versioned.state);
    state.map(|state| state.points.iter().map(|point| point.snapshot).collect()).unwrap_or_default()
}

/// Records that the bytes of these points were read. What was found is told all the same where that
/// cannot be written.
fn record(app: &App, service: &ServiceSite, points: BTreeSet<SnapshotId>, read: ReadData) {
    let part = match read {
        ReadData::Part(subset) => Some(subset.to_string()),
        _ => None,
    };
    let verified = Verified { at: Timestamp::now(), part };
    let points: Vec<SnapshotId> = points.into_iter().collect();
    let recorded = service.state().map_err(Failure::from).and_then(|store| {
        let update = store.update(|state| {
            state.verified(&points, &verified);
            Ok(())
        });
        update.map(|_| ()).map_err(Failure::from)
    });
    if let Err(failure) = recorded {
        let name = service.name();
        app.out.warn(format_args!("{name}: this check is not recorded: {}", failure.one_line()));
    }
}

/// What is wrong between the service's state and the snapshots that are there.
fn points(service: &ServiceSite, repository: &Repository) -> Result<Vec<String>, Failure> {
    let files = repository.snapshot_ids()?;
    let state = match service.load_state() {
        Ok(versioned) => versioned.state,
        Err(e) if matches!(e.class(), Class::Unavailable | Class::Cancelled) => {
            return Err(e.into());
        }
        // Damaged, or older than what this host has seen: a finding like any other.
        Err(e) => return Ok(vec![format!("the state of {}: {}", service.name(), e.chain())]),
    };
    let gone = state.points.iter().filter(|point| !files.contains(&point.snapshot));
    Ok(gone.map(|p| format!("the snapshot of point {} is not in the vault", p.name())).collect())
}

fn tell(
    app: &App,
    service: &ServiceSite,
    report: &check::Report,
    took: Duration,
) -> Result<(), Failure> {
    let out = &app.out;
    for note in &report.notes {
        out.detail(format_args!("{}: {note}", service.name()));
    }
    let looked = format!(
        "{}, {}, {}, in {}",
        count(report.snapshots, "snapshot", "snapshots"),
        count(report.packs, "pack", "packs"),
        match report.verified_bytes {
            0 => "their content not read".to_owned(),
            bytes => format!("{} verified", units::size(bytes)),
        },
        units::duration(took),
    );
    if report.errors.is_empty() {
        return out.say(format_args!("{}: {} ({looked})", service.name(), out.paint.good("sound")));
    }
    out.line(format_args!(
        "{}: {} ({looked})",
        service.name(),
        out.paint.bad(&count(report.errors.len() as u64, "error", "errors"))
    ))?;
    for error in &report.errors {
        out.line(format_args!("  {error}"))?;
    }
    out.line(
        "  Keep the vault as it is, and take a copy of it before anything is repaired. What is\n  \
         whole can still be restored.",
    )
}
