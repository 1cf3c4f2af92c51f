//! The log as it is written: read where the server writes it, and shipped into the vault.
//!
//! The server keeps, in a replication slot, what the vault does not have: there is no other copy that
//! could be lost, fill a disk or cost the server's processor. So whatever dies, and whenever, the log
//! goes on where it was. What waits for the vault is bounded: past `log-queue` it is let go, which is
//! remembered as a gap.

use super::ship::{Goal, Shipped, Shipper};
use super::until::{Proved, Sayer};
use super::{allowed, gap, note_stored};
use crate::asking::{Asking, Patience};
use crate::cluster::{self, log_of};
use crate::operation::Run;
use crate::{Error, ServiceSite};
use engines::postgres::{Log, Lsn, Postgres, Source, WalFile};
use jiff::Timestamp;
use model::state::Refusal;
use model::{CancelToken, Class, Classify, ClusterId, Position, Progress};
use rustix::fs::FlockOperation;
use serde::Serialize;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much of the log may wait for the vault, if nobody says otherwise.
const QUEUE: u64 = 4 << 30;
/// Where it is noted how far the log was shipped.
const SHIPPED: &str = "log-shipped";
/// How often a server is asked how far it is: one that goes on, and one that stands still.
pub(super) const TICK: Duration = Duration::from_millis(100);
const STILL: Duration = Duration::from_millis(250);
/// How often it is looked whether there is something to ship.
const STEP: Duration = Duration::from_millis(30);
/// The pause after something failed, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How often a host that is not the primary looks whether it has become that.
const IDLE: Duration = Duration::from_secs(3);
/// How long something may be wrong before a run that is to end gives up.
const ONCE_PATIENCE: Duration = Duration::from_secs(15);
/// So long the vault may have more of the log than the server was seen to have: it may have been stored
/// after the server was asked.
const BEHIND_PATIENCE: Duration = Duration::from_secs(5);
/// How long a lock is tried for: somebody who only looks whether it is held holds it for an instant.
const LOCK_GRACE: Duration = Duration::from_millis(200);
/// How long an answer of the vault is waited for while the log may grow too long, and by a run that is to
/// end.
const ANSWER: Duration = Duration::from_secs(5);
const ONCE_ANSWER: Duration = Duration::from_secs(60);

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
                "Services of engine `postgres` have (but for `method = \"logical\"`), and of `sqlite`.",
            ));
    };
    let _lock = lock(site)?;
    let mut told = Told::new(&*run.progress);
    // The server keeps the log in our slot.
    let mut kept = false;
    let (mut asking, mut stored) = (Asking::new(), Asking::new());
    let patience = Patience::of(if params.once { ONCE_ANSWER } else { ANSWER });
    loop {
        if run.cancel.is_cancelled() {
            return Ok(Done { position: None, bytes: 0, slot: None });
        }
        let here = site.clone();
        let refused = match asking.ask("allowed", patience, move || allowed(&here)) {
            Ok(_) => {
                kept = true;
                match Receiver::new(site, &engine, params).run(run, &mut told) {
                    Err(e) if !params.once && is_refused(&e) => e,
                    other => return other,
                }
            }
            Err(e) => e,
        };
        if params.once
            || matches!(refused.class(), Class::Invalid | Class::WrongPassword | Class::Corrupt)
        {
            return Err(refused);
        }
        told.tell(Some(refused.chain()));
        if is_other_primary(&refused) {
            // Nothing is kept for us here any more.
            kept = kept && engine.source().drop_slot().is_err();
        } else {
            // Nobody says who is, or a takeover has begun that may be given back: then the log goes on
            // where it was.
            spare_the_disk(site, &engine, &mut stored, &*run.progress);
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
    Ok(spare_the_disk(site, &engine, &mut Asking::new(), &*run.progress))
}

/// The vault does not even say who is the primary. What the server keeps for us meanwhile is bounded
/// all the same.
fn spare_the_disk(
    site: &ServiceSite,
    engine: &Postgres,
    stored: &mut Asking<Lsn>,
    progress: &dyn Progress,
) -> Option<String> {
    let mut source = engine.source();
    let log = source.look().ok()?;
    let kept = log.slot.and_then(|slot| slot.from)?;
    let cap = cap(site);
    let is_too_much = |from: Lsn| log.flushed.0.saturating_sub(from.0) > cap;
    if log.in_recovery || !is_too_much(kept) {
        return None;
    }
    // A slot goes back to its server's last checkpoint when that crashes. What the vault has from there on
    // waits for nobody, and would become a gap.
    let begin = kept.max(source.branched(log.timeline).unwrap_or(kept));
    let (here, there) = (site.clone(), log.clone());
    let ask = move || stored_from(&here, &there, begin);
    let from = match stored.ask("stored", Patience::of(ANSWER), ask) {
        Ok(from) => {
            if from > kept
                && let Err(e) = source.advance(from)
            {
                progress.warn(&format!("the slot does not move on to {from}: {}", chain(e)));
            }
            from
        }
        // As far as is known here. A vault that hangs is not waited for either.
        Err(_) => shipped_until(site, &log).map_or(kept, |until| until.max(kept)),
    };
    if !is_too_much(from) {
        return None;
    }
    let why = waited(cap);
    let noted = gap::note(site, Some(log.cluster), log.timeline, from, &why);
    // Whatever came of that: a state directory that is full must not fill the server's disk. Who receives
    // next goes on where the vault's log ends, and finds what is missing by itself.
    let said = match (source.drop_slot(), noted) {
        (Ok(()), Ok(())) => format!("the log from {from} on is let go: {why}"),
        (Ok(()), Err(e)) => format!(
            "the log from {from} on is let go: {why}; that could not be noted: {}",
            e.chain()
        ),
        (Err(e), _) => chain(e),
    };
    progress.warn(&said);
    Some(said)
}

fn chain(error: engines::Error) -> String {
    Error::from(error).chain()
}

/// How far the vault has the log without a break, from this position on.
fn stored_from(site: &ServiceSite, log: &Log, from: Lsn) -> Result<Lsn, Error> {
    let store = log_of(site, Some(log.cluster))?;
    let segments = log.segments;
    let mut number = segments.number(from);
    let mut near = BTreeSet::new();
    loop {
        let name = segments.name(log.timeline, number);
        if !near.contains(&name) {
            near = store.list_near(&name)?.into_iter().map(|(name, _)| name).collect();
        }
        if !near.contains(&name) {
            // Of the last one there may be a beginning.
            let begun = store.beginning(&name)?.map_or(0, |begun| begun.bytes.len() as u64);
            let end = segments.start(number).0.saturating_add(begun);
            return Ok(Lsn(end.min(log.flushed.0).max(from.0)));
        }
        number = number.saturating_add(1);
        if segments.start(number) > log.flushed {
            return Ok(log.flushed);
        }
    }
}

/// How far the log was shipped from this host, as far as it remembers; nothing that cannot be.
fn shipped_until(site: &ServiceSite, log: &Log) -> Option<Lsn> {
    let text = std::fs::read_to_string(site.dir().join(SHIPPED)).ok()?;
    let mut words = text.split_whitespace();
    let (cluster, timeline): (ClusterId, u32) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let until: Lsn = words.next()?.parse().ok()?;
    let same = (cluster, timeline) == (log.cluster, log.timeline);
    (same && until <= log.flushed).then_some(until)
}

/// Remembers that. Only a note: who can ask the vault does.
fn note_shipped(site: &ServiceSite, shipped: Shipped) {
    let (path, beside) = (site.dir().join(SHIPPED), site.dir().join("log-shipped.tmp"));
    let Shipped { cluster, timeline, end, .. } = shipped;
    let written = std::fs::write(&beside, format!("{cluster} {timeline} {end}\n"));
    let _ = written.and_then(|()| std::fs::rename(&beside, &path));
}

/// How much of the log may wait for the vault.
pub fn cap(site: &ServiceSite) -> u64 {
    let cap = site.spec().log_queue.as_deref().and_then(|text| model::size::parse(text).ok());
    cap.unwrap_or(QUEUE)
}

pub(super) fn waited(cap: u64) -> String {
    format!("more than {} of it waited for the vault", model::size::human(cap))
}

/// The state says that this host may not ship now.
fn is_refused(error: &Error) -> bool {
    matches!(error, Error::State(coordination::Error::Refused(_)))
}

/// It says so because another host is the primary.
fn is_other_primary(error: &Error) -> bool {
    let Error::State(coordination::Error::Refused(refusal)) = error else { return false };
    matches!(refusal, Refusal::NotPrimary { primary: Some(_), .. } | Refusal::OldGeneration { .. })
}

pub(super) fn lock(site: &ServiceSite) -> Result<File, Error> {
    lock_within(site, LOCK_GRACE)
}

fn lock_within(site: &ServiceSite, grace: Duration) -> Result<File, Error> {
    let dir = site.dir();
    crate::member::private_dir(&dir).map_err(|e| Error::io("make", &dir, e))?;
    let path = dir.join("log-receive.lock");
    let file = File::create(&path).map_err(|e| Error::io("make", &path, e))?;
    let deadline = Instant::now() + grace;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::new(
                    Class::Locked,
                    format!(
                        "the log of {} is received by another process on this host",
                        site.name()
                    ),
                ));
            }
            Err(e) => return Err(Error::io("lock", &path, e.into())),
        }
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
            None => self.progress.over("that is over: the log goes on"),
        }
        self.trouble = trouble;
    }
}

