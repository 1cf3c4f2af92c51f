//! The log as it is written: received from the server into a spool, and from there into the vault.
//!
//! The server keeps, in a replication slot, what was not received; the spool keeps what was, until
//! the vault has it. So whatever dies, and whenever, the log goes on where it was. What waits for the
//! vault is bounded: past `log-queue` it is let go, which is remembered as a gap.

use super::ship::{Shipped, Shipper};
use super::spool::Spool;
use super::{allowed, gap, note_stored};
use crate::operation::Run;
use crate::{Error, ServiceSite};
use engines::command::Process;
use engines::postgres::{Log, Lsn, Postgres, Source, WalFile};
use jiff::Timestamp;
use model::{CancelToken, Class, Classify, Position, Progress};
use repository::log::LogStore;
use rustix::fs::FlockOperation;
use serde::Serialize;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much of the log may wait for the vault, if nobody says otherwise.
const QUEUE: u64 = 4 << 30;
/// How often the server is asked how far it is.
const TICK: Duration = Duration::from_millis(250);
/// The pause after something failed, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How often a host that is not the primary looks whether it has become that.
const IDLE: Duration = Duration::from_secs(3);
/// How long something may be wrong before a run that is to end gives up.
const ONCE_PATIENCE: Duration = Duration::from_secs(15);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// End when the vault has what the server had written when this began.
    pub once: bool,
    /// How often what is new is shipped.
    pub every: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// How far the vault has the log.
    pub position: Option<Position>,
    /// Bytes of the log that were shipped.
    pub bytes: u64,
    /// The slot in which the server keeps the log for the next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
}

/// Whether somebody receives this service's log on this host.
pub fn is_running(site: &ServiceSite) -> bool {
    let Ok(file) = File::open(site.dir().join("log-receive.lock")) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)
        == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Receives and ships until somebody cancels it, or, once, until the vault has what there was.
///
/// On a host that is not the primary it waits until it is.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    let Some(engine) = site.log_server()? else {
        return Err(Error::invalid(format!("{} has no log that could be received", site.name()))
            .hinting(
                "Only a service of engine `postgres` has, and none with `method = \"logical\"`.",
            ));
    };
    let _lock = lock(site)?;
    let mut told = Told::new(&*run.progress);
    loop {
        if run.cancel.is_cancelled() {
            return Ok(Done { position: None, bytes: 0, slot: None });
        }
        match allowed(site) {
            Ok(_) => {
                let spool = Spool::open(&site.dir().join("log-spool"))?;
                let mut receiver = Receiver::new(site, &engine, spool, params);
                let done = receiver.run(run, &mut told);
                match done {
                    // Another one is the primary now: nothing is kept for us here any more.
                    Err(e) if !params.once && is_other_primary(&e) => {
                        told.tell(Some(e.chain()));
                        let _ = receiver.source.drop_slot();
                    }
                    other => return other,
                }
            }
            Err(e) if params.once => return Err(e),
            Err(e)
                if matches!(e.class(), Class::Invalid | Class::WrongPassword | Class::Corrupt) =>
            {
                return Err(e);
            }
            Err(e) => {
                told.tell(Some(e.chain()));
                if !is_other_primary(&e) {
                    spare_the_disk(site, &engine, &*run.progress);
                }
            }
        }
        pause(IDLE, &run.cancel);
    }
}

/// What the server keeps in our slot while nobody receives it, which a run that was to end once has
/// left for the next one, is bounded as well: past `log-queue` it is let go, and a new base is due.
/// Says what was let go.
pub fn spare(site: &ServiceSite, run: &Run) -> Result<Option<String>, Error> {
    let Some(engine) = site.log_server()? else { return Ok(None) };
    // Whoever receives looks after it.
    let Ok(_lock) = lock(site) else { return Ok(None) };
    Ok(spare_the_disk(site, &engine, &*run.progress))
}

