//! A damaged vault, from the finding to the next whole point.

use crate::world::{World, fill};
use std::fs;
use std::path::PathBuf;

/// A primary with two points; the second has a file of its own, whose pack is returned.
fn damaged() -> (World, PathBuf) {
    let world = World::new("files", "");
    fill(&world.path("a/data"), 1);
    world.run("a", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    let packs = |world: &World| {
        let mut found = Vec::new();
        for dir in fs::read_dir(world.path("vault/docs/data")).unwrap() {
            found.extend(fs::read_dir(dir.unwrap().path()).unwrap().map(|f| f.unwrap().path()));
        }
        found
    };
    let before = packs(&world);
    let noise: Vec<u8> =
        (0..100_000u32).flat_map(|i| i.wrapping_mul(i).wrapping_mul(31).to_le_bytes()).collect();
    fs::write(world.path("a/data/precious"), noise).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    let mut new = packs(&world);
    new.retain(|pack| !before.contains(pack));
    let victim = new.into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    (world, victim)
}

#[test]
fn a_lost_pack_is_named_worked_around_and_healed_by_the_next_backup() {
    let (world, victim) = damaged();
    let name = victim.file_name().unwrap().to_str().unwrap().to_owned();
    fs::remove_file(&victim).unwrap();
    world.run("a", &["check", "docs"]).code(1).says(&name);
    // Nothing is added to it, and nothing removed from it, before somebody has looked.
    world.run("a", &["backup", "docs"]).code(1).complains("mainstay repair");
    world.run("a", &["prune", "docs"]).code(1).complains(&name);

    let target = world.path("target").display().to_string();
    world.run("a", &["restore", "docs", "--target", &target]).code(1);
    assert!(!world.path("target").exists(), "half of it was left");
    world.run("a", &["restore", "docs", "--partial"]).code(1);
    let partial = ["restore", "docs", "--partial", "--target", &target];
    world.run("a", &partial).code(3).says("precious");
    assert_eq!(fs::read(world.path("target/changed")).unwrap(), b"version 1");
    assert!(world.path("target/sub/big").exists() && !world.path("target/precious").exists());

    world.run("a", &["repair", "all", "docs", "--dry-run"]).code(1).says(&name);
    world.run("a", &["check", "docs"]).code(1);
    world.run("a", &["rebuild-index", "docs"]).code(1).says(&name);
    let said = world.run("a", &["repair", "snapshots", "docs"]).code(1).says("precious");
    said.says("--partial");
    // The repaired one is there, but no point; the next backup has everything again.
    world.run("a", &["snapshots", "docs"]).code(0).says("incomplete").says("uncommitted");
    world.run("a", &["backup", "docs"]).code(0);
    let fresh = world.path("fresh").display().to_string();
    world.run("a", &["restore", "docs", "--target", &fresh]).code(0);
    assert!(fs::read(world.path("fresh/precious")).unwrap().len() == 400_000);
    // The description of the point before, which was in the pack, nothing brings back.
    world.run("a", &["check", "docs"]).code(1).says("snapshot.json");
    let give_up = ["repair", "snapshots", "docs", "--forget"];
    world.run("a", &give_up).code(1).complains("confirmed");
    world.run("a", &[&give_up[..], &["--yes"]].concat()).code(1).says("given up");
    world.run("a", &["check", "docs", "--read-data"]).code(0);
    world.run("a", &["repair", "all", "docs"]).code(0).says("nothing to repair");
    world.restic_check();
}

#[test]
fn what_cannot_be_restored_is_given_up_only_when_asked() {
    let (world, victim) = damaged();
    // The source has lost it, too.
    fs::remove_file(world.path("a/data/precious")).unwrap();
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&victim, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&victim, bytes).unwrap();
    let points = world.points("a");
    world.run("a", &["check", "docs"]).code(0);
    world.run("a", &["check", "docs", "--read-data"]).code(1);
    world.run("a", &["repair", "packs", "docs"]).code(1).says("lost");
    let json =
        world.run("a", &["--json", "repair", "all", "docs", "--forget", "--yes"]).code(1).json();
    let done = &json["services"][0];
    assert_eq!(done["given-up"][0], points[1]["name"], "{json}");
    assert!(done["lost"][0].as_str().unwrap().contains("precious"), "{json}");
    // The one before it is the head now, and nothing else is wrong.
    let after = world.run("a", &["--json", "snapshots", "docs"]).code(0).json();
    let after = after["services"][0]["snapshots"].as_array().unwrap().clone();
    let head = after.iter().find(|point| point["head"] == true).unwrap();
    assert_eq!(head["name"], points[0]["name"]);
    world.run("a", &["check", "docs", "--read-data"]).code(0);
    world.restic_check();
    world.run("a", &["backup", "docs"]).code(0);
    let target = world.path("target").display().to_string();
    world.run("a", &["restore", "docs", "--target", &target]).code(0);
    assert_eq!(fs::read(world.path("target/changed")).unwrap(), b"version 1");
}

