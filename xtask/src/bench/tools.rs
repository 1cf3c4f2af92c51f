//! The tools side by side: how each is asked for the same thing.

use super::{failed, must};
use crate::{Failure, cargo, packages, root};
use std::path::{Path, PathBuf};
use std::process::Command;

const PASSWORD: &str = "bench-only-password-7f3a9c1e5b2d8046";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// With its defaults.
    Mainstay,
    /// With `compression = "better"`.
    Better,
    Restic,
    Borg,
    Rustic,
    /// `cp -a`: no backup, but what a restore could cost at the least.
    Copy,
    /// Brings one tree to the state of another, comparing the content of files that changed.
    Rsync,
    /// The same without comparing, as it does by itself between two places of one machine.
    RsyncWhole,
    /// `mainstay wal push`, called by the server.
    Push,
    PgBackRest,
    /// PostgreSQL's own receiver of the log.
    ReceiveWal,
    /// PostgreSQL's own promotion.
    Promote,
    /// What is measured without anybody's doing.
    Nothing,
}

/// A tool's place, and what it is to back up.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) source: &'a Path,
    /// Everything that it keeps is below.
    pub(super) home: &'a Path,
    /// More of a service's definition.
    pub(super) definition: &'a str,
}

impl<'a> Job<'a> {
    pub(super) fn plain(source: &'a Path, home: &'a Path) -> Job<'a> {
        Job { source, home, definition: "" }
    }

    fn out(&self) -> PathBuf {
        self.home.join("out")
    }
}

/// The tools that are here, with what each says of its version.
pub(super) fn present() -> Result<Vec<(Tool, String)>, Failure> {
    let mut present = Vec::new();
    for tool in Tool::ALL {
        if tool.is_ours() || tool.program_path().is_some() {
            present.push((tool, tool.version()?));
        }
    }
    Ok(present)
}

/// Where cargo puts rustic.
fn peers() -> PathBuf {
    root().join("target/peers")
}

/// Builds rustic, unless that was done before.
pub(super) fn build_rustic() -> Result<(), Failure> {
    println!("building rustic");
    let done = cargo()
        .args(["install", "rustic-rs", "--locked", "--no-default-features", "--quiet", "--root"])
        .arg(peers())
        .status();
    if done.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(Failure::new("cargo cannot install rustic-rs"))
}

