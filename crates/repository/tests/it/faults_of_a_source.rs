//! A fault at every storage call of a copy on the side that is copied from: that side is as it was,
//! the other is whole by our check and by restic's, and whoever copies next has everything there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the unexpected")]

use crate::copying::copy_all;
use crate::faults::{FAULTS, Past, RESTIC_JUDGES_ONE_IN, copy, past};
use crate::prune::history;
use crate::rig::{self, noise, open, password, within};
use mainstay_repository::copy::copy_log;
use mainstay_repository::log::LogStore;
use mainstay_repository::{Error, Kdf, Repository};
use model::progress::Silent;
use model::{CancelToken, Generation, SnapshotId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::doubles::{Fault, Flaky, How, Memory};
use storage::{ErrorKind, Key};

const SEGMENT: &str = "000000010000000A000000FF";

/// What is copied, and where to.
struct Case {
    source: Arc<Memory>,
    contents: Vec<(SnapshotId, Vec<u8>)>,
    segment: Vec<u8>,
    there: Past,
}

fn case() -> Case {
    let source = Arc::new(Memory::new());
    let repository = Repository::create(source.clone(), &password(), Kdf::Fast).unwrap();
    let mut contents = history(&repository, 3);
    contents.push((rig::back_up(&repository, b"one more"), b"one more".to_vec()));
    let segment = noise(7, 30_000);
    LogStore::new(&repository).push(Generation(1), SEGMENT, &segment).unwrap();
    Case { source, contents, segment, there: past() }
}

/// Everything but locks, which a copy takes and gives back.
fn objects(storage: &Memory) -> BTreeMap<Key, Vec<u8>> {
    let mut objects: BTreeMap<_, _> = storage.objects().into_iter().collect();
    objects.retain(|key, _| !key.as_str().starts_with("locks/"));
    objects
}

/// Snapshots and log, as the command does it. What could not be copied is an error.
fn copy_everything(from: &Repository, to: &Repository) -> Result<(), Error> {
    let done = copy_all(from, to)?;
    let (from, to) = (LogStore::new(from), LogStore::new(to));
    let log = copy_log(&from, &to, &Silent, &CancelToken::new())?;
    let reasons = done.failed.into_iter().flat_map(|(_, reasons)| reasons).chain(log.failed);
    match reasons.collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        reasons => Err(Error::damaged("copy", reasons.join("; "))),
    }
}

impl Case {
    /// The source is as it was; what is over there is whole, and what came from here is right.
    /// Says how many of the snapshots have come.
    #[track_caller]
    fn is_well(&self, from: &Memory, to: &Arc<Memory>, ask_restic: bool, what: &str) -> usize {
        assert!(objects(from) == objects(&self.source), "the source was changed: {what}");
        self.there.is_whole(to, ask_restic, what);
        let there = open(to.clone());
        let mut come = 0;
        for (id, snapshot) in there.snapshots().unwrap() {
            let Some(original) = snapshot.other.get("original") else { continue };
            let same = |(id, _): &&(SnapshotId, _)| *original == id.to_string();
            let (_, content) = self.contents.iter().find(same).unwrap();
            assert!(rig::read_back(&there, id).unwrap() == *content, "{what}");
            come += 1;
        }
        let segment = LogStore::new(&there).fetch(SEGMENT).unwrap();
        assert!(segment.is_none_or(|segment| segment == self.segment), "{what}");
        come
    }

    /// The n-th call to the source goes wrong. Says whether there was an n-th call, and what came of
    /// the copy.
    fn one(&self, n: u32, how: How, ask_restic: bool) -> (bool, Result<(), Error>) {
        let (from, to) = (copy(&self.source), self.there.copy());
        let flaky = Arc::new(Flaky::new(from.clone()));
        let (reading, writing) = (open(flaky.clone()), open(to.clone()));
        flaky.plan(Fault::nth(n, how));
        let result = match how {
            How::Hang => self.hang(&reading, &writing, &flaky, &from, &to),
            _ => copy_everything(&reading, &writing),
        };
        drop((reading, writing));
        let what = format!("{how:?} at call {n}: {result:?}");
        self.is_well(&from, &to, ask_restic, &what);
        if let Err(e) = copy_everything(&open(from.clone()), &open(to.clone())) {
            panic!("after {what}: {e}");
        }
        assert_eq!(self.is_well(&from, &to, false, &what), self.contents.len(), "{what}");
        assert!(LogStore::new(&open(to)).fetch(SEGMENT).unwrap().unwrap() == self.segment);
        (flaky.fired() > 0, result)
    }

