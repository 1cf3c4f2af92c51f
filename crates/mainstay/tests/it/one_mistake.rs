//! A mistake in one section of the configuration: whose section it is hears of it, and the others are
//! protected as before.

use crate::quiesce::{ALERTS, world};
use crate::rig::Rig;
use crate::world::{World, kill, wait_for};
use serde_json::Value;
use std::fs;

/// A section with a key that does not exist.
const BROKEN: &str =
    "\n[service.shop]\nengine = \"files\"\npath = \"/srv/shop\"\nkepp = { last = 3 }\n";

/// What is said of it.
const TYPO: &str = "service.shop.kepp: unknown key; did you mean `keep`?";

fn append(file: &std::path::Path, text: &str) {
    let before = fs::read_to_string(file).expect("a configuration");
    fs::write(file, format!("{before}{text}")).expect("a configuration");
}

/// A service with a point, and then a mistake in the section of another.
fn rig() -> (Rig, String) {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    let path = rig.path("docs").display().to_string();
    let alerts =
        format!("[alerts]\ncommand = \"(cat; echo) >> {}\"\n", rig.path("alerts").display());
    let sound = format!(
        "{alerts}[service.docs]\nengine = \"files\"\npath = \"{path}\"\nschedule = \"0 0 1 1 *\"\n"
    );
    rig.configure(&sound);
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    rig.configure(&format!("{sound}{BROKEN}"));
    (rig, sound)
}

#[test]
fn a_command_that_names_another_service_works() {
    let (rig, _) = rig();
    for words in [
        &["backup", "docs"][..],
        &["may-start", "docs"],
        &["status", "docs"],
        &["snapshots", "docs"],
        &["check", "docs"],
        &["ls", "docs"],
        &["drill", "docs"],
        &["recover", "docs"],
        &["restore", "docs", "--target", "/tmp/x"],
        &["doctor", "docs"],
    ] {
        let target = rig.path("restored").display().to_string();
        let words: Vec<&str> =
            words.iter().map(|w| if *w == "/tmp/x" { target.as_str() } else { *w }).collect();
        let said = rig.run(&words).code(0);
        let told = if words[0] == "doctor" { &said.out } else { &said.err };
        assert_eq!(told.matches(TYPO).count(), 1, "{words:?}: {said:#?}");
    }
    let json = rig.run(&["--json", "status", "docs"]).code(0).json();
    assert!(json["warnings"][0].as_str().unwrap().contains(TYPO), "{json}");
    // Whose section it is hears what is wrong with it.
    for words in [&["backup", "shop"], &["status", "shop"], &["may-start", "shop"]] {
        rig.run(words).code(1).complains("[service.shop] in ").complains(TYPO);
    }
    let said = rig.run(&["status", "docs", "shop"]).code(1).says("docs");
    assert_eq!(said.err.matches(TYPO).count(), 1, "{said:#?}");
    // The name is taken, and what the section says of its password nobody knows.
    rig.run(&["restore", "docs", "--as", "shop", "--target", "/x"]).code(1).complains("in use");
    rig.run(&["key", "passwd", "docs", "--generate", "--yes"]).code(1).complains("cannot be said");
    // What makes things by the file needs all of it, and so does whoever asks for mistakes.
    for words in [&["init"][..], &["config", "check"], &["config", "show"]] {
        rig.run(words).code(1).complains(TYPO);
    }
}

#[test]
fn a_command_for_all_does_the_others_and_fails() {
    let (rig, _) = rig();
    let points = || {
        let json = rig.run(&["--json", "snapshots", "docs"]).code(0).json();
        json["services"][0]["snapshots"].as_array().unwrap().len()
    };
    rig.run(&["backup", "--all"]).code(1).complains(TYPO).complains("shop");
    assert_eq!(points(), 2);
    rig.run(&["status"]).code(1).complains(TYPO).says("docs");
    rig.run(&["check"]).code(1).complains(TYPO);
    rig.run(&["recover", "--all"]).code(1).complains(TYPO).says("docs: nothing was left");
    let json = rig.run(&["--json", "status"]).code(1).json();
    let services = json["services"].as_array().unwrap();
    assert_eq!(services[0]["service"], "docs");
    assert!(services[1]["error"]["message"].as_str().unwrap().contains(TYPO), "{json}");
    let doctor = rig.run(&["--json", "doctor"]).code(1).json();
    let links = doctor["links"].as_array().unwrap();
    let is = |link: &&Value, name: &str| link["link"] == name && link["verdict"] == "fail";
    assert_eq!(links.iter().filter(|link| is(link, "config")).count(), 1, "{doctor}");
    assert!(links.iter().any(|link| link["service"] == "docs"), "{doctor}");
}

