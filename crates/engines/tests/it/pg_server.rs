//! A PostgreSQL server of a test's own: a fresh cluster in a directory, reachable by a socket in
//! the same directory, stopped when it is dropped. Needs PostgreSQL's programs and `psql`.
//!
//! Other crates' tests include this file by its path; it uses nothing of the crate it lies in.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What every test's server has: small, and as fast as a server can be that still tells the truth.
const SETTINGS: &str = "
listen_addresses = ''
shared_buffers = 16MB
max_connections = 20
max_wal_size = 256MB
fsync = off
autovacuum_naptime = 1s
dynamic_shared_memory_type = mmap
";

/// A server and its directory.
pub(crate) struct PgServer {
    home: PathBuf,
    data: PathBuf,
}

impl PgServer {
    /// Makes a cluster below `home`, which becomes the server user's, with these lines added to
    /// its configuration. It is not started.
    pub(crate) fn create(home: &Path, settings: &str) -> PgServer {
        fs::create_dir_all(home).expect("a home");
        let server = PgServer { home: home.to_owned(), data: home.join("data") };
        give(home);
        fs::create_dir_all(server.socket_dir()).expect("a socket directory");
        give(&server.socket_dir());
        copy(fresh(), &server.data);
        identify(&server.data);
        let socket = server.socket_dir();
        server.configure(&format!(
            "{SETTINGS}\nunix_socket_directories = '{}'\n{settings}\n",
            socket.display()
        ));
        server
    }

