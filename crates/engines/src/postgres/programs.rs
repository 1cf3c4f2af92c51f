//! PostgreSQL's own programs: where they are, and as whom they run.
//!
//! The server refuses to run as root, and whoever runs it owns its files. So when we are root, its
//! programs run as the owner of the data directory they work on.

use crate::Error;
use crate::command::Command;
use model::ServiceName;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where distributions keep the programs of each version, with the version for `{}`.
const VERSIONED: [&str; 3] =
    ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql-{}/bin"];

/// What of our environment would lead the programs to another server.
pub(super) const MISLEADING: [&str; 10] = [
    "PGDATA",
    "PGDATABASE",
    "PGHOST",
    "PGHOSTADDR",
    "PGOPTIONS",
    "PGPASSWORD",
    "PGPORT",
    "PGSERVICE",
    "PGUSER",
    "PGSSLMODE",
];

/// The programs that fit one data directory.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    bin_dir: PathBuf,
    owner: Option<Owner>,
    data_dir: PathBuf,
}

/// A user that we can become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Owner {
    /// Who owns this.
    pub(super) fn of(path: &Path) -> Result<Owner, Error> {
        let meta = fs::metadata(path).map_err(|e| Error::io("look at", path.display(), e))?;
        Ok(Owner { uid: meta.uid(), gid: meta.gid() })
    }
}

impl Programs {
    /// Finds the programs for this data directory: in `bin_dir` if that is configured, else where
    /// the distributions keep this version, else on PATH.
    pub(super) fn find(
        service: &ServiceName,
        bin_dir: Option<&Path>,
        data_dir: &Path,
    ) -> Result<Programs, Error> {
        let major = data_version(data_dir)?;
        let found = match bin_dir {
            Some(dir) => Some(dir.to_owned()).filter(|dir| dir.join("pg_ctl").is_file()),
            None => candidates(major).find(|dir| dir.join("pg_ctl").is_file()),
        };
        let Some(bin_dir) = found else {
            return Err(missing(service, bin_dir, &format!("`pg_ctl` of PostgreSQL {major}")));
        };
        let owner = Owner::of(data_dir)?;
        if rustix::process::geteuid().is_root() && owner.uid == 0 {
            return Err(Error::invalid(format!("{} belongs to root", data_dir.display()))
                .hinting("Give it to the user that runs PostgreSQL: the server refuses root."));
        }
        let owner = rustix::process::geteuid().is_root().then_some(owner);
        Ok(Programs { bin_dir, owner, data_dir: data_dir.to_owned() })
    }

    /// Whether they can be found, as far as that is known before there is a data directory.
    pub(super) fn require(
        service: &ServiceName,
        bin_dir: Option<&Path>,
        data_dir: &Path,
    ) -> Result<(), Error> {
        if data_version(data_dir).is_ok() {
            return Programs::find(service, bin_dir, data_dir).map(drop);
        }
        match bin_dir {
            Some(dir) if !dir.join("pg_ctl").is_file() => {
                Err(missing(service, bin_dir, "`pg_ctl`"))
            }
            _ => Ok(()),
        }
    }

    /// One of the programs, as the owner of the data.
    pub(super) fn command(&self, program: &str) -> Command {
        let path = self.bin_dir.join(program);
        let mut command = match self.owner {
            None => Command::program(program, &path),
            Some(owner) => {
                // The owner's other groups matter: Debian lets the group `ssl-cert` read keys.
                let groups =
                    if has_account(owner.uid) { "--init-groups" } else { "--clear-groups" };
                Command::program(program, "setpriv")
                    .arg(format!("--reuid={}", owner.uid))
                    .arg(format!("--regid={}", owner.gid))
                    .arg(groups)
                    .arg("--")
                    .arg(&path)
            }
        };
        for name in MISLEADING {
            command = command.without_env(name);
        }
        // Wherever we were started, the owner may not be able to go there.
        command.dir(&self.data_dir)
    }

    /// Whether it came with this version.
    pub(super) fn has(&self, program: &str) -> bool {
        self.bin_dir.join(program).is_file()
    }

    /// As whom the programs run; none: as ourselves.
    pub(super) fn owner(&self) -> Option<Owner> {
        self.owner
    }
}

fn missing(service: &ServiceName, bin_dir: Option<&Path>, what: &str) -> Error {
    let place = bin_dir.map_or("on this host".to_owned(), |dir| format!("in {}", dir.display()));
    Error::invalid(format!("service {service}: there is no {what} {place}")).hinting(format!(
        "Install the server's programs, or name their directory as `bin-dir` in [service.{service}]."
    ))
}

/// The major version that wrote a data directory.
pub(super) fn data_version(data_dir: &Path) -> Result<u32, Error> {
    let file = data_dir.join("PG_VERSION");
    let text = fs::read_to_string(&file).map_err(|e| {
        Error::io("read", file.display(), e)
            .hinting(format!("Name a PostgreSQL data directory: is {} one?", data_dir.display()))
    })?;
    text.trim()
        .parse()
        .map_err(|_| Error::invalid(format!("{} holds no major version", file.display())))
}

/// Where the programs of a version may be, the likeliest place first.
pub(super) fn candidates(major: u32) -> impl Iterator<Item = PathBuf> {
    let versioned = VERSIONED
        .into_iter()
        .map(move |place| PathBuf::from(place.replace("{}", &major.to_string())));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = env::split_paths(&path).collect();
    versioned.chain(on_path)
}

/// Whether there is a local account of this number.
pub(super) fn has_account(uid: u32) -> bool {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    accounts.lines().any(|line| line.split(':').nth(2) == Some(&uid.to_string()))
}
