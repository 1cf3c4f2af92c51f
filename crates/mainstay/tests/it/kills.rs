//! SIGKILL at every line of every operation's journal: what is on disk is the old point or the new
//! one, nothing is left, a stopped service comes back, and the operation then succeeds.
//!
//! The steps are not written down here. Each operation is run once without being killed, and every
//! line that its journal then has becomes a case.

use crate::rig::{Said, run};
use crate::world::{CONTROLLED, Tree, Versions, World, content, fill, journal, lines_in, wait_for};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One operation under test.
pub(crate) struct Scenario {
    /// The host that it runs on.
    pub(crate) host: &'static str,
    /// Its kind, as in names of operations.
    pub(crate) kind: &'static str,
    /// Its words.
    pub(crate) words: &'static [&'static str],
    /// What is done to a copy of the world before it.
    pub(crate) prepare: fn(&World),
    /// Looks at the world right after the death.
    pub(crate) dead: fn(&World, &str),
    /// The next command; it cleans up, and at its end the operation has succeeded.
    pub(crate) again: fn(&World, &str) -> Said,
    /// Looks at the world in the end.
    pub(crate) after: fn(&World, &str),
    /// From this line on a guardian cleans up without any command.
    pub(crate) guarded: bool,
}

/// Every line of the journal of an operation that was not killed, as `MAINSTAY_TEST_KILL_AT` has it.
pub(crate) fn lines(base: &World, scenario: &Scenario) -> Vec<String> {
    let world = base.copy();
    (scenario.prepare)(&world);
    world.run(scenario.host, scenario.words).code(0);
    let dirs = world.operations(scenario.host);
    let dir = dirs.last().expect("an operation");
    assert!(dir.to_string_lossy().contains(&format!("-{}-", scenario.kind)), "{dirs:?}");
    let lines = lines_in(dir);
    (scenario.after)(&world, "nowhere");
    lines
}

/// Runs a command that is to be killed at a line.
#[track_caller]
fn die(mut command: Command, at: &str) {
    let output = command.env("MAINSTAY_TEST_KILL_AT", at).output().expect("the binary");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // The worker was, and the command that attended it tells that as a shell does.
    assert_eq!(output.status.code(), Some(137), "not killed at {at}: {:?} {said}", output.status);
}

/// One case.
fn case(base: &World, scenario: &Scenario, at: &str) {
    let world = base.copy();
    (scenario.prepare)(&world);
    die(world.command(scenario.host, scenario.words), at);
    (scenario.dead)(&world, at);
    let armed = world.operations(scenario.host).last().is_some_and(|dir| {
        journal(dir).iter().any(|line| line["step"] == "arm" && line["event"] == "done")
    });
    if scenario.guarded && armed {
        // Nobody gives another command, and yet it is cleaned up.
        wait_for(&format!("{at}: the guardian cleans up"), || {
            world.unfinished(scenario.host).is_empty()
        });
        assert!(world.serves(scenario.host), "{at}: the service is down");
    }
    let unfinished = world.unfinished(scenario.host);
    let said = (scenario.again)(&world, at);
    if let Some(dir) = unfinished.first() {
        let id = dir.file_name().unwrap().to_string_lossy().into_owned();
        let told = format!("{}{}", said.out, said.err);
        assert!(told.contains(&format!("{id} had died")), "{at}: {said:#?}");
    }
    for host in ["a", "b"] {
        assert_eq!(world.unfinished(host), [] as [PathBuf; 0], "{at}");
    }
    assert_eq!(world.staging(), [] as [PathBuf; 0], "{at}");
    // What is in the vault beside the history would be taken for history by somebody.
    for point in world.points(scenario.host) {
        assert_eq!((&point["committed"], &point["missing"]), (&true.into(), &false.into()), "{at}");
    }
    (scenario.after)(&world, at);
}

/// All cases of a scenario.
fn all(base: &World, scenario: &Scenario) {
    and_more(base, scenario, &[]);
}

