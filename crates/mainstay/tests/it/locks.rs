//! Lock files that nobody can read, as the commands meet them.

use crate::rig::{restic_at, run};
use crate::world::{World, fill, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Much less than the time for which commands wait for a lock that they can understand.
const AT_ONCE: Duration = Duration::from_secs(25);

fn world() -> World {
    let world = World::new("files", "keep = { last = 1 }\n");
    fill(&world.path("a/data"), 1);
    world.run("a", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    world
}

/// The lock of a restic that was killed.
fn lock_of_restic(repository: &Path, password: &Path) -> PathBuf {
    let mut working = restic_at(repository, password)
        .args(["--no-cache", "backup", "--stdin", "--stdin-filename", "piped"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lock = || {
        let files = fs::read_dir(repository.join("locks")).ok()?;
        let mut files = files.map(|file| file.unwrap().path());
        files.find(|file| file.file_name().unwrap().len() == 64)
    };
    wait_for("restic's lock", || lock().is_some());
    working.kill().unwrap();
    working.wait().unwrap();
    lock().unwrap()
}

fn put(world: &World, name: &str, bytes: &[u8]) -> PathBuf {
    let dir = world.path("vault/docs/locks");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_lock_that_cannot_be_read_is_named_at_once_and_unlock_removes_it() {
    let world = world();
    let password = world.path("password");
    let whole = lock_of_restic(&world.path("vault/docs"), &password);
    let bytes = fs::read(&whole).unwrap();
    fs::remove_file(&whole).unwrap();
    let name = whole.file_name().unwrap().to_str().unwrap().to_owned();
    // Of another repository: whole, and sealed with a key that is not ours.
    let elsewhere = world.path("elsewhere");
    run(restic_at(&elsewhere, &password).args(["--no-cache", "init"])).code(0);
    let strange = lock_of_restic(&elsewhere, &password);
    let strange_name = strange.file_name().unwrap().to_str().unwrap().to_owned();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let cases = [
        (name.as_str(), bytes[..bytes.len() / 2].to_vec()),
        (name.as_str(), flipped),
        (strange_name.as_str(), fs::read(&strange).unwrap()),
        (&"0a".repeat(32), b"not a lock at all".to_vec()),
        // Sparse, and larger than any memory.
        (&"0b".repeat(32), Vec::new()),
    ];
    let target = world.path("target").display().to_string();
    let commands = [
        &["backup", "docs"][..],
        &["check", "docs"],
        &["restore", "docs", "--target", &target],
        &["forget", "docs"],
        &["prune", "docs"],
    ];
    for (name, bytes) in cases {
        let path = put(&world, name, &bytes);
        if bytes.is_empty() {
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        }
        for words in commands {
            let begun = Instant::now();
            let said = world.run("a", words).code(1).complains(name);
            said.complains("mainstay unlock");
            assert!(begun.elapsed() < AT_ONCE, "{words:?} waited for {name}");
            assert!(path.exists(), "{words:?} removed {name} unasked");
        }
        assert_eq!(world.points("a").len(), 2, "something was done all the same");
        world.run("a", &["unlock", "docs"]).code(0).says("1 lock removed").says(name);
        assert!(!path.exists());
    }
    world.run("a", &["backup", "docs"]).code(0);
    world.run("a", &["forget", "docs", "--prune"]).code(0);
    world.restic_check();
}

/// A writer that died before its lock was whole left nothing that says so; but what removes data
/// does not pass it over in silence.
#[test]
fn an_empty_lock_stops_only_what_removes_data() {
    let world = world();
    let name = "0c".repeat(32);
    let path = put(&world, &name, b"");
    world.run("a", &["backup", "docs"]).code(0);
    world.run("a", &["check", "docs"]).code(0);
    for words in [&["forget", "docs"][..], &["prune", "docs"]] {
        world.run("a", words).code(1).complains(&name).complains("mainstay unlock");
    }
    assert!(path.exists());
    world.run("a", &["unlock", "docs"]).code(0).says("1 lock removed");
    world.run("a", &["forget", "docs", "--prune"]).code(0);
    world.restic_check();
}

/// What runs by itself and meets one does not take it for somebody who works: it says so.
#[test]
fn what_is_due_fails_at_a_lock_that_cannot_be_read() {
    let world = World::new("files", "schedule = \"0 0 1 1 *\"\n");
    fill(&world.path("a/data"), 1);
    world.run("a", &["init"]).code(0);
    let name = "0d".repeat(32);
    put(&world, &name, b"garbage");
    world.run("a", &["run-due"]).code(1).complains(&name);
    world.run("a", &["unlock", "docs"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    assert_eq!(world.points("a").len(), 1);
}
