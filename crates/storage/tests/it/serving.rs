//! What a vault host does and refuses, whoever asks.

use crate::contract::key;
use crate::vault::{Vault, status, users};
use mainstay_storage::serve::{Access, Limits, Rights};
use mainstay_storage::{Error, ErrorKind, Local, Put, Storage};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The key of a pack, index or the like with these bytes.
fn addressed(kind: &str, bytes: &[u8]) -> mainstay_storage::Key {
    let name = hex::encode(Sha256::digest(bytes));
    match kind {
        "data" => key(&format!("shop/data/{}/{name}", &name[..2])),
        _ => key(&format!("shop/{kind}/{name}")),
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// All files below a directory, temporary ones too.
fn files(dir: &Path) -> usize {
    let items = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    items.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn bytes_that_are_not_what_their_name_says_are_refused() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    let client = vault.client("");
    for name in ["data", "index", "keys", "locks", "snapshots"] {
        let right = addressed(name, b"right");
        for result in [
            client.put(&right, b"wrong"),
            client.put(&right, b""),
            client.put_if_absent(&right, b"wrong").map(|_| ()),
        ] {
            let e = result.unwrap_err();
            assert!(e.to_string().contains("422"), "{e}");
        }
        let path = format!("shop/{name}/{}", right.name());
        let post = |body: &str| {
            vault.status(
                format!("POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{body}")
                    .as_bytes(),
            )
        };
        assert_eq!(post("wrong"), 422);
        assert_eq!(files(dir.path()), 0, "{name}");
        assert_eq!(post("right"), 200);
        assert_eq!(post("right"), 200, "who did not hear the answer asks again");
        assert_eq!(client.read(&right).unwrap(), b"right");
        client.delete(&right).unwrap();
    }
    // Any other key, by a header.
    let wrong = "0".repeat(64);
    let request = format!(
        "PUT /x HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\nMainstay-Sha256: {wrong}\r\n\
         Content-Length: 1\r\n\r\nx"
    );
    assert_eq!(vault.status(request.as_bytes()), 422);
    assert_eq!(files(dir.path()), 0);
}

#[test]
fn a_body_that_ends_early_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    for request in [
        "PUT /shop/x HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\n",
        "PUT /shop/x HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\nIf-None-Match: *\r\n",
        "POST /shop/config HTTP/1.1\r\nHost: x\r\n",
    ] {
        let mut socket = vault.socket();
        let head = format!("{request}Content-Length: 4000000\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(&vec![7; 3_000_000]).unwrap();
        wait_for("the body arrives", || files(dir.path()) == 1);
        assert_eq!(vault.client("").list("").unwrap(), [], "an object that is still on its way");
        socket.shutdown(Shutdown::Both).unwrap();
        wait_for("what arrived is removed", || files(dir.path()) == 0);
    }
    // Likewise in chunks, whose end says that it is one.
    let mut socket = vault.socket();
    let head =
        "PUT /x HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\nTransfer-Encoding: chunked\r\n";
    socket.write_all(format!("{head}\r\n4\r\nabcd\r\n").as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert!([0, 400].contains(&status(&mut socket)));
    wait_for("what arrived is removed", || files(dir.path()) == 0);
    assert_eq!(vault.client("").list("").unwrap(), []);
}

#[test]
fn append_only_changes_and_removes_nothing_but_locks() {
    let dir = TempDir::new().unwrap();
    let full = Vault::open(dir.path());
    let (all, one) = (full.client(""), b"some bytes");
    let kinds = ["data", "index", "keys", "snapshots"];
    let mut there: Vec<_> = kinds.iter().map(|kind| addressed(kind, one)).collect();
    there.extend([key("shop/config"), key("shop/mainstay/log/x"), key("shop/other")]);
    for key in &there {
        all.put(key, one).unwrap();
    }
    let access = Access::Everyone(Rights::Append);
    let vault = Vault::start(dir.path(), access, Limits::default(), None);
    let client = vault.client("");
    for key in &there {
        assert_eq!(kind(client.delete(key)), ErrorKind::Permission, "{key}");
        // The same bytes again are no change.
        client.put(key, one).unwrap();
        assert_eq!(client.put_if_absent(key, one).unwrap(), Put::Exists);
        assert!(client.put(key, b"other bytes").is_err(), "{key}");
        assert_eq!(client.read(key).unwrap(), one);
    }
    for path in ["snapshots", "index", "keys", "data"] {
        let request =
            format!("DELETE /shop/{path}/{} HTTP/1.1\r\nHost: x\r\n\r\n", there[0].name());
        assert_eq!(vault.status(request.as_bytes()), 403, "{path}");
    }
    for path in ["", "shop/"] {
        let request = format!("DELETE /{path} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(vault.status(request.as_bytes()), 403);
    }
    let told = vault.told.lock().unwrap().join("\n");
    assert!(told.contains("403 DELETE /shop/config") && told.contains("append-only"), "{told}");
    // A damaged object is not healed by who may only add.
    let damaged = there[0].clone();
    std::fs::write(dir.path().join(damaged.as_str()), b"damaged!!!").unwrap();
    assert_eq!(kind(client.put(&damaged, one)), ErrorKind::Permission);
    assert_eq!(all.read(&damaged).unwrap(), b"damaged!!!");
    // New objects, locks and probes.
    let lock = addressed("locks", one);
    client.put(&lock, one).unwrap();
    client.delete(&lock).unwrap();
    let probe = key("_mainstay-probe-00");
    client.put(&probe, b"x").unwrap();
    client.delete(&probe).unwrap();
    assert!(client.put(&probe, &[0; 65]).is_err(), "too large for a probe");
    let deeper = key("shop/_mainstay-probe-00");
    client.put(&deeper, b"x").unwrap();
    assert_eq!(kind(client.delete(&deeper)), ErrorKind::Permission);
    assert_eq!(client.list("shop").unwrap().len(), there.len() + 1);
}

#[test]
fn append_only_removes_states_that_mean_nothing_any_more() {
    let dir = TempDir::new().unwrap();
    let vault =
        |limits: Limits| Vault::start(dir.path(), Access::Everyone(Rights::Append), limits, None);
    let young = vault(Limits::default());
    let client = young.client("");
    let state = |number: u64| key(&format!("shop/mainstay/state/{number:020}"));
    for number in 1..=66 {
        assert_eq!(client.put_if_absent(&state(number), b"s").unwrap(), Put::Created);
    }
    // They mean nothing any more, but who has stored 64 objects at once may have had that in mind. That
    // is no offence, so nobody is told.
    assert!(client.delete(&state(1)).is_err());
    assert_eq!(*young.told.lock().unwrap(), [] as [String; 0]);
    client.read(&state(1)).unwrap();
    let past = std::time::SystemTime::now() - Duration::from_secs(25 * 60 * 60);
    let file = std::fs::File::open(dir.path().join(state(65).as_str())).unwrap();
    file.set_modified(past).unwrap();
    client.delete(&state(1)).unwrap();
    assert!(client.delete(&state(2)).is_err());

    let vault = vault(Limits { state_age: Duration::ZERO, ..Limits::default() });
    let client = vault.client("");
    client.delete(&state(2)).unwrap();
    for number in [3, 65, 66] {
        assert_eq!(kind(client.delete(&state(number))), ErrorKind::Permission, "{number}");
    }
    let elsewhere = key("shop/state/00000000000000000001");
    client.put(&elsewhere, b"x").unwrap();
    assert_eq!(kind(client.delete(&elsewhere)), ErrorKind::Permission);
}

/// Who may only append cannot store a state that no writer has come to, which would make those that
/// count look old.
#[test]
fn append_only_takes_states_one_after_the_other() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { state_age: Duration::ZERO, ..Limits::default() };
    let vault = Vault::start(dir.path(), Access::Everyone(Rights::Append), limits, None);
    let client = vault.client("");
    for service in ["shop/", ""] {
        let named = |name: &str| key(&format!("{service}mainstay/state/{name}"));
        let state = |number: u64| named(&format!("{number:020}"));
        let refused = |key: &mainstay_storage::Key| {
            assert_eq!(kind(client.put_if_absent(key, b"x")), ErrorKind::Permission, "{key}");
            assert_eq!(kind(client.put(key, b"x")), ErrorKind::Permission, "{key}");
            assert_eq!(kind(client.read(key)), ErrorKind::NotFound, "{key}");
        };
        for number in [0, 2, 64, 65, 1000, u64::MAX - 65, u64::MAX] {
            refused(&state(number));
        }
        for number in 1..=70 {
            assert_eq!(client.put_if_absent(&state(number), b"s").unwrap(), Put::Created);
            // Once, and nothing is left out.
            assert_eq!(client.put_if_absent(&state(number), b"x").unwrap(), Put::Exists);
            for skipped in [number + 2, 1 << 60] {
                refused(&state(skipped));
            }
        }
        refused(&state(0));
        refused(&named("99999999999999999999"));
        // Names that are no state's are as before.
        client.put(&named("notes"), b"x").unwrap();
        // A number that was used and removed is not to be had again.
        for number in 1..=6 {
            client.delete(&state(number)).unwrap();
        }
        for number in 1..=6 {
            assert_eq!(client.put_if_absent(&state(number), b"late").unwrap(), Put::Exists);
            assert_eq!(kind(client.put(&state(number), b"late")), ErrorKind::Permission);
            assert_eq!(kind(client.read(&state(number))), ErrorKind::NotFound);
        }
        assert_eq!(kind(client.delete(&named("99999999999999999999"))), ErrorKind::Permission);
        assert_eq!(client.put_if_absent(&state(71), b"s").unwrap(), Put::Created);
    }
    // A person who may do everything can put things right.
    let full = Vault::open(dir.path());
    full.client("").put(&key("shop/mainstay/state/00000000000000001000"), b"s").unwrap();
}

#[test]
fn a_config_is_never_replaced() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    let (client, config) = (vault.client("shop"), key("config"));
    client.put(&config, b"one").unwrap();
    assert_eq!(kind(client.put(&config, b"two")), ErrorKind::Permission);
    let request = "POST /shop/config HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntwo";
    assert_eq!(vault.status(request.as_bytes()), 403);
    assert_eq!(client.read(&config).unwrap(), b"one");
}

#[test]
fn everybody_sees_their_own_paths_only() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    let (list, tokens) = users(
        &file,
        &[
            ("a", Rights::Append, &["a"]),
            ("reader", Rights::Read, &["a", "common/shop"]),
            ("keeper", Rights::Full, &[]),
        ],
    );
    let root = dir.path().join("vault");
    std::fs::create_dir(&root).unwrap();
    let access = Access::Users(list, Rights::Full);
    let vault = Vault::start(&root, access, Limits::default(), None);
    let [a, reader, keeper] = [0, 1, 2].map(|at| vault.client_of("", &tokens[at]));
    a.put(&key("a/x"), b"of a").unwrap();
    keeper.put(&key("b/x"), b"of b").unwrap();
    keeper.put(&key("ab/x"), b"of ab").unwrap();
    for place in ["b/x", "ab/x", "x"] {
        assert_eq!(kind(a.read(&key(place))), ErrorKind::Permission, "{place}");
        assert_eq!(kind(a.put(&key(place), b"")), ErrorKind::Permission, "{place}");
        assert_eq!(kind(a.delete(&key(place))), ErrorKind::Permission, "{place}");
    }
    for prefix in ["", "b", "ab"] {
        assert_eq!(kind(a.list(prefix)), ErrorKind::Permission, "{prefix:?}");
    }
    assert_eq!(a.list("a").unwrap().len(), 1);
    assert_eq!(vault.client_of("a", &tokens[0]).list("").unwrap().len(), 1);
    assert_eq!(kind(a.delete(&key("a/x"))), ErrorKind::Permission);
    assert_eq!(reader.read(&key("a/x")).unwrap(), b"of a");
    let probe = key("_mainstay-probe-1");
    a.put(&probe, b"x").unwrap();
    a.delete(&probe).unwrap();
    assert_eq!(kind(reader.put(&probe, b"x")), ErrorKind::Permission);
    assert_eq!(kind(reader.put(&key("a/y"), b"")), ErrorKind::Permission);
    assert_eq!(kind(reader.put_if_absent(&key("a/y"), b"")), ErrorKind::Permission);
    keeper.delete(&key("a/x")).unwrap();

    // Nobody comes in with nothing, with another's token, or with the hash of the own.
    let stored = std::fs::read_to_string(&file).unwrap();
    let hash = stored.lines().nth(2).unwrap().rsplit('$').next().unwrap().to_owned();
    let wrong = [
        ("a".to_owned(), tokens[2].1.clone()),
        ("a".to_owned(), model::Secret::new(hash)),
        ("A".to_owned(), tokens[0].1.clone()),
        ("".to_owned(), model::Secret::new(String::new())),
    ];
    for user in &wrong {
        let e = vault.client_of("", user).list("").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Permission);
        assert!(!format!("{e} {e:?}").contains(user.1.expose()) || user.1.expose().is_empty());
    }
    assert_eq!(vault.status(b"GET /a/config HTTP/1.1\r\nHost: x\r\n\r\n"), 401);
    assert_eq!(vault.status(b"GET /%2e HTTP/1.1\r\nHost: x\r\n\r\n"), 401, "nothing is told");

    // Who is removed is out at once; a file that cannot be read lets nobody in.
    let without: Vec<&str> = stored.lines().filter(|line| !line.starts_with("a:")).collect();
    std::fs::write(&file, without.join("\n")).unwrap();
    assert_eq!(kind(a.list("a")), ErrorKind::Permission);
    keeper.list("").unwrap();
    std::fs::write(&file, "nonsense").unwrap();
    let request =
        format!("GET /config HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {}\r\n\r\n", "YTph");
    assert_eq!(vault.status(request.as_bytes()), 503);
}

