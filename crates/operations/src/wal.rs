//! The service's continuous log between its server and the vault: what `archive_command` and
//! `restore_command` call, and how far a takeover can get with it.

mod branch;
mod gap;
mod lag;
mod left;
mod receive;
mod ship;
pub mod sqlite;
pub(crate) mod target;
mod timelines;
mod until;
mod went_back;

pub(crate) use branch::{HandedOver, hand_over, while_kept};
pub use gap::{Gap, open as open_gap};
pub use left::left_behind;
pub(crate) use left::{lacks_branch, went_past};
pub use receive::{Done as Received, Params as Receive, cap, is_running, run as receive, spare};
pub(crate) use until::LAST as LAST_MARKS;
pub use until::{Until, note_pushed, note_quiet, reaches};
pub use went_back::{WentBack, went_back};

use crate::asking::{Asking, Patience};
use crate::cluster::{Here, log_of, own_log};
use crate::operation::Operation;
use crate::standing::{self, Still};
use crate::{Error, ServiceSite, cluster, refresh};
use engines::Running;
use engines::postgres::{
    Cut, Lsn, Records, Segments, WalFile, check_wal_file, cluster_in, segments_of, unarchived,
};
use jiff::Timestamp;
use model::state::Refusal;
use model::{Class, Classify, ClusterId, Generation, Position, Progress, ServiceState};
use repository::log::{LogStore, Part, Pushed};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use storage::ErrorKind;

/// How long a standby that has more to replay may stand still before a takeover gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a standby's position must stand still to count as the end of what it can get.
const STILL: Duration = Duration::from_millis(600);

/// After so long the standby has asked for the next segment several times.
const STUCK: Duration = Duration::from_secs(30);

/// How often it is looked whether it does.
const LOOK_STILL: Duration = Duration::from_millis(100);

/// How often the vault is asked whether it has more for a standby that stands still.
const LOOK: Duration = Duration::from_secs(1);
/// How long a vault that hangs is waited for when more than may waits for it, and when that is not the
/// first time.
const FULL: Duration = Duration::from_secs(5);
const FULL_AGAIN: Duration = Duration::from_millis(500);

/// Where [`stored_until`] is noted.
const STORED: &str = "log-pushed";

/// What became of a request for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It is at the place that was named.
    Found,
    /// The vault was asked, and does not have it (yet).
    NotThere,
}

/// Stores one finished segment of the log. Only the primary of the current generation may.
pub fn push(site: &ServiceSite, segment: &Path) -> Result<Pushed, Error> {
    let name = segment.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if WalFile::parse(name).is_none() {
        return Err(Error::invalid(format!("{} is no file of a log", segment.display()))
            .hinting(format!("Write archive_command = 'mainstay wal push {} %p'.", site.name())));
    }
    let state = site.load_state()?.state;
    let generation = allowed_in(site, &state)?;
    let bytes =
        std::fs::read(segment).map_err(|e| Error::io("read the log segment", segment, e))?;
    check_wal_file(name, &bytes).map_err(|what| {
        Error::new(Class::Corrupt, format!("{} is not stored: {what}", segment.display()))
    })?;
    let cluster = cluster_that_wrote(site, segment, &bytes)?;
    let log = log_of(site, cluster)?;
    cluster::say_written(site, &state, cluster)?;
    let pushed = log.push(generation, name, &bytes)?;
    if let Some(WalFile::Segment { place, .. }) = WalFile::parse(name)
        && let Some(segments) = Segments::of(bytes.len() as u64)
        && let Some(gap) = gap::load(site)?.filter(|gap| gap.may_be_of(cluster))
    {
        // What lies before it, and comes late, says nothing of what is missing.
        if let Some(start) = segments.start_of(place)
            && start.0.saturating_add(segments.size()) > gap.from
        {
            gap::ends(site, cluster, start)?;
        }
        gap::record(site, &log, segments)?;
    }
    Ok(pushed)
}

/// Which cluster wrote a file of the log, which begins like this. One that does not say so itself is the
/// server's beside whose control file it lies.
fn cluster_that_wrote(
    site: &ServiceSite,
    file: &Path,
    bytes: &[u8],
) -> Result<Option<ClusterId>, Error> {
    match cluster_in(bytes) {
        Some(cluster) => Ok(Some(cluster)),
        None => cluster::that_asks(site, file),
    }
}

