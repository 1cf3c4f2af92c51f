//! Dumps of databases on two hosts, each with a server of its own: backup, restore of all, of one
//! database and of one table, standby, takeover, drill. Faults are in `logical_faults`.

use super::*;
use std::path::Path;

/// What a host's service is started with: something that works with the databases.
const APPLICATION: &str = "start = 'touch HERE/app'\nstop = 'rm -f HERE/app'\n\
                           status = '[ -e HERE/app ] || exit 3'\n";

/// Two hosts with a server each, and one vault.
pub(super) struct Pair {
    pub(super) a: Site,
    pub(super) b: Site,
    // After the servers in it.
    pub(super) dir: TempDir,
}

/// A host.
pub(super) struct Site {
    pub(super) server: PgServer,
    pub(super) config: PathBuf,
}

impl Pair {
    pub(super) fn new() -> Pair {
        Pair::with("", "")
    }

    /// With these lines in the definition, and these settings of the servers.
    pub(super) fn with(lines: &str, settings: &str) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        give(dir.path());
        let site = |host: &str, role: &str| {
            let here = dir.path().join(host);
            // Waiting for a lock or a lazy archive would make what is tried here slow.
            let settings = format!("max_connections = 40\n{settings}");
            let server = PgServer::create(&here, &settings);
            let place = here.display().to_string();
            let vault = dir.path().display();
            let app = APPLICATION.replace("HERE", &place);
            let text = format!(
                "[host]\nname = '{host}'\nstate-dir = '{place}/state'\n\
                 [vault]\nurl = '{vault}/vault'\npassword-file = '{vault}/password'\n\
                 [service.shop]\nengine = 'postgres'\nmethod = 'logical'\nrole = '{role}'\n\
                 url = 'postgres://postgres@/postgres?host={place}/s'\npath = '{place}/dump'\n\
                 bin-dir = '{}'\n{app}{}\n",
                bin_dir().display(),
                lines.replace("HERE", &place)
            );
            let config = dir.path().join(format!("{host}.toml"));
            fs::write(&config, text).unwrap();
            server.start();
            Site { server, config }
        };
        let (a, b) = (site("a", "primary"), site("b", "standby"));
        let pair = Pair { a, b, dir };
        pair.a.run(&["init"]).code(0);
        pair.b.run(&["init"]).code(0);
        fs::write(pair.dir.path().join("a/app"), "").unwrap();
        pair
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Site {
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = crate::rig::mainstay();
        command.env("HOME", "/nonexistent").env("MAINSTAY_CONFIG", &self.config).args(words);
        command
    }

    #[track_caller]
    pub(super) fn run(&self, words: &[&str]) -> Said {
        run(&mut self.command(words))
    }

    /// A database with two tables that are written to together.
    pub(super) fn make(&self, database: &str) {
        self.server.sql(&format!("CREATE DATABASE \"{database}\""));
        self.server.sql_in(
            database,
            "CREATE TABLE orders (n bigint PRIMARY KEY, pad text); \
             CREATE TABLE lines (n bigint REFERENCES orders, pad text)",
        );
    }

    pub(super) fn write(&self, database: &str) -> u64 {
        let sql = "WITH o AS (INSERT INTO orders SELECT coalesce(max(n), 0) + 1, repeat('x', 200) \
                   FROM orders RETURNING n), l AS (INSERT INTO lines SELECT n, 'y' FROM o) \
                   SELECT n FROM o";
        // The foreign key is looked at when the statement ends.
        self.server.sql_in(database, sql).parse().unwrap()
    }

    /// The newest order; none before it is missing, and none lacks its line.
    #[track_caller]
    pub(super) fn newest(&self, database: &str) -> u64 {
        let rows = self.server.sql_in(
            database,
            "SELECT (SELECT count(*) FROM orders) || ' ' || (SELECT count(*) FROM lines) || ' ' || \
                    (SELECT coalesce(max(n), 0) FROM orders)",
        );
        let counts: Vec<u64> = rows.split(' ').map(|count| count.parse().unwrap()).collect();
        assert!(counts[0] == counts[1] && counts[1] == counts[2], "{database}: torn: {rows}");
        counts[0]
    }