/// A point whose snapshot file is gone for good.
#[test]
fn a_point_without_its_snapshot_is_given_up() {
    let (world, _) = damaged();
    let points = world.points("a");
    let snapshot = points[1]["snapshot"].as_str().unwrap();
    fs::remove_file(world.path("vault/docs/snapshots").join(snapshot)).unwrap();
    world.run("a", &["check", "docs"]).code(1).says("is not in the vault");
    world.run("a", &["repair", "snapshots", "docs", "--forget", "--yes"]).code(0).says("given up");
    world.run("a", &["check", "docs"]).code(0);
    assert_eq!(world.points("a").len(), 1);
    world.run("a", &["prune", "docs"]).code(0).says("freed");
    world.restic_check();
}

/// The file without which there is no way in, one of two keys, and what only coordinates: named, left
/// as they are, and nothing that only coordinates stands between people and their data.
#[test]
fn whatever_else_is_damaged_is_named_and_left_for_somebody_to_decide() {
    let (world, _) = damaged();
    let vault = world.path("vault/docs");
    let newest = |dir: &str| {
        let files = fs::read_dir(vault.join(dir)).unwrap().map(|file| file.unwrap().path());
        files.max().unwrap()
    };
    let cases = [
        ("config", vault.join("config"), Some(false)),
        // Whether the other key is for this password, or for recovery, is not known here.
        ("key", newest("keys"), None),
        ("state", newest("mainstay/state"), Some(true)),
    ];
    let good: Vec<Vec<u8>> = cases.iter().map(|(_, file, _)| fs::read(file).unwrap()).collect();
    world.run("a", &["check", "docs"]).code(0);
    for ((what, file, restores), good) in cases.iter().zip(&good) {
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 0x40;
        let swapped =
            if *what == "config" { fs::read(newest("keys")) } else { fs::read(&cases[0].1) };
        for bad in [good[..good.len() / 2].to_vec(), Vec::new(), flipped, swapped.unwrap()] {
            let _ = fs::remove_file(file);
            fs::write(file, &bad).unwrap();
            let case = format!("{what}, {} bytes", bad.len());
            let said = world.run("a", &["check", "docs", "--read-data"]);
            let told = format!("{}{}", said.out, said.err);
            assert!(said.code != 0 && told.contains(what), "{case}: {said:?}");

            let target = world.path("target");
            let words = ["restore", "docs", "--partial", "--target", target.to_str().unwrap()];
            let said = world.run("a", &words);
            if restores.unwrap_or(said.code == 0) {
                assert_eq!(said.code, 0, "{case}: {said:?}");
                assert_eq!(fs::read(target.join("precious")).unwrap().len(), 400_000);
                fs::remove_dir_all(&target).unwrap();
            } else {
                assert!(said.code != 0 && !target.exists(), "{case}: {said:?}");
            }
            let said = world.run("a", &["repair", "all", "docs"]);
            assert!(said.code != 0 || *what != "config", "{case}: {said:?}");
            assert!(fs::read(file).unwrap() == bad, "{case}: somebody else has to decide");
        }
        let _ = fs::remove_file(file);
        fs::write(file, good).unwrap();
    }
    world.run("a", &["check", "docs", "--read-data"]).code(0);
    world.restic_check();
}
