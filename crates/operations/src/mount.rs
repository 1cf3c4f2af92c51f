//! The services of a host as a shelf that a view shows: each opened when it is first looked into,
//! locked as long as it is shown, and looked at anew from time to time.

use crate::{Error, Run, ServiceSite, Site};
use jiff::Timestamp;
use model::{ServiceName, SnapshotId};
use repository::view::{Shelf, Shown};
use repository::{Repository, RepositoryLock, Work};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Some services of a host.
#[derive(Clone)]
pub struct Services(Arc<Inner>);

struct Inner {
    site: Site,
    run: Run,
    lock: bool,
    /// One after the other for each service, and no service waits for another.
    services: BTreeMap<String, Mutex<State>>,
}

#[derive(Default)]
struct State {
    open: Option<Opened>,
    closed: bool,
}

struct Opened {
    service: ServiceSite,
    /// What is shown must stay.
    _lock: Option<RepositoryLock>,
    /// When snapshots were taken that no commit made points. Their files never change.
    times: HashMap<SnapshotId, Timestamp>,
}

impl Services {
    /// These services. `lock`: keep what is shown from being removed, which needs to write a lock.
    pub fn new(site: &Site, names: &[ServiceName], lock: bool, run: Run) -> Services {
        let services = names.iter().map(|name| (name.as_str().to_owned(), Mutex::default()));
        Services(Arc::new(Inner { site: site.clone(), run, lock, services: services.collect() }))
    }

    /// Opens a service, so that whoever asks for it by name is told at once what is wrong.
    pub fn open(&self, name: &ServiceName) -> Result<(), Error> {
        self.look(name.as_str()).map(drop)
    }

    /// Gives the locks back. Nothing is shown from then on.
    pub fn close(&self) {
        for state in self.0.services.values() {
            let mut state = lock(state);
            state.closed = true;
            state.open = None;
        }
    }

    fn look(&self, name: &str) -> Result<(Repository, Vec<Shown>), Error> {
        let Some(state) = self.0.services.get(name) else {
            return Err(Error::invalid(format!("there is no service {name} here")));
        };
        let mut state = lock(state);
        if state.closed {
            return Err(Error::cancelled());
        }
        let opened = match &mut state.open {
            Some(opened) => opened,
            none => none.insert(self.opened(name)?),
        };
        let repository = opened.service.repository()?.clone();
        // The snapshots first: what a state names that is committed later is shown the next time.
        let ids: BTreeSet<SnapshotId> = repository.snapshot_ids()?.into_iter().collect();
        let state = opened.service.load_state()?.state;
        opened.times.retain(|id, _| ids.contains(id));
        let mut shown = Vec::with_capacity(ids.len());
        for id in ids {
            let taken = match (state.point(id), opened.times.get(&id)) {
                (Some(point), _) => point.source_time,
                (None, Some(taken)) => *taken,
                (None, None) => match taken(&repository, id)? {
                    Some(taken) => *opened.times.entry(id).or_insert(taken),
                    None => continue,
                },
            };
            let latest = state.head.is_some_and(|head| head.snapshot == id);
            shown.push(Shown { taken, snapshot: id, latest });
        }
        // A repository that only restic wrote to has no head.
        if state.head.is_none()
            && state.points.is_empty()
            && let Some(newest) = shown.iter_mut().max_by_key(|point| (point.taken, point.snapshot))
        {
            newest.latest = true;
        }
        Ok((repository, shown))
    }

    fn opened(&self, name: &str) -> Result<Opened, Error> {
        let Inner { site, run, .. } = &*self.0;
        let name = ServiceName::new(name).map_err(|e| Error::invalid(e.to_string()))?;
        let service = site.service(&name)?;
        let repository = service.repository()?;
        let lock = match self.0.lock {
            true => {
                let wait = run.wait.unwrap_or_default();
                Some(repository.lock_for(Work::Mount, wait, &run.cancel)?)
            }
            false => None,
        };
        Ok(Opened { service, _lock: lock, times: HashMap::new() })
    }
}

impl Shelf for Services {
    fn services(&self) -> Vec<String> {
        self.0.services.keys().cloned().collect()
    }

    fn points(&self, service: &str) -> Result<(Repository, Vec<Shown>), repository::Error> {
        self.look(service)
            .map_err(|e| repository::Error::Invalid(format!("{service}: {}", e.chain())))
    }
}

/// When a snapshot was taken, by its file; none if it was removed meanwhile.
fn taken(repository: &Repository, id: SnapshotId) -> Result<Option<Timestamp>, Error> {
    let snapshot = match repository.snapshot(id) {
        Err(repository::Error::Missing(_)) => return Ok(None),
        other => other?,
    };
    // One whose time cannot be read is checked elsewhere; here it stands at the beginning.
    Ok(Some(snapshot.taken().map_or(Timestamp::UNIX_EPOCH, |time| time.timestamp())))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