    /// Of a standby's database, which admits nobody.
    #[track_caller]
    pub(super) fn newest_closed(&self, database: &str) -> u64 {
        let open = |yes: bool| {
            self.server.sql(&format!("ALTER DATABASE \"{database}\" ALLOW_CONNECTIONS {yes}"));
        };
        open(true);
        let newest = self.newest(database);
        open(false);
        newest
    }

    pub(super) fn databases(&self) -> String {
        self.server.sql(
            "SELECT string_agg(datname || CASE WHEN datallowconn THEN '' ELSE '-' END, ' ' \
                    ORDER BY datname) FROM pg_database \
              WHERE datname NOT IN ('postgres', 'template0', 'template1')",
        )
    }

    /// Everything that PostgreSQL's own program says of the server.
    pub(super) fn everything(&self) -> String {
        let mut dump = self.server.program("pg_dumpall");
        dump.args(["-U", "postgres", "-h"]).arg(self.server.socket_dir());
        let said = run(&mut dump).code(0).out;
        // Words against injected commands are new each time.
        let lines = said
            .lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn amcheck(&self) {
        let mut amcheck = self.server.program("pg_amcheck");
        amcheck.args(["--all", "--heapallindexed", "--install-missing", "-U", "postgres", "-h"]);
        if self.server.has_extension("amcheck") {
            run(amcheck.arg(self.server.socket_dir())).code(0);
        }
    }
}

/// Nothing of an import is left, on the server or on the host.
#[track_caller]
pub(super) fn nothing_is_left(pair: &Pair, site: &Site) {
    let left = site
        .server
        .sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'mainstay\\_import\\_%'");
    assert_eq!(left, "0", "{}", site.databases());
    for host in ["a", "b"] {
        let operations = pair.path(host).join("state/services/shop/operations");
        for entry in fs::read_dir(operations).into_iter().flatten().flatten() {
            let scratch = entry.path().join("scratch");
            assert!(!scratch.exists(), "{} is left", scratch.display());
        }
        for entry in fs::read_dir(pair.path(host)).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.contains(".mainstay-"), "{name} is left");
        }
    }
}

