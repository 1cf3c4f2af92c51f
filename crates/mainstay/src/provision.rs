//! Makes a new host a standby, once: what a marker says, what is missing, and how the configuration
//! learns what the vault knows.
//!
//! Everything is judged before anything is changed, and each step finds out by itself whether it was
//! done: a definition by the configuration, a membership by the vault's state, a copy by this host's
//! record of it. So what was interrupted is simply begun again. The marker goes last.

use crate::app::App;
use crate::config;
use crate::failure::Failure;
use crate::files::{self, Existing};
use jiff::Timestamp;
use model::config::{Config, FirstRole, Service, lacks_password};
use model::{Class, Role, ServiceName, SnapshotId};
use operations::{MemberRecord, ServiceSite, Site, points};
use repository::Repository;
use rustix::fs::{Access, FlockOperation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// No marker is longer than this.
const MARKER_BYTES: u64 = 64 << 10;

/// What a marker says. It is locked as long as this is there.
#[derive(Debug)]
pub(crate) struct Marker {
    /// Of these services this host becomes a standby.
    services: Vec<ServiceName>,
    /// What is in their places is an old copy.
    pub(crate) adopt: bool,
    place: PathBuf,
    _file: File,
}

/// Its text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Words {
    services: Vec<ServiceName>,
    #[serde(default)]
    adopt: bool,
}

/// What is to be done about one service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Step {
    #[serde(rename = "service")]
    pub(crate) name: ServiceName,
    /// The definition that the configuration lacks.
    #[serde(serialize_with = "whether")]
    pub(crate) define: Option<Service>,
    /// This host is no member yet.
    pub(crate) join: bool,
    /// It holds a copy that it knows.
    pub(crate) seeded: bool,
    /// The newest point.
    pub(crate) snapshot: SnapshotId,
    pub(crate) source_time: Timestamp,
    pub(crate) bytes: u64,
}

fn whether<S: serde::Serializer>(there: &Option<Service>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(there.is_some())
}

/// Where the marker is, if nobody says otherwise.
pub(crate) fn default_marker(config: &Path) -> PathBuf {
    config.with_file_name("provision.toml")
}

impl Marker {
    /// Reads the marker, and keeps everybody else from going by it; none if there is none.
    pub(crate) fn open(place: &Path) -> Result<Option<Marker>, Failure> {
        let place =
            std::path::absolute(place).map_err(|e| Failure::io("find", place.display(), &e))?;
        let failed = |e: &io::Error| Failure::io("read", place.display(), e);
        let mut file = match File::open(&place) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&e)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = format!("somebody else goes by {} already", place.display());
                return Err(Failure::new(Class::Locked, what)
                    .hint("Wait until that is done; `mainstay status` shows how far it is."));
            }
            Err(e) => return Err(failed(&e.into())),
        }
        // Whoever had it before may just have renamed it.
        let ours = file.metadata().map_err(|e| failed(&e))?;
        match std::fs::metadata(&place) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
            Ok(_) => return Marker::open(&place),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&e)),
        }
        let mut text = String::new();
        (&mut file).take(MARKER_BYTES).read_to_string(&mut text).map_err(|e| failed(&e))?;
        let hint = "Write one line into it: `services = [\"NAME\"]`.";
        let words: Words = toml::from_str(&text).map_err(|e| {
            let what = format!("{} is no marker: {}", place.display(), e.message());
            Failure::invalid(what).hint(hint)
        })?;
        let (mut services, adopt) = (words.services, words.adopt);
        services.sort();
        services.dedup();
        if services.is_empty() {
            let what = format!("{} names no service", place.display());
            return Err(Failure::invalid(what).hint(hint));
        }
        Ok(Some(Marker { services, adopt, place, _file: file }))
    }

    /// Refuses a place in which nothing can be renamed.
    pub(crate) fn require_renamable(&self) -> Result<(), Failure> {
        let dir = self.place.parent().unwrap_or(Path::new("/"));
        rustix::fs::access(dir, Access::WRITE_OK).map_err(|e| {
            Failure::io("rename the marker in", dir.display(), &e.into())
                .hint("Name a marker in a directory of your own with `--marker`.")
        })
    }

    /// Renames it: all is done. Returns its new name.
    pub(crate) fn done(self) -> Result<PathBuf, Failure> {
        let mut name = self.place.file_name().unwrap_or_default().to_owned();
        name.push(Timestamp::now().strftime(".done-%Y%m%dT%H%M%SZ").to_string());
        let over = self.place.with_file_name(name);
        let dir = self.place.parent().unwrap_or(Path::new("/"));
        std::fs::rename(&self.place, &over)
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(|e| Failure::io("rename", self.place.display(), &e))?;
        Ok(over)
    }
}

/// Finds out what is missing, and refuses what cannot become a standby. Changes nothing.
pub(crate) fn plan(app: &App, file: &Path, marker: &Marker) -> Result<Vec<Step>, Failure> {
    let config = config::load(file)?.config;
    marker.services.iter().map(|name| look(app, file, &config, name)).collect()
}

