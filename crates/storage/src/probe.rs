//! What a storage says it can do is not believed before it was tried, on the very place.
//!
//! S3 servers are not alike: some accept `If-None-Match` and overwrite all the same, some accept
//! a lock and forget it. A vault's state on such a place would make two primaries one day.

use crate::{Entry, Error, ErrorKind, Key, Put, Storage};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// No service's name begins with an underscore. A vault host lets everybody write and remove what
/// is named like this and lies in no directory.
const PREFIX: &str = "_mainstay-probe-";

/// How often writers race for one object, and how many do.
const ROUNDS: usize = 3;
const RACERS: usize = 4;

/// So long a proof is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds, as far as trying can show.
    Holds,
    /// It does not, for this reason.
    Fails(String),
}

/// What came of trying to remove an object that was locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It could not be removed.
    Holds,
    /// It could, or could not be locked, for this reason.
    Refused(String),
    /// This kind of storage has no locks.
    None,
}

/// Whether of several callers of put-if-absent exactly one is told `Created`, its bytes stay, and a
/// listing shows what was put before it. Takes some 25 requests, and removes what it made. A place
/// that needs no proof is asked with one object only.
pub fn compare_and_set(storage: &dyn Storage) -> Result<Verdict, Error> {
    let dir = format!("{PREFIX}{}", random()?);
    if !storage.needs_proof() {
        let one = key(&dir)?;
        let verdict = one_after_the_other(storage, &one);
        let cleaned = storage.delete(&one);
        let verdict = verdict?;
        cleaned?;
        return Ok(verdict);
    }
    let verdict = try_compare_and_set(storage, &dir);
    let cleaned = clean_up(storage, &dir);
    let verdict = verdict?;
    cleaned?;
    Ok(verdict)
}

/// Whether an object that was locked can be removed. Leaves a small object behind where it cannot.
pub fn retention(storage: &dyn Storage) -> Result<Retention, Error> {
    storage.probe_retention(&key(&format!("{PREFIX}{}/locked", random()?))?)
}

fn fails(reason: &str) -> Result<Verdict, Error> {
    Ok(Verdict::Fails(reason.to_owned()))
}

/// Two writers, one after the other.
fn one_after_the_other(storage: &dyn Storage, one: &Key) -> Result<Verdict, Error> {
    match storage.put_if_absent(one, b"first") {
        Ok(Put::Created) => {}
        Ok(Put::Exists) => return fails("it says that an object exists that does not"),
        Err(e) if matches!(e.kind(), ErrorKind::Failed | ErrorKind::Invalid) => {
            return fails(&format!("it does not know conditional writes ({e})"));
        }
        Err(e) => return Err(e),
    }
    if storage.put_if_absent(one, b"second")? == Put::Created {
        return fails("it lets a second writer create an object that exists already");
    }
    if storage.read(one)? != b"first" {
        return fails("it changes an object although it says that it exists already");
    }
    Ok(Verdict::Holds)
}

fn try_compare_and_set(storage: &dyn Storage, dir: &str) -> Result<Verdict, Error> {
    let one = key(&format!("{dir}/one"))?;
    let verdict = one_after_the_other(storage, &one)?;
    if verdict != Verdict::Holds {
        return Ok(verdict);
    }
    let mut made = vec![one];
    for round in 0..ROUNDS {
        let raced = key(&format!("{dir}/race-{round}"))?;
        let winners = race(storage, &raced)?;
        let [winner] = winners.as_slice() else {
            let count = winners.len();
            return fails(&format!(
                "of {RACERS} writers at the same moment it told {count} that they created the \
                 object, and not exactly one"
            ));
        };
        if storage.read(&raced)? != payload(*winner) {
            return fails("it kept the bytes of a writer that it told that it lost");
        }
        made.push(raced);
    }
    let listed: Vec<Key> = storage.list(dir)?.into_iter().map(|entry| entry.key).collect();
    if listed != made {
        return fails("its listing does not show what was just written");
    }
    Ok(Verdict::Holds)
}

