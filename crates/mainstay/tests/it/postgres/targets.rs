//! Places in the log that a restore ends at, and standbys that stream.

use super::receiving::restored;
use super::*;

/// By name, transaction and position, each from the base that is right for it; what is not there is
/// refused before anything is touched.
#[test]
fn a_restore_ends_at_a_name_a_transaction_or_a_position() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    let first = a.run(&["backup", "shop", "--json"]).code(0).json();
    a.write();
    a.server.sql("SELECT pg_create_restore_point('before')");
    a.write();
    let xid = a.server.sql(
        "WITH row AS (INSERT INTO orders VALUES (4, 'x') RETURNING n) \
         SELECT pg_current_xact_id() FROM row",
    );
    let lsn = a.server.sql("SELECT pg_current_wal_insert_lsn()");
    a.write();
    let second = a.run(&["backup", "shop", "--json"]).code(0).json();
    a.write();
    a.server.sql("SELECT pg_create_restore_point('after')");
    a.write();
    a.archived();
    let id = |made: &serde_json::Value| {
        made["services"][0]["point"]["snapshot"].as_str().unwrap().to_owned()
    };
    let base = |words: &[&str]| {
        let words =
            [&["restore", "shop", "--target", "/nonexistent/x", "--dry-run", "--json"], words];
        a.run(&words.concat()).code(0).json()["snapshot"].as_str().unwrap().to_owned()
    };
    assert_eq!(base(&["--target-name", "before"]), id(&first));
    assert_eq!(base(&["--target-name", "after"]), id(&second));
    assert_eq!(base(&["--target-lsn", &lsn]), id(&first));
    let places: [(&[&str], u64); 5] = [
        (&["--target-name", "before"], 2),
        (&["--target-name", "after"], 6),
        (&["--target-xid", &xid], 4),
        (&["--target-xid", &xid, "--target-exclusive"], 3),
        (&["--target-lsn", &lsn, "--target-exclusive"], 4),
    ];
    for (number, (words, wanted)) in places.into_iter().enumerate() {
        let copy = restored(&stage, a, &format!("copy{number}"), words);
        assert_eq!(copy.newest(), wanted, "{words:?}");
    }

    let refused = |words: &[&str]| {
        let words = [&["restore", "shop", "--target", "/nonexistent/x"], words].concat();
        a.run(&words).code(1)
    };
    let said = refused(&["--target-name", "never"]).complains("is not in the log");
    said.complains("Restore points in it: before, after.\n");
    refused(&["--target-lsn", "FF/0"]).complains("is not in the log");
    refused(&["--target-xid", "3"]).complains("is not in the log");
    // Nothing was committed since.
    let now = a
        .server
        .sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    refused(&["--at", &now]).complains("ends before").complains("its last commit is of");
}

const STREAMS: &str = "stream-from = 'postgres://postgres@/?host=OTHER'";

/// A standby streams, takes from the vault what the primary has no more, and streams again. What was
/// the primary is rewound and follows the new one.
#[test]
fn a_standby_streams_and_a_lost_primary_is_rewound() {
    let stage = Stage::with("archive_mode = on\nwal_keep_size = 0", STREAMS);
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let streams = "SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    b.server.eventually(streams);
    let wanted = a.write();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));

    b.server.stop("fast");
    let segment = a.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    for _ in 0..3 {
        a.write();
        a.archived();
        a.server.sql("CHECKPOINT");
    }
    a.server.eventually(&format!(
        "SELECT NOT EXISTS (SELECT FROM pg_ls_waldir() WHERE name = '{segment}')"
    ));
    b.server.start();
    let wanted = a.write();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    b.server.eventually(streams);

    // What the standby never got is what the two differ in.
    b.server.stop("fast");
    let lost = a.write();
    a.server.kill();
    b.server.start();
    stage.dead(true);
    b.run(&["takeover", "shop", "--yes"]).code(0);
    stage.dead(false);
    assert_eq!(b.newest() + 1, lost);
    b.write();
    let wanted = b.write();
    b.run(&["backup", "shop"]).code(0);
    let said = a.run(&["rejoin", "shop", "--json", "-v"]).code(0);
    let done = said.json();
    assert_eq!(done["rewound"], true, "{said:#?}");
    a.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    a.server.eventually(streams);
    assert_eq!(a.server.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    let wanted = b.write();
    a.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    assert_eq!(a.newest(), wanted);

    // And back, as planned.
    b.run(&["offline", "shop"]).code(0);
    a.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    assert_eq!(a.newest(), wanted);
}

