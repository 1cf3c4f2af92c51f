//! A service that is stopped for a backup comes back: whatever dies, and whenever.

use crate::world::{CONTROLLED, World, fill, journal, wait_for};
use std::time::{Duration, Instant};

fn world(lines: &str) -> World {
    let world = World::new("files", &format!("{CONTROLLED}quiesce = \"stop\"\n{lines}"));
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    assert_eq!(world.service("a", "start"), 0);
    world
}

fn has_begun(world: &World, step: &str) -> bool {
    let dirs = world.operations("a");
    let lines = dirs.last().map(|dir| journal(dir)).unwrap_or_default();
    lines.iter().any(|line| line["event"] == "begin" && line["step"] == step)
}

#[test]
fn a_stop_that_outlives_its_worker_does_not_win() {
    let world = world("");
    std::fs::write(world.path("a/slow-stop"), "0.7").unwrap();
    let mut command = world.command("a", &["backup", "docs"]).spawn().unwrap();
    wait_for("the stop has begun", || has_begun(&world, "quiesce"));
    crate::world::kill(world.worker("a"));
    assert_eq!(command.wait().unwrap().code(), Some(137));
    wait_for("the guardian has cleaned up", || world.unfinished("a").is_empty());
    // For as long as the stop could go on, the service stays.
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        assert!(world.serves("a"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_restart_that_fails_keeps_the_backup_and_is_tried_until_it_works() {
    let world = world("[service.docs.hooks]\nbefore-backup = \"touch @HOST@/cannot-start\"\n");
    let said = world.run("a", &["backup", "docs"]).code(1);
    assert!(said.err.contains("did not come back"), "{said:#?}");
    let points = world.points("a");
    assert_eq!(points.len(), 1, "{points:?}");
    assert_eq!((&points[0]["committed"], &points[0]["head"]), (&true.into(), &true.into()));
    assert!(!world.serves("a"));
    std::fs::remove_file(world.path("a/cannot-start")).unwrap();
    wait_for("the guardian starts it", || world.serves("a") && world.unfinished("a").is_empty());
}

#[test]
fn what_was_stopped_before_stays_stopped() {
    let world = world("");
    assert_eq!(world.service("a", "stop"), 0);
    world.run("a", &["backup", "docs"]).code(0);
    assert!(!world.serves("a"));
    assert_eq!(world.service("a", "start"), 0);
    world.run("a", &["offline", "docs"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    assert!(!world.serves("a"));
    world.run("a", &["online", "docs"]).code(0);
    assert!(world.serves("a"));
    let said = world.run("a", &["backup", "docs"]).code(0).says("stopped for");
    assert!(world.serves("a"), "{said:#?}");
}

#[test]
fn nothing_is_stopped_when_the_vault_cannot_be_reached() {
    let world = world("");
    let pid = std::fs::read_to_string(world.path("a/pid")).unwrap();
    std::fs::rename(world.path("vault"), world.path("gone")).unwrap();
    assert_ne!(world.run("a", &["backup", "docs"]).code, 0);
    assert!(world.serves("a"));
    assert_eq!(std::fs::read_to_string(world.path("a/pid")).unwrap(), pid);
}
