//! What changed, where something is, how large it is, and single objects: judged against restic.

use crate::rig::{Rig, Said, restic, run};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A host with a tree that restic captured before and after changes of every kind.
fn host() -> Rig {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    rig.write("docs/gone.txt", "soon");
    rig.write("docs/mode.txt", "the same");
    rig.write("docs/quiet/deep/same.bin", vec![7; 300_000]);
    rig.write("docs/old dir/a.txt", "a");
    let big: Vec<u8> = (0..900_000_u32).flat_map(u32::to_le_bytes).collect();
    rig.write("docs/sub/big.bin", &big);
    rig.write("docs/becomes", "a file");
    fs::hard_link(rig.path("docs/letter.txt"), rig.path("docs/second name.txt")).unwrap();
    std::os::unix::fs::symlink("letter.txt", rig.path("docs/link")).unwrap();
    let docs = rig.path("docs").display().to_string();
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
    rig.run(&["init"]).code(0);
    run(restic(&rig, "docs").args(["backup", &docs])).code(0);
    let mut changed = big;
    changed.truncate(3_000_000);
    rig.write("docs/sub/big.bin", &changed);
    rig.write("docs/new dir/b.txt", "b");
    rig.write("docs/new dir/copy.bin", vec![7; 300_000]);
    fs::remove_dir_all(rig.path("docs/old dir")).unwrap();
    fs::remove_file(rig.path("docs/gone.txt")).unwrap();
    fs::remove_file(rig.path("docs/becomes")).unwrap();
    std::os::unix::fs::symlink("now a link", rig.path("docs/becomes")).unwrap();
    fs::set_permissions(rig.path("docs/mode.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    run(restic(&rig, "docs").args(["backup", &docs])).code(0);
    rig
}

/// The ids of the two snapshots, oldest first.
fn snapshots(rig: &Rig) -> [String; 2] {
    let list = run(restic(rig, "docs").args(["snapshots", "--json"])).code(0).json();
    let mut ids: Vec<(String, String)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|snapshot| (text(&snapshot["time"]), text(&snapshot["id"])))
        .collect();
    ids.sort();
    [ids[0].1.clone(), ids[1].1.clone()]
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// JSON lines: the changes, and the summary.
fn changes(said: &Said) -> (Vec<(String, String)>, Value) {
    let mut changes = Vec::new();
    let mut summary = Value::Null;
    for line in said.out.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        if value["message_type"] == "change" {
            // Which of several things happened comes first.
            changes.push((text(&value["path"]), text(&value["modifier"])[..1].to_owned()));
        } else {
            summary = value;
        }
    }
    changes.sort();
    (changes, summary)
}

#[test]
fn a_diff_is_that_of_restic() {
    let rig = host();
    let [before, after] = snapshots(&rig);
    for metadata in [false, true] {
        let mut ours = vec!["--json", "diff", "docs", &before, &after, "--exact"];
        let mut theirs = vec!["diff", "--json", &before, &after];
        if metadata {
            ours.push("--metadata");
            theirs.push("--metadata");
        }
        let (ours, summary) = changes(&rig.run(&ours).code(0));
        let (mut theirs, expected) = changes(&run(restic(&rig, "docs").args(theirs)).code(0));
        // To restic a directory has other metadata if anything below it changed.
        theirs
            .retain(|change| change.1 != "U" || !change.0.ends_with('/') || ours.contains(change));
        assert_eq!(ours, theirs, "metadata: {metadata}");
        assert!(
            ours.iter().any(|(path, what)| path.ends_with("/mode.txt") && what == "U") == metadata
        );
        for side in ["added", "removed"] {
            assert_eq!(summary[side], expected[side], "{side}");
        }
        assert_eq!(summary["changed_files"], expected["changed_files"]);
    }
    // Backwards, what was added is removed.
    let back = rig.run(&["--json", "diff", "docs", &after, &before, "--exact"]).code(0);
    let theirs = run(restic(&rig, "docs").args(["diff", "--json", &after, &before])).code(0);
    assert_eq!(changes(&back).0, changes(&theirs).0);
}

#[test]
fn a_diff_in_words_of_one_directory() {
    let rig = host();
    let [before, after] = snapshots(&rig);
    let dir = rig.path("docs").display().to_string();
    let said = rig.run(&["diff", "docs", &before[..8], &after[..8], "--path", &dir]).code(0);
    assert!(said.out.contains(&format!("T    {dir}/becomes\n")), "{said:#?}");
    assert!(said.out.contains(&format!("-    {dir}/old dir/\n-    {dir}/old dir/a.txt\n")));
    assert!(said.out.contains(&format!("M    {dir}/sub/big.bin\n")), "{said:#?}");
    assert!(!said.out.contains("quiet") && !said.out.contains("mode.txt"), "{said:#?}");
    said.says("changed: 1 file, 1 of another kind\n")
        .says("added:   2 files, 1 directory, 0 other");
    // A copy of what is elsewhere counts, unless it is looked for.
    let bytes = |words: &[&str]| {
        let mut all = vec!["--json", "diff", "docs", &before, &after];
        all.extend(words);
        changes(&rig.run(&all).code(0)).1["added"]["bytes"].as_u64().unwrap()
    };
    assert_eq!(bytes(&[]) - bytes(&["--exact"]), 300_000);
    let nothing = rig.run(&["diff", "docs", &after, &after]).code(0);
    nothing.says("changed: 0 files\n").says("removed: 0 files, 0 directories");
    rig.run(&["diff", "docs", &before, "latest", "--path", "/nowhere"]).code(1).complains("no");
    rig.run(&["diff", "docs", &before, "ffffffff"]).code(1).complains("ffffffff");
}

#[test]
fn files_are_found_by_name_and_time() {
    let rig = host();
    let [before, after] = snapshots(&rig);
    let dir = rig.path("docs").display().to_string();
    let found = |words: &[&str]| -> Vec<(String, Vec<String>)> {
        let mut all = vec!["--json", "find", "docs"];
        all.extend(words);
        let json = rig.run(&all).json();
        let one = |snapshot: &Value| {
            let matches = snapshot["matches"].as_array().unwrap();
            (text(&snapshot["snapshot"]), matches.iter().map(|m| text(&m["path"])).collect())
        };
        json["snapshots"].as_array().unwrap().iter().map(one).collect()
    };
    let at = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{dir}/{name}")).collect()
    };
    let everywhere = found(&["b*.bin", "gone*"]);
    assert_eq!(everywhere[0], (before.clone(), at(&["gone.txt", "sub/big.bin"])));
    assert_eq!(everywhere[1], (after.clone(), at(&["sub/big.bin"])));
    assert_eq!(found(&["OLD DIR"]), []);
    assert_eq!(found(&["--ignore-case", "OLD DIR"]), [(before.clone(), at(&["old dir"]))]);
    assert_eq!(found(&["dir/*.txt"]), []);
    assert_eq!(found(&["* dir/*.txt", "-s", "latest"]), [(after, at(&["new dir/b.txt"]))]);
    let rooted = format!("{dir}/*/deep/**");
    assert_eq!(found(&[&rooted]).len(), 2);
    assert_eq!(found(&["--newest", "2001-01-01", "*"]), []);
    assert_eq!(found(&["--oldest", "1h ago", "--newest", "1h ago", "*"]), []);
    assert_eq!(found(&["--oldest", "1h ago", "gone.txt"]).len(), 1);
    rig.run(&["find", "docs", "nothing like it"]).code(1).says("nothing found in 2 points");
    rig.run(&["find", "docs", "[a"]).code(1).complains("']'");
    rig.run(&["find", "docs"]).code(1);
    rig.run(&["find", "docs", "--long", "letter.txt"]).code(0).says("-rw-r--r--");

    // The same as restic finds.
    let theirs = run(restic(&rig, "docs").args(["find", "--json", "b.txt"])).code(0).json();
    assert_eq!(theirs[0]["matches"][0]["path"], json!(format!("{dir}/new dir/b.txt")));
    assert_eq!(found(&["b.txt"])[0].1, at(&["new dir/b.txt"]));
}