/// What the two threads tell each other.
#[derive(Default)]
struct Shared {
    /// What there is to ship; none as long as the log waits for something.
    goal: Option<Goal>,
    /// How far the vault has the log since this goal was first set.
    shipped: Option<Shipped>,
    bytes: u64,
    /// Up to when everything is in the vault, as far as that was seen.
    proved: Option<Proved>,
    /// When the last pass began that went well.
    well_since: Option<Instant>,
    /// When the server was asked, of the last pass that took in all that the server had.
    covered: Option<Instant>,
    /// What comes next is not where the server writes its log, any more.
    gone: Option<Lsn>,
    /// Why the last pass did not go well.
    trouble: Option<String>,
    /// Since when the vault has had more of the log than the server.
    behind: Option<Instant>,
    /// Nothing will come of going on.
    ended: Option<Error>,
}

impl Shared {
    /// What is wrong, if anything is.
    fn wrong(&self, now: Instant) -> Option<String> {
        let behind = self.behind.filter(|since| now.duration_since(*since) >= BEHIND_PATIENCE);
        self.trouble.clone().or_else(|| {
            behind.map(|_| {
                "the vault has more of the log than this server has written: nothing is stored \
                 before it has come that far. If its files went back to an earlier time, restore \
                 the service with `mainstay restore`, which begins a timeline of its own"
                    .to_owned()
            })
        })
    }
}