    /// A server on files that lie at `data`, with its socket below `home`.
    pub(crate) fn on(home: &Path, data: &Path) -> PgServer {
        let server = PgServer { home: home.to_owned(), data: data.to_owned() };
        fs::create_dir_all(server.socket_dir()).expect("a socket directory");
        give(home);
        give(&server.socket_dir());
        server
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn socket_dir(&self) -> PathBuf {
        self.home.join("s")
    }

    /// For a role.
    pub(crate) fn url(&self, role: &str) -> String {
        format!("postgres://{role}@/postgres?host={}", self.socket_dir().display())
    }

    /// Adds lines to its configuration.
    pub(crate) fn configure(&self, settings: &str) {
        let file = self.data.join("postgresql.conf");
        let text = fs::read_to_string(&file).expect("postgresql.conf");
        fs::write(&file, text + settings).expect("postgresql.conf");
    }

    /// Starts it, with these options of the server, and waits until it accepts work.
    pub(crate) fn start_with(&self, options: &[&str]) {
        let options: Vec<String> = options.iter().map(|option| format!("'{option}'")).collect();
        self.must(
            self.program("pg_ctl")
                .args(["start", "--wait", "--silent", "--timeout=60"])
                .arg("--pgdata")
                .arg(&self.data)
                .arg("--log")
                .arg(self.home.join("server.log"))
                .arg("--options")
                .arg(options.join(" ")),
        );
    }

    pub(crate) fn start(&self) {
        self.start_with(&[]);
    }

    /// Stops it: `fast` as an administrator does, `immediate` as a crash.
    pub(crate) fn stop(&self, mode: &str) {
        self.must(
            self.program("pg_ctl")
                .args(["stop", "--wait", "--silent", "--timeout=60", "--mode", mode])
                .arg("--pgdata")
                .arg(&self.data),
        );
    }

    /// Kills it as a power cut would: nothing of it has time to do anything.
    pub(crate) fn kill(&self) {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).expect("postmaster.pid");
        let pid = file.lines().next().expect("a process id");
        let killed = Command::new("kill").args(["-KILL", pid]).status().expect("kill");
        assert!(killed.success(), "kill {pid}");
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.runs() {
            assert!(Instant::now() < deadline, "{pid} lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn runs(&self) -> bool {
        let mut status = self.program("pg_ctl");
        let status = status.arg("status").arg("--pgdata").arg(&self.data);
        status.output().expect("pg_ctl status").status.success()
    }

    /// Runs statements in the database `postgres` and returns what they print.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> String {
        let output = self.try_sql(database, sql);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// As [`PgServer::sql_in`], whatever comes of it.
    pub(crate) fn try_sql(&self, database: &str, sql: &str) -> Output {
        self.program("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database])
            .arg("-h")
            .arg(self.socket_dir())
            .args(["-c", sql])
            .output()
            .expect("psql")
    }

    /// Waits until a query that yields one boolean yields true.
    pub(crate) fn eventually(&self, sql: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let output = self.try_sql("postgres", sql);
            if output.status.success() && output.stdout.trim_ascii() == b"t" {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not within 60 s: {sql}: {}{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
                fs::read_to_string(self.home.join("server.log")).unwrap_or_default(),
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One of its programs, as the server's user, not yet run.
    pub(crate) fn program(&self, name: &str) -> Command {
        as_server_user(&bin_dir().join(name))
    }

    /// Whether an extension can be made here: some servers come without those of PostgreSQL's own.
    pub(crate) fn has_extension(&self, name: &str) -> bool {
        let there = format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{name}'");
        self.sql(&there) == "1"
    }

    fn must(&self, command: &mut Command) {
        let log = || fs::read_to_string(self.home.join("server.log")).unwrap_or_default();
        must(command, log);
    }
}

impl Drop for PgServer {
    /// Who holds the directory, too, has to drop it after this: a server whose files are gone is found
    /// by nobody, and goes on for a while.
    fn drop(&mut self) {
        if self.runs() {
            let mut stop = self.program("pg_ctl");
            let stop = stop.args(["stop", "--wait", "--mode=immediate", "--pgdata"]);
            let _ = stop.arg(&self.data).output();
        }
    }
}

fn must(command: &mut Command, log: impl FnOnce() -> String) {
    let output = command.output().expect("run");
    assert!(
        output.status.success(),
        "{command:?}: {}{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        log(),
    );
}

/// A cluster that was never started, of which all are copies: making one takes a second, copying it a
/// tenth of that. It is kept for all processes that run tests of this checkout.
fn fresh() -> &'static Path {
    static FRESH: OnceLock<PathBuf> = OnceLock::new();
    FRESH.get_or_init(|| {
        let initdb = bin_dir().join("initdb");
        let version = Command::new(&initdb).arg("--version").output().expect("initdb").stdout;
        let version =
            String::from_utf8_lossy(&version).replace(|c: char| !c.is_alphanumeric(), "-");
        let owner = server_user().map_or_else(|| "me".to_owned(), |(uid, _)| uid.to_string());
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let place = kept.join(format!("{}-of-{owner}", version.trim_end_matches('-')));
        if !place.exists() {
            // The server's user may not reach the place where it is kept.
            let made = tempfile::tempdir().expect("a temporary directory");
            give(made.path());
            let data = made.path().join("data");
            let mut initdb = as_server_user(&initdb);
            let initdb = initdb.arg("--pgdata").arg(&data).args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
                "--no-sync",
            ]);
            must(initdb, String::new);
            let beside = tempfile::tempdir_in(kept).expect("a temporary directory");
            copy(&data, &beside.path().join("data"));
            // Another process may have been faster; its cluster is as good.
            let _ = fs::rename(beside.path().join("data"), &place);
        }
        place
    })
}

fn copy(from: &Path, to: &Path) {
    must(Command::new("cp").arg("-aT").arg(from).arg(to), String::new);
}

/// Gives a cluster that was never started a system identifier of its own, as `initdb` does: it is in
/// the control file, which ends with a checksum, and in the first page of the log (PostgreSQL's
/// `pg_control.h` and `xlog_internal.h`).
fn identify(data: &Path) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let count = u64::from(COUNT.fetch_add(1, Ordering::Relaxed) % 4096);
    let own = (now.as_secs() << 32 | u64::from(now.subsec_micros()) << 12 | count).to_le_bytes();
    let path = data.join("global/pg_control");
    let mut control = fs::read(&path).expect("pg_control");
    let sum = |bytes: &[u8]| crc32c::crc32c(bytes).to_le_bytes();
    let ends = |at: &usize| control[*at..at + 4] == sum(&control[..*at]);
    let end = (200..508).step_by(4).find(ends).expect("a checksum");
    control[..8].copy_from_slice(&own);
    let sum = sum(&control[..end]);
    control[end..end + 4].copy_from_slice(&sum);
    fs::write(path, control).expect("pg_control");
    let log = data.join("pg_wal/000000010000000000000001");
    let log = fs::File::options().write(true).open(log).expect("the log");
    log.write_all_at(&own, 24).expect("the log");
}

/// Where PostgreSQL's programs are: on PATH, or where Debian has them, the newest first.
pub(crate) fn bin_dir() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    places.extend(versions.into_iter().rev().map(|(_, place)| place));
    let whole =
        |place: &PathBuf| ["initdb", "pg_ctl", "psql"].iter().all(|p| place.join(p).is_file());
    let found = places.into_iter().find(whole);
    found.expect("PostgreSQL's programs, on PATH or in /usr/lib/postgresql")
}

/// As whom servers run when the test runs as root, which they refuse: uid and gid of `postgres`,
/// or of `nobody` where there is no such user.
pub(crate) fn server_user() -> Option<(u32, u32)> {
    let me = fs::metadata("/proc/self").expect("/proc/self").uid();
    if me != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").expect("accounts");
    let find = |wanted: &str| {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            (name == wanted).then_some((uid, fields.next()?.parse().ok()?))
        })
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a user for servers"))
}

/// A program as the servers' user, not yet run, with nothing that leads it to another server.
pub(crate) fn as_server_user(program: &Path) -> Command {
    let mut command = match server_user() {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
            command.args(["--clear-groups", "--"]).arg(program);
            command
        }
    };
    command.current_dir("/").stdin(Stdio::null());
    for variable in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGDATA", "PGOPTIONS"] {
        command.env_remove(variable);
    }
    command
}

/// Lets the server's user own a directory, and everybody pass through it.
pub(crate) fn give(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        chown(path, Some(uid), Some(gid)).expect("chown");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}
