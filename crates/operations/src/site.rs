//! This host, and one service on it: what every operation opens before it begins.

use crate::asking::{Asking, Patience};
use crate::{Error, secrets};
use coordination::{StateStore, Versioned, Witness};
use engines::postgres::Postgres;
use engines::{Engine, Password};
use model::config::{Config, Finding, Section, Service};
use model::{CancelToken, Class, Classify, ClusterId, MemberName, ServiceName, SnapshotId};
use repository::Repository;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use storage::probe::Proved;
use storage::{Key, Prefixed, Storage};

/// This host: its configuration, its vault, its state directory.
#[derive(Clone, Debug)]
pub struct Site(Arc<SiteInner>);

#[derive(Debug)]
struct SiteInner {
    config: Config,
    config_file: PathBuf,
    /// What is wrong with sections that `config` does not have.
    mistakes: Vec<Finding>,
    program: Option<PathBuf>,
    cancel: CancelToken,
    vault: OnceLock<Arc<dyn Storage>>,
}

impl Site {
    /// A host with this configuration, read from this file.
    pub fn new(config: Config, config_file: PathBuf) -> Site {
        Site(Arc::new(SiteInner {
            config,
            config_file,
            mistakes: Vec::new(),
            program: None,
            cancel: CancelToken::new(),
            vault: OnceLock::new(),
        }))
    }

    /// Names what is wrong with sections of the file that the configuration was read without.
    pub fn with_mistakes(self, mistakes: Vec<Finding>) -> Site {
        self.with(|site| site.mistakes = mistakes)
    }

    /// Names the `mainstay` program itself: guardians run it, and servers call it back.
    pub fn with_program(self, program: PathBuf) -> Site {
        self.with(|site| site.program = Some(program))
    }

    /// Names the token that stops waiting for the vault, where it is on another machine.
    pub fn with_cancel(self, cancel: CancelToken) -> Site {
        self.with(|site| site.cancel = cancel)
    }

    /// The same host with a vault of this storage, whatever its configuration says.
    #[cfg(test)]
    pub(crate) fn with_vault(self, vault: Arc<dyn Storage>) -> Site {
        self.with(|site| site.vault = OnceLock::from(vault))
    }

    /// What ends waiting for the vault.
    pub(crate) fn cancel(&self) -> &CancelToken {
        &self.0.cancel
    }

