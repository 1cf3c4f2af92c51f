//! A standby that follows a log by itself: how far it has come.

use super::Done;
use crate::operation::Operation;
use crate::{Error, MemberRecord, ServiceSite};
use engines::Running;
use jiff::Timestamp;
use model::state::Applied;
use model::{Class, Position, Progress, RecoveryPoint};
use std::time::{Duration, Instant};

/// How long a following standby may take to replay what the vault has.
const REPLAY_PATIENCE: Duration = Duration::from_secs(600);

/// After so long a standby has asked several times for the next part of the log.
const STUCK: Duration = Duration::from_secs(10);

/// A running standby: start it if it is down, refuse it if it does not follow, wait until it has
/// replayed what the vault has.
pub(super) fn follow(
    site: &ServiceSite,
    operation: &mut Operation,
    point: &RecoveryPoint,
    done: &mut Done,
) -> Result<(), Error> {
    let engine = site.engine()?;
    if operation.with_context(site, |cx| engine.running(cx))? != Running::Yes {
        operation
            .step("start", (), |operation| operation.with_context(site, |cx| engine.start(cx)))?;
    }
    operation.report().phase("waiting for the standby to replay");
    let goal = replay_goal(site, point)?;
    let deadline = Instant::now() + REPLAY_PATIENCE;
    let mut last: Option<(Option<Position>, Instant)> = None;
    loop {
        operation.check_cancel()?;
        let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
        let still = match &last {
            Some((position, since)) if *position == seen.position => since.elapsed(),
            _ => {
                last = Some((seen.position.clone(), Instant::now()));
                Duration::ZERO
            }
        };
        if seen.running == Running::Yes && !seen.following {
            return Err(Error::refused(format!(
                "the copy of {} on this host does not follow any more: it was promoted or written to",
                site.name()
            ))
            .hinting("Look at what is in it; `mainstay refresh --reseed` puts it aside and begins anew."));
        }
        if reached(seen.position.as_ref(), goal.as_ref()) {
            let source_time = seen.replayed.unwrap_or(point.source_time).max(point.source_time);
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
            return Ok(());
        }
        let lost = still >= STUCK && crate::wal::is_lost(site, seen.position.as_ref(), &goal)?;
        if lost || Instant::now() >= deadline {
            let why = if lost { ": the vault does not have the log up to there" } else { "" };
            return Err(Error::new(
                Class::Unavailable,
                format!(
                    "the standby of {} does not get to {}{why}",
                    site.name(),
                    place(goal.as_ref())
                ),
            )
            .hinting("Look at its log for a segment that it cannot get; `mainstay refresh --reseed` builds it anew."));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// How far a standby can get with what the vault has: the head's position.
fn replay_goal(_site: &ServiceSite, point: &RecoveryPoint) -> Result<Option<Position>, Error> {
    Ok(point.position.clone())
}

fn place(position: Option<&Position>) -> String {
    position.map_or_else(|| "its goal".to_owned(), Position::to_string)
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
