//! A database cluster that goes on in the place of another: made anew and loaded, or by `pg_upgrade`. It
//! begins on timeline 1 again, and what it writes has the names of what the other wrote.

use super::freshness::written;
use super::receiving::{NO_ARCHIVE, is_stored, receiver, restored};
use super::versions::Version;
use super::*;
use crate::sqlite_log::files_below;
use model::Secret;
use repository::Repository;
use repository::log::LogStore;
use std::sync::Arc;
use storage::Local;

/// A new cluster takes the place of that of host `a`, with these settings, and an empty table.
pub(super) fn takes_the_place(stage: &Stage, settings: &str) {
    let a = &stage.a;
    a.server.stop("fast");
    let made = PgServer::create(&stage.dir.path().join("made"), "");
    fs::remove_dir_all(a.server.data()).unwrap();
    fs::rename(made.data(), a.server.data()).unwrap();
    a.server.configure(&as_the_primary(a, settings));
    a.server.start();
    a.server.sql("CREATE TABLE orders (n bigint PRIMARY KEY, pad text)");
}

fn as_the_primary(host: &Host, settings: &str) -> String {
    format!(
        "archive_command = '{} --config {} wal push shop %p'\n\
         unix_socket_directories = '{}'\n{settings}\n",
        host.program.display(),
        host.config.display(),
        host.server.socket_dir().display()
    )
}

pub(super) fn cluster(host: &Host) -> String {
    host.server.sql("SELECT system_identifier FROM pg_control_system()")
}

fn timeline(host: &Host) -> String {
    host.server.sql("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 8, 1)")
}

/// Makes a point.
fn point(host: &Host, words: &[&str]) -> String {
    let made = host.run(&[&["backup", "shop", "--json"], words].concat()).code(0).json();
    made["services"][0]["point"]["snapshot"].as_str().unwrap().to_owned()
}

/// What the vault has of the log of a cluster, marks and parts as well.
fn of_cluster(stage: &Stage, cluster: &str) -> usize {
    let kinds = ["log", "log-parts", "log-until"];
    let places = kinds.map(|kind| stage.dir.path().join("vault/shop/mainstay").join(kind));
    places.iter().map(|place| files_below(&place.join(cluster)).len()).sum()
}

/// The log in the vault.
pub(super) fn log(stage: &Stage) -> LogStore {
    let storage = Arc::new(Local::open(stage.dir.path().join("vault/shop")).unwrap());
    let password = fs::read_to_string(stage.dir.path().join("password")).unwrap();
    let password = Secret::new(password.trim_end().to_owned());
    LogStore::new(&Repository::open(storage, &password).unwrap())
}

/// What a test has put there is the server's user's.
pub(super) fn is_the_servers(stage: &Stage) {
    let vault = stage.dir.path().join("vault");
    let mut chown = Command::new("chown");
    run(chown.args(["-R", "--reference"]).arg(&vault).arg(vault.join("shop/mainstay"))).code(0);
}

