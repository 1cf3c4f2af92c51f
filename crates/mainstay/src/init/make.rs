//! Makes what a configuration names and is not there yet. What is there is left as it is.

use super::password;
use crate::app::App;
use crate::failure::Failure;
use crate::files::{self, Existing};
use coordination::Error as StateError;
use jiff::Timestamp;
use model::config::FirstRole;
use model::state::Refusal;
use model::{Class, Role, Secret, ServiceName};
use operations::secrets::{self, Source};
use operations::{ServiceSite, Site};
use repository::{Kdf, Repository};
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use storage::probe::{self, Retention, Verdict};

/// What to do about locks that do not hold.
pub(crate) const NO_LOCKS: &str = "Make a bucket with object locks (it cannot be turned on later \
     on every server), or remove `object-lock` from [vault.s3].";

/// Which repositories get a new recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Those that are made now.
    New,
    /// All.
    All,
    /// None.
    None,
}

/// How things are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) dry_run: bool,
    pub(crate) recovery: Recovery,
}

/// Whether something had to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Did {
    /// It was missing and is there now.
    Made,
    /// It was there.
    Left,
    /// It is missing; a dry run makes nothing.
    Missing,
}

/// Whom the key file of a recovery key names, for those who list the keys.
pub(crate) const RECOVERY_KEY: &str = "recovery key";

/// One thing that is needed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) did: Did,
    pub(crate) what: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) steps: Vec<Step>,
    /// The password of the recovery keys, to be shown once.
    pub(crate) recovery_key: Option<Secret>,
    /// The services whose repositories it opens.
    pub(crate) recoverable: Vec<ServiceName>,
    /// The services of which this host is the primary.
    pub(crate) primary: Vec<ServiceName>,
    /// The services of which it is a standby.
    pub(crate) standby: Vec<ServiceName>,
    /// What could not be made.
    pub(crate) failures: Vec<(ServiceName, Failure)>,
}

/// Makes what is missing. A service that fails does not keep the others from being made.
pub(crate) fn make(app: &App, site: &Site, options: Options) -> Result<Made, Failure> {
    let mut made = Made::default();
    directory(&site.config().host.state_dir, "state directory", options, &mut made)?;
    try_vault(site, options, &mut made)?;
    refuse_an_empty_vault(site)?;
    passwords(app, site, options, &mut made)?;
    if let Some(dir) = model::config::vault_dir(&site.config().vault.url) {
        directory(dir, "vault", options, &mut made)?;
    }
    for name in site.services() {
        let result = site.service(&name).map_err(Failure::from).and_then(|service| {
            let repository = repository(app, &service, options, &mut made)?;
            if repository {
                join(&service, options, &mut made)?;
            }
            Ok(())
        });
        if let Err(failure) = result {
            made.failures.push((name, failure));
        }
    }
    Ok(made)
}

impl Made {
    fn step(&mut self, did: Did, what: String) {
        self.steps.push(Step { did, what });
    }

    /// The recovery key, generated when it is first needed.
    fn recovery_key(&mut self) -> Result<Secret, Failure> {
        if let Some(key) = &self.recovery_key {
            return Ok(key.clone());
        }
        let key = password::for_people()?;
        self.recovery_key = Some(key.clone());
        Ok(key)
    }
}

fn directory(dir: &Path, what: &str, options: Options, made: &mut Made) -> Result<(), Failure> {
    let did = if dir.is_dir() {
        Did::Left
    } else if options.dry_run {
        Did::Missing
    } else {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Failure::io("make the directory", dir.display(), &e))?;
        Did::Made
    };
    made.step(did, format!("{what} {}", dir.display()));
    Ok(())
}

/// A vault on somebody else's server is tried before anything is made in it.
fn try_vault(site: &Site, options: Options, made: &mut Made) -> Result<(), Failure> {
    let vault = site.vault()?;
    // To try it is to write to it.
    if !vault.needs_proof() || options.dry_run {
        return Ok(());
    }
    let place = vault.location();
    match probe::compare_and_set(&*vault)? {
        Verdict::Holds => made.step(Did::Left, format!("vault {place}, tried: one writer wins")),
        Verdict::Fails(reason) => return Err(probe::unfit(&place, &reason).into()),
    }
    let locks = site.config().vault.s3.as_ref().is_some_and(|s3| s3.object_lock.is_some());
    if locks {
        match probe::retention(&*vault)? {
            Retention::Holds => made.step(Did::Left, "locks of the vault, tried".to_owned()),
            Retention::Refused(reason) => {
                return Err(Failure::refused(format!(
                    "the vault {place} does not keep what is locked: {reason}"
                ))
                .hint(NO_LOCKS));
            }
            Retention::None => {}
        }
    }
    Ok(())
}

