//! Tells a person that something failed: by a command, by a webhook.

use crate::{Error, Site, secrets};
use engines::command::Command;
use jiff::Timestamp;
use model::{CancelToken, Class, MemberName, ServiceName, duration};
use serde::Serialize;
use std::time::Duration;

/// How long each way may take, unless another time is declared for the command.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Sends it every way that is configured; each is tried, whatever becomes of the others.
pub fn send(site: &Site, alert: &Alert) -> Result<(), Error> {
    let alerts = &site.config().alerts;
    let text = serde_json::to_vec(alert)
        .map_err(|e| Error::new(Class::Failed, "cannot encode an alert").because(e))?;
    let mut failed = Vec::new();
    let limit = alerts.command_timeout.as_deref().and_then(|text| duration::parse(text).ok());
    if let Some(command) = &alerts.command
        && let Err(error) = by_command(command, limit.unwrap_or(PATIENCE), alert, &text)
    {
        failed.push(format!("command: {}", error.chain()));
    }
    let webhook = secrets::webhook(alerts, PATIENCE)
        .and_then(|url| url.map_or(Ok(()), |url| by_webhook(url.expose(), &text)));
    if let Err(error) = webhook {
        failed.push(format!("webhook: {}", error.chain()));
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Class::Unavailable,
        format!("an alert could not be sent: {}", failed.join("; ")),
    ))
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
