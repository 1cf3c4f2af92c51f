//! Copies of live, crashed, locked and impossible databases.

use super::{Writer, commit, commits, commits_in, connect, create, engine, listing};
use crate::sink::DirSink;
use crate::support::{Bench, eventually};
use jiff::Timestamp;
use mainstay_engines::{Captured, Error};
use model::{Class, Classify};
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Captures into a new place, and returns it.
fn capture(bench: &Bench, database: &Path) -> Result<(Captured, PathBuf), Error> {
    let dir = tempfile::tempdir_in(bench.dir.path()).expect("a directory").keep();
    let mut sink = DirSink::new(dir, &bench.cancel);
    let captured = engine(database).capture(&bench.cx(), &mut sink)?;
    assert_eq!(sink.calls, ["/sqlite/app.db"]);
    assert_eq!(fs::read_dir(&bench.scratch).expect("scratch").count(), 0, "scratch is left");
    Ok((captured, sink.at("/sqlite/app.db")))
}

fn data(bench: &Bench, journal_mode: &str) -> PathBuf {
    fs::create_dir(bench.path("data")).expect("data");
    let database = bench.path("data/app.db");
    create(&database, journal_mode);
    database
}

/// Twenty copies while another process commits as fast as it can.
fn twenty_rounds(journal_mode: &str) {
    let bench = Bench::new();
    let database = data(&bench, journal_mode);
    let writer = Writer::committing(&database);
    let look = connect(&database);
    let newest = || -> u64 {
        let newest: i64 = look
            .query_row("SELECT coalesce(max(n), 0) FROM a", [], |row| row.get(0))
            .expect("look");
        u64::try_from(newest).expect("a count")
    };
    let mut last = 0;
    for round in 0..20 {
        eventually("commits go on", || newest() > last + 5);
        let before = newest();
        let (captured, copy) = capture(&bench, &database).expect("capture");
        let found = commits_in(&copy);
        assert!(found >= before, "round {round}: {found} where {before} were committed");
        assert!(captured.source_time <= Timestamp::now());
        last = before;
    }
    writer.kill();
    assert!(commits(&look) >= last);
}

#[test]
fn twenty_copies_of_a_wal_database_under_writes_hold_every_commit_before() {
    twenty_rounds("WAL");
}

#[test]
fn twenty_copies_of_a_rollback_database_under_writes_hold_every_commit_before() {
    twenty_rounds("DELETE");
}

#[test]
fn a_killed_writers_log_is_captured_and_left_as_it_is() {
    let bench = Bench::new();
    let database = data(&bench, "WAL");
    let writer = Writer::committing(&database);
    let wal = bench.path("data/app.db-wal");
    eventually("a log", || fs::metadata(&wal).is_ok_and(|meta| meta.len() > 100_000));
    writer.kill();
    let wal_size = fs::metadata(&wal).expect("the log survives").len();
    let (_, copy) = capture(&bench, &database).expect("capture");
    assert_eq!(fs::metadata(&wal).expect("the log").len(), wal_size, "it was checkpointed");
    let in_copy = commits_in(&copy);
    assert!(in_copy > 0);
    assert_eq!(in_copy, commits(&connect(&database)), "the log's commits are in the copy");
}

#[test]
fn a_killed_writers_half_transaction_is_not_captured() {
    for mode in ["DELETE", "WAL"] {
        let bench = Bench::new();
        let database = data(&bench, mode);
        let mut connection = connect(&database);
        for _ in 0..200 {
            commit(&mut connection);
        }
        connection.close().expect("close");
        let writer = Writer::spilling(&database);
        eventually("a half transaction", || bench.path("data/app.db.spilled").exists());
        writer.kill();
        if mode == "DELETE" {
            let journal = fs::metadata(bench.path("data/app.db-journal")).expect("a hot journal");
            assert!(journal.len() > 100_000, "nothing was spilled");
        }
        let (_, copy) = capture(&bench, &database).expect("capture");
        assert_eq!(commits_in(&copy), 200, "{mode}");
        assert_eq!(commits(&connect(&database)), 200, "{mode}");
    }
}

