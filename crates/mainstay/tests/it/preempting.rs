//! A takeover goes first on its own host: what can be done again later stops for it.

use crate::cancel::{cont, held, outcome};
use crate::kills::version;
use crate::refreshing::ended;
use crate::rig::Said;
use crate::takeover::{FORCED, gate, ready};
use crate::world::{World, content, fill, wait_for};
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// A standby behind its primary, by one point.
fn behind() -> World {
    let world = ready("");
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    world
}

fn take_over(world: &World) -> Child {
    let mut command = world.command("b", FORCED);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The name of the operation that stands still on the standby's host, and whether it was asked to stop.
fn asked(world: &World) -> (String, bool) {
    let dir = world.unfinished("b").first().expect("it is not over").clone();
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    (name, dir.join("cancel").exists())
}

#[track_caller]
fn b_took_over(world: &World, said: Said, stopped: &str) {
    said.complains(&format!("{stopped} runs here, and was asked to stop"));
    assert!(content(&world.path("b/data")) == version(2));
    assert!(world.serves("b"));
    gate(world, "b", true);
    assert_eq!(world.status("b")["primary"], "b");
    assert_eq!(world.unfinished("b"), [] as [PathBuf; 0]);
    assert_eq!(world.staging(), [] as [PathBuf; 0]);
}

#[test]
fn a_drill_a_scrub_and_a_refresh_are_stopped() {
    let cases: [(&[&str], &str); 3] = [
        (&["drill", "docs"], "stage:begin"),
        (&["scrub", "docs"], "start"),
        (&["refresh", "docs"], "stage:done"),
    ];
    for (words, at) in cases {
        let world = behind();
        let (child, worker) = held(&world, "b", words, at);
        let (name, _) = asked(&world);
        // Whoever only looks stops nothing, and nor does who is refused.
        let dry = [FORCED, &["--dry-run"]].concat();
        world.run("b", &dry).code(0).says(&format!("stop {name}, which runs here"));
        world.run("b", &["takeover", "docs", "--yes"]).code(1).complains("primary-not-fenced");
        let mut unconfirmed = FORCED.to_vec();
        unconfirmed.retain(|word| *word != "--yes");
        world.run("b", &unconfirmed).code(1).complains("has to be confirmed");
        assert!(!asked(&world).1, "{words:?}");

        let takeover = take_over(&world);
        wait_for("it is asked to stop", || asked(&world).1);
        cont(worker);
        ended(child, 130).complains("a takeover goes first");
        let said = ended(takeover, 0);
        b_took_over(&world, said, &name);
    }
}

#[test]
fn a_refresh_past_its_commit_marker_is_waited_for() {
    for at in ["place:begin", "place:moved", "settle:begin"] {
        let world = behind();
        let (child, worker) = held(&world, "b", &["refresh", "docs"], at);
        let (name, _) = asked(&world);
        let takeover = take_over(&world);
        wait_for("it is asked to stop", || asked(&world).1);
        cont(worker);
        ended(child, 0);
        let said = ended(takeover, 0).complains("past its commit marker");
        b_took_over(&world, said, &name);
    }
}

#[test]
fn what_does_not_stop_is_named_and_can_be_ended() {
    let world = behind();
    let (child, _) = held(&world, "b", &["drill", "docs"], "stage:begin");
    let (name, _) = asked(&world);
    let bounded = [&["--wait", "1s"], FORCED].concat();
    world.run("b", &bounded).code(11).complains(&name).complains("mainstay cancel docs --kill");
    world.run("b", &["--wait", "1s", "cancel", "docs", "--kill"]).code(0);
    ended(child, 137);
    world.run("b", FORCED).code(0);
    assert!(world.serves("b"));
}

/// Somebody has asked for it, and may wait for what it brings.
#[test]
fn a_restore_is_not_stopped() {
    let world = behind();
    let target = world.path("look");
    let words = ["restore", "docs", "--target", target.to_str().unwrap()];
    let (child, worker) = held(&world, "b", &words, "stage:begin");
    world.run("b", FORCED).code(11).complains("restore");
    assert!(!asked(&world).1);
    cont(worker);
    ended(child, 0);
    assert_eq!(outcome(&world, "b"), "done");
    world.run("b", FORCED).code(0);
}
