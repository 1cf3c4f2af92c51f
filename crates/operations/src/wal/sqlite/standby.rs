//! A standby that goes along the log from where it is, without another look at a snapshot.

use super::replay::{HeldLog, Names, Replayed, follow, held_by};
use crate::operation::Operation;
use crate::placing::{self, Destination, Staging};
use crate::{AppliedHere, Error, ServiceSite};
use engines::SnapshotMeta;
use engines::sqlite::log::Plan;
use jiff::Timestamp;
use model::{Progress, ServiceState, SnapshotId};
use repository::restore::Restored;
use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// How a standby gets to the newest that the vault has.
pub(crate) enum Course {
    /// It holds all that was committed before this, and that is all there is.
    Stands(Timestamp),
    /// Along the log.
    Ahead(Ahead),
    /// From a snapshot.
    Anew,
}

impl Course {
    pub(crate) fn look(
        site: &ServiceSite,
        held: &AppliedHere,
        snapshot: SnapshotId,
        point: &SnapshotMeta,
    ) -> Result<Course, Error> {
        let names = Names::list(site, point.generation)?;
        let goals = names.plan(&held_by(point), point.source_time, None);
        // Whether it would get any further than it is.
        let reach = goals.iter().map(|(_, plan)| plan.reaches.unwrap_or(point.source_time)).min();
        let reach = reach.map_or(point.source_time, |reach| reach.max(point.source_time));
        match Ahead::plan(names, held, point, &goals) {
            Some(ahead) if ahead.is_at_end() => Ok(Course::Stands(ahead.until())),
            Some(ahead) => Ok(Course::Ahead(ahead)),
            None if held.snapshot == snapshot && held.source_time >= reach => {
                Ok(Course::Stands(held.source_time))
            }
            None => Ok(Course::Anew),
        }
    }
}

/// The way from what is held to the end of the log.
pub(crate) struct Ahead {
    names: Names,
    plans: Vec<(HeldLog, Plan)>,
    taken: Timestamp,
}

impl Ahead {
    /// None if the log does not lead from what is held to everything that is in the point.
    fn plan(
        names: Names,
        held: &AppliedHere,
        point: &SnapshotMeta,
        goals: &[(HeldLog, Plan)],
    ) -> Option<Ahead> {
        if held.log.is_empty() || held.log.len() != point.roots.len() {
            return None;
        }
        let plans = names.plan(&held.log, held.source_time, None);
        let leads = plans.iter().all(|(held, plan)| {
            let goal = goals.iter().find(|(goal, _)| goal.root == held.root);
            plan.gap.is_none()
                && plan.chain.is_some()
                && goal.is_some_and(|(_, goal)| {
                    goal.chain == plan.chain && goal.least.is_some() && plan.end >= goal.least
                })
        });
        leads.then_some(Ahead { names, plans, taken: held.source_time })
    }

    /// Nothing was committed since what is held.
    fn is_at_end(&self) -> bool {
        self.plans.iter().all(|(_, plan)| plan.whole.is_empty() && plan.partly.is_empty())
    }

    /// Everything that was committed before this is held then.
    fn until(&self) -> Timestamp {
        let reach = |(_, plan): &(HeldLog, Plan)| plan.reaches.unwrap_or(self.taken);
        self.plans.iter().map(reach).min().map_or(self.taken, |until| until.max(self.taken))
    }

    /// Makes a copy of what is held, and replays into that.
    pub(crate) fn stage(
        self,
        operation: &mut Operation,
        destinations: &[Destination],
    ) -> Result<(Staging, Option<Replayed>), Error> {
        let staging = operation.step("stage", destinations, |operation| {
            operation.report().phase("copying what is here");
            let mut copied = Vec::new();
            for destination in destinations {
                operation.check_cancel()?;
                copied.push(clone(&destination.target, &destination.staged)?);
            }
            Ok(copied)
        })?;
        let of = |bytes: u64| Restored { files: 1, bytes, ..Restored::default() };
        let staging = Staging { roots: staging.into_iter().map(of).collect() };
        let replayed = operation.step("replay", (), |operation| {
            follow(operation, &self.names, self.plans, self.taken, destinations, None)
        })?;
        Ok((staging, Some(replayed)))
    }
}

/// Up to when the log in the vault reaches beyond the newest point; none if it does not.
pub fn reaches(site: &ServiceSite, state: &ServiceState) -> Result<Option<Timestamp>, Error> {
    let Some(head) = state.head_point().filter(|_| super::is_meant(site)) else { return Ok(None) };
    let meta = placing::meta(site, head.snapshot)?;
    let held = held_by(&meta);
    if held.is_empty() {
        return Ok(None);
    }
    let plans = Names::list(site, meta.generation)?.plan(&held, meta.source_time, None);
    let reach = plans.iter().map(|(_, plan)| plan.reaches).min().flatten();
    Ok(reach.filter(|reach| *reach > meta.source_time))
}

/// A copy of a file with its owner and mode: a clone, where the file system can.
fn clone(from: &Path, to: &Path) -> Result<u64, Error> {
    let read = |e| Error::io("read", from, e);
    let write = |e| Error::io("write", to, e);
    let source = File::open(from).map_err(read)?;
    let like = source.metadata().map_err(read)?;
    let target =
        File::options().write(true).create_new(true).mode(0o600).open(to).map_err(write)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        placing::check_space(to, like.len())?;
        std::io::copy(&mut &source, &mut &target).map_err(write)?;
    }
    let own = target.metadata().map_err(write)?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        // Without root it stays ours, as everything that is restored does.
        let _ = fchown(&target, Some(like.uid()), Some(like.gid()));
    }
    target.set_permissions(Permissions::from_mode(like.mode() & 0o7777)).map_err(write)?;
    // Where nothing is replayed into it nobody else does that before it is exchanged.
    target.sync_all().map_err(write)?;
    if let Some(dir) = to.parent() {
        crate::journal::sync_dir(dir)?;
    }
    Ok(like.len())
}
