//! What every storage promises, run over each.

use crate::vault::{Certificate, Vault, piped};
use mainstay_storage::doubles::{Flaky, Memory, Recording};
use mainstay_storage::serve::{Access, Limits, Rights};
use mainstay_storage::{Entry, ErrorKind, Key, Local, Prefixed, Put, Storage};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn keys(entries: Vec<Entry>) -> Vec<String> {
    entries.into_iter().map(|entry| entry.key.to_string()).collect()
}

/// All of it. `fresh` makes an empty storage.
fn contract(fresh: &dyn Fn() -> Arc<dyn Storage>) {
    stores_and_reads_back(fresh().as_ref());
    replaces(fresh().as_ref());
    puts_if_absent(fresh().as_ref());
    reads_ranges(fresh().as_ref());
    misses(fresh().as_ref());
    lists(fresh().as_ref());
    deletes(fresh().as_ref());
    one_of_many_creates(fresh());
    readers_see_whole_objects(fresh());
    of_two_that_put_and_then_list_one_sees_the_other(fresh());
}

fn stores_and_reads_back(storage: &dyn Storage) {
    let all_bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for (name, bytes) in [("empty", &b""[..]), ("one", b"x"), ("a/b/c.d_e-f+g=h@i", &all_bytes)] {
        storage.put(&key(name), bytes).unwrap();
        assert_eq!(storage.read(&key(name)).unwrap(), bytes);
        assert_eq!(storage.size(&key(name)).unwrap(), bytes.len() as u64);
    }
    assert!(!storage.location().is_empty());
    assert_ne!(storage.free_bytes().unwrap(), Some(0));
}

fn replaces(storage: &dyn Storage) {
    storage.put(&key("k"), b"a long first value").unwrap();
    storage.put(&key("k"), b"short").unwrap();
    assert_eq!(storage.read(&key("k")).unwrap(), b"short");
    assert_eq!(storage.size(&key("k")).unwrap(), 5);
}

fn puts_if_absent(storage: &dyn Storage) {
    assert_eq!(storage.put_if_absent(&key("d/k"), b"first").unwrap(), Put::Created);
    assert_eq!(storage.put_if_absent(&key("d/k"), b"second").unwrap(), Put::Exists);
    assert_eq!(storage.read(&key("d/k")).unwrap(), b"first");
    storage.put(&key("put"), b"by put").unwrap();
    assert_eq!(storage.put_if_absent(&key("put"), b"x").unwrap(), Put::Exists);
    storage.delete(&key("d/k")).unwrap();
    assert_eq!(storage.put_if_absent(&key("d/k"), b"third").unwrap(), Put::Created);
    assert_eq!(storage.read(&key("d/k")).unwrap(), b"third");
}

fn reads_ranges(storage: &dyn Storage) {
    let k = key("range");
    storage.put(&k, b"0123456789").unwrap();
    // Whatever it held before.
    let mut buffer = b"something that is longer".to_vec();
    for (offset, length, want) in
        [(0, 10, &b"0123456789"[..]), (3, 4, b"3456"), (9, 1, b"9"), (10, 0, b""), (0, 0, b"")]
    {
        assert_eq!(storage.read_range(&k, offset, length).unwrap(), want);
        storage.read_range_into(&k, offset, length, &mut buffer).unwrap();
        assert_eq!(buffer, want);
    }
    let mut short = b"x".to_vec();
    storage.read_range_into(&k, 2, 7, &mut short).unwrap();
    assert_eq!(short, b"2345678");
    for (offset, length) in
        [(0, 11), (10, 1), (11, 0), (u64::MAX, 1), (1, usize::MAX), (u64::MAX, usize::MAX)]
    {
        let e = storage.read_range(&k, offset, length).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Truncated, "{offset} {length}: {e}");
        let e = storage.read_range_into(&k, offset, length, &mut buffer).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Truncated, "{offset} {length}: {e}");
    }
}

fn misses(storage: &dyn Storage) {
    storage.put(&key("there/x"), b"x").unwrap();
    for absent in ["gone", "there/gone", "no/such/place", "there/x/below"] {
        let k = key(absent);
        let kind = |e: mainstay_storage::Error| {
            assert!(e.to_string().contains(absent), "{e}");
            e.kind()
        };
        let kinds = [
            kind(storage.read(&k).unwrap_err()),
            kind(storage.read_range(&k, 0, 1).unwrap_err()),
            kind(storage.size(&k).unwrap_err()),
        ];
        assert_eq!(kinds, [ErrorKind::NotFound; 3], "{absent}");
        storage.delete(&k).unwrap();
        assert_eq!(storage.list(absent).unwrap(), []);
    }
}

