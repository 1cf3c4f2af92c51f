//! Tells a person that something failed: by a command, by a webhook.

use crate::{Error, Site, secrets};
use engines::command::Command;
use jiff::Timestamp;
use model::{CancelToken, Class, MemberName, ServiceName, duration};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long each way may take, unless another time is declared for the command.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it is until somebody is told again what is still wrong.
pub const REMINDER: Duration = Duration::from_secs(24 * 60 * 60);

/// One alert.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Alert {
    /// Which host tells.
    pub host: MemberName,
    /// Which service it is about.
    pub service: Option<ServiceName>,
    /// What it is about: `backup-failed`, `rpo-exceeded`.
    pub event: String,
    /// One sentence.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// A way to tell somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A command that is run.
    Command,
    /// A URL that is sent it.
    Webhook,
}

/// The ways that are configured.
pub fn ways(site: &Site) -> Vec<Way> {
    let alerts = &site.config().alerts;
    let ways =
        [(Way::Command, alerts.command.is_some()), (Way::Webhook, secrets::has_webhook(alerts))];
    ways.into_iter().filter(|(_, is_set)| *is_set).map(|(way, _)| way).collect()
}

/// Sends it by one way.
pub fn send(site: &Site, way: Way, alert: &Alert) -> Result<(), Error> {
    let alerts = &site.config().alerts;
    let text = serde_json::to_vec(alert)
        .map_err(|e| Error::new(Class::Failed, "cannot encode an alert").because(e))?;
    let (name, sent) = match way {
        Way::Command => {
            let limit = alerts.command_timeout.as_deref();
            let limit = limit.and_then(|text| duration::parse(text).ok()).unwrap_or(PATIENCE);
            let command = alerts.command.as_deref();
            ("command", command.map_or(Ok(()), |c| by_command(c, limit, alert, &text)))
        }
        Way::Webhook => {
            let url = secrets::webhook(alerts, PATIENCE);
            let sent = url.and_then(|url| url.map_or(Ok(()), |u| by_webhook(u.expose(), &text)));
            ("webhook", sent)
        }
    };
    sent.map_err(|error| {
        let what = format!("an alert could not be sent: {name}: {}", error.chain());
        Error::new(Class::Unavailable, what)
    })
}

/// What takes too long is ended with all that it started: other alerts wait for it.
fn by_command(command: &str, limit: Duration, alert: &Alert, text: &[u8]) -> Result<(), Error> {
    let service = alert.service.as_ref().map(ToString::to_string).unwrap_or_default();
    // A cancel stops what is being done, and not that somebody is told of it.
    let output = Command::shell("the alert command", command)
        .env("MAINSTAY_ALERT_EVENT", &alert.event)
        .env("MAINSTAY_ALERT_SERVICE", service)
        .env("MAINSTAY_ALERT_HOST", alert.host.as_str())
        .env("MAINSTAY_ALERT_MESSAGE", &alert.message)
        .input(text)
        .timeout(limit)
        .run(&CancelToken::new());
    output.map(|_| ()).map_err(Error::from)
}

fn by_webhook(url: &str, text: &[u8]) -> Result<(), Error> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    agent.post(url).header("content-type", "application/json").send(text).map(|_| ()).map_err(|e| {
        // The URL of a webhook is often its secret, and some errors hold all of it.
        let why = e.to_string();
        let why = if why.contains(url) { "its URL is not valid".to_owned() } else { why };
        let place = model::config::without_path(url);
        Error::new(Class::Unavailable, format!("{place} did not take the alert: {why}"))
    })
}
