//! Backup: the engine's capture becomes a snapshot, and the snapshot becomes history.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `arm`, `quiesce` | the service is still (if its definition asks) | starting it |
//! | `read` | the engine has handed everything over | (packs that nothing refers to) |
//! | `resume` | the service runs again | |
//! | `store` | all data is durable in the vault | (packs that nothing refers to) |
//! | `snapshot` | a snapshot file names the data; it is not history yet | removing it |
//! | `commit` | the vault's state names the snapshot: this is the commit marker | |

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::recover::{After, Left};
use crate::{
    Error, HookFailed, ServiceSite, Which, beside, hooks, quiesce, room, successor, which,
};
use engines::{CaptureSink, Captured, Refresh, RootKind, Running, SnapshotMeta};
use jiff::Timestamp;
use model::config::Quiesce;
use model::{
    Class, Classify, Generation, OperationId, Progress, RecoveryPoint, ServiceState, SnapshotId,
};
use repository::{Archiver, Compression, Finished, Node, Problem, Ranges, Snapshot, Work};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where every snapshot tells what it is.
pub const META_PATH: &str = "/.mainstay/snapshot.json";

/// Space that must be free in the vault besides what the service may need.
const SPACE_MARGIN: u64 = 8 << 20;

/// What is asked for.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Read everything and say what would be stored; store nothing.
    pub dry_run: bool,
    /// The service is one file with fixed chunks, and only these ranges of it were written to.
    pub changed: Option<Changed>,
    /// A tree may be empty that was not at the head.
    pub allow_empty: bool,
    /// What the engine knows to be another service than the head's goes on in its place.
    pub allow_another: bool,
}

/// Where a file was written to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changed {
    /// Since this point, which has to be the head: what came after a newer one is not known.
    pub since: Which,
    /// All that was written to.
    #[serde(skip)]
    pub ranges: Ranges,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackedUp {
    /// The operation.
    pub operation: OperationId,
    /// Name of the new point.
    pub name: String,
    /// The new point.
    pub point: RecoveryPoint,
    /// Files in it.
    pub files: u64,
    /// Of these: read because they were new or looked changed.
    pub files_read: u64,
    /// What could not be captured; not empty means that the point is incomplete.
    pub problems: Vec<Trouble>,
    /// How long the whole run took.
    pub seconds: f64,
    /// How long the service was stopped or frozen.
    pub stopped_seconds: Option<f64>,
    /// The hook `after-backup` failed: after the point was made, which it changes nothing of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<HookFailed>,
}

/// Something that could not be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Where.
    pub path: String,
    /// What.
    pub what: String,
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Trouble { path: problem.path, what: problem.what }
    }
}

/// What a dry run found out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// The member that would export.
    pub member: String,
    /// At this generation.
    pub generation: Generation,
    /// The point that unchanged files would be taken from.
    pub parent: Option<SnapshotId>,
    /// What would be read.
    pub roots: Vec<engines::Root>,
    /// Its size, where that is cheap to know.
    pub size_bytes: Option<u64>,
    /// The engine's sentence on the service.
    pub service: String,
}

/// Outcome of [`run`].
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Done {
    /// A point was made.
    BackedUp(Box<BackedUp>),
    /// Nothing was done: a dry run.
    Planned(Box<Plan>),
}

/// Backs the service up.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    if params.dry_run {
        return plan(site, run).map(|plan| Done::Planned(Box::new(plan)));
    }
    // To give way ends this backup, and not whatever the caller does after it.
    let run = &Run { cancel: run.cancel.child(), ..run.clone() };
    let mut operation = Operation::begin(site, Kind::Backup, params, run)?;
    let result = beside::giving_way(site, Kind::Backup, &run.cancel, || {
        perform_with(site, &mut operation, Service::AsDefined, params)
    });
    let hook_failed = after_hook(site, &mut operation, &result);
    let result = match (result, hook_failed) {
        (Ok(done), hook_failed) => Ok(BackedUp { hook_failed, ..done }),
        (Err(error), None) => Err(error),
        (Err(error), Some(hook)) => {
            operation.report().warn(&hook.message);
            Err(error)
        }
    };
    let result = operation.end(site, Kind::Backup, result, describe)?;
    Ok(Done::BackedUp(Box::new(result)))
}

fn describe(done: &BackedUp) -> (Outcome, String) {
    let (outcome, message) = match done.problems.len() {
        0 => (Outcome::Done, format!("{} is the head", done.name)),
        n => (Outcome::Incomplete, format!("{} is incomplete: {n} could not be read", done.name)),
    };
    match &done.hook_failed {
        Some(hook) => (outcome, format!("{message}; {}", hook.message)),
        None => (outcome, message),
    }
}

