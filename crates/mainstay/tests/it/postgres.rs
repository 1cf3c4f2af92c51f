//! PostgreSQL on two hosts, driven by the real binary: backup, log, restore, takeover.

// Of the helper, each crate uses what it needs.
#[allow(dead_code)]
#[path = "../../../engines/tests/it/pg_server.rs"]
mod pg_server;

mod adopting;
mod cancelled;
mod checks;
mod drilling;
mod faults;
mod freshness;
mod gaps;
mod gone_back;
mod handing_over;
mod incremental;
mod killed_takeovers;
mod kills;
mod logical;
mod logical_faults;
mod missing_programs;
mod other_cluster;
mod over;
mod passwords;
mod receiving;
mod standing_still;
mod targets;
mod two_takeovers;
mod versions;

use crate::filesystems::Small;
use crate::rig::{Said, copy_program, run};
use pg_server::{PgServer, as_server_user, bin_dir, give};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often the primary is lost.
const ROUNDS: u32 = 20;

/// Two hosts with one vault.
struct Stage {
    a: Host,
    b: Host,
    // After the servers in it.
    dir: TempDir,
}

/// A host: its configuration, its server, and the binary.
struct Host {
    server: PgServer,
    config: PathBuf,
    program: PathBuf,
}

impl Stage {
    /// Host `a` has a primary that archives its log; host `b` has nothing yet.
    fn new() -> Stage {
        Stage::with("archive_mode = on", "")
    }

    /// The same with these settings of the server and these lines of the service's definition.
    fn with(settings: &str, definition: &str) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        give(dir.path());
        // The servers' user may not reach the place where the binary was built.
        let program = dir.path().join("mainstay");
        copy_program(&program);
        let write = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            give(&path);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let config = |host: &str, role: &str| {
            let here = dir.path().display();
            let other = if host == "a" { "b" } else { "a" };
            let definition = definition.replace("OTHER", &format!("{here}/{other}/s"));
            let text = format!(
                "[host]\nname = '{host}'\nstate-dir = '{here}/{host}/state'\n\
                 [vault]\nurl = '{here}/vault'\npassword-file = '{here}/password'\n\
                 [service.shop]\nengine = 'postgres'\nrole = '{role}'\n\
                 url = 'postgres://postgres@/postgres?host={here}/{host}/s'\n\
                 data-dir = '{here}/{host}/data'\nbin-dir = '{}'\n{definition}\n\
                 [service.shop.hooks]\nfence = 'test -e {here}/dead'\n",
                bin_dir().display()
            );
            write(&format!("{host}.toml"), &text, 0o600)
        };
        let (config_a, config_b) = (config("a", "primary"), config("b", "standby"));
        let push =
            format!("{} --config {} wal push shop %p", program.display(), config_a.display());
        let settings = format!("archive_command = '{push}'\n{settings}\n");
        let a = PgServer::create(&dir.path().join("a"), &settings);
        let b = PgServer::on(&dir.path().join("b"), &dir.path().join("b/data"));
        let stage = Stage {
            a: Host { server: a, config: config_a, program: program.clone() },
            b: Host { server: b, config: config_b, program },
            dir,
        };
        stage.a.run(&["init"]).code(0);
        stage.b.run(&["init"]).code(0);
        stage.a.server.start();
        stage.a.server.sql("CREATE TABLE orders (n bigint PRIMARY KEY, pad text)");
        stage
    }

    /// Puts the state directory of host `a` on a small disk of its own; none where nothing can be mounted.
    fn small_state(&self, size: &str) -> Option<Small> {
        let (state, aside) = (self.a.home().join("state"), self.dir.path().join("state-before"));
        fs::rename(&state, &aside).unwrap();
        let disk = Small::mount(&state, size)?;
        run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&state)).code(0);
        Some(disk)
    }

    /// Whether the fence hook finds the old primary dead.
    fn dead(&self, dead: bool) {
        let file = self.dir.path().join("dead");
        match dead {
            true => fs::write(file, "").unwrap(),
            false => fs::remove_file(file).unwrap(),
        }
    }
}

