//! Scrubs: what rots on a standby's disk is found, though no time stamp tells of it, and replaced.

use crate::filesystems::{Kind, Mounted};
use crate::kills::{Scenario, and_more};
use crate::rig::{Said, run};
use crate::world::{World, content, fill, journal};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TAKEOVER: &[&str] =
    &["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"];

/// A standby that holds the newest point.
fn standby(lines: &str) -> World {
    let world = World::new("files", lines);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    world
}

fn sha256(bytes: &[u8]) -> String {
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// Changes a byte of a file of the standby so that nothing tells of it: neither its times nor, as a
/// disk would do it, the time of its inode, which the standby is made to believe has not moved.
fn rot(world: &World, name: &str) {
    let path = world.path("b/data").join(name);
    let meta = fs::metadata(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let mut byte = [0];
    File::open(&path).unwrap().read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], 0).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    file.sync_all().unwrap();
    let now = fs::metadata(&path).unwrap();
    let manifest = world.path("b/state/services/docs/manifest-0");
    let text = fs::read_to_string(&manifest).unwrap();
    let time = |meta: &fs::Metadata| format!("\t{}.{:09}\t", meta.ctime(), meta.ctime_nsec());
    let mut body = String::new();
    let mut count = 0;
    for line in text.lines().filter(|line| !line.starts_with("end ")) {
        if line.ends_with(&format!("\t{name}")) {
            body.push_str(&line.replace(&time(&meta), &time(&now)));
        } else {
            body.push_str(line);
        }
        body.push('\n');
        count += 1;
    }
    let sum = sha256(body.as_bytes());
    fs::write(&manifest, format!("{body}end {} {sum}\n", count - 1)).unwrap();
}

fn scrub(world: &World, words: &[&str], code: i32) -> Value {
    let words = [&["--json", "scrub", "docs"], words].concat();
    world.run("b", &words).code(code).json()["services"][0].clone()
}

#[test]
fn what_rots_is_named_and_replaced() {
    let world = standby("");
    let sound = content(&world.path("b/data"));
    let done = scrub(&world, &[], 0);
    assert_eq!(
        (&done["rotten"], &done["healed"]),
        (&Value::Array(vec![]), &false.into()),
        "{done}"
    );
    assert_eq!(done["judged-by"], "snapshot", "{done}");
    world.run("b", &["status", "docs"]).code(0).says("every byte of the copy is right");
    world.run("b", &["doctor", "docs"]).says("the copy was read");

    rot(&world, "sub/big");
    // Nobody wrote to it, as far as a refresh can tell.
    world.run("b", &["refresh", "docs"]).code(0).says("already");
    let inode = |name: &str| fs::metadata(world.path("b/data").join(name)).unwrap().ino();
    let before = (inode("same"), inode("sub/big"));
    let said = world.run("b", &["scrub", "docs"]).code(0).says("1 file rotted");
    let file = world.path("b/data/sub/big");
    assert!(said.out.contains(file.to_str().unwrap()), "{said:#?}");
    assert!(content(&world.path("b/data")) == sound);
    // What was sound is still the same file.
    assert_eq!(before.0, inode("same"));
    assert_ne!(before.1, inode("sub/big"));
    assert_eq!(world.status("b")["scrub"]["rotten"], 1);
    assert_eq!(world.status("b")["promises-kept"], true);
    assert_eq!(scrub(&world, &[], 0)["rotten"], Value::Array(vec![]));
    world.run("b", &["refresh", "docs"]).code(0).says("already");
}

#[test]
fn what_was_only_named_is_replaced_by_the_next_refresh() {
    let world = standby("");
    let sound = content(&world.path("b/data"));
    rot(&world, "same");
    let done = scrub(&world, &["--no-heal"], 1);
    assert_eq!(done["rotten"][0]["path"], world.path("b/data/same").to_str().unwrap());
    assert!(content(&world.path("b/data")) != sound);
    let said = world.run("b", &["status", "docs"]).code(1);
    assert!(said.out.contains("1 file rotted"), "{said:#?}");
    world.run("b", &["doctor", "docs"]).code(1).says("has rotted");
    // Also where there is nothing new to be had.
    world.run("b", &["refresh", "docs"]).code(0);
    assert!(content(&world.path("b/data")) == sound);
    world.run("b", &["status", "docs"]).code(0);

    // And a refresh that was told not to trust the copy finds it without any scrub.
    rot(&world, "same");
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs", "--verify"]).code(0);
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")));
}

