//! Dumps of databases when something is in the way, or dies.

use super::logical::{Pair, Site, nothing_is_left};
use super::*;
use crate::world::journal;
use std::os::unix::fs::symlink;

/// Loading takes as long as its server says: there is an index over a function that waits.
fn slow(site: &Site) {
    site.server.sql_in(
        "shop",
        "CREATE FUNCTION waits(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN \
           PERFORM pg_sleep(coalesce(nullif(current_setting('shop.wait', true), ''), '0')::float8); \
           RETURN n; END $$; \
         CREATE TABLE one (n bigint); INSERT INTO one VALUES (1); CREATE INDEX ON one (waits(n))",
    );
}

fn set_wait(site: &Site, seconds: &str) {
    site.server.configure(&format!("shop.wait = '{seconds}'\n"));
    site.server.sql("SELECT pg_reload_conf()");
    site.server.eventually(&format!("SELECT current_setting('shop.wait', true) = '{seconds}'"));
}

const WAITS: &str = "SELECT count(*) > 0 FROM pg_stat_activity \
                     WHERE wait_event = 'PgSleep' AND datname LIKE 'mainstay\\_import\\_%'";

/// Where a run of these words can be killed: every line of its journal.
fn places(pair: &Pair, site: &Site, host: &str, words: &[&str]) -> Vec<String> {
    site.run(words).code(0);
    let dir = pair.path(host).join("state/services/shop/operations");
    let lines = journal(crate::world::operations_in(&dir).last().unwrap());
    let place = |line: &serde_json::Value| {
        let event = line["event"].as_str()?;
        Some(format!("{}:{event}", line["step"].as_str()?))
    };
    lines.iter().filter_map(place).collect()
}

fn kill_at(site: &Site, at: &str, words: &[&str]) {
    let mut command = site.command(words);
    let output = command.env("MAINSTAY_TEST_KILL_AT", at).output().unwrap();
    assert!(!output.status.success(), "{at}: {output:?}");
}

/// At every step of a refresh: the standby is at the old point or the new one, and the next command
/// brings it to the new.
#[test]
fn a_refresh_that_is_killed_anywhere_leaves_the_old_point_or_the_new() {
    let pair = Pair::new();
    let (a, b) = (&pair.a, &pair.b);
    a.make("shop");
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    let places = places(&pair, b, "b", &["refresh", "shop"]);
    for step in ["stage", "prepare", "place", "settle"] {
        for event in ["begin", "done"] {
            let at = format!("{step}:{event}");
            assert!(places.contains(&at), "{at} is not in {places:?}");
        }
    }
    for at in places {
        let old = a.newest("shop");
        let new = a.write("shop");
        a.run(&["backup", "shop"]).code(0);
        kill_at(b, &at, &["refresh", "shop"]);
        assert_eq!(b.databases().split(' ').filter(|name| *name == "shop-").count(), 1, "{at}");
        let found = b.newest_closed("shop");
        assert!(found == old || found == new, "{at}: {found}, neither {old} nor {new}");
        b.run(&["refresh", "shop"]).code(0);
        assert_eq!(b.newest_closed("shop"), new, "{at}");
        nothing_is_left(&pair, b);
    }
}

#[test]
fn a_backup_that_is_killed_anywhere_leaves_nothing_and_the_next_is_whole() {
    let pair = Pair::new();
    let a = &pair.a;
    a.make("shop");
    a.write("shop");
    for at in places(&pair, a, "a", &["backup", "shop"]) {
        a.write("shop");
        kill_at(a, &at, &["backup", "shop"]);
        a.run(&["backup", "shop"]).code(0);
        nothing_is_left(&pair, a);
    }
    a.run(&["restore", "shop", "--database", "shop", "--as", "copy"]).code(0);
    assert_eq!(a.newest("copy"), a.newest("shop"));
    a.run(&["check", "shop", "--read-data"]).code(0);
}

/// In the midst of loading: by a cancel, and by a kill of all that works.
#[test]
fn loading_is_cancelled_and_killed_without_a_trace() {
    let pair = Pair::new();
    let (a, b) = (&pair.a, &pair.b);
    a.make("shop");
    slow(a);
    let old = a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let new = a.write("shop");
    a.run(&["backup", "shop"]).code(0);

    set_wait(b, "600");
    for killed in [false, true] {
        let mut refresh = b.command(&["refresh", "shop"]);
        let mut refresh = refresh.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        b.server.eventually(WAITS);
        if killed {
            let worker = crate::world::worker_in(&pair.path("b/state/services/shop/operations"));
            crate::world::kill(worker.unwrap());
            refresh.wait().unwrap();
            // The next command takes it back.
            b.run(&["doctor"]);
        } else {
            b.run(&["cancel", "shop"]).code(0);
            assert_eq!(refresh.wait().unwrap().code(), Some(130));
        }
        nothing_is_left(&pair, b);
        assert_eq!((b.databases(), b.newest_closed("shop")), ("shop-".to_owned(), old));
    }

    // A single database likewise.
    set_wait(a, "600");
    let mut restore = a.command(&["restore", "shop", "--database", "shop", "--as", "copy"]);
    let mut restore = restore.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    a.server.eventually(WAITS);
    a.run(&["cancel", "shop"]).code(0);
    assert_eq!(restore.wait().unwrap().code(), Some(130));
    assert_eq!(a.databases(), "shop");
    nothing_is_left(&pair, a);

    set_wait(b, "0");
    b.run(&["refresh", "shop"]).code(0);
    assert_eq!(b.newest_closed("shop"), new);
}

