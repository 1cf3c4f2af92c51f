//! What operations there were and are, with their logs.

use crate::journal::{self, Kind, Outcome, Steps};
use crate::{Error, Holder, ServiceSite, lock, recover, report};
use jiff::Timestamp;
use model::OperationId;
use serde::Serialize;
use std::path::PathBuf;

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
    /// How far it is.
    pub progress: Option<report::Numbers>,
    /// Its log.
    pub log: PathBuf,
}

/// All operations of this member that are remembered, oldest first.
pub fn list(site: &ServiceSite) -> Result<Vec<Operation>, Error> {
    let holder = lock::holder(&site.dir())?;
    let mut found = Vec::new();
    for dir in recover::list(site)? {
        let entries = journal::read(&dir)?;
        let Some((id, kind)) = entries.start() else { continue };
        let end = entries.end().map(|(outcome, message)| (outcome, message.to_owned()));
        let running =
            end.is_none() && holder.as_ref().is_some_and(|h| h.operation.as_ref() == Some(id));
        found.push(Operation {
            id: id.clone(),
            kind,
            started: entries.first().map_or(Timestamp::UNIX_EPOCH, |entry| entry.at),
            ended: end.as_ref().and_then(|_| entries.last()).map(|entry| entry.at),
            running,
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
