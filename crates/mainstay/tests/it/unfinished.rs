//! What cannot be brought to its end bars nobody from what would help, and is brought to it in time.

use crate::rig::run;
use crate::world::{CONTROLLED, World, content, fill, wait_for};
use std::fs;
use std::process::{Command, Stdio};

const FORCED: &[&str] =
    &["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"];

/// A service that does not start with what was restored: other content can be, and what was restored
/// stays where it is meanwhile.
#[test]
fn content_that_a_service_does_not_start_with_is_replaced_by_another() {
    let lines = CONTROLLED.replace("start = \"", "start = \"test ! -e @HOST@/data/bad && ");
    let world = World::new("files", &lines);
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    assert_eq!(world.service("a", "start"), 0);
    world.run("a", &["backup", "docs"]).code(0);
    let good = world.head("a").unwrap();
    let wanted = content(&world.path("a/data"));
    fs::write(world.path("a/data/bad"), "").unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    world.run("a", &["restore", "docs", "--replace"]).code(1).complains("start");
    assert!(!world.serves("a") && world.path("a/data/bad").exists());
    assert!(world.unfinished("a").is_empty());
    let target = world.path("looked-at").display().to_string();
    world.run("a", &["restore", "docs", "--target", &target]).code(0);
    world.run("a", &["restore", "docs", "--snapshot", &good, "--replace"]).code(0);
    assert!(world.serves("a"));
    assert!(content(&world.path("a/data")) == wanted);
}

/// A standby that took over, and whose host was lost before it had told anybody.
fn untold(promoted: &str) -> World {
    let lines = format!("{CONTROLLED}[service.docs.hooks]\npromoted = \"{promoted}\"\n");
    let world = World::new("files", &lines);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    let mut command = world.command("b", FORCED);
    run(command.env("MAINSTAY_TEST_KILL_AT", "hooks:begin")).code(137);
    world
}

/// What a refresh has put in place is written down once: what somebody writes to the copy before the vault has
/// heard of it shows.
#[test]
fn a_copy_that_was_written_to_while_the_vault_was_away_is_not_taken_for_clean() {
    let world = World::new("files", "");
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    let mut command = world.command("b", &["refresh", "docs"]);
    run(command.env("MAINSTAY_TEST_KILL_AT", "settle:begin")).code(137);
    fs::rename(world.path("vault"), world.path("away")).unwrap();
    assert_ne!(world.run("b", &["recover", "docs"]).code, 0);
    assert_eq!(world.unfinished("b").len(), 1);
    fs::write(world.path("b/data/mine"), "mine").unwrap();
    let written = content(&world.path("b/data"));
    fs::rename(world.path("away"), world.path("vault")).unwrap();
    world.run("b", &["recover", "docs"]).code(0).says("brought to its end");
    assert!(world.unfinished("b").is_empty());
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(1).complains("was written to").complains("mine");
    assert!(content(&world.path("b/data")) == written);
}

/// While the host starts, its units wait for the clean-up; so that must not wait for them.
#[test]
fn a_takeover_is_not_brought_to_its_end_while_the_host_starts() {
    let world = untold("touch @HOST@/promoted");
    assert_eq!(world.service("b", "stop"), 0);
    world.run("b", &["recover", "--all", "--booting"]).code(0).says("point of no return");
    assert!(!world.serves("b") && !world.path("b/promoted").exists());
    assert_eq!(world.unfinished("b").len(), 1);
    world.run("b", &["recover", "docs"]).code(0).says("brought to its end");
    assert!(world.serves("b") && world.path("b/promoted").exists());
    assert!(world.unfinished("b").is_empty());
}

/// Whoever brings it to its end can be told to stop, and does not pass over what is left to do.
#[test]
fn a_cancel_leaves_nothing_out_of_a_takeover_that_is_brought_to_its_end() {
    let hook = "touch @HOST@/began; while [ -d @HERE@ ] && [ ! -e @HERE@/go ]; do sleep 0.02; done; \
                touch @HOST@/promoted";
    let world = untold(hook);
    let mut command = world.command("b", &["recover", "docs"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the hook runs", || world.path("b/began").exists());
    run(Command::new("kill").args(["-TERM", &child.id().to_string()])).code(0);
    fs::write(world.path("go"), "").unwrap();
    child.wait_with_output().unwrap();
    wait_for("it is brought to its end", || world.unfinished("b").is_empty());
    assert!(world.path("b/promoted").exists());
}
