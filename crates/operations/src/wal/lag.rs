//! When what the server has written of a segment is shipped: how long the oldest byte may wait.

use super::receive::TICK;
use engines::postgres::Lsn;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So much longer than what is asked for the oldest byte waits, if by then its segment will be whole.
const GRACE: Duration = Duration::from_millis(500);
/// So many answers are kept: later ones, while the vault is away, say nothing that matters.
const MOST: usize = 256;

/// How far the server was when it was asked last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) asked: Instant,
    /// Everything before this is durable at the server.
    pub(super) flushed: Lsn,
    /// Where the segment ends that is written to.
    pub(super) end: Lsn,
}

/// How long the oldest byte waits that is not shipped.
#[derive(Default)]
pub(super) struct Lag {
    /// How far the server was, and when it was asked, from the last time on when the vault had it all.
    asked: VecDeque<(Instant, Lsn)>,
    /// Before this everything was taken in.
    covered: Lsn,
    /// When what the segment that is written to has was taken in last.
    last: Option<Instant>,
}

impl Lag {
    /// The server was asked.
    pub(super) fn see(&mut self, seen: Seen) {
        let new = self.asked.back().is_none_or(|(asked, _)| *asked < seen.asked);
        if new && self.asked.len() < MOST {
            self.asked.push_back((seen.asked, seen.flushed));
        }
        while self.asked.get(1).is_some_and(|(_, flushed)| *flushed <= self.covered) {
            self.asked.pop_front();
        }
    }

    /// Everything before this was taken in.
    pub(super) fn cover(&mut self, end: Lsn) {
        self.covered = self.covered.max(end);
    }

    /// What there is of the segment that is written to is taken in now.
    pub(super) fn look(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Whether everything is to be shipped now, also of a segment that is not whole. One that soon will be
    /// is waited for: it goes as a whole, and what was shipped of it before would be shipped twice.
    pub(super) fn is_due(&self, seen: Option<Seen>, now: Instant, every: Duration) -> bool {
        let Some(last) = self.last else { return true };
        match (self.asked.front(), seen) {
            (Some((since, _)), Some(seen)) if seen.flushed > self.covered => {
                let grace = if self.is_whole_soon(seen, now) { GRACE } else { Duration::ZERO };
                // It will be looked again one tick later, which would be too late.
                now.duration_since(*since) >= every.saturating_sub(TICK) + grace
            }
            _ => now.duration_since(last) >= every.max(TICK),
        }
    }

    /// Whether the server, if it goes on as it did, has written the segment's end before the grace is over.
    fn is_whole_soon(&self, seen: Seen, now: Instant) -> bool {
        let Some((since, from)) = self.asked.front() else { return false };
        let took = seen.asked.duration_since(*since);
        let wrote = seen.flushed.0.saturating_sub(from.0);
        let lacks = seen.end.0.saturating_sub(seen.flushed.0);
        // It goes on writing after it was asked.
        let left = GRACE + now.duration_since(seen.asked);
        !took.is_zero()
            && u128::from(lacks) * took.as_micros() <= u128::from(wrote) * left.as_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SEGMENT: u64 = 16 << 20;

    /// After how many milliseconds something is due, of a server that writes so many bytes in each, and
    /// is asked at each tick.
    fn due_after(rate: impl Fn(u64) -> u64) -> u64 {
        let begun = Instant::now();
        let mut lag = Lag::default();
        lag.look(begun);
        let mut flushed = 0;
        let mut seen = None;
        for millis in 0..5000 {
            let now = begun + Duration::from_millis(millis);
            if millis % 100 == 0 {
                let now_seen = Seen { asked: now, flushed: Lsn(flushed), end: Lsn(SEGMENT) };
                lag.see(now_seen);
                seen = Some(now_seen);
            }
            if flushed >= SEGMENT || lag.is_due(seen, now, SECOND) {
                return millis;
            }
            flushed += rate(millis);
        }
        5000
    }

    #[test]
    fn a_slow_server_waits_a_second_and_a_fast_one_for_its_segment() {
        assert_eq!(
            due_after(|_| 1000),
            900,
            "a part after a second, with the tick that it may be late"
        );
        // 10.7 MiB a second: the segment is whole a moment before the grace is over.
        let whole = due_after(|_| SEGMENT / 1390);
        assert!((1390..1400).contains(&whole), "{whole}");
        // 9 MiB a second: it would not be.
        assert_eq!(due_after(|_| SEGMENT / 1800), 900);
    }

    #[test]
    fn a_server_that_stops_short_of_its_segments_end_is_not_waited_for_longer_than_the_grace() {
        let due = due_after(|millis| if millis < 850 { SEGMENT / 1000 } else { 0 });
        assert!((900..=1400).contains(&due), "{due}");
        // Neither is one that becomes slow.
        let due = due_after(|millis| if millis < 850 { SEGMENT / 1000 } else { 100 });
        assert!((900..=1400).contains(&due), "{due}");
    }

    #[test]
    fn what_was_taken_in_does_not_wait() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let seen =
            |millis, flushed| Seen { asked: at(millis), flushed: Lsn(flushed), end: Lsn(SEGMENT) };
        let mut lag = Lag::default();
        assert!(lag.is_due(None, begun, SECOND), "nothing is known yet");
        lag.look(begun);
        lag.see(seen(0, 100));
        lag.cover(Lsn(100));
        lag.see(seen(700, 100));
        lag.see(seen(800, 200));
        assert!(!lag.is_due(Some(seen(800, 200)), at(950), SECOND));
        assert!(!lag.is_due(Some(seen(800, 200)), at(1590), SECOND));
        assert!(lag.is_due(Some(seen(800, 200)), at(1700), SECOND));
        // Nothing waits: it is looked whether the vault answers.
        lag.cover(Lsn(200));
        lag.look(at(1700));
        assert!(!lag.is_due(Some(seen(1800, 200)), at(2600), SECOND));
        assert!(lag.is_due(Some(seen(1800, 200)), at(2700), SECOND));
    }
}
