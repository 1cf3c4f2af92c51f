//! Which point is restored, under which name, and what a list of points tells.

use crate::rig::Rig;
use crate::world::{CONTROLLED, World, content, fill};
use jiff::Timestamp;
use serde_json::Value;
use std::fs;

/// A host with `count` points of a letter that says which one it is of.
fn host(count: u32) -> Rig {
    let rig = Rig::new();
    let docs = rig.path("docs").display().to_string();
    rig.write("docs/letter", "0");
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
    rig.run(&["init"]).code(0);
    for number in 1..=count {
        rig.write("docs/letter", number.to_string());
        rig.run(&["backup", "docs"]).code(0);
    }
    rig
}

fn points(rig: &Rig) -> Vec<Value> {
    let list = rig.run(&["--json", "snapshots", "docs"]).code(0).json();
    list["services"][0]["snapshots"].as_array().unwrap().clone()
}

fn time(point: &Value) -> Timestamp {
    point["source-time"].as_str().unwrap().parse().unwrap()
}

/// Where there is no log, a time means the newest point that is not later.
#[test]
fn a_time_between_two_points_is_the_older_one() {
    let rig = host(3);
    let points = points(&rig);
    let target = rig.path("target");
    let restored = |at: &str| {
        let words = ["restore", "docs", "--at", at, "--target", target.to_str().unwrap()];
        rig.run(&words).code(0);
        let letter = fs::read_to_string(target.join("letter")).unwrap();
        fs::remove_dir_all(&target).unwrap();
        letter
    };
    let tick = jiff::SignedDuration::from_nanos(1);
    for (number, point) in points.iter().enumerate() {
        let at = time(point);
        assert_eq!(restored(&at.to_string()), (number + 1).to_string(), "its own time");
        if number > 0 {
            assert_eq!(restored(&(at - tick).to_string()), number.to_string(), "just before it");
        }
    }
    let later = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    assert_eq!(restored(&later.to_string()), "3");
    let before = time(&points[0]) - tick;
    let words = ["restore", "docs", "--at", &before.to_string(), "--target"];
    let said = crate::rig::run(rig.command(&words).arg(&target)).code(1);
    said.complains("no recovery point").complains("The oldest one is from");
    assert!(!target.exists());
    let words = ["restore", "docs", "--at", "tomorrow evening", "--target"];
    crate::rig::run(rig.command(&words).arg(&target)).code(1);
    // An incomplete or a named point is another matter: the two are not mixed.
    let name = points[0]["name"].as_str().unwrap();
    let both = ["restore", "docs", "--at", "1h ago", "--snapshot", name];
    assert_ne!(rig.run(&both).code, 0);
}

/// A second vault in what a service protects is its own mistake, and no reason to lose it.
#[test]
fn a_restore_neither_removes_a_vault_nor_puts_it_aside() {
    let rig = host(1);
    let file = rig.path("mainstay.toml");
    let sound = fs::read_to_string(&file).unwrap();
    let near = rig.path("docs/near");
    crate::rig::run(std::process::Command::new("cp").arg("-a").arg(rig.path("vault")).arg(&near))
        .code(0);
    let section = format!("[copy.near]\nvault = {{ url = \"{}\" }}\n", near.display());
    fs::write(&file, format!("{sound}\n{section}")).unwrap();
    for words in [&["--replace"][..], &["--delta"], &["--delta", "--dry-run"]] {
        let said = rig.run(&[&["restore", "docs"][..], words].concat()).code(1);
        said.complains("holds the vault").complains("Move the vault elsewhere");
        assert!(near.join("docs/config").exists());
    }
    rig.run(&["backup", "docs"]).code(0);
    let target = rig.path("target").display().to_string();
    rig.run(&["restore", "docs", "--target", &target]).code(0);
    // One of which nobody says that it is one is what the service has there.
    fs::write(&file, &sound).unwrap();
    rig.run(&["restore", "docs", "--replace"]).code(0);
}

