//! Engine `script`: the example of the documentation, and exporters that fail, lie and idle.

use crate::contract::{Fixture, contract_suite, meta};
use crate::files::{newest_of, walk};
use crate::sink::DirSink;
use crate::support::{Bench, service};
use jiff::{SignedDuration, Timestamp};
use mainstay_engines::{Captured, Engine, Error, Purpose, Staged, open};
use model::config::Service;
use model::{Class, Classify, Position, ServiceName};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

contract_suite!(example, crate::script::Wiki::new());

/// The example's wiki: its editors save pages under its lock.
pub(crate) struct Wiki {
    bench: Bench,
}

impl Wiki {
    pub(crate) fn new() -> Self {
        let bench = Bench::new();
        fs::create_dir_all(bench.path("wiki/pages")).expect("wiki");
        fs::write(bench.path("wiki/lock"), "").expect("lock");
        fs::write(bench.path("runs"), "").expect("flag");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/engines/examples");
        for name in ["wiki-export", "wiki-import"] {
            bench.script(
                name,
                &format!(
                    "#!/bin/sh\nWIKI_HOME='{}' exec '{}'\n",
                    bench.path("wiki").display(),
                    examples.join(name).display()
                ),
            );
        }
        let wiki = Wiki { bench };
        wiki.write();
        let mut sink = DirSink::new(wiki.bench.path("first"), &wiki.bench.cancel);
        wiki.engine().capture(&wiki.bench.cx(), &mut sink).expect("a first export");
        wiki
    }
}

impl Fixture for Wiki {
    fn bench(&self) -> &Bench {
        &self.bench
    }

    fn definition(&self) -> Service {
        let flag = self.bench.path("runs");
        let flag = flag.display();
        service(&format!(
            "engine = 'script'\npath = '{}'\nexporter = '{}'\nimporter = '{}'\n\
             start = 'touch {flag}'\nstop = 'rm {flag}'\nstatus = 'test -e {flag} || exit 3'",
            self.bench.path("export").display(),
            self.bench.path("wiki-export").display(),
            self.bench.path("wiki-import").display()
        ))
    }

    fn absent(&self) -> Service {
        service(&format!(
            "engine = 'script'\npath = '{}'\nexporter = '/nowhere'\nimporter = '/nowhere'",
            self.bench.path("not/mounted").display()
        ))
    }

    fn write(&self) -> u64 {
        let lock = File::open(self.bench.path("wiki/lock")).expect("lock");
        lock.lock().expect("lock");
        let pages = self.bench.path("wiki/pages");
        let next = newest_of(&pages) + 1;
        fs::write(pages.join(next.to_string()), format!("{next}\n")).expect("save");
        next
    }

    fn newest(&self) -> u64 {
        newest_of(&self.bench.path("wiki/pages"))
    }

    fn newest_in(&self, copy: &[Staged]) -> u64 {
        let dir = tempfile::tempdir().expect("a directory");
        let status = Command::new("tar")
            .arg("-xf")
            .arg(copy[0].staged.join("pages.tar"))
            .current_dir(dir.path())
            .status()
            .expect("tar");
        assert!(status.success());
        newest_of(&dir.path().join("pages"))
    }

    fn footprint(&self) -> String {
        format!("{:?} {}", walk(&self.bench.path("wiki")), self.bench.path("runs").exists())
    }
}

#[test]
fn a_drill_loads_into_a_place_of_its_own() {
    let wiki = Wiki::new();
    let engine = wiki.engine();
    let mut sink = DirSink::new(wiki.bench.path("snapshot"), &wiki.bench.cancel);
    let captured = engine.capture(&wiki.bench.cx(), &mut sink).expect("capture");
    let meta = meta(&wiki, engine.as_ref(), &captured);
    let before = wiki.footprint();
    engine
        .activate(&wiki.bench.cx(), &meta, &Purpose::Scratch { until: None })
        .expect("the importer's drill");
    assert_eq!(wiki.footprint(), before, "the real wiki was touched");
    assert_eq!(newest_of(&wiki.bench.scratch.join("wiki/pages")), 1);
}

/// A service whose exporter is this shell script, with `$export` and `$answer` at hand.
fn with_exporter(bench: &Bench, body: &str) -> Box<dyn Engine> {
    let exporter = bench.script(
        "exporter",
        &format!(
            "#!/bin/sh\nnow=$(date -u +%Y-%m-%dT%H:%M:%S.%NZ)\n\
             answer() {{ printf '{{\"export-id\": \"%s\", \"source-time\": \"%s\"%s}}\\n' \
             \"${{2-$MAINSTAY_EXPORT_ID}}\" \"${{1-$now}}\" \"${{3-}}\"; }}\n\
             fill() {{ date +%N > \"$MAINSTAY_BACKUP_DIR/data\"; }}\n{body}\n"
        ),
    );
    with(bench, &exporter)
}

