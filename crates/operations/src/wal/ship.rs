//! From the server's log into the vault: whole segments, and of the one that is written to what is new.

use super::lag::{Lag, Seen};
use super::{allowed_in, gap};
use crate::cluster::{self, log_of, own_log};
use crate::{Error, ServiceSite};
use engines::postgres::{Cut, Live, Log, Lsn, Records, Segments, check_wal_file, cluster_in};
use model::{Class, Classify, ClusterId, Generation};
use repository::log::{Effort, LogStore, Part};
use std::time::{Duration, Instant};

/// The most that one part holds.
const PART_BYTES: u64 = 16 << 20;
/// So many parts of a kind are put together into one, so that a slow server does not fill the vault
/// with small objects.
const TOGETHER: usize = 16;
/// So much of it is looked at for new records at once, unless one is longer.
const WINDOW: u64 = 32 << 20;
/// A larger buffer is not kept.
const BUFFER: usize = 64 << 20;

/// How far the vault has the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shipped {
    pub(super) cluster: ClusterId,
    pub(super) timeline: u32,
    pub(super) end: Lsn,
    /// Up to here the server has written no other whole record: only what one begins with.
    pub(super) reach: Lsn,
}

/// What there is to ship.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// Where it is read. Another number is another beginning.
    pub(super) run: u64,
    pub(super) live: Live,
    pub(super) cluster: ClusterId,
    pub(super) timeline: u32,
    pub(super) segments: Segments,
    /// The segment that it begins with.
    pub(super) from: Lsn,
    /// Everything before this is durable at the server.
    pub(super) flushed: Lsn,
    /// Before that was asked.
    pub(super) asked: Instant,
}

impl Goal {
    /// Whether it is of the log that a server says it writes.
    pub(super) fn is_of(&self, log: &Log) -> bool {
        (self.cluster, self.timeline) == (log.cluster, log.timeline)
    }
}

/// What came of a pass.
#[derive(Clone, Debug)]
pub(super) struct Went {
    /// Everything was taken in that the goal has.
    pub(super) covered: bool,
    /// From here on the server does not have it any more.
    pub(super) gone: Option<Lsn>,
    /// The vault has more of the segment that the server writes to than the server.
    pub(super) behind: bool,
    /// What could not be noted; the log goes on.
    pub(super) trouble: Option<String>,
}

pub(super) struct Shipper<'a> {
    site: &'a ServiceSite,
    log: LogStore,
    /// The goal's run that this is in.
    run: u64,
    /// The segment that comes next.
    at: Lsn,
    tip: Option<Tip>,
    /// What was read last: a segment is large, and memory that is new costs time.
    buffer: Vec<u8>,
    /// An append-only vault keeps every part until somebody else prunes.
    may_remove: bool,
    shipped: Option<Shipped>,
    /// What is looked at for new records at once.
    window: u64,
    lag: Lag,
    /// Bytes that went to the vault, as they were before compression.
    pub(super) bytes: u64,
}

/// The segment that is written to, as the vault has it.
struct Tip {
    name: String,
    /// Up to here it has the bytes.
    sent: u64,
    /// Up to here they are whole records, as far as is known: bytes that go in several parts may end
    /// within one. Where 0, records are looked for from the segment's beginning on.
    whole: u64,
    parts: Vec<(Part, u32)>,
    cut: Cut,
}

