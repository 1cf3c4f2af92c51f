//! Takes this host's member out of service, and back into it.
//!
//! A primary that goes offline stops, captures one last point, and says so in the vault: that is
//! what a planned takeover waits for, and why it loses nothing.

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::recover::Left;
use crate::{Error, MemberRecord, ServiceSite, backup};
use engines::{Refresh, Running};
use jiff::Timestamp;
use model::state::Stopped;
use model::{Class, OperationId, Progress, Role, SnapshotId};
use serde::Serialize;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation.
    pub operation: OperationId,
    /// The member's role.
    pub role: Role,
    /// The last point, captured after the stop.
    pub last_point: Option<SnapshotId>,
    /// The service runs now.
    pub running: bool,
    /// Nobody said how to stop it: whoever writes to it still can.
    pub unguarded: bool,
}

fn role(site: &ServiceSite) -> Result<Role, Error> {
    let state = site.load_state()?.state;
    state.members.get(site.member()).map(|member| member.role).ok_or_else(|| {
        Error::invalid(format!("{} is not a member of {} yet", site.member(), site.name()))
            .hinting("Run `mainstay init` on this host first.")
    })
}

/// Takes the member out of service.
pub fn run(site: &ServiceSite, run: &Run) -> Result<Done, Error> {
    let mut operation = Operation::begin(site, Kind::Offline, &(), run)?;
    let result = go_offline(site, &mut operation);
    operation.end(site, Kind::Offline, result, |_| (Outcome::Done, "offline".to_owned()))
}

fn go_offline(site: &ServiceSite, operation: &mut Operation) -> Result<Done, Error> {
    let role = role(site)?;
    let engine = site.engine()?;
    let can_stop = engine.abilities().start_stop;
    if !can_stop && operation.with_context(site, |cx| engine.running(cx))? == Running::Yes {
        return Err(Error::invalid(format!("nobody said how to stop {}", site.name())).hinting(
            "Set `unit`, or `start` and `stop`, in its section; or stop it by hand first.",
        ));
    }
    if role == Role::Primary && !can_stop && engine.name() != "files" {
        // Without a way to stop it there is no way to know that it is stopped.
        let seen = operation.with_context(site, |cx| engine.running(cx))?;
        if seen == Running::Unknown {
            return Err(Error::invalid(format!("nobody can tell whether {} runs", site.name()))
                .hinting("Set `unit`, or `start`, `stop` and `status`, in its section."));
        }
    }
    operation.step("close", (), |_| {
        // The gate closes first: whatever restarts services must not undo the stop.
        MemberRecord::change(site, |record| {
            record.offline.get_or_insert_with(Timestamp::now);
        })?;
        Ok(())
    })?;
    if can_stop {
        operation.step("stop", (), |operation| {
            operation.report().phase("stopping the service");
            operation.with_context(site, |cx| engine.stop(cx))
        })?;
    }
    let mut last_point = None;
    if role == Role::Primary {
        let mut last_position = None;
        if engine.refresh() == Refresh::Follow {
            // Stopping it archived the rest of its log; the vault must have that before the word
            // is given that nothing is missing.
            last_position = crate::wal::last_position(site, operation)?;
        }
        if last_position.is_none() {
            let last = backup::perform_stopped(site, operation)?;
            if let Some(trouble) = last.problems.first() {
                return Err(not_handed_over(site, &last, trouble));
            }
            last_point = Some(last.point.snapshot);
        }
        operation.step("say", (), |_| {
            let (versioned, ()) = site.state()?.update(|state| {
                let stopped = Stopped {
                    generation: state.generation,
                    at: Timestamp::now(),
                    last_point,
                    last_position: last_position.clone(),
                    unguarded: !can_stop,
                };
                state.stopped(site.member(), Some(stopped))
            })?;
            site.remember(&versioned)?;
            Ok(())
        })?;
    }
    Ok(Done {
        operation: operation.id().clone(),
        role,
        last_point,
        running: false,
        unguarded: !can_stop,
    })
}

/// A point that lacks something is no last point: whoever counted on it would lose what it lacks.
fn not_handed_over(
    site: &ServiceSite,
    last: &backup::BackedUp,
    trouble: &backup::Trouble,
) -> Error {
    Error::new(
        Class::Failed,
        format!(
            "{} is stopped, but has not handed over: {} is incomplete ({}: {})",
            site.name(),
            last.name,
            trouble.path,
            trouble.what
        ),
    )
    .hinting("Correct what cannot be read and run this again, or go back with `mainstay online`.")
}

/// Brings the member back into service.
pub fn online(site: &ServiceSite, run: &Run) -> Result<Done, Error> {
    let mut operation = Operation::begin(site, Kind::Online, &(), run)?;
    let result = go_online(site, &mut operation);
    operation.end(site, Kind::Online, result, |_| (Outcome::Done, "online".to_owned()))
}

fn go_online(site: &ServiceSite, operation: &mut Operation) -> Result<Done, Error> {
    let role = role(site)?;
    let engine = site.engine()?;
    match role {
        Role::Broken => {
            return Err(Error::refused(format!(
                "{} was taken over and must not serve",
                site.member()
            ))
            .hinting("Make it a standby with `mainstay rejoin`."));
        }
        Role::Primary => {
            // The vault is told before the service starts: a takeover that counts on the stop
            // wins, and this fails.
            operation.step("say", (), |_| {
                site.state()?.update(|state| state.stopped(site.member(), None))?;
                Ok(())
            })?;
        }
        Role::Standby => {}
    }
    operation.step("open", (), |_| {
        MemberRecord::change(site, |record| record.offline = None)?;
        Ok(())
    })?;
    let runs_here = role == Role::Primary || engine.refresh() == Refresh::Follow;
    let running = runs_here && engine.abilities().start_stop;
    if running {
        operation.step("start", (), |operation| {
            operation.report().phase("starting the service");
            operation.with_context(site, |cx| engine.start(cx))
        })?;
    }
    Ok(Done {
        operation: operation.id().clone(),
        role,
        last_point: None,
        running,
        unguarded: false,
    })
}

/// Both can be run again and again; what a dead one left is the safe side (closed), and the backup
/// inside it is taken back like any other.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    backup::undo(left)
}
