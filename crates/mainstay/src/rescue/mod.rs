//! Reaches a vault from a machine that has nothing but the program and a password: no
//! configuration, no state directory, perhaps not even the vault's state objects.

pub(crate) mod direct;
pub(crate) mod restore;

use crate::failure::Failure;
use crate::files::{self, Existing};
use crate::init::password;
use jiff::Timestamp;
use model::config::{Bucket, Config, Host, Service, Vault, WhenUnreachable, vault_dir};
use model::{CancelToken, Class, MemberName, Secret, ServiceName, SnapshotId};
use operations::{ServiceSite, Site};
use repository::{Repository, Snapshot, SnapshotReader};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use storage::{Key, Prefixed, Storage};

/// Where a snapshot says what it is.
const META: &[u8] = b"/.mainstay/snapshot.json";

/// A vault, and the password that was given for it.
pub(crate) struct Rescue {
    vault: Vault,
    storage: Arc<dyn Storage>,
    passwords: Vec<Secret>,
}

/// A repository that the password opens.
pub(crate) struct Opened {
    pub(crate) name: ServiceName,
    pub(crate) repository: Repository,
    pub(crate) password: Secret,
    /// All snapshot files, oldest first.
    pub(crate) snapshots: Vec<(SnapshotId, Snapshot)>,
}

impl Rescue {
    /// Opens the vault, which is only read.
    pub(crate) fn new(
        vault: &str,
        as_of: Option<Timestamp>,
        password: Secret,
    ) -> Result<Rescue, Failure> {
        let url = match vault_dir(vault) {
            Some(dir) => directory(dir)?,
            None => vault.to_owned(),
        };
        let bucket =
            as_of.map(|time| Bucket { as_of: Some(time.to_string()), ..Bucket::default() });
        let vault = Vault {
            url,
            when_unreachable: WhenUnreachable::Refuse,
            s3: bucket,
            ..Vault::default()
        };
        let storage = operations::vault::open(&vault, &CancelToken::new())?;
        let mut passwords = vec![password];
        // A recovery key is typed by hand, and a little differently than it was written down.
        passwords.extend(password::as_meant(passwords[0].expose()));
        passwords.dedup();
        Ok(Rescue { vault, storage, passwords })
    }

    /// The services that have a repository in the vault.
    pub(crate) fn services(&self) -> Result<Vec<ServiceName>, Failure> {
        let mut names = Vec::new();
        let all = self.storage.first_parts()?;
        for name in all.iter().filter_map(|name| ServiceName::new(name.as_str()).ok()) {
            if Repository::exists(&*self.part(&name)?)? {
                names.push(name);
            }
        }
        names.sort();
        if names.is_empty() {
            let what = format!("there is no repository in {}", self.storage.location());
            let failure = Failure::new(Class::NoRepository, what);
            return Err(if all.iter().any(|name| name == "config") {
                failure.hint("This is a repository itself: name what is above it.")
            } else {
                failure.hint("Name the place that holds the services' repositories.")
            });
        }
        Ok(names)
    }

    fn part(&self, name: &ServiceName) -> Result<Arc<dyn Storage>, Failure> {
        let prefix = Key::new(name.as_str()).map_err(|e| Failure::invalid(e.to_string()))?;
        Ok(Arc::new(Prefixed::new(self.storage.clone(), prefix)))
    }

    /// Opens the repository of a service.
    pub(crate) fn open(&self, name: &ServiceName) -> Result<Opened, Failure> {
        let storage = self.part(name)?;
        let mut refused = None;
        for password in &self.passwords {
            match Repository::open(storage.clone(), password) {
                Ok(repository) => {
                    let snapshots = repository.snapshots()?;
                    let (name, password) = (name.clone(), password.clone());
                    return Ok(Opened { name, repository, password, snapshots });
                }
                Err(error @ repository::Error::WrongPassword(_)) => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(match refused {
            Some(error) => error.into(),
            None => Failure::new(Class::WrongPassword, "no password was given"),
        })
    }

    /// The service as a configured host would see it. The configuration is written into `dir`,
    /// together with the password: a server that is restored calls the program back with it to
    /// fetch its log.
    pub(crate) fn site(&self, opened: &Opened, dir: &Path) -> Result<ServiceSite, Failure> {
        let definition = opened.definition()?;
        let password_file = dir.join("password");
        let text = format!("{}\n", opened.password.expose());
        files::write(&password_file, text.as_bytes(), 0o600, Existing::Replace)?;
        let config = Config {
            copy: BTreeMap::new(),
            host: Host {
                name: MemberName::new("rescue").map_err(|e| Failure::invalid(e.to_string()))?,
                state_dir: dir.join("state"),
            },
            vault: Vault { password_file: Some(password_file), ..self.vault.clone() },
            alerts: model::config::Alerts::default(),
            service: BTreeMap::from([(opened.name.clone(), definition)]),
            left_out: Vec::new(),
        };
        let text = toml::to_string(&crate::config::brief(&config)).map_err(|e| {
            Failure::new(Class::Failed, "cannot write the rescue's configuration").because(&e)
        })?;
        let file = dir.join("mainstay.toml");
        files::write(&file, text.as_bytes(), 0o600, Existing::Replace)?;
        let program =
            std::env::current_exe().map_err(|e| Failure::io("find", "this program", &e))?;
        Ok(Site::new(config, file).with_program(program).service(&opened.name)?)
    }
}

/// A directory that is there, by its whole name.
fn directory(dir: &Path) -> Result<String, Failure> {
    let dir = std::path::absolute(dir).map_err(|e| Failure::io("find", dir.display(), &e))?;
    if dir.is_dir() {
        return Ok(dir.display().to_string());
    }
    let what = format!("there is no directory {}", dir.display());
    Err(Failure::new(Class::NoRepository, what)
        .hint("Mount the vault, and name its directory with `--vault`."))
}

impl Opened {
    /// The service's definition, from the newest snapshot that has one.
    fn definition(&self) -> Result<Service, Failure> {
        for (id, _) in self.snapshots.iter().rev() {
            let reader = SnapshotReader::open(&self.repository, *id)?;
            if reader.node(META)?.is_none() {
                continue;
            }
            let mut text = Vec::new();
            reader.dump(META, &mut text)?;
            let meta: engines::SnapshotMeta = serde_json::from_slice(&text).map_err(|e| {
                let what = format!("the description in snapshot {} is damaged", id.short());
                Failure::new(Class::Corrupt, what).because(&e)
            })?;
            return Ok(Service {
                password_file: None,
                password_env: None,
                password_credential: None,
                password_command: None,
                ..meta.definition
            });
        }
        Err(Failure::invalid("no snapshot says how it was made; plain restic wrote them"))
    }
}
