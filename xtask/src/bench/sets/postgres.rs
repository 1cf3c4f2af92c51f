//! A PostgreSQL server that runs: bases beside pgBackRest's, what shipping its log costs it, and how
//! long it is away when a standby takes over.

use super::Set;
use crate::bench::measure::Figures;
use crate::bench::spread::Spread;
use crate::bench::tools::Tool;
use crate::bench::{Bench, Sample, data, failed, must, remove};
use crate::{Failure, packages, root};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// pgbench's scale: each makes 15 MB.
const SCALE: u64 = 133;
const TRANSACTIONS: u64 = 8000;
/// How long one run of pgbench takes about, by which the cost of shipping is measured.
const RUN_SECONDS: u64 = 6;
/// Runs of each kind at the least, in turn, and each time the other way round: what goes on getting slower,
/// as tables that grow do, is not the fault of who is always the last.
const RUNS: usize = 6;
/// So often two runs follow each other of which one has its log shipped. A disk that others use, too, is
/// too uneven for less to show a few per cent.
const PAIRS: usize = 30;
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let stage = Stage::make(bench)?;
    let made = data::count(&stage.a.data)?;
    stage.a.start()?;
    let scale = (bench.part(SCALE * 100) / 100).max(1).to_string();
    must(&mut stage.a.pgbench(&["--initialize", "--quiet", "--scale", &scale]))?;
    stage.a.is_quiet()?;
    let full = data::count(&stage.a.data)?.bytes.saturating_sub(made.bytes);
    let pgbackrest = stage.version_of_pgbackrest();
    bench.about.push((
        Set::Postgres,
        format!(
            "a PostgreSQL that runs, with pgbench's tables at scale {scale} ({} MiB more than an \
             empty one). Two processes each; {}; {TRANSACTIONS} transactions between two backups. \
             Sizes are with the log. Transactions while the log is shipped: medians of {} runs, each \
             round the other way round; the processor's seconds are pgbench's own. Takeover: until a \
             session has written",
            full >> 20,
            pgbackrest.as_deref().unwrap_or("no pgbackrest is installed here"),
            bench.rounds.max(RUNS),
        ),
    ));
    for round in 0..bench.rounds {
        bases(bench, &stage, pgbackrest.is_some(), round)?;
    }
    shipping(bench, &stage, pgbackrest.is_some())?;
    for _ in 0..bench.rounds {
        takeover(bench, &stage)?;
    }
    Ok(())
}

/// First base, the next one, and a restore, by either.
fn bases(bench: &mut Bench, stage: &Stage, beside: bool, round: usize) -> Result<(), Failure> {
    let set = Set::Postgres;
    let a = &stage.a;
    let mut archive = stage.mainstay(a, &["wal", "push", "data"]).shown();
    archive.push_str(" %p");
    remove(&stage.place.join("mainstay"))?;
    remove(&stage.place.join("pgbackrest"))?;
    stage.configure(a, "primary")?;
    must(&mut stage.mainstay(a, &["init"]).0)?;
    if beside {
        stage.configure_pgbackrest()?;
        must(&mut stage.pgbackrest(&["stanza-create"]).0)?;
        archive = format!("{} %p && {archive}", stage.pgbackrest(&["archive-push"]).shown());
    }
    a.archive_by(&archive)?;
    let tools = if beside { &[Tool::Mainstay, Tool::PgBackRest][..] } else { &[Tool::Mainstay] };
    let backup = |tool: Tool, kind: &str| match tool {
        Tool::PgBackRest => stage.pgbackrest(&[kind, "backup"]).0,
        _ => stage.mainstay(a, &["backup", "data"]).0,
    };
    for tool in tools {
        a.is_quiet()?;
        bench.step(set, "first backup", *tool, &mut backup(*tool, "--type=full"))?;
    }
    let each = (TRANSACTIONS / 2).to_string();
    must(&mut a.pgbench(&["--no-vacuum", "--client=2", "--transactions", &each]))?;
    for tool in tools {
        a.is_quiet()?;
        bench.step(set, "after transactions", *tool, &mut backup(*tool, "--type=incr"))?;
    }
    a.is_quiet()?;
    for tool in tools {
        let out = stage.place.join("out");
        let shown = out.display().to_string();
        let mut command = match tool {
            Tool::PgBackRest => {
                stage.make_dir(&out)?;
                let to = format!("--pg1-path={shown}");
                stage.pgbackrest(&[&to, "--archive-mode=off", "restore"]).0
            }
            _ => stage.mainstay(a, &["restore", "data", "--target", &shown]).0,
        };
        bench.step(set, "restore", *tool, &mut command)?;
        if *tool == Tool::Mainstay {
            must(&mut a.pgbench(&["--no-vacuum", "--client=2", "--transactions=20"]))?;
            let mut over = stage.mainstay(a, &["restore", "data", "--delta", "--target", &shown]).0;
            bench.step(set, "restore over it", *tool, &mut over)?;
        } else {
            let to = format!("--pg1-path={shown}");
            let mut over = stage.pgbackrest(&[&to, "--archive-mode=off", "--delta", "restore"]).0;
            bench.step(set, "restore over it", *tool, &mut over)?;
        }
        remove(&out)?;
        let home = match tool {
            Tool::PgBackRest => stage.place.join("pgbackrest"),
            _ => stage.place.join("mainstay"),
        };
        bench.repository(set, *tool, &home)?;
    }
    if round == 0 {
        // The log of ours lies beside its packs.
        let log = data::bytes_below(&stage.place.join("mainstay/vault/data/mainstay"))?;
        println!("  of the repository of mainstay {} MiB are log", log >> 20);
    }
    Ok(())
}

