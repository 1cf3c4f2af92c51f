//! The tools side by side: how each is asked for the same thing.

use super::failed;
use crate::{Failure, root};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PASSWORD: &str = "bench-only-password-7f3a9c1e5b2d8046";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Mainstay,
    Restic,
    Borg,
}

/// What each tool does in a round, in this order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    First,
    Unchanged,
    Restore,
    Check,
}

impl Step {
    pub(super) const ALL: [Step; 4] = [Step::First, Step::Unchanged, Step::Restore, Step::Check];

    pub(super) fn name(self) -> &'static str {
        match self {
            Step::First => "first backup",
            Step::Unchanged => "unchanged backup",
            Step::Restore => "restore",
            Step::Check => "check every byte",
        }
    }
}

impl Tool {
    pub(super) const ALL: [Tool; 3] = [Tool::Mainstay, Tool::Restic, Tool::Borg];

    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Mainstay => "mainstay",
            Tool::Restic => "restic",
            Tool::Borg => "borg",
        }
    }

    fn program(self) -> Command {
        match self {
            Tool::Mainstay => Command::new(root().join("target/release/mainstay")),
            other => Command::new(other.name()),
        }
    }

    /// The tool's own word for its version.
    pub(super) fn version(self) -> Result<String, Failure> {
        let word = if self == Tool::Restic { "version" } else { "--version" };
        let output = self
            .program()
            .arg(word)
            .output()
            .map_err(|e| Failure::new(format!("cannot start {}: {e}", self.name())))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let words: Vec<&str> = text.split_whitespace().take(2).collect();
        Ok(words.join(" "))
    }

    /// The tool with everything it keeps below `home`.
    fn at(self, home: &Path) -> Command {
        let mut command = self.program();
        match self {
            Tool::Mainstay => {
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
        }
        command
    }

    /// Where its repository is.
    pub(super) fn repository(self, home: &Path) -> PathBuf {
        match self {
            Tool::Mainstay => home.join("vault/docs"),
            _ => home.join("repository"),
        }
    }

    /// Makes an empty repository for the tree.
    pub(super) fn init(self, source: &Path, home: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(home).map_err(|e| failed("make", home, &e))?;
        let mut command = self.at(home);
        match self {
            Tool::Mainstay => {
                let password = home.join("password");
                std::fs::write(&password, PASSWORD).map_err(|e| failed("write", &password, &e))?;
                let config = home.join("mainstay.toml");
                std::fs::write(&config, configuration(source, home))
                    .map_err(|e| failed("write", &config, &e))?;
                command.arg("init");
            }
            Tool::Restic => {
                command.arg("init");
            }
            Tool::Borg => {
                command.args(["init", "--encryption", "repokey"]);
            }
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Failure::new(format!("cannot start {}: {e}", self.name())))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!("{} init failed: {said}", self.name())))
    }

    /// The command of one step. All write to a fresh directory `out` when they restore.
    pub(super) fn command(self, step: Step, source: &Path, home: &Path) -> Command {
        let mut command = self.at(home);
        let out = home.join("out");
        match (self, step) {
            (Tool::Mainstay, Step::First | Step::Unchanged) => {
                command.args(["backup", "docs"]);
            }
            (Tool::Mainstay, Step::Restore) => {
                command.args(["restore", "docs", "--target"]).arg(out);
            }
            (Tool::Mainstay, Step::Check) => {
                command.args(["check", "docs", "--read-data"]);
            }
            (Tool::Restic, Step::First | Step::Unchanged) => {
                command.arg("backup").arg(source);
            }
            (Tool::Restic, Step::Restore) => {
                command.args(["restore", "latest", "--target"]).arg(out);
            }
            (Tool::Restic, Step::Check) => {
                command.args(["check", "--read-data"]);
            }
            (Tool::Borg, Step::First) => {
                command.args(["create", "--compression", "zstd,3", "::first"]).arg(source);
            }
            (Tool::Borg, Step::Unchanged) => {
                command.args(["create", "--compression", "zstd,3", "::second"]).arg(source);
            }
            (Tool::Borg, Step::Restore) => {
                // borg extracts into the working directory.
                command.args(["extract", "::first"]).current_dir(make(&out));
            }
            (Tool::Borg, Step::Check) => {
                command.args(["check", "--verify-data"]);
            }
        }
        command
    }

    /// Where the tree is after a restore to `out`.
    pub(super) fn restored(self, source: &Path, home: &Path) -> PathBuf {
        let out = home.join("out");
        let inside = source.strip_prefix("/").unwrap_or(source);
        match self {
            // A single root is restored as the target itself.
            Tool::Mainstay if !out.join(inside).exists() => out,
            _ => out.join(inside),
        }
    }
}

/// The directory, made. If that fails, so does the command that is to run in it.
fn make(directory: &Path) -> &Path {
    std::fs::create_dir_all(directory).ok();
    directory
}

fn configuration(source: &Path, home: &Path) -> String {
    let text = |path: PathBuf| toml::Value::from(path.to_string_lossy().into_owned());
    format!(
        "[host]\nname = \"bench\"\nstate-dir = {}\n\n[vault]\nurl = {}\npassword-file = {}\n\n\
         [service.docs]\nengine = \"files\"\npath = {}\n",
        text(home.join("state")),
        text(home.join("vault")),
        text(home.join("password")),
        text(source.to_path_buf()),
    )
}
