//! SQLite's judgement of copies.

use super::{commit, connect, create, engine, listing};
use crate::support::Bench;
use mainstay_engines::{Staged, Verdict};
use model::{Class, Classify};
use std::fs;
use std::path::{Path, PathBuf};

fn copy(bench: &Bench, journal_mode: &str) -> PathBuf {
    fs::create_dir(bench.path("copy")).expect("copy");
    let database = bench.path("copy/odd ?#%41.db");
    create(&database, journal_mode);
    for _ in 0..100 {
        commit(&mut connect(&database));
    }
    database
}

fn check(bench: &Bench, copy: &Path) -> Result<Verdict, mainstay_engines::Error> {
    let engine = engine(&bench.path("data/app.db"));
    let staged = Staged {
        root: engine.roots()[0].clone(),
        staged: copy.to_owned(),
        target: bench.path("data/app.db"),
    };
    engine.check(&bench.cx(), &[staged])
}

#[test]
fn a_sound_copy_is_sound_and_stays_as_it_is() {
    for mode in ["WAL", "DELETE"] {
        let bench = Bench::new();
        let copy = copy(&bench, mode);
        let (bytes, names) = (fs::read(&copy).expect("read"), listing(&bench.path("copy")));
        let verdict = check(&bench, &copy).expect("check");
        assert!(verdict.sound, "{verdict:?}");
        assert!(verdict.findings[0].contains("integrity and foreign keys"), "{verdict:?}");
        assert_eq!(fs::read(&copy).expect("read"), bytes);
        assert_eq!(listing(&bench.path("copy")), names, "{mode}");
    }
}

#[test]
fn damage_anywhere_is_found() {
    let bench = Bench::new();
    let copy = copy(&bench, "DELETE");
    let whole = fs::read(&copy).expect("read");
    let pages = whole.len() / 4096;
    assert!(pages > 50);
    for page in [0, 1, 2, 3, pages / 2, pages - 1] {
        let mut damaged = whole.clone();
        // The head of a page, where its structure is.
        let begin = page * 4096 + if page == 0 { 100 } else { 0 };
        damaged[begin..begin + 64].fill(0xa5);
        fs::write(&copy, &damaged).expect("damage");
        let verdict = check(&bench, &copy).expect("a verdict");
        assert!(!verdict.sound, "page {page}: {verdict:?}");
    }
    for keep in [0, 1, 99, 4096, whole.len() / 2, whole.len() - 4096] {
        fs::write(&copy, &whole[..keep]).expect("truncate");
        let verdict = check(&bench, &copy).expect("a verdict");
        assert!(!verdict.sound, "{keep} bytes: {verdict:?}");
    }
}

#[test]
fn a_copy_that_somebody_opened_since_is_not_vouched_for() {
    let bench = Bench::new();
    let copy = copy(&bench, "WAL");
    let mut application = connect(&copy);
    commit(&mut application);
    let verdict = check(&bench, &copy).expect("check");
    assert!(!verdict.sound && verdict.findings[0].contains("-wal"), "{verdict:?}");
    drop(application);
    assert!(check(&bench, &copy).expect("check").sound);
}

#[test]
fn what_only_the_application_can_check_is_named() {
    let bench = Bench::new();
    let copy = copy(&bench, "DELETE");
    let connection = connect(&copy);
    connection
        .execute_batch(
            "PRAGMA writable_schema = ON;
             CREATE TABLE c (x TEXT COLLATE nocase);
             CREATE INDEX c_x ON c (x);
             UPDATE sqlite_schema SET sql = replace(sql, 'nocase', 'klingon');",
        )
        .expect("a collation that SQLite has not");
    connection.close().expect("close");
    let verdict = check(&bench, &copy).expect("check");
    assert!(verdict.sound, "{verdict:?}");
    let all = verdict.findings.join("\n");
    assert!(all.contains("klingon") && all.contains("\"c\""), "{all}");
    // The other tables are still judged.
    let mut bytes = fs::read(&copy).expect("read");
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 64].fill(0xa5);
    fs::write(&copy, bytes).expect("damage");
    assert!(!check(&bench, &copy).expect("check").sound);
}

#[test]
fn rows_that_refer_to_nothing_are_named() {
    let bench = Bench::new();
    let copy = copy(&bench, "DELETE");
    let connection = connect(&copy);
    connection
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             CREATE TABLE child (a INTEGER REFERENCES a (n));
             INSERT INTO child VALUES (77), (1000000);",
        )
        .expect("an orphan");
    connection.close().expect("close");
    let verdict = check(&bench, &copy).expect("check");
    assert!(verdict.sound, "it is how the application left it: {verdict:?}");
    let all = verdict.findings.join("\n");
    assert!(all.contains("row 2 of child refers to no row of a"), "{all}");
}

#[test]
fn a_check_can_be_cancelled() {
    let bench = Bench::new();
    let copy = copy(&bench, "DELETE");
    let mut connection = connect(&copy);
    let fill = connection.transaction().expect("begin");
    for n in 1000..60_000 {
        fill.execute("INSERT INTO b VALUES (?1, 'row ' || ?1)", [n]).expect("fill");
    }
    fill.commit().expect("commit");
    connection.close().expect("close");
    bench.cancel.cancel();
    let error = check(&bench, &copy).expect_err("cancelled");
    assert_eq!(error.class(), Class::Cancelled, "{error}");
}
