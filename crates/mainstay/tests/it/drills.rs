//! Drills: a point is proven restorable, or found not to be; and what was promised is watched.

use crate::rig::{Rig, Said, script};
use crate::world::{World, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A host with one service, which has these lines, and alerts that go to a file.
fn host(service: &str) -> Rig {
    let rig = Rig::new();
    configure(&rig, service);
    rig
}

fn configure(rig: &Rig, service: &str) {
    rig.configure(&format!(
        "[alerts]\ncommand = \"cat >> {0}; echo >> {0}\"\n\n[service.docs]\n{1}",
        rig.path("alerts").display(),
        service.replace("@HERE@", &rig.path("").display().to_string()),
    ));
}

const FILES: &str = "engine = \"files\"\npath = \"@HERE@/docs\"\n";

/// The events that somebody was told of, in order.
fn alerts(rig: &Rig) -> Vec<String> {
    let text = fs::read_to_string(rig.path("alerts")).unwrap_or_default();
    let event = |line: &str| -> Option<String> {
        let alert: Value = serde_json::from_str(line).expect("an alert is JSON");
        alert["event"].as_str().map(str::to_owned)
    };
    text.lines().filter_map(event).collect()
}

/// The newest point, as `snapshots` tells.
#[track_caller]
fn newest(rig: &Rig) -> Value {
    let list = rig.run(&["snapshots", "docs", "--json"]).code(0).json();
    list["services"][0]["snapshots"].as_array().unwrap().last().unwrap().clone()
}

fn status(rig: &Rig, code: i32) -> Value {
    rig.run(&["status", "docs", "--json"]).code(code).json()["services"][0].clone()
}

/// What drills have left in the state directory.
fn left(rig: &Rig) -> Vec<PathBuf> {
    let items = fs::read_dir(rig.path("state/drills")).into_iter().flatten().flatten();
    items.map(|item| item.path()).collect()
}

#[track_caller]
fn finds(drill: &Value, text: &str) {
    let findings = drill["findings"].as_array().unwrap();
    let found = findings.iter().any(|one| one.as_str().unwrap().contains(text));
    assert!(found, "no {text:?} in {findings:?}");
}

/// The largest object of the repository: what holds the content.
fn content_pack(rig: &Rig) -> PathBuf {
    let mut packs = Vec::new();
    for shard in fs::read_dir(rig.path("vault/docs/data")).unwrap().flatten() {
        packs.extend(fs::read_dir(shard.path()).unwrap().flatten().map(|item| item.path()));
    }
    packs.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_point_is_proven_restorable_or_found_not_to_be() {
    let rig = host(FILES);
    let noise: Vec<u8> =
        (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    rig.write("docs/noise", &noise);
    rig.write("docs/letter.txt", "dear reader\n");
    rig.run(&["init"]).code(0);
    rig.run(&["drill", "docs"]).code(1).complains("no recovery point yet");
    assert_eq!(alerts(&rig), [] as [&str; 0], "that nothing was there says nothing of a point");
    rig.run(&["backup", "docs"]).code(0);
    assert_eq!((&newest(&rig)["drilled"], &newest(&rig)["verified"]), (&Value::Null, &Value::Null));
    assert_eq!(status(&rig, 0)["proven"], Value::Null);

    let drill = rig.run(&["drill", "docs", "--json"]).code(0).json();
    assert_eq!(
        (&drill["sound"], &drill["files"], &drill["kept"]),
        (&json!(true), &json!(2), &Value::Null)
    );
    finds(&drill, "every byte on disk is the snapshot's");
    assert!(drill["recovery-seconds"].as_f64().unwrap() > 0.0);
    assert!(drill["recovery-seconds"].as_f64() <= drill["seconds"].as_f64());
    assert_eq!(left(&rig), [] as [PathBuf; 0]);
    // Recorded beside the point, and shown.
    let point = newest(&rig);
    assert_eq!(
        (&point["drill"]["sound"], &point["drill"]["member"]),
        (&json!(true), &json!("here"))
    );
    assert_eq!(point["drill"]["at"], point["drilled"]);
    let told = status(&rig, 0);
    assert_eq!((&told["proven"], &told["last-drill"]["sound"]), (&point["drilled"], &json!(true)));
    rig.run(&["snapshots", "docs"]).code(0).says("drilled just now");
    rig.run(&["status", "docs"]).code(0).says("is restorable, back after");
    rig.run(&["logs", "docs", "--list"]).code(0).says("drill");

    // Kept, the copy is what was backed up, and is nobody's business any more.
    let kept = rig.run(&["drill", "docs", "--keep", "--json"]).code(0).json();
    let kept = PathBuf::from(kept["kept"].as_str().unwrap());
    assert_eq!(fs::read(kept.join("copy-0/docs/noise")).unwrap(), noise);
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
    rig.run(&["drill", "docs"]).code(0);
    assert_eq!(left(&rig), std::slice::from_ref(&kept));
    fs::remove_dir_all(kept).unwrap();

    // What cannot be restored is found by it, told, and written down.
    let pack = content_pack(&rig);
    let whole = fs::read(&pack).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    overwrite(&pack, &damaged);
    let failed = rig.run(&["drill", "docs"]).code(1);
    assert!(failed.err.contains("Error:"), "{failed:#?}");
    assert_eq!(left(&rig), [] as [PathBuf; 0]);
    let worse = newest(&rig);
    assert_eq!((&worse["drill"]["sound"], worse["drilled"] != Value::Null), (&json!(false), true));
    assert_eq!(status(&rig, 1)["last-drill"]["sound"], false);
    rig.run(&["snapshots", "docs"]).code(0).says("DRILL FAILED");
    rig.run(&["status"]).code(1).says("drill failed");
    rig.run(&["drill", "docs"]).code(1);
    assert_eq!(alerts(&rig), ["drill-failed"], "told once");
    overwrite(&pack, &whole);
    rig.run(&["drill", "docs"]).code(0);
    status(&rig, 0);
    assert_eq!(alerts(&rig), ["drill-failed", "drill-failed-over"]);
}

#[test]
fn a_copy_is_asked_cut_off_from_the_network() {
    let question = "drill-command = \"cat $MAINSTAY_DRILL_DIR/letter.txt; readlink /proc/self/ns/net >@HERE@/net\"\n";
    let rig = host(&format!("{FILES}{question}drill-expect = \"dear reader\"\n"));
    rig.write("docs/letter.txt", "dear reader\n");
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    let drill = rig.run(&["drill", "docs", "--json"]).code(0).json();
    assert_eq!((&drill["sound"], &drill["answer"]), (&json!(true), &json!("dear reader")));
    let ours = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let theirs = fs::read_to_string(rig.path("net")).unwrap();
    // Where it is not allowed to be, it says so.
    assert_eq!(drill["isolated"] == json!(true), theirs.trim() != ours, "{drill}");
    let said = drill["isolation"].as_str().unwrap();
    assert_eq!(said.contains("not cut off"), drill["isolated"] == json!(false), "{said}");
    assert_eq!(newest(&rig)["drill"]["isolated"], drill["isolated"]);

    // Another answer than the expected one fails it, and so does none.
    rig.write("docs/letter.txt", "dear writer\n");
    rig.run(&["backup", "docs"]).code(0);
    let wrong = rig.run(&["drill", "docs", "--json"]).code(1).json();
    assert_eq!(wrong["sound"], false);
    finds(&wrong, "\"dear reader\" was expected");
    configure(&rig, &format!("{FILES}drill-command = \"exit 7\"\n"));
    let failed = rig.run(&["drill", "docs", "--json"]).code(1).json();
    finds(&failed, "the drill command");
    rig.run(&["logs", "docs"]).code(0).says("is not sound");
}

#[test]
fn a_database_that_is_no_database_any_more_is_found() {
    let service = "engine = \"sqlite\"\npath = \"@HERE@/shop.db\"\n";
    let ask = "drill-query = \"SELECT count(*), max(n) FROM t\"\n";
    let rig = host(&format!("{service}{ask}drill-expect = \"3|3\"\n"));
    let db = rusqlite::Connection::open(rig.path("shop.db")).unwrap();
    db.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1), (2), (3)").unwrap();
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    let drill = rig.run(&["drill", "docs", "--json"]).code(0).json();
    assert_eq!(drill["answer"], "3|3");
    finds(&drill, "integrity and foreign keys");
    // An order that is not there is a wrong answer, though the database is sound.
    db.execute_batch("DELETE FROM t WHERE n = 2").unwrap();
    rig.run(&["backup", "docs"]).code(0);
    let wrong = rig.run(&["drill", "docs", "--json"]).code(1).json();
    finds(&wrong, "\"2|3\"; \"3|3\" was expected");
    configure(&rig, &format!("{service}drill-query = \"SELECT x FROM nowhere\"\n"));
    let wrong = rig.run(&["drill", "docs", "--json"]).code(1).json();
    finds(&wrong, "was not answered");
    // The earlier point is none the worse.
    configure(&rig, &format!("{service}{ask}drill-expect = \"3|3\"\n"));
    let list = rig.run(&["snapshots", "docs", "--json"]).code(0).json();
    let first = list["services"][0]["snapshots"][0]["name"].as_str().unwrap().to_owned();
    rig.run(&["drill", "docs", "--snapshot", &first]).code(0);
    // Rows that break the table's own rule: copied faithfully, and no database any more.
    db.execute_batch(
        "INSERT INTO t VALUES (NULL), (2); PRAGMA writable_schema = ON; \
         UPDATE sqlite_schema SET sql = 'CREATE TABLE t (n NOT NULL)' WHERE name = 't'",
    )
    .unwrap();
    drop(db);
    configure(&rig, service);
    rig.run(&["backup", "docs"]).code(0);
    let broken = rig.run(&["drill", "docs", "--json"]).code(1).json();
    finds(&broken, "NULL value in t.n");
    assert_eq!(newest(&rig)["drill"]["sound"], false);
    assert_eq!(newest(&rig)["head"], true, "a drill judges, and decides nothing");
}

/// Root works on a copy by its path, and who owns the copy could put something else there.
#[test]
fn root_looks_before_a_copy_is_its_owners_and_drills_only_where_nobody_else_exchanges_names() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let service = "engine = \"sqlite\"\npath = \"@HERE@/shop.db\"\n";
    let ask = "drill-query = \"SELECT count(*) FROM t\"\ndrill-expect = \"1\"\n";
    let rig = host(&format!("{service}{ask}"));
    fs::set_permissions(rig.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let db = rusqlite::Connection::open(rig.path("shop.db")).unwrap();
    db.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
    std::os::unix::fs::chown(rig.path("shop.db"), Some(65534), Some(65534)).unwrap();
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    // SQLite judges and is asked within this process: nobody else has to come to the copy.
    let drill = rig.run(&["drill", "docs", "--json", "--keep"]).code(0).json();
    let kept = PathBuf::from(drill["kept"].as_str().unwrap());
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    assert_eq!(owner(&kept.join("copy-0")), 0);
    assert_eq!(owner(&kept.join("copy-0/shop.db")), 65534);
    fs::remove_dir_all(kept).unwrap();
    // A command may become the owner and open it as its application does, beside journals of its own.
    let look =
        "drill-command = 'stat -c %u \"${MAINSTAY_DRILL_DIR%/*}\"'\ndrill-expect = \"65534\"\n";
    configure(&rig, &format!("{service}{look}"));
    rig.run(&["drill", "docs"]).code(0);

    let place = rig.path("open");
    fs::create_dir(&place).unwrap();
    let there = format!("{service}{ask}drill-dir = \"@HERE@/open/drills\"\n");
    configure(&rig, &there);
    for (mode, code) in [(0o777, 1), (0o1777, 0), (0o755, 0)] {
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        let said = rig.run(&["drill", "docs"]).code(code);
        if code == 1 {
            said.complains("not safe for root")
                .complains("others may write to")
                .complains("sticky");
            assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        }
    }
    std::os::unix::fs::chown(&place, Some(65534), None).unwrap();
    rig.run(&["drill", "docs"]).code(1).complains("belongs to the user 65534");
}

/// An importer that knows drills is given the copy, and never the service's own directory; and how
/// long it takes counts.
#[test]
fn an_importer_loads_the_copy_and_a_slow_recovery_breaks_its_promise() {
    let service = "engine = \"script\"\npath = \"@HERE@/export\"\nexporter = \"@HERE@/exporter\"\n\
                   importer = \"@HERE@/importer\"\ndrill-schedule = \"0 0 1 1 *\"\n";
    let rig = host(&format!("{service}rto = \"1h\"\n"));
    let program = |name: &str, text: &str| {
        script(&rig.path(name), text);
    };
    program(
        "exporter",
        "time=$(date -u +%Y-%m-%dT%H:%M:%S.%NZ)\necho \"$MAINSTAY_EXPORT_ID\" >page\n\
         echo \"{\\\"export-id\\\": \\\"$MAINSTAY_EXPORT_ID\\\", \\\"source-time\\\": \\\"$time\\\", \
         \\\"importer-knows-scratch\\\": true}\"\n",
    );
    let log = rig.path("imports").display().to_string();
    program(
        "importer",
        &format!(
            "echo \"$MAINSTAY_PURPOSE $(pwd)\" >>{log}\ntest -s \"$MAINSTAY_BACKUP_DIR/page\"\n\
             cp page \"$MAINSTAY_SCRATCH/\"\ntest ! -e {0}/fail\ntest ! -e {0}/slow || sleep 1.1\n",
            rig.path("").display()
        ),
    );
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["run-due", "--dry-run"]).code(0).says("a drill is due");
    let ran = rig.run(&["run-due", "--json"]).code(0).json();
    assert_eq!(ran["services"][1]["ran"], "drill", "{ran}");
    assert_eq!(ran["services"][1]["result"]["sound"], true);
    let again = rig.run(&["run-due", "--json"]).code(0).json();
    assert_eq!(again["services"][1]["ran"], "nothing", "{again}");
    let imports = fs::read_to_string(&log).unwrap();
    assert!(imports.starts_with("scratch ") && imports.contains("/state/drills/"), "{imports}");
    assert_eq!(imports.lines().count(), 1);
    let told = status(&rig, 0);
    assert_eq!((&told["rto-seconds"], &told["rto-kept"]), (&json!(3600), &json!(true)));

    // What takes longer than promised is told, also when nothing runs any more, until it is over.
    configure(&rig, &format!("{service}rto = \"1s\"\n"));
    rig.write("slow", "");
    rig.run(&["drill", "docs"]).code(0);
    assert_eq!(status(&rig, 1)["rto-kept"], false);
    rig.run(&["status", "docs"]).code(1).says("not kept");
    rig.run(&["run-due"]).code(1);
    rig.run(&["run-due"]).code(1);
    assert_eq!(alerts(&rig), ["rto-exceeded"]);
    configure(&rig, &format!("{service}rto = \"1h\"\n"));
    rig.run(&["run-due"]).code(0);
    // An importer that fails is a drill that does; it is not tried again every minute.
    rig.write("fail", "");
    program("importer", "exit 3\n");
    let failed = rig.run(&["drill", "docs", "--json"]).code(1).json();
    finds(&failed, "the importer");
    let due: Said = rig.run(&["run-due", "--dry-run"]).code(0);
    assert!(due.out.contains("no drill is due"), "{due:#?}");
    assert_eq!(alerts(&rig), ["rto-exceeded", "rto-exceeded-over", "drill-failed"]);
}

#[test]
fn a_check_that_reads_is_remembered() {
    let rig = host(FILES);
    rig.write("docs/letter.txt", "dear reader\n");
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["check", "docs"]).code(0);
    assert_eq!(newest(&rig)["verified"], Value::Null, "no byte was read");
    rig.run(&["check", "docs", "--read-data-subset", "1/2"]).code(0);
    assert_eq!(newest(&rig)["verified"]["part"], "1/2");
    rig.run(&["check", "docs", "--read-data"]).code(0);
    rig.run(&["check", "docs", "--read-data-subset", "2/2"]).code(0);
    let verified = newest(&rig)["verified"].clone();
    assert!(verified["at"].is_string() && verified["part"].is_null(), "{verified}");
    assert_eq!(status(&rig, 0)["head"]["verified"], verified);
    rig.run(&["snapshots"]).code(0).says("verified just now");
    // Damage that it finds proves nothing.
    rig.write("docs/letter.txt", "dear writer\n");
    rig.run(&["backup", "docs"]).code(0);
    let pack = content_pack(&rig);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[20] ^= 1;
    overwrite(&pack, &bytes);
    rig.run(&["check", "docs", "--read-data"]).code(1);
    assert_eq!(newest(&rig)["verified"], Value::Null);
}

