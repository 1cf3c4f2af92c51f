//! A process writes files and notes which are whole, while it is backed up, refreshed and taken over. It,
//! the worker, or both are killed at a moment that nobody chose. Then a restore, a refresh or a takeover
//! has every file that was noted before the point, and none of them torn.

use crate::dice::{Dice, rounds};
use crate::sqlite_log::Killed;
use crate::world::{World, kill, wait_for, worker_in};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const TAKEOVER: [&str; 5] =
    ["takeover", "docs", "--yes", "--override", "primary-not-fenced=the test has killed it"];

/// Writes file after file, from a number on: each is whole when it gets its name, and is noted then.
const WRITER: &str = r#"
n=$1; cd "$2"
while :; do
    mkdir -p "d$((n % 10))"
    yes "$n" | head -c 3000 > "d$((n % 10))/.new" || true
    mv "d$((n % 10))/.new" "d$((n % 10))/$n"
    echo "$n $(date +%s%3N)" >> "$3"
    n=$((n + 1))
done
"#;

/// What is in a file of this number.
fn wanted(n: u64) -> Vec<u8> {
    format!("{n}\n").into_bytes().into_iter().cycle().take(3000).collect()
}

/// The numbers of a copy's files, each of which is whole.
#[track_caller]
fn numbers(copy: &Path, told: &str) -> Vec<u64> {
    let mut found = Vec::new();
    for dir in fs::read_dir(copy).unwrap().flatten() {
        for file in fs::read_dir(dir.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            let Ok(n) = name.parse() else { continue };
            assert!(fs::read(file.path()).unwrap() == wanted(n), "{told}: {n} is torn");
            found.push(n);
        }
    }
    found.sort_unstable();
    found
}

/// Kills the worker of the operation that runs on a host, if one does.
fn kill_worker(world: &World, host: &str) -> bool {
    let worker = worker_in(&world.path(host).join("state/services/docs/operations"));
    worker.inspect(|pid| kill(*pid)).is_some()
}

#[test]
fn every_file_that_was_backed_up_survives_whoever_is_killed_and_whenever() {
    let mut dice = Dice::new();
    println!("{dice}");
    let world = World::new("files", "");
    world.script("write", WRITER);
    let (mut primary, mut standby) = ("a", "b");
    // What was noted, and when.
    let mut noted: BTreeMap<u64, i64> = BTreeMap::new();
    for n in 1..=1500 {
        let file = world.path(format!("a/data/d{}/{n}", n % 10));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, wanted(n)).unwrap();
        noted.insert(n, 0);
    }
    for host in ["a", "b"] {
        world.run(host, &["init"]).code(0);
    }
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    let (mut work_of, mut victim_of) = (dice.cards(3), dice.cards(3));
    let mut workers = 0;
    for round in 0..rounds() {
        let (work, victim, moment) = (work_of(), victim_of(), dice.below(120));
        let ledger = world.path(format!("ledger-{round}"));
        let next = noted.last_key_value().unwrap().0 + 1_000_000;
        let mut writer = Command::new(world.path("write"));
        writer.arg(next.to_string()).arg(world.path(primary).join("data")).arg(&ledger);
        let writer = writer.stdout(Stdio::null()).stderr(Stdio::null());
        let mut writer = Killed(writer.spawn().unwrap());
        wait_for("it writes", || fs::metadata(&ledger).is_ok_and(|meta| meta.len() > 100));
        let (host, words): (&str, &[&str]) = match work {
            0 => (primary, &["backup", "docs"]),
            1 => (standby, &["refresh", "docs"]),
            _ => (standby, &TAKEOVER),
        };
        let mut command = world.command(host, words);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("it works", || {
            !world.unfinished(host).is_empty() || child.try_wait().unwrap().is_some()
        });
        std::thread::sleep(Duration::from_millis(moment));
        let killed = victim != 0 && kill_worker(&world, host);
        workers += u64::from(killed);
        if victim != 1 {
            writer.kill();
        }
        let done = child.wait().unwrap().success();
        let told = format!("round {round}: {words:?}, victim {victim} after {moment} ms");
        println!("{told}, worker killed: {killed}");
        // A tree that is written to would make an incomplete point now.
        writer.kill();
        if !done {
            // What was begun is brought to its end, or taken back and given again.
            world.run(host, &["recover", "docs"]).code(0);
            let took_over = work == 2 && world.status(host)["role"] == "primary";
            if !took_over {
                world.run(host, words).code(0);
            }
        }
        for line in fs::read_to_string(&ledger).unwrap().lines() {
            let Some((n, at)) = line.split_once(' ') else { continue };
            noted.insert(n.parse().unwrap(), at.parse().unwrap());
        }
        if work == 2 {
            (primary, standby) = (standby, primary);
        }
        let points = world.points(primary);
        let head = points.iter().find(|point| point["head"] == true).unwrap();
        let time: Timestamp = head["source-time"].as_str().unwrap().parse().unwrap();
        let judge = |copy: &Path, noted: &BTreeMap<u64, i64>| {
            let there = numbers(copy, &told);
            let before = noted.iter().filter(|(_, at)| **at < time.as_millisecond());
            for (n, _) in before {
                assert!(there.binary_search(n).is_ok(), "{told}: {n} is missing");
            }
            // What was written after the point is lost in what takes over, as it has said.
            there
        };
        if work == 2 {
            // What was written after the point is lost, as the takeover has said.
            let there = judge(&world.path(primary).join("data"), &noted);
            noted.retain(|n, _| there.binary_search(n).is_ok());
            world.run(primary, &["backup", "docs"]).code(0);
            world.run(standby, &["rejoin", "docs"]).code(0);
        }
        match round % 3 {
            0 => {
                let copy = world.path("copy");
                let shown = copy.display().to_string();
                world.run(primary, &["restore", "docs", "--target", &shown]).code(0);
                judge(&copy, &noted);
                fs::remove_dir_all(&copy).unwrap();
            }
            1 => {
                world.run(standby, &["refresh", "docs"]).code(0);
                judge(&world.path(standby).join("data"), &noted);
                world.run(standby, &["scrub", "docs"]).code(0);
            }
            _ => {
                world.run(standby, &TAKEOVER).code(0);
                (primary, standby) = (standby, primary);
                let there = judge(&world.path(primary).join("data"), &noted);
                noted.retain(|n, _| there.binary_search(n).is_ok());
                world.run(primary, &["backup", "docs"]).code(0);
                world.run(standby, &["rejoin", "docs"]).code(0);
            }
        }
        world.run(primary, &["backup", "docs"]).code(0);
        for host in ["a", "b"] {
            assert!(world.unfinished(host).is_empty(), "{told}");
        }
    }
    println!("{workers} workers were killed in {} rounds", rounds());
    assert!(workers > 0 || rounds() < 10, "no worker was killed");
    world.restic_check();
}
