//! The service's continuous log between its server and the vault: what `archive_command` and
//! `restore_command` call, and how far a takeover can get with it.

use crate::operation::Operation;
use crate::{Error, ServiceSite, refresh};
use model::{Class, Position, Progress};
use repository::log::{LogStore, Pushed};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a standby may take to replay what the vault has before a takeover gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a standby's position must stand still to count as the end of what it can get.
const STILL: Duration = Duration::from_millis(600);

/// What became of a request for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It is at the place that was named.
    Found,
    /// The vault was asked, and does not have it (yet).
    NotThere,
}

/// Stores one finished segment of the log. Only the primary of the current generation may.
pub fn push(site: &ServiceSite, segment: &Path) -> Result<Pushed, Error> {
    let name = segment.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::invalid(format!("{} is not the path of a log segment", segment.display()))
    })?;
    let state = site.load_state()?.state;
    state.require_primary(site.member(), state.generation)?;
    let bytes =
        std::fs::read(segment).map_err(|e| Error::io("read the log segment", segment, e))?;
    Ok(LogStore::new(site.repository()?).push(state.generation, name, &bytes)?)
}

/// Writes the segment of this name to `target`, whole or not at all.
pub fn fetch(site: &ServiceSite, name: &str, target: &Path) -> Result<Fetched, Error> {
    let Some(bytes) = LogStore::new(site.repository()?).fetch(name)? else {
        return Ok(Fetched::NotThere);
    };
    let dir = match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => Path::new(".").to_owned(),
    };
    let file = target.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::invalid(format!("{} is not a path for a log segment", target.display()))
    })?;
    crate::member::write_durable(&dir, file, &bytes)?;
    Ok(Fetched::Found)
}

/// Waits until the standby on this host has replayed what the vault has.
pub(crate) fn catch_up(site: &ServiceSite, operation: &Operation) -> Result<(), Error> {
    let engine = site.engine()?;
    let state = site.load_state()?.state;
    let stopped = state.primary.as_ref().and_then(|p| state.members.get(p)?.stopped.as_ref());
    let goal = stopped
        .filter(|stopped| stopped.generation == state.generation)
        .and_then(|stopped| stopped.last_position.clone())
        .or_else(|| state.head_point().and_then(|point| point.position.clone()));
    let deadline = Instant::now() + PATIENCE;
    let mut last: Option<(Option<Position>, Instant)> = None;
    loop {
        operation.check_cancel()?;
        let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
        let still = match &last {
            Some((position, since)) if *position == seen.position => since.elapsed() >= STILL,
            _ => {
                last = Some((seen.position.clone(), Instant::now()));
                false
            }
        };
        if still && refresh::reached(seen.position.as_ref(), goal.as_ref()) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let place = goal.map_or_else(|| "its goal".to_owned(), |goal| goal.to_string());
            return Err(Error::new(
                Class::Unavailable,
                format!("the standby of {} does not get to {place}: {}", site.name(), seen.summary),
            )
            .hinting("Look at its log for a segment that it cannot get."));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Where the log of a stopped primary ends; everything before it must be in the vault.
pub(crate) fn last_position(
    site: &ServiceSite,
    operation: &Operation,
) -> Result<Option<Position>, Error> {
    let engine = site.engine()?;
    operation.report().phase("making sure that the vault has the whole log");
    let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
    Ok(seen.position)
}
