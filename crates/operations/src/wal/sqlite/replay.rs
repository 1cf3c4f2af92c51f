//! Replays the log into restored copies, before they are put in place.

use crate::operation::Operation;
use crate::placing::Destination;
use crate::{Error, ServiceSite};
use engines::SnapshotMeta;
use engines::sqlite::log::{self, Batch, BatchName, Plan, Span, database_id};
use engines::sqlite::spans;
use jiff::{SignedDuration, Timestamp};
use model::{Class, Generation, Progress, ServiceState};
use repository::log::LogStore;
use serde::Serialize;

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
}

/// Replays into what is staged, up to `until` or to the end.
pub(crate) fn replay(
    site: &ServiceSite,
    operation: &Operation,
    meta: &SnapshotMeta,
    destinations: &[Destination],
    until: Option<Timestamp>,
) -> Result<Replayed, Error> {
    let store = LogStore::new(site.repository()?);
    let spans = spans(&meta.detail);
    let mut all = Replayed::default();
    if spans.is_empty() {
        return Ok(all);
    }
    operation.report().phase("looking for the log");
    let names: Vec<BatchName> = store
        .list()?
        .into_iter()
        // What another generation wrote is of another history.
        .filter(|(_, generation)| *generation == meta.generation)
        .filter_map(|(name, _)| BatchName::parse(&name))
        .collect();
    let mut first = true;
    for destination in destinations {
        let root = &destination.root.in_snapshot;
        let Some((_, span)) = spans.iter().find(|(name, _)| name == root) else { continue };
        let id = database_id(root);
        let own: Vec<BatchName> =
            names.iter().filter(|name| name.database == id).copied().collect();
        let plan = log::plan(span, meta.source_time, &own, until);
        let one = replay_one(operation, &store, meta.generation, destination, plan, span, until)?;
        all.objects += one.objects;
        all.frames += one.frames;
        all.gaps.extend(one.gaps.iter().map(|gap| format!("{}: {gap}", root)));
        let reached = one.until.map(|time| time.max(meta.source_time));
        all.until = if first { reached } else { all.until.min(reached) };
        first = false;
    }
    for gap in &all.gaps {
        operation.report().warn(gap);
    }
    Ok(all)
}

fn replay_one(
    operation: &Operation,
    store: &LogStore,
    generation: Generation,
    destination: &Destination,
    plan: Plan,
    _span: &Span,
    until: Option<Timestamp>,
) -> Result<Replayed, Error> {
    let mut done = Replayed {
        until: plan.reaches,
        gaps: plan.gap.into_iter().collect(),
        ..Replayed::default()
    };
    let read = |name: &BatchName| -> Result<Batch, Error> {
        let text = name.to_string();
        let bytes = store.fetch_from(&text, generation)?;
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
    };
    // The last commit before the time that is wanted, in what is not wholly before it.
    let mut target = plan.whole.last().map(|name| (name.sequence, name.to));
    let mut partly = 0;
    if let Some(until) = until {
        for (number, name) in plan.partly.iter().enumerate() {
            operation.check_cancel()?;
            let batch = read(name)?;
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
    for name in plan.whole.iter().chain(plan.partly.iter().take(partly)) {
        operation.check_cancel()?;
        let up_to = if name.sequence == sequence { frame } else { u32::MAX };
        replay.apply(&read(name)?, up_to)?;
        done.objects += 1;
        report.advance(0, 1);
    }
    done.frames = replay.finish()?;
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
