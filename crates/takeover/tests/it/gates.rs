//! Each gate: what shuts it, what it says, and whether a person may open it.

use crate::support::{
    PLANNED, UNPLANNED, ago, applied, ask, claim, fine, lsn, member, now, point, seeing, shop,
    shut, stop, to, verdict, with,
};
use mainstay_takeover::{
    Assessment, CopyState, Gate, Observation, Request, Running, Sighting, Standing, Step, Verdict,
};
use model::state::{FenceProof, TakeoverKind};
use model::{Position, Role, ServiceState};

const SHUT: Verdict = Verdict::Shut { overridable: false };
const ASK: Verdict = Verdict::Shut { overridable: true };

/// One gate is shut, with this verdict and this sentence, and all others are open.
fn only(assessment: &Assessment, gate: Gate, expected: Verdict, why: &str) {
    assert_eq!(shut(assessment), [gate.name()], "{assessment:#?}");
    assert_eq!(verdict(assessment, gate), (expected, why.to_owned()));
    assert!(!assessment.allowed);
    assert_eq!(assessment.steps, []);
}

fn unplanned(state: &ServiceState, observed: &Observation) -> Assessment {
    ask(state, observed, &to(UNPLANNED, "b"))
}

#[test]
fn where_nothing_is_wrong_all_gates_are_open_and_say_why() {
    let assessment = unplanned(&shop(), &fine("b"));
    assert!(assessment.allowed);
    assert_eq!(assessment.standing, Standing::Nothing);
    assert_eq!(assessment.sentence, "The unplanned takeover to b can begin.");
    let sentences: Vec<(&str, &str)> =
        assessment.gates.iter().map(|r| (r.gate.name(), r.why.as_str())).collect();
    assert_eq!(
        sentences,
        [
            ("wrong-role", "b is a standby."),
            ("takeover-under-way", "No takeover is under way."),
            ("no-valid-point", "b holds 20261121T115000Z-files-00000002."),
            ("import-in-progress", "No refresh is changing the copy of b."),
            ("behind-another-standby", "No other standby holds newer data than b."),
            ("copy-modified", "The copy of b is what its last refresh left."),
            (
                "replay-stands-still",
                "b first replays what the vault has of its log, if it has one.",
            ),
            ("primary-not-fenced", "The fence hook will make sure that a does not serve."),
            ("nothing-handed-over", "An unplanned takeover waits for no last point."),
        ]
    );
    let planned = ask(&shop(), &fine("b"), &to(PLANNED, "b"));
    assert!(planned.allowed);
    assert_eq!(verdict(&planned, Gate::PrimaryNotFenced).1, "a stops before b takes over.");
    assert_eq!(
        verdict(&planned, Gate::NothingHandedOver).1,
        "a hands over its last point when it stops."
    );
}

#[test]
fn wrong_role() {
    let state = shop();
    let mut broken = shop();
    claim(&mut broken, "op", UNPLANNED, "b");
    broken.fenced("op", FenceProof::Hook { command: "x".to_owned() }).unwrap();
    broken.raise("op", now()).unwrap();
    broken.finish("op", now()).unwrap();
    for (state, here, name, why) in [
        (&state, "a", "a", "a is the primary already."),
        (&state, "d", "d", "d is not a member of this service."),
        (&state, "c", "b", "This host is c; a takeover to b has to run on b."),
        (
            &broken,
            "a",
            "a",
            "a is a primary that was taken over; let it rejoin as a standby first.",
        ),
    ] {
        let assessment = ask(state, &fine(here), &seeing(state, to(UNPLANNED, name)));
        assert_eq!(verdict(&assessment, Gate::WrongRole), (SHUT, why.to_owned()));
        assert!(!assessment.allowed);
    }
}

