//! Restores from snapshot files alone: no state, no engine, the files as they were captured.

use super::Opened;
use crate::failure::Failure;
use jiff::Timestamp;
use model::{CancelToken, Class, Progress, SnapshotId};
use operations::Which;
use repository::restore::{self, Options, Restored};
use std::path::Path;

/// Restores the whole tree of a snapshot into `target`, which must not exist.
pub(crate) fn restore(
    opened: &Opened,
    snapshot: SnapshotId,
    target: &Path,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Restored, Failure> {
    if target.symlink_metadata().is_ok() {
        return Err(Failure::refused(format!("{} exists already", target.display()))
            .hint("Name a directory that does not exist yet."));
    }
    let options = Options { reuse: None, durable: true };
    progress.phase("restoring");
    let repository = &opened.repository;
    Ok(restore::restore(repository, snapshot, b"/", target, options, progress, cancel)?)
}

/// The snapshot that is meant, by the files' own times.
pub(crate) fn resolve(opened: &Opened, which: &Which) -> Result<SnapshotId, Failure> {
    let name = &opened.name;
    let all = &opened.snapshots;
    match which {
        Which::Named(text) => {
            // The short id ends a point's name.
            let digits = text.rsplit('-').next().unwrap_or(text).to_ascii_lowercase();
            let matching: Vec<SnapshotId> = all
                .iter()
                .map(|(id, _)| *id)
                .filter(|id| !digits.is_empty() && id.to_string().starts_with(&digits))
                .collect();
            match matching.as_slice() {
                [one] => Ok(*one),
                [] => Err(Failure::invalid(format!("{name} has no snapshot {text:?}"))),
                several => Err(Failure::invalid(format!(
                    "{text:?} is the beginning of {} snapshots of {name}",
                    several.len()
                ))),
            }
        }
        Which::Latest | Which::At(_) => {
            let limit = match which {
                Which::At(time) => *time,
                _ => Timestamp::MAX,
            };
            let whole = all.iter().filter_map(|(id, file)| {
                let time: Timestamp = file.time.parse().ok()?;
                let incomplete = file.tags.iter().any(|tag| tag == "mainstay:incomplete");
                (time <= limit && !incomplete).then_some((time, *id))
            });
            whole.max().map(|(_, id)| id).ok_or_else(|| {
                Failure::new(Class::Invalid, format!("{name} has no whole snapshot of that time"))
                    .hint("Name one with `--snapshot` to take an incomplete one all the same.")
            })
        }
    }
}