fn look(app: &App, file: &Path, config: &Config, name: &ServiceName) -> Result<Step, Failure> {
    let known = config.service.get(name);
    let mut config = config.clone();
    if known.is_none() {
        // As if it were defined: its repository has the vault's password.
        let bare = serde_json::from_value(json!({ "engine": "files" }));
        let bare: Service =
            bare.map_err(|e| Failure::new(Class::Failed, "no definition").because(&e))?;
        config.service.insert(name.clone(), bare);
    }
    let known = config.service.get(name).filter(|_| known.is_some()).cloned();
    let site = Site::new(config, file.to_owned()).with_cancel(app.cancel().clone());
    let service = site.service(name)?;
    require_repository(&service)?;
    let (point, meta) = points::newest(&service).map_err(|e| Failure::from(e).about(name))?;
    let role = service.state()?.load()?.state.members.get(service.member()).map(|m| m.role);
    let first = known.as_ref().map_or(FirstRole::Standby, |spec| spec.role);
    require_standby(&service, role, first)?;
    let define = match known {
        Some(_) => None,
        None => {
            require_connectable(name, file, &meta.definition)?;
            Some(Service {
                role: FirstRole::Standby,
                // It was the vault's password that opened it.
                password_file: None,
                password_env: None,
                password_credential: None,
                password_command: None,
                ..meta.definition
            })
        }
    };
    Ok(Step {
        name: name.clone(),
        define,
        join: role.is_none(),
        seeded: MemberRecord::load(&service)?.applied.is_some(),
        snapshot: point.snapshot,
        source_time: point.source_time,
        bytes: point.size_bytes,
    })
}

/// No point holds a password, so a definition whose `url` had one is not whole.
fn require_connectable(name: &ServiceName, file: &Path, spec: &Service) -> Result<(), Failure> {
    if !spec.url.as_deref().is_some_and(lacks_password) {
        return Ok(());
    }
    let what = format!("the `url` of {name} holds a password, which no point tells");
    Err(Failure::invalid(what).hint(format!(
        "Write [service.{name}] into {} yourself, with `role = \"standby\"`; or keep the password \
         where `url-password-file` says, on every host, and back {name} up again.",
        file.display()
    )))
}

/// A service that the vault does not have is never made here: a vault that is not mounted looks just
/// like that.
fn require_repository(service: &ServiceSite) -> Result<(), Failure> {
    let storage = service.storage()?;
    if Repository::exists(&*storage)? {
        return Ok(());
    }
    let name = service.name();
    let what = format!("there is no repository of {name} at {}", storage.location());
    Err(Failure::new(Class::NoRepository, what).hint(
        "Mount the vault, or correct the service's name in the marker; its primary has to be backed \
         up first.",
    ))
}

/// A host that is the primary, or would join as one, has nothing to be provisioned with.
fn require_standby(
    service: &ServiceSite,
    role: Option<Role>,
    first: FirstRole,
) -> Result<(), Failure> {
    let (member, name) = (service.member(), service.name());
    match role {
        Some(Role::Standby) => Ok(()),
        Some(Role::Primary) => {
            Err(Failure::refused(format!("{member} is the primary of {name}, and no new standby"))
                .hint("Remove the marker, or correct `name` in [host]: each host has its own."))
        }
        Some(Role::Broken) => {
            Err(Failure::refused(format!("{member} was the primary of {name}, and is broken"))
                .hint(format!("Look at its data, then run `mainstay rejoin {name}`.")))
        }
        None if first == FirstRole::Standby => Ok(()),
        None => Err(Failure::refused(format!(
            "{member} would join {name} as the primary, by [service.{name}]"
        ))
        .hint(format!("Set `role = \"standby\"` in [service.{name}], or remove the marker."))),
    }
}

/// Adds to the configuration what it lacks, in one step; whoever it belongs to, and whoever may read
/// it, stays so. Returns the services that were added.
pub(crate) fn define(file: &Path, plan: &[Step]) -> Result<Vec<ServiceName>, Failure> {
    let missing: BTreeMap<&ServiceName, &Service> =
        plan.iter().filter_map(|step| Some((&step.name, step.define.as_ref()?))).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    // The file that a link leads to, and not the link.
    let file = file.canonicalize().map_err(|e| Failure::io("find", file.display(), &e))?;
    let failed = |e: &io::Error| Failure::io("read", file.display(), e);
    let meta = std::fs::metadata(&file).map_err(|e| failed(&e))?;
    let mut text = std::fs::read_to_string(&file).map_err(|e| failed(&e))?;
    let sections =
        toml::to_string(&json!({ "service": config::brief(&missing) })).map_err(|e| {
            Failure::new(Class::Failed, "cannot write the definition of a service").because(&e)
        })?;
    text.truncate(text.trim_end().len());
    text.push_str("\n\n# As the newest point says; added by `mainstay provision`.\n");
    text.push_str(&sections);
    config::parse(&text, &file).map_err(|failure| {
        let what = "the definition in the newest point does not fit this host's configuration";
        Failure::new(failure.class(), format!("{what}: {}", failure.one_line()))
            .hint(format!("Write the service's section into {} yourself.", file.display()))
    })?;
    let mode = meta.permissions().mode() & 0o7777;
    files::write(&file, text.as_bytes(), mode, Existing::Replace)?;
    // It is a new file, of whoever runs this.
    let now = std::fs::metadata(&file).map_err(|e| failed(&e))?;
    if (now.uid(), now.gid()) != (meta.uid(), meta.gid()) {
        std::os::unix::fs::chown(&file, Some(meta.uid()), Some(meta.gid()))
            .map_err(|e| Failure::io("give back", file.display(), &e))?;
    }
    Ok(missing.into_keys().cloned().collect())
}

/// This host with the services of the plan alone: nothing is made of another.
pub(crate) fn site(app: &App, plan: &[Step]) -> Result<Site, Failure> {
    let mut loaded = app.load_config()?;
    loaded.config.service.retain(|name, _| plan.iter().any(|step| step.name == *name));
    let program = std::env::current_exe().map_err(|e| Failure::io("find", "this program", &e))?;
    let site = loaded.site().with_program(program);
    Ok(site.with_cancel(app.cancel().clone()))
}