fn lists(storage: &dyn Storage) {
    assert_eq!(storage.list("").unwrap(), []);
    assert_eq!(storage.list("data").unwrap(), []);
    assert_eq!(storage.first_parts().unwrap(), [""; 0]);
    for name in ["data/b/2", "data/a/1", "data/a/0", "data-2/x", "config", "data.x"] {
        storage.put(&key(name), name.as_bytes()).unwrap();
    }
    let all = ["config", "data-2/x", "data.x", "data/a/0", "data/a/1", "data/b/2"];
    assert_eq!(keys(storage.list("").unwrap()), all);
    assert_eq!(keys(storage.list("data").unwrap()), &all[3..]);
    assert_eq!(keys(storage.list("data/a").unwrap()), &all[3..5]);
    assert_eq!(storage.first_parts().unwrap(), ["config", "data", "data-2", "data.x"]);
    assert_eq!(storage.list("dat").unwrap(), []);
    assert_eq!(storage.list("config").unwrap(), [], "an object is not below itself");
    for entry in storage.list("").unwrap() {
        assert_eq!(entry.size_bytes, entry.key.as_str().len() as u64);
    }
    for outside in ["..", "../x", "/", "/etc", "data/", "data/..", "data//a", "."] {
        let e = storage.list(outside).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{outside}");
    }
}

fn deletes(storage: &dyn Storage) {
    storage.put(&key("d/a"), b"a").unwrap();
    storage.put(&key("d/b"), b"b").unwrap();
    storage.delete(&key("d/a")).unwrap();
    storage.delete(&key("d/a")).unwrap();
    assert_eq!(keys(storage.list("d").unwrap()), ["d/b"]);
    assert_eq!(storage.read(&key("d/b")).unwrap(), b"b");
    // Several, of which some are not there.
    storage.put(&key("d/c"), b"c").unwrap();
    storage.put(&key("e/c"), b"c").unwrap();
    storage.delete_all(&["d/a", "d/b", "x/y", "e/c"].map(key)).unwrap();
    storage.delete_all(&[]).unwrap();
    assert_eq!(keys(storage.list("d").unwrap()), ["d/c"]);
    assert_eq!(keys(storage.list("e").unwrap()), [] as [&str; 0]);
}

fn one_of_many_creates(storage: Arc<dyn Storage>) {
    for round in 0..20 {
        let (k, created) = (key(&format!("race/{round}")), AtomicUsize::new(usize::MAX));
        std::thread::scope(|scope| {
            for racer in 0..8 {
                let (storage, k, created) = (&storage, &k, &created);
                scope.spawn(move || {
                    let bytes = [u8::try_from(racer).unwrap(); 1000];
                    if storage.put_if_absent(k, &bytes).unwrap() == Put::Created {
                        assert_eq!(created.swap(racer, Ordering::SeqCst), usize::MAX, "two won");
                    }
                });
            }
        });
        let winner = u8::try_from(created.into_inner()).unwrap();
        assert_eq!(storage.read(&k).unwrap(), [winner; 1000]);
    }
    assert_eq!(storage.list("race").unwrap().len(), 20);
}

fn readers_see_whole_objects(storage: Arc<dyn Storage>) {
    let k = key("swap");
    let values = [vec![1; 200_000], vec![2; 50_000]];
    storage.put(&k, &values[0]).unwrap();
    std::thread::scope(|scope| {
        let (storage, k, values) = (&storage, &k, &values);
        scope.spawn(move || {
            for turn in 0..40 {
                storage.put(k, &values[turn % 2]).unwrap();
            }
        });
        for _ in 0..40 {
            let seen = storage.read(k).unwrap();
            assert!(values.contains(&seen), "a torn read of {} bytes", seen.len());
            assert_eq!(storage.list("").unwrap().len(), 1);
        }
    });
}

