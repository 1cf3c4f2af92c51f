//! Scrub: this host's standby is read, every byte, and judged by the snapshot that it was brought to.
//!
//! A refresh trusts the copy as long as nobody wrote to it, and takes over what has not changed. Bits
//! that rot change no time stamp, so they would be taken over, too, from refresh to refresh, until
//! the day of the takeover. What a scrub finds is replaced from the vault, by a refresh that takes
//! nothing unread.
//!
//! A copy into which a log was replayed is no snapshot byte for byte. Its engine's own check judges it
//! (for SQLite, `PRAGMA integrity_check`), and what that does not see is not found: the result says so.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `compare` | every file was read | |
//! | `note` | this host remembers what was found: from now on no refresh trusts the copy | |
//! | the steps of a refresh | what had rotted is replaced | as those of a refresh |

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::{Error, JudgedBy, MemberRecord, Scrubbed, ServiceSite, placing, refresh};
use engines::{Refresh, SnapshotMeta, Staged};
use jiff::Timestamp;
use model::{Classify, OperationId, Progress, RecoveryPoint, Role, SnapshotId};
use repository::Work;
use repository::scrub::{self, Copy};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How many files that have rotted are named.
const NAMED: usize = 1000;

/// What is asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Only look: the next refresh replaces what has rotted.
    pub no_heal: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation.
    pub operation: OperationId,
    /// The point that the copy is at.
    pub snapshot: SnapshotId,
    /// Its consistency time.
    pub source_time: Timestamp,
    /// Bytes that were read.
    pub bytes: u64,
    /// Who judged them.
    pub judged_by: JudgedBy,
    /// What the engine's check covered and said, if it was that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Files whose content is not the snapshot's, or that the engine does not find sound, though nobody
    /// wrote to them: the first thousand.
    pub rotten: Vec<Rotten>,
    /// They were replaced.
    pub healed: bool,
    /// Bytes that came from the vault for that.
    pub fetched_bytes: u64,
    /// How long the run took.
    pub seconds: f64,
}

/// A file that has rotted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rotten {
    /// Where it is.
    pub path: String,
    /// "changed" or "gone", or "not sound" if its engine says so.
    pub what: String,
}

/// Scrubs.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    let mut operation = Operation::begin(site, Kind::Scrub, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Scrub, result, |done| match (done.rotten.len(), done.healed) {
        (0, _) if done.judged_by == JudgedBy::Engine => {
            let what = "the engine's own check finds the copy sound; the log was replayed into it, so \
                        that its bytes could not be compared with a snapshot";
            (Outcome::Done, what.to_owned())
        }
        (0, _) => (Outcome::Done, "every byte is the snapshot's".to_owned()),
        (_, true) => (Outcome::Done, format!("{}, and replaced", told(&done.rotten))),
        (_, false) => (Outcome::Failed, told(&done.rotten)),
    })
}

fn perform(site: &ServiceSite, operation: &mut Operation, params: &Params) -> Result<Done, Error> {
    let began = Instant::now();
    let repository = site.repository()?;
    let lock = repository.lock_for(Work::Restore, Duration::from_secs(60), operation.cancel())?;
    let point = held(site)?;
    refresh::require_untouched(site, point.snapshot, operation.cancel())?;
    let judged = operation.step("compare", (), |operation| compare(site, operation, &point))?;
    let mut done = Done {
        operation: operation.id().clone(),
        snapshot: point.snapshot,
        source_time: point.source_time,
        bytes: judged.bytes,
        judged_by: judged.by,
        findings: judged.findings,
        rotten: judged.rotten,
        healed: false,
        fetched_bytes: 0,
        seconds: 0.0,
    };
    operation.forward("note", done.rotten.len(), |_| note(site, &done))?;
    if !done.rotten.is_empty() {
        operation.report().warn(&told(&done.rotten));
        if !params.no_heal {
            let healed = refresh::heal(site, operation, &point).map_err(|error| {
                let what = format!("{}, and cannot be replaced", told(&done.rotten));
                Error::new(error.class(), what).because(error).hinting(format!(
                    "Repair what the error names, or build the copy anew with `mainstay refresh {} --reseed`.",
                    site.name()
                ))
            })?;
            (done.healed, done.fetched_bytes) = (true, healed.fetched_bytes);
        }
    }
    drop(lock);
    done.seconds = began.elapsed().as_secs_f64();
    Ok(done)
}

