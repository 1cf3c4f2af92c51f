//! Hooks that come after all is done: what they belong to stays as it is, whatever becomes of them.

use crate::quiesce::ALERTS;
use crate::world::{World, fill};
use serde_json::Value;
use std::fs;

/// A primary whose `after-backup` fails as long as a file is there.
fn world(lines: &str) -> World {
    let hook = "[service.docs.hooks]\nafter-backup = \"test ! -e @HOST@/fails || exit 7\"\n\
         after-refresh = \"test ! -e @HOST@/fails || exit 7\"\n";
    let world = World::new("files", &format!("{lines}{hook}{ALERTS}"));
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    fs::write(world.path("a/fails"), "").unwrap();
    world
}

/// The newest operation, as the history of the host has it.
fn last(world: &World, host: &str) -> Value {
    let json = world.run(host, &["logs", "docs", "--list", "--json"]).code(0).json();
    json["operations"].as_array().unwrap().last().unwrap().clone()
}

#[test]
fn a_backup_whose_hook_fails_after_it_is_a_backup() {
    let world = world("");
    let said = world.run("a", &["backup", "docs"]).code(1).says("docs: 20");
    let said = said.complains("Error: docs: the hook `after-backup` failed");
    assert!(said.err.contains("the point was made and is kept"), "{said:#?}");
    assert_eq!(said.err.matches("after-backup").count(), 1, "told once: {said:#?}");
    let head = world.head("a").expect("a point");
    let json = world.run("a", &["backup", "docs", "--json"]).code(1).json();
    let made = &json["services"][0];
    assert!(made["error"].is_null(), "{json}");
    assert_ne!(made["point"]["snapshot"], head.as_str());
    assert_eq!(Some(&made["point"]["snapshot"]), world.head("a").map(Value::from).as_ref());
    assert!(made["hook-failed"]["message"].as_str().unwrap().contains("after-backup"), "{json}");
    let operation = last(&world, "a");
    assert_eq!(
        (&operation["outcome"], &operation["hook-failed"]),
        (&"done".into(), &"after-backup".into())
    );
    let status = world.status("a");
    assert!(status["last-failure"].is_null(), "{status}");
    world.run("a", &["status", "docs"]).code(0).says("done, but a hook failed");
    world.run("a", &["logs", "docs"]).code(0).says("the hook `after-backup` failed");
    // What could not be read is told all the same.
    fs::remove_file(world.path("a/fails")).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    assert!(last(&world, "a").get("hook-failed").is_none());
}

#[test]
fn it_hides_no_backup_that_failed() {
    let world = world("");
    fs::rename(world.path("a/data"), world.path("a/away")).unwrap();
    let said = world.run("a", &["backup", "docs"]).code(1);
    assert!(said.err.contains("nothing to back up"), "{said:#?}");
    assert!(said.err.contains("the hook `after-backup` failed"), "{said:#?}");
    assert_eq!(last(&world, "a")["outcome"], "failed");
}

#[test]
fn run_due_tells_of_the_hook_and_not_of_a_backup() {
    let world = world("schedule = \"0 0 1 1 *\"\nrpo = \"1d\"\n");
    let alerts = || fs::read_to_string(world.path("a/alerts")).unwrap_or_default();
    let said = world.run("a", &["run-due"]).code(1);
    assert!(said.err.contains("after-backup"), "{said:#?}");
    assert!(
        alerts().contains("\"hook-failed\"") && !alerts().contains("backup-failed"),
        "{}",
        alerts()
    );
    assert!(!alerts().contains("rpo"), "{}", alerts());
    // It is not made again for that: the next is due when the schedule says.
    world.run("a", &["run-due"]).code(0);
    assert_eq!(world.points("a").len(), 1);
    fs::remove_file(world.path("a/fails")).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    world.run("a", &["run-due"]).code(0);
    assert!(alerts().contains("\"hook-failed-over\""), "{}", alerts());
}

#[test]
fn a_standby_whose_hook_fails_after_it_is_refreshed_is_refreshed() {
    let world = world("");
    fs::remove_file(world.path("a/fails")).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["init"]).code(0);
    fs::write(world.path("b/fails"), "").unwrap();
    let json = world.run("b", &["refresh", "docs", "--json"]).code(1).json();
    assert!(json["services"][0]["error"].is_null(), "{json}");
    assert_eq!(json["services"][0]["to"], world.head("a").unwrap());
    let said = world.run("b", &["refresh", "docs"]).code(1);
    assert_eq!(said.err.matches("after-refresh").count(), 1, "{said:#?}");
    assert_eq!(last(&world, "b")["outcome"], "done");
    // Nor does it end a takeover.
    world.run("a", &["offline", "docs"]).code(0);
    world.run("b", &["takeover", "docs", "--planned", "--yes"]).code(0).complains("after-refresh");
}
