use super::common::{engine_of, named_or_all};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::table::{Column, table};
use crate::ui::words::shown;
use crate::units;
use jiff::Timestamp;
use model::{
    ClusterId, Drill, Generation, MemberName, PointName, Position, ServiceName, ServiceState,
    SnapshotId, Verified,
};
use operations::ServiceSite;
use operations::points::is_own_tag;
use repository::Snapshot;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// List the recovery points of a service, oldest first.
///
/// Marks: `head` is what a restore takes by default; `incomplete`: something of the source could
/// not be read; `verified`: its bytes were read in the vault, and when; `drilled`: proven restorable,
/// and when; `DRILL FAILED`: the last drill did not; `uncommitted`: a snapshot file that is no
/// recovery point, made by plain restic or by an old primary after a takeover; `MISSING`: a point
/// whose snapshot file is gone from the vault; `left behind`: the service went back behind it, and no
/// recovery from it leads to what is written now.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotsArgs {
    /// The services [default: all of this host].
    #[arg(value_name = "SERVICE")]
    services: Vec<ServiceName>,
}

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    name: String,
    snapshot: SnapshotId,
    source_time: Timestamp,
    received: Option<Timestamp>,
    engine: Option<String>,
    member: Option<MemberName>,
    generation: Option<Generation>,
    size_bytes: Option<u64>,
    added_bytes: Option<u64>,
    position: Option<Position>,
    cluster: Option<ClusterId>,
    verified: Option<Verified>,
    drilled: Option<Timestamp>,
    drill: Option<Drill>,
    head: bool,
    incomplete: bool,
    pinned: bool,
    tags: BTreeSet<String>,
    committed: bool,
    missing: bool,
    left_behind: bool,
}

pub(crate) fn run(app: &App, args: &SnapshotsArgs) -> Outcome {
    let names = named_or_all(app, &app.site()?, &args.services)?;
    let several = names.names.len() > 1;
    app.each(&names, |service| {
        let lines = lines(app, service)?;
        if !app.out.json {
            if several {
                app.out.line(app.out.paint.bold(service.name().as_str()))?;
            }
            app.out.text(&show(app, &lines))?;
            if several {
                app.out.line("")?;
            }
        }
        let missing = lines.iter().any(|line| line.missing);
        let exit = if missing { Exit::NOT_WELL } else { Exit::DONE };
        Ok((exit, json!({ "snapshots": lines })))
    })
}

fn lines(app: &App, service: &ServiceSite) -> Result<Vec<Line>, Failure> {
    // Files first: a backup that commits in between is in both, or in neither.
    let files = service.repository()?.snapshots()?;
    let state = service.load_state()?.state;
    let mut files: BTreeMap<SnapshotId, Snapshot> = files.into_iter().collect();
    let mut lines = committed(&state, &mut files);
    lines.extend(files.into_iter().filter_map(|(id, file)| uncommitted(id, &file)));
    match operations::wal::left_behind(service, &state) {
        Ok(left) => {
            lines.iter_mut().for_each(|line| line.left_behind = left.contains(&line.snapshot));
        }
        // The points are there all the same.
        Err(error) => {
            let why = Failure::from(error).one_line();
            app.out
                .warn(format_args!("{}: where the log leads is not known: {why}", service.name()));
        }
    }
    // By the exact time: names tell seconds, and two points may be of one second.
    lines.sort_by_key(|line| line.source_time);
    Ok(lines)
}

