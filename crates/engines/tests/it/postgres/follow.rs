//! Standbys that follow the log, promotion, and points in time.

use super::{Copy, Shop, newest, setting};
use crate::contract::Fixture;
use crate::support::eventually;
use jiff::Timestamp;
use mainstay_engines::{Purpose, Running};
use model::{Class, Classify, Position};
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// `pgbench`, ended when it is dropped.
struct Load(Child);

impl Load {
    fn on(shop: &Shop) -> Load {
        let bench = |arguments: &[&str]| {
            let mut command = shop.server.program("pgbench");
            command.args(["-U", "postgres", "-h"]).arg(shop.server.socket_dir());
            command.args(arguments).arg("postgres").stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        assert!(bench(&["-i", "-s", "3", "-q"]).status().expect("pgbench").success());
        let child = bench(&["-c", "4", "-T", "600", "-n"]).spawn().expect("pgbench");
        shop.server.eventually("SELECT count(*) > 100 FROM pgbench_history");
        Load(child)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The sums that every whole state of pgbench's tables has in common.
fn balanced(copy: &Copy) -> String {
    copy.server.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM \
         pgbench_history) AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) \
         FROM pgbench_history) AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT \
         sum(delta) FROM pgbench_history)",
    )
}

#[test]
fn a_base_taken_under_load_restores_by_itself() {
    let shop = Shop::new("full_page_writes = off");
    let load = Load::on(&shop);
    for round in 0..3 {
        let before = shop.write();
        let base = shop.capture();
        let after: u64 = shop.newest();
        let copy = shop.copy(&base, &format!("copy-{round}"), &Purpose::Primary { until: None });
        // Nothing but the base: there is no log to ask.
        assert!(!shop.archive().exists());
        copy.engine.start(&shop.bench.cx()).expect("start");
        let found = newest(&copy.server);
        assert!((before..=after).contains(&found), "{found} of {before} to {after}");
        assert_eq!(balanced(&copy), "t");
        copy.amcheck();
    }
    drop(load);
}

#[test]
fn a_standby_follows_the_log_and_is_promoted() {
    let shop = Shop::archiving();
    let cx = shop.bench.cx();
    let base = shop.capture();
    let Some(Position::Lsn { timeline: 1, .. }) = base.captured.position else {
        panic!("{:?}", base.captured.position);
    };
    shop.write();
    let standby = shop.copy(&base, "standby", &Purpose::Standby);
    standby.engine.start(&cx).expect("start the standby");
    assert_eq!(standby.server.sql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(standby.engine.running(&cx).expect("running"), Running::Yes);

    for _ in 0..3 {
        let written = shop.write();
        shop.archived();
        standby.server.eventually(&format!("SELECT max(n) = {written} FROM orders"));
    }
    let seen = standby.engine.inspect(&cx).expect("inspect");
    assert!(seen.following && seen.has_data, "{seen:?}");
    assert!(seen.size_bytes.is_some_and(|size| size > 1 << 20), "{seen:?}");
    let replayed = seen.replayed.expect("a time");
    assert!((base.captured.source_time..=Timestamp::now()).contains(&replayed), "{seen:?}");
    // A standby in recovery archives nothing of what it is fed.
    assert_eq!(standby.server.sql("SELECT archived_count FROM pg_stat_archiver"), "0");
    assert_eq!(standby.server.sql("SHOW archive_mode"), "on");

    // A planned takeover: the primary archives all of it when it stops, and says where it ended.
    let last = shop.write();
    let engine = shop.engine();
    engine.stop(&cx).expect("stop the primary");
    let stopped = engine.inspect(&cx).expect("inspect the stopped one");
    assert_eq!((stopped.running, stopped.following), (Running::No, false), "{stopped:?}");
    let ended = stopped.position.expect("where it ended");
    eventually("the standby is where the primary ended", || {
        standby.engine.inspect(&cx).expect("inspect").position.as_ref() == Some(&ended)
    });
    assert_eq!(newest(&standby.server), last);

    let begun = Instant::now();
    let promoted = standby.engine.promote(&cx).expect("promote");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "promotion took {took:?}");
    assert_eq!(promoted.position, Some(Position::Lsn { timeline: 2, lsn: lsn_of(&ended) }));
    let again = standby.engine.promote(&cx).expect("promote a primary");
    assert_eq!(again.position, promoted.position);
    standby.server.sql(&format!("INSERT INTO orders (n) VALUES ({})", last + 1));
    standby.amcheck();
    let seen = standby.engine.inspect(&cx).expect("inspect the new primary");
    assert!(!seen.following && seen.replayed.is_none(), "{seen:?}");

    // It archives now, its own timeline.
    standby.server.sql("SELECT pg_switch_wal()");
    eventually("the new timeline is archived", || {
        let names = fs::read_dir(shop.archive()).expect("archive").flatten();
        let names: Vec<String> =
            names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.contains(&"00000002.history".to_owned())
            && names.iter().any(|name| name.len() == 24 && name.starts_with("00000002"))
    });
}