/// A standby whose host does nothing any more cannot say so. The primary does.
#[test]
fn a_standby_that_is_left_behind_is_told_by_the_primary() {
    let world = World::new("files", "rpo = \"1s\"\n");
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    crate::world::fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    wait_for("the standby is behind", || {
        world.run("a", &["backup", "docs"]).code(0);
        let ran = world.run("a", &["run-due", "--json"]).json();
        ran["services"][0]["behind"].as_str().is_some_and(|text| text.contains("what b holds"))
    });
    let said = world.run("a", &["status", "docs", "--json"]).code(1).json();
    let standby = &said["services"][0]["members"][1];
    assert_eq!((&standby["name"], &standby["rpo-kept"]), (&json!("b"), &json!(false)));
    assert!(standby["age-seconds"].as_u64().unwrap() >= 1);
}

/// Processes that bear this word among their arguments.
fn running(word: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let words = |process: fs::DirEntry| fs::read(process.path().join("cmdline")).ok();
    let bears = |words: &Vec<u8>| words.split(|byte| *byte == 0).any(|one| one == word.as_bytes());
    processes.filter_map(words).filter(bears).count()
}

/// What a command puts into a session of its own gets a signal from nobody.
#[test]
fn what_a_drill_command_leaves_behind_does_not_outlive_the_drill() {
    let rig = host(FILES);
    rig.write("docs/note", "kept");
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    // Nobody else sleeps that long.
    let word = format!("{}.5", 40_000_000 + std::process::id());
    let flag = rig.path("left").display().to_string();
    rig.write(
        "leave",
        format!(
            "setsid sh -c 'sleep {word} & echo >{flag}; wait' >/dev/null 2>&1 &\n\
             while ! test -e {flag}; do sleep 0.01; done\n\
             cat \"$MAINSTAY_DRILL_DIR/note\"\n"
        ),
    );
    let command = format!(
        "{FILES}drill-command = \"sh {}\"\ndrill-expect = \"kept\"\n",
        rig.path("leave").display()
    );
    configure(&rig, &command);
    let drill = rig.run(&["drill", "docs", "--json"]).code(0).json();
    assert!(rig.path("left").exists());
    assert_eq!(running(&word), 0, "{drill}");
    assert_eq!(left(&rig), [] as [PathBuf; 0]);

    // On a host that allows no namespaces of processes.
    fs::remove_file(rig.path("left")).unwrap();
    let stub = "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2; exit 1\n";
    fs::create_dir_all(rig.path("bin")).unwrap();
    script(&rig.path("bin/unshare"), stub);
    let run = || {
        let mut command = rig.command(&["drill", "docs", "--json"]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(rig.path("bin")).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(path).unwrap());
        command
    };
    let drill = crate::rig::run(&mut run()).code(0).json();
    assert!(rig.path("left").exists());
    assert_eq!(running(&word), 0, "{drill}");
    assert_eq!(drill["isolated"], json!(false));
    finds(&drill, "no namespace of processes");
    finds(&drill, "Operation not permitted");

    // And where it was killed: the next command on the service finds what is left.
    fs::remove_file(rig.path("left")).unwrap();
    rig.write("leave", format!("setsid sleep {word} >/dev/null 2>&1 &\nexec sleep {word}\n"));
    let mut drill = run();
    let streams = || std::process::Stdio::null();
    let drill = drill.stdout(streams()).stderr(streams()).spawn().unwrap();
    let mut drill = crate::sqlite_log::Killed(drill);
    wait_for("it is left", || running(&word) >= 2);
    let worker = crate::world::worker_in(&rig.path("state/services/docs/operations"));
    crate::world::kill(worker.unwrap());
    let _ = drill.0.wait();
    rig.run(&["backup", "docs"]).code(0);
    assert_eq!(running(&word), 0);
    assert_eq!(left(&rig), [] as [PathBuf; 0]);
}

