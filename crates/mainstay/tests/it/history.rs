//! Listing, reading and checking by the command line, of what the real restic has written.

use crate::rig::{Rig, mainstay, restic, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// A host with a tree, set up, and a snapshot that restic made.
fn host() -> Rig {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    let big: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    rig.write("docs/deep/er/big.bin", big);
    std::os::unix::fs::symlink("letter.txt", rig.path("docs/link")).unwrap();
    fs::set_permissions(rig.path("docs/letter.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    let docs = rig.path("docs").display().to_string();
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
    rig.run(&["init"]).code(0);
    run(restic(&rig, "docs").args(["backup", &docs])).code(0);
    rig
}

fn letter(rig: &Rig) -> String {
    rig.path("docs/letter.txt").display().to_string()
}

#[test]
fn files_are_listed_and_dumped() {
    let rig = host();
    let dir = rig.path("docs").display().to_string();
    let list = rig.run(&["ls", "docs", &dir]).code(0).says("-rw-r-----").says("link -> letter.txt");
    assert!(!list.out.contains("big.bin"), "{list:#?}");
    rig.run(&["ls", "--recursive", "docs", &dir]).code(0).says("big.bin");
    let json = rig.run(&["ls", "--json", "docs:latest", &letter(&rig)]).code(0).json();
    assert_eq!(json["entries"][0]["size-bytes"], 12);
    rig.run(&["ls", "docs", "/nowhere"]).code(1).complains("there is no /nowhere");
    rig.run(&["ls", "docs:ffff"]).code(1).complains("ffff");

    let dumped = rig.run(&["dump", "docs", &letter(&rig)]).code(0);
    assert_eq!(dumped.out, "dear reader\n");
    let output = rig.path("letter.copy");
    let letter = letter(&rig);
    let words = ["dump", "docs", &letter, "--output", output.to_str().unwrap()];
    rig.run(&words).code(0);
    assert_eq!(fs::read_to_string(&output).unwrap(), "dear reader\n");
    rig.run(&words).code(1).complains("exists already");
    run(rig.command(&words).arg("--replace")).code(0);
    rig.run(&["dump", "docs", &dir]).code(1).complains("is a directory, not a file");
    rig.run(&["dump", "docs", "/nowhere"]).code(1).complains("there is no");
}

#[test]
fn what_restic_adds_is_listed_as_uncommitted() {
    let rig = host();
    rig.run(&["snapshots", "docs"]).code(0).says("-restic-").says("uncommitted");
    let list = rig.run(&["snapshots", "--json", "docs"]).code(0).json();
    assert_eq!(list["services"][0]["snapshots"][0]["committed"], false);
    rig.run(&["check", "docs", "--read-data"]).code(0).says("docs: sound");
}

#[test]
fn damage_is_found() {
    let rig = host();
    let pack = fs::read_dir(rig.path("vault/docs/data"))
        .unwrap()
        .flatten()
        .find_map(|dir| fs::read_dir(dir.path()).ok()?.flatten().map(|file| file.path()).next());
    let pack = pack.unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[40] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, &bytes).unwrap();
    rig.run(&["check", "docs", "--read-data"]).code(1).says("error");
    fs::remove_file(&pack).unwrap();
    rig.run(&["check", "docs"]).code(1);
    let json = rig.run(&["check", "docs", "--json"]).code(1).json();
    assert_eq!(json["services"][0]["sound"], false);
}

/// One damaged file does not hide the others: two snapshot files, a pack and the state.
#[test]
fn everything_that_is_damaged_is_named() {
    let rig = host();
    rig.run(&["backup", "docs"]).code(0);
    let docs = rig.path("docs").display().to_string();
    run(restic(&rig, "docs").args(["backup", &docs])).code(0);
    let newest = |dir: &str| {
        let items = fs::read_dir(rig.path("vault/docs").join(dir)).unwrap();
        let mut files: Vec<_> = items.map(|item| item.unwrap().path()).collect();
        files.sort();
        files
    };
    let state = newest("mainstay/state").pop().unwrap();
    let pack = newest("data").into_iter().find_map(|dir| {
        let file = fs::read_dir(dir).ok()?.next()?.ok()?.path();
        file.is_file().then_some(file)
    });
    let mut damaged = vec![state, pack.unwrap()];
    damaged.extend(newest("snapshots").into_iter().take(2));
    for file in &damaged {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(file, &bytes).unwrap();
    }
    for words in
        [&["check", "docs", "--read-data"][..], &["check", "docs", "--read-data-subset=1/1"]]
    {
        let mut said = rig.run(words).code(1);
        for file in &damaged {
            said = said.says(file.file_name().unwrap().to_str().unwrap());
        }
    }
    rig.run(&["check", "docs", "--read-data-subset", "9/8"]).code(1).complains("no part");
}

#[test]
fn each_failure_has_its_exit_code() {
    let rig = host();
    let error = rig.run(&["ls", "nothere", "--json"]).code(1).error_json();
    assert_eq!(error["class"], "invalid");
    assert_eq!(error["hint"], "Choose one of: docs.");
    let password = fs::read(rig.path("password")).unwrap();
    rig.write("password", "wrong\n");
    for words in [&["snapshots", "docs"][..], &["ls", "docs"], &["check", "docs"]] {
        rig.run(words).code(12).complains("opens no key");
    }
    let error = rig.run(&["ls", "docs", "--json"]).code(12).error_json();
    assert_eq!((&error["class"], &error["exit-code"]), (&"wrong-password".into(), &12.into()));
    let several = rig.run(&["check", "--json"]).code(12).json();
    assert_eq!(several["services"][0]["error"]["class"], "wrong-password");
    rig.write("password", password);
    // Gone, a directory that is no repository, and one full of garbage.
    fs::remove_dir_all(rig.path("vault/docs")).unwrap();
    rig.run(&["snapshots", "docs"]).code(10);
    fs::create_dir(rig.path("vault/docs")).unwrap();
    rig.run(&["snapshots", "docs"]).code(10);
    rig.write("vault/docs/config", "garbage");
    let said = rig.run(&["snapshots", "docs"]);
    assert!([1, 12].contains(&said.code) && said.err.starts_with("Error: "), "{said:#?}");
    fs::remove_dir_all(rig.path("vault")).unwrap();
    rig.run(&["snapshots", "docs"]).code(10);
}

#[test]
fn a_reader_of_a_file_who_goes_away_is_no_error_message() {
    use std::process::Stdio;
    let rig = host();
    let big = rig.path("docs/deep/er/big.bin").display().to_string();
    let mut child = rig
        .command(&["dump", "docs", &big])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_rescue_needs_only_vault_and_key() {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    let docs = rig.path("docs").display().to_string();
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
    let made = rig.run(&["init", "--json"]).code(0).json();
    let key = made["recovery-key"].as_str().unwrap().to_uppercase().replace('-', " ");
    run(restic(&rig, "docs").args(["backup", &docs])).code(0);
    let elsewhere = Rig::new();
    let key = elsewhere.write("key", key);
    let rescue = |words: &[&str]| {
        let mut command = mainstay();
        command.args(["rescue", "--vault"]).arg(rig.path("vault"));
        run(command.arg("--password-file").arg(&key).args(words))
    };
    rescue(&[]).code(0).says("docs");
    assert_eq!(rescue(&["--json", "list"]).code(0).json()["services"][0]["snapshots"], 1);
    let target = elsewhere.path("one").display().to_string();
    rescue(&["restore", "docs", "--target", &target]).code(0).says("1 file");
    let found = run(Command::new("find").arg(&target).args(["-name", "letter.txt"])).code(0);
    assert_eq!(fs::read_to_string(found.out.trim()).unwrap(), "dear reader\n");
    rescue(&["restore", "docs", "--target", &target]).code(1).complains("exists already");

    elsewhere.write("key", "not the key");
    rescue(&[]).code(12);
    let mut nowhere = mainstay();
    nowhere.args(["rescue", "--vault"]).arg(elsewhere.path("")).arg("--password-file").arg(&key);
    run(&mut nowhere).code(10).complains("no repository");
}
