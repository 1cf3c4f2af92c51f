//! The demo is the whole main job: these tests run it as a newcomer would.

use crate::rig::{mainstay, run};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A temporary directory that the user of a database server can enter too.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777))
        .expect("it can be opened up");
    dir
}

/// Command lines of processes that name this directory.
fn processes_of(dir: &Path) -> Vec<String> {
    let name = dir.display().to_string();
    let mut found = Vec::new();
    for item in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(line) = std::fs::read(item.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&name) {
            found.push(line);
        }
    }
    found
}

/// Nothing of the demo is left: no file, no process.
fn nothing_left(dir: &Path) {
    let left: Vec<_> = std::fs::read_dir(dir).expect("it is there").flatten().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let running = processes_of(dir);
        if running.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still running: {running:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn plays(engine: &str) {
    let dir = open_dir();
    let said = run(mainstay().env("TMPDIR", dir.path()).args(["demo", "--engine", engine])).code(0);
    let said = said.says("checks held.").says("What was lost").says("must not serve");
    assert!(!said.out.contains("FAILED"), "{}", said.out);
    nothing_left(dir.path());
}

#[test]
fn sqlite() {
    plays("sqlite");
}

#[test]
fn files() {
    plays("files");
}

#[test]
fn postgres() {
    plays("postgres");
}

/// Somebody who has seen enough presses Ctrl-C in the middle.
#[test]
fn an_interrupted_one_clears_up() {
    let dir = open_dir();
    let mut child = mainstay()
        .env("TMPDIR", dir.path())
        .arg("demo")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let deadline = Instant::now() + Duration::from_secs(30);
    // The shop sells: there is a ledger, a vault, and a writer to be stopped.
    while processes_of(dir.path()).iter().all(|line| !line.contains("demo-writer")) {
        assert!(Instant::now() < deadline, "the shop never opened");
        assert!(child.try_wait().expect("it can be asked").is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it can be signalled");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    nothing_left(dir.path());
}