fn with(bench: &Bench, exporter: &Path) -> Box<dyn Engine> {
    let definition = service(&format!(
        "engine = 'script'\npath = '{}'\nexporter = '{}'\nimporter = '{}'\npassword-env = 'HOME'",
        bench.path("export").display(),
        exporter.display(),
        bench.path("importer").display()
    ));
    open(&ServiceName::new("shop").expect("a name"), &definition).expect("engine")
}

fn capture(bench: &Bench, engine: &dyn Engine) -> Result<(Captured, PathBuf), Error> {
    let dir = tempfile::tempdir_in(bench.dir.path()).expect("a directory").keep();
    let mut sink = DirSink::new(dir, &bench.cancel);
    let captured = engine.capture(&bench.cx(), &mut sink);
    // What was not believed must not be stored either.
    assert_eq!(sink.calls.is_empty(), captured.is_err(), "{captured:?}");
    Ok((captured?, sink.at("/script")))
}

#[test]
fn exporters_that_fail_or_say_nonsense_capture_nothing() {
    for (body, says) in [
        ("fill; answer; echo no license >&2; exit 3", "exit code 3; it said:\n  no license"),
        ("fill; answer; kill -9 $$", "SIGKILL"),
        ("fill", "did not say which point it captured"),
        ("fill; echo done", "did not answer with the JSON object"),
        ("fill; answer; answer", "did not answer with the JSON object"),
        ("fill; echo working; answer", "did not answer with the JSON object"),
        ("fill; echo '{\"export-id\": \"'$MAINSTAY_EXPORT_ID'\"}'", "JSON object"),
        ("fill; answer \"$now\" \"$MAINSTAY_EXPORT_ID\" ', \"postion\": \"3\"'", "JSON object"),
        ("fill; answer 2026-11-21T01:00:00", "JSON object"),
        ("fill; answer yesterday", "JSON object"),
        ("fill; answer \"$now\" 0123456789abcdef", "not for this one"),
        ("fill; answer $(date -u -d '2 hours ago' +%FT%TZ)", "it is stale"),
        ("fill; answer $(date -u -d '1 hour' +%FT%TZ)", "in the future"),
        ("fill; answer 9999-12-30T22:00:00Z", "in the future"),
        ("answer", "left no file"),
        ("fill; rm -r $MAINSTAY_BACKUP_DIR; answer", "cannot read"),
        ("fill; mkdir $MAINSTAY_BACKUP_DIR/x; rm $MAINSTAY_BACKUP_DIR/data; answer", "no file"),
    ] {
        let bench = Bench::new();
        let error = capture(&bench, with_exporter(&bench, body).as_ref()).expect_err(body);
        assert!(error.to_string().contains(says), "{body}: {error}");
    }
}

#[test]
fn an_export_that_nothing_refilled_is_stale() {
    let bench = Bench::new();
    capture(&bench, with_exporter(&bench, "fill; answer").as_ref()).expect("filled");
    // It runs, succeeds, echoes the id and takes the time, but what is there is from the last time.
    let error = capture(&bench, with_exporter(&bench, "answer").as_ref()).expect_err("stale");
    assert!(error.to_string().contains("nothing in") && error.to_string().contains("stale"));
    assert!(error.hint().expect("a hint").contains("write at least one file anew"), "{error}");
    // Reading alone refills nothing.
    let body = "cat $MAINSTAY_BACKUP_DIR/data > /dev/null; answer";
    capture(&bench, with_exporter(&bench, body).as_ref()).expect_err("still stale");
    // The same bytes written anew are an export, however often and however soon.
    for _ in 0..20 {
        let body = "echo same > $MAINSTAY_BACKUP_DIR/data; answer";
        capture(&bench, with_exporter(&bench, body).as_ref()).expect("refilled");
    }
}

#[test]
fn what_the_exporter_says_is_what_is_recorded() {
    let bench = Bench::new();
    let body = r#"fill; answer $(date -u -d '10 minutes ago' +%FT%TZ) "$MAINSTAY_EXPORT_ID" \
        ', "position": "tx 77", "version": "9.1", "detail": {"rows": 3}'"#;
    let (captured, copy) = capture(&bench, with_exporter(&bench, body).as_ref()).expect("capture");
    let age = Timestamp::now().duration_since(captured.source_time);
    assert!(age >= SignedDuration::from_mins(10), "a lagging source is told as it is: {age:?}");
    assert_eq!(captured.position, Some(Position::Other { text: "tx 77".to_owned() }));
    assert_eq!(captured.engine_version.as_deref(), Some("9.1"));
    assert_eq!(captured.detail["exporter"]["rows"], 3);
    assert!(copy.join("data").exists());
    // A clock that is a little ahead must not make the point look fresher than it is.
    let body = "fill; answer $(date -u -d '1 minute' +%FT%TZ)";
    let (captured, _) = capture(&bench, with_exporter(&bench, body).as_ref()).expect("capture");
    assert!(captured.source_time <= Timestamp::now());
}

