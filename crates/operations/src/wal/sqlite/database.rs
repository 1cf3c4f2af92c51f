//! One database: its log is held, read, and handed on.

use super::book::{Book, Chain};
use super::pace;
use crate::Error;
use engines::Root;
use engines::sqlite::log::{
    Batch, BatchName, Held, MARK_CONTENT, MAX_MARKS, Mark, Place, Published, Restart, database_id,
    open_wal, tidy, wal_path,
};
use jiff::Timestamp;
use model::{Class, Progress};
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// About how much one object holds.
const BATCH: u64 = 4 << 20;
/// From here on the log is brought into the database, which keeps nobody waiting.
const CHECKPOINT: u64 = 4 << 20;
/// From here on writers are kept out for a moment, so that the log can be begun anew.
const RESTART: u64 = 16 << 20;
/// From here on that is done also on a disk that is slow all the time.
const RESTART_SLOW: u64 = 4 * RESTART;
/// So much is read at once in that moment.
const REST: u64 = 8 << 20;
/// How long after somebody was in the way it is not tried again.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Database {
    root: Root,
    id: u32,
    held: Option<Held>,
    chain: Option<Chain>,
    /// Frames of the present log that are known to be committed.
    seen: u32,
    /// They were looked at after this: everything that was committed before is among them.
    looked: Timestamp,
    /// When they were seen, as far as they are not in a batch yet.
    marks: Vec<(u32, Timestamp)>,
    /// Read, and not in the vault yet.
    pending: VecDeque<(BatchName, Vec<u8>)>,
    /// Continuity was lost, and why: the next pass begins a new chain.
    broken: Option<String>,
    /// The log was let go, so that it does not fill the disk.
    given_up: bool,
    /// A newer lock was taken and everything before it is in the vault.
    shipped: bool,
    restart_after: Instant,
    /// Frames of the present log that were in the database when that was looked at last.
    brought: u32,
    /// The last mark of time, and when it was made.
    mark: Option<(BatchName, Instant)>,
}

/// What came of keeping a log short.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Short {
    /// So long writers were kept waiting.
    pub(super) block: Duration,
    /// So much is committed all the time that it is better tried again at once.
    pub(super) again: bool,
}

type Push<'p> = &'p mut dyn FnMut(&str, &[u8]) -> Result<(), Error>;

impl Database {
    pub(super) fn new(root: Root) -> Database {
        Database {
            id: database_id(&root.in_snapshot),
            root,
            held: None,
            chain: None,
            seen: 0,
            looked: Timestamp::UNIX_EPOCH,
            marks: Vec::new(),
            pending: VecDeque::new(),
            broken: None,
            given_up: false,
            shipped: false,
            restart_after: Instant::now(),
            brought: 0,
            mark: None,
        }
    }

    /// Closes the database; what was shipped stays known.
    pub(super) fn release(&mut self) {
        self.held = None;
        self.chain = None;
        self.marks.clear();
        self.pending.clear();
        self.shipped = false;
    }

