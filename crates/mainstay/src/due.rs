//! Decides what `run-due` does: what runs now, and what somebody must be told. Functions of what
//! was observed and of the time; nothing here looks or acts.

use jiff::Timestamp;
use model::schedule::{Schedule, is_ahead};
use model::{MemberName, Role, duration};
use operations::alert::REMINDER;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A run that failed is tried again after this, and not only at the schedule's next time.
const RETRY: Duration = Duration::from_secs(10 * 60);
/// What one run may take before it is missed.
const GRACE: Duration = Duration::from_secs(60 * 60);

/// One run of the kind that the schedule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) began: Timestamp,
    /// It came to its end.
    pub(crate) well: bool,
    /// But something of the source could not be read.
    pub(crate) incomplete: bool,
    /// But a hook that came after it failed.
    pub(crate) hook_failed: bool,
}

/// What was observed of one service.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) role: Role,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) rpo: Option<Duration>,
    /// Runs on this host of the kind that the role asks for, oldest first.
    pub(crate) attempts: Vec<Attempt>,
    /// Source time of the newest whole point in the vault.
    pub(crate) newest: Option<Timestamp>,
    /// Source time of what this host holds, if it is a standby.
    pub(crate) holds: Option<Timestamp>,
    /// Other members that are standbys and that say what they hold: since when they are, and its
    /// source time.
    pub(crate) standbys: Vec<(MemberName, Timestamp, Option<Timestamp>)>,
    /// Since when this host is what it is.
    pub(crate) since: Timestamp,
    /// What of the log is missing, or why it leads on from no point, so that a base is due whatever the
    /// schedule says.
    pub(crate) gap: Option<String>,
    /// That base is made only once somebody has said that it is meant.
    pub(crate) is_refused: bool,
}

impl Observed {
    /// No recovery gets to what is written now, and a base helps.
    fn needs_base(&self) -> bool {
        self.role == Role::Primary && self.gap.is_some() && !self.is_refused
    }
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// A backup.
    Backup,
    /// A refresh.
    Refresh,
    /// Nothing now.
    Nothing,
}

/// What is to be done about one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) action: Action,
    /// When to ask again.
    pub(crate) next: Option<Timestamp>,
    /// It is due, and waits for then because the last one failed.
    pub(crate) retries: bool,
}

/// Nothing, ever.
const NOTHING: Decision = Decision { action: Action::Nothing, next: None, retries: false };

/// What runs now.
pub(crate) fn decide(seen: &Observed, now: Timestamp) -> Decision {
    let action = match seen.role {
        Role::Primary => Action::Backup,
        Role::Standby => Action::Refresh,
        Role::Broken => return NOTHING,
    };
    let (scheduled, next) = match &seen.schedule {
        Some(schedule) => {
            let due = schedule.due(went_well(&seen.attempts, now), now);
            (due.now, due.next)
        }
        None => (false, None),
    };
    match (scheduled || seen.needs_base(), retry(&seen.attempts, RETRY, now)) {
        (true, Some(retry)) => {
            Decision { action: Action::Nothing, next: Some(retry), retries: true }
        }
        (true, None) => Decision { action, next, retries: false },
        (false, _) => Decision { action: Action::Nothing, next, retries: false },
    }
}

/// Whether a run by a schedule of its own is due, and when to ask again: one that failed is tried again
/// after `pause`, and not only at the schedule's next time.
pub(crate) fn scheduled(
    schedule: &Schedule,
    attempts: &[Attempt],
    pause: Duration,
    now: Timestamp,
) -> (bool, Option<Timestamp>) {
    let due = schedule.due(went_well(attempts, now), now);
    match retry(attempts, pause, now) {
        Some(retry) if due.now => (false, Some(retry)),
        _ => (due.now, due.next),
    }
}

/// When a run is tried again: after this pause, if the last one failed and that is not over yet.
pub(crate) fn retry(attempts: &[Attempt], pause: Duration, now: Timestamp) -> Option<Timestamp> {
    let failed = newest_first(attempts, now).next().filter(|attempt| !attempt.well)?;
    let retry = failed.began.checked_add(duration::signed(pause)).ok()?;
    (retry > now).then_some(retry)
}

/// When the last run began that went well.
fn went_well(attempts: &[Attempt], now: Timestamp) -> Option<Timestamp> {
    newest_first(attempts, now).find(|attempt| attempt.well).map(|attempt| attempt.began)
}

/// The runs that can have been. One "in the future", of a clock that was set back since, says nothing of
/// what is due now: neither is its failure waited for, nor does it make the same due again and again.
fn newest_first(attempts: &[Attempt], now: Timestamp) -> impl Iterator<Item = &Attempt> {
    attempts.iter().rev().filter(move |attempt| !is_ahead(attempt.began, now))
}

