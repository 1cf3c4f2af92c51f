//! The log of SQLite databases: shipped about every second while they are written to, and replayed
//! on top of a snapshot.
//!
//! The objects are described in `docs/formats/sqlite-log.md`, and what holds a log while it is
//! shipped in `engines::sqlite::log`.

mod book;
mod database;
mod pace;
mod replay;
mod standby;
mod vault;

pub use replay::{HeldLog, Replayed};
pub(crate) use replay::{Sound, dispensable, held_by, replay, replay_to};
pub(crate) use standby::Course;
pub use standby::reaches;

use super::receive::{Params, Told, is_running, lock, pause};
use super::{cap, note_stored};
use crate::operation::Run;
use crate::{Error, ServiceSite, backup};
use book::Book;
use database::Database;
use engines::sqlite::log::ChainPlace;
use jiff::Timestamp;
use model::{CancelToken, Class, Classify, Generation};
use repository::log::LogStore;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vault::Vault;

/// How often it is looked how far a database is: the precision of points in time.
const TICK: Duration = Duration::from_millis(100);
/// How often the vault is asked whether this is the primary still.
const ASK: Duration = Duration::from_secs(2);
/// The pause after something failed, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How often in one pass a log is shipped that grows meanwhile, to get so close to its end that it
/// can be begun anew.
const ROUNDS: u32 = 8;
/// The pause after a point could not be made.
const POINT_PAUSE: Duration = Duration::from_secs(10);
/// How long something may be wrong before a run that is to end gives up.
const ONCE_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is said of a database that nobody writes to that it is as it was.
const QUIET: Duration = Duration::from_secs(10);
/// The same where what was said before cannot be removed.
const QUIET_KEPT: Duration = Duration::from_secs(60);
/// Operations that put another file in a database's place.
const EXCHANGING: [&str; 6] = ["restore", "refresh", "takeover", "offline", "online", "rejoin"];

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The vault has everything that was committed before this.
    pub until: Option<Timestamp>,
    /// Bytes of the logs that were shipped.
    pub bytes: u64,
    /// The longest that writers were kept out of a database.
    pub longest_block_ms: f64,
}

/// Whether a service's databases have logs that can be shipped.
pub fn is_meant(site: &ServiceSite) -> bool {
    site.spec().engine == "sqlite"
}

/// Whether the vault has anything of the logs of a service's databases.
pub(crate) fn has_log(site: &ServiceSite) -> Result<bool, Error> {
    Ok(is_meant(site) && !LogStore::new(site.repository()?).list()?.is_empty())
}

/// Ships until somebody cancels it, or, once, until the vault has what was committed.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    let _lock = lock(site)?;
    let mut told = Told::new(&*run.progress);
    let mut shipper = Shipper::new(site, run)?;
    let mut wrong_since: Option<Instant> = None;
    let mut wait = PAUSE.0;
    // What is committed just after a pass began is in the vault at the end of the next one.
    let rest = |began: Instant| (params.every / 2).saturating_sub(began.elapsed());
    loop {
        if run.cancel.is_cancelled() {
            return Ok(shipper.done());
        }
        let began = Instant::now();
        let (error, hopeful) = match shipper.pass() {
            Ok(None) => {
                told.tell(None);
                (wrong_since, wait) = (None, PAUSE.0);
                if params.once && shipper.is_complete() {
                    return Ok(shipper.done());
                }
                shipper.tick(rest(began), false);
                continue;
            }
            // The other databases go on as they should.
            Ok(Some(trouble)) => (Error::new(Class::Unavailable, trouble), true),
            Err(e) => (e, false),
        };
        let since = *wrong_since.get_or_insert_with(Instant::now);
        let hopeless =
            matches!(error.class(), Class::Invalid | Class::WrongPassword | Class::Corrupt);
        let late =
            params.once && (error.class() == Class::Refused || since.elapsed() >= ONCE_PATIENCE);
        if hopeless || late {
            return Err(error);
        }
        told.tell(Some(error.chain()));
        if hopeful {
            shipper.tick(rest(began), false);
        } else {
            shipper.tick(wait, true);
            wait = (wait * 2).min(PAUSE.1);
        }
    }
}

struct Shipper<'a> {
    site: &'a ServiceSite,
    run: &'a Run,
    vault: Vault,
    databases: Vec<Database>,
    book: Book,
    generation: Option<(Generation, Instant)>,
    point: Option<Point>,
    retry_point: Instant,
    until: Option<Timestamp>,
    bytes: u64,
    longest_block: Duration,
    /// The vault lets nobody remove anything.
    keeps_marks: bool,
    /// Something was shipped in the last pass.
    moved: bool,
}

