//! Whether what was promised of recoveries holds: drills on time, and as fast as declared. Functions
//! of what was observed and of the time; nothing here looks or acts.

use crate::due::{self, Attempt};
use jiff::{SignedDuration, Timestamp};
use model::duration;
use model::schedule::{Schedule, is_ahead};
use model::state::LastDrill;
use operations::Scrubbed;
use std::time::Duration;

/// A drill that failed is tried again after this, and not only at the schedule's next time: it costs
/// as much as a restore.
const RETRY: Duration = Duration::from_secs(6 * 60 * 60);
/// What a drill may take before it is missed.
const GRACE: Duration = Duration::from_secs(6 * 60 * 60);

/// What was observed of the drills of one service.
#[derive(Clone, Debug)]
pub(crate) struct Drills {
    pub(crate) schedule: Option<Schedule>,
    pub(crate) rto: Option<Duration>,
    /// Drills on this host, oldest first.
    pub(crate) attempts: Vec<Attempt>,
    /// The last one on any host.
    pub(crate) last: Option<LastDrill>,
    /// When a drill last proved a point restorable.
    pub(crate) proven: Option<Timestamp>,
    /// There is a standby, which takes over where a restore would take too long.
    pub(crate) standby: bool,
    /// How long the last takeover that was measured took until the new primary served.
    pub(crate) takeover: Option<Duration>,
    /// Since when this host is what it is.
    pub(crate) since: Timestamp,
}

impl Drills {
    /// Whether one is due, and when to ask again.
    pub(crate) fn due(&self, now: Timestamp) -> (bool, Option<Timestamp>) {
        due(self.schedule.as_ref(), &self.attempts, now)
    }

    /// One sentence if no drill has proven anything since the last but one time that the schedule
    /// named; that nothing happens at all is noticed by this.
    pub(crate) fn overdue(&self, now: Timestamp) -> Option<String> {
        overdue(("drill", GRACE), self.schedule.as_ref()?, self.proven, self.since, now)
    }

    /// One sentence if the last recovery took longer than the declared RTO, or never came to its end:
    /// with a standby that is a takeover, and else what a drill measured, a restore.
    pub(crate) fn slow(&self) -> Option<String> {
        let rto = self.rto?;
        let promised = duration::human(rto);
        let (what, took) = match self.standby {
            true => ("takeover", Some(self.takeover?)),
            false => {
                let millis = self.last.as_ref()?.drill.recovery_millis;
                ("recovery", millis.map(Duration::from_millis))
            }
        };
        match took {
            Some(took) if took <= rto => None,
            Some(took) => Some(format!(
                "the last {what} took {}; {promised} are promised",
                duration::human(took)
            )),
            None => Some(format!("the last {what} failed; {promised} are promised")),
        }
    }

    /// Whether the declared RTO is kept; unknown until it was measured.
    pub(crate) fn rto_kept(&self) -> Option<bool> {
        let measured = if self.standby { self.takeover.is_some() } else { self.last.is_some() };
        (self.rto.is_some() && measured).then(|| self.slow().is_none())
    }
}

/// What was observed of the scrubs of a standby on this host.
#[derive(Clone, Debug)]
pub(crate) struct Scrubs {
    /// None where there is no standby that could be scrubbed.
    pub(crate) schedule: Option<Schedule>,
    /// Scrubs on this host, oldest first.
    pub(crate) attempts: Vec<Attempt>,
    /// What the last one found.
    pub(crate) last: Option<Scrubbed>,
    /// Something has rotted, and was not replaced.
    pub(crate) rotten: bool,
    /// Since when this host is what it is.
    pub(crate) since: Timestamp,
}

impl Scrubs {
    /// Whether one is due, and when to ask again.
    pub(crate) fn due(&self, now: Timestamp) -> (bool, Option<Timestamp>) {
        due(self.schedule.as_ref(), &self.attempts, now)
    }

    /// One sentence if the copy was not read through since the last but one time that the schedule
    /// named.
    pub(crate) fn overdue(&self, now: Timestamp) -> Option<String> {
        let read = self.last.as_ref().map(|last| last.at);
        overdue(("scrub", GRACE), self.schedule.as_ref()?, read, self.since, now)
    }

    /// One sentence if something has rotted and is still there.
    pub(crate) fn rot(&self) -> Option<String> {
        let count = self.last.as_ref().map_or(0, |last| last.rotten);
        self.rotten.then(|| match count {
            1 => "a file of the standby has rotted, and was not replaced yet".to_owned(),
            count => format!("{count} files of the standby have rotted, and were not replaced yet"),
        })
    }

    /// One sentence if the last scrub found something, also if it was replaced: a disk on which a bit
    /// has rotted should be looked at.
    pub(crate) fn found(&self) -> Option<String> {
        let count = self.last.as_ref().map_or(0, |last| last.rotten);
        self.rot().or_else(|| match count {
            0 => None,
            1 => Some("a file of the standby had rotted, and was replaced".to_owned()),
            count => Some(format!("{count} files of the standby had rotted, and were replaced")),
        })
    }
}

fn due(
    schedule: Option<&Schedule>,
    attempts: &[Attempt],
    now: Timestamp,
) -> (bool, Option<Timestamp>) {
    schedule.map_or((false, None), |schedule| due::scheduled(schedule, attempts, RETRY, now))
}

