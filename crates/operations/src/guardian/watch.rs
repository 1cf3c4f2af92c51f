//! While the worker lives: brings the service back when it was held still for too long, and when the worker
//! could not. The worker may hang in a vault for hours after that, and nobody else would.

use super::{FIRST_PAUSE, LONGEST_PAUSE, Ward};
use crate::Error;
use crate::journal::{self, Steps};
use crate::operation::Parts;
use crate::quiesce::{self, Asks, Over, STEP, TRIES, Turn};
use crate::recover::After;
use model::config::Quiesce;
use model::duration;
use std::time::{Duration, Instant};

/// How long a worker may take to end a stop or a freeze that has not come to its end.
const GRACE: Duration = Duration::from_secs(20);
/// How long the word that the time is over may take, before the service comes back, and after.
const WORD: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// What one look has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// There is nothing to do yet.
    Waits,
    /// It is back.
    Back,
    /// It is back for now: a worker that stood still may still stop or freeze it.
    ForNow,
}

/// What is known of a service that is held still.
pub(super) struct Watch {
    limit: Option<Duration>,
    over: Over,
    since: Option<Instant>,
    next: (Instant, Duration),
    came: Came,
    /// Held on to until the worker can see that its time is over.
    held: Option<(Turn, Came)>,
}

impl Watch {
    pub(super) fn of(ward: &Ward<'_>) -> Watch {
        Watch {
            limit: quiesce::limit(ward.site),
            over: Over::in_dir(ward.dir),
            since: None,
            next: (Instant::now(), FIRST_PAUSE),
            came: Came::Waits,
            held: None,
        }
    }

    /// Whether it was away, and came back for good.
    pub(super) fn is_back(&self) -> bool {
        self.came == Came::Back
    }

    /// Does what is due now. What could not be done is tried again, later.
    pub(super) fn look(&mut self, ward: &Ward<'_>) {
        let now = Instant::now();
        if self.since.is_none() && quiesce::has_begun(ward.dir) {
            self.since = Some(now);
        }
        let Some(since) = self.since else { return };
        if self.is_back() || now < self.next.0 {
            return;
        }
        let pause = match self.act(ward, since) {
            Ok(came) => {
                if came != Came::Waits {
                    self.came = came;
                    ward.alarm.back();
                }
                self.next.1 = FIRST_PAUSE;
                match came {
                    Came::ForNow if self.held.is_none() => LONGEST_PAUSE,
                    _ => FIRST_PAUSE,
                }
            }
            Err(error) => {
                ward.down(&error.chain());
                let pause = self.next.1;
                self.next.1 = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        self.next.0 = Instant::now() + pause;
    }

    fn act(&mut self, ward: &Ward<'_>, since: Instant) -> Result<Came, Error> {
        if let Some((turn, came)) = self.held.take() {
            return Ok(self.let_go(ward, turn, came));
        }
        let Some(turn) = Turn::try_now(ward.dir) else {
            // The worker brings it back just now.
            ward.alarm.trying();
            return Ok(Came::Waits);
        };
        if turn.is_back(ward.dir) {
            return Ok(Came::Back);
        }
        let is_over = |grace| self.limit.is_some_and(|limit| since.elapsed() >= limit + grace);
        let entries = match journal::read(ward.dir) {
            Ok(entries) if entries.begun(STEP).is_none() => return Ok(Came::Waits),
            Ok(entries) if entries.done("resume").is_some() => return Ok(Came::Back),
            Ok(entries) => entries,
            // The marks say that it may have been touched.
            Err(_) if is_over(Duration::ZERO) => Vec::new(),
            Err(_) => return Ok(Came::Waits),
        };
        // The worker has tried, and could not.
        let is_left = entries.begun("resume").is_some();
        let is_still = entries.done(STEP).is_some();
        if !is_left && !is_over(Duration::ZERO) {
            return Ok(Came::Waits);
        }
        // What was read in time, and could not be brought back, costs no backup.
        if !is_left && !self.over.is_said() {
            self.over.say(WORD[0]);
            let limit = duration::human(self.limit.unwrap_or_default());
            let what = format!("the service was held still for {limit}, and is let go");
            ward.run.progress.warn(&what);
        }
        if !is_left && !is_still && !is_over(GRACE) {
            // The worker sees that, and ends what it had begun, if it can.
            return Ok(Came::Waits);
        }
        let again = self.came == Came::ForNow;
        let stopping = match (is_left, again) {
            _ if is_still || ward.site.spec().quiesce != Quiesce::Stop => None,
            (true, _) => Some(After::Failure),
            (false, false) => Some(After::Death),
            (false, true) => None,
        };
        // What stood still has gone on, and has come to no end: it is not known any more how it is.
        let came = if is_left || is_still { Came::Back } else { Came::ForNow };
        if came == Came::Back || !again {
            ward.alarm.trying();
        }
        let parts = Parts::of_left(ward.site, ward.id, ward.dir, ward.run)?;
        let (site, dir) = (ward.site, ward.dir);
        let back = quiesce::bring_back(site, dir, &parts.context(), stopping, TRIES, Asks::On);
        match back {
            Err(_) if again && came == Came::ForNow => {}
            back => back?,
        }
        match is_left {
            true => {
                turn.back(ward.dir);
                Ok(came)
            }
            false => Ok(self.let_go(ward, turn, came)),
        }
    }

    /// Lets the worker go on once it can see that its time is over: it would take what it reads now for a
    /// point.
    fn let_go(&mut self, ward: &Ward<'_>, turn: Turn, came: Came) -> Came {
        if !self.over.is_said() && !self.over.say(WORD[1]) {
            self.held = Some((turn, came));
            // It is, but there is something left to do.
            return Came::ForNow;
        }
        if came == Came::Back {
            turn.back(ward.dir);
        }
        came
    }
}
