//! Drill: a recovery point is restored to a scratch place, brought to life there, and judged.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `scratch` | the drill has a directory of its own | removing it |
//! | `stage` | the content is there, verified and durable | (with the directory) |
//! | `compare` | what is on disk was read, and is the snapshot's, where files are all there is | |
//! | `replay` | the log was replayed into it, where no server of the engine's would do that | (with the directory) |
//! | `prepare` | the engine has neutralised it | (with the directory) |
//! | `rehearse` | the engine has started and judged it, and stopped it | what was started ends with its process |
//! | `record` | the vault's state says what came of it | |
//! | `clean` | the directory is gone, if nobody wants to keep it | |
//!
//! Nothing of the service is touched: not its directories, its server, its archive. The repository is
//! only read, and the state only told what came of it.

mod place;

use crate::exchange::remove;
use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::placing::{self, Destination, Staging};
use crate::recover::Left;
use crate::wal::sqlite::{self, Replayed};
use crate::wal::target::{self, Begin};
use crate::{Error, ServiceSite, Which, restore};
use engines::{
    Context, Enclosed, Isolation, LogEnd, Proof, Purpose, Question, Rehearsal, Rehearsed,
    SnapshotMeta, Verdict,
};
use jiff::Timestamp;
use model::duration;
use model::state::Refusal;
use model::{Class, Classify, Drill, OperationId, PointName, Progress, ServiceState, SnapshotId};
use repository::restore::Lacking;
use repository::scrub::{self, Copy};
use repository::{RepositoryLock, Work};
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many files that are not the snapshot's are named.
const NAMED: usize = 20;

/// How long what a dead drill had started may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// In a drill's directory: where the sockets of what is started are.
const HOME: &str = "run";

/// Who knows the names in it gets by.
const PASSED_THROUGH: u32 = 0o711;

/// What is asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Which point.
    pub which: Which,
    /// Leave the copy where it is.
    pub keep: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation.
    pub operation: OperationId,
    /// The point's name.
    pub name: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its consistency time.
    pub source_time: Timestamp,
    /// The point in time that the log was replayed to beyond the snapshot, if one was named.
    pub until: Option<Timestamp>,
    /// What was replayed of the log by ourselves, if anything could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Replayed>,
    /// The copy was sound, and gave the expected answer.
    pub sound: bool,
    /// What was found, in sentences.
    pub findings: Vec<String>,
    /// What the user's question was answered.
    pub answer: Option<String>,
    /// Nothing that was started could reach the network.
    pub isolated: bool,
    /// How, or why not.
    pub isolation: String,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Until the content was there and prepared.
    pub restore_seconds: f64,
    /// From then until it answered; none if nothing had to be started, or it did not answer.
    pub start_seconds: Option<f64>,
    /// Both: what a recovery takes. None if it did not come to one.
    pub recovery_seconds: Option<f64>,
    /// All of it, with the judging.
    pub seconds: f64,
    /// Where the copy is, if it was kept.
    pub kept: Option<PathBuf>,
}

/// The directory of a drill, as it is journalled before it is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Scratch {
    dir: PathBuf,
}

/// Drills.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    // Said before anything is fetched.
    let engine = site.engine()?;
    if engine.proof() == Proof::None {
        let what = format!("engine {} has no rehearsal, so it cannot be drilled", engine.name());
        return Err(Error::invalid(what)
            .hinting("Restore it elsewhere with `mainstay restore --target DIR`, and look."));
    }
    let mut operation = Operation::begin(site, Kind::Drill, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Drill, result, |done| match done.sound {
        true => (Outcome::Done, format!("{} is restorable", done.name)),
        false => {
            let found = done.findings.last().map(String::as_str).unwrap_or_default();
            (Outcome::Failed, format!("{} is not sound: {found}", done.name))
        }
    })
}

struct Plan {
    name: String,
    snapshot: SnapshotId,
    meta: SnapshotMeta,
    until: Option<Timestamp>,
    end: Option<LogEnd>,
    dir: PathBuf,
    destinations: Vec<Destination>,
}