impl Tool {
    pub(super) const ALL: [Tool; 8] = [
        Tool::Mainstay,
        Tool::Better,
        Tool::Restic,
        Tool::Borg,
        Tool::Rustic,
        Tool::Copy,
        Tool::Rsync,
        Tool::RsyncWhole,
    ];
    /// Those that back a tree up and restore it, or copy it.
    pub(super) const TREE: [Tool; 6] =
        [Tool::Mainstay, Tool::Better, Tool::Restic, Tool::Borg, Tool::Rustic, Tool::Copy];
    /// All that may stand in a table, in this order.
    pub(super) const ROWS: [Tool; 13] = [
        Tool::Mainstay,
        Tool::Better,
        Tool::Push,
        Tool::Restic,
        Tool::Borg,
        Tool::Rustic,
        Tool::PgBackRest,
        Tool::ReceiveWal,
        Tool::Promote,
        Tool::Copy,
        Tool::Rsync,
        Tool::RsyncWhole,
        Tool::Nothing,
    ];
    /// Those that make repositories, with their defaults.
    pub(super) const BACKUP: [Tool; 4] = [Tool::Mainstay, Tool::Restic, Tool::Borg, Tool::Rustic];

    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Mainstay => "mainstay",
            Tool::Better => "mainstay, better",
            Tool::Restic => "restic",
            Tool::Borg => "borg",
            Tool::Rustic => "rustic",
            Tool::Copy => "cp -a",
            Tool::Rsync => "rsync --inplace --no-whole-file",
            Tool::RsyncWhole => "rsync --inplace",
            Tool::Push => "mainstay wal push",
            Tool::PgBackRest => "pgbackrest",
            Tool::ReceiveWal => "pg_receivewal",
            Tool::Promote => "pg_ctl promote",
            Tool::Nothing => "nobody",
        }
    }

    pub(super) fn is_ours(self) -> bool {
        matches!(self, Tool::Mainstay | Tool::Better)
    }

    fn program_path(self) -> Option<PathBuf> {
        let built = peers().join("bin/rustic");
        match self {
            Tool::Mainstay | Tool::Better => Some(root().join("target/release/mainstay")),
            Tool::Rustic if built.exists() => Some(built),
            Tool::Copy => packages::find("cp", &[]),
            Tool::Rsync | Tool::RsyncWhole => packages::find("rsync", &[]),
            other => packages::find(other.name(), &[]),
        }
    }

    fn program(self) -> Command {
        Command::new(self.program_path().unwrap_or_else(|| self.name().into()))
    }

    /// The tool's own word for its version.
    fn version(self) -> Result<String, Failure> {
        let word = if self == Tool::Restic { "version" } else { "--version" };
        let output = self
            .program()
            .arg(word)
            .output()
            .map_err(|e| Failure::new(format!("cannot start {}: {e}", self.name())))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        let words: Vec<&str> = first.split_whitespace().take(4).collect();
        let few = match self {
            Tool::Copy => words.len(),
            Tool::Rsync | Tool::RsyncWhole => 3,
            _ => 2,
        };
        Ok(words.into_iter().take(few).collect::<Vec<_>>().join(" "))
    }

    /// The tool with everything it keeps below `home`.
    fn at(self, home: &Path) -> Command {
        let mut command = self.program();
        match self {
            Tool::Mainstay | Tool::Better => {
                command.arg("--config").arg(home.join("mainstay.toml"));
            }
            Tool::Restic => {
                command
                    .arg("--repo")
                    .arg(self.repository(home))
                    .env("RESTIC_PASSWORD", PASSWORD)
                    .env("RESTIC_CACHE_DIR", home.join("cache"));
            }
            Tool::Borg => {
                command
                    .env("BORG_REPO", self.repository(home))
                    .env("BORG_PASSPHRASE", PASSWORD)
                    .env("BORG_BASE_DIR", home.join("base"));
            }
            Tool::Rustic => {
                command
                    .env("RUSTIC_REPOSITORY", self.repository(home))
                    .env("RUSTIC_PASSWORD", PASSWORD)
                    .env("RUSTIC_CACHE_DIR", home.join("cache"))
                    .env("RUSTIC_NO_PROGRESS", "true");
            }
            _ => {}
        }
        command
    }

    /// Where its repository is.
    pub(super) fn repository(self, home: &Path) -> PathBuf {
        if self.is_ours() { home.join("vault/data") } else { home.join("repository") }
    }

    /// Makes an empty repository. Ours makes its own password, as it does for its users.
    pub(super) fn init(self, job: Job<'_>) -> Result<(), Failure> {
        let home = job.home;
        std::fs::create_dir_all(home).map_err(|e| failed("make", home, &e))?;
        if self.is_ours() {
            let config = home.join("mainstay.toml");
            let mut text = configuration(job);
            if self == Tool::Better {
                text.push_str("compression = \"better\"\n");
            }
            std::fs::write(&config, text).map_err(|e| failed("write", &config, &e))?;
        }
        let mut command = self.at(home);
        match self {
            Tool::Copy | Tool::Rsync | Tool::RsyncWhole => return Ok(()),
            Tool::Borg => command.args(["init", "--encryption", "repokey"]),
            _ => command.arg("init"),
        };
        must(&mut command)
    }

    /// A backup; borg wants a new name for each.
    pub(super) fn backup(self, job: Job<'_>, name: &str) -> Command {
        let mut command = self.at(job.home);
        match self {
            Tool::Mainstay | Tool::Better => command.args(["backup", "data"]),
            Tool::Restic | Tool::Rustic => command.arg("backup").arg(job.source),
            Tool::Borg => command
                .args(["create", "--compression", "zstd,3"])
                .arg(format!("::{name}"))
                .arg(job.source),
            _ => command.arg("-a").arg(job.source).arg(job.out()),
        };
        command
    }

    /// On the repository of ours at this home, whoever it is.
    fn at_ours(self, home: &Path) -> Command {
        match self {
            Tool::Restic => {
                let mut command = self.program();
                command
                    .arg("--repo")
                    .arg(Tool::Mainstay.repository(home))
                    .arg("--password-file")
                    .arg(home.join("password"))
                    .env("RESTIC_CACHE_DIR", home.join("cache"));
                command
            }
            Tool::Rustic => {
                let mut command = self.program();
                command
                    .env("RUSTIC_REPOSITORY", Tool::Mainstay.repository(home))
                    .env("RUSTIC_PASSWORD_FILE", home.join("password"))
                    .env("RUSTIC_CACHE_DIR", home.join("rustic-cache"))
                    .env("RUSTIC_NO_PROGRESS", "true");
                command
            }
            _ => self.at(home),
        }
    }

    /// Makes an empty repository where ours would be, with a password that ours finds.
    pub(super) fn found(self, job: Job<'_>) -> Result<(), Failure> {
        let (repository, file) = (Tool::Mainstay.repository(job.home), job.home.join("password"));
        std::fs::create_dir_all(&repository).map_err(|e| failed("make", &repository, &e))?;
        std::fs::write(&file, PASSWORD).map_err(|e| failed("write", &file, &e))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, private).map_err(|e| failed("protect", &file, &e))?;
        must(self.at_ours(job.home).arg("init"))
    }

    /// Something that needs the whole index of a repository of ours, and little else.
    pub(super) fn open(self, job: Job<'_>) -> Command {
        let mut command = self.at_ours(job.home);
        match self {
            Tool::Restic => command.args(["stats", "--mode", "raw-data"]),
            _ => command.args(["stats", "data"]),
        };
        command
    }

    /// A backup into a repository of ours, whoever makes it.
    pub(super) fn backup_into_ours(self, job: Job<'_>) -> Command {
        match self {
            Tool::Restic | Tool::Rustic => {
                let mut command = self.at_ours(job.home);
                command.arg("backup").arg(job.source);
                command
            }
            _ => self.backup(job, ""),
        }
    }

    /// A restore out of a repository of ours, of what this tool backed up last.
    pub(super) fn restore_of_ours(self, job: Job<'_>) -> Command {
        let mut command = self.at_ours(job.home);
        match self {
            Tool::Restic => {
                let tree = job.source;
                command.args(["restore", "latest", "--path"]).arg(tree).arg("--target");
                command.arg(job.out());
                command
            }
            Tool::Rustic => {
                command.args(["restore", "latest"]).arg(job.out());
                command
            }
            _ => self.restore(job, ""),
        }
    }

    /// Reads every byte of a repository of ours.
    pub(super) fn check_ours(self, job: Job<'_>) -> Command {
        match self {
            Tool::Restic | Tool::Rustic => {
                let mut command = self.at_ours(job.home);
                command.args(["check", "--read-data"]);
                command
            }
            _ => self.check(job),
        }
    }

    /// A backup that is told where the image was written to since the last one. Only ours can.
    pub(super) fn backup_ranges(self, job: Job<'_>, ranges: &Path) -> Result<Command, Failure> {
        let listed = self
            .at(job.home)
            .args(["snapshots", "data"])
            .output()
            .map_err(|e| Failure::new(format!("cannot list the points: {e}")))?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        // The newest is the last line, and its name the first word.
        let newest = listed.lines().last().and_then(|line| line.split_whitespace().next());
        let newest = newest.ok_or_else(|| Failure::new("there is no point".to_owned()))?;
        let mut command = self.backup(job, "");
        command.arg("--changed").arg(ranges).args(["--since", newest]);
        Ok(command)
    }

    /// A restore of the newest backup, to a directory that is not there. borg restores by name.
    pub(super) fn restore(self, job: Job<'_>, name: &str) -> Command {
        let mut command = self.at(job.home);
        let out = job.out();
        match self {
            Tool::Mainstay | Tool::Better => command.args(["restore", "data", "--target"]).arg(out),
            Tool::Restic => command.args(["restore", "latest", "--target"]).arg(out),
            Tool::Rustic => command.args(["restore", "latest"]).arg(out),
            Tool::Borg => {
                // borg extracts into the working directory. If it cannot be made, the command
                // cannot run.
                std::fs::create_dir_all(&out).ok();
                command.arg("extract").arg(format!("::{name}")).current_dir(out)
            }
            _ => command.arg("-a").arg(job.source).arg(out),
        };
        command
    }

    /// Reads every byte of the repository.
    pub(super) fn check(self, job: Job<'_>) -> Command {
        let mut command = self.at(job.home);
        match self {
            Tool::Mainstay | Tool::Better => command.args(["check", "data", "--read-data"]),
            Tool::Restic | Tool::Rustic => command.args(["check", "--read-data"]),
            Tool::Borg => command.args(["check", "--verify-data"]),
            _ => command.arg("--version"),
        };
        command
    }

    /// Keeps the newest so many backups and frees the space of the others.
    pub(super) fn thin(self, job: Job<'_>, keep: u64) -> Command {
        let mut command = self.at(job.home);
        let keep = keep.to_string();
        match self {
            Tool::Mainstay | Tool::Better => {
                command.args(["forget", "data", "--yes", "--prune", "--keep-last", &keep])
            }
            Tool::Restic | Tool::Rustic => {
                command.args(["forget", "--prune", "--keep-last", &keep])
            }
            Tool::Borg => command.args(["prune", "--keep-last", &keep]),
            _ => command.arg("--version"),
        };
        command
    }

    /// Brings the copy of a tree to its state.
    pub(super) fn follow(self, source: &Path, copy: &Path) -> Command {
        let mut command = self.program();
        command.args(["-a", "--inplace", "--delete"]);
        if self == Tool::Rsync {
            command.arg("--no-whole-file");
        }
        // With a slash the content of the directory is meant, and not the directory.
        command.arg(source.join("")).arg(copy.join(""));
        command
    }

    /// Ours, on a host with this directory.
    pub(super) fn on(self, home: &Path) -> Command {
        self.at(home)
    }

    /// Where the tree is after a restore.
    pub(super) fn restored(self, job: Job<'_>) -> PathBuf {
        let out = job.out();
        let inside = out.join(job.source.strip_prefix("/").unwrap_or(job.source));
        match self {
            // A single root is restored as the target itself.
            Tool::Copy => out,
            _ if self.is_ours() && !inside.exists() => out,
            _ => inside,
        }
    }
}

fn configuration(job: Job<'_>) -> String {
    let text = |path: PathBuf| toml::Value::from(path.to_string_lossy().into_owned());
    format!(
        "[host]\nname = \"bench\"\nstate-dir = {}\n\n[vault]\nurl = {}\npassword-file = {}\n\n\
         [service.data]\nengine = \"files\"\npath = {}\n{}",
        text(job.home.join("state")),
        text(job.home.join("vault")),
        text(job.home.join("password")),
        text(job.source.to_path_buf()),
        job.definition,
    )
}