    /// What is there while a call hangs is what somebody finds who comes when this process is gone.
    fn hang(
        &self,
        reading: &Repository,
        writing: &Repository,
        flaky: &Flaky,
        from: &Memory,
        to: &Memory,
    ) -> Result<(), Error> {
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                let result = copy_everything(reading, writing);
                ended.store(true, Ordering::SeqCst);
                result
            });
            let hangs = || flaky.wait_for_hang(Duration::from_millis(5));
            let state = "a call that hangs, or the end";
            rig::wait_for(state, || hangs() || ended.load(Ordering::SeqCst));
            if !ended.load(Ordering::SeqCst) {
                self.is_well(from, &copy(to), false, "while a call hangs");
            }
            flaky.release();
            working.join().unwrap()
        })
    }

    fn at_every_call(&self, how: How, sample: u32) {
        let next = AtomicU32::new(1);
        let over = AtomicBool::new(false);
        let failed = Mutex::new(Vec::new());
        let one = || {
            while !over.load(Ordering::SeqCst) {
                let n = next.fetch_add(1, Ordering::SeqCst);
                let (fired, result) = self.one(n, how, n % RESTIC_JUDGES_ONE_IN == sample);
                if !fired {
                    assert!(result.is_ok(), "without a fault it works: {result:?}");
                    over.store(true, Ordering::SeqCst);
                }
                if result.is_err() {
                    failed.lock().unwrap().push(n);
                }
            }
        };
        // Most of the time locks settle: side by side that takes no longer.
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(one);
            }
        });
        let failed = failed.into_inner().unwrap();
        match how {
            How::Hang => assert_eq!(failed, [0; 0], "what takes long fails nothing"),
            _ => assert!(!failed.is_empty(), "{how:?} was never noticed"),
        }
    }
}

#[test]
fn of_a_copy_at_the_source() {
    within(Duration::from_secs(400), || {
        let case = case();
        for (sample, how) in (1..).step_by(5).zip(FAULTS) {
            case.at_every_call(how, sample % RESTIC_JUDGES_ONE_IN);
        }
    });
}

/// Slow at every call at once; and a source that ends in the middle, for good.
#[test]
fn of_a_source_that_is_slow_or_goes_away() {
    within(Duration::from_secs(400), || {
        let case = case();
        let always = |skip, how| Fault { skip, times: u32::MAX, ..Fault::nth(1, how) };
        let try_with = |fault| {
            let (from, to) = (copy(&case.source), case.there.copy());
            let flaky = Arc::new(Flaky::new(from.clone()));
            let (reading, writing) = (open(flaky.clone()), open(to.clone()));
            flaky.plan(fault);
            let result = copy_everything(&reading, &writing);
            drop((reading, writing));
            (result, from, to, flaky.calls())
        };
        let (result, from, to, calls) = try_with(always(0, How::Slow(Duration::from_millis(20))));
        result.unwrap();
        assert_eq!(case.is_well(&from, &to, true, "slow at every call"), case.contents.len());
        for skip in (0..calls).step_by(3) {
            let (result, from, to, _) = try_with(always(skip, How::Before(ErrorKind::Unavailable)));
            // But for the last calls, which give the lock back.
            assert!(result.is_err() || skip + 3 >= calls, "{skip} of {calls}");
            let what = format!("gone after {skip} calls");
            case.is_well(&from, &to, false, &what);
            copy_everything(&open(from.clone()), &open(to.clone())).unwrap();
            assert_eq!(case.is_well(&from, &to, false, &what), case.contents.len());
        }
    });
}