impl Plan {
    fn make(
        site: &ServiceSite,
        operation: &Operation,
        params: &Params,
        state: &ServiceState,
        begin: Begin,
    ) -> Result<Plan, Error> {
        let Begin { snapshot, end, whole, .. } = begin;
        let meta = placing::meta(site, snapshot)?;
        let until = match params.which {
            Which::At(time) if site.engine()?.abilities().log && !whole => Some(time),
            _ => None,
        };
        let place = place::of(site)?;
        let size = match state.point(snapshot) {
            Some(point) => point.size_bytes,
            None => restore::size_of(site, snapshot)?,
        };
        placing::check_space(&place, size)?;
        let dir = place.join(operation.id().as_str());
        let destination = |(number, root): (usize, &engines::Root)| {
            // A file keeps its name: what reads it may go by that.
            let name = root.in_snapshot.rsplit('/').find(|part| !part.is_empty());
            let staged = dir.join(format!("copy-{number}")).join(name.unwrap_or("data"));
            let target = staged.clone();
            Destination {
                root: root.clone(),
                staged,
                target,
                without: Lacking::default(),
                amends: None,
            }
        };
        let destinations = meta.roots.iter().enumerate().map(destination).collect();
        let name = PointName::of(meta.source_time, &meta.definition.engine, snapshot).to_string();
        Ok(Plan { name, snapshot, meta, until, end, dir, destinations })
    }
}

fn perform(site: &ServiceSite, operation: &mut Operation, params: &Params) -> Result<Done, Error> {
    let began = Instant::now();
    // First: a point that is chosen and then removed would look like one that cannot be restored.
    let (_, lock) = operation.open_for(site, Work::Restore)?;
    let state = site.load_state()?.state;
    let begin = target::begin(site, &state, &params.which, &LogEnd::default())?;
    if let Some(note) = &begin.note {
        operation.report().warn(note);
    }
    let snapshot = begin.snapshot;
    let isolation = Isolation::find(operation.cancel())?;
    if !isolation.is_complete() {
        operation.report().warn(isolation.said());
    }
    let tried = Plan::make(site, operation, params, &state, begin).and_then(|plan| {
        let tried = rehearse(site, operation, &plan, &params.which, &isolation, lock)?;
        Ok((plan, tried))
    });
    let (plan, tried) = match tried {
        // What cannot be restored is not restorable: that is what the drill was to find out.
        Err(error) if error.class() == Class::Corrupt => {
            if let Err(unrecorded) = record(site, operation, snapshot, &isolation, false, None) {
                operation.report().warn(&unrecorded.chain());
            }
            return Err(error);
        }
        other => other?,
    };
    let Tried { staging, log, restore_seconds, rehearsed } = tried;
    let start_seconds = rehearsed.answered_after.map(|after| after.as_secs_f64());
    let recovery_seconds = match (site.engine()?.proof(), start_seconds) {
        (Proof::Server, None) => None,
        (_, start) => Some(restore_seconds + start.unwrap_or_default()),
    };
    let sound = rehearsed.verdict.sound;
    for finding in &rehearsed.verdict.findings {
        operation.report().note(finding);
    }
    record(site, operation, snapshot, &isolation, sound, recovery_seconds)?;
    let dir = plan.dir.clone();
    operation.forward("clean", params.keep, |_| match params.keep {
        true => Ok(()),
        false => remove(&dir),
    })?;
    Ok(Done {
        operation: operation.id().clone(),
        name: plan.name,
        snapshot,
        source_time: plan.meta.source_time,
        until: plan.until,
        log,
        sound,
        findings: rehearsed.verdict.findings,
        answer: rehearsed.answer,
        isolated: isolation.is_complete(),
        isolation: isolation.said().to_owned(),
        files: staging.sum(|root| root.files),
        bytes: staging.sum(|root| root.bytes),
        restore_seconds,
        start_seconds,
        recovery_seconds,
        seconds: began.elapsed().as_secs_f64(),
        kept: params.keep.then_some(plan.dir),
    })
}

/// How far it came.
struct Tried {
    staging: Staging,
    log: Option<Replayed>,
    restore_seconds: f64,
    rehearsed: Rehearsed,
}

