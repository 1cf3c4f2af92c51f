//! Tells a person what is wrong, once, and when it is over.

use crate::app::App;
use crate::due::{Tell, Told};
use crate::failure::Failure;
use crate::files::{self, Existing};
use jiff::Timestamp;
use model::ServiceName;
use operations::alert::{self, Alert, Way};
use operations::{ServiceSite, Site};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another process that is telling something is waited for. Better told twice than never.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way that fails after this long hangs: what else there is to tell by it is left to the next run.
const HANGS: Duration = Duration::from_secs(10);

/// What is remembered of each way. One that fails is tried again, and the others tell nothing twice.
type Memories = BTreeMap<Way, Memory>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Memory {
    /// What was told by it.
    #[serde(default)]
    told: Told,
    /// What it hung at last, so that everything else was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hung: Option<String>,
    /// What failed to be told by it, and would not come up again by itself for long: a run that failed is
    /// tried again later, and may go well then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unsent: BTreeMap<String, String>,
}

/// Something that somebody may have to be told.
#[derive(Clone, Debug)]
struct News {
    /// What it is remembered by.
    about: String,
    event: String,
    /// It has happened, and is told once; of anything else there are reminders, and an end.
    once: bool,
    /// It is not found again by itself: what failed to be told is tried again.
    kept: bool,
    wrong: Option<String>,
}

impl News {
    /// What to tell of it by a way.
    fn tell(&self, told: &Told, now: Timestamp) -> Tell {
        match self.once {
            true if told.knows(&self.about) => Tell::Nothing,
            true => Tell::Wrong,
            false => told.tell(&self.about, self.wrong.is_some(), now),
        }
    }
}

/// Sends alerts, and remembers which.
pub(crate) struct Teller<'a> {
    app: &'a App,
    site: &'a Site,
    /// What it is about; none if it is the host.
    service: Option<&'a ServiceName>,
    file: PathBuf,
    ways: Vec<Way>,
    /// What a way hung at when something was told last: what was left out then comes before it.
    hung: BTreeMap<Way, String>,
    late: Vec<(Way, News)>,
    hangs: BTreeSet<Way>,
    /// What this one was asked to tell.
    said: BTreeSet<String>,
    unsent: bool,
}

