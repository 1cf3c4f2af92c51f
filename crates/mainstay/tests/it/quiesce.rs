//! A service that is stopped for a backup comes back: whatever dies, and whenever.

use crate::rig::run;
use crate::vault_rig::VaultHost;
use crate::world::{CONTROLLED, World, fill, journal, kill, signal, state, wait_for};
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Hooks that freeze a service, and thaw it again if it was frozen.
const FREEZING: &str = "[service.docs.hooks]\nfreeze = \"touch @HOST@/frozen\"\n\
     thaw = \"rm @HOST@/frozen\"\n";

/// Alerts are written down.
pub(crate) const ALERTS: &str = "[alerts]\ncommand = \"cat >> @HOST@/alerts\"\n";

pub(crate) fn world(lines: &str) -> World {
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

/// An engine that starts and stops the service itself. Its first `stop` takes a while.
const STOPPING: &str = r#"cat >/dev/null
case $1 in
describe)
    echo '{"protocol": 1, "start-stop": true, "roots":
        [{"in-snapshot": "/data", "on-host": "@HOST@/data", "kind": "tree"}]}';;
inspect) echo '{"running": "unknown", "has-data": true, "summary": "a directory"}';;
running)
    @HERE@/service status @HOST@ && echo '{"running": "yes"}' || echo '{"running": "no"}';;
start | stop)
    if [ "$1" = stop ] && mv @HOST@/slow @HOST@/stopping 2>/dev/null; then sleep 1; fi
    @HERE@/service "$1" @HOST@ && echo '{}';;
*) exit 1;;
esac
"#;

#[test]
fn nor_does_one_of_an_engine_of_ones_own() {
    let lines = format!("{CONTROLLED}quiesce = \"stop\"\n");
    let world = World::new("stopping", &lines);
    let (here, a) = (world.path("").display().to_string(), world.path("a").display().to_string());
    let text = STOPPING.replace("@HERE@/", &here).replace("@HOST@", &a);
    world.script("mainstay-engine-stopping", &text);
    let command = |words: &[&str]| {
        let mut command = world.command("a", words);
        let path = std::env::var_os("PATH").unwrap();
        let path = std::iter::once(world.path("")).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(path).unwrap());
        command
    };
    run(&mut command(&["init"])).code(0);
    fill(&world.path("a/data"), 1);
    assert_eq!(world.service("a", "start"), 0);
    fs::write(world.path("a/slow"), "").unwrap();
    let mut backup = command(&["backup", "docs"]).spawn().unwrap();
    wait_for("the stop has begun", || world.path("a/stopping").exists());
    kill(world.worker("a"));
    assert_eq!(backup.wait().unwrap().code(), Some(137));
    wait_for("the guardian has cleaned up", || world.unfinished("a").is_empty());
    // For as long as the stop could go on, the service stays.
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        assert!(world.serves("a"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What would bring the service back cannot be begun: then it is not stopped.
#[test]
fn without_setsid_nothing_is_stopped() {
    let world = world("");
    let programs = world.path("programs");
    std::fs::create_dir(&programs).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for dir in std::env::split_paths(&path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            // The first one of a name counts.
            if entry.file_name() != "setsid" {
                let _ = std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name()));
            }
        }
    }
    let pid = fs::read(world.path("a/pid")).unwrap();
    let mut command = world.command("a", &["backup", "docs"]);
    let said = run(command.env("PATH", &programs)).code(1);
    said.complains("there is no program `setsid`").complains("nothing was stopped");
    assert!(world.serves("a"));
    assert_eq!(fs::read(world.path("a/pid")).unwrap(), pid, "it was stopped for nothing");
    assert!(world.unfinished("a").is_empty());
    world.run("a", &["backup", "docs"]).code(0);
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

