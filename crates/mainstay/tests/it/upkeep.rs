//! What `run-due` does for the history: retention, second vaults, standbys that lag.

use crate::rig::{Rig, Said, restic_at, run};
use crate::sqlite_log::{Killed, database, files_below, insert};
use crate::world::{World, content, fill, wait_for};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Due once, and then not for long.
const YEARLY: &str = "0 0 1 1 *";

fn world(lines: &str, count: u8) -> World {
    let world = World::new("files", lines);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    for version in 1..=count {
        fill(&world.path("a/data"), version);
        let noise = (0..50_000u32).flat_map(|i| (i * u32::from(version) * 31).to_le_bytes());
        fs::write(world.path("a/data/noise"), noise.collect::<Vec<u8>>()).unwrap();
        world.run("a", &["backup", "docs"]).code(0);
        if version == 1 {
            world.run("b", &["refresh", "docs"]).code(0);
        }
    }
    world
}

fn stored(world: &World) -> u64 {
    let files = files_below(&world.path("vault/docs/data"));
    files.iter().map(|file| file.metadata().unwrap().len()).sum()
}

/// What one turn of `run-due` said, by a key that only it has.
#[track_caller]
fn turn(said: &Said, key: &str) -> Value {
    let json = said.json();
    let turns = json["services"].as_array().unwrap().clone();
    let found = turns.iter().find(|turn| turn.get(key).is_some());
    found.cloned().unwrap_or_else(|| panic!("no {key} in {json}"))
}

fn with_alerts(world: &World, host: &str) {
    let file = world.path(host).join("mainstay.toml");
    let alerts = world.path("alerts").display().to_string();
    let text = fs::read_to_string(&file).unwrap();
    let section = format!("[alerts]\ncommand = \"cat >> {alerts}; echo >> {alerts}\"\n\n");
    fs::write(&file, text.replace("[service.docs]", &format!("{section}[service.docs]"))).unwrap();
}

fn alerts(text: &str) -> Vec<String> {
    let event = |line: &str| {
        let alert: Value = serde_json::from_str(line).unwrap();
        alert["event"].as_str().unwrap().to_owned()
    };
    text.lines().map(event).collect()
}

