//! Migrate: a repository of format 1 becomes one of format 2, where it stands.

use crate::journal::{Kind, Outcome};
use crate::operation::{Operation, Run};
use crate::{Error, ServiceSite};
use model::{OperationId, Progress};
use repository::Work;
use repository::migrate::{self, Migrated};
use serde::Serialize;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation; none for a dry run.
    pub operation: Option<OperationId>,
    /// The version before.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// Migrates.
pub fn run(site: &ServiceSite, dry_run: bool, run: &Run) -> Result<Done, Error> {
    let from = site.repository()?.config().version;
    if dry_run {
        return Ok(Done { operation: None, from, to: migrate::VERSION });
    }
    let mut operation = Operation::begin(site, Kind::Migrate, &(), run)?;
    let result = perform(site, &mut operation);
    operation.end(site, Kind::Migrate, result, |done: &Done| {
        (Outcome::Done, format!("format {} is format {}", done.from, done.to))
    })
}

fn perform(site: &ServiceSite, operation: &mut Operation) -> Result<Done, Error> {
    let (repository, lock) = operation.open_for(site, Work::Migrate)?;
    let Migrated { from, to } = operation.step("migrate", (), |operation| {
        let (progress, cancel) = (operation.report(), operation.cancel().clone());
        progress.phase("checking before the format is changed");
        Ok(migrate::migrate(repository, &lock, &*progress, &cancel)?)
    })?;
    Ok(Done { operation: Some(operation.id().clone()), from, to })
}
