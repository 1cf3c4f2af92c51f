//! The links that all services of a host share: configuration, state directory, passwords, vault.

use super::{Chain, Told};
use crate::config::Loaded;
use crate::failure::Failure;
use crate::init::make::NO_LOCKS;
use crate::ui::words::count;
use crate::units;
use model::ServiceName;
use model::config::{Config, Section, vault_dir};
use operations::Site;
use operations::secrets::{self, Source};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use storage::probe::{self, Retention, Verdict};

/// Less than this, and the next backup will hardly fit.
const LITTLE_SPACE: u64 = 1 << 30;
/// Less than this, and not even the state can be relied on to fit.
const NO_SPACE: u64 = 64 << 20;

/// Looks at the host's links, for these services; for all without any.
pub(crate) fn examine(
    chain: &mut Chain<'_>,
    loaded: &Loaded,
    site: &Site,
    asked: &[ServiceName],
) -> Told {
    configuration(chain, loaded, asked)?;
    state_dir(chain, &site.config().host.state_dir)?;
    passwords(chain, site.config())?;
    vault(chain, site)
}

fn configuration(chain: &mut Chain<'_>, loaded: &Loaded, asked: &[ServiceName]) -> Told {
    for mistake in &loaded.mistakes {
        let own = |name: &ServiceName| mistake.is_of(&Section::Service(name.to_string()));
        let advice =
            "Correct it, then run `mainstay config check`. Nothing is done by this section.";
        match asked.is_empty() || asked.iter().any(own) {
            true => chain.fail("config", mistake.to_string(), advice)?,
            false => chain.warn("config", mistake.to_string(), advice)?,
        }
    }
    for warning in &loaded.warnings {
        chain.warn("config", warning.to_string(), "Correct it, or leave it if it is meant so.")?;
    }
    let services = count(loaded.config.service.len() as u64, "service", "services");
    chain.ok("config", format!("{}: {services}", loaded.file.display()))
}

fn state_dir(chain: &mut Chain<'_>, dir: &Path) -> Told {
    if !dir.is_dir() {
        let found = format!("the state directory {} is missing", dir.display());
        return chain.fail("state", found, "Run `mainstay init`.");
    }
    let probe = tempfile::Builder::new().prefix(".probe-").tempfile_in(dir);
    // On a full disk an empty file can still be made, but no journal be written.
    match probe.and_then(|mut file| file.write_all(&[0; 64 * 1024])) {
        Ok(()) => chain.ok("state", format!("{} can be written", dir.display())),
        Err(e) => chain.broke("state", Failure::io("write to", dir.display(), &e)),
    }
}

fn passwords(chain: &mut Chain<'_>, config: &Config) -> Told {
    let mut seen = BTreeSet::new();
    for service in config.service.values() {
        let Some(source) = chain.need("password", secrets::source(config, Some(service)))? else {
            continue;
        };
        let name = match &source {
            Source::File(file) => file.display().to_string(),
            Source::Env(name) => format!("environment variable {name}"),
            Source::Credential(name) => format!("systemd credential {name}"),
            Source::Command(_) => "the password command".to_owned(),
        };
        if !seen.insert(name.clone()) || chain.need("password", secrets::read(&source))?.is_none() {
            continue;
        }
        if !open_to_others(chain, &source)? {
            chain.ok("password", name)?;
        }
    }
    // Whether it opens the connection is seen where the service is connected to.
    for source in config.service.values().filter_map(secrets::of_url) {
        open_to_others(chain, &source)?;
    }
    Ok(())
}

/// Warns of a file with a password that others can read.
fn open_to_others(chain: &mut Chain<'_>, source: &Source) -> Result<bool, Failure> {
    let Source::File(file) = source else { return Ok(false) };
    let open = fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
    if open {
        let shown = file.display();
        let advice = format!("Run `chmod 600 {shown}`.");
        chain.warn("password", format!("{shown} can be read by others"), advice)?;
    }
    Ok(open)
}

fn vault(chain: &mut Chain<'_>, site: &Site) -> Told {
    let Some(vault) = chain.need("vault", site.vault())? else { return Ok(()) };
    let place = vault.location();
    if let Some(dir) = vault_dir(&site.config().vault.url)
        && !dir.is_dir()
    {
        let advice = "Mount it, or run `mainstay init` if it was never there.";
        return chain.fail("vault", format!("{place} is not there"), advice);
    }
    if vault.is_read_only() {
        let advice = "Remove `as-of` from [vault.s3] when the past was looked at.";
        return chain.warn("vault", format!("{place} is seen as it was, and only read"), advice);
    }
    match probe::compare_and_set(&*vault) {
        Ok(Verdict::Holds) => {
            chain.ok("vault", format!("{place} can be written, and lets only one of two win"))?;
        }
        Ok(Verdict::Fails(reason)) => chain.broke("vault", probe::unfit(&place, &reason))?,
        Err(error) => chain.broke("vault", error)?,
    }
    if site.config().vault.s3.as_ref().is_some_and(|s3| s3.object_lock.is_some()) {
        match probe::retention(&*vault) {
            Ok(Retention::Holds) => chain.ok("lock", "what is locked cannot be removed")?,
            Ok(Retention::Refused(reason)) => chain.fail("lock", reason, NO_LOCKS)?,
            Ok(Retention::None) => {}
            Err(error) => chain.broke("lock", error)?,
        }
    }
    match vault.free_bytes() {
        Ok(Some(free)) if free < NO_SPACE => chain.fail(
            "space",
            format!("{} are free in the vault", units::size(free)),
            "Free some space, or move the vault to a larger disk.",
        ),
        Ok(Some(free)) if free < LITTLE_SPACE => chain.warn(
            "space",
            format!("only {} are free in the vault", units::size(free)),
            "Free some space, or move the vault to a larger disk.",
        ),
        Ok(Some(free)) => chain.ok("space", format!("{} are free in the vault", units::size(free))),
        Ok(None) => chain.ok("space", "the vault does not tell how much is free"),
        Err(error) => chain.broke("space", error),
    }
}
