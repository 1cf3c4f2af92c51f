//! Engine `sqlite`.

mod capture;
mod judge;
mod log;
mod others;
mod settle;

use crate::contract::{Fixture, contract_suite};
use crate::support::{Bench, eventually, service};
use mainstay_engines::{Engine, Staged, open};
use model::ServiceName;
use model::config::Service;
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

contract_suite!(wal, crate::sqlite::App::new("WAL"));
contract_suite!(rollback, crate::sqlite::App::new("DELETE"));

/// An application that keeps its database open while it runs. Every commit adds one row to each of
/// two tables, so that a half of one would show.
pub(crate) struct App {
    bench: Bench,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl App {
    pub(crate) fn new(journal_mode: &str) -> Self {
        let bench = Bench::new();
        fs::create_dir(bench.path("data")).expect("data");
        let database = bench.path("data/app.db");
        create(&database, journal_mode);
        fs::write(bench.path("runs"), "").expect("flag");
        let ended = Arc::new(AtomicBool::new(false));
        let (flag, marker, end) = (bench.path("runs"), bench.path("open"), ended.clone());
        let thread = std::thread::spawn(move || serve(&database, &flag, &marker, &end));
        let app = App { bench, ended, thread: Some(thread) };
        eventually("the application runs", || app.bench.path("open").exists());
        app.write();
        app
    }

    fn database(&self) -> PathBuf {
        self.bench.path("data/app.db")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps the database open while the flag is there, and the marker while the database is open.
fn serve(database: &Path, flag: &Path, marker: &Path, end: &AtomicBool) {
    while !end.load(Ordering::SeqCst) {
        if flag.exists() {
            let connection = connect(database);
            let _: i64 = connection
                .query_row("SELECT count(*) FROM a", [], |row| row.get(0))
                .expect("the application reads");
            fs::write(marker, "").expect("marker");
            while flag.exists() && !end.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
            }
            connection.close().expect("close");
            let _ = fs::remove_file(marker);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn connect(database: &Path) -> Connection {
    let connection = Connection::open(database).expect("open");
    connection.busy_timeout(Duration::from_secs(30)).expect("timeout");
    connection
}

/// A database of the tests' kind.
pub(crate) fn create(database: &Path, journal_mode: &str) {
    let connection = connect(database);
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = {journal_mode};
             CREATE TABLE a (n INTEGER PRIMARY KEY, pad BLOB);
             CREATE TABLE b (n INTEGER PRIMARY KEY, pad TEXT UNIQUE);"
        ))
        .expect("create");
}

/// Commits the next pair of rows.
pub(crate) fn commit(connection: &mut Connection) -> u64 {
    let kind = rusqlite::TransactionBehavior::Immediate;
    let transaction = connection.transaction_with_behavior(kind).expect("begin");
    let n: i64 = transaction
        .query_row("SELECT coalesce(max(n), 0) + 1 FROM a", [], |row| row.get(0))
        .expect("next");
    transaction.execute("INSERT INTO a VALUES (?1, randomblob(3000))", [n]).expect("a");
    transaction.execute("INSERT INTO b VALUES (?1, 'row ' || ?1)", [n]).expect("b");
    transaction.commit().expect("commit");
    u64::try_from(n).expect("a count")
}

/// The number of commits in a database, all whole and none missing.
pub(crate) fn commits(connection: &Connection) -> u64 {
    let one = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).expect(sql) };
    let newest = one("SELECT coalesce(max(n), 0) FROM a");
    assert_eq!(one("SELECT count(*) FROM a"), newest, "a commit is missing");
    assert_eq!(one("SELECT count(*) FROM b"), newest, "a commit is torn");
    assert_eq!(one("SELECT coalesce(max(n), 0) FROM b"), newest);
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check");
    assert_eq!(check, "ok");
    u64::try_from(newest).expect("a count")
}

/// The same of a copy, which is opened as an application would open it, elsewhere.
pub(crate) fn commits_in(copy: &Path) -> u64 {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let elsewhere = dir.path().join("copy.db");
    fs::copy(copy, &elsewhere).expect("copy");
    commits(&connect(&elsewhere))
}

/// Names and sizes of what is in a directory. Not one byte is read: see the engine's head.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("list")
        .map(|entry| {
            let entry = entry.expect("entry");
            let len = entry.metadata().expect("meta").len();
            format!("{} {len}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    names
}

impl Fixture for App {
    fn bench(&self) -> &Bench {
        &self.bench
    }

    fn definition(&self) -> Service {
        let (flag, marker) = (self.bench.path("runs"), self.bench.path("open"));
        let (flag, marker) = (flag.display(), marker.display());
        service(&format!(
            "engine = 'sqlite'\npath = '{}'\n\
             start = 'touch {flag}; until test -e {marker}; do sleep 0.01; done'\n\
             stop = 'rm {flag}; while test -e {marker}; do sleep 0.01; done'\n\
             status = 'test -e {marker} || exit 3'",
            self.database().display()
        ))
    }

    fn absent(&self) -> Service {
        let nowhere = self.bench.path("data/nowhere.db");
        service(&format!("engine = 'sqlite'\npath = '{}'", nowhere.display()))
    }

    fn write(&self) -> u64 {
        commit(&mut connect(&self.database()))
    }

    fn newest(&self) -> u64 {
        commits(&connect(&self.database()))
    }

    fn newest_in(&self, copy: &[Staged]) -> u64 {
        commits_in(&copy[0].staged)
    }

    fn footprint(&self) -> String {
        format!("{:?} {}", listing(&self.bench.path("data")), self.newest())
    }
}

pub(crate) fn engine(path: &Path) -> Box<dyn Engine> {
    let definition = service(&format!("engine = 'sqlite'\npath = '{}'", path.display()));
    open(&ServiceName::new("app").expect("a name"), &definition).expect("the engine")
}

/// Another process that writes to a database until it is killed.
pub(crate) struct Writer(Child);

const WRITE_TO: &str = "MAINSTAY_TEST_SQLITE_WRITE_TO";
const SPILL: &str = "MAINSTAY_TEST_SQLITE_SPILL";

impl Writer {
    /// Commits without end.
    pub(crate) fn committing(database: &Path) -> Self {
        Writer::start(database, false)
    }

    /// Begins one transaction that is too large for the cache, so that half of it is written into
    /// the database file, and never commits it.
    pub(crate) fn spilling(database: &Path) -> Self {
        Writer::start(database, true)
    }

    fn start(database: &Path, spill: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "sqlite::a_writing_process_commits_what_it_says"])
            .env(WRITE_TO, database)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if spill {
            command.env(SPILL, "yes");
        }
        Writer(command.spawn().expect("start the writer"))
    }

    /// SIGKILL, as a crash of the application.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As a test: three commits are there afterwards. As the program of [`Writer`]: without end.
#[test]
fn a_writing_process_commits_what_it_says() {
    if let Some(database) = std::env::var_os(WRITE_TO) {
        let mut connection = connect(Path::new(&database));
        if std::env::var_os(SPILL).is_some() {
            connection
                .execute_batch(
                    "PRAGMA cache_size = 10; BEGIN IMMEDIATE; UPDATE a SET pad = zeroblob(9000);
                     DELETE FROM b;",
                )
                .expect("spill");
            fs::write(format!("{}.spilled", Path::new(&database).display()), "").expect("tell");
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        loop {
            commit(&mut connection);
            // A writer without any pause starves every reader of a rollback database, ours or not.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let database = dir.path().join("app.db");
    create(&database, "WAL");
    let mut connection = connect(&database);
    for n in 1..=3 {
        assert_eq!(commit(&mut connection), n);
    }
    assert_eq!(commits(&connection), 3);
}
