//! `run-due` for several services: none of them silences another, whatever hangs, and what died is
//! brought to its end.

use crate::rig::Rig;
use crate::world::{CONTROLLED, World, content, fill, state, wait_for};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Due once, and then not for long.
const YEARLY: &str = "schedule = \"0 0 1 1 *\"\n";

/// Waits as long as a file is there, and its directory.
fn hanging(rig: &Rig) -> String {
    let hold = rig.write("hold", "");
    format!("while [ -e {} ]; do sleep 0.02; done", hold.display())
}

/// Two services; `stuck` comes first.
fn two(rig: &Rig, alerts: &str, stuck: &str, other: &str) {
    for name in ["stuck", "well"] {
        rig.write(format!("{name}/letter.txt"), "dear reader\n");
    }
    let section = |name: &str, lines: &str| {
        let path = rig.path(name).display().to_string();
        format!("[service.{name}]\nengine = \"files\"\npath = \"{path}\"\n{YEARLY}{lines}")
    };
    rig.configure(&format!("{alerts}\n{}\n{}", section("well", other), section("stuck", stuck)));
}

/// What somebody was told of: service and event.
fn alerts(file: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let alerts = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    alerts.map(|alert| (text(&alert["service"]), text(&alert["event"]))).collect()
}

fn told(file: &Path, service: &str, event: &str) -> usize {
    alerts(file).into_iter().filter(|one| *one == (service.to_owned(), event.to_owned())).count()
}

fn points(rig: &Rig, service: &str) -> usize {
    let said = rig.run(&["--json", "snapshots", service]).code(0).json();
    said["services"][0]["snapshots"].as_array().expect("snapshots").len()
}

/// Ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_hook_that_hangs_keeps_no_other_service_from_its_turn() {
    let rig = Rig::new();
    let hooks =
        format!("rpo = \"1s\"\n[service.stuck.hooks]\nbefore-backup = \"{}\"\n", hanging(&rig));
    let file = rig.path("alerts");
    let command = format!("[alerts]\ncommand = \"(cat; echo) >> {}\"\n", file.display());
    two(&rig, &command, &hooks, "rpo = \"1s\"\n");
    rig.run(&["init"]).code(0);
    // One that is called by hand waits for its output, and so for the hook.
    let mut command = rig.command(&["run-due"]);
    let mut first = Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_for("the other is backed up", || points(&rig, "well") == 1);
    assert_eq!(first.0.try_wait().unwrap(), None, "it waits for the hook");
    // The next one is not barred by it, and waits for nothing that it has not begun. What is wrong is told,
    // of the stuck one, too.
    wait_for("both are too old", || {
        let said = rig.run(&["--json", "run-due"]);
        let services = said.json()["services"].as_array().unwrap().clone();
        let stuck = services.iter().find(|one| one["service"] == "stuck").unwrap();
        assert!(stuck["ran"] == "nothing" && stuck["running-since"].is_string(), "{stuck}");
        told(&file, "stuck", "rpo-exceeded") == 1 && told(&file, "well", "rpo-exceeded") == 1
    });
    assert_eq!(points(&rig, "stuck"), 0);
    // A cancel of who waits reaches the work, which cleans up.
    let pid = first.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(first.0.wait().unwrap().code(), Some(130));
    fs::remove_file(rig.path("hold")).unwrap();
    rig.run(&["backup", "stuck"]).code(0);
    rig.run(&["run-due"]).code(1);
}

/// The timer's unit takes 130 for success.
#[test]
fn a_cancel_of_one_service_hides_no_failure_of_another() {
    let hook = |service: &str, command: &str| {
        format!("[service.{service}.hooks]\nbefore-backup = \"{command}\"\n")
    };
    for (other, exit) in [("true", 130), ("false", 1)] {
        let rig = Rig::new();
        two(&rig, "", &hook("stuck", &hanging(&rig)), &hook("well", other));
        rig.run(&["init"]).code(0);
        let mut command = rig.command(&["run-due"]);
        let mut due = Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("one of them is asked to stop", || {
            rig.run(&["cancel", "stuck"]).out.contains("was asked to stop")
        });
        assert_eq!(due.0.wait().unwrap().code(), Some(exit), "{other}");
    }
}