#[test]
fn a_database_nobody_has_open_is_left_without_new_files() {
    for mode in ["WAL", "DELETE", "PERSIST"] {
        let bench = Bench::new();
        let database = data(&bench, mode);
        commit(&mut connect(&database));
        let before = listing(&bench.path("data"));
        let stamp = fs::metadata(&database).expect("meta").modified().expect("mtime");
        capture(&bench, &database).expect("capture");
        assert_eq!(listing(&bench.path("data")), before, "{mode}");
        assert_eq!(fs::metadata(&database).expect("meta").modified().expect("mtime"), stamp);
    }
}

#[test]
fn unchanged_databases_make_identical_copies_with_their_journal_mode_and_mode_bits() {
    for (mode, version) in [("WAL", 2), ("DELETE", 1)] {
        let bench = Bench::new();
        let database = data(&bench, mode);
        commit(&mut connect(&database));
        fs::set_permissions(&database, fs::Permissions::from_mode(0o640)).expect("chmod");
        let (captured, one) = capture(&bench, &database).expect("capture");
        let (_, two) = capture(&bench, &database).expect("capture");
        let bytes = fs::read(&one).expect("read");
        assert_eq!(bytes, fs::read(&two).expect("read"), "{mode}");
        assert_eq!(bytes[18..20], [version, version], "{mode}");
        assert_eq!(fs::metadata(&one).expect("meta").mode() & 0o7777, 0o640);
        assert_eq!(captured.detail["pages"], bytes.len() as u64 / 4096);
        assert!(captured.engine_version.expect("a version").starts_with("3."));
    }
}

#[test]
fn odd_page_sizes_and_names_are_no_matter() {
    for (page_size, name) in [(512, "app.db"), (65536, "app.db")] {
        let bench = Bench::new();
        let dir = bench.path("odd ?#%41 ü");
        fs::create_dir(&dir).expect("data");
        let database = dir.join(name);
        connect(&database)
            .execute_batch(&format!("PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = FULL"))
            .expect("page size");
        let connection = connect(&database);
        connection
            .execute_batch(&format!("PRAGMA page_size = {page_size}; CREATE TABLE x (y)"))
            .expect("create");
        connection
            .execute_batch(
                "CREATE TABLE a (n INTEGER PRIMARY KEY, pad); CREATE TABLE b (n INTEGER, pad)",
            )
            .expect("tables");
        connection.close().expect("close");
        for _ in 0..50 {
            commit(&mut connect(&database));
        }
        let (captured, copy) = capture(&bench, &database).expect("capture");
        assert_eq!(captured.detail["page-size"], page_size);
        assert_eq!(commits_in(&copy), 50);
    }
}

#[test]
fn what_is_no_database_is_refused_by_name() {
    let bench = Bench::new();
    fs::create_dir(bench.path("data")).expect("data");
    let database = bench.path("data/app.db");
    let refusal = || {
        let error = capture(&bench, &database).expect_err("no database");
        assert!(error.to_string().contains("app.db"), "{error}");
        assert!(error.hint().is_some(), "{error}");
        error
    };
    let error = refusal();
    assert!(error.to_string().starts_with("cannot read"), "{error}");
    assert!(listing(&bench.path("data")).is_empty(), "it was made");

    fs::create_dir(&database).expect("a directory");
    assert!(refusal().to_string().contains("is not a file"));
    fs::remove_dir(&database).expect("remove");

    fs::write(&database, "").expect("empty");
    assert!(refusal().to_string().contains("is empty"));

    fs::write(&database, vec![0x5a; 8192]).expect("noise");
    let error = refusal();
    assert!(error.to_string().contains("not a SQLite database, or it is encrypted"), "{error}");
    assert_eq!(error.class(), Class::Invalid);
    assert_eq!(listing(&bench.path("data")), ["app.db 8192"]);
}

#[test]
fn a_source_with_a_damaged_schema_is_no_point() {
    let bench = Bench::new();
    let database = data(&bench, "DELETE");
    commit(&mut connect(&database));
    let mut bytes = fs::read(&database).expect("read");
    bytes[100..4096].fill(0xff);
    fs::write(&database, bytes).expect("damage");
    let error = capture(&bench, &database).expect_err("damaged");
    assert_eq!(error.class(), Class::Corrupt, "{error}");
}