#[test]
fn of_two_servers_on_one_directory_one_creates() {
    let dir = TempDir::new().unwrap();
    let vaults = [Vault::open(dir.path()), Vault::open(dir.path())];
    let clients: Vec<_> = (0..6).map(|n| Arc::new(vaults[n % 2].client("shop"))).collect();
    for round in 0..30 {
        let k = key(&format!("mainstay/state/{round:020}"));
        let created = AtomicUsize::new(usize::MAX);
        std::thread::scope(|scope| {
            for (at, client) in clients.iter().enumerate() {
                let (k, created) = (&k, &created);
                scope.spawn(move || {
                    let bytes = [u8::try_from(at).unwrap(); 100];
                    if client.put_if_absent(k, &bytes).unwrap() == Put::Created {
                        assert_eq!(created.swap(at, Ordering::SeqCst), usize::MAX, "two won");
                    }
                });
            }
        });
        let winner = u8::try_from(created.into_inner()).unwrap();
        assert_eq!(clients[0].read(&k).unwrap(), [winner; 100]);
    }
}

#[test]
fn who_is_slow_or_large_is_cut_off() {
    let dir = TempDir::new().unwrap();
    let limits = Limits {
        object_bytes: 1000,
        head: Duration::from_millis(300),
        body: Duration::from_millis(300),
        connections: 3,
        ..Limits::default()
    };
    let vault = Vault::start(dir.path(), Access::Everyone(Rights::Full), limits, None);
    let client = vault.client("");
    client.put(&key("fits"), &[1; 1000]).unwrap();
    assert!(client.put(&key("large"), &[1; 1001]).unwrap_err().to_string().contains("413"));
    let chunked = "PUT /large HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    let too_much = format!("{chunked}400\r\n{}\r\n0\r\n\r\n", "x".repeat(0x400));
    assert_eq!(vault.status(too_much.as_bytes()), 413);
    let head = "PUT /slow HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(vault.status(head.as_bytes()), 408);
    // A byte now and then is too slow as well.
    let mut socket = vault.socket();
    socket.write_all(head.as_bytes()).unwrap();
    let began = Instant::now();
    let mut answered = [0];
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while !socket.peek(&mut answered).is_ok_and(|length| length == 1) {
        assert!(began.elapsed() < Duration::from_secs(30), "it goes on for ever");
        let _ = socket.write_all(b"x").map_err(|_| ());
    }
    assert_eq!(status(&mut socket), 408);
    // Heads that never end do not keep others out: their places are free again.
    let idle: Vec<_> = (0..6)
        .map(|_| {
            let mut socket = vault.socket();
            socket.write_all(b"GET /x HTTP/1.1\r\nHost").unwrap();
            socket
        })
        .collect();
    assert_eq!(vault.client("").read(&key("fits")).unwrap(), [1; 1000]);
    drop(idle);
    assert_eq!(files(dir.path()), 1);
}