/// All cases of a scenario, and deaths between the lines.
pub(crate) fn and_more(base: &World, scenario: &Scenario, between: &[&str]) {
    let mut lines = lines(base, scenario);
    lines.extend(between.iter().map(|at| (*at).to_owned()));
    assert!(lines.len() >= 4, "{lines:?}");
    each(&lines, |at| case(base, scenario, at));
}

/// Runs cases side by side; tells every one that failed.
pub(crate) fn each(cases: &[String], run: impl Fn(&str) + Sync) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(at) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(at)));
                    if done.is_err() {
                        failed.lock().unwrap().push(at.clone());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "of {cases:?} these failed: {failed:?}");
}

/// Both have joined; there is a point of version 1, and the primary is at version 2.
pub(crate) fn trees(lines: &str) -> World {
    let world = World::new("files", lines);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    fill(&world.path("a/data"), 2);
    world
}

/// What a host's copy should be.
pub(crate) fn version(number: u8) -> Option<Tree> {
    static VERSIONS: Versions = Versions::of(fill);
    VERSIONS.get(number)
}

#[track_caller]
fn is_old_or_new(world: &World, place: &str, olds: &[&Option<Tree>], at: &str) {
    let now = content(&world.path(place));
    let known = olds.iter().any(|known| **known == now);
    assert!(
        known,
        "{at}: {place} is neither old nor new: {:?}",
        now.map(|c| c.into_keys().collect::<Vec<_>>())
    );
}

fn nothing(_: &World) {}

fn backup_again(world: &World, _: &str) -> Said {
    world.run("a", &["backup", "docs"]).code(0)
}

fn history_is_whole(world: &World, at: &str) {
    assert!(world.points("a").len() >= 2, "{at}");
    world.restic_check();
    let target = world.path("target");
    let words = ["restore", "docs", "--target", target.to_str().unwrap()];
    world.run("a", &words).code(0);
    assert!(content(&target) == version(2), "{at}: the head is not what was backed up");
}

/// The head is the old point until the new one was committed.
fn head_follows_the_commit(world: &World, at: &str) {
    let points = world.points("a");
    let committed = points.iter().filter(|point| point["committed"] == true).count();
    let after = ["commit:done", "say:begin", "say:done", "end"].contains(&at);
    assert_eq!(committed, if after { 2 } else { 1 }, "{at}: {points:?}");
}

const BACKUP: Scenario = Scenario {
    host: "a",
    kind: "backup",
    words: &["backup", "docs"],
    prepare: nothing,
    dead: head_follows_the_commit,
    again: backup_again,
    after: history_is_whole,
    guarded: false,
};

#[test]
fn a_backup() {
    all(&trees(""), &BACKUP);
}

pub(crate) fn start(world: &World) {
    assert_eq!(world.service("a", "start"), 0);
}

pub(crate) fn history_is_whole_and_it_serves(world: &World, at: &str) {
    assert!(world.serves("a"), "{at}: the service is down");
    history_is_whole(world, at);
}

#[test]
fn a_backup_that_stops_the_service() {
    let base = trees(&format!("{CONTROLLED}quiesce = \"stop\"\n"));
    start(&base);
    let stops =
        Scenario { prepare: start, after: history_is_whole_and_it_serves, guarded: true, ..BACKUP };
    all(&base, &stops);
}

#[test]
fn a_backup_that_freezes_the_service() {
    let hooks = "quiesce = \"freeze\"\n[service.docs.hooks]\nfreeze = \"touch @HOST@/frozen\"\n\
                 thaw = \"rm -f @HOST@/frozen\"\n";
    let base = trees(&format!("{CONTROLLED}{hooks}"));
    fn after(world: &World, at: &str) {
        assert!(!world.path("a/frozen").exists(), "{at}: it is still frozen");
        history_is_whole_and_it_serves(world, at);
    }
    all(&base, &Scenario { prepare: start, after, guarded: true, ..BACKUP });
}

