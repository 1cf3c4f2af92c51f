//! The transitions: one by one, and every sequence of them up to a depth.

use crate::support::{at, id, member, number, point};
use jiff::Timestamp;
use mainstay_model::state::{
    Applied, FenceProof, Intent, Refusal, Role, ServiceState, Stopped, TakeoverKind,
};
use mainstay_model::{
    Class, Classify, ClusterId, Drill, Generation, MemberName, RecoveryPoint, ServiceName, Verified,
};
use std::collections::{BTreeMap, HashSet};

const T: Timestamp = Timestamp::UNIX_EPOCH;

fn empty() -> ServiceState {
    ServiceState::new("repository".to_owned(), ServiceName::new("shop").unwrap())
}

/// `a` is the primary and has committed point 1; `b` and `c` are standbys that hold it.
fn three() -> ServiceState {
    let mut state = empty();
    state.join(&member("a"), Role::Primary, T).unwrap();
    state.commit(point(1, T)).unwrap();
    for name in ["b", "c"] {
        state.join(&member(name), Role::Standby, T).unwrap();
        state.applied(&member(name), Some(applied(1))).unwrap();
    }
    state
}

fn applied(number: u64) -> Applied {
    Applied { snapshot: id(number), source_time: T, position: None, at: T }
}

fn stopped(generation: u64) -> Stopped {
    let last_point = Some(id(1));
    Stopped {
        generation: Generation(generation),
        at: T,
        last_point,
        last_position: None,
        unguarded: false,
    }
}

fn intent(op: &str, kind: TakeoverKind, from: Option<&str>, to: &str, generation: u64) -> Intent {
    Intent {
        id: op.to_owned(),
        kind,
        from: from.map(member),
        to: member(to),
        generation: Generation(generation),
        claimed: T,
        fenced: None,
        overrides: BTreeMap::new(),
        raised: false,
    }
}

fn unplanned(op: &str, to: &str) -> Intent {
    intent(op, TakeoverKind::Unplanned, Some("a"), to, 1)
}

fn hook() -> FenceProof {
    FenceProof::Hook { command: "fence".to_owned() }
}

#[test]
fn a_whole_takeover() {
    let mut state = three();
    let later = at("2026-11-21T01:04:42Z");
    state.claim(unplanned("op", "b")).unwrap();
    state.fenced("op", hook()).unwrap();
    assert_eq!(state.raise("op", later), Ok(Generation(2)));
    assert_eq!(state.raise("op", later), Ok(Generation(2)), "a repetition");
    assert_eq!(state.primary, Some(member("b")));
    assert_eq!(state.members[&member("a")].role, Role::Broken);
    assert_eq!(state.members[&member("a")].label.as_deref(), Some("broken-20261121T010442Z"));
    state.finish("op", at("2026-11-21T02:00:00Z")).unwrap();
    let past = &state.takeovers[0];
    assert_eq!((past.generation, past.at, past.head), (Generation(2), later, Some(id(1))));
    let old = RecoveryPoint { member: member("a"), ..point(2, T) };
    assert!(matches!(state.commit(old), Err(Refusal::OldGeneration { .. })));
    let new = RecoveryPoint { member: member("b"), generation: Generation(2), ..point(2, T) };
    state.commit(new).unwrap();
    state.rejoin(&member("a"), T).unwrap();
    assert_eq!(state.members[&member("a")].role, Role::Standby);
    assert_eq!(state.members[&member("a")].applied, None);
}