/// The same for a server that calls this and waits: whatever the vault does, its disk does not fill. If
/// more than `log-queue` waits already, an answer is waited for a moment only, and the error says so.
pub fn push_or_spare(site: &ServiceSite, segment: &Path) -> Result<Pushed, Error> {
    // What is missing already is not missed more: there is nothing to wait for.
    let is_open = gap::load(site)?.is_some_and(|gap| gap.to.is_none());
    let grace = if is_open { FULL_AGAIN } else { FULL };
    let began = Instant::now();
    let enough = || began.elapsed() >= grace && is_full(site, segment).unwrap_or(false);
    let (here, file) = (site.clone(), segment.to_owned());
    Asking::new()
        .have_done("push", Patience::until(Duration::MAX, &enough), move || push(&here, &file))
}

/// Lets a segment go that the vault does not take, if more than `log-queue` waits for it: a server
/// keeps what it cannot archive, until its disk is full. What is missing is remembered, or, if that
/// cannot be written down here, found by [`note_pushed`] of a later one. Says whether it was let go.
pub fn let_go(
    site: &ServiceSite,
    segment: &Path,
    why: &Error,
    progress: &dyn Progress,
) -> Result<bool, Error> {
    let ours = matches!(
        why.class(),
        Class::Refused | Class::Invalid | Class::Corrupt | Class::WrongPassword | Class::Cancelled
    );
    let name = segment.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (false, Some(WalFile::Segment { timeline, place })) = (ours, WalFile::parse(name)) else {
        return Ok(false);
    };
    if !is_full(site, segment)? {
        return Ok(false);
    }
    let start = Segments::of(size_of(segment)?).and_then(|segments| segments.start_of(place));
    let cluster = until::written_by(segment).ok().flatten();
    let why = receive::waited(cap(site));
    let noted = gap::note(site, cluster, timeline, start.unwrap_or(Lsn(0)), &why);
    if let Err(e) = noted {
        progress.warn(&format!("that {name} is missing could not be noted: {}", e.chain()));
    }
    Ok(true)
}

/// Whether more segments wait beside this one than may.
fn is_full(site: &ServiceSite, segment: &Path) -> Result<bool, Error> {
    let size = size_of(segment)?;
    let status = segment.with_file_name("archive_status");
    let Ok(waiting) = waiting(&status) else { return Ok(false) };
    let segments = waiting
        .iter()
        .filter(|name| matches!(WalFile::parse(name), Some(WalFile::Segment { .. })))
        .count();
    Ok((segments as u64).saturating_mul(size) > cap(site))
}

/// The files of a log that wait to be archived, by the directory in which the server notes that.
fn waiting(status: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(status)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".ready").map(str::to_owned));
    Ok(names.collect())
}

fn size_of(segment: &Path) -> Result<u64, Error> {
    let meta = std::fs::metadata(segment).map_err(|e| Error::io("look at", segment, e))?;
    Ok(meta.len())
}

/// The generation at which this host may write the log: only the primary may.
fn allowed(site: &ServiceSite) -> Result<Generation, Error> {
    allowed_in(site, &site.load_state()?.state)
}

/// The same in a state that was loaded.
fn allowed_in(site: &ServiceSite, state: &ServiceState) -> Result<Generation, Error> {
    state.require_primary(site.member(), state.generation)?;
    // As with points: a takeover that has fenced this member has replayed what there was, and what
    // comes now would lead other standbys to where the new primary never was.
    if let Some(intent) = state.intent.as_ref().filter(|intent| intent.fenced.is_some())
        && intent.from.as_ref() == Some(site.member())
    {
        let (member, id) = (site.member().clone(), intent.id.clone());
        return Err(Refusal::Fenced { member, id }.into());
    }
    Ok(state.generation)
}

/// Up to when this host has stored everything of the log that it has not let go. [`reaches`] says what
/// can be had of that.
pub fn stored_until(site: &ServiceSite) -> Option<Timestamp> {
    std::fs::read_to_string(site.dir().join(STORED)).ok()?.parse().ok()
}

