//! Engine `postgres`, against a real server.

mod copies;
mod follow;
mod killed;
mod logical;
mod places;
mod segments;

use crate::contract::{Fixture, contract_suite};
use crate::pg_server::{PgServer, bin_dir, give};
use crate::sink::{DirSink, copy_tree};
use crate::support::{Bench, service};
use mainstay_engines::{
    Captured, Context, Engine, Error, Purpose, SnapshotMeta, Staged, TreeOptions, open,
};
use model::config::Service;
use model::{CancelToken, ServiceName};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

contract_suite!(contract, crate::postgres::Shop::new(""));

/// A server with one table of numbered rows, which has an index to disagree with.
pub(crate) struct Shop {
    pub(crate) server: PgServer,
    pub(crate) bench: Bench,
}

impl Shop {
    pub(crate) fn new(settings: &str) -> Self {
        let bench = Bench::new();
        give(bench.dir.path());
        give(&bench.scratch);
        let server = PgServer::create(bench.dir.path(), settings);
        server.start();
        server.sql("CREATE TABLE orders (n bigint PRIMARY KEY, pad text DEFAULT repeat('x', 500))");
        let shop = Shop { server, bench };
        shop.write();
        shop
    }
}

/// The newest row; all before it must be there.
pub(crate) fn newest(server: &PgServer) -> u64 {
    let rows = server.sql("SELECT count(*) || ' ' || coalesce(max(n), 0) FROM orders");
    let (count, newest) = rows.split_once(' ').expect("two numbers");
    assert_eq!(count, newest, "rows are missing");
    newest.parse().expect("a number")
}

pub(crate) fn definition(server: &PgServer, role: &str) -> Service {
    service(&format!(
        "engine = 'postgres'\nurl = '{}'\ndata-dir = '{}'\nbin-dir = '{}'\n",
        server.url(role),
        server.data().display(),
        bin_dir().display()
    ))
}

/// A log store for the server to call, in a directory: what `mainstay wal push` and `wal fetch` are
/// to it.
const LOG: &str = r#"#!/bin/sh
archive=$(dirname "$0")/archive
case "$2" in
fetch)
    test -f "$archive/$4" || exit 1
    exec cp "$archive/$4" "$5" ;;
push)
    name=$(basename "$4")
    if test -f "$archive/$name"; then exec cmp -s "$4" "$archive/$name"; fi
    cp "$4" "$archive/.$name" && mv "$archive/.$name" "$archive/$name" ;;
esac
"#;

impl Shop {
    /// One that archives its log.
    pub(crate) fn archiving() -> Self {
        let shop = Shop::new("archive_mode = on\narchive_command = 'false'");
        fs::create_dir(shop.archive()).expect("archive");
        give(&shop.archive());
        let log = shop.bench.script("log", LOG);
        let set =
            format!("ALTER SYSTEM SET archive_command = '{} wal push subject %p'", log.display());
        shop.server.sql(&set);
        shop.server.sql("SELECT pg_reload_conf()");
        shop
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.bench.path("archive")
    }

    /// Everything that was written so far is in the archive when this returns.
    pub(crate) fn archived(&self) {
        let segment = self.server.sql("SELECT pg_walfile_name(pg_switch_wal())");
        let path = self.archive().join(segment);
        crate::support::eventually("the segment is archived", || path.exists());
    }

    /// What asks for the log; nothing for a shop that archives none.
    fn callback(&self) -> Vec<String> {
        let log = self.bench.path("log");
        if log.exists() { vec![log.display().to_string()] } else { Vec::new() }
    }

    pub(crate) fn capture(&self) -> Base {
        self.try_capture(&self.definition()).expect("a capture")
    }

    pub(crate) fn try_capture(&self, definition: &Service) -> Result<Base, Error> {
        let engine = open(&self.name(), definition).expect("the engine");
        let (captured, sink) =
            crate::contract::capture(self, engine.as_ref(), &CancelToken::new(), |sink| sink);
        let captured = captured?;
        let meta = crate::contract::meta(self, engine.as_ref(), &captured);
        Ok(Base { captured, sink, meta })
    }

