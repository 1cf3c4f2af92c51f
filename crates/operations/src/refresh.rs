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
//! a crash applies it again. Where few of many files changed, and where a copy cannot be exchanged, it
//! stays where it is and all of its changes go that way (`refresh/way.rs`). An engine that follows a
//! log by itself is only seeded by a copy; after that a refresh makes sure that it follows, and waits.

mod adopt;
mod follow;
mod replace;
mod untouched;
mod way;

pub(crate) use follow::reached;
pub use untouched::modified;
pub(crate) use untouched::require_untouched;

use crate::exchange::beside;
use crate::journal::{Kind, Outcome, kill_at};
use crate::operation::{Operation, Run};
use crate::placing;
use crate::recover::Left;
use crate::standing::{self, Stuck, Way};
use crate::wal::sqlite::Replayed;
use crate::wal::target::for_standby;
use crate::{Error, HookFailed, MemberRecord, ServiceSite, Which, hooks, may_start, which};
use engines::Refresh;
use follow::{Cancel, Followed, follow};
use jiff::Timestamp;
use model::state::Applied;
use model::{
    Class, Classify, OperationId, Position, Progress, RecoveryPoint, Role, ServiceState, SnapshotId,
};
use replace::replace;
use repository::Work;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

/// What the name of a copy says that was put aside for one that was built anew unasked.
const LEFT_BEHIND: &str = "left-behind";

/// The step that says why a copy is built anew though nobody asked for that.
const ANEW: &str = "anew";

/// What is asked for.
#[derive(Clone, Debug, Default, Serialize)]
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
    /// It, or one of its roots, was changed in its place, and not exchanged for a new one.
    pub in_place: bool,
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
    pub put_aside: Vec<PathBuf>,
    /// What was replayed of the log by ourselves, if anything could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Replayed>,
    /// Why it was built anew though nobody asked for that, as a sentence: where it stood, and what it
    /// could not get over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub built_anew: Option<String>,
    /// It has all of the point, and cannot go on from there, for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
    /// What to do about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The hook `after-refresh` failed: after the standby was where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<HookFailed>,
    /// How long the run took.
    pub seconds: f64,
}

