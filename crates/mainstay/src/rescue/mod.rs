//! Reaches a vault from a machine that has nothing but the program and a password: no
//! configuration, no state directory, perhaps not even the vault's state objects.

pub(crate) mod direct;
pub(crate) mod restore;

use crate::failure::Failure;
use crate::files::{self, Existing};
use crate::init::password;
use model::config::{Config, Host, Service, Vault, WhenUnreachable};
use model::{Class, MemberName, Secret, ServiceName, SnapshotId};
use operations::{ServiceSite, Site};
use repository::{Repository, Snapshot, SnapshotReader};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::{Key, Prefixed, Storage};

/// Where a snapshot says what it is.
const META: &[u8] = b"/.mainstay/snapshot.json";

/// A vault, and the password that was given for it.
pub(crate) struct Rescue {
    vault: PathBuf,
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
    pub(crate) fn new(vault: &Path, password: Secret) -> Result<Rescue, Failure> {
        let vault =
            std::path::absolute(vault).map_err(|e| Failure::io("find", vault.display(), &e))?;
        if !vault.is_dir() {
            return Err(Failure::new(
                Class::NoRepository,
                format!("there is no directory {}", vault.display()),
            )
            .hint("Mount the vault, and name its directory with `--vault`."));
        }
        let storage = storage::open(&vault.to_string_lossy(), &storage::Options::default())?;
        let mut passwords = vec![password];
        // A recovery key is typed by hand, and a little differently than it was written down.
        passwords.extend(password::as_meant(passwords[0].expose()));
        passwords.dedup();
        Ok(Rescue { vault, storage, passwords })
    }

    /// The services that have a repository in the vault.
    pub(crate) fn services(&self) -> Result<Vec<ServiceName>, Failure> {
        let failed = |e: &std::io::Error| Failure::io("list", self.vault.display(), e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.vault).map_err(|e| failed(&e))? {
            let entry = entry.map_err(|e| failed(&e))?;
            if let Some(name) =
                entry.file_name().to_str().and_then(|name| ServiceName::new(name).ok())
                && entry.path().join("config").is_file()
            {
                names.push(name);
            }
        }
        names.sort();
        if names.is_empty() {
            let what = format!("there is no repository in {}", self.vault.display());
            let failure = Failure::new(Class::NoRepository, what);
            return Err(if self.vault.join("config").is_file() {
                failure.hint("This is a repository itself: name the directory above it.")
            } else {
                failure.hint("Name the directory that holds the services' repositories.")
            });
        }
        Ok(names)
    }

    /// Opens the repository of a service.
    pub(crate) fn open(&self, name: &ServiceName) -> Result<Opened, Failure> {
        let prefix = Key::new(name.as_str()).map_err(|e| Failure::invalid(e.to_string()))?;
        let storage: Arc<dyn Storage> = Arc::new(Prefixed::new(self.storage.clone(), prefix));
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
            host: Host {
                name: MemberName::new("rescue").map_err(|e| Failure::invalid(e.to_string()))?,
                state_dir: dir.join("state"),
            },
            vault: Vault {
                url: self.vault.display().to_string(),
                password_file: Some(password_file),
                when_unreachable: WhenUnreachable::Refuse,
                ..Vault::default()
            },
            alerts: model::config::Alerts::default(),
            service: BTreeMap::from([(opened.name.clone(), definition)]),
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
                password_command: None,
                ..meta.definition
            });
        }
        Err(Failure::invalid("no snapshot says how it was made; plain restic wrote them"))
    }
}