/// The same, as one of them saw it last.
#[derive(Clone, Copy)]
struct Seen {
    shipped: Option<Shipped>,
    well_since: Option<Instant>,
    covered: Option<Instant>,
    gone: Option<Lsn>,
}

/// What the vault knows of the log.
struct Known {
    /// Where the newest whole point of this cluster is.
    base: Option<Position>,
    /// The segments that are there, and those of which a part is.
    whole: Vec<String>,
    begun: Vec<String>,
}

impl Known {
    fn look(site: &ServiceSite, cluster: ClusterId) -> Result<Known, Error> {
        let state = cluster::only(site, &site.load_state()?.state, Some(cluster))?;
        let stored = log_of(site, Some(cluster))?;
        Ok(Known {
            base: state.head_point().and_then(|point| point.position.clone()),
            whole: stored.list()?.into_iter().map(|(name, _)| name).collect(),
            begun: stored.list_parts()?.into_iter().map(|(name, _)| name).collect(),
        })
    }
}

/// From here on something is missing.
struct Missed {
    cluster: ClusterId,
    timeline: u32,
    from: Lsn,
    why: String,
}

struct Receiver<'a> {
    site: &'a ServiceSite,
    source: Source<'a>,
    params: &'a Params,
    cap: u64,
    /// What is shipped; none as long as the log waits for something.
    goal: Option<Goal>,
    /// How often it began.
    runs: u64,
    /// What comes next is not to be had any more: the log goes on where the slot begins.
    broken: bool,
    /// What is shipped begins where the slot does, since what was before was not to be had.
    at_slot: bool,
    /// What is missing and could not be noted yet: before it is, the log does not go on.
    missed: Option<Missed>,
    /// The server did not answer: what it writes is compared before it is shipped on.
    compare: bool,
    /// Where it went on, last; what lies before waits for nobody.
    resumed: Lsn,
    retry: (Instant, Duration),
    /// What the vault has is asked for here: it may hang, and the server's disk fill.
    asking: Asking<Known>,
    /// How far the server was, and when.
    samples: VecDeque<Sample>,
    /// The vault has what the server had when this began.
    reached: bool,
    /// Up to when it has everything.
    proved: Option<Proved>,
    /// Since when something is wrong.
    wrong_since: Option<Instant>,
}