/// Notes that. Only a note: the log is durable whatever becomes of it.
fn note_stored(site: &ServiceSite, until: Timestamp) {
    let (path, beside) = (site.dir().join(STORED), site.dir().join("log-pushed.tmp"));
    let written = std::fs::write(&beside, until.to_string());
    let _ = written.and_then(|()| std::fs::rename(&beside, &path));
}

/// The cluster whose log a server asks for that wants a file of it here.
pub fn that_asks(site: &ServiceSite, target: &Path) -> Result<Option<ClusterId>, Error> {
    cluster::that_asks(site, target)
}

/// Writes the segment of this name of a cluster's log to `target`, whole or not at all. An error means
/// that the vault could not be asked, which is not to be taken for the end of the log.
pub fn fetch(
    site: &ServiceSite,
    cluster: Option<ClusterId>,
    name: &str,
    target: &Path,
) -> Result<Fetched, Error> {
    if WalFile::parse(name).is_none() {
        return Err(Error::invalid(format!("{name:?} is no file of a log")).hinting(format!(
            "Write restore_command = 'mainstay wal fetch {} %f %p'.",
            site.name()
        )));
    }
    let log = log_of(site, cluster)?;
    if let Some(bytes) = log.fetch(name)? {
        put(target, &bytes)?;
        return Ok(Fetched::Found);
    }
    // The end of the log: of the last segment there is a beginning.
    let parts = log.parts(name)?;
    let Some(end) = parts.iter().map(|part| part.end).max() else {
        return Ok(Fetched::NotThere);
    };
    // Of two that end there one was made of the other and some before it, and is going to stay.
    if let Some(last) = parts.iter().find(|part| part.end == end)
        && has_already(&log, name, last, target)?
    {
        return Ok(Fetched::NotThere);
    }
    match log.beginning(name)? {
        Some(begun) => {
            put(target, &begun.padded())?;
            Ok(Fetched::Found)
        }
        // It has become whole while we looked.
        None => match log.fetch(name)? {
            Some(bytes) => put(target, &bytes).map(|()| Fetched::Found),
            None => Ok(Fetched::NotThere),
        },
    }
}

/// Whether the server has the last part of a segment from an earlier request. A standby asks for the
/// segment that it is in again and again; it reads what it has where we put it before.
fn has_already(log: &LogStore, name: &str, last: &Part, target: &Path) -> Result<bool, Error> {
    let Ok(file) = std::fs::File::open(target.with_file_name(name)) else { return Ok(false) };
    let (bytes, whole) = match log.read_part(name, last) {
        Ok(read) => read,
        // It has given way since it was listed. Whoever asks looks again, and there is more.
        Err(repository::Error::Storage(e)) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    let mut theirs = vec![0; bytes.len()];
    let read = file.read_exact_at(&mut theirs, last.start);
    Ok(read.is_ok() && theirs == bytes && file.metadata().is_ok_and(|meta| meta.len() == whole))
}

/// Whether a segment that is not there never will be: servers archive in order, and a later one of
/// the same timeline is there. No recovery gets over such a gap.
pub fn is_gap(site: &ServiceSite, cluster: Option<ClusterId>, name: &str) -> Result<bool, Error> {
    if !matches!(WalFile::parse(name), Some(WalFile::Segment { .. })) {
        return Ok(false);
    }
    // Names of one timeline sort by position. What is in a later shard only is found when the
    // server asks for that.
    let near = log_of(site, cluster)?.list_near(name)?;
    let on_timeline = |other: &str| other.len() == name.len() && other[..8] == name[..8];
    let there = |wanted: &str| near.iter().any(|(other, _)| other == wanted);
    Ok(!there(name) && near.iter().any(|(other, _)| on_timeline(other) && other.as_str() > name))
}

/// Beside its target first, so that a server never sees a part of it. Not synced: the server does
/// that with what it keeps, and asks again for what a crash took.
fn put(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut beside = target.as_os_str().to_owned();
    beside.push(".mainstay");
    let beside = PathBuf::from(beside);
    // Where the directory is somebody else's there may be a link under that name.
    let written = match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => File::create_new(&beside).and_then(|mut file| file.write_all(bytes)),
    };
    let written = written.and_then(|()| std::fs::rename(&beside, target));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        Error::io("write the log segment", target, e)
    })
}

