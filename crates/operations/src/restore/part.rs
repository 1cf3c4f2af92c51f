//! Restores a part of a service, a database or some tables of it, into the server that runs on this
//! host. Only what the part needs is fetched.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `fetch` | what the part needs is in the operation's own directory, verified | (with the directory) |
//! | `load` | the part is in place, as a whole | the engine takes back what it had begun |

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::recover::Left;
use crate::{Error, ServiceSite, Which, placing, which};
use engines::{Part, SnapshotMeta};
use jiff::Timestamp;
use model::{Class, OperationId, Progress, SnapshotId};
use repository::restore::{Lacking, Options};
use repository::{NodeKind, SnapshotReader, Work};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Of which point.
    pub which: Which,
    /// What of it.
    pub part: Part,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What came of it, or with a dry run would.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation; none for a dry run.
    pub operation: Option<OperationId>,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its consistency time.
    pub source_time: Timestamp,
    /// What was asked for.
    pub part: Part,
    /// What was done, in sentences.
    pub said: Vec<String>,
    /// Bytes that were fetched of the snapshot.
    pub bytes: u64,
    /// How long the run took.
    pub seconds: f64,
}

/// Restores a part.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    if params.dry_run {
        let plan = Plan::make(site, params)?;
        return Ok(plan.done(params, None, Vec::new(), 0.0));
    }
    let mut operation = Operation::begin(site, Kind::Restore, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Restore, result, |done| (Outcome::Done, done.said.join("; ")))
}

struct Plan {
    snapshot: SnapshotId,
    meta: SnapshotMeta,
    needs: Vec<String>,
    bytes: u64,
}

impl Plan {
    fn make(site: &ServiceSite, params: &Params) -> Result<Plan, Error> {
        let state = site.load_state()?.state;
        let snapshot = which::resolve(site, &state, &params.which)?;
        let meta = placing::meta(site, snapshot)?;
        let needs = site.engine()?.part_needs(&meta, &params.part)?;
        let reader = SnapshotReader::open(site.repository()?, snapshot)?;
        let mut bytes = 0_u64;
        for path in &needs {
            let node = reader.node(path.as_bytes())?.ok_or_else(|| {
                Error::new(Class::Corrupt, format!("snapshot {snapshot} has no {path}"))
            })?;
            bytes = bytes.saturating_add(node.size);
            if node.kind == NodeKind::Dir {
                reader.walk(path.as_bytes(), &mut |_, node| {
                    bytes = bytes.saturating_add(node.size);
                    Ok(())
                })?;
            }
        }
        Ok(Plan { snapshot, meta, needs, bytes })
    }

    fn done(
        self,
        params: &Params,
        operation: Option<OperationId>,
        said: Vec<String>,
        seconds: f64,
    ) -> Done {
        Done {
            operation,
            snapshot: self.snapshot,
            source_time: self.meta.source_time,
            part: params.part.clone(),
            said,
            bytes: self.bytes,
            seconds,
        }
    }
}

fn perform(site: &ServiceSite, operation: &mut Operation, params: &Params) -> Result<Done, Error> {
    let began = Instant::now();
    let repository = site.repository()?;
    let engine = site.engine()?;
    let lock = repository.lock_for(Work::Restore, Duration::from_secs(60), operation.cancel())?;
    let plan = Plan::make(site, params)?;
    let fetched = operation.dir().join("scratch/part");
    placing::check_space(&fetched, plan.bytes)?;
    operation.step("fetch", &plan.needs, |operation| {
        operation.report().phase("fetching");
        for path in &plan.needs {
            let to = fetched.join(path.trim_start_matches('/'));
            if let Some(parent) = to.parent() {
                crate::member::private_dir(parent).map_err(|e| Error::io("make", parent, e))?;
            }
            let report = operation.report();
            repository::restore::restore_without(
                repository,
                plan.snapshot,
                path.as_bytes(),
                &to,
                // It goes with the operation.
                Options { reuse: None, durable: false },
                &Lacking::default(),
                &*report,
                operation.cancel(),
            )?;
        }
        Ok(())
    })?;
    // The vault has given everything that is needed.
    drop(lock);
    let said = operation.step("load", (), |operation| {
        operation
            .with_context(site, |cx| engine.restore_part(cx, &plan.meta, &fetched, &params.part))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(plan.done(params, Some(operation.id().clone()), said, seconds))
}

/// After a failure or a death: what was not put in place goes.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    if left.begun("load").is_some() && left.done("load").is_none() {
        placing::abandon(left)?;
        left.undone("load", "what was loaded was removed")?;
    }
    Ok(())
}
