//! The demo from end to end: it tells the truth, and it leaves nothing behind.

use crate::rig::{Rig, Said, mainstay, run};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything here may take, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A temporary directory of the demo's own, which must be empty in the end.
struct Playground {
    rig: Rig,
}

impl Playground {
    fn new() -> Playground {
        let rig = Rig::new();
        // PostgreSQL does not run as root, and its user must get here.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(rig.path(""), open).unwrap();
        std::fs::create_dir(rig.path("tmp")).unwrap();
        let shared = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(rig.path("tmp"), shared).unwrap();
        Playground { rig }
    }

    fn tmp(&self) -> PathBuf {
        self.rig.path("tmp")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = mainstay();
        command.env("TMPDIR", self.tmp()).arg("demo").args(words);
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Said {
        run(&mut self.command(words))
    }

    /// Starts it and waits until its customers have ordered something.
    fn start(&self) -> Child {
        let child = self
            .command(&[])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the demo starts");
        wait_until("an order to be taken", || {
            entries(&self.tmp()).iter().any(|stage| {
                std::fs::read_to_string(stage.join("ledger")).is_ok_and(|t| t.contains("ack"))
            })
        });
        child
    }

    /// Nothing of it is left: no file, and no process that works there.
    #[track_caller]
    fn must_be_clear(&self) {
        wait_until("the stage to be cleared", || entries(&self.tmp()).is_empty());
        let here = self.tmp().canonicalize().unwrap();
        wait_until("the demo's processes to end", || working_below(&here).is_empty());
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn working_below(directory: &Path) -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let cwd = |process: &PathBuf| std::fs::read_link(process.join("cwd"));
    processes.filter(|p| cwd(p).is_ok_and(|cwd| cwd.starts_with(directory))).collect()
}

#[track_caller]
fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").arg(name).arg(child.id().to_string()).status().unwrap();
    assert!(sent.success());
}

/// Runs it to its end, and compares what it says with what it counted.
#[track_caller]
fn plays_to_its_end(engine: &str) {
    let playground = Playground::new();
    let document = playground.run(&["--engine", engine, "--json"]).code(0).json();
    playground.must_be_clear();
    assert_eq!(document["engine"], engine);
    assert_eq!(document["held"], true);
    let checks = document["checks"].as_array().expect("checks");
    assert!(checks.len() >= 10, "{checks:#?}");
    assert!(checks.iter().all(|check| check["held"] == true), "{checks:#?}");
    let loss = &document["loss"];
    let number = |value: &Value| value.as_i64().unwrap_or(-1);
    // Orders were taken after the last refresh, and the host was lost in the middle of one.
    assert!(number(&loss["acknowledged"]) > number(&loss["lost"]), "{loss}");
    assert!(number(&loss["lost"]) >= 0, "{loss}");
    assert!(number(&loss["announced-ms"]) >= number(&loss["lost-ms"]), "{loss}");
    assert!(number(&document["outage-ms"]) > 0, "{document}");
    let steps = document["steps"].as_array().expect("steps");
    let of = |host: &str, command: &str| {
        steps.iter().filter(|s| s["host"] == host && s["command"] == command).collect::<Vec<_>>()
    };
    assert_eq!(of("a", "mainstay backup shop").len(), 3, "{steps:#?}");
    assert_eq!(of("b", "mainstay refresh shop").len(), 2, "{steps:#?}");
    // The last of each on host A is refused, by the gate and by the vault.
    for command in ["./start-shop", "mainstay backup shop"] {
        let last = of("a", command).pop().expect("a step");
        assert_ne!(last["exit-code"], 0, "{last}");
    }
}

#[test]
fn the_shop_on_sqlite_survives_its_host() {
    plays_to_its_end("sqlite");
}

#[test]
fn the_shop_in_files_survives_its_host() {
    plays_to_its_end("files");
}

#[test]
fn the_shop_on_postgres_survives_its_host() {
    plays_to_its_end("postgres");
}

#[test]
fn what_is_kept_can_be_looked_at_and_nothing_of_it_runs() {
    let playground = Playground::new();
    let said = playground.run(&["--keep"]).code(0);
    let said = said.says("checks held").says("What was lost").says("must not serve");
    let kept = entries(&playground.tmp());
    assert_eq!(kept.len(), 1, "{said:#?}");
    assert!(kept[0].join("vault/shop/config").is_file());
    assert_eq!(
        working_below(&playground.tmp().canonicalize().unwrap()),
        [""; 0].map(PathBuf::from)
    );
}

#[test]
fn a_demo_that_is_interrupted_cleans_up() {
    for name in ["-INT", "-TERM"] {
        let playground = Playground::new();
        let mut child = playground.start();
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{name}");
        playground.must_be_clear();
    }
}

#[test]
fn a_demo_that_is_killed_is_cleaned_up_after() {
    let playground = Playground::new();
    let mut child = playground.start();
    child.kill().unwrap();
    child.wait().unwrap();
    playground.must_be_clear();
}
