//! A base of a server that is stopped: its files as they lie, if it was stopped cleanly.

use super::capture::{self, Span};
use super::detail::Detail;
use super::layout::Layout;
use super::lsn::Lsn;
use super::pg_control::{PgControl, State};
use super::{Postgres, inspect, programs, server};
use crate::{CaptureSink, Captured, Context, Error};
use jiff::Timestamp;
use model::{Class, Position};

/// Captures the stopped server; `unreachable` is why it could not be asked.
pub(super) fn capture(
    engine: &Postgres,
    cx: &Context<'_>,
    unreachable: Error,
    sink: &mut dyn CaptureSink,
) -> Result<Captured, Error> {
    let data_dir = &engine.data_dir;
    let shown = data_dir.display();
    if server::postmaster(data_dir)?.is_some() {
        return Err(unreachable);
    }
    let control = PgControl::read(data_dir)?;
    match control.state {
        State::ShutDown => {}
        State::ShutDownInRecovery => {
            return Err(Error::new(Class::Refused, format!("{shown} is a stopped standby"))
                .hinting("Back up the primary."));
        }
        State::InProduction | State::InArchiveRecovery | State::Other(_) => {
            return Err(unreachable.hinting(format!(
                "Start the server. It was not stopped cleanly, so the files in {shown} alone are \
                 no backup."
            )));
        }
    }
    cx.progress.note("the server is stopped: its files are captured as they lie");
    let source_time = Timestamp::now();
    let major = programs::data_version(data_dir)?;
    let segments = inspect::segments_of(data_dir).ok_or_else(|| {
        Error::new(Class::Corrupt, format!("{shown}/pg_wal holds no segment of the log"))
    })?;
    cx.progress.phase("reading");
    let tablespaces = capture::read_files(cx, engine, &Layout::all_inside(), major, sink)?;
    cx.progress.phase("reading the log");
    let span = Span {
        start: control.redo,
        stop: Lsn(control.checkpoint.0.saturating_add(1)),
        timeline: control.timeline,
        segments,
        switched: false,
    };
    capture::read_log(cx, data_dir, control.system, &span, sink)?;
    // Nothing of what was read was in use, or the server would have left its traces.
    if server::postmaster(data_dir)?.is_some() || PgControl::read(data_dir)? != control {
        return Err(Error::failed("the server was started while it was captured as stopped")
            .hinting("Run the backup again."));
    }
    let position = inspect::stopped_at(data_dir, &control);
    let lsn = match &position {
        Some(Position::Lsn { lsn, .. }) => Lsn(*lsn),
        _ => control.checkpoint,
    };
    Ok(Captured {
        source_time,
        position,
        engine_version: Some(major.to_string()),
        detail: Detail {
            system_identifier: control.system.to_string(),
            timeline: control.timeline,
            start: control.redo.to_string(),
            stop: lsn.to_string(),
            consistent_at: source_time,
            segment_size: segments.size(),
            superuser: None,
            tablespaces,
            in_place_tablespaces: false,
            archive_mode: None,
            listen_addresses: None,
            shared_preload_libraries: None,
        }
        .to_json()?,
    })
}
