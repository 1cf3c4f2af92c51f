//! The history goes to a second vault, which then stands by itself.

use crate::rig::{Rig, Said, mainstay, run};
use crate::vault_rig::VaultHost;
use crate::world::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use storage::doubles::{S3Kind, S3Server};

/// Bytes that do not compress.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 0x9e37_79b9;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(step).collect()
}

/// A host with two points.
fn host() -> Rig {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    rig.write("docs/noise", noise(1, 3_000_000));
    let docs = rig.path("docs").display().to_string();
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    rig.write("docs/letter.txt", "dear writer\n");
    rig.run(&["backup", "docs"]).code(0);
    rig
}

fn second(rig: &Rig) -> String {
    rig.path("second").display().to_string()
}

/// The real restic, on the copy.
fn restic(rig: &Rig, words: &[&str]) -> Said {
    let mut command = crate::rig::restic(rig, "docs");
    command.env("RESTIC_REPOSITORY", rig.path("second/docs")).arg("--no-cache").args(words);
    run(&mut command)
}

/// All files of a directory, with their bytes.
fn files(rig: &Rig, dir: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![rig.path(dir)];
    while let Some(dir) = open.pop() {
        for item in fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn points(rig: &Rig, config: &str) -> Vec<Value> {
    let mut command = rig.command(&["--json", "snapshots", "docs"]);
    let said = run(command.env("MAINSTAY_CONFIG", rig.path(config))).code(0).json();
    said["services"][0]["snapshots"].as_array().unwrap().clone()
}

/// A host that has seen more than a vault knows refuses it, until somebody has decided.
#[test]
fn a_vault_brought_back_from_a_copy_is_gone_by_after_a_decision() {
    let rig = host();
    let vault = rig.path("vault");
    let aside = rig.path("aside");
    run(Command::new("cp").arg("-a").arg(&vault).arg(&aside)).code(0);
    rig.run(&["vault", "accept", "docs"]).code(0).says("refuses nothing");
    rig.run(&["backup", "docs"]).code(0);
    fs::remove_dir_all(&vault).unwrap();
    fs::rename(&aside, &vault).unwrap();
    for words in [&["snapshots", "docs"][..], &["backup", "docs"], &["restore", "docs"]] {
        rig.run(words).code(1).complains("mainstay vault accept");
    }
    rig.run(&["vault", "accept", "docs"]).code(1).complains("--yes");
    rig.run(&["snapshots", "docs"]).code(1);
    rig.run(&["vault", "accept", "docs", "--yes"]).code(0);
    assert_eq!(points(&rig, "mainstay.toml").len(), 2);
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["check", "docs", "--read-data"]).code(0);
    // Also a memory that nobody can read any more.
    rig.write("state/services/docs/witness.json", "{");
    rig.run(&["snapshots", "docs"]).code(1).complains("witness.json");
    rig.run(&["vault", "accept", "docs", "--yes"]).code(0);
    assert_eq!(points(&rig, "mainstay.toml").len(), 3);
}

#[test]
fn a_second_vault_takes_the_place_of_the_first() {
    let rig = host();
    rig.run(&["copy", "docs", "--to", &second(&rig)]).code(0);
    rig.run(&["pin", "docs", "latest"]).code(0);
    fs::remove_dir_all(rig.path("vault")).unwrap();
    let text = fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    let vault = format!("{}\"", rig.path("vault").display());
    rig.write("mainstay.toml", text.replace(&vault, &format!("{}\"", second(&rig))));
    rig.run(&["snapshots", "docs"]).code(1).complains("mainstay vault accept");
    rig.run(&["vault", "accept", "--all", "--yes"]).code(0);
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    assert_eq!(points(&rig, "mainstay.toml").len(), 3);
    rig.run(&["restore", "docs", "--target", &rig.path("out").display().to_string()]).code(0);
}

/// The configuration of a host that has the second vault for its own.
fn elsewhere(rig: &Rig) {
    let text = fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    let text = text
        .replace(&format!("{}\"", rig.path("vault").display()), &format!("{}\"", second(rig)))
        .replace("name = \"here\"", "name = \"there\"")
        .replace(&rig.path("state").display().to_string(), &second(rig).replace("second", "state2"))
        .replace(
            &format!("{}\"", rig.path("docs").display()),
            &format!("{}2\"", rig.path("docs").display()),
        );
    rig.write("second.toml", text);
}

#[test]
fn the_second_vault_stands_by_itself() {
    let rig = host();
    let before = points(&rig, "mainstay.toml");
    let first = before[0]["name"].as_str().unwrap().to_owned();
    rig.run(&["pin", "docs", &first]).code(0);
    rig.run(&["tag", "docs", &first, "--add", "kept"]).code(0);
    let to = second(&rig);

    let said = rig.run(&["copy", "docs", "--to", &to, "--dry-run"]).code(0);
    said.says("a repository would be made").says("2 snapshots would be copied");
    assert!(!rig.path("second").exists());

    let done = rig.run(&["copy", "docs", "--to", &to, "--json"]).code(0).json();
    assert_eq!(done["copied"].as_array().unwrap().len(), 2, "{done}");
    assert_eq!((&done["created"], &done["failed"]), (&json!(true), &json!([])));
    assert!(done["stored-bytes"].as_u64().unwrap() > 3_000_000);
    let first_there = done["copied"][0]["copy"].as_str().unwrap();
    let there = files(&rig, "second");
    let again = rig.run(&["copy", "docs", "--to", &to, "--json"]).code(0).json();
    assert_eq!((again["copied"].as_array().unwrap().len(), &again["stored-bytes"]), (0, &json!(0)));
    assert_eq!(files(&rig, "second"), there, "nothing was written again");
    // No object is the same under the other key.
    let here = files(&rig, "vault");
    assert!(here.iter().all(|(_, bytes)| there.iter().all(|(_, other)| other != bytes)));

    restic(&rig, &["check", "--read-data"]).code(0);
    fs::rename(rig.path("vault"), rig.path("gone")).unwrap();
    let rescue = |words: &[&str]| {
        let mut command = mainstay();
        command.args(["rescue", "--vault", &to, "--password-file"]).arg(rig.path("password"));
        run(command.args(words))
    };
    assert_eq!(rescue(&["list", "--json"]).code(0).json()["services"][0]["snapshots"], 2);
    for (name, wanted) in [("latest", "dear writer\n"), (first_there, "dear reader\n")] {
        let target = rig.path(format!("rescued-{wanted:?}").replace(['"', '\\', ' '], "-"));
        let words = ["restore", "docs", "--snapshot", name, "--target"];
        rescue(&[&words[..], &[&target.display().to_string()]].concat()).code(0);
        assert_eq!(fs::read_to_string(target.join("letter.txt")).unwrap(), wanted);
        assert_eq!(fs::read(target.join("noise")).unwrap(), noise(1, 3_000_000));
    }

    // A host that has it for its vault sees the same points.
    elsewhere(&rig);
    let after = points(&rig, "second.toml");
    for (a, b) in before.iter().zip(&after) {
        for key in ["time", "source-time", "received", "size-bytes", "head", "incomplete"] {
            assert_eq!(a[key], b[key], "{key}");
        }
        assert_ne!(a["snapshot"], b["snapshot"]);
        assert_eq!((&b["committed"], &b["missing"]), (&json!(true), &json!(false)));
    }
    assert_eq!((&after[0]["pinned"], &after[0]["tags"]), (&json!(true), &json!(["kept"])));
    let mut check = rig.command(&["check", "docs", "--read-data"]);
    run(check.env("MAINSTAY_CONFIG", rig.path("second.toml"))).code(0).says("sound");
}

#[test]
fn some_points_go_and_the_others_later() {
    let rig = host();
    let all = points(&rig, "mainstay.toml");
    let to = second(&rig);
    let old = all[0]["name"].as_str().unwrap();
    rig.run(&["copy", "docs", old, "--to", &to]).code(0).says("1 snapshot copied");
    elsewhere(&rig);
    let there = points(&rig, "second.toml");
    assert_eq!((there.len(), &there[0]["head"]), (1, &json!(true)));
    rig.run(&["copy", "docs", "latest", "--to", &to]).code(0).says("1 snapshot copied, 0 already");
    let there = points(&rig, "second.toml");
    let heads: Vec<_> = there.iter().map(|point| point["head"] == true).collect();
    assert_eq!(heads, [false, true]);
    // What is forgotten here stays there.
    rig.run(&["forget", "docs", old, "--yes"]).code(0);
    rig.write("docs/letter.txt", "dear friend\n");
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["copy", "docs", "--to", &to]).code(0).says("1 snapshot copied, 1 already there");
    assert_eq!(points(&rig, "second.toml").len(), 3);
    restic(&rig, &["check", "--read-data"]).code(0);
}

