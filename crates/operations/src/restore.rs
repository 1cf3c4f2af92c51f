//! Restore: a recovery point becomes data in a place of this host.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `stage` | the content is beside its target, verified and durable | removing it |
//! | `prepare` | the engine has made it what it is for | removing it |
//! | `arm`, `stop` | the service that stood there is stopped | starting it |
//! | `place` | commit marker: the content is moved in | (only forward) |
//! | `settle` | the old content is put aside or removed, the record written | |
//! | `start` | the service runs | |
//!
//! From `place` on a cancel comes too late, and the service is started as if nobody had asked.
//!
//! With `delta` it goes over what stands there instead: see the module `over`.

mod over;

pub use over::Changed;

pub mod part;

mod vaults;

use crate::exchange::{Placement, aside, beside};
use crate::journal::{Entry, Kind, Outcome, Steps};
use crate::operation::{Operation, Run};
use crate::placing::{self, Placing};
use crate::recover::Left;
use crate::wal::sqlite::{self, Replayed};
use crate::wal::target::{Begin, begin, for_standby};
use crate::{Error, MemberRecord, ServiceSite, Which, quiesce, which};
use engines::{LogEnd, Purpose, RootKind, Running, SnapshotMeta};
use jiff::Timestamp;
use model::config::{FirstRole, Quiesce, Service};
use model::{
    CancelToken, Class, Classify, OperationId, Position, Progress, Role, ServiceName, ServiceState,
    SnapshotId,
};
use repository::{Repository, RepositoryLock, SnapshotReader, Work};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use storage::ErrorKind;

/// What is asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Which point.
    pub which: Which,
    /// Where to, instead of the service's own place.
    pub target: Option<PathBuf>,
    /// Under a new name: beside the service's own place if there is no target.
    pub as_name: Option<ServiceName>,
    /// Where in the log replay ends, instead of a point or a time, and along which timeline.
    pub end: LogEnd,
    /// What stands there is put aside.
    pub replace: bool,
    /// What stands there is restored over: only what differs is written.
    pub delta: bool,
    /// The service is left stopped.
    pub no_start: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// What lacks bytes is left out, and the rest restored; to a target of its own only.
    pub partial: bool,
    /// Nothing keeps the point from being removed meanwhile: for a vault that cannot be written to.
    pub no_lock: bool,
}

/// What came of it, or with a dry run would.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation; none for a dry run.
    pub operation: Option<OperationId>,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its consistency time.
    pub source_time: Timestamp,
    /// Its log position.
    pub position: Option<Position>,
    /// The point in time that the log is replayed to beyond the snapshot.
    pub until: Option<Timestamp>,
    /// The timeline of the log that replay follows, if not the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Where everything is now.
    pub targets: Vec<PathBuf>,
    /// Where what stood there is now.
    pub put_aside: Vec<PathBuf>,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The service was started.
    pub started: bool,
    /// The definition. For a restore under a new name or to another place, of what was restored:
    /// its data is at `targets`, and nothing in it reaches the original.
    pub definition: Service,
    /// What was replayed of the log by ourselves, if anything could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Replayed>,
    /// What was left out because it lacks bytes, as paths in the snapshot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<String>,
    /// What had to be changed, if something stood there that was restored over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
    /// How long the run took.
    pub seconds: f64,
}

/// Restores.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    if params.dry_run {
        let state = load(site, params, &*run.progress)?;
        let plan = Plan::make(site, &state, params, &dry_id()?)?;
        if let Some(doubt) = which::doubt(&state, plan.snapshot) {
            run.progress.warn(&doubt);
        }
        if let Some(note) = &plan.note {
            run.progress.warn(note);
        }
        return Ok(plan.done(None, 0, 0, false, 0.0));
    }
    let mut operation = Operation::begin(site, Kind::Restore, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Restore, result, |done| {
        let places: Vec<_> = done.targets.iter().map(|t| t.display().to_string()).collect();
        let message = format!("{} is at {}", done.snapshot.short(), places.join(", "));
        match done.lacking.len() {
            0 => (Outcome::Done, message),
            n => (Outcome::Incomplete, format!("{message}; {n} left out, which lack bytes")),
        }
    })
}

fn dry_id() -> Result<OperationId, Error> {
    OperationId::new("dry-run").map_err(|e| Error::invalid(e.to_string()))
}

