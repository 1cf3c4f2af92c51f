//! Many writers and readers, one storage call at a time, in an order drawn from a seed: with pauses
//! of any length and deaths at any call.

use crate::support::{join, store};
use mainstay_coordination::{Error, Versioned};
use model::ServiceState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use storage::doubles::Memory;
use storage::{Entry, ErrorKind, Key, Put, Storage};

const WRITERS: usize = 4;
const READERS: usize = 2;
const UPDATES: usize = 45;

/// A small generator: the same numbers from the same seed for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Who may make the next call. Whoever waits for a turn does nothing else, so that the whole run
/// depends on the seed alone.
struct Turns {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    random: Random,
    step: u64,
    /// Everybody who is still there.
    alive: BTreeSet<usize>,
    /// Who waits for a turn.
    waiting: BTreeSet<usize>,
    /// Paused until this step.
    paused: BTreeMap<usize, u64>,
    /// Whose turn it is.
    turn: Option<usize>,
}

enum Fate {
    Goes,
    DiesBefore,
    DiesAfter,
}

impl Turns {
    fn new(seed: u64, count: usize) -> Turns {
        let inner = Inner {
            random: Random(seed),
            step: 0,
            alive: (0..count).collect(),
            waiting: BTreeSet::new(),
            paused: BTreeMap::new(),
            turn: None,
        };
        Turns { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    fn wait(&self, id: usize) -> Fate {
        let mut inner = self.inner.lock().unwrap();
        if inner.turn == Some(id) {
            inner.turn = None;
        }
        inner.waiting.insert(id);
        inner.choose();
        self.changed.notify_all();
        while inner.turn != Some(id) {
            inner = self.changed.wait(inner).unwrap();
        }
        inner.waiting.remove(&id);
        match (id < WRITERS, inner.random.below(900)) {
            (true, 0) => Fate::DiesBefore,
            (true, 1) => Fate::DiesAfter,
            _ => Fate::Goes,
        }
    }

    fn leave(&self, id: usize) {
        let mut inner = self.inner.lock().unwrap();
        inner.alive.remove(&id);
        inner.waiting.remove(&id);
        if inner.turn == Some(id) {
            inner.turn = None;
        }
        inner.choose();
        self.changed.notify_all();
    }
}

impl Inner {
    /// Gives the turn to somebody once everybody waits.
    fn choose(&mut self) {
        if self.turn.is_some() || self.waiting.len() < self.alive.len() || self.alive.is_empty() {
            return;
        }
        self.step += 1;
        let step = self.step;
        self.paused.retain(|_, until| *until > step);
        let mut ready: Vec<usize> =
            self.waiting.iter().copied().filter(|id| !self.paused.contains_key(id)).collect();
        if ready.is_empty() {
            self.paused.clear();
            ready = self.waiting.iter().copied().collect();
        }
        let at = self.random.below(ready.len() as u64);
        let chosen = ready[usize::try_from(at).unwrap()];
        // Now and then one is paused instead, for a moment or for a hundred commits.
        if ready.len() > 1 && self.random.below(40) == 0 {
            let length = [3, 30, 300, 900][usize::try_from(self.random.below(4)).unwrap()];
            self.paused.insert(chosen, step + length);
            return self.choose();
        }
        self.turn = Some(chosen);
    }
}

/// One host's view of the storage.
#[derive(Clone)]
struct Host {
    id: usize,
    memory: Arc<Memory>,
    turns: Arc<Turns>,
    dead: Arc<Mutex<bool>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host {}", self.id)
    }
}

impl Host {
    fn call<T>(
        &self,
        call: impl FnOnce() -> Result<T, storage::Error>,
    ) -> Result<T, storage::Error> {
        let gone = || Err(storage::Error::new(ErrorKind::Unavailable, "host", "it died"));
        if *self.dead.lock().unwrap() {
            return gone();
        }
        match self.turns.wait(self.id) {
            Fate::Goes => call(),
            Fate::DiesBefore => {
                *self.dead.lock().unwrap() = true;
                gone()
            }
            Fate::DiesAfter => {
                *self.dead.lock().unwrap() = true;
                call()?;
                gone()
            }
        }
    }
}

impl Storage for Host {
    fn location(&self) -> String {
        "simulated".to_owned()
    }
    fn read(&self, key: &Key) -> Result<Vec<u8>, storage::Error> {
        self.call(|| self.memory.read(key))
    }
    fn read_range(&self, key: &Key, at: u64, length: usize) -> Result<Vec<u8>, storage::Error> {
        self.call(|| self.memory.read_range(key, at, length))
    }
    fn size(&self, key: &Key) -> Result<u64, storage::Error> {
        self.call(|| self.memory.size(key))
    }
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), storage::Error> {
        self.call(|| self.memory.put(key, bytes))
    }
    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, storage::Error> {
        self.call(|| self.memory.put_if_absent(key, bytes))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Entry>, storage::Error> {
        self.call(|| self.memory.list(prefix))
    }
    fn delete(&self, key: &Key) -> Result<(), storage::Error> {
        self.call(|| self.memory.delete(key))
    }
    fn free_bytes(&self) -> Result<Option<u64>, storage::Error> {
        Ok(None)
    }
}

#[derive(Default)]
struct Seen {
    /// What each writer was told it stored.
    won: Vec<(String, Versioned)>,
    /// What each reader was shown, in its order.
    shown: Vec<Vec<Versioned>>,
    deaths: usize,
    pauses_that_mattered: usize,
}

fn run(seed: u64) -> Seen {
    let memory = Arc::new(Memory::new());
    let turns = Arc::new(Turns::new(seed, WRITERS + READERS));
    let seen = Mutex::new(Seen::default());
    std::thread::scope(|scope| {
        for id in 0..WRITERS + READERS {
            let host = Host {
                id,
                memory: memory.clone(),
                turns: turns.clone(),
                dead: Arc::new(Mutex::new(false)),
            };
            let (turns, seen) = (turns.clone(), &seen);
            scope.spawn(move || {
                if id < WRITERS {
                    writer(&host, seen)
                } else {
                    reader(&host, seen)
                }
                turns.leave(id);
            });
        }
    });
    let mut seen = seen.into_inner().unwrap();
    let last = store(memory).load().unwrap();
    seen.shown.push(vec![last]);
    seen
}

fn writer(host: &Host, seen: &Mutex<Seen>) {
    let mut store = store(Arc::new(host.clone()));
    for n in 0..UPDATES {
        let name = format!("w{}n{n}", host.id);
        let mut attempts = 0;
        let result = store.update(|state: &mut ServiceState| {
            attempts += 1;
            join(&name)(state)
        });
        match result {
            Ok((versioned, _)) => {
                let mut seen = seen.lock().unwrap();
                seen.won.push((name, versioned));
                seen.pauses_that_mattered += usize::from(attempts > 1);
            }
            Err(Error::Storage(_)) => {
                // The process died; another one on the same host goes on with the next change.
                seen.lock().unwrap().deaths += 1;
                *host.dead.lock().unwrap() = false;
                store = self::store(Arc::new(host.clone()));
            }
            Err(e) => panic!("{e}"),
        }
    }
}

fn reader(host: &Host, seen: &Mutex<Seen>) {
    let store = store(Arc::new(host.clone()));
    let shown = (0..UPDATES).map(|_| store.load().unwrap()).collect();
    seen.lock().unwrap().shown.push(shown);
}

fn check(seen: &Seen) {
    let last = &seen.shown.last().unwrap()[0];
    // One number, one winner.
    let mut winners: BTreeMap<u64, &Versioned> = BTreeMap::new();
    for (name, versioned) in &seen.won {
        assert!(versioned.state.members.contains_key(&crate::support::member(name)));
        if let Some(other) = winners.insert(versioned.number, versioned) {
            // Somebody may be shown what another stored, if its own change was in it already.
            assert_eq!(other, versioned, "two contents of number {}", versioned.number);
        }
    }
    // No update that was told done is lost.
    for (name, _) in &seen.won {
        assert!(last.state.members.contains_key(&crate::support::member(name)), "{name} is lost");
    }
    // States grow from one another: each number has one member more than the one before.
    for versioned in winners.values().copied().chain(seen.shown.iter().flatten()) {
        assert_eq!(versioned.state.members.len() as u64, versioned.number);
        if let Some(winner) = winners.get(&versioned.number) {
            assert_eq!(*winner, versioned, "a reader saw what never won");
        }
    }
    // Nobody is shown the past.
    for shown in &seen.shown {
        assert!(shown.windows(2).all(|pair| pair[0].number <= pair[1].number));
    }
}

#[test]
fn never_two_winners_never_a_lost_update() {
    let (mut deaths, mut retries) = (0, 0);
    // More of them: SIMULATION_SEEDS=1000.
    let seeds = std::env::var("SIMULATION_SEEDS").map_or(24, |count| count.parse().unwrap());
    for seed in 0..seeds {
        let seen = std::panic::catch_unwind(|| {
            let seen = run(seed);
            check(&seen);
            seen
        });
        let seen = seen.unwrap_or_else(|_| panic!("seed {seed} fails; run it alone to see why"));
        deaths += seen.deaths;
        retries += seen.pauses_that_mattered;
    }
    assert!(deaths > 20 && retries > 100, "{deaths} deaths and {retries} retries try little");
}
