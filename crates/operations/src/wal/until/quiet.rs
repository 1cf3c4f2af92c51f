//! A server that hands its segments over by `archive_command`, and to which nobody writes, hands over
//! nothing: without a receiver only the server itself can say that nothing is missing.

use super::{Note, OFTENEST, Proved};
use crate::wal::{allowed_in, data_dir, gap, is_running, note_stored, stored_until};
use crate::{Error, ServiceSite};
use engines::postgres::{Log, Lsn, Records, What};
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
    let Some((timeline, led)) = note.led.filter(|_| !is_running(site)) else { return Ok(()) };
    let state = site.load_state()?.state;
    let primary = state.members.get(site.member()).is_some_and(|me| me.role == Role::Primary);
    if !primary || gap::open(site, &state)?.is_some() {
        return Ok(());
    }
    let generation = allowed_in(site, &state)?;
    let asked = Timestamp::now();
    let log = server.source().look()?;
    if log.in_recovery || log.timeline != timeline {
        return Ok(());
    }
    let Some(data_dir) = data_dir(site)? else { return Ok(()) };
    let stored = stored_until(site).filter(|stored| *stored <= asked);
    let until = if nothing_since(&data_dir, &log, Lsn(led)) { Some(asked) } else { stored };
    let Some(until) = until else { return Ok(()) };
    if stored.is_none_or(|stored| stored < until) {
        note_stored(site, until);
    }
    let newer = note.said.back().is_none_or(|said| said.until < until || said.until > asked);
    if !newer || !note.is_over(OFTENEST, asked) {
        return Ok(());
    }
    let (end, segments) = (Lsn(led), log.segments);
    note.put(site, generation, Proved { until, timeline, end, segments })
}

/// Whether there is nothing of a transaction behind a segment that ends here. The server itself writes
/// there, now and then.
fn nothing_since(data_dir: &Path, log: &Log, led: Lsn) -> bool {
    if log.flushed <= led {
        // A server that has less than it handed over is another one.
        return log.flushed == led;
    }
    let number = log.segments.number(led);
    let begins = log.segments.start(number) == led;
    if !begins || log.segments.number(Lsn(log.flushed.0 - 1)) != number {
        return false;
    }
    let path = data_dir.join("pg_wal").join(log.segments.name(log.timeline, number));
    let mut bytes = Vec::new();
    // What lies behind that is of an earlier use of the file.
    let read = File::open(path).and_then(|f| f.take(log.flushed.0 - led.0).read_to_end(&mut bytes));
    read.is_ok() && is_upkeep(&bytes, led)
}

/// Whether these first bytes of a segment are whole records, and of no transaction.
fn is_upkeep(bytes: &[u8], start: Lsn) -> bool {
    let Some(mut records) = Records::new(bytes, start) else { return false };
    // One that began in the segment before is not whole there.
    if records.end() != start || !records.by_ref().all(|record| record.what == What::Upkeep) {
        return false;
    }
    let end = records.end().0.checked_next_multiple_of(8);
    end.is_some_and(|end| end >= start.0.saturating_add(bytes.len() as u64))
}
