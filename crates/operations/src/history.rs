//! What operations there were and are, with their logs.

use crate::journal::{self, Kind, Outcome, Steps};
use crate::operation::{is_alive, silent_for};
use crate::{Error, Holder, ServiceSite, lock, recover, report};
use jiff::Timestamp;
use model::OperationId;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// A process that lives gives a sign of it every few seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// One operation.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: Kind,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// One sentence on the end.
    pub message: Option<String>,
    /// It runs now. One that neither runs nor ended has died; the next command cleans up.
    pub running: bool,
    /// It runs, but has given no sign of life for so long: it is stopped, or hangs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<u64>,
    /// How far it is.
    pub progress: Option<report::Numbers>,
    /// Its log.
    pub log: PathBuf,
}

/// All operations of this member that are remembered, oldest first.
pub fn list(site: &ServiceSite) -> Result<Vec<Operation>, Error> {
    let mut found = Vec::new();
    for dir in recover::list(site)? {
        let entries = journal::read(&dir)?;
        let Some((id, kind)) = entries.start() else { continue };
        let end = entries.end().map(|(outcome, message)| (outcome, message.to_owned()));
        let running = end.is_none() && is_alive(&dir)?;
        let silent = if running { silent_for(&dir).filter(|time| *time > SILENCE) } else { None };
        found.push(Operation {
            id: id.clone(),
            kind,
            started: entries.first().map_or(Timestamp::UNIX_EPOCH, |entry| entry.at),
            ended: end.as_ref().and_then(|_| entries.last()).map(|entry| entry.at),
            running,
            silent_seconds: silent.map(|time| time.as_secs()),
            progress: if running { report::read(&dir) } else { None },
            outcome: end.as_ref().map(|(outcome, _)| *outcome),
            message: end.map(|(_, message)| message),
            log: dir.join("log"),
        });
    }
    // Names tell the second only.
    found.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
    Ok(found)
}

/// Who holds the member's lock now.
pub fn holder(site: &ServiceSite) -> Result<Option<Holder>, Error> {
    lock::holder(&site.dir())
}
