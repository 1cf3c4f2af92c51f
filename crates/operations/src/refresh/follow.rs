//! A standby that follows a log by itself: how far it has come.

use super::Done;
use crate::operation::Operation;
use crate::standing::{self, Here, Still, Stuck, Trouble};
use crate::{Error, MemberRecord, ServiceSite, cluster, wal};
use engines::{Inspection, Running};
use jiff::Timestamp;
use model::state::Applied;
use model::{Class, Classify, Position, Progress, RecoveryPoint};
use std::time::{Duration, Instant};

/// How long a following standby that has more to replay may stand still.
const REPLAY_PATIENCE: Duration = Duration::from_secs(600);

/// After so long a standby has asked several times for the next part of the log.
const STUCK: Duration = Duration::from_secs(10);

/// How often it is looked then whether it stands in front of a gap.
const LOOK: Duration = Duration::from_secs(2);

/// What came of following.
pub(super) enum Followed {
    /// It is at the point, or past it.
    There,
    /// It is not, and never will be: it stands in front of a gap.
    Stuck(Stuck),
}

/// What a cancel does while a standby is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    /// It stops that: nothing was changed.
    Stops,
    /// The new copy is in place: it is started all the same, and only not waited for.
    EndsTheWait,
}

/// A running standby: start it if it is down, refuse it if it does not follow, wait until it has
/// replayed what the vault has.
pub(super) fn follow(
    site: &ServiceSite,
    operation: &mut Operation,
    point: &RecoveryPoint,
    cancel: Cancel,
    done: &mut Done,
) -> Result<Followed, Error> {
    let (engine, name) = (site.engine()?, site.name());
    let here = cluster::compare(site, &site.load_state()?.state, point)?;
    if let Here::Unsaved(what) | Here::Another(what) = &here {
        return Err(Error::refused(what).hinting(here.advice(site)));
    }
    let _held = (cancel == Cancel::EndsTheWait).then(|| operation.hold());
    if operation.with_context(site, |cx| engine.running(cx))? != Running::Yes {
        operation
            .step("start", (), |operation| operation.with_context(site, |cx| engine.start(cx)))?;
    }
    operation.report().phase("waiting for the standby to replay");
    // How far it can get with what the vault has.
    let goal = point.position.clone();
    let mut still = Still::default();
    let mut looked: Option<Instant> = None;
    loop {
        operation.check_cancel()?;
        if cancel == Cancel::EndsTheWait && operation.cancel().was_asked() {
            operation.report().warn(&format!(
                "the new copy of {name} is in place and runs; as it was asked to stop, it is not \
                 waited for until it has replayed what the vault has"
            ));
            return Ok(Followed::There);
        }
        let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
        let still = still.since(seen.position.as_ref(), Instant::now());
        if seen.running == Running::Yes && !seen.following {
            return Err(Error::refused(format!(
                "the copy of {name} on this host does not follow any more: it was promoted or written to"
            ))
            .hinting(format!(
                "Look at what is in it; `mainstay refresh {name} --reseed` puts it aside and begins anew."
            )));
        }
        if reached(seen.position.as_ref(), goal.as_ref()) {
            let held = wal::Until::look(site, &site.load_state()?.state)?.held(&seen)?;
            let source_time = held.map_or(point.source_time, |held| held.max(point.source_time));
            done.position.clone_from(&seen.position);
            done.source_time = source_time;
            let applied = Applied {
                snapshot: point.snapshot,
                source_time,
                position: seen.position.clone(),
                at: Timestamp::now(),
            };
            site.state()?.update(|state| state.applied(site.member(), Some(applied.clone())))?;
            MemberRecord::change(site, |record| {
                if let Some(applied) = &mut record.applied {
                    applied.snapshot = point.snapshot;
                    applied.source_time = source_time;
                }
            })?;
            if let Some(trouble) = beyond(site, operation, &seen)? {
                (done.stuck, done.advice) = (Some(trouble.told()), Some(trouble.advice(site)));
            }
            return Ok(Followed::There);
        }
        let look = looked.is_none_or(|looked| looked.elapsed() >= LOOK);
        let mut lost = false;
        if still >= STUCK && look {
            looked = Some(Instant::now());
            let state = site.load_state()?.state;
            if let Some(stuck) = standing::seen_stuck(site, &state, &seen, Some(point))?
                && !standing::has_more(site, &stuck.at)?
            {
                return Ok(Followed::Stuck(stuck));
            }
            if let Some(left) = standing::gone_past(site, seen.position.as_ref(), goal.as_ref())? {
                return Err(Error::refused(format!(
                    "the standby of {name} went on past {left}, where the primary left the timeline \
                     that it is on"
                ))
                .hinting(format!(
                    "`mainstay refresh {name} --reseed` puts the copy aside and builds it anew."
                )));
            }
            lost = wal::is_lost(site, seen.position.as_ref(), &goal)?;
        }
        if lost || still >= REPLAY_PATIENCE {
            let why = if lost { ": the vault does not have the log up to there" } else { "" };
            let place = goal.as_ref().map_or_else(|| "its goal".to_owned(), Position::to_string);
            let what = format!("the standby of {name} does not get to {place}{why}");
            let at = seen.position.map_or_else(|| "where it is".to_owned(), |at| at.to_string());
            return Err(Error::new(Class::Unavailable, what).hinting(format!(
                "Wait for the log from {at} on, or find out in its server's log what it lacks; if that \
                 comes no more, `mainstay refresh {name} --reseed` builds the copy anew from the \
                 newest point."
            )));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether a standby that has all of its point stands in front of a gap beyond that, or on what was given up.
/// One that streams passes over a gap: a note of one that is damaged is told, and keeps it from nothing.
fn beyond(
    site: &ServiceSite,
    operation: &Operation,
    seen: &Inspection,
) -> Result<Option<Trouble>, Error> {
    let state = site.load_state()?.state;
    if site.spec().stream_from.is_none() {
        return standing::seen_trouble(site, &state, seen);
    }
    match standing::seen_stuck(site, &state, seen, None) {
        Err(e) if e.class() == Class::Corrupt => operation.report().warn(&e.chain()),
        looked => drop(looked?),
    }
    standing::beside_gaps(site, &state, seen)
}

/// Whether a position is at or past another in the same log. On an older timeline it is not, however
/// far it is: a copy that has replayed more of what an old primary wrote than the new one did goes
/// on counting there, and holds none of what came after.
pub(crate) fn reached(seen: Option<&Position>, goal: Option<&Position>) -> bool {
    match (seen, goal) {
        (_, None) => true,
        (
            Some(Position::Lsn { lsn: seen, timeline: on }),
            Some(Position::Lsn { lsn: goal, timeline }),
        ) => on >= timeline && seen >= goal,
        (Some(seen), Some(goal)) => seen == goal,
        (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_on_a_timeline_that_was_left_reaches_nothing_of_the_next() {
        let at = |timeline, lsn| Some(Position::Lsn { timeline, lsn });
        let reached = |seen: Option<Position>, goal: Option<Position>| {
            super::reached(seen.as_ref(), goal.as_ref())
        };
        assert!(reached(at(1, 20), at(1, 20)));
        assert!(!reached(at(1, 19), at(1, 20)));
        assert!(!reached(at(1, 900), at(2, 20)), "it is past the place where the two parted");
        assert!(reached(at(2, 20), at(1, 20)));
        assert!(reached(None, None) && !reached(None, at(1, 1)));
    }
}
