//! Servers that are elsewhere, down, too bare, or laid out in another way.

use super::{Shop, definition, newest};
use crate::contract::{self, Fixture};
use crate::pg_server::{PgServer, give};
use crate::support::Bench;
use mainstay_engines::{Purpose, Running, open};
use model::{CancelToken, Class, Classify, Position};
use std::error::Error as _;
use std::fs;
use std::path::Path;

#[test]
fn another_servers_data_directory_is_refused() {
    let (shop, other) = (Shop::new(""), Shop::new(""));
    let mut wrong = definition(&shop.server, "postgres");
    wrong.data_dir = Some(other.server.data().to_owned());
    let before = shop.footprint();
    let error = shop.try_capture(&wrong).err().expect("refused");
    assert_eq!(error.class(), Class::Invalid, "{error}");
    assert!(error.to_string().contains("belongs to another server"), "{error}");
    let shown = shop.server.data().display().to_string();
    assert!(error.hint().is_some_and(|hint| hint.contains(&shown)), "{:?}", error.hint());
    assert_eq!(shop.footprint(), before);
}

#[test]
fn a_copy_of_the_same_server_is_refused() {
    let shop = Shop::archiving();
    let base = shop.capture();
    let standby = shop.copy(&base, "standby", &Purpose::Standby);
    let mut wrong = definition(&shop.server, "postgres");
    wrong.data_dir = Some(standby.server.data().to_owned());
    // Not started yet, it looks like the primary's own files, which said "in production".
    let error = shop.try_capture(&wrong).err().expect("refused");
    assert_eq!(error.class(), Class::Invalid, "{error}");
    assert!(error.to_string().contains("another copy"), "{error}");
    standby.engine.start(&shop.bench.cx()).expect("start");
    let error = shop.try_capture(&wrong).err().expect("refused");
    assert!(error.to_string().contains("another copy"), "{error}");

    // And asked of the standby itself, it is no primary.
    let own = definition(&standby.server, "postgres");
    let error = shop.try_capture(&own).err().expect("refused");
    assert_eq!(error.class(), Class::Refused, "{error}");
}

#[test]
fn a_server_that_is_down_fails_unless_it_was_stopped_cleanly() {
    let shop = Shop::archiving();
    let cx = shop.bench.cx();
    let written = shop.write();
    shop.server.kill();
    let error = shop.try_capture(&shop.definition()).err().expect("down");
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.starts_with("Start the server")), "{error}");
    let seen = shop.engine().inspect(&cx).expect("inspect");
    assert_eq!((seen.running, seen.position), (Running::No, None));

    shop.server.start();
    // Enough for segments to be used again: the last one then ends in what an older one held.
    for _ in 0..8 {
        shop.server
            .sql("CREATE TABLE much AS SELECT repeat('x', 1000) FROM generate_series(1, 9000)");
        shop.server.sql("DROP TABLE much");
        shop.archived();
        shop.server.sql("CHECKPOINT");
    }
    shop.server.stop("fast");
    let base = shop.capture();
    assert_eq!(base.captured.position, shop.engine().inspect(&cx).expect("inspect").position);
    for (name, purpose) in
        [("primary", Purpose::Primary { until: None }), ("standby", Purpose::Standby)]
    {
        let copy = shop.copy(&base, name, &purpose);
        copy.engine.start(&cx).expect(name);
        assert_eq!(newest(&copy.server), written, "{name}");
        let standby = copy.server.sql("SELECT pg_is_in_recovery()") == "t";
        assert_eq!(standby, purpose == Purpose::Standby);
    }
}

#[test]
fn the_least_grants_are_enough_and_less_is_told() {
    let shop = Shop::new("");
    shop.server.sql("CREATE ROLE backup LOGIN");
    let definition = definition(&shop.server, "backup");
    let grants = [
        "GRANT pg_read_all_settings TO backup",
        "ALTER ROLE backup REPLICATION",
        "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) \
         TO backup",
    ];
    for grant in grants {
        let error = shop.try_capture(&definition).err().expect(grant);
        assert_eq!(error.class(), Class::Invalid, "before {grant}: {error}");
        assert!(error.hint().is_some(), "{error}");
        shop.server.sql(grant);
    }
    let base = shop.try_capture(&definition).expect("enough");
    let copy = shop.copy(&base, "copy", &Purpose::Primary { until: None });
    copy.engine.start(&shop.bench.cx()).expect("start");
    assert_eq!(newest(&copy.server), shop.newest());
}

