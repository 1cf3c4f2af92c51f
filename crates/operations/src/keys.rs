//! Changes the password of services, so that at every instant, crash included, the password that
//! the configuration names opens every repository that it is for.
//!
//! The order is what makes it safe. The new password is put beside the old one (`FILE.new`) before
//! any repository knows it; then each repository gets a key for it, which is read back and opened;
//! then `FILE.new` becomes `FILE` in one step, with the old one kept as `FILE.old`; only then are
//! the keys of the old password removed. These two files are also what a run that was killed leaves
//! for the next one to go on with.

use crate::journal::{self, kill_at};
use crate::lock::MemberLock;
use crate::operation::Run;
use crate::secrets::{self, Source};
use crate::{Error, ServiceSite, Site};
use model::config::Section;
use model::{Class, Classify, MemberName, Secret, ServiceName};
use repository::{Kdf, KeyId, LockKind, Repository};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What is asked for.
pub struct Params {
    /// The services. All that share a password file must be among them.
    pub services: Vec<ServiceName>,
    /// The new password; none: a run that was interrupted goes on with its own, or `generate` is
    /// asked for one.
    pub new: Option<Secret>,
    /// Makes a password.
    pub generate: fn() -> Result<Secret, Error>,
    /// How expensive the key for a password must be.
    pub kdf: fn(&Secret) -> Kdf,
    /// The keys of the old password stay.
    pub keep_old: bool,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changed {
    /// The services.
    pub services: Vec<ServiceName>,
    /// The password file that has the new password now; none if the password comes from elsewhere.
    pub file: Option<PathBuf>,
    /// Ids of the keys that were removed.
    pub removed: Vec<String>,
    /// Ids of keys that the old password still opens.
    pub old_keys: Vec<String>,
    /// An earlier run that was interrupted was brought to its end.
    pub resumed: bool,
    /// A password that was generated and is in no file of ours.
    #[serde(skip)]
    pub generated: Option<Secret>,
}

/// Changes the password of services.
pub fn change(site: &Site, params: &Params, run: &Run) -> Result<Changed, Error> {
    let dir = site.config().host.state_dir.join("keys");
    let _alone = MemberLock::take(&dir, "key change", run.wait, &run.cancel)?;
    let services = open_services(site, &params.services)?;
    let source = one_source(site, &services)?;
    match &source {
        Source::File(file) => in_file(&services, file, params, run),
        Source::Env(_) | Source::Credential(_) | Source::Command(_) => {
            elsewhere(&services, &source, params, run)
        }
    }
}

/// Other hosts that are members of these services: each has a copy of the password.
pub fn other_members(site: &Site, names: &[ServiceName]) -> Result<Vec<MemberName>, Error> {
    let mut others = BTreeSet::new();
    for service in open_services(site, names)? {
        let state = service.load_state()?.state;
        others.extend(state.members.into_keys().filter(|member| member != service.member()));
    }
    Ok(others.into_iter().collect())
}

fn open_services(site: &Site, names: &[ServiceName]) -> Result<Vec<ServiceSite>, Error> {
    names.iter().map(|name| site.service(name)).collect()
}

/// Where the password of all these services is; refused if they do not share it, or share it with
/// others that would be locked out.
fn one_source(site: &Site, services: &[ServiceSite]) -> Result<Source, Error> {
    let of = |service: &ServiceSite| secrets::source(site.config(), Some(service.spec()));
    let Some(first) = services.first() else {
        return Err(Error::invalid("no service was named"));
    };
    let source = of(first)?;
    for service in services {
        if of(service)? != source {
            return Err(Error::invalid(format!(
                "{} and {} have passwords from different places",
                first.name(),
                service.name()
            ))
            .hinting("Change them one after the other."));
        }
    }
    // With what password a section was meant that has a mistake, nobody can say.
    let misread = site.mistakes().iter().find(|finding| {
        let concerns = |one: &Section| matches!(one, Section::Service(_) | Section::Unknown(_));
        finding.sections.iter().any(concerns)
    });
    if let Some(finding) = misread {
        let file = site.config_file().display();
        let what = format!(
            "whether another service shares the password cannot be said: {file}, {finding}"
        );
        return Err(Error::refused(what).hinting("Correct it, then run `mainstay config check`."));
    }
    let mut left_out = Vec::new();
    for (name, spec) in &site.config().service {
        let named = services.iter().any(|service| service.name() == name);
        if !named && secrets::source(site.config(), Some(spec))? == source {
            left_out.push(name.to_string());
        }
    }
    if left_out.is_empty() {
        return Ok(source);
    }
    Err(Error::refused(format!("the same password is that of {}", left_out.join(", ")))
        .hinting("Name all services that share it, or give each a `password-file` of its own."))
}

/// The password is in a file, which is changed with the keys.
fn in_file(
    services: &[ServiceSite],
    file: &Path,
    params: &Params,
    run: &Run,
) -> Result<Changed, Error> {
    // A link stays a link to the file that is changed.
    let file = &fs::canonicalize(file).map_err(|e| Error::io("find", file, e))?;
    let (new_file, old_file) = (beside(file, ".new"), beside(file, ".old"));
    let current = read_password(file)?;
    let mut changed = Changed {
        services: services.iter().map(|service| service.name().clone()).collect(),
        file: Some(file.clone()),
        removed: Vec::new(),
        old_keys: Vec::new(),
        resumed: false,
        generated: None,
    };
    let staged = read_if_there(&new_file)?;
    let old = match read_if_there(&old_file)? {
        // The files were exchanged, and not all old keys removed. That comes first; a new password
        // that is asked for beyond it is another change.
        Some(old) if staged.is_none() && old != current => {
            changed.resumed = true;
            if let Some(asked) = &params.new
                && *asked != current
            {
                finish(&repositories(services)?, &old, &current, params, run, &mut changed)?;
                remove(&old_file)?;
                return change_to(services, file, asked, &current, params, run, changed);
            }
            old
        }
        _ => {
            let new = match (&params.new, &staged) {
                (Some(asked), _) => asked.clone(),
                (None, Some(staged)) => {
                    changed.resumed = true;
                    staged.clone()
                }
                (None, None) => (params.generate)()?,
            };
            if let Some(staged) = staged.filter(|staged| *staged != new && *staged != current) {
                // An earlier run came no further, and its password is not wanted any more.
                for repository in repositories(services)? {
                    remove_keys_of(&repository, &staged, &current, run)?;
                }
            }
            return change_to(services, file, &new, &current, params, run, changed);
        }
    };
    finish(&repositories(services)?, &old, &current, params, run, &mut changed)?;
    remove(&old_file)?;
    Ok(changed)
}

fn change_to(
    services: &[ServiceSite],
    file: &Path,
    new: &Secret,
    old: &Secret,
    params: &Params,
    run: &Run,
    mut changed: Changed,
) -> Result<Changed, Error> {
    if new == old {
        return Err(Error::refused("the new password is the old one"));
    }
    let (new_file, old_file) = (beside(file, ".new"), beside(file, ".old"));
    let repositories = repositories(services)?;
    stage(&new_file, file, new)?;
    kill_at("passwd:staged");
    for repository in &repositories {
        add(repository, new, params, run)?;
        kill_at("passwd:added");
    }
    // A link, so that at no time there is no file.
    remove(&old_file)?;
    fs::hard_link(file, &old_file).map_err(|e| Error::io("make", &old_file, e))?;
    sync_above(file)?;
    kill_at("passwd:kept");
    fs::rename(&new_file, file).map_err(|e| Error::io("replace", file, e))?;
    sync_above(file)?;
    kill_at("passwd:exchanged");

    finish(&repositories, old, new, params, run, &mut changed)?;
    remove(&old_file)?;
    Ok(changed)
}

/// The password comes from where we cannot put another: the old one goes on opening everything
/// until somebody has put the new one there.
fn elsewhere(
    services: &[ServiceSite],
    source: &Source,
    params: &Params,
    run: &Run,
) -> Result<Changed, Error> {
    let old = secrets::read(source)?;
    let (new, generated) = match &params.new {
        Some(new) => (new.clone(), None),
        None => {
            let new = (params.generate)()?;
            (new.clone(), Some(new))
        }
    };
    if new == old {
        return Err(Error::refused("the new password is the old one"));
    }
    let mut old_keys = Vec::new();
    for repository in repositories(services)? {
        add(&repository, &new, params, run)?;
        old_keys.extend(repository.keys_opened_by(&old)?.into_iter().map(KeyId::to_hex));
    }
    Ok(Changed {
        services: services.iter().map(|service| service.name().clone()).collect(),
        file: None,
        removed: Vec::new(),
        old_keys,
        resumed: false,
        generated,
    })
}

fn repositories(services: &[ServiceSite]) -> Result<Vec<Repository>, Error> {
    services.iter().map(|service| service.repository().cloned()).collect()
}

/// Makes sure that a password opens a repository.
fn add(repository: &Repository, new: &Secret, params: &Params, run: &Run) -> Result<(), Error> {
    let _lock = repository.lock(LockKind::Shared, run.wait.unwrap_or_default(), &run.cancel)?;
    if repository.keys_opened_by(new)?.is_empty() {
        repository.add_proven_key(new, (params.kdf)(new), None)?;
    }
    Ok(())
}

/// Removes the keys of the old password, unless they are to stay.
fn finish(
    repositories: &[Repository],
    old: &Secret,
    new: &Secret,
    params: &Params,
    run: &Run,
    changed: &mut Changed,
) -> Result<(), Error> {
    for repository in repositories {
        if params.keep_old {
            let kept = repository.keys_opened_by(old)?;
            changed.old_keys.extend(kept.into_iter().map(KeyId::to_hex));
            continue;
        }
        let removed = remove_keys_of(repository, old, new, run).map_err(|e| match e.class() {
            Class::Locked => e.hinting(
                "The new password is in place and works; only the old keys are still there. Run \
                 the same command again once the repository is free, or wait for that with `--wait`.",
            ),
            _ => e,
        })?;
        changed.removed.extend(removed.into_iter().map(KeyId::to_hex));
        kill_at("passwd:removed");
    }
    Ok(())
}

fn remove_keys_of(
    repository: &Repository,
    old: &Secret,
    stays: &Secret,
    run: &Run,
) -> Result<Vec<KeyId>, Error> {
    let ids = repository.keys_opened_by(old)?;
    if !ids.is_empty() {
        let wait = run.wait.unwrap_or_default();
        let lock = repository.lock(LockKind::Exclusive, wait, &run.cancel)?;
        repository.remove_keys(&lock, &ids, stays)?;
    }
    Ok(ids)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn read_password(file: &Path) -> Result<Secret, Error> {
    secrets::read(&Source::File(file.to_owned()))
}

/// None also for an empty file: a run that was killed while it wrote it.
fn read_if_there(file: &Path) -> Result<Option<Secret>, Error> {
    match fs::metadata(file) {
        Ok(found) if found.len() > 0 => read_password(file).map(Some),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", file, e)),
    }
}

/// Writes the new password beside the file, whole or not at all, with the file's own mode and owner.
fn stage(new_file: &Path, file: &Path, password: &Secret) -> Result<(), Error> {
    let failed = |e| Error::io("write", new_file, e);
    let like = fs::metadata(file).map_err(|e| Error::io("look at", file, e))?;
    let writing = beside(new_file, ".tmp");
    remove(&writing)?;
    let mut out =
        File::options().write(true).create_new(true).mode(0o600).open(&writing).map_err(failed)?;
    let ours = out.metadata().map_err(failed)?;
    if (ours.uid(), ours.gid()) != (like.uid(), like.gid()) {
        std::os::unix::fs::fchown(&out, Some(like.uid()), Some(like.gid())).map_err(failed)?;
    }
    let mode = fs::Permissions::from_mode(like.permissions().mode() & 0o777);
    out.set_permissions(mode).map_err(failed)?;
    out.write_all(format!("{}\n", password.expose()).as_bytes()).map_err(failed)?;
    out.sync_all().map_err(failed)?;
    fs::rename(&writing, new_file).map_err(failed)?;
    sync_above(file)
}

fn remove(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Ok(()) => sync_above(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", file, e)),
    }
}

fn sync_above(file: &Path) -> Result<(), Error> {
    journal::sync_dir(file.parent().unwrap_or(Path::new("/")))
}