/// A point that is being made.
struct Point {
    /// For these databases, which were in these chains.
    meant: BTreeMap<String, u64>,
    /// Who stops it does not stop the shipping.
    cancel: CancelToken,
    thread: JoinHandle<Result<backup::Done, Error>>,
}

impl<'a> Shipper<'a> {
    fn new(site: &'a ServiceSite, run: &'a Run) -> Result<Shipper<'a>, Error> {
        let roots = site.engine()?.roots();
        let databases = roots.into_iter().map(Database::new).collect();
        Ok(Shipper {
            site,
            run,
            vault: Vault::new(site),
            databases,
            book: Book::load(site)?,
            generation: None,
            point: None,
            retry_point: Instant::now(),
            until: None,
            bytes: 0,
            longest_block: Duration::ZERO,
            keeps_marks: false,
            moved: false,
        })
    }

    /// Ships what there is. Says what is wrong where the rest goes on.
    fn pass(&mut self) -> Result<Option<String>, Error> {
        if self.gives_way()? {
            self.databases.iter_mut().for_each(Database::release);
            return Ok(None);
        }
        self.vault.spare(cap(self.site), &self.databases);
        let generation = match self.allowed() {
            Ok(generation) => generation,
            Err(e) => {
                // Another one is the primary: nothing is held here any more.
                if e.class() == Class::Refused {
                    self.databases.iter_mut().for_each(Database::release);
                }
                self.spare();
                return Err(e);
            }
        };
        let until = Timestamp::now();
        let (mut trouble, before) = (Vec::new(), self.bytes);
        let shipped = self.ship(generation, &mut trouble).and_then(|()| {
            // Each is said to be as far as the others, so that all of them can be had at one time.
            // What was shipped first was looked at before the others: the next pass says it of that.
            let moved = std::mem::replace(&mut self.moved, self.bytes > before) || self.moved;
            let all = self.databases.len() > 1 && moved;
            if trouble.is_empty() { self.mark(generation, until, all) } else { Ok(()) }
        });
        if let Err(e) = shipped {
            self.generation = None;
            self.spare();
            return Err(e);
        }
        self.points(&mut trouble);
        if trouble.is_empty() && self.databases.iter().all(Database::is_safe) {
            note_stored(self.site, until);
            self.until = Some(until);
        }
        Ok((!trouble.is_empty()).then(|| trouble.join("; ")))
    }

    fn ship(&mut self, generation: Generation, trouble: &mut Vec<String>) -> Result<(), Error> {
        let cap = cap(self.site);
        for database in &mut self.databases {
            match database.attach(&mut self.book, &*self.run.progress) {
                // Before a point is begun, which looks it up.
                Ok(true) => self.book.save(self.site)?,
                Ok(false) => {}
                Err(e) => {
                    trouble.push(e.chain());
                    continue;
                }
            }
            let vault = &mut self.vault;
            let mut push = |name: &str, bytes: &[u8]| vault.push(generation, name, bytes);
            for _ in 0..ROUNDS {
                self.bytes += database.ship(&mut push, &*self.run.progress)?;
                if database.note(&mut self.book) {
                    self.book.save(self.site)?;
                }
                database.settle()?;
                let short = match database.checkpoint(&*self.run.progress) {
                    Ok(short) => short,
                    Err(e) => {
                        trouble.push(e.chain());
                        break;
                    }
                };
                self.longest_block = self.longest_block.max(short.block);
                if !short.again {
                    break;
                }
            }
            if database.length() > cap {
                let why = format!(
                    "it grew beyond {}, because somebody reads an old state of it or more is \
                     committed than can be shipped",
                    model::size::human(cap)
                );
                database.give_up(&mut self.book, &*self.run.progress, &why);
                self.book.save(self.site)?;
            }
        }
        Ok(())
    }

    fn mark(&mut self, generation: Generation, until: Timestamp, all: bool) -> Result<(), Error> {
        let every = match (all, self.keeps_marks) {
            (true, _) => Duration::ZERO,
            (false, false) => QUIET,
            (false, true) => QUIET_KEPT,
        };
        let mut noted = false;
        for database in &mut self.databases {
            let vault = &mut self.vault;
            let mut push = |name: &str, bytes: &[u8]| vault.push(generation, name, bytes);
            let old = database.mark(until, every, &mut push)?;
            noted |= database.note(&mut self.book);
            // Nobody needs two of them. Where this may not be done they go with the log.
            if let Some(old) = old.filter(|_| !self.keeps_marks) {
                self.keeps_marks = self.vault.remove(generation, &old.to_string());
            }
        }
        if noted { self.book.save(self.site) } else { Ok(()) }
    }

    /// Whether an operation on this host wants to put another file in place.
    fn gives_way(&self) -> Result<bool, Error> {
        let holder = crate::lock::holder(&self.site.dir())?;
        Ok(holder.is_some_and(|holder| EXCHANGING.contains(&holder.kind.as_str())))
    }

    fn allowed(&mut self) -> Result<Generation, Error> {
        if let Some((generation, asked)) = self.generation
            && asked.elapsed() < ASK
        {
            return Ok(generation);
        }
        let generation = self.vault.allowed()?;
        self.generation = Some((generation, Instant::now()));
        Ok(generation)
    }

    /// What waits for the vault must not fill the disk.
    fn spare(&mut self) {
        let cap = cap(self.site);
        for database in &mut self.databases {
            database.poll(&*self.run.progress);
            let why = match database.waits() > cap {
                true => Some(super::receive::waited(cap)),
                // What the vault has is not let go by the database before that is written down.
                false => (database.length() > cap).then(|| {
                    format!(
                        "it grew beyond {}, and could not be begun anew",
                        model::size::human(cap)
                    )
                }),
            };
            if let Some(why) = why {
                database.give_up(&mut self.book, &*self.run.progress, &why);
                if let Err(e) = self.book.save(self.site) {
                    self.run.progress.warn(&e.chain());
                }
            }
            database.tidy();
        }
    }

    /// Makes a point where a chain has none to begin with.
    fn points(&mut self, trouble: &mut Vec<String>) {
        if let Some(point) = self.point.take_if(|point| point.thread.is_finished()) {
            self.retry_point = Instant::now() + POINT_PAUSE;
            match point.thread.join() {
                Ok(Ok(backup::Done::BackedUp(done))) if !done.point.incomplete => {
                    if let Some(hook) = &done.hook_failed {
                        self.run.progress.warn(&hook.message);
                    }
                    for database in &mut self.databases {
                        database.has_point(&point.meant, &mut self.book);
                    }
                    if let Err(e) = self.book.save(self.site) {
                        trouble.push(e.chain());
                    }
                }
                Ok(Ok(_)) => trouble.push("the point that the log needs is incomplete".to_owned()),
                Ok(Err(e)) => trouble.push(format!("no point could be made: {}", e.chain())),
                Err(_) => trouble.push("no point could be made".to_owned()),
            }
        }
        let needed = self.databases.iter().any(Database::needs_point);
        // One that is begun now would not find out where the logs are.
        let known = !self.book.is_unsaved();
        if !(needed && known) || self.point.is_some() || Instant::now() < self.retry_point {
            return;
        }
        let meant = self.databases.iter().filter_map(Database::chain).collect();
        let cancel = CancelToken::new();
        let (site, run) = (self.site.clone(), Run { cancel: cancel.clone(), ..Run::default() });
        let thread =
            std::thread::spawn(move || backup::run(&site, &backup::Params::default(), &run));
        self.point = Some(Point { meant, cancel, thread });
    }

    fn is_complete(&self) -> bool {
        let together = self.databases.len() < 2 || !self.moved;
        together && self.point.is_none() && self.databases.iter().all(Database::is_safe)
    }

    /// Waits, and sees meanwhile when what was committed; in trouble also that it does not become too
    /// much.
    fn tick(&mut self, time: Duration, trouble: bool) {
        let cancel = &self.run.cancel;
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            pause(left.min(TICK), cancel);
            if left <= TICK || cancel.is_cancelled() {
                return;
            }
            match trouble {
                true => self.spare(),
                false => self.databases.iter_mut().for_each(|one| one.poll(&*self.run.progress)),
            }
            if matches!(self.gives_way(), Ok(true)) {
                self.databases.iter_mut().for_each(Database::release);
            }
        }
    }

    fn done(&mut self) -> Done {
        if let Some(point) = self.point.take() {
            point.cancel.cancel();
            let _ = point.thread.join();
        }
        Done {
            until: self.until,
            bytes: self.bytes,
            longest_block_ms: self.longest_block.as_secs_f64() * 1000.0,
        }
    }
}

/// Where the chains are that are shipped at this moment, by root, for a snapshot that begins now.
pub(crate) fn chains(site: &ServiceSite) -> BTreeMap<String, ChainPlace> {
    if !is_meant(site) || !is_running(site) {
        return BTreeMap::new();
    }
    Book::load(site).map(|book| book.places()).unwrap_or_default()
}

/// Writes them into the description of the snapshot.
pub(crate) fn link(chains: &BTreeMap<String, ChainPlace>, detail: &mut Value) {
    let Some(databases) = detail.get_mut("databases").and_then(Value::as_array_mut) else { return };
    for database in databases {
        let place = database.get("root").and_then(Value::as_str).and_then(|root| chains.get(root));
        if let (Some(place), Some(log)) = (place, database.get_mut("log"))
            && log.is_object()
            && let Ok(place) = serde_json::to_value(place)
        {
            log["chain"] = place;
        }
    }
}