#[test]
fn takeover_under_way() {
    let mut state = shop();
    claim(&mut state, "op-c", UNPLANNED, "c");
    let assessment = unplanned(&state, &fine("b"));
    only(
        &assessment,
        Gate::TakeoverUnderWay,
        ASK,
        "A takeover to c is under way, claimed 2 min ago as op-c; it has not raised the generation \
         yet.",
    );
    let theirs = Standing::Theirs { id: "op-c".to_owned(), to: member("c"), raised: false };
    assert_eq!(assessment.standing, theirs);
    assert!(!assessment.may_abandon());
    assert_eq!(
        assessment.sentence,
        "The unplanned takeover to b is refused by: takeover-under-way."
    );
    let own = ask(&state, &fine("c"), &to(UNPLANNED, "c"));
    assert!(own.allowed && own.may_abandon());
    assert_eq!(verdict(&own, Gate::TakeoverUnderWay).1, "The takeover under way is the one to c.");
    state.fenced("op-c", FenceProof::Hook { command: "x".to_owned() }).unwrap();
    state.raise("op-c", now()).unwrap();
    let assessment = ask(&state, &fine("b"), &seeing(&state, to(UNPLANNED, "b")));
    assert!(
        verdict(&assessment, Gate::TakeoverUnderWay)
            .1
            .ends_with("it has raised the generation and is not finished.")
    );
}

#[test]
fn no_valid_point() {
    let mut nothing = shop();
    nothing.applied(&member("b"), None).unwrap();
    let assessment = unplanned(&nothing, &fine("b"));
    only(&assessment, Gate::NoValidPoint, SHUT, "b holds no point of this service.");

    let no_data = Observation { has_data: false, ..fine("b") };
    only(
        &unplanned(&shop(), &no_data),
        Gate::NoValidPoint,
        SHUT,
        "b is recorded as holding a point, but there is no data there.",
    );

    let mut incomplete = shop();
    let mut half = point(3, 5);
    half.incomplete = true;
    incomplete.commit(half).unwrap();
    incomplete.applied(&member("b"), Some(applied(3, 5))).unwrap();
    only(
        &unplanned(&incomplete, &fine("b")),
        Gate::NoValidPoint,
        SHUT,
        "b holds 20261121T115500Z-files-00000003, which is incomplete: some of the source could \
         not be read.",
    );

    let mut pruned = shop();
    pruned.applied(&member("b"), Some(applied(9, 10))).unwrap();
    let assessment = unplanned(&pruned, &fine("b"));
    assert!(assessment.allowed, "{assessment:#?}");
    assert_eq!(
        verdict(&assessment, Gate::NoValidPoint).1,
        "b holds the state of 2026-11-21T11:50:00Z."
    );
}

#[test]
fn import_in_progress() {
    let why = "A refresh is changing the copy of b, or was cut short in doing so.";
    let observed = Observation { importing: true, ..fine("b") };
    only(&unplanned(&shop(), &observed), Gate::ImportInProgress, SHUT, why);
    let mut state = shop();
    state.importing(&member("b")).unwrap();
    only(&unplanned(&state, &fine("b")), Gate::ImportInProgress, SHUT, why);
    // One that is stopped first changes nothing any more.
    let gives_way = Some("20261121T115900Z-refresh-01234567".to_owned());
    let copy = CopyState::Modified { examples: Vec::new() };
    let between = Observation { importing: true, gives_way, copy, ..fine("b") };
    let assessment = unplanned(&state, &between);
    assert!(assessment.allowed, "{assessment:#?}");
    assert_eq!(
        verdict(&assessment, Gate::ImportInProgress).1,
        "20261121T115900Z-refresh-01234567 runs on b, and is stopped before anything else is done."
    );
}

#[test]
fn behind_another_standby() {
    let behind = |b: i64, c: i64, head: i64| {
        let mut state = shop();
        state.commit(point(3, head)).unwrap();
        state.applied(&member("b"), Some(applied(7, b))).unwrap();
        state.applied(&member("c"), Some(applied(8, c))).unwrap();
        state
    };
    let why = "c holds the state of 2026-11-21T11:57:00Z, b only that of 2026-11-21T11:30:00Z: \
               taking over on c loses less.";
    let assessment = unplanned(&behind(30, 3, 5), &fine("b"));
    only(&assessment, Gate::BehindAnotherStandby, ASK, why);
    assert!(unplanned(&behind(3, 30, 5), &fine("b")).allowed);
    assert!(unplanned(&behind(30, 30, 30), &fine("b")).allowed);
    // The refresh before the raise brings b further than c is: nobody is ahead then.
    assert!(unplanned(&behind(30, 3, 2), &fine("b")).allowed);
    // Unless b is to be promoted as it is.
    let as_is = Request { as_is: true, ..to(UNPLANNED, "b") };
    let assessment = ask(&behind(30, 3, 2), &fine("b"), &as_is);
    only(&assessment, Gate::BehindAnotherStandby, ASK, why);
    // A planned takeover brings b to the last point of all.
    assert!(ask(&behind(30, 3, 5), &fine("b"), &to(PLANNED, "b")).allowed);
    // What b has replayed from the log counts.
    let replayed = Observation { replayed: Some(ago(1)), ..fine("b") };
    assert!(unplanned(&behind(30, 3, 5), &replayed).allowed);
    // A standby whose copy is half changed, or that is none any more, is no better place.
    let mut state = behind(30, 3, 5);
    state.importing(&member("c")).unwrap();
    assert!(unplanned(&state, &fine("b")).allowed);
}