/// What both a run and a dry run find out first.
struct Ready {
    state: ServiceState,
    parent: Option<SnapshotId>,
}

fn ready(site: &ServiceSite) -> Result<Ready, Error> {
    let state = site.load_state()?.state;
    if !state.members.contains_key(site.member()) {
        return Err(Error::invalid(format!(
            "{} is not a member of {} yet",
            site.member(),
            site.name()
        ))
        .hinting("Run `mainstay init` on this host first."));
    }
    state.require_primary(site.member(), state.generation)?;
    let record = crate::MemberRecord::load(site)?;
    if let Some(applying) = record.applying {
        return Err(Error::refused(format!(
            "the copy on this host is being changed by {applying}"
        )));
    }
    if let Some(snapshot) = record.overwriting {
        return Err(Error::refused(format!(
            "the copy on this host is half restored to {}",
            snapshot.short()
        ))
        .hinting(format!("Give `mainstay restore {} --delta` again.", site.name())));
    }
    if let Some(snapshot) = record.unloaded {
        return Err(Error::refused(format!(
            "the copy of {} on this host was never loaded: its engine refused it",
            snapshot.short()
        ))
        .hinting("Restore again; a backup of it now would become the head."));
    }
    let parent = state.head.map(|head| head.snapshot);
    Ok(Ready { state, parent })
}

fn plan(site: &ServiceSite, run: &Run) -> Result<Plan, Error> {
    let Ready { state, parent } = ready(site)?;
    let engine = site.engine()?;
    let seen = crate::look(site, run, |cx| engine.inspect(cx))?;
    Ok(Plan {
        member: site.member().to_string(),
        generation: state.generation,
        parent,
        roots: engine.roots(),
        size_bytes: seen.size_bytes,
        service: seen.summary,
    })
}

/// What is done to the service while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// What its definition says.
    AsDefined,
    /// It is stopped already, and stays so.
    Stopped,
}

/// The last backup of a primary that was stopped for good: the end of `offline`.
pub(crate) fn perform_stopped(
    site: &ServiceSite,
    operation: &mut Operation,
) -> Result<BackedUp, Error> {
    perform_with(site, operation, Service::Stopped, &Params::default())
}

fn compression(wanted: model::config::Compression) -> Compression {
    match wanted {
        model::config::Compression::Off => Compression::Off,
        model::config::Compression::Fast => Compression::FAST,
        model::config::Compression::Better => Compression::BETTER,
        model::config::Compression::Max => Compression::MAX,
    }
}