fn lsn_of(position: &Position) -> u64 {
    match position {
        Position::Lsn { lsn, .. } => *lsn,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_second_standby_follows_over_a_takeover() {
    let shop = Shop::archiving();
    let cx = shop.bench.cx();
    let base = shop.capture();
    let first = shop.copy(&base, "first", &Purpose::Standby);
    let second = shop.copy(&base, "second", &Purpose::Standby);
    first.engine.start(&cx).expect("start");
    second.engine.start(&cx).expect("start");
    let written = shop.write();
    shop.archived();
    first.server.eventually(&format!("SELECT max(n) = {written} FROM orders"));
    // The primary is lost; what it had not archived is lost with it.
    shop.write();
    shop.server.stop("immediate");
    first.engine.promote(&cx).expect("promote");
    first.server.sql(&format!("INSERT INTO orders (n) VALUES ({})", written + 1));
    first.server.sql("SELECT pg_switch_wal()");
    second.server.eventually(&format!("SELECT max(n) = {} FROM orders", written + 1));
    let seen = second.engine.inspect(&cx).expect("inspect");
    assert!(seen.following, "{seen:?}");
    let now = first.engine.inspect(&cx).expect("inspect").position.expect("a position");
    let seen = seen.position.expect("a position");
    let Position::Lsn { timeline, .. } = seen else { panic!("{seen:?}") };
    assert_eq!(timeline, 2, "{seen} while the primary is at {now}");

    // A base of the new timeline restores by itself, too.
    let definition = super::definition(&first.server, "postgres");
    let base = shop.try_capture(&definition).expect("capture the new primary");
    let Some(Position::Lsn { timeline: 2, .. }) = base.captured.position else {
        panic!("{:?}", base.captured.position);
    };
    fs::rename(shop.archive(), shop.bench.path("lost")).expect("lose the log");
    let copy = shop.copy(&base, "third", &Purpose::Primary { until: None });
    copy.engine.start(&cx).expect("start");
    assert_eq!(newest(&copy.server), written + 1);
    copy.amcheck();
}

#[test]
fn a_point_in_time_is_reached_exactly() {
    let shop = Shop::archiving();
    let cx = shop.bench.cx();
    let now = || {
        let micros = shop.server.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1e6)::int8");
        Timestamp::from_microsecond(micros.parse().expect("micros")).expect("a time")
    };
    let too_early = now();
    let base = shop.capture();
    let mut marks = Vec::new();
    for _ in 0..3 {
        for _ in 0..5 {
            shop.write();
        }
        marks.push((now(), shop.newest()));
    }
    shop.write();
    shop.archived();
    for (at, (until, wanted)) in marks.iter().enumerate() {
        let purpose = Purpose::Primary { until: Some(*until) };
        let copy = shop.copy(&base, &format!("at-{at}"), &purpose);
        copy.engine.start(&cx).expect("start");
        assert_eq!(copy.server.sql("SELECT pg_is_in_recovery()"), "f", "start waits for the end");
        assert_eq!(newest(&copy.server), *wanted);
        copy.server.sql(&format!("INSERT INTO orders (n) VALUES ({})", wanted + 1));
    }

    let purpose = Purpose::Primary { until: Some(too_early) };
    let Err(error) = shop.try_copy(&base, "early", &purpose) else {
        panic!("a base cannot go back in time");
    };
    assert_eq!(error.class(), Class::Refused, "{error}");

    // The log does not reach that far: no copy that claims to be of that time.
    let purpose = Purpose::Primary { until: Some(Timestamp::now()) };
    let copy = shop.copy(&base, "late", &purpose);
    let error = copy.engine.start(&cx).expect_err("the log ends before");
    let hint = error.hint().expect("a hint");
    assert!(hint.contains("ends before"), "{error} {hint}");
    assert_eq!(copy.engine.running(&cx).expect("running"), Running::No);
}

#[test]
fn an_outage_of_the_vault_is_not_the_end_of_the_log() {
    let shop = Shop::archiving();
    let cx = shop.bench.cx();
    let base = shop.capture();
    shop.write();
    shop.archived();
    let copy = shop.copy(&base, "copy", &Purpose::Primary { until: None });
    let log = fs::read_to_string(shop.bench.path("log")).expect("script");
    fs::write(shop.bench.path("log"), "#!/bin/sh\nexit 126\n").expect("script");
    copy.engine.start(&cx).expect_err("the vault cannot be asked");
    assert_eq!(copy.engine.running(&cx).expect("running"), Running::No);
    fs::write(shop.bench.path("log"), log).expect("script");
    copy.engine.start(&cx).expect("start");
    assert_eq!(newest(&copy.server), shop.newest());
}

#[test]
fn a_copy_to_look_at_reaches_nobody() {
    let shop = Shop::archiving();
    let cx = shop.bench.cx();
    shop.server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    let base = shop.capture();
    shop.archived();
    // A server that goes on archives the history file of its backup when it likes to.
    shop.server.stop("fast");
    let archived = fs::read_dir(shop.archive()).expect("archive").count();
    let copy = shop.copy(&base, "look", &Purpose::Scratch { until: None });
    assert_eq!(
        setting(copy.server.data(), "unix_socket_directories"),
        Some(format!("'{}'", copy.server.data().display()))
    );
    copy.server.start_with(&[&format!(
        "-cunix_socket_directories={}",
        copy.server.socket_dir().display()
    )]);
    copy.server.eventually("SELECT NOT pg_is_in_recovery()");
    for (name, value) in [
        ("archive_mode", "off"),
        ("listen_addresses", ""),
        ("max_logical_replication_workers", "0"),
        ("synchronous_standby_names", ""),
        ("primary_conninfo", ""),
        ("ssl", "off"),
    ] {
        assert_eq!(copy.server.sql(&format!("SHOW {name}")), value, "{name}");
    }
    copy.server.sql("INSERT INTO orders (n) VALUES (-1)");
    copy.server.sql("SELECT pg_switch_wal()");
    copy.engine.stop(&cx).expect("stop");
    assert_eq!(fs::read_dir(shop.archive()).expect("archive").count(), archived);
}