#[test]
fn a_vault_that_is_not_there_is_no_empty_vault() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("disk");
    let access = || Access::Everyone(Rights::Full);
    let quiet = || Arc::new(|_: &str| {});
    let new = || mainstay_storage::serve::Server::new(&root, access(), Limits::default(), quiet());
    assert_eq!(new().unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::create_dir(&root).unwrap();
    let vault = Vault::open(&root);
    let options =
        mainstay_storage::rest::Options { retry_for: Duration::ZERO, ..Default::default() };
    let client = mainstay_storage::Rest::open(&vault.url(""), &options).unwrap();
    client.put(&key("x"), b"x").unwrap();
    std::fs::rename(&root, dir.path().join("away")).unwrap();
    assert_eq!(kind(client.list("")), ErrorKind::Unavailable);
    assert_eq!(kind(client.put(&key("y"), b"y")), ErrorKind::Unavailable);
    assert_eq!(vault.status(b"GET /data/ HTTP/1.1\r\nHost: x\r\n\r\n"), 503);
    assert!(!root.exists());
}

#[test]
fn leftovers_are_removed_through_the_server() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    let client = vault.client("");
    client.put(&key("shop/x"), b"x").unwrap();
    let old = dir.path().join("shop/.mainstay-tmp-00");
    std::fs::write(&old, "half").unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(30 * 60 * 60);
    std::fs::File::open(&old).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(client.remove_leftovers("other").unwrap(), 0);
    assert_eq!(client.remove_leftovers("").unwrap(), 1);
    assert_eq!(files(dir.path()), 1);
}

