//! A writer that is killed leaves nothing that looks like an object.

use mainstay_storage::{Key, Local, Storage};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LENGTH: usize = 32 << 20;

/// Starts a process that puts one large object again and again.
fn writer(root: &Path, verb: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::helper_writes", "--nocapture"])
        .env("STORAGE_TEST_WRITE", root)
        .env("STORAGE_TEST_VERB", verb)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn temporaries(dir: &Path) -> usize {
    let Ok(items) = fs::read_dir(dir) else { return 0 };
    let is_temporary =
        |item: &fs::DirEntry| item.file_name().to_string_lossy().starts_with(".mainstay-tmp-");
    items.flatten().filter(is_temporary).count()
}

fn killed_while_staged(verb: &str) {
    let dir = TempDir::new().unwrap();
    let storage = Local::open(dir.path()).unwrap();
    let key = Key::new("data/large").unwrap();
    let mut caught = 0;
    for _ in 0..5 {
        let mut child = writer(dir.path(), verb);
        let deadline = Instant::now() + Duration::from_secs(60);
        // There is a temporary file from the first byte to the rename: that is when it dies.
        while temporaries(&dir.path().join("data")) == caught {
            assert!(Instant::now() < deadline, "the writer never began");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        caught = temporaries(&dir.path().join("data"));
        let entries = storage.list("").unwrap();
        assert!(entries.len() <= 1, "{entries:?}");
        if !entries.is_empty() {
            assert_eq!(entries[0].key, key);
            assert!(storage.read(&key).unwrap() == vec![0xa5; LENGTH], "a partial object");
        }
    }
    assert!(caught > 0, "no writer was killed between stage and rename");
}

#[test]
fn a_killed_put_leaves_nothing_listed() {
    killed_while_staged("put");
}

#[test]
fn a_killed_put_if_absent_leaves_nothing_listed() {
    killed_while_staged("put_if_absent");
}

/// Not a test of its own: the writer that is killed.
#[test]
fn helper_writes() {
    let Some(root) = std::env::var_os("STORAGE_TEST_WRITE") else { return };
    let storage = Local::open(root).unwrap();
    let key = Key::new("data/large").unwrap();
    let bytes = vec![0xa5; LENGTH];
    loop {
        match std::env::var("STORAGE_TEST_VERB").unwrap().as_str() {
            "put" => storage.put(&key, &bytes).unwrap(),
            _ => storage.put_if_absent(&key, &bytes).map(|_| ()).unwrap(),
        }
    }
}