/// The vault does not even say who is the primary. What the server keeps for us meanwhile is bounded
/// all the same.
fn spare_the_disk(
    site: &ServiceSite,
    engine: &Postgres,
    progress: &dyn Progress,
) -> Option<String> {
    let mut source = engine.source();
    let log = source.look().ok()?;
    let from = log.slot.and_then(|slot| slot.from)?;
    let cap = cap(site);
    if log.in_recovery || log.flushed.0.saturating_sub(from.0) <= cap {
        return None;
    }
    let done = gap::note(site, log.timeline, from, &waited(cap)).and_then(|()| {
        source.drop_slot()?;
        Ok(())
    });
    let said = match done {
        Ok(()) => format!("the log from {from} on is let go: {}", waited(cap)),
        Err(e) => e.chain(),
    };
    progress.warn(&said);
    Some(said)
}

/// How much of the log may wait for the vault.
pub fn cap(site: &ServiceSite) -> u64 {
    let cap = site.spec().log_queue.as_deref().and_then(|text| model::size::parse(text).ok());
    cap.unwrap_or(QUEUE)
}

pub(super) fn waited(cap: u64) -> String {
    format!("more than {} of it waited for the vault", model::size::human(cap))
}

/// A host that is no primary, or no more, has nothing to ship.
fn is_other_primary(error: &Error) -> bool {
    matches!(error, Error::State(coordination::Error::Refused(_)))
}

pub(super) fn lock(site: &ServiceSite) -> Result<File, Error> {
    let dir = site.dir();
    crate::member::private_dir(&dir).map_err(|e| Error::io("make", &dir, e))?;
    let path = dir.join("log-receive.lock");
    let file = File::create(&path).map_err(|e| Error::io("make", &path, e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            Class::Locked,
            format!("the log of {} is received by another process on this host", site.name()),
        )),
        Err(e) => Err(Error::io("lock", &path, e.into())),
    }
}

pub(super) fn pause(time: Duration, cancel: &CancelToken) {
    let until = Instant::now() + time;
    while Instant::now() < until && !cancel.is_cancelled() {
        std::thread::sleep(Duration::from_millis(20).min(time));
    }
}

/// Says what is wrong once, and once that it is over.
pub(super) struct Told<'a> {
    progress: &'a dyn Progress,
    trouble: Option<String>,
}

impl<'a> Told<'a> {
    pub(super) fn new(progress: &'a dyn Progress) -> Told<'a> {
        Told { progress, trouble: None }
    }

    pub(super) fn tell(&mut self, trouble: Option<String>) {
        if trouble == self.trouble {
            return;
        }
        match &trouble {
            Some(what) => self.progress.warn(what),
            None => self.progress.note("the log goes on"),
        }
        self.trouble = trouble;
    }
}

/// What the two threads tell each other.
#[derive(Default)]
struct Shared {
    shipped: Option<Shipped>,
    bytes: u64,
    /// When the last pass began that went well.
    well_since: Option<Instant>,
    /// Why the last one did not.
    trouble: Option<String>,
    /// Nothing will come of going on.
    ended: Option<Error>,
}

struct Receiver<'a> {
    site: &'a ServiceSite,
    source: Source<'a>,
    spool: Spool,
    params: &'a Params,
    cap: u64,
    process: Option<Process>,
    /// Where the stream that runs begins.
    began: Option<Lsn>,
    /// What comes next is not to be had any more: the log goes on where the slot begins.
    broken: bool,
    /// Where it went on, last; what lies before waits for nobody.
    resumed: Lsn,
    retry: (Instant, Duration),
    /// Why the program that receives ended, until it receives again.
    trouble: Option<String>,
    /// How far the server was, and when.
    samples: VecDeque<Sample>,
    /// The vault has what the server had when this began.
    reached: bool,
    /// Since when something is wrong.
    wrong_since: Option<Instant>,
}

