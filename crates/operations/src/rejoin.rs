//! Rejoin: a member that was taken over becomes a standby. Its old data is put aside; where its engine
//! takes it back to where the new primary began, what only it had is gone, and the rest is kept.

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::recover::Left;
use crate::{AppliedHere, Error, MemberRecord, ServiceSite, placing, refresh};
use engines::Running;
use jiff::Timestamp;
use model::{Generation, OperationId, Progress, Role, ServiceState};
use serde::Serialize;
use std::path::PathBuf;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation.
    pub operation: OperationId,
    /// The generation that it follows now.
    pub generation: Generation,
    /// Where its old data is.
    pub put_aside: Vec<PathBuf>,
    /// The old copy was taken back to where the new primary began, and kept.
    pub rewound: bool,
    /// What it holds now.
    pub refreshed: refresh::Done,
}

/// What is asked for.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Put the old copy aside and build a new one, whatever could be kept of it.
    pub reseed: bool,
}

/// Makes this host's broken member a standby of the primary that took over.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    let mut operation = Operation::begin(site, Kind::Rejoin, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Rejoin, result, |done| {
        (Outcome::Done, format!("a standby at {}", done.refreshed.to.short()))
    })
}

fn perform(site: &ServiceSite, operation: &mut Operation, params: &Params) -> Result<Done, Error> {
    let state = site.load_state()?.state;
    let role = state.members.get(site.member()).map(|member| member.role);
    match role {
        Some(Role::Broken | Role::Standby) => {}
        Some(Role::Primary) => {
            return Err(Error::refused(format!(
                "{} is the primary of {}",
                site.member(),
                site.name()
            )));
        }
        None => {
            return Err(Error::invalid(format!(
                "{} is not a member of {}",
                site.member(),
                site.name()
            ))
            .hinting("Run `mainstay init` on this host first."));
        }
    }
    if state.head.is_none_or(|head| head.generation < state.generation) {
        return Err(Error::refused(format!(
            "the new primary has not made a backup at generation {} yet",
            state.generation
        ))
        .hinting("Run `mainstay backup` on it first; the standby is built from that."));
    }
    let record = MemberRecord::load(site)?;
    // An earlier one has put the new copy in place, maybe its last deed. To begin anew would put that aside,
    // beside the old one, and fetch it once more.
    let goes_on = role == Some(Role::Standby)
        && record.rejoined == Some(state.generation)
        && record.applied.is_some()
        && record.unloaded.is_none()
        && !params.reseed;
    let rewound = match goes_on {
        true => false,
        false => begin_anew(site, operation, params, &state)?,
    };
    let params = refresh::Params { reseed: !rewound && !goes_on, ..refresh::Params::default() };
    let refreshed = refresh::perform(site, operation, &params)?;
    if let Some(hook) = &refreshed.hook_failed {
        operation.report().warn(&hook.message);
    }
    MemberRecord::change(site, |record| record.rewinding = false)?;
    Ok(Done {
        rewound,
        operation: operation.id().clone(),
        generation: state.generation,
        put_aside: refreshed.put_aside.clone(),
        refreshed,
    })
}

/// The member is a standby, and what it has of its own is given up. Says whether its copy was kept.
fn begin_anew(
    site: &ServiceSite,
    operation: &mut Operation,
    params: &Params,
    state: &ServiceState,
) -> Result<bool, Error> {
    let engine = site.engine()?;
    engine.equipped()?;
    if operation.with_context(site, |cx| engine.running(cx))? == Running::Yes {
        if !engine.abilities().start_stop {
            return Err(Error::refused(format!("{} still runs on this host", site.name()))
                .hinting("Stop it first."));
        }
        operation
            .step("stop", (), |operation| operation.with_context(site, |cx| engine.stop(cx)))?;
    }
    operation.step("join", (), |_| {
        if state.members.get(site.member()).is_some_and(|member| member.role == Role::Broken) {
            site.state()?.update(|state| state.rejoin(site.member(), Timestamp::now()))?;
        }
        MemberRecord::change(site, |record| {
            record.applied = None;
            record.offline = None;
            record.rejoined = Some(state.generation);
        })?;
        Ok(())
    })?;
    Ok(!params.reseed && rewind(site, operation)?)
}

/// Lets the engine keep what there is, if it can. Its copy then follows from the head on.
fn rewind(site: &ServiceSite, operation: &mut Operation) -> Result<bool, Error> {
    let engine = site.engine()?;
    let state = site.load_state()?.state;
    let Some(head) = state.head_point() else { return Ok(false) };
    if MemberRecord::load(site)?.rewinding {
        operation.report().note("the copy is built anew: an earlier rewind of it was cut off");
        return Ok(false);
    }
    let meta = placing::meta(site, head.snapshot)?;
    MemberRecord::change(site, |record| record.rewinding = true)?;
    let rewound = operation.step("rewind", (), |operation| {
        operation.with_context(site, |cx| engine.rewind(cx, &meta))
    })?;
    if !rewound {
        return Ok(false);
    }
    MemberRecord::change(site, |record| {
        record.rewinding = false;
        record.applied = Some(AppliedHere {
            snapshot: head.snapshot,
            source_time: head.source_time,
            roots: 0,
            log: Vec::new(),
            replayed: false,
        });
    })?;
    Ok(true)
}

/// A member that has joined stays a standby with nothing on it; its refresh is taken back, or brought to
/// its end.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    refresh::undo(left)?;
    if let Some(place) = left.begun("place") {
        for old in placing::put_aside(place)?.iter().filter(|old| old.exists()) {
            left.found(format!("its old copy is at {}", old.display()));
        }
    }
    Ok(())
}
