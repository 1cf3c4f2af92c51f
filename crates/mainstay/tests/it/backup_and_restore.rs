//! Backup, restore and rescue by the command line, with the real restic as the judge.

use crate::rig::{Rig, copy_program, mainstay, restic, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A host with a tree and a database, set up.
fn host() -> Rig {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    rig.write(
        "docs/deep/er/big.bin",
        (0..300_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(),
    );
    rig.write("docs/empty", "");
    std::os::unix::fs::symlink("letter.txt", rig.path("docs/link")).unwrap();
    fs::set_permissions(rig.path("docs/letter.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    let connection = rusqlite::Connection::open(rig.path("shop.db")).unwrap();
    connection.execute_batch("create table orders (n); insert into orders values (7);").unwrap();
    rig.configure(&format!(
        "[service.docs]\nengine = \"files\"\npath = \"{}\"\n\n\
         [service.shop]\nengine = \"sqlite\"\npath = \"{}\"\n",
        rig.path("docs").display(),
        rig.path("shop.db").display(),
    ));
    rig.run(&["init"]).code(0);
    rig
}

/// Fails unless two trees are the same in names, kinds, content and modes.
#[track_caller]
fn same(left: &Path, right: &Path) {
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(left).arg(right)).code(0);
    let listing = |dir: &Path| {
        let words = ["-printf", "%P %M %U %G %T@ %l\n"];
        let said = run(Command::new("find").arg(dir).args(words)).code(0);
        let mut lines: Vec<String> = said.out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(listing(left), listing(right));
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let rig = host();
    let made = rig.run(&["backup", "docs", "--json"]).code(0).json();
    let made = &made["services"][0];
    assert_eq!((&made["service"], &made["files"]), (&"docs".into(), &3.into()), "{made}");
    let point = made["name"].as_str().unwrap().to_owned();
    fs::write(rig.path("docs/letter.txt"), "dear reader, once more\n").unwrap();
    rig.run(&["backup", "docs"]).code(0).says("3 files (1 read)");

    // The judge.
    run(restic(&rig, "docs").args(["check", "--read-data"])).code(0);
    run(restic(&rig, "docs").args(["restore", "latest", "--target"]).arg(rig.path("judge")))
        .code(0);
    let judged = rig.path("judge").join(rig.path("docs").strip_prefix("/").unwrap());
    same(&rig.path("docs"), &judged);

    let target = rig.path("restored");
    let words = ["restore", "docs", "--target", target.to_str().unwrap()];
    let done = rig.run(&words).code(0).says("restored from");
    let restored = fs::canonicalize(&target).unwrap();
    let place =
        [restored.clone(), restored.join("docs")].into_iter().find(|p| p.join("link").exists());
    same(&rig.path("docs"), &place.unwrap_or_else(|| panic!("nothing restored: {done:#?}")));
    // What is there is not overwritten.
    rig.run(&words).code(1);

    // The older point, by name.
    let old = rig.path("old");
    run(rig.command(&["restore", "docs", "--snapshot", &point, "--target"]).arg(&old)).code(0);
    let dumped = rig.run(&["dump", "docs", &letter(&rig), "--snapshot", &point]).code(0);
    assert_eq!(dumped.out, "dear reader\n");

    let list = rig.run(&["snapshots", "docs"]).code(0).says(&point).says("head");
    assert_eq!(list.out.lines().count(), 3, "{list:#?}");
    let list = rig.run(&["snapshots", "--json", "docs"]).code(0).json();
    let snapshots = list["services"][0]["snapshots"].as_array().unwrap().clone();
    assert_eq!(snapshots.len(), 2);
    assert_eq!((&snapshots[0]["head"], &snapshots[1]["head"]), (&false.into(), &true.into()));
    rig.run(&["check", "--read-data"]).code(0).says("docs: sound").says("shop: sound");
}

fn letter(rig: &Rig) -> String {
    rig.path("docs/letter.txt").display().to_string()
}

#[test]
fn a_database_comes_back_as_it_was() {
    let rig = host();
    rig.run(&["backup", "shop"]).code(0);
    run(restic(&rig, "shop").args(["check", "--read-data"])).code(0);
    let connection = rusqlite::Connection::open(rig.path("shop.db")).unwrap();
    connection.execute_batch("delete from orders;").unwrap();
    drop(connection);
    rig.run(&["restore", "shop"]).code(1);
    rig.run(&["restore", "shop", "--replace"]).code(0).says("what stood there");
    let connection = rusqlite::Connection::open(rig.path("shop.db")).unwrap();
    let order: i64 = connection.query_row("select n from orders", [], |row| row.get(0)).unwrap();
    assert_eq!(order, 7);
}

#[test]
fn what_cannot_be_read_makes_the_point_incomplete() {
    let rig = host();
    rig.run(&["backup", "docs"]).code(0);
    // A hook that fails after it hides nothing of it.
    let configuration = fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    let hook = "\n[service.docs.hooks]\nafter-backup = \"false\"\n";
    rig.write("mainstay.toml", format!("{configuration}{hook}"));
    // Root can read everything, so somebody else backs up.
    let other = if rustix::process::geteuid().is_root() { Some("65534") } else { None };
    fs::set_permissions(rig.path("docs/letter.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    let said = match other {
        None => rig.run(&["backup", "docs"]),
        Some(user) => {
            run(Command::new("chown").args(["-R", &format!("{user}:{user}")]).arg(rig.path("")))
                .code(0);
            let binary = rig.path("mainstay");
            copy_program(&binary);
            let mut command = Command::new("setpriv");
            command.args([
                &format!("--reuid={user}"),
                &format!("--regid={user}"),
                "--clear-groups",
            ]);
            run(command
                .arg(&binary)
                .args(["backup", "docs", "--config"])
                .arg(rig.path("mainstay.toml")))
        }
    };
    let said = said.code(3).complains("letter.txt").complains("incomplete and not the head");
    said.complains("the hook `after-backup` failed");
    rig.run(&["snapshots", "docs"]).code(0).says("incomplete");
    let list = rig.run(&["snapshots", "--json", "docs"]).code(0).json();
    let heads: Vec<_> = list["services"][0]["snapshots"].as_array().unwrap().iter().collect();
    assert_eq!(heads[0]["head"], true, "{list:#}");
}

#[test]
fn what_restic_adds_is_listed_as_uncommitted() {
    let rig = host();
    rig.run(&["backup", "docs"]).code(0);
    run(restic(&rig, "docs").arg("backup").arg(rig.path("docs/letter.txt"))).code(0);
    rig.run(&["snapshots", "docs"]).code(0).says("uncommitted");
    rig.run(&["check", "docs", "--read-data"]).code(0).says("verified");
    let said = rig.run(&["check", "docs"]).code(0).says("their content not read");
    assert!(!said.out.contains("verified"), "{said:#?}");
}

#[test]
fn each_failure_has_its_exit_code() {
    let rig = host();
    rig.run(&["backup", "nothere"]).code(1).complains("docs, shop");
    let error = rig.run(&["ls", "nothere", "--json"]).code(1).error_json();
    assert_eq!(error["class"], "invalid");
    rig.run(&["restore", "docs", "--target", "/nonexistent/x"])
        .code(1)
        .complains("no recovery point");
    let password = fs::read(rig.path("password")).unwrap();
    rig.write("password", "wrong\n");
    for words in
        [&["backup", "docs"][..], &["snapshots", "docs"], &["ls", "docs"], &["check", "docs"]]
    {
        rig.run(words).code(12).complains("opens no key");
        let mut words = words.to_vec();
        words.push("--json");
        let said = rig.run(&words);
        assert_eq!(said.code, 12, "{said:#?}");
    }
    rig.write("password", password);
    fs::remove_dir_all(rig.path("vault/docs")).unwrap();
    rig.run(&["backup", "docs"]).code(10);
    rig.run(&["snapshots", "docs"]).code(10);
    // A directory that is no repository, and one full of garbage.
    fs::create_dir(rig.path("vault/docs")).unwrap();
    rig.run(&["snapshots", "docs"]).code(10);
    rig.write("vault/docs/config", "garbage");
    let said = rig.run(&["snapshots", "docs"]);
    assert!([1, 12].contains(&said.code) && said.err.starts_with("Error: "), "{said:#?}");
    fs::remove_dir_all(rig.path("vault")).unwrap();
    rig.run(&["backup", "docs"]).code(10);
}

#[test]
fn a_rescue_needs_only_vault_and_key() {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    rig.configure(&format!(
        "[service.docs]\nengine = \"files\"\npath = \"{}\"\n",
        rig.path("docs").display()
    ));
    let made = rig.run(&["init", "--json"]).code(0).json();
    let key = made["recovery-key"].as_str().unwrap().to_uppercase().replace('-', " ");
    rig.run(&["backup", "docs"]).code(0);
    let elsewhere = Rig::new();
    let key = elsewhere.write("key", key);
    let rescue = |words: &[&str]| {
        let mut command = mainstay();
        command.args(["rescue", "--vault"]).arg(rig.path("vault"));
        run(command.arg("--password-file").arg(&key).args(words))
    };
    rescue(&[]).code(0).says("docs");
    assert_eq!(rescue(&["list", "--json"]).code(0).json()["services"][0]["snapshots"], 1);
    let target = |name: &str| elsewhere.path(name).display().to_string();
    let restore = |name: &str| rescue(&["restore", "docs", "--target", &target(name)]);
    let found = |name: &str| {
        let said =
            run(Command::new("find").arg(target(name)).args(["-name", "letter.txt"])).code(0);
        fs::read_to_string(said.out.trim()).unwrap()
    };
    restore("one").code(0);
    assert_eq!(found("one"), "dear reader\n");
    restore("one").code(1);
    // The state objects are lost, or damaged: the snapshot files are enough.
    let state = rig.path("vault/docs/mainstay");
    for object in fs::read_dir(state.join("state")).unwrap().flatten() {
        fs::write(object.path(), "garbage").unwrap();
    }
    restore("two").code(0).complains("restoring the files of the snapshot as they are");
    assert_eq!(found("two"), "dear reader\n");
    fs::remove_dir_all(&state).unwrap();
    restore("three").code(0).complains("is missing");
    assert_eq!(found("three"), "dear reader\n");

    elsewhere.write("key", "not the key");
    rescue(&[]).code(12);
    let mut nowhere = mainstay();
    nowhere.args(["rescue", "--vault"]).arg(elsewhere.path("")).arg("--password-file").arg(&key);
    run(&mut nowhere).code(10).complains("no repository");
}