impl<'a> Receiver<'a> {
    fn new(
        site: &'a ServiceSite,
        engine: &'a Postgres,
        spool: Spool,
        params: &'a Params,
    ) -> Receiver<'a> {
        Receiver {
            site,
            source: engine.source(),
            spool,
            params,
            cap: cap(site),
            process: None,
            began: None,
            broken: false,
            resumed: Lsn(0),
            retry: (Instant::now(), PAUSE.0),
            trouble: None,
            samples: VecDeque::new(),
            reached: false,
            wrong_since: None,
        }
    }

    fn run(&mut self, run: &Run, told: &mut Told<'_>) -> Result<Done, Error> {
        let stop = CancelToken::new();
        let mut shipper = Shipper::new(self.site, self.spool.clone())?;
        let shared = Mutex::new(Shared::default());
        let every = self.params.every;
        let result = std::thread::scope(|scope| {
            scope.spawn(|| ship(&mut shipper, &shared, &stop, every));
            let result = self.supervise(run, told, &shared);
            stop.cancel();
            result
        });
        if let Some(mut process) = self.process.take() {
            let _ = process.end();
        }
        result
    }

    fn supervise(
        &mut self,
        run: &Run,
        told: &mut Told<'_>,
        shared: &Mutex<Shared>,
    ) -> Result<Done, Error> {
        loop {
            let (shipped, bytes, well_since, trouble) = {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(error) = shared.ended.take() {
                    return Err(error);
                }
                (shared.shipped, shared.bytes, shared.well_since, shared.trouble.clone())
            };
            let position = shipped.map(|s| Position::Lsn { timeline: s.timeline, lsn: s.end.0 });
            if run.cancel.is_cancelled() {
                return Ok(Done { position, bytes, slot: None });
            }
            let trouble = match self.look(shipped, well_since, &*run.progress) {
                Ok(()) => trouble,
                Err(e) if matches!(e.class(), Class::Invalid | Class::Corrupt) => return Err(e),
                Err(e) if self.params.once && e.class() == Class::NoSpace => return Err(e),
                Err(e) => Some(e.chain()),
            };
            if self.params.once && self.reached {
                let slot = Some(self.source.slot().to_owned());
                return Ok(Done { position, bytes, slot });
            }
            match &trouble {
                None => self.wrong_since = None,
                Some(what) => {
                    let since = *self.wrong_since.get_or_insert_with(Instant::now);
                    if self.params.once && since.elapsed() >= ONCE_PATIENCE {
                        return Err(Error::new(Class::Unavailable, what.clone()));
                    }
                }
            }
            told.tell(trouble);
            pause(TICK, &run.cancel);
        }
    }

    /// Asks the server, sees to it that the log is received, and notes how far the vault is.
    fn look(
        &mut self,
        shipped: Option<Shipped>,
        well_since: Option<Instant>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let ended = match &mut self.process {
            Some(process) => process.has_ended()?,
            None => false,
        };
        if ended && let Some(process) = self.process.take() {
            self.failed(process)?;
        }
        let (now, before) = (Timestamp::now(), Instant::now());
        let log = self.source.look()?;
        if log.in_recovery {
            return Err(Error::new(Class::Unavailable, "the server is a standby still"));
        }
        self.freshness(&log, shipped, well_since, (now, before));
        if self.over_cap(&log, shipped) {
            return self.let_go(&log, progress);
        }
        if self.process.is_some() {
            return self.goes_on(&log);
        }
        if Instant::now() < self.retry.0 {
            // It is not over because nothing is tried for a while.
            return match &self.trouble {
                Some(what) => Err(Error::new(Class::Unavailable, what.clone())),
                None => Ok(()),
            };
        }
        let started = self.start(log, well_since);
        if started.is_err() {
            self.wait();
        }
        started
    }

    fn wait(&mut self) {
        self.retry = (Instant::now() + self.retry.1, (self.retry.1 * 2).min(PAUSE.1));
    }

    /// What a program that ended says.
    fn failed(&mut self, process: Process) -> Result<(), Error> {
        self.wait();
        let said = process.wait(&CancelToken::new())?.failure().to_string();
        let gone = ["has already been removed", "not in this server's history", "ahead of the WAL"];
        if gone.iter().any(|words| said.contains(words)) {
            self.broken = true;
            let segments = self.source.look()?.segments;
            if let Some((timeline, next)) = self.spool.next(segments)? {
                let why = "the server does not have it any more";
                gap::note(self.site, timeline, next, why)?;
            }
            // The server has moved the slot back to where it was asked to begin, which is gone: only a
            // new one begins where something is.
            self.source.drop_slot()?;
            return Ok(());
        }
        self.trouble = Some(said.clone());
        if said.contains("No space left on device") {
            let spool = self.spool.dir.display();
            let what = format!("the disk of the log's spool {spool} is full; {said}");
            self.trouble = Some(what.clone());
            return Err(Error::new(Class::NoSpace, what).hinting(
                "Free some space there: nothing is lost as long as the server keeps the log.",
            ));
        }
        Err(Error::new(Class::Unavailable, said))
    }

    /// Starts the program that receives.
    fn start(&mut self, log: Log, well_since: Option<Instant>) -> Result<(), Error> {
        let open = gap::load(self.site)?.filter(|gap| gap.to.is_none());
        // What waits goes first: a stream that is begun now would be let go again.
        let drained = well_since.is_some_and(|since| since > self.retry.0);
        if open.is_some() {
            if !drained {
                return Ok(());
            }
            self.broken = true;
        }
        let mut log = log;
        if log.slot.is_some_and(|slot| slot.lost) {
            let from = self.spool.next(log.segments)?.map_or(Lsn(0), |(_, next)| next);
            gap::note(self.site, log.timeline, from, "the server gave its slot up")?;
            self.source.drop_slot()?;
            self.broken = true;
            log = self.source.look()?;
        }
        if log.slot.is_none() {
            self.source.make_slot()?;
            log = self.source.look()?;
        }
        self.spool.mend(log.segments)?;
        let next = self.spool.next(log.segments)?;
        let other = next.is_some_and(|(timeline, _)| timeline != log.timeline);
        if self.broken || other {
            if !drained {
                return Ok(());
            }
            self.spool.clear()?;
        }
        let mut began = self.spool.next(log.segments)?;
        if began.is_none() {
            let from = self.first(&log)?;
            let name = log.segments.name(log.timeline, log.segments.number(from));
            self.spool.seed(&name)?;
            let start = log.segments.start(log.segments.number(from));
            began = Some((log.timeline, start));
            self.resumed = start;
        }
        self.broken = false;
        self.began = began.map(|(_, start)| start);
        self.process = Some(self.source.receive(&self.spool.dir)?);
        self.retry.0 = Instant::now();
        Ok(())
    }

    /// Where the log is received from if nothing of it is in the spool: where the vault's ends, or
    /// where the slot begins if that is earlier.
    fn first(&self, log: &Log) -> Result<Lsn, Error> {
        let kept = log.slot.and_then(|slot| slot.from).unwrap_or(log.flushed);
        let branched = self.source.branched(log.timeline).unwrap_or(Lsn(0));
        if self.broken {
            return Ok(Lsn(kept.0.max(branched.0)));
        }
        let state = self.site.load_state()?.state;
        let base = match state.head_point().and_then(|point| point.position.as_ref()) {
            Some(Position::Lsn { timeline, lsn }) if *timeline == log.timeline => Some(*lsn),
            Some(_) => Some(branched.0),
            // Without a base nobody needs what was before.
            None => None,
        };
        let stored = LogStore::new(self.site.repository()?);
        let names = stored.list()?.into_iter().map(|(name, _)| name);
        let parts = stored.list_parts()?.into_iter().map(|(name, _)| name);
        let ends = names.chain(parts).filter_map(|name| match WalFile::parse(&name) {
            Some(WalFile::Segment { timeline, place }) if timeline == log.timeline => {
                Some(log.segments.start_of(place)?.0)
            }
            _ => None,
        });
        let from = match (ends.max(), base) {
            (Some(end), Some(base)) => end.max(base),
            (Some(end), None) => end,
            (None, Some(base)) => base,
            (None, None) => kept.0,
        };
        Ok(Lsn(from.min(kept.0).max(branched.0)))
    }

    /// The stream runs: a gap that was open ends where it began.
    fn goes_on(&mut self, log: &Log) -> Result<(), Error> {
        let Some(began) = self.began else { return Ok(()) };
        if log.slot.is_some_and(|slot| slot.active) {
            self.retry.1 = PAUSE.0;
            self.trouble = None;
            gap::ends(self.site, began)?;
            self.began = None;
        }
        Ok(())
    }

    /// Whether more waits for the vault than may.
    fn over_cap(&self, log: &Log, shipped: Option<Shipped>) -> bool {
        let kept = log.slot.and_then(|slot| slot.from);
        let spooled = self.spool.oldest(log.segments).ok().flatten();
        let waits_from = match (shipped, spooled, kept) {
            (Some(shipped), _, _) => shipped.end,
            (None, Some(spooled), Some(kept)) => spooled.min(kept),
            (None, Some(from), None) | (None, None, Some(from)) => from,
            (None, None, None) => return false,
        };
        let waits_from = waits_from.max(self.resumed);
        log.slot.is_some() && log.flushed.0.saturating_sub(waits_from.0) > self.cap
    }

    /// Lets the log go, so that it fills no disk.
    fn let_go(&mut self, log: &Log, progress: &dyn Progress) -> Result<(), Error> {
        if let Some(mut process) = self.process.take() {
            process.end()?;
        }
        let received = self.source.look()?.slot.and_then(|slot| slot.from);
        let from = received.unwrap_or(log.flushed);
        let why = waited(self.cap);
        // Before the slot goes: what is not remembered is not missed.
        gap::note(self.site, log.timeline, from, &why)?;
        self.source.drop_slot()?;
        progress.warn(&format!(
            "the log from {from} on is let go: {why}; a new base is needed once the vault answers"
        ));
        self.wait();
        Ok(())
    }

    /// Notes up to when the vault has everything.
    fn freshness(
        &mut self,
        log: &Log,
        shipped: Option<Shipped>,
        well_since: Option<Instant>,
        (now, before): (Timestamp, Instant),
    ) {
        let received = log.slot.and_then(|slot| slot.received);
        for sample in &mut self.samples {
            if received.is_some_and(|received| received >= sample.flushed) {
                sample.received.get_or_insert(before);
            }
        }
        let mut stored = None;
        while let Some(sample) = self.samples.front()
            && sample.is_stored(shipped, well_since)
        {
            stored = Some(sample.time);
            self.samples.pop_front();
        }
        if let Some(time) = stored {
            self.reached = true;
            note_stored(self.site, time);
        }
        // One a second is enough, and nobody wants them all when nothing moves.
        if self.samples.back().is_none_or(|last| before - last.asked >= Duration::from_secs(1)) {
            let flushed = log.flushed;
            self.samples.push_back(Sample { time: now, asked: before, flushed, received: None });
        }
    }
}

