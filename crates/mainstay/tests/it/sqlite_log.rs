//! The log of SQLite databases: shipped while a writer commits, killed at any moment, and replayed.
//!
//! The oracle is a writer that numbers its commits and writes down those that were acknowledged: what
//! comes back holds the first so many of them, without a hole, and none is missing for longer than a
//! second.

use crate::dice::rounds;
use crate::filesystems::Small;
use crate::rig::{Rig, run};
use crate::vault_rig::VaultHost;
use crate::world::wait_for;
use jiff::Timestamp;
use rusqlite::Connection;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What tells the writer's process where its database is.
const WRITER: &str = "MAINSTAY_TEST_SQLITE_WRITER";

/// A process that does not outlive the test.
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn rig(lines: &str) -> Rig {
    rig_in(&std::env::temp_dir(), lines)
}

/// On the file system of a directory.
fn rig_in(parent: &Path, lines: &str) -> Rig {
    let rig = Rig::new_in(parent);
    rig.write("password", "correct horse battery staple\n");
    let path = rig.path("app.db").display().to_string();
    rig.configure(&format!("[service.docs]\nengine = \"sqlite\"\n{}", lines.replace("@", &path)));
    rig.run(&["init"]).code(0);
    rig
}

/// A database in WAL mode with an empty table.
pub(crate) fn database(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x BLOB)",
        )
        .unwrap();
    connection
}

pub(crate) fn insert(connection: &Connection, n: i64) {
    connection.execute("INSERT INTO t VALUES (?1, randomblob(2000))", [n]).unwrap();
}

fn receiver(rig: &Rig) -> Killed {
    let mut command = rig.command(&["wal", "receive", "docs"]);
    Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Returns when everything that was committed before the call is in the vault.
#[track_caller]
fn is_stored(rig: &Rig) {
    is_stored_by(&rig.path("state"));
}

/// The same, by the host with this state directory.
#[track_caller]
pub(crate) fn is_stored_by(state: &Path) {
    let (now, file) = (Timestamp::now(), state.join("services/docs/log-pushed"));
    wait_for("the log is stored", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        text.parse::<Timestamp>().is_ok_and(|until| until >= now)
    });
}

/// Restores to a place of its own, and hands out the databases that came of it.
#[track_caller]
fn restored(rig: &Rig, name: &str, words: &[&str]) -> (PathBuf, serde_json::Value) {
    let target = rig.path(name);
    let target = target.to_str().unwrap();
    let mut all = vec!["--json", "restore", "docs", "--target", target];
    all.extend(words);
    let said = rig.run(&all).code(0).json();
    (PathBuf::from(said["targets"][0].as_str().unwrap()), said)
}

/// The last number, where all from 1 on are there and SQLite finds no fault.
#[track_caller]
pub(crate) fn last(database: &Path) -> i64 {
    let connection = Connection::open(database).unwrap();
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let sql = "SELECT count(*), coalesce(max(n), 0) FROM t";
    let (count, last): (i64, i64) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(count, last, "there is a hole");
    last
}