/// A state that is damaged must not stand between people and their data: what is whole is taken out
/// by the snapshots alone, to a place of its own.
fn load(
    site: &ServiceSite,
    params: &Params,
    progress: &dyn Progress,
) -> Result<ServiceState, Error> {
    match site.load_state() {
        Err(e) if params.partial && params.target.is_some() && e.class() == Class::Corrupt => {
            progress.warn(&format!(
                "{e}; without it, the newest snapshot is the one with the newest time"
            ));
            let repository = site.repository()?.id().to_owned();
            Ok(ServiceState::new(repository, site.name().clone()))
        }
        other => Ok(other?.state),
    }
}

struct Plan {
    snapshot: SnapshotId,
    meta: SnapshotMeta,
    /// Known to lack bytes, as paths in the snapshot.
    lacking: Vec<String>,
    destinations: Vec<placing::Destination>,
    purpose: Purpose,
    until: Option<Timestamp>,
    /// Where replay ends, if that is not told by the time alone.
    end: Option<LogEnd>,
    /// What is to be known about the point.
    note: Option<String>,
    own: bool,
    /// Something stands there that is restored over.
    over: bool,
    put_aside: Vec<Option<PathBuf>>,
    size_bytes: u64,
}

impl Plan {
    fn make(
        site: &ServiceSite,
        state: &ServiceState,
        params: &Params,
        id: &OperationId,
    ) -> Result<Plan, Error> {
        let own = params.target.is_none() && params.as_name.is_none();
        if own {
            no_place_in_the_log(site, state, params)?;
        }
        let standby = own && is_standby(site, state);
        let begin = match standby {
            true => Begin::with(for_standby(site, state, &params.which)?),
            false => begin(site, state, &params.which, &params.end)?,
        };
        let snapshot = begin.snapshot;
        let mut lacking = Vec::new();
        let meta = match placing::meta(site, snapshot) {
            // What describes it may be what is damaged.
            Err(e) if params.partial && matches!(e.class(), Class::Corrupt | Class::Invalid) => {
                lacking.push(crate::backup::META_PATH.to_owned());
                placing::without_description(site, snapshot)?
            }
            other => other?,
        };
        let engine = site.engine()?;
        let until = match params.which {
            // Only a log reaches beyond a snapshot.
            // No log reaches there; the server would find that out only when it is started.
            Which::At(time) if engine.abilities().log && time > Timestamp::now() => {
                return Err(Error::invalid(format!("{time} is in the future"))
                    .hinting("Leave `--at` out for the newest point."));
            }
            Which::At(time) if engine.abilities().log && !begin.whole => Some(time),
            _ => None,
        };
        if params.partial && params.target.is_none() {
            return Err(Error::refused("a part of a service is not put in its place")
                .hinting("Name a directory with `--target`, and take from there what is needed."));
        }
        if let Some(name) = &params.as_name {
            name_is_free(site, name)?;
        }
        let targets = match (&params.target, &params.as_name) {
            (Some(dir), _) => targets_below(dir, &meta)?,
            (None, Some(name)) => {
                let own = placing::own_targets(site, &meta)?;
                own.iter().map(|path| beside(path, name.as_str())).collect::<Result<_, _>>()?
            }
            (None, None) => placing::own_targets(site, &meta)?,
        };
        let purpose =
            if own { own_purpose(site, state, until)? } else { Purpose::Scratch { until } };
        let over = params.delta && targets.iter().any(|target| target.exists());
        if over && !own {
            not_in_its_place(site, &targets)?;
        }
        let destinations = match over {
            true => placing::in_place(&meta, targets),
            false => placing::destinations(&meta, targets, id)?,
        };
        if own && !params.replace {
            let look = |cx: &engines::Context<'_>| engine.occupied(cx, &meta, &purpose);
            if let Some(what) = crate::look(site, &Run::default(), look)? {
                return Err(Error::refused(what).hinting(
                    "Add `--replace` to put what is there aside, or choose another place with `--target`.",
                ));
            }
        }
        let mut put_aside = Vec::new();
        for destination in &destinations {
            vaults::none_in(site, &destination.target)?;
            if over || !placing::occupied(&destination.target)? {
                put_aside.push(None);
                continue;
            }
            if !params.replace {
                let what = format!("{} is not empty", destination.target.display());
                return Err(Error::refused(what).hinting(match own {
                    true => "Add `--replace` to put what is there aside, or choose another place with `--target`.",
                    false => "Empty it, or choose another place.",
                }));
            }
            put_aside.push(Some(aside(&destination.target, "replaced")?));
        }
        let size_bytes = match state.point(snapshot) {
            Some(point) => point.size_bytes,
            // What cannot be walked through has no size that could be told.
            None if params.partial => size_of(site, snapshot).unwrap_or(0),
            None => size_of(site, snapshot)?,
        };
        Ok(Plan {
            snapshot,
            meta,
            lacking,
            destinations,
            purpose,
            until,
            end: begin.end,
            note: begin.note,
            own,
            over,
            put_aside,
            size_bytes,
        })
    }

