//! Deleting what an operation needs: it is refused or waits, and judges anew when its turn comes.

use crate::cancel::cont;
use crate::rig::{Said, copy_program, run};
use crate::sqlite_log::files_below;
use crate::world::{CONTROLLED, Tree, World, content, fill, kill, state, wait_for};
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// Three points.
struct Past {
    world: World,
    names: Vec<String>,
    second: Option<Tree>,
    third: Option<Tree>,
}

fn past(lines: &str) -> Past {
    let world = World::new("files", lines);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    let mut versions = Vec::new();
    for version in 1..=3_u8 {
        fill(&world.path("a/data"), version);
        let noise = (0..50_000_u32).flat_map(|i| (i * u32::from(version) * 31).to_le_bytes());
        fs::write(world.path("a/data/noise"), noise.collect::<Vec<u8>>()).unwrap();
        world.run("a", &["backup", "docs"]).code(0);
        versions.push(content(&world.path("a/data")));
    }
    let third = versions.pop().unwrap();
    let second = versions.pop().unwrap();
    Past { names: names(&world), world, second, third }
}

impl Past {
    /// The same past, at another place. The standby holds the first point, and nobody needs the second.
    fn world(&self) -> World {
        let world = self.world.copy();
        world.run("b", &["refresh", "docs", "--snapshot", &self.names[0]]).code(0);
        world
    }
}

fn names(world: &World) -> Vec<String> {
    let points = world.points("a");
    points.iter().map(|point| point["name"].as_str().unwrap().to_owned()).collect()
}

/// Everything that a forget or a prune removes or replaces.
fn history(world: &World) -> Vec<PathBuf> {
    let dirs = ["data", "index", "snapshots"];
    let mut all: Vec<_> =
        dirs.iter().flat_map(|dir| files_below(&world.path("vault/docs").join(dir))).collect();
    all.sort();
    all
}

/// An operation that stands still. It does not outlive the test.
pub(crate) struct Held {
    child: Option<Child>,
    worker: u32,
}

impl Held {
    pub(crate) fn begin(world: &World, host: &str, words: &[&str], at: &str) -> Held {
        let mut command = world.command(host, words);
        command.env("MAINSTAY_TEST_STOP_AT", at).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        // A copy is no operation of a member, and has no worker; nor has who only looks.
        let worker = match words[0] {
            "copy" | "ls" | "dump" | "find" | "diff" | "stats" | "cat" => child.id(),
            _ => world.worker(host),
        };
        let held = Held { child: Some(child), worker };
        wait_for(&format!("{words:?} is at {at}"), || state(worker) == Some('T'));
        held
    }

