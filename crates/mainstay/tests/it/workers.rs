//! Operations run in processes of their own: what attends them may go, and they are found again.

use crate::rig::run;
use crate::world::{CONTROLLED, World, fill, kill, signal, state, wait_for};
use std::fs;
use std::process::{Child, Stdio};

/// A world in which a backup of `a` waits, with the service stopped, until `go` is there.
fn waiting() -> World {
    let lines = "quiesce = \"stop\"\n[service.docs.hooks]\n\
                 before-backup = \"touch @HOST@/begun; while [ -d @HERE@ ] && [ ! -e @HERE@/go ]; do sleep 0.02; done\"\n";
    let world = World::new("files", &format!("{CONTROLLED}{lines}"));
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    assert_eq!(world.service("a", "start"), 0);
    world
}

fn begin(world: &World) -> (Child, u32) {
    let mut command = world.command("a", &["backup", "docs"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("it has begun", || world.path("a/begun").exists());
    let worker = world.worker("a");
    assert_ne!(child.id(), worker);
    (child, worker)
}

fn is_running(world: &World) -> bool {
    let shown = world.run("a", &["--json", "logs", "docs", "--list"]).code(0).json();
    shown["operations"].as_array().unwrap().iter().any(|one| one["running"] == true)
}

#[test]
fn whatever_ends_the_command_the_work_goes_on() {
    for by in ["-HUP", "-KILL"] {
        let world = waiting();
        let (mut child, worker) = begin(&world);
        signal(child.id(), by);
        child.wait().unwrap();
        assert!(state(worker).is_some());
        // Whoever comes next finds it: it is shown, attended, and nothing is begun beside it.
        assert!(is_running(&world));
        world.run("a", &["backup", "docs"]).code(11).complains(&worker.to_string());
        let mut follow = world.command("a", &["logs", "docs", "--follow"]);
        let follow = follow.stdout(Stdio::piped()).spawn().unwrap();
        fs::write(world.path("go"), "").unwrap();
        let followed = follow.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&followed.stdout);
        assert!(text.trim_end().ends_with("is the head"), "{text}");
        assert_eq!(world.points("a").len(), 1);
        assert!(world.serves("a"));
    }
}

#[test]
fn a_command_whose_worker_dies_says_so() {
    let world = waiting();
    let (child, worker) = begin(&world);
    kill(worker);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the worker was killed by signal 9"), "{said}");
    fs::write(world.path("go"), "").unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    assert!(world.serves("a"));
}

/// Somebody removes the lock's file under a worker: what it does is not undone under its hands, and
/// nothing is begun beside it.
#[test]
fn a_worker_without_a_lock_is_left_alone_and_bars_others() {
    let world = waiting();
    let (child, worker) = begin(&world);
    let dir = world.unfinished("a").pop().unwrap();
    let lock = dir.parent().unwrap().parent().unwrap().join("lock");
    fs::remove_file(lock).unwrap();
    let id = dir.file_name().unwrap().to_str().unwrap().to_owned();
    for words in [&["backup", "docs"][..], &["recover", "docs"], &["prune", "docs"]] {
        let said = world.run("a", words).code(11).complains("does not hold this member's lock");
        assert!(said.err.contains(&id), "{said:#?}");
    }
    assert!(is_running(&world));
    assert!(state(worker).is_some());
    // A person can still stop it, and it cleans up by itself.
    world.run("a", &["cancel", "docs"]).code(0).says("was asked to stop");
    fs::write(world.path("go"), "").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    world.run("a", &["backup", "docs"]).code(0);
    assert!(world.serves("a"));
}

#[test]
fn a_worker_that_does_not_stop_is_killed_if_that_is_asked_for() {
    let world = waiting();
    let (child, worker) = begin(&world);
    signal(worker, "-STOP");
    wait_for("it stands still", || state(worker) == Some('T'));
    let words = ["--wait", "1s", "cancel", "docs"];
    world.run("a", &words).code(11).complains("has not stopped yet");
    let mut command = world.command("a", &words);
    run(command.arg("--kill")).code(0).says("was killed").says("it is over");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
    assert!(state(worker).is_none_or(|state| state == 'Z'));
    wait_for("it is cleaned up", || world.unfinished("a").is_empty());
    // It died while it was being cancelled, which is not the same as a failure.
    let shown = world.run("a", &["--json", "logs", "docs", "--list"]).code(0).json();
    assert_eq!(shown["operations"].as_array().unwrap().last().unwrap()["outcome"], "cancelled");
    wait_for("it serves", || world.serves("a"));
}

#[test]
fn a_worker_that_gives_no_sign_of_life_is_told() {
    let world = waiting();
    let (child, worker) = begin(&world);
    signal(worker, "-STOP");
    wait_for("it stands still", || state(worker) == Some('T'));
    // As if that had been an hour ago.
    let alive = world.unfinished("a").pop().unwrap().join("alive");
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::options().write(true).open(&alive).unwrap().set_modified(past).unwrap();
    let shown = world.run("a", &["--json", "logs", "docs", "--list"]).code(0).json();
    let silent = shown["operations"][0]["silent-seconds"].as_u64().unwrap();
    assert!((3600..3700).contains(&silent), "{silent}");
    world.run("a", &["status", "docs"]).says("no sign of life");
    signal(worker, "-CONT");
    fs::write(world.path("go"), "").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
}
