//! The steps that are left, from every state in which a crash can leave a takeover.

use crate::support::{
    PLANNED, UNPLANNED, applied, ask, claim, fine, lsn, member, now, point, seeing, shop, steps,
    stop, to, with,
};
use mainstay_takeover::{Fencing, Observation, Request, Running, Standing, Step};
use model::ServiceState;
use model::state::{FenceProof, Stopped};

const FORWARD: [&str; 4] =
    ["promote", "run the hook inside the service", "move the clients", "record that it is done"];
const RAISE: &str = "raise the generation (from here on only forward)";

fn plan(state: &ServiceState, request: &Request) -> Vec<String> {
    let assessment = ask(state, &fine("b"), request);
    assert!(assessment.allowed, "{assessment:#?}");
    steps(&assessment)
}

/// These, and then everything from the raise on.
fn then_raise(first: &[&str]) -> Vec<String> {
    first.iter().chain(&[RAISE]).chain(&FORWARD).map(|&step| step.to_owned()).collect()
}

fn hook() -> FenceProof {
    FenceProof::Hook { command: "ipmi-off a".to_owned() }
}

#[test]
fn unplanned_step_by_step() {
    let mut state = shop();
    state.commit(point(3, 4)).unwrap();
    let request = to(UNPLANNED, "b");
    let fence = "fence the old primary by the hook";
    let refresh = "refresh to the point 00000003";
    assert_eq!(plan(&state, &request), then_raise(&["claim the takeover", fence, refresh]));
    claim(&mut state, "op", UNPLANNED, "b");
    assert_eq!(plan(&state, &request), then_raise(&[fence, refresh]));
    state.fenced("op", hook()).unwrap();
    assert_eq!(plan(&state, &request), then_raise(&[refresh]));
    state.applied(&member("b"), Some(applied(3, 4))).unwrap();
    assert_eq!(plan(&state, &request), then_raise(&[]));
    state.raise("op", now()).unwrap();
    let raised = ask(&state, &fine("b"), &request);
    assert_eq!(steps(&raised), FORWARD);
    assert_eq!(raised.gates, [], "no gate stands in the only way there is");
    assert_eq!(raised.standing, Standing::OnlyForward { id: "op".to_owned() });
    assert_eq!(raised.sentence, "b is the primary since generation 2 and only has to be finished.");
    assert!(!raised.may_abandon());
    state.finish("op", now()).unwrap();
    let done = ask(&state, &fine("b"), &seeing(&state, request));
    assert!(!done.allowed && done.steps.is_empty());
}

#[test]
fn planned_step_by_step() {
    let mut state = shop();
    let request = to(PLANNED, "b");
    let wait = "wait until a has stopped and handed over its last point";
    let record = "record why the old primary does not serve: it recorded that it is stopped";
    let last = "refresh to the last point of the old primary";
    assert_eq!(plan(&state, &request), then_raise(&["claim the takeover", wait, record, last]));
    claim(&mut state, "op", PLANNED, "b");
    assert_eq!(plan(&state, &request), then_raise(&[wait, record, last]));
    state.commit(point(3, 1)).unwrap();
    stop(&mut state, Some(3));
    let refresh = "refresh to the point 00000003";
    assert_eq!(plan(&state, &request), then_raise(&[record, refresh]));
    state.fenced("op", FenceProof::Stopped).unwrap();
    assert_eq!(plan(&state, &request), then_raise(&[refresh]));
    state.applied(&member("b"), Some(applied(3, 1))).unwrap();
    assert_eq!(plan(&state, &request), then_raise(&[]));
}

#[test]
fn what_is_held_already_is_not_fetched() {
    assert!(!plan(&shop(), &to(UNPLANNED, "b")).iter().any(|step| step.contains("refresh")));
    let mut state = shop();
    state.commit(point(3, 4)).unwrap();
    let as_is = Request { as_is: true, ..to(UNPLANNED, "b") };
    assert!(!plan(&state, &as_is).iter().any(|step| step.contains("refresh")));
    // In a planned one, nobody gets around the last point.
    let as_is = Request { as_is: true, ..to(PLANNED, "b") };
    assert!(plan(&state, &as_is).iter().any(|step| step.contains("refresh")));
}

#[test]
fn a_copy_that_follows_has_to_reach_the_last_position() {
    let mut state = shop();
    let last_position = lsn(0x500);
    let stopped = Stopped {
        generation: state.generation,
        at: now(),
        last_point: None,
        last_position,
        unguarded: false,
    };
    state.stopped(&member("a"), Some(stopped)).unwrap();
    let refreshes = |position: u64| {
        let observed = Observation {
            position: lsn(position),
            following: true,
            running: Running::Yes,
            ..fine("b")
        };
        let assessment = ask(&state, &observed, &to(PLANNED, "b"));
        steps(&assessment).into_iter().find(|step| step.starts_with("refresh"))
    };
    assert_eq!(refreshes(0x4ff).as_deref(), Some("refresh to position 1/0/500"));
    assert_eq!(refreshes(0x500), None);
    assert_eq!(refreshes(0x501), None);
}

