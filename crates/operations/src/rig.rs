//! A primary whose vault is a storage double.

use crate::{ServiceSite, Site};
use jiff::Timestamp;
use model::{Role, Secret, ServiceName};
use repository::{Kdf, Repository};
use std::path::Path;
use std::sync::Arc;
use storage::Storage;
use storage::doubles::{Flaky, Memory};
use tempfile::TempDir;

/// The service `shop` on the host `a`, which is its primary.
pub(crate) struct Rig {
    pub(crate) site: ServiceSite,
    /// What the vault is seen through; below it nothing fails.
    pub(crate) vault: Arc<Flaky>,
    below: Arc<Memory>,
    pub(crate) dir: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("password"), "correct horse battery\n").expect("password");
        let below = Arc::new(Memory::new());
        let vault = Arc::new(Flaky::new(below.clone()));
        let site = open(dir.path(), vault.clone());
        let password = Secret::new("correct horse battery".to_owned());
        Repository::create(site.storage().expect("storage"), &password, Kdf::Fast).expect("create");
        let join = |state: &mut model::ServiceState| {
            state.join(site.member(), Role::Primary, Timestamp::now())
        };
        site.state().expect("state").update(join).expect("join");
        Rig { site, vault, below, dir }
    }

    /// As another process of this host opens it, for which no call fails.
    pub(crate) fn other(&self) -> ServiceSite {
        open(self.dir.path(), self.below.clone())
    }
}

fn open(dir: &Path, vault: Arc<dyn Storage>) -> ServiceSite {
    let here = dir.display();
    let config = format!(
        "[host]\nname = 'a'\nstate-dir = '{here}/state'\n\
         [vault]\nurl = '{here}/none'\npassword-file = '{here}/password'\n\
         [service.shop]\nengine = 'postgres'\nurl = 'postgres://u@/d?host={here}'\n\
         data-dir = '{here}/data'\n"
    );
    let config = toml::from_str(&config).expect("a configuration");
    let site = Site::new(config, dir.join("mainstay.toml")).with_vault(vault);
    site.service(&ServiceName::new("shop").expect("a name")).expect("the service")
}
