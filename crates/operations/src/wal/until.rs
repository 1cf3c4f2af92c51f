//! Up to when the log in the vault reaches. Whoever stores it says that beside it, now and then, also
//! of a server to which nobody writes: without that, a quiet night and a dead receiver look the same
//! to every other host.
//!
//! Said is only what was proved: that everything which was committed before is in the vault, without a
//! break from the newest point on. What lies behind a gap can be reached from nowhere, so a gap ends it
//! until there is a base that was taken after it.

mod quiet;

pub use quiet::note_quiet;

use super::timelines::Way;
use super::{allowed_in, gap, is_running, of_history, sqlite, waiting};
use crate::asking::{Asking, Patience};
use crate::cluster::{self, log_of};
use crate::{Error, ServiceSite};
use engines::Inspection;
use engines::postgres::{Lsn, Records, Segments, WalFile, cluster_in};
use jiff::Timestamp;
use model::schedule::is_ahead;
use model::{
    Class, Classify, ClusterId, Generation, Position, RecoveryPoint, Role, ServiceState,
    SnapshotId, duration,
};
use repository::log::{LogStore, Mark};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
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
/// So much of a segment tells who wrote it.
const HEADER: u64 = 64;
/// Where this host remembers what it said, in the service's state directory.
const FILE: &str = "log-until.json";
/// And what `wal push` has stored.
const LED: &str = "log-led.json";

/// So many of the last times it was said stay: a standby that is not yet where the log ends now may be
/// where it ended a moment ago.
pub(crate) const LAST: usize = 8;

/// What is said in the vault of a log that leads on from the newest point, at the present generation.
pub struct Until {
    log: Option<LogStore>,
    marks: Vec<Mark>,
    /// What lies here is of another cluster.
    is_others: bool,
}

impl Until {
    /// Asks the vault.
    pub fn look(site: &ServiceSite, state: &ServiceState) -> Result<Until, Error> {
        let (Some(sound), Some(_)) = (state.newest_sound(), site.log_server()?) else {
            return Ok(Until { log: None, marks: Vec::new(), is_others: false });
        };
        let log = log_of(site, cluster::of_point(site, sound)?)?;
        let here = cluster::here(site)?;
        let is_others = here.is_some() && log.cluster().is_some() && here != log.cluster();
        let mut marks = log.marks()?;
        marks.retain(|mark| mark.generation == state.generation);
        Ok(Until { log: Some(log), marks, is_others })
    }

    /// Everything that was committed before this is in the vault.
    pub fn newest(&self) -> Result<Option<Timestamp>, Error> {
        self.last(|_| true)
    }

    /// Up to when a standby that follows the log has everything: the newest transaction that it has
    /// replayed, or, if it is where the log ended at a later time, that time. Of a source to which
    /// nobody writes there are no newer transactions.
    pub fn held(&self, seen: &Inspection) -> Result<Option<Timestamp>, Error> {
        let until = self.last(|mark| !self.is_others && is_past(seen, mark))?;
        Ok(seen.replayed.max(until))
    }