/// Waits until the standby on this host has replayed what the vault has. One that does not go on with
/// what is there for it is refused: it may be a copy of something else, or never come up once it is
/// promoted. Unless somebody says to take it `as_it_is`.
pub(crate) fn catch_up(
    site: &ServiceSite,
    operation: &Operation,
    as_it_is: bool,
) -> Result<(), Error> {
    let engine = site.engine()?;
    let state = site.load_state()?.state;
    let here = cluster::compare_with_head(site, &state)?;
    match &here {
        Here::OfThePoint => {}
        Here::Unsaved(what) => operation.report().warn(what),
        Here::Outlived(what) | Here::Another(what) if as_it_is => operation.report().warn(what),
        Here::Outlived(what) | Here::Another(what) => {
            let hint = format!("{} {AS_IT_IS}", here.advice(site));
            return Err(Error::new(Class::Unavailable, what).hinting(hint));
        }
    }
    if operation.with_context(site, |cx| engine.running(cx))? == Running::No {
        operation.with_context(site, |cx| engine.start(cx))?;
    }
    let stopped = state.primary.as_ref().and_then(|p| state.members.get(p)?.stopped.as_ref());
    let last = stopped
        .filter(|stopped| stopped.generation == state.generation)
        .and_then(|stopped| stopped.last_position.clone());
    let is_last = last.is_some();
    let head = state.head_point().filter(|_| here == Here::OfThePoint);
    let goal = last.or_else(|| head.and_then(|point| point.position.clone()));
    let stored = Stored::look(site)?;
    let mut still = Still::default();
    // What the vault has for it there, as it was seen last, and where that left the timeline it is on, if
    // it went on past that.
    let mut looked: Option<((After, Option<Lsn>), Instant)> = None;
    loop {
        operation.check_cancel()?;
        let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
        let position = seen.position.as_ref();
        let still = still.since(position, Instant::now());
        if still.is_zero() {
            looked = None;
        }
        // A point that the primary gave up when it went back is nobody's goal.
        let reached = refresh::reached(position, goal.as_ref())
            || (!is_last && standing::was_given_up(site, position, goal.as_ref())?);
        if reached {
            let (after, left) = match looked {
                Some((seen, at)) if at.elapsed() < LOOK => seen,
                _ => {
                    let seen = (stored.after(site, position)?, stored.left(site, position)?);
                    looked = Some((seen, Instant::now()));
                    seen
                }
            };
            if let Some(left) = left {
                let what = format!(
                    "the standby of {} went on past {left}, where the newest timeline left the one that it \
                     is on: it has nothing of what was written since",
                    site.name()
                );
                if still < STILL {
                    std::thread::sleep(LOOK_STILL);
                    continue;
                }
                if as_it_is {
                    operation.report().warn(&what);
                    return Ok(());
                }
                return Err(Error::new(Class::Unavailable, what).hinting(LEFT));
            }
            match after {
                After::Nothing => return Ok(()),
                After::Unknown if still >= STILL => return Ok(()),
                // No waiting gets it further.
                After::Segments if still >= STUCK && lacks_next(site, position)? => {
                    operation.report().warn(
                        "the vault has more of the log than the standby can use: it ends at a gap",
                    );
                    return Ok(());
                }
                After::Segments | After::Records if still >= STUCK => {
                    let what = format!(
                        "the standby of {} stands still, and the vault has more of the log for \
                         it: {}",
                        site.name(),
                        seen.summary
                    );
                    if as_it_is {
                        operation.report().warn(&what);
                        return Ok(());
                    }
                    return Err(Error::new(Class::Unavailable, what).hinting(STANDS_STILL));
                }
                _ => {}
            }
        }
        let stuck = still >= STUCK
            && !reached
            && (is_lost(site, position, &goal)?
                || standing::gone_past(site, position, goal.as_ref())?.is_some());
        if stuck || still >= PATIENCE {
            let place = goal.map_or_else(|| "its goal".to_owned(), |goal| goal.to_string());
            return Err(Error::new(
                Class::Unavailable,
                format!("the standby of {} does not get to {place}: {}", site.name(), seen.summary),
            )
            .hinting(
                "Look at its log for a segment that it cannot get. `mainstay refresh --reseed` \
                 builds it anew from the newest point.",
            ));
        }
        std::thread::sleep(LOOK_STILL);
    }
}