#[test]
fn what_nobody_keeps_goes_on_schedule_and_its_space_is_free() {
    let lines = format!("keep = {{ last = 2 }}\nprune-schedule = \"{YEARLY}\"\n");
    let world = world(&lines, 5);
    with_alerts(&world, "a");
    let before = (world.points("a").len(), stored(&world));
    let said = world.run("a", &["run-due", "--dry-run"]).code(0);
    said.says("retention is due: 2 points would go").says("would be freed");
    let said = world.run("a", &["--json", "run-due", "--dry-run"]).code(0);
    let would = turn(&said, "would-free-bytes")["would-free-bytes"].as_u64().unwrap();
    assert!(would > 0);
    assert_eq!((world.points("a").len(), stored(&world)), before, "it was only looked");

    let said = world.run("a", &["--json", "run-due"]).code(0);
    let done = turn(&said, "upkeep");
    assert_eq!(done["upkeep"], "retention", "{done}");
    assert_eq!(done["result"]["remove"].as_array().unwrap().len(), 2, "{done}");
    // Two are kept by the policy, and one for the standby.
    assert_eq!(world.points("a").len(), 3);
    assert!(stored(&world) < before.1, "{done}");
    world.restic_check();
    let again = turn(&world.run("a", &["--json", "run-due"]).code(0), "upkeep");
    assert_eq!(again["upkeep"], "nothing");
    world.run("a", &["run-due", "--dry-run"]).code(0).says("no retention is due; next ");
    // A standby applies no policy.
    let file = world.path("b/mainstay.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap()).unwrap();
    let theirs = turn(&world.run("b", &["--json", "run-due"]).code(0), "upkeep");
    assert_eq!(theirs["upkeep"], "nothing");
    assert_eq!(fs::read_to_string(world.path("alerts")).unwrap_or_default(), "");
}

#[test]
fn retention_that_fails_is_told_and_takes_nothing() {
    let lines = format!("keep = {{ last = 1 }}\nprune-schedule = \"{YEARLY}\"\n");
    let world = world(&lines, 3);
    with_alerts(&world, "a");
    // A snapshot that cannot be seen may be on a disk that is not mounted.
    let head = world.head("a").unwrap();
    fs::rename(world.path("vault/docs/snapshots").join(&head), world.path("aside")).unwrap();
    let before = stored(&world);
    world.run("a", &["run-due"]).code(1);
    assert_eq!(stored(&world), before);
    let text = fs::read_to_string(world.path("alerts")).unwrap();
    assert_eq!(alerts(&text), ["retention-failed"]);
    // Neither tried again at once nor told again.
    world.run("a", &["run-due"]).code(0);
    assert_eq!(fs::read_to_string(world.path("alerts")).unwrap(), text);
    // Once another host is the primary this one has nothing to fail at.
    fs::rename(world.path("aside"), world.path("vault/docs/snapshots").join(&head)).unwrap();
    world.run("b", &["takeover", "docs", "--yes", "--override", "primary-not-fenced=test"]).code(0);
    world.run("a", &["run-due"]);
    let text = fs::read_to_string(world.path("alerts")).unwrap();
    assert!(alerts(&text).iter().any(|event| event == "retention-failed-over"), "{text}");
}

/// Who uses the history goes before what removes from it; that it never ends is told.
#[test]
fn retention_that_others_keep_from_running_is_told() {
    let world = world("keep = { last = 1 }\nprune-schedule = \"* * * * *\"\n", 2);
    with_alerts(&world, "a");
    let done = turn(&world.run("a", &["--json", "run-due"]).code(0), "upkeep");
    assert_eq!((&done["upkeep"], &done["overdue"]), (&"retention".into(), &Value::Null), "{done}");
    // As if that had been nine hours ago.
    let ago = Timestamp::now() - SignedDuration::from_hours(9);
    for dir in world.operations("a") {
        let text = fs::read_to_string(dir.join("journal")).unwrap();
        let moved = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["at"] = ago.to_string().into();
            format!("{line}\n")
        });
        fs::write(dir.join("journal"), moved.collect::<String>()).unwrap();
    }
    let mut reading = restic_at(&world.path("vault/docs"), &world.path("password"));
    let reading = reading.args(["--no-cache", "backup", "--stdin", "--stdin-filename", "piped"]);
    let reading = reading.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut reading = Killed(reading.spawn().unwrap());
    let locks = || fs::read_dir(world.path("vault/docs/locks")).map_or(0, Iterator::count);
    wait_for("restic's lock", || locks() > 0);
    let before = stored(&world);
    let done = turn(&world.run("a", &["--wait", "1s", "--json", "run-due"]).code(1), "upkeep");
    assert_eq!(done["upkeep"], "waits", "{done}");
    assert_eq!(stored(&world), before);
    let overdue = done["overdue"].as_str().unwrap();
    assert!(overdue.contains("the last retention that went well was 9 h"), "{overdue}");
    assert!(overdue.contains("is locked: by process"), "{overdue}");
    let text = fs::read_to_string(world.path("alerts")).unwrap();
    assert_eq!(alerts(&text), ["retention-overdue"]);
    reading.kill();
    world.run("a", &["forget", "docs", "--prune"]).code(0);
    world.run("a", &["run-due"]).code(0);
    let text = fs::read_to_string(world.path("alerts")).unwrap();
    assert_eq!(alerts(&text).len(), 2, "{text}");
}

