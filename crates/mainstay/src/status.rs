//! What is known of a service, gathered from the vault's state and this host's operations.

use crate::commands::wal;
use crate::failure::Failure;
use crate::units;
use jiff::Timestamp;
use model::state::Intent;
use model::{Generation, MemberName, OperationId, Position, Role, SnapshotId};
use operations::ServiceSite;
use operations::history::{self, Operation};
use serde::Serialize;
use std::time::Duration;

/// One service, as this host sees it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Status {
    pub(crate) engine: String,
    /// This host's member.
    pub(crate) member: MemberName,
    /// Its role; none if it has not joined.
    pub(crate) role: Option<Role>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) generation: Generation,
    pub(crate) primary: Option<MemberName>,
    pub(crate) head: Option<HeadPoint>,
    /// When this host, a primary with a log, last stored some of it in the vault.
    pub(crate) log_stored: Option<Timestamp>,
    /// The log is received as it is written.
    pub(crate) log_received: bool,
    /// What of the log is missing, with no base after it yet.
    pub(crate) log_gap: Option<operations::wal::Gap>,
    /// How old the newest state is that the vault has: of the newest point, or of the log.
    pub(crate) age_seconds: Option<u64>,
    /// The declared RPO, in seconds.
    pub(crate) rpo_seconds: Option<u64>,
    /// Whether the newest point is young enough; unknown without a declared RPO.
    pub(crate) rpo_kept: Option<bool>,
    pub(crate) points: usize,
    pub(crate) members: Vec<MemberStatus>,
    /// A takeover under way.
    pub(crate) takeover: Option<Intent>,
    /// What runs on this host.
    pub(crate) running: Option<Operation>,
    /// The newest operation of this host that is over.
    pub(crate) last: Option<Operation>,
    /// The newest one that failed, if nothing of its kind went well since.
    pub(crate) last_failure: Option<Operation>,
}

/// The newest whole point.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct HeadPoint {
    pub(crate) name: String,
    pub(crate) snapshot: SnapshotId,
    /// Consistency time on the source.
    pub(crate) source_time: Timestamp,
    /// How old that is now.
    pub(crate) age_seconds: Option<u64>,
    pub(crate) position: Option<Position>,
    pub(crate) size_bytes: u64,
}

/// Another member, or this one.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct MemberStatus {
    pub(crate) name: MemberName,
    pub(crate) role: Role,
    pub(crate) since: Timestamp,
    /// Consistency time of what a standby holds.
    pub(crate) holds: Option<Timestamp>,
    pub(crate) position: Option<Position>,
    /// How far a standby is behind the head.
    pub(crate) behind_seconds: Option<u64>,
    pub(crate) importing: bool,
    /// It said that its service is stopped.
    pub(crate) stopped: bool,
    /// What the copy of a broken member is called.
    pub(crate) label: Option<String>,
}

/// Gathers it.
pub(crate) fn of(service: &ServiceSite, now: Timestamp) -> Result<Status, Failure> {
    let state = service.load_state()?.state;
    let operations = history::list(service)?;
    let head = state.head_point().map(|point| HeadPoint {
        name: point.name().to_string(),
        snapshot: point.snapshot,
        source_time: point.source_time,
        age_seconds: units::age(point.source_time, now).map(|age| age.as_secs()),
        position: point.position.clone(),
        size_bytes: point.size_bytes,
    });
    let head_time = head.as_ref().map(|head| head.source_time);
    let rpo = declared_rpo(service);
    let me = state.members.get(service.member());
    let log_stored = log_stored(service, me.map(|me| me.role));
    let newest = head_time.map(|time| log_stored.map_or(time, |stored| stored.max(time)));
    let age = newest.and_then(|newest| units::age(newest, now));
    let members = state.members.iter().map(|(name, member)| {
        let applied = member.applied.as_ref().filter(|_| member.role == Role::Standby);
        let behind = applied.zip(head_time).map(|(applied, head)| {
            units::age(applied.source_time, head).map_or(0, |behind| behind.as_secs())
        });
        MemberStatus {
            name: name.clone(),
            role: member.role,
            since: member.since,
            holds: applied.map(|applied| applied.source_time),
            position: applied.and_then(|applied| applied.position.clone()),
            behind_seconds: behind,
            importing: member.importing,
            stopped: member.stopped.is_some(),
            label: member.label.clone(),
        }
    });
    Ok(Status {
        engine: service.spec().engine.clone(),
        member: service.member().clone(),
        role: me.map(|me| me.role),
        since: me.map(|me| me.since),
        generation: state.generation,
        primary: state.primary.clone(),
        head,
        log_stored,
        log_received: operations::wal::is_running(service),
        log_gap: operations::wal::open_gap(service, &state)?,
        age_seconds: age.map(|age| age.as_secs()),
        rpo_seconds: rpo.map(|rpo| rpo.as_secs()),
        rpo_kept: rpo.map(|rpo| age.is_some_and(|age| age <= rpo)),
        points: state.points.len(),
        members: members.collect(),
        takeover: state.intent.clone(),
        running: operations.iter().rev().find(|one| one.running).cloned(),
        last: operations.iter().rev().find(|one| !one.running).cloned(),
        last_failure: last_failure(&operations),
    })
}

/// When a primary that keeps a log last stored some of it.
fn log_stored(service: &ServiceSite, role: Option<Role>) -> Option<Timestamp> {
    let log = wal::keeps_log(service);
    if log && role == Some(Role::Primary) { wal::last_push(service) } else { None }
}

/// What the configuration promises.
pub(crate) fn declared_rpo(service: &ServiceSite) -> Option<Duration> {
    service.spec().rpo.as_deref().and_then(|rpo| units::parse_duration(rpo).ok())
}

/// The newest failure that no success of the same kind came after.
fn last_failure(operations: &[Operation]) -> Option<Operation> {
    use operations::Outcome::{Cancelled, Done, Incomplete};
    let over = operations.iter().rev().filter(|one| !one.running);
    let failed = |one: &&Operation| !matches!(one.outcome, Some(Done | Incomplete | Cancelled));
    let failure = over.clone().find(failed)?;
    let redeemed = over
        .take_while(|one| one.id != failure.id)
        .any(|one| one.kind == failure.kind && matches!(one.outcome, Some(Done | Incomplete)));
    (!redeemed).then(|| failure.clone())
}

/// An operation's id is enough to look further.
pub(crate) fn logs_of(service: &ServiceSite, id: &OperationId) -> String {
    format!("mainstay logs {} {id}", service.name())
}
