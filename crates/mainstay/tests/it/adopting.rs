//! Repositories that restic made come under our care.

use crate::rig::{Rig, restic, run};
use std::fs;

/// A repository that an old restic made is adopted, added to, and raised.
#[test]
fn a_repository_of_format_1_is_adopted_and_raised() {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n".repeat(10_000));
    rig.write("password", "secret\n");
    let docs = rig.path("docs").display().to_string();
    fs::create_dir_all(rig.path("vault/docs")).unwrap();
    run(restic(&rig, "docs").args(["init", "--repository-version", "1"])).code(0);
    run(restic(&rig, "docs").args(["backup", &docs])).code(0);
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
    rig.run(&["init"]).code(0);
    rig.write("docs/second.txt", "the second\n".repeat(10_000));
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["check", "docs", "--read-data"]).code(0);
    run(restic(&rig, "docs").args(["check", "--read-data"])).code(0);
    let version = || {
        let said = run(restic(&rig, "docs").args(["cat", "config"])).code(0).json();
        said["version"].as_u64().unwrap()
    };
    assert_eq!(version(), 1);

    rig.run(&["migrate", "docs", "--dry-run"]).code(0).says("would become format 2");
    assert_eq!(version(), 1);
    rig.run(&["migrate", "docs"]).code(0).says("format 1 has become format 2");
    assert_eq!(version(), 2);
    rig.run(&["migrate", "docs"]).code(0).says("format 2 already");
    // Mixed from here on: compressed packs beside uncompressed ones, for both programs.
    rig.write("docs/third.txt", "the third\n".repeat(10_000));
    rig.run(&["backup", "docs"]).code(0);
    run(restic(&rig, "docs").args(["backup", &docs])).code(0);
    rig.run(&["forget", "docs", "--keep-last", "1", "--prune", "--max-unused", "0%"]).code(0);
    rig.run(&["check", "docs", "--read-data"]).code(0);
    run(restic(&rig, "docs").args(["check", "--read-data"])).code(0);
    for (n, snapshot) in run(restic(&rig, "docs").args(["snapshots", "--json"]))
        .code(0)
        .json()
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let target = rig.path(format!("target-{n}")).display().to_string();
        let id = snapshot["id"].as_str().unwrap();
        rig.run(&["restore", "docs", "--snapshot", id, "--target", &target]).code(0);
        let letter = fs::read(rig.path(format!("target-{n}/letter.txt"))).unwrap();
        assert_eq!(letter, "dear reader\n".repeat(10_000).as_bytes());
    }
}

/// Snapshots of one instant, of hosts, paths and files with odd names.
#[test]
fn snapshots_with_odd_names_and_of_one_instant_are_told_apart() {
    let rig = Rig::new();
    rig.write("password", "secret\n");
    let odd = "docs/odd\nd \"n'ame\u{1b}[31m";
    rig.write(format!("{odd}/f\u{e9}\u{7}"), "at first");
    let docs = rig.path("docs").display().to_string();
    fs::create_dir_all(rig.path("vault/docs")).unwrap();
    run(restic(&rig, "docs").args(["init", "--repository-version", "1"])).code(0);
    let path = rig.path(odd).display().to_string();
    for n in 0..3 {
        fs::write(rig.path(format!("{odd}/n")), n.to_string()).unwrap();
        let backup = ["backup", "--time", "2026-01-01 00:00:00", "--host", "we\nird", &path];
        run(restic(&rig, "docs").args(backup)).code(0);
    }
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
    rig.run(&["init"]).code(0);
    let said = rig.run(&["snapshots", "docs"]).code(0);
    assert!(!said.out.contains('\u{1b}'), "{said:?}");
    let json = rig.run(&["--json", "snapshots", "docs"]).code(0).json();
    let snapshots = json["services"][0]["snapshots"].as_array().unwrap().clone();
    let mut contents = Vec::new();
    for (i, snapshot) in snapshots.iter().enumerate() {
        let name = snapshot["name"].as_str().unwrap();
        assert!(name.starts_with("20260101T000000Z-"), "{name}");
        let target = rig.path(format!("target-{i}"));
        let words = ["restore", "docs", "--snapshot", name, "--target"];
        let said = rig.run(&[&words[..], &[target.to_str().unwrap()]].concat()).code(0);
        assert!(!said.out.contains('\u{1b}'), "{said:?}");
        assert_eq!(fs::read(target.join("f\u{e9}\u{7}")).unwrap(), b"at first");
        contents.push(fs::read_to_string(target.join("n")).unwrap());
        let said = rig.run(&["ls", &format!("docs:{name}")]).code(0);
        assert!(!said.out.contains(['\u{1b}', '\u{7}']), "{said:?}");
    }
    contents.sort();
    assert_eq!(contents, ["0", "1", "2"]);
    // What comes from now on is a point of ours, and one of restic's can go by its name.
    rig.run(&["backup", "docs"]).code(0);
    let name = snapshots[0]["name"].as_str().unwrap();
    rig.run(&["forget", "docs", name, "--yes", "--prune"]).code(0);
    rig.run(&["check", "docs", "--read-data"]).code(0);
    run(restic(&rig, "docs").args(["check", "--read-data"])).code(0);
    let left = run(restic(&rig, "docs").args(["snapshots", "--json"])).code(0).json();
    assert_eq!(left.as_array().unwrap().len(), 3, "{left}");
    rig.run(&["migrate", "docs"]).code(0);
    rig.run(&["check", "docs", "--read-data"]).code(0);
}
