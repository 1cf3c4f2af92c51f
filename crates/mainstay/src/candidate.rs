//! What this host, as the candidate of a takeover, sees of itself.

use crate::app::App;
use crate::failure::Failure;
use engines::Refresh;
use model::Class;
use operations::preempt::InTheWay;
use operations::{MemberRecord, ServiceSite, look, refresh, wal};
use takeover::{CopyState, Observation, Running, Sighting};

/// Looks at the copy on this host. Nothing is changed by it. What is in the way is stopped before a
/// takeover begins.
pub(crate) fn observe(
    app: &App,
    service: &ServiceSite,
    in_the_way: Option<&InTheWay>,
) -> Result<Observation, Failure> {
    let record = MemberRecord::load(service)?;
    let engine = service.engine()?;
    let seen = look(service, &app.run(), |cx| engine.inspect(cx))?;
    let state = service.load_state()?.state;
    let replayed = wal::Until::look(service, &state)?.held(&seen)?;
    let copy = match engine.refresh() {
        Refresh::Follow => CopyState::NotComparable,
        // It is between two points, maybe, and is looked at again when that is over.
        _ if in_the_way.is_some() => CopyState::NotComparable,
        Refresh::Exchange | Refresh::Import => compared(service)?,
    };
    Ok(Observation {
        member: service.member().clone(),
        has_data: seen.has_data,
        running: match seen.running {
            engines::Running::Yes => Running::Yes,
            engines::Running::No => Running::No,
            engines::Running::Unknown => Running::Unknown,
        },
        following: seen.following,
        position: seen.position,
        replayed,
        log_until: wal::reaches(service, &state)?,
        importing: record.applying.is_some() || record.overwriting.is_some(),
        gives_way: in_the_way.map(InTheWay::name),
        copy,
        fence_hook: service.spec().hooks.fence.clone(),
        // Nobody here asks the old primary: that it does not answer would prove nothing.
        primary: Sighting::Unknown,
    })
}

/// Whether the copy is what the last refresh left. One that cannot be compared may have been
/// written to, and says why it could not be.
fn compared(service: &ServiceSite) -> Result<CopyState, Failure> {
    match refresh::modified(service) {
        Ok(examples) if examples.is_empty() => Ok(CopyState::Untouched),
        Ok(examples) => Ok(CopyState::Modified { examples }),
        Err(error) => {
            let failure = Failure::from(error);
            match failure.class() {
                Class::Cancelled => Err(failure),
                _ => Ok(CopyState::Modified { examples: vec![failure.one_line()] }),
            }
        }
    }
}
