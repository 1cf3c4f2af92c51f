//! Refresh: this host's standby is brought from the point it holds to a newer one.
//!
//! At every instant, crash included, the standby is at the old point or the new one: the new copy
//! is built beside the old and exchanged with it in one rename. What has not changed is shared with
//! the old copy, and of a large file that has, so is the rest, so that cost and space follow the
//! change. How depends on the file system and the engine:
//!
//! | | unchanged files | large files of which a part changed |
//! |---|---|---|
//! | reflinks (XFS, btrfs) | hard links, or clones | clones, and what differs is written to them |
//! | no reflinks (ext4) | hard links | hard links, and what differs goes to a redo journal |
//! | no reflinks, and the engine writes to what is staged | copies | copies |
//!
//! A redo journal is applied past the commit marker, with the start gate closed; whoever comes after
//! a crash applies it again. An engine that follows a log by itself is only seeded by a copy; after
//! that a refresh makes sure that it follows, and waits.

mod adopt;

use crate::exchange::{Placement, aside, discard, redo_of};
use crate::journal::{Kind, Outcome};
use crate::member::manifest;
use crate::operation::{Operation, Run};
use crate::placing::{self, Placing, Seed};
use crate::recover::Left;
use crate::wal::sqlite::{self, Course, Replayed, Sound};
use crate::{Error, MemberRecord, ServiceSite, Which, which};
use adopt::Adopted;
use engines::{Purpose, Refresh, RootKind, Running};
use jiff::Timestamp;
use model::state::Applied;
use model::{
    CancelToken, Class, Classify, OperationId, Position, Progress, RecoveryPoint, Role,
    ServiceState, SnapshotId,
};
use repository::Work;
use repository::restore::{Difference, Times, differences, differences_but_links};
use repository::scrub::{self, Copy, Written};
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many differences of a standby that was written to are named.
const NAMED: usize = 10;

/// How long a following standby may take to replay what the vault has.
const REPLAY_PATIENCE: Duration = Duration::from_secs(600);

/// After so long a standby has asked several times for the next part of the log.
const STUCK: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Which point.
    pub which: Which,
    /// Put aside whatever is there and begin anew.
    pub reseed: bool,
    /// What is there and nobody knows is an old copy, of which what has not changed may be taken. A
    /// copy that is known is refreshed as always.
    pub adopt: bool,
    /// Read all of the copy, and replace what has rotted in it.
    pub verify: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What came of it, or with a dry run would.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation; none for a dry run.
    pub operation: Option<OperationId>,
    /// The point the standby held before.
    pub from: Option<SnapshotId>,
    /// The point it holds now.
    pub to: SnapshotId,
    /// Consistency time of what it holds now.
    pub source_time: Timestamp,
    /// How far it has followed the log, if it follows one.
    pub position: Option<Position>,
    /// It was at this point already.
    pub unchanged: bool,
    /// It was built from nothing, or from what was adopted.
    pub seeded: bool,
    /// It was built from what stood there and nobody knew.
    pub adopted: bool,
    /// Bytes of the copy.
    pub bytes: u64,
    /// Of these: bytes that came from the vault.
    pub fetched_bytes: u64,
    /// Bytes that were written to this host's disk.
    pub written_bytes: u64,
    /// Files that were taken over as they are.
    pub linked_files: u64,
    /// Files that were cloned, and what differs written to the clone.
    pub cloned_files: u64,
    /// Files that were changed in their place, through a redo journal.
    pub patched_files: u64,
    /// Where a copy that was put aside is.
    pub put_aside: Vec<std::path::PathBuf>,
    /// What was replayed of the log by ourselves, if anything could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Replayed>,
    /// How long the run took.
    pub seconds: f64,
}

/// Refreshes this host's standby.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    if params.dry_run {
        let began = Instant::now();
        let state = site.load_state()?.state;
        let point = target(site, &state, &params.which)?;
        let from = MemberRecord::load(site)?.applied.map(|a| a.snapshot);
        let adopted = params.adopt && from.is_none() && adopt::is_something_there(site)?;
        return Ok(Done { adopted, ..Done::to(&point, from, began) });
    }
    let mut operation = Operation::begin(site, Kind::Refresh, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Refresh, result, |done| {
        let message = match (done.unchanged, done.seeded) {
            (true, _) => format!("it was at {} already", done.to.short()),
            _ if done.adopted => format!("adopted, and now at {}", done.to.short()),
            (_, true) => format!("seeded at {}", done.to.short()),
            _ => format!("now at {}", done.to.short()),
        };
        let message = match &done.log {
            Some(log) if log.objects > 0 => format!("{message}, and at {}", done.source_time),
            _ => message,
        };
        (Outcome::Done, message)
    })
}

