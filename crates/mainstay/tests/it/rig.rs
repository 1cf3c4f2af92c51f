//! A machine in a temporary directory: configuration, vault, and the real binary.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run of the binary said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Fails the test unless the exit code is this.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Said {
        assert_eq!(self.code, expected, "{self:#?}");
        self
    }

    /// Fails the test unless standard error holds this.
    #[track_caller]
    pub(crate) fn complains(self, text: &str) -> Said {
        assert!(self.err.contains(text), "no {text:?} in {self:#?}");
        self
    }

    /// Fails the test unless standard output holds this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Said {
        assert!(self.out.contains(text), "no {text:?} in {self:#?}");
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// Standard error as one JSON document.
    #[track_caller]
    pub(crate) fn error_json(&self) -> Value {
        serde_json::from_str(&self.err).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }
}

/// The binary, with nothing of the tester's surroundings.
pub(crate) fn mainstay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

/// Puts a copy of the binary where users can reach it that cannot reach the place where it was built.
/// Another process does: while this one wrote to it, whatever another test starts would hold it open,
/// and a file that is open for writing cannot be run.
#[track_caller]
pub(crate) fn copy_program(to: &Path) {
    run(Command::new("cp").arg(env!("CARGO_BIN_EXE_mainstay")).arg(to)).code(0);
}

/// Writes a shell script that can be run. Another process does that, too.
#[track_caller]
pub(crate) fn script(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut install = install.spawn().expect("the program starts");
    let mut input = install.stdin.take().expect("a pipe");
    write!(input, "#!/bin/sh\n{text}").expect("a script");
    drop(input);
    assert!(install.wait().expect("it ends").success(), "{}", path.display());
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Said {
    let output = command.output().expect("the program starts");
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The machine.
pub(crate) struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    /// An empty machine.
    pub(crate) fn new() -> Rig {
        Rig::new_in(&std::env::temp_dir())
    }

    /// The same, on the file system of a directory.
    pub(crate) fn new_in(parent: &Path) -> Rig {
        Rig { dir: tempfile::tempdir_in(parent).expect("a temporary directory") }
    }

    /// A place on it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).expect("a directory");
        }
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// Writes the configuration: host and vault, then these lines.
    pub(crate) fn configure(&self, services: &str) {
        let text = format!(
            "[host]\nname = \"here\"\nstate-dir = \"{}\"\n\n[vault]\nurl = \"{}\"\n\
             password-file = \"{}\"\n\n{services}",
            self.path("state").display(),
            self.path("vault").display(),
            self.path("password").display(),
        );
        self.write("mainstay.toml", text);
    }

    /// The binary with this machine's configuration and these words.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = mainstay();
        command.env("MAINSTAY_CONFIG", self.path("mainstay.toml"));
        command.env("HOME", self.path("home")).args(words);
        command
    }

    /// Runs the binary with these words.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        run(&mut self.command(words))
    }
}

/// The real restic, on the repository of a service.
pub(crate) fn restic(rig: &Rig, service: &str) -> Command {
    let mut command = restic_at(&rig.path("vault").join(service), &rig.path("password"));
    command.env("HOME", rig.path("home")).env("RESTIC_CACHE_DIR", rig.path("restic-cache"));
    command
}

/// The real restic, on a repository anywhere.
pub(crate) fn restic_at(repository: &Path, password_file: &Path) -> Command {
    let mut command = Command::new("restic");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("RESTIC_REPOSITORY", repository)
        .env("RESTIC_PASSWORD_FILE", password_file)
        .stdin(Stdio::null());
    command
}