#[test]
fn the_other_vault_has_its_own_password_and_configuration() {
    let rig = host();
    let to = second(&rig);
    let other = rig.write("other-password", "another\n").display().to_string();
    let copy = |words: &[&str]| rig.run(&[&["copy", "docs"], words].concat());
    copy(&["--to", &to, "--to-password-file", &other]).code(0);
    copy(&["--to", &to]).code(12);
    let mut command = rig.command(&["copy", "docs", "--to", &to, "--to-password-env", "OTHER"]);
    run(command.env("OTHER", "another")).code(0).says("0 snapshots copied, 2 already there");
    elsewhere(&rig);
    let text = fs::read_to_string(rig.path("second.toml")).unwrap();
    let config = rig.write("second.toml", text.replace("/password\"", "/other-password\""));
    copy(&["--to-config", &config.display().to_string()]).code(0).says("2 already there");
    copy(&["--to-config", &config.display().to_string(), "--to", &to]).code(1);
    copy(&[]).code(1);
    copy(&["--to", &rig.path("vault").display().to_string()]).code(1).complains("own vault");
    copy(&["nothing", "--to", &to, "--to-password-file", &other])
        .code(1)
        .complains("no recovery point");
    copy(&["--to", "ftp://somewhere"]).code(1).complains("not supported");
}