#[test]
fn positions_decide_where_they_can_be_compared() {
    let with_position = |b: Option<Position>, c: Option<Position>| {
        let mut state = shop();
        let c = model::state::Applied { position: c, ..applied(2, 3) };
        state.applied(&member("c"), Some(c)).unwrap();
        let observed =
            Observation { position: b, following: true, running: Running::Yes, ..fine("b") };
        shut(&unplanned(&state, &observed)).len()
    };
    assert_eq!(with_position(lsn(500), lsn(400)), 0, "further, although the time is older");
    assert_eq!(with_position(lsn(400), lsn(400)), 0);
    assert_eq!(with_position(lsn(300), lsn(400)), 1);
    assert_eq!(with_position(None, lsn(400)), 1, "else the time decides");
    let other_timeline = Some(Position::Lsn { timeline: 2, lsn: 9 });
    assert_eq!(with_position(lsn(500), other_timeline), 1);
}

#[test]
fn copy_modified() {
    let modified = |examples: &[&str]| {
        let examples = examples.iter().map(|&e| e.to_owned()).collect();
        Observation { copy: CopyState::Modified { examples }, ..fine("b") }
    };
    only(
        &unplanned(&shop(), &modified(&["index.html changed", "x new"])),
        Gate::CopyModified,
        ASK,
        "The copy of b was written to since its last refresh: index.html changed, x new.",
    );
    only(
        &unplanned(&shop(), &modified(&[])),
        Gate::CopyModified,
        ASK,
        "The copy of b was written to since its last refresh.",
    );
    let serving = Observation { running: Running::Yes, ..fine("b") };
    only(
        &unplanned(&shop(), &serving),
        Gate::CopyModified,
        ASK,
        "The service runs on b and follows nobody, so its copy may have been written to.",
    );
    let following = Observation { following: true, copy: CopyState::NotComparable, ..serving };
    assert!(unplanned(&shop(), &following).allowed);
}

#[test]
fn primary_not_fenced() {
    let no_hook = Observation { fence_hook: None, ..fine("b") };
    only(
        &unplanned(&shop(), &no_hook),
        Gate::PrimaryNotFenced,
        ASK,
        "Nothing proves that a does not serve, and no fence hook is configured that could stop it.",
    );
    let alive =
        Observation { primary: Sighting::Alive { by: "monitor1".to_owned() }, ..no_hook.clone() };
    only(
        &unplanned(&shop(), &alive),
        Gate::PrimaryNotFenced,
        ASK,
        "a is alive (seen by monitor1), and no fence hook is configured that could stop it.",
    );
    let mut stopped = shop();
    stop(&mut stopped, Some(2));
    let assessment = unplanned(&stopped, &no_hook);
    assert!(assessment.allowed);
    assert_eq!(verdict(&assessment, Gate::PrimaryNotFenced).1, "a recorded that it is stopped.");
    let mut orphan = shop();
    orphan.primary = None;
    orphan.members.remove(&member("a"));
    let assessment = unplanned(&orphan, &no_hook);
    assert!(assessment.allowed);
    assert_eq!(
        verdict(&assessment, Gate::PrimaryNotFenced).1,
        "There is no primary that could still serve."
    );
    // Fenced already, by a hook that has been taken out of the configuration since.
    let mut state = shop();
    claim(&mut state, "op", UNPLANNED, "b");
    state.fenced("op", FenceProof::Hook { command: "x".to_owned() }).unwrap();
    let assessment = unplanned(&state, &no_hook);
    assert!(assessment.allowed);
    assert_eq!(
        verdict(&assessment, Gate::PrimaryNotFenced).1,
        "a is fenced: the fence hook said so."
    );
}