/// The point that this host's standby holds, if it is one that a refresh put there.
fn held(site: &ServiceSite) -> Result<RecoveryPoint, Error> {
    let name = site.name();
    let state = site.load_state()?.state;
    let hint = format!(
        "It is the copy of a standby that is compared with its point; `mainstay drill {name}` judges a \
         restored one."
    );
    match state.members.get(site.member()).map(|member| member.role) {
        Some(Role::Standby) => {}
        Some(Role::Primary) => {
            let what = format!("{} is the primary of {name}, whose data is no copy", site.member());
            return Err(Error::refused(what).hinting(hint));
        }
        _ => {
            let what = format!("{} is not a standby of {name}", site.member());
            return Err(Error::refused(what).hinting(hint));
        }
    }
    if site.engine()?.refresh() == Refresh::Follow {
        let what = format!("the standby of {name} follows a log, and is not what a snapshot holds");
        return Err(Error::refused(what).hinting(format!(
            "Its server's own checksums judge it; `mainstay drill {name}` judges a restored copy."
        )));
    }
    let record = MemberRecord::load(site)?;
    let Some(applied) = record.applied.filter(|_| record.unloaded.is_none()) else {
        return Err(Error::refused(format!("there is no copy of {name} on this host yet"))
            .hinting(format!("Run `mainstay refresh {name}`.")));
    };
    state.point(applied.snapshot).cloned().ok_or_else(|| {
        Error::refused(format!(
            "the copy on this host is at {}, which is not in the history of {name} (any more)",
            applied.snapshot.short()
        ))
        .hinting(format!(
            "Build it anew with `mainstay refresh {name} --reseed`; what is there is put aside."
        ))
    })
}

/// What came of reading the copy.
#[derive(Serialize)]
struct Judgement {
    by: JudgedBy,
    bytes: u64,
    findings: Vec<String>,
    rotten: Vec<Rotten>,
}

/// Reads the copy.
fn compare(
    site: &ServiceSite,
    operation: &Operation,
    point: &RecoveryPoint,
) -> Result<Judgement, Error> {
    let report = operation.report();
    report.phase("reading the copy");
    let meta = placing::meta(site, point.snapshot)?;
    let targets = placing::own_targets(site, &meta)?;
    let mut rotten = Vec::new();
    if MemberRecord::load(site)?.applied.is_some_and(|held| held.replayed) {
        return by_engine(site, operation, &meta, targets);
    }
    for (root, target) in meta.roots.iter().zip(&targets) {
        let path = root.in_snapshot.as_bytes();
        let copy = Copy { root: target, snapshot: point.snapshot, path };
        let left = NAMED - rotten.len().min(NAMED);
        let found = scrub::scrub(site.repository()?, copy, left, &*report, operation.cancel())?;
        rotten.extend(found.into_iter().map(|one| Rotten {
            path: match one.path.as_str() {
                "." => target.display().to_string(),
                below => target.join(below).display().to_string(),
            },
            what: one.what,
        }));
    }
    let (by, bytes) = (JudgedBy::Snapshot, point.size_bytes);
    Ok(Judgement { by, bytes, findings: Vec::new(), rotten })
}

/// What a log was replayed into is no snapshot byte for byte: its engine judges it.
fn by_engine(
    site: &ServiceSite,
    operation: &Operation,
    meta: &SnapshotMeta,
    targets: Vec<PathBuf>,
) -> Result<Judgement, Error> {
    let engine = site.engine()?;
    let by = JudgedBy::Engine;
    let mut judgement = Judgement { by, bytes: 0, findings: Vec::new(), rotten: Vec::new() };
    for (root, target) in meta.roots.iter().cloned().zip(targets) {
        let copy = Staged { root, staged: target.clone(), target };
        let shown = copy.target.display().to_string();
        judgement.bytes += std::fs::metadata(&copy.target).map_or(0, |meta| meta.len());
        let verdict = operation.with_context(site, |cx| engine.check(cx, &[copy]))?;
        if !verdict.sound {
            judgement.rotten.push(Rotten { path: shown, what: "not sound".to_owned() });
        }
        judgement.findings.extend(verdict.findings);
    }
    Ok(judgement)
}

/// Writes down what was found, before anything is done about it.
fn note(site: &ServiceSite, done: &Done) -> Result<(), Error> {
    MemberRecord::change(site, |record| {
        // Whoever replaces what is in place takes this back.
        record.rotten = !done.rotten.is_empty();
        record.scrubbed = Some(Scrubbed {
            at: Timestamp::now(),
            snapshot: done.snapshot,
            rotten: done.rotten.len(),
            judged_by: done.judged_by,
        });
    })?;
    Ok(())
}

/// What was found, in one line.
pub fn told(rotten: &[Rotten]) -> String {
    let named: Vec<&str> = rotten.iter().take(5).map(|one| one.path.as_str()).collect();
    let more = rotten.len().saturating_sub(named.len());
    let names = match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    };
    match rotten.len() {
        1 => format!("a file of the standby has rotted: {names}"),
        count => format!("{count} files of the standby have rotted: {names}"),
    }
}
