//! A service that is held still for a backup, or stopped for a restore, comes back where that is hard: where
//! nothing can be read or written, where the worker hangs or stood still, and where it must not.

use crate::filesystems::{Kind, Mounted};
use crate::not_shown::not_shown;
use crate::quiesce::{ALERTS, alerts, failed, world};
use crate::refreshing::ended;
use crate::takeover::{FORCED, ready};
use crate::vault_rig::VaultHost;
use crate::world::{CONTROLLED, World, fill, kill, signal, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

fn told(world: &World, event: &str) {
    wait_for(event, || alerts(world).contains(&format!("\"{event}\"")));
}

/// A service whose freeze and thaw are these.
fn freezing(freeze: &str, thaw: &str, lines: &str) -> World {
    let hooks = format!("[service.docs.hooks]\nfreeze = \"{freeze}\"\nthaw = \"{thaw}\"\n");
    let world = World::new("files", &format!("quiesce = \"freeze\"\n{lines}{hooks}"));
    fill(&world.path("a/data"), 1);
    world
}

/// The backup is not lost by that, and so its worker lives: in a vault that does not answer, for hours.
#[test]
fn a_start_that_failed_is_tried_again_while_the_worker_hangs() {
    let world = world(ALERTS);
    let vault = VaultHost::start(&world.path("."), &world.path("vault"), &["--no-auth"]);
    world.reach_vault_by("a", &vault);
    let (child, worker) = world.halted(world.command("a", &["backup", "docs"]), "a", "read:done");
    fs::write(world.path("a/cannot-start"), "").unwrap();
    vault.signal("STOP");
    signal(worker, "-CONT");
    told(&world, "service-down");
    fs::remove_file(world.path("a/cannot-start")).unwrap();
    wait_for("it serves", || world.serves("a"));
    told(&world, "service-down-over");
    assert_eq!(world.unfinished("a").len(), 1, "the backup waits for the vault");
    vault.signal("CONT");
    let said = failed(child);
    assert!(said.contains("the service did not come back"), "{said}");
    assert_eq!(world.points("a").len(), 1, "the backup is kept");
    assert!(world.serves("a"));
}

/// Half done, it is undone before anything that may hang.
#[test]
fn a_freeze_that_failed_is_undone_before_any_hook() {
    let after = "after-backup = \"touch @HOST@/after; \
                 while [ -d @HOST@ ] && [ ! -e @HOST@/go ]; do sleep 0.02; done\"\n";
    let hooks = format!(
        "[service.docs.hooks]\nfreeze = \"touch @HOST@/frozen; false\"\n\
         thaw = \"rm -f @HOST@/frozen\"\n{after}"
    );
    let world = World::new("files", &format!("quiesce = \"freeze\"\n{hooks}"));
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    let mut command = world.command("a", &["backup", "docs"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the hook hangs", || world.path("a/after").exists());
    assert!(!world.path("a/frozen").exists());
    fs::write(world.path("a/go"), "").unwrap();
    let said = failed(child);
    assert!(said.contains("the hook `freeze` failed"), "{said}");
    assert!(world.unfinished("a").is_empty());
}

/// The guardian has let the service go; who stood still all the time then goes on to freeze it.
#[test]
fn a_worker_that_stood_still_freezes_nothing_for_good() {
    let hooks = "[service.docs.hooks]\nfreeze = \"touch @HOST@/frozen\"\n\
                 thaw = \"rm -f @HOST@/frozen; touch @HOST@/thawed\"\n";
    let lines = "quiesce = \"freeze\"\nquiesce-limit = \"1s\"\n";
    let world = World::new("files", &format!("{CONTROLLED}{lines}{hooks}"));
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    assert_eq!(world.service("a", "start"), 0);
    let command = world.command("a", &["backup", "docs"]);
    let (child, worker) = world.halted(command, "a", "quiesce:begin");
    wait_for("it is let go", || world.path("a/thawed").exists());
    assert!(world.serves("a"), "what was only to be frozen was stopped");
    signal(worker, "-CONT");
    let said = failed(child);
    assert!(said.contains("was frozen for longer than 1 s"), "{said}");
    wait_for("it is thawed", || !world.path("a/frozen").exists());
    assert!(world.unfinished("a").is_empty());
    assert!(world.serves("a"));
}

#[test]
fn a_worker_that_cleans_up_gives_signs_of_life() {
    let world = world("");
    world.run("a", &["backup", "docs"]).code(0);
    let command = world.command("a", &["restore", "docs", "--replace"]);
    let (child, worker) = world.halted(command, "a", "stop:done");
    fs::write(world.path("a/slow-start"), "").unwrap();
    world.run("a", &["cancel", "docs"]).code(0);
    signal(worker, "-CONT");
    wait_for("the service is being started again", || world.path("a/starting").exists());
    let alive = world.unfinished("a").pop().unwrap().join("alive");
    let past = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&alive).unwrap().set_modified(past).unwrap();
    wait_for("a sign of life", || fs::metadata(&alive).unwrap().modified().unwrap() > past);
    fs::remove_file(world.path("a/slow-start")).unwrap();
    ended(child, 130);
    assert!(world.serves("a"));
}

/// Thaws a file system, whatever became of a test.
struct Thawed(PathBuf);

impl Drop for Thawed {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/fsfreeze").arg("--unfreeze").arg(&self.0).output();
    }
}

/// What freezes is the command, and what is frozen holds `state-dir`.
fn frozen_state(disk: &Mounted, freeze_ends: &str) -> World {
    let fsfreeze = "/usr/sbin/fsfreeze";
    let place = disk.path().display();
    let world = freezing(
        &format!("{fsfreeze} --freeze {place}; touch @HOST@/frozen; {freeze_ends}"),
        &format!("{fsfreeze} --unfreeze {place}; touch @HOST@/thawed"),
        "",
    );
    std::os::unix::fs::symlink(disk.path(), world.path("a/state")).unwrap();
    world.run("a", &["init"]).code(0);
    world
}

#[test]
fn a_freeze_of_what_holds_the_state_directory_is_ended_and_refused() {
    let Some(disk) = Mounted::new(Kind::Ext4, 32) else { return };
    let _thawed = Thawed(disk.path().to_owned());
    let world = frozen_state(&disk, "true");
    let said = world.run("a", &["backup", "docs"]).code(1);
    said.complains("nothing can be written to").complains("`state-dir`");
    assert!(world.path("a/thawed").exists());
    fs::write(disk.path().join("writable"), "").unwrap();
    assert!(world.unfinished("a").is_empty());
    assert!(world.points("a").is_empty());
}

#[test]
fn a_guardian_thaws_what_holds_the_state_directory() {
    let Some(disk) = Mounted::new(Kind::Ext4, 32) else { return };
    let _thawed = Thawed(disk.path().to_owned());
    let world = frozen_state(&disk, "sleep 86400");
    let mut command = world.command("a", &["backup", "docs"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("it is frozen", || world.path("a/frozen").exists());
    kill(world.worker("a"));
    wait_for("it is thawed", || world.path("a/thawed").exists());
    assert_eq!(child.wait().unwrap().code(), Some(137));
    wait_for("it is cleaned up", || world.unfinished("a").is_empty());
}

/// A directory that nobody can write to any more.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn mount(at: &Path) -> Option<ReadOnly> {
        let mount = |words: &[&str]| {
            let mut command = Command::new("mount");
            command.args(words).arg(at);
            command.output().is_ok_and(|output| output.status.success())
        };
        let mut bind = Command::new("mount");
        bind.arg("--bind").args([at, at]);
        if !bind.output().is_ok_and(|output| output.status.success()) {
            not_shown("nothing can be mounted here");
            return None;
        }
        let mounted = ReadOnly(at.to_owned());
        assert!(mount(&["-o", "remount,bind,ro"]));
        Some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[test]
fn a_state_directory_that_cannot_be_written_keeps_no_service_down() {
    let world = world("");
    let (mut child, worker) =
        world.halted(world.command("a", &["backup", "docs"]), "a", "quiesce:done");
    let Some(only_read) = ReadOnly::mount(&world.path("a/state")) else { return kill(worker) };
    kill(worker);
    child.wait().unwrap();
    wait_for("it serves", || world.serves("a"));
    drop(only_read);
    world.run("a", &["--wait", "60s", "recover", "docs"]).code(0);
    assert!(world.unfinished("a").is_empty());
    world.run("a", &["backup", "docs"]).code(0);
    assert!(world.serves("a"));
}

#[test]
fn a_journal_that_cannot_be_read_keeps_no_service_down() {
    let world = world("");
    let (mut child, worker) =
        world.halted(world.command("a", &["backup", "docs"]), "a", "quiesce:done");
    let dir = world.unfinished("a").pop().unwrap();
    let (journal, kept) = (dir.join("journal"), dir.join("kept"));
    fs::rename(&journal, &kept).unwrap();
    fs::create_dir(&journal).unwrap();
    kill(worker);
    child.wait().unwrap();
    wait_for("it serves", || world.serves("a"));
    fs::remove_dir(&journal).unwrap();
    fs::rename(&kept, &journal).unwrap();
    wait_for("the guardian cleans up", || world.unfinished("a").is_empty());
    assert!(world.serves("a"));
}

/// What a restore had stopped, and died; and what does not start with what it has put in place.
#[test]
fn a_service_that_a_restore_leaves_down_is_told() {
    let world = world(ALERTS);
    world.run("a", &["backup", "docs"]).code(0);
    let words = ["restore", "docs", "--replace"];
    let (mut child, worker) = world.halted(world.command("a", &words), "a", "stop:done");
    let broken = world.path("a/cannot-start");
    fs::write(&broken, "").unwrap();
    kill(worker);
    child.wait().unwrap();
    told(&world, "service-down");
    fs::remove_file(&broken).unwrap();
    wait_for("it serves", || world.serves("a"));
    told(&world, "service-down-over");
    wait_for("the guardian has ended", || world.unfinished("a").is_empty());

    fs::remove_file(world.path("a/alerts")).unwrap();
    let (child, worker) = world.halted(world.command("a", &words), "a", "place:done");
    fs::write(&broken, "").unwrap();
    signal(worker, "-CONT");
    ended(child, 1);
    told(&world, "service-down");
    assert!(alerts(&world).contains("does not start with its new content"));
    assert!(world.unfinished("a").is_empty());
    fs::remove_file(&broken).unwrap();
    assert_eq!(world.service("a", "start"), 0);
    told(&world, "service-down-over");
}

/// The vault does not answer when a service is to be started again, and so it is. Meanwhile, unheard, another
/// host takes over: once that is heard, only one serves.
#[test]
fn a_service_that_was_started_unheard_is_stopped_if_another_has_taken_over() {
    for dies in [false, true] {
        let world = ready(&format!("quiesce = \"stop\"\n{ALERTS}"));
        let vault = VaultHost::start(&world.path("."), &world.path("vault"), &["--no-auth"]);
        world.reach_vault_by("a", &vault);
        let command = world.command("a", &["backup", "docs"]);
        let (mut child, worker) = world.halted(command, "a", "read:done");
        vault.signal("STOP");
        if dies {
            kill(worker);
        } else {
            signal(worker, "-CONT");
        }
        wait_for("it serves, unheard", || world.serves("a"));
        world.run("b", FORCED).code(0);
        assert!(world.serves("a") && world.serves("b"));
        vault.signal("CONT");
        wait_for("only one serves", || !world.serves("a"));
        assert!(world.serves("b"));
        told(&world, "service-down");
        assert!(alerts(&world).contains("is stopped again"), "{}", alerts(&world));
        child.wait().unwrap();
        wait_for("it is cleaned up", || world.unfinished("a").is_empty());
        assert!(!world.serves("a"));
    }
}
