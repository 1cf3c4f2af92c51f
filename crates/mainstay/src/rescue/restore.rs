//! Restores a service without its host: as the engine would, where the vault still says enough for
//! that, else the files as they were captured.

use super::{Opened, Rescue, direct};
use crate::app::App;
use crate::failure::Failure;
use model::{ServiceName, SnapshotId};
use operations::restore::Params;
use operations::{ServiceSite, Which};
use repository::{RepositoryLock, Work};
use rustix::fs::{Gid, Uid};
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What came of it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Rescued {
    pub(crate) service: ServiceName,
    pub(crate) snapshot: SnapshotId,
    pub(crate) targets: Vec<PathBuf>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// A directory that the restored server needs until it has replayed its log.
    pub(crate) kept: Option<PathBuf>,
}

/// Restores a point into `target`, which must not exist.
pub(crate) fn restore(
    app: &App,
    rescue: &Rescue,
    opened: &Opened,
    which: &Which,
    target: &Path,
    plain: bool,
) -> Result<Rescued, Failure> {
    let lock = lock(app, opened)?;
    if plain {
        return files(app, opened, which, target);
    }
    let work = tempfile::Builder::new()
        .prefix("mainstay-rescue-")
        .tempdir()
        .map_err(|e| Failure::io("make", "a temporary directory", &e))?;
    let known = rescue.site(opened, work.path()).and_then(|service| {
        let state = service.load_state()?;
        Ok((service, state.number > 0))
    });
    match known {
        Ok((service, has_state)) => {
            if !has_state {
                app.out.warn(
                    "the vault's state of this service is missing; the snapshot files are taken \
                     for its history, newest first",
                );
            }
            by_engine(app, &service, which, target, work, lock.is_none())
        }
        Err(failure) => {
            app.out.warn(format_args!(
                "{}; restoring the files of the snapshot as they are",
                failure.one_line()
            ));
            files(app, opened, which, target)
        }
    }
}

/// Keeps what is restored from being removed meanwhile, if it can. A vault that can only be read, that is
/// full, or that somebody else's lock is left in, must be enough.
fn lock(app: &App, opened: &Opened) -> Result<Option<RepositoryLock>, Failure> {
    let wait = app.globals.wait.unwrap_or_default();
    match opened.repository.lock_for(Work::Restore, wait, app.cancel()) {
        Ok(lock) => Ok(Some(lock)),
        Err(repository::Error::Cancelled) => Err(repository::Error::Cancelled.into()),
        Err(e) => {
            app.out.warn(format_args!("nothing keeps what is read from being removed: {e}"));
            Ok(None)
        }
    }
}

fn by_engine(
    app: &App,
    service: &ServiceSite,
    which: &Which,
    target: &Path,
    work: TempDir,
    no_lock: bool,
) -> Result<Rescued, Failure> {
    let params = Params {
        which: which.clone(),
        target: Some(target.to_owned()),
        as_name: None,
        replace: false,
        delta: false,
        no_start: true,
        dry_run: false,
        end: Default::default(),
        partial: false,
        no_lock,
    };
    let done = operations::restore::run(service, &params, &app.run())?;
    // A server that replays its log calls the program back, with the configuration in there.
    let log = service.engine().is_ok_and(|engine| engine.abilities().log);
    let kept = match log {
        true => Some(hand_over(work, target)?),
        false => None,
    };
    Ok(Rescued {
        service: service.name().clone(),
        snapshot: done.snapshot,
        targets: done.targets,
        files: done.files,
        bytes: done.bytes,
        kept,
    })
}

/// Keeps the directory, and gives it to whom the restored data belongs: the server runs as that
/// user, and must be able to read the password.
fn hand_over(work: TempDir, target: &Path) -> Result<PathBuf, Failure> {
    let dir = work.keep();
    let failed = |e: std::io::Error| Failure::io("hand over", dir.display(), &e);
    if rustix::process::geteuid().is_root() {
        let owner = std::fs::metadata(owned_by(target)).map_err(failed)?;
        let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        for name in ["mainstay.toml", "password", ""] {
            rustix::fs::chown(dir.join(name), Some(user), Some(group))
                .map_err(|e| failed(e.into()))?;
        }
    }
    Ok(dir)
}

/// The first directory at or below the target that holds more than one directory: the target itself
/// is made by us, and belongs to us.
fn owned_by(target: &Path) -> PathBuf {
    let mut dir = target.to_owned();
    loop {
        let mut inner = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        match (inner.next(), inner.next()) {
            (Some(only), None) if only.path().is_dir() => dir = only.path(),
            _ => return dir,
        }
    }
}

fn files(app: &App, opened: &Opened, which: &Which, target: &Path) -> Result<Rescued, Failure> {
    let snapshot = direct::resolve(opened, which)?;
    let restored = direct::restore(opened, snapshot, target, &*app.progress(), app.cancel())?;
    Ok(Rescued {
        service: opened.name.clone(),
        snapshot,
        targets: vec![target.to_owned()],
        files: restored.files,
        bytes: restored.bytes,
        kept: None,
    })
}