#[test]
fn a_standby_that_lags_too_far_is_built_anew_and_says_so() {
    let world = world("keep = { last = 1 }\nkeep-for-standbys = \"1s\"\n", 3);
    std::thread::sleep(Duration::from_millis(1100));
    world.run("a", &["forget", "docs", "--prune"]).code(0).says("2 points forgotten");
    let kept = content(&world.path("b/data"));
    // One that somebody wrote to is not.
    fs::write(world.path("b/data/mine"), "mine").unwrap();
    world.run("b", &["refresh", "docs"]).code(1).complains("was written to");
    fs::remove_file(world.path("b/data/mine")).unwrap();
    assert!(content(&world.path("b/data")) == kept);
    let said = world.run("b", &["--json", "refresh", "docs"]).code(0);
    assert!(said.json()["warnings"].to_string().contains("built anew"), "{said:#?}");
    let done = said.json()["services"][0].clone();
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")), "{done}");
    assert!(done["fetched-bytes"].as_u64() < done["bytes"].as_u64(), "nothing was kept: {done}");
    world.run("b", &["refresh", "docs"]).code(0).says("already");
}

#[test]
fn a_standby_whose_point_was_forgotten_takes_over() {
    let words = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"];
    let world = world("keep = { last = 1 }\nkeep-for-standbys = \"1s\"\n", 3);
    std::thread::sleep(Duration::from_millis(1100));
    world.run("a", &["forget", "docs", "--prune"]).code(0).says("2 points forgotten");
    // Not if somebody wrote to it: the manifest tells, where no snapshot does.
    fs::write(world.path("b/data/mine"), "mine").unwrap();
    world.run("b", &words).code(1).complains("copy-modified");
    fs::remove_file(world.path("b/data/mine")).unwrap();
    world.run("b", &words).code(0);
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")));
    assert_eq!(world.status("b")["primary"], "b");
}

