//! A vault in a bucket of a real server, from end to end.

use crate::rig::{Rig, Said, restic, run};
use crate::world::World;
use std::process::Command;
use storage::doubles::{HttpProxy, S3Kind, S3Server};

const SECRET: &str = "the-secret-of-the-key";

fn server(with_locks: bool) -> S3Server {
    let server = S3Server::start(S3Kind::Honest).expect("the S3 server");
    server.make_bucket("bucket", with_locks).expect("a bucket");
    server
}

/// A machine whose vault is at this server.
fn rig(endpoint: &str, s3: &str) -> Rig {
    let rig = Rig::new();
    let secret = rig.write("s3.secret", format!("{SECRET}\n"));
    for (name, text) in [("a", "first"), ("b", "second"), ("deep/c", "third")] {
        rig.write(format!("data/{name}"), text.repeat(1000));
    }
    let text = format!(
        "[host]\nname = \"here\"\nstate-dir = \"{}\"\n\n[vault]\nurl = \"s3:{endpoint}/bucket/v\"\n\
         password-file = \"{}\"\n\n[vault.s3]\naccess-key-id = \"AKIAEXAMPLE\"\n\
         secret-access-key-file = \"{}\"\n{s3}\n[service.docs]\nengine = \"files\"\npath = \"{}\"\n",
        rig.path("state").display(),
        rig.path("password").display(),
        secret.display(),
        rig.path("data").display(),
    );
    rig.write("mainstay.toml", text);
    rig
}

fn restic_on(rig: &Rig, server: &S3Server) -> Command {
    let mut command = restic(rig, "docs");
    command
        .env("RESTIC_REPOSITORY", format!("s3:{}/bucket/v/docs", server.endpoint()))
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", SECRET);
    command
}