/// A dump that is cancelled while the server makes it wait.
#[test]
fn a_dump_is_cancelled() {
    let pair = Pair::new();
    let a = &pair.a;
    a.make("shop");
    a.write("shop");
    // pg_dump waits for this lock.
    let mut hold = a.server.program("psql");
    hold.args(["-XAtq", "-U", "postgres", "-d", "shop", "-h"]).arg(a.server.socket_dir());
    hold.args(["-c", "BEGIN; LOCK TABLE orders; SELECT pg_sleep(600)"]);
    let held = Load(hold.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    a.server.eventually("SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    let mut backup = a.command(&["backup", "shop"]);
    let mut backup = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    a.server.eventually("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted");
    a.run(&["cancel", "shop"]).code(0);
    assert_eq!(backup.wait().unwrap().code(), Some(130));
    a.server.eventually("SELECT count(*) = 0 FROM pg_locks WHERE NOT granted");
    nothing_is_left(&pair, a);
    drop(held);
    a.server
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    a.run(&["backup", "shop"]).code(0);
}

/// What stands in the way is told, with what to do about it.
#[test]
fn what_stands_in_the_way_is_told() {
    let pair = Pair::new();
    let a = &pair.a;
    a.make("shop");
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    let text = fs::read_to_string(&a.config).unwrap();
    let other = |from: &str, to: &str, words: &[&str]| {
        assert!(text.contains(from), "{from} in {text}");
        let config = pair.path("other.toml");
        fs::write(&config, text.replace(from, to)).unwrap();
        let shown = config.display().to_string();
        a.run(&[&["--config", &shown], words].concat())
    };
    let bin = bin_dir().display().to_string();
    let tools = pair.path("tools");
    fs::create_dir(&tools).unwrap();
    let without = tools.display().to_string();
    let backup = &["backup", "shop"];

    // Programs: none, one missing, too old.
    other(&bin, &without, backup).code(1).complains("no `pg_dump`").complains("Install");
    let script = |version: &str| {
        let _ = fs::remove_file(tools.join("pg_dump"));
        let text = format!("echo 'pg_dump (PostgreSQL) {version}'\n");
        crate::rig::script(&tools.join("pg_dump"), &text);
    };
    script("12.22");
    other(&bin, &without, backup).code(1).complains("no `pg_dumpall`");
    for program in ["pg_dumpall", "pg_restore", "vacuumdb"] {
        symlink(bin_dir().join(program), tools.join(program)).unwrap();
    }
    let said = other(&bin, &without, backup).code(1);
    said.complains("pg_dump (PostgreSQL) 12.22").complains("older than the server");
    script("what?");
    other(&bin, &without, backup).code(1).complains("what?");

    // Roles: unknown, with a wrong password, with too few rights.
    a.server.sql("CREATE ROLE plain LOGIN; CREATE ROLE secret LOGIN PASSWORD 'right'");
    let hba = a.server.data().join("pg_hba.conf");
    let kept = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("local all secret scram-sha-256\n{kept}")).unwrap();
    a.server.sql("SELECT pg_reload_conf()");
    let role = |role: &str, words: &[&str]| other("postgres://postgres@", role, words);
    role("postgres://nobody@", backup).code(1).complains("pg_hba.conf");
    let said = role("postgres://secret:wrong-one@", backup).code(1);
    assert!(!said.err.contains("wrong-one"), "{said:?}");
    said.complains("password authentication failed");
    role("postgres://plain@", backup).code(1).complains("permission denied");
    role("postgres://plain@", &["restore", "shop", "--database", "shop", "--as", "x"])
        .code(1)
        .complains("is no superuser");
    a.server.sql("REVOKE CONNECT ON DATABASE shop FROM PUBLIC");
    role("postgres://plain@", backup)
        .code(1)
        .complains("may not connect")
        .complains("GRANT CONNECT");

    // What it may read is dumped; that the roles' passwords are not among it is told.
    a.server.sql("GRANT CONNECT ON DATABASE shop TO plain");
    a.server.sql_in("shop", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain");
    role("postgres://plain@", backup).code(0).complains("passwords of roles");
    // What the page lists is enough for all of it.
    a.server.sql("GRANT pg_read_all_data TO plain");
    assert_eq!(role("postgres://plain@", backup).code(0).err, "");

    // A name that PostgreSQL's own programs refuse.
    a.server.sql("CREATE DATABASE \"two\nlines\"");
    a.run(backup).code(1).complains("line break").complains("RENAME");
    a.server.sql("DROP DATABASE \"two\nlines\"");
    a.server.sql("CREATE ROLE \"two\nlines\"");
    let said = a.run(backup);
    assert!(said.code == 0 || said.err.contains("two"), "{said:?}");
    a.server.sql("DROP ROLE \"two\nlines\"");

    // A point of the other kind.
    let physical = format!("data-dir = '{}'\nbin-dir", a.server.data().display());
    let config = pair.path("other.toml");
    let changed = text
        .replace("method = 'logical'\n", "")
        .replace("bin-dir", &physical)
        .lines()
        .filter(|line| !line.starts_with("path ="))
        .collect::<Vec<_>>()
        .join("\n");
    fs::write(&config, changed).unwrap();
    let shown = config.display().to_string();
    let words = ["--config", &shown, "restore", "shop", "--database", "shop", "--as", "x"];
    a.run(&words).code(1).complains("restored as a whole");
    a.run(&["wal", "receive", "shop", "--once"]).code(1).complains("no log");
    a.run(&["restore", "shop", "--at", "2h ago"]).code(1);

    // The server is away, or another one's standby.
    a.server.stop("fast");
    a.run(backup).code(1).complains("cannot connect").complains("Start the server");
    a.run(&["restore", "shop", "--replace"]).code(1).complains("cannot connect");
    fs::write(a.server.data().join("standby.signal"), "").unwrap();
    give(&a.server.data().join("standby.signal"));
    a.server.start();
    a.run(backup).code(1).complains("is a standby").complains("Dump the primary");
    a.run(&["restore", "shop", "--database", "shop", "--as", "x"]).code(1).complains("standby");
    a.server.sql("SELECT pg_promote()");
    a.run(backup).code(0);
    nothing_is_left(&pair, a);
}

/// Where things lay on the source's disks says nothing about this host's.
#[test]
fn a_tablespace_has_to_be_there_first() {
    let pair = Pair::new();
    let (a, b) = (&pair.a, &pair.b);
    let space = |site: &str| {
        let dir = pair.path(site).join("fast");
        fs::create_dir(&dir).unwrap();
        give(&dir);
        format!("CREATE TABLESPACE fast LOCATION '{}'", dir.display())
    };
    a.server.sql(&space("a"));
    a.make("shop");
    a.write("shop");
    a.server.sql_in("shop", "ALTER TABLE orders SET TABLESPACE fast");
    a.run(&["backup", "shop"]).code(0);
    let said = b.run(&["refresh", "shop"]).code(1);
    said.complains("has not the tablespaces").complains("CREATE TABLESPACE \"fast\"");
    nothing_is_left(&pair, b);
    b.server.sql(&space("b"));
    b.run(&["refresh", "shop"]).code(0);
    assert_eq!(b.newest_closed("shop"), 1);
    // A drill asks for none: it is a server of its own.
    a.run(&["drill", "shop"]).code(0);
}

/// The disk of the staging is too small, or turns out to be while it is written to.
#[test]
fn a_full_disk_costs_nothing_that_was_there() {
    let pair = Pair::new();
    let a = &pair.a;
    a.make("shop");
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    let head = || a.run(&["--json", "snapshots", "shop"]).code(0).json()["services"][0].clone();
    let before = head();
    let text = fs::read_to_string(&a.config).unwrap();
    let state = pair.path("a/state").display().to_string();
    let small = pair.path("small");
    let config = pair.path("small.toml");
    fs::write(&config, text.replace(&state, &small.display().to_string())).unwrap();
    let shown = config.display().to_string();
    let backup = ["--config", shown.as_str(), "backup", "shop"];
    let Some(mounted) = Small::mount(&small, "20m") else { return };
    a.run(&backup).code(1).complains("too little space").complains("nothing was touched");
    assert_eq!(head(), before);
    drop(mounted);

    // Compressed by the server to a hundredth: more than could be known before.
    a.server.sql_in(
        "shop",
        "CREATE TABLE dense (t text); \
         INSERT INTO dense SELECT repeat('x', 20000000) FROM generate_series(1, 10)",
    );
    let mounted = Small::mount(&small, "100m").unwrap();
    a.run(&backup).code(1).complains("No space left");
    assert_eq!(head(), before);
    let left = fs::read_dir(small.join("services/shop/operations")).unwrap().flatten();
    assert!(left.into_iter().all(|entry| !entry.path().join("scratch").exists()));
    drop(mounted);
    a.run(&["backup", "shop"]).code(0);

    // The place that a dump is fetched to, and the server's own disk, are looked at first.
    let (fetched, config) = (pair.path("fetched"), pair.path("fetched.toml"));
    let place = format!("{}/dump", pair.path("a").display());
    let there = format!("{}/dump", fetched.display());
    fs::write(&config, text.replace(&place, &there)).unwrap();
    let _mounted = Small::mount(&fetched, "30m").unwrap();
    let shown = config.display().to_string();
    let words = ["--config", shown.as_str(), "restore", "shop", "--replace"];
    let databases = a.databases();
    a.run(&words).code(1).complains("too little space");
    assert_eq!(a.databases(), databases);
    nothing_is_left(&pair, a);
}

/// The server's own disk fills while it is loaded: what was there is there, and nothing half beside it.
#[test]
fn a_server_whose_disk_fills_while_it_is_loaded_keeps_what_it_has() {
    let pair = Pair::new();
    let (a, b) = (&pair.a, &pair.b);
    // Not its log: without room for that a server ends.
    b.server.stop("fast");
    let (base, aside) = (b.server.data().join("base"), pair.path("base-before"));
    fs::rename(&base, &aside).unwrap();
    let Some(disk) = Small::mount(&base, "300m") else { return };
    give(&base);
    fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
    run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&base)).code(0);
    b.server.start();
    a.make("shop");
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let before = b.databases();
    let wanted = a.write("shop");
    a.server.sql_in(
        "shop",
        "CREATE TABLE large (t text); \
         INSERT INTO large SELECT repeat('x', 500) FROM generate_series(1, 100000)",
    );
    a.run(&["backup", "shop"]).code(0);

    let mut command = b.command(&["refresh", "shop"]);
    command.env("MAINSTAY_TEST_STOP_AT", "prepare:begin");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let operations = pair.path("b/state/services/shop/operations");
    let worker = || crate::world::worker_in(&operations);
    crate::world::wait_for("it is to be loaded", || {
        worker().and_then(crate::world::state) == Some('T')
    });
    disk.fill(32 << 20);
    crate::cancel::cont(worker().unwrap());
    let said = crate::refreshing::ended(child, 1);
    said.complains("No space left on device").complains("Hint: ");
    disk.empty();
    b.run(&["recover", "shop"]).code(0);
    assert_eq!(b.databases(), before);
    nothing_is_left(&pair, b);
    assert_eq!(b.newest_closed("shop") + 1, wanted);
    b.run(&["refresh", "shop"]).code(0);
    assert_eq!(b.newest_closed("shop"), wanted);
    b.server.stop("fast");
}