fn perform_with(
    site: &ServiceSite,
    operation: &mut Operation,
    service: Service,
    params: &Params,
) -> Result<BackedUp, Error> {
    let began = Instant::now();
    let report = operation.report();
    report.phase("opening the vault");
    let Ready { state, parent } = ready(site)?;
    let generation = state.generation;
    let repository = site.repository()?;
    let engine = site.engine()?;
    if let Some(changed) = &params.changed {
        known_ranges(site, &state, changed, &engine.roots())?;
    }
    let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
    // What an exporter makes need not be there before it runs.
    if !seen.has_data && engine.refresh() != Refresh::Import {
        return Err(Error::refused(format!("there is nothing to back up: {}", seen.summary))
            .hinting("Check that the service's path is right and its disk is mounted."));
    }
    successor::require(site, operation, parent, params)?;
    // Access and space are proved before anything is stopped: taking the lock is a write.
    check_space(site, parent.is_none(), seen.size_bytes)?;
    let lock = repository.lock_for(Work::Backup, Duration::from_secs(60), operation.cancel())?;
    if let Some(command) = &site.spec().hooks.before_backup {
        let variables = hooks::variables(site, Some(operation.id()));
        hooks::run(site, "before-backup", command, &variables, operation.cancel())?;
    }
    let archiver = Archiver::new(
        repository,
        parent,
        compression(site.spec().compression),
        operation.report(),
        operation.cancel().clone(),
    )?;

    let stopping = Instant::now();
    // What was stopped before, by whomever, is not started by a backup.
    let still = seen.running == Running::No && site.spec().quiesce == Quiesce::Stop;
    let offline = crate::MemberRecord::load(site)?.offline.is_some();
    let quiesced = service == Service::AsDefined && quiesce::wanted(site) && !still && !offline;
    if quiesced && let Err(error) = quiesce::quiesce(site, operation) {
        if let Err(down) = quiesce::give_up(site, operation) {
            report.warn(&not_back(site, &down));
        }
        return Err(error);
    }
    let changed = params.changed.as_ref().map(|changed| changed.ranges.clone());
    let mut sink = Sink { archiver, changed, error: None };
    let chains = crate::wal::sqlite::chains(site);
    let read = operation.step("read", (), |operation| {
        operation.report().phase("reading the service");
        let captured = operation.with_context(site, |cx| engine.capture(cx, &mut sink));
        match (captured, sink.error.take()) {
            // The sink's own error says more than what the engine made of it.
            (Err(_), Some(error)) => Err(Error::Repository(error)),
            (Err(error), None) => Err(error),
            (Ok(_), Some(error)) => Err(Error::Repository(error)),
            (Ok(captured), None) => Ok(ReadOut::from(captured)),
        }
    });
    // The service comes back whether reading went well or not; a restart that fails must not
    // cost the backup that was taken, and is told once that is safe.
    let (resumed, in_time) =
        if quiesced { quiesce::resume(site, operation) } else { (Ok(()), Ok(())) };
    let stopped_seconds = quiesced.then(|| stopping.elapsed().as_secs_f64());
    if let Err(error) = &resumed {
        report.warn(&not_back(site, error));
    }
    // What was read of a service that had been let go meanwhile is of no one moment.
    let mut captured = in_time.and(read)?;
    crate::wal::sqlite::link(&chains, &mut captured.detail);

    let meta = SnapshotMeta {
        format: 1,
        service: site.name().clone(),
        definition: definition(site),
        generation,
        member: site.member().clone(),
        source_time: captured.source_time,
        position: captured.position.clone(),
        engine_version: captured.engine_version.clone(),
        roots: engine.roots(),
        detail: captured.detail.clone(),
    };
    let stored = operation.step("store", (), |operation| {
        operation.report().phase("storing");
        let described = add_meta(&mut sink.archiver, &meta)?;
        let Finished { tree, summary, problems } = sink.archiver.finish()?;
        Ok(Stored {
            tree,
            // The description is ours, not the service's.
            files: summary.files.saturating_sub(1),
            files_read: summary.files_read.saturating_sub(1),
            size_bytes: summary.bytes.saturating_sub(described),
            added_bytes: summary.added_bytes,
            problems: problems.into_iter().map(Trouble::from).collect(),
        })
    })?;
    for trouble in &stored.problems {
        report.warn(&format!("{}: {}", trouble.path, trouble.what));
    }
    let incomplete = !stored.problems.is_empty();

    let snapshot = operation.step("snapshot", (), |operation| {
        lock.still_held()?;
        let snapshot = snapshot_file(site, operation, &meta, &stored, parent, incomplete);
        Ok(repository.save_snapshot(&lock, &snapshot)?)
    })?;
    let point = RecoveryPoint {
        snapshot,
        engine: engine.name().to_owned(),
        generation,
        member: site.member().clone(),
        source_time: captured.source_time,
        received: Timestamp::now(),
        verified: None,
        drilled: None,
        drill: None,
        position: captured.position,
        cluster: crate::cluster::in_detail(&captured.detail),
        size_bytes: stored.size_bytes,
        added_bytes: stored.added_bytes,
        incomplete,
        pinned: false,
        tags: std::collections::BTreeSet::new(),
    };
    // Whether a commit that was cut off has reached the vault would have to be found out.
    operation.check_cancel()?;
    operation.forward("commit", &point, |_| {
        let (versioned, ()) = site.state()?.update(|state| state.commit(point.clone()))?;
        site.remember(&versioned)?;
        Ok(())
    })?;
    if !point.incomplete {
        crate::MemberRecord::change(site, |record| record.restored = None)?;
    }
    drop(lock);
    room::keep(site);
    resumed?;
    Ok(BackedUp {
        operation: operation.id().clone(),
        name: point.name().to_string(),
        point,
        files: stored.files,
        files_read: stored.files_read,
        problems: stored.problems,
        seconds: began.elapsed().as_secs_f64(),
        stopped_seconds,
        hook_failed: None,
    })
}

fn not_back(site: &ServiceSite, error: &Error) -> String {
    let what = match site.spec().quiesce {
        Quiesce::Freeze => "could not be thawed",
        _ => "did not come back",
    };
    format!("the service {what}: {}", error.chain())
}