#[test]
fn a_section_of_no_known_kind_is_told_too() {
    let (rig, sound) = rig();
    for (section, what) in [
        ("[sevice.shop]\nengine = \"files\"\n", "did you mean `service`?"),
        ("[copy.far]\nvault = { url = \"/srv/far\" }\nrppo = \"1h\"\n", "did you mean `rpo`?"),
        ("[service.\"my shop\"]\nengine = \"files\"\n", "is not valid"),
    ] {
        rig.configure(&format!("{sound}{section}"));
        let said = rig.run(&["backup", "docs"]).code(0);
        assert_eq!(said.err.matches(what).count(), 1, "{said:#?}");
        let said = rig.run(&["backup", "--all"]).code(1).complains("Error: ");
        assert_eq!(said.err.matches(what).count(), 1, "{said:#?}");
        rig.run(&["--json", "status"]).code(1);
        rig.run(&["run-due"]).code(1).complains(what);
    }
    // What all share concerns all.
    rig.configure(&sound.replace("[alerts]", "passwort-file = \"x\"\n[alerts]"));
    rig.run(&["backup", "docs"]).code(1).complains("passwort-file: unknown key");
}

#[test]
fn run_due_runs_the_others_and_somebody_is_told() {
    let (rig, sound) = rig();
    let due = sound.replace("0 0 1 1 *", "* * * * *");
    rig.configure(&format!("{due}{BROKEN}"));
    // A minute after the point that was made by hand, or at once: each run makes one at most.
    let alerts = || fs::read_to_string(rig.path("alerts")).unwrap_or_default();
    rig.run(&["run-due", "--dry-run"]).code(1).says("docs: ").complains(TYPO);
    assert_eq!(alerts(), "");
    let said = rig.run(&["run-due"]).code(1).complains(TYPO);
    assert!(!said.err.contains("docs: "), "{said:#?}");
    let json = rig.run(&["--json", "run-due"]).code(1).json();
    let services = json["services"].as_array().unwrap();
    assert!(services.iter().any(|one| one["service"] == "docs" && one["error"].is_null()));
    assert!(services.iter().any(|one| one["service"] == "shop" && !one["error"].is_null()));
    let told: Vec<Value> =
        alerts().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["event"], "configuration-broken");
    assert!(told[0]["message"].as_str().unwrap().contains(TYPO), "{told:?}");
    rig.configure(&due);
    rig.run(&["run-due"]).code(0);
    rig.run(&["run-due"]).code(0);
    assert_eq!(alerts().lines().count(), 2);
    assert!(alerts().contains("configuration-broken-over"), "{}", alerts());
    // A mistake in the very section that says who is told: what is right of it is gone by.
    rig.configure(&due.replace("[alerts]\n", "[alerts]\ncomand-timeout = \"3s\"\n"));
    rig.run(&["run-due"]).code(1).complains("alerts.comand-timeout: unknown key");
    assert_eq!(alerts().lines().count(), 3);
}

/// Nothing is done by such a file, on the whole host: whoever it says is told is told.
#[test]
fn somebody_is_told_of_a_mistake_in_what_all_share() {
    let (rig, sound) = rig();
    let alerts = || fs::read_to_string(rig.path("alerts")).unwrap_or_default();
    rig.configure(&sound.replace("[alerts]", "passwort-file = \"x\"\n[alerts]"));
    for _ in 0..2 {
        rig.run(&["run-due"]).code(1).complains("passwort-file: unknown key");
    }
    let told: Vec<Value> =
        alerts().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["event"], "configuration-broken");
    let message = told[0]["message"].as_str().unwrap();
    assert!(message.contains("passwort-file") && message.contains("on this host"), "{message}");
    rig.run(&["run-due", "--dry-run"]).code(1);
    rig.configure(&sound);
    for _ in 0..2 {
        rig.run(&["run-due"]).code(0);
    }
    assert_eq!(alerts().lines().count(), 2, "{}", alerts());
    assert!(alerts().contains("configuration-broken-over"), "{}", alerts());
}

#[test]
fn a_service_that_is_named_twice_is_looked_at_once() {
    let (rig, sound) = rig();
    rig.configure(&sound);
    let once = rig.run(&["doctor", "docs"]).code(0).out;
    assert_eq!(rig.run(&["doctor", "docs", "docs"]).code(0).out, once);
}

fn stops_for_a_backup() -> World {
    let world = world(ALERTS);
    append(&world.path("a/mainstay.toml"), BROKEN);
    world
}

#[test]
fn what_was_stopped_comes_back_beside_a_mistake() {
    let world = stops_for_a_backup();
    // By its guardian.
    let stop = world.command("a", &["backup", "docs"]);
    let (mut command, worker) = world.halted(stop, "a", "quiesce:done");
    assert!(!world.serves("a"));
    kill(worker);
    command.wait().unwrap();
    wait_for("the guardian has cleaned up", || world.unfinished("a").is_empty());
    assert!(world.serves("a"));
    // By `recover`, if that died too, as with the host.
    let stop = world.command("a", &["backup", "docs"]);
    let (mut command, worker) = world.halted(stop, "a", "quiesce:done");
    kill(world.guardian("a"));
    kill(worker);
    command.wait().unwrap();
    assert!(!world.serves("a"));
    world.run("a", &["may-start", "docs"]).code(0).complains(TYPO);
    world.run("a", &["recover", "--all", "--booting"]).code(1).complains(TYPO);
    assert!(world.serves("a"));
}
