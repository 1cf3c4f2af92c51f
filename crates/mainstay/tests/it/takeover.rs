//! Takeover between two and three hosts: one primary, whatever happens.

use crate::rig::{Said, run};
use crate::world::{CONTROLLED, World, content, fill, wait_for};
use std::fs;
use std::process::{Command, Stdio};

pub(crate) const FORCED: &[&str] =
    &["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"];

/// A primary that runs, and a standby that has all that it has.
pub(crate) fn ready(lines: &str) -> World {
    let world = World::new("files", &format!("{CONTROLLED}{lines}"));
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    assert_eq!(world.service("a", "start"), 0);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    world
}

/// Kills a command at a line of its journal.
#[track_caller]
fn die(mut command: Command, at: &str) {
    let status = command.env("MAINSTAY_TEST_KILL_AT", at).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(137), "{at}");
}

#[track_caller]
pub(crate) fn gate(world: &World, host: &str, open: bool) -> Said {
    world.run(host, &["may-start", "docs"]).code(i32::from(!open))
}

#[test]
fn of_two_candidates_one_wins() {
    let lines = "[service.docs.hooks]\nfence = \"while [ -d @HERE@ ] && [ ! -e @HERE@/go ]; do sleep 0.02; done\"\n";
    let world = ready(lines);
    world.define("c", "standby", "files", &format!("{CONTROLLED}{lines}"));
    world.run("c", &["init"]).code(0);
    world.run("c", &["refresh", "docs"]).code(0);
    let mut candidates = ["b", "c"].map(|host| {
        let mut command = world.command(host, &["takeover", "docs", "--yes"]);
        (host, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    });
    // The winner is at its fence and stays there until the loser is gone.
    let mut loser = None;
    wait_for("one of them is refused", || {
        loser = candidates.iter_mut().position(|(_, child)| child.try_wait().unwrap().is_some());
        loser.is_some()
    });
    fs::write(world.path("go"), "").unwrap();
    let mut codes = candidates.map(|(host, child)| {
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), host, String::from_utf8_lossy(&output.stderr).into_owned())
    });
    codes.sort();
    let [(0, winner, _), (1 | 11, other, said)] = &codes else { panic!("{codes:?}") };
    assert!(said.contains("takeover") || said.contains("taking over"), "{said}");
    for host in ["a", "b", "c"] {
        let status = world.status(host);
        assert_eq!(status["primary"], *winner, "{status}");
        assert_eq!(status["generation"], 2, "{status}");
        gate(&world, host, host == *winner);
        assert!(world.unfinished(host).is_empty());
    }
    assert!(world.serves(winner) && !world.serves(other));
}

#[test]
fn an_old_primary_is_refused_everything() {
    let world = ready("");
    fs::write(world.path("a/data/changed"), "never backed up").unwrap();
    world.run("b", FORCED).code(0);
    world.run("a", &["backup", "docs"]).code(1);
    world.run("a", &["refresh", "docs"]).code(1);
    world.run("a", &["online", "docs"]).code(1).complains("rejoin");
    let segment = world.path("000000010000000000000001");
    fs::write(&segment, vec![0; 16 << 20]).unwrap();
    let words = ["wal", "push", "docs", segment.to_str().unwrap()];
    assert_ne!(world.run("a", &words).code, 0);
    gate(&world, "a", false).complains("rejoin");
    gate(&world, "b", true);
    assert_eq!(world.points("b").len(), 1);
    world.run("b", &["backup", "docs"]).code(0);
    // Even one that was asleep in the middle of a backup commits nothing.
    world.run("a", &["rejoin", "docs", "--yes"]).code(0);
    gate(&world, "a", false);
}

