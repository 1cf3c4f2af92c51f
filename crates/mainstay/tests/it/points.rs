//! Pins and tags by the command line.

use crate::rig::{Rig, restic, run};
use serde_json::{Value, json};

/// A host with two points of its own and a snapshot that restic made.
fn host() -> Rig {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    let docs = rig.path("docs").display().to_string();
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
    rig.run(&["init"]).code(0);
    run(restic(&rig, "docs").args(["backup", &docs, "--tag", "old"])).code(0);
    for text in ["one", "two"] {
        rig.write("docs/letter.txt", text);
        rig.run(&["backup", "docs"]).code(0);
    }
    rig
}

fn points(rig: &Rig) -> Vec<Value> {
    let list = rig.run(&["snapshots", "docs", "--json"]).code(0).json();
    list["services"][0]["snapshots"].as_array().unwrap().clone()
}

fn id(point: &Value) -> &str {
    point["snapshot"].as_str().unwrap()
}

#[test]
fn points_are_pinned_and_unpinned() {
    let rig = host();
    let all = points(&rig);
    let first = all[1]["name"].as_str().unwrap();
    rig.run(&["pin", "docs", first, "latest"]).code(0).says("is pinned");
    let pinned = |rig: &Rig| -> Vec<bool> {
        points(rig).iter().map(|point| point["pinned"] == true).collect()
    };
    assert_eq!(pinned(&rig), [false, true, true]);
    rig.run(&["snapshots", "docs"]).code(0).says("pinned");
    let json = rig.run(&["unpin", "docs", "latest", "--json"]).code(0).json();
    assert_eq!(json["pinned"], false);
    assert_eq!(pinned(&rig), [false, true, false]);
    // All or none: restic's snapshot is no point.
    rig.run(&["pin", "docs", "latest", id(&all[0])]).code(1).complains("no committed point");
    assert_eq!(pinned(&rig), [false, true, false]);
    rig.run(&["pin", "docs", "ffffffff"]).code(1);
}

#[test]
fn a_tagged_point_stays_the_point_it_is() {
    let rig = host();
    let before = points(&rig);
    let said = rig.run(&["tag", "docs", "latest", id(&before[1]), "--add", "b,a"]).code(0);
    said.says("has a, b");
    rig.run(&["tag", "docs", "latest", "--remove", "b", "--add", "c"]).code(0).says("has a, c");
    rig.run(&["snapshots", "docs"]).code(0).says("#a, #c");
    let after = points(&rig);
    assert_eq!(after[2]["tags"], json!(["a", "c"]));
    assert_eq!(after[1]["tags"], json!(["a", "b"]));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((id(before), &before["head"]), (id(after), &after["head"]));
        assert_eq!((&before["committed"], &after["missing"]), (&after["committed"], &json!(false)));
    }
    rig.run(&["tag", "docs", "latest", "--set", "only"]).code(0).says("has only");
    rig.run(&["tag", "docs", "latest", "--remove", "only"]).code(0).says("has no tags");
    rig.run(&["check", "docs"]).code(0);
    rig.run(&["restore", "docs", "--target", rig.path("again").to_str().unwrap()]).code(0);
    for bad in ["mainstay:head", " x", "a\nb"] {
        rig.run(&["tag", "docs", "latest", "--add", bad]).code(1).complains("tag");
    }
    rig.run(&["tag", "docs", "latest"]).code(1);
    rig.run(&["tag", "docs", "latest", "--add", "x", "--set", "y"]).code(1);
}

#[test]
fn a_snapshot_of_restic_is_rewritten_as_restic_does() {
    let rig = host();
    let theirs = points(&rig)[0].clone();
    let json = rig.run(&["tag", "docs", id(&theirs), "--add", "new", "--json"]).code(0).json();
    assert_eq!(json["snapshots"][0]["tags"], json!(["new", "old"]));
    assert_eq!(json["snapshots"][0]["before"], theirs["snapshot"]);
    let now = points(&rig)[0].clone();
    assert_eq!(json["snapshots"][0]["snapshot"], now["snapshot"]);
    assert_eq!((points(&rig).len(), &now["tags"]), (3, &json!(["new", "old"])));
    let mut command = restic(&rig, "docs");
    let list = run(command.args(["snapshots", "--json", "--tag", "new"])).code(0).json();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["original"]), (1, &theirs["snapshot"]));
    // Again: what is there is what was asked for.
    let same = rig.run(&["tag", "docs", id(&now), "--add", "new", "--json"]).code(0).json();
    assert_eq!(same["snapshots"][0]["snapshot"], now["snapshot"]);
    // And once more: the first of all stays the original.
    rig.run(&["tag", "docs", id(&now), "--remove", "old"]).code(0);
    let file = rig.run(&["cat", "docs", "snapshot", id(&points(&rig)[0])]).code(0).json();
    assert_eq!(file["original"], theirs["snapshot"]);
    run(restic(&rig, "docs").args(["check", "--read-data"])).code(0);
}