/// What to do about one that is not where the primary was.
const LEFT: &str = "\
    `mainstay refresh --reseed` puts its copy aside and builds it anew, along what the primary wrote last; \
    or say with `--override replay-stands-still=REASON` that what it has is wanted instead.";

/// And about one of another cluster than the primary's.
const AS_IT_IS: &str =
    "Or say with `--override replay-stands-still=REASON` that what it has is wanted instead.";

/// What is wrong with a standby that stands still is in its server's log.
const STANDS_STILL: &str = "\
    Look into its server's log for the reason: a setting that is lower than the primary's was, replay \
    that somebody has paused, a copy of something else. `mainstay refresh --reseed` builds it anew \
    from the newest point; or say with `--override replay-stands-still=REASON` why what it has is \
    enough: what it does not replay is lost to it.";

/// Whether the vault lacks the very next segment on the way to the goal. It may still come: the
/// caller has waited for it.
pub(crate) fn is_lost(
    site: &ServiceSite,
    position: Option<&Position>,
    goal: &Option<Position>,
) -> Result<bool, Error> {
    match goal {
        Some(Position::Lsn { .. }) => lacks_next(site, position),
        _ => Ok(false),
    }
}

/// Whether the vault lacks the very next segment that a standby at this position asks for.
fn lacks_next(site: &ServiceSite, position: Option<&Position>) -> Result<bool, Error> {
    let Some(Position::Lsn { lsn, timeline }) = position else { return Ok(false) };
    let Some(segments) = data_dir(site)?.as_deref().and_then(segments_of) else {
        return Ok(false);
    };
    // In the midst of a segment it has that, and asks for the one after it.
    let next = segments.number(Lsn(lsn.saturating_add(segments.size() - 1)));
    let log = own_log(site)?;
    for timeline in *timeline..=timeline.saturating_add(1) {
        let name = segments.name(timeline, next);
        let whole = log.list_near(&name)?.iter().any(|(there, _)| *there == name);
        if whole || !log.parts(&name)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the vault has of the log after a standby's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Not one whole record: there is nothing left to replay.
    Nothing,
    /// Whole records, in the last segment that can be got to without a gap.
    Records,
    /// Whole segments.
    Segments,
    /// That cannot be told.
    Unknown,
}

/// The segments that the vault has, by where they begin.
struct Stored {
    segments: Option<Segments>,
    starts: BTreeSet<u64>,
    /// The newest timeline of each.
    timelines: BTreeMap<u64, u32>,
}

impl Stored {
    fn look(site: &ServiceSite) -> Result<Stored, Error> {
        let segments = data_dir(site)?.as_deref().and_then(segments_of);
        let (mut starts, mut timelines) = (BTreeSet::new(), BTreeMap::new());
        if let Some(segments) = segments {
            let log = own_log(site)?;
            let whole = log.list()?.into_iter().map(|(name, _)| name);
            let names: BTreeSet<String> =
                whole.chain(log.list_parts()?.into_iter().map(|(name, _)| name)).collect();
            let found = names.iter().filter_map(|name| match WalFile::parse(name) {
                Some(WalFile::Segment { timeline, place }) => {
                    Some((timeline, segments.start_of(place)?.0))
                }
                _ => None,
            });
            // Names sort by timeline.
            timelines = found.clone().map(|(timeline, start)| (start, timeline)).collect();
            starts = of_history(found);
        }
        Ok(Stored { segments, starts, timelines })
    }

    fn after(&self, site: &ServiceSite, position: Option<&Position>) -> Result<After, Error> {
        if !self.is_exhausted(position) {
            return Ok(After::Segments);
        }
        let (Some(segments), Some(Position::Lsn { timeline, lsn })) = (self.segments, position)
        else {
            return Ok(After::Unknown);
        };
        let number = segments.number(Lsn(*lsn));
        let start = segments.start(number);
        if !self.starts.contains(&start.0) {
            // It ends with the segment before. A standby that is past that has more from its primary.
            return Ok(if start.0 == *lsn { After::Nothing } else { After::Unknown });
        }
        let log = own_log(site)?;
        let timeline =
            self.timelines.get(&start.0).map_or(*timeline, |newest| *newest.max(timeline));
        let name = segments.name(timeline, number);
        let bytes = match log.fetch(&name)? {
            Some(bytes) => Some(bytes),
            None => log.beginning(&name)?.map(|begun| begun.bytes),
        };
        let Some(bytes) = bytes else { return Ok(After::Unknown) };
        Ok(records_after(&bytes, start, Lsn(*lsn)))
    }

    /// Where the way to the newest timeline left the one that this position is on, if it is past that.
    fn left(&self, site: &ServiceSite, position: Option<&Position>) -> Result<Option<Lsn>, Error> {
        let Some(Position::Lsn { timeline: on, .. }) = position else { return Ok(None) };
        match self.timelines.values().max().filter(|newest| *newest > on) {
            Some(newest) => {
                let newest = Position::Lsn { timeline: *newest, lsn: 0 };
                standing::gone_past(site, position, Some(&newest))
            }
            None => Ok(None),
        }
    }

    /// Whether a standby at this position is in, or beyond, the last segment that it can get to
    /// without a gap. Where in it its last whole record ends, only the standby knows.
    fn is_exhausted(&self, position: Option<&Position>) -> bool {
        let (Some(segments), Some(Position::Lsn { lsn, .. })) = (self.segments, position) else {
            return true;
        };
        let next = segments.number(Lsn(*lsn)).saturating_add(1);
        !self.starts.contains(&segments.start(next).0)
    }
}

/// What there is after a position in a segment that begins like this. From its own beginning on: at a
/// place that is none between two of its records, as that of a copy of something else, none begins.
fn records_after(bytes: &[u8], start: Lsn, at: Lsn) -> After {
    let end = match Records::new(bytes, start) {
        Some(mut records) => {
            records.by_ref().for_each(drop);
            records.end()
        }
        None => {
            let Some(cut) = Cut::of(bytes) else { return After::Unknown };
            match Records::within(bytes, start, cut, at).next() {
                Some(record) => record.end,
                None => at,
            }
        }
    };
    if end <= at { After::Nothing } else { After::Records }
}

/// Where segments begin that lie on the way to the newest timeline: of an older one only what was
/// written before the next began. What an old primary wrote after that is on no way to anywhere.
fn of_history(found: impl Iterator<Item = (u32, u64)>) -> BTreeSet<u64> {
    let mut timelines: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for (timeline, start) in found {
        timelines.entry(timeline).or_default().insert(start);
    }
    let mut end = u64::MAX;
    let mut starts = BTreeSet::new();
    for own in timelines.values().rev() {
        starts.extend(own.range(..end));
        end = own.first().map_or(end, |first| end.min(*first));
    }
    starts
}

/// Where the log of a stopped primary ends, if the vault has everything before it; none if that
/// cannot be said, because the server keeps no log or was not stopped cleanly.
pub(crate) fn last_position(
    site: &ServiceSite,
    operation: &Operation,
) -> Result<Option<Position>, Error> {
    let engine = site.engine()?;
    operation.report().phase("making sure that the vault has the whole log");
    let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
    let (Some(Position::Lsn { timeline, lsn }), Some(data_dir)) =
        (seen.position.clone(), data_dir(site)?)
    else {
        return Ok(None);
    };
    // A server that stops tries its archive_command a few times, and goes.
    for segment in unarchived(&data_dir)? {
        operation.check_cancel()?;
        push(site, &segment)?;
    }
    let Some(segments) = segments_of(&data_dir) else { return Ok(None) };
    let last = segments.number(Lsn(lsn.saturating_sub(1)));
    if push_rest(site, &data_dir, segments, timeline, last)? {
        return Ok(seen.position);
    }
    let last = segments.name(timeline, last);
    operation.report().note(&format!("the vault does not have the log up to {last}"));
    Ok(None)
}

/// Stores what a stopped server has of its log and had not archived, before that is overwritten: all
/// whole segments, and the rest of one that was stopped cleanly. Refuses one that was not, if the vault
/// lacks the end of its log.
pub(crate) fn push_what_is_left(site: &ServiceSite, operation: &Operation) -> Result<(), Error> {
    let Some(data_dir) = data_dir(site)? else { return Ok(()) };
    for segment in unarchived(&data_dir)? {
        operation.check_cancel()?;
        push(site, &segment)?;
    }
    if last_position(site, operation)?.is_some() {
        return Ok(());
    }
    let engine = site.engine()?;
    let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
    // What was restored, and has not come to the end of that yet, has written nothing of its own.
    let has_own = seen.has_data && !data_dir.join("recovery.signal").exists();
    if seen.position.is_some() || !has_own || has_all_records(site, &data_dir)? {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the server in {} was not stopped cleanly, and the vault does not have the end of its log, \
         with what was committed last",
        data_dir.display()
    )))
}

