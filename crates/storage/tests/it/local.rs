//! A directory: what is not ours in it, what vanishes under it, what a full disk does to it.

use crate::not_shown::not_shown;
use mainstay_storage::{Error, ErrorKind, Key, Local, Options, Put, Storage, open};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn names(storage: &dyn Storage) -> Vec<String> {
    storage.list("").unwrap().into_iter().map(|entry| entry.key.to_string()).collect()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn a_missing_vault_is_not_an_empty_one() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("not/mounted");
    let storage = Local::open(&root).unwrap();
    let e = storage.list("").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(e.to_string().contains("is its disk mounted?"), "{e}");
    assert_eq!(kind(storage.list("mainstay/state")), ErrorKind::NotFound);
    assert_eq!(kind(storage.read(&key("config"))), ErrorKind::NotFound);
    storage.delete(&key("config")).unwrap();
    assert!(!root.exists());
    storage.put(&key("a/b"), b"x").unwrap();
    assert_eq!(names(&storage), ["a/b"]);
}

#[test]
fn a_vault_that_vanishes_is_an_error_and_is_not_made_anew() {
    let dir = TempDir::new().unwrap();
    let (root, aside) = (dir.path().join("vault"), dir.path().join("aside"));
    fs::create_dir(&root).unwrap();
    let storage = Local::open(&root).unwrap();
    storage.put(&key("a"), b"x").unwrap();
    fs::rename(&root, &aside).unwrap();
    assert_eq!(kind(storage.list("")), ErrorKind::Unavailable);
    assert_eq!(kind(storage.put(&key("b"), b"x")), ErrorKind::Unavailable);
    assert_eq!(kind(storage.put_if_absent(&key("a"), b"x")), ErrorKind::Unavailable);
    assert!(!root.exists());
    fs::rename(&aside, &root).unwrap();
    assert_eq!(storage.put_if_absent(&key("a"), b"x").unwrap(), Put::Exists);
}

/// Needs rights to mount; without them there is nothing to try.
struct Tmpfs<'a>(&'a Path);

impl Tmpfs<'_> {
    fn mount(at: &Path) -> Option<Tmpfs<'_>> {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(at).output();
        match mount {
            Ok(done) if is_root() && done.status.success() => Some(Tmpfs(at)),
            tried => {
                not_shown(&format!("no tmpfs can be mounted here: {tried:?}"));
                None
            }
        }
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_disk_that_is_unmounted_under_a_vault_is_an_error_and_nothing_is_written_beneath() {
    let dir = TempDir::new().unwrap();
    let Some(mounted) = Tmpfs::mount(dir.path()) else { return };
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("state/1"), b"x").unwrap();
    drop(mounted);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "it is unmounted");
    assert_eq!(kind(storage.list("state")), ErrorKind::Unavailable);
    assert_eq!(kind(storage.put(&key("state/2"), b"x")), ErrorKind::Unavailable);
    assert_eq!(kind(storage.put_if_absent(&key("state/1"), b"x")), ErrorKind::Unavailable);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_leaves_no_partial_object_and_what_was_there() {
    let dir = TempDir::new().unwrap();
    let Some(_mounted) = Tmpfs::mount(dir.path()) else { return };
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("old"), b"old").unwrap();
    let large = vec![7; 1 << 20];
    assert_eq!(kind(storage.put(&key("new"), &large)), ErrorKind::NoSpace);
    assert_eq!(kind(storage.put(&key("old"), &large)), ErrorKind::NoSpace);
    assert_eq!(kind(storage.put_if_absent(&key("new"), &large)), ErrorKind::NoSpace);
    assert_eq!(names(&storage), ["old"]);
    assert_eq!(storage.read(&key("old")).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    assert!(storage.free_bytes().unwrap().unwrap() > 200 << 10, "nor its space");
    storage.put(&key("new"), b"small").unwrap();
}

#[test]
fn space_is_kept_back_where_there_is_enough_and_nobody_sees_it() {
    let dir = TempDir::new().unwrap();
    let storage = Local::open(dir.path().join("vault")).unwrap();
    storage.keep_reserve().unwrap();
    assert!(!storage.give_up_reserve().unwrap(), "there is no vault yet");
    assert!(!dir.path().join("vault").exists());
    storage.put(&key("a"), b"x").unwrap();
    let before = storage.free_bytes().unwrap().unwrap();
    for _ in 0..2 {
        storage.keep_reserve().unwrap();
    }
    let kept = fs::metadata(dir.path().join("vault/.mainstay~reserve")).unwrap();
    assert!(before > 64 << 20, "the disk of this test is nearly full");
    assert!(kept.blocks() * 512 >= 8 << 20, "it takes no space: {kept:?}");
    assert_eq!(names(&storage), ["a"]);
    assert_eq!(storage.first_parts().unwrap(), ["a"]);
    assert_eq!(storage.remove_leftovers("").unwrap(), 0);
    assert!(storage.give_up_reserve().unwrap());
    assert!(!storage.give_up_reserve().unwrap());

    let Some(mounted) = Tmpfs::mount(dir.path()) else { return };
    let storage = Local::open(dir.path()).unwrap();
    storage.keep_reserve().unwrap();
    assert!(!storage.give_up_reserve().unwrap(), "a small disk is not made smaller");
    drop(mounted);
}

