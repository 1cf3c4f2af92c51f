//! Raises a repository from format 1 to format 2, where it stands.
//!
//! Format 2 may hold everything that format 1 does, so the only thing that changes is the number in
//! the config; what is written from then on is compressed. The config is replaced in one step: at
//! every instant there is the old one or the new one. Programs that know only format 1 refuse the
//! repository afterwards; one that has it open would go on writing as before, which does no harm.

use crate::format::config::Config;
use crate::{Error, LockKind, Repository, RepositoryLock, check};
use model::{CancelToken, Progress};
use serde::Serialize;
use storage::Key;

pub use crate::format::config::VERSION;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// The version before.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// Raises the version, after a check of the structure. `lock` must be exclusive. Whoever has the
/// repository open, the caller too, opens it anew to make use of it.
pub fn migrate(
    repository: &Repository,
    lock: &RepositoryLock,
    progress: &dyn Progress,
    cancel: &CancelToken,
) -> Result<Migrated, Error> {
    if lock.kind() != LockKind::Exclusive {
        return Err(Error::Invalid("a migration needs the repository for itself".to_owned()));
    }
    let config = repository.config();
    let migrated = Migrated { from: config.version, to: VERSION };
    if config.version >= VERSION {
        return Ok(migrated);
    }
    let report = check::check(repository, false, progress, cancel)?;
    if let Some(first) = report.errors.first() {
        let more = report.errors.len() - 1;
        let what = format!("it is damaged, and stays as it is: {first} (and {more} more)");
        return Err(Error::damaged(format!("repository {}", repository.id()), what));
    }
    let config = Config { version: VERSION, ..config.clone() };
    let json = config.encode().map_err(|e| Error::Invalid(format!("new config: {e}")))?;
    let sealed = repository.seal().seal(&json);
    // What is about to open it must be able to.
    let opened = repository.seal().open(&sealed).map_err(|e| Error::damaged("new config", e))?;
    Config::decode(&opened).map_err(|e| Error::Invalid(format!("new config: {e}")))?;
    lock.still_held()?;
    let key = Key::new("config").map_err(|e| Error::Invalid(e.to_string()))?;
    repository.storage().put(&key, &sealed)?;
    Ok(migrated)
}