/// The newest is what is asked for, and whoever takes it hears that its last drill failed, and of one that
/// was proven, which stays, whatever `keep` says.
#[test]
fn a_point_that_failed_its_drill_is_named_where_it_is_taken_and_no_floor() {
    let service = |expect: &str| {
        format!(
            "{FILES}keep = {{ last = 1 }}\nrpo = \"1h\"\ndrill-command = \"cat letter.txt\"\n\
             drill-expect = \"{expect}\"\n"
        )
    };
    let rig = host(&service("one").replace("cat letter.txt", "cat $MAINSTAY_DRILL_DIR/letter.txt"));
    let expect = |text: &str| {
        configure(
            &rig,
            &service(text).replace("cat letter.txt", "cat $MAINSTAY_DRILL_DIR/letter.txt"),
        );
    };
    rig.write("docs/letter.txt", "one\n");
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["drill", "docs"]).code(0);
    let proven = newest(&rig)["name"].as_str().unwrap().to_owned();
    rig.write("docs/letter.txt", "two\n");
    rig.run(&["backup", "docs"]).code(0);
    expect("two");
    rig.run(&["drill", "docs"]).code(0);
    let target = rig.path("sound").display().to_string();
    let quiet = rig.run(&["restore", "docs", "--target", &target]).code(0);
    assert!(!quiet.err.contains("drill"), "{quiet:?}");

    // Drilled again, it fails; that it was proven once helps nobody.
    expect("three");
    rig.run(&["drill", "docs"]).code(1);
    let failed = newest(&rig)["name"].as_str().unwrap().to_owned();
    let target = rig.path("copy").display().to_string();
    let said = rig.run(&["restore", "docs", "--target", &target]).code(0);
    said.complains(&failed).complains("found it not sound").complains(&proven);
    assert_eq!(fs::read_to_string(rig.path("copy/letter.txt")).unwrap(), "two\n");
    let dry = rig.path("dry").display().to_string();
    rig.run(&["restore", "docs", "--target", &dry, "--dry-run"]).code(0).complains("not sound");

    rig.run(&["forget", "docs"]).code(0);
    let list = rig.run(&["snapshots", "docs", "--json"]).code(0).json();
    let names: Vec<&str> = list["services"][0]["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, [proven.as_str(), failed.as_str()]);
}
