//! Drills of a server: a copy is started and judged, and nothing of it reaches production.

use super::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const ASK: &str = "drill-query = 'SELECT count(*), max(n) FROM orders' ";

/// Everything that the vault has of the log.
fn log(stage: &Stage) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![stage.dir.path().join("vault/shop/mainstay/log")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => left.push(entry.path()),
                Ok(meta) => drop(found.insert(entry.path(), meta.len())),
                Err(_) => {}
            }
        }
    }
    found
}

/// How many processes work in drills of a host.
fn drilling(host: &Path) -> usize {
    at_work(host).len()
}

#[track_caller]
fn finds(drill: &Value, text: &str) {
    let findings = drill["findings"].as_array().unwrap();
    let found = findings.iter().any(|one| one.as_str().unwrap().contains(text));
    assert!(found, "no {text:?} in {findings:?}");
}

/// The primary's own configuration, which the copy has, archives into the vault, and would go on to.
#[test]
fn a_drill_proves_a_server_and_reaches_nothing_of_production() {
    let stage = Stage::with("archive_mode = on\nlog_connections = on", ASK);
    let (a, server) = (&stage.a, &stage.a.server);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    for _ in 0..3 {
        a.write();
    }
    a.archived();
    let archived = "SELECT archived_count || ' ' || failed_count FROM pg_stat_archiver";
    let before = (log(&stage), server.sql(archived));
    let connected = || {
        let text = fs::read_to_string(stage.dir.path().join("a/server.log")).unwrap();
        text.matches("connection received").count()
    };
    assert!(!before.0.is_empty(), "there is a log");
    let connections = connected();
    assert!(connections > 0);

    let drill = a.run(&["drill", "shop", "--json", "--keep"]).code(0).json();
    assert_eq!(connected(), connections, "somebody connected to the primary");
    // What was written after the base is there: the log was replayed.
    assert_eq!((&drill["sound"], &drill["answer"]), (&true.into(), &"4|4".into()));
    let compares = server.has_extension("amcheck");
    finds(
        &drill,
        if compares {
            // Of versions that do not have the program yet, its extension.
            "amcheck found no fault"
        } else {
            "amcheck is not installed on this host"
        },
    );
    finds(&drill, "pg_checksums found every page");
    let (start, recovery) = (&drill["start-seconds"], &drill["recovery-seconds"]);
    assert!(start.as_f64() > Some(0.0) && start.as_f64() < recovery.as_f64(), "{drill}");
    assert_eq!((log(&stage), server.sql(archived)), before, "the copy has archived something");
    assert_eq!(server.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    // It is the primary's own configuration that was made harmless, and not another.
    let copy = PathBuf::from(drill["kept"].as_str().unwrap()).join("copy-0/data");
    let conf = |name: &str| fs::read_to_string(copy.join(name)).unwrap();
    assert!(conf("postgresql.conf").contains("wal push shop"));
    assert!(conf("postgresql.auto.conf").contains("archive_mode = 'off'"));
    // It was a primary, of a timeline of its own, and had log that it could have archived.
    assert!(copy.join("pg_wal/00000002.history").exists());
    assert!(!copy.join("postmaster.pid").exists(), "it was stopped");
    fs::remove_dir_all(copy.parent().unwrap().parent().unwrap()).unwrap();
    a.write();
    a.archived();

    let shown = a.run(&["status", "shop"]).code(0);
    assert!(shown.out.contains("is restorable, back after"), "{shown:#?}");
    // By root, which no server runs as, too.
    if pg_server::server_user().is_some() {
        let here = stage.dir.path();
        let config = here.join("root.toml");
        let text = fs::read_to_string(&a.config).unwrap();
        let owners = "stat -c %u \"$PGHOST/..\" \"$PGHOST/../copy-0\" \"$PGHOST\" | tr '\\n' ' '; \
                      psql -Atc 'SELECT count(*), max(n) FROM orders' ";
        let text = text.replace(ASK, &format!("drill-command = '''{owners}'''"));
        fs::write(&config, text.replace("/a/state'", "/root-state'")).unwrap();
        fs::create_dir(here.join("root-state")).unwrap();
        fs::set_permissions(here.join("root-state"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(&a.program);
        command.env("MAINSTAY_CONFIG", config).args(["drill", "shop", "--json"]);
        let drill = run(&mut command).code(0).json();
        // The server's user can exchange nothing of what root works on by its path.
        let user = fs::metadata(server.data()).unwrap().uid();
        let answer = format!("0 0 {user} 5|5");
        assert_eq!((&drill["sound"], &drill["answer"]), (&true.into(), &answer.into()), "{drill}");
        assert_eq!(fs::read_dir(here.join("root-state/drills")).unwrap().count(), 0);
        let vault = here.join("vault");
        run(Command::new("chown").args(["-R", "--reference"]).arg(&vault).arg(&vault)).code(0);
    }

    // An index that does not agree with its table is copied faithfully. No restore would notice.
    if !compares {
        return;
    }
    server.sql("CREATE FUNCTION f(bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1'");
    server.sql("CREATE INDEX ON orders (f(n))");
    server.sql(
        "CREATE OR REPLACE FUNCTION f(bigint) RETURNS bigint IMMUTABLE LANGUAGE sql \
         AS 'SELECT -$1'",
    );
    a.run(&["backup", "shop"]).code(0);
    let broken = a.run(&["drill", "shop", "--json"]).code(1).json();
    finds(&broken, "amcheck found faults");
    finds(&broken, "orders_f_idx");
    a.run(&["status", "shop"]).code(1).says("not sound");
    assert_eq!(drilling(&stage.dir.path().join("a")), 0, "something still runs");
}

/// Killed while its server runs, a drill leaves nothing that runs, and the next one nothing at all.
#[test]
fn a_killed_drill_leaves_no_server() {
    let here = "drill-command = 'touch \"$PGHOST/../../asked\"; exec sleep 600'";
    let stage = Stage::with("archive_mode = on", here);
    let (a, home) = (&stage.a, stage.dir.path().join("a"));
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let mut drill = Load(a.command(&["drill", "shop"]).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    let wait_for = |what: &str, there: &dyn Fn() -> bool| {
        while !there() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let asked = home.join("state/drills/asked");
    wait_for("the copy is asked", &|| asked.exists());
    assert!(drilling(&home) > 0);
    let status = a.run(&["status", "shop", "--json"]).code(0).json();
    let id = status["services"][0]["running"]["id"].as_str().unwrap().to_owned();
    let journal =
        fs::read_to_string(home.join(format!("state/services/shop/operations/{id}/journal")));
    let first: Value = serde_json::from_str(journal.unwrap().lines().next().unwrap()).unwrap();
    let worker = first["pid"].as_u64().unwrap().to_string();
    run(Command::new("kill").args(["-KILL", &worker])).code(0);
    let _ = drill.0.wait();
    wait_for("its server ends", &|| drilling(&home) == 0);
    fs::remove_file(&asked).unwrap();

    // A cancel leaves nothing either.
    let cancelled = Load(a.command(&["drill", "shop"]).stderr(Stdio::null()).spawn().unwrap());
    wait_for("the copy is asked again", &|| asked.exists());
    fs::remove_file(&asked).unwrap();
    assert_eq!(
        fs::read_dir(home.join("state/drills")).unwrap().count(),
        1,
        "the first one's is gone"
    );
    a.run(&["cancel", "shop", "--wait", "60s"]);
    wait_for("it ends", &|| drilling(&home) == 0);
    drop(cancelled);
    wait_for("its copy is gone", &|| fs::read_dir(home.join("state/drills")).unwrap().count() == 0);
    assert_eq!(a.newest(), 1);
}

/// Works for hours, and looks neither for its client nor for its server.
const BUSY: &str =
    "drill-query = 'SELECT count(*) FROM (SELECT generate_series(1, 1000000000000)) n'";

/// Processes that work in drills of a host.
fn at_work(host: &Path) -> Vec<u32> {
    let drills = host.join("state/drills");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let here = processes.filter(|process| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&drills))
    });
    here.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

/// The session that is busy, and its server, once it has been so for a while.
fn busy(host: &Path) -> (u32, u32) {
    let mut found = None;
    super::receiving::wait_for("a session is busy", || {
        found = at_work(host).into_iter().find_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let words: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            let ticks: u64 = words.get(11)?.parse().ok()?;
            (title.contains("SELECT") && ticks >= 30).then_some((pid, words.get(1)?.parse().ok()?))
        });
        found.is_some()
    });
    found.unwrap()
}

/// What these processes have in memory that would outlive them.
fn shared(pids: &[u32]) -> Vec<String> {
    let maps = pids.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/maps")).ok());
    let lines: Vec<String> =
        maps.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.into_iter().filter(|line| line.contains("/dev/shm/")).collect()
}

/// A session that is busy sees neither that its client is gone nor that its server is.
#[test]
fn a_busy_session_ends_with_its_drill_and_with_its_server() {
    let stage = Stage::with("archive_mode = on", BUSY);
    let (a, home) = (&stage.a, stage.dir.path().join("a"));
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let kill = crate::world::kill;
    let wait_for = super::receiving::wait_for;
    let none = |what: &str| wait_for(what, || at_work(&home).is_empty());

    let mut drill = Load(a.command(&["drill", "shop"]).stderr(Stdio::null()).spawn().unwrap());
    let _ = busy(&home);
    assert_eq!(shared(&at_work(&home)), [] as [String; 0]);
    kill(a.worker().unwrap());
    let _ = drill.0.wait();
    none("all of a killed drill ends");

    let mut drill = Load(a.command(&["drill", "shop"]).stderr(Stdio::null()).spawn().unwrap());
    let (_, server) = busy(&home);
    kill(server);
    assert_eq!(drill.0.wait().unwrap().code(), Some(1), "a copy whose server died proves nothing");
    none("all of a killed server ends");
    assert_eq!(fs::read_dir(home.join("state/drills")).unwrap().count(), 0);

    // On a host that allows no namespaces, the next command finds what a killed one has left.
    let programs = stage.dir.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::set_permissions(&programs, fs::Permissions::from_mode(0o755)).unwrap();
    let stub = "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2; exit 1\n";
    crate::rig::script(&programs.join("unshare"), stub);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(programs).chain(std::env::split_paths(&path));
    let mut command = a.command(&["drill", "shop"]);
    command.env("PATH", std::env::join_paths(path).unwrap()).stderr(Stdio::null());
    let mut drill = Load(command.spawn().unwrap());
    let _ = busy(&home);
    kill(a.worker().unwrap());
    let _ = drill.0.wait();
    a.run(&["recover", "shop"]).code(0);
    assert_eq!(at_work(&home), [] as [u32; 0]);
    assert_eq!(fs::read_dir(home.join("state/drills")).unwrap().count(), 0);
    assert_eq!(a.newest(), 1);
}

/// A library that nobody here has heard of may do anything once it is loaded. `pg_prewarm` stands for
/// those that start a worker, `pg_stat_statements` for those without which something cannot be read.
#[test]
fn a_drill_preloads_what_it_is_told_to_and_nothing_else() {
    let loaded = "drill-query = '''SELECT current_setting('shared_preload_libraries'), 0'''";
    let preload = "archive_mode = on\nshared_preload_libraries = 'pg_prewarm,pg_stat_statements'";
    let stage = Stage::with(preload, loaded);
    let a = &stage.a;
    if !a.server.has_extension("pg_prewarm") || !a.server.has_extension("pg_stat_statements") {
        eprintln!("left out: this host has no contributed libraries");
        return;
    }
    a.server.sql("CREATE EXTENSION pg_stat_statements");
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let drill = a.run(&["drill", "shop", "--json"]).code(0).json();
    assert_eq!(drill["answer"], "|0", "{drill}");
    finds(&drill, "were not preloaded: pg_prewarm, pg_stat_statements");

    // What cannot do without is told apart from a copy that is not sound.
    let text = fs::read_to_string(&a.config).unwrap();
    let configure = |lines: &str| fs::write(&a.config, text.replace(loaded, lines)).unwrap();
    let statements = "drill-query = 'SELECT count(*) > 0 FROM pg_stat_statements'";
    configure(statements);
    let failed = a.run(&["drill", "shop"]);
    assert_ne!(failed.code, 0);
    failed.complains("drill-preload").complains("pg_stat_statements");
    let list = a.run(&["snapshots", "shop", "--json"]).code(0).json();
    let point = &list["services"][0]["snapshots"][0];
    assert_eq!(point["drill"]["sound"], true, "nothing was learnt of it: {point}");
    configure(&format!("{statements}\ndrill-preload = ['pg_stat_statements']"));
    let drill = a.run(&["drill", "shop", "--json"]).code(0).json();
    assert_eq!(drill["answer"], "t", "{drill}");
    finds(&drill, "were not preloaded: pg_prewarm");

    // A copy to look at is no different.
    let target = stage.dir.path().join("look");
    a.run(&["restore", "shop", "--target", target.to_str().unwrap()]).code(0);
    let auto = fs::read_to_string(target.join("data/postgresql.auto.conf"))
        .or_else(|_| fs::read_to_string(target.join("postgresql.auto.conf")))
        .unwrap();
    assert!(auto.contains("shared_preload_libraries = 'pg_stat_statements'"), "{auto}");
    assert!(auto.contains("session_preload_libraries = ''"), "{auto}");
}

/// A host with another release of the operating system sorts text otherwise than the source did, and
/// the indexes that were copied byte by byte do not know.
#[test]
fn a_copy_that_is_sorted_otherwise_here_is_told() {
    let stage = Stage::with("archive_mode = on", "");
    let (a, b) = (&stage.a, &stage.b);
    if a.server.sql("SELECT current_setting('server_version_num')::int >= 150000") == "f" {
        eprintln!("left out: this version does not note what it sorts by");
        return;
    }
    a.server.sql("UPDATE pg_database SET datcollversion = '0.9' WHERE datname = 'postgres'");
    let icu = "SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'";
    let icu = a.server.sql(icu) == "t";
    if icu {
        a.server.sql("CREATE COLLATION ours (provider = icu, locale = 'de')");
        a.server.sql("CREATE INDEX ON orders (pad COLLATE ours)");
        a.server.sql("UPDATE pg_collation SET collversion = '0.1' WHERE collname = 'ours'");
    }
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let drill = a.run(&["drill", "shop", "--json"]).code(0).json();
    finds(&drill, "the collation of the databases postgres is of version");
    finds(&drill, "indexes were built with 0.9");
    finds(&drill, "REINDEX DATABASE");
    if icu {
        finds(&drill, "the collation ours of postgres is of version");
    }

    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually("SELECT pg_is_in_recovery()");
    b.run(&["doctor", "shop"]).says("indexes were built with 0.9");
    a.run(&["offline", "shop"]).code(0);
    let done = b.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    done.complains("indexes were built with 0.9").complains("REINDEX DATABASE");
    // It is mended where it serves.
    b.server.sql("REINDEX DATABASE postgres");
    // What `REFRESH COLLATION VERSION` does, also where the library has no versions.
    b.server
        .sql("UPDATE pg_database SET datcollversion = pg_database_collation_actual_version(oid)");
    let doctor = b.run(&["doctor", "shop"]);
    assert!(!doctor.out.contains("indexes were built with 0.9"), "{doctor:#?}");
}
