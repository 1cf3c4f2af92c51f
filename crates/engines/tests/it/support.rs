//! What the tests share.

use mainstay_engines::Context;
use model::config::Service;
use model::{CancelToken, Progress};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A directory of the test's own, and what an engine is given.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) scratch: PathBuf,
    pub(crate) cancel: CancelToken,
    pub(crate) notes: Notes,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let scratch = dir.path().join("scratch");
        fs::create_dir(&scratch).expect("scratch");
        Bench { dir, scratch, cancel: CancelToken::new(), notes: Notes::default() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn cx(&self) -> Context<'_> {
        Context {
            cancel: &self.cancel,
            progress: &self.notes,
            scratch: &self.scratch,
            callback: &[],
            variables: &[],
            enclosed: None,
        }
    }

    /// Writes an executable script.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("write script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }
}

/// Keeps what was reported.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Vec<String>>);

impl Notes {
    pub(crate) fn all(&self) -> String {
        self.0.lock().expect("notes").join("\n")
    }
}

impl Progress for Notes {
    fn note(&self, line: &str) {
        self.0.lock().expect("notes").push(line.to_owned());
    }
}

/// Waits for a state with a deadline.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and not a zombie.
pub(crate) fn alive(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => false,
    }
}

/// The number that a command wrote into a file, once it is there.
pub(crate) fn pid_in(file: &Path) -> u32 {
    let mut pid = None;
    eventually("a process id in the file", || {
        pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    pid.expect("a process id")
}

/// A service's definition, as it stands in a configuration.
pub(crate) fn service(toml: &str) -> Service {
    toml::from_str(toml).expect("a definition")
}
