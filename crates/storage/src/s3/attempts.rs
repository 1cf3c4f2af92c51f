//! Trying again: with growing pauses of random length, until it succeeds, makes no sense any more,
//! takes too long, or was cancelled.

use super::options::Tuning;
use super::trouble::Trouble;
use model::CancelToken;
use std::time::{Duration, Instant};

/// How often a pause looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// The attempts of one request.
pub(super) struct Attempts<'a> {
    tuning: &'a Tuning,
    cancel: &'a CancelToken,
    began: Instant,
    began_cancelled: bool,
    next_pause: Duration,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(tuning: &'a Tuning, cancel: &'a CancelToken) -> Attempts<'a> {
        Attempts {
            tuning,
            cancel,
            began: Instant::now(),
            began_cancelled: cancel.is_cancelled(),
            next_pause: tuning.first_pause,
        }
    }

    /// Runs `attempt` until it succeeds or there is no use in another.
    pub(super) fn run<T>(
        mut self,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(trouble) => self.pause(trouble)?,
            }
        }
    }

    /// Waits before the next attempt, or hands the trouble on: there is none.
    pub(super) fn pause(&mut self, trouble: Trouble) -> Result<(), Trouble> {
        // What cleans up after a cancel is tried once.
        if !trouble.may_pass() || self.began_cancelled {
            return Err(trouble);
        }
        // Anything between half of it and the whole, so that those who failed together do not
        // come back together.
        let pause = self.next_pause.mul_f64(0.5 + 0.5 * random_fraction());
        self.next_pause = (self.next_pause * 2).min(self.tuning.longest_pause);
        let resume = Instant::now() + pause;
        if resume.duration_since(self.began) > self.tuning.give_up {
            return Err(trouble);
        }
        loop {
            if self.cancel.is_cancelled() {
                return Err(Trouble::Cancelled);
            }
            let left = resume.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}

/// From 0 to 1; a half where there are no random bytes, which is as good a pause as any.
fn random_fraction() -> f64 {
    let mut bytes = [0; 2];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX),
        Err(_) => 0.5,
    }
}