/// What locks rely on where a storage says so of itself.
fn of_two_that_put_and_then_list_one_sees_the_other(storage: Arc<dyn Storage>) {
    storage.put(&key("locks/first"), b"x").unwrap();
    if !storage.shows_at_once("locks") {
        return;
    }
    for round in 0..50 {
        let (start, blind) = (std::sync::Barrier::new(2), AtomicUsize::new(0));
        let names = ["a", "b"].map(|who| format!("locks/{round}-{who}"));
        std::thread::scope(|scope| {
            for (mine, theirs) in [(&names[0], &names[1]), (&names[1], &names[0])] {
                let (storage, start, blind) = (&storage, &start, &blind);
                scope.spawn(move || {
                    start.wait();
                    storage.put(&key(mine), b"x").unwrap();
                    if !keys(storage.list("locks").unwrap()).contains(theirs) {
                        blind.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(blind.into_inner() < 2, "neither saw the other");
    }
}

#[test]
fn a_bucket_keeps_the_contract() {
    let (server, bucket) = crate::s3::server_with_bucket();
    let count = AtomicUsize::new(0);
    contract(&|| {
        let prefix = format!("part-{}", count.fetch_add(1, Ordering::SeqCst));
        crate::s3::open(&server.endpoint(), &format!("{bucket}/{prefix}"))
    });
}

#[test]
fn a_bucket_of_another_server_keeps_the_contract() {
    let server = crate::s3_rust::RustServer::start();
    let count = AtomicUsize::new(0);
    contract(&|| server.open(&format!("part-{}", count.fetch_add(1, Ordering::SeqCst))));
}

#[test]
fn memory_keeps_the_contract() {
    contract(&|| Arc::new(Memory::new()));
}

#[test]
fn a_directory_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let count = AtomicUsize::new(0);
    contract(&|| {
        let root = dir.path().join(count.fetch_add(1, Ordering::SeqCst).to_string());
        std::fs::create_dir(&root).unwrap();
        Arc::new(Local::open(root).unwrap())
    });
}

/// A file system in a process of its own, or on another machine, promises less.
#[test]
fn only_a_local_file_system_shows_at_once() {
    let dir = TempDir::new().unwrap();
    let storage = Local::open(dir.path()).unwrap();
    storage.put(&key("locks/x"), b"x").unwrap();
    let found = rustix::fs::statfs(dir.path()).unwrap().f_type;
    // ext4, XFS, btrfs, tmpfs, overlayfs.
    let known = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630];
    if known.iter().any(|magic: &i64| i128::from(*magic) == i128::from(found)) {
        assert!(storage.shows_at_once("locks"));
    }
    assert!(!storage.shows_at_once("nowhere"));
    assert!(!Local::open("/proc").unwrap().shows_at_once(""));
}

#[test]
fn a_part_of_a_directory_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let inner: Arc<dyn Storage> = Arc::new(Local::open(dir.path()).unwrap());
    inner.put(&key("other/x"), b"x").unwrap();
    inner.put(&key("part"), b"x").unwrap();
    let count = AtomicUsize::new(0);
    contract(&|| {
        let prefix = format!("services/part-{}", count.fetch_add(1, Ordering::SeqCst));
        Arc::new(Prefixed::new(inner.clone(), key(&prefix)))
    });
    assert_eq!(inner.read(&key("other/x")).unwrap(), b"x");
}

#[test]
fn the_other_doubles_keep_the_contract_as_long_as_nothing_is_planned() {
    contract(&|| Arc::new(Flaky::new(Arc::new(Memory::new()))));
    contract(&|| Arc::new(Recording::new(Arc::new(Memory::new()))));
}

#[test]
fn a_served_vault_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    let count = AtomicUsize::new(0);
    contract(&|| {
        let path = format!("part-{}/", count.fetch_add(1, Ordering::SeqCst));
        Arc::new(vault.client(&path))
    });
}

#[test]
fn a_vault_served_over_tls_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let access = Access::Everyone(Rights::Full);
    let vault = Vault::start(dir.path(), access, Limits::default(), Some(Certificate::new()));
    let count = AtomicUsize::new(0);
    contract(&|| {
        let path = format!("some/part-{}", count.fetch_add(1, Ordering::SeqCst));
        Arc::new(vault.client(&path))
    });
}

#[test]
fn a_vault_served_over_a_pipe_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    let count = AtomicUsize::new(0);
    contract(&|| {
        let path = count.fetch_add(1, Ordering::SeqCst).to_string();
        std::fs::create_dir(dir.path().join(&path)).unwrap();
        Arc::new(piped(dir.path(), &path))
    });
}
