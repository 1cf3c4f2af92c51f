//! Points leave the history, by policy and by name, and the space they took is free again.

use crate::rig::run;
use crate::world::{World, fill, wait_for};
use std::fs;
use std::process::{Command, Stdio};

/// A primary and a standby; `count` points, of which the standby holds the first.
fn world(lines: &str, count: u8) -> World {
    let world = World::new("files", lines);
    fill(&world.path("a/data"), 1);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    for version in 2..=count {
        fill(&world.path("a/data"), version);
        let noise = (0..50_000u32).flat_map(|i| (i * u32::from(version) * 31).to_le_bytes());
        let noise: Vec<u8> = noise.collect();
        fs::write(world.path("a/data/noise"), noise).unwrap();
        world.run("a", &["backup", "docs"]).code(0);
    }
    world
}

fn names(world: &World) -> Vec<String> {
    let points = world.points("a");
    points.iter().map(|point| point["name"].as_str().unwrap().to_owned()).collect()
}

fn stored(world: &World) -> u64 {
    let mut sum = 0;
    for dir in fs::read_dir(world.path("vault/docs/data")).unwrap() {
        for file in fs::read_dir(dir.unwrap().path()).unwrap() {
            sum += file.unwrap().metadata().unwrap().len();
        }
    }
    sum
}

#[test]
fn the_policy_says_what_goes_and_why_the_rest_stays() {
    let world = world("keep = { last = 2 }\n", 5);
    let all = names(&world);
    let before = stored(&world);
    let said = world.run("a", &["forget", "docs", "--dry-run"]).code(0);
    let said = said.says("2 points would go, 3 points would stay").says("would free");
    let said =
        said.says("the standby b holds it").says("newest whole point, last 1").says("last 2");
    assert_eq!(said.out.matches("newest whole point").count(), 1, "{said:#?}");
    world.run("a", &["pin", "docs", "latest"]).code(0);
    let said = world.run("a", &["forget", "docs", "--dry-run"]).code(0);
    let told = said.out.matches("newest whole point").count() + said.out.matches("pinned").count();
    assert_eq!(told, 2, "{said:#?}");
    world.run("a", &["unpin", "docs", "latest"]).code(0);
    assert_eq!(names(&world), all, "a dry run changes nothing");
    assert_eq!(stored(&world), before);

    let json = world.run("a", &["--json", "forget", "docs", "--dry-run"]).code(0).json();
    assert_eq!(json["plan"]["remove"].as_array().unwrap().len(), 2);
    assert!(json["would-free-bytes"].as_u64().unwrap() > 0);

    world.run("a", &["forget", "docs"]).code(0).says("2 points forgotten, 3 points kept");
    assert_eq!(names(&world), [all[0].clone(), all[3].clone(), all[4].clone()]);
    assert_eq!(stored(&world), before, "what was freed is only freed by a prune");
    world.run("a", &["prune", "docs", "--dry-run"]).code(0).says("would be freed");
    assert_eq!(stored(&world), before);
    world.run("a", &["prune", "docs", "--max-unused", "0%"]).code(0).says("freed");
    assert!(stored(&world) < before);
    world.run("a", &["check", "docs", "--read-data"]).code(0).says("sound");
    world.restic_check();
    // What stays restores, the oldest too; and both hosts go on.
    let target = world.path("target").display().to_string();
    world.run("a", &["restore", "docs", "--snapshot", &all[0], "--target", &target]).code(0);
    assert_eq!(fs::read(world.path("target/changed")).unwrap(), b"version 1");
    world.run("b", &["refresh", "docs"]).code(0);
    world.run("a", &["forget", "docs", "--prune"]).code(0).says("1 point forgotten").says("freed");
    world.run("a", &["backup", "docs"]).code(0);
    world.run("a", &["check", "docs", "--read-data"]).code(0);
    world.restic_check();
}

#[test]
fn a_policy_can_be_given_with_the_command_and_without_one_nothing_goes() {
    let world = world("", 3);
    world.run("a", &["forget", "docs"]).code(1).complains("nothing says which points");
    world.run("b", &["refresh", "docs"]).code(0);
    world.run("a", &["forget", "docs", "--keep-last", "1"]).code(0).says("2 points forgotten");
    world.run("a", &["forget", "docs", "--keep-within", "soon"]).code(1).complains("soon");
    assert_eq!(names(&world).len(), 1);
}

