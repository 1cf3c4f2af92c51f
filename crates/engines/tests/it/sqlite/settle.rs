//! What lies beside an old copy when a new one takes its place.

use super::{Writer, commit, commits, commits_in, connect, create, engine, listing};
use crate::support::{Bench, eventually};
use mainstay_engines::Error;
use model::{Class, Classify};
use std::fs;
use std::path::{Path, PathBuf};

fn data(bench: &Bench, journal_mode: &str) -> PathBuf {
    fs::create_dir(bench.path("data")).expect("data");
    let database = bench.path("data/app.db");
    create(&database, journal_mode);
    for _ in 0..50 {
        commit(&mut connect(&database));
    }
    database
}

fn ready(bench: &Bench, target: &Path) -> Result<(), Error> {
    let engine = engine(target);
    engine.ready_to_replace(&bench.cx(), &engine.roots()[0], target)
}

/// Puts a copy with 7 commits in the place of the old one, and looks at it as the application would.
fn replace(bench: &Bench, target: &Path) -> u64 {
    let new = bench.path("new.db");
    create(&new, "WAL");
    for _ in 0..7 {
        commit(&mut connect(&new));
    }
    fs::rename(target, bench.path("old.db")).expect("old away");
    fs::rename(&new, target).expect("new in");
    commits(&connect(target))
}

#[test]
fn the_log_of_a_crashed_application_goes_into_the_old_copy_and_never_into_the_new() {
    let bench = Bench::new();
    let target = data(&bench, "WAL");
    let writer = Writer::committing(&target);
    let wal = bench.path("data/app.db-wal");
    eventually("a log", || fs::metadata(&wal).is_ok_and(|meta| meta.len() > 100_000));
    writer.kill();
    for _ in 0..2 {
        ready(&bench, &target).expect("settled");
        assert_eq!(fs::read_dir(bench.path("data")).expect("list").count(), 1);
    }
    assert_eq!(replace(&bench, &target), 7);
    assert!(commits_in(&bench.path("old.db")) >= 50, "the old copy is whole without its log");
}

#[test]
fn a_half_transaction_is_rolled_back_in_the_old_copy() {
    let bench = Bench::new();
    let target = data(&bench, "DELETE");
    let writer = Writer::spilling(&target);
    eventually("a half transaction", || bench.path("data/app.db.spilled").exists());
    writer.kill();
    fs::remove_file(bench.path("data/app.db.spilled")).expect("remove");
    assert!(bench.path("data/app.db-journal").exists());
    ready(&bench, &target).expect("settled");
    assert_eq!(fs::read_dir(bench.path("data")).expect("list").count(), 1);
    assert_eq!(replace(&bench, &target), 7);
    assert_eq!(commits_in(&bench.path("old.db")), 50);
}

#[test]
fn a_finished_journal_that_was_kept_is_removed() {
    let bench = Bench::new();
    let target = data(&bench, "DELETE");
    let connection = connect(&target);
    connection
        .execute_batch("PRAGMA journal_mode = PERSIST; DELETE FROM b; DELETE FROM a")
        .expect("a journal that stays");
    connection.close().expect("close");
    assert!(fs::metadata(bench.path("data/app.db-journal")).expect("journal").len() > 0);
    ready(&bench, &target).expect("settled");
    assert!(!bench.path("data/app.db-journal").exists());
}

#[test]
fn an_untouched_old_copy_is_left_as_it_is() {
    for mode in ["WAL", "DELETE"] {
        let bench = Bench::new();
        let target = data(&bench, mode);
        let before = (listing(&bench.path("data")), fs::metadata(&target).expect("meta"));
        ready(&bench, &target).expect("settled");
        let after = (listing(&bench.path("data")), fs::metadata(&target).expect("meta"));
        assert_eq!(after.0, before.0, "{mode}");
        assert_eq!(
            after.1.modified().expect("mtime"),
            before.1.modified().expect("mtime"),
            "{mode}"
        );
    }
}

#[test]
fn a_database_in_use_is_not_replaced() {
    for mode in ["WAL", "DELETE"] {
        let bench = Bench::new();
        let target = data(&bench, mode);
        let application = connect(&target);
        let _: i64 =
            application.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).expect("read");
        let error = ready(&bench, &target).expect_err("in use");
        assert_eq!(error.class(), Class::Refused, "{mode}");
        let me = std::process::id().to_string();
        assert!(error.to_string().contains(&me), "{mode}: {error}");
        assert_eq!(commits(&application), 50, "{mode}");
        application.close().expect("close");
        ready(&bench, &target).expect("free");
    }
}

#[test]
fn a_journal_without_its_database_refuses_the_exchange() {
    let bench = Bench::new();
    fs::create_dir(bench.path("data")).expect("data");
    let target = bench.path("data/app.db");
    // Without their database.
    fs::write(bench.path("data/app.db-wal"), [0x37, 0x7f, 0x06, 0x82]).expect("wal");
    let error = ready(&bench, &target).expect_err("an orphan");
    assert_eq!(error.class(), Class::Refused);
    assert!(error.hint().expect("a hint").contains("Move"), "{error}");
    assert!(bench.path("data/app.db-wal").exists(), "nothing is thrown away");
    // Beside something that is no database SQLite itself gives up a log without one whole frame,
    // and then even noise may be replaced: that is what a restore is for.
    fs::write(&target, vec![0x5a; 8192]).expect("noise");
    ready(&bench, &target).expect("replaceable");
    assert_eq!(listing(&bench.path("data")), ["app.db 8192"]);
}
