//! A storage that fails where a test tells it to.

use super::Verb;
use crate::{Entry, Error, ErrorKind, Key, Put, Storage};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A call that hangs goes on after so much time whatever happens, so that a test that fails ends.
const HANG_LIMIT: Duration = Duration::from_secs(60);

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It fails and has done nothing.
    Before(ErrorKind),
    /// It does its work, and fails all the same: the answer was lost.
    After(ErrorKind),
    /// A put stores only so many bytes of the object, and fails.
    Torn(usize),
    /// A read returns one wrong bit, and a listing lacks its last entry; neither fails.
    Wrong,
    /// It takes so long, and succeeds.
    Slow(Duration),
    /// It does nothing until the test calls [`Flaky::release`], and succeeds then.
    Hang,
}

/// One planned failure.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Only calls of this kind; any without it.
    pub verb: Option<Verb>,
    /// Only calls whose key (or prefix) begins like this.
    pub prefix: String,
    /// So many matching calls succeed first.
    pub skip: u32,
    /// So many then fail.
    pub times: u32,
    /// How.
    pub how: How,
}

impl Fault {
    /// The `n`th call of any kind from now on, counted from 1.
    pub fn nth(n: u32, how: How) -> Fault {
        let skip = n.saturating_sub(1);
        Fault { verb: None, prefix: String::new(), skip, times: 1, how }
    }

    /// The next call of this kind.
    pub fn next(verb: Verb, how: How) -> Fault {
        Fault { verb: Some(verb), prefix: String::new(), skip: 0, times: 1, how }
    }

    /// Every call of this kind from now on.
    pub fn every(verb: Verb, how: How) -> Fault {
        Fault { times: u32::MAX, ..Fault::next(verb, how) }
    }

    /// Only those whose key (or prefix) begins like this.
    pub fn on(self, prefix: &str) -> Fault {
        Fault { prefix: prefix.to_owned(), ..self }
    }
}

/// Passes calls on, except where a fault says otherwise.
#[derive(Debug)]
pub struct Flaky {
    inner: Arc<dyn Storage>,
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Vec<Fault>,
    calls: u32,
    fired: u32,
    /// Calls that hang now.
    hanging: u32,
    released: bool,
}

impl Flaky {
    /// No fault yet.
    pub fn new(inner: Arc<dyn Storage>) -> Flaky {
        Flaky { inner, plan: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds a fault. Of several that match a call, the one added first is used.
    pub fn plan(&self, fault: Fault) {
        self.with(|plan| plan.faults.push(fault));
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        self.with(|plan| plan.faults.clear());
    }

    /// How many calls there were.
    pub fn calls(&self) -> u32 {
        self.with(|plan| plan.calls)
    }

    /// How many of them went wrong.
    pub fn fired(&self) -> u32 {
        self.with(|plan| plan.fired)
    }

    /// Waits until a call hangs, for so long at most; says whether one does.
    pub fn wait_for_hang(&self, limit: Duration) -> bool {
        self.wait(limit, |plan| plan.hanging > 0)
    }

    /// Calls that hang go on, and none does from now on.
    pub fn release(&self) {
        self.with(|plan| plan.released = true);
        self.changed.notify_all();
    }

    fn hang(&self) {
        self.with(|plan| plan.hanging += 1);
        self.changed.notify_all();
        self.wait(HANG_LIMIT, |plan| plan.released);
        self.with(|plan| plan.hanging -= 1);
    }

    /// Waits for a state of the plan, for so long at most; says whether it came.
    fn wait(&self, limit: Duration, state: impl Fn(&Plan) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        while !state(&plan) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(plan, left);
            plan = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn with<T>(&self, what: impl FnOnce(&mut Plan) -> T) -> T {
        what(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What goes wrong with a call, other than that it takes its time, which it does in here.
    fn fault(&self, verb: Verb, key: &str) -> Option<How> {
        match self.planned_fault(verb, key)? {
            How::Slow(time) => {
                self.wait(time, |_| false);
                None
            }
            How::Hang => {
                self.hang();
                None
            }
            how => Some(how),
        }
    }

    fn planned_fault(&self, verb: Verb, key: &str) -> Option<How> {
        self.with(|plan| {
            plan.calls += 1;
            for fault in &mut plan.faults {
                let here = fault.verb.is_none_or(|v| v == verb) && key.starts_with(&fault.prefix);
                if !here {
                    continue;
                }
                if fault.skip > 0 {
                    fault.skip -= 1;
                } else if fault.times > 0 {
                    fault.times -= 1;
                    plan.fired += 1;
                    return Some(fault.how);
                }
            }
            None
        })
    }

    /// Runs a call that stores nothing and returns no bytes.
    fn run<T>(
        &self,
        verb: Verb,
        key: &str,
        call: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.fault(verb, key) {
            None | Some(How::Wrong | How::Torn(_) | How::Slow(_) | How::Hang) => call(),
            Some(How::Before(kind)) => Err(planned(kind, key)),
            Some(How::After(kind)) => call().and_then(|_| Err(planned(kind, key))),
        }
    }

    fn run_read(
        &self,
        verb: Verb,
        key: &Key,
        call: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<Vec<u8>, Error> {
        match self.fault(verb, key.as_str()) {
            None | Some(How::Torn(_) | How::Slow(_) | How::Hang) => call(),
            Some(How::Before(kind) | How::After(kind)) => Err(planned(kind, key.as_str())),
            Some(How::Wrong) => {
                let mut bytes = call()?;
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 0x10;
                }
                Ok(bytes)
            }
        }
    }

    fn run_put<T>(
        &self,
        verb: Verb,
        key: &Key,
        bytes: &[u8],
        call: impl Fn(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.fault(verb, key.as_str()) {
            None | Some(How::Wrong | How::Slow(_) | How::Hang) => call(bytes),
            Some(How::Before(kind)) => Err(planned(kind, key.as_str())),
            Some(How::After(kind)) => call(bytes).and_then(|_| Err(planned(kind, key.as_str()))),
            Some(How::Torn(length)) => {
                call(&bytes[..length.min(bytes.len())])?;
                Err(planned(ErrorKind::Failed, key.as_str()))
            }
        }
    }
}

fn planned(kind: ErrorKind, key: &str) -> Error {
    Error::new(kind, key, "failed as the test planned")
}

impl Storage for Flaky {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        self.run_read(Verb::Read, key, || self.inner.read(key))
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        self.run_read(Verb::ReadRange, key, || self.inner.read_range(key, offset, length))
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        self.run(Verb::Size, key.as_str(), || self.inner.size(key))
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        self.run_put(Verb::Put, key, bytes, |bytes| self.inner.put(key, bytes))
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        self.run_put(Verb::PutIfAbsent, key, bytes, |bytes| self.inner.put_if_absent(key, bytes))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        match self.fault(Verb::List, prefix) {
            None | Some(How::Torn(_) | How::Slow(_) | How::Hang) => self.inner.list(prefix),
            Some(How::Before(kind) | How::After(kind)) => Err(planned(kind, prefix)),
            Some(How::Wrong) => {
                let mut entries = self.inner.list(prefix)?;
                entries.pop();
                Ok(entries)
            }
        }
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.run(Verb::Delete, key.as_str(), || self.inner.delete(key))
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        self.run(Verb::FreeBytes, "", || self.inner.free_bytes())
    }

    fn inner(&self) -> Option<&dyn Storage> {
        Some(&*self.inner)
    }
}
