//! The service, the worker, or both are killed at a moment that nobody chose, while a backup, a
//! restore or a refresh runs; then a restore, a refresh or a takeover has what was acknowledged and
//! shipped.

use super::receiving::{is_stored, receiver, restored, stored};
use super::*;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// How many rounds there are, unless the environment says otherwise.
const KILLS: u64 = 3;

/// Numbers from a seed, which the test prints, so that a failure can be looked for again.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let given = std::env::var("MAINSTAY_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or(u64::from_le_bytes(random));
        Dice(seed | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Whether the standby of this host follows; it is built anew if what built it was killed.
fn follows(host: &Host) {
    if host.run(&["refresh", "shop"]).code != 0 {
        host.run(&["refresh", "shop", "--reseed"]).code(0);
    }
    host.drop_diverged();
}

#[test]
fn nothing_shipped_is_lost_whatever_is_killed_and_whenever() {
    let rounds = std::env::var("MAINSTAY_TEST_ROUNDS").ok().and_then(|text| text.parse().ok());
    let mut dice = Dice::new();
    println!("MAINSTAY_TEST_SEED={}", dice.0);
    let stage = Stage::with("archive_mode = off\nmax_slot_wal_keep_size = 1GB", "");
    run(&mut stage.a.pgbench(&["-i", "-s", "1", "-q"])).code(0);
    let (mut old, mut new) = (&stage.a, &stage.b);
    let mut receive = Some(receiver(old));
    old.run(&["backup", "shop"]).code(0);
    follows(new);
    for round in 0..rounds.unwrap_or(KILLS) {
        let (work, victim, moment) = (dice.below(3), dice.below(3), dice.below(1500));
        let told = format!("round {round}: work {work}, victim {victim}, after {moment} ms");
        println!("{told}");
        is_stored(old);
        let acknowledged: Mutex<BTreeMap<u64, Timestamp>> = Mutex::default();
        let next = AtomicU64::new(old.newest() + 1);
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
                host.kill_worker();
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
        let shipped = acknowledged.iter().rfind(|(_, at)| **at <= said).map_or(0, |(n, _)| *n);
        let judge = |newest: u64| {
            assert!(newest >= shipped, "{told}: {newest} of {shipped} that were shipped");
            assert!(newest <= last + 1, "{told}: {newest} of {last}");
        };
        // What was half restored to look at is completed, whoever was killed.
        if work == 2 {
            old.run(&["restore", "shop", "--delta", "--target", &shown]).code(0);
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
    old.run(&["check", "shop", "--read-data"]).code(0);
}
