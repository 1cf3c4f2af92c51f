//! Deleting what an operation needs: it is refused or waits, and judges anew when its turn comes.

use crate::cancel::cont;
use crate::rig::run;
use crate::sqlite_log::files_below;
use crate::world::{CONTROLLED, Tree, World, content, fill, kill, state, wait_for};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// Three points.
struct Past {
    world: World,
    names: Vec<String>,
    second: Option<Tree>,
    third: Option<Tree>,
}

fn past(lines: &str) -> Past {
    let world = World::new("files", lines);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    let mut versions = Vec::new();
    for version in 1..=3_u8 {
        fill(&world.path("a/data"), version);
        let noise = (0..50_000_u32).flat_map(|i| (i * u32::from(version) * 31).to_le_bytes());
        fs::write(world.path("a/data/noise"), noise.collect::<Vec<u8>>()).unwrap();
        world.run("a", &["backup", "docs"]).code(0);
        versions.push(content(&world.path("a/data")));
    }
    let third = versions.pop().unwrap();
    let second = versions.pop().unwrap();
    Past { names: names(&world), world, second, third }
}

impl Past {
    /// The same past, at another place. The standby holds the first point, and nobody needs the second.
    fn world(&self) -> World {
        let world = self.world.copy();
        world.run("b", &["refresh", "docs", "--snapshot", &self.names[0]]).code(0);
        world
    }
}

fn names(world: &World) -> Vec<String> {
    let points = world.points("a");
    points.iter().map(|point| point["name"].as_str().unwrap().to_owned()).collect()
}

/// Everything that a forget or a prune removes or replaces.
fn history(world: &World) -> Vec<PathBuf> {
    let dirs = ["data", "index", "snapshots"];
    let mut all: Vec<_> =
        dirs.iter().flat_map(|dir| files_below(&world.path("vault/docs").join(dir))).collect();
    all.sort();
    all
}

/// An operation that stands still. It does not outlive the test.
pub(crate) struct Held {
    child: Option<Child>,
    worker: u32,
}

impl Held {
    pub(crate) fn begin(world: &World, host: &str, words: &[&str], at: &str) -> Held {
        let mut command = world.command(host, words);
        command.env("MAINSTAY_TEST_STOP_AT", at).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        // A copy is no operation of a member, and has no worker.
        let worker = match words[0] {
            "copy" => child.id(),
            _ => world.worker(host),
        };
        let held = Held { child: Some(child), worker };
        wait_for(&format!("{words:?} is at {at}"), || state(worker) == Some('T'));
        held
    }

