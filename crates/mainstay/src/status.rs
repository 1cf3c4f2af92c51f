//! What is known of a service, gathered from the vault's state and this host's operations.

use crate::commands::wal;
use crate::copies::CopyStatus;
use crate::due::Attempt;
use crate::failure::Failure;
use crate::promises::{Drills, Scrubs};
use crate::units;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::schedule::Schedule;
use model::state::{Intent, LastDrill, PastTakeover};
use model::{
    Generation, Member, MemberName, OperationId, Position, Role, ServiceState, SnapshotId, Verified,
};
use operations::history::{self, Operation};
use operations::standing::Trouble;
use operations::{JudgedBy, Kind, MemberRecord, ServiceSite};
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
    /// This host, the primary, went back behind the newest point, with no base after it yet.
    pub(crate) went_back: Option<String>,
    /// How old the newest state is that the vault has: of the newest point that no drill found wanting,
    /// or of the log.
    pub(crate) age_seconds: Option<u64>,
    /// The declared RPO, in seconds.
    pub(crate) rpo_seconds: Option<u64>,
    /// Whether the newest point is young enough; unknown without a declared RPO.
    pub(crate) rpo_kept: Option<bool>,
    /// The declared RTO, in seconds.
    pub(crate) rto_seconds: Option<u64>,
    /// Whether the last recovery was as fast, of a service with a standby the last takeover, else the last
    /// drill; unknown without a declared RTO, or before there was one.
    pub(crate) rto_kept: Option<bool>,
    /// The last drill of any point, on any host.
    pub(crate) last_drill: Option<DrillStatus>,
    /// The last takeover that was measured.
    pub(crate) last_takeover: Option<TakeoverStatus>,
    /// When a drill last proved a point restorable.
    pub(crate) proven: Option<Timestamp>,
    /// What is wrong with the drills that are scheduled on this host: too long ago.
    pub(crate) drill_overdue: Option<String>,
    /// What the last scrub of this host's standby found.
    pub(crate) scrub: Option<ScrubStatus>,
    /// What is wrong with the scrubs that are scheduled on this host: too long ago.
    pub(crate) scrub_overdue: Option<String>,
    /// Whether everything that was promised holds, as far as it is known.
    pub(crate) promises_kept: bool,
    pub(crate) points: usize,
    pub(crate) members: Vec<MemberStatus>,
    /// Second vaults, as the primary knows them.
    pub(crate) copies: Vec<CopyStatus>,
    /// A takeover under way.
    pub(crate) takeover: Option<Intent>,
    /// What runs on this host.
    pub(crate) running: Option<Operation>,
    /// The newest operation of this host that is over.
    pub(crate) last: Option<Operation>,
    /// The newest one that failed, if nothing made up for it since.
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
    /// When the vault had all of it.
    pub(crate) received: Timestamp,
    /// When its bytes were last read in the vault.
    pub(crate) verified: Option<Verified>,
    /// When a drill last proved it restorable.
    pub(crate) drilled: Option<Timestamp>,
    pub(crate) position: Option<Position>,
    pub(crate) size_bytes: u64,
}

/// The last drill.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct DrillStatus {
    pub(crate) snapshot: SnapshotId,
    pub(crate) source_time: Timestamp,
    pub(crate) at: Timestamp,
    pub(crate) member: MemberName,
    pub(crate) sound: bool,
    /// From the begin of the restore until the copy answered.
    pub(crate) recovery_seconds: Option<f64>,
    pub(crate) isolated: bool,
}

/// The last takeover that was measured.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct TakeoverStatus {
    /// When the generation was raised.
    pub(crate) at: Timestamp,
    pub(crate) to: MemberName,
    /// From its begin until the new primary served.
    pub(crate) serving_seconds: f64,
}