#[test]
fn the_exporter_is_told_what_is_documented_and_no_password() {
    let bench = Bench::new();
    let body = "env > $MAINSTAY_BACKUP_DIR/env; pwd >> $MAINSTAY_BACKUP_DIR/env; \
                echo 50% done >&2; answer";
    let engine = with_exporter(&bench, body);
    let variables = [("MAINSTAY_MEMBER".to_owned(), "db1".to_owned())];
    let mut cx = bench.cx();
    cx.variables = &variables;
    let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
    engine.capture(&cx, &mut sink).expect("capture");
    let env = fs::read_to_string(bench.path("export/env")).expect("env");
    let dir = bench.path("export");
    for line in [
        "MAINSTAY_SERVICE=shop".to_owned(),
        "MAINSTAY_MEMBER=db1".to_owned(),
        format!("MAINSTAY_BACKUP_DIR={}", dir.display()),
        format!("MAINSTAY_SCRATCH={}", bench.scratch.display()),
        dir.display().to_string(),
    ] {
        assert!(env.lines().any(|one| one == line), "{line} not in\n{env}");
    }
    assert!(std::env::var_os("HOME").is_some(), "the test needs a variable to hide");
    assert!(!env.lines().any(|line| line.starts_with("HOME=")), "the password was inherited");
    assert!(bench.notes.all().contains("50% done"), "{}", bench.notes.all());
}

#[test]
fn the_importer_is_told_its_purpose_and_its_failure_is_ours() {
    let wiki = Wiki::new();
    let bench = Bench::new();
    let engine = with_exporter(&bench, "fill; answer");
    bench.script(
        "importer",
        "#!/bin/sh\necho \"$MAINSTAY_PURPOSE $MAINSTAY_SOURCE_TIME\" >> $MAINSTAY_BACKUP_DIR/log\n\
         grep -q '\"member\": \"host1\"' \"$MAINSTAY_POINT\" || exit 8\n\
         test ! -e $MAINSTAY_BACKUP_DIR/bad || { echo bad data >&2; exit 7; }\n",
    );
    let (captured, _) = capture(&bench, engine.as_ref()).expect("capture");
    let meta = meta(&wiki, engine.as_ref(), &captured);
    for purpose in [Purpose::Primary { until: None }, Purpose::Standby] {
        engine.activate(&bench.cx(), &meta, &purpose).expect("import");
    }
    // This exporter did not say that its importer can be trusted with a drill.
    engine.activate(&bench.cx(), &meta, &Purpose::Scratch { until: None }).expect("nothing to do");
    let time = captured.source_time;
    let log = fs::read_to_string(bench.path("export/log")).expect("log");
    assert_eq!(log, format!("primary {time}\nstandby {time}\n"));
    fs::write(bench.path("export/bad"), "").expect("bad");
    let error =
        engine.activate(&bench.cx(), &meta, &Purpose::Standby).expect_err("the importer fails");
    assert!(error.to_string().contains("exit code 7; it said:\n  bad data"), "{error}");
}

#[test]
fn a_restore_without_an_importer_is_refused_before_anything_is_replaced() {
    let wiki = Wiki::new();
    let bench = Bench::new();
    let definition = service(&format!(
        "engine = 'script'\npath = '{}'\nexporter = '/bin/true'",
        bench.path("export").display()
    ));
    let engine = open(&ServiceName::new("shop").expect("a name"), &definition).expect("engine");
    let captured = Captured {
        source_time: Timestamp::now(),
        position: None,
        engine_version: None,
        detail: serde_json::Value::Null,
    };
    let meta = meta(&wiki, engine.as_ref(), &captured);
    fs::create_dir(bench.path("staged")).expect("staged");
    fs::write(bench.path("staged/data"), "x").expect("data");
    let staged = [Staged {
        root: engine.roots()[0].clone(),
        staged: bench.path("staged"),
        target: bench.path("export"),
    }];
    let error = engine
        .prepare(&bench.cx(), &meta, &staged, &Purpose::Standby)
        .expect_err("nobody can load it");
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("importer"), "{error}");
    engine
        .prepare(&bench.cx(), &meta, &staged, &Purpose::Scratch { until: None })
        .expect("a drill needs no importer");
}

#[test]
fn definitions_that_cannot_be_are_refused() {
    for toml in [
        "exporter = '/x'",
        "path = '/x'",
        "path = 'x'\nexporter = '/x'",
        "path = '/x'\nexporter = 'bin/x'",
    ] {
        let definition = service(&format!("engine = 'script'\n{toml}"));
        let error = open(&ServiceName::new("shop").expect("a name"), &definition).err();
        assert_eq!(error.expect(toml).class(), Class::Invalid, "{toml}");
    }
}