/// Refreshes this host's standby.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    if params.dry_run {
        let began = Instant::now();
        let state = site.load_state()?.state;
        let from = MemberRecord::load(site)?.applied.map(|a| a.snapshot);
        let point = target(site, &state, &params.which, from.is_none() || params.reseed)?;
        let adopted = params.adopt && from.is_none() && adopt::is_something_there(site)?;
        return Ok(Done { adopted, ..Done::to(&point, from, began) });
    }
    let mut operation = Operation::begin(site, Kind::Refresh, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Refresh, result, |done| {
        let message = match (done.unchanged, done.seeded) {
            (true, _) => format!("it was at {} already", done.to.short()),
            _ if done.built_anew.is_some() => format!("built anew at {}", done.to.short()),
            _ if done.adopted => format!("adopted, and now at {}", done.to.short()),
            (_, true) => format!("seeded at {}", done.to.short()),
            _ => format!("now at {}", done.to.short()),
        };
        let message = match &done.log {
            Some(log) if log.objects > 0 => format!("{message}, and at {}", done.source_time),
            _ => message,
        };
        let message = match (&done.built_anew, &done.stuck) {
            (Some(why), _) => format!("{message}: {why}"),
            (None, Some(why)) => format!("{message}; {why}"),
            (None, None) => message,
        };
        let message = match &done.hook_failed {
            Some(hook) => format!("{message}; {}", hook.message),
            None => message,
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
            in_place: false,
            bytes: point.size_bytes,
            fetched_bytes: 0,
            written_bytes: 0,
            linked_files: 0,
            cloned_files: 0,
            patched_files: 0,
            put_aside: Vec::new(),
            log: None,
            built_anew: None,
            stuck: None,
            advice: None,
            hook_failed: None,
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}

/// The point to go to. Only committed history counts; one that is built `anew` has to be able to follow
/// from there.
fn target(
    site: &ServiceSite,
    state: &ServiceState,
    which: &Which,
    anew: bool,
) -> Result<RecoveryPoint, Error> {
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
    let id = match site.engine()?.refresh() {
        Refresh::Follow if anew => for_standby(site, state, which)?,
        _ => which::resolve(site, state, which)?,
    };
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
    let held = MemberRecord::load(site)?.applied.is_some();
    let follows = site.engine()?.refresh() == Refresh::Follow;
    let goes_along = follows && held && !params.reseed;
    if follows && !goes_along {
        // It is started at the end.
        site.engine()?.equipped()?;
    }
    let mut done = match goes_along {
        true => go_along(site, operation, params, began)?,
        false => build(site, operation, params, None, began)?,
    };
    if let Some(command) = &site.spec().hooks.after_refresh {
        let variables = hooks::variables(site, Some(operation.id()));
        done.hook_failed =
            hooks::afterwards(site, operation, hooks::AFTER_REFRESH, command, &variables);
    }
    done.seconds = began.elapsed().as_secs_f64();
    Ok(done)
}

/// A standby that follows the log by itself is looked after. Of the point nothing is read but where it
/// stands, so that no lock has to keep it. If it can go no further, and there is a point that is past
/// what it lacks, the copy is built anew from that.
fn go_along(
    site: &ServiceSite,
    operation: &mut Operation,
    params: &Params,
    began: Instant,
) -> Result<Done, Error> {
    operation.report().phase("opening the vault");
    let (point, from) = choose(site, operation, params, false)?;
    let point = not_given_up(site, operation, params, point)?;
    let mut done =
        Done { operation: Some(operation.id().clone()), ..Done::to(&point, from, began) };
    let followed = follow(site, operation, &point, Cancel::Stops, &mut done);
    let stuck = match followed.map_err(|error| refused_as_known(site, params, from, error))? {
        Followed::There => return Ok(done),
        Followed::Stuck(stuck) => stuck,
    };
    if stuck.way != Way::Base {
        return Err(cannot_go_on(site, &stuck));
    }
    let name = site.name();
    let left_alone = |why: &str, hint: String| {
        let what = format!("the standby of {name} does not get on: {}", stuck.told());
        Error::refused(format!("{what}; its copy is left as it is, since {why}")).hinting(hint)
    };
    // A takeover counts on what standbys hold.
    if site.load_state()?.state.intent.is_some() {
        let hint = format!("Run `mainstay refresh {name}` when that is over.");
        return Err(left_alone("somebody takes over", hint));
    }
    if MemberRecord::load(site)?.offline.is_some() {
        let hint = format!("Run `mainstay online {name}` first.");
        return Err(left_alone("it is offline", hint));
    }
    // Nobody but a person can tell that it holds nothing that is nowhere else. So it is kept, and so that
    // this does not fill the disk, it is done once.
    if let Some(kept) = kept_before(site)? {
        let hint = format!(
            "Remove {} once nothing in it is needed, and run `mainstay refresh {name}`, or `mainstay \
             refresh {name} --reseed` at once.",
            kept.display()
        );
        return Err(left_alone("one that was built anew before is still kept", hint));
    }
    operation.report().warn(&format!(
        "{}: the copy is built anew from {}, and stays as it is until that is whole",
        stuck.told(),
        point.name()
    ));
    build(site, operation, params, Some(&stuck), began)
}

/// The newest point that a standby gets to: not one that the primary gave up when it went back.
fn not_given_up(
    site: &ServiceSite,
    operation: &Operation,
    params: &Params,
    point: RecoveryPoint,
) -> Result<RecoveryPoint, Error> {
    let goal = point.position.as_ref().filter(|_| params.which == Which::Latest);
    if !matches!(goal, Some(Position::Lsn { .. })) {
        return Ok(point);
    }
    let engine = site.engine()?;
    let seen = operation.with_context(site, |cx| engine.inspect(cx));
    let at = seen.ok().and_then(|seen| seen.position);
    match !reached(at.as_ref(), goal) && standing::was_given_up(site, at.as_ref(), goal)? {
        true => target(site, &site.load_state()?.state, &params.which, true),
        false => Ok(point),
    }
}

/// A copy that was put aside for one that was built anew unasked.
fn kept_before(site: &ServiceSite) -> Result<Option<PathBuf>, Error> {
    for root in site.engine()?.roots() {
        let kept = beside(&root.on_host, &format!("{LEFT_BEHIND}-"))?;
        let (Some(parent), Some(begins)) = (kept.parent(), kept.file_name()) else { continue };
        let failed = |e| Error::io("list", parent, e);
        for entry in std::fs::read_dir(parent).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_bytes().starts_with(begins.as_bytes()) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

fn cannot_go_on(site: &ServiceSite, stuck: &Stuck) -> Error {
    let what = format!("the standby of {} does not get on: {}", site.name(), stuck.told());
    Error::new(Class::Unavailable, what).hinting(stuck.advice(site))
}

/// Brings the copy to the point by a new one. With `stuck` it is one that stands in front of a gap, and
/// is put aside.
fn build(
    site: &ServiceSite,
    operation: &mut Operation,
    params: &Params,
    stuck: Option<&Stuck>,
    began: Instant,
) -> Result<Done, Error> {
    // First: what is chosen below must not be removed before it is read.
    let (_, lock) = operation.open_for(site, Work::Refresh)?;
    let params = &Params { reseed: params.reseed || stuck.is_some(), ..params.clone() };
    let (point, from) = choose(site, operation, params, true)?;
    kill_at("refresh:chosen");
    if let Some(stuck) = stuck {
        // It may be another one than was judged.
        let way = standing::way(site, &stuck.at, &stuck.gap, Some(&point))?;
        if way != Way::Base {
            return Err(cannot_go_on(site, &Stuck { way, ..stuck.clone() }));
        }
        operation.step(ANEW, stuck, |_| Ok(()))?;
    }
    let mut done =
        Done { operation: Some(operation.id().clone()), ..Done::to(&point, from, began) };
    replace(site, operation, &point, params, stuck, &mut done)?;
    drop(lock);
    if site.engine()?.refresh() == Refresh::Follow
        && let Followed::Stuck(stuck) =
            follow(site, operation, &point, Cancel::EndsTheWait, &mut done)?
    {
        return Err(cannot_go_on(site, &stuck));
    }
    done.built_anew = stuck.map(Stuck::told);
    Ok(done)
}

/// The point to go to, and what is held now.
fn choose(
    site: &ServiceSite,
    operation: &Operation,
    params: &Params,
    anew: bool,
) -> Result<(RecoveryPoint, Option<SnapshotId>), Error> {
    let state = site.load_state()?.state;
    let point = target(site, &state, &params.which, anew)?;
    let record = MemberRecord::load(site)?;
    let from = record.applied.as_ref().map(|applied| applied.snapshot);
    if record.offline.is_some() && params.which == Which::Latest && !params.reseed {
        return Err(Error::refused(format!("{} is offline on this host", site.name()))
            .hinting("Bring it back with `mainstay online` first."));
    }
    // Retention waits for a standby that lags, but not for ever. One that holds something newer than
    // the history does is for a person to decide.
    let way = site.engine()?.refresh();
    let lagged = record.applied.as_ref().filter(|held| {
        !params.reseed && state.point(held.snapshot).is_none() && way != Refresh::Import
    });
    let lagged = lagged.filter(|held| held.source_time <= point.source_time);
    if lagged.is_some() && way == Refresh::Follow {
        // It goes by its log, and not by what it was built from.
    } else if let Some(held) = lagged {
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
        let error = Error::refused(format!(
            "the copy on this host is at {}, which is not in the history of {} (any more)",
            held.short(),
            site.name()
        ));
        let error = error.hinting(format!(
            "Build it anew with `mainstay refresh {} --reseed`; what is there is put aside.",
            site.name()
        ));
        return Err(refused_as_known(site, params, from, error));
    }
    Ok((point, from))
}

/// Says why `--adopt` changes nothing about the refusal of a copy that a refresh made.
fn refused_as_known(
    site: &ServiceSite,
    params: &Params,
    held: Option<SnapshotId>,
    error: Error,
) -> Error {
    let Some(held) = held.filter(|_| params.adopt && error.class() == Class::Refused) else {
        return error;
    };
    let name = site.name();
    let point = site
        .load_state()
        .ok()
        .and_then(|versioned| versioned.state.point(held).map(|point| point.name().to_string()));
    let point = point.unwrap_or_else(|| held.short());
    error.hinting(format!(
        "Keep what you need of it, and build it anew with `mainstay refresh {name} --reseed`, which puts \
         it aside. `--adopt` is for what no refresh put there; this copy is one that a refresh brought \
         to {point}."
    ))
}

/// Whether a snapshot is in the history still.
fn is_point(site: &ServiceSite, snapshot: SnapshotId) -> Result<bool, Error> {
    Ok(site.load_state()?.state.point(snapshot).is_some())
}

fn applied_now(point: &RecoveryPoint, position: Option<Position>) -> Applied {
    Applied {
        snapshot: point.snapshot,
        source_time: point.source_time,
        position,
        at: Timestamp::now(),
    }
}

/// Replaces what has rotted in this host's standby, which stays at the point that it holds. Whoever calls
/// this has locked the repository before it chose the point.
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
    let params = Params { which, verify: true, ..Params::default() };
    let mut done = Done::to(point, Some(point.snapshot), began);
    replace(site, operation, point, &params, None, &mut done)?;
    Ok(done)
}

/// Takes back a refresh that did not reach its commit marker; brings another to its end.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    let undone = placing::undo(left).and_then(|()| take_back_announcement(left));
    // Whoever reads from it does not wait for the vault.
    if left.begun(ANEW).is_some() && (undone.is_ok() || left.begun("place").is_none()) {
        bring_back(left)?;
    }
    undone
}

fn take_back_announcement(left: &mut Left<'_>) -> Result<(), Error> {
    let site = left.site;
    if left.begun("announce").is_some() && left.done("settle").is_none() {
        let record = MemberRecord::load(site)?;
        left.vault_answers()?;
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

/// A copy that was built anew though nobody asked for that serves on as it did before, whichever of the
/// two it is now.
fn bring_back(left: &mut Left<'_>) -> Result<(), Error> {
    if let Some(place) = left.begun("place") {
        for old in placing::put_aside(place)?.iter().filter(|old| old.exists()) {
            left.found(format!("what stood there before is at {}", old.display()));
        }
    }
    if left.begun("stop").is_none() {
        return Ok(());
    }
    if left.run.booting {
        let barred = || Ok(may_start::barred(left.site));
        match crate::quiesce::start_at_boot(left, barred) {
            Ok(said) => left.found(said),
            Err(error) => left.found(format!("the standby does not start: {}", error.chain())),
        }
        return Ok(());
    }
    if let Some(why) = may_start::barred(left.site) {
        left.found(format!("the standby is not started again: {why}"));
        return Ok(());
    }
    let engine = left.site.engine()?;
    // One that was told to stop may be about to: to start it would be to watch it go.
    let stopped = match left.done("stop") {
        Some(_) => Ok(()),
        None => left.with_context(|cx| engine.stop(cx)),
    };
    // A server that does not start bars nobody from the next refresh, which starts it.
    let started = stopped.and_then(|()| left.with_context(|cx| engine.start(cx)));
    match started {
        Ok(()) => left.finished("start", "the standby was started again"),
        Err(error) => {
            left.found(format!("the standby does not start: {}", error.chain()));
            Ok(())
        }
    }
}