fn rehearse(
    site: &ServiceSite,
    operation: &mut Operation,
    plan: &Plan,
    which: &Which,
    isolation: &Isolation,
    lock: RepositoryLock,
) -> Result<Tried, Error> {
    let engine = site.engine()?;
    let began = Instant::now();
    let scratch = Scratch { dir: plan.dir.clone() };
    operation.step("scratch", &scratch, |_| {
        // What is above may be passed through, by who knows the name: a server that is not run by
        // this user has to.
        let above = scratch.dir.parent().unwrap_or(&scratch.dir);
        let failed = |e| Error::io("make", &scratch.dir, e);
        DirBuilder::new().recursive(true).mode(PASSED_THROUGH).create(above).map_err(failed)?;
        // Nobody has put a directory there for us, nor one above it that was not there before.
        place::of(site)?;
        DirBuilder::new().mode(0o700).create(&scratch.dir).map_err(failed)
    })?;
    let staging = placing::stage(site, operation, plan.snapshot, &plan.destinations, None)?;
    // Not part of what a recovery takes.
    let mut restoring = began.elapsed();
    let mut differing = Verdict { sound: true, findings: Vec::new() };
    if engine.proof() == Proof::Bytes {
        differing = operation.step("compare", (), |operation| compare(site, operation, plan))?;
    }
    let preparing = Instant::now();
    let log = sqlite::replay_to(site, operation, &plan.meta, &plan.destinations, which)?;
    let home = plan.dir.join(HOME);
    let copy = placing::staged(&plan.destinations);
    let purpose = Purpose::Scratch { until: plan.until };
    operation.step("prepare", (), |operation| {
        operation.with_context(site, |cx| {
            let enclosed = Some(Enclosed { isolation, home: &home });
            engine.prepare(&Context { enclosed, ..*cx }, &plan.meta, &copy, &purpose)
        })
    })?;
    if let Some(end) = &plan.end {
        placing::aim(site, operation, &plan.destinations, end)?;
    }
    restoring += preparing.elapsed();
    // A vault that others prune meanwhile has given everything that is needed.
    drop(lock);
    let question = Question::of(site.spec());
    let mut rehearsed = operation.step("rehearse", (), |operation| {
        crate::member::private_dir(&home).map_err(|e| Error::io("make", &home, e))?;
        let handed_over = OnceCell::new();
        let before_programs = || match handed_over.set(()) {
            Ok(()) => hand_over(plan, engine.rehearses_as()),
            Err(()) => Ok(()),
        };
        if engine.proof() == Proof::Server {
            before_programs()?;
        }
        let rehearsal = Rehearsal {
            meta: &plan.meta,
            copy: &copy,
            home: &home,
            isolation,
            question: question.as_ref(),
            limit: limit(site)?,
            before_programs: &before_programs,
        };
        let done = operation.with_context(site, |cx| engine.rehearse(cx, &rehearsal))?;
        Ok(Heard(done))
    })?;
    rehearsed.0.verdict.sound &= differing.sound;
    rehearsed.0.verdict.findings.splice(..0, differing.findings);
    // What a restore would not bring back is not proven restorable.
    for gap in log.iter().flat_map(|log| &log.gaps) {
        rehearsed.0.verdict.sound = false;
        rehearsed.0.verdict.findings.push(gap.clone());
    }
    Ok(Tried { staging, log, restore_seconds: restoring.as_secs_f64(), rehearsed: rehearsed.0 })
}

/// How long a program of the user's may work on a copy, if the service says so.
fn limit(site: &ServiceSite) -> Result<Option<Duration>, Error> {
    let text = site.spec().drill_timeout.as_deref();
    let limit = text.map(duration::parse).transpose();
    limit.map_err(|e| Error::invalid(e.to_string()))
}

/// What the journal keeps of a rehearsal: the verdict.
struct Heard(Rehearsed);

impl Serialize for Heard {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.verdict.serialize(to)
    }
}