impl<'a> Shipper<'a> {
    pub(super) fn new(site: &'a ServiceSite) -> Result<Shipper<'a>, Error> {
        let log = own_log(site)?;
        Ok(Shipper {
            site,
            log,
            run: 0,
            at: Lsn(0),
            tip: None,
            buffer: Vec::new(),
            may_remove: true,
            shipped: None,
            window: WINDOW,
            lag: Lag::default(),
            bytes: 0,
        })
    }

    /// Whether something is to be shipped now. A segment is as soon as it is whole, and of the one that is
    /// written to what has waited: a server that fills segments faster than that ships each byte once.
    pub(super) fn is_due(&mut self, goal: Option<&Goal>, now: Instant, every: Duration) -> bool {
        let Some(goal) = goal else { return self.lag.is_due(None, now, every) };
        if goal.run != self.run {
            self.begin(goal);
        }
        let end = Lsn(self.at.0.saturating_add(goal.segments.size()));
        let seen = Seen { asked: goal.asked, flushed: goal.flushed, end };
        self.lag.see(seen);
        self.has_whole(goal) || self.lag.is_due(Some(seen), now, every)
    }

    /// Whether the next segment is whole.
    fn has_whole(&self, goal: &Goal) -> bool {
        goal.flushed.0.saturating_sub(self.at.0) >= goal.segments.size()
    }

    fn begin(&mut self, goal: &Goal) {
        self.run = goal.run;
        self.at = goal.from;
        (self.tip, self.shipped) = (None, None);
        self.lag = Lag::default();
    }

    /// Stores what is new. Without a goal it only sees whether the vault answers.
    ///
    /// Of the segment that is written to, whole records go, and each is sound: what somebody is just
    /// writing there, or never wrote, is not shipped.
    pub(super) fn ship(&mut self, goal: Option<&Goal>) -> Result<Went, Error> {
        let state = self.site.load_state()?.state;
        let generation = allowed_in(self.site, &state)?;
        let Some(goal) = goal else {
            self.lag.look(Instant::now());
            return Ok(Went { covered: false, gone: None, behind: false, trouble: None });
        };
        // Another cluster may have taken this one's place while nobody looked.
        if self.log.cluster() != Some(goal.cluster) {
            self.log = log_of(self.site, Some(goal.cluster))?;
        }
        cluster::say_written(self.site, &state, Some(goal.cluster))?;
        // The first one after a takeover says where its timeline branched off.
        if self.shipped.is_none()
            && let Some((name, bytes)) = goal.live.history(goal.timeline)?
        {
            check_wal_file(&name, &bytes).map_err(|what| corrupt(&name, &what))?;
            self.log.push(generation, &name, &bytes)?;
        }
        let (mut covered, mut behind) = (false, false);
        let there = if self.has_whole(goal) {
            // One at a time: what is stored is told, and the state asked, before the next one.
            self.whole(generation, goal)?
        } else {
            self.lag.look(Instant::now());
            let rest = self.rest(generation, goal)?;
            (covered, behind) = (rest == Rest::All, rest == Rest::Behind);
            rest != Rest::Gone
        };
        // One that is behind is looked at again when it has written more.
        if covered || behind {
            self.lag.cover(goal.flushed);
        }
        self.lag.cover(self.at);
        if self.buffer.capacity() > BUFFER {
            self.buffer = Vec::new();
        }
        let trouble = match gap::record(self.site, &self.log, goal.segments) {
            Ok(()) => None,
            Err(e) if matches!(e.class(), Class::Refused | Class::Corrupt) => return Err(e),
            // What is stored is stored. What waited for this would be let go.
            Err(e) => Some(format!("what the log lacks could not be noted: {}", e.chain())),
        };
        Ok(Went { covered, gone: (!there).then_some(self.at), behind, trouble })
    }

    /// How far the vault has the log of the present run.
    pub(super) fn shipped(&self) -> Option<Shipped> {
        self.shipped
    }

    /// Stores the next segment, which is whole. Says no if the server does not have it any more.
    fn whole(&mut self, generation: Generation, goal: &Goal) -> Result<bool, Error> {
        let (segments, start) = (goal.segments, self.at);
        let name = segments.name(goal.timeline, segments.number(start));
        if !goal.live.read(&name, 0, segments.size(), &mut self.buffer)? {
            return Ok(false);
        }
        check_wal_file(&name, &self.buffer).map_err(|what| corrupt(&name, &what))?;
        of_this_cluster(&name, &self.buffer, goal)?;
        let tip = self.tip.take().filter(|tip| tip.name == name);
        // One of which no part was due was filled within little more than a second, or is one of many that
        // wait.
        let effort = if tip.is_some() { Effort::Usual } else { Effort::Little };
        let known: Vec<Part> = tip.into_iter().flat_map(|tip| tip.parts).map(|(p, _)| p).collect();
        let (_, parts) = self.log.push_grown(generation, &name, &self.buffer, &known, effort)?;
        self.bytes += segments.size();
        let end = Lsn(start.0 + segments.size());
        self.shipped =
            Some(Shipped { cluster: goal.cluster, timeline: goal.timeline, end, reach: end });
        self.at = end;
        self.remove_parts(&name, &parts)?;
        Ok(true)
    }

    fn remove_parts(&mut self, name: &str, parts: &[Part]) -> Result<(), Error> {
        if !self.may_remove || parts.is_empty() {
            return Ok(());
        }
        match self.log.remove_parts(name, parts).map_err(Error::from) {
            // No answer is one thing, a no another.
            Err(e) if matches!(e.class(), Class::Refused | Class::Invalid | Class::Failed) => {
                self.may_remove = false;
                Ok(())
            }
            other => other,
        }
    }

    /// Stores what there is of the segment that is written to.
    fn rest(&mut self, generation: Generation, goal: &Goal) -> Result<Rest, Error> {
        let (segments, start) = (goal.segments, self.at);
        let there = goal.flushed.0.saturating_sub(start.0);
        if there == 0 {
            let nothing = Shipped {
                cluster: goal.cluster,
                timeline: goal.timeline,
                end: start,
                reach: start,
            };
            self.shipped.get_or_insert(nothing);
            return Ok(Rest::All);
        }
        let name = segments.name(goal.timeline, segments.number(start));
        if self.tip.as_ref().is_none_or(|tip| tip.name != name) {
            match self.look(&name, goal, there)? {
                Looked::Gone => return Ok(Rest::Gone),
                Looked::TooLittle => return Ok(Rest::All),
                Looked::Behind => return Ok(Rest::Behind),
                Looked::Tip(tip) => self.tip = Some(tip),
            }
        }
        let Some(mut tip) = self.tip.take() else { return Ok(Rest::All) };
        let begun = if tip.whole == 0 { self.begun(goal)? } else { None };
        let (before, from) = (tip.whole, tip.whole - tip.whole % tip.cut.page);
        let length = self.window.min(there.saturating_sub(from));
        let mut bytes = std::mem::take(&mut self.buffer);
        if !goal.live.read(&name, from, length, &mut bytes)? {
            return Ok(Rest::Gone);
        }
        let (end, reach) = whole_records(&bytes, from, start, &tip, begun.as_deref());
        let result = self.send(&mut tip, generation, goal, (&bytes, from), end);
        self.buffer = bytes;
        let sent = tip.sent;
        self.tip = Some(tip);
        if sent > 0 {
            let end = Lsn(start.0 + sent);
            let reach = reach.max(end);
            self.shipped =
                Some(Shipped { cluster: goal.cluster, timeline: goal.timeline, end, reach });
        } else if let Some(shipped) = self.shipped.as_mut().filter(|shipped| shipped.end == start) {
            shipped.reach = reach;
        }
        let all = from + length >= there;
        // A record may be longer than what is looked at.
        self.window = if all || end > before { WINDOW } else { self.window.saturating_mul(2) };
        Ok(match (result?, all) {
            (false, _) => Rest::Gone,
            (true, true) => Rest::All,
            (true, false) => Rest::Part,
        })
    }

    /// What the vault has of a segment.
    fn look(&self, name: &str, goal: &Goal, there: u64) -> Result<Looked, Error> {
        const HEADER: u64 = 40;
        if there < HEADER {
            return Ok(Looked::TooLittle);
        }
        let mut header = Vec::new();
        if !goal.live.read(name, 0, HEADER, &mut header)? {
            return Ok(Looked::Gone);
        }
        let cut = Cut::of(&header).filter(|cut| cut.segment == goal.segments.size());
        let cut = cut.ok_or_else(|| corrupt(name, "it does not begin as a segment does"))?;
        of_this_cluster(name, &header, goal)?;
        // All of it, if this server went back to an earlier time: no part is stored beside that.
        let is_whole = self.log.list_near(name)?.iter().any(|(whole, _)| whole == name);
        let whole = if is_whole { self.log.fetch(name)? } else { None };
        let parts: Vec<Part> = self.log.parts(name)?;
        let theirs = match whole {
            Some(bytes) => Some(bytes),
            None => self.log.beginning(name)?.map(|begun| begun.bytes),
        };
        let Some(theirs) = theirs else {
            let tip = Tip { name: name.to_owned(), sent: 0, whole: 0, parts: Vec::new(), cut };
            return Ok(Looked::Tip(tip));
        };
        let known = theirs.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        let mut ours = Vec::new();
        if !goal.live.read(name, 0, known as u64, &mut ours)? {
            return Ok(Looked::Gone);
        }
        if theirs.get(..known) != Some(&ours) {
            return Err(Error::refused(format!(
                "the vault has other bytes of the segment {name} than this server wrote: another \
                 server has pushed to it, on the same timeline"
            )));
        }
        if known < theirs.len() {
            return Ok(Looked::Behind);
        }
        let mut chain: Vec<(Part, u32)> = Vec::new();
        for part in parts {
            if chain.last().map_or(0, |(last, _)| last.end) == part.start {
                chain.push((part, 0));
            }
        }
        let sent = chain.last().map_or(0, |(last, _)| last.end);
        let sent_bytes = ours.get(..usize::try_from(sent).unwrap_or(usize::MAX));
        let whole = sent_bytes.map_or(0, |bytes| sound_until(bytes, self.at));
        Ok(Looked::Tip(Tip { name: name.to_owned(), sent, whole, parts: chain, cut }))
    }

    /// The beginning of the record that began in the segment before, and goes on in this one.
    fn begun(&mut self, goal: &Goal) -> Result<Option<Vec<u8>>, Error> {
        let segments = goal.segments;
        // Without the one before, what goes on is known to be whole by what follows it.
        let Some(number) = segments.number(self.at).checked_sub(1) else { return Ok(None) };
        let name = segments.name(goal.timeline, number);
        if !goal.live.read(&name, 0, segments.size(), &mut self.buffer)? {
            return Ok(None);
        }
        let Some(mut records) = Records::new(&self.buffer, segments.start(number)) else {
            return Ok(None);
        };
        records.by_ref().for_each(drop);
        Ok(records.begun())
    }

    /// Stores the bytes up to `limit`, where a record ends; those that were read begin at `from`. Says no
    /// if the server does not have the others that it takes any more.
    fn send(
        &mut self,
        tip: &mut Tip,
        generation: Generation,
        goal: &Goal,
        (bytes, from): (&[u8], u64),
        limit: u64,
    ) -> Result<bool, Error> {
        let whole = goal.segments.size();
        while tip.sent < limit {
            let end = limit.min(tip.sent + PART_BYTES);
            let place = |at: u64| usize::try_from(at.saturating_sub(from)).unwrap_or(usize::MAX);
            let new = bytes.get(place(tip.sent)..place(end)).unwrap_or_default();
            let part = self.log.push_part(generation, &tip.name, tip.sent, whole, new)?;
            self.bytes += end - tip.sent;
            tip.sent = end;
            tip.parts.push((part, 0));
        }
        tip.whole = tip.whole.max(limit);
        // As one counts: sixteen of a kind become one of the next.
        while self.may_remove && tip.parts.len() >= TOGETHER {
            let from = tip.parts.len() - TOGETHER;
            let last = tip.parts.get(from..).unwrap_or_default().to_vec();
            let (Some((first, level)), Some((end, _))) = (last.first(), last.last()) else { break };
            let same = last.iter().all(|(_, other)| other == level);
            if !same || end.end - first.start > PART_BYTES {
                break;
            }
            let (start, level) = (first.start, level + 1);
            let mut bytes = Vec::new();
            if !goal.live.read(&tip.name, start, end.end - start, &mut bytes)? {
                return Ok(false);
            }
            let together = self.log.push_part(generation, &tip.name, start, whole, &bytes)?;
            let old = last.iter().map(|(part, _)| *part).filter(|part| *part != together);
            self.remove_parts(&tip.name, &old.collect::<Vec<Part>>())?;
            tip.parts.truncate(from);
            tip.parts.push((together, level));
        }
        Ok(true)
    }
}

/// How much of the segment that is written to was taken in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Everything that the server has.
    All,
    /// There is more.
    Part,
    /// Nothing: the vault has more than the server.
    Behind,
    /// The server does not have it any more.
    Gone,
}