    fn done(
        self,
        operation: Option<OperationId>,
        files: u64,
        bytes: u64,
        started: bool,
        seconds: f64,
    ) -> Done {
        let targets: Vec<_> = self.destinations.into_iter().map(|d| d.target).collect();
        let definition = match self.own {
            true => self.meta.definition,
            false => of_the_copy(self.meta.definition, &targets),
        };
        Done {
            operation,
            snapshot: self.snapshot,
            source_time: self.meta.source_time,
            position: self.meta.position,
            until: self.until,
            timeline: self.end.as_ref().and_then(|end| end.timeline),
            targets,
            put_aside: self.put_aside.into_iter().flatten().collect(),
            files,
            bytes,
            started,
            definition,
            log: None,
            lacking: self.lacking,
            changed: None,
            seconds,
        }
    }
}

/// The definition of a copy: it names the copy's place, and not what starts, stops, fences or
/// connects to the original.
fn of_the_copy(mut definition: Service, targets: &[PathBuf]) -> Service {
    if definition.data_dir.is_some() {
        definition.data_dir = targets.first().cloned();
    } else if definition.paths.is_empty() {
        definition.path = targets.first().cloned();
    } else {
        definition.paths = targets.to_vec();
    }
    Service {
        // A new service begins with this one member, whatever role the captured one had first.
        role: FirstRole::Primary,
        url: None,
        url_password_file: None,
        url_password_env: None,
        url_password_credential: None,
        url_password_command: None,
        stream_from: None,
        unit: None,
        start: None,
        stop: None,
        status: None,
        quiesce: Quiesce::None,
        quiesce_limit: None,
        hooks: Default::default(),
        ..definition
    }
}

