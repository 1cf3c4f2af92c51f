//! The service, the worker, or both are killed at a moment that nobody chose, while a backup, a
//! restore or a refresh runs; then a restore, a refresh or a takeover has what was acknowledged and
//! shipped.

use super::receiving::{is_stored, receiver, restored, stored};
use super::*;
use crate::dice::{Dice, rounds};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Whether the standby of this host follows; it is built anew if what built it was killed.
fn follows(host: &Host) {
    if host.run(&["refresh", "shop"]).code != 0 {
        host.run(&["refresh", "shop", "--reseed"]).code(0);
    }
    host.drop_diverged();
}

#[test]
fn nothing_shipped_is_lost_whatever_is_killed_and_whenever() {
    let mut dice = Dice::new();
    println!("{dice}");
    let stage = Stage::with("archive_mode = off\nmax_slot_wal_keep_size = 1GB", "");
    run(&mut stage.a.pgbench(&["-i", "-s", "1", "-q"])).code(0);
    let (mut old, mut new) = (&stage.a, &stage.b);
    let mut receive = Some(receiver(old));
    old.run(&["backup", "shop"]).code(0);
    follows(new);
    let (mut work_of, mut victim_of) = (dice.cards(3), dice.cards(3));
    let mut workers = 0;
    for round in 0..rounds() {
        let (work, victim, moment) = (work_of(), victim_of(), dice.below(1500));
        let told = format!("round {round}: work {work}, victim {victim}, after {moment} ms");
        println!("{told}");
        is_stored(old);
        let acknowledged: Mutex<BTreeMap<u64, Timestamp>> = Mutex::default();
        let start = old.newest();
        let next = AtomicU64::new(start + 1);
        let lost = AtomicBool::new(false);
        let scratch = stage.dir.path().join("scratch");
        let shown = scratch.display().to_string();
        if work == 2 {
            old.run(&["restore", "shop", "--target", &shown]).code(0);
        }
        let said = std::thread::scope(|scope| {
            let _load = Load(old.pgbench(&["-n", "-c", "2", "-T", "600"]).spawn().unwrap());
            scope.spawn(|| {
                while !lost.load(Ordering::SeqCst) {
                    let n = next.load(Ordering::SeqCst);
                    let insert = format!("INSERT INTO orders VALUES ({n}, 'order')");
                    if !old.server.try_sql("postgres", &insert).status.success() {
                        break;
                    }
                    acknowledged.lock().unwrap().insert(n, Timestamp::now());
                    next.store(n + 1, Ordering::SeqCst);
                }
            });
            // The worker begins some way into the round, and dies some way into its work.
            std::thread::sleep(Duration::from_millis(1000));
            let (host, words) = match work {
                0 => (old, vec!["backup", "shop"]),
                1 => (new, vec!["refresh", "shop", "--reseed"]),
                _ => (old, vec!["restore", "shop", "--delta", "--target", &shown]),
            };
            let mut command = host.command(&words);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(moment));
            if victim != 0 {
                workers += u64::from(host.kill_worker());
            }
            if victim != 1 {
                old.server.kill();
            }
            child.wait().unwrap();
            let said = stored(old);
            lost.store(true, Ordering::SeqCst);
            said
        });
        let acknowledged = acknowledged.into_inner().unwrap();
        let said = said.expect("something was stored");
        let last = *acknowledged.last_key_value().unwrap().0;
        let shipped = acknowledged.iter().rfind(|(_, at)| **at <= said);
        // What was there when the round began is in the vault.
        let shipped = shipped.map_or(start, |(n, _)| *n);
        let judge = |newest: u64| {
            assert!(newest >= shipped, "{told}: {newest} of {shipped} that were shipped");
            assert!(newest <= last + 1, "{told}: {newest} of {last}");
        };
        // What was half restored to look at is completed, whoever was killed.
        if work == 2 {
            old.run(&["restore", "shop", "--delta", "--target", &shown]).code(0);
            let copy = Host {
                server: PgServer::on(&stage.dir.path().join("scratch-home"), &scratch),
                config: old.config.clone(),
                program: old.program.clone(),
            };
            copy.starts_alone();
            judge(copy.newest());
            copy.is_sound();
            drop(copy);
            fs::remove_dir_all(&scratch).unwrap();
        }
        match round % 3 {
            0 => {
                let copy = restored(&stage, old, "copy", &[]);
                judge(copy.newest());
                copy.is_sound();
                drop(copy);
                fs::remove_dir_all(stage.dir.path().join("copy")).unwrap();
                if !old.server.runs() {
                    old.server.start();
                }
            }
            1 => {
                // What was acknowledged is in the server that comes up again, too.
                if !old.server.runs() {
                    old.server.start();
                }
                assert!(old.newest() >= last, "{told}");
                is_stored(old);
                follows(new);
                new.server.eventually(&format!("SELECT max(n) >= {last} FROM orders"));
                new.newest();
            }
            _ => {
                if old.server.runs() {
                    old.server.kill();
                }
                drop(receive.take());
                follows(new);
                stage.dead(true);
                new.run(&["takeover", "shop", "--yes"]).code(0);
                stage.dead(false);
                judge(new.newest());
                new.is_sound();
                receive = Some(receiver(new));
                new.run(&["backup", "shop"]).code(0);
                old.run(&["rejoin", "shop"]).code(0);
                old.drop_diverged();
                (old, new) = (new, old);
            }
        }
        old.run(&["backup", "shop"]).code(0);
    }
    drop(receive);
    println!("{workers} workers were killed in {} rounds", rounds());
    assert!(workers > 0 || rounds() < 10, "no worker was killed");
    old.run(&["check", "shop", "--read-data"]).code(0);
}
