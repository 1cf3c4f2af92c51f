//! Up to when the log in the vault reaches. Whoever stores it says that beside it, now and then, also
//! of a server to which nobody writes: without that, a quiet night and a dead receiver look the same
//! to every other host.
//!
//! Said is only what was proved: that everything which was committed before is in the vault, without a
//! break from the newest point on. What lies behind a gap can be reached from nowhere, so a gap ends it
//! until there is a base that was taken after it.

mod quiet;

pub use quiet::note_quiet;

use super::{allowed_in, gap, is_running, of_history, sqlite};
use crate::asking::{Asking, Patience};
use crate::{Error, ServiceSite};
use engines::Inspection;
use engines::postgres::{Lsn, Records, Segments, WalFile};
use jiff::Timestamp;
use model::{
    Class, Classify, Generation, Position, RecoveryPoint, Role, ServiceState, SnapshotId, duration,
};
use repository::log::{LogStore, Mark};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// How often it is said at most, and the same where what was said before cannot be removed. More often
/// if the declared RPO asks for that, of which it takes a quarter.
const OFTEN: Duration = Duration::from_secs(10);
const OFTEN_KEPT: Duration = Duration::from_secs(60);
const OFTENEST: Duration = Duration::from_secs(1);
/// After so long it is looked again whether the log leads from the newest point to its end.
const AGAIN: Duration = Duration::from_secs(60);
/// A server waits no longer for what is said than this, after its segment was stored.
const LONGEST: Duration = Duration::from_secs(5);
/// Where this host remembers what it said, in the service's state directory.
const FILE: &str = "log-until.json";

/// So many of the last times it was said stay: a standby that is not yet where the log ends now may be
/// where it ended a moment ago.
pub(crate) const LAST: usize = 8;

/// What is said in the vault of a log that leads on from the newest point, at the present generation.
pub struct Until {
    log: Option<LogStore>,
    marks: Vec<Mark>,
}

impl Until {
    /// Asks the vault.
    pub fn look(site: &ServiceSite, state: &ServiceState) -> Result<Until, Error> {
        if state.newest_sound().is_none() || site.log_server()?.is_none() {
            return Ok(Until { log: None, marks: Vec::new() });
        }
        let log = LogStore::new(site.repository()?);
        let mut marks = log.marks()?;
        marks.retain(|mark| mark.generation == state.generation);
        Ok(Until { log: Some(log), marks })
    }

    /// Everything that was committed before this is in the vault.
    pub fn newest(&self) -> Result<Option<Timestamp>, Error> {
        self.last(|_| true)
    }

    /// Up to when a standby that follows the log has everything: the newest transaction that it has
    /// replayed, or, if it is where the log ended at a later time, that time. Of a source to which
    /// nobody writes there are no newer transactions.
    pub fn held(&self, seen: &Inspection) -> Result<Option<Timestamp>, Error> {
        let until = self.last(|mark| is_past(seen, mark))?;
        Ok(seen.replayed.max(until))
    }