    pub(crate) fn go_on(mut self) -> Output {
        cont(self.worker);
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    pub(crate) fn die(mut self) {
        kill(self.worker);
        self.child.take().unwrap().wait().unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let worker = self.worker.to_string();
            let _ = Command::new("kill").args(["-KILL", &worker]).status();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What removes says who is there, and removes nothing.
#[track_caller]
fn is_refused(world: &World, host: &str, point: &str, who: &str) {
    let before = (names(world), history(world));
    let removing = [
        &["forget", "docs", point, "--yes"][..],
        &["forget", "docs", "--keep-last", "1"],
        &["forget", "docs", "--keep-last", "1", "--prune"],
        &["prune", "docs"],
    ];
    for words in removing {
        let mut command = world.command(host, words);
        run(command.args(["--wait", "0s"])).code(11).complains(who);
    }
    // Looking at what would go takes nothing from anybody.
    world.run(host, &["forget", "docs", "--keep-last", "1", "--dry-run"]).code(0);
    world.run(host, &["prune", "docs", "--dry-run"]).code(0);
    assert_eq!((names(world), history(world)), before, "{host}");
}

const BUSY: &str = "this member is busy";
const LOCKED: &str = "the repository is locked";

#[test]
fn what_an_operation_needs_is_not_deleted_beside_it() {
    let past = past("");
    let (first, second) = (past.names[0].as_str(), past.names[1].as_str());
    // The operation, where it stands still, and what a delete on the same host is told.
    let cases = [
        (
            "a",
            &["restore", "docs", "--snapshot", second, "--target", "@/target"][..],
            "stage:begin",
        ),
        ("a", &["drill", "docs", "--snapshot", second], "stage:begin"),
        ("b", &["refresh", "docs", "--snapshot", second], "stage:begin"),
        // From the instant on at which it is chosen.
        ("b", &["refresh", "docs", "--snapshot", second], "refresh:chosen"),
        ("b", &["scrub", "docs"], "compare:begin"),
        ("a", &["backup", "docs"], "read:begin"),
        ("a", &["copy", "docs", "--to", "@/second"], "copy:snapshots"),
    ];
    for (host, words, at) in cases {
        let world = past.world();
        let here = world.path("").display().to_string();
        let words: Vec<String> = words.iter().map(|word| word.replace("@/", &here)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let other = if host == "a" { "b" } else { "a" };
        let held = Held::begin(&world, host, &words, at);
        is_refused(&world, other, second, LOCKED);
        is_refused(&world, host, second, if words[0] == "copy" { LOCKED } else { BUSY });

        // One that waits has its turn when the operation is over, and looks at everything again.
        let mut waits = world.command(other, &["forget", "docs", second, "--yes", "--wait", "60s"]);
        let waits = (words[0] != "drill").then(|| {
            let waits = waits.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            wait_for("the forget has begun", || !world.unfinished(other).is_empty());
            waits
        });
        let output = held.go_on();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        let forgotten = waits.map(|waits| waits.wait_with_output().unwrap());
        let said = forgotten.as_ref().map(|forgotten| {
            (forgotten.status.code(), String::from_utf8_lossy(&forgotten.stderr).into_owned())
        });
        let left = names(&world);
        match (words[0], said) {
            // It is what the standby holds now.
            ("refresh", Some((Some(1), said))) => {
                assert!(said.contains("the standby b holds it"), "{said}");
                assert!(content(&world.path("b/data")) == past.second);
                // And the one that it does not hold any more is free to go.
                world.run("a", &["forget", "docs", first, "--yes"]).code(0);
            }
            ("drill", None) => {
                let drilled = world.run("a", &["forget", "docs", second, "--yes"]).code(1);
                drilled.complains("the newest that was proven restorable");
                assert_eq!(names(&world), past.names);
            }
            (_, Some((Some(0), _))) => {
                assert!(!left.iter().any(|name| name == second), "{words:?}: {left:?}");
            }
            (_, said) => panic!("{words:?}: {said:?}"),
        }
        match words[0] {
            "restore" => assert!(content(&world.path("target")) == past.second),
            "backup" => assert_eq!(left.len(), 3),
            "copy" => {
                assert_eq!(files_below(&world.path("second/docs/snapshots")).len(), 3);
            }
            _ => {}
        }
        world.run(other, &["prune", "docs", "--max-unused", "0%"]).code(0);
        world.restic_check();
        let head = world.path("head").display().to_string();
        world.run("a", &["restore", "docs", "--target", &head]).code(0);
        assert!(content(&world.path("head")) == past.third, "{words:?}");
        assert!(world.unfinished("a").is_empty() && world.unfinished("b").is_empty());
    }
}

/// Whoever is dead needs nothing, and its lock goes with it.
#[test]
fn an_operation_that_was_killed_keeps_nobody_from_deleting() {
    let past = past("");
    let world = past.world();
    let target = world.path("target").display().to_string();
    let words = ["restore", "docs", "--snapshot", &past.names[1], "--target", &target];
    Held::begin(&world, "a", &words, "stage:begin").die();
    world.run("b", &["forget", "docs", &past.names[1], "--yes", "--prune"]).code(0);
    assert_eq!(names(&world), [past.names[0].clone(), past.names[2].clone()]);
    // What it had begun is cleaned up, and is not done any more: there is nothing to do it with.
    let said = world.run("a", &words).code(1);
    said.complains("had died").complains("no recovery point");
    assert!(!world.path("target").exists());
    assert_eq!(world.staging(), [] as [PathBuf; 0]);
    world.restic_check();
}

/// What is chosen is chosen under the lock: a point that goes before that is gone, and no failure of
/// the history.
#[test]
fn a_point_that_goes_before_it_is_chosen_is_missed_and_nothing_else() {
    let past = past("");
    let second = past.names[1].as_str();
    let cases = [
        ("a", &["restore", "docs", "--snapshot", second, "--target", "@/target"][..]),
        ("a", &["drill", "docs", "--snapshot", second]),
        ("b", &["refresh", "docs", "--snapshot", second]),
    ];
    for (host, words) in cases {
        let world = past.world();
        let held_before = content(&world.path("b/data"));
        let here = world.path("").display().to_string();
        let words: Vec<String> = words.iter().map(|word| word.replace("@/", &here)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let held = Held::begin(&world, host, &words, "start");
        let other = if host == "a" { "b" } else { "a" };
        let forget = ["forget", "docs", second, "--yes", "--prune", "--max-unused", "0%"];
        world.run(other, &forget).code(0);
        let output = held.go_on();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("no recovery point"), "{said}");
        assert!(!world.path("target").exists());
        assert_eq!(world.staging(), [] as [PathBuf; 0]);
        assert!(content(&world.path("b/data")) == held_before, "{words:?}");
        assert!(world.points("a").iter().all(|point| point["drill"].is_null()));
        // And nothing keeps the next one.
        world.run("b", &["refresh", "docs"]).code(0);
        assert!(content(&world.path("b/data")) == past.third, "{words:?}");
    }
}

/// The dead hold no lock. What they were putting in place is brought to its end without the point.
#[test]
fn a_point_that_goes_after_it_was_put_in_place_bars_nobody() {
    let past = past("");
    for at in ["place:begin", "place:done", "settle:begin"] {
        let world = past.world();
        let (first, second) = (&past.names[0], &past.names[1]);
        let words = ["refresh", "docs", "--snapshot", second];
        let mut command = world.command("b", &words);
        run(command.env("MAINSTAY_TEST_KILL_AT", at)).code(137);
        world
            .run("a", &["forget", "docs", second, "--yes", "--prune", "--max-unused", "0%"])
            .code(0);
        world.run("b", &["recover", "docs"]).code(0);
        assert!(world.unfinished("b").is_empty(), "{at}");
        assert!(content(&world.path("b/data")) == past.second, "{at}");
        // It holds what is no point any more, and goes on from there; the one before it may go, too.
        world.run("a", &["forget", "docs", first, "--yes"]).code(0);
        world.run("b", &["refresh", "docs"]).code(0);
        assert!(content(&world.path("b/data")) == past.third, "{at}");
        world.restic_check();
    }
}

/// A candidate counts on the history as it was when it was judged.
#[test]
fn nothing_is_forgotten_while_somebody_takes_over() {
    let past = past(CONTROLLED);
    let world = past.world();
    world.run("b", &["refresh", "docs"]).code(0);
    let words = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"];
    let held = Held::begin(&world, "b", &words, "claim:done");
    let forget = ["forget", "docs", &past.names[1], "--yes"];
    for words in [&forget[..], &["forget", "docs", "--keep-last", "1", "--prune"]] {
        world.run("a", words).code(11).complains("takeover");
        assert_eq!(names(&world), past.names);
        assert!(world.unfinished("a").is_empty());
    }
    assert_eq!(held.go_on().status.code(), Some(0));
    world.run("a", &forget).code(0);
    assert_eq!(names(&world), [past.names[0].clone(), past.names[2].clone()]);
    assert!(content(&world.path("b/data")) == past.third);
    world.restic_check();
}