/// Not a test of its own: the writer's process. Without a database it tries a few commits on one of
/// its own.
#[test]
fn the_writer() {
    let own = tempfile::tempdir().unwrap();
    let (path, most) = match std::env::var_os(WRITER) {
        Some(path) => (PathBuf::from(path), i64::MAX),
        None => (own.path().join("app.db"), 5_i64),
    };
    let connection = database(&path);
    let mut ledger =
        fs::File::options().create(true).append(true).open(path.with_extension("ledger")).unwrap();
    let from: i64 =
        connection.query_row("SELECT coalesce(max(n), 0) FROM t", [], |row| row.get(0)).unwrap();
    for n in from + 1..most.saturating_add(1) {
        insert(&connection, n);
        let line = format!("{n} {}\n", Timestamp::now().as_millisecond());
        ledger.write_all(line.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(last(&path), 5);
}

fn writer(rig: &Rig) -> Killed {
    writer_of(&rig.path("app.db"))
}

/// Commits to a database without end.
pub(crate) fn writer_of(database: &Path) -> Killed {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sqlite_log::the_writer"]).env(WRITER, database);
    Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn acknowledged(rig: &Rig) -> Vec<(i64, i64)> {
    acknowledged_of(&rig.path("app.db"))
}

/// Numbers and times in milliseconds of what was acknowledged.
pub(crate) fn acknowledged_of(database: &Path) -> Vec<(i64, i64)> {
    let text = fs::read_to_string(database.with_extension("ledger")).unwrap_or_default();
    let line = |line: &str| {
        let (n, time) = line.split_once(' ')?;
        Some((n.parse().ok()?, time.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// How long the threads of a process were ready to run, and no processor was free for them, since they
/// began: the kernel's own count, nothing where it keeps none.
fn kept_waiting(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waited = tasks.filter_map(|task| -> Option<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    });
    Duration::from_nanos(waited.sum())
}

/// Looks at that again and again, until somebody says that it is over.
fn watched(pid: u32, over: &AtomicBool) -> Vec<(i64, Duration)> {
    let mut seen = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let waited = kept_waiting(pid);
        seen.push((Timestamp::now().as_millisecond(), waited));
        std::thread::sleep(Duration::from_millis(5));
    }
    seen
}

/// What that has come to within this time.
fn waited_within(seen: &[(i64, Duration)], from: i64, to: i64) -> i64 {
    let mut within = seen.iter().filter(|(at, _)| (from..=to).contains(at));
    let first = within.next().map_or(Duration::ZERO, |(_, waited)| *waited);
    let last = within.next_back().map_or(first, |(_, waited)| *waited);
    i64::try_from(last.saturating_sub(first).as_millis()).unwrap()
}

/// A second is what the shipper may lose by itself. While it is ready to ship, and the machine gives it no
/// processor, that is not its own: the kernel counts it. The disk is none here, as far as there is memory
/// to put it in.
#[test]
fn whoever_is_killed_at_whatever_moment_a_second_is_lost_at_most() {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let rig = rig_in(&place, "path = \"@\"\n");
    drop(database(&rig.path("app.db")));
    let mut processes: [Option<Killed>; 2] = [None, None];
    let (mut worst, mut own) = (0, 0);
    for round in 0..rounds() {
        processes[0].get_or_insert_with(|| writer(&rig));
        let shipper = processes[1].get_or_insert_with(|| receiver(&rig)).0.id();
        is_stored(&rig);
        // Any number will do; the machine's load adds its own. A log that is not shipped for longer than
        // it may be has the time to be missed.
        let moment = Timestamp::now().as_microsecond().unsigned_abs().wrapping_mul(2_654_435_761);
        let victims: &[usize] = [&[1][..], &[0, 1], &[0]][usize::try_from(round % 3).unwrap()];
        let over = AtomicBool::new(false);
        let (killed, seen) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| watched(shipper, &over));
            std::thread::sleep(Duration::from_millis(50 + moment % 2500));
            let mut killed = 0;
            for victim in victims {
                // What is acknowledged from here on nobody could ship any more.
                killed = Timestamp::now().as_millisecond();
                processes[*victim].take().unwrap().kill();
            }
            over.store(true, Ordering::SeqCst);
            (killed, watch.join().unwrap())
        });
        if victims == [0] {
            is_stored(&rig);
        }
        let (copy, _) = restored(&rig, &format!("copy-{round}"), &[]);
        let last = last(&copy);
        let acknowledged = acknowledged(&rig);
        let known = acknowledged.last().unwrap().0;
        // What was shipped was committed, acknowledged or not.
        let lost = acknowledged.iter().find(|(n, time)| *n > last && *time <= killed);
        if let Some((_, since)) = lost {
            let lost = killed - since;
            worst = worst.max(lost);
            own = own.max(lost - waited_within(&seen, *since, killed));
        }
        if victims == [0] {
            assert!(last == known || last == known + 1, "{last} of {known}");
        }
        fs::remove_dir_all(rig.path(format!("copy-{round}"))).unwrap();
    }
    println!("the worst loss was {worst} ms, {own} ms of them without the waiting for a processor");
    assert!(own <= 1000, "{own} ms were lost");
}

#[test]
fn any_time_between_two_points_can_be_reached() {
    let rig = rig("path = \"@\"\n");
    let connection = database(&rig.path("app.db"));
    let mut shipper = receiver(&rig);
    is_stored(&rig);
    let mut times = Vec::new();
    for n in 1..=40 {
        insert(&connection, n);
        if n % 10 == 0 {
            // Seen as committed before, and nothing after it yet.
            std::thread::sleep(Duration::from_millis(250));
            times.push((n, Timestamp::now()));
        }
        // All of it is rewritten, what is deleted goes, and the tables are others.
        if n == 20 {
            connection.execute_batch("VACUUM; CREATE TABLE other (y); DROP TABLE other").unwrap();
        }
        if n == 30 {
            connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        }
    }
    is_stored(&rig);
    // The one who ships runs no more, and everything is in the vault.
    shipper.kill();
    drop(connection);
    for (n, time) in &times {
        let (copy, said) = restored(&rig, &format!("at-{n}"), &["--at", &time.to_string()]);
        assert_eq!(last(&copy), *n, "{said}");
        assert!(said["log"].get("gaps").is_none(), "{said}");
    }
    let (copy, _) = restored(&rig, "end", &[]);
    assert_eq!(last(&copy), 40);
    // The points alone hold nothing of it, and the log is verified with everything else.
    let point = rig.run(&["--json", "snapshots", "docs"]).json();
    let id = point["services"][0]["snapshots"][0]["snapshot"].as_str().unwrap().to_owned();
    let (copy, _) = restored(&rig, "point", &["--snapshot", &id]);
    assert_eq!(last(&copy), 0);
    rig.run(&["check", "docs", "--read-data"]).code(0);
}

#[test]
fn what_breaks_the_log_is_noticed_and_named() {
    let rig = rig("path = \"@\"\n");
    let path = rig.path("app.db");
    let connection = database(&path);
    insert(&connection, 1);
    rig.run(&["wal", "receive", "docs", "--once"]).code(0);
    let points = |rig: &Rig| {
        let said = rig.run(&["--json", "snapshots", "docs"]).json();
        said["services"][0]["snapshots"].as_array().unwrap().len()
    };
    assert_eq!(points(&rig), 1);
    // Nobody ships, but nothing is lost: it goes on where it was.
    insert(&connection, 2);
    rig.run(&["wal", "receive", "docs", "--once"]).code(0);
    assert_eq!(points(&rig), 1, "a point was made without need");
    assert_eq!(last(&restored(&rig, "two", &[]).0), 2);

    // A foreign checkpoint begins the log anew while nobody ships.
    insert(&connection, 3);
    let before = Timestamp::now();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    insert(&connection, 4);
    std::thread::sleep(Duration::from_millis(20));
    rig.run(&["wal", "receive", "docs", "--once"]).code(0).complains("begun anew");
    assert_eq!(points(&rig), 2);
    assert_eq!(last(&restored(&rig, "four", &[]).0), 4);
    let (copy, said) = restored(&rig, "gap", &["--at", &before.to_string()]);
    assert_eq!(last(&copy), 2);
    assert!(said["log"]["gaps"][0].as_str().unwrap().contains("gap"), "{said}");

    // Another journal mode has no log; a backup is a backup still.
    connection.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    insert(&connection, 5);
    let mut shipper = receiver(&rig);
    rig.run(&["backup", "docs"]).code(0);
    assert_eq!(last(&restored(&rig, "five", &[]).0), 5);
    // It is noticed when the log is back, and when the file is another one.
    connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    insert(&connection, 6);
    is_stored(&rig);
    assert_eq!(last(&restored(&rig, "six", &[]).0), 6);
    drop(connection);
    let fresh = rig.path("fresh.db");
    let other = database(&fresh);
    (1..=3).for_each(|n| insert(&other, n));
    other.close().unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(rig.path(format!("app.db{suffix}")));
    }
    fs::rename(&fresh, &path).unwrap();
    is_stored(&rig);
    let other = database(&path);
    insert(&other, 4);
    is_stored(&rig);
    assert_eq!(last(&restored(&rig, "replaced", &[]).0), 4);
    drop(other);

    // A restore in place is not kept from it by the one who ships.
    rig.run(&["restore", "docs", "--replace"]).code(0);
    assert_eq!(last(&path), 4);
    is_stored(&rig);
    shipper.kill();
}

/// What was warned of is not the last word, though nobody asked for more.
#[test]
fn that_it_is_over_is_told_where_it_was_told_that_it_is_wrong() {
    let rig = rig("path = \"@\"\n");
    let _writer = database(&rig.path("app.db"));
    let said = fs::File::create(rig.path("said")).unwrap();
    let mut command = rig.command(&["-q", "wal", "receive", "docs"]);
    let _receiver = Killed(command.stdout(Stdio::null()).stderr(said).spawn().unwrap());
    is_stored(&rig);
    let told = || fs::read_to_string(rig.path("said")).unwrap();
    fs::rename(rig.path("vault"), rig.path("gone")).unwrap();
    wait_for("it is told", || told().contains("Warning: "));
    fs::rename(rig.path("gone"), rig.path("vault")).unwrap();
    wait_for("that it is over is told", || told().ends_with("the log goes on\n"));
    // Of what has no log it is said what has.
    rig.write("tree/file", "x");
    let tree = rig.path("tree").display().to_string();
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{tree}\"\n"));
    let said =
        rig.run(&["wal", "receive", "docs"]).code(1).complains("no log that could be received");
    said.complains("`postgres`").complains("`sqlite`");
}

