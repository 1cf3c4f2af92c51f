//! Cancels, by command and by signal; and two operations at once.

use crate::world::{World, content, fill, state, wait_for};
use std::fs;
use std::process::{Child, Command, Output, Stdio};

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(name).arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

pub(crate) fn cont(worker: u32) {
    let status = Command::new("kill").arg("-CONT").arg(worker.to_string()).status().unwrap();
    assert!(status.success());
}

/// Whether a process that stands still has an interrupt to look at (proc(5)).
fn is_pending(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 0b10 != 0
}

fn end(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

/// How the last operation of a host ended, as `mainstay logs` tells.
pub(crate) fn outcome(world: &World, host: &str) -> String {
    let said = world.run(host, &["--json", "logs", "docs", "--list"]).code(0).json();
    let all = said["operations"].as_array().unwrap();
    all.last().unwrap()["outcome"].as_str().unwrap().to_owned()
}

/// A world in which a backup of `a` is frozen until `go` is there.
fn frozen() -> World {
    let hooks = "quiesce = \"freeze\"\n[service.docs.hooks]\n\
                 freeze = \"touch @HOST@/frozen; while [ -d @HERE@ ] && [ ! -e @HERE@/go ]; do sleep 0.02; done\"\n\
                 thaw = \"rm @HOST@/frozen\"\n";
    let world = World::new("files", hooks);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    fs::write(world.path("go"), "").unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    fs::remove_file(world.path("go")).unwrap();
    world
}

#[test]
fn a_backup_is_cancelled() {
    let world = frozen();
    for by_signal in [true, false] {
        let child = spawn(world.command("a", &["backup", "docs"]));
        wait_for("it is frozen", || world.path("a/frozen").exists());
        if by_signal {
            signal(&child, "-INT");
        } else {
            world.run("a", &["cancel", "docs"]).code(0).says("was asked to stop");
            // A second one does nothing, whether or not the first has had its effect.
            world.run("a", &["cancel", "docs"]).code(0);
        }
        let output = end(child);
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert_eq!(outcome(&world, "a"), "cancelled");
        assert!(!world.path("a/frozen").exists());
        assert!(world.unfinished("a").is_empty());
        assert_eq!(world.points("a").len(), 1);
    }
    world.run("a", &["cancel", "docs"]).code(0).says("nothing runs");
    // A failure is told apart.
    fs::rename(world.path("a/data"), world.path("a/moved")).unwrap();
    world.run("a", &["backup", "docs"]).code(1);
    assert_eq!(outcome(&world, "a"), "failed");
}

/// A command whose worker stands still at a place, and that worker's number.
pub(crate) fn held(world: &World, host: &str, words: &[&str], at: &str) -> (Child, u32) {
    let mut command = world.command(host, words);
    command.env("MAINSTAY_TEST_STOP_AT", at);
    let child = spawn(command);
    let worker = world.worker(host);
    wait_for(at, || state(worker) == Some('T'));
    (child, worker)
}

#[test]
fn a_restore_and_a_refresh_are_cancelled() {
    let world = World::new("files", "");
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    let old = content(&world.path("b/data"));
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    let target = world.path("a/target");
    let restore = ["restore", "docs", "--target", target.to_str().unwrap()];
    let cases: [(&str, &[&str]); 2] = [("a", &restore), ("b", &["refresh", "docs"])];
    for (host, words) in cases {
        for by_signal in [true, false] {
            let (child, worker) = held(&world, host, words, "stage:begin");
            if by_signal {
                signal(&child, "-INT");
                wait_for("it is passed on", || is_pending(worker));
            } else {
                world.run(host, &["cancel", "docs"]).code(0).says("was asked to stop");
                let again = world.run(host, &["cancel", "docs"]).code(0);
                assert!(again.out.contains("before"), "{again:#?}");
            }
            cont(worker);
            let output = end(child);
            assert_eq!(output.status.code(), Some(130), "{words:?}: {output:?}");
            assert_eq!(outcome(&world, host), "cancelled");
            assert_eq!(world.staging(), [] as [std::path::PathBuf; 0]);
            assert!(world.unfinished(host).is_empty());
            assert!(!target.exists());
            assert!(content(&world.path("b/data")) == old);
        }
    }
    world.run("b", &["refresh", "docs"]).code(0);
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")));
}

#[test]
fn past_the_commit_marker_it_goes_on() {
    let hook = "[service.docs.hooks]\n\
                after-refresh = \"touch @HOST@/hook; while [ -d @HERE@ ] && [ ! -e @HERE@/go ]; do sleep 0.02; done\"\n";
    let world = World::new("files", hook);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    let child = spawn(world.command("b", &["refresh", "docs"]));
    wait_for("it is in place", || world.path("b/hook").exists());
    signal(&child, "-INT");
    world.run("b", &["cancel", "docs"]).code(0);
    fs::write(world.path("go"), "").unwrap();
    let output = end(child);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(outcome(&world, "b"), "done");
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")));
    world.run("b", &["refresh", "docs"]).code(0).says("already");
}

#[test]
fn one_operation_at_a_time() {
    let world = frozen();
    let first = spawn(world.command("a", &["backup", "docs"]));
    wait_for("it is frozen", || world.path("a/frozen").exists());
    let dirs = world.operations("a");
    let holder = dirs.last().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    // It is told who is there.
    world.run("a", &["backup", "docs"]).code(11).complains(&holder);
    world.run("a", &["--wait", "1s", "backup", "docs"]).code(11).complains(&holder);
    let waits = spawn(world.command("a", &["--wait", "30s", "backup", "docs"]));
    fs::write(world.path("go"), "").unwrap();
    assert_eq!(end(first).status.code(), Some(0));
    assert_eq!(end(waits).status.code(), Some(0));
    assert_eq!(world.points("a").len(), 3);
    // Another service of the host never waits.
    fs::remove_file(world.path("go")).unwrap();
    let file = world.path("a/mainstay.toml");
    let text = fs::read_to_string(&file).unwrap();
    let other = format!(
        "{text}\n[service.other]\nengine = \"files\"\npath = \"{}\"\n",
        world.path("b").display()
    );
    fs::write(&file, other).unwrap();
    world.run("a", &["init"]).code(0);
    let first = spawn(world.command("a", &["backup", "docs"]));
    wait_for("it is frozen", || world.path("a/frozen").exists());
    world.run("a", &["backup", "other"]).code(0);
    fs::write(world.path("go"), "").unwrap();
    assert_eq!(end(first).status.code(), Some(0));
}