/// Whether the vault has every whole record of the log that lies here, or keeps no log at all.
fn has_all_records(site: &ServiceSite, data_dir: &Path) -> Result<bool, Error> {
    let log = own_log(site)?;
    let whole: BTreeSet<String> = log.list()?.into_iter().map(|(name, _)| name).collect();
    if whole.is_empty() && log.list_parts()?.is_empty() && log.places()?.is_empty() {
        return Ok(true);
    }
    let Some(segments) = segments_of(data_dir) else { return Ok(false) };
    let wal = data_dir.join("pg_wal");
    let entries = std::fs::read_dir(&wal).map_err(|e| Error::io("list", &wal, e))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", &wal, e))?;
        if let Some(name) = entry.file_name().to_str()
            && let Some(WalFile::Segment { timeline, place }) = WalFile::parse(name)
            && let Some(start) = segments.start_of(place)
        {
            found.push((timeline, start.0, name.to_owned()));
        }
    }
    found.sort();
    let mut any = false;
    // They are stored in order: before one that the vault has as a whole, it has all.
    for (_, start, name) in found.iter().rev() {
        if whole.contains(name) {
            return Ok(true);
        }
        let path = wal.join(name);
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read the log", &path, e))?;
        // One that waits to be used again is of another place.
        let Some(mut records) = Records::new(&bytes, Lsn(*start)) else { continue };
        records.by_ref().for_each(drop);
        let end = records.end().0.saturating_sub(*start);
        let begun = log.beginning(name)?.map_or(0, |begun| begun.bytes.len());
        if (begun as u64) < end {
            return Ok(false);
        }
        any = true;
    }
    Ok(any)
}