/// A primary wrote on alone, and its checkpoints removed what was before the place where the two parted: that
/// is in the vault only.
#[test]
fn a_primary_that_wrote_on_alone_is_rewound_with_the_log_of_the_vault() {
    let stage = Stage::with("archive_mode = on\nwal_keep_size = 0", STREAMS);
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    a.server.sql("CHECKPOINT");
    let segment = a.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    for _ in 0..2 {
        a.write();
        a.archived();
    }
    let wanted = a.write();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    b.server.stop("fast");
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    fs::rename(&vault, &away).unwrap();
    for _ in 0..2 {
        a.write();
        a.server.sql("CHECKPOINT");
    }
    a.server.eventually(&format!(
        "SELECT NOT EXISTS (SELECT FROM pg_ls_waldir() WHERE name = '{segment}')"
    ));
    a.server.kill();
    fs::rename(&away, &vault).unwrap();

    b.server.start();
    stage.dead(true);
    b.run(&["takeover", "shop", "--yes"]).code(0);
    stage.dead(false);
    assert_eq!(b.newest(), wanted);
    let wanted = b.write();
    b.run(&["backup", "shop"]).code(0);
    let said = a.run(&["rejoin", "shop", "--json", "-v"]).code(0);
    assert_eq!(said.json()["rewound"], true, "{said:#?}");
    a.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    assert_eq!(a.newest(), wanted);
    // And back, as planned.
    b.run(&["offline", "shop"]).code(0);
    a.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    assert_eq!(a.newest(), wanted);
}

/// A standby that streams has taken over from a primary that is gone, and has a base of its own.
pub(super) fn taken_over() -> Stage {
    // Recovering, a server throws away what pg_rewind would read.
    let stage = Stage::with("archive_mode = on\nwal_keep_size = 1GB", STREAMS);
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let wanted = a.write();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    a.server.kill();
    stage.dead(true);
    b.run(&["takeover", "shop", "--yes"]).code(0);
    stage.dead(false);
    b.write();
    b.run(&["backup", "shop"]).code(0);
    stage
}

/// It says that it was built anew, and has what is written from then on.
fn is_built_anew(stage: &Stage) {
    let done = stage.a.run(&["rejoin", "shop", "--json"]).code(0).json();
    assert_eq!(done["rewound"], false, "{done}");
    let wanted = stage.b.write();
    stage.a.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    assert_eq!(stage.a.newest(), wanted);
}

/// A second pg_rewind of a copy that a first one has rewound says that there is nothing to do, and leaves
/// it where it never follows anybody.
#[test]
fn a_rewind_that_was_cut_off_is_not_taken_for_one_that_was_done() {
    let stage = taken_over();
    let a = &stage.a;
    // It dies right behind pg_rewind.
    let programs = stage.programs_without("pg_rewind");
    let rewound = stage.a.home().join("rewound");
    let rewind = programs.join("pg_rewind");
    let text = format!(
        "{} \"$@\" || exit\ntouch {}\nexec sleep 600\n",
        bin_dir().join("pg_rewind").display(),
        rewound.display()
    );
    crate::rig::script(&rewind, &text);
    let config = fs::read_to_string(&a.config).unwrap();
    let usual = format!("bin-dir = '{}'", bin_dir().display());
    let ours = format!("bin-dir = '{}'", programs.display());
    assert!(config.contains(&usual));
    fs::write(&a.config, config.replace(&usual, &ours)).unwrap();
    let mut rejoin = Load(a.command(&["rejoin", "shop"]).stderr(Stdio::null()).spawn().unwrap());
    super::receiving::wait_for("it is rewound", || rewound.exists());
    assert!(a.kill_worker());
    assert!(!rejoin.0.wait().unwrap().success());
    fs::write(&a.config, config).unwrap();
    is_built_anew(&stage);
}

/// Whoever was promoted and died before anybody heard of it has a timeline of the number that the next one
/// takes as well.
#[test]
fn a_timeline_of_the_same_number_is_not_taken_for_the_same() {
    let stage = taken_over();
    let a = &stage.a.server;
    let signal = a.data().join("standby.signal");
    fs::write(&signal, "").unwrap();
    give(&signal);
    a.start();
    a.sql("SELECT pg_promote()");
    a.sql("INSERT INTO orders VALUES (1000, 'of nobody')");
    assert_eq!(a.sql("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"), "00000002");
    a.kill();
    is_built_anew(&stage);
}

/// The oldest base leads over every takeover to the newest timeline, to its end and to places on the
/// way.
#[test]
fn the_first_base_leads_over_several_takeovers() {
    let stage = Stage::with("archive_mode = on", STREAMS);
    stage.a.write();
    let first = stage.a.run(&["backup", "shop", "--json"]).code(0).json();
    let first = first["services"][0]["point"]["snapshot"].as_str().unwrap().to_owned();
    stage.b.run(&["refresh", "shop"]).code(0);
    let (mut old, mut new) = (&stage.a, &stage.b);
    for round in 1..=2 {
        old.write();
        old.server.sql(&format!("SELECT pg_create_restore_point('round{round}')"));
        old.write();
        old.run(&["offline", "shop"]).code(0);
        new.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
        new.run(&["backup", "shop"]).code(0);
        let done = old.run(&["rejoin", "shop", "--json"]).code(0).json();
        assert_eq!(done["rewound"], true, "{done}");
        (old, new) = (new, old);
    }
    old.write();
    old.server.sql("SELECT pg_create_restore_point('last')");
    old.write();
    old.archived();
    let places: [(&[&str], u64); 3] = [
        (&["--snapshot", &first, "--target-name", "round2"], 4),
        (&["--snapshot", &first, "--target-name", "last"], 6),
        (&["--snapshot", &first], 7),
    ];
    for (number, (words, wanted)) in places.into_iter().enumerate() {
        let copy = restored(&stage, old, &format!("copy{number}"), words);
        assert_eq!(copy.newest(), wanted, "{words:?}");
    }
}
