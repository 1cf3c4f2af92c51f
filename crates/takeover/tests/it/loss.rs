//! What would be lost, in figures and in one sentence.

use crate::support::{
    PLANNED, UNPLANNED, ago, applied, ask, fine, lsn, member, point, shop, stop, to,
};
use mainstay_takeover::{Loss, Observation, Request, Running, Step};
use model::ServiceState;
use model::state::{Applied, Stopped, TakeoverKind};

fn loss(state: &ServiceState, kind: TakeoverKind) -> Loss {
    ask(state, &fine("b"), &to(kind, "b")).loss
}

#[test]
fn unplanned_everything_since_the_point_that_is_held() {
    let loss = loss(&shop(), UNPLANNED);
    assert_eq!(
        loss,
        Loss {
            nothing: false,
            kept_until: Some(ago(10)),
            age_secs: Some(600),
            vault_until: Some(ago(10)),
            left_in_vault_secs: None,
            sentence: "Everything that a wrote after 2026-11-21T11:50:00Z, which is 10 min ago by \
                       the clock of this host."
                .to_owned(),
        }
    );
}

#[test]
fn what_the_vault_has_beyond_the_standby_is_fetched_unless_it_is_not_wanted() {
    let mut state = shop();
    state.commit(point(3, 4)).unwrap();
    let fetched = loss(&state, UNPLANNED);
    assert_eq!((fetched.age_secs, fetched.left_in_vault_secs), (Some(240), None));
    assert_eq!(
        fetched.sentence,
        "Everything that a wrote after 2026-11-21T11:56:00Z, which is 4 min ago by the clock of \
         this host."
    );
    let as_is = Request { as_is: true, ..to(UNPLANNED, "b") };
    let kept = ask(&state, &fine("b"), &as_is).loss;
    assert_eq!((kept.age_secs, kept.left_in_vault_secs), (Some(600), Some(360)));
    assert_eq!(
        kept.sentence,
        "Everything that a wrote after 2026-11-21T11:50:00Z, which is 10 min ago by the clock of \
         this host. The vault has 6 min more than that, which is lost only if it is not fetched \
         first."
    );
}

#[test]
fn a_standby_that_follows_the_log_loses_less() {
    let following = Observation {
        following: true,
        running: Running::Yes,
        replayed: Some(ago(0)),
        position: lsn(900),
        ..fine("b")
    };
    let loss = ask(&shop(), &following, &to(UNPLANNED, "b")).loss;
    assert_eq!((loss.age_secs, loss.left_in_vault_secs), (Some(0), None));
}

#[test]
fn what_the_vault_has_of_the_log_is_fetched_first() {
    let mut state = shop();
    let logged = Observation { log_until: Some(ago(0)), ..fine("b") };
    let loss = ask(&state, &logged, &to(UNPLANNED, "b")).loss;
    assert_eq!((loss.age_secs, loss.left_in_vault_secs), (Some(0), None));
    assert_eq!((loss.kept_until, loss.vault_until), (Some(ago(0)), Some(ago(0))));
    // Unless the copy is taken as it is.
    let as_is = Request { as_is: true, ..to(UNPLANNED, "b") };
    let kept = ask(&state, &logged, &as_is).loss;
    assert_eq!(kept.left_in_vault_secs, kept.age_secs);
    // A copy that is at the newest point is refreshed for the log alone.
    let head = state.head.expect("a head").snapshot;
    let source_time = state.head_point().expect("a point").source_time;
    let held = Applied { snapshot: head, source_time, position: None, at: ago(0) };
    state.applied(&member("b"), Some(held)).unwrap();
    let assessment = ask(&state, &logged, &to(UNPLANNED, "b"));
    let refreshes = |step: &Step| matches!(step, Step::Refresh { .. });
    assert!(assessment.steps.iter().any(refreshes), "{:?}", assessment.steps);
    let without = ask(&state, &fine("b"), &to(UNPLANNED, "b"));
    assert!(!without.steps.iter().any(refreshes), "{:?}", without.steps);
}