/// So many transactions, while the log goes nowhere, or somewhere.
fn shipping(bench: &mut Bench, stage: &Stage, beside: bool) -> Result<(), Failure> {
    let a = &stage.a;
    a.archive_by("/bin/true")?;
    a.is_quiet()?;
    // As many as take a while here.
    let begun = Instant::now();
    must(&mut a.pgbench(&["--no-vacuum", "--client=2", "--transactions=1000"]))?;
    let seconds = bench.part(RUN_SECONDS * 100) / 100;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let each = (1000.0 / begun.elapsed().as_secs_f64()) as u64 * seconds.max(2);
    let each = each.to_string();
    let mut kinds = vec![Tool::Nothing, Tool::Mainstay, Tool::ReceiveWal, Tool::Push];
    if beside {
        kinds.push(Tool::PgBackRest);
    }
    for _ in 0..bench.rounds.max(RUNS) {
        kinds.reverse();
        for kind in &kinds {
            transactions(bench, stage, "transactions, log shipped", *kind, &each)?;
        }
    }
    let mut left = Vec::new();
    let mut pair = [Tool::Nothing, Tool::Mainstay];
    for _ in 0..PAIRS {
        let mut took = Vec::new();
        for kind in pair {
            took.push(transactions(bench, stage, "transactions, in pairs", kind, &each)?.seconds);
        }
        let ratio = took.first().zip(took.last()).map(|(first, last)| first / last);
        left.extend(ratio.map(|r| if pair[0] == Tool::Nothing { r } else { r.recip() }));
        pair.reverse();
    }
    if let Some(spread) = Spread::of(&left)
        && let Some((_, about)) = bench.about.iter_mut().find(|(set, _)| *set == Set::Postgres)
    {
        let [median, low, high] = [spread.median, spread.low, spread.high].map(|r| r * 100.0);
        let _ = write!(
            about,
            ". With `wal receive` there are {median:.1} % of the transactions per second that there are \
             without it: the median of {PAIRS} pairs of runs, each pair the other way round, which with \
             95 % certainty lies between {low:.1} and {high:.1} %"
        );
    }
    a.archive_by("/bin/true")
}

/// One run of pgbench, while something ships the log.
fn transactions(
    bench: &mut Bench,
    stage: &Stage,
    step: &'static str,
    kind: Tool,
    each: &str,
) -> Result<Figures, Failure> {
    let a = &stage.a;
    let push = format!("{} %p", stage.mainstay(a, &["wal", "push", "data"]).shown());
    let their = format!("{} %p", stage.pgbackrest(&["archive-push"]).shown());
    a.archive_by(match kind {
        Tool::Push => &push,
        Tool::PgBackRest => &their,
        _ => "/bin/true",
    })?;
    let receiver = match kind {
        Tool::Mainstay => Some(stage.mainstay(a, &["wal", "receive", "data"]).0),
        Tool::ReceiveWal => Some(stage.receivewal()?),
        _ => None,
    };
    let receiver = receiver.map(Running::start).transpose()?;
    if receiver.is_some() {
        a.eventually("SELECT count(*) = 1 FROM pg_replication_slots")?;
    }
    let has_everything = || match kind {
        Tool::Mainstay => a.eventually(
            "SELECT bool_and(restart_lsn >= pg_current_wal_flush_lsn()) FROM pg_replication_slots",
        ),
        _ => Ok(()),
    };
    // It also ships what was written while nobody did, which is no part of this run; and as long as the
    // server keeps that, it has no old segments to use again, and makes new ones.
    has_everything()?;
    a.is_quiet()?;
    has_everything()?;
    let mut command = a.pgbench(&["--no-vacuum", "--client=2", "--transactions", each]);
    let figures = bench.step(Set::Postgres, step, kind, &mut command)?;
    drop(receiver);
    a.eventually("SELECT count(*) = 0 FROM pg_replication_slots WHERE active")?;
    a.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")?;
    Ok(figures)
}