/// The age of something in a sentence, or that nobody knows it.
fn aged(then: Timestamp, now: Timestamp) -> String {
    match duration::age(then, now) {
        Some(age) => format!("is {} old", duration::human(age)),
        None => {
            let ahead = duration::age(now, then).map(duration::human).unwrap_or_default();
            format!("is of a time {ahead} from now, and how old it is nobody knows")
        }
    }
}

/// From when the newest point (of a standby: what it holds) must be at least: younger than the
/// declared RPO, else from the last but one time that the schedule named, so that weekends count as
/// the schedule counts them.
pub(crate) fn not_before(seen: &Observed, now: Timestamp) -> Option<Timestamp> {
    if let Some(rpo) = seen.rpo {
        return now.checked_sub(duration::signed(rpo)).ok();
    }
    let schedule = seen.schedule.as_ref()?;
    let done_by_now = now.checked_sub(duration::signed(GRACE)).ok()?;
    let last = schedule.previous(done_by_now)?;
    schedule.previous(last.checked_sub(jiff::SignedDuration::from_secs(1)).ok()?)
}

/// One sentence if the newest point is older than it may be; that nothing happens at all is noticed
/// by this, too.
pub(crate) fn staleness(seen: &Observed, now: Timestamp) -> Option<String> {
    let limit = not_before(seen, now)?;
    let (what, time) = match seen.role {
        Role::Primary => ("the newest point", seen.newest),
        Role::Standby => ("what this standby holds", seen.holds),
        Role::Broken => return None,
    };
    // What never had a point is as old as the member.
    let from = time.unwrap_or(seen.since);
    let human = |then| duration::age(then, now).map(duration::human).unwrap_or_default();
    let allowed = human(limit);
    match time {
        Some(time) if is_ahead(time, now) => Some(format!(
            "{what} {}; {allowed} are allowed. Set the clocks right, then back up",
            aged(time, now)
        )),
        _ if from >= limit => None,
        Some(time) => Some(format!("{what} {}; {allowed} are allowed", aged(time, now))),
        None => {
            let age = human(from);
            Some(format!("there is no point yet after {age}; {allowed} are allowed"))
        }
    }
}

/// One sentence, told by the primary, if standbys hold something older than the declared RPO allows:
/// one whose host is gone can tell nobody.
pub(crate) fn behind(seen: &Observed, now: Timestamp) -> Option<String> {
    let rpo = seen.rpo.filter(|_| seen.role == Role::Primary)?;
    let limit = now.checked_sub(duration::signed(rpo)).ok()?;
    let old = seen.standbys.iter().filter(|(_, since, holds)| match holds {
        Some(holds) => *holds < limit || is_ahead(*holds, now),
        None => *since < limit,
    });
    let told: Vec<String> = old
        .map(|(name, since, holds)| match holds {
            Some(holds) => format!("what {name} holds {}", aged(*holds, now)),
            None => {
                let age = duration::age(*since, now).map(duration::human).unwrap_or_default();
                format!("{name} holds nothing after {age}")
            }
        })
        .collect();
    (!told.is_empty()).then(|| format!("{}; {} are allowed", told.join(", "), duration::human(rpo)))
}

/// What somebody was told and has not been told is over, by what it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Told(BTreeMap<String, TellState>);

/// Since when, and when last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct TellState {
    since: Timestamp,
    told: Timestamp,
}

/// What somebody is to be told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    /// It is new, or it is time for a reminder.
    Wrong,
    /// It was wrong, and is well again.
    Recovered,
    /// Nothing.
    Nothing,
}

impl Told {
    /// What to tell about this, given whether it is wrong now. [`Told::remember`] after it was told.
    pub(crate) fn tell(&self, about: &str, wrong: bool, now: Timestamp) -> Tell {
        match (self.0.get(about), wrong) {
            (None, true) => Tell::Wrong,
            (Some(state), true) => match duration::age(state.told, now) {
                Some(age) if age < REMINDER => Tell::Nothing,
                // Told "in the future" by a clock that was wrong: told again.
                _ => Tell::Wrong,
            },
            (Some(_), false) => Tell::Recovered,
            (None, false) => Tell::Nothing,
        }
    }

    /// Whether it was told.
    pub(crate) fn knows(&self, about: &str) -> bool {
        self.0.contains_key(about)
    }

    /// What was told that begins with this.
    pub(crate) fn known<'t>(&'t self, prefix: &'t str) -> impl Iterator<Item = &'t String> {
        self.0.keys().filter(move |about| about.starts_with(prefix))
    }

    /// Forgets what begins with this and is not to be kept.
    pub(crate) fn keep(&mut self, prefix: &str, keep: impl Fn(&str) -> bool) {
        self.0.retain(|about, _| !about.starts_with(prefix) || keep(about));
    }