/// Stores what a stopped server has of its log beyond what the vault has, up to its last segment. Of
/// that one the vault gets a part: a server that is started again goes on writing to it.
///
/// Says no if the vault has nothing of this timeline to go on from, or something of it is gone.
fn push_rest(
    site: &ServiceSite,
    data_dir: &Path,
    segments: Segments,
    timeline: u32,
    last: u64,
) -> Result<bool, Error> {
    let log = own_log(site)?;
    let on_timeline = |name: &String| match WalFile::parse(name) {
        Some(WalFile::Segment { timeline: on, place }) if on == timeline => {
            Some(segments.number(segments.start_of(place)?))
        }
        _ => None,
    };
    let whole: BTreeSet<u64> =
        log.list()?.iter().filter_map(|(name, _)| on_timeline(name)).collect();
    if whole.contains(&last) {
        return Ok(true);
    }
    let parts: BTreeSet<u64> =
        log.list_parts()?.iter().filter_map(|(name, _)| on_timeline(name)).collect();
    let Some(known) = whole.last().max(parts.last()) else { return Ok(false) };
    for number in *known..=last {
        let name = segments.name(timeline, number);
        let path = data_dir.join("pg_wal").join(&name);
        if whole.contains(&number) {
            continue;
        }
        if number < last {
            match push(site, &path) {
                Ok(_) => continue,
                Err(e) if !path.exists() => {
                    return if e.class() == Class::Failed { Ok(false) } else { Err(e) };
                }
                Err(e) => return Err(e),
            }
        }
        let generation = allowed(site)?;
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read the log", &path, e))?;
        let Some(mut records) = Records::new(&bytes, segments.start(number)) else {
            return Ok(false);
        };
        records.by_ref().for_each(drop);
        let end = records.end().0.saturating_sub(segments.start(number).0);
        let end = usize::try_from(end).unwrap_or(0).min(bytes.len());
        let begun = log.beginning(&name)?.map_or(0, |begun| begun.bytes.len());
        if let Some(rest) = bytes.get(begun..end).filter(|rest| !rest.is_empty()) {
            log.push_part(generation, &name, begun as u64, segments.size(), rest)?;
        }
    }
    Ok(true)
}