/// Reads back what was restored.
fn compare(site: &ServiceSite, operation: &Operation, plan: &Plan) -> Result<Verdict, Error> {
    operation.report().phase("comparing the copy with the snapshot");
    let repository = site.repository()?;
    let mut verdict = Verdict { sound: true, findings: Vec::new() };
    for destination in &plan.destinations {
        let copy = Copy {
            root: &destination.staged,
            snapshot: plan.snapshot,
            path: destination.root.in_snapshot.as_bytes(),
        };
        let report = operation.report();
        let found = scrub::scrub(repository, copy, NAMED, &*report, operation.cancel())?;
        verdict.sound &= found.is_empty();
        verdict.findings.extend(found.iter().map(|one| format!("{}: {}", one.path, one.what)));
    }
    if verdict.sound {
        verdict.findings.push("every byte on disk is the snapshot's".to_owned());
    }
    Ok(verdict)
}

/// Lets the user whom the copy belongs to, or as whom a server runs, come to what is the user's, and
/// nobody else to anything. What is above that stays ours: we work there by path, and who may exchange
/// names there would have us work elsewhere.
fn hand_over(plan: &Plan, user: Option<(u32, u32)>) -> Result<(), engines::Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(first) = plan.destinations.first() else { return Ok(()) };
    let look = |path: &Path| {
        std::fs::symlink_metadata(path)
            .map_err(|e| engines::Error::io("look at", path.display(), e))
    };
    let set = |path: &Path, mode| {
        let mode = Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode)
            .map_err(|e| engines::Error::io("set the mode of", path.display(), e))
    };
    let owner = look(&first.staged)?;
    if user.is_none() && owner.uid() == 0 {
        return Ok(());
    }
    for destination in &plan.destinations {
        let Some(above) = destination.staged.parent() else { continue };
        let staged = look(&destination.staged)?;
        let closed = staged.is_dir() && staged.mode() & 0o007 == 0;
        // A copy that no server works on stays ours.
        if user.is_none() && closed && staged.uid() == owner.uid() {
            set(above, PASSED_THROUGH)?;
            continue;
        }
        set(above, 0o700)?;
        if user.is_none() {
            lchown(above, Some(owner.uid()), Some(owner.gid()))
                .map_err(|e| engines::Error::io("change the owner of", above.display(), e))?;
        }
    }
    set(&plan.dir, PASSED_THROUGH)
}

/// Tells the vault's state. A snapshot that no commit made history is none of its points.
fn record(
    site: &ServiceSite,
    operation: &mut Operation,
    snapshot: SnapshotId,
    isolation: &Isolation,
    sound: bool,
    recovery_seconds: Option<f64>,
) -> Result<(), Error> {
    let drill = Drill {
        at: Timestamp::now(),
        member: site.member().clone(),
        sound,
        recovery_millis: recovery_seconds.map(|seconds| {
            u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX)
        }),
        isolated: isolation.is_complete(),
    };
    let report = operation.report();
    operation.forward("record", &drill, |_| {
        // Of the time when it is told, which may take several tries.
        let told = |state: &mut ServiceState| {
            state.drilled(snapshot, &Drill { at: Timestamp::now(), ..drill.clone() })
        };
        match site.state()?.update(told) {
            Err(coordination::Error::Refused(Refusal::NoSuchPoint(_))) => {
                report.note("this snapshot is no recovery point, so the drill is not recorded");
                Ok(())
            }
            other => Ok(other.map(|_| ())?),
        }
    })
}

/// After a failure or a death: whatever the drill had made goes, unless its owner had said at its
/// end that it stays.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    let Some(data) = left.begun("scratch") else { return Ok(()) };
    if left.done("clean").is_some() {
        return Ok(());
    }
    let scratch: Scratch = serde_json::from_value(data).map_err(|e| {
        Error::new(Class::Corrupt, "the journal's entry `scratch` is not valid").because(e)
    })?;
    engines::rehearsal::left::end(&scratch.dir.join(HOME), &scratch.dir);
    // What it had started ends with it, but may write while it does.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match remove(&scratch.dir) {
            Ok(()) if !scratch.dir.exists() => break,
            Err(error) if Instant::now() >= deadline => return Err(error),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    left.undone("scratch", "the scratch copy was removed")
}