impl<'a> Teller<'a> {
    /// What was told before is looked up each time: while a long run goes on, others tell things.
    pub(crate) fn load(app: &'a App, service: &'a ServiceSite) -> Teller<'a> {
        Teller::of(app, service.site(), Some(service.name()), &service.dir())
    }

    /// Of what is no single service's.
    pub(crate) fn of_host(app: &'a App, site: &'a Site) -> Teller<'a> {
        Teller::of(app, site, None, &site.config().host.state_dir)
    }

    fn of(
        app: &'a App,
        site: &'a Site,
        service: Option<&'a ServiceName>,
        dir: &Path,
    ) -> Teller<'a> {
        let file = dir.join("alerts.json");
        let ways = alert::ways(site);
        let hung = read(&file, &ways).into_iter();
        let hung = hung.filter_map(|(way, memory)| Some((way, memory.hung?))).collect();
        let (late, hangs) = (Vec::new(), BTreeSet::new());
        let said = BTreeSet::new();
        Teller { app, site, service, file, ways, hung, late, hangs, said, unsent: false }
    }

    /// Tells that it is wrong, and how, or that it is well, if somebody must hear that now.
    pub(crate) fn tell(&mut self, event: &str, wrong: Option<String>) {
        let event = event.to_owned();
        self.say(&News { about: event.clone(), event, once: false, kept: false, wrong });
    }

    /// Tells that a run failed.
    pub(crate) fn failed(&mut self, event: &str, why: String) {
        let (event, wrong) = (event.to_owned(), Some(why));
        self.say(&News { about: event.clone(), event, once: false, kept: true, wrong });
    }

    /// Tells of several things of a kind, each by a name of its own, that they are wrong, and of all others
    /// that they are over.
    pub(crate) fn tell_each(&mut self, event: &str, wrong: &[(String, String)]) {
        let named = |name: &str| format!("{event}:{name}");
        let told: BTreeSet<String> = self
            .memories()
            .values()
            .flat_map(|memory| memory.told.known(&named("")).cloned().collect::<Vec<_>>())
            .filter(|about| !wrong.iter().any(|(name, _)| named(name) == *about))
            .collect();
        let over = told.into_iter().map(|about| (about, None));
        let wrong = wrong.iter().map(|(name, why)| (named(name), Some(why.clone())));
        for (about, wrong) in wrong.chain(over) {
            self.say(&News { about, event: event.to_owned(), once: false, kept: false, wrong });
        }
    }

    /// Tells things that have happened, each by a name of its own, once. What was told of others of the
    /// event is forgotten: they are too old to be told again.
    pub(crate) fn news(&mut self, event: &str, happened: &[(String, String)]) {
        let named = |name: &str| format!("{event}:{name}");
        for (name, message) in happened {
            let (about, event, wrong) = (named(name), event.to_owned(), Some(message.clone()));
            self.say(&News { about, event, once: true, kept: false, wrong });
        }
        let forget = |memories: &mut Memories| {
            let is_kept = |about: &str| happened.iter().any(|(name, _)| named(name) == about);
            memories.values_mut().for_each(|memory| memory.told.keep(&named(""), is_kept));
        };
        let before = self.memories();
        let mut after = before.clone();
        forget(&mut after);
        if after != before {
            let _one = self.alone();
            let mut memories = self.memories();
            forget(&mut memories);
            self.remember(&memories);
        }
    }

    /// Tells what was put off. Says whether something could not be sent, or not be remembered, so that it
    /// is told again.
    pub(crate) fn finish(mut self) -> bool {
        for (way, news) in std::mem::take(&mut self.late) {
            self.say_by(way, &news);
        }
        for (way, memory) in self.memories() {
            for (event, message) in memory.unsent {
                if self.ways.contains(&way) && !self.said.contains(&event) {
                    let (about, wrong) = (event.clone(), Some(message));
                    self.say_by(way, &News { about, event, once: false, kept: true, wrong });
                }
            }
        }
        self.unsent
    }

    fn say(&mut self, news: &News) {
        self.said.insert(news.about.clone());
        for way in self.ways.clone() {
            if self.hung.get(&way) == Some(&news.about) {
                self.late.retain(|(late, old)| (*late, &old.about) != (way, &news.about));
                self.late.push((way, news.clone()));
            } else {
                self.say_by(way, news);
            }
        }
    }

    fn say_by(&mut self, way: Way, news: &News) {
        let now = Timestamp::now();
        let due = |memories: &Memories| match memories.get(&way) {
            Some(memory) => news.tell(&memory.told, now),
            None => news.tell(&Told::default(), now),
        };
        // Mostly there is nothing to tell, and then nobody is waited for.
        let memories = self.memories();
        let is_unsent = memories.get(&way).is_some_and(|m| m.unsent.contains_key(&news.about));
        if due(&memories) == Tell::Nothing && !is_unsent {
            return;
        }
        if self.hangs.contains(&way) {
            self.unsent = true;
            return;
        }
        let _one = self.alone();
        let mut memories = self.memories();
        let tell = due(&memories);
        let (event, message) = match (tell, &news.wrong) {
            (Tell::Wrong, Some(message)) => (news.event.clone(), message.clone()),
            (Tell::Recovered, _) => {
                (format!("{}-over", news.event), format!("{} is over", news.about))
            }
            // It was well again before anybody could be told that it was not, or somebody else has told it.
            _ => {
                if let Some(memory) = memories.get_mut(&way) {
                    memory.unsent.remove(&news.about);
                }
                self.remember(&memories);
                return;
            }
        };
        let memory = memories.entry(way).or_default();
        let began = Instant::now();
        match self.send(way, event, &message, now) {
            Ok(()) => {
                memory.told.remember(&news.about, tell, now);
                memory.unsent.remove(&news.about);
                memory.hung = None;
            }
            Err(failure) => {
                self.unsent = true;
                self.app.out.warn(failure.one_line());
                if tell == Tell::Wrong && news.kept {
                    memory.unsent.insert(news.about.clone(), message);
                }
                if began.elapsed() >= HANGS {
                    self.hangs.insert(way);
                    memory.hung = Some(news.about.clone());
                }
            }
        }
        self.remember(&memories);
    }

    fn send(&self, way: Way, event: String, message: &str, at: Timestamp) -> Result<(), Failure> {
        let alert = Alert {
            host: self.site.config().host.name.clone(),
            service: self.service.cloned(),
            event,
            message: match self.service {
                Some(name) => format!("{name}: {message}"),
                None => message.to_owned(),
            },
            at,
        };
        Ok(alert::send(self.site, way, &alert)?)
    }

    fn memories(&self) -> Memories {
        read(&self.file, &self.ways)
    }

    /// What cannot be remembered is told again: better twice than never.
    fn remember(&mut self, memories: &Memories) {
        let text = serde_json::to_vec(memories).unwrap_or_default();
        if let Err(failure) = files::write(&self.file, &text, 0o600, Existing::Replace) {
            self.unsent = true;
            self.app.out.warn(failure.one_line());
        }
    }

    /// Keeps other processes from telling the same, as long as it lives.
    fn alone(&self) -> Option<File> {
        let path = self.file.with_extension("lock");
        let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(file),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR)
                    if Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(_) => return None,
            }
        }
    }
}

/// What is remembered of these ways. Damaged, it is as if nobody had been told: better twice than never.
fn read(file: &Path, ways: &[Way]) -> Memories {
    parse(&std::fs::read(file).unwrap_or_default(), ways)
}

fn parse(text: &[u8], ways: &[Way]) -> Memories {
    serde_json::from_slice(text).unwrap_or_else(|_| {
        // Before the ways were told apart, what was told was told by all.
        let told: Told = serde_json::from_slice(text).unwrap_or_default();
        ways.iter().map(|way| (*way, Memory { told: told.clone(), ..Memory::default() })).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_before_the_ways_were_told_apart_is_remembered_of_each() {
        let ways = [Way::Command, Way::Webhook];
        let at = "2026-11-21T08:00:00Z";
        let old = format!(r#"{{"rpo-exceeded":{{"since":"{at}","told":"{at}"}}}}"#);
        let memories = parse(old.as_bytes(), &ways);
        assert_eq!(memories.len(), 2);
        assert!(memories.values().all(|memory| memory.told.knows("rpo-exceeded")));
        let again = serde_json::to_vec(&memories).unwrap();
        assert_eq!(parse(&again, &ways), memories);
        assert!(parse(b"{ damaged", &ways).values().all(|memory| *memory == Memory::default()));
    }
}