#[test]
fn a_backup_that_was_overtaken_by_a_takeover_does_not_count() {
    let lines = "quiesce = \"freeze\"\n[service.docs.hooks]\nthaw = \"true\"\n\
                 freeze = \"touch @HOST@/frozen; while [ -d @HERE@ ] && [ ! -e @HERE@/go ]; do sleep 0.02; done\"\n";
    let world = ready("");
    world.define("a", "primary", "files", &format!("{CONTROLLED}{lines}"));
    fill(&world.path("a/data"), 2);
    let mut late = world.command("a", &["backup", "docs"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the backup is under way", || world.path("a/frozen").exists());
    world.run("b", FORCED).code(0);
    let head = world.head("b");
    fs::write(world.path("go"), "").unwrap();
    assert_eq!(late.wait().unwrap().code(), Some(1));
    assert_eq!(world.head("b"), head);
    let points = world.points("b");
    assert!(points.iter().all(|point| point["committed"] == true), "{points:?}");
    assert!(world.unfinished("a").is_empty());
}

/// What the primary still stores would be in nobody's history: it stops by itself, and its service
/// goes on (or is fenced; that is not the backup's to say).
#[test]
fn a_backup_gives_way_to_a_takeover() {
    let lines = "quiesce = \"freeze\"\n[service.docs.hooks]\nthaw = \"touch @HOST@/thawed\"\n\
                 freeze = \"touch @HOST@/frozen; while [ -d @HERE@ ] && [ ! -e @HERE@/go ]; do sleep 0.02; done\"\n";
    let world = ready("");
    world.define("a", "primary", "files", &format!("{CONTROLLED}{lines}"));
    fill(&world.path("a/data"), 2);
    let late = world.command("a", &["backup", "docs"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the backup is under way", || world.path("a/frozen").exists());
    world.run("b", FORCED).code(0);
    // Nobody lets its hook go on.
    let output = late.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("gave way to a takeover: b"), "{said}");
    assert!(world.path("a/thawed").exists());
    assert!(world.unfinished("a").is_empty());
    assert_eq!(world.points("b").len(), 1);
}

#[test]
fn a_vault_that_went_back_is_refused() {
    let world = ready("");
    let copy = |from: &str, to: &str| {
        run(Command::new("cp").arg("-a").arg(world.path(from)).arg(world.path(to))).code(0);
    };
    copy("vault", "older");
    world.run("b", FORCED).code(0);
    gate(&world, "a", false);
    fs::rename(world.path("vault"), world.path("newer")).unwrap();
    copy("older", "vault");
    // The old vault says that a is the primary; both know better.
    for host in ["a", "b"] {
        gate(&world, host, false);
        assert_ne!(world.run(host, &["backup", "docs"]).code, 0, "{host}");
        assert_ne!(world.run(host, &["refresh", "docs"]).code, 0, "{host}");
        assert_ne!(world.run(host, FORCED).code, 0, "{host}");
    }
    fs::remove_dir_all(world.path("vault")).unwrap();
    fs::rename(world.path("newer"), world.path("vault")).unwrap();
    gate(&world, "b", true);
}

#[test]
fn without_the_vault_the_declared_policy_holds() {
    let world = ready("");
    fs::rename(world.path("vault"), world.path("gone")).unwrap();
    gate(&world, "a", false).complains("refuse");
    gate(&world, "b", false);
    for host in ["a", "b"] {
        let file = world.path(host).join("mainstay.toml");
        let text = fs::read_to_string(&file).unwrap();
        let vault = "[vault]\nwhen-unreachable = \"last-known\"";
        fs::write(file, text.replace("[vault]", vault)).unwrap();
    }
    gate(&world, "a", true);
    gate(&world, "b", false);
    fs::rename(world.path("gone"), world.path("vault")).unwrap();
    world.run("b", FORCED).code(0);
    gate(&world, "a", false);
    fs::rename(world.path("vault"), world.path("gone")).unwrap();
    gate(&world, "a", false);
    gate(&world, "b", true);
}

/// As after a loss of power everywhere: a key server that is not up yet, or a mount that is not there.
#[test]
fn without_the_secret_of_the_vault_it_is_as_without_the_vault() {
    let world = ready("");
    let file = world.path("a/mainstay.toml");
    let sound = fs::read_to_string(&file).unwrap();
    let (here, key) = (world.path("").display().to_string(), "password-file = \"@/password\"");
    let key = key.replace('@', here.trim_end_matches('/'));
    assert!(sound.contains(&key), "{sound}");
    let by = |source: &str, policy: &str| {
        let text = sound.replace(&key, &source.replace('@', &here));
        fs::write(&file, text.replace("[vault]", &format!("[vault]\n{policy}"))).unwrap();
    };
    let asked = || world.run("a", &["may-start", "--fail-when-unreachable", "docs"]);
    for source in [
        "password-command = \"test -e @/up && cat @/password\"",
        "password-command = \"cat @/password-there | cat\"",
        "password-file = \"@/mounted/password\"",
    ] {
        by(source, "");
        asked().code(255).complains("the vault cannot be asked").complains("refuse");
        gate(&world, "a", false);
        by(source, "when-unreachable = \"last-known\"");
        asked().code(0);
    }
    // It comes up.
    by("password-command = \"test -e @/up && cat @/password\"", "");
    fs::write(world.path("up"), "").unwrap();
    asked().code(0);
    // One that is there and wrong is an answer of the vault's.
    by("password-command = \"echo wrong\"", "when-unreachable = \"last-known\"");
    asked().code(1);
}

/// Whoever is the primary since just now has to promote its copy first, vault or not.
#[test]
fn without_the_vault_a_copy_that_is_not_promoted_does_not_serve() {
    let world = ready("");
    let file = world.path("b/mainstay.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[vault]", "[vault]\nwhen-unreachable = \"last-known\""))
        .unwrap();
    die(world.command("b", FORCED), "raise:done");
    fs::rename(world.path("vault"), world.path("gone")).unwrap();
    gate(&world, "b", false).complains("not promoted");
    fs::rename(world.path("gone"), world.path("vault")).unwrap();
    gate(&world, "b", false).complains("not promoted");
    world.run("b", &["recover", "docs"]).code(0);
    fs::rename(world.path("vault"), world.path("gone")).unwrap();
    gate(&world, "b", true);
}

#[test]
fn a_planned_takeover_loses_nothing_and_goes_back() {
    // Who is to hand over is not cut off.
    let world = ready("[service.docs.hooks]\nfence = \"touch @HERE@/fenced\"\n");
    fill(&world.path("a/data"), 2);
    let words = ["takeover", "docs", "--planned", "--yes"];
    // It waits for the old primary, which hands everything over.
    let mut command = world.command("b", &words);
    let waits = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the takeover is claimed", || !world.status("a")["takeover"].is_null());
    let log = || world.run("b", &["logs", "docs"]).out;
    wait_for("it waits", || log().contains("for a to stop"));
    world.run("a", &["offline", "docs"]).code(0);
    let output = waits.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    // Nobody has to guess what it waits for.
    assert!(said.contains("for a to stop: run `mainstay offline docs` there"), "{said}");
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")));
    assert!(world.serves("b") && !world.serves("a"));
    // Nothing that was taken over is brought back by `online`, and nobody is told so.
    gate(&world, "a", false).complains("was taken over by b").complains("mainstay rejoin");

    fs::write(world.path("b/data/changed"), "written to b").unwrap();
    world.run("b", &["backup", "docs"]).code(0);
    world.run("a", &["rejoin", "docs", "--yes"]).code(0);
    fs::write(world.path("b/data/last"), "written to b at last").unwrap();
    world.run("b", &["offline", "docs"]).code(0);
    world.run("a", &words).code(0);
    assert!(content(&world.path("a/data")) == content(&world.path("b/data")));
    assert!(world.serves("a") && !world.serves("b"));
    assert_eq!(world.status("a")["generation"], 3);
    gate(&world, "a", true);
    gate(&world, "b", false);
    assert!(!world.path("fenced").exists());
}

#[test]
fn a_claim_is_given_back() {
    let world = ready("");
    die(world.command("b", FORCED), "claim:done");
    assert!(!world.status("a")["takeover"].is_null());
    // An unplanned one may have fenced the primary already.
    gate(&world, "a", false);
    // By its id: without one it is shown, and there is nobody to ask.
    let claim = world.status("a")["takeover"]["id"].as_str().expect("an id").to_owned();
    world.run("a", &["takeover", "docs", "--abandon"]).code(1).complains(&claim);
    world.run("a", &["takeover", "docs", "--abandon=another"]).code(1);
    assert!(!world.status("a")["takeover"].is_null());
    let by_id = format!("--abandon={claim}");
    world.run("a", &["takeover", "docs", &by_id]).code(0).says("given back");
    assert!(world.status("a")["takeover"].is_null());
    gate(&world, "a", true);
    world.run("a", &["backup", "docs"]).code(0);
    // Past the point of no return there is nothing to give back.
    world.run("b", &["refresh", "docs"]).code(0);
    die(world.command("b", FORCED), "raise:done");
    world
        .run("a", &["takeover", "docs", "--abandon", "--yes"])
        .code(1)
        .complains("only go forward");
    gate(&world, "a", false);
    world.run("b", &["backup", "docs"]).code(0).complains("had died");
    gate(&world, "b", true);
    assert!(world.serves("b"));
}

#[test]
fn a_gate_that_is_shut_is_shown_once() {
    let world = ready("");
    let why = "Nothing proves that a does not serve";
    let said = world.run("b", &["takeover", "docs", "--dry-run"]).code(1).says(why);
    assert!(
        said.err.contains("refused by: primary-not-fenced") && !said.err.contains(why),
        "{said:#?}"
    );
    // Where the plan is not shown the error says it.
    world.run("b", &["-q", "takeover", "docs", "--dry-run"]).code(1).complains(why);
}

#[test]
fn gates_refuse_with_the_reason() {
    let world = World::new("files", CONTROLLED);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    assert_eq!(world.service("a", "start"), 0);
    world.run("a", &["backup", "docs"]).code(0);
    // It holds no point.
    assert_ne!(world.run("b", FORCED).code, 0);
    world.run("b", &["refresh", "docs"]).code(0);
    // Nobody says that the old primary does not serve.
    let words = ["takeover", "docs", "--yes"];
    world.run("b", &words).code(1).complains("primary-not-fenced");
    // A planned one waits, and gives up.
    let words = ["takeover", "docs", "--planned", "--yes", "--patience", "1s"];
    world.run("b", &words).code(1).complains("offline");
    assert!(world.status("a")["takeover"].is_null());
    // The primary cannot take over from itself.
    assert_ne!(world.run("a", FORCED).code, 0);
    gate(&world, "a", true);
    assert_eq!(world.status("a")["generation"], 1);
    assert!(world.serves("a"));
}

#[test]
fn a_hook_of_a_takeover_that_hangs_is_ended_and_the_next_one_runs() {
    let lines = "hook-timeout = \"1s\"\n[service.docs.hooks]\nfence = \"sleep 86400\"\n\
                 promoted = \"sleep 86400\"\nroute = \"touch @HOST@/routed\"\n\
                 after-refresh = \"if [ -e @HOST@/hangs ]; then sleep 86400; fi\"\n";
    let world = ready(lines);
    fs::write(world.path("b/hangs"), "").unwrap();
    world.run("b", &["refresh", "docs"]).code(1).complains("`after-refresh` was ended after 1 s");
    // It proves nothing.
    world.run("b", &["takeover", "docs", "--yes"]).code(1).complains("`fence` was ended after 1 s");
    assert!(!world.serves("b"));
    let said = world.run("b", FORCED).code(0);
    let told = format!("{}{}", said.out, said.err);
    assert!(told.contains("`promoted` was ended after 1 s"), "{told}");
    assert!(world.path("b/routed").exists() && world.serves("b"));
}

/// How long it took until the new primary served is kept, for every host, and is what an RTO is judged by
/// where a standby is there: not by a restore, which nobody would wait for.
#[test]
fn what_a_takeover_took_is_kept_and_judged() {
    let lines = "rto = \"1s\"\n[service.docs.hooks]\nfence = \"sleep 1.2\"\n";
    let world = ready(lines);
    world.define("c", "standby", "files", &format!("{CONTROLLED}{lines}"));
    world.run("c", &["init"]).code(0);
    world.run("c", &["refresh", "docs"]).code(0);
    world.run("a", &["drill", "docs"]).code(0);
    assert!(world.status("c")["rto-kept"].is_null(), "a drill measures no takeover");
    let done = world.run("b", &["takeover", "docs", "--yes", "--json"]).code(0).json();
    let took = done["done"]["serving-seconds"].as_f64().unwrap();
    assert!(took >= 1.2 && took <= done["done"]["seconds"].as_f64().unwrap(), "{done}");
    for host in ["b", "c"] {
        let status = world.status(host);
        let last = &status["last-takeover"];
        assert_eq!((&last["to"], &status["rto-kept"]), (&"b".into(), &false.into()), "{status}");
        let kept = last["serving-seconds"].as_f64().unwrap();
        assert!((kept - took).abs() < 0.01, "{kept} and {took}");
    }
    world.run("b", &["status", "docs"]).says("which served after");
}