#[test]
fn a_stopped_primary_is_proof_for_an_unplanned_takeover_too() {
    let mut state = shop();
    stop(&mut state, Some(2));
    let assessment = ask(&state, &fine("b"), &to(UNPLANNED, "b"));
    let fence = Step::Fence { how: Fencing::Record(FenceProof::Stopped) };
    assert_eq!(assessment.steps[1], fence);
    let mut orphan = shop();
    orphan.primary = None;
    orphan.members.remove(&member("a"));
    let assessment = ask(&orphan, &fine("b"), &to(UNPLANNED, "b"));
    let fence = Step::Fence { how: Fencing::Record(FenceProof::NoPrimary) };
    assert_eq!(assessment.steps[1], fence);
}

#[test]
fn ours_can_be_abandoned_until_the_raise() {
    let mut state = shop();
    claim(&mut state, "op", PLANNED, "b");
    let assessment = ask(&state, &fine("b"), &to(PLANNED, "b"));
    assert!(assessment.may_abandon());
    assert_eq!(
        assessment.sentence,
        "The planned takeover to b was begun; it can go on or be abandoned."
    );
    // Even if it cannot go on.
    let broken = Observation { has_data: false, ..fine("b") };
    let stuck = ask(&state, &broken, &to(PLANNED, "b"));
    assert!(!stuck.allowed && stuck.may_abandon());
}

#[test]
fn a_planned_one_whose_primary_dies_is_given_back_and_asked_for_as_unplanned() {
    let mut state = shop();
    claim(&mut state, "op", PLANNED, "b");
    let unplanned = plan(&state, &to(UNPLANNED, "b"));
    assert_eq!(unplanned[..2], ["give back the claim of op", "claim the takeover"]);
}

#[test]
fn somebody_elses_is_closed_only_by_a_typed_override() {
    let mut state = shop();
    claim(&mut state, "op-c", UNPLANNED, "c");
    let over = with(to(UNPLANNED, "b"), "takeover-under-way", "c burnt down too");
    let over = seeing(&state, over);
    assert!(!ask(&state, &fine("b"), &to(UNPLANNED, "b")).allowed);
    assert_eq!(plan(&state, &over)[..2], ["give back the claim of op-c", "claim the takeover"]);
    state.fenced("op-c", hook()).unwrap();
    state.raise("op-c", now()).unwrap();
    let over = seeing(&state, over);
    assert_eq!(
        plan(&state, &over)[..2],
        ["close the unfinished takeover op-c", "claim the takeover"]
    );
    // Closed, c is the primary: it is the one to be fenced now.
    state.finish("op-c", now()).unwrap();
    let assessment = ask(&state, &fine("b"), &seeing(&state, to(UNPLANNED, "b")));
    assert!(assessment.allowed);
    assert_eq!(assessment.intent("op", now()).from, Some(member("c")));
    assert_eq!(assessment.intent("op", now()).generation.0, 2);
}

#[test]
fn new_overrides_are_added_to_the_claim() {
    let mut state = shop();
    claim(&mut state, "op", UNPLANNED, "b");
    let serving = Observation { running: Running::Yes, ..fine("b") };
    assert!(!ask(&state, &serving, &to(UNPLANNED, "b")).allowed);
    let request = with(to(UNPLANNED, "b"), "copy-modified", "only logs");
    let assessment = ask(&state, &serving, &request);
    assert!(assessment.allowed);
    assert_eq!(assessment.steps[0], Step::Claim);
    state.claim(assessment.intent("op", now())).unwrap();
    let recorded = ask(&state, &serving, &to(UNPLANNED, "b"));
    assert!(recorded.allowed);
    assert_ne!(recorded.steps[0], Step::Claim);
}

#[test]
fn an_assessment_can_be_printed_for_programs() {
    let assessment = ask(&shop(), &fine("b"), &to(UNPLANNED, "b"));
    let json = serde_json::to_value(&assessment).unwrap();
    assert_eq!(json["allowed"], true);
    assert_eq!(json["standing"]["standing"], "nothing");
    assert_eq!(json["gates"][0]["gate"], "wrong-role");
    assert_eq!(json["gates"][0]["verdict"], "open");
    assert_eq!(json["steps"][0]["step"], "claim");
    assert_eq!(json["steps"][1]["how"]["run-hook"]["command"], "ipmi-off a");
    assert_eq!(json["loss"]["age-secs"], 600);
}