#[test]
fn planned_nothing() {
    let mut state = shop();
    let before = loss(&state, PLANNED);
    assert!(before.nothing);
    assert_eq!(before.sentence, "Nothing, once a has stopped and b holds its last point.");
    state.commit(point(3, 1)).unwrap();
    stop(&mut state, Some(3));
    let stopped = loss(&state, PLANNED);
    assert!(stopped.nothing);
    assert_eq!(stopped.kept_until, Some(ago(1)));
    assert_eq!(
        stopped.sentence,
        "Nothing: a stopped after 20261121T115900Z-files-00000003, and b will hold it before it \
         takes over."
    );
    state.applied(&member("b"), Some(applied(3, 1))).unwrap();
    let held = "Nothing: a stopped after 20261121T115900Z-files-00000003, and b holds it.";
    assert_eq!(loss(&state, PLANNED).sentence, held);
    // The same holds if it is called unplanned.
    assert_eq!(loss(&state, UNPLANNED).sentence, held);
}

#[test]
fn a_stop_with_a_position_only() {
    let mut state = shop();
    let stopped = Stopped {
        generation: state.generation,
        at: ago(1),
        last_point: None,
        last_position: lsn(0x3_0000_0100),
        unguarded: false,
    };
    state.stopped(&member("a"), Some(stopped)).unwrap();
    let at = |position: u64| {
        let observed = Observation {
            following: true,
            running: Running::Yes,
            position: lsn(position),
            ..fine("b")
        };
        ask(&state, &observed, &to(PLANNED, "b")).loss.sentence
    };
    assert_eq!(
        at(0x3_0000_0000),
        "Nothing: a stopped after position 1/3/100, and b will hold it before it takes over."
    );
    assert_eq!(at(0x3_0000_0100), "Nothing: a stopped after position 1/3/100, and b holds it.");
}

#[test]
fn nothing_is_promised_of_what_nobody_could_stop() {
    let mut state = shop();
    stop(&mut state, Some(2));
    let primary = state.members.get_mut(&member("a")).unwrap();
    primary.stopped.as_mut().unwrap().unguarded = true;
    let loss = loss(&state, PLANNED);
    assert!(!loss.nothing);
    assert_eq!(
        loss.sentence,
        "Whatever was written on a after 2026-11-21T11:59:00Z: it was taken out of service then, \
         but there was nothing to stop, so nobody kept its writers away."
    );
}

#[test]
fn a_stop_that_is_not_waited_for_is_no_promise() {
    let mut state = shop();
    state.commit(point(3, 1)).unwrap();
    stop(&mut state, Some(3));
    let as_is = Request { as_is: true, ..to(UNPLANNED, "b") };
    let loss = ask(&state, &fine("b"), &as_is).loss;
    assert!(!loss.nothing);
    assert!(loss.sentence.starts_with("Everything that a wrote after 2026-11-21T11:50:00Z"));
    assert_eq!(loss.left_in_vault_secs, Some(540));
    // Stopped without a last point: what it wrote since its last backup is nowhere.
    let mut state = shop();
    stop(&mut state, None);
    assert!(!self::loss(&state, UNPLANNED).nothing);
}

#[test]
fn no_primary_and_no_point() {
    let mut orphan = shop();
    orphan.primary = None;
    orphan.members.remove(&member("a"));
    let nothing = loss(&orphan, UNPLANNED);
    assert!(nothing.nothing);
    assert_eq!(nothing.sentence, "Nothing: there is no primary that could have written anything.");
    let mut empty = shop();
    empty.applied(&member("b"), None).unwrap();
    empty.head = None;
    let unknown = loss(&empty, UNPLANNED);
    assert_eq!((unknown.nothing, unknown.kept_until), (false, None));
    assert_eq!(unknown.sentence, "Unknown: b holds no point of this service.");
}

#[test]
fn a_source_clock_that_is_ahead() {
    let mut state = shop();
    state.commit(point(3, -5)).unwrap();
    state.applied(&member("b"), Some(applied(3, -5))).unwrap();
    let loss = loss(&state, UNPLANNED);
    assert_eq!(loss.age_secs, None);
    assert_eq!(
        loss.sentence,
        "Everything that a wrote after 2026-11-21T12:05:00Z, which is in the future by the clock \
         of this host."
    );
}