fn committed(state: &ServiceState, files: &mut BTreeMap<SnapshotId, Snapshot>) -> Vec<Line> {
    let line = |point: &model::RecoveryPoint| {
        let file = files.remove(&point.snapshot);
        Line {
            name: point.name().to_string(),
            snapshot: point.snapshot,
            source_time: point.source_time,
            received: Some(point.received),
            engine: Some(point.engine.clone()),
            member: Some(point.member.clone()),
            generation: Some(point.generation),
            size_bytes: Some(point.size_bytes),
            added_bytes: Some(point.added_bytes),
            position: point.position.clone(),
            cluster: point.cluster,
            verified: point.verified.clone(),
            drilled: point.drilled,
            drill: point.drill.clone(),
            head: state.head.is_some_and(|head| head.snapshot == point.snapshot),
            incomplete: point.incomplete,
            pinned: point.pinned,
            tags: point
                .tags
                .union(&file.as_ref().map(own_tags).unwrap_or_default())
                .cloned()
                .collect(),
            committed: true,
            missing: file.is_none(),
            left_behind: false,
        }
    };
    state.points.iter().map(line).collect()
}

/// The tags in a snapshot's file that people gave it.
fn own_tags(file: &Snapshot) -> BTreeSet<String> {
    file.tags.iter().filter(|tag| !is_own_tag(tag)).cloned().collect()
}

/// A snapshot file that no commit made history.
fn uncommitted(id: SnapshotId, file: &Snapshot) -> Option<Line> {
    let time: Timestamp = file.time.parse().ok()?;
    let engine = engine_of(file);
    Some(Line {
        name: PointName::of(time, engine.unwrap_or("restic"), id).to_string(),
        snapshot: id,
        source_time: time,
        received: None,
        engine: engine.map(str::to_owned),
        member: MemberName::new(&file.hostname).ok(),
        generation: None,
        size_bytes: None,
        added_bytes: None,
        position: None,
        cluster: None,
        verified: None,
        drilled: None,
        drill: None,
        head: false,
        incomplete: file.tags.iter().any(|tag| tag == "mainstay:incomplete"),
        pinned: false,
        tags: own_tags(file),
        committed: false,
        missing: false,
        left_behind: false,
    })
}

fn show(app: &App, lines: &[Line]) -> String {
    if lines.is_empty() {
        return "no recovery point yet\n".to_owned();
    }
    let now = Timestamp::now();
    let paint = &app.out.paint;
    let positions = lines.iter().any(|line| line.position.is_some());
    let mut titles = vec![
        ("NAME", Column::Left),
        ("TIME", Column::Left),
        ("AGE", Column::Right),
        ("SIZE", Column::Right),
        ("ADDED", Column::Right),
    ];
    if positions {
        titles.push(("POSITION", Column::Left));
    }
    titles.push(("STATE", Column::Left));
    let size = |bytes: Option<u64>| bytes.map(units::size).unwrap_or_default();
    let rows = lines.iter().map(|line| {
        let mut row = vec![
            line.name.clone(),
            units::local(line.source_time),
            units::old(line.source_time, now).unwrap_or_default(),
            size(line.size_bytes),
            size(line.added_bytes),
        ];
        if positions {
            row.push(line.position.as_ref().map(ToString::to_string).unwrap_or_default());
        }
        let mut marks = Vec::new();
        if line.head {
            marks.push(paint.good("head"));
        }
        if line.missing {
            marks.push(paint.bad("MISSING"));
        }
        if line.left_behind {
            marks.push(paint.warning("left behind"));
        }
        if line.incomplete {
            marks.push(paint.warning("incomplete"));
        }
        if !line.committed {
            marks.push(paint.warning("uncommitted"));
        }
        if line.pinned {
            marks.push("pinned".to_owned());
        }
        if let Some(verified) = &line.verified {
            let part = verified.part.as_ref().map(|part| format!(" by {part}"));
            let (part, ago) = (part.unwrap_or_default(), units::ago(verified.at, now));
            marks.push(format!("verified{part} {ago}"));
        }
        if let Some(failed) = line.drill.as_ref().filter(|drill| !drill.sound) {
            marks.push(paint.bad(&format!("DRILL FAILED {}", units::ago(failed.at, now))));
        }
        if let Some(drilled) = line.drilled {
            marks.push(format!("drilled {}", units::ago(drilled, now)));
        }
        marks.extend(line.tags.iter().map(|tag| format!("#{}", shown(tag))));
        row.push(marks.join(", "));
        row
    });
    table(&titles, rows.collect(), paint)
}