    /// The same host, not opened yet, with something changed.
    fn with(self, change: impl FnOnce(&mut SiteInner)) -> Site {
        let SiteInner { config, config_file, mistakes, program, cancel, .. } = &*self.0;
        let mut inner = SiteInner {
            config: config.clone(),
            config_file: config_file.clone(),
            mistakes: mistakes.clone(),
            program: program.clone(),
            cancel: cancel.clone(),
            vault: OnceLock::new(),
        };
        change(&mut inner);
        Site(Arc::new(inner))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The file it was read from.
    pub fn config_file(&self) -> &Path {
        &self.0.config_file
    }

    /// The program, if it was named.
    pub fn program(&self) -> Option<&Path> {
        self.0.program.as_deref()
    }

    /// The words that call this program back with this configuration.
    pub fn callback(&self) -> Vec<String> {
        let program = self.program().map_or("mainstay".into(), |p| p.display().to_string());
        vec![program, "--config".to_owned(), self.config_file().display().to_string()]
    }

    /// What is wrong with sections of the file that are left out of the configuration.
    pub fn mistakes(&self) -> &[Finding] {
        &self.0.mistakes
    }

    /// The names of all services of this host, also of those with a mistake in their section, which
    /// cannot be opened: whoever does something for all has to say so.
    pub fn services(&self) -> Vec<ServiceName> {
        let broken = self.mistakes().iter().flat_map(|finding| &finding.sections);
        let broken = broken.filter_map(Section::service);
        let all: BTreeSet<ServiceName> =
            self.config().service.keys().cloned().chain(broken).collect();
        all.into_iter().collect()
    }

    /// What is wrong with the section of a service.
    fn mistakes_of(&self, name: &ServiceName) -> Vec<String> {
        let section = Section::Service(name.to_string());
        let own = self.mistakes().iter().filter(|finding| finding.is_of(&section));
        own.map(ToString::to_string).collect()
    }

    /// The whole vault.
    pub fn vault(&self) -> Result<Arc<dyn Storage>, Error> {
        if let Some(open) = self.0.vault.get() {
            return Ok(open.clone());
        }
        let opened = crate::vault::open(&self.config().vault, &self.0.cancel)?;
        Ok(self.0.vault.get_or_init(|| opened).clone())
    }

    /// One service of this host.
    pub fn service(&self, name: &ServiceName) -> Result<ServiceSite, Error> {
        let Some(spec) = self.config().service.get(name) else {
            let mistakes = self.mistakes_of(name);
            if !mistakes.is_empty() {
                let (file, wrong) = (self.config_file().display(), mistakes.join("; "));
                let what = format!("[service.{name}] in {file} cannot be used: {wrong}");
                return Err(
                    Error::invalid(what).hinting("Correct it, then run `mainstay config check`.")
                );
            }
            let known: Vec<_> = self.config().service.keys().map(ServiceName::as_str).collect();
            let error =
                Error::invalid(format!("no service {name} in {}", self.config_file().display()));
            return Err(error.hinting(match known.is_empty() {
                true => "Add a [service.NAME] section; the file has none.".to_owned(),
                false => format!("Choose one of: {}.", known.join(", ")),
            }));
        };
        Ok(ServiceSite(Arc::new(ServiceInner {
            site: self.clone(),
            name: name.clone(),
            spec: spec.clone(),
            url_password: secrets::url_password(spec),
            repository: OnceLock::new(),
            state: OnceLock::new(),
            engine: OnceLock::new(),
            asking: Mutex::new(Asking::new()),
            clusters: Mutex::default(),
        })))
    }
}

/// One service on this host. What it opens it keeps open; clones share it.
#[derive(Clone)]
pub struct ServiceSite(Arc<ServiceInner>);

struct ServiceInner {
    site: Site,
    name: ServiceName,
    spec: Service,
    /// Read by whoever connects to the service, once.
    url_password: Option<Password>,
    repository: OnceLock<Repository>,
    state: OnceLock<StateStore>,
    engine: OnceLock<Box<dyn Engine>>,
    /// What is asked of a vault that may hang: one question, however often it is put.
    asking: Mutex<Asking<Versioned>>,
    /// What snapshots said of the database cluster that they are of: it never changes, and each is several
    /// reads.
    clusters: Mutex<BTreeMap<SnapshotId, Option<ClusterId>>>,
}

impl ServiceSite {
    /// The host.
    pub fn site(&self) -> &Site {
        &self.0.site
    }

    /// The service's name.
    pub fn name(&self) -> &ServiceName {
        &self.0.name
    }

    /// Its section of the configuration.
    pub fn spec(&self) -> &Service {
        &self.0.spec
    }

    /// This host's member of it.
    pub fn member(&self) -> &MemberName {
        &self.site().config().host.name
    }

    /// What a snapshot says of the database cluster that it is of, if that was read before.
    pub(crate) fn cluster_in(&self, snapshot: SnapshotId) -> Option<Option<ClusterId>> {
        self.0.clusters.lock().unwrap_or_else(PoisonError::into_inner).get(&snapshot).copied()
    }

    /// Keeps it.
    pub(crate) fn keep_cluster(&self, snapshot: SnapshotId, cluster: Option<ClusterId>) {
        self.0.clusters.lock().unwrap_or_else(PoisonError::into_inner).insert(snapshot, cluster);
    }

    /// Where this host keeps what it remembers of the service.
    pub fn dir(&self) -> PathBuf {
        self.site().config().host.state_dir.join("services").join(self.name().as_str())
    }

    /// The service's part of the vault.
    pub fn storage(&self) -> Result<Arc<dyn Storage>, Error> {
        let prefix = Key::new(self.name().as_str()).map_err(|e| Error::invalid(e.to_string()))?;
        Ok(Arc::new(Prefixed::new(self.site().vault()?, prefix)))
    }

    /// The service's repository, opened with its password.
    pub fn repository(&self) -> Result<&Repository, Error> {
        if let Some(open) = self.0.repository.get() {
            return Ok(open);
        }
        let password = secrets::password(self.site().config(), Some(self.spec()))?;
        let opened = Repository::open(self.storage()?, &password)?;
        Ok(self.0.repository.get_or_init(|| opened))
    }

    /// The service's state in the vault.
    pub fn state(&self) -> Result<&StateStore, Error> {
        if let Some(open) = self.0.state.get() {
            return Ok(open);
        }
        let repository = self.repository()?;
        // Nothing of the state is written to a place that was not tried.
        let proved = Proved::new(self.storage()?, &self.dir().join("vault-proof"));
        let store = StateStore::new(
            Arc::new(proved),
            repository.seal(),
            repository.id(),
            self.name().clone(),
        );
        Ok(self.0.state.get_or_init(|| store))
    }

