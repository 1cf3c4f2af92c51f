//! Tells a person what is wrong, once, and when it is over.

use crate::app::App;
use crate::due::{Tell, Told};
use crate::failure::Failure;
use crate::files::{self, Existing};
use jiff::Timestamp;
use operations::ServiceSite;
use operations::alert::{self, Alert};
use std::path::PathBuf;

/// Sends alerts, and remembers which.
pub(crate) struct Teller<'a> {
    app: &'a App,
    service: &'a ServiceSite,
    file: PathBuf,
    told: Told,
    before: Told,
    unsent: bool,
}

impl<'a> Teller<'a> {
    /// With what was told before.
    pub(crate) fn load(app: &'a App, service: &'a ServiceSite) -> Teller<'a> {
        let file = service.dir().join("alerts.json");
        let told: Told = match std::fs::read(&file) {
            // Damaged, it is as if nobody had been told: better twice than never.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(_) => Told::default(),
        };
        Teller { app, service, file, before: told.clone(), told, unsent: false }
    }

    /// Tells that it is wrong, and how, or that it is well, if somebody must hear that now.
    pub(crate) fn tell(&mut self, event: &str, wrong: Option<String>) {
        let now = Timestamp::now();
        let tell = self.told.tell(event, wrong.is_some(), now);
        let (event_sent, message) = match (tell, wrong) {
            (Tell::Wrong, Some(message)) => (event.to_owned(), message),
            (Tell::Recovered, _) => (format!("{event}-over"), format!("{event} is over")),
            _ => return,
        };
        let alert = Alert {
            host: self.service.member().clone(),
            service: Some(self.service.name().clone()),
            event: event_sent,
            message: format!("{}: {message}", self.service.name()),
            at: now,
        };
        match alert::send(self.service.site(), &alert) {
            Ok(()) => self.told.remember(event, tell, now),
            Err(error) => {
                self.unsent = true;
                self.app.out.warn(Failure::from(error).one_line());
            }
        }
    }

    /// Remembers it for the next run; says whether something could not be sent.
    pub(crate) fn save(self) -> Result<bool, Failure> {
        if self.told != self.before {
            let text = serde_json::to_vec(&self.told).unwrap_or_default();
            files::write(&self.file, &text, 0o600, Existing::Replace)?;
        }
        Ok(self.unsent)
    }
}