/// Takes back a backup that did not reach its commit.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    quiesce::undo(left)?;
    if left.begun("snapshot").is_none() {
        return Ok(());
    }
    let site = left.site;
    let state = left.state_after("commit")?;
    let repository = site.repository()?;
    // A killed worker leaves its repository lock behind; taking one removes what is stale. Who waits for the
    // start of its host waits for nobody else's work.
    let patience = if left.run.booting { Duration::ZERO } else { Duration::from_secs(60) };
    let lock = repository.lock_for(Work::Backup, patience, &left.run.cancel)?;
    let tag = operation_tag(left.id);
    let (mut removed, mut kept) = (0, 0);
    for (id, snapshot) in repository.snapshots()? {
        if !snapshot.tags.contains(&tag) {
            continue;
        }
        if state.point(id).is_some() {
            kept += 1;
        } else {
            repository.remove_snapshot(&lock, id)?;
            removed += 1;
        }
    }
    if kept > 0 && left.after == After::Death {
        left.found("its snapshot had become history and stays");
    }
    if removed > 0 {
        left.undone("snapshot", "its snapshot was removed: it had not become history")?;
    }
    Ok(())
}

/// What reading told, as the journal keeps it.
#[derive(Serialize)]
struct ReadOut {
    source_time: Timestamp,
    position: Option<model::Position>,
    engine_version: Option<String>,
    detail: serde_json::Value,
}

impl From<Captured> for ReadOut {
    fn from(captured: Captured) -> Self {
        let Captured { source_time, position, engine_version, detail } = captured;
        ReadOut { source_time, position, engine_version, detail }
    }
}

#[derive(Serialize)]
struct Stored {
    tree: String,
    files: u64,
    files_read: u64,
    size_bytes: u64,
    added_bytes: u64,
    problems: Vec<Trouble>,
}

fn operation_tag(id: &OperationId) -> String {
    format!("mainstay:operation={id}")
}