/// What a command said that has to fail.
#[track_caller]
pub(crate) fn failed(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

pub(crate) fn alerts(world: &World) -> String {
    fs::read_to_string(world.path("a/alerts")).unwrap_or_default()
}

/// As at the end of a session or of a host: everybody is asked to end, and then who is left is killed.
#[test]
fn a_guardian_that_is_asked_to_end_stays() {
    let world = world("");
    let command = world.command("a", &["backup", "docs"]);
    let (mut child, worker) = world.halted(command, "a", "quiesce:done");
    assert!(!world.serves("a"));
    let guardian = world.guardian("a");
    for by in ["-TERM", "-INT", "-HUP"] {
        signal(guardian, by);
    }
    kill(worker);
    child.wait().unwrap();
    wait_for("it serves", || world.serves("a"));
    wait_for("it is cleaned up", || world.unfinished("a").is_empty());
    // What it started heeds it as ever.
    let pid: u32 = fs::read_to_string(world.path("a/pid")).unwrap().trim().parse().unwrap();
    signal(pid, "-TERM");
    wait_for("the service ends", || state(pid).is_none_or(|state| state == 'Z'));
}

/// The vault takes connections, and never answers.
#[test]
fn a_vault_that_hangs_does_not_keep_a_service_down() {
    let world = world("");
    let vault = VaultHost::start(&world.path("."), &world.path("vault"), &["--no-auth"]);
    world.reach_vault_by("a", &vault);
    let command = world.command("a", &["backup", "docs"]);
    let (child, worker) = world.halted(command, "a", "read:done");
    assert!(!world.serves("a"));
    vault.signal("STOP");
    signal(worker, "-CONT");
    wait_for("it serves", || world.serves("a"));
    assert!(state(worker).is_some(), "the backup waits for the vault");
    vault.signal("CONT");
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(world.points("a").len(), 1);

    // The same for whoever brings it back after the worker's death.
    let command = world.command("a", &["backup", "docs"]);
    let (mut child, worker) = world.halted(command, "a", "quiesce:done");
    assert!(!world.serves("a"));
    vault.signal("STOP");
    kill(worker);
    child.wait().unwrap();
    wait_for("it serves", || world.serves("a"));
    vault.signal("CONT");
    wait_for("it is cleaned up", || world.unfinished("a").is_empty());
}

#[test]
fn the_vault_is_asked_right_before_a_service_is_stopped() {
    let hook = "while [ -d @HOST@ ] && [ ! -e @HOST@/go ]; do sleep 0.02; done";
    let lines = format!("[service.docs.hooks]\nbefore-backup = \"{hook}\"\n");
    let world = world(&lines);
    let pid = fs::read_to_string(world.path("a/pid")).unwrap();
    let child = world.command("a", &["backup", "docs"]).spawn().unwrap();
    world.worker("a");
    fs::rename(world.path("vault"), world.path("gone")).unwrap();
    fs::write(world.path("a/go"), "").unwrap();
    assert!(!child.wait_with_output().unwrap().status.success());
    assert!(!has_begun(&world, "quiesce"));
    assert_eq!(fs::read_to_string(world.path("a/pid")).unwrap(), pid);
}

#[test]
fn what_is_frozen_is_not_called_stopped() {
    let world = World::new("files", &format!("quiesce = \"freeze\"\n{FREEZING}"));
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    let said = world.run("a", &["-v", "backup", "docs"]).code(0).says("frozen for");
    let said = said.complains("freezing the service").complains("the service is thawed");
    let log = world.run("a", &["logs", "docs"]).code(0).says("freezing the service").out;
    for text in [&said.out, &said.err, &log] {
        assert!(!text.contains("stop"), "{text}");
    }
}

#[test]
fn a_capture_that_hangs_ends_the_freeze_and_becomes_no_point() {
    let lines = format!("quiesce = \"freeze\"\nquiesce-limit = \"5s\"\n{FREEZING}");
    let world = World::new("files", &lines);
    world.run("a", &["init"]).code(0);
    // More than what may wait for the vault.
    fs::create_dir(world.path("a/data")).unwrap();
    let mut random = 1_u64;
    for number in 0..28 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()
        })
        .take(1 << 20)
        .flatten()
        .collect();
        fs::write(world.path(format!("a/data/{number}")), bytes).unwrap();
    }
    let vault = VaultHost::start(&world.path("."), &world.path("vault"), &["--no-auth"]);
    world.reach_vault_by("a", &vault);
    let command = world.command("a", &["backup", "docs"]);
    let (child, worker) = world.halted(command, "a", "quiesce:done");
    assert!(world.path("a/frozen").exists());
    vault.signal("STOP");
    signal(worker, "-CONT");
    wait_for("it is thawed", || !world.path("a/frozen").exists());
    assert_eq!(world.unfinished("a").len(), 1, "the backup waits for the vault");
    vault.signal("CONT");
    let said = failed(child);
    assert!(said.contains("was frozen for longer than 5 s, and was thawed"), "{said}");
    assert!(said.contains("quiesce-limit"), "{said}");
    assert!(world.points("a").is_empty());
    assert!(world.unfinished("a").is_empty());
}

