//! Whether a standby that follows the log by itself can go on from where it stands. In front of a part of
//! the log that is in no vault it waits for ever, and looks as if nothing had happened at its source.

use crate::wal::Gap;
use crate::{Error, Run, ServiceSite};
use engines::postgres::{Lsn, segments_of};
use engines::{Inspection, Refresh};
use model::{Class, Position, Role, ServiceState};
use repository::log::LogStore;
use std::collections::BTreeSet;

/// A standby that stands in front of a gap.
#[derive(Clone, Debug)]
pub struct Stuck {
    /// How far it has come.
    pub at: Position,
    /// What it cannot get over.
    pub gap: Gap,
    /// The newest point was taken after the gap: the standby can be built anew from that.
    pub based: bool,
}

impl Stuck {
    /// One sentence for people.
    pub fn told(&self) -> String {
        format!("it stands at {} and cannot go on: {}", self.at, self.gap.told())
    }

    /// What to do about it.
    pub fn advice(&self, site: &ServiceSite) -> String {
        let name = site.name();
        let reseed = format!("`mainstay refresh {name} --reseed`: the copy is built anew");
        match self.based {
            true => format!("Run {reseed}."),
            false => {
                format!("Run `mainstay backup {name}` on the primary, and then here {reseed}.")
            }
        }
    }
}

/// Whether this host's standby stands in front of a gap. Nothing is said of one that does not run, or
/// does not answer: where it stands is not known.
pub fn stuck(site: &ServiceSite, state: &ServiceState, run: &Run) -> Result<Option<Stuck>, Error> {
    let engine = site.engine()?;
    let me = state.members.get(site.member());
    if engine.refresh() != Refresh::Follow || me.is_none_or(|me| me.role != Role::Standby) {
        return Ok(None);
    }
    let seen = crate::look(site, run, |cx| engine.inspect(cx))?;
    let Some(gap) = in_front_of(site, &seen)? else { return Ok(None) };
    let head = state.head_point().and_then(|point| point.position.as_ref());
    let based = match (head, gap.to) {
        (Some(Position::Lsn { timeline, lsn }), Some(to)) => *timeline > gap.timeline || *lsn >= to,
        _ => false,
    };
    Ok(seen.position.map(|at| Stuck { at, gap, based }))
}

fn in_front_of(site: &ServiceSite, seen: &Inspection) -> Result<Option<Gap>, Error> {
    let (true, Some(Position::Lsn { timeline, lsn })) = (seen.following, &seen.position) else {
        return Ok(None);
    };
    let roots = site.engine()?.roots();
    let Some(segments) = roots.first().and_then(|root| segments_of(&root.on_host)) else {
        return Ok(None);
    };
    let log = LogStore::new(site.repository()?);
    // It is in this one, or asks for it. A gap may have been noted from further back than where the log
    // turned out to end.
    let own = segments.number(Lsn(*lsn));
    let next = own.saturating_add(1);
    let shard = (4 << 30) / segments.size().max(1);
    let mut near = BTreeSet::new();
    for number in BTreeSet::from([own.saturating_sub(shard), own, next]) {
        let listed = log.list_near(&segments.name(*timeline, number))?;
        near.extend(listed.into_iter().map(|(name, _)| name));
    }
    let missing = [own, next].into_iter().find(|n| !near.contains(&segments.name(*timeline, *n)));
    let Some(missing) = missing else { return Ok(None) };
    for name in near.iter().filter(|name| name.ends_with(".gap")) {
        let Some(bytes) = log.fetch(name)? else { continue };
        let gap: Gap = serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(Class::Corrupt, format!("{name} in the vault is not valid")).because(e)
        })?;
        let is_in = gap.to.is_some_and(|to| *lsn < to && segments.start(missing).0 < to);
        if is_in && segments.number(Lsn(gap.from)) <= missing && gap.timeline >= *timeline {
            return Ok(Some(gap));
        }
    }
    Ok(None)
}