impl Done {
    fn to(point: &RecoveryPoint, from: Option<SnapshotId>, began: Instant) -> Done {
        Done {
            operation: None,
            from,
            to: point.snapshot,
            source_time: point.source_time,
            position: point.position.clone(),
            unchanged: from == Some(point.snapshot),
            seeded: from.is_none(),
            adopted: false,
            bytes: point.size_bytes,
            fetched_bytes: 0,
            written_bytes: 0,
            linked_files: 0,
            cloned_files: 0,
            patched_files: 0,
            put_aside: Vec::new(),
            log: None,
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}

/// The point to go to. Only committed history counts.
fn target(site: &ServiceSite, state: &ServiceState, which: &Which) -> Result<RecoveryPoint, Error> {
    match state.members.get(site.member()).map(|member| member.role) {
        Some(Role::Standby) => {}
        Some(role) => {
            let broken = role == Role::Broken;
            let role = match role {
                Role::Primary => "the primary",
                Role::Standby => "a standby",
                Role::Broken => "a broken member",
            };
            let error = Error::refused(format!(
                "{} is {role} of {}, and only a standby is refreshed",
                site.member(),
                site.name()
            ));
            return Err(match broken {
                true => error.hinting(format!(
                    "Look at its data, then run `mainstay rejoin {}`.",
                    site.name()
                )),
                false => error,
            });
        }
        None => {
            return Err(Error::invalid(format!(
                "{} is not a member of {} yet",
                site.member(),
                site.name()
            ))
            .hinting("Run `mainstay init` on this host first."));
        }
    }
    let id = which::resolve(site, state, which)?;
    let point = state.point(id).ok_or_else(|| {
        Error::refused(format!(
            "snapshot {} is not history of {}: no backup committed it",
            id.short(),
            site.name()
        ))
    })?;
    if point.incomplete {
        return Err(Error::refused(format!("{} is incomplete", point.name())).hinting(
            "Choose a whole one, or restore it elsewhere with `mainstay restore --target`.",
        ));
    }
    Ok(point.clone())
}

/// The refresh inside an operation that may be more than a refresh (a takeover ends with one).
pub(crate) fn perform(
    site: &ServiceSite,
    operation: &mut Operation,
    params: &Params,
) -> Result<Done, Error> {
    let began = Instant::now();
    operation.report().phase("opening the vault");
    let state = site.load_state()?.state;
    let point = target(site, &state, &params.which)?;
    let record = MemberRecord::load(site)?;
    let from = record.applied.as_ref().map(|applied| applied.snapshot);
    if record.offline.is_some() && params.which == Which::Latest && !params.reseed {
        return Err(Error::refused(format!("{} is offline on this host", site.name()))
            .hinting("Bring it back with `mainstay online` first."));
    }
    // Retention waits for a standby that lags, but not for ever. One that holds something newer than
    // the history does is for a person to decide.
    let lagged = record.applied.as_ref().filter(|held| {
        !params.reseed && state.point(held.snapshot).is_none() && engine_exchanges(site)
    });
    if let Some(held) = lagged.filter(|held| held.source_time <= point.source_time) {
        operation.report().warn(&format!(
            "what this standby holds, of {}, is too old for the history by now: it is built anew \
             from {}",
            held.source_time,
            point.name()
        ));
    } else if let Some(held) = from
        && !params.reseed
        && state.point(held).is_none()
    {
        return Err(Error::refused(format!(
            "the copy on this host is at {}, which is not in the history of {} (any more)",
            held.short(),
            site.name()
        ))
        .hinting("Build it anew with `mainstay refresh --reseed`; what is there is put aside."));
    }
    let engine = site.engine()?;
    let mut done =
        Done { operation: Some(operation.id().clone()), ..Done::to(&point, from, began) };
    if engine.refresh() == Refresh::Follow && from.is_some() && !params.reseed {
        follow(site, operation, &point, &mut done)?;
    } else {
        replace(site, operation, &point, params, &mut done)?;
        if engine.refresh() == Refresh::Follow {
            follow(site, operation, &point, &mut done)?;
        }
    }
    if let Some(command) = &site.spec().hooks.after_refresh {
        let variables = crate::hooks::variables(site, Some(operation.id()));
        // The refresh itself is past its commit marker: a cancel comes too late.
        let calm = model::CancelToken::new();
        crate::hooks::run("after-refresh", command, &variables, &calm)?;
    }
    done.seconds = began.elapsed().as_secs_f64();
    Ok(done)
}

/// Builds the new copy beside the old one and exchanges them.
fn replace(
    site: &ServiceSite,
    operation: &mut Operation,
    point: &RecoveryPoint,
    params: &Params,
    done: &mut Done,
) -> Result<(), Error> {
    let engine = site.engine()?;
    let runs = operation.with_context(site, |cx| engine.running(cx))? == Running::Yes;
    if runs && !params.reseed {
        return Err(Error::refused(format!("{} runs on this standby", site.name()))
            .hinting("Stop it: a standby of this engine is not running until it takes over."));
    }
    let meta = placing::meta(site, point.snapshot)?;
    let targets = placing::own_targets(site, &meta)?;
    let destinations = placing::destinations(&meta, targets, operation.id())?;
    let record = MemberRecord::load(site)?;
    let verify = params.verify || record.rotten;
    let reuse = done.from.filter(|_| !params.reseed);
    if !params.reseed
        && let Some(what) =
            operation.with_context(site, |cx| engine.occupied(cx, &meta, &Purpose::Standby))?
    {
        return Err(Error::refused(what)
            .hinting("`mainstay refresh --reseed` puts aside what is there and begins anew."));
    }
    // Then nothing but the manifest knows what it held.
    let known = match reuse {
        Some(held) => is_point(site, held)?,
        None => true,
    };
    let replayed_before = record.applied.as_ref().is_some_and(|held| held.replayed);
    let adopts = params.adopt && !params.reseed && reuse.is_none();
    let seed = match reuse {
        Some(snapshot) if known => {
            Some(Seed { snapshot, doubted: verify || replayed_before, adopted: false })
        }
        // No snapshot tells what it holds; the one that it is going to hold is as good as any.
        None if !adopts => None,
        _ => Some(Seed { snapshot: point.snapshot, doubted: true, adopted: adopts }),
    };
    let mut adopted = Adopted::default();
    let mut put_aside = Vec::new();
    let mut innocent = HashMap::new();
    for (number, destination) in destinations.iter().enumerate() {
        let occupied = placing::occupied(&destination.target)?;
        match (occupied, reuse) {
            (false, _) => put_aside.push(None),
            (true, _) if params.reseed => {
                put_aside.push(Some(aside(&destination.target, "diverged")?));
            }
            (true, None) if adopts => {
                adopted.take(site, operation, (point.snapshot, &meta), number, destination)?;
                put_aside.push(None);
            }
            (true, None) => {
                return Err(Error::refused(format!(
                    "{} holds data that no refresh put there",
                    destination.target.display()
                ))
                .hinting(
                    "If it is an old copy, adopt it with `mainstay refresh --adopt`; otherwise build \
                     the copy anew with `--reseed`, which puts it aside.",
                ));
            }
            (true, Some(held)) => {
                let written =
                    written_to(site, held, number, &destination.target, operation.cancel())?;
                untouched(&destination.target, written.found)?;
                innocent.insert(number, written.innocent);
                put_aside.push(None);
            }
        }
    }
    let in_place = record.unloaded.is_none() && destinations.iter().all(|d| d.target.exists());
    // Where the engine has nobody who would replay its log, we do. A snapshot that was named is meant.
    let replays = sqlite::is_meant(site) && !matches!(params.which, Which::Named(_));
    let until = match params.which {
        Which::At(time) => Some(time),
        _ => None,
    };
    let here = in_place && reuse.is_some() && !verify;
    let course = match record.applied.as_ref().filter(|_| here && replays && until.is_none()) {
        Some(held) => Course::look(site, held, point.snapshot, &meta)?,
        None => Course::Anew,
    };
    if let Course::Stands(until) = course {
        return stands(site, point, until, done);
    }
    if done.unchanged && here && !replays && !replayed_before {
        site.state()?.update(|state| {
            let entry = state.members.get(site.member()).and_then(|m| m.applied.clone());
            match entry {
                Some(applied) if applied.snapshot == point.snapshot => Ok(()),
                _ => state.applied(site.member(), Some(applied_now(point, None))),
            }
        })?;
        return Ok(());
    }
    done.unchanged = false;
    (done.seeded, done.adopted) = (reuse.is_none(), adopted.is_any());
    let repository = site.repository()?;
    let _lock = repository.lock_for(Work::Refresh, Duration::from_secs(60), operation.cancel())?;
    match seed {
        Some(_) if matches!(course, Course::Ahead(_)) => {}
        Some(seed) => {
            let cancel = operation.cancel();
            placing::check_space_beside(site, point, &destinations, seed, cancel)?;
        }
        None => {
            for destination in &destinations {
                placing::check_space(&destination.target, point.size_bytes)?;
            }
        }
    }
    operation.step("announce", (), |_| {
        site.state()?.update(|state| state.importing(site.member()))?;
        Ok(())
    })?;
    let mut along = matches!(course, Course::Ahead(_));
    let built = match course {
        Course::Ahead(ahead) => ahead.stage(operation, &destinations),
        Course::Stands(_) | Course::Anew => {
            let stage = placing::stage(site, operation, point.snapshot, &destinations, seed);
            let replay = |op: &mut Operation| sqlite::replay(site, op, &meta, &destinations, until);
            stage.and_then(|staging| match replays {
                true => Ok((staging, Some(operation.step("replay", (), replay)?))),
                false => Ok((staging, None)),
            })
        }
    };
    let (staging, replayed) = match built {
        // One object of the log that is damaged keeps nobody from what is sound.
        Err(e) if replays && e.class() == Class::Corrupt => {
            operation.report().warn(&format!("{}: what is sound is looked for", e.chain()));
            for destination in &destinations {
                discard(&destination.staged)?;
            }
            let sound = Sound::look(site, operation, &meta, until)?;
            let held = record.applied.as_ref().map(|held| held.source_time).filter(|_| along);
            if let Some(held) = held.filter(|held| *held >= sound.reaches()) {
                return stands(site, point, held, done);
            }
            along = false;
            if let Some(seed) = seed {
                let cancel = operation.cancel();
                placing::check_space_beside(site, point, &destinations, seed, cancel)?;
            }
            let staging = placing::stage(site, operation, point.snapshot, &destinations, seed)?;
            let replay = |op: &mut Operation| sound.replay(op, &destinations);
            (staging, Some(operation.step("replay", (), replay)?))
        }
        built => built?,
    };
    done.source_time = replayed
        .as_ref()
        .and_then(|replayed| replayed.until)
        .map_or(point.source_time, |until| until.max(point.source_time));
    done.bytes = staging.sum(|root| root.bytes);
    done.fetched_bytes = staging.sum(|root| root.fetched_bytes);
    done.written_bytes = staging.sum(|root| root.written_bytes);
    done.linked_files = staging.sum(|root| root.linked_files);
    done.cloned_files = staging.sum(|root| root.cloned_files);
    done.patched_files = staging.sum(|root| root.patched_files);
    placing::prepare(site, operation, &meta, &destinations, &Purpose::Standby)?;
    if runs {
        operation
            .step("stop", (), |operation| operation.with_context(site, |cx| engine.stop(cx)))?;
    }
    let placements = destinations
        .iter()
        .zip(&put_aside)
        .zip(&staging.roots)
        .map(|((d, aside), root)| {
            let redo = root.journal.then(|| redo_of(&d.staged));
            let placement = Placement::new(d.staged.clone(), d.target.clone(), aside.clone())?;
            Ok(placement.with_redo(redo))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let placing = Placing {
        placements,
        snapshot: point.snapshot,
        source_time: done.source_time,
        position: point.position.clone(),
        purpose: Purpose::Standby,
        own: true,
        log: match &replayed {
            Some(replayed) => replayed.held.clone(),
            None if sqlite::is_meant(site) => sqlite::held_by(&meta),
            None => Vec::new(),
        },
        replayed: along && replayed_before || replayed.as_ref().is_some_and(|log| log.frames > 0),
    };
    done.log = replayed;
    // Looked at again just before the exchange: building took time in which somebody may have
    // written.
    if reuse.is_some() {
        let targets = destinations.iter().zip(&staging.roots).enumerate();
        for (number, (destination, root)) in targets {
            if placing::occupied(&destination.target)? {
                // Files that the new copy shares with the old one have got a name more. Whoever wrote
                // to them since, or before that, has written to both.
                let innocent: Times = innocent.remove(&number).unwrap_or_default();
                let (target, manifest) = (&destination.target, manifest(site, number));
                let links = &root.links;
                let found = differences_but_links(target, &manifest, &innocent, links, NAMED + 1)?;
                untouched(target, found)?;
            }
        }
    }
    for (number, (destination, aside)) in destinations.iter().zip(&put_aside).enumerate() {
        if let Some(root) = staging.roots.get(number)
            && adopted.has(number)
        {
            adopted.require_unchanged(number, &destination.target, &root.links)?;
        } else if reuse.is_none() && aside.is_none() && placing::occupied(&destination.target)? {
            return Err(Error::refused(format!(
                "somebody has put something at {} since this refresh began",
                destination.target.display()
            ))
            .hinting("Move it away, or put it aside with `mainstay refresh --reseed`."));
        }
    }
    placing::place(site, operation, &placing)?;
    done.put_aside = put_aside.into_iter().flatten().collect();
    Ok(())
}

/// What is held is all there is; what is known of it may be older.
fn stands(
    site: &ServiceSite,
    point: &RecoveryPoint,
    until: Timestamp,
    done: &mut Done,
) -> Result<(), Error> {
    (done.unchanged, done.seeded, done.source_time) = (true, false, until);
    let before = MemberRecord::load(site)?;
    let after = MemberRecord::change(site, |record| {
        if let Some(held) = &mut record.applied {
            // The log has led to everything that is in this point.
            held.replayed |= held.snapshot != point.snapshot;
            (held.snapshot, held.source_time) = (point.snapshot, until);
        }
    })?;
    let now = Applied { source_time: until, ..applied_now(point, None) };
    site.state()?.update(|state| {
        let member = state.members.get(site.member());
        let known = member.and_then(|member| member.applied.as_ref()).is_some_and(|applied| {
            (applied.snapshot, applied.source_time) == (now.snapshot, now.source_time)
        });
        if known && before == after && member.is_some_and(|member| !member.importing) {
            return Ok(());
        }
        state.applied(site.member(), Some(now.clone()))
    })?;
    Ok(())
}

/// Whether a snapshot is in the history still.
fn is_point(site: &ServiceSite, snapshot: SnapshotId) -> Result<bool, Error> {
    Ok(site.load_state()?.state.point(snapshot).is_some())
}

fn engine_exchanges(site: &ServiceSite) -> bool {
    site.engine().is_ok_and(|engine| engine.refresh() == Refresh::Exchange)
}

/// What was changed of a copy that no snapshot holds byte for byte: the manifest alone tells.
fn by_manifest(site: &ServiceSite, number: usize, target: &Path) -> Result<Written, Error> {
    let found = differences(target, &manifest(site, number), NAMED + 1)?;
    Ok(Written { found, innocent: Times::default() })
}

/// A running standby: start it if it is down, refuse it if it does not follow, wait until it has
/// replayed what the vault has.
fn follow(
    site: &ServiceSite,
    operation: &mut Operation,
    point: &RecoveryPoint,
    done: &mut Done,
) -> Result<(), Error> {
    let engine = site.engine()?;
    if operation.with_context(site, |cx| engine.running(cx))? != Running::Yes {
        operation
            .step("start", (), |operation| operation.with_context(site, |cx| engine.start(cx)))?;
    }
    operation.report().phase("waiting for the standby to replay");
    let goal = replay_goal(site, point)?;
    let deadline = Instant::now() + REPLAY_PATIENCE;
    let mut last: Option<(Option<Position>, Instant)> = None;
    loop {
        operation.check_cancel()?;
        let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
        let still = match &last {
            Some((position, since)) if *position == seen.position => since.elapsed(),
            _ => {
                last = Some((seen.position.clone(), Instant::now()));
                Duration::ZERO
            }
        };
        if seen.running == Running::Yes && !seen.following {
            return Err(Error::refused(format!(
                "the copy of {} on this host does not follow any more: it was promoted or written to",
                site.name()
            ))
            .hinting("Look at what is in it; `mainstay refresh --reseed` puts it aside and begins anew."));
        }
        if reached(seen.position.as_ref(), goal.as_ref()) {
            let source_time = seen.replayed.unwrap_or(point.source_time).max(point.source_time);
            done.position.clone_from(&seen.position);
            done.source_time = source_time;
            let applied = Applied {
                snapshot: point.snapshot,
                source_time,
                position: seen.position.clone(),
                at: Timestamp::now(),
            };
            site.state()?.update(|state| state.applied(site.member(), Some(applied.clone())))?;
            MemberRecord::change(site, |record| {
                if let Some(applied) = &mut record.applied {
                    applied.snapshot = point.snapshot;
                    applied.source_time = source_time;
                }
            })?;
            return Ok(());
        }
        let lost = still >= STUCK && crate::wal::is_lost(site, seen.position.as_ref(), &goal)?;
        if lost || Instant::now() >= deadline {
            let why = if lost { ": the vault does not have the log up to there" } else { "" };
            return Err(Error::new(
                Class::Unavailable,
                format!(
                    "the standby of {} does not get to {}{why}",
                    site.name(),
                    place(goal.as_ref())
                ),
            )
            .hinting("Look at its log for a segment that it cannot get; `mainstay refresh --reseed` builds it anew."));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// How far a standby can get with what the vault has: the head's position.
fn replay_goal(_site: &ServiceSite, point: &RecoveryPoint) -> Result<Option<Position>, Error> {
    Ok(point.position.clone())
}

fn place(position: Option<&Position>) -> String {
    position.map_or_else(|| "its goal".to_owned(), Position::to_string)
}

/// Whether a position is at or past another in the same log. On an older timeline it is not, however
/// far it is: a copy that has replayed more of what an old primary wrote than the new one did goes
/// on counting there, and holds none of what came after.
pub(crate) fn reached(seen: Option<&Position>, goal: Option<&Position>) -> bool {
    match (seen, goal) {
        (_, None) => true,
        (
            Some(Position::Lsn { lsn: seen, timeline: on }),
            Some(Position::Lsn { lsn: goal, timeline }),
        ) => on >= timeline && seen >= goal,
        (Some(seen), Some(goal)) => seen == goal,
        (None, Some(_)) => false,
    }
}

fn applied_now(point: &RecoveryPoint, position: Option<Position>) -> Applied {
    Applied {
        snapshot: point.snapshot,
        source_time: point.source_time,
        position,
        at: Timestamp::now(),
    }
}

/// Refuses a copy that somebody wrote to since the last refresh.
fn untouched(target: &Path, found: Vec<Difference>) -> Result<(), Error> {
    if found.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = found.iter().take(NAMED).map(told).collect();
    if found.len() > NAMED {
        lines.push("and more".to_owned());
    }
    Err(Error::refused(format!(
        "the standby at {} was written to since its last refresh: {}",
        target.display(),
        lines.join(", ")
    ))
    .hinting("Keep what you need of it; `mainstay refresh --reseed` puts the copy aside and builds it anew."))
}

fn told(difference: &Difference) -> String {
    format!("{} ({})", difference.path, difference.what)
}

/// How the copy of one root differs from what the last refresh left. Files of which only the ctime
/// has moved are read: a refresh that died had hard links to them. Where no snapshot tells any more
/// what they should hold, the manifest alone does.
fn written_to(
    site: &ServiceSite,
    held: SnapshotId,
    number: usize,
    target: &Path,
    cancel: &CancelToken,
) -> Result<Written, Error> {
    let replayed = MemberRecord::load(site)?.applied.is_some_and(|held| held.replayed);
    let (mut written, kind) = if replayed || !is_point(site, held)? {
        let kind = site.engine()?.roots().get(number).map(|root| root.kind);
        (by_manifest(site, number, target)?, kind)
    } else {
        let meta = placing::meta(site, held)?;
        let root = meta.roots.get(number).ok_or_else(|| {
            let held = held.short();
            Error::refused(format!("nothing in {held} tells what {} should be", target.display()))
        })?;
        let copy = Copy { root: target, snapshot: held, path: root.in_snapshot.as_bytes() };
        let manifest = manifest(site, number);
        let found = scrub::written_to(site.repository()?, copy, &manifest, NAMED + 1, cancel)?;
        (found, Some(root.kind))
    };
    if kind == Some(RootKind::File) {
        written.found.extend(journals(target)?);
    }
    Ok(written)
}

/// A database that was written to may hold the changes in a journal beside its file, and the file
/// itself be as it was.
fn journals(file: &Path) -> Result<Vec<Difference>, Error> {
    let mut found = Vec::new();
    for suffix in ["-wal", "-journal"] {
        let mut name = file.as_os_str().to_os_string();
        name.push(suffix);
        let path = PathBuf::from(name);
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.len() > 0 => found.push(Difference {
                path: path.display().to_string(),
                what: "new".to_owned(),
                only_ctime: false,
            }),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("look at", &path, e)),
        }
    }
    Ok(found)
}

/// Replaces what has rotted in this host's standby, which stays at the point that it holds.
pub(crate) fn heal(
    site: &ServiceSite,
    operation: &mut Operation,
    point: &RecoveryPoint,
) -> Result<Done, Error> {
    let began = Instant::now();
    // A copy into which the log was replayed is brought as far again.
    let replayed = MemberRecord::load(site)?.applied.is_some_and(|held| held.replayed);
    let named = Which::Named(point.snapshot.to_string());
    let which = if replayed { Which::Latest } else { named };
    let params = Params { which, reseed: false, adopt: false, verify: true, dry_run: false };
    let mut done = Done::to(point, Some(point.snapshot), began);
    replace(site, operation, point, &params, &mut done)?;
    Ok(done)
}

/// Refuses a standby that somebody wrote to since its last refresh.
pub(crate) fn require_untouched(
    site: &ServiceSite,
    held: SnapshotId,
    cancel: &CancelToken,
) -> Result<(), Error> {
    for (number, root) in site.engine()?.roots().iter().enumerate() {
        untouched(&root.on_host, written_to(site, held, number, &root.on_host, cancel)?.found)?;
    }
    Ok(())
}

/// What of this host's standby was changed since its last refresh, by name; empty if nothing was,
/// or if the engine follows by itself.
pub fn modified(site: &ServiceSite) -> Result<Vec<String>, Error> {
    let Some(applied) = MemberRecord::load(site)?.applied else { return Ok(Vec::new()) };
    let roots = site.engine()?.roots();
    let mut found = Vec::new();
    for (number, root) in roots.iter().enumerate().take(applied.roots) {
        let here = written_to(site, applied.snapshot, number, &root.on_host, &CancelToken::new())?;
        found.extend(here.found.iter().map(told));
    }
    // What the engine keeps elsewhere, by any description of the service that is left.
    let state = site.load_state()?.state;
    let described = match state.point(applied.snapshot) {
        Some(held) => Some(held.snapshot),
        None => state.head.map(|head| head.snapshot),
    };
    if let Some(described) = described.filter(|_| applied.roots > 0) {
        let engine = site.engine()?;
        let meta = placing::meta(site, described)?;
        found.extend(crate::look(site, &Run::default(), |cx| {
            engine.occupied(cx, &meta, &Purpose::Standby)
        })?);
    }
    Ok(found)
}

/// Takes back a refresh that did not reach its commit marker; brings another to its end.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    placing::undo(left)?;
    let site = left.site;
    if left.begun("announce").is_some() && left.done("settle").is_none() {
        let record = MemberRecord::load(site)?;
        site.state()?.update(|state| {
            let Some(member) = state.members.get(site.member()) else { return Ok(()) };
            if member.role != Role::Standby || !member.importing {
                return Ok(());
            }
            // It holds what it held before.
            let before = member.applied.clone().filter(|_| record.applied.is_some());
            state.applied(site.member(), before)
        })?;
        left.undone("announce", "the standby is where it was")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_on_a_timeline_that_was_left_reaches_nothing_of_the_next() {
        let at = |timeline, lsn| Some(Position::Lsn { timeline, lsn });
        let reached = |seen: Option<Position>, goal: Option<Position>| {
            super::reached(seen.as_ref(), goal.as_ref())
        };
        assert!(reached(at(1, 20), at(1, 20)));
        assert!(!reached(at(1, 19), at(1, 20)));
        assert!(!reached(at(1, 900), at(2, 20)), "it is past the place where the two parted");
        assert!(reached(at(2, 20), at(1, 20)));
        assert!(reached(None, None) && !reached(None, at(1, 1)));
    }
}