#[test]
fn an_unreadable_directory_is_an_error_and_not_an_empty_list() {
    let dir = TempDir::new().unwrap();
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("data/aa/1"), b"x").unwrap();
    let hidden = dir.path().join("data/aa");
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o000)).unwrap();
    if is_root() {
        // Root reads everything: ask as another user, in a process of its own.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "local::helper_lists", "--nocapture"])
            .env("STORAGE_TEST_LIST", dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("listed: Permission"), "{said}{output:?}");
    } else {
        assert_eq!(kind(storage.list("")), ErrorKind::Permission);
    }
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Not a test of its own: the other user's half of the one above.
#[test]
fn helper_lists() {
    let Some(root) = std::env::var_os("STORAGE_TEST_LIST") else { return };
    let storage = Local::open(root).unwrap();
    match storage.list("data") {
        Ok(entries) => println!("listed: {} entries", entries.len()),
        Err(e) => println!("listed: {:?}", e.kind()),
    }
}

#[test]
fn what_is_not_ours_is_not_listed_and_holds_nobody_up() {
    let dir = TempDir::new().unwrap();
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("data/1"), b"x").unwrap();
    fs::write(dir.path().join("data/with space"), b"x").unwrap();
    fs::write(dir.path().join("data/.mainstay-tmp-0123"), b"x").unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    symlink("nowhere", dir.path().join("data/broken")).unwrap();
    let fifo = dir.path().join("data/fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert_eq!(names(&storage), ["data/1"]);
    // Opening a FIFO for reading waits for a writer; this must not.
    let e = storage.read(&key("data/fifo")).unwrap_err();
    assert!(e.to_string().contains("data/fifo"), "{e}");
    assert!(storage.read(&key("data")).is_err());
}

#[test]
fn a_loop_of_links_ends() {
    let dir = TempDir::new().unwrap();
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("data/1"), b"x").unwrap();
    for name in ["data/loop", "data/again", "data/more"] {
        symlink("..", dir.path().join(name)).unwrap();
    }
    storage.put(&key("config"), b"x").unwrap();
    assert_eq!(names(&storage), ["config", "data/1"]);
    assert_eq!(storage.list("data").unwrap().len(), 1);
}

#[test]
fn a_part_that_was_moved_to_another_place_by_a_link_is_still_listed() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    symlink(other.path(), dir.path().join("data")).unwrap();
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("data/aa/1"), b"12345").unwrap();
    assert!(other.path().join("aa/1").exists());
    let entries = storage.list("").unwrap();
    assert_eq!((entries[0].key.as_str(), entries[0].size_bytes), ("data/aa/1", 5));
}

#[test]
fn a_directory_that_somebody_removed_is_made_again() {
    let dir = TempDir::new().unwrap();
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("data/aa/1"), b"x").unwrap();
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    storage.put(&key("data/aa/2"), b"x").unwrap();
    assert_eq!(names(&storage), ["data/aa/2"]);
}

#[test]
fn only_old_leftovers_are_removed() {
    let dir = TempDir::new().unwrap();
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("docs/data/1"), b"x").unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let leave = |name: &str, age: Duration| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"half").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        path
    };
    let old = leave("docs/data/.mainstay-tmp-1", day * 2);
    let young = leave("docs/data/.mainstay-tmp-2", day / 2);
    let future = leave("docs/.mainstay-tmp-3", Duration::ZERO);
    let other = leave("shop/.mainstay-tmp-4", day * 2);
    let object = leave("docs/data/old-object", day * 900);
    assert_eq!(storage.remove_leftovers("docs").unwrap(), 1);
    assert!(!old.exists() && young.exists() && future.exists() && other.exists());
    assert!(object.exists());
    assert_eq!(storage.remove_leftovers("").unwrap(), 1);
    assert!(!other.exists());
    assert_eq!(storage.remove_leftovers("").unwrap(), 0);
    let temporaries = fs::read_dir(dir.path()).unwrap().flatten().count();
    assert_eq!(temporaries, 2, "the probe for the clock is gone: docs and shop are left");
}

#[test]
fn urls_name_directories_or_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(open(path, &Options::default()).unwrap().location(), path);
    assert_eq!(open(&format!("file://{path}"), &Options::default()).unwrap().location(), path);
    for bad in ["", "s3:bucket", "sftp:host:/x", "https://host/", "x:y"] {
        assert_eq!(kind(open(bad, &Options::default())), ErrorKind::Invalid, "{bad}");
    }
    let file = dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    assert_eq!(kind(Local::open(&file)), ErrorKind::Invalid);
}