/// The last scrub.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ScrubStatus {
    pub(crate) at: Timestamp,
    /// What the copy was compared with.
    pub(crate) snapshot: SnapshotId,
    /// How many files had rotted.
    pub(crate) rotten: usize,
    /// They are still there: the next refresh replaces them.
    pub(crate) unhealed: bool,
    /// Who judged the copy.
    pub(crate) judged_by: JudgedBy,
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
    /// How old that is now.
    pub(crate) age_seconds: Option<u64>,
    /// Whether it is young enough; unknown without a declared RPO, and of a standby that follows a
    /// log on another host, which only that one knows.
    pub(crate) rpo_kept: Option<bool>,
    /// How far a standby is behind the head.
    pub(crate) behind_seconds: Option<u64>,
    pub(crate) importing: bool,
    /// It said that its service is stopped.
    pub(crate) stopped: bool,
    /// What the copy of a broken member is called.
    pub(crate) label: Option<String>,
    /// Why a standby that follows the log cannot go on, or has nothing to be built anew from, as far as this
    /// host can tell.
    pub(crate) stuck: Option<String>,
    /// That is because it stands on what the primary left behind.
    pub(crate) left_behind: bool,
    /// That is because it is of another database cluster than the newest point, or than the primary.
    pub(crate) other_cluster: bool,
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
        received: point.received,
        verified: point.verified.clone(),
        drilled: point.drilled,
        position: point.position.clone(),
        size_bytes: point.size_bytes,
    });
    let head_time = head.as_ref().map(|head| head.source_time);
    let rpo = declared_rpo(service);
    let me = state.members.get(service.member());
    let log_stored = log_stored(service, me.map(|me| me.role));
    let sound = state.newest_sound().map(|point| point.source_time);
    let newest = sound.max(operations::wal::reaches(service, &state)?);
    let age = newest.and_then(|newest| units::age(newest, now));
    // What never had a point is as old as the member, as for alerts.
    let young = |from, rpo| match units::age(from, now) {
        Some(age) => age <= rpo,
        None => !model::schedule::is_ahead(from, now),
    };
    let kept = |from: Timestamp| rpo.map(|rpo| young(from, rpo));
    let rpo_kept = kept(newest.or(me.map(|me| me.since)).unwrap_or(now));
    let drills = drills(service, &state, &operations)?;
    let log_gap = operations::wal::open_gap(service, &state)?;
    let is_primary = me.is_some_and(|me| me.role == Role::Primary);
    // That its files cannot be read is told by others.
    let went_back = operations::wal::went_back(service, &state).ok().flatten();
    let went_back = went_back.filter(|_| is_primary).map(|went_back| went_back.why);
    let trouble = trouble(service, &state);
    let stuck = trouble.as_ref().map(Trouble::told);
    let on_what_was_left = matches!(trouble, Some(Trouble::Left { .. }));
    let of_another_cluster = matches!(trouble, Some(Trouble::Cluster(_)));
    let replayed = replayed(service, &state);
    // Where the log alone is followed, nobody gets over a gap in it.
    let all_stuck = log_gap.as_ref().filter(|_| follows(service));
    let all_stuck = all_stuck.filter(|_| service.spec().stream_from.is_none());
    let members = state.members.iter().map(|(name, member)| {
        let stuck = match name == service.member() {
            true => stuck.clone(),
            false => all_stuck.filter(|_| member.role == Role::Standby).map(|gap| gap.told()),
        };
        let standby = member.role == Role::Standby;
        let applied = member.applied.as_ref().filter(|_| standby);
        let own = name == service.member();
        let beyond = replayed.filter(|_| own);
        let holds = applied.map(|applied| applied.source_time);
        let holds = holds.map(|holds| beyond.map_or(holds, |beyond| beyond.max(holds)));
        let behind = holds
            .zip(head_time)
            .map(|(holds, head)| units::age(holds, head).map_or(0, |behind| behind.as_secs()));
        let tells = standby && (own || !follows(service));
        MemberStatus {
            age_seconds: holds.and_then(|holds| units::age(holds, now)).map(|age| age.as_secs()),
            rpo_kept: if tells { kept(holds.unwrap_or(member.since)) } else { None },
            name: name.clone(),
            role: member.role,
            since: member.since,
            holds,
            position: applied.and_then(|applied| applied.position.clone()),
            behind_seconds: behind,
            importing: member.importing,
            stopped: member.stopped.is_some(),
            label: member.label.clone(),
            stuck,
            left_behind: own && on_what_was_left,
            other_cluster: own && of_another_cluster,
        }
    });
    let members: Vec<MemberStatus> = members.collect();
    let drill_overdue = drills.overdue(now);
    let scrubs = scrubs(service, &state, &operations)?;
    let scrub_overdue = scrubs.overdue(now);
    let copies = crate::copies::status(service, &state, now)?;
    let promises_kept = rpo_kept != Some(false)
        && stuck.is_none()
        && members.iter().all(|member| member.rpo_kept != Some(false))
        && drills.rto_kept() != Some(false)
        && drill_overdue.is_none()
        && scrub_overdue.is_none()
        && !scrubs.rotten
        && copies.iter().all(|copy| copy.behind.is_none() && copy.error.is_none())
        && drills.last.as_ref().is_none_or(|last| last.drill.sound);
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
        log_gap,
        went_back,
        age_seconds: age.map(|age| age.as_secs()),
        rpo_seconds: rpo.map(|rpo| rpo.as_secs()),
        rpo_kept,
        rto_seconds: drills.rto.map(|rto| rto.as_secs()),
        rto_kept: drills.rto_kept(),
        last_drill: drills.last.as_ref().map(drill_status),
        last_takeover: measured(&state).map(|(past, took)| TakeoverStatus {
            at: past.at,
            to: past.intent.to.clone(),
            serving_seconds: took.as_secs_f64(),
        }),
        proven: drills.proven,
        drill_overdue,
        scrub: scrubs.last.map(|last| ScrubStatus {
            at: last.at,
            snapshot: last.snapshot,
            rotten: last.rotten,
            unhealed: scrubs.rotten,
            judged_by: last.judged_by,
        }),
        scrub_overdue,
        promises_kept,
        points: state.points.len(),
        members,
        copies,
        takeover: state.intent.clone(),
        running: operations.iter().rev().find(|one| one.running).cloned(),
        last: operations.iter().rev().find(|one| !one.running).cloned(),
        last_failure: last_failure(&operations, me.map(|me| me.role)),
    })
}

