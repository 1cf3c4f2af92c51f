//! Where the configuration file is.

use crate::failure::Failure;
use std::path::{Path, PathBuf};

/// The system's configuration file.
const SYSTEM: &str = "/etc/mainstay/mainstay.toml";

/// The file that was named, else the system's, else the user's own. The last is what is left, and
/// need not be there; root's own is the system's.
pub(crate) fn choose(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        if named.as_os_str().is_empty() {
            return Err(Failure::invalid("the name of the configuration file is empty"));
        }
        return std::path::absolute(named).map_err(|e| Failure::io("find", named.display(), &e));
    }
    let system = PathBuf::from(SYSTEM);
    if system.exists() || rustix::process::geteuid().is_root() {
        return Ok(system);
    }
    Ok(users_own().unwrap_or(system))
}

fn users_own() -> Option<PathBuf> {
    let from =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = from("XDG_CONFIG_HOME").or_else(|| Some(from("HOME")?.join(".config")))?;
    Some(base.join("mainstay/mainstay.toml"))
}

/// What a proposal names when nobody says otherwise.
pub(crate) struct Defaults {
    pub(crate) state_dir: PathBuf,
    pub(crate) vault: PathBuf,
}

impl Defaults {
    /// The system's places for root, places below the home directory for others.
    pub(crate) fn of_this_user() -> Defaults {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        match home {
            Some(home) if !rustix::process::geteuid().is_root() => Defaults {
                state_dir: home.join(".local/state/mainstay"),
                vault: home.join(".local/share/mainstay/vault"),
            },
            _ => Defaults {
                state_dir: PathBuf::from("/var/lib/mainstay"),
                vault: PathBuf::from("/var/backups/mainstay"),
            },
        }
    }
}

/// This host's name, as far as it is a name for a member: `db1` of `db1.example.org`.
pub(crate) fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    let first = name.split('.').next().unwrap_or_default();
    match model::MemberName::new(first) {
        Ok(name) => name.as_str().to_owned(),
        Err(_) => "host1".to_owned(),
    }
}

/// There is no configuration where one should be.
pub(crate) fn missing(file: &Path) -> Failure {
    Failure::invalid(format!("there is no configuration file {}", file.display())).hint(
        "Run `mainstay init` to have one proposed, or name one with `--config FILE` or \
         MAINSTAY_CONFIG.",
    )
}