/// It has timelines of its own, of the same numbers as the other's: its log is stored, a standby is built
/// from it and takes over, and each moment is within reach as long as there is a point of its cluster.
#[test]
fn it_has_a_log_of_its_own_and_the_other_keeps_what_it_had() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    let first = point(a, &[]);
    b.run(&["refresh", "shop"]).code(0);
    let (mut old, mut new) = (a, b);
    for _ in 0..2 {
        old.write();
        old.run(&["offline", "shop"]).code(0);
        new.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
        point(new, &[]);
        old.run(&["rejoin", "shop"]).code(0);
        old.drop_diverged();
        (old, new) = (new, old);
    }
    assert_eq!(timeline(a), "3");
    let third = point(a, &[]);
    let before = written(a).to_string();
    let had = a.newest();
    a.write();
    a.archived();
    let left = cluster(a);

    takes_the_place(&stage, "archive_mode = on");
    let taken = cluster(a);
    assert_ne!(taken, left);
    a.write();
    a.run(&["backup", "shop"]).code(1).complains("--allow-another");
    // Its log has the names of the other's, and is stored all the same.
    a.archived();
    let newer = point(a, &["--allow-another"]);
    let after = written(a).to_string();
    a.write();
    a.archived();
    assert_eq!(restored(&stage, a, "after", &["--at", &after]).newest(), 2);

    // What follows the other's log has nothing to go on with, and is given up only if somebody says so.
    b.run(&["status", "shop"]).code(1).says("cannot go on");
    b.run(&["refresh", "shop"])
        .code(1)
        .complains("holds the database cluster")
        .complains("--reseed");
    stage.dead(true);
    b.run(&["takeover", "shop", "--yes"]).code(1).complains("holds the database cluster");
    stage.dead(false);
    b.run(&["refresh", "shop", "--snapshot", &third, "--reseed"])
        .code(1)
        .complains("another database");
    b.run(&["refresh", "shop", "--reseed"]).code(0);
    b.drop_diverged();
    let wanted = a.write();
    a.archived();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    assert_eq!(cluster(b), taken);
    b.run(&["refresh", "shop"]).code(0);
    b.run(&["status", "shop"]).code(0);
    b.run(&["doctor", "shop"]);

    // Its second timeline is not the other's.
    a.server.kill();
    stage.dead(true);
    b.run(&["takeover", "shop", "--yes"]).code(0);
    assert_eq!((b.newest(), timeline(b)), (wanted, "2".to_owned()));
    let wanted = b.write();
    b.archived();
    let latest = restored(&stage, b, "latest", &[]);
    assert_eq!((latest.newest(), cluster(&latest)), (wanted, taken.clone()));
    let then = restored(&stage, b, "before", &["--at", &before]);
    assert_eq!((then.newest(), cluster(&then)), (had, left.clone()));
    let since = restored(&stage, b, "since", &["--snapshot", &first]);
    assert_eq!((since.newest(), cluster(&since)), (had + 1, left.clone()));
    for which in [&third, &newer] {
        b.run(&["drill", "shop", "--snapshot", which]).code(0);
    }

    // A second vault has the log of both.
    let copy = stage.dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    give(&copy);
    b.run(&["copy", "shop", "--to", &copy.display().to_string()]).code(0);
    for cluster in [&left, &taken] {
        let place =
            |vault: &str| stage.dir.path().join(vault).join("shop/mainstay/log").join(cluster);
        let names = |vault: &str| files_below(&place(vault)).len();
        assert_eq!(names("copy"), names("vault"), "{cluster}");
        assert!(names("copy") > 0);
    }
    b.run(&["check", "shop", "--read-data"]).code(0);

    // As long as there is a point of the other, there is what leads on from it.
    point(b, &[]);
    let known = b.run(&["snapshots", "shop", "--json"]).code(0).json();
    let points = known["services"][0]["snapshots"].as_array().unwrap().clone();
    let of_other = |point: &&serde_json::Value| point["cluster"] == *left;
    let others: Vec<&str> =
        points.iter().filter(of_other).map(|p| p["snapshot"].as_str().unwrap()).collect();
    assert!(others.len() >= 4, "{points:?}");
    let but_one: Vec<&str> = others.iter().copied().filter(|other| *other != third).collect();
    b.run(&[&["forget", "shop", "--yes", "--prune"], &but_one[..]].concat()).code(0);
    let then = restored(&stage, b, "again", &["--at", &before]);
    assert_eq!((then.newest(), cluster(&then)), (had, left.clone()));
    let kept = of_cluster(&stage, &taken);
    b.run(&["forget", "shop", "--yes", "--prune", &third]).code(0);
    assert_eq!(of_cluster(&stage, &left), 0);
    assert!(kept > 0 && of_cluster(&stage, &taken) == kept);
    b.run(&["drill", "shop", "--snapshot", &newer]).code(0);
    assert_eq!(restored(&stage, b, "last", &[]).newest(), wanted);
}