#[test]
fn the_timer_has_its_next_turn_whatever_takes_long() {
    let rig = Rig::new();
    let hooks = format!("[service.stuck.hooks]\nbefore-backup = \"{}\"\n", hanging(&rig));
    two(&rig, "", &hooks, "");
    rig.run(&["init"]).code(0);
    let said = rig.run(&["--json", "run-due", "--attend", "1s"]).code(0).json();
    let goes_on = |said: &Value| {
        said["services"].as_array().unwrap().iter().any(|one| one["goes-on"] == true)
    };
    assert!(goes_on(&said), "{said}");
    rig.run(&["run-due"]).code(0);
    // What was left goes on by itself, to its end.
    fs::remove_file(rig.path("hold")).unwrap();
    wait_for("it comes to its end", || points(&rig, "stuck") == 1);
    wait_for("it has ended", || {
        rig.run(&["--json", "run-due"]).json()["services"][0]["running-since"].is_null()
    });
    assert_eq!((points(&rig, "stuck"), points(&rig, "well")), (1, 1));
}

#[test]
fn an_alert_command_that_hangs_is_ended_and_silences_nobody() {
    let rig = Rig::new();
    let (file, pid) = (rig.path("alerts"), rig.path("pid"));
    // What it leaves behind in its group ends with it.
    let command = format!(
        "[alerts]\ncommand-timeout = \"1s\"\ncommand = \"if [ $MAINSTAY_ALERT_SERVICE = stuck ]; then \
         sleep 3600 & echo $! > {0}; wait; else (cat; echo) >> {1}; fi\"\n",
        pid.display(),
        file.display()
    );
    two(&rig, &command, "rpo = \"1s\"\n", "rpo = \"1s\"\n");
    rig.run(&["init"]).code(0);
    let began = || fs::read_to_string(&pid).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
    wait_for("both are too old", || {
        let said = rig.run(&["run-due"]);
        let is_told = told(&file, "well", "rpo-exceeded") == 1;
        assert!(began().is_none() || said.err.contains("an alert could not be sent"), "{said:#?}");
        is_told && began().is_some()
    });
    assert!(state(began().unwrap()).is_none_or(|state| state == 'Z'), "its group was ended");
    assert_eq!((points(&rig, "stuck"), points(&rig, "well")), (1, 1));
}

/// A place that never answers: here, the command that fetches its password.
#[test]
fn a_vault_that_hangs_is_told_and_keeps_no_other_service_from_its_turn() {
    let rig = Rig::new();
    let file = rig.path("alerts");
    let command = format!("[alerts]\ncommand = \"(cat; echo) >> {}\"\n", file.display());
    let password = format!("{}; cat {}", hanging(&rig), rig.path("password").display());
    two(&rig, &command, &format!("password-command = \"{password}\"\n"), "");
    fs::remove_file(rig.path("hold")).unwrap();
    rig.write("password", "a password\n");
    rig.run(&["init", "--no-recovery-key"]).code(0);
    rig.write("hold", "");
    rig.run(&["run-due", "--attend", "1s"]);
    wait_for("the other is backed up", || points(&rig, "well") == 1);
    assert_eq!(alerts(&file), []);
    // As if that had been an hour ago.
    let past = SystemTime::now() - Duration::from_secs(3600);
    let look = rig.path("state/services/stuck/due/look");
    fs::File::options().write(true).open(look).unwrap().set_modified(past).unwrap();
    let said = rig.run(&["run-due", "--attend", "3s"]);
    assert!(told(&file, "stuck", "unreachable") == 1, "{said:#?}");
    assert_eq!(alerts(&file).len(), 1);
    fs::remove_file(rig.path("hold")).unwrap();
    wait_for("that is over", || {
        rig.run(&["run-due"]);
        told(&file, "stuck", "unreachable-over") == 1
    });
    // The turn may still be with the run that hung.
    wait_for("it is backed up", || {
        rig.run(&["run-due"]);
        points(&rig, "stuck") >= 1
    });
}

/// A world whose alerts go to a file, with a point that the standby holds.
fn ready(lines: &str) -> World {
    let world = World::new("files", &format!("{CONTROLLED}{lines}"));
    for host in ["a", "b"] {
        let toml = world.path(host).join("mainstay.toml");
        let file = world.path("alerts").display().to_string();
        let text = fs::read_to_string(&toml).unwrap();
        let alerts = format!("[alerts]\ncommand = \"(cat; echo) >> {file}\"\n\n[service.docs]");
        fs::write(&toml, text.replace("[service.docs]", &alerts)).unwrap();
        world.run(host, &["init"]).code(0);
    }
    fill(&world.path("a/data"), 1);
    assert_eq!(world.service("a", "start"), 0);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    world
}