    pub(crate) fn go_on(mut self) -> Output {
        cont(self.worker);
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    pub(crate) fn die(mut self) {
        kill(self.worker);
        self.child.take().unwrap().wait().unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let worker = self.worker.to_string();
            let _ = Command::new("kill").args(["-KILL", &worker]).status();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What removes says who is there, and removes nothing.
#[track_caller]
fn is_refused(world: &World, host: &str, point: &str, who: &str) {
    let before = (names(world), history(world));
    let removing = [
        &["forget", "docs", point, "--yes"][..],
        &["forget", "docs", "--keep-last", "1"],
        &["forget", "docs", "--keep-last", "1", "--prune"],
        &["prune", "docs"],
    ];
    for words in removing {
        let mut command = world.command(host, words);
        run(command.args(["--wait", "0s"])).code(11).complains(who);
    }
    // Looking at what would go takes nothing from anybody.
    world.run(host, &["forget", "docs", "--keep-last", "1", "--dry-run"]).code(0);
    world.run(host, &["prune", "docs", "--dry-run"]).code(0);
    assert_eq!((names(world), history(world)), before, "{host}");
}

const BUSY: &str = "this member is busy";
const LOCKED: &str = "the repository is locked";

#[test]
fn what_an_operation_needs_is_not_deleted_beside_it() {
    let past = past("");
    let (first, second) = (past.names[0].as_str(), past.names[1].as_str());
    // The operation, where it stands still, and what a delete on the same host is told.
    let cases = [
        (
            "a",
            &["restore", "docs", "--snapshot", second, "--target", "@/target"][..],
            "stage:begin",
        ),
        ("a", &["drill", "docs", "--snapshot", second], "stage:begin"),
        ("b", &["refresh", "docs", "--snapshot", second], "stage:begin"),
        // From the instant on at which it is chosen.
        ("b", &["refresh", "docs", "--snapshot", second], "refresh:chosen"),
        ("b", &["scrub", "docs"], "compare:begin"),
        ("a", &["backup", "docs"], "read:begin"),
        ("a", &["copy", "docs", "--to", "@/second"], "copy:snapshots"),
    ];
    for (host, words, at) in cases {
        let world = past.world();
        let here = world.path("").display().to_string();
        let words: Vec<String> = words.iter().map(|word| word.replace("@/", &here)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let other = if host == "a" { "b" } else { "a" };
        let held = Held::begin(&world, host, &words, at);
        is_refused(&world, other, second, LOCKED);
        is_refused(&world, host, second, if words[0] == "copy" { LOCKED } else { BUSY });

        // One that waits has its turn when the operation is over, and looks at everything again.
        let mut waits = world.command(other, &["forget", "docs", second, "--yes", "--wait", "60s"]);
        let waits = (words[0] != "drill").then(|| {
            let waits = waits.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            wait_for("the forget has begun", || !world.unfinished(other).is_empty());
            waits
        });
        let output = held.go_on();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        let forgotten = waits.map(|waits| waits.wait_with_output().unwrap());
        let said = forgotten.as_ref().map(|forgotten| {
            (forgotten.status.code(), String::from_utf8_lossy(&forgotten.stderr).into_owned())
        });
        let left = names(&world);
        match (words[0], said) {
            // It is what the standby holds now.
            ("refresh", Some((Some(1), said))) => {
                assert!(said.contains("the standby b holds it"), "{said}");
                assert!(content(&world.path("b/data")) == past.second);
                // And the one that it does not hold any more is free to go.
                world.run("a", &["forget", "docs", first, "--yes"]).code(0);
            }
            ("drill", None) => {
                let drilled = world.run("a", &["forget", "docs", second, "--yes"]).code(1);
                drilled.complains("the newest that was proven restorable");
                assert_eq!(names(&world), past.names);
            }
            (_, Some((Some(0), _))) => {
                assert!(!left.iter().any(|name| name == second), "{words:?}: {left:?}");
            }
            (_, said) => panic!("{words:?}: {said:?}"),
        }
        match words[0] {
            "restore" => assert!(content(&world.path("target")) == past.second),
            "backup" => assert_eq!(left.len(), 3),
            "copy" => {
                assert_eq!(files_below(&world.path("second/docs/snapshots")).len(), 3);
            }
            _ => {}
        }
        world.run(other, &["prune", "docs", "--max-unused", "0%"]).code(0);
        world.restic_check();
        let head = world.path("head").display().to_string();
        world.run("a", &["restore", "docs", "--target", &head]).code(0);
        assert!(content(&world.path("head")) == past.third, "{words:?}");
        assert!(world.unfinished("a").is_empty() && world.unfinished("b").is_empty());
    }
}

/// Whoever is dead needs nothing, and its lock goes with it.
#[test]
fn an_operation_that_was_killed_keeps_nobody_from_deleting() {
    let past = past("");
    let world = past.world();
    let target = world.path("target").display().to_string();
    let words = ["restore", "docs", "--snapshot", &past.names[1], "--target", &target];
    Held::begin(&world, "a", &words, "stage:begin").die();
    world.run("b", &["forget", "docs", &past.names[1], "--yes", "--prune"]).code(0);
    assert_eq!(names(&world), [past.names[0].clone(), past.names[2].clone()]);
    // What it had begun is cleaned up, and is not done any more: there is nothing to do it with.
    let said = world.run("a", &words).code(1);
    said.complains("had died").complains("no recovery point");
    assert!(!world.path("target").exists());
    assert_eq!(world.staging(), [] as [PathBuf; 0]);
    world.restic_check();
}

/// What is chosen is chosen under the lock: a point that goes before that is gone, and no failure of
/// the history.
#[test]
fn a_point_that_goes_before_it_is_chosen_is_missed_and_nothing_else() {
    let past = past("");
    let second = past.names[1].as_str();
    let cases = [
        ("a", &["restore", "docs", "--snapshot", second, "--target", "@/target"][..]),
        ("a", &["drill", "docs", "--snapshot", second]),
        ("b", &["refresh", "docs", "--snapshot", second]),
    ];
    for (host, words) in cases {
        let world = past.world();
        let held_before = content(&world.path("b/data"));
        let here = world.path("").display().to_string();
        let words: Vec<String> = words.iter().map(|word| word.replace("@/", &here)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let held = Held::begin(&world, host, &words, "start");
        let other = if host == "a" { "b" } else { "a" };
        let forget = ["forget", "docs", second, "--yes", "--prune", "--max-unused", "0%"];
        world.run(other, &forget).code(0);
        let output = held.go_on();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("no recovery point"), "{said}");
        assert!(!world.path("target").exists());
        assert_eq!(world.staging(), [] as [PathBuf; 0]);
        assert!(content(&world.path("b/data")) == held_before, "{words:?}");
        assert!(world.points("a").iter().all(|point| point["drill"].is_null()));
        // And nothing keeps the next one.
        world.run("b", &["refresh", "docs"]).code(0);
        assert!(content(&world.path("b/data")) == past.third, "{words:?}");
    }
}

/// The locks that are in the repository.
fn locks(world: &World) -> usize {
    fs::read_dir(world.path("vault/docs/locks")).map_or(0, Iterator::count)
}

/// Who only looks is one who needs it, too: it stays until that was done.
#[test]
fn what_is_looked_at_is_not_deleted_beside_that() {
    let past = past("");
    let world = past.world();
    let second = past.names[1].as_str();
    let noise = world.path("a/data/noise").display().to_string();
    // A copy of a world has the paths of the first one in its points.
    let noise =
        noise.replace(world.path("").to_str().unwrap(), past.world.path("").to_str().unwrap());
    let (point, tree) = (format!("docs:{second}"), format!("{second}:/"));
    let cases = [
        &["ls", "-r", &point][..],
        &["dump", "docs", &noise, "--snapshot", second],
        &["find", "docs", "noise"],
        &["diff", "docs", second, "latest"],
        &["stats", "docs"],
        &["cat", "docs", "tree", &tree],
    ];
    for words in cases {
        let held = Held::begin(&world, "a", words, "look:locked");
        is_refused(&world, "b", second, LOCKED);
        is_refused(&world, "a", second, LOCKED);
        // Adding goes on beside it, and so does looking.
        world.run("b", words).code(0);
        let output = held.go_on();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        assert_eq!(locks(&world), 0, "{words:?}");
        // Whoever is dead needs nothing.
        Held::begin(&world, "a", words, "look:locked").die();
        assert_eq!(locks(&world), 1, "{words:?}");
        world.run("b", &["prune", "docs", "--wait", "0s"]).code(0);
        assert_eq!(locks(&world), 0, "{words:?}");
        // And who asks for no lock is in nobody's way.
        let unlocked = [words, &["--no-lock"]].concat();
        let mut command = world.command("a", &unlocked);
        run(command.env("MAINSTAY_TEST_KILL_AT", "look:locked")).code(0);
    }
    // What is never removed is looked at without.
    let lock = ["cat", "docs", "lock"];
    run(world.command("a", &lock).env("MAINSTAY_TEST_KILL_AT", "look:locked")).code(0);
    world.run("b", &["forget", "docs", second, "--yes", "--prune", "--max-unused", "0%"]).code(0);
    world.restic_check();
}

/// A dump that nobody reads on from has chosen, and has what it needs until it is through.
#[test]
fn a_dump_that_takes_long_is_waited_for() {
    let past = past("");
    let world = past.world();
    let second = past.names[1].as_str();
    // More than any pipe holds, and of this point alone.
    let data = world.path("a/data");
    let large: Vec<u8> = (0..2_000_000_u32).flat_map(|i| (i * 77).to_le_bytes()).collect();
    fs::write(data.join("large"), &large).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    let with_it = names(&world).pop().unwrap();
    fs::remove_file(data.join("large")).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    let path = data.join("large").display().to_string();
    let mut dump = world.command("a", &["dump", "docs", &path, "--snapshot", &with_it]);
    let mut dump = dump.stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the dump has begun", || locks(&world) > 0);

    let forget = ["forget", "docs", &with_it, "--yes", "--prune", "--max-unused", "0%"];
    run(world.command("b", &forget).args(["--wait", "0s"])).code(11).complains(LOCKED);
    let mut waits = world.command("b", &forget);
    let waits = waits.args(["--wait", "60s"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let waits = waits.spawn().unwrap();
    wait_for("the forget has begun", || !world.unfinished("b").is_empty());
    let mut dumped = Vec::new();
    dump.stdout.take().unwrap().read_to_end(&mut dumped).unwrap();
    assert!(dump.wait().unwrap().success());
    assert!(dumped == large, "{} of {} bytes", dumped.len(), large.len());

    let waits = waits.wait_with_output().unwrap();
    assert!(waits.status.success(), "{waits:?}");
    world.run("a", &["dump", "docs", &path, "--snapshot", &with_it]).code(1);
    assert!(names(&world).iter().any(|name| name == second));
    world.restic_check();
}

/// A vault that cannot be written to is looked at by who says so.
#[test]
fn a_vault_that_is_only_to_be_read_is_looked_at_without_a_lock() {
    let past = past("");
    let world = past.world();
    let user = OnlyReads::of(&world);
    let point = format!("docs:{}", past.names[1]);
    let said = user.run(&["ls", &point]).code(1);
    said.complains("Permission denied").complains("Hint: Add `--no-lock`");
    user.run(&["ls", &point, "--no-lock"]).code(0).says("/.mainstay");
    user.run(&["stats", "docs", "--no-lock"]).code(0);
    let out = world.path("out");
    fs::create_dir(&out).unwrap();
    run(Command::new("chmod").arg("a+rwx").arg(&out)).code(0);
    let at = |name: &str| out.join(name).display().to_string();
    let (restored, rescued) = (at("restored"), at("rescued"));
    let restore = ["restore", "docs", "--target", &restored];
    user.run(&restore).code(1).complains("cannot be locked").complains("Hint: Add `--no-lock`");
    user.run(&[&restore[..], &["--no-lock"]].concat()).code(0);
    let (vault, password) = (world.path("vault"), world.path("password"));
    let (vault, password) = (vault.to_str().unwrap(), password.to_str().unwrap());
    let rescue = ["rescue", "--vault", vault, "--password-file", password];
    let said = user.run(&[&rescue[..], &["restore", "docs", "--target", &rescued]].concat());
    said.code(0).complains("nothing keeps what is read from being removed");
    for place in [restored, rescued] {
        let place = PathBuf::from(place);
        assert!(content(&place).unwrap().keys().eq(past.third.as_ref().unwrap().keys()));
        assert_eq!(fs::read(place.join("changed")).unwrap(), b"version 3");
    }
    assert_eq!(locks(&world), 0);
}

/// Somebody who may read everything of host `a`, and write to none of it but its state.
struct OnlyReads<'w> {
    world: &'w World,
    program: PathBuf,
}

impl<'w> OnlyReads<'w> {
    fn of(world: &'w World) -> OnlyReads<'w> {
        let program = world.path("mainstay");
        copy_program(&program);
        let root = world.path("").display().to_string();
        run(Command::new("chmod").args(["-R", "a+rX", &root])).code(0);
        let (state, vault) = (world.path("a/state"), world.path("vault").display().to_string());
        run(Command::new("chmod").args(["-R", "a+rwX"]).arg(state)).code(0);
        run(Command::new("chmod").args(["-R", "a-w", &vault])).code(0);
        OnlyReads { world, program }
    }

    fn run(&self, words: &[&str]) -> Said {
        let mut command = self.world.command("a", words);
        if rustix::process::geteuid().is_root() {
            let mut other = Command::new("setpriv");
            other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&self.program);
            other.args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
            other.env("MAINSTAY_CONFIG", self.world.path("a/mainstay.toml"));
            command = other;
        }
        run(&mut command)
    }
}

impl Drop for OnlyReads<'_> {
    fn drop(&mut self) {
        let vault = self.world.path("vault").display().to_string();
        let _ = Command::new("chmod").args(["-R", "u+w", &vault]).status();
    }
}

/// The dead hold no lock. What they were putting in place is brought to its end without the point.
#[test]
fn a_point_that_goes_after_it_was_put_in_place_bars_nobody() {
    let past = past("");
    for at in ["place:begin", "place:done", "settle:begin"] {
        let world = past.world();
        let (first, second) = (&past.names[0], &past.names[1]);
        let words = ["refresh", "docs", "--snapshot", second];
        let mut command = world.command("b", &words);
        run(command.env("MAINSTAY_TEST_KILL_AT", at)).code(137);
        world
            .run("a", &["forget", "docs", second, "--yes", "--prune", "--max-unused", "0%"])
            .code(0);
        world.run("b", &["recover", "docs"]).code(0);
        assert!(world.unfinished("b").is_empty(), "{at}");
        assert!(content(&world.path("b/data")) == past.second, "{at}");
        // It holds what is no point any more, and goes on from there; the one before it may go, too.
        world.run("a", &["forget", "docs", first, "--yes"]).code(0);
        world.run("b", &["refresh", "docs"]).code(0);
        assert!(content(&world.path("b/data")) == past.third, "{at}");
        world.restic_check();
    }
}

/// A candidate counts on the history as it was when it was judged.
#[test]
fn nothing_is_forgotten_while_somebody_takes_over() {
    let past = past(CONTROLLED);
    let world = past.world();
    world.run("b", &["refresh", "docs"]).code(0);
    let words = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"];
    let held = Held::begin(&world, "b", &words, "claim:done");
    let forget = ["forget", "docs", &past.names[1], "--yes"];
    for words in [&forget[..], &["forget", "docs", "--keep-last", "1", "--prune"]] {
        world.run("a", words).code(11).complains("takeover");
        assert_eq!(names(&world), past.names);
        assert!(world.unfinished("a").is_empty());
    }
    assert_eq!(held.go_on().status.code(), Some(0));
    world.run("a", &forget).code(0);
    assert_eq!(names(&world), [past.names[0].clone(), past.names[2].clone()]);
    assert!(content(&world.path("b/data")) == past.third);
    world.restic_check();
}