#[test]
fn nothing_handed_over() {
    let mut state = shop();
    stop(&mut state, None);
    only(
        &ask(&state, &fine("b"), &to(PLANNED, "b")),
        Gate::NothingHandedOver,
        SHUT,
        "a is stopped, but recorded no last point; bring it online and stop it for the takeover, \
         or ask for an unplanned one.",
    );
    assert!(unplanned(&state, &fine("b")).allowed);
    stop(&mut state, Some(2));
    let assessment = ask(&state, &fine("b"), &to(PLANNED, "b"));
    assert!(assessment.allowed);
    assert_eq!(verdict(&assessment, Gate::NothingHandedOver).1, "a handed over its last point.");
}

#[test]
fn an_override_opens_the_gate_and_is_recorded_with_its_reason() {
    let no_hook = Observation { fence_hook: None, ..fine("b") };
    let request = with(to(UNPLANNED, "b"), "primary-not-fenced", " burnt down ");
    let assessment = ask(&shop(), &no_hook, &request);
    assert!(assessment.allowed);
    let reason = "burnt down".to_owned();
    assert_eq!(
        verdict(&assessment, Gate::PrimaryNotFenced).0,
        Verdict::Overridden { reason: reason.clone() }
    );
    assert_eq!(
        assessment.sentence,
        "The unplanned takeover to b can begin, with one gate overridden."
    );
    let intent = assessment.intent("op", now());
    assert_eq!(intent.overrides.get("primary-not-fenced"), Some(&reason));
    // The claim remembers it: the repetition after a crash needs no reason again.
    let mut state = shop();
    state.claim(intent).unwrap();
    let again = unplanned(&state, &no_hook);
    assert!(again.allowed, "{again:#?}");
    assert!(again.steps[0].to_string().ends_with("a person said so (burnt down)"));
}

#[test]
fn an_override_of_an_open_gate_is_not_recorded() {
    let request = with(to(UNPLANNED, "b"), "copy-modified", "just in case");
    let assessment = ask(&shop(), &fine("b"), &request);
    assert!(assessment.allowed);
    assert_eq!(assessment.overrides.len(), 0);
}

#[test]
fn an_override_beside_a_hook_says_that_the_hook_is_known_to_fail() {
    let request = with(to(UNPLANNED, "b"), "primary-not-fenced", "power is out");
    let assessment = ask(&shop(), &fine("b"), &request);
    assert!(assessment.allowed);
    assert_eq!(
        verdict(&assessment, Gate::PrimaryNotFenced).1,
        "Nothing proves that a does not serve, and the fence hook, if any, is passed over."
    );
    let steps: Vec<String> = assessment.steps.iter().map(ToString::to_string).collect();
    assert!(steps[1].ends_with("a person said so (power is out)"), "{steps:?}");
}

#[test]
fn what_was_said_of_one_primary_is_not_held_against_the_next() {
    let request = with(to(UNPLANNED, "c"), "primary-not-fenced", "a burnt down");
    let no_hook = Observation { fence_hook: None, ..fine("c") };
    let mut state = shop();
    assert!(ask(&state, &no_hook, &request).allowed);
    // Before it is claimed, somebody else's takeover is done.
    claim(&mut state, "op", UNPLANNED, "b");
    state.fenced("op", FenceProof::Hook { command: "x".to_owned() }).unwrap();
    state.raise("op", now()).unwrap();
    state.finish("op", now()).unwrap();
    let late = ask(&state, &no_hook, &request);
    assert!(!late.allowed);
    assert_eq!(
        late.sentence,
        "The request is refused. It was asked for at generation 1, and the service is at \
         generation 2 by now; look again, and ask again."
    );
    assert!(ask(&state, &no_hook, &seeing(&state, request)).allowed);
}

#[test]
fn what_was_said_of_one_takeover_is_not_held_against_the_next() {
    let over = with(to(UNPLANNED, "b"), "takeover-under-way", "c burnt down");
    let mut state = shop();
    state.join(&member("d"), Role::Standby, now()).unwrap();
    state.applied(&member("d"), Some(applied(2, 10))).unwrap();
    claim(&mut state, "op-c", UNPLANNED, "c");
    let asked = seeing(&state, over);
    assert!(ask(&state, &fine("b"), &asked).allowed);
    state.abandon("op-c").unwrap();
    claim(&mut state, "op-d", UNPLANNED, "d");
    assert_eq!(
        ask(&state, &fine("b"), &asked).sentence,
        "The request is refused. Another takeover is under way than the one that was to be \
         overridden; look again, and ask again."
    );
}

