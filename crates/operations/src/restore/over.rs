//! Restore over what stands there: only what differs is written, and what the point does not have is
//! removed. It needs no room for a second copy, and works on a mount point; in exchange there is no
//! way back.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `overwrite` | the start gate is closed, the engine refuses the copy; then: every byte is the point's | nothing: given again, the restore completes it |
//! | `prepare`, `aim` | the engine has made it what it is for | likewise |
//! | `complete` | the copy may be taken for whole, the record is written | (only forward) |
//! | `start` | the service runs | |

use super::Plan;
use crate::operation::Operation;
use crate::placing::{self, Placing};
use crate::recover::Left;
use crate::{Error, MemberRecord, ServiceSite, wal};
use engines::{Overwriting, Purpose, Running, Staged};
use model::{Class, Classify, Progress};
use repository::restore::{Over, Overwritten, Withheld, restore_over};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a restore over a copy did to it.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changed {
    /// Bytes that differed, and came from the vault.
    pub fetched_bytes: u64,
    /// Files and directories that the point does not have.
    pub removed: u64,
}

/// What has to be known to bring one to its end.
#[derive(Debug, Serialize, Deserialize)]
struct Completing {
    copy: placing::Destination,
    placing: Placing,
}

/// Restores over the one root that there is.
pub(super) fn perform(
    site: &ServiceSite,
    operation: &mut Operation,
    plan: &Plan,
    starts: bool,
) -> Result<Overwritten, Error> {
    let engine = site.engine()?;
    let [destination] = plan.destinations.as_slice() else {
        return Err(Error::refused(format!(
            "{} has several roots, and only one is restored over",
            site.name()
        )));
    };
    if plan.own && operation.with_context(site, |cx| engine.running(cx))? == Running::Yes {
        return Err(Error::refused(format!("{} runs on this host", site.name()))
            .hinting("Take it out of service with `mainstay offline` first."));
    }
    let copy = staged(destination);
    operation.with_context(site, |cx| engine.may_overwrite(cx, &plan.meta, &copy))?;
    let there = size_below(&destination.target)?;
    placing::check_space(&destination.target, plan.size_bytes.saturating_sub(there))?;
    keep_log(site, operation, plan)?;
    let done = operation.step("overwrite", destination, |operation| {
        let overwriting = close(site, operation, plan, &copy)?;
        if plan.own && plan.purpose == Purpose::Standby {
            // A takeover must not count on it meanwhile.
            site.state()?.update(|state| state.importing(site.member()))?;
        }
        operation.report().phase("restoring");
        let kept: Vec<&str> = overwriting.kept.iter().map(String::as_str).collect();
        let withheld = overwriting.withheld.as_ref().map(|withheld| Withheld {
            dir: &withheld.dir,
            name: &withheld.name,
            meanwhile: &withheld.meanwhile,
        });
        let done = restore_over(
            site.repository()?,
            plan.snapshot,
            destination.root.in_snapshot.as_bytes(),
            &destination.target,
            Over { kept: &kept, withheld },
            &*operation.report(),
            operation.cancel(),
        )?;
        Ok((done.files, done.bytes, done.fetched_bytes, done.removed))
    })?;
    let (files, bytes, fetched_bytes, removed) = done;
    placing::prepare(site, operation, &plan.meta, &plan.destinations, &plan.purpose)?;
    if let Some(end) = &plan.end {
        placing::aim(site, operation, &plan.destinations, end)?;
    }
    let completing = Completing {
        copy: destination.clone(),
        placing: Placing {
            placements: Vec::new(),
            snapshot: plan.snapshot,
            source_time: plan.meta.source_time,
            position: plan.meta.position.clone(),
            purpose: plan.purpose.clone(),
            own: plan.own,
            log: Vec::new(),
            replayed: false,
            starts,
        },
    };
    operation.forward("complete", &completing, |operation| {
        let calm = operation.calm(site);
        complete(site, &calm.context(), &completing)
    })?;
    Ok(Overwritten { files, bytes, fetched_bytes, removed })
}

/// Closes the gate, and lets the engine close its own. A refusal opens the gate again.
fn close(
    site: &ServiceSite,
    operation: &Operation,
    plan: &Plan,
    copy: &Staged,
) -> Result<Overwriting, Error> {
    let before = MemberRecord::load(site)?.overwriting;
    if plan.own {
        MemberRecord::change(site, |record| record.overwriting = Some(plan.snapshot))?;
    }
    let engine = site.engine()?;
    let begun = operation.with_context(site, |cx| engine.begin_overwriting(cx, &plan.meta, copy));
    if plan.own && begun.as_ref().is_err_and(|e| e.class() == Class::Refused) {
        MemberRecord::change(site, |record| record.overwriting = before)?;
    }
    begun
}

/// What a stopped primary has of its log, and the vault has not, would go with what is overwritten.
fn keep_log(site: &ServiceSite, operation: &Operation, plan: &Plan) -> Result<(), Error> {
    let again = MemberRecord::load(site)?.overwriting.is_some();
    let primary = plan.own && matches!(plan.purpose, Purpose::Primary { .. });
    if !primary || again || site.engine()?.name() != "postgres" {
        return Ok(());
    }
    wal::push_what_is_left(site, operation).map_err(|e| {
        Error::new(
            e.class(),
            "the vault does not take what is there of the log, which would be lost",
        )
        .because(e)
        .hinting(
            "Start the server and stop it cleanly, and give this again; or keep what stands there \
             aside instead: `--replace` in the place of `--delta`.",
        )
    })
}

fn complete(
    site: &ServiceSite,
    cx: &engines::Context<'_>,
    completing: &Completing,
) -> Result<(), Error> {
    end_overwriting(site, cx, completing)?;
    if completing.placing.own { placing::record(site, &completing.placing, true) } else { Ok(()) }
}

fn end_overwriting(
    site: &ServiceSite,
    cx: &engines::Context<'_>,
    completing: &Completing,
) -> Result<(), Error> {
    Ok(site.engine()?.end_overwriting(cx, &staged(&completing.copy))?)
}

fn staged(destination: &placing::Destination) -> Staged {
    Staged {
        root: destination.root.clone(),
        staged: destination.target.clone(),
        target: destination.target.clone(),
    }
}

/// Bytes that files below a directory take, through no link.
fn size_below(dir: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0u64;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let failed = |e| Error::io("list", &dir, e);
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let meta = entry.metadata().map_err(failed)?;
            if meta.is_dir() {
                open.push(entry.path());
            } else {
                bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
            }
        }
    }
    Ok(bytes)
}

/// What one that died, or failed, has left: all that is left to do is done, and what is half restored
/// stays so, behind a closed gate.
pub(super) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    if left.begun("overwrite").is_none() || left.done("complete").is_some() {
        return Ok(());
    }
    if let Some(data) = left.begun("complete") {
        let completing: Completing = serde_json::from_value(data).map_err(|e| {
            Error::new(Class::Corrupt, "the journal's entry `complete` is not valid").because(e)
        })?;
        let site = left.site;
        left.with_context(|cx| {
            end_overwriting(site, cx, &completing).map_err(|e| {
                engines::Error::new(e.class(), "the restore could not be completed").because(e)
            })
        })?;
        if completing.placing.own {
            placing::record_left(left, &completing.placing, true)?;
        }
        return left.finished("complete", "what was restored over was brought to its end");
    }
    if MemberRecord::load(left.site)?.overwriting.is_some() {
        left.found("the copy is half restored, and does not start: give the restore again");
    }
    Ok(())
}
