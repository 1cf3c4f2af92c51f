//! Engine `files`.

use crate::contract::{Fixture, contract_suite};
use crate::sink::DirSink;
use crate::support::{Bench, service};
use mainstay_engines::{Engine, RootKind, Staged, open};
use model::config::Service;
use model::{Class, Classify, ServiceName};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

contract_suite!(contract, crate::files::Numbered::new());

/// A tree where every write is a new file, and a "service" that runs while a file is there.
pub(crate) struct Numbered {
    bench: Bench,
}

impl Numbered {
    pub(crate) fn new() -> Self {
        let bench = Bench::new();
        fs::create_dir_all(bench.path("tree/numbers")).expect("tree");
        fs::write(bench.path("runs"), "").expect("flag");
        let fixture = Numbered { bench };
        fixture.write();
        fixture
    }
}

/// The newest of the files `1`, `2`, … in a directory, all of which must be there.
pub(crate) fn newest_of(dir: &Path) -> u64 {
    let count = fs::read_dir(dir).expect("numbers").count() as u64;
    for n in 1..=count {
        let text = fs::read_to_string(dir.join(n.to_string())).expect("no gap");
        assert_eq!(text, format!("{n}\n"));
    }
    count
}

impl Fixture for Numbered {
    fn bench(&self) -> &Bench {
        &self.bench
    }

    fn definition(&self) -> Service {
        let flag = self.bench.path("runs");
        let flag = flag.display();
        service(&format!(
            "engine = 'files'\npath = '{}'\nstart = 'touch {flag}'\nstop = 'rm {flag}'\n\
             status = 'test -e {flag} || exit 3'\nexclude = ['*.tmp']",
            self.bench.path("tree").display()
        ))
    }

    fn absent(&self) -> Service {
        service(&format!("engine = 'files'\npath = '{}'", self.bench.path("nowhere").display()))
    }

    fn write(&self) -> u64 {
        let dir = self.bench.path("tree/numbers");
        let next = newest_of(&dir) + 1;
        let tmp = self.bench.path("next");
        fs::write(&tmp, format!("{next}\n")).expect("write");
        fs::rename(&tmp, dir.join(next.to_string())).expect("rename");
        next
    }

    fn newest(&self) -> u64 {
        newest_of(&self.bench.path("tree/numbers"))
    }

    fn newest_in(&self, copy: &[Staged]) -> u64 {
        // Files that are made while the tree is read may be in or not.
        let dir = copy[0].staged.join("numbers");
        (1..).take_while(|n: &u64| dir.join(n.to_string()).exists()).last().unwrap_or(0)
    }

    fn footprint(&self) -> String {
        let mut names: Vec<String> = walk(&self.bench.path("tree"));
        names.push(format!("runs {}", self.bench.path("runs").exists()));
        names.join("\n")
    }
}

pub(crate) fn walk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("walk").flatten() {
        if entry.path().is_dir() {
            found.append(&mut walk(&entry.path()));
        }
        let meta = entry.metadata().expect("meta");
        found.push(format!("{:?} {} {:?}", entry.path(), meta.len(), meta.modified().ok()));
    }
    found.sort();
    found
}

fn named(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a name")
}

fn engine(toml: &str) -> Result<Box<dyn Engine>, mainstay_engines::Error> {
    open(&named("docs"), &service(&format!("engine = 'files'\n{toml}")))
}

#[test]
fn definitions_that_cannot_be_are_refused_with_a_hint() {
    for (toml, says) in [
        ("", "has no `path`"),
        ("path = '/a'\npaths = ['/b']", "both `path` and `paths`"),
        ("path = 'a/b'", "not absolute"),
        ("path = '/a/../b'", "`..`"),
        ("path = '/'", "`/`"),
        ("paths = ['/a', '/a/b']", "/a/b is within /a"),
        ("paths = ['/a', '/a/']", "is within"),
        ("path = '/a'\nexclude-larger-than = 'big'", "exclude-larger-than"),
    ] {
        let error = engine(toml).err().expect(toml);
        assert_eq!(error.class(), Class::Invalid, "{toml}");
        assert!(error.to_string().contains(says), "{toml}: {error}");
        let chain = error.hint().is_some() || std::error::Error::source(&error).is_some();
        assert!(chain, "{toml}: no help");
    }
}

