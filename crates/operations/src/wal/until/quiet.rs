//! A server that hands its segments over by `archive_command`, and to which nobody writes, hands over
//! nothing: without a receiver only the server itself can say that nothing is missing.

use super::{Led, Note, OFTENEST, Proved};
use crate::cluster::log_of;
use crate::wal::{allowed_in, data_dir, gap, is_running, note_stored, stored_until, waiting};
use crate::{Error, ServiceSite};
use engines::postgres::{Log, Lsn, Records, What, cluster_of};
use jiff::Timestamp;
use model::Role;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Asks the server whether it has committed anything since the last segment that it handed over, and says
/// up to when everything is in the vault. Says, too, what was proved by that segment when it was too early
/// to say it.
pub fn note_quiet(site: &ServiceSite) -> Result<(), Error> {
    let Some(server) = site.log_server()? else { return Ok(()) };
    let mut note = Note::load(site);
    // Whoever receives the log knows more, and says it.
    let Some(led) = Led::load(site).filter(|_| !is_running(site)) else { return Ok(()) };
    let state = site.load_state()?.state;
    let primary = state.members.get(site.member()).is_some_and(|me| me.role == Role::Primary);
    if !primary || gap::open(site, &state)?.is_some() {
        return Ok(());
    }
    let generation = allowed_in(site, &state)?;
    let asked = Timestamp::now();
    let log = server.source().look()?;
    if log.in_recovery || (log.cluster, log.timeline) != (led.cluster, led.timeline) {
        return Ok(());
    }
    let Some(led) = led.on_from_newest(&mut note, site, &state, log.segments)? else {
        return Ok(());
    };
    let Some(data_dir) = data_dir(site)? else { return Ok(()) };
    let quiet = nothing_since(&data_dir, &log, &led);
    let until = if quiet { asked } else { led.until };
    if quiet && stored_until(site).is_none_or(|stored| stored < until || stored > asked) {
        note_stored(site, until);
    }
    let newer = note.said.back().is_none_or(|said| said.until < until || said.until > asked);
    if !newer || !note.is_over(OFTENEST, asked) {
        return Ok(());
    }
    let (timeline, end) = (led.timeline, Lsn(led.end));
    let (cluster, segments) = (led.cluster, log.segments);
    let proved = Proved { cluster, until, timeline, end, segments };
    note.put(site, &log_of(site, Some(cluster))?, generation, proved)
}

/// Whether this server has handed over all segments that it has filled, and there is nothing of a
/// transaction behind the last of them. The server itself writes there, now and then.
fn nothing_since(data_dir: &Path, log: &Log, led: &Led) -> bool {
    let end = Lsn(led.end);
    // A server that has less than it handed over is another one, or went back.
    let waiting = waiting(&data_dir.join("pg_wal/archive_status"));
    let has_all = waiting.is_ok_and(|waiting| waiting.is_empty());
    let is_of_this = cluster_of(data_dir).is_ok_and(|here| here == Some(led.cluster));
    if log.flushed < end || !is_of_this || !has_all {
        return false;
    }
    if log.flushed == end {
        return true;
    }
    let number = log.segments.number(end);
    let begins = log.segments.start(number) == end;
    if !begins || log.segments.number(Lsn(log.flushed.0 - 1)) != number {
        return false;
    }
    let path = data_dir.join("pg_wal").join(log.segments.name(log.timeline, number));
    let mut bytes = Vec::new();
    // What lies behind that is of an earlier use of the file.
    let read = File::open(path).and_then(|f| f.take(log.flushed.0 - end.0).read_to_end(&mut bytes));
    read.is_ok() && is_upkeep(&bytes, end)
}

/// Whether these first bytes of a segment are whole records, and of no transaction.
fn is_upkeep(bytes: &[u8], start: Lsn) -> bool {
    let Some(mut records) = Records::new(bytes, start) else { return false };
    // One that began in the segment before is not whole there.
    let is_upkeep = |what: &What| matches!(what, What::Upkeep { .. });
    if records.end() != start || !records.by_ref().all(|record| is_upkeep(&record.what)) {
        return false;
    }
    let end = records.end().0.checked_next_multiple_of(8);
    end.is_some_and(|end| end >= start.0.saturating_add(bytes.len() as u64))
}