/// What the vault has of a segment.
enum Looked {
    /// This.
    Tip(Tip),
    /// More than the server has written. What the server has is the same.
    Behind,
    /// The server has not written enough for anything to be said.
    TooLittle,
    /// The server does not have the segment any more.
    Gone,
}

/// The files of a server may be exchanged for another cluster's before anybody has asked it what it is. By
/// then it is another goal.
fn of_this_cluster(name: &str, bytes: &[u8], goal: &Goal) -> Result<(), Error> {
    if cluster_in(bytes) == Some(goal.cluster) {
        return Ok(());
    }
    let what = format!("{name} of the server's log is of another database cluster than it was");
    Err(Error::new(Class::Unavailable, what))
}

fn corrupt(name: &str, what: &str) -> Error {
    Error::new(Class::Corrupt, format!("{name} of the server's log is not stored: {what}"))
}

/// Where in these first bytes of a segment the last record ends that is known to be whole; 0 if none is.
fn sound_until(bytes: &[u8], start: Lsn) -> u64 {
    let Some(mut records) = Records::new(bytes, start) else { return 0 };
    // What ends a record that began before is only known to be whole by what follows.
    if records.next().is_none() {
        return 0;
    }
    records.by_ref().for_each(drop);
    records.end().0.saturating_sub(start.0).min(bytes.len() as u64)
}

/// Where in the segment the last whole record ends, and up to where there is no other. The bytes begin
/// at `from`; a record before the segment begins like `begun`, and goes on in it.
fn whole_records(
    bytes: &[u8],
    from: u64,
    start: Lsn,
    tip: &Tip,
    begun: Option<&[u8]>,
) -> (u64, Lsn) {
    let mut records = match tip.whole {
        0 => {
            let followed = begun.and_then(|begun| Records::after(bytes, start, begun));
            let certain = followed.is_some();
            let reach = begun.map(|begun| Records::reach_of(bytes, start, tip.cut, begun));
            let nothing = (0, reach.unwrap_or(start));
            let Some(mut records) = followed.or_else(|| Records::new(bytes, start)) else {
                return nothing;
            };
            // What ends a record that began before is only known to be whole by what follows.
            if records.next().is_none() && !certain {
                return nothing;
            }
            records
        }
        whole => Records::within(bytes, Lsn(start.0 + from), tip.cut, Lsn(start.0 + whole)),
    };
    records.by_ref().for_each(drop);
    let last = from + bytes.len() as u64;
    (records.end().0.saturating_sub(start.0).min(last), records.reach())
}

#[cfg(test)]
mod tests;
