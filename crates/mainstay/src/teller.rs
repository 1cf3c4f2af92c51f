//! Tells a person what is wrong, once, and when it is over.

use crate::app::App;
use crate::due::{Tell, Told};
use crate::failure::Failure;
use crate::files::{self, Existing};
use jiff::Timestamp;
use operations::ServiceSite;
use operations::alert::{self, Alert};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long another process that is telling something is waited for. Better told twice than never.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way that fails after this long hangs: what else there is to tell is left to the next run.
const HANGS: Duration = Duration::from_secs(10);

/// Sends alerts, and remembers which.
pub(crate) struct Teller<'a> {
    app: &'a App,
    service: &'a ServiceSite,
    file: PathBuf,
    unsent: bool,
    hangs: bool,
    unsaved: Option<Failure>,
}

impl<'a> Teller<'a> {
    /// What was told before is looked up each time: while a long run goes on, others tell things.
    pub(crate) fn load(app: &'a App, service: &'a ServiceSite) -> Teller<'a> {
        let file = service.dir().join("alerts.json");
        Teller { app, service, file, unsent: false, hangs: false, unsaved: None }
    }

    /// Tells that it is wrong, and how, or that it is well, if somebody must hear that now.
    pub(crate) fn tell(&mut self, event: &str, wrong: Option<String>) {
        let now = Timestamp::now();
        if wrong.is_none() && self.told().tell(event, false, now) == Tell::Nothing {
            return;
        }
        let _one = self.alone();
        let mut told = self.told();
        let tell = told.tell(event, wrong.is_some(), now);
        let (event_sent, message) = match (tell, wrong) {
            (Tell::Wrong, Some(message)) => (event.to_owned(), message),
            (Tell::Recovered, _) => (format!("{event}-over"), format!("{event} is over")),
            _ => return,
        };
        if self.send(&event_sent, &message, now) {
            told.remember(event, tell, now);
            self.remember(&told);
        }
    }

    /// Tells things that have happened, each by a name of its own, once. What was told of others of the
    /// event is forgotten: they are too old to be told again.
    pub(crate) fn news(&mut self, event: &str, happened: &[(String, String)]) {
        let now = Timestamp::now();
        let named = |name: &str| format!("{event}:{name}");
        let _one = (!happened.is_empty()).then(|| self.alone());
        let mut told = self.told();
        let before = told.clone();
        for (name, message) in happened.iter().filter(|(name, _)| !before.knows(&named(name))) {
            if self.send(event, message, now) {
                told.remember(&named(name), Tell::Wrong, now);
            }
        }
        told.keep(&named(""), |about| happened.iter().any(|(name, _)| named(name) == about));
        if told != before {
            self.remember(&told);
        }
    }

    /// Says whether something could not be sent.
    pub(crate) fn save(self) -> Result<bool, Failure> {
        self.unsaved.map_or(Ok(self.unsent), Err)
    }

    fn send(&mut self, event: &str, message: &str, now: Timestamp) -> bool {
        if self.hangs {
            self.unsent = true;
            return false;
        }
        let began = Instant::now();
        let alert = Alert {
            host: self.service.member().clone(),
            service: Some(self.service.name().clone()),
            event: event.to_owned(),
            message: format!("{}: {message}", self.service.name()),
            at: now,
        };
        match alert::send(self.service.site(), &alert) {
            Ok(()) => true,
            Err(error) => {
                self.unsent = true;
                self.hangs = began.elapsed() >= HANGS;
                self.app.out.warn(Failure::from(error).one_line());
                false
            }
        }
    }

    fn told(&self) -> Told {
        // Damaged, it is as if nobody had been told: better twice than never.
        let text = std::fs::read(&self.file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn remember(&mut self, told: &Told) {
        let text = serde_json::to_vec(told).unwrap_or_default();
        if let Err(failure) = files::write(&self.file, &text, 0o600, Existing::Replace) {
            self.unsaved.get_or_insert(failure);
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