    /// Remembers that it was told.
    pub(crate) fn remember(&mut self, about: &str, told: Tell, now: Timestamp) {
        match told {
            Tell::Wrong => {
                let state = TellState { since: now, told: now };
                self.0.entry(about.to_owned()).and_modify(|old| old.told = now).or_insert(state);
            }
            Tell::Recovered => {
                self.0.remove(about);
            }
            Tell::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-21T{text}Z").parse().unwrap()
    }

    fn attempt(well: bool) -> Attempt {
        Attempt { began: at("00:00:00"), well, incomplete: false, hook_failed: false }
    }

    fn seen(attempts: &[(&str, bool)]) -> Observed {
        let attempt = |(began, well): &(&str, bool)| Attempt { began: at(began), ..attempt(*well) };
        Observed {
            role: Role::Primary,
            schedule: Some(Schedule::parse("0 * * * *", TimeZone::UTC).unwrap()),
            rpo: None,
            attempts: attempts.iter().map(attempt).collect(),
            newest: Some(at("08:00:00")),
            holds: None,
            standbys: Vec::new(),
            since: at("00:00:00"),
            gap: None,
            is_refused: false,
        }
    }

    #[test]
    fn what_was_missed_runs_once() {
        assert_eq!(decide(&seen(&[]), at("09:30:00")).action, Action::Backup);
        let missed = seen(&[("03:00:00", true)]);
        assert_eq!(decide(&missed, at("09:30:00")).action, Action::Backup);
        let done = decide(&seen(&[("09:00:01", true)]), at("09:30:00"));
        assert_eq!(done, Decision { next: Some(at("10:00:00")), ..NOTHING });
    }

    #[test]
    fn what_failed_is_tried_again_but_not_at_once() {
        let failed = seen(&[("08:00:01", true), ("09:00:01", false)]);
        let soon = decide(&failed, at("09:05:00"));
        assert_eq!(soon, Decision { next: Some(at("09:10:01")), retries: true, ..NOTHING });
        assert_eq!(decide(&failed, at("09:10:01")).action, Action::Backup);
        // A failure that a success came after is over.
        let over = seen(&[("09:00:01", false), ("09:10:01", true)]);
        assert_eq!(decide(&over, at("09:30:00")).action, Action::Nothing);
    }

    #[test]
    fn a_run_by_its_own_schedule_is_tried_again_later() {
        let observed = seen(&[("08:00:01", true), ("09:00:01", false)]);
        let schedule = observed.schedule.unwrap();
        let ask = |attempts: &[Attempt], now| {
            scheduled(&schedule, attempts, Duration::from_secs(1800), at(now))
        };
        assert_eq!(ask(&[], "09:10:00"), (true, Some(at("10:00:00"))));
        assert!(ask(&observed.attempts[..1], "09:10:00").0);
        assert_eq!(ask(&observed.attempts, "09:10:00"), (false, Some(at("09:30:01"))));
        assert!(ask(&observed.attempts, "09:30:01").0);
        assert!(!ask(&observed.attempts[..1], "08:59:00").0);
    }

    #[test]
    fn runs_of_a_clock_that_was_set_back_silence_nothing() {
        let before = seen(&[("08:00:01", true), ("20:00:01", true), ("21:00:01", false)]);
        let schedule = before.schedule.clone().unwrap();
        let pause = Duration::from_secs(1800);
        for observed in [&before, &seen(&[("21:00:01", false)])] {
            assert_eq!(decide(observed, at("09:10:00")).action, Action::Backup);
            assert!(scheduled(&schedule, &observed.attempts, pause, at("09:10:00")).0);
            assert_eq!(retry(&observed.attempts, pause, at("09:10:00")), None);
        }
        // Once there is one of the clock as it is now, that counts.
        let mut after = before;
        after.attempts.insert(1, Attempt { began: at("09:10:00"), ..attempt(true) });
        assert_eq!(decide(&after, at("09:11:00")).action, Action::Nothing);
        assert!(!scheduled(&schedule, &after.attempts, pause, at("09:11:00")).0);
        after.attempts[1].well = false;
        assert_eq!(decide(&after, at("09:11:00")).next, Some(at("09:20:00")));
        assert_eq!(retry(&after.attempts, pause, at("09:11:00")), Some(at("09:40:00")));
    }

    #[test]
    fn each_role_has_its_run() {
        let mut standby = seen(&[]);
        standby.role = Role::Standby;
        assert_eq!(decide(&standby, at("09:00:00")).action, Action::Refresh);
        standby.role = Role::Broken;
        assert_eq!(decide(&standby, at("09:00:00")).action, Action::Nothing);
        let mut unscheduled = seen(&[]);
        unscheduled.schedule = None;
        assert_eq!(decide(&unscheduled, at("09:00:00")).action, Action::Nothing);
    }

    #[test]
    fn a_gap_in_the_log_forces_a_base() {
        let mut gap = seen(&[("09:00:01", true)]);
        gap.gap = Some("the log is not in the vault".to_owned());
        assert_eq!(decide(&gap, at("09:30:00")).action, Action::Backup);
        gap.attempts.push(Attempt { began: at("09:25:00"), ..attempt(false) });
        assert_eq!(decide(&gap, at("09:30:00")).next, Some(at("09:35:00")));
        gap.schedule = None;
        assert_eq!(decide(&gap, at("09:40:00")).action, Action::Backup);
        gap.role = Role::Standby;
        assert_eq!(decide(&gap, at("09:40:00")).action, Action::Nothing);
    }

    #[test]
    fn silence_is_noticed() {
        let mut observed = seen(&[]);
        // 09:00 was missed, and by 11:00 so is 10:00.
        assert_eq!(staleness(&observed, at("10:59:59")), None);
        assert!(staleness(&observed, at("11:00:00")).unwrap().contains("3 h old"));
        observed.rpo = Some(Duration::from_secs(600));
        assert_eq!(staleness(&observed, at("08:10:00")), None);
        assert!(staleness(&observed, at("08:10:01")).is_some());
        observed.newest = None;
        assert!(staleness(&observed, at("08:10:01")).unwrap().contains("no point yet"));
        observed.role = Role::Standby;
        observed.holds = Some(at("08:10:00"));
        assert_eq!(staleness(&observed, at("08:15:00")), None);
    }

    /// A point of a clock that ran ahead is newer than everything until that time comes: it must not stand
    /// for all that is not backed up until then.
    #[test]
    fn a_point_from_the_future_keeps_no_promise() {
        let mut observed = seen(&[]);
        observed.rpo = Some(Duration::from_secs(600));
        let name = MemberName::new("b").unwrap();
        observed.standbys = vec![(name, at("00:00:00"), Some(at("08:00:00")))];
        for (now, ahead) in [("07:59:00", false), ("07:58:59", true), ("05:00:00", true)] {
            let told = [staleness(&observed, at(now)), behind(&observed, at(now))];
            for told in told {
                assert_eq!(told.is_some(), ahead, "{now}: {told:?}");
                assert!(told.is_none_or(|told| told.contains("nobody knows")));
            }
        }
        assert!(staleness(&observed, at("05:00:00")).unwrap().contains("3 h from now"));
    }

    #[test]
    fn a_standby_that_is_left_behind_is_noticed_by_the_primary() {
        let mut observed = seen(&[]);
        let name = |name: &str| MemberName::new(name).unwrap();
        observed.standbys = vec![
            (name("b"), at("00:00:00"), Some(at("08:00:00"))),
            (name("c"), at("08:00:00"), None),
        ];
        assert_eq!(behind(&observed, at("09:00:00")), None, "nothing is declared");
        observed.rpo = Some(Duration::from_secs(600));
        assert_eq!(behind(&observed, at("08:10:00")), None);
        let told = behind(&observed, at("08:11:00")).unwrap();
        assert!(told.contains("b holds is 11 min") && told.contains("c holds nothing"), "{told}");
        observed.role = Role::Standby;
        assert_eq!(behind(&observed, at("09:00:00")), None, "it speaks for itself");
    }

    #[test]
    fn a_weekend_is_no_silence() {
        let mut observed = seen(&[]);
        observed.schedule = Some(Schedule::parse("0 2 * * MON-FRI", TimeZone::UTC).unwrap());
        // A Friday's point on the Monday after, and on the Tuesday.
        observed.newest = Some("2026-11-20T02:00:10Z".parse().unwrap());
        let on = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(staleness(&observed, on("2026-11-23T23:00:00Z")), None);
        assert!(staleness(&observed, on("2026-11-24T03:00:00Z")).is_some());
    }

    #[test]
    fn somebody_is_told_once_and_reminded_and_told_when_it_is_over() {
        let mut told = Told::default();
        let first = at("08:00:00");
        assert_eq!(told.tell("failed", false, first), Tell::Nothing);
        assert_eq!(told.tell("failed", true, first), Tell::Wrong);
        // What could not be told is tried again.
        assert_eq!(told.tell("failed", true, first), Tell::Wrong);
        told.remember("failed", Tell::Wrong, first);
        assert_eq!(told.tell("failed", true, at("20:00:00")), Tell::Nothing);
        let tomorrow = first.checked_add(duration::signed(REMINDER)).unwrap();
        assert_eq!(told.tell("failed", true, tomorrow), Tell::Wrong);
        assert_eq!(told.tell("stale", true, first), Tell::Wrong);
        assert_eq!(told.tell("failed", false, at("09:00:00")), Tell::Recovered);
        told.remember("failed", Tell::Recovered, at("09:00:00"));
        assert_eq!(told, Told::default());
    }
}