impl<'a> Receiver<'a> {
    fn new(site: &'a ServiceSite, engine: &'a Postgres, params: &'a Params) -> Receiver<'a> {
        Receiver {
            site,
            source: engine.source(),
            params,
            cap: cap(site),
            goal: None,
            runs: 0,
            broken: false,
            at_slot: false,
            missed: None,
            compare: false,
            resumed: Lsn(0),
            retry: (Instant::now(), PAUSE.0),
            asking: Asking::new(),
            samples: VecDeque::new(),
            reached: false,
            proved: None,
            wrong_since: None,
        }
    }

    fn run(&mut self, run: &Run, told: &mut Told<'_>) -> Result<Done, Error> {
        let stop = CancelToken::new();
        let mut shipper = Shipper::new(self.site)?;
        let shared = Mutex::new(Shared::default());
        let every = if self.params.once { Duration::ZERO } else { self.params.every };
        std::thread::scope(|scope| {
            let sayer = Sayer::new(self.site);
            scope.spawn(|| ship(&mut shipper, sayer, &shared, &stop, every));
            let result = self.supervise(run, told, &shared);
            stop.cancel();
            result
        })
    }

    fn supervise(
        &mut self,
        run: &Run,
        told: &mut Told<'_>,
        shared: &Mutex<Shared>,
    ) -> Result<Done, Error> {
        loop {
            let (seen, bytes, trouble) = {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(error) = shared.ended.take() {
                    return Err(error);
                }
                let seen = Seen {
                    shipped: shared.shipped,
                    well_since: shared.well_since,
                    covered: shared.covered,
                    gone: shared.gone.take(),
                };
                (seen, shared.bytes, shared.wrong(Instant::now()))
            };
            let position =
                seen.shipped.map(|s| Position::Lsn { timeline: s.timeline, lsn: s.end.0 });
            if run.cancel.is_cancelled() {
                return Ok(Done { position, bytes, slot: None });
            }
            let flushed = |goal: &Option<Goal>| goal.as_ref().map(|goal| goal.flushed);
            let before = flushed(&self.goal);
            let looked = self.look(seen, &*run.progress);
            let goes_on = flushed(&self.goal) != before;
            self.publish(shared);
            let trouble = match looked {
                Ok(()) => trouble,
                Err(e) if matches!(e.class(), Class::Invalid | Class::Corrupt) => return Err(e),
                Err(e) => Some(e.chain()),
            };
            if self.params.once && self.reached {
                // Nobody does after this, and how it went is of no account, as in `keep_up`.
                if let Some(proved) = self.proved {
                    let _ = Sayer::new(self.site).say(proved);
                }
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
            pause(if goes_on { TICK } else { STILL }, &run.cancel);
        }
    }

    /// Tells the other thread what there is to ship.
    fn publish(&self, shared: &Mutex<Shared>) {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let run = |goal: &Option<Goal>| goal.as_ref().map(|goal| goal.run);
        if run(&shared.goal) != run(&self.goal) {
            // What was said of the one before is not true of this one.
            (shared.shipped, shared.covered, shared.gone) = (None, None, None);
            shared.behind = None;
        }
        shared.goal.clone_from(&self.goal);
        shared.proved = self.proved;
    }

    /// Asks the server, sees to it that the log goes on, and notes how far the vault is.
    fn look(&mut self, seen: Seen, progress: &dyn Progress) -> Result<(), Error> {
        let (now, before) = (Timestamp::now(), Instant::now());
        let log = match self.source.look() {
            Ok(log) => log,
            Err(e) => {
                self.compare = true;
                self.end_of_a_stopped_server(before);
                return Err(e.into());
            }
        };
        if log.in_recovery {
            return Err(Error::new(Class::Unavailable, "the server is a standby still"));
        }
        self.freshness(&log, seen, (now, before));
        // Of a server whose files were exchanged, as by a restore, nothing is missing by that: where its log
        // goes on is found out first.
        let exchanged = self.compare || self.goal.as_ref().is_some_and(|goal| !goal.is_of(&log));
        if let (Some(goal), Some(from), false) = (&self.goal, seen.gone, exchanged) {
            let why = "the server does not have it any more";
            self.miss((goal.cluster, goal.timeline), from, why);
            self.goal = None;
            self.wait();
            if self.at_slot && seen.shipped.is_none() {
                // Only a new slot begins where something is.
                self.source.drop_slot()?;
            }
        }
        let noted = self.note_missed();
        let went_back = seen.shipped.is_some_and(|shipped| shipped.end > log.flushed);
        if std::mem::take(&mut self.compare) || went_back {
            // Its files may be of an earlier time, or others.
            self.goal = None;
        }
        let kept = log.slot.filter(|slot| !slot.lost);
        let goes_on = match (&mut self.goal, kept) {
            (Some(goal), Some(_)) if goal.is_of(&log) => {
                (goal.flushed, goal.asked) = (log.flushed, before);
                true
            }
            _ => false,
        };
        let mut started = Ok(());
        if !goes_on && noted.is_ok() && Instant::now() >= self.retry.0 {
            started = self.start(log.clone(), seen, before);
            if started.is_err() {
                self.wait();
            }
        }
        if self.over_cap(&log, seen.shipped) {
            return self.let_go(&log, seen.shipped, progress);
        }
        let mut ended = Ok(());
        if goes_on && seen.covered.is_some() {
            // It goes on: a gap that was open ends where it began.
            self.retry.1 = PAUSE.0;
            ended = gap::ends(self.site, Some(log.cluster), self.resumed);
        }
        // Also where that cannot be noted: what the vault has, the server need not keep.
        if goes_on
            && let (Some(slot), Some(shipped)) = (kept, seen.shipped)
            && slot.from.is_none_or(|from| shipped.end > from)
        {
            self.source.advance(shipped.end)?;
        }
        noted.and(started).and(ended)
    }

    /// Something is missing from here on. What was missed before begins before it.
    fn miss(&mut self, (cluster, timeline): (ClusterId, u32), from: Lsn, why: &str) {
        let missed = || Missed { cluster, timeline, from, why: why.to_owned() };
        self.missed.get_or_insert_with(missed);
    }

    /// Notes what is missing. As long as that cannot be, because the disk here is full, nothing is shipped
    /// past it: a log with a hole of which nobody knows would be taken for whole. If this process dies
    /// with it, the next one goes on where the vault's log ends, and finds it again.
    fn note_missed(&mut self) -> Result<(), Error> {
        if let Some(Missed { cluster, timeline, from, why }) = &self.missed {
            gap::note(self.site, Some(*cluster), *timeline, *from, why)?;
            self.missed = None;
        }
        Ok(())
    }

    /// What a server wrote last before it was stopped is shipped, too: its host may be switched off next.
    fn end_of_a_stopped_server(&mut self, asked: Instant) {
        if let Some(goal) = &mut self.goal
            && let Some((cluster, timeline, end)) = self.source.stopped()
            && (cluster, timeline) == (goal.cluster, goal.timeline)
            && end > goal.flushed
        {
            (goal.flushed, goal.asked) = (end, asked);
        }
    }

    fn wait(&mut self) {
        self.retry = (Instant::now() + self.retry.1, (self.retry.1 * 2).min(PAUSE.1));
    }

    /// Finds out where the log goes on.
    fn start(&mut self, log: Log, seen: Seen, asked: Instant) -> Result<(), Error> {
        let before = self.goal.take();
        // The vault has to answer first: what is begun now would be let go again.
        let answers = seen.well_since.is_some_and(|since| since > self.retry.0);
        let cluster = Some(log.cluster);
        let open = gap::load(self.site)?.filter(|gap| gap.to.is_none() && gap.may_be_of(cluster));
        if open.is_some() {
            if !answers {
                return Ok(());
            }
            self.broken = true;
        }
        let mut log = log;
        if log.slot.is_some_and(|slot| slot.lost) {
            let shipped = seen.shipped.map(|shipped| shipped.end);
            let from = shipped.or(before.map(|goal| goal.from)).unwrap_or(Lsn(0));
            self.miss((log.cluster, log.timeline), from, "the server gave its slot up");
            self.note_missed()?;
            self.source.drop_slot()?;
            self.broken = true;
            log = self.source.look()?;
        }
        if log.slot.is_some_and(|slot| slot.from.is_none()) {
            // Somebody made it, and it keeps nothing.
            self.source.drop_slot()?;
            log.slot = None;
        }
        if log.slot.is_none() {
            self.source.make_slot()?;
            log = self.source.look()?;
        }
        let live = self.source.live()?;
        let first = self.first(&log)?;
        let from = log.segments.start(log.segments.number(first));
        self.resumed = from;
        self.at_slot = std::mem::take(&mut self.broken);
        self.runs += 1;
        self.goal = Some(Goal {
            run: self.runs,
            live,
            cluster: log.cluster,
            timeline: log.timeline,
            segments: log.segments,
            from,
            flushed: log.flushed,
            asked,
        });
        Ok(())
    }

    /// From where on the log is shipped: where the vault's ends, or where the slot begins if that is
    /// earlier.
    fn first(&mut self, log: &Log) -> Result<Lsn, Error> {
        let kept = log.slot.and_then(|slot| slot.from).unwrap_or(log.flushed);
        let branched = self.source.branched(log.timeline).unwrap_or(Lsn(0));
        if self.broken {
            return Ok(Lsn(kept.0.max(branched.0)));
        }
        let here = self.site.clone();
        let cluster = log.cluster;
        let ask = move || Known::look(&here, cluster);
        let known = self.asking.ask("known", Patience::of(ANSWER), ask)?;
        let base = match known.base {
            Some(Position::Lsn { timeline, lsn }) if timeline == log.timeline => Some(lsn),
            Some(_) => Some(branched.0),
            // Without a base nobody needs what was before.
            None => None,
        };
        let start = |name: &String| match WalFile::parse(name) {
            Some(WalFile::Segment { timeline, place }) if timeline == log.timeline => {
                Some(log.segments.start_of(place)?.0)
            }
            _ => None,
        };
        let whole: BTreeSet<u64> = known.whole.iter().filter_map(start).collect();
        let part = known.begun.iter().filter_map(start).max();
        let whole_end = whole.last().map(|last| last.saturating_add(log.segments.size()));
        let from = match (part.max(whole_end), base) {
            // The server is behind the vault: what both have is compared.
            (Some(end), _) if end > log.flushed.0 => {
                part.max(whole.last().copied()).map_or(kept.0, |last| last.min(kept.0))
            }
            (Some(end), _) if kept.0 <= end => {
                let number = |at: u64| log.segments.number(Lsn(at));
                let mut between = number(kept.0)..number(end);
                let has = |n: u64| whole.contains(&log.segments.start(n).0);
                // A slot goes back to its last checkpoint when its server crashes. What the vault
                // has from there on need not be there any more.
                if between.all(has) { end } else { kept.0 }
            }
            (Some(end), Some(base)) => end.max(base).min(kept.0),
            (Some(end), None) => end.min(kept.0),
            (None, Some(base)) => self.back_to(branched, base.min(kept.0), log)?,
            (None, None) => kept.0,
        };
        Ok(Lsn(from.max(branched.0)))
    }

    /// The beginning of a timeline that another one led to, if the server has all of its log since still:
    /// a base that it has made by now is no way for who comes along the log, or goes back to before it.
    fn back_to(&self, branched: Lsn, from: u64, log: &Log) -> Result<u64, Error> {
        let (segments, wal) = (log.segments, super::data_dir(self.site)?);
        let is_short = log.flushed.0.saturating_sub(branched.0) <= self.cap / 2;
        let (true, true, Some(wal)) = (branched > Lsn(0), is_short, wal) else { return Ok(from) };
        let is_there =
            |number| wal.join("pg_wal").join(segments.name(log.timeline, number)).exists();
        let mut since = segments.number(branched)..segments.number(Lsn(from));
        Ok(if since.all(is_there) { branched.0.min(from) } else { from })
    }

    /// Whether more waits for the vault than may.
    fn over_cap(&self, log: &Log, shipped: Option<Shipped>) -> bool {
        let from = self.waits_from(log, shipped);
        from.is_some_and(|from| log.flushed.0.saturating_sub(from.0) > self.cap)
    }

    /// From where on the log waits for the vault. A slot may be behind that: it goes back to its server's
    /// last checkpoint when that crashes.
    fn waits_from(&self, log: &Log, shipped: Option<Shipped>) -> Option<Lsn> {
        let kept = log.slot?.from;
        let from = match shipped {
            Some(shipped) => shipped.end,
            None => kept?.max(shipped_until(self.site, log).unwrap_or_default()),
        };
        Some(from.max(self.resumed))
    }

    /// Lets the log go, so that it fills no disk.
    fn let_go(
        &mut self,
        log: &Log,
        shipped: Option<Shipped>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let from = self.waits_from(log, shipped).unwrap_or(log.flushed);
        let why = waited(self.cap);
        // Before the slot goes; and it goes also where that cannot be noted now, or a disk that is full
        // here would fill the server's.
        self.miss((log.cluster, log.timeline), from, &why);
        let noted = self.note_missed();
        self.goal = None;
        self.source.drop_slot()?;
        progress.warn(&format!(
            "the log from {from} on is let go: {why}; a new base is needed once the vault answers"
        ));
        self.wait();
        noted
    }

    /// Notes up to when the vault has everything.
    fn freshness(&mut self, log: &Log, seen: Seen, (now, before): (Timestamp, Instant)) {
        // The server went back, or on another way: what it had then is not what it has now.
        let went_back = |last: &Sample| {
            (last.cluster, last.timeline) != (log.cluster, log.timeline)
                || last.flushed > log.flushed
        };
        if self.samples.back().is_some_and(went_back) {
            self.samples.clear();
        }
        let mut stored = None;
        while let Some(sample) = self.samples.front()
            && sample.is_stored(seen)
        {
            stored = Some(sample.time);
            self.samples.pop_front();
        }
        if let Some(time) = stored {
            self.reached = true;
            note_stored(self.site, time);
            if let Some(shipped) = seen.shipped {
                note_shipped(self.site, shipped);
                self.proved = Some(Proved {
                    cluster: shipped.cluster,
                    until: time,
                    timeline: shipped.timeline,
                    end: shipped.end,
                    segments: log.segments,
                });
            }
        }
        // One a second is enough, and nobody wants them all when nothing moves.
        if self.samples.back().is_none_or(|last| before - last.asked >= Duration::from_secs(1)) {
            let Log { cluster, timeline, flushed, .. } = *log;
            self.samples.push_back(Sample { time: now, asked: before, cluster, timeline, flushed });
        }
    }
}

/// How far the server was at some time.
struct Sample {
    time: Timestamp,
    asked: Instant,
    cluster: ClusterId,
    timeline: u32,
    flushed: Lsn,
}

impl Sample {
    /// Whether the vault has all of it that matters: everything, or, if a pass took in all of it,
    /// everything but the beginning of a record: the server flushes whole pages.
    fn is_stored(&self, seen: Seen) -> bool {
        let Some(shipped) = seen.shipped else { return false };
        let covered = seen.covered.is_some_and(|asked| asked >= self.asked);
        shipped.end >= self.flushed || (covered && shipped.reach >= self.flushed)
    }
}

/// Ships what is new, again and again.
fn ship(
    shipper: &mut Shipper<'_>,
    mut sayer: Sayer<'_>,
    shared: &Mutex<Shared>,
    stop: &CancelToken,
    every: Duration,
) {
    let mut wait = PAUSE.0;
    while !stop.is_cancelled() {
        let (goal, proved) = {
            let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            (shared.goal.clone(), shared.proved)
        };
        sayer.keep_up(proved);
        let began = Instant::now();
        if !shipper.is_due(goal.as_ref(), began, every) {
            pause(STEP, stop);
            continue;
        }
        let result = shipper.ship(goal.as_ref());
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.bytes = shipper.bytes;
        let asked = goal.filter(|goal| shared.goal.as_ref().is_some_and(|now| now.run == goal.run));
        if asked.is_some() {
            // Also of a pass that failed later.
            shared.shipped = shipper.shipped();
        }
        match result {
            Ok(went) => {
                shared.well_since = Some(began);
                shared.trouble = went.trouble;
                wait = PAUSE.0;
                if let Some(goal) = asked {
                    shared.gone = went.gone;
                    shared.behind = went.behind.then(|| shared.behind.unwrap_or(began));
                    if went.covered {
                        shared.covered = Some(goal.asked);
                    }
                }
                if went.gone.is_none() {
                    continue;
                }
            }
            Err(e) if matches!(e.class(), Class::Refused | Class::Corrupt) => {
                shared.ended = Some(e);
                return;
            }
            Err(e) => {
                shared.trouble = Some(format!("the vault does not take the log: {}", e.chain()));
                shared.well_since = None;
                wait = (wait * 2).min(PAUSE.1);
            }
        }
        drop(shared);
        pause(wait, stop);
    }
}

#[cfg(test)]
mod tests;
