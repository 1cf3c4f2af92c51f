//! Engines that are programs of their own: the example of the documentation, and programs that
//! answer what they should not.

use crate::contract::{Fixture, contract_suite, meta};
use crate::sink::DirSink;
use crate::support::{Bench, service};
use mainstay_engines::external::External;
use mainstay_engines::{Engine, Isolation, Rehearsal, Running, Staged, open};
use model::config::Service;
use model::{Class, Classify, ServiceName};
use std::path::{Path, PathBuf};
use std::process::Command;

contract_suite!(example, crate::external::Repository::new());

/// A bare Git repository that numbered commits are pushed to.
pub(crate) struct Repository {
    bench: Bench,
}

impl Repository {
    pub(crate) fn new() -> Self {
        let bench = Bench::new();
        let (bare, work) = (bench.path("shop.git"), bench.path("work"));
        git(bench.dir.path(), &["init", "-q", "--bare", "-b", "main", &text(&bare)]);
        git(bench.dir.path(), &["clone", "-q", &text(&bare), &text(&work)]);
        git(&work, &["checkout", "-q", "-b", "main"]);
        let repository = Repository { bench };
        repository.write();
        repository
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@localhost"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("git is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// The number of commits, which must be `1`, `2`, … in this order.
fn commits(repository: &Path) -> u64 {
    let subjects = git(repository, &["log", "--reverse", "--format=%s", "main"]);
    let mut count = 0;
    for subject in subjects.lines() {
        count += 1;
        assert_eq!(subject, count.to_string());
    }
    count
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/engines/examples/mainstay-engine-git")
}

impl Fixture for Repository {
    fn bench(&self) -> &Bench {
        &self.bench
    }

    fn definition(&self) -> Service {
        service(&format!("engine = 'git'\npath = '{}'", self.bench.path("shop.git").display()))
    }

    fn absent(&self) -> Service {
        service(&format!("engine = 'git'\npath = '{}'", self.bench.path("nowhere.git").display()))
    }

    fn open(&self, definition: &Service) -> Box<dyn Engine> {
        Box::new(External::at(&example(), &self.name(), definition).expect("the example engine"))
    }

    fn write(&self) -> u64 {
        let (bare, work) = (self.bench.path("shop.git"), self.bench.path("work"));
        // What was restored may be older than what the work tree has.
        git(&work, &["fetch", "-q"]);
        let next = if commits_exist(&bare) {
            git(&work, &["reset", "-q", "--hard", "origin/main"]);
            commits(&bare) + 1
        } else {
            1
        };
        git(&work, &["commit", "-q", "--allow-empty", "-m", &next.to_string()]);
        git(&work, &["push", "-q", "origin", "main"]);
        next
    }

    fn newest(&self) -> u64 {
        commits(&self.bench.path("shop.git"))
    }

    fn newest_in(&self, copy: &[Staged]) -> u64 {
        commits(&copy[0].staged)
    }

    fn footprint(&self) -> String {
        git(&self.bench.path("shop.git"), &["for-each-ref"])
    }
}

fn commits_exist(bare: &Path) -> bool {
    !git(bare, &["for-each-ref"]).is_empty()
}

/// An engine whose program is this shell script; the verb is `$1`, the question in `$ask`.
fn engine(bench: &Bench, body: &str) -> Result<External, mainstay_engines::Error> {
    let program = bench.script(
        "mainstay-engine-test",
        &format!(
            "#!/bin/sh\nask=$(cat)\nroots='[{{\"in-snapshot\": \"/test\", \"on-host\": \
             \"{dir}/data\", \"kind\": \"tree\"}}]'\n\
             id=$(echo \"$ask\" | sed 's/.*\"capture-id\":\"\\([^\"]*\\)\".*/\\1/')\n\
             now=$(date -u +%FT%TZ)\n\
             echo \"$1\" >> '{dir}/log'\n{body}\n",
            dir = bench.dir.path().display()
        ),
    );
    let definition = service("engine = 'test'\npassword-env = 'HOME'");
    External::at(&program, &ServiceName::new("shop").expect("a name"), &definition)
}

const DESCRIBE: &str = "[ $1 = describe ] && { echo \"{\\\"protocol\\\": 1, \\\"roots\\\": $roots}\"; \
                        exit; }";

#[test]
fn descriptions_that_cannot_be_are_refused() {
    for (body, says) in [
        ("exit 3", "exit code 3"),
        ("echo hello", "did not answer"),
        ("echo '{}'", "did not answer"),
        ("echo '{\"protocol\": 2, \"roots\": []}'", "protocol 2"),
        ("echo '{\"protocol\": 1, \"roots\": []}'", "names no roots"),
        ("echo '{\"protocol\": 1, \"roots\": [], \"rehearse\": 2}'", "rehearsals number 2"),
        ("echo '{\"protocol\": 1, \"roots\": [], \"shiny\": true}'", "did not answer"),
    ] {
        let bench = Bench::new();
        let error = engine(&bench, body).expect_err(body);
        assert!(error.to_string().contains(says), "{body}: {error}");
    }
    for at in ["", "/", "x", "/a/../b", "/a//b", "/.mainstay/snapshot.json", "/a/"] {
        let bench = Bench::new();
        let body = format!(
            "echo '{{\"protocol\": 1, \"roots\": [{{\"in-snapshot\": \"{at}\", \"on-host\": \"/x\", \
             \"kind\": \"tree\"}}]}}'"
        );
        let error = engine(&bench, &body).expect_err(at);
        assert_eq!(error.class(), Class::Invalid, "{at:?}: {error}");
    }
}

#[test]
fn captures_that_cannot_be_believed_store_nothing_and_are_always_released() {
    let tree = |source: &str| format!("{{\"in-snapshot\": \"/test\", \"source\": \"{source}\"}}");
    let other = "{\"in-snapshot\": \"/etc\", \"source\": \"/etc\"}";
    let answer = |id: &str, time: &str, trees: &str| {
        let trees = trees.replace('"', "\\\"");
        format!(
            "[ $1 = release ] && {{ echo '{{}}'; exit; }}\n[ $1 = capture ] && echo \
             \"{{\\\"capture-id\\\": \\\"{id}\\\", \\\"source-time\\\": \\\"{time}\\\", \
             \\\"trees\\\": [{trees}]}}\""
        )
    };
    let there = Bench::new();
    let dir = there.dir.path().display().to_string();
    for (body, says) in [
        ("[ $1 = release ] && { echo '{}'; exit; }; echo broken >&2; exit 1".to_owned(), "broken"),
        (answer("0123", "$now", &tree(&dir)), "another capture"),
        (answer("$id", "2001-01-01T00:00:00Z", &tree(&dir)), "stale"),
        (answer("$id", "$now", ""), "not exactly once"),
        (answer("$id", "$now", &format!("{0},{0}", tree(&dir))), "not exactly once"),
        (answer("$id", "$now", &format!("{},{other}", tree(&dir))), "none of its roots"),
        (answer("$id", "$now", &tree("relative")), "no directory"),
        (answer("$id", "$now", &tree("/etc/hostname-of-nobody")), "no directory"),
        (answer("$id", "$now", &tree("/etc/passwd")), "no directory"),
    ] {
        let bench = Bench::new();
        let engine = engine(&bench, &format!("{DESCRIBE}\n{body}")).expect("described");
        let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
        let error = engine.capture(&bench.cx(), &mut sink).expect_err(&body);
        assert!(error.to_string().contains(says), "{body}: {error}");
        assert!(sink.calls.is_empty(), "{body}");
        let log = std::fs::read_to_string(bench.path("log")).expect("log");
        assert_eq!(log, "describe\ncapture\nrelease\n", "{body}");
    }
}

#[test]
fn what_is_not_released_fails_the_capture() {
    let bench = Bench::new();
    let body = format!(
        "{DESCRIBE}\n[ $1 = release ] && {{ echo volume busy >&2; exit 1; }}\n\
         echo \"{{\\\"capture-id\\\": \\\"$id\\\", \\\"source-time\\\": \\\"$now\\\", \\\"trees\\\": \
         [{{\\\"in-snapshot\\\": \\\"/test\\\", \\\"source\\\": \\\"{}\\\"}}]}}\"",
        bench.path("data").display()
    );
    std::fs::create_dir(bench.path("data")).expect("data");
    let engine = engine(&bench, &body).expect("described");
    let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
    let error = engine.capture(&bench.cx(), &mut sink).expect_err("left behind");
    assert!(error.to_string().contains("volume busy"), "{error}");
}

#[test]
fn a_verb_that_is_not_known_is_an_error_and_the_password_stays_here() {
    let bench = Bench::new();
    let body = format!("{DESCRIBE}\n[ $1 = ready ] && {{ env >&2; echo '{{}}'; exit; }}\nexit 0");
    let engine = engine(&bench, &body).expect("described");
    // It "succeeds" without an answer.
    engine.inspect(&bench.cx()).expect_err("no answer");
    assert_eq!(engine.running(&bench.cx()).expect("no commands"), Running::Unknown);
    let root = engine.roots()[0].clone();
    engine.ready_to_replace(&bench.cx(), &root, &bench.path("data")).expect("ready");
    let env = bench.notes.all();
    assert!(env.contains("MAINSTAY_SERVICE=shop"), "{env}");
    assert!(!env.lines().any(|line| line.starts_with("HOME=")), "{env}");
}

#[test]
fn an_engine_that_is_nowhere_is_named_with_what_would_help() {
    let name = ServiceName::new("shop").expect("a name");
    let error = open(&name, &service("engine = 'no-such-thing'")).err().expect("nowhere");
    assert_eq!(error.class(), Class::Invalid);
    let hint = error.hint().expect("a hint");
    assert!(hint.contains("mainstay-engine-no-such-thing"), "{hint}");
}

#[test]
fn the_example_is_served_and_cloned_in_a_rehearsal() {
    let repository = Repository::new();
    let engine = repository.engine();
    let bench = &repository.bench;
    let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
    let captured = engine.capture(&bench.cx(), &mut sink).expect("captured");
    let meta = meta(&repository, engine.as_ref(), &captured);
    let isolation = Isolation::find(&bench.cancel).expect("a trial");
    let copy = |staged: PathBuf| {
        [Staged { root: engine.roots()[0].clone(), staged: staged.clone(), target: staged }]
    };
    let rehearse = |copy: &[Staged], home: &str| {
        let home = bench.path(home);
        std::fs::create_dir(&home).expect("a home");
        let (question, limit) = (None, None);
        let rehearsal = Rehearsal {
            meta: &meta,
            copy,
            home: &home,
            isolation: &isolation,
            question,
            limit,
            before_programs: &|| Ok(()),
        };
        engine.rehearse(&bench.cx(), &rehearsal).expect("a verdict")
    };
    let sound = rehearse(&copy(sink.at(&meta.roots[0].in_snapshot)), "home");
    assert!(sound.verdict.sound && sound.answered_after.is_some(), "{sound:?}");
    let found = sound.verdict.findings.join("\n");
    assert!(found.contains("cloned from there") && found.contains("git fsck"), "{found}");
    assert_eq!(commits(&bench.path("home/clone")), 1);

    let nothing = bench.path("nothing.git");
    std::fs::create_dir(&nothing).expect("a directory");
    let unsound = rehearse(&copy(nothing), "another");
    assert!(!unsound.verdict.sound && unsound.answered_after.is_none(), "{unsound:?}");
}

#[test]
fn the_examples_checker_finds_damage() {
    let repository = Repository::new();
    let engine = repository.engine();
    let bare = repository.bench.path("shop.git");
    let copy =
        [Staged { root: engine.roots()[0].clone(), staged: bare.clone(), target: bare.clone() }];
    assert!(engine.check(&repository.bench.cx(), &copy).expect("check").sound);
    let head = git(&bare, &["rev-parse", "main"]);
    let object = bare.join("objects").join(&head[..2]).join(&head[2..]);
    std::fs::remove_file(object).expect("lose an object");
    let verdict = engine.check(&repository.bench.cx(), &copy).expect("check");
    assert!(!verdict.sound, "{verdict:?}");
}