impl Host {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = as_server_user(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .env("HOME", "/nonexistent")
            .env("MAINSTAY_CONFIG", &self.config)
            .args(words);
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Said {
        run(&mut self.command(words))
    }

    fn write(&self) -> u64 {
        let next = "INSERT INTO orders SELECT coalesce(max(n), 0) + 1, repeat('x', 200) \
                    FROM orders RETURNING n";
        self.server.sql(next).parse().unwrap()
    }

    /// The newest order; none before it is missing.
    #[track_caller]
    fn newest(&self) -> u64 {
        let rows = self.server.sql("SELECT count(*) || ' ' || coalesce(max(n), 0) FROM orders");
        let (count, newest) = rows.split_once(' ').unwrap();
        assert_eq!(count, newest, "orders are missing");
        newest.parse().unwrap()
    }

    /// Returns when everything that was committed before the call is in the vault.
    fn archived(&self) {
        // Versions differ in what they call a place between two segments, so the last byte before it is
        // meant; and old ones cannot compute where that is.
        let end: u64 = self.server.sql("SELECT pg_switch_wal() - '0/0'").parse().unwrap();
        let (high, low) = ((end - 1) >> 32, (end - 1) & 0xffff_ffff);
        let segment = self.server.sql(&format!("SELECT pg_walfile_name('{high:X}/{low:X}')"));
        self.server.eventually(&format!(
            "SELECT coalesce(last_archived_wal, '') >= '{segment}' FROM pg_stat_archiver"
        ));
    }

    #[track_caller]
    fn is_sound(&self) {
        let mut amcheck = self.server.program("pg_amcheck");
        amcheck.args(["--all", "--install-missing", "--heapallindexed", "-U", "postgres", "-h"]);
        let has_program =
            self.server.sql("SELECT current_setting('server_version_num')::int >= 140000");
        match (self.server.has_extension("amcheck"), has_program == "t") {
            (true, true) => drop(run(amcheck.arg(self.server.socket_dir())).code(0)),
            (true, false) => {
                self.server.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
                self.server.sql(
                    "SELECT bt_index_parent_check(i.indexrelid, true) FROM pg_index i JOIN pg_class c \
                     ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' \
                     AND c.relpersistence = 'p' AND i.indisvalid",
                );
            }
            (false, _) => {}
        }
        let balanced = self.server.sql(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM \
             pgbench_branches) AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT \
             sum(bbalance) FROM pgbench_branches)",
        );
        assert_eq!(balanced, "t", "a transaction is torn");
    }

    /// Where it keeps its server and its state.
    fn home(&self) -> PathBuf {
        self.config.with_extension("")
    }

    /// The process that carries out the operation that runs on it.
    fn worker(&self) -> Option<u32> {
        crate::world::worker_in(&self.home().join("state/services/shop/operations"))
    }

    /// Starts a copy that was restored elsewhere, which replays all that the vault has.
    fn starts_alone(&self) {
        self.server.start_with(&[
            &format!("-cunix_socket_directories={}", self.server.socket_dir().display()),
            "-cfsync=off",
        ]);
        self.server.eventually("SELECT NOT pg_is_in_recovery()");
    }

    /// Its server keeps no more of its log than somebody needs.
    fn keeps_little(&self) {
        self.server.sql("ALTER SYSTEM SET max_wal_size = '32MB'");
        self.server.sql("ALTER SYSTEM SET wal_keep_size = 0");
        self.server.sql("SELECT pg_reload_conf()");
    }

    /// Writes so many megabytes of log, and nothing else.
    fn fill(&self, megabytes: u32) {
        self.server.sql(&format!(
            "SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) \
             FROM generate_series(1, {megabytes})"
        ));
    }

    /// More than any queue here takes, and lets go what nobody keeps.
    fn fill_much(&self) {
        for _ in 0..4 {
            self.fill(30);
            self.server.sql("CHECKPOINT");
        }
    }

    /// Kills that, if there is one.
    fn kill_worker(&self) -> bool {
        let kill = |pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let pid = self.worker().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        pid.is_some_and(|pid| kill(pid).is_ok())
    }

    /// Removes what a rejoin or a new seed has put aside.
    fn drop_diverged(&self) {
        for entry in fs::read_dir(self.home()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().contains("diverged") {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }

    fn pgbench(&self, words: &[&str]) -> Command {
        let mut command = self.server.program("pgbench");
        command.args(["-U", "postgres", "-h"]).arg(self.server.socket_dir()).args(words);
        command.arg("postgres").stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// A program that ends when it is dropped.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The primary is lost under load, again and again, each time on the other host.
#[test]
fn twenty_lost_primaries_lose_nothing_that_was_archived() {
    let stage = Stage::new();
    run(&mut stage.a.pgbench(&["-i", "-s", "1", "-q"])).code(0);
    stage.a.run(&["backup", "shop"]).code(0);
    stage.b.run(&["refresh", "shop"]).code(0);
    let mut promotions = Vec::new();
    let (mut old, mut new) = (&stage.a, &stage.b);
    for round in 1..=ROUNDS {
        let acknowledged = AtomicU64::new(old.newest());
        let lost = AtomicBool::new(false);
        let archived = std::thread::scope(|scope| {
            let _load = Load(old.pgbench(&["-n", "-c", "2", "-T", "600"]).spawn().unwrap());
            scope.spawn(|| {
                while !lost.load(Ordering::SeqCst) {
                    let next = acknowledged.load(Ordering::SeqCst) + 1;
                    let insert = format!("INSERT INTO orders VALUES ({next}, 'order')");
                    if !old.server.try_sql("postgres", &insert).status.success() {
                        break;
                    }
                    acknowledged.store(next, Ordering::SeqCst);
                }
            });
            // Every second time a base is taken under the load as well.
            if round % 2 == 0 {
                old.run(&["backup", "shop"]).code(0);
            }
            let archived = acknowledged.load(Ordering::SeqCst);
            old.archived();
            let more = archived + u64::from(round % 5);
            let deadline = Instant::now() + Duration::from_secs(60);
            while acknowledged.load(Ordering::SeqCst) < more && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            old.server.kill();
            lost.store(true, Ordering::SeqCst);
            archived
        });
        let acknowledged = acknowledged.into_inner();

        // Nobody has said that it is off: refused. Then the hook finds it so.
        new.run(&["takeover", "shop", "--yes"]).code(1);
        stage.dead(true);
        let done = new.run(&["takeover", "shop", "--yes", "--json"]).code(0).json();
        stage.dead(false);
        let promotion = done["done"]["promotion-seconds"].as_f64().unwrap();
        promotions.push(promotion);
        let newest = new.newest();
        assert!(
            (archived..=acknowledged + 1).contains(&newest),
            "round {round}: {newest} orders, of {archived} archived and {acknowledged} acknowledged"
        );
        new.is_sound();
        new.write();

        // What was the primary is taken over, and becomes a standby of the new one.
        old.run(&["may-start", "shop"]).code(1);
        old.run(&["backup", "shop"]).code(1);
        new.run(&["backup", "shop"]).code(0);
        old.run(&["rejoin", "shop"]).code(0);
        old.drop_diverged();
        (old, new) = (new, old);
    }
    promotions.sort_by(f64::total_cmp);
    println!("promotions in seconds: {promotions:?}");
    let slowest = promotions.last().copied().unwrap();
    assert!(slowest < 1.0, "a promotion took {slowest} s: {promotions:?}");
}

#[test]
fn a_planned_takeover_loses_nothing_and_goes_back() {
    let stage = Stage::new();
    stage.a.write();
    stage.a.run(&["backup", "shop"]).code(0);
    stage.b.run(&["refresh", "shop"]).code(0);
    let (mut old, mut new) = (&stage.a, &stage.b);
    for _ in 0..2 {
        let last = old.write();
        old.run(&["offline", "shop"]).code(0);
        assert!(!old.server.runs());
        let done = new.run(&["takeover", "shop", "--planned", "--yes", "--json"]).code(0).json();
        assert_eq!(done["assessment"]["loss"]["nothing"], true, "{done}");
        assert_eq!(new.newest(), last);
        new.write();
        new.run(&["backup", "shop"]).code(0);
        old.run(&["rejoin", "shop"]).code(0);
        assert_eq!(old.server.sql("SELECT pg_is_in_recovery()"), "t");
        (old, new) = (new, old);
    }
}

/// Archiving fails just when the server stops: `offline` pushes what is left, or does not give its
/// word.
#[test]
fn a_stopped_primary_gives_its_word_only_for_what_is_in_the_vault() {
    let stage = Stage::new();
    stage.a.write();
    stage.a.run(&["backup", "shop"]).code(0);
    stage.b.run(&["refresh", "shop"]).code(0);
    stage.a.server.sql("ALTER SYSTEM SET archive_command = 'false'");
    stage.a.server.sql("SELECT pg_reload_conf()");
    stage.a.server.eventually("SELECT current_setting('archive_command') = 'false'");
    let last = stage.a.write();
    // Nobody needs a takeover to hear of it.
    stage.a.server.sql("SELECT pg_switch_wal()");
    stage.a.server.eventually("SELECT last_failed_wal IS NOT NULL FROM pg_stat_archiver");
    stage.a.run(&["doctor"]).code(1).says("FAIL  shop log: the server fails to archive it");
    stage.a.run(&["offline", "shop"]).code(0);
    stage.b.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    assert_eq!(stage.b.newest(), last);
}

#[test]
fn a_time_between_two_points_is_restored() {
    let stage = Stage::new();
    stage.a.write();
    stage.a.run(&["backup", "shop"]).code(0);
    for _ in 0..3 {
        stage.a.write();
    }
    let wanted = stage.a.newest();
    let time = stage.a.server.sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    for _ in 0..3 {
        stage.a.write();
    }
    stage.a.archived();
    let target = stage.dir.path().join("copy/data");
    let shown = target.display().to_string();
    stage.a.run(&["restore", "shop", "--at", &time, "--target", &shown]).code(0);
    let copy = Host {
        server: PgServer::on(&stage.dir.path().join("copy"), &target),
        config: stage.a.config.clone(),
        program: stage.a.program.clone(),
    };
    copy.server.start_with(&[&format!(
        "-cunix_socket_directories={}",
        copy.server.socket_dir().display()
    )]);
    copy.server.eventually("SELECT NOT pg_is_in_recovery()");
    assert_eq!(copy.newest(), wanted);
    // It is a copy to look at: production's log hears nothing of it.
    assert_eq!(copy.server.sql("SHOW archive_mode"), "off");
    stage.a.write();
}

/// The primary itself goes back to before the mistake, and goes on from there.
#[test]
fn a_primary_goes_back_in_time_in_its_place() {
    let stage = Stage::new();
    stage.a.write();
    stage.a.run(&["backup", "shop"]).code(0);
    stage.b.run(&["refresh", "shop"]).code(0);
    let wanted = stage.a.write();
    let time = stage.a.server.sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    stage.a.server.sql("DELETE FROM orders");
    stage.a.archived();
    stage.a.run(&["restore", "shop", "--at", &time]).code(1);
    stage.a.run(&["restore", "shop", "--at", &time, "--replace"]).code(0);
    assert_eq!(stage.a.newest(), wanted);
    stage.a.write();
    // It archives its new timeline, and the next base is of that.
    stage.a.archived();
    stage.a.run(&["backup", "shop"]).code(0);
    // The standby has replayed the mistake, which is on no way to where the primary is now.
    stage.b.server.eventually("SELECT count(*) = 0 FROM orders");
    let refused = stage.b.run(&["refresh", "shop"]).code(1);
    refused.complains("--reseed");
    stage.b.run(&["refresh", "shop", "--reseed"]).code(0);
    assert_eq!(stage.b.newest(), wanted + 1);
    let last = stage.a.write();
    stage.a.archived();
    stage.b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
}

/// Without `archive_mode` there are only bases; a standby can be built from each.
#[test]
fn without_a_log_a_standby_is_built_anew() {
    let stage = Stage::new();
    stage.a.server.sql("ALTER SYSTEM SET archive_mode = off");
    stage.a.server.stop("fast");
    stage.a.server.start();
    let first = stage.a.write();
    stage.a.run(&["backup", "shop"]).code(0).says("");
    stage.b.run(&["refresh", "shop"]).code(0);
    assert_eq!(stage.b.newest(), first);
    let second = stage.a.write();
    stage.a.run(&["backup", "shop"]).code(0);
    stage.b.run(&["refresh", "shop"]).code(1).complains("--reseed");
    stage.b.run(&["refresh", "shop", "--reseed"]).code(0);
    assert_eq!(stage.b.newest(), second);

    // Stopping it captures what no log has.
    let last = stage.a.write();
    stage.a.run(&["offline", "shop"]).code(0);
    stage.b.run(&["takeover", "shop", "--planned", "--yes"]).code(1).complains("--reseed");
    stage.b.run(&["refresh", "shop", "--reseed"]).code(0);
    stage.b.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    assert_eq!(stage.b.newest(), last);
}

/// No lock-in: restic and the password, and PostgreSQL does the rest.
#[test]
fn restic_alone_restores_a_base_that_starts() {
    let stage = Stage::new();
    for _ in 0..3 {
        stage.a.write();
    }
    stage.a.run(&["backup", "shop"]).code(0);
    let wanted = stage.a.newest();
    let made = stage.a.run(&["backup", "shop", "--json"]).code(0).json();
    let made = &made["services"][0];
    let (files, read) = (made["files"].as_u64().unwrap(), made["files-read"].as_u64().unwrap());
    assert!(read * 4 < files, "{read} of {files} files were read again");
    let restic = |words: &[&str]| {
        let mut command = Command::new("restic");
        command
            .arg("--repo")
            .arg(stage.dir.path().join("vault/shop"))
            .arg("--password-file")
            .arg(stage.dir.path().join("password"))
            .args(["--no-cache", "--quiet"])
            .args(words);
        run(&mut command).code(0)
    };
    restic(&["check", "--read-data"]);
    let target = stage.dir.path().join("judge");
    restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    give(&target);
    stage.a.server.stop("fast");
    fs::rename(stage.dir.path().join("vault"), stage.dir.path().join("gone")).unwrap();
    let data = target.join("postgres/data");
    let copy = Host {
        server: PgServer::on(&stage.dir.path().join("judged"), &data),
        config: stage.a.config.clone(),
        program: stage.a.program.clone(),
    };
    // Its settings are the source's: started by hand, it must not archive.
    copy.server.start_with(&[
        "-carchive_mode=off",
        &format!("-cunix_socket_directories={}", copy.server.socket_dir().display()),
    ]);
    assert_eq!(copy.newest(), wanted);
}

/// With the vault and the password alone, on a machine without configuration: base and log.
#[test]
fn a_rescue_reaches_the_end_of_the_log() {
    let stage = Stage::new();
    stage.a.run(&["doctor"]).code(1).says("no segment has been full yet");
    stage.a.run(&["backup", "shop"]).code(0);
    for _ in 0..3 {
        stage.a.write();
    }
    let wanted = stage.a.newest();
    stage.a.archived();
    stage.a.run(&["doctor"]).code(0).says("shop log: last stored");
    let status = stage.a.run(&["status", "shop", "--json"]).code(0).json();
    assert!(status["services"][0]["log-stored"].is_string(), "{status}");
    stage.a.server.stop("immediate");
    // From a second vault as from the first, which is gone with the host: base and log went along.
    let second = stage.dir.path().join("second");
    let copied = stage.a.run(&["copy", "shop", "--to", &second.display().to_string(), "--json"]);
    assert!(copied.code(0).json()["log-copied"].as_u64().unwrap() >= 3);
    fs::rename(stage.dir.path().join("vault"), stage.dir.path().join("gone")).unwrap();

    let target = stage.dir.path().join("rescued");
    // By the user of the test, and not the server's. The server calls back the program that
    // restored it, so it must be one that it can reach.
    let mut rescue = Command::new(&stage.a.program);
    rescue.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    rescue.args(["--json", "rescue", "--vault"]).arg(second);
    rescue.arg("--password-file").arg(stage.dir.path().join("password"));
    rescue.args(["restore", "shop", "--target"]).arg(&target);
    let said = run(&mut rescue);
    let done = said.code(0).json();
    let kept = Kept(done["kept"].as_str().unwrap().into());
    let copy = Host {
        server: PgServer::on(&stage.dir.path().join("copy"), &target),
        config: stage.a.config.clone(),
        program: stage.a.program.clone(),
    };
    copy.server.start_with(&[&format!(
        "-cunix_socket_directories={}",
        copy.server.socket_dir().display()
    )]);
    copy.server.eventually("SELECT NOT pg_is_in_recovery()");
    assert_eq!(copy.newest(), wanted);
    drop(kept);
}

/// What a rescue leaves for the server, removed with the test.
struct Kept(PathBuf);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `init` without a configuration proposes the server that it finds.
#[test]
fn a_server_is_found() {
    let stage = Stage::new();
    let mut init = crate::rig::mainstay();
    init.args(["init", "--print", "--config", "/nonexistent/mainstay.toml"]);
    let said = run(init.arg(stage.dir.path().join("a"))).code(0);
    let proposed: toml::Value = toml::from_str(&said.out).unwrap();
    let services = proposed["service"].as_table().unwrap();
    let (name, found) = services.iter().next().unwrap();
    assert!(name.starts_with("postgres-"), "{name}");
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    assert_eq!(text("engine"), "postgres");
    assert_eq!(text("data-dir"), stage.a.server.data().display().to_string());
    // Its socket is where its own postmaster.pid says.
    assert!(text("url").contains(&stage.a.server.socket_dir().display().to_string()), "{said:#?}");
    assert_eq!(services.len(), 1);
}

/// To PostgreSQL an exit code up to 125 means that the log ends here.
#[test]
fn a_fetch_that_fails_is_never_taken_for_the_end_of_the_log() {
    let stage = Stage::new();
    stage.a.write();
    stage.a.archived();
    let segment = stage.a.server.sql("SELECT last_archived_wal FROM pg_stat_archiver");
    let target = stage.dir.path().join("a/fetched");
    let target = target.to_str().unwrap();
    let fetch = |service: &str, name: &str, place: &str| {
        stage.a.run(&["wal", "fetch", service, name, place])
    };
    fetch("shop", &segment, target).code(0);
    assert_eq!(fs::metadata(target).unwrap().len(), 16 << 20);
    fetch("shop", "0000000100000000000000FF", target).code(1);
    fetch("shop", "00000002.history", target).code(1);

    fetch("other", &segment, target).code(200);
    fetch("shop", "no-segment", target).code(200);
    fetch("shop", &segment, "/nonexistent/directory/file").code(200);
    stage.a.run(&["wal", "fetch", "shop", &segment]).code(200);
    stage.a.run(&["wal", "fetch", "shop", &segment, target, "--no-such-option"]).code(200);
    stage
        .a
        .run(&["--config", "/nonexistent.toml", "wal", "fetch", "shop", &segment, target])
        .code(200);
    let away = stage.dir.path().join("away");
    for name in ["vault", "a.toml"] {
        let place = stage.dir.path().join(name);
        fs::rename(&place, &away).unwrap();
        fetch("shop", "0000000100000000000000FF", target).code(200);
        fs::rename(&away, &place).unwrap();
    }

    // A gap is told, so that somebody who reads the server's log finds the reason.
    let cluster = stage.a.server.sql("SELECT system_identifier FROM pg_control_system()");
    let log = stage.dir.path().join(format!("vault/shop/mainstay/log/{cluster}/0000000100000000"));
    let name = format!("{segment}@0000000001");
    stage.a.write();
    stage.a.archived();
    fs::remove_file(log.join(name)).unwrap();
    fetch("shop", &segment, target).code(1).complains("gap");
}