fn snapshot_file(
    site: &ServiceSite,
    operation: &Operation,
    meta: &SnapshotMeta,
    stored: &Stored,
    parent: Option<SnapshotId>,
    incomplete: bool,
) -> Snapshot {
    let mut tags = vec![
        "mainstay".to_owned(),
        format!("mainstay:engine={}", site.spec().engine),
        format!("mainstay:generation={}", meta.generation),
        operation_tag(operation.id()),
    ];
    if incomplete {
        tags.push("mainstay:incomplete".to_owned());
    }
    Snapshot {
        time: meta.source_time.to_string(),
        parent: parent.map(|id| id.to_string()),
        tree: stored.tree.clone(),
        paths: meta.roots.iter().map(|root| root.in_snapshot.clone()).collect(),
        hostname: site.member().to_string(),
        username: std::env::var("USER").unwrap_or_default(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        excludes: site.spec().exclude.clone(),
        tags,
        program_version: Some(concat!("mainstay ", env!("CARGO_PKG_VERSION")).to_owned()),
        ..Snapshot::default()
    }
}

/// The definition as the snapshot keeps it: without anything that could be a secret.
fn definition(site: &ServiceSite) -> model::config::Service {
    let mut definition = site.spec().clone();
    // Commands may hold what they should only fetch.
    definition.password_command = None;
    definition.url_password_command = None;
    // It is about one host and its neighbour, and may hold a password.
    definition.stream_from = None;
    definition.url = definition.url.map(|url| model::config::without_password(&url));
    definition
}

/// Adds the description, and says how long it is.
fn add_meta(archiver: &mut Archiver, meta: &SnapshotMeta) -> Result<u64, Error> {
    let mut text = serde_json::to_vec_pretty(meta).map_err(|e| {
        Error::new(Class::Failed, "cannot encode the snapshot's description").because(e)
    })?;
    text.push(b'\n');
    archiver.file(META_PATH, node(0o600, meta.source_time, 0, 0), &mut text.as_slice())?;
    Ok(text.len() as u64)
}

fn node(mode: u32, mtime: Timestamp, uid: u32, gid: u32) -> Node {
    Node::streamed(mode, mtime, uid, gid)
}

/// Ranges are taken only as what was written to since the head, in the one file of a service.
fn known_ranges(
    site: &ServiceSite,
    state: &ServiceState,
    changed: &Changed,
    roots: &[engines::Root],
) -> Result<(), Error> {
    let name = site.name();
    let one_file = matches!(roots, [root] if root.kind == RootKind::File);
    if !one_file || site.spec().chunk_size.is_none() {
        return Err(Error::invalid(format!(
            "{name} is not one file with a `chunk-size`, so no ranges of it can be told"
        ))
        .hinting(
            "Its definition needs `path`, a file, and `chunk-size`; see docs/guide/files.md.",
        ));
    }
    let whole = "Back it up without ranges, and then tell what changes after that point.";
    // Whoever lists ranges has begun the list at one point. What is the newest now may be another:
    // the backup that the list was begun at may have failed, or be incomplete.
    if matches!(changed.since, Which::Latest) {
        let error = Error::invalid("`latest` does not say since when the ranges are");
        return Err(error.hinting("Name the point that the list begins at, as its backup told it."));
    }
    let since = which::resolve(site, state, &changed.since)?;
    let head = state.head.filter(|head| head.snapshot == since);
    let Some(point) = head.and_then(|head| state.point(head.snapshot)) else {
        return Err(Error::refused(format!(
            "the ranges are those since {}, which is not the newest point of {name}",
            since.short()
        ))
        .hinting(whole));
    };
    // A list is of one file. Another member's was another one, and what a restore has put here
    // differs from the head without having been written to.
    if (&point.member, point.generation) != (site.member(), state.generation) {
        return Err(Error::refused(format!(
            "the newest point of {name} was made by {} at generation {}, before {} took over",
            point.member,
            point.generation,
            site.member()
        ))
        .hinting(whole));
    }
    if let Some(restored) = crate::MemberRecord::load(site)?.restored {
        return Err(Error::refused(format!(
            "{} was restored here since the newest point of {name} was made",
            restored.short()
        ))
        .hinting(whole));
    }
    Ok(())
}

fn check_space(site: &ServiceSite, first: bool, size: Option<u64>) -> Result<(), Error> {
    let storage = site.storage()?;
    let Some(free) = storage.free_bytes()? else { return Ok(()) };
    // A later point adds what changed, which nobody knows before; a first one adds the service,
    // which may compress well: half of it is taken as what it will surely need room for.
    let need = SPACE_MARGIN + if first { size.unwrap_or(0) / 2 } else { 0 };
    if free < need {
        return Err(Error::new(
            Class::NoSpace,
            format!(
                "too little space in the vault {}: {} are free, {} are needed",
                storage.location(),
                model::size::human(free),
                model::size::human(need)
            ),
        )
        .hinting(format!(
            "Free some space, remove history with `mainstay forget {} --prune`, or point the vault at a \
             larger disk; nothing was touched.",
            site.name()
        )));
    }
    Ok(())
}

fn after_hook(
    site: &ServiceSite,
    operation: &mut Operation,
    result: &Result<BackedUp, Error>,
) -> Option<HookFailed> {
    let command = site.spec().hooks.after_backup.as_ref()?;
    let mut variables = hooks::variables(site, Some(operation.id()));
    let (outcome, detail) = match result {
        Ok(done) if done.problems.is_empty() => ("done", done.name.clone()),
        Ok(done) => ("incomplete", done.name.clone()),
        Err(error) if error.class() == Class::Cancelled => ("cancelled", error.chain()),
        Err(error) => ("failed", error.chain()),
    };
    variables.push(("MAINSTAY_OUTCOME".to_owned(), outcome.to_owned()));
    variables.push(("MAINSTAY_DETAIL".to_owned(), detail));
    hooks::afterwards(site, operation, hooks::AFTER_BACKUP, command, &variables)
}

/// Pipes what an engine captures into the repository.
struct Sink {
    archiver: Archiver,
    /// For the one file that there is.
    changed: Option<Ranges>,
    error: Option<repository::Error>,
}

impl Sink {
    fn passed(&mut self, result: Result<(), repository::Error>) -> Result<(), engines::Error> {
        result.map_err(|error| {
            let class = model::Classify::class(&error);
            let told = engines::Error::new(class, error.to_string());
            self.error.get_or_insert(error);
            told
        })
    }
}

impl CaptureSink for Sink {
    fn tree(
        &mut self,
        at: &str,
        source: &Path,
        options: &engines::TreeOptions,
    ) -> Result<(), engines::Error> {
        let options = repository::TreeOptions {
            exclude: options.exclude.clone(),
            exclude_caches: options.exclude_caches,
            exclude_larger_than: options.exclude_larger_than,
            one_file_system: options.one_file_system,
            changes_expected: options.changes_expected,
            emptied: options.emptied.clone(),
            distrust_times: options.distrust_times,
            chunk_bytes: options.chunk_bytes,
            changed: self.changed.take(),
        };
        let result = self.archiver.tree(at, source, &options);
        self.passed(result)
    }

    fn file(
        &mut self,
        at: &str,
        meta: &engines::FileMeta,
        content: &mut dyn Read,
    ) -> Result<(), engines::Error> {
        let node = node(meta.mode, meta.mtime, meta.uid, meta.gid);
        let result = self.archiver.file(at, node, content);
        self.passed(result)
    }
}