/// What a server can have that is easily lost.
fn furnish(server: &PgServer) {
    server.sql(
        "CREATE ROLE \"o'dd \"\"röle\"\"; x\" LOGIN PASSWORD 'geheim' CONNECTION LIMIT 7; \
         CREATE ROLE readers; \
         GRANT readers TO \"o'dd \"\"röle\"\"; x\" WITH ADMIN OPTION; \
         COMMENT ON ROLE readers IS 'who may; read -- it''s \\ all'; \
         ALTER ROLE readers SET work_mem TO '7MB'",
    );
    let odd = "sp ace'd \"quöted\"; /x%";
    let quoted = odd.replace('"', "\"\"");
    server.sql(&format!("CREATE DATABASE \"{quoted}\" OWNER \"o'dd \"\"röle\"\"; x\""));
    server.sql(&format!("ALTER DATABASE \"{quoted}\" SET search_path TO sales, \"$user\""));
    let comment =
        format!("COMMENT ON DATABASE \"{quoted}\" IS $$the DATABASE \"{quoted}\"; 'odd'$$");
    server.sql(&comment);
    server.sql(&format!("REVOKE CONNECT ON DATABASE \"{quoted}\" FROM PUBLIC"));
    server.sql(&format!("GRANT CONNECT ON DATABASE \"{quoted}\" TO readers"));
    server.sql(&format!("ALTER ROLE readers IN DATABASE \"{quoted}\" SET work_mem TO '9MB'"));
    server.sql_in(
        odd,
        "CREATE SCHEMA sales AUTHORIZATION readers; CREATE EXTENSION pg_trgm SCHEMA sales; \
         CREATE TYPE sales.state AS ENUM ('new', 'paid'); \
         CREATE TABLE sales.\"in voices\" (n serial PRIMARY KEY, at timestamptz, \
           state sales.state DEFAULT 'new', note text CHECK (note <> '')); \
         CREATE INDEX ON sales.\"in voices\" USING gin (note sales.gin_trgm_ops); \
         INSERT INTO sales.\"in voices\" (note) SELECT 'nöte \\ ' || i FROM generate_series(1, 500) i; \
         GRANT SELECT ON sales.\"in voices\" TO readers; \
         ALTER TABLE sales.\"in voices\" ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON sales.\"in voices\" TO readers USING (n > 0); \
         CREATE MATERIALIZED VIEW sales.total AS SELECT count(*) FROM sales.\"in voices\"; \
         SELECT lo_from_bytea(4711, decode(repeat('c0ffee', 100000), 'hex')); \
         GRANT SELECT ON LARGE OBJECT 4711 TO readers",
    );
    server.sql(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    server.sql_in("latin", "CREATE TABLE t (x text); INSERT INTO t VALUES ('größe')");
    server.sql_in("postgres", "CREATE TABLE here_too (x int); INSERT INTO here_too VALUES (7)");
    server.sql("ALTER DATABASE latin CONNECTION LIMIT 5");
    server.sql("CREATE DATABASE closed");
    server.sql("ALTER DATABASE closed ALLOW_CONNECTIONS false");
    server.sql("CREATE DATABASE nothing");
}

/// The server's host is lost. A new server, and one command.
#[test]
fn a_server_comes_back_with_everything() {
    let pair = Pair::new();
    furnish(&pair.a.server);
    pair.a.run(&["backup", "shop"]).code(0);
    pair.a.server.sql("DROP DATABASE closed WITH (FORCE)");
    let before = pair.a.everything();
    for text in ["SCRAM-SHA-256", "röle", "here_too", "c0ffee", "IN DATABASE", "pg_trgm"] {
        assert!(before.contains(text), "{text} is not in what is compared");
    }

    // What is there is not overwritten; nothing is touched in saying so.
    let refused = pair.a.run(&["restore", "shop"]).code(1);
    refused.complains("has a database").complains("--replace");
    assert_eq!(pair.a.everything(), before);

    let Pair { dir, a, .. } = &pair;
    a.server.stop("fast");
    fs::remove_dir_all(a.server.data()).unwrap();
    let fresh = PgServer::create(&dir.path().join("a"), "max_connections = 40");
    fresh.start();
    // The application is started with its data.
    fs::remove_file(dir.path().join("a/app")).unwrap();
    let said = a.run(&["-v", "restore", "shop"]).code(0);
    said.complains("roles that are there are kept: \"postgres\"");
    assert!(dir.path().join("a/app").exists());
    assert_eq!(a.everything(), before);
    a.amcheck();
    nothing_is_left(&pair, a);

    // Over a server that has all of it: what was there is kept under other names, and closed.
    a.server.sql_in("latin", "INSERT INTO t VALUES ('later')");
    a.run(&["restore", "shop", "--replace"]).code(0);
    assert_eq!(a.server.sql_in("latin", "SELECT count(*) FROM t"), "1");
    let aside = a.server.sql(
        "SELECT datname FROM pg_database WHERE datname LIKE 'latin\\_replaced\\_%' \
            AND NOT datallowconn",
    );
    assert!(!aside.is_empty(), "{}", a.databases());
    a.server.sql(&format!("ALTER DATABASE \"{aside}\" ALLOW_CONNECTIONS true"));
    assert_eq!(a.server.sql_in(&aside, "SELECT count(*) FROM t"), "2");
    a.server.sql(&format!("DROP DATABASE \"{aside}\""));
    nothing_is_left(&pair, a);
}

/// Somebody writes all the time. What was acknowledged before a dump is in it; of nothing there is a
/// half.
#[test]
fn each_database_is_dumped_at_one_moment() {
    let pair = Pair::new();
    let a = &pair.a;
    for database in ["one", "two"] {
        a.make(database);
        for _ in 0..3 {
            a.write(database);
        }
    }
    let acknowledged = [AtomicU64::new(0), AtomicU64::new(0)];
    let over = AtomicBool::new(false);
    let mut floors = Vec::new();
    std::thread::scope(|scope| {
        for (database, last) in ["one", "two"].into_iter().zip(&acknowledged) {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    last.store(a.write(database), Ordering::SeqCst);
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut found = Vec::new();
            for _ in 0..4 {
                let floor = acknowledged.each_ref().map(|last| last.load(Ordering::SeqCst));
                let said = a.run(&["backup", "shop", "--json"]).code(0).json();
                let snapshot = said["services"][0]["point"]["snapshot"].clone();
                found.push((snapshot.as_str().unwrap().to_owned(), floor));
            }
            found
        }));
        over.store(true, Ordering::SeqCst);
        match done {
            Ok(found) => floors = found,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    for (number, (snapshot, floor)) in floors.iter().enumerate() {
        for (database, floor) in ["one", "two"].into_iter().zip(floor) {
            let name = format!("{database}_{number}");
            let words =
                ["restore", "shop", "--database", database, "--as", &name, "--snapshot", snapshot];
            a.run(&words).code(0);
            assert!(a.newest(&name) >= *floor, "{name}: {} of {floor}", a.newest(&name));
        }
    }
    // What has not changed is not stored twice.
    a.run(&["backup", "shop"]).code(0);
    let again = a.run(&["backup", "shop", "--json"]).code(0).json();
    let point = &again["services"][0]["point"];
    let (added, size) = (point["added-bytes"].as_u64(), point["size-bytes"].as_u64());
    assert!(size.unwrap() > 0 && added.unwrap() < size.unwrap() / 2, "{point}");
}

#[test]
fn a_standby_is_refreshed_guarded_and_takes_over() {
    let pair = Pair::new();
    let (a, b) = (&pair.a, &pair.b);
    a.make("shop");
    a.make("gone later");
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    assert_eq!(b.databases(), "gone later- shop-", "they admit nobody");
    assert!(!b.server.try_sql("shop", "SELECT 1").status.success());
    assert_eq!(b.newest_closed("shop"), 1);

    // The next point: the new one comes in place of the old, and what is gone goes.
    a.server.sql("DROP DATABASE \"gone later\"");
    a.server.sql("CREATE ROLE later LOGIN");
    let last = a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    assert_eq!(b.databases(), "shop-");
    assert_eq!(b.newest_closed("shop"), last);
    assert_eq!(b.server.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'later'"), "1");
    b.run(&["refresh", "shop"]).code(0).says("already");
    nothing_is_left(&pair, b);

    // Somebody opens it: it may have been written to.
    b.server.sql("ALTER DATABASE shop ALLOW_CONNECTIONS true");
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(1).complains("was opened").complains("--reseed");
    b.run(&["takeover", "shop", "--planned", "--yes"]).code(1).complains("was opened");
    b.server.sql("ALTER DATABASE shop ALLOW_CONNECTIONS false");

    let last = a.write("shop");
    a.run(&["offline", "shop"]).code(0);
    assert!(!pair.path("a/app").exists(), "the application was stopped");
    b.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    assert_eq!(b.databases(), "shop");
    assert_eq!(b.newest("shop"), last);
    assert!(pair.path("b/app").exists(), "the application runs where its data is");
    let last = b.write("shop");
    b.run(&["backup", "shop"]).code(0);

    // What was the primary comes back as a standby; its data is kept.
    a.run(&["backup", "shop"]).code(1);
    a.run(&["rejoin", "shop"]).code(0);
    assert_eq!(a.newest_closed("shop"), last);
    let aside =
        a.server.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'shop\\_replaced%'");
    assert_eq!(aside, "1", "{}", a.databases());
    nothing_is_left(&pair, a);
}

#[test]
fn single_databases_and_tables_are_restored() {
    let pair = Pair::new();
    let a = &pair.a;
    furnish(&a.server);
    a.make("shop");
    a.write("shop");
    a.server.sql_in(
        "shop",
        "CREATE SCHEMA sales; CREATE TYPE sales.state AS ENUM ('new', 'paid'); \
         CREATE TABLE sales.invoices (n serial PRIMARY KEY, state sales.state DEFAULT 'new'); \
         CREATE INDEX by_state ON sales.invoices (state); \
         INSERT INTO sales.invoices SELECT FROM generate_series(1, 100)",
    );
    a.run(&["backup", "shop"]).code(0);
    let wanted = a.newest("shop");
    a.write("shop");

    // A database beside the one that is there, and in its place.
    a.run(&["restore", "shop", "--database", "shop"]).code(1).complains("--as NAME");
    a.run(&["restore", "shop", "--database", "no"]).code(1).complains("\"shop\"");
    a.run(&["restore", "shop", "--database", "shop", "--as", "shop", "--dry-run"]).code(0);
    a.run(&["restore", "shop", "--database", "shop", "--as", "sh op"]).code(0);
    assert_eq!((a.newest("sh op"), a.newest("shop")), (wanted, wanted + 1));
    a.run(&["restore", "shop", "--database", "shop", "--as", "sh op"]).code(1);
    a.run(&["restore", "shop", "--database", "shop", "--replace"]).code(0).says("put aside");
    assert_eq!(a.newest("shop"), wanted);
    let odd = "sp ace'd \"quöted\"; /x%";
    a.run(&["restore", "shop", "--database", odd, "--as", "again"]).code(0);
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'again'";
    assert_eq!(a.server.sql(owner), "o'dd \"röle\"; x");
    assert_eq!(a.server.sql_in("again", "SELECT length(lo_get(4711))"), "300000");

    // A table that was dropped, back in its database, with all that belongs to it.
    let table = |words: &[&str]| {
        let all = [&["restore", "shop", "--database", "shop"], words].concat();
        a.run(&all)
    };
    table(&["--table", "sales.invoices"]).code(1).complains("already");
    table(&["--table", "sales.no"]).code(1).complains("no table");
    a.server.sql_in("shop", "DROP TABLE sales.invoices");
    table(&["--table", "sales.invoices"]).code(0);
    let of = |database: &str| {
        a.server.sql_in(database, "INSERT INTO sales.invoices DEFAULT VALUES");
        a.server.sql_in(
            database,
            "SELECT (SELECT count(*) FROM sales.invoices) || ' ' || (SELECT max(n) FROM \
             sales.invoices) || ' ' || (SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM \
             pg_indexes WHERE schemaname = 'sales' AND tablename = 'invoices')",
        )
    };
    assert_eq!(of("shop"), "101 101 by_state invoices_pkey");

    // Into a database that is made for it, with what it needs and nothing else.
    table(&["--table", "sales.invoices", "--as", "invoices only"]).code(0);
    assert_eq!(of("invoices only"), "101 101 by_state invoices_pkey");
    let tables =
        "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'r' AND oid >= 16384";
    assert_eq!(a.server.sql_in("invoices only", tables), "invoices");
    table(&["--table", "lines", "--as", "lines only"]).code(0).says("foreign key was left out");
    assert_eq!(a.server.sql_in("lines only", "SELECT count(*) FROM lines"), wanted.to_string());

    // One that cannot be loaded leaves nothing: what it refers to is missing where it goes.
    a.server.sql("CREATE DATABASE bare");
    table(&["--table", "sales.invoices", "--as", "bare"])
        .code(1)
        .complains("Nothing of it was kept");
    assert_eq!(a.server.sql_in("bare", "SELECT count(*) FROM pg_class WHERE oid >= 16384"), "0");
    nothing_is_left(&pair, a);
}

/// No lock-in: restic and the password, and PostgreSQL's own programs.
#[test]
fn restic_alone_brings_a_dump_that_pg_restore_reads() {
    let pair = Pair::new();
    let a = &pair.a;
    a.make("shop");
    for _ in 0..5 {
        a.write("shop");
    }
    a.server.sql("CREATE ROLE clerk LOGIN PASSWORD 'geheim'");
    a.server.sql_in("shop", "GRANT SELECT ON orders TO clerk");
    a.run(&["backup", "shop"]).code(0);
    let restic = |words: &[&str]| {
        let mut restic = crate::rig::restic_at(&pair.path("vault/shop"), &pair.path("password"));
        run(restic.args(["--no-cache", "--quiet"]).args(words)).code(0)
    };
    restic(&["check", "--read-data"]);
    let target = pair.path("judge");
    restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let dump = target.join("postgres/dump");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(dump.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["role-passwords"], true);
    let psql = |server: &PgServer, words: &[&str]| {
        let mut psql = Command::new(bin_dir().join("psql"));
        psql.args(["-XAtq", "-U", "postgres", "-h"]).arg(server.socket_dir());
        run(psql.args(words))
    };
    let globals = dump.join("globals.sql").display().to_string();
    psql(&pair.b.server, &["-d", "postgres", "-f", &globals]).code(0);
    psql(&pair.b.server, &["-d", "postgres", "-c", "CREATE DATABASE shop"]).code(0);
    let mut restore = Command::new(bin_dir().join("pg_restore"));
    restore.args(["--exit-on-error", "-U", "postgres", "-d", "shop", "-h"]);
    restore.arg(pair.b.server.socket_dir()).arg(dump.join("databases/shop"));
    run(&mut restore).code(0);
    assert_eq!(pair.b.newest("shop"), a.newest("shop"));
    let may = "SELECT has_table_privilege('clerk', 'orders', 'SELECT')";
    assert_eq!(pair.b.server.sql_in("shop", may), "t");

    // And by ourselves without any server: the dump alone.
    let elsewhere = pair.path("elsewhere");
    let shown = elsewhere.display().to_string();
    a.server.stop("fast");
    a.run(&["restore", "shop", "--target", &shown]).code(0);
    assert!(elsewhere.join("databases/shop/toc.dat").exists());
    let archive = Path::new(&shown).join("databases/shop");
    run(Command::new(bin_dir().join("pg_restore")).arg("--list").arg(archive))
        .code(0)
        .says("orders");
}

#[test]
fn a_drill_loads_the_dump_into_a_server_of_its_own() {
    let pair = Pair::with("drill-query = 'SELECT x FROM here_too'\ndrill-expect = '7'", "");
    let a = &pair.a;
    furnish(&a.server);
    a.run(&["backup", "shop"]).code(0);
    let connected = "SELECT sum(sessions) FROM pg_stat_database";
    a.server.stop("fast");
    let drill = a.run(&["drill", "shop", "--json"]).code(0).json();
    assert_eq!((&drill["sound"], &drill["answer"]), (&true.into(), &"7".into()), "{drill}");
    let findings = drill["findings"].to_string();
    for text in
        ["contents of", "were loaded into a server of their own", "pg_amcheck found no fault"]
    {
        assert!(findings.contains(text), "{findings}");
    }
    assert!(drill["recovery-seconds"].as_f64() > Some(0.0));
    a.server.start();
    assert!(!a.server.sql(connected).is_empty());
    let points = a.run(&["--json", "snapshots", "shop"]).code(0).json();
    assert!(points.to_string().contains("\"drilled\""), "{points}");

    // A question that is answered otherwise is told.
    a.server.sql_in("postgres", "UPDATE here_too SET x = 8");
    a.run(&["backup", "shop"]).code(0);
    a.run(&["drill", "shop"]).code(1).says("was expected");
    // One that the server cannot answer, with what it says to it.
    let text = fs::read_to_string(&a.config).unwrap();
    let other = text.replace("SELECT x FROM here_too", "SELECT x FROM nowhere");
    assert_ne!(text, other);
    fs::write(&a.config, other).unwrap();
    let drill = a.run(&["drill", "shop", "--json"]).code(1).json();
    let findings = drill["findings"].to_string();
    assert!(findings.contains("was not answered"), "{findings}");
    assert!(findings.contains("nowhere\\\" does not exist"), "{findings}");
    nothing_is_left(&pair, a);
}
