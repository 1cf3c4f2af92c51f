//! What a standby has received from its primary, and the vault has not. Once the primary is gone nobody
//! else has that, and no server archives what it has streamed: whoever takes over ships it, up to the
//! place where its own timeline begins. What is not to be had any more is a gap.

use super::{data_dir, gap, is_running, push};
use crate::cluster::own_log;
use crate::{Error, ServiceSite};
use engines::postgres::{Lsn, Segments, WalFile, ancestors, segments_of};
use model::{Position, Progress};
use std::path::Path;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandedOver {
    /// Segments that the vault has now.
    pub(crate) segments: u64,
    /// What it lacks, in one sentence.
    pub(crate) gap: Option<String>,
}

/// Does this while the server throws nothing of its log away: it does as soon as it is promoted. Whoever
/// waits here to receive the log when this host is the primary finds all of it, however late he looks. A
/// server that keeps nothing for us is told, and stops nobody.
pub(crate) fn while_kept<T>(
    site: &ServiceSite,
    progress: &dyn Progress,
    work: impl FnOnce() -> T,
) -> T {
    let server = site.log_server().ok().flatten();
    let mut source = server.as_ref().map(engines::postgres::Postgres::source);
    if let Some(Err(error)) = source.as_mut().map(engines::postgres::Source::keep) {
        progress
            .note(&format!("the server keeps what it has of its log as long as it likes: {error}"));
    }
    if is_running(site)
        && let Some(Err(error)) = source.as_mut().map(engines::postgres::Source::have_slot)
    {
        progress.note(&format!("the server keeps nothing of its log for `wal receive`: {error}"));
    }
    work()
}

/// Ships that of a server that was promoted, and whose timeline began here. Can be repeated. None if there
/// is nothing to do.
pub(crate) fn hand_over(
    site: &ServiceSite,
    began: Option<&Position>,
) -> Result<Option<HandedOver>, Error> {
    let (Some(Position::Lsn { timeline, .. }), Some(data_dir)) = (began, data_dir(site)?) else {
        return Ok(None);
    };
    let wal = data_dir.join("pg_wal");
    let path = wal.join(format!("{timeline:08X}.history"));
    let history = match std::fs::read(&path) {
        Ok(history) => history,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read the history of the timeline", &path, e)),
    };
    let (way, Some(segments)) = (ancestors(&history), segments_of(&data_dir)) else {
        return Ok(None);
    };
    let log = own_log(site)?;
    let whole = log.list()?.into_iter().map(|(name, _)| name);
    let stored = end_on(&way, segments, whole).map(|last| last.saturating_add(1));
    let begun = log.list_parts()?.into_iter().map(|(name, _)| name);
    // Without any of it, nobody keeps a log.
    let Some(from) = stored.max(end_on(&way, segments, begun)) else { return Ok(None) };
    let missing = ship(site, &wal, segments, &way, from)?;
    let (Some(done), Some((_, end))) = (missing, way.last()) else { return Ok(None) };
    let Some(lacks) = done.lacks else {
        return Ok(Some(HandedOver { segments: done.segments, gap: None }));
    };
    let to =
        segments.start(lacks.last.saturating_add(1)).min(segments.start(segments.number(*end)));
    gap::note(site, log.cluster(), lacks.timeline, segments.start(lacks.first), &lacks.why)?;
    gap::ends(site, log.cluster(), to)?;
    // Whoever ships the log goes on trying that.
    let told = match gap::record(site, &log, segments) {
        Ok(()) => String::new(),
        Err(e) => format!("; {}", e.chain()),
    };
    let gap = gap::load(site)?.map(|gap| format!("{}{told}", gap.told()));
    Ok(Some(HandedOver { segments: done.segments, gap }))
}

/// What was shipped.
struct Shipped {
    segments: u64,
    lacks: Option<Lacks>,
}

/// Segments that are not to be had.
struct Lacks {
    timeline: u32,
    first: u64,
    last: u64,
    why: String,
}

/// Ships all segments from this one on that lie before the last one on the way. The one in which the new
/// timeline began is shipped as its first.
fn ship(
    site: &ServiceSite,
    wal: &Path,
    segments: Segments,
    way: &[(u32, Lsn)],
    from: u64,
) -> Result<Option<Shipped>, Error> {
    let Some((_, end)) = way.last() else { return Ok(None) };
    let end = segments.number(*end);
    if from >= end {
        return Ok(None);
    }
    let mut done = Shipped { segments: 0, lacks: None };
    for number in from..end {
        let timeline = timeline_of(way, segments, number);
        let path = wal.join(segments.name(timeline, number));
        let error = match push(site, &path) {
            Ok(_) => {
                done.segments += 1;
                continue;
            }
            Err(error) => error,
        };
        // A vault that does not answer is not asked again for each: what it lacks then is a gap, too.
        let last = if path.exists() { end.saturating_sub(1) } else { number };
        let why = "the primary is gone that had it, and the one that took over has not shipped it";
        let lacks = done.lacks.get_or_insert_with(|| Lacks {
            timeline,
            first: number,
            last,
            why: format!("{why}: {}", error.chain()),
        });
        lacks.last = last;
        if last > number {
            break;
        }
    }
    Ok(Some(done))
}

/// The timeline on which a segment is named that lies on this way.
fn timeline_of(way: &[(u32, Lsn)], segments: Segments, number: u64) -> u32 {
    let mut timeline = way.first().map_or(1, |(timeline, _)| *timeline);
    for ((_, left), (next, _)) in way.iter().zip(way.iter().skip(1)) {
        if segments.number(*left) <= number {
            timeline = *next;
        }
    }
    timeline
}

/// The last segment with one of these names that lies on this way.
fn end_on(
    way: &[(u32, Lsn)],
    segments: Segments,
    names: impl Iterator<Item = String>,
) -> Option<u64> {
    let numbers = names.filter_map(|name| match WalFile::parse(&name) {
        Some(WalFile::Segment { timeline, place }) => {
            let (_, left) = way.iter().find(|(on, _)| *on == timeline)?;
            let start = segments.start_of(place)?;
            let number = segments.number(start);
            (start < *left && timeline_of(way, segments, number) == timeline).then_some(number)
        }
        _ => None,
    });
    numbers.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 16 << 20;

    fn way() -> Vec<(u32, Lsn)> {
        vec![(1, Lsn(5 * SIZE + 100)), (2, Lsn(9 * SIZE + 100))]
    }

    #[test]
    fn a_segment_is_named_by_the_timeline_that_ends_it() {
        let segments = Segments::of(SIZE).expect("a size");
        let on = |number| timeline_of(&way(), segments, number);
        assert_eq!((on(0), on(4), on(5), on(8)), (1, 1, 2, 2));
    }

    #[test]
    fn what_lies_on_no_way_to_here_does_not_count() {
        let segments = Segments::of(SIZE).expect("a size");
        let end = |found: &[(u32, u64)]| {
            let names = found.iter().map(|(timeline, number)| segments.name(*timeline, *number));
            end_on(&way(), segments, names)
        };
        assert_eq!(end(&[(1, 3), (1, 4), (1, 5)]), Some(4), "timeline 2 goes on in the midst of 5");
        assert_eq!(end(&[(1, 3), (1, 7), (2, 6)]), Some(6), "an old primary went on on timeline 1");
        assert_eq!(end(&[(3, 9), (3, 12), (4, 1), (1, 6)]), None, "its own is no ancestor's");
    }
}