#[test]
fn no_slot_is_free_and_nobody_is_admitted() {
    let shop = Shop::new("max_replication_slots = 1");
    shop.server.sql("SELECT pg_create_physical_replication_slot('mine')");
    let error = shop.try_capture(&shop.definition()).err().expect("no slot");
    assert!(error.hint().is_some_and(|hint| hint.contains("max_replication_slots")), "{error}");
    shop.server.sql("SELECT pg_drop_replication_slot('mine')");
    shop.capture();

    let hba = "local all postgres trust\nlocal all all scram-sha-256\n";
    fs::write(shop.server.data().join("pg_hba.conf"), hba).expect("hba");
    shop.server.sql("CREATE ROLE backup LOGIN SUPERUSER PASSWORD 'geheim'");
    shop.server.sql("SELECT pg_reload_conf()");
    let mut secret = definition(&shop.server, "backup:falsch");
    shop.server.eventually("SELECT count(*) = 2 FROM pg_hba_file_rules");
    let error = shop.try_capture(&secret).err().expect("the wrong password");
    assert_eq!(error.class(), Class::Invalid, "{error}");
    let shown = format!("{error} {:?} {:?}", error.source(), error.hint());
    assert!(!shown.contains("falsch"), "{shown}");
    secret.url = Some(shop.server.url("backup:geheim"));
    shop.try_capture(&secret).expect("the right password");
}

#[test]
fn a_log_without_what_a_base_needs_is_refused() {
    let shop = Shop::new("wal_level = minimal\nmax_wal_senders = 0");
    let error = shop.try_capture(&shop.definition()).err().expect("minimal");
    assert_eq!(error.class(), Class::Invalid, "{error}");
    assert!(error.to_string().contains("wal_level"), "{error}");
}

#[test]
fn tablespaces_come_along_and_share_nothing() {
    let shop = Shop::archiving();
    let cx = shop.bench.cx();
    let place = shop.bench.path("fast disk");
    fs::create_dir(&place).expect("a place");
    give(&place);
    shop.server.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    shop.server.sql("CREATE TABLE books (n int PRIMARY KEY) TABLESPACE fast");
    shop.server.sql("INSERT INTO books SELECT generate_series(1, 10000)");
    let base = shop.capture();
    let detail = base.captured.detail.to_string();
    assert!(detail.contains(&place.display().to_string()), "{detail}");

    let standby = shop.copy(&base, "standby", &Purpose::Standby);
    standby.engine.start(&cx).expect("start");
    shop.server.sql("INSERT INTO books SELECT generate_series(10001, 20000)");
    shop.archived();
    standby.server.eventually("SELECT count(*) = 20000 FROM books");
    standby.engine.promote(&cx).expect("promote");
    standby.server.sql("DELETE FROM books");
    standby.server.sql("VACUUM FULL books");
    standby.server.sql("CHECKPOINT");
    assert_eq!(shop.server.sql("SELECT count(*) FROM books"), "20000");
    standby.server.sql("INSERT INTO books VALUES (1)");
    // And again from there, where they lie in the directory itself.
    let definition = definition(&standby.server, "postgres");
    let base = shop.try_capture(&definition).expect("capture the copy");
    let copy = shop.copy(&base, "copy", &Purpose::Primary { until: None });
    copy.engine.start(&cx).expect("start");
    assert_eq!(copy.server.sql("SELECT count(*) FROM books"), "1");
    copy.amcheck();
}

/// Debian keeps the configuration in `/etc` and starts the server with its path.
#[test]
fn a_configuration_outside_the_data_directory_comes_along() {
    let bench = Bench::new();
    give(bench.dir.path());
    let server = PgServer::create(bench.dir.path(), "work_mem = '7MB'");
    let etc = bench.path("etc");
    fs::create_dir_all(etc.join("conf.d")).expect("etc");
    let data = server.data().to_owned();
    let conf = fs::read_to_string(data.join("postgresql.conf")).expect("conf");
    let here = etc.display();
    fs::write(
        etc.join("postgresql.conf"),
        format!(
            "{conf}\ndata_directory = '{}'\nhba_file = '{here}/pg_hba.conf'\n\
             ident_file = '{here}/pg_ident.conf'\nexternal_pid_file = '{here}/pid'\n\
             include_dir = 'conf.d'\n",
            data.display()
        ),
    )
    .expect("conf");
    fs::write(etc.join("conf.d/own.conf"), "cluster_name = 'it''s ours'\n").expect("conf.d");
    fs::write(etc.join("pg_hba.conf"), "# ours\nlocal all all trust\n").expect("hba");
    fs::write(etc.join("pg_ident.conf"), "").expect("ident");
    give(&etc);
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::remove_file(data.join(name)).expect("only outside");
    }
    server.start_with(&[&format!("-cconfig_file={here}/postgresql.conf"), "-cjit=off"]);
    server.sql("CREATE TABLE orders AS SELECT 1::bigint AS n");
    let shop = Shop { server, bench };

    let base = shop.capture();
    let copy = shop.copy(&base, "copy", &Purpose::Primary { until: None });
    copy.engine.start(&shop.bench.cx()).expect("start");
    assert_eq!(newest(&copy.server), 1);
    for (name, value) in [
        ("data_directory", copy.server.data().display().to_string().as_str()),
        ("hba_file", copy.server.data().join("pg_hba.conf").display().to_string().as_str()),
        ("external_pid_file", ""),
        ("cluster_name", "it's ours"),
        ("work_mem", "7MB"),
        ("jit", "off"),
    ] {
        assert_eq!(copy.server.sql(&format!("SHOW {name}")), value, "{name}");
    }
    let hba = fs::read_to_string(copy.server.data().join("pg_hba.conf")).expect("hba");
    assert!(hba.starts_with("# ours"), "{hba}");
}