#[test]
fn what_cannot_be_overridden_is_refused_with_words() {
    let refused = |kind: TakeoverKind, gate: &str, reason: &str| {
        let assessment = ask(&shop(), &fine("b"), &with(to(kind, "b"), gate, reason));
        assert!(!assessment.allowed);
        assert_eq!(assessment.steps, []);
        assessment.sentence
    };
    for gate in ["wrong-role", "no-valid-point", "import-in-progress", "nothing-handed-over"] {
        assert_eq!(
            refused(UNPLANNED, gate, "because"),
            format!("The request is refused. The gate {gate} cannot be overridden.")
        );
    }
    assert_eq!(
        refused(PLANNED, "primary-not-fenced", "because"),
        "The request is refused. The gate primary-not-fenced cannot be overridden in a planned \
         takeover; ask for an unplanned one."
    );
    assert_eq!(
        refused(PLANNED, "replay-stands-still", "because"),
        "The request is refused. The gate replay-stands-still cannot be overridden in a planned \
         takeover; ask for an unplanned one."
    );
    assert_eq!(
        refused(UNPLANNED, "copy-modified", "  "),
        "The request is refused. The override of the gate copy-modified needs a reason."
    );
    assert_eq!(
        refused(UNPLANNED, "not-fenced", "because"),
        "The request is refused. There is no gate \"not-fenced\"; gates are wrong-role, \
         takeover-under-way, no-valid-point, import-in-progress, behind-another-standby, \
         copy-modified, replay-stands-still, primary-not-fenced, nothing-handed-over."
    );
}

#[test]
fn what_is_seen_only_later_is_overridden_before() {
    let request = with(to(UNPLANNED, "b"), "replay-stands-still", "it is paused");
    let assessment = ask(&shop(), &fine("b"), &request);
    assert!(assessment.allowed);
    assert_eq!(assessment.overrides["replay-stands-still"], "it is paused");
}

#[test]
fn names_and_gates_are_one_to_one() {
    for gate in Gate::all() {
        assert_eq!(Gate::by_name(gate.name()), Some(gate));
        let json = serde_json::to_string(&gate).unwrap();
        assert_eq!(json, format!("\"{gate}\""));
    }
    assert_eq!(Gate::all().count(), 9);
}

#[test]
fn several_shut_gates_are_all_told() {
    let mut state = shop();
    state.applied(&member("b"), None).unwrap();
    state.importing(&member("b")).unwrap();
    let observed = Observation {
        fence_hook: None,
        copy: CopyState::Modified { examples: Vec::new() },
        ..fine("b")
    };
    let assessment = unplanned(&state, &observed);
    assert_eq!(
        assessment.sentence,
        "The unplanned takeover to b is refused by: no-valid-point, import-in-progress, \
         copy-modified, primary-not-fenced."
    );
}

#[test]
fn a_member_that_has_left_is_nobody() {
    let mut state = shop();
    state.leave(&member("b")).unwrap();
    let assessment = unplanned(&state, &fine("b"));
    assert_eq!(shut(&assessment), ["wrong-role", "no-valid-point"]);
    state.join(&member("b"), Role::Standby, now()).unwrap();
    assert_eq!(shut(&unplanned(&state, &fine("b"))), ["no-valid-point"]);
}

#[test]
fn the_order_of_commits_decides_and_not_two_clocks() {
    // The newer point was made by a primary whose clock is an hour behind that of the one before it.
    let mut state = shop();
    state.commit(point(3, 70)).unwrap();
    state.applied(&member("c"), Some(applied(3, 70))).unwrap();
    let assessment = ask(&state, &fine("b"), &to(UNPLANNED, "b"));
    let refreshed = assessment.steps.iter().any(|step| matches!(step, Step::Refresh { .. }));
    assert!(refreshed, "b holds point 2, and point 3 is the head: {:?}", assessment.steps);
    let as_is = Request { as_is: true, ..to(UNPLANNED, "b") };
    let (behind, _) = verdict(&ask(&state, &fine("b"), &as_is), Gate::BehindAnotherStandby);
    assert_eq!(behind, ASK);
}
