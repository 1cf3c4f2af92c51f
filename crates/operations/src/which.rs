//! Which recovery point is meant.

use crate::{Error, ServiceSite};
use jiff::Timestamp;
use model::{PointName, ServiceState, SnapshotId};
use serde::Serialize;

/// Which recovery point a command means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The head.
    #[default]
    Latest,
    /// A point's name, a snapshot id, or a unique beginning of one.
    Named(String),
    /// The newest point whose source time is not later.
    At(Timestamp),
}

impl Which {
    /// What people write for a point: its name, an id, the beginning of one, or `latest`.
    pub fn of(text: &str) -> Which {
        match text {
            "latest" => Which::Latest,
            name => Which::Named(name.to_owned()),
        }
    }
}

/// The snapshot that is meant. Committed points are looked at first; only an explicit name reaches
/// a snapshot that no commit made history (one that plain restic wrote).
pub fn resolve(
    site: &ServiceSite,
    state: &ServiceState,
    which: &Which,
) -> Result<SnapshotId, Error> {
    match which {
        Which::Latest => match state.head {
            Some(head) => Ok(head.snapshot),
            None => latest_without_state(site, state),
        },
        Which::At(time) => {
            let whole = state.points.iter().filter(|p| !p.incomplete && p.source_time <= *time);
            whole.max_by_key(|p| p.source_time).map(|p| p.snapshot).ok_or_else(|| {
                let oldest = state.points.iter().map(|p| p.source_time).min();
                let error = Error::invalid(format!(
                    "no recovery point of {} at or before {time}",
                    site.name()
                ));
                match oldest {
                    Some(oldest) => error.hinting(format!("The oldest one is from {oldest}.")),
                    None => error.hinting("There is none at all; run `mainstay backup` first."),
                }
            })
        }
        Which::Named(text) => named(site, state, text),
    }
}

/// One sentence if the last drill of a point failed, with what would be there instead: whoever takes it
/// is to know. The newest is what was asked for, and may be all that there is of the last hours, so
/// nothing else is taken in its place unasked.
pub fn doubt(state: &ServiceState, snapshot: SnapshotId) -> Option<String> {
    let point = state.point(snapshot)?;
    let drill = point.drill.as_ref().filter(|drill| !drill.sound)?;
    let proven = model::retention::newest_proven(&state.points);
    let instead = match proven {
        Some(proven) => format!("the newest one that a drill proved is {}", proven.name()),
        None => "no point is proven restorable".to_owned(),
    };
    Some(format!(
        "the last drill of {}, at {} on {}, found it not sound; {instead}",
        point.name(),
        drill.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        drill.member
    ))
}

fn named(site: &ServiceSite, state: &ServiceState, text: &str) -> Result<SnapshotId, Error> {
    let list = || "List them with `mainstay snapshots`.";
    if text.is_empty() {
        return Err(Error::invalid("the name of the recovery point is empty").hinting(list()));
    }
    if let Some(point) = state.points.iter().find(|p| p.name().as_str() == text) {
        return Ok(point.snapshot);
    }
    let prefix = text.to_ascii_lowercase();
    let mut found = site.repository()?.snapshots()?;
    found.retain(|(id, file)| {
        id.to_string().starts_with(&prefix) || is_name_of(text, *id, &file.time)
    });
    let found: Vec<SnapshotId> = found.into_iter().map(|(id, _)| id).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let error = Error::invalid(format!("{} has no recovery point {text:?}", site.name()));
            Err(error.hinting(list()))
        }
        several => {
            let error = Error::invalid(format!(
                "{text:?} is the beginning of {} snapshots of {}",
                several.len(),
                site.name()
            ));
            Err(error.hinting("Give more of its digits."))
        }
    }
}

/// Whether this is what lists call a snapshot that is no point: `20261121T010442Z-restic-1a2b3c4d`.
fn is_name_of(text: &str, id: SnapshotId, time: &str) -> bool {
    let engine = text.rsplit_once('-').and_then(|(rest, _)| rest.split_once('-')).map(|(_, e)| e);
    let (Some(engine), Ok(time)) = (engine, time.parse()) else { return false };
    PointName::of(time, engine, id).as_str() == text
}

/// A repository that has no state (made by plain restic, or its state objects are lost) still has
/// its snapshots; the newest by its own time is the best there is.
fn latest_without_state(site: &ServiceSite, state: &ServiceState) -> Result<SnapshotId, Error> {
    let none = || {
        Error::invalid(format!("{} has no recovery point yet", site.name()))
            .hinting("Run `mainstay backup` on its primary first.")
    };
    if !state.points.is_empty() {
        return Err(Error::invalid(format!("{} has only incomplete recovery points", site.name()))
            .hinting("Name one with `--snapshot` to take it all the same."));
    }
    site.repository()?.snapshots()?.pop().map(|(id, _)| id).ok_or_else(none)
}
