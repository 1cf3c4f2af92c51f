//! Databases that belong to somebody else, who may have put something in the way; and what root leaves
//! beside them.

use super::{commit, commits, connect, create};
use crate::not_shown::not_shown;
use crate::sink::DirSink;
use crate::support::{Bench, service};
use mainstay_engines::sqlite::log::{Held, wal_path};
use mainstay_engines::{Engine, Error, open};
use model::{Class, Classify, ServiceName};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user who is not root.
const NOBODY: u32 = 65_534;

fn engine(database: &Path) -> Box<dyn Engine> {
    let definition = service(&format!("engine = 'sqlite'\npath = '{}'", database.display()));
    open(&ServiceName::new("app").expect("a name"), &definition).expect("the engine")
}

fn capture(bench: &Bench, database: &Path) -> Result<(), Error> {
    let _ = fs::remove_dir_all(bench.path("snapshot"));
    let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
    engine(database).capture(&bench.cx(), &mut sink).map(|_| ())
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(database);
    path.push(suffix);
    path.into()
}

/// A database that was closed well, in a directory of its own.
fn closed(bench: &Bench, mode: &str) -> PathBuf {
    let dir = bench.path("data");
    fs::create_dir_all(&dir).expect("data");
    let database = dir.join("app.db");
    create(&database, mode);
    let mut writer = connect(&database);
    commit(&mut writer);
    writer.close().expect("close");
    database
}

/// Every way to open it is refused, with the file's name, and the other file is as it was.
#[track_caller]
fn refused(bench: &Bench, database: &Path, named: &Path, what: &str) {
    let ways: [(&str, Result<(), Error>); 3] = [
        ("capture", capture(bench, database)),
        ("hold", Held::open(database).map(|_| ())),
        (
            "settle",
            engine(database).ready_to_replace(&bench.cx(), &engine(database).roots()[0], database),
        ),
    ];
    for (way, result) in ways {
        let error = result.expect_err(way);
        assert_eq!(error.class(), Class::Refused, "{way}: {error}");
        let text = error.to_string();
        assert!(text.contains(&*named.to_string_lossy()) && text.contains(what), "{way}: {text}");
        assert!(error.hint().is_some(), "{way}: {error}");
    }
}

#[test]
fn a_link_where_sqlite_would_write_is_refused() {
    for mode in ["WAL", "DELETE"] {
        for suffix in ["-wal", "-shm", "-journal"] {
            let bench = Bench::new();
            let database = closed(&bench, mode);
            let victim = bench.path("victim");
            for there in [true, false] {
                let link = beside(&database, suffix);
                if there {
                    fs::write(&victim, "of somebody else").expect("victim");
                }
                symlink(&victim, &link).expect("link");
                refused(&bench, &database, &link, "is a symbolic link");
                if there {
                    assert_eq!(fs::read(&victim).expect("victim"), b"of somebody else");
                    fs::remove_file(&victim).expect("remove");
                }
                assert!(!victim.exists());
                fs::remove_file(&link).expect("remove");
            }
            // A pipe would hold up whoever opens it.
            let pipe = beside(&database, suffix);
            let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
            assert!(made.success());
            refused(&bench, &database, &pipe, "is no regular file");
            fs::remove_file(&pipe).expect("remove");
            capture(&bench, &database).expect("nothing is in the way any more");
        }
    }
}

#[test]
fn a_database_behind_a_link_is_refused_and_a_directory_behind_one_is_not() {
    let bench = Bench::new();
    let database = closed(&bench, "WAL");
    let link = bench.path("link.db");
    symlink(&database, &link).expect("link");
    refused(&bench, &link, &link, "is a symbolic link");
    assert!(!beside(&link, "-wal").exists());
    let dir = bench.path("by-another-name");
    symlink(bench.path("data"), &dir).expect("link");
    capture(&bench, &dir.join("app.db")).expect("the directory is the user's to name");
    assert!(Held::open(&dir.join("app.db")).expect("held").is_some());
}

/// Only root can be made to write to what is not its user's.
#[test]
fn root_refuses_what_has_other_names_and_not_what_others_own() {
    if !rustix::process::geteuid().is_root() {
        not_shown("that needs root");
        return;
    }
    let bench = Bench::new();
    let database = closed(&bench, "WAL");
    for path in [database.parent().expect("data"), &database] {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let path = beside(&database, suffix);
        // An application that writes by its group's right has logs of its own.
        fs::write(&path, "").expect("write");
        chown(&path, Some(NOBODY - 1), None).expect("chown");
        capture(&bench, &database).expect("nothing is wrong with it");
        let _ = fs::remove_file(&path);
        let victim = bench.path("victim");
        fs::write(&victim, "of root").expect("victim");
        fs::hard_link(&victim, &path).expect("link");
        refused(&bench, &database, &path, "has another name");
        assert_eq!(fs::read(&victim).expect("victim"), b"of root");
        fs::remove_file(&path).expect("remove");
    }
    capture(&bench, &database).expect("nothing is in the way any more");
}

const WRITE_AS_NOBODY: &str = "MAINSTAY_TEST_SQLITE_WRITE_AS_NOBODY";

/// Runs itself again as the application's user.
#[test]
fn the_application_goes_on_writing_after_root_has_read_its_database() {
    if let Some(database) = std::env::var_os(WRITE_AS_NOBODY) {
        commit(&mut connect(Path::new(&database)));
        return;
    }
    let bench = Bench::new();
    let everybody = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    };
    everybody(bench.dir.path());
    // The build directory may be out of reach for that user.
    let program = bench.path("test-program");
    // By another process: what is open for writing here when another test starts something cannot be run.
    let copied =
        Command::new("cp").arg(std::env::current_exe().expect("this")).arg(&program).status();
    assert!(copied.expect("cp").success());
    everybody(&program);
    let is_root = rustix::process::geteuid().is_root();
    let owner = if is_root { NOBODY } else { rustix::process::geteuid().as_raw() };
    for mode in ["WAL", "DELETE"] {
        let database = closed(&bench, mode);
        let dir = database.parent().expect("data").to_owned();
        if is_root {
            for path in [&dir, &database] {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
            }
        }
        let write = || {
            let mut command = match is_root {
                true => {
                    let mut command = Command::new("setpriv");
                    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
                    command.arg(&program);
                    command
                }
                false => Command::new(&program),
            };
            let name =
                "sqlite::others::the_application_goes_on_writing_after_root_has_read_its_database";
            let output = command
                .args(["--exact", name])
                .env(WRITE_AS_NOBODY, &database)
                .output()
                .expect("run the test within");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{mode}: {text}");
        };
        let owned = || {
            for entry in fs::read_dir(&dir).expect("data").flatten() {
                let uid = entry.metadata().expect("metadata").uid();
                assert_eq!(uid, owner, "{mode}: {}", entry.path().display());
            }
        };
        capture(&bench, &database).expect("capture");
        owned();
        write();
        // While its log is held, as it is where it is shipped, and after.
        let held = Held::open(&database).expect("held");
        assert_eq!(held.is_some(), mode == "WAL");
        assert_eq!(wal_path(&database).exists(), mode == "WAL");
        owned();
        write();
        drop(held);
        capture(&bench, &database).expect("capture");
        owned();
        write();
        assert_eq!(commits(&connect(&database)), 4);
        fs::remove_dir_all(dir).expect("remove");
    }
}