#[test]
fn a_restore_to_another_place() {
    let base = trees("");
    base.run("a", &["backup", "docs"]).code(0);
    fn words(world: &World) -> Vec<String> {
        let target = world.path("a/target").display().to_string();
        ["restore", "docs", "--target", &target].map(str::to_owned).to_vec()
    }
    fn again(world: &World, at: &str) -> Said {
        is_old_or_new(world, "a/target", &[&None, &version(2)], at);
        let words = words(world);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Once it is past its commit marker the next command brings it to its end, and would find
        // the target taken.
        if at.starts_with("place") || at.starts_with("settle") || at == "end" {
            words = vec!["restore", "docs", "--as", "other"];
        }
        let said = world.run("a", &words).code(0);
        assert!(content(&world.path("a/target")) == version(2), "{at}");
        said
    }
    // The words hold a path of the copy, so that the cases are made by hand here.
    let world = base.copy();
    run(world.command("a", &[]).args(words(&world))).code(0);
    let dirs = world.operations("a");
    let lines = lines_in(dirs.last().unwrap());
    each(&lines, |at| {
        let world = base.copy();
        let mut command = world.command("a", &[]);
        command.args(words(&world));
        die(command, at);
        let unfinished = world.unfinished("a").len();
        let said = again(&world, at);
        assert_eq!(said.err.contains("had died"), unfinished > 0, "{at}: {said:#?}");
        assert!(world.unfinished("a").is_empty(), "{at}");
        assert_eq!(world.staging(), [] as [PathBuf; 0], "{at}");
    });
}

#[test]
fn a_restore_in_place_of_a_running_service() {
    let base = trees(CONTROLLED);
    start(&base);
    base.run("a", &["backup", "docs"]).code(0);
    fn prepare(world: &World) {
        start(world);
        std::fs::write(world.path("a/data/changed"), "by mistake").unwrap();
    }
    fn mistaken() -> Option<Tree> {
        version(2).map(|mut tree| {
            tree.get_mut(&PathBuf::from("changed")).unwrap().1 = b"by mistake".to_vec();
            tree
        })
    }
    fn dead(world: &World, at: &str) {
        is_old_or_new(world, "a/data", &[&mistaken(), &version(2)], at);
    }
    fn again(world: &World, _: &str) -> Said {
        world.run("a", &["restore", "docs", "--replace"]).code(0)
    }
    fn after(world: &World, at: &str) {
        assert!(content(&world.path("a/data")) == version(2), "{at}");
        assert!(world.serves("a"), "{at}");
        // What stood there was kept.
        let kept = std::fs::read_dir(world.path("a")).unwrap();
        let kept: Vec<_> = kept
            .map(|item| item.unwrap().path())
            .filter(|path| path.to_string_lossy().contains("/data.replaced-"))
            .collect();
        assert!(kept.iter().any(|path| content(path) == mistaken()), "{at}: {kept:?}");
    }
    let scenario = Scenario {
        host: "a",
        kind: "restore",
        words: &["restore", "docs", "--replace"],
        prepare,
        dead,
        again,
        after,
        guarded: true,
    };
    all(&base, &scenario);
}

/// It is started in what was restored, whether it ran before or not; and not in what was there before.
#[test]
fn a_restore_in_place_of_a_service_that_is_down() {
    let base = trees(CONTROLLED);
    base.run("a", &["backup", "docs"]).code(0);
    fn prepare(world: &World) {
        std::fs::write(world.path("a/data/changed"), "by mistake").unwrap();
    }
    fn dead(_: &World, _: &str) {}
    fn again(world: &World, at: &str) -> Said {
        let said = world.run("a", &["recover", "docs"]).code(0);
        let restored = content(&world.path("a/data")) == version(2);
        assert_eq!(world.serves("a"), restored, "{at}: {said:#?}");
        if !restored {
            world.run("a", &["restore", "docs", "--replace"]).code(0);
        }
        said
    }
    fn after(world: &World, at: &str) {
        assert!(content(&world.path("a/data")) == version(2), "{at}");
        assert!(world.serves("a"), "{at}");
    }
    let scenario = Scenario {
        host: "a",
        kind: "restore",
        words: &["restore", "docs", "--replace"],
        prepare,
        dead,
        again,
        after,
        guarded: false,
    };
    all(&base, &scenario);
}