/// The numbers of those that were told that they created the object.
fn race(storage: &dyn Storage, key: &Key) -> Result<Vec<usize>, Error> {
    let gate = std::sync::Barrier::new(RACERS);
    let results: Vec<Result<Put, Error>> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|number| {
                let gate = &gate;
                scope.spawn(move || {
                    let bytes = payload(number);
                    gate.wait();
                    storage.put_if_absent(key, &bytes)
                })
            })
            .collect();
        let lost = || Error::new(ErrorKind::Failed, key, "the probe's thread died");
        racers.into_iter().map(|racer| racer.join().unwrap_or_else(|_| Err(lost()))).collect()
    });
    let mut winners = Vec::new();
    for (number, result) in results.into_iter().enumerate() {
        if result? == Put::Created {
            winners.push(number);
        }
    }
    Ok(winners)
}

fn payload(number: usize) -> Vec<u8> {
    format!("writer {number}").into_bytes()
}

fn clean_up(storage: &dyn Storage, dir: &str) -> Result<(), Error> {
    for Entry { key, .. } in storage.list(dir)? {
        storage.delete(&key)?;
    }
    Ok(())
}

fn random() -> Result<String, Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(ErrorKind::Failed, "probe", format!("no random bytes: {e}")))?;
    Ok(hex::encode(bytes))
}

fn key(text: &str) -> Result<Key, Error> {
    Key::new(text).map_err(|e| Error::new(ErrorKind::Invalid, "probe", e))
}

/// The refusal of a storage that failed the probe.
pub fn unfit(location: &str, reason: &str) -> Error {
    let what = format!("this place cannot hold the state of a vault: {reason}");
    Error::new(ErrorKind::Unfit, location, what).hinting(
        "Use a place that lets only one of several writers create an object: a directory, or a \
         server that honours `If-None-Match` (docs/guide/s3.md names some). What is there can \
         still be read and restored.",
    )
}

/// A storage that is probed before the first put-if-absent that goes through it. Everything else
/// passes at once: who only reads needs no proof.
#[derive(Debug)]
pub struct Proved {
    inner: Arc<dyn Storage>,
    memory: PathBuf,
    proved: Mutex<bool>,
}

impl Proved {
    /// `memory` is a file of this host in which the proof is remembered for a day.
    pub fn new(inner: Arc<dyn Storage>, memory: &Path) -> Proved {
        Proved { inner, memory: memory.to_owned(), proved: Mutex::new(false) }
    }

    fn prove(&self) -> Result<(), Error> {
        let mut proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        if *proved || !self.inner.needs_proof() || self.remembered() {
            *proved = true;
            return Ok(());
        }
        let location = self.inner.location();
        match compare_and_set(&*self.inner)? {
            Verdict::Holds => {
                // Forgotten is proved again; no more than time is lost.
                if let Some(dir) = self.memory.parent() {
                    let _ = std::fs::create_dir_all(dir);
                }
                let _ = std::fs::write(&self.memory, location);
                *proved = true;
                Ok(())
            }
            Verdict::Fails(reason) => Err(unfit(&location, &reason)),
        }
    }

    fn remembered(&self) -> bool {
        let fresh =
            std::fs::metadata(&self.memory).and_then(|meta| meta.modified()).is_ok_and(|then| {
                SystemTime::now().duration_since(then).is_ok_and(|age| age < REMEMBERED)
            });
        fresh
            && std::fs::read(&self.memory)
                .is_ok_and(|found| found == self.inner.location().as_bytes())
    }
}

impl Storage for Proved {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        self.inner.read(key)
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        self.inner.read_range(key, offset, length)
    }

    fn read_range_into(
        &self,
        key: &Key,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.inner.read_range_into(key, offset, length, buffer)
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        self.inner.size(key)
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        self.inner.put(key, bytes)
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        self.prove()?;
        self.inner.put_if_absent(key, bytes)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        self.inner.list(prefix)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.inner.delete(key)
    }

    fn delete_all(&self, keys: &[Key]) -> Result<(), Error> {
        self.inner.delete_all(keys)
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        self.inner.free_bytes()
    }

    fn first_parts(&self) -> Result<Vec<String>, Error> {
        self.inner.first_parts()
    }

    fn inner(&self) -> Option<&dyn Storage> {
        Some(&*self.inner)
    }
}