#[test]
fn what_somebody_wrote_is_no_rot() {
    let world = standby("");
    fs::write(world.path("b/data/same"), "mine").unwrap();
    world.run("b", &["scrub", "docs"]).code(1).complains("was written to").complains("same");
    assert_eq!(fs::read(world.path("b/data/same")).unwrap(), b"mine");
    world.run("a", &["scrub", "docs"]).code(1).complains("a is the primary of docs");
    world.run("a", &["scrub", "--all"]).code(0).says("no standby");
    let fresh = World::new("files", "");
    fresh.run("a", &["init"]).code(0);
    fresh.run("b", &["init"]).code(0);
    fresh.run("b", &["scrub", "docs"]).code(1).complains("no copy");
}

#[test]
fn rot_that_the_vault_cannot_replace_is_told() {
    let world = standby("");
    // Nothing that compresses, so that its pack is large.
    let big: Vec<u8> = (0..400_000_u64)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes())
        .collect();
    fs::write(world.path("a/data/sub/big"), big).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    rot(&world, "sub/big");
    // Whatever lies between its blobs in their packs.
    let packs = world.run("a", &["cat", "docs", "pack"]).code(0).out;
    for id in packs.split_whitespace() {
        let file = world.path("vault/docs/data").join(&id[..2]).join(id);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let pack = world.run("a", &["cat", "docs", "pack", id]).code(0).json();
        for blob in pack["blobs"].as_array().unwrap() {
            let (at, length) = (blob["offset"].as_u64().unwrap(), blob["length"].as_u64().unwrap());
            if length > 100_000 {
                let file = File::options().write(true).open(&file).unwrap();
                file.write_all_at(&[0; 1000], at + length / 2).unwrap();
            }
        }
    }
    let before = content(&world.path("b/data"));
    world.run("b", &["scrub", "docs"]).code(1).complains("sub/big").complains("cannot be replaced");
    assert!(content(&world.path("b/data")) == before);
    assert_eq!(world.staging(), [] as [PathBuf; 0]);
    assert_eq!(world.status("b")["scrub"]["unhealed"], true);
    // Nobody is served from it.
    world.run("b", TAKEOVER).code(1).complains("has rotted").complains("--reseed");
    assert_eq!(world.status("b")["primary"], "a");
    assert!(world.status("b")["takeover"].is_null(), "the claim was given back");
}

#[test]
fn a_takeover_serves_nothing_that_has_rotted() {
    let world = standby("");
    let sound = content(&world.path("b/data"));
    rot(&world, "same");
    scrub(&world, &["--no-heal"], 1);
    // There is nothing newer to be had, and it is replaced nevertheless.
    world.run("b", TAKEOVER).code(0);
    assert!(content(&world.path("b/data")) == sound);
    assert_eq!(world.status("b")["primary"], "b");
}

#[test]
fn a_scrub_that_heals_is_killed_at_every_step() {
    fn prepare(world: &World) {
        let data = world.path("a/data");
        let _ = fs::remove_dir_all(&data);
        fill(&data, 1);
        world.run("a", &["backup", "docs"]).code(0);
        world.run("b", &["refresh", "docs"]).code(0);
        rot(world, "sub/big");
    }
    fn dead(world: &World, at: &str) {
        let now = content(&world.path("b/data")).unwrap();
        let right = content(&world.path("a/data")).unwrap();
        let differ: Vec<_> = right.iter().filter(|(path, file)| now[*path] != **file).collect();
        assert!(differ.len() <= 1 && now.len() == right.len(), "{at}");
    }
    fn again(world: &World, _: &str) -> Said {
        world.run("b", &["scrub", "docs"]).code(0)
    }
    fn after(world: &World, at: &str) {
        assert!(content(&world.path("b/data")) == content(&world.path("a/data")), "{at}");
        assert_eq!(world.status("b")["scrub"]["unhealed"], false, "{at}");
        world.run("b", &["refresh", "docs"]).code(0).says("already");
    }
    let base = World::new("files", "");
    base.run("a", &["init"]).code(0);
    base.run("b", &["init"]).code(0);
    let words = &["scrub", "docs"];
    let scenario =
        Scenario { host: "b", kind: "scrub", words, prepare, dead, again, after, guarded: false };
    and_more(&base, &scenario, &["place:moved"]);
}

