//! What operations there were and are, with their logs.

use crate::journal::{self, Kind, Outcome, Steps};
use crate::operation::{is_alive, silent_for};
use crate::{Error, Holder, ServiceSite, hooks, lock, recover, report};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use model::OperationId;
use serde::Serialize;
use std::path::{Path, PathBuf};
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
    /// A hook that came after all was done failed: nothing else did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<&'static str>,
    /// It runs now. One that neither runs nor ended has died; the next command cleans up.
    pub running: bool,
    /// It runs, but has given no sign of life for so long: it is stopped, or hangs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<u64>,
    /// Why its journal cannot be read: what it had begun, and how it ended, may not be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// How far it is.
    pub progress: Option<report::Numbers>,
    /// Its log.
    pub log: PathBuf,
}

/// All operations of this member that are remembered, oldest first.
pub fn list(site: &ServiceSite) -> Result<Vec<Operation>, Error> {
    let mut found = Vec::new();
    for dir in recover::list(site)? {
        let (entries, wrong) = journal::look(&dir)?;
        let damaged = wrong.map(|wrong| wrong.chain());
        let named = || damaged.as_ref().and_then(|_| by_name(&dir));
        let Some((id, kind)) = entries.start().map(|(id, kind)| (id.clone(), kind)).or_else(named)
        else {
            continue;
        };
        let end = entries.end().map(|(outcome, message)| (outcome, message.to_owned()));
        let hook_failed = hooks::AFTERWARDS.into_iter().find(|hook| {
            let is_done = matches!(end, Some((Outcome::Done | Outcome::Incomplete, _)));
            is_done && entries.begun(hook).is_some() && entries.done(hook).is_none()
        });
        let running = end.is_none() && is_alive(&dir)?;
        let silent = if running { silent_for(&dir).filter(|time| *time > SILENCE) } else { None };
        found.push(Operation {
            started: match entries.first() {
                Some(entry) => entry.at,
                None => time_in_name(&dir).unwrap_or(Timestamp::UNIX_EPOCH),
            },
            id,
            kind,
            ended: end.as_ref().and_then(|_| entries.last()).map(|entry| entry.at),
            running,
            silent_seconds: silent.map(|time| time.as_secs()),
            progress: if running { report::read(&dir) } else { None },
            outcome: end.as_ref().map(|(outcome, _)| *outcome),
            message: end.map(|(_, message)| message).or_else(|| damaged.clone()),
            damaged,
            hook_failed,
            log: dir.join("log"),
        });
    }
    // Names tell the second only.
    found.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
    Ok(found)
}

/// What the name of an operation's directory says of it.
pub(crate) fn by_name(dir: &Path) -> Option<(OperationId, Kind)> {
    let name = dir.file_name()?.to_str()?;
    let kind = name.split('-').nth(1)?;
    let kind = serde_json::from_value(serde_json::Value::from(kind)).ok()?;
    Some((OperationId::new(name).ok()?, kind))
}

/// The time in the name of an operation's directory, to the second.
pub(crate) fn time_in_name(dir: &Path) -> Option<Timestamp> {
    let time = dir.file_name()?.to_str()?.split('-').next()?;
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", time);
    time.and_then(|time| time.to_zoned(TimeZone::UTC)).ok().map(|time| time.timestamp())
}

/// One sentence if what holds the member's lock and what runs are not the same. Nothing is done about
/// it, and nothing begun beside it: whose fault it is a person has to find out.
pub fn contradiction(site: &ServiceSite) -> Result<Option<String>, Error> {
    let before = holder(site)?;
    let running: Vec<Operation> = list(site)?.into_iter().filter(|one| one.running).collect();
    if holder(site)? != before {
        // One has ended, or begun, meanwhile.
        return Ok(None);
    }
    let named = before.as_ref().and_then(|holder| holder.operation.as_ref());
    let stray = running.iter().find(|one| Some(&one.id) != named);
    if let Some(stray) = stray {
        return Ok(Some(format!(
            "{} runs, and does not hold this member's lock: let it end, or stop it with `mainstay cancel {}`",
            stray.id,
            site.name()
        )));
    }
    let found = before.zip(running.first());
    let other = found.filter(|(holder, one)| holder.kind != one.kind.as_str());
    Ok(other.map(|(holder, one)| {
        format!("the lock is held for a {}, and {} holds it", holder.kind, one.id)
    }))
}

/// Who holds the member's lock now.
pub fn holder(site: &ServiceSite) -> Result<Option<Holder>, Error> {
    lock::holder(&site.dir())
}