/// Whoever receives the log as it is written may live on while the files are exchanged.
#[test]
fn it_is_received_by_who_received_the_other() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    a.write();
    let first = point(a, &[]);
    let _receiver = receiver(a);
    a.write();
    is_stored(a);
    takes_the_place(&stage, NO_ARCHIVE);
    a.write();
    point(a, &["--allow-another"]);
    a.write();
    is_stored(a);
    assert_eq!(restored(&stage, a, "latest", &[]).newest(), 2);
    let other = restored(&stage, a, "other", &["--snapshot", &first]);
    assert_eq!(other.newest(), 2);
    assert_ne!(cluster(&other), cluster(a));
    let status = a.run(&["status", "shop", "--json"]).code(0).json();
    assert!(status["services"][0]["log-gap"].is_null(), "{status}");
}

/// The newer version takes over the files of the older one, and begins a log of its own with them.
#[test]
fn an_upgrade_in_place_goes_on_with_a_log_of_its_own() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    point(a, &[]);
    a.run(&["restore", "shop", "--replace"]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    let before = written(a).to_string();
    let had = a.newest();
    let upgraded = a.write();
    a.archived();
    point(a, &[]);
    let left = cluster(a);
    a.server.stop("fast");

    let newer = Version::newest();
    let (data, older) = (a.server.data(), a.home().join("older"));
    fs::rename(data, &older).unwrap();
    let mut init = newer.program("initdb");
    init.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
    run(init.args(["--data-checksums", "--no-sync", "--pgdata"]).arg(data)).code(0);
    let mut upgrade = newer.program("pg_upgrade");
    upgrade.current_dir(a.home()).args(["--username=postgres", "--no-sync", "--old-datadir"]);
    upgrade.arg(&older).arg("--new-datadir").arg(data).arg("--old-bindir").arg(bin_dir());
    run(upgrade.arg("--new-bindir").arg(&newer.bin).arg("--socketdir").arg(a.server.socket_dir()))
        .code(0);
    a.server.configure(&format!(
        "listen_addresses = ''\nfsync = off\n{}",
        as_the_primary(a, "archive_mode = on")
    ));
    for host in [a, b] {
        let text = fs::read_to_string(&host.config).unwrap();
        let bin = newer.bin.display().to_string();
        fs::write(&host.config, text.replace(&bin_dir().display().to_string(), &bin)).unwrap();
    }
    let start = |host: &Host, options: &str| {
        let mut start = newer.program("pg_ctl");
        start.args(["start", "--wait", "--silent", "--options", options, "--pgdata"]);
        run(start.arg(host.server.data()).arg("--log").arg(host.home().join("newer.log"))).code(0);
    };
    start(a, "");
    assert_eq!(a.newest(), upgraded);
    assert_ne!(cluster(a), left);
    a.write();
    a.run(&["backup", "shop"]).code(1).complains("--allow-another");
    point(a, &["--allow-another"]);
    a.write();
    a.archived();
    b.run(&["refresh", "shop"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {} FROM orders", upgraded + 2));
    a.server.kill();
    stage.dead(true);
    b.run(&["takeover", "shop", "--yes"]).code(0);
    assert_eq!((b.newest(), timeline(b)), (upgraded + 2, "2".to_owned()));
    b.write();
    b.archived();
    // What was before the upgrade is there for the older version.
    let then = restored(&stage, b, "before", &["--at", &before]);
    assert_eq!((then.newest(), cluster(&then)), (had, left));
    b.run(&["drill", "shop"]).code(0);
}

/// What a vault has of the log without its cluster, as it was stored once, is read where it is.
#[test]
fn a_log_that_was_stored_without_its_cluster_is_followed_and_goes_with_the_last_point() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    let first = point(a, &[]);
    a.write();
    a.archived();
    let left = cluster(a);
    let log = log(&stage);
    a.server.stop("fast");
    for place in log.places().unwrap() {
        for (name, generation) in place.list().unwrap() {
            log.push(generation, &name, &place.fetch_from(&name, generation).unwrap()).unwrap();
            place.remove(&name, generation).unwrap();
        }
    }
    is_the_servers(&stage);
    assert!(of_cluster(&stage, &left) <= 1 && !log.list().unwrap().is_empty());
    a.server.start();
    b.run(&["refresh", "shop"]).code(0);
    assert_eq!(b.newest(), 2);
    a.write();
    a.archived();
    b.server.eventually("SELECT max(n) = 3 FROM orders");
    assert_eq!(restored(&stage, a, "latest", &[]).newest(), 3);
    b.server.stop("fast");

    // It is not that of a cluster that takes this one's place.
    takes_the_place(&stage, "archive_mode = on");
    a.write();
    a.archived();
    point(a, &["--allow-another"]);
    let wanted = a.write();
    a.archived();
    b.run(&["refresh", "shop", "--reseed"]).code(0);
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    let then = restored(&stage, a, "then", &["--snapshot", &first]);
    assert_eq!((then.newest(), cluster(&then)), (3, left));
    a.run(&["forget", "shop", "--yes", "--prune", &first]).code(0);
    assert!(log.list().unwrap().is_empty());
    assert_eq!(restored(&stage, a, "newest", &[]).newest(), wanted);
}

/// The standby's files are exchanged with the primary's, as where both are upgraded at once: a copy of the
/// primary that was stopped, which follows the vault.
fn is_exchanged_too(stage: &Stage) {
    let (a, b) = (&stage.a, &stage.b);
    a.server.stop("fast");
    b.server.stop("fast");
    fs::remove_dir_all(b.server.data()).unwrap();
    run(Command::new("cp").arg("-a").arg(a.server.data()).arg(b.server.data())).code(0);
    follows_the_vault(b);
    a.server.start();
    b.server.start();
}

/// What lies there is a standby's from its next start on.
fn follows_the_vault(host: &Host) {
    let restore = format!(
        "restore_command = '{} --config {} wal fetch shop %f %p'",
        host.program.display(),
        host.config.display()
    );
    host.server.configure(&as_the_primary(host, &restore));
    let signal = host.server.data().join("standby.signal");
    fs::write(&signal, "").unwrap();
    give(&signal);
}

/// The vault has no point of the newer cluster yet. Its standby is not taken for one of the older, which would
/// have to be built anew from that.
#[test]
fn a_standby_that_was_exchanged_with_its_primary_takes_over_before_there_is_a_point() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    point(a, &[]);
    b.run(&["refresh", "shop"]).code(0);
    takes_the_place(&stage, "archive_mode = on");
    a.write();
    is_exchanged_too(&stage);
    let wanted = a.write();
    a.archived();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));

    for said in [
        b.run(&["status", "shop"]).code(1).out,
        b.run(&["doctor", "shop"]).code(1).says("--allow-another").out,
        b.run(&["refresh", "shop"]).code(1).complains("--allow-another").err,
    ] {
        assert!(said.contains("the vault has no point of that"), "{said}");
        assert!(!said.contains("--reseed") && !said.contains("cannot go on"), "{said}");
    }
    a.server.kill();
    stage.dead(true);
    b.run(&["takeover", "shop", "--yes"]).code(0).complains("the vault has no point of that");
    assert_eq!((b.newest(), timeline(b)), (wanted, "2".to_owned()));
    point(b, &["--allow-another"]);
    let wanted = b.write();
    b.archived();
    assert_eq!(restored(&stage, b, "latest", &[]).newest(), wanted);
}