    /// The time of the last one of these. One that went meanwhile, or is damaged, says nothing: there are
    /// others.
    fn last(&self, wanted: impl Fn(&Mark) -> bool) -> Result<Option<Timestamp>, Error> {
        let Some(log) = &self.log else { return Ok(None) };
        // Said by a clock that was ahead: it was not so then, and is not yet.
        let now = Timestamp::now();
        let past = self.marks.iter().rev().filter(|mark| !is_ahead(mark.until, now));
        for mark in past.filter(|mark| wanted(mark)) {
            match log.has_mark(mark).map_err(Error::from) {
                Ok(true) => return Ok(Some(mark.until)),
                Ok(false) => {}
                // Of a newer version, too: it is only said.
                Err(e) if matches!(e.class(), Class::Corrupt | Class::Invalid) => {}
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
    let Some(sound) = state.newest_sound().map(|point| point.snapshot) else { return Ok(None) };
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
    let own = primary && gap::open(site, state)?.is_none() && Note::load(site).is_from(sound);
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
    /// From this point on the log led when that was looked at last.
    from: Option<SnapshotId>,
    /// What is stored does not lead on from this point, as was found at this time.
    astray: Option<(SnapshotId, Timestamp)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Said {
    at: Timestamp,
    until: Timestamp,
    #[serde(default)]
    cluster: Option<ClusterId>,
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

/// What `wal push` has stored without a break from a point on. In a file of its own: beside it somebody
/// may receive the log, who knows other things.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Led {
    timeline: u32,
    /// The end of a segment.
    end: u64,
    /// Everything that was committed before this lies before that.
    until: Timestamp,
    /// The point.
    from: SnapshotId,
    /// The database cluster that wrote it.
    cluster: ClusterId,
}

impl Led {
    fn load(site: &ServiceSite) -> Option<Led> {
        load(site, LED)
    }

    fn save(led: Option<Led>, site: &ServiceSite) {
        match led {
            Some(led) => save(site, LED, &led),
            None => drop(std::fs::remove_file(site.dir().join(LED))),
        }
    }

    /// The same from the newest point on, which may be another one by now; none if the log does not lead
    /// on from that.
    fn on_from_newest(
        self,
        note: &mut Note,
        site: &ServiceSite,
        state: &ServiceState,
        segments: Segments,
    ) -> Result<Option<Led>, Error> {
        if state.newest_sound().is_some_and(|point| point.snapshot == self.from) {
            return Ok(Some(self));
        }
        let log = log_of(site, Some(self.cluster))?;
        let leads = note.leads(site, &log, state, segments, (self.timeline, Lsn(self.end)))?;
        note.save(site);
        let led = note.from.filter(|_| leads).map(|from| Led { from, ..self });
        if led.is_some() {
            Led::save(led, site);
        }
        Ok(led)
    }
}

/// Only a note: what cannot be read is found out anew.
fn load<T: DeserializeOwned>(site: &ServiceSite, file: &str) -> Option<T> {
    serde_json::from_slice(&std::fs::read(site.dir().join(file)).ok()?).ok()
}

fn save<T: Serialize>(site: &ServiceSite, file: &str, what: &T) {
    let (path, beside) = (site.dir().join(file), site.dir().join(format!("{file}.tmp")));
    let bytes = serde_json::to_vec(what).unwrap_or_default();
    let written = std::fs::write(&beside, bytes);
    let _ = written.and_then(|()| std::fs::rename(&beside, &path));
}

impl Note {
    fn load(site: &ServiceSite) -> Note {
        load(site, FILE).unwrap_or_default()
    }

    fn save(&self, site: &ServiceSite) {
        save(site, FILE, self);
    }

    /// Whether the log leads on from this point, as far as was looked.
    fn is_from(&self, point: SnapshotId) -> bool {
        self.astray.is_none() && self.from.is_none_or(|from| from == point)
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
    /// The database cluster whose log it is.
    pub(super) cluster: ClusterId,
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
    /// From here on, on this timeline, the cluster's log is known to lead on without a break from this point.
    led: Option<(ClusterId, u32, u64, SnapshotId)>,
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
        let Proved { cluster, timeline, end, segments, .. } = proved;
        let log = log_of(self.site, Some(cluster))?;
        if gap::open(self.site, &state)?.is_some() {
            self.led = None;
            return Ok(());
        }
        // Whoever receives goes on where it was: once is enough, for each point.
        let sound = state.newest_sound().map(|point| point.snapshot);
        let goes_on = |led: &(ClusterId, u32, u64, SnapshotId)| {
            (led.0, led.1) == (cluster, timeline) && led.2 <= end.0 && Some(led.3) == sound
        };
        if !self.led.as_ref().is_some_and(goes_on) {
            self.led = None;
            if !self.note.leads(self.site, &log, &state, segments, (timeline, end))? {
                self.note.save(self.site);
                return Ok(());
            }
            self.led = sound.map(|sound| (cluster, timeline, end.0, sound));
        }
        self.note.put(self.site, &log, generation, proved)
    }
}

impl Note {
    /// Whether the vault has this log from the newest point on up to a place. What was not so a short
    /// time ago is not looked at again: a long log makes a long list.
    fn leads(
        &mut self,
        site: &ServiceSite,
        log: &LogStore,
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
            Some(Position::Lsn { timeline: on, lsn }) => {
                cluster::of_point(site, head)? == log.cluster()
                    && is_on_the_way(log, (*on, *lsn), timeline)?
                    && (*lsn >= end.0 || has_all(log, segments, timeline, Lsn(*lsn), end)?)
            }
            _ => false,
        };
        self.from = leads.then_some(head.snapshot);
        self.astray = (!leads).then_some((head.snapshot, now));
        Ok(leads)
    }

    fn put(
        &mut self,
        site: &ServiceSite,
        log: &LogStore,
        generation: Generation,
        proved: Proved,
    ) -> Result<(), Error> {
        let Proved { until, timeline, end, .. } = proved;
        let (at, cluster) = (Timestamp::now(), log.cluster());
        let said = Said { at, until, cluster, timeline, place: end.0, generation };
        let mark = said.mark();
        let same = |last: &Said| last.mark() == mark && last.cluster == cluster;
        if self.said.back().is_some_and(same) {
            return Ok(());
        }
        log.put_mark(&mark)?;
        self.said.push_back(said);
        let many = self.said.len().saturating_sub(LAST);
        let old = self.said.drain(..many).filter(|said| said.cluster == cluster);
        let old: Vec<Mark> = old.map(|said| said.mark()).collect();
        // Where this may not be done they go with a prune, and so do those of another cluster.
        if !old.is_empty() {
            self.kept = log.remove_marks(&old).is_err();
        }
        self.save(site);
        Ok(())
    }
}

/// Whether a place is on the way to this timeline: on an earlier one, before that was left.
fn is_on_the_way(log: &LogStore, (on, lsn): (u32, u64), timeline: u32) -> Result<bool, Error> {
    if on >= timeline {
        return Ok(on == timeline);
    }
    Ok(Way::look(log, timeline)?.leads_from((on, lsn)))
}

/// Whether every segment is in the vault that lies on the way from one place to another on this timeline.
/// The last may only be begun there; of another one that is, nobody knows the end.
fn has_all(
    log: &LogStore,
    segments: Segments,
    timeline: u32,
    from: Lsn,
    to: Lsn,
) -> Result<bool, Error> {
    let found = |name: &str| match WalFile::parse(name) {
        Some(WalFile::Segment { timeline: on, place }) if on <= timeline => {
            Some((on, segments.start_of(place)?.0))
        }
        _ => None,
    };
    let whole: Vec<_> = log.list()?.iter().filter_map(|(name, _)| found(name)).collect();
    let parts: Vec<_> = log.list_parts()?.iter().filter_map(|(name, _)| found(name)).collect();
    let last = segments.number(Lsn(to.0.saturating_sub(1)));
    let begun = of_history(whole.iter().chain(&parts).copied());
    let whole = of_history(whole.into_iter());
    Ok((segments.number(from)..=last).all(|n| {
        let start = segments.start(n).0;
        whole.contains(&start) || (n == last && begun.contains(&start))
    }))
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
    let is_news = stored.is_none_or(|stored| stored < until);
    if !is_news && is_running(site) {
        // Whoever receives it knows more, and says it.
        return Ok(());
    }
    let end = Lsn(start.0.saturating_add(segments.size()));
    let (mut note, before) = (Note::load(site), Led::load(site));
    let Some(cluster) = written_by(segment).map_err(io)? else { return Ok(()) };
    let log = log_of(site, Some(cluster))?;
    let goes_on =
        |led: &Led| led.timeline == timeline && start.0 <= led.end && led.cluster == cluster;
    let led = match before.filter(goes_on) {
        Some(led) => Led { end: led.end.max(end.0), until: led.until.max(until), ..led },
        None => {
            let state = site.load_state()?.state;
            let leads = note.leads(site, &log, &state, segments, (timeline, end))?;
            let Some(from) = note.from.filter(|_| leads) else {
                if let Some(led) = before
                    && led.timeline == timeline
                    && led.cluster == cluster
                    && led.end < start.0
                    && !has_all(&log, segments, timeline, Lsn(led.end), start)?
                {
                    // If it fails, that is found again of the next segment.
                    missed(site, &log, segments, timeline, Lsn(led.end), start)?;
                }
                Led::save(None, site);
                note.save(site);
                // After that it is known to lead on from nowhere; stored it is all the same.
                if is_news {
                    super::note_stored(site, until);
                }
                return Ok(());
            };
            Led { timeline, end: end.0, until, from, cluster }
        }
    };
    Led::save(Some(led), site);
    (note.from, note.astray) = (Some(led.from), None);
    note.save(site);
    // After that: who asks how far it reaches takes it to lead on from there.
    if is_news {
        super::note_stored(site, until);
    }
    let newer = note.said.back().is_none_or(|said| said.until < until || said.until > now);
    if !newer || !(note.is_due(site, now) || (note.is_over(OFTENEST, now) && is_last(segment))) {
        return Ok(());
    }
    let state = site.load_state()?.state;
    let generation = allowed_in(site, &state)?;
    if gap::open(site, &state)?.is_some() {
        return Ok(());
    }
    if led.on_from_newest(&mut note, site, &state, segments)?.is_none() {
        // That is looked at again with the next segment.
        Led::save(None, site);
        return Ok(());
    }
    // A record that goes on in the next segment is in nobody's hands yet: a standby stops before it.
    let bytes = std::fs::read(segment).map_err(|e| Error::io("read", segment, e))?;
    let whole = Records::new(&bytes, start).map(|mut records| {
        records.by_ref().for_each(drop);
        records.end()
    });
    let end = whole.filter(|whole| *whole > start && *whole < end).unwrap_or(end);
    note.put(site, &log, generation, Proved { cluster, until, timeline, end, segments })
}

/// Notes what lies between what was stored before and what is stored now: servers archive in order, so it
/// was let go when that could not be noted, or the server was not asked to archive it.
fn missed(
    site: &ServiceSite,
    log: &LogStore,
    segments: Segments,
    timeline: u32,
    from: Lsn,
    to: Lsn,
) -> Result<(), Error> {
    let cluster = log.cluster();
    if gap::load(site)?.is_some_and(|gap| gap.may_be_of(cluster)) {
        return Ok(());
    }
    gap::note(site, cluster, timeline, from, "it was let go, or never handed over to be archived")?;
    gap::ends(site, cluster, to)?;
    gap::record(site, log, segments)
}

/// The database cluster that a segment is of, as its first page says.
pub(super) fn written_by(segment: &Path) -> std::io::Result<Option<ClusterId>> {
    let mut header = Vec::new();
    File::open(segment)?.take(HEADER).read_to_end(&mut header)?;
    Ok(cluster_in(&header))
}

/// Whether no other segment waits to be archived: it may be long before there is another chance to say
/// what this one proves.
fn is_last(segment: &Path) -> bool {
    let waiting = waiting(&segment.with_file_name("archive_status"));
    waiting.is_ok_and(|waiting| waiting.iter().all(|name| segment.ends_with(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Rig;
    use engines::Running;
    use model::SnapshotId;
    use std::collections::BTreeSet;

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

    /// As after an upgrade in its place: the new cluster is on the same timeline, and further on.
    #[test]
    fn what_leads_on_from_a_point_of_one_cluster_says_nothing_of_anothers_log() {
        let rig = Rig::new();
        let site = &rig.site;
        let (one, other) = (ClusterId(7), ClusterId(8));
        let point = RecoveryPoint {
            snapshot: SnapshotId([1; 32]),
            engine: "postgres".to_owned(),
            generation: Generation::FIRST,
            member: site.member().clone(),
            source_time: Timestamp::now(),
            received: Timestamp::now(),
            verified: None,
            drilled: None,
            drill: None,
            position: Some(Position::Lsn { timeline: 1, lsn: 1000 }),
            cluster: Some(one),
            size_bytes: 1,
            added_bytes: 1,
            incomplete: false,
            pinned: false,
            tags: BTreeSet::new(),
        };
        let commit = |state: &mut ServiceState| state.commit(point.clone());
        site.state().expect("state").update(commit).expect("commit");
        let segments = Segments::of(1 << 20).expect("a size");
        let until = Timestamp::now();
        let mut sayer = Sayer::new(site);
        let mut marks = |cluster, end| {
            let end = Lsn(end);
            sayer.say(Proved { cluster, until, timeline: 1, end, segments }).expect("said");
            log_of(site, Some(cluster)).expect("log").marks().expect("marks").len()
        };
        assert_eq!(marks(one, 500), 1);
        assert_eq!(marks(other, 600), 0, "there is no point of it");
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