    /// The time of the last one of these. One that went meanwhile, or is damaged, says nothing: there are
    /// others.
    fn last(&self, wanted: impl Fn(&Mark) -> bool) -> Result<Option<Timestamp>, Error> {
        let Some(log) = &self.log else { return Ok(None) };
        for mark in self.marks.iter().rev().filter(|mark| wanted(mark)) {
            match log.has_mark(mark).map_err(Error::from) {
                Ok(true) => return Ok(Some(mark.until)),
                Ok(false) => {}
                Err(e) if e.class() == Class::Corrupt => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}

/// Whether a standby has what was in the log when this was said. One that writes has a log of its own.
fn is_past(seen: &Inspection, mark: &Mark) -> bool {
    let goal = Position::Lsn { timeline: mark.timeline, lsn: mark.place };
    seen.following && crate::refresh::reached(seen.position.as_ref(), Some(&goal))
}

/// Up to when the log brings whoever begins with the newest point; none if there is no log, or no
/// point. Every host can ask that.
pub fn reaches(site: &ServiceSite, state: &ServiceState) -> Result<Option<Timestamp>, Error> {
    if state.newest_sound().is_none() {
        return Ok(None);
    }
    let primary = state.members.get(site.member()).is_some_and(|me| me.role == Role::Primary);
    if sqlite::is_meant(site) {
        // Its log begins with the newest point: a drill that fails says that of both.
        if state.head_point().is_none_or(RecoveryPoint::is_unsound) {
            return Ok(None);
        }
        return if primary { Ok(super::stored_until(site)) } else { sqlite::reaches(site, state) };
    }
    if site.log_server()?.is_none() {
        return Ok(None);
    }
    // Who stores it knows it to the second, unless what is stored leads on from nowhere.
    let own = primary && gap::open(site, state)?.is_none() && Note::load(site).astray.is_none();
    match super::stored_until(site).filter(|_| own) {
        Some(stored) => Ok(Some(stored)),
        None => Until::look(site, state)?.newest(),
    }
}

/// What this host remembers of what it said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Note {
    /// What was said last, oldest first.
    said: VecDeque<Said>,
    /// The vault lets nobody remove it.
    kept: bool,
    /// Up to here, on this timeline, `wal push` has stored everything from the newest point on.
    led: Option<(u32, u64)>,
    /// What is stored does not lead on from this point, as was found at this time.
    astray: Option<(SnapshotId, Timestamp)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Said {
    at: Timestamp,
    until: Timestamp,
    timeline: u32,
    place: u64,
    generation: Generation,
}

impl Said {
    fn mark(&self) -> Mark {
        let Said { until, timeline, place, generation, .. } = *self;
        Mark { until, timeline, place, generation }
    }
}

impl Note {
    /// Only a note: what cannot be read is found out anew.
    fn load(site: &ServiceSite) -> Note {
        let bytes = std::fs::read(site.dir().join(FILE)).ok();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn save(&self, site: &ServiceSite) {
        let (path, beside) = (site.dir().join(FILE), site.dir().join("log-until.tmp"));
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let written = std::fs::write(&beside, bytes);
        let _ = written.and_then(|()| std::fs::rename(&beside, &path));
    }

    fn is_due(&self, site: &ServiceSite, now: Timestamp) -> bool {
        let often = if self.kept { OFTEN_KEPT } else { OFTEN };
        let rpo = site.spec().rpo.as_deref().and_then(|rpo| duration::parse(rpo).ok());
        let often = rpo.map_or(often, |rpo| often.min(rpo / 4)).max(OFTENEST);
        self.is_over(often, now)
    }

    /// Whether nothing was said for so long.
    fn is_over(&self, time: Duration, now: Timestamp) -> bool {
        // One "in the future", of a clock that was set back since, is not waited for.
        let age = self.said.back().and_then(|said| duration::age(said.at, now));
        age.is_none_or(|age| age >= time)
    }
}

/// What was proved of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proved {
    /// Everything that was committed before this is stored.
    pub(super) until: Timestamp,
    pub(super) timeline: u32,
    /// All of that lies before this.
    pub(super) end: Lsn,
    pub(super) segments: Segments,
}

/// Says it, for one who stores the log as long as it lives.
pub(super) struct Sayer<'a> {
    site: &'a ServiceSite,
    note: Note,
    /// From here on, on this timeline, the log is known to lead on without a break.
    led: Option<(u32, u64)>,
    tried: Option<Timestamp>,
}

impl<'a> Sayer<'a> {
    pub(super) fn new(site: &'a ServiceSite) -> Sayer<'a> {
        Sayer { site, note: Note::load(site), led: None, tried: None }
    }

    /// Says it if that is due, and how it went is of no account: what matters is the log itself. Who
    /// hears nothing takes the log for older than it is.
    pub(super) fn keep_up(&mut self, proved: Option<Proved>) {
        let now = Timestamp::now();
        let again = |tried: Timestamp| duration::age(tried, now).is_none_or(|age| age >= OFTENEST);
        if let Some(proved) = proved
            && self.note.is_due(self.site, now)
            && self.tried.is_none_or(again)
        {
            self.tried = Some(now);
            let _ = self.say(proved);
        }
    }

    /// Says it now.
    pub(super) fn say(&mut self, proved: Proved) -> Result<(), Error> {
        let state = self.site.load_state()?.state;
        let generation = allowed_in(self.site, &state)?;
        let Proved { timeline, end, segments, .. } = proved;
        if gap::open(self.site, &state)?.is_some() {
            self.led = None;
            return Ok(());
        }
        // Whoever receives goes on where it was: once is enough.
        if !matches!(self.led, Some((on, from)) if on == timeline && from <= end.0) {
            if !self.note.leads(self.site, &state, segments, (timeline, end))? {
                self.note.save(self.site);
                return Ok(());
            }
            self.led = Some((timeline, end.0));
        }
        self.note.put(self.site, generation, proved)
    }
}

impl Note {
    /// Whether the vault has the log from the newest point on up to a place. What was not so a short
    /// time ago is not looked at again: a long log makes a long list.
    fn leads(
        &mut self,
        site: &ServiceSite,
        state: &ServiceState,
        segments: Segments,
        (timeline, end): (u32, Lsn),
    ) -> Result<bool, Error> {
        let Some(head) = state.newest_sound() else { return Ok(false) };
        let now = Timestamp::now();
        if let Some((from, found)) = self.astray
            && from == head.snapshot
            && duration::age(found, now).is_some_and(|age| age < AGAIN)
        {
            return Ok(false);
        }
        let leads = match &head.position {
            Some(Position::Lsn { timeline: on, lsn }) if *on <= timeline => {
                *lsn >= end.0 || has_all(site, segments, timeline, Lsn(*lsn), end)?
            }
            _ => false,
        };
        self.astray = (!leads).then_some((head.snapshot, now));
        Ok(leads)
    }

    fn put(
        &mut self,
        site: &ServiceSite,
        generation: Generation,
        proved: Proved,
    ) -> Result<(), Error> {
        let Proved { until, timeline, end, .. } = proved;
        let said = Said { at: Timestamp::now(), until, timeline, place: end.0, generation };
        let (log, mark) = (LogStore::new(site.repository()?), said.mark());
        if self.said.back().is_some_and(|last| last.mark() == mark) {
            return Ok(());
        }
        log.put_mark(&mark)?;
        self.said.push_back(said);
        let many = self.said.len().saturating_sub(LAST);
        let old: Vec<Mark> = self.said.drain(..many).map(|said| said.mark()).collect();
        // Where this may not be done they go with a prune.
        if !old.is_empty() {
            self.kept = log.remove_marks(&old).is_err();
        }
        self.save(site);
        Ok(())
    }
}

/// Whether every segment is in the vault, or begun there, that lies on the way from one place to another
/// on this timeline.
fn has_all(
    site: &ServiceSite,
    segments: Segments,
    timeline: u32,
    from: Lsn,
    to: Lsn,
) -> Result<bool, Error> {
    let log = LogStore::new(site.repository()?);
    let whole = log.list()?.into_iter().map(|(name, _)| name);
    let parts = log.list_parts()?.into_iter().map(|(name, _)| name);
    let found = whole.chain(parts).filter_map(|name| match WalFile::parse(&name) {
        Some(WalFile::Segment { timeline: on, place }) if on <= timeline => {
            Some((on, segments.start_of(place)?.0))
        }
        _ => None,
    });
    let starts = of_history(found);
    let last = segments.number(Lsn(to.0.saturating_sub(1)));
    Ok((segments.number(from)..=last).all(|n| starts.contains(&segments.start(n).0)))
}

/// Notes what a segment proves that `wal push` has stored, and says it if that is due: everything that
/// was committed before the server wrote to it last lies in it, or before it, and servers archive in
/// order. Files beside the log itself prove nothing.
///
/// Only a note, for which no server waits long: the segment is stored.
pub fn note_pushed(site: &ServiceSite, segment: &Path) {
    let (here, file) = (site.clone(), segment.to_owned());
    let _ = Asking::new().have_done("note", Patience::of(LONGEST), move || pushed(&here, &file));
}

fn pushed(site: &ServiceSite, segment: &Path) -> Result<(), Error> {
    let name = segment.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(WalFile::Segment { timeline, place }) = WalFile::parse(name) else { return Ok(()) };
    let io = |e| Error::io("look at", segment, e);
    let meta = std::fs::metadata(segment).map_err(io)?;
    let now = Timestamp::now();
    let written = meta.modified().map_err(io)?;
    let until = Timestamp::try_from(written).map_or(now, |written| written.min(now));
    let Some(segments) = Segments::of(meta.len()) else { return Ok(()) };
    let Some(start) = segments.start_of(place) else { return Ok(()) };
    let stored = super::stored_until(site).filter(|stored| *stored <= now);
    if stored.is_none_or(|stored| stored < until) {
        super::note_stored(site, until);
    } else if is_running(site) {
        // Whoever receives it knows more, and says it.
        return Ok(());
    }
    let end = Lsn(start.0.saturating_add(segments.size()));
    let mut note = Note::load(site);
    let goes_on = matches!(note.led, Some((on, to)) if on == timeline && start.0 <= to);
    if !goes_on {
        let state = site.load_state()?.state;
        let before = note.led.take();
        if !note.leads(site, &state, segments, (timeline, end))? {
            if let Some((on, to)) = before
                && on == timeline
                && to < start.0
                && let Err(e) = missed(site, segments, timeline, Lsn(to), start)
            {
                // Of the next segment it is found again.
                note.led = before;
                note.save(site);
                return Err(e);
            }
            note.save(site);
            return Ok(());
        }
    }
    note.led = Some((timeline, note.led.map_or(end.0, |(_, to)| to.max(end.0))));
    note.astray = None;
    note.save(site);
    let newer = note.said.back().is_none_or(|said| said.until < until || said.until > now);
    if !newer || !(note.is_due(site, now) || (note.is_over(OFTENEST, now) && is_last(segment))) {
        return Ok(());
    }
    let state = site.load_state()?.state;
    let generation = allowed_in(site, &state)?;
    if gap::open(site, &state)?.is_some() {
        return Ok(());
    }
    // A record that goes on in the next segment is in nobody's hands yet: a standby stops before it.
    let bytes = std::fs::read(segment).map_err(|e| Error::io("read", segment, e))?;
    let whole = Records::new(&bytes, start).map(|mut records| {
        records.by_ref().for_each(drop);
        records.end()
    });
    let end = whole.filter(|whole| *whole > start && *whole < end).unwrap_or(end);
    note.put(site, generation, Proved { until, timeline, end, segments })
}

/// Notes what lies between what was stored before and what is stored now: servers archive in order, so it
/// was let go when that could not be noted, or the server was not asked to archive it.
fn missed(
    site: &ServiceSite,
    segments: Segments,
    timeline: u32,
    from: Lsn,
    to: Lsn,
) -> Result<(), Error> {
    if gap::load(site)?.is_some() {
        return Ok(());
    }
    gap::note(site, timeline, from, "it was let go, or never handed over to be archived")?;
    gap::ends(site, to)?;
    gap::record(site, &LogStore::new(site.repository()?), segments)
}

/// Whether no other segment waits to be archived: it may be long before there is another chance to say
/// what this one proves.
fn is_last(segment: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(segment.with_file_name("archive_status")) else {
        return false;
    };
    let ready = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".ready"));
        name.is_some_and(|name| !segment.ends_with(name))
    });
    ready.count() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use engines::Running;

    fn seen(following: bool, timeline: u32, lsn: u64) -> Inspection {
        Inspection {
            running: Running::Yes,
            has_data: true,
            version: None,
            size_bytes: None,
            position: Some(Position::Lsn { timeline, lsn }),
            replayed: None,
            following,
            unarchived: None,
            doubts: Vec::new(),
            summary: String::new(),
        }
    }

    #[test]
    fn a_standby_is_past_a_mark_only_where_it_follows() {
        let mark = Mark {
            until: Timestamp::UNIX_EPOCH,
            timeline: 1,
            place: 100,
            generation: Generation::FIRST,
        };
        let ask = |following, timeline, lsn| is_past(&seen(following, timeline, lsn), &mark);
        assert!(ask(true, 1, 100) && ask(true, 1, 101) && ask(true, 2, 100));
        assert!(!ask(true, 1, 99));
        assert!(!ask(false, 1, 100), "one that writes has a log of its own");
        assert!(!is_past(&Inspection { position: None, ..seen(true, 1, 100) }, &mark));
    }
}