/// The newer cluster has no point yet, and what its primary wrote is lost to the standby of the older one, and
/// to a copy of something else.
#[test]
fn a_standby_of_another_cluster_than_the_primary_takes_over_only_if_somebody_says_so() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    let had = a.write();
    point(a, &[]);
    b.run(&["refresh", "shop"]).code(0);
    let left = cluster(a);
    takes_the_place(&stage, "archive_mode = on");
    a.write();
    a.archived();
    let advice = "mainstay backup shop --allow-another";
    b.run(&["status", "shop"]).code(1).says("cannot go on").says("gone on with");
    b.run(&["doctor", "shop"]).code(1).says(advice).says("--reseed");
    a.server.kill();
    stage.dead(true);
    b.run(&["takeover", "shop", "--yes"]).code(1).complains("gone on with").complains(advice);

    b.server.stop("fast");
    let older = b.home().join("older");
    fs::rename(b.server.data(), &older).unwrap();
    let foreign = PgServer::create(&stage.dir.path().join("foreign"), "max_connections = 100");
    fs::rename(foreign.data(), b.server.data()).unwrap();
    follows_the_vault(b);
    b.server.start();
    b.run(&["status", "shop"]).code(1).says("cannot go on").says("and nothing of");
    b.run(&["takeover", "shop", "--yes"]).code(1).complains("and nothing of");
    b.server.stop("fast");
    fs::remove_dir_all(b.server.data()).unwrap();
    fs::rename(&older, b.server.data()).unwrap();
    b.server.start();

    let meant = "replay-stands-still=what it has is wanted";
    b.run(&["takeover", "shop", "--yes", "--override", meant]).code(0);
    assert_eq!((b.newest(), cluster(b)), (had, left));
    b.write();
    b.archived();
    point(b, &[]);
}

