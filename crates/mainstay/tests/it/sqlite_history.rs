//! The log of SQLite databases among the history: in a second vault, and when points go.

use crate::rig::{Rig, run};
use crate::sqlite_log::{database, files_below, insert, last};
use engines::sqlite::log::{BatchName, MARK_CONTENT, database_id};
use jiff::{SignedDuration, Timestamp};
use model::{Generation, Secret};
use repository::Repository;
use repository::log::LogStore;
use rusqlite::Connection;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::Local;

const PASSWORD: &str = "correct horse battery staple";

fn rig() -> Rig {
    let rig = Rig::new();
    rig.write("password", format!("{PASSWORD}\n"));
    let path = rig.path("app.db").display().to_string();
    rig.configure(&format!("[service.docs]\nengine = \"sqlite\"\npath = \"{path}\"\n"));
    rig.run(&["init"]).code(0);
    rig
}

fn ship(rig: &Rig) {
    rig.run(&["wal", "receive", "docs", "--once"]).code(0);
}

#[track_caller]
fn restored(rig: &Rig, config: &str, name: &str, words: &[&str]) -> i64 {
    let target = rig.path(name);
    let mut command = rig.command(&["--json", "restore", "docs", "--target"]);
    command.arg(&target).args(words).env("MAINSTAY_CONFIG", rig.path(config));
    let said = run(&mut command).code(0).json();
    let copy = last(Path::new(said["targets"][0].as_str().unwrap()));
    fs::remove_dir_all(target).unwrap();
    copy
}

/// The objects of the log, as files of a vault.
fn log(vault: &Path) -> Vec<PathBuf> {
    let mut found = files_below(&vault.join("docs/mainstay/log"));
    found.iter_mut().for_each(|path| *path = path.file_name().unwrap().into());
    found.sort();
    found
}

/// Ships three rows one by one, and tells a moment at which there were two.
fn ship_three(rig: &Rig, connection: &Connection) -> Timestamp {
    insert(connection, 1);
    ship(rig);
    insert(connection, 2);
    ship(rig);
    let two = Timestamp::now();
    std::thread::sleep(std::time::Duration::from_millis(20));
    insert(connection, 3);
    ship(rig);
    two
}

#[test]
fn a_copy_of_the_vault_restores_any_time() {
    let rig = rig();
    let connection = database(&rig.path("app.db"));
    let two = ship_three(&rig, &connection);
    let second = rig.path("second").display().to_string();
    let copied = rig.run(&["--json", "copy", "docs", "--to", &second]).code(0).json();
    assert!(copied.to_string().contains("log-copied"), "{copied}");
    assert_eq!(log(&rig.path("second")), log(&rig.path("vault")));
    insert(&connection, 4);
    ship(&rig);

    // What comes later is added, and the copy stands by itself.
    rig.run(&["copy", "docs", "--to", &second]).code(0);
    fs::rename(rig.path("vault"), rig.path("gone")).unwrap();
    let config = fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    let config = config.replace("/vault\"", "/second\"").replace("/state\"", "/other-state\"");
    rig.write("second.toml", config);
    assert_eq!(restored(&rig, "second.toml", "end", &[]), 4);
    assert_eq!(restored(&rig, "second.toml", "two", &["--at", &two.to_string()]), 2);
    let mut check = rig.command(&["check", "docs", "--read-data"]);
    run(check.env("MAINSTAY_CONFIG", rig.path("second.toml"))).code(0);
}

