//! What stands at the top of a view: services, and under each its points by time.

use crate::{Error, Repository};
use jiff::Timestamp;
use model::SnapshotId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A point that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What it shows is the service of this instant.
    pub taken: Timestamp,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// It is what `latest` names.
    pub latest: bool,
}

/// Where services and their points come from.
pub trait Shelf: Send + Sync {
    /// The services.
    fn services(&self) -> Vec<String>;

    /// The repository of a service, and all its points as they are now.
    fn points(&self, service: &str) -> Result<(Repository, Vec<Shown>), Error>;
}

/// The points of one service, by the names of their directories.
#[derive(Clone, Debug)]
pub(super) struct Points {
    pub(super) repository: Repository,
    by_name: BTreeMap<String, Shown>,
    names: BTreeMap<SnapshotId, String>,
    latest: Option<SnapshotId>,
    read: Instant,
}

impl Points {
    pub(super) fn new(repository: Repository, mut shown: Vec<Shown>) -> Points {
        shown.sort_by_key(|point| (point.taken, point.snapshot));
        let mut points = Points {
            repository,
            by_name: BTreeMap::new(),
            names: BTreeMap::new(),
            latest: None,
            read: Instant::now(),
        };
        for point in shown {
            let second = Timestamp::from_second(point.taken.as_second());
            let time = second.unwrap_or(point.taken).to_string();
            let name = (1..)
                .map(|n| if n == 1 { time.clone() } else { format!("{time}-{n}") })
                .find(|name| !points.by_name.contains_key(name));
            let Some(name) = name else { continue };
            if point.latest {
                points.latest = Some(point.snapshot);
            }
            points.names.insert(point.snapshot, name.clone());
            points.by_name.insert(name, point);
        }
        points
    }

    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        self.read.elapsed() >= age
    }

    pub(super) fn get(&self, name: &str) -> Option<Shown> {
        self.by_name.get(name).copied()
    }

    /// Names and points, by time.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Shown)> {
        self.by_name.iter()
    }

    /// The directory of a snapshot.
    pub(super) fn name_of(&self, snapshot: SnapshotId) -> Option<&str> {
        self.names.get(&snapshot).map(String::as_str)
    }

    /// The directory of the newest point.
    pub(super) fn latest(&self) -> Option<&str> {
        self.name_of(self.latest?)
    }

    /// The snapshot whose short id, or whole id, this is.
    pub(super) fn by_id(&self, id: &str) -> Option<SnapshotId> {
        let mut found =
            self.names.keys().filter(|known| known.short() == id || known.to_string() == id);
        let first = found.next().copied();
        // Two that begin alike have only their whole ids.
        if found.next().is_some() { None } else { first }
    }

    /// Every snapshot by the id that names it here.
    pub(super) fn ids(&self) -> impl Iterator<Item = (String, SnapshotId)> {
        self.names.keys().map(|id| {
            let short = id.short();
            match self.by_id(&short) {
                Some(_) => (short, *id),
                None => (id.to_string(), *id),
            }
        })
    }

    /// When the newest point was taken.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.by_name.values().map(|point| point.taken).max()
    }
}