/// Why this host's standby cannot go on. That it could not be asked is no reason to show nothing of all
/// the rest; `doctor` tells that.
fn trouble(service: &ServiceSite, state: &ServiceState) -> Option<Trouble> {
    operations::standing::trouble(service, state, &operations::Run::default()).ok().flatten()
}

/// Up to when this host's standby has what its source wrote, if it follows a log by itself. Nothing is
/// said of one that does not answer.
fn replayed(service: &ServiceSite, state: &ServiceState) -> Option<Timestamp> {
    let me = state.members.get(service.member())?;
    if me.role != Role::Standby || !follows(service) {
        return None;
    }
    let engine = service.engine().ok()?;
    let run = operations::Run::default();
    let seen = operations::look(service, &run, |cx| engine.inspect(cx)).ok()?;
    operations::wal::Until::look(service, state).ok()?.held(&seen).ok()?
}

/// When a primary that keeps a log last stored some of it.
fn log_stored(service: &ServiceSite, role: Option<Role>) -> Option<Timestamp> {
    let log = wal::keeps_log(service);
    if log && role == Some(Role::Primary) { wal::last_push(service) } else { None }
}

fn drill_status(last: &LastDrill) -> DrillStatus {
    let millis = last.drill.recovery_millis;
    DrillStatus {
        snapshot: last.snapshot,
        source_time: last.source_time,
        at: last.drill.at,
        member: last.drill.member.clone(),
        sound: last.drill.sound,
        recovery_seconds: millis.map(|millis| Duration::from_millis(millis).as_secs_f64()),
        isolated: last.drill.isolated,
    }
}

/// Whether standbys follow a log by themselves: the vault knows of them only what they held when
/// they were last refreshed.
fn follows(service: &ServiceSite) -> bool {
    service.engine().is_ok_and(|engine| engine.refresh() == engines::Refresh::Follow)
}

/// Other members that are standbys and of which the vault knows what they hold: since when they are,
/// and its source time.
pub(crate) fn standbys(
    service: &ServiceSite,
    state: &ServiceState,
) -> Vec<(MemberName, Timestamp, Option<Timestamp>)> {
    if follows(service) {
        return Vec::new();
    }
    let others = state
        .members
        .iter()
        .filter(|(name, member)| member.role == Role::Standby && *name != service.member());
    let holds = |member: &Member| member.applied.as_ref().map(|applied| applied.source_time);
    others.map(|(name, member)| (name.clone(), member.since, holds(member))).collect()
}

/// The last takeover of which it is known how long it took until the new primary served, and that.
fn measured(state: &ServiceState) -> Option<(&PastTakeover, Duration)> {
    let took = |past: &PastTakeover| past.serving_millis.map(Duration::from_millis);
    state.takeovers.iter().rev().find_map(|past| Some((past, took(past)?)))
}

/// What is known of the drills of a service.
pub(crate) fn drills(
    service: &ServiceSite,
    state: &ServiceState,
    operations: &[Operation],
) -> Result<Drills, Failure> {
    let spec = service.spec();
    let last = state.last_drill.clone();
    let sound = last.as_ref().filter(|last| last.drill.sound).map(|last| last.drill.at);
    Ok(Drills {
        schedule: schedule(service, spec.drill_schedule.as_deref())?,
        rto: spec.rto.as_deref().and_then(|rto| units::parse_duration(rto).ok()),
        attempts: attempts(operations, Kind::Drill),
        proven: state.points.iter().filter_map(|point| point.drilled).max().max(sound),
        last,
        standby: state.members.values().any(|member| member.role == Role::Standby),
        takeover: measured(state).map(|(_, took)| took),
        since: state.members.get(service.member()).map_or_else(Timestamp::now, |me| me.since),
    })
}

