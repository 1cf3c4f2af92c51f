//! Replays the log into restored copies, before they are put in place.

use crate::operation::Operation;
use crate::placing::Destination;
use crate::{Error, ServiceSite, Which};
use engines::SnapshotMeta;
use engines::sqlite::log::{self, Batch, BatchName, ChainPlace, Plan, Reach, Span, database_id};
use engines::sqlite::spans;
use jiff::{SignedDuration, Timestamp};
use model::{Class, Classify, Generation, Progress, ServiceState};
use repository::log::LogStore;
use serde::{Deserialize, Serialize};

/// Objects of the log go only when they are so much older than the oldest point that is kept.
const MARGIN: SignedDuration = SignedDuration::from_mins(10);

/// What a replay came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replayed {
    /// Everything that was committed before this is there; of several databases, in each of them.
    pub until: Option<Timestamp>,
    /// Objects of the log that were read.
    pub objects: u64,
    /// Frames that were written.
    pub frames: u64,
    /// What is missing of what was asked for, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
    /// Where in their logs the copies are now.
    #[serde(skip)]
    pub(crate) held: Vec<HeldLog>,
}

/// Where in its log a copy of a database is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HeldLog {
    /// What the database is called in snapshots.
    pub root: String,
    /// There.
    pub span: Span,
}

/// The names of a service's log, as far as one generation has written it: what another wrote is of
/// another history.
pub(crate) struct Names {
    store: LogStore,
    generation: Generation,
    names: Vec<BatchName>,
}

impl Names {
    pub(crate) fn list(site: &ServiceSite, generation: Generation) -> Result<Names, Error> {
        let store = LogStore::new(site.repository()?);
        let own = store.list()?.into_iter().filter(|(_, of)| *of == generation);
        let names = own.filter_map(|(name, _)| BatchName::parse(&name)).collect();
        Ok(Names { store, generation, names })
    }

    /// How copies that are there get to a time, or to the end: for each its root and its plan.
    pub(crate) fn plan(
        &self,
        held: &[HeldLog],
        taken: Timestamp,
        until: Option<Timestamp>,
    ) -> Vec<(HeldLog, Plan)> {
        let own = |root: &str| -> Vec<BatchName> {
            let id = database_id(root);
            self.names.iter().filter(|name| name.database == id).copied().collect()
        };
        let copies: Vec<_> = held.iter().map(|held| (held.span, own(&held.root))).collect();
        held.iter().cloned().zip(log::together(&copies, taken, until)).collect()
    }

    /// Does without what is damaged of what a copy would be replayed from, as if the vault did not
    /// have it, and says so.
    fn leave_damaged(
        &mut self,
        operation: &Operation,
        held: &[HeldLog],
        taken: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<(), Error> {
        operation.report().phase("looking for what is sound of the log");
        while let Some((name, error)) = self.damaged(operation, held, taken, until)? {
            let why = error.chain();
            operation.report().warn(&format!("{why}; nothing after it can be replayed"));
            self.names.retain(|known| *known != name);
        }
        Ok(())
    }

    fn damaged(
        &self,
        operation: &Operation,
        held: &[HeldLog],
        taken: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<Option<(BatchName, Error)>, Error> {
        for (_, plan) in self.plan(held, taken, until) {
            for name in plan.whole.iter().chain(&plan.partly) {
                operation.check_cancel()?;
                match self.read(name) {
                    Err(e) if e.class() == Class::Corrupt => return Ok(Some((*name, e))),
                    other => drop(other?),
                }
            }
        }
        Ok(None)
    }

    fn read(&self, name: &BatchName) -> Result<Batch, Error> {
        let text = name.to_string();
        let bytes = self.store.fetch_from(&text, self.generation)?;
        let damaged = |what: &str| {
            Error::new(Class::Corrupt, format!("the object {text} of the log is damaged: {what}"))
        };
        let batch = Batch::decode(&bytes).map_err(|e| damaged(&e.to_string()))?;
        let end = batch.end();
        let as_named = batch.place.frame == name.from
            && end.frame == name.to
            && batch.before == name.before
            && batch.place.header.salt() == name.salts
            && batch.last_commit().is_some() == name.whole;
        if as_named { Ok(batch) } else { Err(damaged("it does not hold what its name says")) }
    }
}

/// Where the copies in a snapshot are.
pub(crate) fn held_by(meta: &SnapshotMeta) -> Vec<HeldLog> {
    spans(&meta.detail).into_iter().map(|(root, span)| HeldLog { root, span }).collect()
}

/// Replays into what is staged of a point that was chosen like this, as a step of its own; none if it has
/// no log of this kind, or is meant as it is.
pub(crate) fn replay_to(
    site: &ServiceSite,
    operation: &mut Operation,
    meta: &SnapshotMeta,
    destinations: &[Destination],
    which: &Which,
) -> Result<Option<Replayed>, Error> {
    let until = match which {
        Which::Latest => None,
        Which::At(time) => Some(*time),
        // A snapshot that was named is meant.
        Which::Named(_) => return Ok(None),
    };
    if !super::is_meant(site) {
        return Ok(None);
    }
    let replay = |operation: &mut Operation| replay(site, operation, meta, destinations, until);
    operation.step("replay", (), replay).map(Some)
}

/// Replays into what is staged of a snapshot, up to `until` or to the end.
pub(crate) fn replay(
    site: &ServiceSite,
    operation: &Operation,
    meta: &SnapshotMeta,
    destinations: &[Destination],
    until: Option<Timestamp>,
) -> Result<Replayed, Error> {
    let held = held_by(meta);
    if held.is_empty() {
        return Ok(Replayed::default());
    }
    operation.report().phase("looking for the log");
    let names = Names::list(site, meta.generation)?;
    let plans = names.plan(&held, meta.source_time, until);
    follow(operation, &names, plans, meta.source_time, destinations, until)
}

/// What is sound of the log behind a point: what is left where something of it is damaged.
pub(crate) struct Sound<'a> {
    names: Names,
    meta: &'a SnapshotMeta,
    until: Option<Timestamp>,
}

impl<'a> Sound<'a> {
    pub(crate) fn look(
        site: &ServiceSite,
        operation: &Operation,
        meta: &'a SnapshotMeta,
        until: Option<Timestamp>,
    ) -> Result<Sound<'a>, Error> {
        let mut names = Names::list(site, meta.generation)?;
        names.leave_damaged(operation, &held_by(meta), meta.source_time, until)?;
        Ok(Sound { names, meta, until })
    }