/// What a restore would bring back is what is drilled: with the log, which is damaged or whole, and up to a
/// time where one is named.
#[test]
fn a_drill_replays_the_log_as_a_restore_does() {
    let rig = rig();
    let path = rig.path("app.db").display().to_string();
    rig.configure(&format!(
        "[service.docs]\nengine = \"sqlite\"\npath = \"{path}\"\n\
         drill-query = \"SELECT count(*) FROM t\"\n"
    ));
    let connection = database(&rig.path("app.db"));
    let two = ship_three(&rig, &connection);
    let drill = |words: &[&str], code: i32| {
        let words = [&["drill", "docs", "--json"], words].concat();
        rig.run(&words).code(code)
    };
    let newest = drill(&[], 0).json();
    assert_eq!((&newest["answer"], &newest["sound"]), (&json!("3"), &json!(true)), "{newest}");
    let until: Timestamp = newest["log"]["until"].as_str().unwrap().parse().unwrap();
    assert!(until > two, "{newest}");
    rig.run(&["drill", "docs"]).code(0).says("with the log up to");
    let then = drill(&["--at", &two.to_string()], 0).json();
    assert_eq!(then["answer"], "2", "{then}");
    // A snapshot that is named is meant.
    let point = newest["snapshot"].as_str().unwrap();
    let named = drill(&["--snapshot", point], 0).json();
    assert!(named["answer"] == "1" && named["log"].is_null(), "{named}");

    // What would not come back is not proven restorable.
    let mut objects = files_below(&rig.path("vault/docs/mainstay/log"));
    objects.sort_by_key(|path| fs::metadata(path).unwrap().len());
    let damaged = objects.pop().unwrap();
    let good = fs::read(&damaged).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    overwrite(&damaged, &bad);
    drill(&[], 1);
    let sound = || {
        let list = rig.run(&["snapshots", "docs", "--json"]).code(0).json();
        list["services"][0]["snapshots"][0]["drill"]["sound"].clone()
    };
    assert_eq!(sound(), json!(false));
    overwrite(&damaged, &good);
    drill(&[], 0);
    assert_eq!(sound(), json!(true));
    // The oldest that holds anything is gone, and there are others after it.
    let mut names: Vec<PathBuf> = files_below(&rig.path("vault/docs/mainstay/log"));
    names.retain(|path| fs::metadata(path).unwrap().len() > 1000);
    names.sort();
    assert!(names.len() > 1, "{names:?}");
    let gone = names.remove(names.len() - 2);
    fs::remove_file(gone).unwrap();
    let lost = drill(&[], 1).json();
    let found = lost["findings"].to_string();
    assert!(found.contains("is not in the vault") || found.contains("gap"), "{lost}");
    assert_eq!(sound(), json!(false));
}

fn overwrite(path: &Path, bytes: &[u8]) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_log_goes_that_no_point_needs_and_stays_that_one_needs() {
    let rig = rig();
    let connection = database(&rig.path("app.db"));
    let two = ship_three(&rig, &connection);
    // What was read long before any point was made, as if points of that time had been forgotten.
    let storage = Arc::new(Local::open(rig.path("vault/docs")).unwrap());
    let repository = Repository::open(storage, &Secret::new(PASSWORD.to_owned())).unwrap();
    let store = LogStore::new(&repository);
    let old = |minutes: i64, to: u32| {
        let read = Timestamp::now() - SignedDuration::from_mins(minutes);
        let name = BatchName {
            database: database_id("/sqlite/app.db"),
            chain: 7,
            sequence: 0,
            salts: 7,
            from: 0,
            to,
            before: 0,
            whole: true,
            time: BatchName::time_after(read, 0),
        };
        store.push(Generation::FIRST, &name.to_string(), &MARK_CONTENT).unwrap();
        name.to_string()
    };
    let (far, mark, near) = (old(60, 10), old(30, 0), old(5, 10));
    let names = || -> Vec<String> { store.list().unwrap().into_iter().map(|(n, _)| n).collect() };
    let before = names();
    rig.run(&["prune", "docs", "--dry-run"]).code(0).says("2 files of the log");
    assert_eq!(names(), before);
    rig.run(&["prune", "docs"]).code(0).says("2 files of the log");
    let after = names();
    assert!(!after.contains(&far) && !after.contains(&mark), "{after:?}");
    // A clock may have been set back by a little.
    assert!(after.contains(&near), "{after:?}");
    assert_eq!(after.len() + 2, before.len());
    assert_eq!(restored(&rig, "mainstay.toml", "end", &[]), 3);
    assert_eq!(restored(&rig, "mainstay.toml", "two", &["--at", &two.to_string()]), 2);

    // The point that the log begins with may go when a later one is there to begin with.
    rig.run(&["backup", "docs"]).code(0);
    insert(&connection, 4);
    ship(&rig);
    rig.run(&["forget", "docs", "--keep-last", "1", "--prune"]).code(0).says("1 point forgotten");
    assert_eq!(restored(&rig, "mainstay.toml", "later", &[]), 4);
    rig.run(&["check", "docs", "--read-data"]).code(0);
}
