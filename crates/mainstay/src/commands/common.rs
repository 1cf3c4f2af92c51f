//! Words that several commands share.

use crate::app::{App, Chosen};
use crate::config::mistakes;
use crate::failure::{Exit, Failure};
use crate::units;
use jiff::Timestamp;
use model::{Class, PointName, ServiceName, ServiceState, SnapshotId};
use operations::{HookFailed, ServiceSite, Site, Which, kill_at, which};
use repository::{RepositoryLock, Snapshot, Work};
use storage::ErrorKind;

/// Which services.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Services {
    /// The services.
    #[arg(value_name = "SERVICE")]
    names: Vec<ServiceName>,

    /// All services of this host.
    #[arg(long)]
    all: bool,
}

impl Services {
    /// Which they are.
    pub(crate) fn of(&self, app: &App) -> Result<Chosen, Failure> {
        let site = app.site()?;
        Ok(match self.all {
            true => Chosen::all(&site),
            false => Chosen::named(app, &site, once(&self.names)),
        })
    }

    /// Whether all were asked for.
    pub(crate) fn all(&self) -> bool {
        self.all
    }
}

/// Which recovery point.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Point {
    /// The point's name, or its snapshot's id or the beginning of it [default: the head].
    #[arg(long, value_name = "POINT", conflicts_with = "at")]
    pub(crate) snapshot: Option<String>,

    /// The newest point not later than this on the source: `2026-11-21T01:04:42Z`,
    /// `2026-11-21 01:04` or `2h ago`.
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    pub(crate) at: Option<Timestamp>,
}

impl Point {
    /// As operations know it.
    pub(crate) fn which(&self) -> Which {
        match (&self.snapshot, self.at) {
            (Some(name), _) => Which::of(name),
            (_, Some(time)) => Which::At(time),
            _ => Which::Latest,
        }
    }
}

/// Whether what is looked at is kept from being removed meanwhile.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Looking {
    /// Lock nothing: for a vault that cannot be written to. What is removed meanwhile is then an
    /// error.
    #[arg(long, global = true)]
    no_lock: bool,
}

impl Looking {
    /// Keeps everything in a repository for as long as the answer is held, from before the first of it
    /// is looked at. Signals are caught from here on: whoever is stopped gives the lock back.
    pub(crate) fn lock(
        &self,
        app: &App,
        service: &ServiceSite,
    ) -> Result<Option<RepositoryLock>, Failure> {
        if self.no_lock {
            return Ok(None);
        }
        let wait = app.globals.wait.unwrap_or_default();
        let lock = service.repository()?.lock_for(Work::Look, wait, app.cancel());
        kill_at("look:locked");
        lock.map(Some).map_err(|error| {
            let unwritable = matches!(&error, repository::Error::Storage(e)
                if matches!(e.kind(), ErrorKind::Permission | ErrorKind::NoSpace));
            let failure = Failure::from(error);
            match unwritable {
                true => failure.hint("Add `--no-lock` if the vault is only to be read."),
                false => failure,
            }
        })
    }
}

/// `SERVICE` or `SERVICE:POINT`.
#[derive(Clone, Debug)]
pub(crate) struct ServicePoint {
    pub(crate) service: ServiceName,
    pub(crate) point: Option<String>,
}

impl std::str::FromStr for ServicePoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, point) = match text.split_once(':') {
            Some((service, point)) => (service, Some(point.to_owned())),
            None => (text, None),
        };
        let service = ServiceName::new(service).map_err(|e| e.to_string())?;
        Ok(ServicePoint { service, point })
    }
}

/// The services that were named, or all.
pub(crate) fn named_or_all(
    app: &App,
    site: &Site,
    names: &[ServiceName],
) -> Result<Chosen, Failure> {
    // One with a mistake in its section is told when its turn comes.
    let known = site.services();
    for name in names.iter().filter(|name| !known.contains(name)) {
        mistakes::warn(app, site, &[]);
        site.service(name)?;
    }
    Ok(match names.is_empty() {
        true => Chosen::all(site),
        false => Chosen::named(app, site, once(names)),
    })
}

/// Each name once, in the order given.
fn once(names: &[ServiceName]) -> Vec<ServiceName> {
    let mut all: Vec<ServiceName> = Vec::with_capacity(names.len());
    for name in names {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

/// A snapshot file with the name that people see.
pub(crate) struct NamedSnapshot {
    pub(crate) id: SnapshotId,
    pub(crate) file: Snapshot,
    pub(crate) name: String,
}

/// The snapshots that were named, in that order, or all, oldest first.
pub(crate) fn snapshots(
    service: &ServiceSite,
    names: &[String],
) -> Result<Vec<NamedSnapshot>, Failure> {
    let repository = service.repository()?;
    // Files first: what is committed in between is then merely not told.
    let all = if names.is_empty() { Some(repository.snapshots()?) } else { None };
    let state = service.load_state()?.state;
    let files = match all {
        Some(files) => files,
        None => {
            let mut files = Vec::new();
            for name in names {
                let id = which::resolve(service, &state, &Which::of(name))?;
                if !files.iter().any(|(known, _)| *known == id) {
                    files.push((id, repository.snapshot(id)?));
                }
            }
            files
        }
    };
    let named = |(id, file): (SnapshotId, Snapshot)| {
        let name = name_of(&state, id, &file);
        NamedSnapshot { id, file, name }
    };
    Ok(files.into_iter().map(named).collect())
}

/// The name of a snapshot, whether or not it is a recovery point.
pub(crate) fn name_of(state: &ServiceState, id: SnapshotId, file: &Snapshot) -> String {
    if let Some(point) = state.point(id) {
        return point.name().to_string();
    }
    match file.time.parse::<Timestamp>() {
        Ok(time) => PointName::of(time, engine_of(file).unwrap_or("restic"), id).to_string(),
        Err(_) => id.short(),
    }
}

/// The engine that made a snapshot, as its tags say; none if it was none of ours.
pub(crate) fn engine_of(file: &Snapshot) -> Option<&str> {
    file.tags.iter().find_map(|tag| tag.strip_prefix("mainstay:engine="))
}

/// Tells that a hook failed after all was done, which stays as it is. Beside JSON it is in the document.
pub(crate) fn hook_failed(app: &App, service: &ServiceSite, hook: &HookFailed, done: &str) -> Exit {
    let failure = Failure::new(Class::Failed, format!("{}; {done}", hook.message));
    let hint = format!("Run `mainstay logs {}` to see what went before it.", service.name());
    let failure = failure.hint(hook.hint.clone().unwrap_or(hint));
    match app.out.json {
        true => failure.exit(),
        false => failure.about(service.name()).report(&app.out),
    }
}

/// `GATE=REASON`; neither is empty.
pub(crate) fn parse_override(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((gate, reason)) if !reason.trim().is_empty() => {
            Ok((gate.trim().to_owned(), reason.trim().to_owned()))
        }
        _ => Err("write GATE=REASON".to_owned()),
    }
}
