//! Disk images: fixed chunks, and only what was written to is read.

use crate::rig::{Rig, restic, run};
use crate::world::World;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

const CHUNK: u64 = 64 << 10;

/// A host with an image of 32 different chunks, which is backed up.
fn host(definition: &str) -> Rig {
    let rig = Rig::new();
    let mut image = Vec::new();
    for number in 0..32 * CHUNK / 8 {
        image.extend_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    fs::write(rig.path("disk.img"), image).unwrap();
    let path = rig.path("disk.img").display().to_string();
    rig.configure(&format!("[service.vm]\nengine = \"files\"\npath = \"{path}\"\n{definition}"));
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "vm"]).code(0);
    rig
}

fn write(rig: &Rig, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(rig.path("disk.img")).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn head(rig: &Rig) -> String {
    let list = rig.run(&["snapshots", "vm", "--json"]).code(0).json();
    let points = list["services"][0]["snapshots"].as_array().unwrap();
    points.last().unwrap()["snapshot"].as_str().unwrap().to_owned()
}

#[test]
fn only_what_was_written_to_is_read_and_stored() {
    let rig = host("chunk-size = \"64 KiB\"\n");
    let first = head(&rig);
    write(&rig, 5 * CHUNK - 2, b"over");
    write(&rig, 30 * CHUNK, b"once");
    rig.write("ranges", format!("# offset length\n{} 4\n\n{} 4\n", 5 * CHUNK - 2, 30 * CHUNK));
    let ranges = rig.path("ranges").display().to_string();
    let told = ["backup", "vm", "--changed", &ranges, "--since", &first];
    let json = rig.run(&[&told[..], &["--json"]].concat()).code(0).json();
    let added = json["services"][0]["point"]["added-bytes"].as_u64();
    let added = added.unwrap_or_else(|| panic!("{json}"));
    assert!(added > 2 * CHUNK && added < 4 * CHUNK, "{added}");

    // What restic makes of it is the image.
    let mut command = restic(&rig, "vm");
    run(command.args(["check", "--read-data"])).code(0);
    let target = rig.path("out").display().to_string();
    run(restic(&rig, "vm").args(["restore", "latest", "--target", &target])).code(0);
    let image = rig.path("disk.img");
    let restored = rig.path("out").join(image.strip_prefix("/").unwrap());
    assert!(fs::read(&image).unwrap() == fs::read(restored).unwrap());

    // The same list again: there is a newer point, and what came after that one it does not tell.
    rig.run(&told).code(1).complains("is not the newest point");
    // And the newest there happens to be is none that a list was begun at.
    rig.run(&["backup", "vm", "--changed", &ranges, "--since", "latest"])
        .code(1)
        .complains("since when the ranges are");
    rig.run(&["backup", "vm", "--changed", &ranges, "--since", &head(&rig)]).code(0);
}

/// Since the head, nothing was written to what a restore has put there, and it is something else.
#[test]
fn after_a_restore_ranges_since_the_head_are_not_believed() {
    let rig = host("chunk-size = \"64 KiB\"\n");
    let first = head(&rig);
    write(&rig, 7 * CHUNK, b"newer");
    rig.run(&["backup", "vm"]).code(0);
    let second = head(&rig);
    rig.run(&["restore", "vm", "--snapshot", &first, "--replace"]).code(0);
    write(&rig, 20 * CHUNK, b"after");
    rig.write("ranges", format!("{} 5\n", 20 * CHUNK));
    let ranges = rig.path("ranges").display().to_string();
    rig.run(&["backup", "vm", "--changed", &ranges, "--since", &second])
        .code(1)
        .complains("was restored here");
    rig.run(&["backup", "vm"]).code(0);
    let third = head(&rig);
    rig.run(&["backup", "vm", "--changed", &ranges, "--since", &third]).code(0);
    let out = rig.path("out").display().to_string();
    rig.run(&["restore", "vm", "--target", &out]).code(0);
    let (ours, theirs) = (fs::read(rig.path("disk.img")), fs::read(rig.path("out/disk.img")));
    assert!(ours.unwrap() == theirs.unwrap());
}

/// The head that a new primary finds is of another host's file.
#[test]
fn after_a_takeover_ranges_since_the_head_are_not_believed() {
    let world = World::new("files", "chunk-size = \"64 KiB\"\n");
    let mut image = vec![1; 16 * 65536];
    fs::create_dir_all(world.path("a")).unwrap();
    fs::write(world.path("a/data"), &image).unwrap();
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    image[3 * 65536] = 2;
    fs::write(world.path("a/data"), &image).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    let head = world.points("b").pop().unwrap()["snapshot"].as_str().unwrap().to_owned();
    let takeover = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=a test"];
    world.run("b", &takeover).code(0);
    fs::write(world.path("ranges"), "0 1\n").unwrap();
    let ranges = world.path("ranges").display().to_string();
    world
        .run("b", &["backup", "docs", "--changed", &ranges, "--since", &head])
        .code(1)
        .complains("took over");
    world.run("b", &["backup", "docs"]).code(0);
    let head = world.points("b").pop().unwrap()["snapshot"].as_str().unwrap().to_owned();
    world.run("b", &["backup", "docs", "--changed", &ranges, "--since", &head]).code(0);
}

#[test]
fn lists_that_make_no_sense_are_refused_before_anything_is_read() {
    let rig = host("chunk-size = \"64 KiB\"\n");
    let before = head(&rig);
    let since = before.as_str();
    let ranges = rig.path("ranges").display().to_string();
    for bad in ["5", "a b", "1 -1", "1 2 3", "18446744073709551615 2"] {
        rig.write("ranges", format!("0 1\n{bad}\n"));
        rig.run(&["backup", "vm", "--changed", &ranges, "--since", since])
            .code(1)
            .complains("line 2");
    }
    rig.run(&["backup", "vm", "--changed", "/nowhere", "--since", since]).code(1);
    rig.run(&["backup", "vm", "--changed", &ranges]).code(1);
    assert_eq!(head(&rig), before);
}

#[test]
fn only_an_image_has_ranges() {
    let rig = host("");
    rig.write("ranges", "0 1\n");
    let ranges = rig.path("ranges").display().to_string();
    rig.run(&["backup", "vm", "--changed", &ranges, "--since", "latest"])
        .code(1)
        .complains("is not one file with a `chunk-size`");
}