/// One sentence if nothing of this kind, which may take so long, went well since the last but one time that
/// the schedule named.
pub(crate) fn overdue(
    (what, grace): (&str, Duration),
    schedule: &Schedule,
    well: Option<Timestamp>,
    since: Timestamp,
    now: Timestamp,
) -> Option<String> {
    let done_by_now = now.checked_sub(duration::signed(grace)).ok()?;
    let last = schedule.previous(done_by_now)?;
    let limit = schedule.previous(last.checked_sub(SignedDuration::from_secs(1)).ok()?)?;
    let ago = |then| duration::age(then, now).map(duration::human).unwrap_or_default();
    match well {
        Some(well) if is_ahead(well, now) => Some(format!(
            "the last {what} that went well is of a time that is still to come; clocks were wrong"
        )),
        Some(well) if well < limit => {
            Some(format!("the last {what} that went well was {} ago", ago(well)))
        }
        None if since < limit => Some(format!("no {what} went well in {}", ago(since))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use model::{Drill, MemberName, SnapshotId};

    fn at(text: &str) -> Timestamp {
        format!("2026-11-{text}:00Z").parse().unwrap()
    }

    /// Sundays at four.
    fn weekly(attempts: &[(&str, bool)]) -> Drills {
        let attempt = |(began, well): &(&str, bool)| Attempt {
            began: at(began),
            well: *well,
            incomplete: false,
            hook_failed: false,
        };
        Drills {
            schedule: Some(Schedule::parse("0 4 * * 0", TimeZone::UTC).unwrap()),
            rto: None,
            attempts: attempts.iter().map(attempt).collect(),
            last: None,
            proven: None,
            standby: false,
            takeover: None,
            // After that Sunday's.
            since: at("01T05:00"),
        }
    }

    fn took(millis: Option<u64>) -> LastDrill {
        LastDrill {
            snapshot: SnapshotId([0; 32]),
            source_time: at("08T03:00"),
            drill: Drill {
                at: at("08T04:10"),
                member: MemberName::new("b").unwrap(),
                sound: millis.is_some(),
                recovery_millis: millis,
                isolated: true,
            },
        }
    }

    #[test]
    fn a_drill_is_due_once_and_tried_again_later() {
        assert!(weekly(&[]).due(at("10T00:00")).0);
        let done = weekly(&[("08T04:01", true)]);
        assert_eq!(done.due(at("10T00:00")), (false, Some(at("15T04:00"))));
        assert!(done.due(at("15T04:00")).0);
        let failed = weekly(&[("08T04:01", false)]);
        assert_eq!(failed.due(at("08T04:30")), (false, Some(at("08T10:01"))));
        assert!(failed.due(at("08T10:01")).0);
        // A clock that was set back since.
        assert!(failed.due(at("07T04:30")).0);
        let unscheduled = Drills { schedule: None, ..weekly(&[]) };
        assert_eq!(unscheduled.due(at("10T00:00")), (false, None));
    }

    #[test]
    fn that_nothing_happens_is_noticed() {
        let mut drills = weekly(&[]);
        // The 1st, the 8th and the 15th were Sundays.
        assert_eq!(drills.overdue(at("15T09:59")), None);
        assert!(drills.overdue(at("15T10:01")).unwrap().contains("no drill went well"));
        drills.proven = Some(at("08T04:10"));
        assert_eq!(drills.overdue(at("22T09:59")), None);
        assert!(drills.overdue(at("22T10:01")).unwrap().contains("14 d"));
        drills.proven = Some(at("29T04:10"));
        assert!(drills.overdue(at("22T10:01")).unwrap().contains("still to come"));
    }

    #[test]
    fn the_rto_is_what_was_measured() {
        let mut drills = weekly(&[]);
        drills.last = Some(took(Some(30_000)));
        assert_eq!((drills.slow(), drills.rto_kept()), (None, None), "nothing is declared");
        drills.rto = Some(Duration::from_secs(30));
        assert_eq!((drills.slow(), drills.rto_kept()), (None, Some(true)));
        drills.last = Some(took(Some(30_001)));
        assert!(drills.slow().unwrap().contains("30 s are promised"));
        drills.last = Some(took(None));
        assert_eq!(drills.rto_kept(), Some(false));
        drills.last = None;
        assert_eq!(drills.rto_kept(), None, "nothing was measured");
    }

    /// What takes over need not be restored first.
    #[test]
    fn with_a_standby_a_recovery_is_a_takeover() {
        let mut drills = weekly(&[]);
        drills.rto = Some(Duration::from_secs(30));
        drills.last = Some(took(Some(600_000)));
        assert_eq!(drills.rto_kept(), Some(false));
        drills.standby = true;
        assert_eq!((drills.slow(), drills.rto_kept()), (None, None), "none was measured");
        drills.takeover = Some(Duration::from_secs(30));
        assert_eq!((drills.slow(), drills.rto_kept()), (None, Some(true)));
        drills.takeover = Some(Duration::from_secs(31));
        assert!(drills.slow().unwrap().contains("takeover took 31 s"));
        assert_eq!(drills.rto_kept(), Some(false));
    }
}
