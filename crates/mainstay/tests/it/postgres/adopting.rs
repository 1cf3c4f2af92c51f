//! An old data directory becomes the seed of a standby.

use super::*;
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    run(Command::new("cp").arg("-a").arg(from).arg(to)).code(0);
}

#[test]
fn an_old_data_directory_becomes_a_standby_that_follows() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    run(&mut a.pgbench(&["-i", "-s", "4", "-q"])).code(0);
    a.write();
    a.server.stop("fast");
    let place = b.server.data();
    copy(a.server.data(), place);
    a.server.start();
    for _ in 0..20 {
        a.write();
    }
    a.run(&["backup", "shop"]).code(0);
    let last = a.write();
    a.archived();
    b.run(&["refresh", "shop"]).code(1).complains("--adopt");

    // In the midst of it: the old copy stands as it was.
    let version = fs::read(place.join("global/pg_control")).unwrap();
    let mut command = b.command(&["refresh", "shop", "--adopt"]);
    run(command.env("MAINSTAY_TEST_KILL_AT", "prepare:done")).code(137);
    assert_eq!(fs::read(place.join("global/pg_control")).unwrap(), version);
    assert!(!place.join("standby.signal").exists());

    let said = b.run(&["--json", "refresh", "shop", "--adopt"]).code(0).json();
    let done = said["services"][0].clone();
    let bytes = |name: &str| done[name].as_u64().unwrap();
    assert_eq!(done["adopted"], true, "{done}");
    assert!(bytes("fetched-bytes") * 2 < bytes("bytes"), "{done}");
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));

    // Its host has forgotten it, and it follows on: it is taken for what it is when it stands still.
    fs::remove_file(b.home().join("state/services/shop/member.json")).unwrap();
    for words in [&["refresh", "shop"][..], &["refresh", "shop", "--adopt"]] {
        b.run(words).code(1).complains("runs on this standby").complains("Stop its server");
    }
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");
    b.server.stop("fast");
    let said = b.run(&["--json", "refresh", "shop", "--adopt"]).code(0).json();
    assert_eq!(said["services"][0]["adopted"], true, "{said}");
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    // And takes over like any other.
    let last = a.write();
    a.run(&["offline", "shop"]).code(0);
    b.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    assert_eq!(b.newest(), last);
    b.is_sound();
}

#[test]
fn a_data_directory_of_another_server_is_not_adopted() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let other = PgServer::create(&stage.dir.path().join("other"), "");
    let place = b.server.data();
    copy(other.data(), place);
    let control = || fs::read(place.join("global/pg_control")).unwrap();
    let before = control();
    let adopt = || b.run(&["refresh", "shop", "--adopt"]).code(1);
    adopt().complains("is of another server").complains("--reseed");
    assert_eq!(control(), before);
    fs::rename(place.join("global/pg_control"), place.join("global/x")).unwrap();
    adopt().complains("nothing tells whose copy");
    // A server that works there is not disturbed.
    fs::rename(place.join("global/x"), place.join("global/pg_control")).unwrap();
    b.server
        .configure(&format!("unix_socket_directories = '{}'\n", b.server.socket_dir().display()));
    b.server.start();
    adopt();
    assert_eq!(b.server.sql("SELECT 1"), "1");
}

/// A host with a marker becomes a standby whose server follows; a second start changes nothing.
#[test]
fn a_new_host_becomes_a_standby_that_follows() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let marker = stage.dir.path().join("provision.toml");
    fs::write(&marker, "services = [\"shop\"]\n").unwrap();
    give(&marker);
    // It dies when everything is in place, and nothing runs yet.
    let mut command = b.command(&["provision"]);
    run(command.env("MAINSTAY_TEST_KILL_AT", "settle:done")).code(137);
    assert!(marker.exists() && !b.server.runs());
    b.run(&["provision"]).code(0);
    assert!(!marker.exists());
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");
    let last = a.write();
    a.archived();
    b.server.eventually(&format!("SELECT max(n) = {last} FROM orders"));
    let started = b.server.sql("SELECT pg_postmaster_start_time()");
    b.run(&["provision"]).code(0).says("nothing to provision");
    assert_eq!(b.server.sql("SELECT pg_postmaster_start_time()"), started);
}