#[test]
fn an_exclusive_lock_is_waited_for_until_it_is_given_up_or_cancelled() {
    let bench = Bench::new();
    let database = data(&bench, "DELETE");
    commit(&mut connect(&database));
    let holder = connect(&database);
    holder.execute_batch("BEGIN EXCLUSIVE").expect("lock");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| capture(&bench, &database));
        // It waits in the phase of copying; then the lock goes.
        eventually("it began", || !waiting.is_finished());
        holder.execute_batch("ROLLBACK").expect("unlock");
        let (_, copy) = waiting.join().expect("no panic").expect("a capture after the wait");
        assert_eq!(commits_in(&copy), 1);
    });

    holder.execute_batch("BEGIN EXCLUSIVE").expect("lock");
    let began = Instant::now();
    let error = capture(&bench, &database).expect_err("locked for ever");
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(error.to_string().contains("locked"), "{error}");
    assert!(error.hint().expect("a hint").contains("quiesce"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());

    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| capture(&bench, &database));
        bench.cancel.cancel();
        let began = Instant::now();
        let error = waiting.join().expect("no panic").expect_err("cancelled");
        assert_eq!(error.class(), Class::Cancelled);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    });
}

#[test]
fn readers_and_writers_of_a_rollback_database_are_never_refused_for_a_copy() {
    let bench = Bench::new();
    let database = data(&bench, "DELETE");
    let mut writer = connect(&database);
    // 60 MB, so that a copy takes a while.
    let fill = writer.transaction().expect("begin");
    for n in 1..=3000 {
        fill.execute("INSERT INTO a VALUES (?1, randomblob(20000))", [n]).expect("fill");
        fill.execute("INSERT INTO b VALUES (?1, 'row ' || ?1)", [n]).expect("fill");
    }
    fill.commit().expect("commit");
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| capture(&bench, &database));
        let mut longest = Duration::ZERO;
        while !copying.is_finished() {
            let began = Instant::now();
            // Panics if the database is busy for longer than the 5 s it waits.
            commit(&mut writer);
            longest = longest.max(began.elapsed());
        }
        let (_, copy) = copying.join().expect("no panic").expect("capture");
        assert!(commits_in(&copy) >= 3000);
        assert!(longest < Duration::from_secs(4), "a commit took {longest:?}");
    });
}

#[test]
fn a_dead_source_connection_leaves_no_lock() {
    let bench = Bench::new();
    let database = data(&bench, "DELETE");
    commit(&mut connect(&database));
    capture(&bench, &database).expect("capture");
    let other = Connection::open(&database).expect("open");
    other.execute_batch("BEGIN EXCLUSIVE; ROLLBACK").expect("nobody holds a lock");
}

const UNPRIVILEGED: &str = "MAINSTAY_TEST_SQLITE_UNPRIVILEGED";

/// Runs itself again as a user who may read the database and nothing else.
#[test]
fn a_reader_without_rights_to_write_copies_or_says_what_it_needs() {
    if let Some(database) = std::env::var_os(UNPRIVILEGED) {
        let bench = Bench::new();
        let database = PathBuf::from(database);
        let wal = database.parent().is_some_and(|dir| dir.ends_with("wal"));
        let captured = capture(&bench, &database);
        if wal {
            let error = captured.expect_err("nobody made the -shm file, and it cannot");
            assert!(error.hint().expect("a hint").contains("write to its directory"), "{error}");
        } else {
            let (_, copy) = captured.expect("a rollback database can be read");
            assert_eq!(commits_in(&copy), 1);
        }
        return;
    }
    let bench = Bench::new();
    let everybody = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    everybody(bench.dir.path(), 0o755);
    // The build directory may be out of reach for that user.
    let program = bench.path("test-program");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("copy");
    everybody(&program, 0o755);
    for mode in ["wal", "delete"] {
        let dir = bench.path(mode);
        fs::create_dir(&dir).expect("data");
        let database = dir.join("app.db");
        create(&database, mode);
        commit(&mut connect(&database));
        everybody(&database, 0o444);
        everybody(&dir, 0o555);
        let before = listing(&dir);
        let mut command = match rustix::process::geteuid().is_root() {
            true => {
                let mut command = std::process::Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
                command
            }
            false => std::process::Command::new(&program),
        };
        let name = "sqlite::capture::a_reader_without_rights_to_write_copies_or_says_what_it_needs";
        let output = command
            .args(["--exact", name])
            .env(UNPRIVILEGED, &database)
            .env("TMPDIR", std::env::temp_dir())
            .output()
            .expect("run the test within");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{mode}: {text}");
        assert!(text.contains("1 passed"), "{mode}: nothing was run within: {text}");
        assert_eq!(listing(&dir), before, "{mode}");
        everybody(&dir, 0o755);
    }
}
