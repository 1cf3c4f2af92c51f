//! What the tests share: a service `shop` with the primary `a` and the standbys `b` and `c`.

use jiff::{SignedDuration, Timestamp};
use mainstay_takeover::{
    Assessment, CopyState, Gate, Observation, Request, Running, Seen, Sighting, Verdict, assess,
};
use model::state::{Applied, Intent, Stopped, TakeoverKind};
use model::{
    Generation, MemberName, Position, RecoveryPoint, Role, ServiceName, ServiceState, SnapshotId,
};
use std::collections::BTreeMap;

pub(crate) const PLANNED: TakeoverKind = TakeoverKind::Planned;
pub(crate) const UNPLANNED: TakeoverKind = TakeoverKind::Unplanned;

pub(crate) fn member(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

pub(crate) fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

/// So many minutes before now.
pub(crate) fn ago(minutes: i64) -> Timestamp {
    now() - SignedDuration::from_mins(minutes)
}

pub(crate) fn id(number: u64) -> SnapshotId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    SnapshotId(id)
}

pub(crate) fn lsn(lsn: u64) -> Option<Position> {
    Some(Position::Lsn { timeline: 1, lsn })
}

/// A point of `a` at generation 1, captured so many minutes ago.
pub(crate) fn point(number: u64, minutes: i64) -> RecoveryPoint {
    RecoveryPoint {
        snapshot: id(number << 32),
        engine: "files".to_owned(),
        generation: Generation::FIRST,
        member: member("a"),
        source_time: ago(minutes),
        received: ago(minutes),
        verified: None,
        drilled: None,
        drill: None,
        position: None,
        cluster: None,
        size_bytes: 1000,
        added_bytes: 10,
        incomplete: false,
        pinned: false,
        tags: Default::default(),
    }
}

pub(crate) fn applied(number: u64, minutes: i64) -> Applied {
    let (snapshot, source_time) = (id(number << 32), ago(minutes));
    Applied { snapshot, source_time, position: None, at: ago(minutes) }
}

/// Point 1 of an hour ago and point 2 of ten minutes ago; `b` and `c` hold point 2.
pub(crate) fn shop() -> ServiceState {
    let mut state = ServiceState::new("repository".to_owned(), ServiceName::new("shop").unwrap());
    state.join(&member("a"), Role::Primary, ago(600)).unwrap();
    state.commit(point(1, 60)).unwrap();
    state.commit(point(2, 10)).unwrap();
    for name in ["b", "c"] {
        state.join(&member(name), Role::Standby, ago(600)).unwrap();
        state.applied(&member(name), Some(applied(2, 10))).unwrap();
    }
    state
}

pub(crate) fn stop(state: &mut ServiceState, last: Option<u64>) {
    let stopped = Stopped {
        generation: state.generation,
        at: ago(1),
        last_point: last.map(|number| id(number << 32)),
        last_position: None,
        unguarded: false,
    };
    state.stopped(&state.primary.clone().unwrap(), Some(stopped)).unwrap();
}

/// An idle standby on whose host nothing is wrong, and a fence hook.
pub(crate) fn fine(name: &str) -> Observation {
    Observation {
        member: member(name),
        has_data: true,
        running: Running::No,
        following: false,
        position: None,
        replayed: None,
        log_until: None,
        importing: false,
        gives_way: None,
        copy: CopyState::Untouched,
        fence_hook: Some("ipmi-off a".to_owned()),
        primary: Sighting::Unknown,
    }
}

pub(crate) fn to(kind: TakeoverKind, name: &str) -> Request {
    let seen = Seen { generation: Generation::FIRST, intent: None };
    Request { kind, to: member(name), overrides: BTreeMap::new(), seen, as_is: false }
}

/// Asked by somebody who was shown this state.
pub(crate) fn seeing(state: &ServiceState, request: Request) -> Request {
    Request { seen: Seen::of(state), ..request }
}

pub(crate) fn with(request: Request, gate: &str, reason: &str) -> Request {
    let mut request = request;
    request.overrides.insert(gate.to_owned(), reason.to_owned());
    request
}

pub(crate) fn ask(state: &ServiceState, observed: &Observation, request: &Request) -> Assessment {
    assess(state, observed, request, now())
}

/// The steps in a few words.
pub(crate) fn steps(assessment: &Assessment) -> Vec<String> {
    assessment.steps.iter().map(ToString::to_string).collect()
}

pub(crate) fn shut(assessment: &Assessment) -> Vec<&'static str> {
    assessment.shut().map(|report| report.gate.name()).collect()
}

pub(crate) fn verdict(assessment: &Assessment, gate: Gate) -> (Verdict, String) {
    let report = assessment.gates.iter().find(|report| report.gate == gate).unwrap();
    (report.verdict.clone(), report.why.clone())
}

pub(crate) fn claim(state: &mut ServiceState, id: &str, kind: TakeoverKind, name: &str) {
    let assessment = ask(state, &fine(name), &to(kind, name));
    assert!(assessment.allowed, "{assessment:#?}");
    let intent: Intent = assessment.intent(id, ago(2));
    state.claim(intent).unwrap();
}