    /// Opens the database, and goes on with its chain, or begins another one; true if it did that.
    pub(super) fn attach(
        &mut self,
        book: &mut Book,
        progress: &dyn Progress,
    ) -> Result<bool, Error> {
        if let Some(held) = &self.held
            && !held.is_same_file()?
        {
            self.release();
            self.broken = Some("its file was replaced".to_owned());
        }
        if self.held.is_none() {
            let path = &self.root.on_host;
            let held = Held::open(path)?.ok_or_else(|| {
                Error::new(
                    Class::Unavailable,
                    format!("{} is not in WAL mode, so it has no log to ship", path.display()),
                )
                .hinting("Let the application run `PRAGMA journal_mode = WAL`; backups go on.")
            })?;
            let seen = held.look()?;
            self.held = Some(held);
            self.given_up = false;
            let known = book.chains.get(&self.root.in_snapshot).copied();
            match known {
                Some(chain) if self.broken.is_none() && self.goes_on(&chain, seen)? => {
                    self.seen = chain.place.map_or(0, |place| place.frame);
                    self.chain = Some(chain);
                }
                Some(_) => {
                    self.broken.get_or_insert_with(|| {
                        "its log was begun anew while nobody shipped it".to_owned()
                    });
                }
                None => {
                    self.begin(book, 0)?;
                    return Ok(true);
                }
            }
        }
        if let Some(why) = self.broken.take() {
            let last = book.chains.get(&self.root.in_snapshot).map_or(0, |chain| chain.id);
            self.begin(book, last)?;
            progress.warn(&format!(
                "{}: {why}; the log begins anew with a new point",
                self.root.on_host.display()
            ));
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether nothing can have been lost since the chain was left.
    fn goes_on(&self, chain: &Chain, seen: Published) -> Result<bool, Error> {
        let Some(place) = chain.place else { return Ok(false) };
        // What a machine that lost its power had not written to its disk may have been shipped.
        let same =
            self.file()? == chain.file && boot() == chain.boot && seen.header == Some(place.header);
        Ok(same && seen.frames >= place.frame && place.is_in(&wal_path(&self.root.on_host))?)
    }

    fn file(&self) -> Result<(u64, u64), Error> {
        let path = &self.root.on_host;
        let meta = std::fs::metadata(path).map_err(|e| Error::io("look at", path, e))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Begins a chain with everything that is in the log.
    fn begin(&mut self, book: &mut Book, after: u64) -> Result<(), Error> {
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let chain = Chain {
            id: now.max(after + 1),
            sequence: 0,
            place: None,
            before: 0,
            time: 0,
            needs_point: true,
            file: self.file()?,
            boot: boot(),
        };
        self.pending.clear();
        self.marks.clear();
        self.seen = 0;
        self.chain = Some(chain);
        // Known before the point is begun that is to be its beginning.
        book.chains.insert(self.root.in_snapshot.clone(), chain);
        Ok(())
    }

    /// Looks what is committed, and remembers when that was seen.
    pub(super) fn poll(&mut self, progress: &dyn Progress) {
        let Some(held) = &self.held else { return };
        let before = Timestamp::now();
        // That it cannot be looked at is told by the next pass, which needs it.
        if let Ok(published) = held.look() {
            self.looked = before;
            if let Err(why) = self.seen_now(published) {
                progress.note(&format!("{}: {why}", self.root.on_host.display()));
                self.broken = Some(why);
            }
        }
    }

    fn seen_now(&mut self, published: Published) -> Result<(), String> {
        let now = Timestamp::now();
        let Published { header: Some(header), frames } = published else { return Ok(()) };
        let Some(chain) = &mut self.chain else { return Ok(()) };
        if frames == 0 || self.broken.is_some() {
            return Ok(());
        }
        match chain.place {
            None => chain.place = Some(Place::start(header)),
            Some(place) if place.header == header => {}
            Some(place) => {
                // The locks that are held see to it that this is only when everything was read.
                if !header.follows(&place.header) || place.frame != self.seen {
                    return Err("its log was begun anew by somebody else".to_owned());
                }
                chain.place = Some(Place::start(header));
                chain.before = place.frame;
                chain.sequence += 1;
                self.seen = 0;
                self.marks.clear();
            }
        }
        if frames < self.seen {
            return Err("its log lost commits that were shipped".to_owned());
        }
        if frames > self.seen {
            self.seen = frames;
            // A clock that was set back: what was seen later was not committed before.
            let now = self.marks.last().map_or(now, |(_, last)| now.max(*last));
            if self.marks.len() >= MAX_MARKS / 2 {
                let mut keep = false;
                self.marks.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            self.marks.push((frames, now));
        }
        Ok(())
    }

    /// Hands on everything that is committed, and takes a newer lock meanwhile.
    pub(super) fn ship(&mut self, push: Push<'_>, progress: &dyn Progress) -> Result<u64, Error> {
        self.shipped = false;
        let mut bytes = self.flush(push)?;
        match &self.held {
            Some(held) => held.take_next()?,
            None => return Ok(bytes),
        }
        let shipped = self.ship_rest(push, progress);
        match shipped {
            Ok(rest) => bytes += rest,
            Err(e) => {
                if let Some(held) = &self.held {
                    held.release_next()?;
                }
                return Err(e);
            }
        }
        self.shipped = self.broken.is_none();
        Ok(bytes)
    }

    fn ship_rest(&mut self, push: Push<'_>, progress: &dyn Progress) -> Result<u64, Error> {
        let mut bytes = 0;
        if let Some(held) = &self.held {
            let before = Timestamp::now();
            let published = held.look()?;
            self.looked = before;
            if let Err(why) = self.seen_now(published) {
                progress.note(&format!("{}: {why}", self.root.on_host.display()));
                self.broken = Some(why);
            }
        }
        while self.broken.is_none() && self.read(BATCH)? {
            bytes += self.flush(push)?;
        }
        Ok(bytes)
    }

    /// The lock before the newest is released: only once what was shipped is remembered.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let Some(held) = &mut self.held else { return Ok(()) };
        match std::mem::take(&mut self.shipped) {
            true => Ok(held.release_previous()?),
            false => Ok(held.release_next()?),
        }
    }

    fn flush(&mut self, push: Push<'_>) -> Result<u64, Error> {
        let mut bytes = 0;
        while let Some((name, content)) = self.pending.front() {
            push(&name.to_string(), content)?;
            bytes += content.len() as u64;
            self.pending.pop_front();
        }
        Ok(bytes)
    }

    /// Reads the next frames of the log into a batch; false if there is nothing to read.
    fn read(&mut self, most: u64) -> Result<bool, Error> {
        let Some(chain) = &mut self.chain else { return Ok(false) };
        let Some(start) = chain.place.filter(|place| place.frame < self.seen) else {
            return Ok(false);
        };
        let wal = wal_path(&self.root.on_host);
        let failed = |e| Error::io("read", &wal, e);
        let file = open_wal(&wal).map_err(failed)?;
        let mut end = start;
        let Some(frames) = end.read(&file, self.seen, most).map_err(failed)? else {
            self.broken = Some("its log is not what it was".to_owned());
            return Ok(false);
        };
        let size = usize::try_from(start.header.frame_bytes()).unwrap_or(usize::MAX);
        let pages = |frame: u32| {
            let at = usize::try_from(frame - start.frame - 1).ok()?.checked_mul(size)? + 4;
            let field: [u8; 4] = frames.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(field)).filter(|pages| *pages > 0)
        };
        let within = self.marks.iter().filter(|(frame, _)| *frame > start.frame);
        let within = within.take_while(|(frame, _)| *frame <= end.frame);
        let marks: Vec<Mark> = within
            .filter_map(|(frame, seen)| {
                Some(Mark { frame: *frame, pages: pages(*frame)?, seen: *seen })
            })
            .collect();
        self.marks.retain(|(frame, _)| *frame > end.frame);
        let batch = Batch { place: start, before: chain.before, marks, frames };
        chain.time = BatchName::time_after(self.looked, chain.time);
        chain.place = Some(end);
        let name = BatchName {
            database: self.id,
            chain: chain.id,
            sequence: chain.sequence,
            salts: start.header.salt(),
            from: start.frame,
            to: end.frame,
            before: chain.before,
            whole: batch.last_commit().is_some(),
            time: chain.time,
        };
        self.pending.push_back((name, batch.encode()));
        Ok(true)
    }

    /// Says in the vault that everything that was committed before this is there, where the log itself
    /// does not say it: it was not written to. Answers with the mark that this one replaces.
    pub(super) fn mark(
        &mut self,
        until: Timestamp,
        every: Duration,
        push: Push<'_>,
    ) -> Result<Option<BatchName>, Error> {
        let recent = self.mark.as_ref().is_some_and(|(_, made)| made.elapsed() < every);
        let Some(chain) = &mut self.chain else { return Ok(None) };
        let frame = chain.place.map_or(0, |place| place.frame);
        let open = self.held.is_none() || self.broken.is_some() || !self.pending.is_empty();
        let time = BatchName::time_after(until, 0);
        if recent || open || frame != self.seen || time <= chain.time {
            return Ok(None);
        }
        let name = BatchName {
            database: self.id,
            chain: chain.id,
            sequence: chain.sequence,
            salts: chain.place.map_or(0, |place| place.header.salt()),
            from: frame,
            to: frame,
            before: chain.before,
            whole: true,
            time,
        };
        push(&name.to_string(), &MARK_CONTENT)?;
        chain.time = time;
        Ok(self.mark.replace((name, Instant::now())).map(|(old, _)| old))
    }

    /// Writes down how far the vault has it; false if that is known.
    pub(super) fn note(&self, book: &mut Book) -> bool {
        let Some(chain) = &self.chain else { return false };
        if !self.pending.is_empty() {
            return false;
        }
        if book.chains.get(&self.root.in_snapshot) == Some(chain) {
            return book.is_unsaved();
        }
        book.chains.insert(self.root.in_snapshot.clone(), *chain);
        true
    }

    /// Keeps the log short.
    pub(super) fn checkpoint(&mut self, progress: &dyn Progress) -> Result<Short, Error> {
        let Some(place) = self.chain.and_then(|chain| chain.place) else {
            return Ok(Short::default());
        };
        let size = place.header.frame_bytes();
        let length = u64::from(self.seen) * size;
        if length < CHECKPOINT || self.broken.is_some() {
            return Ok(Short::default());
        }
        let Some(held) = &mut self.held else { return Ok(Short::default()) };
        let began = Instant::now();
        let (frames, done) = held.checkpoint()?;
        let took = began.elapsed();
        // Fewer than before are those of a new log.
        let moved = u64::from(done.checked_sub(self.brought).unwrap_or(done)) * size;
        self.brought = done;
        if done >= frames {
            // With luck nobody commits now, and the next writer begins the log anew.
            held.take_next()?;
            let published = held.look()?;
            let nothing_new =
                published.header == Some(place.header) && published.frames == place.frame;
            match nothing_new {
                true => held.release_previous()?,
                false => held.release_next()?,
            }
        }
        if length < RESTART || Instant::now() < self.restart_after {
            return Ok(Short::default());
        }
        // Somebody reads an older state, for as long as he likes. Or writers would wait for a slow disk.
        let slow = pace::is_slow(moved, took) && length < RESTART_SLOW;
        if done < place.frame || slow {
            self.restart_after = Instant::now() + RESTART_PAUSE;
            return Ok(Short::default());
        }
        let rest = if length < RESTART_SLOW { pace::affordable(moved, took) } else { REST };
        if u64::from(frames.saturating_sub(done)) * size > rest {
            return Ok(Short { block: Duration::ZERO, again: true });
        }
        let block = self.restart(progress)?;
        Ok(Short { block, again: false })
    }

    fn restart(&mut self, progress: &dyn Progress) -> Result<Duration, Error> {
        let Some(mut held) = self.held.take() else { return Ok(Duration::ZERO) };
        let mut failed = None;
        self.looked = Timestamp::now();
        let restarted = held.restart(|published| {
            if let Err(why) = self.seen_now(published) {
                progress.note(&format!("{}: {why}", self.root.on_host.display()));
                self.broken = Some(why);
                return Ok(false);
            }
            match self.read(REST) {
                Ok(_) => {}
                Err(e) => failed = Some(e),
            }
            let read = self.chain.and_then(|chain| chain.place).map(|place| place.frame);
            Ok(failed.is_none() && self.broken.is_none() && read == Some(self.seen))
        });
        self.held = Some(held);
        if let Some(e) = failed {
            return Err(e);
        }
        match restarted? {
            Restart::Ready(took) => Ok(took),
            Restart::InTheWay(took) => {
                self.restart_after = Instant::now() + RESTART_PAUSE;
                Ok(took)
            }
        }
    }

    /// The file that its log is in.
    pub(super) fn wal(&self) -> PathBuf {
        wal_path(&self.root.on_host)
    }

    /// How many bytes of the log wait for the vault.
    pub(super) fn waits(&self) -> u64 {
        let place = self.chain.and_then(|chain| chain.place);
        let (true, Some(place)) = (self.held.is_some(), place) else { return 0 };
        u64::from(self.seen.saturating_sub(place.frame)) * place.header.frame_bytes()
    }

    /// How long the log is.
    pub(super) fn length(&self) -> u64 {
        let place = self.chain.and_then(|chain| chain.place);
        let (true, Some(place)) = (self.held.is_some(), place) else { return 0 };
        u64::from(self.seen) * place.header.frame_bytes()
    }

    /// Lets the log go, so that the database can make it short.
    pub(super) fn give_up(&mut self, book: &mut Book, progress: &dyn Progress, why: &str) {
        progress.warn(&format!(
            "the log of {} is let go: {why}; a new point is made when the vault answers",
            self.root.on_host.display()
        ));
        self.release();
        self.broken = Some(why.to_owned());
        self.given_up = true;
        // After a crash nobody must believe that it goes on.
        if let Some(chain) = book.chains.get_mut(&self.root.in_snapshot) {
            chain.place = None;
            chain.needs_point = true;
        }
    }

    /// A database whose application leaves checkpoints to others must not grow meanwhile.
    pub(super) fn tidy(&self) {
        if self.given_up && self.held.is_none() {
            let _ = tidy(&self.root.on_host, CHECKPOINT);
        }
    }

    /// Its chain has no point to begin with.
    pub(super) fn needs_point(&self) -> bool {
        self.chain.is_some_and(|chain| chain.needs_point)
    }

    /// What was shipped of it can be restored, and all of it was shipped.
    pub(super) fn is_safe(&self) -> bool {
        let chain = self.chain.is_some_and(|chain| !chain.needs_point);
        chain && self.broken.is_none() && self.pending.is_empty()
    }

    /// Its name and its chain.
    pub(super) fn chain(&self) -> Option<(String, u64)> {
        Some((self.root.in_snapshot.clone(), self.chain?.id))
    }

    /// A point was made that began after these chains did.
    pub(super) fn has_point(&mut self, meant: &BTreeMap<String, u64>, book: &mut Book) {
        let Some(chain) = &mut self.chain else { return };
        if meant.get(&self.root.in_snapshot) != Some(&chain.id) {
            return;
        }
        chain.needs_point = false;
        if let Some(known) = book.chains.get_mut(&self.root.in_snapshot)
            && known.id == chain.id
        {
            known.needs_point = false;
        }
    }
}

/// Changes whenever the machine starts.
fn boot() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}