#[test]
fn several_paths_are_several_roots_with_the_options_of_the_definition() {
    let bench = Bench::new();
    fs::create_dir(bench.path("a")).expect("a");
    fs::write(bench.path("a/x"), "x").expect("x");
    fs::write(bench.path("b"), "a single file").expect("b");
    let (a, b) = (bench.path("a"), bench.path("b"));
    let engine = engine(&format!(
        "paths = ['{}', '{}//']\nexclude = ['*.bak']\nexclude-caches = true\n\
         exclude-larger-than = '2 GiB'\none-file-system = true\nchunk-size = '1 MiB'",
        a.display(),
        b.display()
    ))
    .expect("engine");
    let roots = engine.roots();
    assert_eq!((roots[0].kind, roots[1].kind), (RootKind::Tree, RootKind::File));
    assert_eq!(roots[1].in_snapshot, b.to_str().expect("text"));
    let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
    engine.capture(&bench.cx(), &mut sink).expect("capture");
    assert_eq!(sink.calls, [a.to_str().expect("text"), b.to_str().expect("text")]);
    for options in &sink.options {
        assert_eq!(options.exclude, ["*.bak"]);
        assert_eq!(options.chunk_bytes.map(std::num::NonZero::get), Some(1 << 20));
        assert_eq!(options.exclude_larger_than, Some(2 << 30));
        assert!(options.exclude_caches && options.one_file_system && !options.changes_expected);
    }
    let read = fs::read_to_string(sink.at(b.to_str().expect("text"))).expect("read");
    assert_eq!(read, "a single file");
}

#[test]
fn one_missing_path_of_several_captures_nothing() {
    let bench = Bench::new();
    fs::create_dir(bench.path("a")).expect("a");
    let engine = engine(&format!(
        "paths = ['{}', '{}']",
        bench.path("a").display(),
        bench.path("not-mounted").display()
    ))
    .expect("engine");
    let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
    let error = engine.capture(&bench.cx(), &mut sink).expect_err("missing");
    assert!(error.to_string().contains("not-mounted"), "{error}");
    assert!(error.hint().expect("a hint").contains("Mount"), "{error}");
    assert!(sink.calls.is_empty(), "{:?}", sink.calls);
}

#[test]
fn an_empty_path_is_captured_with_a_warning() {
    let bench = Bench::new();
    fs::create_dir(bench.path("a")).expect("a");
    let engine = engine(&format!("path = '{}'", bench.path("a").display())).expect("engine");
    assert!(!engine.inspect(&bench.cx()).expect("inspect").has_data);
    let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
    engine.capture(&bench.cx(), &mut sink).expect("capture");
    assert!(bench.notes.all().contains("is empty"), "{}", bench.notes.all());
}

#[test]
fn a_path_that_is_a_link_is_captured_as_what_it_points_to_and_never_replaced() {
    let bench = Bench::new();
    fs::create_dir(bench.path("real")).expect("real");
    fs::write(bench.path("real/x"), "x").expect("x");
    symlink(bench.path("real"), bench.path("link")).expect("link");
    let engine = engine(&format!("path = '{}'", bench.path("link").display())).expect("engine");
    let mut sink = DirSink::new(bench.path("snapshot"), &bench.cancel);
    engine.capture(&bench.cx(), &mut sink).expect("capture");
    assert_eq!(fs::read_to_string(sink.at(&sink.calls[0]).join("x")).expect("read"), "x");
    let root = &engine.roots()[0];
    let error = engine
        .ready_to_replace(&bench.cx(), root, &bench.path("link"))
        .expect_err("a link must not be exchanged");
    assert_eq!(error.class(), Class::Refused);
}

#[test]
fn check_reads_odd_things_without_changing_them_and_names_what_it_cannot_read() {
    let bench = Bench::new();
    let tree = bench.path("copy");
    fs::create_dir_all(tree.join("deep/er")).expect("dirs");
    fs::write(tree.join(OsStr::from_bytes(b"not \xff utf-8\n")), "x").expect("odd name");
    fs::write(tree.join("deep/er/big"), vec![7; 3 << 20]).expect("big");
    symlink("/nowhere/at/all", tree.join("dangling")).expect("link");
    let sparse = fs::File::create(tree.join("sparse")).expect("sparse");
    sparse.set_len(64 << 20).expect("hole");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .expect("fifo");
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("socket");
    let engine = engine("path = '/srv/docs'").expect("engine");
    let copy = |path: &Path| {
        vec![Staged {
            root: engine.roots()[0].clone(),
            staged: path.to_owned(),
            target: "/srv/docs".into(),
        }]
    };
    let before = walk(&tree);
    let verdict = engine.check(&bench.cx(), &copy(&tree)).expect("check");
    assert!(verdict.sound, "{:?}", verdict.findings);
    assert!(verdict.findings[0].contains("read 3 files, 70254593 bytes"), "{verdict:?}");
    assert_eq!(walk(&tree), before);

    let verdict = engine.check(&bench.cx(), &copy(&bench.path("gone"))).expect("check");
    assert!(!verdict.sound && verdict.findings[0].contains("gone"), "{verdict:?}");

    bench.cancel.cancel();
    let error = engine.check(&bench.cx(), &copy(&tree)).expect_err("cancelled");
    assert_eq!(error.class(), Class::Cancelled);
}
