//! Refreshes that change a standby's copy in its place: where few of many files have changed, and
//! where something is mounted at its path.

use crate::filesystems::{Kind, Mounted};
use crate::kills::{Scenario, and_more, version as small};
use crate::not_shown::not_shown;
use crate::refreshing::{
    REFRESH, ended, held_at, holds, is_whole_or_barred, joined, killed_everywhere, noise, number,
    refresh, write_secretly,
};
use crate::world::{Tree, Versions, World, content, fill};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const DIRS: usize = 30;
const FILES: usize = 40;
const LARGE: usize = 6 << 20;

/// More than a thousand small files and a large one, of which few differ between the two versions.
fn grow(dir: &Path, version: u8) {
    if version == 1 {
        for number in 0..DIRS * FILES {
            let place = dir.join(format!("d{:02}", number % DIRS));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join(format!("f{number:04}")), format!("{number}")).unwrap();
        }
        fs::create_dir(dir.join("goes")).unwrap();
        fs::write(dir.join("goes/with-it"), "x").unwrap();
        fs::write(dir.join("becomes"), "a directory").unwrap();
        fs::write(dir.join("large"), noise(LARGE, 3)).unwrap();
        return;
    }
    fs::write(dir.join("d01/f0001"), "changed").unwrap();
    fs::write(dir.join("d02/new"), "new").unwrap();
    fs::remove_file(dir.join("d03/f0003")).unwrap();
    fs::set_permissions(dir.join("d04/f0004"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(dir.join("d05"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_dir_all(dir.join("goes")).unwrap();
    fs::remove_file(dir.join("becomes")).unwrap();
    fs::create_dir_all(dir.join("becomes/deep")).unwrap();
    fs::write(dir.join("becomes/deep/file"), "deep").unwrap();
    let large = File::options().write(true).open(dir.join("large")).unwrap();
    large.write_all_at(&noise(20_000, 5), 3 << 20).unwrap();
}

fn version(number: u8) -> Option<Tree> {
    static VERSIONS: Versions = Versions::of(grow);
    VERSIONS.get(number)
}

/// The standby is at version 1, and the head is at version 2.
fn behind(world: &World) {
    let data = world.path("a/data");
    fs::create_dir_all(&data).unwrap();
    grow(&data, 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    grow(&data, 2);
    world.run("a", &["backup", "docs"]).code(0);
}

fn inode(path: PathBuf) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn few_of_many_files_are_changed_in_their_place() {
    for kind in [Kind::Xfs, Kind::Ext4] {
        let Some(mounted) = Mounted::new(kind, 512) else { continue };
        let world = joined(mounted.path());
        behind(&world);
        let copy = world.path("b/data");
        let (root, same) = (inode(copy.clone()), inode(copy.join("d07/f0007")));
        let done = refresh(&world);
        assert_eq!(done["in-place"], true, "{kind:?}: {done}");
        assert!(number(&done, "written-bytes") < 1 << 20, "{kind:?}: {done}");
        let (cloned, patched) = (number(&done, "cloned-files"), number(&done, "patched-files"));
        let expected = if kind.clones() { (true, 0) } else { (false, 1) };
        assert_eq!((cloned > 0, patched), expected, "{kind:?}: {done}");
        assert!(content(&copy) == version(2), "{kind:?}");
        assert_eq!((inode(copy.clone()), inode(copy.join("d07/f0007"))), (root, same));
        assert_eq!(world.staging(), [] as [PathBuf; 0]);
        world.run("b", &["refresh", "docs"]).code(0).says("already");
        let mtime = |place: &str| fs::metadata(world.path(place)).unwrap().mtime();
        for dir in ["data", "data/d01", "data/d03", "data/becomes"] {
            assert_eq!(mtime(&format!("a/{dir}")), mtime(&format!("b/{dir}")), "{dir}");
        }
        // A write that came after it shows, to a file that it had to do with and to another.
        for name in ["d01/f0001", "d09/f0009"] {
            write_secretly(&copy.join(name));
            world.run("b", &["refresh", "docs"]).code(1).complains(name);
            world.run("b", &["refresh", "docs", "--reseed"]).code(0);
        }
        // Many of many: those are exchanged.
        for number in 0..DIRS * FILES / 4 {
            let file = world.path(format!("a/data/d{:02}/f{number:04}", number % DIRS));
            fs::write(file, "other").unwrap();
        }
        world.run("a", &["backup", "docs"]).code(0);
        assert_eq!(refresh(&world)["in-place"], false, "{kind:?}");
        assert!(content(&copy) == content(&world.path("a/data")));
    }
}

#[test]
fn a_copy_that_somebody_reads_is_exchanged() {
    let world = World::new("files", "chunk-size = \"256 KiB\"\nrefresh = \"exchange\"\n");
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    behind(&world);
    let before = inode(world.path("b/data"));
    assert_eq!(refresh(&world)["in-place"], false);
    assert_ne!(inode(world.path("b/data")), before);
    assert!(content(&world.path("b/data")) == version(2));
}

/// Of a copy that stays where it is, nothing changes before the journal is applied.
fn never_between(world: &World, at: &str) {
    let now = content(&world.path("b/data"));
    is_whole_or_barred(world, &now, version, at.starts_with("redo:"), at);
}

fn is_new(world: &World, at: &str) {
    holds(world, &version(2), at);
}

const IN_PLACE: Scenario =
    Scenario { prepare: behind, dead: never_between, after: is_new, ..REFRESH };

const BETWEEN: [&str; 6] = ["place:moved", "redo:1", "redo:4", "redo:7", "redo:11", "redo:done"];

#[test]
fn a_refresh_in_place_with_clones_is_killed_at_every_step() {
    killed_everywhere(Kind::Xfs, &IN_PLACE, &BETWEEN);
}

#[test]
fn a_refresh_in_place_without_clones_is_killed_at_every_step() {
    killed_everywhere(Kind::Ext4, &IN_PLACE, &BETWEEN);
}

#[test]
fn who_writes_to_the_copy_meanwhile_is_noticed() {
    for (place, name) in [
        ("stage:begin", "d01/f0001"),
        ("stage:done", "d01/f0001"),
        ("stage:done", "d09/f0009"),
        ("stage:done", "large"),
    ] {
        let world = joined(&std::env::temp_dir());
        behind(&world);
        let (child, worker) = held_at(&world, place);
        write_secretly(&world.path("b/data").join(name));
        crate::cancel::cont(worker);
        ended(child, 1).complains("was written to").complains(name);
        assert_eq!(world.staging(), [] as [PathBuf; 0]);
        assert!(world.path("b/data/goes").exists(), "the old point is in place");
        world.run("b", &["refresh", "docs"]).code(1).complains(name);
    }
}

#[test]
fn files_with_several_names_are_right_afterwards() {
    let world = joined(&std::env::temp_dir());
    let data = world.path("a/data");
    fs::create_dir_all(&data).unwrap();
    grow(&data, 1);
    fs::hard_link(data.join("d01/f0001"), data.join("d02/again")).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    // Something else changes: the two stay one file.
    fs::write(data.join("d05/f0005"), "changed").unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    assert_eq!(refresh(&world)["in-place"], true);
    let names = |names: [&str; 2]| names.map(|name| inode(world.path("b/data").join(name)));
    let [one, other] = names(["d01/f0001", "d02/again"]);
    assert_eq!(one, other);
    // A name more, and one less.
    fs::hard_link(data.join("d01/f0001"), data.join("d03/too")).unwrap();
    fs::remove_file(data.join("d02/again")).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    refresh(&world);
    let [one, other] = names(["d01/f0001", "d03/too"]);
    assert_eq!(one, other);
    assert!(content(&world.path("b/data")) == content(&data));
    world.run("b", &["refresh", "docs"]).code(0).says("already");
}

/// Mounts a directory at the standby's path; not where that needs other rights.
fn mount(world: &World) -> bool {
    let (disk, data) = (world.path("b/disk"), world.path("b/data"));
    for dir in [&disk, &data] {
        fs::create_dir_all(dir).unwrap();
    }
    let done = Command::new("mount").arg("--bind").arg(&disk).arg(&data).output().unwrap();
    if done.status.success() {
        fs::write(world.path("b/mounted"), "").unwrap();
        return true;
    }
    let why = String::from_utf8_lossy(&done.stderr);
    not_shown(&format!("nothing can be mounted here: {}", why.trim()));
    false
}

fn mounts_work() -> bool {
    static WORK: OnceLock<bool> = OnceLock::new();
    *WORK.get_or_init(|| mount(&World::new("files", "")))
}

/// What is in the mounted copy, without what is staged there.
fn mounted_content(world: &World) -> Option<Tree> {
    let mut found = content(&world.path("b/data"))?;
    found.retain(|path, _| !path.as_os_str().as_bytes().starts_with(b".mainstay-"));
    Some(found)
}

fn mounted_behind(world: &World) {
    assert!(mount(world));
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    assert!(mounted_content(world) == small(1));
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
}

fn mounted_never_between(world: &World, at: &str) {
    is_whole_or_barred(world, &mounted_content(world), small, at.starts_with("redo:"), at);
}

fn mounted_is_new(world: &World, at: &str) {
    // With nothing beside it.
    holds(world, &small(2), at);
}

#[test]
fn a_refresh_of_a_mount_point_is_killed_at_every_step() {
    if !mounts_work() {
        return;
    }
    let scenario = Scenario {
        prepare: mounted_behind,
        dead: mounted_never_between,
        after: mounted_is_new,
        ..REFRESH
    };
    and_more(&joined(&std::env::temp_dir()), &scenario, &["place:moved", "redo:1", "redo:3"]);
}

#[test]
fn the_first_refresh_of_a_mount_point_is_killed_at_every_step() {
    if !mounts_work() {
        return;
    }
    fn prepare(world: &World) {
        assert!(mount(world));
        // As a new file system is.
        fs::create_dir(world.path("b/disk/lost+found")).unwrap();
        fill(&world.path("a/data"), 2);
        world.run("a", &["backup", "docs"]).code(0);
    }
    fn after(world: &World, at: &str) {
        fs::remove_dir(world.path("b/disk/lost+found")).unwrap();
        assert!(content(&world.path("b/data")) == small(2), "{at}");
    }
    let dead = |world: &World, at: &str| {
        // Whoever looks at the gate of what was never there is told so.
        let said = world.run("b", &["may-start", "docs"]).code(1);
        assert!(!said.err.is_empty() || !said.out.is_empty(), "{at}: {said:#?}");
    };
    let scenario = Scenario { prepare, dead, after, ..REFRESH };
    and_more(&joined(&std::env::temp_dir()), &scenario, &["redo:1", "redo:3"]);
}

#[test]
fn what_is_mounted_is_adopted_verified_and_never_put_aside() {
    if !mounts_work() {
        return;
    }
    let world = joined(&std::env::temp_dir());
    assert!(mount(&world));
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    // An old copy that nobody knows, with something in it that is no part of the point.
    let copy = world.path("b/data");
    fill(&copy, 1);
    fs::write(copy.join("sub/foreign"), "x").unwrap();
    world.run("b", &["refresh", "docs"]).code(1).complains("--adopt");
    let said = world.run("b", &["--json", "refresh", "docs", "--adopt"]).code(0);
    assert_eq!(said.json()["services"][0]["adopted"], true);
    holds(&world, &small(2), "adopted");
    let kept = inode(copy.join("sub/big"));
    world.run("b", &["refresh", "docs", "--verify"]).code(0);
    assert!(content(&copy) == small(2));
    assert_eq!(inode(copy.join("sub/big")), kept);
    world.run("b", &["scrub", "docs"]).code(0);

    write_secretly(&copy.join("same"));
    world.run("b", &["refresh", "docs"]).code(1).complains("was written to");
    let said = world.run("b", &["refresh", "docs", "--reseed"]).code(1);
    let said = said.complains("mount point").complains("empty it");
    assert!(copy.join("same").exists(), "{said:#?}");
    for item in fs::read_dir(&copy).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    world.run("b", &["refresh", "docs", "--reseed"]).code(0);
    holds(&world, &small(2), "reseeded");
    // And it serves.
    let words = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested"];
    world.run("b", &words).code(0);
    world.run("b", &["may-start", "docs"]).code(0);
    fs::write(copy.join("by-the-new-primary"), "x").unwrap();
    world.run("b", &["backup", "docs"]).code(0);
}