/// What a stop only asks for is done by somebody whom no cancel reaches.
#[test]
fn a_stop_that_takes_effect_after_it_was_given_up_does_not_win() {
    let world = world("");
    for words in [&["backup", "docs"][..], &["restore", "docs", "--replace"]] {
        let before = fs::read_to_string(world.path("a/pid")).unwrap();
        fs::write(world.path("a/lazy-stop"), "").unwrap();
        let mut command = world.command("a", words);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_for("it was asked to stop", || !world.path("a/lazy-stop").exists());
        world.run("a", &["cancel", "docs"]).code(0);
        let said = crate::refreshing::ended(child, 130).err;
        assert!(said.contains("took effect after all"), "{said}");
        assert!(world.serves("a"), "{said}");
        assert_ne!(fs::read_to_string(world.path("a/pid")).unwrap(), before);
        world.run("a", &["backup", "docs"]).code(0);
        assert!(world.serves("a"));
    }
}

/// The worker does nothing any more, not even see that its time is over.
#[test]
fn what_is_read_after_the_service_came_back_becomes_no_point() {
    let world = world("quiesce-limit = \"5s\"\n");
    for at in ["quiesce:done", "read:done"] {
        let command = world.command("a", &["backup", "docs"]);
        let (child, worker) = world.halted(command, "a", at);
        wait_for("it serves", || world.serves("a"));
        let pid = fs::read_to_string(world.path("a/pid")).unwrap();
        signal(worker, "-CONT");
        let said = failed(child);
        assert!(said.contains("was stopped for longer than 5 s, and was started"), "{said}");
        assert_eq!(fs::read_to_string(world.path("a/pid")).unwrap(), pid, "started once");
        assert!(world.points("a").is_empty(), "{at}");
        assert!(world.unfinished("a").is_empty(), "{at}");
    }
    // One that comes back in time is as before.
    world.run("a", &["backup", "docs"]).code(0);
    // A stop that takes longer is given up, and the service runs on.
    fs::write(world.path("a/slow-stop"), "86400").unwrap();
    let said = world.run("a", &["backup", "docs"]).code(1);
    assert!(said.err.contains("was stopped for longer than 5 s"), "{said:#?}");
    assert!(world.serves("a"));
}

/// A hook that hangs, if a file says so. It says who it is.
fn hanging(name: &str, else_does: &str) -> String {
    format!(
        "{name} = \"if [ -e @HOST@/{name}-hangs ]; then echo $$ >> @HOST@/hung; sleep 86400; fi; \
         {else_does}\"\n"
    )
}

/// Nothing is left of what hung.
#[track_caller]
fn all_ended(world: &World) {
    let pids = fs::read_to_string(world.path("a/hung")).unwrap();
    for group in pids.lines() {
        wait_for("all of it has ended", || {
            let mut alive = std::process::Command::new("pgrep");
            alive.args(["--runstates", "D,R,S,T", "--pgroup", group]);
            alive.output().unwrap().status.code() == Some(1)
        });
    }
}

#[test]
fn a_hook_that_hangs_is_ended() {
    let hooks = [
        hanging("before-backup", "true"),
        hanging("freeze", "touch @HOST@/frozen"),
        hanging("thaw", "rm -f @HOST@/frozen"),
        hanging("after-backup", "true"),
    ];
    let hooks = hooks.concat();
    let lines = format!(
        "quiesce = \"freeze\"\nhook-timeout = \"1s\"\n[service.docs.hooks]\n{hooks}{ALERTS}"
    );
    let world = World::new("files", &lines);
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    for (name, points) in [("before-backup", 0), ("freeze", 0), ("after-backup", 1)] {
        let hangs = world.path(format!("a/{name}-hangs"));
        fs::write(&hangs, "").unwrap();
        let said = world.run("a", &["backup", "docs"]).code(1);
        let told = format!("the hook `{name}` was ended after 1 s");
        assert!(said.err.contains(&told) && said.err.contains("hook-timeout"), "{said:#?}");
        assert_eq!(world.points("a").len(), points, "{name}");
        assert!(!world.path("a/frozen").exists(), "{name}");
        assert!(world.unfinished("a").is_empty(), "{name}");
        fs::remove_file(hangs).unwrap();
    }
    all_ended(&world);

    // What was frozen is thawed once that works; somebody is told meanwhile, and when it is over.
    let hangs = world.path("a/thaw-hangs");
    fs::write(&hangs, "").unwrap();
    let said = world.run("a", &["backup", "docs"]).code(1);
    assert!(said.err.contains("the hook `thaw` was ended after 1 s"), "{said:#?}");
    assert_eq!(world.points("a").len(), 2, "the backup is kept");
    assert!(world.path("a/frozen").exists());
    wait_for("somebody is told", || alerts(&world).contains("\"service-down\""));
    fs::remove_file(&hangs).unwrap();
    wait_for("the guardian thaws", || world.unfinished("a").is_empty());
    assert!(!world.path("a/frozen").exists());
    wait_for("somebody is told", || alerts(&world).contains("\"service-down-over\""));
    all_ended(&world);
}