/// A vault that this host has used and that now holds nothing is not mounted, or lost. To make a
/// new, empty one in its place would look like success.
fn refuse_an_empty_vault(site: &Site) -> Result<(), Failure> {
    for name in site.services() {
        let service = site.service(&name)?;
        let remembered = service.witness().remembered()?;
        if remembered.is_none() || Repository::exists(&*service.storage()?)? {
            continue;
        }
        let vault = site.vault()?.location();
        return Err(Failure::refused(format!(
            "this host has used {name} in the vault before, but there is no repository of it at \
             {vault} now"
        ))
        .hint(format!(
            "Mount the vault, or bring it back. If its history is given up for good, remove {} \
             and run `mainstay init` again.",
            service.dir().display()
        )));
    }
    Ok(())
}

/// Makes the password files that are missing, unless a repository waits for the lost password.
fn passwords(app: &App, site: &Site, options: Options, made: &mut Made) -> Result<(), Failure> {
    let mut files: BTreeMap<_, Vec<ServiceName>> = BTreeMap::new();
    if let Some(file) = &site.config().vault.password_file {
        files.entry(file.clone()).or_default();
    }
    for (name, service) in &site.config().service {
        if let Source::File(file) = secrets::source(site.config(), Some(service))? {
            files.entry(file).or_default().push(name.clone());
        }
    }
    for (file, services) in files {
        let what = format!("password file {}", file.display());
        match std::fs::metadata(&file) {
            Ok(metadata) => {
                if metadata.permissions().mode() & 0o077 != 0 {
                    app.out.warn(format_args!(
                        "{what} can be read by others; run `chmod 600 {}`",
                        file.display()
                    ));
                }
                made.step(Did::Left, what);
                continue;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::io("look at the password file", file.display(), &e)),
        }
        for name in services {
            if Repository::exists(&*site.service(&name)?.storage()?)? {
                return Err(Failure::new(
                    Class::WrongPassword,
                    format!("the {what} is missing, and the repository of {name} needs it"),
                )
                .hint(
                    "Copy the file from the host that has it, or write a recovery key into it.",
                ));
            }
        }
        if options.dry_run {
            made.step(Did::Missing, what);
            continue;
        }
        let text = format!("{}\n", password::for_file()?.expose());
        files::write(&file, text.as_bytes(), 0o600, Existing::Keep)?;
        made.step(Did::Made, what);
    }
    Ok(())
}

/// The repository of a service; false if a dry run found none.
fn repository(
    app: &App,
    service: &ServiceSite,
    options: Options,
    made: &mut Made,
) -> Result<bool, Failure> {
    let name = service.name();
    let storage = service.storage()?;
    let what = format!("repository of {name} at {}", storage.location());
    let there = Repository::exists(&*storage)?;
    if !there && options.dry_run {
        made.step(Did::Missing, what);
        return Ok(false);
    }
    let mut created = false;
    if !there {
        let password = secrets::password(service.site().config(), Some(service.spec()))?;
        app.out.detail(format_args!("making the {what}"));
        match Repository::create(storage, &password, password::kdf(&password)) {
            Ok(_) => created = true,
            // Another host was faster; it is opened below.
            Err(repository::Error::Exists(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let repository = service.repository()?;
    made.step(if created { Did::Made } else { Did::Left }, what);
    let wanted = match options.recovery {
        Recovery::New => created,
        Recovery::All => !options.dry_run,
        Recovery::None => false,
    };
    if wanted {
        let key = made.recovery_key()?;
        repository.add_proven_key(&key, Kdf::Fast, Some(RECOVERY_KEY))?;
        made.recoverable.push(name.clone());
    }
    Ok(true)
}

/// This host joins the service, in the role that its configuration says it begins with.
fn join(service: &ServiceSite, options: Options, made: &mut Made) -> Result<(), Failure> {
    let (name, member) = (service.name(), service.member());
    // A dry run remembers nothing either, so the witness is asked only if something is made.
    let versioned =
        if options.dry_run { service.state()?.load()? } else { service.load_state()? };
    let known = versioned.state.members.get(member).map(|member| member.role);
    let wanted = match service.spec().role {
        FirstRole::Primary => Role::Primary,
        FirstRole::Standby => Role::Standby,
    };
    let what = |role| format!("{member} is {} of {name}", crate::ui::words::role(role));
    let role = match known {
        Some(role) => {
            made.step(Did::Left, what(role));
            role
        }
        None if options.dry_run => {
            made.step(Did::Missing, what(wanted));
            wanted
        }
        None => {
            let now = Timestamp::now();
            let joined = service.state()?.update(|state| state.join(member, wanted, now));
            let (versioned, role) = joined.map_err(|error| not_joined(service, error))?;
            service.remember(&versioned)?;
            made.step(Did::Made, what(role));
            role
        }
    };
    match role {
        Role::Primary => made.primary.push(name.clone()),
        Role::Standby => made.standby.push(name.clone()),
        Role::Broken => {}
    }
    Ok(())
}

fn not_joined(service: &ServiceSite, error: StateError) -> Failure {
    let name = service.name();
    match &error {
        StateError::Refused(Refusal::HasPrimary(_) | Refusal::WrongRole { .. }) => {
            Failure::from(error).hint(format!(
                "Set `role = \"standby\"` in [service.{name}]; to make this host the primary, run \
                 `mainstay takeover {name}` afterwards."
            ))
        }
        _ => error.into(),
    }
}