    /// Up to when it leads from the point.
    pub(crate) fn reaches(&self) -> Timestamp {
        let taken = self.meta.source_time;
        let plans = self.names.plan(&held_by(self.meta), taken, self.until);
        let reach = plans.iter().map(|(_, plan)| plan.reaches.unwrap_or(taken)).min();
        reach.map_or(taken, |reach| reach.max(taken))
    }

    /// Replays it into what is staged of the point.
    pub(crate) fn replay(
        &self,
        operation: &Operation,
        destinations: &[Destination],
    ) -> Result<Replayed, Error> {
        let (taken, until) = (self.meta.source_time, self.until);
        let plans = self.names.plan(&held_by(self.meta), taken, until);
        follow(operation, &self.names, plans, taken, destinations, until)
    }
}

/// Does what was planned for copies of this time.
pub(crate) fn follow(
    operation: &Operation,
    names: &Names,
    plans: Vec<(HeldLog, Plan)>,
    taken: Timestamp,
    destinations: &[Destination],
    until: Option<Timestamp>,
) -> Result<Replayed, Error> {
    let mut all = Replayed::default();
    let mut first = true;
    for (held, plan) in plans {
        let root = held.root.clone();
        let Some(destination) = destinations.iter().find(|d| d.root.in_snapshot == root) else {
            continue;
        };
        // Of several, those that go further than another end where that does.
        let until = plan.until.or(until);
        let one = replay_one(operation, names, destination, held, plan, until)?;
        all.objects += one.objects;
        all.frames += one.frames;
        all.gaps.extend(one.gaps.iter().map(|gap| format!("{root}: {gap}")));
        let reached = one.until.map(|time| time.max(taken));
        all.until = if first { reached } else { all.until.min(reached) };
        all.held.extend(one.held);
        first = false;
    }
    for gap in &all.gaps {
        operation.report().warn(gap);
    }
    Ok(all)
}

fn replay_one(
    operation: &Operation,
    names: &Names,
    destination: &Destination,
    held: HeldLog,
    plan: Plan,
    until: Option<Timestamp>,
) -> Result<Replayed, Error> {
    let mut done = Replayed {
        until: plan.reaches,
        gaps: plan.gap.into_iter().collect(),
        held: vec![held],
        ..Replayed::default()
    };
    // The last commit before the time that is wanted, in what is not wholly before it.
    let mut target = plan.whole.last().map(|name| (name.sequence, name.to));
    let mut partly = 0;
    if let Some(until) = until {
        for (number, name) in plan.partly.iter().enumerate() {
            operation.check_cancel()?;
            let batch = names.read(name)?;
            if let Some(mark) = batch.marks.iter().rev().find(|mark| mark.seen <= until) {
                target = Some((name.sequence, mark.frame));
                partly = number + 1;
            }
        }
    }
    // A copy that is further than that already is what was asked for.
    let Some((sequence, frame)) = target.filter(|target| plan.least <= Some(*target)) else {
        return Ok(done);
    };
    let report = operation.report();
    report.phase("replaying the log");
    report.expect(0, (plan.whole.len() + partly) as u64);
    let mut replay = log::replay(&destination.staged)?;
    let mut salts = None;
    for name in plan.whole.iter().chain(plan.partly.iter().take(partly)) {
        operation.check_cancel()?;
        let up_to = if name.sequence == sequence { frame } else { u32::MAX };
        replay.apply(&names.read(name)?, up_to)?;
        salts = Some(name.salts);
        done.objects += 1;
        report.advance(0, 1);
    }
    done.frames = replay.finish()?;
    if let (Some(salts), Some(chain)) = (salts, plan.chain) {
        let reach = Some(Reach { salts, frame: Some(frame) });
        let chain = Some(ChainPlace { chain, next: sequence.saturating_add(1) });
        let span = Span { from: reach, to: reach, chain };
        done.held.iter_mut().for_each(|held| held.span = span);
    }
    Ok(done)
}

/// What no point that is kept needs: what was read before the oldest of them was begun.
pub(crate) fn dispensable(
    state: &ServiceState,
    names: Vec<(String, Generation)>,
) -> Vec<(String, Generation)> {
    let oldest = state.points.iter().map(|point| point.source_time).min();
    let Some(before) = oldest.and_then(|oldest| oldest.checked_sub(MARGIN).ok()) else {
        return Vec::new();
    };
    let old = |name: &str| BatchName::parse(name).is_some_and(|name| name.read_at() < before);
    names.into_iter().filter(|(name, _)| old(name)).collect()
}