/// The program's rescue, with the key from the environment.
fn rescue(rig: &Rig, server: &S3Server, words: &[&str]) -> Said {
    let vault = format!("s3:{}/bucket/v", server.endpoint());
    let password = rig.path("password");
    let mut command = rig.command(&["rescue", "--vault", &vault, "--password-file"]);
    command.arg(password).args(words);
    run(command.env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").env("AWS_SECRET_ACCESS_KEY", SECRET))
}

#[test]
fn history_in_a_bucket_is_whole_for_us_and_for_restic() {
    let server = server(false);
    let rig = rig(&server.endpoint(), "");
    rig.run(&["init", "--no-recovery-key"]).code(0).says("tried: one writer wins");
    rig.run(&["backup", "docs"]).code(0);
    rig.write("data/a", "changed");
    rig.run(&["backup", "docs"]).code(0);
    let listed = rig.run(&["--json", "snapshots", "docs"]).code(0).json();
    let points = listed["points"].as_array().map(Vec::len);
    assert!(
        points == Some(2) || listed.to_string().matches("\"snapshot\"").count() >= 2,
        "{listed}"
    );
    rig.run(&["check", "docs", "--read-data"]).code(0);
    rig.run(&["status"]).code(0);
    rig.run(&["doctor"]).says("lets only one of two win");

    let whole = run(restic_on(&rig, &server).args(["check", "--read-data"])).code(0);
    whole.says("no errors were found");
    let snapshots = run(restic_on(&rig, &server).args(["snapshots", "--json"])).code(0).json();
    assert_eq!(snapshots.as_array().map(Vec::len), Some(2), "{snapshots}");

    rig.run(&["forget", "docs", "--keep-last", "1", "--prune"]).code(0).says("1 point forgotten");
    let whole = run(restic_on(&rig, &server).args(["check", "--read-data"])).code(0);
    whole.says("no errors were found");
    rig.run(&["vault", "lock"]).code(1).complains("nothing in this vault is locked");

    std::fs::remove_dir_all(rig.path("data")).expect("removed");
    rig.run(&["restore", "docs"]).code(0);
    assert_eq!(std::fs::read_to_string(rig.path("data/a")).expect("restored"), "changed");
    assert_eq!(std::fs::read_to_string(rig.path("data/deep/c")).expect("restored").len(), 5000);

    rescue(&rig, &server, &["list"]).code(0).says("docs");
    let target = rig.path("rescued");
    let words = ["restore", "docs", "--target"];
    let words = [&words[..], &[target.to_str().expect("a name")]].concat();
    rescue(&rig, &server, &words).code(0);
    assert_eq!(std::fs::read_to_string(target.join("a")).expect("rescued"), "changed");
}

#[test]
fn two_hosts_stand_by_each_other_through_a_bucket() {
    let server = server(false);
    let world = World::new("files", "");
    for host in ["a", "b"] {
        let file = world.path(host).join("mainstay.toml");
        let text = std::fs::read_to_string(&file).expect("a configuration");
        let here = world.path("vault").display().to_string();
        let text = text.replace(&here, &format!("s3:{}/bucket/v", server.endpoint()));
        let secret = world.path("s3.secret");
        std::fs::write(&secret, SECRET).expect("a secret");
        let s3 = format!(
            "\n[vault.s3]\naccess-key-id = \"A\"\nsecret-access-key-file = \"{}\"\n",
            secret.display()
        );
        std::fs::write(&file, text + &s3).expect("a configuration");
    }
    let on = |host: &str, words: &[&str]| world.run(host, words);
    std::fs::create_dir_all(world.path("a/data")).expect("data");
    std::fs::write(world.path("a/data/file"), "one").expect("data");
    on("a", &["init", "--no-recovery-key"]).code(0);
    on("a", &["backup", "docs"]).code(0);
    on("b", &["init", "--no-recovery-key"]).code(0);
    on("b", &["refresh", "docs"]).code(0);
    assert_eq!(std::fs::read_to_string(world.path("b/data/file")).expect("refreshed"), "one");
    std::fs::write(world.path("a/data/file"), "two").expect("data");
    on("a", &["backup", "docs"]).code(0);
    on("b", &["refresh", "docs"]).code(0);
    assert_eq!(std::fs::read_to_string(world.path("b/data/file")).expect("refreshed"), "two");
    let taken =
        on("b", &["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"]);
    assert_eq!(taken.code, 0, "{taken:#?}");
    // The old primary meets the new generation in the bucket.
    let refused = on("a", &["backup", "docs"]);
    assert_ne!(refused.code, 0, "{refused:#?}");
    std::fs::write(world.path("b/data/file"), "three").expect("data");
    on("b", &["backup", "docs"]).code(0);
}

#[test]
fn a_bucket_that_cannot_hold_state_is_refused_by_name_and_reason() {
    let server = S3Server::start(S3Kind::Careless).expect("the S3 server");
    server.make_bucket("bucket", false).expect("a bucket");
    let rig = rig(&server.endpoint(), "");
    let said = rig.run(&["init", "--no-recovery-key"]);
    assert_ne!(said.code, 0, "{said:#?}");
    let said = said.complains("cannot hold the state of a vault").complains(&server.endpoint());
    said.complains("second writer").complains("Hint:").complains("If-None-Match");
    let doctor = rig.run(&["doctor"]);
    assert_ne!(doctor.code, 0, "{doctor:#?}");
    let told = format!("{}{}", doctor.out, doctor.err);
    assert!(told.contains("cannot hold the state of a vault"), "{told}");
}

#[test]
fn locks_that_do_not_hold_are_refused_by_init_and_told_by_doctor() {
    let server = server(false);
    let lock = "object-lock = \"governance\"\nobject-lock-days = 1\n";
    let rig = rig(&server.endpoint(), lock);
    let said = rig.run(&["init", "--no-recovery-key"]);
    assert_ne!(said.code, 0, "{said:#?}");
    said.complains("does not keep what is locked").complains("takes no locks").complains("Hint:");
    let doctor = rig.run(&["doctor"]);
    assert_ne!(doctor.code, 0, "{doctor:#?}");
    assert!(format!("{}{}", doctor.out, doctor.err).contains("takes no locks"), "{doctor:#?}");
}

#[test]
fn a_wrong_place_is_told_and_the_secret_is_not() {
    let server = server(false);
    let rig = rig(&server.endpoint(), "");
    let file = rig.path("mainstay.toml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    std::fs::write(&file, text.replace("/bucket/v", "/nowhere/v")).expect("a configuration");
    let mut all = String::new();
    for words in [&["init"][..], &["backup", "docs"], &["doctor"], &["--json", "status"]] {
        let said = rig.run(words);
        all.push_str(&said.out);
        all.push_str(&said.err);
    }
    assert!(all.contains("nowhere") && all.contains("Make the bucket first"), "{all}");
    rig.run(&["config", "show"]).code(0).says("AKIAEXAMPLE");
    all.push_str(&rig.run(&["config", "show"]).out);
    assert!(!all.contains(SECRET), "{all}");
}

#[test]
fn locked_history_is_there_again_as_of_before_it_was_removed() {
    let server = server(true);
    let lock = "object-lock = \"compliance\"\nobject-lock-days = 1\n";
    let rig = rig(&server.endpoint(), lock);
    rig.run(&["vault", "lock"]).code(10).complains("nothing to lock");
    rig.run(&["init", "--no-recovery-key"]).code(0).says("locks of the vault, tried");
    rig.run(&["doctor"]).says("what is locked cannot be removed");
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["vault", "lock", "docs"]).code(0).says("objects locked again");
    let json = rig.run(&["--json", "vault", "lock"]).code(0).json();
    assert!(json["services"][0]["locked"].as_u64() > Some(4), "{json}");
    let good = jiff::Timestamp::now();
    // The server's times are whole seconds; what is removed must be removed in a later one.
    while jiff::Timestamp::now().as_second() <= good.as_second() + 1 {
        std::thread::yield_now();
    }
    // Somebody with the key removes everything.
    let options = storage::Options {
        s3: storage::s3::Options {
            credentials: storage::s3::Credentials::Key {
                id: "A".to_owned(),
                secret: model::Secret::new(SECRET.to_owned()),
                token: None,
            },
            ..Default::default()
        },
        ..Default::default()
    };
    let url = format!("s3:{}/bucket/v", server.endpoint());
    let thief = storage::open(&url, &options).expect("a bucket");
    let all = thief.list("docs").expect("a listing");
    assert!(all.len() > 5);
    for entry in &all {
        thief.delete(&entry.key).expect("removed");
    }
    rescue(&rig, &server, &["list"]).code(10);

    // As it was.
    let at = jiff::Timestamp::from_second(good.as_second() + 1).expect("a time").to_string();
    rescue(&rig, &server, &["--vault-as-of", &at, "list"]).code(0).says("docs");
    let target = rig.path("rescued");
    let to = target.to_str().expect("a name");
    let words = ["--vault-as-of", at.as_str(), "restore", "docs", "--target", to];
    rescue(&rig, &server, &words).code(0);
    assert_eq!(std::fs::read_to_string(target.join("a")).expect("rescued").len(), 5000);

    // And by a configuration of the past, which can only read.
    let file = rig.path("mainstay.toml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    let past = text.replace(lock, &format!("as-of = \"{at}\"\n"));
    std::fs::write(&file, past).expect("a configuration");
    rig.run(&["snapshots", "docs"]).code(0);
    rig.run(&["check", "docs"]).code(0);
    rig.run(&["ls", "docs"]).code(0).says("/tmp");
    rig.run(&["stats", "docs"]).code(0);
    rig.run(&["find", "docs", "c"]).code(0).says("deep/c");
    rig.run(&["status"]).code(0);
    rig.run(&["doctor"]).says("seen as it was, and only read");
    let beside = rig.path("beside");
    let to = beside.to_str().expect("a name");
    rig.run(&["restore", "docs", "--target", to]).code(0);
    assert_eq!(std::fs::read_to_string(beside.join("a")).expect("restored").len(), 5000);
    let refused = rig.run(&["backup", "docs"]);
    assert_ne!(refused.code, 0, "{refused:#?}");
    refused.complains("can only be read");
}