/// How far the server was at some time.
struct Sample {
    time: Timestamp,
    asked: Instant,
    flushed: Lsn,
    /// When all of that was known to be received.
    received: Option<Instant>,
}

impl Sample {
    /// Whether the vault has all of it that matters: everything, or, of what was received before the
    /// last pass began, everything but the beginning of a record: the server flushes whole pages.
    fn is_stored(&self, shipped: Option<Shipped>, well_since: Option<Instant>) -> bool {
        let Some(shipped) = shipped else { return false };
        let passed = self.received.zip(well_since).is_some_and(|(received, pass)| pass > received);
        shipped.end >= self.flushed || (passed && shipped.reach >= self.flushed)
    }
}

/// Ships what is new, again and again.
fn ship(shipper: &mut Shipper<'_>, shared: &Mutex<Shared>, stop: &CancelToken, every: Duration) {
    let mut wait = PAUSE.0;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let result = shipper.ship();
        {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.bytes = shipper.bytes;
            match result {
                Ok(shipped) => {
                    shared.shipped = shipped.or(shared.shipped);
                    shared.well_since = Some(began);
                    shared.trouble = None;
                    wait = PAUSE.0;
                }
                Err(e) if matches!(e.class(), Class::Refused | Class::Corrupt) => {
                    shared.ended = Some(e);
                    return;
                }
                Err(e) => {
                    shared.trouble =
                        Some(format!("the vault does not take the log: {}", e.chain()));
                    shared.well_since = None;
                    wait = (wait * 2).min(PAUSE.1);
                }
            }
        }
        let failing = wait > PAUSE.0;
        let until = if failing { wait } else { every.saturating_sub(began.elapsed()) };
        pause(until.max(Duration::from_millis(20)), stop);
    }
}
