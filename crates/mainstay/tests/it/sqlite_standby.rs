//! A standby of a SQLite service goes along the log: between two points, past points, and when it
//! takes over.

use crate::dice::rounds;
use crate::sqlite_log::{
    Killed, acknowledged_of, database, files_below, insert, is_stored_by, last, writer_of,
};
use crate::world::{World, journal, wait_for};
use jiff::Timestamp;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

const TAKEOVER: [&str; 5] =
    ["takeover", "docs", "--yes", "--override", "primary-not-fenced=the test has killed it"];

/// Both have joined, and the primary's database is there.
fn world() -> World {
    let world = World::new("sqlite", "");
    fs::write(world.path("password"), "correct horse battery staple\n").unwrap();
    drop(database(&world.path("a/data")));
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    world
}

fn receiver(world: &World, host: &str) -> Killed {
    let mut command = world.command(host, &["wal", "receive", "docs"]);
    Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

#[track_caller]
fn is_stored(world: &World) {
    is_stored_by(&world.path("a/state"));
}

#[track_caller]
fn refresh(world: &World, words: &[&str]) -> Value {
    let mut all = vec!["--json", "refresh", "docs"];
    all.extend(words);
    world.run("b", &all).code(0).json()["services"][0].clone()
}

/// The last number in a copy, without touching it.
#[track_caller]
fn held(world: &World) -> i64 {
    let copy = world.path("look");
    fs::copy(world.path("b/data"), &copy).unwrap();
    last(&copy)
}

fn points(world: &World) -> usize {
    world.points("a").len()
}

#[test]
fn a_refresh_between_two_points_goes_along_the_log() {
    let world = world();
    let connection = database(&world.path("a/data"));
    insert(&connection, 1);
    let mut shipper = receiver(&world, "a");
    is_stored(&world);
    let seeded = refresh(&world, &[]);
    assert_eq!((held(&world), seeded["seeded"].as_bool()), (1, Some(true)));
    for n in 2..=20 {
        insert(&connection, n);
    }
    // Seen as committed before.
    is_stored(&world);
    let before = Timestamp::now();
    is_stored(&world);
    let done = refresh(&world, &[]);
    assert_eq!(held(&world), 20, "{done}");
    assert_eq!(done["fetched-bytes"], 0, "nothing comes from a snapshot: {done}");
    assert!(done["log"]["objects"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(points(&world), 1);
    assert!(done["source-time"].as_str() > seeded["source-time"].as_str(), "{done}");
    // What it holds is told by the vault, so that the primary's host can watch it.
    let status = world.status("a");
    let members = status["members"].as_array().unwrap();
    let b = members.iter().find(|member| member["name"] == "b").unwrap();
    assert_eq!(b["holds"], done["source-time"], "{status}");
    let again = refresh(&world, &[]);
    assert_eq!(again["unchanged"], true, "{again}");

    // A point that was made meanwhile is passed on the way, and costs nothing.
    for n in 21..=25 {
        insert(&connection, n);
    }
    world.run("a", &["backup", "docs"]).code(0);
    insert(&connection, 26);
    is_stored(&world);
    let done = refresh(&world, &[]);
    assert_eq!((held(&world), &done["fetched-bytes"]), (26, &Value::from(0)), "{done}");
    let head = world.head("a").unwrap();
    assert_eq!(done["to"].as_str().unwrap(), head);

    // A point, or a time, that was named is gone back to.
    let first = world.points("a")[0]["snapshot"].as_str().unwrap().to_owned();
    refresh(&world, &["--snapshot", &first]);
    assert_eq!(held(&world), 1);
    refresh(&world, &[]);
    assert_eq!(held(&world), 26);
    refresh(&world, &["--at", &before.to_string()]);
    assert_eq!(held(&world), 20);
    refresh(&world, &[]);

    // The log begins anew, and a new point bridges it.
    shipper.kill();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    insert(&connection, 27);
    let mut shipper = receiver(&world, "a");
    is_stored(&world);
    insert(&connection, 28);
    is_stored(&world);
    let done = refresh(&world, &[]);
    assert_eq!(held(&world), 28, "{done}");
    shipper.kill();

    // Who writes to it is found out as ever.
    let copy = rusqlite::Connection::open(world.path("b/data")).unwrap();
    copy.execute_batch("INSERT INTO t VALUES (99, x'00')").unwrap();
    drop(copy);
    world.run("b", &["refresh", "docs"]).code(1).complains("was written to");
    world.run("b", &TAKEOVER).code(1);
    world.run("b", &["refresh", "docs", "--reseed"]).code(0);
    assert_eq!(held(&world), 28);
}

/// What stands in its own place is what a snapshot holds: between two of them a copy is a copy.
#[test]
fn a_standby_is_restored_to_a_point_and_not_to_a_time_between_two() {
    let world = world();
    let connection = database(&world.path("a/data"));
    insert(&connection, 1);
    world.run("a", &["wal", "receive", "docs", "--once"]).code(0);
    insert(&connection, 2);
    world.run("a", &["wal", "receive", "docs", "--once"]).code(0);
    let time = Timestamp::now().to_string();
    insert(&connection, 3);
    world.run("a", &["wal", "receive", "docs", "--once"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    assert_eq!(held(&world), 3);
    world.run("b", &["offline", "docs"]).code(0);
    let words = ["restore", "docs", "--at", &time, "--replace"];
    world.run("b", &words).code(1).complains("b is a standby of docs").complains("--target DIR");
    assert_eq!(held(&world), 3, "it was touched");
    let target = world.path("copy");
    let words = ["--json", "restore", "docs", "--at", &time, "--target", target.to_str().unwrap()];
    let done = world.run("b", &words).code(0).json();
    let copy = PathBuf::from(done["targets"][0].as_str().unwrap());
    assert_eq!(last(&copy), 2, "{done}");
    // The other way that the hint names.
    world.run("b", &["refresh", "docs", "--at", &time]).code(0);
    assert_eq!(held(&world), 2);
}

#[test]
fn a_scrub_says_what_it_could_check() {
    let world = world();
    let connection = database(&world.path("a/data"));
    for n in 1..=2 {
        insert(&connection, n);
        world.run("a", &["wal", "receive", "docs", "--once"]).code(0);
        refresh(&world, &[]);
    }
    let scrub = || {
        let said = world.run("b", &["--json", "scrub", "docs"]).code(0);
        said.json()["services"][0].clone()
    };
    let done = scrub();
    assert_eq!((&done["judged-by"], held(&world)), (&"engine".into(), 2), "{done}");
    assert!(done["findings"].to_string().contains("integrity"), "{done}");
    let said = world.run("b", &["scrub", "docs"]).code(0).says("its engine finds the copy sound");
    assert!(!said.out.contains("every byte"), "{said:#?}");
    world.run("b", &["status", "docs"]).says("its bytes were not compared");
    // A point alone is compared byte by byte.
    let point = world.points("a")[0]["snapshot"].as_str().unwrap().to_owned();
    refresh(&world, &["--snapshot", &point]);
    let done = scrub();
    assert_eq!(done["judged-by"], "snapshot", "{done}");
    world.run("b", &["status", "docs"]).says("every byte of the copy is right");
}

#[test]
fn whatever_a_refresh_along_the_log_is_killed_in_the_copy_is_old_or_new() {
    let world = world();
    let connection = database(&world.path("a/data"));
    let mut n = 0;
    let mut more = || {
        n += 1;
        insert(&connection, n);
        world.run("a", &["wal", "receive", "docs", "--once"]).code(0);
        n
    };
    more();
    refresh(&world, &[]);
    more();
    refresh(&world, &[]);
    let dirs = world.operations("b");
    let lines: Vec<String> = journal(dirs.last().unwrap())
        .iter()
        .filter_map(|line| Some(format!("{}:{}", line["step"].as_str()?, line["event"].as_str()?)))
        .collect();
    assert!(lines.contains(&"replay:done".to_owned()), "{lines:?}");
    for at in &lines {
        let n = more();
        let mut command = world.command("b", &["refresh", "docs"]);
        let output = command.env("MAINSTAY_TEST_KILL_AT", at).output().unwrap();
        assert_eq!(output.status.code(), Some(137), "{at}");
        let here = held(&world);
        assert!(here == n || here == n - 1, "{at}: {here} of {n}");
        world.run("b", &["refresh", "docs"]).code(0);
        assert_eq!(held(&world), n, "{at}");
        assert_eq!(world.staging(), [] as [PathBuf; 0], "{at}");
        world.run("b", &["refresh", "docs"]).code(0).says("already");
    }
}

#[test]
fn a_takeover_after_a_kill_loses_a_second_and_not_a_schedule() {
    let mut worst = 0;
    for round in 0..rounds() {
        let world = world();
        let path = world.path("a/data");
        let mut shipper = receiver(&world, "a");
        let mut writer = writer_of(&path);
        wait_for("it writes", || !acknowledged_of(&path).is_empty());
        is_stored(&world);
        world.run("b", &["refresh", "docs"]).code(0);
        is_stored(&world);
        if round % 2 == 1 {
            world.run("b", &["refresh", "docs"]).code(0);
        }
        let moment = Timestamp::now().as_microsecond().unsigned_abs().wrapping_mul(2_654_435_761);
        std::thread::sleep(Duration::from_millis(200 + moment % 1500));
        // The host is gone at once.
        let killed = Timestamp::now().as_millisecond();
        shipper.kill();
        writer.kill();
        let stored = fs::read_to_string(world.path("a/state/services/docs/log-pushed")).unwrap();
        let stored: Timestamp = stored.parse().unwrap();
        let said = world.run("b", &["--json", "takeover", "docs", "--dry-run"]);
        drop(said);
        let mut words = vec!["--json"];
        words.extend(TAKEOVER);
        let said = world.run("b", &words).code(0).json();
        let here = last(&world.path("b/data"));
        let acknowledged = acknowledged_of(&path);
        // All that was said to be in the vault is here. What was not is as much as a slow machine
        // ships late.
        let shipped = acknowledged.iter().rfind(|(_, time)| *time < stored.as_millisecond());
        let shipped = shipped.map_or(0, |(n, _)| *n);
        assert!(shipped > 0 && shipped <= here, "{shipped} were stored, {here} are here: {said}");
        let lost = acknowledged.iter().find(|(n, time)| *n > here && *time <= killed);
        let lost = lost.map_or(0, |(_, time)| killed - time);
        worst = worst.max(lost);
        assert!(lost <= 10_000, "{lost} ms were lost: {said}");
        // What was shown before it was confirmed is what it became.
        let told = &said["assessment"]["loss"]["kept-until"];
        let told: Timestamp = told.as_str().unwrap().parse().unwrap();
        let before = acknowledged.iter().filter(|(_, time)| *time < told.as_millisecond());
        let before = i64::try_from(before.count()).unwrap();
        assert!(before <= here, "{told}, and {here}: {said}");
    }
    println!("the worst loss was {worst} ms");
}

/// Objects of the log that hold something.
fn objects(world: &World) -> Vec<PathBuf> {
    let mut found = files_below(&world.path("vault/docs/mainstay/log"));
    found.retain(|file| !file.to_string_lossy().contains(".u@"));
    found
}

#[track_caller]
fn damage(files: &[PathBuf]) {
    assert!(!files.is_empty(), "nothing was shipped");
    for file in files {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x5a;
        fs::write(file, bytes).unwrap();
    }
}

#[test]
fn a_damaged_object_of_the_log_keeps_nobody_from_what_is_sound() {
    let world = world();
    let connection = database(&world.path("a/data"));
    let ship = |n| {
        let before = objects(&world);
        insert(&connection, n);
        world.run("a", &["wal", "receive", "docs", "--once"]).code(0);
        let mut new = objects(&world);
        new.retain(|file| !before.contains(file));
        new
    };
    ship(1);
    world.run("b", &["refresh", "docs"]).code(0);
    let second = ship(2);
    let third = ship(3);
    damage(&third);
    world.run("b", &["refresh", "docs"]).code(0).complains("nothing after it can be replayed");
    assert_eq!(held(&world), 2);
    // It stays there, whatever becomes of what it came along.
    damage(&second);
    world.run("b", &["refresh", "docs"]).code(0);
    assert_eq!(held(&world), 2);
    // A point leads past it.
    ship(4);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    assert_eq!(held(&world), 4);
    let fifth = ship(5);
    damage(&fifth);
    world.run("b", &TAKEOVER).code(0).complains("nothing after it can be replayed");
    assert_eq!(held(&world), 4);
}

#[test]
fn the_new_primary_ships_its_own_log_and_the_old_one_rejoins() {
    let world = world();
    let connection = database(&world.path("a/data"));
    insert(&connection, 1);
    world.run("a", &["wal", "receive", "docs", "--once"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    insert(&connection, 2);
    world.run("a", &["wal", "receive", "docs", "--once"]).code(0);
    world.run("b", &TAKEOVER).code(0);
    assert_eq!(held(&world), 2);
    // The old one may not write any more, and what it would add is of no history.
    insert(&connection, 3);
    world.run("a", &["wal", "receive", "docs", "--once"]).code(1);
    drop(connection);
    let connection = database(&world.path("b/data"));
    insert(&connection, 3);
    insert(&connection, 4);
    world.run("b", &["wal", "receive", "docs", "--once"]).code(0);
    world.run("a", &["rejoin", "docs"]).code(0);
    insert(&connection, 5);
    world.run("b", &["wal", "receive", "docs", "--once"]).code(0);
    let said = world.run("a", &["--json", "refresh", "docs"]).code(0).json();
    assert_eq!(last(&world.path("a/data")), 5, "{said}");
}