    /// Whether the vault was reached already, so that it answers at once if it answers at all.
    pub(crate) fn has_asked(&self) -> bool {
        self.0.state.get().is_some()
    }

    /// This member's memory of the state.
    pub fn witness(&self) -> Witness {
        Witness::at(&self.dir().join("witness.json"))
    }

    /// The newest state, remembered by the witness; refuses a vault that has gone back.
    pub fn load_state(&self) -> Result<Versioned, Error> {
        let (state, witness) = (self.state()?, self.witness());
        // Before the vault is asked: another process of this host may be shown more at any time.
        let before = witness.remembered()?;
        let versioned = state.load()?;
        if versioned.number > 0 {
            witness.see_since(before.as_ref(), &versioned)?;
        }
        Ok(versioned)
    }

    /// The same, as it is now, if it comes in time. As long as a question has not been answered none is put
    /// beside it.
    pub(crate) fn state_in_time(&self, patience: Patience<'_>) -> Result<Versioned, Error> {
        let asked = self.clone();
        let mut asking = self.0.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.ask_anew("state", patience, move || asked.load_state())
    }

    /// Remembers a state that this process has stored itself. Another process of this host may have been
    /// shown what came after it: then the vault says whether it has gone back.
    pub fn remember(&self, own: &Versioned) -> Result<(), Error> {
        match self.witness().see(own) {
            Err(e) if e.class() == Class::Refused => self.load_state().map(drop),
            other => Ok(other?),
        }
    }

    /// The engine that the configuration names.
    pub fn engine(&self) -> Result<&dyn Engine, Error> {
        if let Some(open) = self.0.engine.get() {
            return Ok(open.as_ref());
        }
        let opened = engines::open_with(self.name(), self.spec(), self.0.url_password.clone())?;
        Ok(self.0.engine.get_or_init(|| opened).as_ref())
    }

    /// The server whose log is received as it is written; none if the service has none.
    pub fn log_server(&self) -> Result<Option<Postgres>, Error> {
        if self.spec().engine != "postgres" || self.spec().is_logical() {
            return Ok(None);
        }
        let password = self.0.url_password.clone();
        Ok(Some(Postgres::new(self.name(), self.spec(), password)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Rig;
    use jiff::Timestamp;
    use model::Role;
    use std::time::Duration;
    use storage::doubles::{Fault, How, Verb};

    fn join(site: &ServiceSite, name: &str) -> Versioned {
        let name = MemberName::new(name).expect("a name");
        let join =
            |state: &mut model::ServiceState| state.join(&name, Role::Standby, Timestamp::now());
        site.state().expect("state").update(join).expect("join").0
    }

    /// `wal receive`, a backup and `may-start` of one host ask for the state, and change it, at once.
    #[test]
    fn what_another_process_was_shown_meanwhile_is_no_older_vault() {
        let rig = Rig::new();
        let first = rig.site.load_state().expect("load");
        rig.vault.plan(Fault::next(Verb::Read, How::Hang).on("shop/mainstay/state/"));
        let newest = std::thread::scope(|scope| {
            let slow = scope.spawn(|| rig.site.load_state());
            assert!(rig.vault.wait_for_hang(Duration::from_secs(60)));
            let other = rig.other();
            join(&other, "b");
            let newest = other.load_state().expect("load");
            rig.vault.release();
            let loaded = slow.join().expect("no panic").expect("it has not gone back");
            assert_eq!(loaded, first);
            newest
        });
        let remembered = || rig.site.witness().remembered().expect("read").expect("memory").number;
        assert_eq!(remembered(), newest.number);

        // What was stored is stored, also if more was before it could be remembered.
        let own = join(&rig.site, "c");
        let other = rig.other();
        join(&other, "d");
        let newest = other.load_state().expect("load");
        rig.site.remember(&own).expect("it was stored");
        assert_eq!(remembered(), newest.number);

        // One that has gone back is refused by whoever is shown it.
        let last = Key::new(format!("shop/mainstay/state/{:020}", newest.number)).expect("a key");
        rig.vault.delete(&last).expect("the vault goes back");
        let late = rig.other();
        for error in [
            late.load_state().expect_err("it has gone back"),
            late.remember(&own).expect_err("it has gone back"),
        ] {
            assert_eq!(error.class(), Class::Refused, "{error}");
        }
    }
}