/// From the command to the first write that is accepted, of a standby that has replayed everything;
/// beside the server's own promotion.
fn takeover(bench: &mut Bench, stage: &Stage) -> Result<(), Failure> {
    let (a, b) = (&stage.a, &stage.b);
    stage.configure(a, "primary")?;
    stage.configure(b, "standby")?;
    a.archive_by("/bin/true")?;
    let receiver = Running::start(stage.mainstay(a, &["wal", "receive", "data"]).0)?;
    must(&mut stage.mainstay(a, &["backup", "data"]).0)?;
    must(&mut stage.mainstay(b, &["init"]).0)?;
    must(&mut stage.mainstay(b, &["refresh", "data"]).0)?;
    let all_is_replayed = |from: &Server, to: &Server| -> Result<(), Failure> {
        from.sql("CREATE TABLE IF NOT EXISTS orders (n bigint)")?;
        from.sql("INSERT INTO orders VALUES (1)")?;
        let at = from.sql("SELECT pg_current_wal_flush_lsn()")?;
        to.eventually(&format!("SELECT pg_last_wal_replay_lsn() >= '{at}'::pg_lsn"))
    };
    all_is_replayed(a, b)?;
    drop(receiver);
    a.stop("immediate")?;
    let take_over = stage.mainstay(b, &["takeover", "data", "--yes"]).0;
    until_it_writes(bench, Tool::Mainstay, b, take_over)?;

    // The other way round, by PostgreSQL's own command.
    let receiver = Running::start(stage.mainstay(b, &["wal", "receive", "data"]).0)?;
    must(&mut stage.mainstay(b, &["backup", "data"]).0)?;
    must(&mut stage.mainstay(a, &["rejoin", "data"]).0)?;
    all_is_replayed(b, a)?;
    drop(receiver);
    b.stop("immediate")?;
    let data = a.data.display().to_string();
    let promote = a.program("pg_ctl", &["promote", "--no-wait", "--silent", "--pgdata", &data])?;
    until_it_writes(bench, Tool::Promote, a, promote)?;
    // Both begin anew.
    remove(&stage.place.join("mainstay"))?;
    remove(&stage.place.join("b"))?;
    stage.make_dir(&stage.place.join("b"))?;
    stage.configure(a, "primary")?;
    must(&mut stage.mainstay(a, &["init"]).0)
}