#[test]
fn two_databases_of_one_service() {
    let rig = Rig::new();
    rig.write("password", "correct horse battery staple\n");
    let (one, two) = (rig.path("one/app.db"), rig.path("two/app.db"));
    fs::create_dir(rig.path("one")).unwrap();
    fs::create_dir(rig.path("two")).unwrap();
    let connections = [database(&one), database(&two)];
    rig.configure(&format!(
        "[service.docs]\nengine = \"sqlite\"\npaths = [\"{}\", \"{}\"]\n",
        one.display(),
        two.display()
    ));
    rig.run(&["init"]).code(0);
    rig.run(&["wal", "receive", "docs", "--once"]).code(0);
    insert(&connections[0], 1);
    (1..=2).for_each(|n| insert(&connections[1], n));
    rig.run(&["wal", "receive", "docs", "--once"]).code(0);
    let (_, said) = restored(&rig, "copy", &[]);
    let targets = said["targets"].as_array().unwrap();
    let found: Vec<i64> =
        targets.iter().map(|target| last(Path::new(target.as_str().unwrap()))).collect();
    assert_eq!(found, [1, 2], "{said}");
}

/// Each commit to the second database comes after one to the first.
#[test]
fn two_databases_are_restored_to_one_moment() {
    let rig = Rig::new();
    rig.write("password", "correct horse battery staple\n");
    let paths = ["one/app.db", "two/app.db"].map(|name| rig.path(name));
    paths.iter().for_each(|path| fs::create_dir(path.parent().unwrap()).unwrap());
    let connections = [database(&paths[0]), database(&paths[1])];
    let shown = paths.each_ref().map(|path| path.display().to_string());
    rig.configure(&format!(
        "[service.docs]\nengine = \"sqlite\"\npaths = [\"{}\", \"{}\"]\n",
        shown[0], shown[1]
    ));
    rig.run(&["init"]).code(0);
    let mut shipper = receiver(&rig);
    is_stored(&rig);
    // When which number was committed to both.
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let n = i64::try_from(times.len()).unwrap() + 1;
        connections.iter().for_each(|connection| insert(connection, n));
        times.push(Instant::now());
        std::thread::sleep(Duration::from_millis(2));
    }
    let killed = Instant::now();
    shipper.kill();
    let (_, said) = restored(&rig, "copy", &[]);
    let targets = said["targets"].as_array().unwrap();
    let found: Vec<i64> =
        targets.iter().map(|target| last(Path::new(target.as_str().unwrap()))).collect();
    let time = |n: i64| times[usize::try_from(n.max(1) - 1).unwrap()];
    let apart = if found[0] < found[1] {
        time(found[1]) - time(found[0])
    } else {
        time(found[0]) - time(found[1])
    };
    // It is looked every tenth of a second, more or less, on a machine that has other things to do.
    assert!(apart < Duration::from_millis(700), "{found:?} are {apart:?} apart: {said}");
    let lost = killed - time(found[0].min(found[1]));
    assert!(lost < Duration::from_secs(3), "{lost:?} were lost: {said}");
    assert!(said["log"].get("gaps").is_none(), "{said}");

    // One that nobody writes to keeps nobody back, and what is said of it does not pile up.
    let mut shipper = receiver(&rig);
    is_stored(&rig);
    let before = connections[1].query_row("SELECT max(n) FROM t", [], |row| row.get(0)).unwrap();
    let (mut n, began) = (i64::try_from(times.len()).unwrap(), Instant::now());
    while began.elapsed() < Duration::from_secs(2) {
        n += 1;
        insert(&connections[0], n);
        std::thread::sleep(Duration::from_millis(2));
    }
    is_stored(&rig);
    is_stored(&rig);
    shipper.kill();
    let (_, said) = restored(&rig, "quiet", &[]);
    let targets = said["targets"].as_array().unwrap();
    let found: Vec<i64> =
        targets.iter().map(|target| last(Path::new(target.as_str().unwrap()))).collect();
    assert_eq!(found, [n, before], "{said}");
    let marks = files_below(&rig.path("vault/docs/mainstay/log"));
    let marks = marks.iter().filter(|path| path.to_string_lossy().contains(".u@")).count();
    // One of each database and each shipper.
    assert!((1..=4).contains(&marks), "{marks} marks");
}

pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(items) = fs::read_dir(dir) else { return Vec::new() };
    let paths = items.map(|item| item.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_vault_that_is_gone_fills_no_disk_and_keeps_nobody_waiting() {
    let rig = rig("path = \"@\"\nlog-queue = \"64 MiB\"\n");
    let (vault, away) = (rig.path("vault"), rig.path("away"));
    let goes = || fs::rename(&vault, &away).unwrap();
    without_a_vault(&rig, &goes, &|| fs::rename(&away, &vault).unwrap());
}

/// It takes connections and what is sent, and never answers.
#[test]
fn a_vault_that_hangs_fills_no_disk_and_keeps_nobody_waiting() {
    let rig = rig("path = \"@\"\nlog-queue = \"64 MiB\"\n");
    let vault = VaultHost::start(&rig.path("."), &rig.path("vault"), &["--no-auth"]);
    let file = rig.path("mainstay.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace(&rig.path("vault").display().to_string(), &vault.url);
    fs::write(&file, text).unwrap();
    without_a_vault(&rig, &|| vault.signal("STOP"), &|| vault.signal("CONT"));
}

/// Where it is kept in mind how far the vault has the log. What cannot be written down there lets no log
/// grow, and keeps no writer waiting; and nothing is missing when there is room again.
#[test]
fn a_full_state_directory_fills_no_disk_and_keeps_nobody_waiting() {
    for vault_is_there in [true, false] {
        let rig = rig("path = \"@\"\nlog-queue = \"64 MiB\"\n");
        let (state, aside) = (rig.path("state"), rig.path("state-before"));
        fs::rename(&state, &aside).unwrap();
        let Some(disk) = Small::mount(&state, "400m") else { return };
        run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&state)).code(0);
        let (vault, away) = (rig.path("vault"), rig.path("away"));
        let connection = database(&rig.path("app.db"));
        insert(&connection, 1);
        let mut shipper = receiver(&rig);
        is_stored(&rig);
        disk.fill(0);
        if !vault_is_there {
            fs::rename(&vault, &away).unwrap();
        }
        let length = || fs::metadata(rig.path("app.db-wal")).map_or(0, |meta| meta.len());
        let (mut n, mut longest, mut most) = (1, Duration::ZERO, 0);
        while n < 80_000 {
            let commit = Instant::now();
            connection.execute_batch("BEGIN").unwrap();
            // What waits is not too much by itself where the vault takes it.
            for _ in 0..if vault_is_there { 40 } else { 200 } {
                n += 1;
                insert(&connection, n);
            }
            connection.execute_batch("COMMIT").unwrap();
            longest = longest.max(commit.elapsed());
            most = most.max(length());
            // What a second may add must be less than what is allowed to wait.
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(most < 128 << 20, "{vault_is_there}: it grew to {most} bytes");
        assert!(longest < Duration::from_secs(5), "{vault_is_there}: a writer waited {longest:?}");
        disk.empty();
        if !vault_is_there {
            fs::rename(&away, &vault).unwrap();
        }
        is_stored(&rig);
        assert_eq!(last(&restored(&rig, "copy", &[]).0), n);
        shipper.kill();
    }
}

/// What an application has of it when its vault goes for so long that the log is let go.
fn without_a_vault(rig: &Rig, goes: &dyn Fn(), comes: &dyn Fn()) {
    let path = rig.path("app.db");
    let connection = database(&path);
    insert(&connection, 1);
    let mut shipper = receiver(rig);
    is_stored(rig);
    goes();
    let wal = rig.path("app.db-wal");
    let length = || fs::metadata(&wal).map_or(0, |meta| meta.len());
    let book = rig.path("state/services/docs/sqlite-log.json");
    let (mut n, mut longest, mut most) = (1, Duration::ZERO, 0);
    let began = Instant::now();
    // Until so much has waited that it was let go.
    while !fs::read_to_string(&book).unwrap().contains("\"place\":null") {
        assert!(began.elapsed() < Duration::from_secs(60), "{} bytes, and not let go", length());
        let commit = Instant::now();
        connection.execute_batch("BEGIN").unwrap();
        for _ in 0..200 {
            n += 1;
            insert(&connection, n);
        }
        connection.execute_batch("COMMIT").unwrap();
        longest = longest.max(commit.elapsed());
        most = most.max(length());
        // What a second may add must be less than what is allowed to wait.
        std::thread::sleep(Duration::from_millis(5));
    }
    // By now it may be short again. It was looked at often enough.
    assert!(most > 60 << 20 && most < 256 << 20, "it was let go at {most} bytes");
    assert!(longest < Duration::from_secs(5), "a writer waited for {longest:?}");
    wait_for("the log is made short", || length() <= 4 << 20);
    comes();
    is_stored(rig);
    assert_eq!(last(&restored(rig, "copy", &[]).0), n);
    shipper.kill();
}