/// A name that a service has, here or in the vault, is nobody else's.
#[test]
fn a_name_that_is_in_use_is_refused_and_nothing_is_made() {
    let rig = host(1);
    let file = rig.path("mainstay.toml");
    let text = fs::read_to_string(&file).unwrap();
    rig.write("other/letter", "of the other");
    let other = rig.path("other").display().to_string();
    let more = format!("{text}\n[service.other]\nengine = \"files\"\npath = \"{other}\"\n");
    fs::write(&file, more).unwrap();
    rig.run(&["init"]).code(0);
    let before = content(&rig.path(""));
    rig.run(&["restore", "docs", "--as", "other"]).code(1).complains("the name other is in use");
    rig.run(&["restore", "docs", "--as", "docs"]).code(1).complains("the name docs is in use");
    // In the vault alone: a service of another host.
    fs::write(&file, text).unwrap();
    let said = rig.run(&["restore", "docs", "--as", "other"]).code(1);
    said.complains("the name other is in use").complains("vault/other");
    for odd in ["..", "a/b", "a b"] {
        assert_ne!(rig.run(&["restore", "docs", "--as", odd]).code, 0, "{odd:?}");
    }
    let data = |tree: Option<crate::world::Tree>| {
        let mut tree = tree.unwrap();
        tree.retain(|path, _| path.starts_with("docs") || path.starts_with("other"));
        tree
    };
    assert!(data(content(&rig.path(""))) == data(before));
    // What stands in its place is not overwritten either, whoever put it there.
    let target = rig.path("new");
    rig.write("new/mine", "mine");
    let words = ["restore", "docs", "--as", "new", "--target", target.to_str().unwrap()];
    rig.run(&words).code(1).complains("is not empty");
    assert_eq!(fs::read_to_string(rig.path("new/mine")).unwrap(), "mine");
    rig.run(&["restore", "docs", "--as", "free"]).code(0).says("[service.free]");
}

/// Oldest first, under names that sort the same way and tell the engine; what is known of each.
#[test]
fn a_list_of_points_tells_what_is_known_of_each() {
    let rig = host(4);
    let all = points(&rig);
    let names: Vec<&str> = all.iter().map(|point| point["name"].as_str().unwrap()).collect();
    let times: Vec<Timestamp> = all.iter().map(time).collect();
    assert!(times.is_sorted(), "{times:?}");
    // To the second, which is what a name tells.
    let seconds: Vec<&str> = names.iter().map(|name| &name[..16]).collect();
    assert!(seconds.is_sorted(), "{names:?}");
    for (name, point) in names.iter().zip(&all) {
        assert!(name.contains("-files-"), "{name}");
        assert!(name.ends_with(&point["snapshot"].as_str().unwrap()[..8]), "{name}");
        assert_eq!(point["engine"], "files");
        for key in ["received", "member", "generation", "size-bytes", "added-bytes"] {
            assert!(!point[key].is_null(), "{key} of {point}");
        }
        for unknown in ["verified", "drilled", "position"] {
            assert!(point[unknown].is_null(), "{unknown} of {point}");
        }
    }
    rig.run(&["pin", "docs", names[0]]).code(0);
    rig.run(&["drill", "docs", "--snapshot", names[1]]).code(0);
    rig.run(&["check", "docs", "--read-data"]).code(0);
    let said = rig.run(&["snapshots", "docs"]).code(0);
    let lines: Vec<&str> = said.out.lines().collect();
    for title in ["NAME", "TIME", "AGE", "SIZE", "ADDED", "STATE"] {
        assert!(lines[0].contains(title), "{said:#?}");
    }
    for (line, name) in lines[1..].iter().zip(&names) {
        assert!(line.contains(name) && line.contains("verified just now"), "{said:#?}");
    }
    assert!(lines[1].contains("pinned") && lines[2].contains("drilled just now"), "{said:#?}");
    assert!(lines[4].contains("head") && !lines[3].contains("head"), "{said:#?}");
}

/// A primary goes back in time: out of service, restored, and into service again.
#[test]
fn a_primary_that_is_offline_is_restored_and_starts_only_when_it_is_online() {
    let world = World::new("files", CONTROLLED);
    fill(&world.path("a/data"), 1);
    world.run("a", &["init"]).code(0);
    assert_eq!(world.service("a", "start"), 0);
    world.run("a", &["backup", "docs"]).code(0);
    let first = (world.head("a").unwrap(), content(&world.path("a/data")));
    fill(&world.path("a/data"), 2);
    world.run("a", &["offline", "docs"]).code(0);
    assert!(!world.serves("a"));
    let words = ["restore", "docs", "--snapshot", &first.0];
    world.run("a", &words).code(1).complains("is not empty");
    world.run("a", &[&words[..], &["--replace"]].concat()).code(0);
    assert!(content(&world.path("a/data")) == first.1);
    assert!(!world.serves("a"), "it is offline");
    world.run("a", &["may-start", "docs"]).code(1);
    world.run("a", &["online", "docs"]).code(0);
    assert!(world.serves("a"));
    world.run("a", &["may-start", "docs"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
}