#[test]
fn files_are_found_by_what_they_are_made_of() {
    let rig = host();
    let [before, _] = snapshots(&rig);
    let dir = rig.path("docs").display().to_string();
    let tree = rig.run(&["cat", "docs", "tree", &format!("{before}:{dir}")]).code(0).json();
    let node = |name: &str| {
        let nodes = tree["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["name"] == name).unwrap().clone()
    };
    let blob = text(&node("gone.txt")["content"][0]);
    rig.run(&["find", "docs", "--blob", &blob[..10]]).code(0).says("/gone.txt");
    let subtree = text(&node("old dir")["subtree"]);
    rig.run(&["find", "docs", "--tree", &subtree]).code(0).says("/old dir");
    assert_eq!(rig.run(&["cat", "docs", "blob", &blob]).code(0).out, "soon");
    let packs = rig.run(&["cat", "docs", "pack"]).code(0).out;
    let with_it: Vec<&str> = packs
        .lines()
        .filter(|id| rig.run(&["cat", "docs", "pack", id]).code(0).out.contains(&blob))
        .collect();
    assert_eq!(with_it.len(), 1, "{packs}");
    let found = rig.run(&["--json", "find", "docs", "--pack", &with_it[0][..16]]).code(0).json();
    let first = &found["snapshots"][0]["matches"];
    let ids = |m: &Value| m["ids"].as_array().unwrap().contains(&json!(blob));
    assert!(first.as_array().unwrap().iter().any(ids), "{found}");
    rig.run(&["find", "docs", "--blob", "0000000000000000"]).code(1);
    rig.run(&["find", "docs", "--blob", "no id"]).code(1).complains("no id");
}

#[test]
fn a_damaged_directory_is_named_and_the_rest_searched() {
    let rig = host();
    // The tree packs are the ones without the content of files.
    let packs = rig.run(&["cat", "docs", "pack"]).code(0).out;
    let trees: Vec<&str> = packs
        .lines()
        .filter(|id| {
            rig.run(&["cat", "docs", "pack", id]).code(0).json()["blobs"][0]["type"] == "tree"
        })
        .collect();
    let pack = rig.path("vault/docs/data").join(&trees[0][..2]).join(trees[0]);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[40] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let said = rig.run(&["find", "docs", "*"]).code(1).complains("not searched: tree");
    assert!(said.out.contains("/docs"), "{said:#?}");
}

#[test]
fn sizes_are_those_of_restic() {
    let rig = host();
    let [before, _] = snapshots(&rig);
    let theirs = |mode: &str, words: &[&str]| {
        let mut command = restic(&rig, "docs");
        run(command.args(["stats", "--json", "--mode", mode]).args(words)).code(0).json()
    };
    for words in [&[][..], &[before.as_str()]] {
        let mut ours = vec!["--json", "stats", "docs"];
        words.iter().for_each(|id| ours.extend(["--snapshot", id]));
        let ours = rig.run(&ours).code(0).json();
        let total = &ours["total"];
        let entries: u64 =
            ["files", "dirs", "others"].iter().map(|what| total[*what].as_u64().unwrap()).sum();
        let restore = theirs("restore-size", words);
        assert_eq!(total["restore-bytes"], restore["total_size"]);
        assert_eq!(json!(entries), restore["total_file_count"]);
        let contents = theirs("files-by-contents", words);
        assert_eq!(ours["unique"]["bytes"], contents["total_size"]);
        // restic takes directories and links together for one file without content.
        let files = ours["unique"]["files"].as_u64().unwrap() + 1;
        assert_eq!(json!(files), contents["total_file_count"]);
        let raw = theirs("raw-data", words);
        let blobs = ours["raw"]["data-blobs"].as_u64().unwrap()
            + ours["raw"]["tree-blobs"].as_u64().unwrap();
        assert_eq!(ours["raw"]["stored-bytes"], raw["total_size"]);
        assert_eq!(json!(blobs), raw["total_blob_count"]);
        // restic, from 0.15 on, counts the 32 bytes that encryption adds to each blob.
        let plain = ours["raw"]["plain-bytes"].as_u64().unwrap() + 32 * blobs;
        assert!(raw.get("total_uncompressed_size").is_none_or(|theirs| *theirs == json!(plain)));
        assert!(ours["compression-ratio"].as_f64().unwrap() > 1.0);
    }
    let all = rig.run(&["stats", "docs", "--each"]).code(0).says("RESTORE SIZE");
    all.says("points            2\n").says("deduplication     1.").says("whole repository");
    assert_eq!(folder_size(&rig.path("vault/docs/data")), {
        rig.run(&["--json", "stats", "docs"]).json()["pack-bytes"].as_u64().unwrap()
    });
}

fn folder_size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => folder_size(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

#[test]
fn single_objects_are_printed_as_restic_prints_them() {
    let rig = host();
    let [before, _] = snapshots(&rig);
    let same = |ours: &[&str], theirs: &[&str]| {
        let mut all = vec!["cat", "docs"];
        all.extend(ours);
        let theirs = run(restic(&rig, "docs").arg("cat").args(theirs)).code(0);
        assert_eq!(rig.run(&all).code(0).json(), theirs.json(), "{ours:?}");
    };
    same(&["config"], &["config"]);
    same(&["snapshot", &before[..8]], &["snapshot", &before]);
    for (kind, dir) in [("index", "index"), ("key", "keys")] {
        let ids = rig.run(&["cat", "docs", kind]).code(0).out;
        let stored = fs::read_dir(rig.path("vault/docs").join(dir)).unwrap().count();
        assert_eq!(ids.lines().count(), stored, "{kind}");
        let id = ids.lines().next().unwrap();
        if kind == "index" {
            same(&[kind, &id[..12]], &[kind, id]);
        } else {
            let key = rig.run(&["cat", "docs", kind, id]).code(0).json();
            assert_eq!(key["kdf"], "scrypt");
        }
    }
    let pack = rig.run(&["cat", "docs", "pack"]).code(0).out.lines().next().unwrap().to_owned();
    let raw = rig.command(&["cat", "docs", "pack", "--raw", &pack]).output().unwrap().stdout;
    let file = rig.path("vault/docs/data").join(&pack[..2]).join(&pack);
    assert!(raw == fs::read(file).unwrap());
    let state = rig.run(&["cat", "docs", "state"]).code(0).json();
    assert_eq!(state["state"]["service"], "docs");
    assert_eq!(rig.run(&["cat", "docs", "state", "1"]).code(0).json()["number"], 1);
    rig.run(&["cat", "docs", "state", "99"]).code(1);
    rig.run(&["cat", "docs", "pack", "ffffffffffff"]).code(1).complains("there is no pack");
    rig.run(&["cat", "docs", "blob", "ff"]).code(1).complains("64");
    rig.run(&["cat", "docs", "tree", "latest:/nowhere"]).code(1).complains("there is no /nowhere");
    assert_eq!(rig.run(&["cat", "docs", "lock"]).code(0).out, "");
}