fn die(mut command: Command, at: &str) {
    let status = command.env("MAINSTAY_TEST_KILL_AT", at).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(137), "{at}");
}

/// Nothing is due there, and nobody gives a command but the timer.
#[test]
fn a_takeover_that_died_past_the_point_of_no_return_is_brought_to_its_end() {
    let world = ready("[service.docs.hooks]\nfence = \"true\"\n");
    assert_eq!(world.service("a", "stop"), 0);
    die(world.command("b", &["takeover", "docs", "--yes"]), "raise:done");
    assert!(!world.serves("b"));
    world.run("b", &["--quiet", "run-due"]).complains("brought to its end");
    assert!(world.serves("b"));
    assert!(world.unfinished("b").is_empty());
    let file = world.path("alerts");
    assert_eq!(alerts(&file), [("docs".to_owned(), "operation-died".to_owned())]);
    // It is told once.
    let said = world.run("b", &["--json", "run-due"]).code(0).json();
    assert!(said["services"][0].get("cleaned-up").is_none(), "{said}");
    assert_eq!(alerts(&file).len(), 1);
    assert_eq!(world.status("b")["role"], "primary");
}

#[test]
fn a_refresh_that_died_past_its_commit_marker_is_brought_to_its_end() {
    let world = ready("");
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    die(world.command("b", &["refresh", "docs"]), "place:begin");
    let said = world.run("b", &["--json", "run-due"]).code(0).json();
    assert!(said["services"][0]["cleaned-up"].is_array(), "{said}");
    assert!(world.unfinished("b").is_empty());
    assert_eq!(content(&world.path("b/data")), content(&world.path("a/data")));
    assert_eq!(told(&world.path("alerts"), "docs", "operation-died"), 1);
}

/// Lets backups wait until `go` is there.
fn hold(world: &World) {
    let here = world.path(".").display().to_string();
    let hook = format!("while [ -d {here} ] && [ ! -e {here}/go ]; do sleep 0.02; done");
    let toml = world.path("a/mainstay.toml");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, format!("{text}[service.docs.hooks]\nbefore-backup = \"{hook}\"\n")).unwrap();
}

#[test]
fn what_lives_is_left_alone_and_told_if_it_gives_no_sign() {
    let world = ready("");
    hold(&world);
    let mut command = world.command("a", &["backup", "docs"]);
    let mut child = Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let worker = world.worker("a");
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &worker.to_string()]).status().unwrap();
        assert!(status.success());
    };
    let file = world.path("alerts");
    world.run("a", &["run-due"]).code(0);
    assert_eq!(alerts(&file), []);
    signal("-STOP");
    wait_for("it stands still", || state(worker) == Some('T'));
    let alive = world.unfinished("a").pop().unwrap().join("alive");
    let past = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&alive).unwrap().set_modified(past).unwrap();
    world.run("a", &["run-due"]).code(0);
    assert_eq!(told(&file, "docs", "worker-silent"), 1);
    assert_eq!(world.unfinished("a").len(), 1, "it is not cleaned up after the living");
    signal("-CONT");
    wait_for("it gives a sign of life", || {
        world.run("a", &["run-due"]).code(0);
        told(&file, "docs", "worker-silent-over") == 1
    });
    // Its lock is lost: that is told, and nothing begun beside it.
    fs::remove_file(world.path("a/state/services/docs/lock")).unwrap();
    world.run("a", &["run-due"]);
    assert_eq!(told(&file, "docs", "worker-contradicts"), 1);
    assert_eq!(world.unfinished("a").len(), 1);
    fs::write(world.path("go"), "").unwrap();
    assert!(child.0.wait().unwrap().success());
    world.run("a", &["run-due"]).code(0);
    assert_eq!(told(&file, "docs", "worker-contradicts-over"), 1);
}