/// An empty database makes room for the one that is restored. One that is not empty any more when its
/// last session is ended is put aside: here by a commit that nobody sees until that session ends, since
/// it waits for a standby that is not there.
#[test]
fn who_writes_to_an_empty_database_until_it_is_replaced_loses_nothing() {
    let settings = "synchronous_standby_names = 'nobody'\nsynchronous_commit = local\n";
    let pair = Pair::with("", settings);
    let a = &pair.a;
    a.make("shop");
    a.write("shop");
    a.run(&["backup", "shop"]).code(0);
    let aside =
        || a.server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop\\_replaced\\_%'");
    for writes in [false, true] {
        a.server.sql("DROP DATABASE shop WITH (FORCE)");
        a.server.sql("CREATE DATABASE shop");
        let mut psql = a.server.program("psql");
        psql.args(["-Xq", "-U", "postgres", "-d", "shop", "-c", "SET synchronous_commit = on"]);
        psql.args(["-c", if writes { "CREATE TABLE precious (x int)" } else { "SELECT 1" }]);
        psql.args(["-c", "SELECT pg_sleep(600)", "-h"]).arg(a.server.socket_dir());
        let writer = psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let _writer = Load(writer);
        a.server.eventually(&format!(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = 'shop' AND wait_event = '{}'",
            if writes { "SyncRep" } else { "PgSleep" }
        ));
        assert_eq!(a.server.sql_in("shop", "SELECT to_regclass('precious') IS NULL"), "t");
        a.run(&["restore", "shop", "--replace"]).code(0);
        assert_eq!(a.newest("shop"), 1);
        let aside = aside();
        assert_eq!(aside.is_empty(), !writes, "{}", a.databases());
        if writes {
            a.server.sql(&format!("ALTER DATABASE \"{aside}\" ALLOW_CONNECTIONS true"));
            assert_eq!(a.server.sql_in(&aside, "SELECT count(*) FROM precious"), "0");
        }
        nothing_is_left(&pair, a);
    }
}