/// Of what such a primary writes there is no point before somebody has said that it is meant: nothing looks
/// well until then.
#[test]
fn a_primary_that_went_back_to_the_older_cluster_says_what_to_do() {
    let stage = Stage::new();
    let a = &stage.a;
    let alerts = a.home().join("alerts");
    let text = fs::read_to_string(&a.config).unwrap();
    let told = format!("{text}[alerts]\ncommand = '(cat; echo) >> {}'\n", alerts.display());
    fs::write(&a.config, told).unwrap();
    a.write();
    let first = point(a, &[]);
    takes_the_place(&stage, "archive_mode = on");
    a.write();
    point(a, &["--allow-another"]);
    a.run(&["run-due"]).code(0);
    assert!(!alerts.exists());

    a.run(&["restore", "shop", "--replace", "--snapshot", &first]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    a.write();
    a.archived();
    a.run(&["status", "shop"]).says("is refused without `--allow-another`");
    a.run(&["doctor", "shop"]).code(1).says("mainstay backup shop --allow-another");
    a.run(&["run-due"]).complains("is refused without `--allow-another`");
    let told = fs::read_to_string(&alerts).unwrap();
    assert!(told.contains("\"log-gap\"") && told.contains("--allow-another"), "{told}");
    assert!(!told.contains("backup-failed"), "it is not tried in vain: {told}");
    a.run(&["backup", "shop"]).code(1).complains("mainstay backup shop --allow-another");
    point(a, &["--allow-another"]);
    a.run(&["run-due"]).code(0);
    let told = fs::read_to_string(&alerts).unwrap();
    assert!(told.contains("log-gap-over"), "{told}");
    let status = a.run(&["status", "shop", "--json"]).code(0).json();
    assert!(status["services"][0]["went-back"].is_null(), "{status}");
}

/// Nothing can begin with it: the cluster was given up before there was a point of it.
#[test]
fn the_log_of_a_cluster_without_a_point_goes_once_another_is_written() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    point(a, &[]);
    let left = cluster(a);
    takes_the_place(&stage, "archive_mode = on");
    a.write();
    a.archived();
    let taken = cluster(a);
    // The first point of it may be about to be taken.
    a.run(&["prune", "shop"]).code(0);
    assert!(of_cluster(&stage, &taken) > 0);
    let removes = "`mainstay prune shop` removes them";
    assert!(!a.run(&["doctor", "shop"]).out.contains(removes));
    a.run(&["restore", "shop", "--replace"]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    let wanted = a.write();
    a.archived();
    let kept = of_cluster(&stage, &left);
    a.run(&["doctor", "shop"]).says(removes);
    a.run(&["prune", "shop"]).code(0);
    assert!(!a.run(&["doctor", "shop"]).out.contains(removes));
    assert_eq!((of_cluster(&stage, &taken), of_cluster(&stage, &left)), (0, kept));
    assert_eq!(restored(&stage, a, "latest", &[]).newest(), wanted);
}