fn perform(site: &ServiceSite, operation: &mut Operation, params: &Params) -> Result<Done, Error> {
    let began = Instant::now();
    let repository = site.repository()?;
    let engine = site.engine()?;
    // First: what is chosen below must not be removed before it is read.
    let _lock = match params.no_lock {
        true => None,
        false => Some(lock(repository, params, operation.cancel())?),
    };
    let state = load(site, params, &*operation.report())?;
    let mut plan = Plan::make(site, &state, params, operation.id())?;
    if let Some(doubt) = which::doubt(&state, plan.snapshot) {
        operation.report().warn(&doubt);
    }
    if let Some(note) = &plan.note {
        operation.report().warn(note);
    }
    let starts = starts_here(site, params, &plan)?;
    if starts {
        engine.equipped()?;
    }
    if plan.over {
        let done = over::perform(site, operation, &plan, starts)?;
        if starts {
            start(site, operation, &[])?;
        }
        let changed = Changed { fetched_bytes: done.fetched_bytes, removed: done.removed };
        let (id, seconds) = (operation.id().clone(), began.elapsed().as_secs_f64());
        let done = plan.done(Some(id), done.files, done.bytes, starts, seconds);
        return Ok(Done { changed: Some(changed), ..done });
    }
    for destination in &plan.destinations {
        placing::check_space(&destination.target, plan.size_bytes)?;
    }
    let was_running =
        plan.own && operation.with_context(site, |cx| engine.running(cx))? == Running::Yes;
    if was_running && !params.replace {
        return Err(Error::refused(format!("{} runs on this host", site.name()))
            .hinting("Take it out of service with `mainstay offline` first, or add `--replace`."));
    }
    if params.partial {
        leave_out(site, operation, &mut plan)?;
    }
    let staging = placing::stage(site, operation, plan.snapshot, &plan.destinations, None)?;
    let (files, bytes) = (staging.sum(|root| root.files), staging.sum(|root| root.bytes));
    let log = replay_log(site, operation, params, &plan)?;
    // No server would run on a part of its files.
    if plan.lacking.is_empty() {
        placing::prepare(site, operation, &plan.meta, &plan.destinations, &plan.purpose)?;
        if let Some(end) = &plan.end {
            placing::aim(site, operation, &plan.destinations, end)?;
        }
    }
    if was_running {
        quiesce::guard(site, operation)?;
        operation
            .step("stop", starts, |operation| operation.with_context(site, |cx| engine.stop(cx)))?;
    }
    let placements = plan.destinations.iter().zip(&plan.put_aside);
    let placements = placements
        .map(|(d, aside)| Placement::new(d.staged.clone(), d.target.clone(), aside.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    let placing = Placing {
        placements,
        snapshot: plan.snapshot,
        source_time: plan.meta.source_time,
        position: plan.meta.position.clone(),
        purpose: plan.purpose.clone(),
        own: plan.own,
        log: Vec::new(),
        replayed: false,
        starts,
    };
    // Hours may have passed since the plan was made.
    for (destination, aside) in plan.destinations.iter().zip(&plan.put_aside) {
        if aside.is_none() && placing::occupied(&destination.target)? {
            let what = format!("somebody has put something at {}", destination.target.display());
            return Err(Error::refused(format!("{what} since this restore began"))
                .hinting("Add `--replace` to put what is there aside, or choose another place with `--target`."));
        }
    }
    placing::place(site, operation, &placing)?;
    if starts {
        start(site, operation, &plan.put_aside)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let done = plan.done(Some(operation.id().clone()), files, bytes, starts, seconds);
    let source_time = log.as_ref().and_then(|log| log.until).unwrap_or(done.source_time);
    Ok(Done { source_time: source_time.max(done.source_time), log, ..done })
}

fn lock(
    repository: &Repository,
    params: &Params,
    cancel: &CancelToken,
) -> Result<RepositoryLock, Error> {
    repository.lock_for(Work::Restore, Duration::from_secs(60), cancel).map_err(|e| {
        let read_only =
            matches!(&e, repository::Error::Storage(e) if e.kind() == ErrorKind::Permission);
        let class = e.class();
        match params.target {
            Some(_) if read_only => Error::new(class, "the repository cannot be locked")
                .because(e)
                .hinting("Add `--no-lock` if the vault is only to be read."),
            _ => e.into(),
        }
    })
}

/// Where the engine has nobody who would replay its log, we do. A standby holds what its snapshot
/// holds, so that it can be told whether somebody wrote to it.
fn replay_log(
    site: &ServiceSite,
    operation: &mut Operation,
    params: &Params,
    plan: &Plan,
) -> Result<Option<Replayed>, Error> {
    if params.partial || plan.purpose == Purpose::Standby {
        return Ok(None);
    }
    sqlite::replay_to(site, operation, &plan.meta, &plan.destinations, &params.which)
}

/// Finds out what lacks bytes, so that it is left out; a root that does as a whole is no
/// destination any more.
fn leave_out(site: &ServiceSite, operation: &mut Operation, plan: &mut Plan) -> Result<(), Error> {
    let repository = site.repository()?;
    let (report, cancel) = (operation.report(), operation.cancel().clone());
    let pairs = plan.destinations.drain(..).zip(plan.put_aside.drain(..));
    let mut left = Vec::new();
    for (mut destination, aside) in pairs {
        let root = destination.root.in_snapshot.as_bytes();
        let lacking =
            repository::restore::lacking(repository, plan.snapshot, root, &*report, &cancel)?;
        for path in &lacking.paths {
            report.warn(&format!("{path} lacks bytes, and is left out"));
        }
        plan.lacking.extend(lacking.paths.iter().cloned());
        if !lacking.all {
            destination.without = lacking;
            left.push((destination, aside));
        }
    }
    if left.is_empty() {
        return Err(Error::new(Class::Corrupt, "nothing of this point can be restored"));
    }
    (plan.destinations, plan.put_aside) = left.into_iter().unzip();
    Ok(())
}

/// Whether the service is started when its content is in place.
fn starts_here(site: &ServiceSite, params: &Params, plan: &Plan) -> Result<bool, Error> {
    let engine = site.engine()?;
    let offline = MemberRecord::load(site)?.offline.is_some();
    let can_start = engine.abilities().start_stop;
    Ok(plan.own && can_start && !params.no_start && !offline && starts(&plan.purpose, engine))
}

/// Starts the service, unless somebody took over meanwhile. Whoever cancels now comes too late: the
/// content is in place, and a service that is left stopped would be neither the old one nor the new.
fn start(
    site: &ServiceSite,
    operation: &mut Operation,
    put_aside: &[Option<PathBuf>],
) -> Result<(), Error> {
    let _held = operation.hold();
    if let Some(why) = quiesce::barred(site, operation.dir()) {
        return Err(Error::refused(format!(
            "the content is in place, but {} is not started: {why}",
            site.name()
        )));
    }
    let engine = site.engine()?;
    let started = operation
        .forward("start", (), |operation| operation.with_context(site, |cx| engine.start(cx)));
    started.map_err(|error| {
        let aside: Vec<_> =
            put_aside.iter().flatten().map(|old| old.display().to_string()).collect();
        let aside = match aside.is_empty() {
            true => String::new(),
            false => format!(", and what stood there is at {}", aside.join(", ")),
        };
        let name = site.name();
        let what = format!("the content of {name} is in place{aside}; but it does not start");
        let hint = error.hint().map(|hint| format!("{hint} ")).unwrap_or_default();
        let hint = format!("{hint}Once it can, run `mainstay online {name}`.");
        Error::new(error.class(), what).because(error).hinting(hint)
    })
}

/// A restored primary is started; a standby only if it is of the kind that runs.
fn starts(purpose: &Purpose, engine: &dyn engines::Engine) -> bool {
    match purpose {
        Purpose::Primary { .. } => true,
        Purpose::Standby => engine.refresh() == engines::Refresh::Follow,
        Purpose::Scratch { .. } => false,
    }
}

/// Takes back a restore that did not reach its commit marker; brings another to its end.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    placing::undo(left)?;
    over::undo(left)?;
    part::undo(left)?;
    let stopped = left.begun("stop");
    // In its new content it runs only if that was asked for and its engine took it.
    let place =
        left.begun("place").or_else(|| Some(left.begun("complete")?.get("placing")?.clone()));
    let replaced = place.is_some();
    let wanted = match place {
        None => stopped.is_some(),
        Some(place) => {
            let yes = |asked: Option<&serde_json::Value>| asked == Some(&true.into());
            (yes(place.get("starts")) || yes(stopped.as_ref()))
                && MemberRecord::load(left.site)?.unloaded.is_none()
        }
    };
    if wanted && left.done("start").is_none() {
        let started = if left.run.booting {
            quiesce::start_at_boot(left, || quiesce::barred_after(left))
        } else if let Some(why) = quiesce::barred_after(left)? {
            left.found(format!("the service is not started again: {why}"));
            return Ok(());
        } else {
            let (engine, site) = (left.site.engine()?, left.site);
            let stopping = stopped.is_some() && left.done("stop").is_none();
            let after = left.after;
            let started = left.with_context(|cx| match stopping {
                true => quiesce::start_after_stop(site, cx, after, || engine.start(cx)),
                false => engine.start(cx),
            });
            started.map(|()| "the service was started again".to_owned())
        };
        match started {
            Ok(said) => left.finished("start", said)?,
            // The content is what somebody asked for. One that the service does not start with must not
            // bar the way to another. Whether it does is not known yet if that was cut off, or the host
            // has only just started: it is tried once more.
            Err(error) if replaced && !left.run.booting && error.class() != Class::Cancelled => {
                left.found(format!("the service does not start: {}", error.chain()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the service may have been stopped for one that came to nothing, and is not known to be back.
pub(crate) fn is_stopped(entries: &[Entry]) -> bool {
    entries.begun("stop").is_some()
        && entries.begun("place").is_none()
        && entries.done("start").is_none()
}

/// Whether the service, which it had stopped and was to start with its new content, does not run, as far as
/// this one knows: there is nothing that anybody could go back to, so that nobody tries it again.
pub(crate) fn is_left_down(entries: &[Entry]) -> bool {
    entries.begun("stop") == Some(&serde_json::Value::Bool(true))
        && entries.end().is_some()
        && entries.begun("place").is_some()
        && entries.done("start").is_none()
}

fn is_standby(site: &ServiceSite, state: &ServiceState) -> bool {
    state.members.get(site.member()).map(|member| member.role) == Some(Role::Standby)
}

fn own_purpose(
    site: &ServiceSite,
    state: &ServiceState,
    until: Option<Timestamp>,
) -> Result<Purpose, Error> {
    let elsewhere = "Restore to another place with `--target DIR`.";
    match state.members.get(site.member()).map(|member| member.role) {
        Some(Role::Primary) => Ok(Purpose::Primary { until }),
        Some(Role::Standby) => Ok(Purpose::Standby),
        Some(Role::Broken) => Err(Error::refused(format!(
            "{} was taken over and is broken: its data is kept until someone decides",
            site.member()
        ))
        .hinting(format!("{elsewhere} `mainstay rejoin` makes it a standby."))),
        None => {
            Err(Error::refused(format!("{} is not a member of {}", site.member(), site.name()))
                .hinting(format!("{elsewhere} `mainstay init` makes it a member.")))
        }
    }
}

/// A standby follows the log to its end, so that none stays at a place in it: a server that was told
/// to stop at one would leave its standby state there, and accept writes beside the primary. A point
/// is where any standby can begin.
fn no_place_in_the_log(
    site: &ServiceSite,
    state: &ServiceState,
    params: &Params,
) -> Result<(), Error> {
    if !is_standby(site, state) {
        return Ok(());
    }
    let place = match (&params.end.target, &params.which) {
        (Some(target), _) => crate::wal::target::shown(target),
        (None, Which::At(time)) if site.engine()?.abilities().log || sqlite::has_log(site)? => {
            time.to_string()
        }
        _ => match params.end.timeline {
            Some(timeline) => format!("the end of timeline {timeline}"),
            None => return Ok(()),
        },
    };
    let (me, name) = (site.member(), site.name());
    let error = Error::refused(format!(
        "{me} is a standby of {name}, which goes on along the log and does not stay at {place}"
    ));
    let elsewhere = "Restore it elsewhere with `--target DIR`, or restore the primary.";
    Err(match site.engine()?.refresh() {
        engines::Refresh::Follow => error.hinting(elsewhere),
        _ => error.hinting(format!(
            "{elsewhere} `mainstay refresh {name} --at TIME` brings the standby there until its next \
             refresh."
        )),
    })
}

fn name_is_free(site: &ServiceSite, name: &ServiceName) -> Result<(), Error> {
    let host = site.site();
    let used = |where_: String| {
        Error::refused(format!("the name {name} is in use: {where_}"))
            .hinting("Choose a name that no service has.")
    };
    if host.services().contains(name) {
        return Err(used(host.config_file().display().to_string()));
    }
    let vault = host.vault()?;
    if !vault.list(name.as_str())?.is_empty() {
        return Err(used(format!("{}/{name}", vault.location())));
    }
    Ok(())
}

/// Over the service's own place goes only what shuts its gate meanwhile, and is recorded.
fn not_in_its_place(site: &ServiceSite, targets: &[PathBuf]) -> Result<(), Error> {
    let roots = site.engine()?.roots();
    let roots: Vec<_> = roots.iter().filter_map(|root| root.on_host.canonicalize().ok()).collect();
    for target in targets.iter().filter(|target| target.exists()) {
        let real = target.canonicalize().map_err(|e| Error::io("resolve", target, e))?;
        if roots.iter().any(|root| real.starts_with(root) || root.starts_with(&real)) {
            return Err(Error::refused(format!(
                "{} is the own place of {}",
                target.display(),
                site.name()
            ))
            .hinting("Leave `--target` out: then its start gate is shut meanwhile."));
        }
    }
    Ok(())
}

/// One tree goes to the target itself; a file goes into it; of several, each keeps its whole path.
fn targets_below(dir: &Path, meta: &SnapshotMeta) -> Result<Vec<PathBuf>, Error> {
    let dir = std::path::absolute(dir).map_err(|e| Error::io("resolve", dir, e))?;
    let [only] = meta.roots.as_slice() else {
        let below = |root: &engines::Root| dir.join(root.in_snapshot.trim_start_matches('/'));
        return Ok(meta.roots.iter().map(below).collect());
    };
    Ok(vec![match only.kind {
        RootKind::Tree => dir,
        RootKind::File => {
            let name = only.in_snapshot.rsplit('/').next().unwrap_or("file");
            dir.join(name)
        }
    }])
}

pub(crate) fn size_of(site: &ServiceSite, snapshot: SnapshotId) -> Result<u64, Error> {
    let reader = SnapshotReader::open(site.repository()?, snapshot)?;
    let mut total = 0_u64;
    reader.walk(b"/", &mut |_, node| {
        total = total.saturating_add(node.size);
        Ok(())
    })?;
    Ok(total)
}
