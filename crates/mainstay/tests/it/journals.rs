//! Journals that cannot be read: what is known to be over bars nobody, and what is not a person settles.

use crate::world::{CONTROLLED, World, fill, journal, state, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn ready(lines: &str) -> World {
    let world = World::new("files", &format!("{CONTROLLED}{lines}"));
    let toml = world.path("a/mainstay.toml");
    let file = world.path("alerts").display().to_string();
    let alerts = format!("[alerts]\ncommand = \"(cat; echo) >> {file}\"\n\n[service.docs]");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, text.replace("[service.docs]", &alerts)).unwrap();
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world
}

/// Changes a line of a journal, counted from one.
fn change(dir: &Path, line: usize, with: impl Fn(&str) -> String) {
    let file = dir.join("journal");
    let text = fs::read_to_string(&file).unwrap();
    let lines = text.lines().enumerate();
    let lines = lines.map(|(at, text)| if at + 1 == line { with(text) } else { text.to_owned() });
    let text: Vec<String> = lines.collect();
    fs::write(&file, text.join("\n") + "\n").unwrap();
}

fn garble(dir: &Path, line: usize) {
    change(dir, line, |text| text.replace("\"event\"", "\"ev\u{fffd}nt\""));
}

fn of_another_format(dir: &Path) {
    change(dir, 1, |text| text.replace("\"format\":1", "\"format\":2"));
}

fn events(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.path("alerts")).unwrap_or_default();
    let alerts =
        text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    alerts.map(|alert| alert["event"].as_str().unwrap_or_default().to_owned()).collect()
}

fn name(dir: &Path) -> String {
    dir.file_name().unwrap().to_str().unwrap().to_owned()
}

fn kept(world: &World, id: &str) -> PathBuf {
    world.path("a/state/services/docs/damaged").join(id)
}

#[test]
fn one_that_has_ended_bars_nobody() {
    for damage in [(|dir: &Path| garble(dir, 3)) as fn(&Path), of_another_format] {
        let world = ready("");
        let dir = world.operations("a").pop().unwrap();
        damage(&dir);
        let id = name(&dir);
        // Those that look tell of it, and change nothing.
        world.run("a", &["status"]).code(0);
        let shown = world.run("a", &["--json", "logs", "docs", "--list"]).code(0).json();
        assert!(shown["operations"][0]["damaged"].is_string(), "{shown}");
        assert_eq!(shown["operations"][0]["outcome"], "done");
        assert!(dir.exists());
        let said = world.run("a", &["backup", "docs"]).code(0).complains("it had ended");
        assert!(said.err.contains(&kept(&world, &id).display().to_string()), "{said:#?}");
        assert!(kept(&world, &id).join("journal").exists() && !dir.exists());
        world.run("a", &["backup", "docs"]).code(0);
        assert_eq!(world.points("a").len(), 3);
        // Somebody is told, until it was looked at.
        world.run("a", &["run-due"]).code(0);
        assert_eq!(events(&world), ["journal-damaged"]);
        fs::remove_dir_all(kept(&world, &id)).unwrap();
        world.run("a", &["run-due"]).code(0);
        assert_eq!(events(&world), ["journal-damaged", "journal-damaged-over"]);
    }
}

#[test]
fn an_old_one_bars_nobody() {
    let world = ready("");
    let dir = world.operations("a").pop().unwrap();
    // Whatever it had begun was cleaned up before the next one began, of another second.
    let later = dir.with_file_name(format!("2999{}", &name(&dir)[4..]));
    assert!(Command::new("cp").arg("-a").arg(&dir).arg(&later).status().unwrap().success());
    let last = journal(&dir).len();
    garble(&dir, last);
    world.run("a", &["recover", "docs"]).code(0).says("another operation has run since");
    assert!(kept(&world, &name(&dir)).exists());
    world.run("a", &["backup", "docs"]).code(0);
}