fn until_it_writes(
    bench: &mut Bench,
    tool: Tool,
    server: &Server,
    command: Command,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut running = Running::start(command)?;
    while server.sql("INSERT INTO orders VALUES (2)").is_err() {
        if begun.elapsed() > PATIENCE {
            return Err(Failure::new("nobody took over"));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let ended = running.0.wait().map_err(|e| Failure::new(format!("cannot wait: {e}")))?;
    if !ended.success() {
        return Err(Failure::new(format!("{}: {ended}", tool.name())));
    }
    let step = "takeover, until it writes";
    println!("  {:17} {step:27} {seconds:7.2} s", tool.name());
    let figures = Figures { seconds, cpu_seconds: 0.0, peak_bytes: 0 };
    bench.samples.push(Sample { set: Set::Postgres, step, tool, figures });
    Ok(())
}

/// A program that ends when it is dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Running, Failure> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        child.spawn().map(Running).map_err(|e| Failure::new(format!("cannot start: {e}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two hosts, as far as one machine is two.
struct Stage {
    place: PathBuf,
    a: Server,
    b: Server,
}

/// A server of PostgreSQL.
struct Server {
    name: &'static str,
    data: PathBuf,
    /// A socket's path must be short.
    sockets: tempfile::TempDir,
}

/// A command that a server may call, too.
struct Words(Command);

impl Words {
    /// As a shell takes it.
    fn shown(&self) -> String {
        // What a server calls it calls as its own user.
        let words: Vec<_> = self.0.get_args().map(|word| word.to_string_lossy()).collect();
        let own = words.iter().position(|word| word == "--").map_or(0, |at| at + 1);
        if own > 0 {
            return words.get(own..).unwrap_or_default().join(" ");
        }
        format!("{} {}", self.0.get_program().to_string_lossy(), words.join(" "))
    }
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// A program as the server's user, if this is root.
fn as_server(program: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(if is_root() { Path::new("setpriv") } else { program });
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    }
    command.args(words).current_dir("/");
    command
}

impl Stage {
    fn make(bench: &Bench) -> Result<Stage, Failure> {
        let place = bench.place.join("source");
        std::fs::create_dir_all(&place).map_err(|e| failed("make", &place, &e))?;
        // The server's user has to get there.
        for directory in place.ancestors().skip(1).take_while(|d| d.starts_with(root())) {
            must(Command::new("chmod").arg("a+x").arg(directory))?;
        }
        let server = |name: &'static str| -> Result<Server, Failure> {
            let sockets = tempfile::tempdir()
                .map_err(|e| Failure::new(format!("cannot make a directory: {e}")))?;
            Ok(Server { name, data: place.join(name).join("data"), sockets })
        };
        let stage = Stage { a: server("a")?, b: server("b")?, place };
        for dir in [stage.place.clone(), stage.place.join("a"), stage.place.join("b")] {
            stage.make_dir(&dir)?;
        }
        for server in [&stage.a, &stage.b] {
            stage.make_dir(server.sockets.path())?;
        }
        stage.a.create()?;
        Ok(stage)
    }

    fn make_dir(&self, dir: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(dir).map_err(|e| failed("make", dir, &e))?;
        if is_root() { must(Command::new("chown").arg("postgres:").arg(dir)) } else { Ok(()) }
    }

    /// Our own program on a host.
    fn mainstay(&self, server: &Server, words: &[&str]) -> Words {
        let config = self.place.join(server.name).join("mainstay.toml").display().to_string();
        let program = root().join("target/release/mainstay");
        Words(as_server(&program, &[&["--config", config.as_str()], words].concat()))
    }

    fn configure(&self, server: &Server, role: &str) -> Result<(), Failure> {
        self.make_dir(&self.place.join("mainstay"))?;
        let home = self.place.join(server.name);
        let (place, name) = (self.place.display(), server.name);
        let programs = server.bin_dir()?;
        let text = format!(
            "[host]\nname = '{name}'\nstate-dir = '{place}/mainstay/state-{name}'\n[vault]\n\
             url = '{place}/mainstay/vault'\npassword-file = '{place}/mainstay/password'\n\
             [service.data]\nengine = 'postgres'\nrole = '{role}'\n\
             url = 'postgres://postgres@/postgres?host={}'\ndata-dir = '{}'\nbin-dir = '{}'\n\
             [service.data.hooks]\nfence = 'true'\n",
            server.sockets.path().display(),
            server.data.display(),
            programs.display(),
        );
        let file = home.join("mainstay.toml");
        std::fs::write(&file, text).map_err(|e| failed("write", &file, &e))
    }

    fn pgbackrest(&self, words: &[&str]) -> Words {
        let program = packages::find("pgbackrest", &[]).unwrap_or_else(|| "pgbackrest".into());
        let config = format!("--config={}", self.place.join("pgbackrest.conf").display());
        Words(as_server(&program, &[&[config.as_str(), "--stanza=data"], words].concat()))
    }

    fn version_of_pgbackrest(&self) -> Option<String> {
        let program = packages::find("pgbackrest", &[])?;
        let said = Command::new(program).arg("version").output().ok()?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    fn configure_pgbackrest(&self) -> Result<(), Failure> {
        let home = self.place.join("pgbackrest");
        for dir in ["repository", "log", "lock", "spool"] {
            self.make_dir(&home)?;
            self.make_dir(&home.join(dir))?;
        }
        let home = home.display();
        let text = format!(
            "[global]\nrepo1-path={home}/repository\nlog-path={home}/log\nlock-path={home}/lock\n\
             spool-path={home}/spool\nprocess-max=2\nstart-fast=y\nrepo1-retention-full=9\n\
             [data]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\n",
            self.a.data.display(),
            self.a.sockets.path().display(),
        );
        let file = self.place.join("pgbackrest.conf");
        std::fs::write(&file, text).map_err(|e| failed("write", &file, &e))
    }

    /// PostgreSQL's own receiver, into an empty directory.
    fn receivewal(&self) -> Result<Command, Failure> {
        let into = self.place.join("received");
        remove(&into)?;
        self.make_dir(&into)?;
        self.a.sql("SELECT pg_create_physical_replication_slot('plain', true)")?;
        let (into, at) = (into.display().to_string(), self.a.at());
        self.a.program(
            "pg_receivewal",
            &["--slot=plain", "--directory", &into, "--host", &at, "--username=postgres"],
        )
    }
}

impl Server {
    fn at(&self) -> String {
        self.sockets.path().display().to_string()
    }

    fn bin_dir(&self) -> Result<PathBuf, Failure> {
        let missing = || Failure::new("there is no pg_ctl (Debian: postgresql)");
        let found = packages::postgres("pg_ctl").ok_or_else(missing)?;
        // One on PATH may be a link, without the others beside it.
        let program = std::fs::canonicalize(&found).map_err(|e| failed("find", &found, &e))?;
        Ok(program.parent().map(Path::to_owned).unwrap_or_default())
    }

    fn program(&self, name: &str, words: &[&str]) -> Result<Command, Failure> {
        Ok(as_server(&self.bin_dir()?.join(name), words))
    }

    fn create(&self) -> Result<(), Failure> {
        let data = self.data.display().to_string();
        let words = ["--no-sync", "--auth=trust", "--username=postgres", "--pgdata", &data];
        must(&mut self.program("initdb", &words)?)?;
        let file = self.data.join("postgresql.conf");
        let text = std::fs::read_to_string(&file).map_err(|e| failed("read", &file, &e))?;
        let settings = format!(
            "{text}\nlisten_addresses = ''\nunix_socket_directories = '{}'\n\
             shared_buffers = 256MB\nmin_wal_size = 1GB\nmax_wal_size = 4GB\nfsync = on\narchive_mode = on\n\
             archive_command = '/bin/true'\n",
            self.at()
        );
        std::fs::write(&file, settings).map_err(|e| failed("write", &file, &e))
    }

    fn start(&self) -> Result<(), Failure> {
        let data = self.data.display().to_string();
        let log = self.data.with_file_name("server.log").display().to_string();
        let words = ["start", "--wait", "--silent", "--pgdata", &data, "--log", &log];
        must(&mut self.program("pg_ctl", &words)?)
    }

    fn stop(&self, mode: &str) -> Result<(), Failure> {
        let data = self.data.display().to_string();
        let words = ["stop", "--wait", "--silent", "--mode", mode, "--pgdata", &data];
        must(&mut self.program("pg_ctl", &words)?)
    }

    fn pgbench(&self, words: &[&str]) -> Command {
        let at = self.at();
        let program = packages::postgres("pgbench").unwrap_or_else(|| "pgbench".into());
        let fixed = ["--host", at.as_str(), "--username=postgres"];
        as_server(&program, &[&fixed, words, &["postgres"]].concat())
    }

    fn sql(&self, sql: &str) -> Result<String, Failure> {
        let at = self.at();
        let words = ["-XAtq", "-h", &at, "-U", "postgres", "-d", "postgres", "-c", sql];
        let output = self
            .program("psql", &words)?
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Failure::new(format!("cannot start psql: {e}")))?;
        if !output.status.success() {
            return Err(Failure::new(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn eventually(&self, sql: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while self.sql(sql)? != "t" {
            if Instant::now() > deadline {
                return Err(Failure::new(format!("in vain: {sql}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn archive_by(&self, command: &str) -> Result<(), Failure> {
        self.sql(&format!("ALTER SYSTEM SET archive_command = '{command}'"))?;
        self.sql("SELECT pg_reload_conf()")?;
        self.eventually(&format!("SELECT current_setting('archive_command') = '{command}'"))
    }

    /// Returns when nothing is dirty, and nothing waits to be archived.
    fn is_quiet(&self) -> Result<(), Failure> {
        self.sql("CHECKPOINT")?;
        let segment = self.sql("SELECT pg_walfile_name(pg_switch_wal())")?;
        self.eventually(&format!(
            "SELECT coalesce(last_archived_wal, '') >= '{segment}' FROM pg_stat_archiver"
        ))?;
        self.sql("CHECKPOINT").map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            let _ = self.stop("immediate");
        }
    }
}