#[test]
fn a_drill() {
    fn again(world: &World, _: &str) -> Said {
        world.run("a", &["drill", "docs"]).code(0)
    }
    fn after(world: &World, at: &str) {
        let drills = world.path("a/state/drills");
        let left = std::fs::read_dir(drills).map(|items| items.count()).unwrap_or_default();
        assert_eq!(left, 0, "{at}: a scratch copy is left");
        assert_eq!(world.points("a")[0]["drill"]["sound"], true, "{at}");
        assert!(content(&world.path("a/data")) == version(2), "{at}");
    }
    let scenario = Scenario {
        host: "a",
        kind: "drill",
        words: &["drill", "docs"],
        prepare: nothing,
        dead: |_, _| {},
        again,
        after,
        guarded: false,
    };
    all(&trees(""), &scenario);
}

/// Three points more, two of which are to go.
fn much(world: &World) {
    for version in [1, 2, 1] {
        fill(&world.path("a/data"), version);
        world.run("a", &["backup", "docs"]).code(0);
    }
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
}

/// No point is promised whose snapshot is gone.
fn every_point_is_there(world: &World, at: &str) {
    let said = world.run("a", &["--json", "snapshots", "docs"]).code(0).json();
    let points = said["services"][0]["snapshots"].as_array().unwrap();
    assert!(points.iter().all(|point| point["missing"] == false), "{at}: {points:?}");
    world.run("a", &["check", "docs", "--read-data"]).code(0);
    let target = world.path("early");
    let words = ["restore", "docs", "--dry-run", "--target", target.to_str().unwrap()];
    world.run("a", &words).code(0);
}

fn two_are_left(world: &World, at: &str) {
    assert_eq!(world.points("a").len(), 2, "{at}");
    history_is_whole(world, at);
}

#[test]
fn a_forget_with_a_prune() {
    const WORDS: &[&str] = &["forget", "docs", "--keep-last", "2", "--prune", "--max-unused=0%"];
    fn again(world: &World, _: &str) -> Said {
        world.run("a", WORDS).code(0)
    }
    let scenario = Scenario {
        host: "a",
        kind: "forget",
        words: WORDS,
        prepare: much,
        dead: every_point_is_there,
        again,
        after: two_are_left,
        guarded: false,
    };
    all(&trees(""), &scenario);
}

/// A standby at version 1, and a head at version 2. Both points are made here: in those of the
/// world that this is a copy of the tree has another path, and nothing of them could be reused.
pub(crate) fn behind(world: &World) {
    let data = world.path("a/data");
    if data.is_dir() {
        std::fs::remove_dir_all(&data).unwrap();
        fill(&data, 1);
        world.run("a", &["backup", "docs"]).code(0);
    }
    world.run("b", &["refresh", "docs"]).code(0);
    if data.is_dir() {
        fill(&data, 2);
    }
    world.run("a", &["backup", "docs"]).code(0);
}

fn standby_is_old_or_new(world: &World, at: &str) {
    is_old_or_new(world, "b/data", &[&None, &version(1), &version(2)], at);
}

pub(crate) fn refresh_again(world: &World, _: &str) -> Said {
    world.run("b", &["refresh", "docs"]).code(0)
}

pub(crate) fn standby_is_new(world: &World, at: &str) {
    assert!(content(&world.path("b/data")) == version(2), "{at}");
    // It knows what it holds: nothing of it looks as if somebody had written to it.
    world.run("b", &["refresh", "docs"]).code(0).says("already");
    let members = world.status("b")["members"].clone();
    assert_eq!(members[1]["importing"], false, "{at}: {members}");
}

const REFRESH: Scenario = Scenario {
    host: "b",
    kind: "refresh",
    words: &["refresh", "docs"],
    prepare: behind,
    dead: standby_is_old_or_new,
    again: refresh_again,
    after: standby_is_new,
    guarded: false,
};

#[test]
fn a_refresh() {
    all(&trees(""), &REFRESH);
}

#[test]
fn the_first_refresh() {
    fn prepare(world: &World) {
        world.run("a", &["backup", "docs"]).code(0);
    }
    all(&trees(""), &Scenario { prepare, ..REFRESH });
}

