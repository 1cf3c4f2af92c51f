//! A vault that lies where something is restored to would be put aside, or removed as what the point does not
//! have. A mistake in its section, which keeps nobody from the services, does not make it less of one.

use crate::{Error, ServiceSite};
use std::io::ErrorKind;
use std::path::Path;

/// Refuses a place that holds a vault which the configuration of this host names.
pub(super) fn none_in(site: &ServiceSite, target: &Path) -> Result<(), Error> {
    let config = site.site().config();
    let Some(vault) = config.vault_dirs().find(|dir| lies_in(dir, target) && is_vault(dir)) else {
        return Ok(());
    };
    let (place, vault) = (target.display(), vault.display());
    Err(Error::refused(format!("{place} holds the vault {vault}, which would not stay there")).hinting(
        "Move the vault elsewhere, and correct its `url`; or choose another place with `--target`.",
    ))
}

fn lies_in(dir: &Path, place: &Path) -> bool {
    let real = dir.canonicalize().ok().zip(place.canonicalize().ok());
    dir.starts_with(place) || real.is_some_and(|(dir, place)| dir.starts_with(place))
}

/// Whether a directory holds a repository. One that cannot be looked into may.
fn is_vault(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(items) => items.flatten().any(|item| item.path().join("config").exists()),
        Err(e) => !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}