/// A lock ends so long after it was written. What is due renews it long before that, and not each
/// time; a clock that was wrong puts nothing off.
#[test]
fn the_locks_of_a_bucket_are_renewed_before_they_end() {
    let server = server(true);
    let rig = rig(&server.endpoint(), "object-lock = \"governance\"\nobject-lock-days = 1\n");
    rig.run(&["init", "--no-recovery-key"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    let renewed = || {
        let json = rig.run(&["--json", "run-due"]).code(0).json();
        let turns = json["services"].as_array().expect("turns").clone();
        turns.iter().find_map(|turn| turn["locked"].as_u64())
    };
    let noted = rig.path("state/services/docs/locked-again");
    assert!(renewed() > Some(4));
    assert_eq!(renewed(), None, "not each time");
    for hours in [7, -7] {
        let then = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
        std::fs::write(&noted, then.to_string()).expect("a note");
        rig.run(&["run-due", "--dry-run"]).code(0).says("the locks of the bucket are due");
        assert!(renewed() > Some(4), "{hours}");
        assert_eq!(renewed(), None);
    }
}

/// What each command asks of the server, so that nobody adds a round trip unseen.
#[test]
fn round_trips_are_counted() {
    let server = server(false);
    let proxy = HttpProxy::start(&server.address()).expect("a proxy");
    let rig = rig(&proxy.endpoint(), "");
    rig.run(&["init", "--no-recovery-key"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    let asked = |words: &[&str]| {
        proxy.take();
        rig.run(words).code(0);
        let mut counts = std::collections::BTreeMap::new();
        for seen in proxy.take() {
            let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
            let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix="));
            let what = match prefix {
                Some(prefix) => format!("LIST {}", prefix.replace("%2F", "/")),
                None => {
                    let parts: Vec<_> = path.split('/').skip(3).take(2).collect();
                    format!("{} {}", seen.method, parts.join("/"))
                }
            };
            *counts.entry(what).or_insert(0) += 1;
        }
        counts.into_iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>()
    };
    let unchanged = asked(&["backup", "docs"]);
    let status = asked(&["status"]);
    std::fs::remove_dir_all(rig.path("data")).expect("removed");
    let restore = asked(&["restore", "docs"]);
    let lines = |asked: &[&str]| asked.iter().map(ToString::to_string).collect::<Vec<_>>();
    let more = "a command asks more or less of the server than it did";
    let want = [
        "1 DELETE docs/locks",
        "1 GET docs/config",
        "5 GET docs/data",
        "1 GET docs/index",
        "1 GET docs/keys",
        "2 GET docs/mainstay",
        "1 GET docs/snapshots",
        "2 HEAD docs/locks",
        "1 LIST v/docs/data/",
        "1 LIST v/docs/index/",
        "1 LIST v/docs/keys/",
        "2 LIST v/docs/locks/",
        "5 LIST v/docs/mainstay/state/",
        "2 PUT docs/data",
        "1 PUT docs/index",
        "1 PUT docs/locks",
        "1 PUT docs/mainstay",
        "1 PUT docs/snapshots",
    ];
    assert_eq!(unchanged, lines(&want), "{more}");
    let want = [
        "1 GET docs/config",
        "1 GET docs/keys",
        "1 GET docs/mainstay",
        "1 LIST v/docs/keys/",
        "2 LIST v/docs/mainstay/state/",
    ];
    assert_eq!(status, lines(&want), "{more}");
    let want = [
        "1 DELETE docs/locks",
        "1 GET docs/config",
        "16 GET docs/data",
        "2 GET docs/index",
        "1 GET docs/keys",
        "1 GET docs/mainstay",
        "3 GET docs/snapshots",
        "1 LIST v/docs/index/",
        "1 LIST v/docs/keys/",
        "2 LIST v/docs/locks/",
        "2 LIST v/docs/mainstay/state/",
        "1 PUT docs/locks",
    ];
    assert_eq!(restore, lines(&want), "{more}");
}