/// Whoever has joined the second vault goes by what is in it: the copy adds and overrules nothing.
#[test]
fn a_vault_that_is_in_use_keeps_its_own_state() {
    let rig = host();
    elsewhere(&rig);
    rig.write("docs2/own", "its own");
    let there =
        |words: &[&str]| run(rig.command(words).env("MAINSTAY_CONFIG", rig.path("second.toml")));
    there(&["init"]).code(0);
    there(&["backup", "docs"]).code(0);
    let said = rig.run(&["copy", "docs", "--to", &second(&rig)]).code(0);
    said.says("2 snapshots copied").complains("in use by there").complains("other places");
    let points = points(&rig, "second.toml");
    let committed: Vec<_> = points.iter().filter(|point| point["committed"] == true).collect();
    assert_eq!((points.len(), committed.len(), &committed[0]["head"]), (3, 1, &json!(true)));
    restic(&rig, &["check", "--read-data"]).code(0);
}

/// Whoever copies there can add, and needs to do nothing else.
#[test]
fn an_append_only_vault_host_takes_copies() {
    let rig = host();
    fs::create_dir(rig.path("second")).unwrap();
    let words = ["--no-auth", "--append-only"];
    let there = VaultHost::start(&rig.path(""), &rig.path("second"), &words);
    rig.run(&["copy", "docs", "--to", &there.url, "--dry-run"]).code(0).says("would be made");
    let said = rig.run(&["copy", "docs", "latest", "--to", &there.url]).code(0);
    said.says("1 snapshot copied, 0 already there");
    let done = rig.run(&["copy", "docs", "--to", &there.url, "--json"]).code(0).json();
    assert_eq!(
        (&done["copied"].as_array().unwrap().len(), &done["not-recorded"]),
        (&1, &json!(null))
    );
    let again = rig.run(&["copy", "docs", "--to", &there.url, "--json"]).code(0).json();
    assert_eq!(again["present"].as_array().unwrap().len(), 2);
    drop(there);
    restic(&rig, &["check", "--read-data"]).code(0);
    elsewhere(&rig);
    let points = points(&rig, "second.toml");
    assert!(points.iter().all(|point| point["committed"] == true), "{points:?}");
}

/// A bucket in which one of two writers wins holds the points too; one that lets both win holds the
/// snapshots, and says why not more.
#[test]
fn a_bucket_takes_copies_and_points_only_if_it_can() {
    for (kind, recorded) in [(S3Kind::Honest, true), (S3Kind::Careless, false)] {
        let rig = host();
        let server = S3Server::start(kind).expect("the S3 server");
        server.make_bucket("bucket", false).expect("a bucket");
        let url = format!("s3:{}/bucket/second", server.endpoint());
        let with_key = |mut command: Command| {
            command.env("AWS_ACCESS_KEY_ID", "A").env("AWS_SECRET_ACCESS_KEY", "secret");
            run(&mut command)
        };
        let said = with_key(rig.command(&["copy", "docs", "--to", &url])).code(0);
        assert_eq!(said.err.contains("not recorded there"), !recorded, "{said:#?}");
        with_key(rig.command(&["copy", "docs", "--to", &url])).code(0).says("2 already there");
        let mut check = crate::rig::restic(&rig, "docs");
        check.env("RESTIC_REPOSITORY", format!("{url}/docs"));
        check.args(["check", "--read-data", "--no-cache"]);
        with_key(check).code(0).says("no errors were found");
        let password = rig.path("password").display().to_string();
        let target = rig.path("rescued").display().to_string();
        let words = ["rescue", "--vault", &url, "--password-file", &password];
        let words = [&words[..], &["restore", "docs", "--target", &target]].concat();
        with_key(rig.command(&words)).code(0);
        assert_eq!(fs::read_to_string(rig.path("rescued/letter.txt")).unwrap(), "dear writer\n");
    }
}