fn data_dir(site: &ServiceSite) -> Result<Option<PathBuf>, Error> {
    Ok(site.engine()?.roots().first().map(|root| root.on_host.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Rig;
    use std::fs;
    use storage::doubles::{Fault, How, Verb};

    const CLUSTER: Option<ClusterId> = Some(ClusterId(7));
    const GONE: How = How::Before(ErrorKind::NotFound);

    /// A standby asks for the segment that it is in every few seconds, while the primary puts parts
    /// together and removes them. An error would end the standby's server.
    #[test]
    fn parts_that_give_way_while_they_are_looked_at_are_no_failure() {
        let rig = Rig::new();
        let log = log_of(&rig.site, CLUSTER).expect("a log");
        let name = "000000010000000000000003";
        let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0] | 1).collect();
        let push = |start: usize, end: usize| {
            let part = &bytes[start..end];
            log.push_part(Generation::FIRST, name, start as u64, 1 << 20, part).expect("push");
        };
        push(0, 40);
        push(40, 100);
        let target = rig.dir.path().join("RECOVERYXLOG");
        let before = rig.dir.path().join(name);
        fs::write(&before, vec![0; 1 << 20]).expect("what it got before");
        let parts = format!("shop/mainstay/log-parts/7/{name}/");
        for verb in [Verb::Size, Verb::Read] {
            rig.vault.plan(Fault::next(verb, GONE).on(&parts));
            assert_eq!(
                fetch(&rig.site, CLUSTER, name, &target).expect("fetch"),
                Fetched::Found,
                "{verb:?}"
            );
            let got = fs::read(&target).expect("read");
            assert_eq!((got.len(), &got[..100], got[100]), (1 << 20, &bytes[..100], 0));
        }

        // The two were put together, and are about to go.
        push(0, 100);
        fs::rename(&target, &before).expect("the server takes it");
        rig.vault.plan(Fault::every(Verb::Size, GONE).on(&format!("{parts}00000028-")));
        assert_eq!(fetch(&rig.site, CLUSTER, name, &target).expect("fetch"), Fetched::NotThere);

        // It became whole right after it was asked for, and all parts went.
        log.push(Generation::FIRST, name, &bytes).expect("push");
        rig.vault.heal();
        rig.vault.plan(Fault::next(Verb::List, How::Wrong).on("shop/mainstay/log/7/"));
        rig.vault.plan(Fault::every(Verb::Size, GONE).on(&parts));
        assert_eq!(fetch(&rig.site, CLUSTER, name, &target).expect("fetch"), Fetched::Found);
        assert!(fs::read(&target).expect("read") == bytes);
    }

    #[test]
    fn what_an_old_primary_wrote_after_the_branch_does_not_count() {
        let found = [(1, 10), (1, 20), (1, 30), (1, 40), (2, 30), (3, 40), (2, 50), (3, 50)];
        let starts: Vec<u64> = of_history(found.into_iter()).into_iter().collect();
        assert_eq!(starts, [10, 20, 30, 40, 50]);
        let starts: Vec<u64> =
            of_history([(1, 10), (1, 20), (1, 30), (2, 20)].into_iter()).into_iter().collect();
        assert_eq!(starts, [10, 20], "the 30 of timeline 1 was left");
        assert!(of_history(std::iter::empty()).is_empty());
    }
    /// A drill's request for the log writes where the server's user may have put something.
    #[test]
    fn a_segment_is_not_written_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (canary, target) = (dir.path().join("canary"), dir.path().join("segment"));
        std::fs::write(&canary, "alive").expect("a canary");
        std::os::unix::fs::symlink(&canary, dir.path().join("segment.mainstay")).expect("a link");
        put(&target, b"bytes").expect("written");
        assert_eq!(std::fs::read(&canary).expect("read"), b"alive");
        assert_eq!(std::fs::read(&target).expect("read"), b"bytes");
        assert!(!target.symlink_metadata().expect("look").is_symlink());
    }
}