#[test]
fn a_point_is_forgotten_by_name_after_asking_unless_somebody_needs_it() {
    let world = world("", 4);
    let all = names(&world);
    world.run("a", &["forget", "docs", &all[0]]).code(1).complains("the standby b holds it");
    world.run("a", &["forget", "docs", &all[3]]).code(1).complains("newest whole point");
    world.run("a", &["forget", "docs", "nothing"]).code(1).complains("no recovery point");
    world.run("a", &["forget", "docs", &all[1]]).code(1).complains("has to be confirmed");
    assert_eq!(names(&world), all);
    world.run("a", &["forget", "docs", &all[1], "--yes"]).code(0).says(&all[1]);
    assert_eq!(names(&world), [all[0].clone(), all[2].clone(), all[3].clone()]);
    world.run("a", &["snapshots", "docs"]).code(0);
}

/// A snapshot file that vanished may be on a disk that is not mounted: its data is no garbage.
#[test]
fn a_prune_stops_at_a_point_without_its_snapshot() {
    let world = world("", 3);
    let snapshot = world.points("a")[1]["snapshot"].as_str().unwrap().to_owned();
    let (file, aside) = (world.path("vault/docs/snapshots").join(&snapshot), world.path("aside"));
    fs::rename(&file, &aside).unwrap();
    let before = stored(&world);
    for words in [&["prune", "docs"][..], &["prune", "docs", "--dry-run"]] {
        world.run("a", words).code(1).complains("is not in the vault; its data stays");
    }
    assert_eq!(stored(&world), before);
    fs::rename(&aside, &file).unwrap();
    world.run("a", &["prune", "docs"]).code(0);
    world.run("a", &["check", "docs", "--read-data"]).code(0);
}

/// A real restic that works in the repository: it reads a pipe for as long as the test wants.
#[test]
fn beside_restic_nothing_is_removed_and_its_stale_lock_goes() {
    let world = world("keep = { last = 1 }\n", 2);
    let restic = |words: &[&str]| {
        let mut command = Command::new("restic");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", world.path("home"))
            .env("RESTIC_REPOSITORY", world.path("vault/docs"))
            .env("RESTIC_PASSWORD_FILE", world.path("password"))
            .args(["--no-cache"])
            .args(words);
        command
    };
    // Not counting those that are still being written.
    let locks = || {
        let names = fs::read_dir(world.path("vault/docs/locks")).unwrap();
        names.filter(|item| item.as_ref().unwrap().file_name().len() == 64).count()
    };
    let begin = || {
        let working = restic(&["backup", "--stdin", "--stdin-filename", "piped"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("restic's lock", || locks() == 1);
        working
    };
    let mut working = begin();
    world.run("a", &["unlock", "docs"]).code(0).says("0 locks removed").says("may live");
    // A check shares the repository with it, and so does a dry run; what removes does not.
    world.run("a", &["check", "docs"]).code(0);
    world.run("a", &["prune", "docs", "--dry-run"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    for words in [&["forget", "docs"][..], &["prune", "docs"], &["forget", "docs", "--prune"]] {
        let mut command = world.command("a", words);
        run(command.args(["--wait", "1s"])).code(11).complains("the repository is locked");
    }
    assert_eq!(names(&world).len(), 2);
    world.run("a", &["unlock", "docs", "--remove-all"]).code(1).complains("that may live");
    assert_eq!(locks(), 1);

    // It dies without a word, and its lock is stale from then on.
    working.kill().unwrap();
    working.wait().unwrap();
    assert_eq!(locks(), 1);
    world.run("a", &["forget", "docs", "--prune"]).code(0).says("1 point forgotten");
    assert_eq!(locks(), 0);
    world.restic_check();

    // And where nothing takes a lock, `unlock` removes it.
    let mut working = begin();
    working.kill().unwrap();
    working.wait().unwrap();
    world.run("a", &["unlock", "docs"]).code(0).says("1 lock removed");
    assert_eq!(locks(), 0);
    run(restic(&["check"]).stdin(Stdio::null())).code(0);
}