/// What is known of the scrubs of this host's standby.
pub(crate) fn scrubs(
    service: &ServiceSite,
    state: &ServiceState,
    operations: &[Operation],
) -> Result<Scrubs, Failure> {
    let me = state.members.get(service.member());
    // There is nothing to read before the first refresh, and nothing to compare once it serves.
    let standby = me.is_some_and(|me| me.role == Role::Standby && me.applied.is_some());
    let text = service.spec().scrub_schedule.as_deref().filter(|_| standby && !follows(service));
    let record = MemberRecord::load(service)?;
    Ok(Scrubs {
        schedule: schedule(service, text)?,
        attempts: attempts(operations, Kind::Scrub),
        last: record.scrubbed.filter(|_| standby),
        rotten: record.rotten && standby,
        since: me.map_or_else(Timestamp::now, |me| me.since),
    })
}

/// The runs of a kind that are over.
pub(crate) fn attempts(operations: &[Operation], kind: Kind) -> Vec<Attempt> {
    let runs = operations.iter().filter(|one| one.kind == kind && !one.running);
    let attempt = |one: &Operation| {
        let incomplete = one.outcome == Some(operations::Outcome::Incomplete);
        // What somebody cancelled is no failure, but no run either.
        let well = one.outcome == Some(operations::Outcome::Done) || incomplete;
        let hook_failed = one.hook_failed.is_some();
        Attempt { began: one.started, well, incomplete, hook_failed }
    };
    runs.map(attempt).collect()
}

/// A schedule of the configuration, with the jitter of this host.
pub(crate) fn schedule(
    service: &ServiceSite,
    text: Option<&str>,
) -> Result<Option<Schedule>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let invalid = |e: &dyn std::fmt::Display| Failure::invalid(e.to_string());
    let zone = match &service.spec().time_zone {
        Some(zone) => TimeZone::get(zone).map_err(|e| invalid(&e))?,
        None => TimeZone::system(),
    };
    let schedule = Schedule::parse(text, zone).map_err(|e| invalid(&e))?;
    Ok(Some(schedule.spread(service.member(), service.name())))
}

/// What the configuration promises.
pub(crate) fn declared_rpo(service: &ServiceSite) -> Option<Duration> {
    service.spec().rpo.as_deref().and_then(|rpo| units::parse_duration(rpo).ok())
}

/// The newest failure that still says something: nothing made up for it since, and it is not merely
/// that this member was asked for what only another role does.
fn last_failure(operations: &[Operation], role: Option<Role>) -> Option<Operation> {
    use operations::Outcome::{Cancelled, Done, Incomplete};
    let over = operations.iter().rev().filter(|one| !one.running);
    let failed = |one: &&Operation| {
        !matches!(one.outcome, Some(Done | Incomplete | Cancelled)) && concerns(role, one.kind)
    };
    let failure = over.clone().find(failed)?;
    let redeemed = over
        .take_while(|one| one.id != failure.id)
        .filter(|one| matches!(one.outcome, Some(Done | Incomplete)))
        .any(|one| redeems(one.kind, failure.kind));
    (!redeemed).then(|| failure.clone())
}

/// Whether a member of this role does such things at all.
fn concerns(role: Option<Role>, kind: Kind) -> bool {
    match role {
        Some(Role::Primary) => !matches!(kind, Kind::Refresh | Kind::Scrub | Kind::Rejoin),
        Some(Role::Standby) => kind != Kind::Backup,
        _ => true,
    }
}

/// Whether a success makes up for a failure: it did the same, or what had failed is of no account since.
fn redeems(success: Kind, failure: Kind) -> bool {
    match success {
        Kind::Takeover | Kind::Rejoin => true,
        // The copy is the vault's again.
        Kind::Refresh => matches!(failure, Kind::Refresh | Kind::Scrub),
        Kind::Online | Kind::Offline => matches!(failure, Kind::Online | Kind::Offline),
        same => same == failure,
    }
}

/// An operation's id is enough to look further.
pub(crate) fn logs_of(service: &ServiceSite, id: &OperationId) -> String {
    format!("mainstay logs {} {id}", service.name())
}