#[test]
fn what_the_last_one_had_begun_a_person_settles() {
    for damage in [(|dir: &Path| garble(dir, 2)) as fn(&Path), of_another_format] {
        let world = ready("");
        let mut command = world.command("a", &["backup", "docs"]);
        let command = command.env("MAINSTAY_TEST_KILL_AT", "commit:begin").stderr(Stdio::null());
        assert_eq!(command.status().unwrap().code(), Some(137));
        let dir = world.unfinished("a").pop().unwrap();
        damage(&dir);
        let id = name(&dir);
        let way_out = format!("mainstay recover docs --set-aside {id}");
        let file = dir.join("journal").display().to_string();
        for words in [&["backup", "docs"][..], &["recover", "docs"], &["prune", "docs"]] {
            world.run("a", words).code(1).complains(&way_out).complains(&file);
        }
        // It is seen, and told, and does not keep anything else from being looked at.
        world.run("a", &["status"]).code(0).says("died, and was not cleaned up after yet");
        world.run("a", &["status", "docs"]).code(0).says(&file);
        world.run("a", &["logs", "docs", &id]).code(0);
        let said = world.run("a", &["run-due"]).code(1).complains(&id);
        assert_eq!(events(&world), ["clean-up-failed"], "{said:#?}");
        let text = fs::read_to_string(world.path("alerts")).unwrap();
        assert!(text.contains(&way_out), "{text}");
        // Only what cannot be read is given up.
        let ended = name(&world.operations("a")[0]);
        let words = ["recover", "docs", "--set-aside", &ended];
        world.run("a", &words).code(1).complains("can be read");
        world.run("a", &["recover", "docs", "--set-aside", "20200101T000000Z-backup-1"]).code(1);
        world.run("a", &["recover", "docs", "--set-aside", &id]).code(0).says("was put aside");
        assert!(kept(&world, &id).join("journal").exists());
        world.run("a", &["backup", "docs"]).code(0);
        world.run("a", &["run-due"]).code(0);
        assert_eq!(events(&world), ["clean-up-failed", "clean-up-failed-over", "journal-damaged"]);
    }
}

/// A clock that was set back makes no operation look as if others had come after it.
#[test]
fn the_last_one_is_the_last_though_an_earlier_clock_was_ahead() {
    let world = ready("");
    let earlier = world.operations("a").pop().unwrap();
    fs::rename(&earlier, earlier.with_file_name(format!("2999{}", &name(&earlier)[4..]))).unwrap();
    let mut command = world.command("a", &["backup", "docs"]);
    let command = command.env("MAINSTAY_TEST_KILL_AT", "commit:begin").stderr(Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(137));
    let dir = world.unfinished("a").pop().unwrap();
    garble(&dir, 2);
    let way_out = format!("mainstay recover docs --set-aside {}", name(&dir));
    world.run("a", &["backup", "docs"]).code(1).complains(&way_out);
    assert!(dir.exists());
    world.run("a", &["recover", "docs", "--set-aside", &name(&dir)]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
}

/// Lets backups wait until `go` is there.
fn hold(world: &World) {
    let here = world.path(".").display().to_string();
    let hook = format!("while [ -d {here} ] && [ ! -e {here}/go ]; do sleep 0.02; done");
    let toml = world.path("a/mainstay.toml");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, format!("{text}[service.docs.hooks]\nbefore-backup = \"{hook}\"\n")).unwrap();
}

/// It works: nothing is set aside under its hands, and nothing begun beside it.
#[test]
fn one_whose_worker_lives_bars_others_until_it_ends() {
    let world = ready("");
    hold(&world);
    let mut command = world.command("a", &["backup", "docs"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let worker = world.worker("a");
    let dir = world.unfinished("a").pop().unwrap();
    garble(&dir, 1);
    // The lock's file goes, too, so that only its own sign of life is left.
    fs::remove_file(world.path("a/state/services/docs/lock")).unwrap();
    for words in [
        &["backup", "docs"][..],
        &["recover", "docs"],
        &["recover", "docs", "--set-aside", &name(&dir)],
    ] {
        world.run("a", words).code(11).complains(&name(&dir));
    }
    assert!(dir.exists() && state(worker).is_some());
    fs::write(world.path("go"), "").unwrap();
    let _ = child.wait().unwrap();
    wait_for("it is over", || state(worker).is_none());
}

/// Of those that are over, so many are remembered.
#[test]
fn the_history_of_operations_has_a_limit() {
    let world = ready("");
    let dir = world.operations("a").pop().unwrap();
    // The only one of its kind that went well: a schedule goes by it.
    world.run("a", &["drill", "docs"]).code(0);
    let drill = world.operations("a").pop().unwrap();
    let oldest = drill.with_file_name("20190101T000000Z-drill-00000000");
    fs::rename(drill, &oldest).unwrap();
    for number in 0..230 {
        let copy = dir.with_file_name(format!("20200101T000000Z-backup-{number:08x}"));
        fs::create_dir(&copy).unwrap();
        fs::copy(dir.join("journal"), copy.join("journal")).unwrap();
    }
    world.run("a", &["backup", "docs"]).code(0);
    let left = world.operations("a");
    assert!(left.contains(&oldest), "the last drill that went well is gone");
    assert_eq!(left.len(), 202, "200 that had ended, the drill, and the one that ran");
    assert!(left.contains(&dir), "the oldest go first");
    assert!(!dir.with_file_name("20200101T000000Z-backup-00000000").exists());
}
