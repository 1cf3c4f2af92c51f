//! What every register promises, whatever it stands on.

use mainstay_coordination::{Advance, Objects, Register};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use storage::doubles::Memory;
use storage::{Key, Local, Prefixed, Storage};
use tempfile::TempDir;

/// All of it. `fresh` makes an empty register and returns so many handles on it, each as if on a
/// host of its own.
fn contract(fresh: &dyn Fn(usize) -> Vec<Arc<dyn Register>>) {
    begins_empty(&fresh(2));
    each_number_once(&fresh(2));
    the_newest_is_shown(&fresh(2));
    many_numbers(&fresh(3));
    // So few numbers that nobody can be overtaken by a whole window of others.
    assert_eq!(missing_after_a_race(&fresh(6), 10), 0);
    // So many that some numbers are removed meanwhile. Whoever won, and was paused while the window
    // passed, is told that it lost; that is rare, and at most one is told for each number anyway.
    let missing = missing_after_a_race(&fresh(6), 60);
    assert!(missing < 60, "{missing} winners were told that they lost");
}

fn create(register: &dyn Register, number: u64, bytes: &str) -> Advance {
    register.create(number, bytes.as_bytes()).unwrap()
}

fn newest(register: &dyn Register) -> (u64, String) {
    let stored = register.newest().unwrap().unwrap();
    assert!(!stored.object.is_empty());
    (stored.number, String::from_utf8(stored.bytes).unwrap())
}

fn begins_empty(hosts: &[Arc<dyn Register>]) {
    for host in hosts {
        assert_eq!(host.newest().unwrap(), None);
    }
}

fn each_number_once(hosts: &[Arc<dyn Register>]) {
    assert_eq!(create(&*hosts[0], 1, "first"), Advance::Won);
    assert_eq!(create(&*hosts[1], 1, "other"), Advance::Lost);
    assert_eq!(create(&*hosts[0], 1, "again"), Advance::Lost);
    assert_eq!(newest(&*hosts[1]), (1, "first".to_owned()));
    assert_eq!(create(&*hosts[1], 2, "second"), Advance::Won);
    assert_eq!(create(&*hosts[0], 2, "third"), Advance::Lost);
    assert_eq!(create(&*hosts[0], 1, "late"), Advance::Lost);
    assert_eq!(newest(&*hosts[0]), (2, "second".to_owned()));
}

fn the_newest_is_shown(hosts: &[Arc<dyn Register>]) {
    let large = "x".repeat(300_000);
    for (number, bytes) in [(1, "a"), (2, large.as_str()), (3, "")] {
        assert_eq!(create(&*hosts[0], number, bytes), Advance::Won);
        for host in hosts {
            assert_eq!(newest(&**host), (number, bytes.to_owned()));
        }
    }
}

fn many_numbers(hosts: &[Arc<dyn Register>]) {
    for number in 1..=300_u64 {
        let turn = usize::try_from(number).unwrap() % hosts.len();
        let bytes = format!("state {number}");
        assert_eq!(create(&*hosts[turn], number, &bytes), Advance::Won);
        assert_eq!(newest(&*hosts[(turn + 1) % hosts.len()]), (number, bytes));
    }
    // However old: a number that was won once is never won again.
    for number in [1, 2, 150, 236, 237, 299, 300] {
        assert_eq!(create(&*hosts[0], number, &format!("late {number}")), Advance::Lost);
    }
    assert_eq!(newest(&*hosts[0]), (300, "state 300".to_owned()));
}

/// Of many that create at once, at most one wins each number, and all see what it wrote. Says of how
/// many numbers nobody was told that they won.
fn missing_after_a_race(hosts: &[Arc<dyn Register>], rounds: u32) -> u64 {
    let won: Mutex<BTreeMap<u64, String>> = Mutex::default();
    std::thread::scope(|scope| {
        for (id, host) in hosts.iter().enumerate() {
            let won = &won;
            scope.spawn(move || {
                for round in 0..rounds {
                    let seen = host.newest().unwrap();
                    if let Some(seen) = &seen {
                        let bytes = String::from_utf8(seen.bytes.clone()).unwrap();
                        let known = won.lock().unwrap().get(&seen.number).cloned();
                        assert!(known.is_none_or(|known| known == bytes), "two contents");
                    }
                    let number = seen.map_or(1, |seen| seen.number + 1);
                    let bytes = format!("{id} {round}");
                    if create(&**host, number, &bytes) == Advance::Won {
                        let other = won.lock().unwrap().insert(number, bytes);
                        assert_eq!(other, None, "two won number {number}");
                    }
                }
            });
        }
    });
    let won = won.into_inner().unwrap();
    let (last, bytes) = newest(&*hosts[0]);
    if let Some(known) = won.get(&last) {
        assert_eq!(&bytes, known);
    }
    last - won.len() as u64
}

fn handles(count: usize, storage: &Arc<dyn Storage>) -> Vec<Arc<dyn Register>> {
    let handle = || Arc::new(Objects::new(storage.clone())) as Arc<dyn Register>;
    (0..count).map(|_| handle()).collect()
}

#[test]
fn objects_in_memory_keep_the_contract() {
    contract(&|count| handles(count, &(Arc::new(Memory::new()) as Arc<dyn Storage>)));
}

#[test]
fn objects_in_a_directory_keep_the_contract() {
    let dir = TempDir::new().unwrap();
    let next = Mutex::new(0);
    contract(&|count| {
        let mut next = next.lock().unwrap();
        *next += 1;
        let service = Key::new(format!("service-{next}")).unwrap();
        // Each host opens the vault by itself.
        let open = |_| {
            let vault: Arc<dyn Storage> = Arc::new(Local::open(dir.path()).unwrap());
            let part = Prefixed::new(vault, service.clone());
            Arc::new(Objects::new(Arc::new(part))) as Arc<dyn Register>
        };
        (0..count).map(open).collect()
    });
}
