//! The real components that tests drive, and how they come onto the machine.
//!
//! What counts is the program, not the package: any machine that has the programs can run the
//! tests. Only where one is missing does Debian's package manager come in.

use crate::Failure;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program that tests need.
struct Need {
    program: &'static str,
    /// Debian's package.
    package: &'static str,
    /// Directories beside PATH, with one `*` allowed for a version.
    also: &'static [&'static str],
}

const POSTGRES_BINARIES: &[&str] = &["/usr/lib/postgresql/*/bin"];
const SYSTEMD: &[&str] = &["/usr/lib/systemd", "/lib/systemd"];
const SBIN: &[&str] = &["/usr/sbin", "/sbin"];

const NEEDS: &[Need] = &[
    // Judges every byte of the repository format.
    Need { program: "restic", package: "restic", also: &[] },
    Need { program: "postgres", package: "postgresql", also: POSTGRES_BINARIES },
    Need { program: "initdb", package: "postgresql", also: POSTGRES_BINARIES },
    Need { program: "pg_basebackup", package: "postgresql", also: POSTGRES_BINARIES },
    Need { program: "pg_amcheck", package: "postgresql", also: POSTGRES_BINARIES },
    Need { program: "psql", package: "postgresql", also: POSTGRES_BINARIES },
    // Before a vault host that nothing listens on.
    Need { program: "sshd", package: "openssh-server", also: SBIN },
    Need { program: "ssh", package: "openssh-client", also: &[] },
    // Unmounts for users who are not root.
    Need { program: "fusermount3", package: "fuse3", also: &[] },
    Need { program: "setfacl", package: "acl", also: &[] },
    // File systems that standbys are refreshed on.
    Need { program: "mkfs.xfs", package: "xfsprogs", also: SBIN },
    Need { program: "mkfs.btrfs", package: "btrfs-progs", also: SBIN },
    Need { program: "mkfs.ext4", package: "e2fsprogs", also: SBIN },
    Need { program: "setfattr", package: "attr", also: &[] },
    // Runs the S3 servers, and brings other versions of PostgreSQL; see pypi.rs.
    Need { program: "python3", package: "python3-venv", also: &[] },
    Need { program: "setpriv", package: "util-linux", also: SBIN },
    // Starts a host of its own, to try the units that are written for it.
    Need { program: "systemd", package: "systemd", also: SYSTEMD },
];

/// Where Debian's PostgreSQL packages look before they create a cluster of their own.
const CLUSTER_SETTINGS: &str = "/etc/postgresql-common/createcluster.d";

/// One of PostgreSQL's programs.
pub(crate) fn postgres(program: &str) -> Option<PathBuf> {
    find(program, POSTGRES_BINARIES)
}

/// Makes sure that every program is there.
pub(crate) fn provide() -> Result<(), Failure> {
    let missing = missing();
    if missing.is_empty() {
        println!("everything that the tests drive is installed");
        return Ok(());
    }
    install(&missing)?;
    let still = self::missing();
    if still.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the packages are installed, and programs are missing all the same: those of {}",
        still.join(", ")
    )))
}

/// Installs Debian's packages, or says how.
pub(crate) fn install(missing: &[&str]) -> Result<(), Failure> {
    let install = format!("apt-get install --no-install-recommends -y {}", missing.join(" "));
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root || find("apt-get", &[]).is_none() {
        let sudo = if is_root { "" } else { "sudo " };
        return Err(Failure::new(format!(
            "the tests drive what is not installed here, from Debian's packages {}.\n\
             Install them with: {sudo}{install}\n\
             and run this again. The packages are not installed for you because {}.",
            missing.join(", "),
            if is_root { "there is no apt-get" } else { "that needs root" },
        )));
    }
    println!("installing {}", missing.join(", "));
    let no_cluster = NoCluster::arrange()?;
    if !apt(&["update", "-qq"]) {
        println!("apt-get update failed; trying with the package lists that are there");
    }
    let mut words = vec!["install", "--no-install-recommends", "-y", "-qq"];
    words.extend(missing);
    let installed = apt(&words);
    drop(no_cluster);
    if installed { Ok(()) } else { Err(Failure::new(format!("{install} failed"))) }
}

/// The packages whose programs are not on this machine.
fn missing() -> Vec<&'static str> {
    let mut packages: Vec<_> = NEEDS
        .iter()
        .filter(|need| find(need.program, need.also).is_none())
        .map(|need| need.package)
        .collect();
    packages.dedup();
    packages
}

/// Finds a program on PATH or in one of these directories.
pub(crate) fn find(program: &str, also: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for pattern in also {
        match pattern.split_once("/*/") {
            None => directories.push(pattern.into()),
            Some((above, below)) => {
                let versions = std::fs::read_dir(above).into_iter().flatten().flatten();
                directories.extend(versions.map(|version| version.path().join(below)));
            }
        }
    }
    directories.into_iter().map(|directory| directory.join(program)).find(|file| file.is_file())
}

fn apt(words: &[&str]) -> bool {
    Command::new("apt-get")
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// While this lives, installing PostgreSQL does not make a cluster of Debian's and start it: tests
/// start servers of their own, and a machine that has none must not find one afterwards.
struct NoCluster {
    file: PathBuf,
}

impl NoCluster {
    fn arrange() -> Result<NoCluster, Failure> {
        let directory = Path::new(CLUSTER_SETTINGS);
        let file = directory.join("mainstay-xtask.conf");
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&file, "create_main_cluster = false\n"))
            .map_err(|e| Failure::new(format!("cannot write {}: {e}", file.display())))?;
        Ok(NoCluster { file })
    }
}

impl Drop for NoCluster {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.file) {
            eprintln!("cannot remove {}: {e}", self.file.display());
        }
    }
}
