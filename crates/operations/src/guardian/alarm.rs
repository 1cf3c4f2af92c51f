//! Tells a person that a service is down which a guardian is to bring back, and when that is over. In a
//! thread of its own: whatever an alert waits for, the service does not, and what hangs while it is brought
//! back is told all the same.

use crate::ServiceSite;
use crate::alert::{self, Alert, REMINDER, Way};
use jiff::Timestamp;
use model::duration;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How often it is looked whether somebody must be told.
const LOOK: Duration = Duration::from_millis(500);
/// It may take so long to bring a service back until somebody is told. Servers may have to recover first.
const LATE: Duration = Duration::from_secs(300);
/// A way that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(60);
/// How long an alert is waited for, in the end.
const PATIENCE: Duration = Duration::from_secs(60);

enum Word {
    Trying,
    Down(String),
    Back,
    MustNot(Option<String>),
}

/// Told by the guardian how its service is.
pub(super) struct Alarm {
    say: Sender<Word>,
    ended: Receiver<()>,
}

impl Alarm {
    pub(super) fn of(site: &ServiceSite) -> Alarm {
        let ((say, heard), (tell, ended)) = (channel(), channel());
        let site = site.clone();
        std::thread::spawn(move || {
            attend(&site, &heard);
            let _ = tell.send(());
        });
        Alarm { say, ended }
    }

    /// It is being brought back.
    pub(super) fn trying(&self) {
        let _ = self.say.send(Word::Trying);
    }

    /// It could not be.
    pub(super) fn down(&self, why: &str) {
        let _ = self.say.send(Word::Down(why.to_owned()));
    }

    /// It is back.
    pub(super) fn back(&self) {
        let _ = self.say.send(Word::Back);
    }

    /// It must not serve, and why; none, if it may again.
    pub(super) fn must_not(&self, why: Option<String>) {
        let _ = self.say.send(Word::MustNot(why));
    }

    /// There is nothing more to tell. Waits until everything is told, if that does not take long.
    pub(super) fn over(self) {
        drop(self.say);
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

fn attend(site: &ServiceSite, heard: &Receiver<Word>) {
    let mut news = News::default();
    loop {
        let is_last = match heard.recv_timeout(LOOK) {
            Ok(word) => {
                news.hear(word, Instant::now());
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        for way in alert::ways(site.site()) {
            let Some(tell) = news.due(way, Instant::now(), is_last) else { continue };
            let well = send(site, way, &tell);
            news.told(way, &tell, well, Instant::now());
        }
        if is_last {
            return;
        }
    }
}

/// Where nobody can be told there is the operation's log.
fn send(site: &ServiceSite, way: Way, tell: &Tell) -> bool {
    let (event, what) = match tell {
        Tell::Down(why) => ("service-down", why.as_str()),
        Tell::Over => ("service-down-over", "it is back"),
    };
    let alert = Alert {
        host: site.member().clone(),
        service: Some(site.name().clone()),
        event: event.to_owned(),
        message: format!("{}: {what}", site.name()),
        at: Timestamp::now(),
    };
    alert::send(site.site(), way, &alert).is_ok()
}

/// What somebody is told by one way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tell {
    Down(String),
    Over,
}

/// How the service is, and what was told of it by each way.
#[derive(Default)]
struct News {
    /// Since when it is being brought back.
    trying: Option<Instant>,
    /// Why it is down.
    down: Option<String>,
    /// Why it must be.
    must_not: Option<String>,
    told: BTreeMap<Way, Instant>,
    failed: BTreeMap<Way, Instant>,
}

impl News {
    fn hear(&mut self, word: Word, now: Instant) {
        match word {
            Word::Trying => {
                self.trying.get_or_insert(now);
            }
            Word::Down(why) => self.down = Some(why),
            Word::Back => (self.trying, self.down) = (None, None),
            Word::MustNot(why) => self.must_not = why,
        }
    }

    fn wrong(&self, now: Instant) -> Option<String> {
        let late = || {
            let time = now.saturating_duration_since(self.trying?);
            (time >= LATE).then(|| {
                format!(
                    "it is being brought back for {} now, and is not back",
                    duration::human(LATE)
                )
            })
        };
        self.must_not.clone().or_else(|| self.down.clone()).or_else(late)
    }

    /// What is to be told by a way now. In the end, what failed is tried once more at once.
    fn due(&self, way: Way, now: Instant, is_last: bool) -> Option<Tell> {
        let since = |at: &Instant| now.saturating_duration_since(*at);
        if !is_last && self.failed.get(&way).is_some_and(|at| since(at) < RETRY) {
            return None;
        }
        match (self.told.get(&way), self.wrong(now)) {
            (None, Some(why)) => Some(Tell::Down(why)),
            (Some(at), Some(why)) => (since(at) >= REMINDER).then_some(Tell::Down(why)),
            (Some(_), None) => Some(Tell::Over),
            (None, None) => None,
        }
    }

    fn told(&mut self, way: Way, tell: &Tell, well: bool, now: Instant) {
        if !well {
            self.failed.insert(way, now);
            return;
        }
        self.failed.remove(&way);
        match tell {
            Tell::Down(_) => self.told.insert(way, now),
            Tell::Over => self.told.remove(&way),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way::Command;

    fn tell(news: &mut News, now: Instant) -> Option<Tell> {
        let tell = news.due(WAY, now, false)?;
        news.told(WAY, &tell, true, now);
        Some(tell)
    }

    #[test]
    fn what_is_down_is_told_again_until_it_is_back() {
        let (mut news, begin) = (News::default(), Instant::now());
        assert_eq!(tell(&mut news, begin), None);
        news.hear(Word::Down("why".to_owned()), begin);
        let down = Some(Tell::Down("why".to_owned()));
        assert_eq!(tell(&mut news, begin), down);
        assert_eq!(tell(&mut news, begin + REMINDER / 2), None);
        assert_eq!(tell(&mut news, begin + REMINDER), down);
        assert_eq!(tell(&mut news, begin + REMINDER + LATE), None);
        news.hear(Word::Back, begin + REMINDER + LATE);
        assert_eq!(tell(&mut news, begin + REMINDER + LATE), Some(Tell::Over));
        assert_eq!(tell(&mut news, begin + REMINDER * 3), None);
    }

    #[test]
    fn what_hangs_while_it_is_brought_back_is_told() {
        let (mut news, begin) = (News::default(), Instant::now());
        news.hear(Word::Trying, begin);
        news.hear(Word::Trying, begin + LATE / 2);
        assert_eq!(tell(&mut news, begin + LATE / 2), None);
        assert!(matches!(tell(&mut news, begin + LATE), Some(Tell::Down(_))));
        news.hear(Word::Back, begin + LATE);
        assert_eq!(tell(&mut news, begin + LATE), Some(Tell::Over));
    }

    #[test]
    fn a_way_that_failed_is_tried_again() {
        let (mut news, begin) = (News::default(), Instant::now());
        news.hear(Word::Down("why".to_owned()), begin);
        let due = news.due(WAY, begin, false).expect("it is down");
        news.told(WAY, &due, false, begin);
        assert_eq!(news.due(WAY, begin + RETRY / 2, false), None);
        assert!(news.due(Way::Webhook, begin, false).is_some());
        assert!(news.due(WAY, begin + RETRY / 2, true).is_some());
        assert!(news.due(WAY, begin + RETRY, false).is_some());
    }
}