/// The host is lost while a backup holds its service still, and all that is on it.
#[track_caller]
fn lost(world: &World, command: std::process::Command) {
    let (mut child, worker) = world.halted(command, "a", "quiesce:done");
    kill(world.guardian("a"));
    kill(worker);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

/// A stand-in for systemd, with one unit that is the world's service.
fn systemd(world: &World) -> String {
    let (here, host) = (world.path("service"), world.path("a"));
    let service = |verb: &str| format!("{} {verb} {}", here.display(), host.display());
    let (start, stop, status) = (service("start"), service("stop"), service("status"));
    fs::create_dir(world.path("bin")).unwrap();
    let place = host.display();
    crate::rig::script(
        &world.path("bin/systemctl"),
        &format!(
            "echo \"$*\" >> {place}/asked\n\
             case \"$*\" in\n\
             show*) echo LoadState=loaded\n\
                 if {status}; then echo ActiveState=active; else echo ActiveState=inactive; fi;;\n\
             'is-enabled -- docs.service') cat {place}/enabled; grep -q ^enabled {place}/enabled;;\n\
             start*) {start};;\n\
             stop*) {stop};;\n\
             *) exit 1;;\n\
             esac\n"
        ),
    );
    format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap())
}

/// After a reboot, or long after it: whatever has a unit is told to start, and not waited for.
#[test]
fn at_the_start_of_the_host_a_service_is_started_that_would_not_start_by_itself() {
    let world = World::new("files", "unit = \"docs.service\"\nquiesce = \"stop\"\n");
    let path = systemd(&world);
    let command = |words: &[&str]| {
        let mut command = world.command("a", words);
        command.env("PATH", &path);
        command
    };
    let run = |words: &[&str]| crate::rig::run(&mut command(words));
    run(&["init"]).code(0);
    fill(&world.path("a/data"), 1);
    // What a generator enables may come with another unit, and that one be disabled.
    let cases = [
        ("enabled", "starts with its host"),
        ("disabled", "told to start"),
        ("enabled-runtime", "told to start"),
    ];
    for (enabled, says) in cases {
        fs::write(world.path("a/enabled"), format!("{enabled}\n")).unwrap();
        assert_eq!(world.service("a", "start"), 0);
        lost(&world, command(&["backup", "docs"]));
        assert!(!world.serves("a"));
        let _ = fs::remove_file(world.path("a/asked"));
        run(&["recover", "--all", "--booting"]).code(0).says(says);
        assert!(world.serves("a"));
        // Whoever waits for a unit that is ordered after this waits for ever.
        let asked = fs::read_to_string(world.path("a/asked")).unwrap();
        assert!(!asked.contains("start -- "), "{asked}");
        assert!(world.unfinished("a").is_empty());
        run(&["recover", "docs"]).code(0).says("nothing was left");
    }
}

#[test]
fn at_the_start_of_the_host_a_service_without_a_unit_is_started() {
    let world = world("");
    lost(&world, world.command("a", &["backup", "docs"]));
    assert!(!world.serves("a"));
    world.run("a", &["recover", "--all", "--booting"]).code(0).says("the service was started");
    assert!(world.serves("a"));
    assert!(world.unfinished("a").is_empty());
    world.run("a", &["backup", "docs"]).code(0);
}

#[test]
fn at_the_start_of_the_host_what_was_frozen_is_thawed() {
    let world = World::new("files", &format!("quiesce = \"freeze\"\n{FREEZING}"));
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    lost(&world, world.command("a", &["backup", "docs"]));
    assert!(world.path("a/frozen").exists());
    // It may need what is not there yet: nobody waits for that, and it is not forgotten.
    fs::rename(world.path("a/frozen"), world.path("a/later")).unwrap();
    world.run("a", &["recover", "--all", "--booting"]).code(0).says("could not be brought back");
    assert_eq!(world.unfinished("a").len(), 1);
    fs::rename(world.path("a/later"), world.path("a/frozen")).unwrap();
    world.run("a", &["recover", "--all", "--booting"]).code(0).says("was brought back");
    assert!(!world.path("a/frozen").exists());
    assert!(world.unfinished("a").is_empty());
}