#[test]
fn damage_is_named_and_left_out() {
    let rig = host();
    // The packs of the newer point: what it does not share with the older one.
    let id = points(&rig, "mainstay.toml")[1]["snapshot"].as_str().unwrap().to_owned();
    let find = rig.run(&["--json", "find", "docs", "letter.txt", "--snapshot", &id]).code(0);
    assert!(find.out.contains("letter.txt"));
    let packs = files(&rig, "vault/docs/data");
    let newest = packs
        .iter()
        .filter(|(_, bytes)| bytes.len() < 100_000)
        .max_by_key(|(path, _)| fs::metadata(path).unwrap().modified().unwrap())
        .unwrap();
    let mut bytes = newest.1.clone();
    bytes[20] ^= 1;
    fs::write(&newest.0, &bytes).unwrap();
    let said = rig.run(&["copy", "docs", "--to", &second(&rig)]).code(1);
    said.says("1 snapshot copied").complains("was not copied").complains("blob");
    restic(&rig, &["check", "--read-data"]).code(0);
    fs::write(&newest.0, &newest.1).unwrap();
    let said = rig.run(&["copy", "docs", "--to", &second(&rig)]).code(0);
    said.says("1 snapshot copied, 1 already there");
    restic(&rig, &["check", "--read-data"]).code(0);
}

#[test]
fn beside_who_removes_there_is_no_copy() {
    let rig = host();
    let to = second(&rig);
    rig.run(&["copy", "docs", "--to", &to]).code(0);
    for vault in ["vault", "second"] {
        let storage = storage::Local::open(rig.path(vault).join("docs")).unwrap();
        let password = fs::read_to_string(rig.path("password")).unwrap().trim().to_owned();
        let repository =
            repository::Repository::open(Arc::new(storage), &model::Secret::new(password)).unwrap();
        let cancel = model::CancelToken::new();
        let alone = repository.lock_for(repository::Work::Prune, Duration::ZERO, &cancel).unwrap();
        rig.run(&["copy", "docs", "--to", &to]).code(11);
        drop(alone);
        rig.run(&["copy", "docs", "--to", &to]).code(0);
    }
}

/// Killed at every step, and at moments nobody chose.
#[test]
fn a_copy_that_is_killed_goes_on() {
    let rig = host();
    for n in 2..5 {
        rig.write(format!("docs/noise-{n}"), noise(n, 20_000_000));
        rig.run(&["backup", "docs"]).code(0);
    }
    let to = second(&rig);
    let packs = || match fs::read_dir(rig.path("second/docs/data")) {
        Ok(dirs) => dirs.map(|dir| fs::read_dir(dir.unwrap().path()).unwrap().count()).sum(),
        Err(_) => 0,
    };
    let whole = |at: &str| {
        // The lock of the dead is in restic's way, and not in ours.
        restic(&rig, &["unlock"]).code(0);
        restic(&rig, &["check", "--read-data"]).code(0);
        let said = rig.run(&["copy", "docs", "--to", &to]).code(0);
        assert!(said.err.is_empty(), "{at}: {said:#?}");
        restic(&rig, &["check", "--read-data"]).code(0);
        let list = restic(&rig, &["snapshots", "--json"]).code(0).json();
        assert_eq!(list.as_array().unwrap().len(), 5, "{at}");
        elsewhere(&rig);
        let points = points(&rig, "second.toml");
        assert!(points.iter().all(|point| point["committed"] == true), "{at}: {points:?}");
        assert_eq!(points.iter().filter(|point| point["head"] == true).count(), 1, "{at}");
        fs::remove_dir_all(rig.path("second")).unwrap();
    };
    for at in ["copy:created", "copy:snapshots", "copy:log"] {
        let mut command = rig.command(&["copy", "docs", "--to", &to]);
        let output = command.env("MAINSTAY_TEST_KILL_AT", at).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{at}: {output:?}");
        whole(at);
    }
    for wanted in 1..4 {
        let mut child = rig.command(&["copy", "docs", "--to", &to]).spawn().unwrap();
        wait_for("packs", || packs() >= wanted);
        // SIGKILL; that it was over already is as good a moment as any.
        child.kill().unwrap();
        child.wait().unwrap();
        whole(&format!("{wanted} packs"));
    }
    // Cancelled, what is there is known for there: nothing is stored again.
    let mut child =
        rig.command(&["copy", "docs", "--to", &to]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("packs", || packs() >= 2);
    run(Command::new("kill").args(["-INT", &child.id().to_string()])).code(0);
    let code = child.wait().unwrap().code();
    assert!(code == Some(130) || code == Some(0), "{code:?}");
    rig.run(&["copy", "docs", "--to", &to]).code(0);
    let report = restic(&rig, &["check"]).code(0);
    assert!(!report.out.contains("not referenced"), "{report:#?}");
    let pruned = restic(&rig, &["prune", "--dry-run", "--max-unused", "0"]).code(0);
    assert!(!pruned.out.contains("duplicate") || pruned.out.contains("duplicates:        0 blobs"));
}