#[test]
fn a_claim_names_the_primary_that_there_is() {
    let mut state = three();
    let other = intent("op", TakeoverKind::Unplanned, Some("c"), "b", 1);
    assert_eq!(state.claim(other), Err(Refusal::OtherPrimary("op".to_owned())));
    let nobody = intent("op", TakeoverKind::Unplanned, None, "b", 1);
    assert_eq!(state.claim(nobody), Err(Refusal::OtherPrimary("op".to_owned())));
    let to_itself = intent("op", TakeoverKind::Unplanned, Some("a"), "a", 1);
    assert!(matches!(state.claim(to_itself), Err(Refusal::WrongRole { .. })));
    for (generation, old) in [(0, true), (2, false)] {
        let refused =
            state.claim(intent("op", TakeoverKind::Unplanned, Some("a"), "b", generation));
        match refused {
            Err(Refusal::OldGeneration { .. }) => assert!(old),
            Err(Refusal::FutureGeneration { .. }) => assert!(!old),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_claim_cannot_say_that_it_is_further_than_it_is() {
    let mut state = three();
    let forged = Intent { fenced: Some(hook()), raised: true, ..unplanned("op", "b") };
    state.claim(forged).unwrap();
    assert_eq!(state.raise("op", T), Err(Refusal::NotFenced));
}

#[test]
fn of_two_candidates_one_wins_and_may_claim_again() {
    let mut state = three();
    state.claim(unplanned("op", "b")).unwrap();
    let lost = state.claim(unplanned("op2", "c")).unwrap_err();
    assert_eq!(lost.class(), Class::Locked);
    assert_eq!(
        lost.to_string(),
        "a takeover to b is under way, claimed 1970-01-01T00:00:00Z as op"
    );
    assert!(state.claim(unplanned("op", "c")).is_err(), "one operation, two candidates");
    let overrides = BTreeMap::from([("copy-modified".to_owned(), "only logs".to_owned())]);
    state.claim(Intent { overrides: overrides.clone(), ..unplanned("op", "b") }).unwrap();
    assert_eq!(state.intent.as_ref().unwrap().overrides, overrides);
}

#[test]
fn a_standby_that_holds_nothing_or_half_a_point_does_not_become_the_primary() {
    let mut state = three();
    state.join(&member("d"), Role::Standby, T).unwrap();
    assert_eq!(state.claim(unplanned("op", "d")), Err(Refusal::NothingApplied(member("d"))));
    state.claim(unplanned("op", "b")).unwrap();
    state.fenced("op", hook()).unwrap();
    state.importing(&member("b")).unwrap();
    assert_eq!(state.raise("op", T), Err(Refusal::Importing(member("b"))));
    state.applied(&member("b"), None).unwrap();
    assert_eq!(state.raise("op", T), Err(Refusal::NothingApplied(member("b"))));
    assert_eq!(state.generation, Generation::FIRST);
    assert_eq!(state.members[&member("a")].role, Role::Primary);
}

#[test]
fn a_stop_is_proof_only_if_the_primary_recorded_it_at_this_generation() {
    let mut state = three();
    state.claim(intent("op", TakeoverKind::Planned, Some("a"), "b", 1)).unwrap();
    assert_eq!(state.fenced("op", FenceProof::Stopped), Err(Refusal::NotStopped(member("a"))));
    assert_eq!(state.fenced("op", FenceProof::NoPrimary), Err(Refusal::NotFenced));
    let over = FenceProof::Override { reason: "trust me".to_owned() };
    assert_eq!(state.fenced("op", over), Err(Refusal::PlannedNeedsStop));
    assert_eq!(state.fenced("op", hook()), Err(Refusal::PlannedNeedsStop));
    state.stopped(&member("a"), Some(stopped(1))).unwrap();
    state.fenced("op", FenceProof::Stopped).unwrap();
    // From here the primary must not serve again, nor add to the history.
    assert!(matches!(state.stopped(&member("a"), None), Err(Refusal::Fenced { .. })));
    assert!(matches!(state.commit(point(2, T)), Err(Refusal::Fenced { .. })));
    state.commit(point(1, T)).unwrap();
    state.abandon("op").unwrap();
    state.stopped(&member("a"), None).unwrap();
    state.commit(point(2, T)).unwrap();
}

#[test]
fn who_may_serve() {
    let mut state = three();
    assert_eq!(state.may_serve(&member("a")), Ok(()));
    assert!(matches!(state.may_serve(&member("b")), Err(Refusal::NotPrimary { .. })));
    state.stopped(&member("a"), Some(stopped(1))).unwrap();
    assert_eq!(state.may_serve(&member("a")), Err(Refusal::Stopped(member("a"))));
    state.stopped(&member("a"), None).unwrap();
    // A planned takeover lets the primary come back until it counts on the stop.
    let mut planned = state.clone();
    planned.claim(intent("op", TakeoverKind::Planned, Some("a"), "b", 1)).unwrap();
    assert_eq!(planned.may_serve(&member("a")), Ok(()));
    // An unplanned one bars it from the claim on, and lets it back if it is given up.
    state.claim(unplanned("op", "b")).unwrap();
    assert!(matches!(state.may_serve(&member("a")), Err(Refusal::Fenced { .. })));
    let mut given_up = state.clone();
    given_up.abandon("op").unwrap();
    assert_eq!(given_up.may_serve(&member("a")), Ok(()));
    state.fenced("op", hook()).unwrap();
    state.raise("op", T).unwrap();
    assert_eq!(state.may_serve(&member("b")), Ok(()), "before the takeover is finished");
    assert!(matches!(state.may_serve(&member("a")), Err(Refusal::NotPrimary { .. })));
}

#[test]
fn no_primary_is_proof_only_if_there_is_none() {
    let mut state = empty();
    state.join(&member("b"), Role::Standby, T).unwrap();
    state.applied(&member("b"), Some(applied(1))).unwrap();
    state.claim(intent("op", TakeoverKind::Unplanned, None, "b", 1)).unwrap();
    assert_eq!(state.fenced("op", FenceProof::Stopped), Err(Refusal::NotFenced));
    state.fenced("op", FenceProof::NoPrimary).unwrap();
    // A host that is switched on in this very moment with `role = "primary"` in its config.
    let late = state.join(&member("a"), Role::Primary, T);
    assert!(matches!(late, Err(Refusal::TakeoverUnderWay { .. })), "{late:?}");
    state.raise("op", T).unwrap();
    assert_eq!(state.primary, Some(member("b")));
}

#[test]
fn what_is_under_way_goes_on_or_back_but_not_both() {
    let mut state = three();
    state.claim(unplanned("op", "b")).unwrap();
    assert_eq!(state.finish("op", T), Err(Refusal::NotRaised("op".to_owned())));
    assert!(matches!(state.rejoin(&member("b"), T), Err(Refusal::TakeoverUnderWay { .. })));
    assert!(matches!(state.leave(&member("b")), Err(Refusal::TakeoverUnderWay { .. })));
    state.fenced("op", hook()).unwrap();
    state.raise("op", T).unwrap();
    assert_eq!(state.abandon("op"), Err(Refusal::PointOfNoReturn("op".to_owned())));
    // What the takeover is about to start is not recorded as stopped meanwhile.
    let stop = state.stopped(&member("b"), Some(stopped(2)));
    assert!(matches!(stop, Err(Refusal::TakeoverUnderWay { .. })), "{stop:?}");
    for call in [
        state.clone().abandon("other"),
        state.clone().finish("other", T),
        state.clone().fenced("other", hook()),
        state.clone().raise("other", T).map(|_| ()),
    ] {
        assert_eq!(call, Err(Refusal::NoSuchIntent("other".to_owned())));
    }
    state.finish("op", T).unwrap();
    assert_eq!(state.finish("op", T), Err(Refusal::NoSuchIntent("op".to_owned())));
    state.served_after("other", 1);
    assert_eq!(state.takeovers.last().unwrap().serving_millis, None);
    state.served_after("op", 900);
    assert_eq!(state.takeovers.last().unwrap().serving_millis, Some(900));
}

#[test]
fn only_the_primary_at_the_current_generation_writes_history() {
    let mut state = three();
    let refused = |member_name: &str, generation: u64| {
        let generation = Generation(generation);
        let point = RecoveryPoint { member: member(member_name), generation, ..point(7, T) };
        let mut state = state.clone();
        state.commit(point).unwrap_err()
    };
    assert!(matches!(refused("b", 1), Refusal::NotPrimary { .. }));
    assert!(matches!(refused("a", 0), Refusal::OldGeneration { .. }));
    assert!(matches!(refused("a", 2), Refusal::FutureGeneration { .. }));
    state.commit(RecoveryPoint { incomplete: true, ..point(7, T) }).unwrap();
    assert_eq!(state.head_point().unwrap().snapshot, id(1), "an incomplete point is no head");
    state.commit(point(8, T)).unwrap();
    assert_eq!(state.head_point().unwrap().snapshot, id(8));
}

#[test]
fn the_role_in_a_config_is_only_the_first_one() {
    let mut state = three();
    assert_eq!(state.join(&member("b"), Role::Primary, T), Ok(Role::Standby));
    assert_eq!(state.join(&member("d"), Role::Primary, T), Err(Refusal::HasPrimary(member("a"))));
    let mut orphaned = empty();
    orphaned.generation = Generation(3);
    assert!(matches!(
        orphaned.join(&member("d"), Role::Primary, T),
        Err(Refusal::WrongRole { .. })
    ));
}

#[test]
fn members_leave_but_not_the_primary() {
    let mut state = three();
    assert!(matches!(state.leave(&member("a")), Err(Refusal::WrongRole { .. })));
    state.leave(&member("c")).unwrap();
    state.leave(&member("c")).unwrap();
    assert!(!state.members.contains_key(&member("c")));
    assert!(matches!(state.rejoin(&member("a"), T), Err(Refusal::WrongRole { .. })));
    assert!(matches!(state.rejoin(&member("c"), T), Err(Refusal::NoSuchMember(_))));
}

#[test]
fn points_are_forgotten_unless_somebody_needs_them() {
    let mut state = three();
    for number in 2..=5 {
        state.commit(point(number, T)).unwrap();
    }
    state.pin(id(3), true).unwrap();
    state.stopped(&member("a"), Some(Stopped { last_point: Some(id(4)), ..stopped(1) })).unwrap();
    let why = |number: u64| state.needed(id(number));
    assert_eq!(why(1).as_deref(), Some("the standby b holds it"));
    assert_eq!(why(2), None);
    assert_eq!(why(3).as_deref(), Some("it is pinned"));
    assert_eq!(why(4).as_deref(), Some("a stopped after it"));
    assert_eq!(why(5).as_deref(), Some("it is the newest whole point"));
    for number in [3, 4, 5] {
        let refused = state.forget(&[id(1), id(number)]);
        assert!(matches!(refused, Err(Refusal::Needed { .. })), "{refused:?}");
        assert_eq!(state.points.len(), 5, "all or none");
    }
    state.forget(&[id(1), id(2), id(77)]).unwrap();
    assert_eq!(state.points.len(), 3);
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect();
    let change = |set: Option<&[&str]>, add: &[&str], remove: &[&str]| mainstay_model::TagChange {
        set: set.map(tags),
        add: tags(add),
        remove: tags(remove),
    };
    state.tag(id(3), &change(None, &["b", "a"], &[])).unwrap();
    state.tag(id(3), &change(None, &["c"], &["b"])).unwrap();
    assert_eq!(state.point(id(3)).unwrap().tags, tags(&["a", "c"]));
    state.tag(id(3), &change(Some(&["x"]), &["y"], &[])).unwrap();
    assert_eq!(state.point(id(3)).unwrap().tags, tags(&["x", "y"]));
    assert_eq!(state.tag(id(1), &change(None, &[], &[])), Err(Refusal::NoSuchPoint(id(1))));
    assert_eq!(state.pin(id(1), true), Err(Refusal::NoSuchPoint(id(1))));
    state.claim(unplanned("op", "b")).unwrap();
    assert!(matches!(state.forget(&[id(3)]), Err(Refusal::TakeoverUnderWay { .. })));
}

fn drill(time: &str, sound: bool) -> Drill {
    let recovery_millis = sound.then_some(1500);
    Drill { at: at(time), member: member("b"), sound, recovery_millis, isolated: true }
}

/// Each is the last one when it is told, whatever its clock says.
#[test]
fn a_drill_whose_clock_was_ahead_hides_no_later_one() {
    let mut state = three();
    state.commit(point(2, T)).unwrap();
    state.drilled(id(2), &drill("2036-01-01T00:00:00Z", true)).unwrap();
    let failed = drill("2026-01-03T00:00:00Z", false);
    state.drilled(id(2), &failed).unwrap();
    let known = state.point(id(2)).unwrap();
    assert!(known.is_unsound() && !known.is_proven());
    assert_eq!(known.drill, Some(failed.clone()));
    assert_eq!(state.last_drill.as_ref().unwrap().drill, failed);
    assert_eq!(state.newest_sound().map(|point| point.snapshot), Some(id(1)));
    // Nor does it say for ever that the point was proven in the future.
    let sound = drill("2026-01-04T00:00:00Z", true);
    state.drilled(id(2), &sound).unwrap();
    let known = state.point(id(2)).unwrap();
    assert!(known.is_proven());
    assert_eq!((known.drilled, &state.last_drill.unwrap().drill), (Some(sound.at), &sound));
}

#[test]
fn what_was_proven_of_a_point_is_known() {
    let mut state = three();
    state.commit(point(2, T)).unwrap();
    let late = drill("2026-01-02T00:00:00Z", true);
    state.drilled(id(2), &drill("2026-01-01T00:00:00Z", true)).unwrap();
    state.drilled(id(2), &late).unwrap();
    let known = |state: &ServiceState| {
        let point = state.point(id(2)).unwrap();
        (point.drilled, point.drill.clone())
    };
    assert_eq!(known(&state), (Some(late.at), Some(late.clone())));
    // A failure is told, and takes nothing back.
    let failed = drill("2026-01-03T00:00:00Z", false);
    state.drilled(id(2), &failed).unwrap();
    assert_eq!(known(&state), (Some(late.at), Some(failed.clone())));
    assert!(state.point(id(2)).unwrap().is_unsound() && !state.point(id(2)).unwrap().is_proven());
    assert_eq!(state.newest_sound().map(|point| point.snapshot), Some(id(1)));
    let refused = state.drilled(id(77), &failed);
    assert_eq!(refused, Err(Refusal::NoSuchPoint(id(77))));

    let verified =
        |time: &str, part: Option<&str>| Verified { at: at(time), part: part.map(str::to_owned) };
    let (whole, part) = (verified("2026-01-02T00:00:00Z", None), Some("2/7"));
    let of = |state: &ServiceState| state.point(id(2)).unwrap().verified.clone();
    let partly = verified("2026-01-01T00:00:00Z", part);
    state.verified(&[id(2), id(77)], &partly);
    assert_eq!(of(&state), Some(partly));
    state.verified(&[id(2)], &whole);
    state.verified(&[id(2)], &verified("2026-01-03T00:00:00Z", part));
    assert_eq!(of(&state), Some(whole.clone()), "a part says less than all");
    assert_eq!(state.point(id(1)).unwrap().verified, None);

    // It is read as it was written; and the last drill is known after its point is gone.
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<ServiceState>(&text).unwrap(), state);
    state.commit(point(3, T)).unwrap();
    state.forget(&[id(2)]).unwrap();
    assert_eq!(state.last_drill.unwrap().drill, failed);
}

#[test]
fn a_copy_of_the_history_has_the_points_and_no_members() {
    let later = |secs| T + jiff::SignedDuration::from_secs(secs);
    let mut source = three();
    source.commit(point(2, later(10))).unwrap();
    source.commit(RecoveryPoint { incomplete: true, ..point(3, later(20)) }).unwrap();
    source.generation = Generation(4);
    source.drilled(id(2), &drill("2026-01-01T00:00:00Z", true)).unwrap();
    let ids = |numbers: &[u64]| numbers.iter().map(|n| (id(*n), id(*n + 100))).collect();

    // The newer ones first: what comes later may be older.
    let mut copy = empty();
    copy.mirror(&source, &ids(&[2, 3])).unwrap();
    copy.mirror(&source, &ids(&[1])).unwrap();
    let found: Vec<_> = copy.points.iter().map(|point| number(point.snapshot)).collect();
    assert_eq!(found, [101, 102, 103]);
    assert_eq!(copy.head.unwrap().snapshot, id(102));
    assert_eq!((copy.generation, copy.members.len()), (Generation(4), 0));
    // What changed there is changed here, and what is gone there stays.
    source.points.remove(0);
    source.points[0].pinned = true;
    copy.mirror(&source, &ids(&[2, 3])).unwrap();
    assert_eq!(copy.points.len(), 3);
    assert!(copy.points[1].pinned);
    // What was proven of the bytes there proves nothing of those here.
    assert_eq!(copy.points[1].drilled, None);
    copy.drilled(id(102), &drill("2026-01-02T00:00:00Z", true)).unwrap();
    copy.mirror(&source, &ids(&[2, 3])).unwrap();
    assert_eq!(copy.points[1].drilled, Some(at("2026-01-02T00:00:00Z")));
    // Once somebody goes by it, it is no copy.
    copy.join(&member("d"), Role::Standby, T).unwrap();
    let refused = copy.mirror(&source, &ids(&[2, 3]));
    assert!(matches!(refused, Err(Refusal::HasMembers(name)) if name == member("d")));
}

#[test]
fn points_that_cannot_be_restored_are_lost_whoever_needs_them() {
    let mut state = three();
    let clusters = |state: &ServiceState| state.clusters.iter().map(|c| c.0).collect::<Vec<u64>>();
    for number in 2..=5 {
        // Another cluster takes the place of the first.
        let cluster = Some(ClusterId(if number < 5 { 7 } else { 8 }));
        state.commit(RecoveryPoint { cluster, ..point(number, T) }).unwrap();
    }
    assert_eq!(clusters(&state), [7, 8]);
    state.pin(id(3), true).unwrap();
    state.lose(&[id(3), id(77)]).unwrap();
    assert_eq!(clusters(&state), [7, 8]);
    assert_eq!(state.head.map(|head| head.snapshot), Some(id(5)), "the head was not lost");
    state.lose(&[id(4), id(5)]).unwrap();
    assert_eq!(state.head.map(|head| head.snapshot), Some(id(2)), "the newest that is left");
    assert_eq!(clusters(&state), [7], "the log of the other one is not over");
    assert_eq!(state.lost, [ClusterId(8)].into());
    assert_eq!(state.points.len(), 2);
    state.claim(unplanned("op", "b")).unwrap();
    assert!(matches!(state.lose(&[id(2)]), Err(Refusal::TakeoverUnderWay { .. })));
    assert_eq!(state.points.len(), 2);
    state.abandon("op").unwrap();
    state.lose(&[id(1), id(2)]).unwrap();
    assert_eq!((state.head, state.points.len()), (None, 0));
    assert_eq!(clusters(&state), [0; 0]);
}

#[test]
fn what_the_primary_stores_says_which_cluster_it_writes() {
    let mut state = three();
    let first = Generation::FIRST;
    assert_eq!(state.written, None);
    state.writes(&member("a"), first, ClusterId(7)).unwrap();
    assert!(state.writes(&member("b"), first, ClusterId(8)).is_err(), "a standby");
    assert!(state.writes(&member("a"), Generation(2), ClusterId(8)).is_err());
    assert_eq!(state.written, Some(ClusterId(7)));
    state.commit(RecoveryPoint { cluster: Some(ClusterId(8)), ..point(2, T) }).unwrap();
    assert_eq!(state.written, Some(ClusterId(8)));
    state.commit(point(3, T)).unwrap();
    assert_eq!(state.written, Some(ClusterId(8)), "that point does not say");
    state.claim(unplanned("op", "b")).unwrap();
    state.writes(&member("a"), first, ClusterId(7)).unwrap();
    state.fenced("op", hook()).unwrap();
    let refused = state.writes(&member("a"), first, ClusterId(8));
    assert!(matches!(refused, Err(Refusal::Fenced { .. })));
    assert_eq!(state.written, Some(ClusterId(7)));
}

#[test]
fn it_survives_being_written_and_read() {
    let mut state = three();
    state.stopped(&member("a"), Some(stopped(1))).unwrap();
    state.claim(unplanned("op", "b")).unwrap();
    for proof in [FenceProof::Stopped, hook(), FenceProof::Override { reason: "x".to_owned() }] {
        let mut state = state.clone();
        state.fenced("op", proof).unwrap();
        state.raise("op", T).unwrap();
        for finished in [false, true] {
            if finished {
                state.finish("op", T).unwrap();
            }
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<ServiceState>(&text).unwrap(), state);
        }
    }
}

/// The text in `testdata` is what the first version wrote. It must be read for ever; a change that
/// breaks this test needs a new format number.
#[test]
fn format_1_is_frozen() {
    let text = include_str!("testdata/state-1.json");
    let state: ServiceState = serde_json::from_str(text).unwrap();
    assert_eq!(state.format, 1);
    assert!(state.members[&member("db3")].importing);
    assert_eq!(state.head_point().unwrap().drilled, Some(at("2026-11-21T01:03:00Z")));
    assert_eq!(serde_json::to_string(&state).unwrap(), text.trim_end());
    for (from, to) in [("\"head\"", "\"heads\""), ("\"by\":\"hook\"", "\"by\":\"hook\",\"x\":1")] {
        assert!(text.contains(from));
        assert!(serde_json::from_str::<ServiceState>(&text.replacen(from, to, 1)).is_err(), "{to}");
    }
}

/// A move: it says whether it was allowed.
type Move = Box<dyn Fn(&mut ServiceState) -> bool>;

/// Everything that three members, two takeover operations and two points can do, right or wrong.
fn moves() -> Vec<(String, Move)> {
    let mut moves: Vec<(String, Move)> = Vec::new();
    let mut add = |name: String, call: Move| moves.push((name, call));
    for name in ["a", "b", "c"] {
        let m = move || member(name);
        add(
            format!("join {name} primary"),
            Box::new(move |s| s.join(&m(), Role::Primary, T).is_ok()),
        );
        add(
            format!("join {name} standby"),
            Box::new(move |s| s.join(&m(), Role::Standby, T).is_ok()),
        );
        add(format!("rejoin {name}"), Box::new(move |s| s.rejoin(&m(), T).is_ok()));
        add(format!("leave {name}"), Box::new(move |s| s.leave(&m()).is_ok()));
        add(format!("importing {name}"), Box::new(move |s| s.importing(&m()).is_ok()));
        add(
            format!("applied {name}"),
            Box::new(move |s| s.applied(&m(), Some(applied(1))).is_ok()),
        );
        add(format!("resumes {name}"), Box::new(move |s| s.stopped(&m(), None).is_ok()));
        for generation in 1..=2 {
            add(
                format!("stops {name} {generation}"),
                Box::new(move |s| s.stopped(&m(), Some(stopped(generation))).is_ok()),
            );
            add(
                format!("commit {name} {generation}"),
                Box::new(move |s| {
                    let generation = Generation(generation);
                    s.commit(RecoveryPoint { member: m(), generation, ..point(1, T) }).is_ok()
                }),
            );
        }
        for (op, kind) in [("p", TakeoverKind::Planned), ("u", TakeoverKind::Unplanned)] {
            for from in [None, Some("a"), Some("b")] {
                for generation in 1..=2 {
                    add(
                        format!("claim {op} {from:?} to {name} at {generation}"),
                        Box::new(move |s| {
                            s.claim(intent(op, kind, from, name, generation)).is_ok()
                        }),
                    );
                }
            }
        }
    }
    for op in ["p", "u"] {
        add(format!("stopped {op}"), Box::new(move |s| s.fenced(op, FenceProof::Stopped).is_ok()));
        add(format!("nobody {op}"), Box::new(move |s| s.fenced(op, FenceProof::NoPrimary).is_ok()));
        add(format!("hook {op}"), Box::new(move |s| s.fenced(op, hook()).is_ok()));
        add(format!("raise {op}"), Box::new(move |s| s.raise(op, T).is_ok()));
        add(format!("finish {op}"), Box::new(move |s| s.finish(op, T).is_ok()));
        add(format!("abandon {op}"), Box::new(move |s| s.abandon(op).is_ok()));
    }
    moves
}

/// What holds of every state.
fn sound(state: &ServiceState) -> Result<(), String> {
    let primaries: Vec<&MemberName> = state
        .members
        .iter()
        .filter(|(_, member)| member.role == Role::Primary)
        .map(|(name, _)| name)
        .collect();
    if primaries != state.primary.iter().collect::<Vec<_>>() {
        return Err(format!("primaries {primaries:?}, but primary {:?}", state.primary));
    }
    if let Some(intent) = &state.intent {
        let candidate = state.members.get(&intent.to).map(|member| member.role);
        let (role, replaced) = match intent.raised {
            true => (Role::Primary, intent.generation.next()),
            false => (Role::Standby, intent.generation),
        };
        if candidate != Some(role) || state.generation != replaced {
            return Err(format!("the candidate is {candidate:?}"));
        }
        if !intent.raised && state.primary != intent.from {
            return Err("the intent replaces another primary".to_owned());
        }
        if intent.raised && intent.fenced.is_none() {
            return Err("raised without a fence".to_owned());
        }
    }
    if state.head.is_some() != state.points.iter().any(|point| !point.incomplete) {
        return Err("the head is not a point".to_owned());
    }
    Ok(())
}

/// What holds of every step.
fn allowed(
    name: &str,
    before: &ServiceState,
    ok: bool,
    after: &ServiceState,
) -> Result<(), String> {
    let verb = name.split(' ').next().unwrap();
    if !ok && before != after {
        return Err("a refused move changed the state".to_owned());
    }
    if after.generation < before.generation {
        return Err("the generation fell".to_owned());
    }
    if after.generation != before.generation {
        let intent = before.intent.as_ref().ok_or("raised without a claim")?;
        if verb != "raise" || after.generation != before.generation.next() {
            return Err(format!("the generation became {}", after.generation));
        }
        let fenced = match &intent.fenced {
            None => false,
            Some(FenceProof::Stopped) => before.primary_stopped().is_some(),
            Some(FenceProof::NoPrimary) => before.primary.is_none(),
            Some(_) => intent.kind == TakeoverKind::Unplanned,
        };
        let candidate = &before.members[&intent.to];
        if !fenced || candidate.importing || candidate.applied.is_none() {
            return Err("raised too early".to_owned());
        }
    }
    if after.primary != before.primary {
        let first = verb == "join" && before.primary.is_none() && before.intent.is_none();
        if !first && after.generation == before.generation {
            return Err("the primary changed within a generation".to_owned());
        }
    }
    if verb == "commit" && ok && before != after {
        let words: Vec<&str> = name.split(' ').collect();
        let current = words[2] == before.generation.to_string();
        let fenced = before.intent.as_ref().is_some_and(|i| i.fenced.is_some() && !i.raised);
        if !current || before.primary != Some(member(words[1])) || fenced {
            return Err("somebody wrote history who must not".to_owned());
        }
    }
    if verb == "finish" && ok && !before.intent.as_ref().is_some_and(|intent| intent.raised) {
        return Err("finished before the raise".to_owned());
    }
    if before.intent.as_ref().is_some_and(|intent| intent.raised)
        && after.intent.is_none()
        && verb != "finish"
    {
        return Err("a raised takeover was given back".to_owned());
    }
    Ok(())
}

/// Breadth first over everything that can be reached, each state once. Two beginnings: a service
/// that nobody has joined, and one where all three are there and hold a point.
#[test]
fn no_sequence_of_moves_breaks_the_rules() {
    let moves = moves();
    for (begin, depth, at_least) in [(empty(), 10, 3_000), (three(), 9, 900)] {
        let mut seen = HashSet::new();
        let mut layer = vec![(begin, Vec::<&str>::new())];
        let mut generations = HashSet::new();
        for _ in 0..depth {
            let mut next = Vec::new();
            for (state, path) in &layer {
                for (name, call) in &moves {
                    let mut after = state.clone();
                    let ok = call(&mut after);
                    let trace = || format!("{path:?} then {name}");
                    if let Err(broken) =
                        allowed(name, state, ok, &after).and_then(|()| sound(&after))
                    {
                        panic!("{broken}: {}", trace());
                    }
                    if after == *state {
                        continue;
                    }
                    generations.insert(after.generation);
                    if seen.insert(serde_json::to_string(&after).unwrap()) {
                        let mut path = path.clone();
                        path.push(name);
                        next.push((after, path));
                    }
                }
            }
            layer = next;
        }
        assert!(seen.len() > at_least, "only {} states were reached", seen.len());
        assert!(generations.contains(&Generation(2)), "no takeover was reached");
    }
}
