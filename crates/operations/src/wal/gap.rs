//! A part of the log that was let go: what is between its ends is in no vault, and no recovery gets
//! over it. It is remembered on the primary until a base that was taken after it makes it past.

use crate::member::{private_dir, write_durable};
use crate::{Error, ServiceSite};
use engines::postgres::{Lsn, Segments};
use jiff::Timestamp;
use model::{Class, ClusterId, Position, ServiceState};
use repository::log::LogStore;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::File;

/// Where it is remembered, in the service's state directory.
const FILE: &str = "log-gap.json";
/// Held while that is changed: `wal receive`, its threads and each `wal push` do.
const LOCK: &str = "log-gap.lock";

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gap {
    /// The database cluster in whose log it is; none in what was noted before that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
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

    /// Whether it is in the log of this cluster, as far as is known.
    pub(super) fn may_be_of(&self, cluster: Option<ClusterId>) -> bool {
        self.cluster.is_none() || cluster.is_none() || self.cluster == cluster
    }

    /// Whether the newest whole point was taken after it.
    fn is_past(&self, state: &ServiceState) -> bool {
        let Some(head) = state.head_point() else { return false };
        if !self.may_be_of(head.cluster) {
            // Of another cluster, which has taken this one's place since, or had it before.
            return head.source_time > self.noticed;
        }
        match (self.to, &head.position) {
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
/// only grows; one that is written down in the vault stays there as it is.
pub(super) fn note(
    site: &ServiceSite,
    cluster: Option<ClusterId>,
    timeline: u32,
    from: Lsn,
    why: &str,
) -> Result<(), Error> {
    let grows = |gap: &Gap| gap.timeline == timeline && gap.may_be_of(cluster) && !gap.recorded;
    change(site, |known| {
        Some(match known.filter(grows) {
            Some(known) if known.to.is_none() => known,
            Some(known) => Gap { to: None, from: known.from.min(from.0), ..known },
            None => Gap {
                cluster,
                timeline,
                from: from.0,
                to: None,
                noticed: Timestamp::now(),
                why: why.to_owned(),
                recorded: false,
            },
        })
    })
}

/// Remembers where the log of this cluster goes on. What was no gap after all is forgotten.
pub(super) fn ends(site: &ServiceSite, cluster: Option<ClusterId>, at: Lsn) -> Result<(), Error> {
    let is_open = |gap: &Gap| gap.to.is_none() && gap.may_be_of(cluster);
    // Mostly there is none, and then nothing is locked.
    if !load(site)?.is_some_and(|gap| is_open(&gap)) {
        return Ok(());
    }
    change(site, |known| match known {
        Some(gap) if is_open(&gap) && at.0 <= gap.from => None,
        Some(gap) if is_open(&gap) => Some(Gap { to: Some(at.0), ..gap }),
        other => other,
    })
}

/// Writes a gap in this log that has an end down in the vault, where every host can see it, and forgets
/// one that a base has made past.
pub(super) fn record(site: &ServiceSite, log: &LogStore, segments: Segments) -> Result<(), Error> {
    let Some(gap) = load(site)? else { return Ok(()) };
    let state = site.load_state()?.state;
    if let (false, Some(to)) = (gap.recorded, gap.to)
        && gap.may_be_of(log.cluster())
    {
        let recorded = Gap { recorded: true, ..gap.clone() };
        let name = format!("{}.gap", segments.name(gap.timeline, segments.number(Lsn(gap.from))));
        let known = log.list_near(&name)?;
        if !known.iter().any(|(there, at)| *there == name && *at == state.generation) {
            log.push(state.generation, &name, &encode(&recorded))?;
        }
        // It may have become longer while the vault was busy. Only what came after is not written down.
        change(site, |now| match now {
            Some(now) if now == gap => Some(recorded),
            Some(now) if now.from == gap.from => Some(Gap { from: to, ..now }),
            other => other,
        })?;
    }
    if gap.is_past(&state) {
        return change(site, |now| now.filter(|now| !now.is_past(&state)));
    }
    Ok(())
}

/// Changes what is remembered, one after the other: of two that change the same thing at once, what one
/// remembers would be lost.
fn change(
    site: &ServiceSite,
    change: impl FnOnce(Option<Gap>) -> Option<Gap>,
) -> Result<(), Error> {
    let _lock = lock(site)?;
    let known = load(site)?;
    match change(known.clone()) {
        same if same == known => Ok(()),
        Some(gap) => save(site, &gap),
        None => forget(site),
    }
}

fn lock(site: &ServiceSite) -> Result<File, Error> {
    let dir = site.dir();
    private_dir(&dir).map_err(|e| Error::io("make the directory", &dir, e))?;
    let path = dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| Error::io("open the lock", &path, e))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("lock", &path, e.into())),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Rig;
    use model::Generation;
    use std::thread;
    use std::time::Duration;
    use storage::doubles::{Fault, How, Verb};

    const MIB: u64 = 1 << 20;
    const CLUSTER: Option<ClusterId> = Some(ClusterId(7));

    /// The receiver's threads and `wal push` of a server do.
    #[test]
    fn several_write_at_once() {
        let rig = Rig::new();
        thread::scope(|scope| {
            for worker in 0..4 {
                let site = rig.other();
                scope.spawn(move || {
                    for n in 0..25 {
                        let from = Lsn((1000 - worker * 25 - n) * MIB);
                        note(&site, CLUSTER, 1, from, "a test").expect("note");
                        load(&site).expect("load").expect("a gap");
                        ends(&site, CLUSTER, Lsn(2000 * MIB)).expect("end");
                    }
                });
            }
        });
        let gap = load(&rig.site).expect("load").expect("a gap");
        assert!(gap.from <= 1000 * MIB && gap.to == Some(2000 * MIB), "{gap:?}");
    }

    /// It grows while its first part is written down in the vault.
    #[test]
    fn what_becomes_longer_meanwhile_is_not_taken_for_recorded() {
        let rig = Rig::new();
        let segments = Segments::of(MIB).expect("a size");
        let log = crate::cluster::log_of(&rig.site, CLUSTER).expect("a log");
        note(&rig.site, CLUSTER, 1, Lsn(5 * MIB), "a test").expect("note");
        ends(&rig.site, CLUSTER, Lsn(6 * MIB)).expect("end");
        rig.vault.plan(Fault::next(Verb::PutIfAbsent, How::Hang).on("shop/mainstay/log/"));
        thread::scope(|scope| {
            let slow = scope.spawn(|| record(&rig.site, &log, segments));
            assert!(rig.vault.wait_for_hang(Duration::from_secs(60)));
            note(&rig.site, CLUSTER, 1, Lsn(8 * MIB), "again").expect("note");
            rig.vault.release();
            slow.join().expect("no panic").expect("recorded");
        });
        let gap = load(&rig.site).expect("load").expect("a gap");
        assert_eq!((gap.from, gap.to, gap.recorded), (6 * MIB, None, false));
        // What came after is written down, too, and what comes after that.
        ends(&rig.site, CLUSTER, Lsn(9 * MIB)).expect("end");
        record(&rig.site, &log, segments).expect("recorded");
        note(&rig.site, CLUSTER, 1, Lsn(12 * MIB), "and again").expect("note");
        ends(&rig.site, CLUSTER, Lsn(13 * MIB)).expect("end");
        record(&rig.site, &log, segments).expect("recorded");
        assert!(load(&rig.site).expect("load").expect("a gap").recorded);
        for (number, to) in [(5, 6), (6, 9), (12, 13)] {
            let name = format!("{}.gap", segments.name(1, number));
            let stored = log.fetch_from(&name, Generation::FIRST).expect("in the vault");
            let stored: Gap = serde_json::from_slice(&stored).expect("a gap");
            assert_eq!((stored.from, stored.to), (number * MIB, Some(to * MIB)));
        }
    }

    /// The log of a cluster that took the place of another says nothing of where the other's goes on.
    #[test]
    fn a_gap_is_of_one_cluster() {
        let rig = Rig::new();
        let other = Some(ClusterId(8));
        note(&rig.site, CLUSTER, 1, Lsn(5 * MIB), "a test").expect("note");
        ends(&rig.site, other, Lsn(6 * MIB)).expect("another's");
        assert_eq!(load(&rig.site).expect("load").expect("a gap").to, None);
        note(&rig.site, other, 1, Lsn(MIB), "of the other").expect("note");
        let gap = load(&rig.site).expect("load").expect("a gap");
        assert_eq!((gap.cluster, gap.from), (other, MIB), "it is not the first one that grew");
    }
}