#[test]
fn second_vaults_have_points_and_alarms_of_their_own() {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    let configure = |rpo: &str| {
        let at = |name: &str| rig.path(name).display().to_string();
        rig.configure(&format!(
            "[alerts]\ncommand = \"cat >> {0}; echo >> {0}\"\n\n\
             [copy.near]\n{rpo}vault = {{ url = \"{1}\" }}\n\n\
             [copy.far]\nservices = [\"docs\"]\n[copy.far.vault]\nurl = \"{2}\"\n\
             password-file = \"{3}\"\n\n\
             [service.docs]\nengine = \"files\"\npath = \"{4}\"\nschedule = \"{YEARLY}\"\n",
            at("alerts"),
            at("near"),
            at("far"),
            at("far.password"),
            at("docs"),
        ));
    };
    configure("");
    rig.write("far.password", "another password\n");
    rig.run(&["init"]).code(0);
    let told = || alerts(&fs::read_to_string(rig.path("alerts")).unwrap_or_default());
    let points = |dir: &str| -> usize {
        fs::read_dir(rig.path(dir).join("docs/snapshots")).map_or(0, |files| files.count())
    };
    rig.run(&["run-due", "--dry-run"]).code(0).says("a copy to far is not due");
    let said = rig.run(&["--json", "run-due"]).code(0);
    let copies = turn(&said, "copies");
    assert_eq!((points("near"), points("far")), (1, 1), "{copies}");
    // Each is opened by its own password.
    let mut restic = crate::rig::restic_at(&rig.path("far/docs"), &rig.path("far.password"));
    run(restic.args(["--no-cache", "check", "--read-data"])).code(0);
    let ran = |said: &Said| -> Vec<String> {
        let turn = turn(said, "copies");
        let copies = turn["copies"].as_array().unwrap();
        copies.iter().map(|copy| copy["ran"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ran(&rig.run(&["--json", "run-due"]).code(0)), ["nothing", "nothing"]);

    // One that is gone keeps the other from nothing, and is told by itself.
    rig.write("docs/letter.txt", "dear writer\n");
    rig.run(&["backup", "docs"]).code(0);
    fs::rename(rig.path("far"), rig.path("moved")).unwrap();
    rig.write("far", "no directory");
    let said = rig.run(&["--json", "run-due"]);
    assert_ne!(said.code, 0, "{said:#?}");
    assert_eq!(points("near"), 2);
    assert_eq!(told(), ["copy-failed:far"]);
    let status = rig.run(&["--json", "status", "docs"]).json()["services"][0].clone();
    let copies = status["copies"].as_array().unwrap();
    assert_eq!(
        (copies[0]["vault"].as_str(), copies[1]["vault"].as_str()),
        (Some("far"), Some("near"))
    );
    assert!(copies[0]["error"].is_string() && copies[1]["error"].is_null(), "{status}");
    assert!(copies[0]["holds"].as_str() < copies[1]["holds"].as_str(), "{status}");
    assert_eq!(copies[1]["holds"], status["head"]["source-time"]);
    assert_eq!(status["promises-kept"], false, "{status}");
    rig.run(&["status", "docs"]).says("far: holds the point of");
    rig.run(&["run-due"]).code(0);
    assert_eq!(told(), ["copy-failed:far"], "it is not tried again at once");

    // Silence is told, too: nothing new comes to the near one, and its promise is broken.
    configure("rpo = \"1s\"\n");
    std::thread::sleep(Duration::from_millis(1100));
    rig.run(&["run-due"]).code(1);
    assert_eq!(told(), ["copy-failed:far", "copy-behind:near"]);

    for (wrong, what) in [
        ("[copy.x]\nvault = { url = \"ftp://x\" }\n", "not supported"),
        ("[copy.x]\nvault = { url = \"/x\" }\nservices = [\"none\"]\n", "no service of this host"),
        ("[copy.x]\nvault = { url = \"/x\" }\nschedule = \"soon\"\n", "cron"),
    ] {
        rig.configure(wrong);
        rig.run(&["config", "check"]).code(1).complains(what);
    }
}

/// The points are there, but not the log beyond them: nobody may rely on that.
#[test]
fn a_copy_without_all_of_the_log_does_not_count() {
    let rig = Rig::new();
    let at = |name: &str| rig.path(name).display().to_string();
    rig.configure(&format!(
        "[copy.near]\nvault = {{ url = \"{}\" }}\n\n\
         [service.docs]\nengine = \"sqlite\"\npath = \"{}\"\n",
        at("near"),
        at("app.db"),
    ));
    let connection = database(&rig.path("app.db"));
    rig.run(&["init", "--no-recovery-key"]).code(0);
    for n in 1..=3 {
        insert(&connection, n);
        rig.run(&["wal", "receive", "docs", "--once"]).code(0);
    }
    let replace = |file: &Path, bytes: &[u8]| {
        fs::remove_file(file).unwrap();
        fs::write(file, bytes).unwrap();
    };
    let object = files_below(&rig.path("vault/docs/mainstay/log")).pop().unwrap();
    let whole = fs::read(&object).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    replace(&object, &damaged);
    let copy = || {
        let status = rig.run(&["--json", "status", "docs"]).json();
        status["services"][0]["copies"][0].clone()
    };
    assert_ne!(rig.run(&["run-due"]).code, 0);
    let found = copy();
    assert!(found["error"].as_str().unwrap().contains("could not be copied"), "{found}");
    assert!(found["copied"].is_null() && found["holds"].is_null(), "{found}");
    assert_eq!(fs::read_dir(rig.path("near/docs/snapshots")).unwrap().count(), 1);

    // It is due again at once when nothing is remembered.
    replace(&object, &whole);
    fs::remove_file(rig.path("state/services/docs/copies.json")).unwrap();
    rig.run(&["run-due"]).code(0);
    let found = copy();
    assert!(found["error"].is_null() && found["copied"].is_string(), "{found}");
    assert!(found["holds"].is_string(), "{found}");
}