/// Two trees of one service are exchanged one after the other. In between nobody starts what is made of
/// both, and whoever comes next brings it to its end.
mod of_two_trees {
    use super::*;

    const NAMES: [&str; 2] = ["one", "two"];

    fn fill_both(world: &World, version: u8) {
        NAMES.iter().for_each(|name| fill(&world.path("a/data").join(name), version));
    }

    /// Both have joined; the primary is at version 1, and nothing was backed up.
    fn base(lines: &str) -> World {
        let world = World::new("files", lines);
        for host in ["a", "b"] {
            let file = world.path(host).join("mainstay.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            let data = world.path(host).join("data").display().to_string();
            let both = format!("paths = [\"{data}/one\", \"{data}/two\"]\n");
            std::fs::write(&file, text.replace(&format!("path = \"{data}\"\n"), &both)).unwrap();
            std::fs::create_dir(world.path(host).join("data")).unwrap();
            world.run(host, &["init"]).code(0);
        }
        fill_both(&world, 1);
        world
    }

    fn prepare(world: &World) {
        world.run("a", &["backup", "docs"]).code(0);
        world.run("b", &["refresh", "docs"]).code(0);
        fill_both(world, 2);
        world.run("a", &["backup", "docs"]).code(0);
    }

    /// Each tree is the old one or the new one, and only behind a shut gate is one of them old.
    fn dead(world: &World, host: &str, at: &str) {
        let trees = NAMES.map(|name| content(&world.path(host).join("data").join(name)));
        for tree in &trees {
            assert!(*tree == version(1) || *tree == version(2), "{at}: neither old nor new");
        }
        let between = trees[0] != trees[1];
        // The first of the two has just been exchanged.
        assert_eq!(between, at == "place:moved", "{at}");
        let gate = world.run(host, &["may-start", "docs"]);
        if between {
            gate.code(1).complains("half changed");
        }
    }

    #[track_caller]
    fn are_new(world: &World, host: &str, at: &str) {
        for name in NAMES {
            let tree = content(&world.path(host).join("data").join(name));
            assert!(tree == version(2), "{at}: {name}");
        }
        let gate = world.run(host, &["may-start", "docs"]);
        assert!(!gate.err.contains("half changed"), "{at}: {gate:#?}");
    }

    #[test]
    fn a_refresh() {
        let scenario = Scenario {
            prepare,
            dead: |world, at| dead(world, "b", at),
            after: |world, at| {
                are_new(world, "b", at);
                world.run("b", &["refresh", "docs"]).code(0).says("already");
            },
            ..REFRESH
        };
        and_more(&base(""), &scenario, &["place:moved"]);
    }

    #[test]
    fn a_restore() {
        const WORDS: &[&str] = &["restore", "docs", "--replace"];
        let scenario = Scenario {
            host: "a",
            kind: "restore",
            words: WORDS,
            prepare: |world| {
                fill_both(world, 2);
                world.run("a", &["backup", "docs"]).code(0);
                NAMES.iter().for_each(|name| {
                    std::fs::remove_dir_all(world.path("a/data").join(name)).unwrap();
                });
                fill_both(world, 1);
            },
            dead: |world, at| dead(world, "a", at),
            again: |world, _| world.run("a", WORDS).code(0),
            after: |world, at| {
                are_new(world, "a", at);
                assert!(world.serves("a"), "{at}");
            },
            guarded: false,
        };
        and_more(&base(CONTROLLED), &scenario, &["place:moved"]);
    }
}

/// The rows of the database of a host; none if there is none.
pub(crate) fn rows(world: &World, host: &str) -> Option<Vec<i64>> {
    let path = world.path(host).join("data");
    if !path.exists() {
        return None;
    }
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", path.display());
    let connection = rusqlite::Connection::open_with_flags(uri, flags).unwrap();
    let mut query = connection.prepare("select x from t order by x").unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    Some(rows.map(Result::unwrap).collect())
}

pub(crate) fn insert(world: &World, host: &str, value: i64) {
    let connection = rusqlite::Connection::open(world.path(host).join("data")).unwrap();
    connection
        .execute_batch("pragma journal_mode = delete; create table if not exists t (x);")
        .unwrap();
    connection.execute("insert into t values (?)", [value]).unwrap();
}

#[test]
fn a_refresh_of_a_database() {
    let base = World::new("sqlite", "");
    base.run("a", &["init"]).code(0);
    base.run("b", &["init"]).code(0);
    insert(&base, "a", 1);
    base.run("a", &["backup", "docs"]).code(0);
    insert(&base, "a", 2);
    fn dead(world: &World, at: &str) {
        let now = rows(world, "b");
        assert!(now == Some(vec![1]) || now == Some(vec![1, 2]), "{at}: {now:?}");
    }
    fn after(world: &World, at: &str) {
        assert_eq!(rows(world, "b"), Some(vec![1, 2]), "{at}");
        world.run("b", &["refresh", "docs"]).code(0).says("already");
    }
    all(&base, &Scenario { dead, after, ..REFRESH });
}

/// The one primary, as everybody sees it; its gate is open and the other's is closed.
#[track_caller]
fn is_primary(world: &World, primary: &str, at: &str) {
    for (host, may) in [("a", primary == "a"), ("b", primary == "b")] {
        assert_eq!(world.status(host)["primary"], primary, "{at}");
        world.run(host, &["may-start", "docs"]).code(i32::from(!may));
    }
}

/// What comes after a takeover that died: the same again, which brings one to its end that was past the
/// point of no return. One that had ended is not begun once more.
fn take_over_again(world: &World, words: &[&str], at: &str) -> Said {
    let mut said = world.run("b", words);
    if said.code != 0 {
        assert_eq!(world.status("b")["primary"], "b", "{at}: {said:#?}");
        assert!(at.ends_with("end"), "{at}: {said:#?}");
        said.err.push_str(&world.run("b", &["backup", "docs"]).code(0).err);
    }
    said
}

fn taken_over(world: &World, at: &str) {
    is_primary(world, "b", at);
    let status = world.status("b");
    assert_eq!((&status["generation"], &status["takeover"]), (&2.into(), &().into()), "{at}");
    world.run("a", &["backup", "docs"]).code(1);
    assert!(content(&world.path("b/data")) == version(2), "{at}");
    assert!(world.serves("b"), "{at}: it was not started");
    world.run("b", &["backup", "docs"]).code(0);
}

const PLANNED: &[&str] = &["takeover", "docs", "--planned", "--yes"];
const UNPLANNED: &[&str] =
    &["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"];

#[test]
fn a_planned_takeover() {
    fn prepare(world: &World) {
        start(world);
        world.run("b", &["refresh", "docs"]).code(0);
        world.run("a", &["offline", "docs"]).code(0);
    }
    let scenario = Scenario {
        host: "b",
        kind: "takeover",
        words: PLANNED,
        prepare,
        dead: standby_is_old_or_new,
        again: |world, at| take_over_again(world, PLANNED, at),
        after: taken_over,
        guarded: false,
    };
    all(&trees(CONTROLLED), &scenario);
}

#[test]
fn an_unplanned_takeover() {
    let scenario = Scenario {
        host: "b",
        kind: "takeover",
        words: UNPLANNED,
        prepare: |world| {
            behind(world);
            world.run("b", &["refresh", "docs"]).code(0);
        },
        dead: standby_is_old_or_new,
        again: |world, at| take_over_again(world, UNPLANNED, at),
        after: taken_over,
        guarded: false,
    };
    all(&trees(CONTROLLED), &scenario);
}

#[test]
fn going_offline() {
    fn after(world: &World, at: &str) {
        assert!(!world.serves("a"), "{at}");
        assert_eq!(world.status("a")["members"][0]["stopped"], true, "{at}");
        world.run("a", &["may-start", "docs"]).code(1);
        history_is_whole(world, at);
    }
    let scenario = Scenario {
        host: "a",
        kind: "offline",
        words: &["offline", "docs"],
        prepare: start,
        dead: head_follows_the_commit,
        again: |world, _| world.run("a", &["offline", "docs"]).code(0),
        after,
        guarded: false,
    };
    all(&trees(CONTROLLED), &scenario);
}

#[test]
fn going_online() {
    fn after(world: &World, at: &str) {
        assert!(world.serves("a"), "{at}");
        assert_eq!(world.status("a")["members"][0]["stopped"], false, "{at}");
        world.run("a", &["may-start", "docs"]).code(0);
    }
    let scenario = Scenario {
        host: "a",
        kind: "online",
        words: &["online", "docs"],
        prepare: |world| {
            start(world);
            world.run("a", &["offline", "docs"]).code(0);
        },
        dead: |_, _| (),
        again: |world, _| world.run("a", &["online", "docs"]).code(0),
        after,
        guarded: false,
    };
    all(&trees(CONTROLLED), &scenario);
}

#[test]
fn rejoining() {
    fn prepare(world: &World) {
        behind(world);
        world.run("b", &["refresh", "docs"]).code(0);
        std::fs::write(world.path("a/data/changed"), "not backed up").unwrap();
        world.run("b", UNPLANNED).code(0);
        world.run("b", &["backup", "docs"]).code(0);
    }
    fn after(world: &World, at: &str) {
        assert!(content(&world.path("a/data")) == version(2), "{at}");
        is_primary(world, "b", at);
        // What only the old primary had is put aside, once.
        let aside: Vec<_> = std::fs::read_dir(world.path("a"))
            .unwrap()
            .map(|item| item.unwrap().path())
            .filter(|path| path.to_string_lossy().contains("/data.diverged-"))
            .filter(|path| std::fs::read(path.join("changed")).unwrap() == b"not backed up")
            .collect();
        assert_eq!(aside.len(), 1, "{at}: {aside:?}");
        world.run("a", &["refresh", "docs"]).code(0).says("already");
    }
    let scenario = Scenario {
        host: "a",
        kind: "rejoin",
        words: &["rejoin", "docs", "--yes"],
        prepare,
        dead: |_, _| (),
        again: |world, _| world.run("a", &["rejoin", "docs", "--yes"]).code(0),
        after,
        guarded: false,
    };
    all(&trees(CONTROLLED), &scenario);
}

#[test]
fn cleaning_up() {
    // The next command is killed as well, while it cleans up after the first.
    let base = trees(CONTROLLED);
    let cases: Vec<String> = [
        "backup snapshot:done snapshot:undone",
        "backup snapshot:done end",
        "backup commit:done end",
        "refresh stage:done stage:undone",
        "refresh stage:begin announce:undone",
        "refresh place:begin settle:done",
        "refresh place:done end",
        "takeover claim:done claim:undone",
        "takeover raise:done finish:done",
        "takeover promote:begin end",
    ]
    .map(str::to_owned)
    .to_vec();
    each(&cases, |case| {
        let [kind, first, second] = case.split(' ').collect::<Vec<_>>()[..] else { panic!() };
        let world = base.copy();
        let words: &[&str] = match kind {
            "takeover" => UNPLANNED,
            "refresh" => &["refresh", "docs"],
            _ => &["backup", "docs"],
        };
        let host = if kind == "backup" { "a" } else { "b" };
        if kind != "backup" {
            behind(&world);
        }
        if kind == "takeover" {
            world.run("b", &["refresh", "docs"]).code(0);
        }
        die(world.command(host, words), first);
        die(world.command(host, words), second);
        match kind {
            "takeover" => {
                take_over_again(&world, words, case);
                taken_over(&world, case);
            }
            "refresh" => {
                world.run(host, words).code(0);
                standby_is_new(&world, case);
            }
            _ => {
                world.run(host, words).code(0);
                history_is_whole(&world, case);
            }
        }
        assert!(world.unfinished(host).is_empty(), "{case}");
        assert_eq!(world.staging(), [] as [PathBuf; 0], "{case}");
        let points = world.points(host);
        assert!(points.iter().all(|point| point["committed"] == true), "{case}: {points:?}");
    });
}