/// A lock that names another kind of operation than the one that holds it.
#[test]
fn a_lock_that_says_another_thing_than_its_worker_is_told() {
    let world = ready("");
    hold(&world);
    let mut command = world.command("a", &["backup", "docs"]);
    let mut child = Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    world.worker("a");
    let lock = world.path("a/state/services/docs/lock");
    let text = fs::read_to_string(&lock).unwrap();
    fs::write(&lock, text.replace("\"kind\":\"backup\"", "\"kind\":\"restore\"")).unwrap();
    world.run("a", &["run-due"]).code(0);
    assert_eq!(told(&world.path("alerts"), "docs", "worker-contradicts"), 1);
    world.run("a", &["restore", "docs", "--replace"]).code(11);
    fs::write(world.path("go"), "").unwrap();
    assert!(child.0.wait().unwrap().success());
    world.run("a", &["backup", "docs"]).code(0);
}

/// The alert command, where several services tell something at once: each writes its line in one piece.
fn one_line_each(file: &Path) -> String {
    format!("command = '''printf '%s\\n' \"$(cat)\" >> {}'''\n", file.display())
}

/// Two services that are too old a second after whatever was backed up, and alerts that go to a file.
fn too_old(rig: &Rig) -> PathBuf {
    let file = rig.path("alerts");
    let command = format!("[alerts]\n{}", one_line_each(&file));
    two(rig, &command, "rpo = \"1s\"\n", "rpo = \"1s\"\n");
    rig.run(&["init"]).code(0);
    file
}

/// Runs until somebody was told that both are too old.
fn until_told(rig: &Rig, file: &Path) {
    wait_for("both are too old, and that is told", || {
        rig.run(&["run-due"]);
        ["stuck", "well"].iter().all(|name| told(file, name, "rpo-exceeded") > 0)
    });
}

#[test]
fn a_lock_that_cannot_be_had_silences_nobody() {
    let rig = Rig::new();
    let file = too_old(&rig);
    let locks = ["look", "clean-up"].map(|name| rig.path("state/services/stuck/due").join(name));
    locks.iter().for_each(|lock| fs::create_dir_all(lock).unwrap());
    until_told(&rig, &file);
    for (event, service, times) in [
        ("unreachable", "stuck", 1),
        ("clean-up-failed", "stuck", 1),
        ("unreachable", "well", 0),
        ("clean-up-failed", "well", 0),
    ] {
        assert_eq!(told(&file, service, event), times, "{event} of {service}");
    }
    assert_eq!(points(&rig, "stuck"), 1, "a backup has a lock of its own");
    locks.iter().for_each(|lock| fs::remove_dir(lock).unwrap());
    rig.run(&["run-due"]);
    assert_eq!(told(&file, "stuck", "unreachable-over"), 1);
    assert_eq!(told(&file, "stuck", "clean-up-failed-over"), 1);
}

#[test]
fn without_any_lock_it_is_told_and_nothing_is_begun() {
    let rig = Rig::new();
    let file = too_old(&rig);
    // As on a file system that has become read-only: no lock can be made.
    let dirs = ["state/due", "state/services/stuck/due", "state/services/well/due"];
    dirs.iter().for_each(|dir| drop(rig.write(dir, "no directory")));
    until_told(&rig, &file);
    for service in ["stuck", "well"] {
        assert_eq!(told(&file, service, "unreachable"), 1, "{service}");
        assert_eq!(told(&file, service, "clean-up-failed"), 1, "{service}");
        assert_eq!(points(&rig, service), 0, "nothing is begun");
    }
    dirs.iter().for_each(|dir| fs::remove_file(rig.path(dir)).unwrap());
    rig.run(&["run-due"]);
    for service in ["stuck", "well"] {
        assert_eq!(told(&file, service, "unreachable-over"), 1, "{service}");
        assert_eq!(points(&rig, service), 1, "{service}");
    }
}

#[test]
fn a_journal_that_cannot_be_read_silences_nobody() {
    let rig = Rig::new();
    let file = too_old(&rig);
    rig.run(&["backup", "stuck"]).code(0);
    let operations = fs::read_dir(rig.path("state/services/stuck/operations")).unwrap();
    let journal = operations.flatten().next().unwrap().path().join("journal");
    fs::rename(&journal, rig.path("journal")).unwrap();
    fs::create_dir(&journal).unwrap();
    until_told(&rig, &file);
    assert_eq!(told(&file, "stuck", "unreachable"), 1);
    assert_eq!(told(&file, "stuck", "clean-up-failed"), 1);
    assert_eq!(points(&rig, "stuck"), 1, "what was done nobody knows, so nothing is due");
    fs::remove_dir(&journal).unwrap();
    fs::rename(rig.path("journal"), &journal).unwrap();
    rig.run(&["run-due"]);
    assert_eq!(told(&file, "stuck", "unreachable-over"), 1);
    assert_eq!(told(&file, "stuck", "clean-up-failed-over"), 1);
}

