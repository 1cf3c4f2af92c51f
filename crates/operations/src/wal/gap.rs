//! A part of the log that was let go: what is between its ends is in no vault, and no recovery gets
//! over it. It is remembered on the primary until a base that was taken after it makes it past.

use crate::member::write_durable;
use crate::{Error, ServiceSite};
use engines::postgres::{Lsn, Segments};
use jiff::Timestamp;
use model::{Class, Position, ServiceState};
use repository::log::LogStore;
use serde::{Deserialize, Serialize};

/// Where it is remembered, in the service's state directory.
const FILE: &str = "log-gap.json";

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gap {
    /// Its timeline.
    pub timeline: u32,
    /// From here on the vault has nothing.
    pub from: u64,
    /// Up to here, where the log goes on; none as long as it does not.
    pub to: Option<u64>,
    /// When it was noticed.
    pub noticed: Timestamp,
    /// Why.
    pub why: String,
    /// It is written down in the vault.
    #[serde(default)]
    pub recorded: bool,
}

impl Gap {
    /// One sentence for people.
    pub fn told(&self) -> String {
        let to = self.to.map_or_else(|| "now".to_owned(), |to| Lsn(to).to_string());
        format!("the log from {} to {to} is not in the vault: {}", Lsn(self.from), self.why)
    }

    /// Whether the newest whole point was taken after it.
    fn is_past(&self, state: &ServiceState) -> bool {
        let position = state.head_point().and_then(|point| point.position.as_ref());
        match (self.to, position) {
            (Some(to), Some(Position::Lsn { timeline, lsn })) => {
                *timeline > self.timeline || *lsn >= to
            }
            _ => false,
        }
    }
}

/// The gap that no base has made past yet.
pub fn open(site: &ServiceSite, state: &ServiceState) -> Result<Option<Gap>, Error> {
    let Some(gap) = load(site)?.filter(|gap| !gap.is_past(state)) else { return Ok(None) };
    // Where nobody ships a log any more, the newest base is all that can be had.
    let based = state.head_point().is_some_and(|point| {
        // By the log's own order, too: a clock that was set back may have noted a time to come.
        let after = matches!(
            &point.position,
            Some(Position::Lsn { timeline, lsn }) if *timeline >= gap.timeline && *lsn > gap.from
        );
        point.source_time > gap.noticed || (after && gap.noticed > Timestamp::now())
    });
    let flows = gap.to.is_some() || super::is_running(site);
    Ok((flows || !based).then_some(gap))
}

pub(super) fn load(site: &ServiceSite) -> Result<Option<Gap>, Error> {
    let path = site.dir().join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::new(Class::Corrupt, format!("{} is damaged", path.display())).because(e).hinting(
                format!("Take a new base with `mainstay backup {}`, then remove it.", site.name()),
            )
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// Remembers that from here on something is missing, durable on return. One that is open already
/// only grows.
pub(super) fn note(site: &ServiceSite, timeline: u32, from: Lsn, why: &str) -> Result<(), Error> {
    let known = load(site)?.filter(|gap| gap.timeline == timeline);
    let gap = match known {
        Some(known) if known.to.is_none() => return Ok(()),
        Some(known) => Gap { to: None, recorded: false, from: known.from.min(from.0), ..known },
        None => Gap {
            timeline,
            from: from.0,
            to: None,
            noticed: Timestamp::now(),
            why: why.to_owned(),
            recorded: false,
        },
    };
    save(site, &gap)
}

/// Remembers where the log goes on. What was no gap after all is forgotten.
pub(super) fn ends(site: &ServiceSite, at: Lsn) -> Result<(), Error> {
    match load(site)? {
        Some(gap) if gap.to.is_none() && at.0 <= gap.from => forget(site),
        Some(gap) if gap.to.is_none() => save(site, &Gap { to: Some(at.0), ..gap }),
        _ => Ok(()),
    }
}

/// Writes a gap that has an end down in the vault, where every host can see it, and forgets one that
/// a base has made past.
pub(super) fn record(site: &ServiceSite, log: &LogStore, segments: Segments) -> Result<(), Error> {
    let Some(gap) = load(site)? else { return Ok(()) };
    let state = site.load_state()?.state;
    if !gap.recorded && gap.to.is_some() {
        let gap = Gap { recorded: true, ..gap.clone() };
        let name = format!("{}.gap", segments.name(gap.timeline, segments.number(Lsn(gap.from))));
        let known = log.list_near(&name)?;
        if !known.iter().any(|(there, at)| *there == name && *at == state.generation) {
            log.push(state.generation, &name, &encode(&gap))?;
        }
        save(site, &gap)?;
    }
    if gap.is_past(&state) { forget(site) } else { Ok(()) }
}

fn forget(site: &ServiceSite) -> Result<(), Error> {
    let path = site.dir().join(FILE);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
        _ => Ok(()),
    }
}

fn save(site: &ServiceSite, gap: &Gap) -> Result<(), Error> {
    write_durable(&site.dir(), FILE, &encode(gap))
}

fn encode(gap: &Gap) -> Vec<u8> {
    serde_json::to_vec_pretty(gap).unwrap_or_default()
}