    /// A copy of a base in a place of its own, prepared and not started.
    pub(crate) fn copy(&self, base: &Base, name: &str, purpose: &Purpose) -> Copy {
        self.try_copy(base, name, purpose).expect("prepare")
    }

    pub(crate) fn try_copy(
        &self,
        base: &Base,
        name: &str,
        purpose: &Purpose,
    ) -> Result<Copy, Error> {
        let home = self.bench.path(name);
        let server = PgServer::on(&home, &home.join("data"));
        let definition = definition(&server, "postgres");
        let engine = open(&self.name(), &definition).expect("the engine");
        let root = engine.roots().remove(0);
        let staged = home.join("staged");
        copy_tree(&base.sink.at(&root.in_snapshot), &staged, &TreeOptions::default())
            .expect("restore");
        let copy = Staged { target: root.on_host.clone(), root, staged };
        let callback = self.callback();
        let cx = Context { callback: &callback, ..self.bench.cx() };
        engine.prepare(&cx, &base.meta, std::slice::from_ref(&copy), purpose)?;
        fs::rename(&copy.staged, &copy.target).expect("put in place");
        Ok(Copy { server, engine })
    }
}

/// What a capture gave.
pub(crate) struct Base {
    pub(crate) captured: Captured,
    pub(crate) sink: DirSink,
    pub(crate) meta: SnapshotMeta,
}

/// A restored copy, as another member has it.
pub(crate) struct Copy {
    pub(crate) server: PgServer,
    pub(crate) engine: Box<dyn Engine>,
}

impl Copy {
    /// Where it is, as a drill has it.
    pub(crate) fn staged(&self) -> Vec<Staged> {
        let root = self.engine.roots().remove(0);
        vec![Staged { staged: root.on_host.clone(), target: root.on_host.clone(), root }]
    }

    /// Fails unless pg_amcheck finds nothing in the running server, where it can look.
    pub(crate) fn amcheck(&self) {
        if !self.server.has_extension("amcheck") {
            return;
        }
        let output = self
            .server
            .program("pg_amcheck")
            .args(["--all", "--install-missing", "--heapallindexed", "-U", "postgres", "-h"])
            .arg(self.server.socket_dir())
            .output()
            .expect("pg_amcheck");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// A setting as a file of the copy has it.
pub(crate) fn setting(data: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(data.join("postgresql.auto.conf")).expect("auto.conf");
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix("= "))
        .collect();
    assert!(lines.len() < 2, "{name} is there twice: {text}");
    lines.first().map(|value| (*value).to_owned())
}

pub(crate) fn name() -> ServiceName {
    ServiceName::new("subject").expect("a name")
}

impl Fixture for Shop {
    fn bench(&self) -> &Bench {
        &self.bench
    }

    fn definition(&self) -> Service {
        definition(&self.server, "postgres")
    }

    fn absent(&self) -> Service {
        service(&format!(
            "engine = 'postgres'\nurl = 'postgres://postgres@/postgres?host={0}'\n\
             data-dir = '{0}/data'\n",
            self.bench.path("nowhere").display()
        ))
    }

    fn write(&self) -> u64 {
        let next = "INSERT INTO orders (n) SELECT coalesce(max(n), 0) + 1 FROM orders RETURNING n";
        self.server.sql(next).parse().expect("a number")
    }

    fn newest(&self) -> u64 {
        newest(&self.server)
    }

    fn newest_in(&self, copy: &[Staged]) -> u64 {
        let data = &copy[0].staged;
        let home = data.parent().expect("a parent").join("home");
        let server = PgServer::on(&home, data);
        let socket = format!("-cunix_socket_directories={}", server.socket_dir().display());
        server.start_with(&[&socket]);
        server.eventually("SELECT NOT pg_is_in_recovery()");
        newest(&server)
    }

    fn footprint(&self) -> String {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mainstay'";
        let slots = "SELECT count(*) FROM pg_replication_slots";
        let mut find = Command::new("find");
        let find = find.arg(self.server.data()).args(["-name", "*label*"]).output().expect("find");
        format!(
            "{} sessions, {} slots, {:?}",
            self.server.sql(sessions),
            self.server.sql(slots),
            String::from_utf8_lossy(&find.stdout)
        )
    }
}