/// Who may only add makes it, and takes it from nobody.
#[test]
fn space_is_kept_back_on_the_servers_disk() {
    let dir = TempDir::new().unwrap();
    let (full, append) = (
        Vault::open(dir.path()),
        Vault::start(dir.path(), Access::Everyone(Rights::Append), Limits::default(), None),
    );
    let reserve = dir.path().join(".mainstay~reserve");
    let (keeper, producer) = (full.client(""), append.client(""));
    producer.put(&key("x"), b"x").unwrap();
    producer.keep_reserve().unwrap();
    assert!(reserve.exists());
    assert_eq!(kind(producer.give_up_reserve()), ErrorKind::Permission);
    assert!(reserve.exists());
    assert!(keeper.give_up_reserve().unwrap());
    assert!(!reserve.exists());
    assert!(!keeper.give_up_reserve().unwrap());
    keeper.keep_reserve().unwrap();
    assert!(reserve.exists());
}

/// Deterministic bytes: a test that fails must fail again.
fn noise(seed: &mut u64, length: usize) -> Vec<u8> {
    let step = |_| {
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 56) as u8
    };
    (0..length).map(step).collect()
}

#[test]
fn no_bytes_on_the_wire_bring_it_down() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    let good =
        b"PUT /shop/data/aa HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\nRange: bytes=0-1\r\n\
                 Content-Length: 10\r\n\r\n0123456789";
    let mut seed = 42;
    for round in 0..400 {
        let bytes = match round % 3 {
            0 => noise(&mut seed, 300),
            // A good request with some bytes changed.
            1 => {
                let mut bytes = good.to_vec();
                for pair in noise(&mut seed, 6).chunks(2) {
                    let at = usize::from(pair[0]) % bytes.len();
                    bytes[at] = pair[1];
                }
                bytes
            }
            _ => good[..round % good.len()].to_vec(),
        };
        let mut socket = vault.socket();
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{bytes:?}: {answer:?}");
        // A thread of the server that panicked would show as this.
        assert!(!answer.starts_with(b"HTTP/1.1 500"), "{bytes:?}: {answer:?}");
    }
    vault.client("").put(&key("still/there"), b"x").unwrap();
    // Nothing was stored outside of the directory, and nothing half.
    let local = Local::open(dir.path()).unwrap();
    assert_eq!(local.list("").unwrap().len(), files(dir.path()));
}