/// Takes what is sent to it, and answers only once it may. Alerts that it has answered are in the file.
fn webhook(file: &Path) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answers = Arc::new(AtomicBool::new(false));
    let (file, may) = (file.to_owned(), answers.clone());
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming().flatten() {
            if !may.load(Ordering::SeqCst) {
                silent.push(stream);
                continue;
            }
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            let alert = loop {
                let read = (&stream).read(&mut buffer).unwrap();
                assert!(read > 0, "{}", String::from_utf8_lossy(&request));
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request);
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                if let Some(body) = body
                    && serde_json::from_str::<Value>(&body).is_ok()
                {
                    break body;
                }
            };
            let mut told = fs::File::options().create(true).append(true).open(&file).unwrap();
            writeln!(told, "{alert}").unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            (&stream).write_all(answer).unwrap();
        }
    });
    (url, answers)
}

#[test]
fn a_way_that_hangs_starves_no_other_and_gets_what_it_missed() {
    let rig = Rig::new();
    let (command, hook) = (rig.path("alerts"), rig.path("posted"));
    let (url, answers) = webhook(&hook);
    let to = format!("[alerts]\nwebhook = \"{url}\"\n{}", one_line_each(&command));
    two(&rig, &to, "", "");
    rig.run(&["init"]).code(0);
    rig.run(&["run-due"]).code(0);
    // Two things are wrong with one of them.
    fs::create_dir_all(rig.path("state/services/stuck/damaged/20261121T010442Z-backup-5f3a09c1"))
        .unwrap();
    fs::rename(rig.path("vault"), rig.path("moved")).unwrap();
    let of_stuck = |file: &Path| -> Vec<String> {
        let of_stuck = alerts(file).into_iter().filter(|(service, _)| service == "stuck");
        of_stuck.map(|(_, event)| event).collect()
    };
    let said = rig.run(&["run-due"]);
    assert_eq!(of_stuck(&command), ["journal-damaged", "unreachable"], "{said:#?}");
    assert_eq!(told(&command, "well", "unreachable"), 1);
    // Once it works it gets both, what it was not even tried with first, and nobody hears it twice.
    answers.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let said = rig.run(&["run-due"]);
        assert_eq!(of_stuck(&hook), ["unreachable", "journal-damaged"], "{said:#?}");
        assert_eq!(told(&hook, "well", "unreachable"), 1);
        assert_eq!(of_stuck(&command), ["journal-damaged", "unreachable"]);
    }
    fs::rename(rig.path("moved"), rig.path("vault")).unwrap();
    rig.run(&["run-due"]).code(0);
    for file in [&command, &hook] {
        assert_eq!(told(file, "stuck", "unreachable-over"), 1);
    }
}

/// What went wrong once is not found again by the next run: an alert of it that could not be sent waits.
#[test]
fn a_failed_run_is_told_once_somebody_can_be_told() {
    let rig = Rig::new();
    let (mute, file) = (rig.write("mute", ""), rig.path("alerts"));
    let command = format!(
        "[alerts]\ncommand = \"test ! -e {} && cat >> {} && echo >> {}\"\n",
        mute.display(),
        file.display(),
        file.display()
    );
    two(&rig, &command, "[service.stuck.hooks]\nbefore-backup = \"false\"\n", "");
    rig.run(&["init"]).code(0);
    rig.run(&["run-due"]).code(1).complains("an alert could not be sent");
    // Nothing is due now, and that it failed is known.
    rig.run(&["run-due"]).code(1).complains("an alert could not be sent");
    assert_eq!(told(&file, "stuck", "backup-failed"), 0);
    fs::remove_file(&mute).unwrap();
    for _ in 0..2 {
        rig.run(&["run-due"]).code(0);
        assert_eq!(told(&file, "stuck", "backup-failed"), 1);
    }
}