fn alerts(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.path("alerts")).unwrap_or_default();
    let event = |line: &str| -> Option<String> {
        serde_json::from_str::<Value>(line).unwrap()["event"].as_str().map(str::to_owned)
    };
    text.lines().filter_map(event).collect()
}

#[test]
fn scrubs_run_on_schedule_and_somebody_is_told() {
    let lines = "scrub-schedule = \"0 0 1 1 *\"\n\
                 [alerts]\ncommand = \"cat >> @HERE@/alerts; echo >> @HERE@/alerts\"\n";
    let world = standby(lines);
    rot(&world, "same");
    world.run("b", &["run-due", "--dry-run"]).code(0).says("a scrub is due");
    let before = world.operations("b").len();
    let ran = world.run("b", &["--json", "run-due"]).code(0).json();
    let scrub = ran["services"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&scrub["ran"], &scrub["result"]["healed"]),
        (&"scrub".into(), &true.into()),
        "{ran}"
    );
    assert_eq!(alerts(&world), ["standby-rotten"]);
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")));
    let after = world.operations("b");
    assert_eq!(after.len(), before + 1);
    let first = &journal(after.last().unwrap())[0];
    assert_eq!(first["kind"], "scrub", "{first}");
    // Once; and on the primary's host there is nothing to read.
    world.run("b", &["run-due", "--dry-run"]).code(0).says("no scrub is due");
    world.run("a", &["run-due", "--dry-run"]).code(0).says("no scrub is due");
    // The next one finds nothing, and that is told, too.
    world.run("b", &["scrub", "docs"]).code(0);
    world.run("b", &["run-due"]).code(0);
    assert_eq!(alerts(&world), ["standby-rotten", "standby-rotten-over"]);
}

/// Bytes that are nowhere else on the disk.
fn marked() -> Vec<u8> {
    let mark = |n: u32| format!("here is what is going to rot, {n:010}\n").into_bytes();
    (0..4000).flat_map(mark).collect()
}

#[test]
fn a_bit_that_flips_on_the_disk_is_found_on_every_file_system() {
    for kind in Kind::ALL {
        let Some(mut mounted) = Mounted::new(kind, 512) else { continue };
        let world = World::new("files", "");
        let data = mounted.path().join("data");
        on(&world, &data);
        world.run("a", &["init"]).code(0);
        world.run("b", &["init"]).code(0);
        fill(&world.path("a/data"), 1);
        fs::write(world.path("a/data/marked"), marked()).unwrap();
        world.run("a", &["backup", "docs"]).code(0);
        world.run("b", &["refresh", "docs"]).code(0);
        mounted.rot(&marked()[50_000..50_100]);
        world.run("b", &["refresh", "docs"]).code(0).says("already");
        let done = scrub(&world, &[], 0);
        assert_eq!(done["rotten"].as_array().unwrap().len(), 1, "{kind:?}: {done}");
        assert_eq!(done["rotten"][0]["path"], data.join("marked").to_str().unwrap(), "{kind:?}");
        assert_eq!(done["healed"], true, "{kind:?}");
        run(Command::new("sh").args(["-c", "sync"])).code(0);
        assert!(content(&data) == content(&world.path("a/data")), "{kind:?}");
        assert_eq!(scrub(&world, &[], 0)["rotten"], Value::Array(vec![]), "{kind:?}");
        drop(world);
    }
}

/// Host `b` keeps its copy elsewhere.
fn on(world: &World, data: &Path) {
    let file = world.path("b/mainstay.toml");
    let text = fs::read_to_string(&file).unwrap();
    let place = world.path("b/data").display().to_string();
    fs::write(&file, text.replace(&place, &data.display().to_string())).unwrap();
}