/// A `data_directory` in a restored file would start the server on the source's own data.
#[test]
fn a_restored_configuration_does_not_lead_back_to_the_source() {
    let bench = Bench::new();
    give(bench.dir.path());
    let server = PgServer::create(bench.dir.path(), "");
    server.configure(&format!("data_directory = '{}'\n", server.data().display()));
    server.start();
    server.sql("CREATE TABLE orders AS SELECT 1::bigint AS n");
    let shop = Shop { server, bench };
    let base = shop.capture();
    shop.server.stop("fast");
    let copy = shop.copy(&base, "copy", &Purpose::Primary { until: None });
    copy.engine.start(&shop.bench.cx()).expect("start");
    let shown = copy.server.sql("SHOW data_directory");
    assert_eq!(Path::new(&shown), copy.server.data());
    assert!(!shop.server.runs());
}

#[test]
fn a_backup_beside_another_is_fine() {
    let shop = Shop::new("");
    let out = shop.bench.path("other-backup");
    give(shop.bench.dir.path());
    let mut other = shop
        .server
        .program("pg_basebackup")
        .args(["-U", "postgres", "-h"])
        .arg(shop.server.socket_dir())
        .args(["--max-rate=32k", "--checkpoint=fast", "-D"])
        .arg(&out)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("pg_basebackup");
    shop.server.eventually("SELECT count(*) > 0 FROM pg_stat_progress_basebackup");
    let base = shop.capture();
    assert!(matches!(base.captured.position, Some(Position::Lsn { .. })));
    shop.server.eventually("SELECT count(*) > 0 FROM pg_stat_progress_basebackup");
    other.kill().expect("kill");
    other.wait().expect("wait");
    let copy = shop.copy(&base, "copy", &Purpose::Primary { until: None });
    copy.engine.start(&shop.bench.cx()).expect("start");
    assert_eq!(newest(&copy.server), shop.newest());
}

#[test]
fn a_running_server_keeps_its_directory() {
    let shop = Shop::new("");
    let engine = shop.engine();
    let cx = shop.bench.cx();
    let root = engine.roots().remove(0);
    let error = engine.ready_to_replace(&cx, &root, shop.server.data()).expect_err("it runs");
    assert_eq!(error.class(), Class::Refused, "{error}");
    engine.stop(&cx).expect("stop");
    engine.ready_to_replace(&cx, &root, shop.server.data()).expect("it does not run");
    // What a crash of the machine leaves: a number that is somebody else's now.
    fs::write(shop.server.data().join("postmaster.pid"), "1\n/x\n1\n5432\n/tmp\n\n1 1\nready\n")
        .expect("stale");
    assert_eq!(engine.running(&cx).expect("running"), Running::No);
    engine.ready_to_replace(&cx, &root, shop.server.data()).expect("stale");
    engine.start(&cx).expect("start over a stale file");
    assert_eq!(engine.running(&cx).expect("running"), Running::Yes);
}

#[test]
fn a_cancel_ends_a_wait_for_the_servers_checkpoint() {
    let shop = Shop::new("");
    let cancel = CancelToken::new();
    let before = shop.footprint();
    // The label is what pg_backup_start waits with; a lock cannot hold it up, so the cancel comes
    // from the first call of the sink, which is after it, or before: both end alike.
    let engine = shop.engine();
    let (captured, _) =
        contract::capture(&shop, engine.as_ref(), &cancel, |sink| sink.cancelling_at(1));
    assert_eq!(captured.expect_err("cancelled").class(), Class::Cancelled);
    assert_eq!(shop.footprint(), before);
    drop(open(&shop.name(), &shop.definition()));
}
