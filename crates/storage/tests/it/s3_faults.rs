//! A bucket whose server, or the way to it, fails.

use crate::s3::{key, open, options, server_with_bucket, tuning};
use mainstay_storage::doubles::{HttpProxy, S3Server, Spoil};
use mainstay_storage::s3::Tuning;
use mainstay_storage::{ErrorKind, Put, Storage};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn rig() -> (S3Server, HttpProxy, Arc<dyn Storage>) {
    let (server, _) = server_with_bucket();
    let proxy = HttpProxy::start(&server.address()).unwrap();
    let storage = open(&proxy.endpoint(), "bucket/v");
    (server, proxy, storage)
}

fn slow_down() -> Spoil {
    let body =
        "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Later.</Message></Error>";
    Spoil::Answer(503, body.to_owned())
}

/// Every way to fail that passes, on every call: all of them succeed in the end.
#[test]
fn what_passes_is_tried_again() {
    let (_server, proxy, storage) = rig();
    let large = vec![7; 11 << 20];
    storage.put(&key("there"), b"0123456789").unwrap();
    let spoils = [
        slow_down(),
        Spoil::Answer(500, String::new()),
        Spoil::Close,
        Spoil::LoseAnswer,
        Spoil::HalfAnswer,
    ];
    for (round, spoil) in spoils.into_iter().enumerate() {
        let spoiled = |what: &str, call: &dyn Fn()| {
            proxy.take();
            proxy.plan("", "/bucket", 2, spoil.clone());
            call();
            let requests = proxy.take().len();
            assert!(requests >= 3, "{what}, {spoil:?}: {requests} requests");
            proxy.heal();
        };
        spoiled("read", &|| assert_eq!(storage.read(&key("there")).unwrap(), b"0123456789"));
        spoiled("range", &|| {
            assert_eq!(storage.read_range(&key("there"), 2, 3).unwrap(), b"234");
        });
        spoiled("size", &|| assert_eq!(storage.size(&key("there")).unwrap(), 10));
        spoiled("list", &|| assert_eq!(storage.list("").unwrap()[0].key, key("there")));
        let name = key(&format!("z/{round}"));
        spoiled("put", &|| storage.put(&name, b"put").unwrap());
        assert_eq!(storage.read(&name).unwrap(), b"put");
        spoiled("delete", &|| storage.delete(&name).unwrap());
        spoiled("put if absent", &|| {
            assert_eq!(storage.put_if_absent(&name, b"mine").unwrap(), Put::Created);
        });
        assert_eq!(storage.read(&name).unwrap(), b"mine");
        spoiled("large put", &|| storage.put(&name, &large).unwrap());
        assert!(storage.read(&name).unwrap() == large);
        storage.delete(&name).unwrap();
    }
}

/// The end of a large put is lost: it is done again, and the object is whole.
#[test]
fn the_lost_end_of_a_large_put_is_no_failure() {
    let (_server, proxy, storage) = rig();
    let large: Vec<u8> = (0..12_u32 << 20).map(|at| at.to_le_bytes()[1]).collect();
    proxy.plan("POST", "uploadId=", 1, Spoil::LoseAnswer);
    storage.put(&key("large"), &large).unwrap();
    assert!(storage.read(&key("large")).unwrap() == large);
}

/// The answer to a conditional put is lost, and the next attempt meets an object: whose is it?
#[test]
fn a_lost_answer_to_a_conditional_put_is_told_by_its_mark() {
    let (server, proxy, storage) = rig();
    let other = open(&server.endpoint(), "bucket/v");
    // Ours.
    proxy.plan("PUT", "state", 1, Spoil::LoseAnswer);
    assert_eq!(storage.put_if_absent(&key("state/1"), b"same").unwrap(), Put::Created);
    assert_eq!(other.put_if_absent(&key("state/1"), b"same").unwrap(), Put::Exists);
    // Another's, with the very bytes that we put, and our first attempt never arrived.
    assert_eq!(other.put_if_absent(&key("state/2"), b"same").unwrap(), Put::Created);
    proxy.plan("PUT", "state", 1, Spoil::Close);
    assert_eq!(storage.put_if_absent(&key("state/2"), b"same").unwrap(), Put::Exists);
    // Another's, and our first attempt arrived too late.
    assert_eq!(other.put_if_absent(&key("state/3"), b"theirs").unwrap(), Put::Created);
    proxy.plan("PUT", "state", 1, Spoil::LoseAnswer);
    assert_eq!(storage.put_if_absent(&key("state/3"), b"ours").unwrap(), Put::Exists);
    assert_eq!(storage.read(&key("state/3")).unwrap(), b"theirs");
    // A first attempt that is refused at once needs no second look.
    proxy.take();
    assert_eq!(storage.put_if_absent(&key("state/3"), b"ours").unwrap(), Put::Exists);
    assert_eq!(proxy.take().len(), 1);
}

/// Many writers on a bad line: of each number exactly one is told that it won.
#[test]
fn of_many_writers_on_a_bad_line_one_wins() {
    let (_server, proxy, storage) = rig();
    for round in 0..5 {
        for _ in 0..3 {
            proxy.plan("PUT", &format!("race/{round}"), 1, Spoil::LoseAnswer);
        }
        let name = key(&format!("race/{round}"));
        let won: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|_| scope.spawn(|| storage.put_if_absent(&name, b"equal").unwrap()))
                .collect();
            let results = racers.into_iter().map(|racer| racer.join().unwrap());
            results.filter(|result| *result == Put::Created).count()
        });
        assert_eq!(won, 1, "round {round}");
    }
}

#[test]
fn what_does_not_pass_is_not_tried_again() {
    let (_server, proxy, storage) = rig();
    let denied = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
    for (status, body, kind) in [
        (403, denied, ErrorKind::Permission),
        (400, "<Error><Code>InvalidArgument</Code></Error>", ErrorKind::Failed),
        (501, "<Error><Code>NotImplemented</Code></Error>", ErrorKind::Failed),
        (507, "", ErrorKind::NoSpace),
        (301, "<Error><Code>PermanentRedirect</Code></Error>", ErrorKind::Invalid),
    ] {
        proxy.plan("", "", 1, Spoil::Answer(status, body.to_owned()));
        proxy.take();
        let error = storage.put(&key("a"), b"x").unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert_eq!(proxy.take().len(), 1, "{status}");
    }
}

/// What a proxy or a captive portal says is no listing, and never an empty vault.
#[test]
fn a_page_of_html_is_no_listing() {
    let (_server, proxy, storage) = rig();
    proxy.plan("GET", "", 1, Spoil::Answer(200, "<html><body>Log in</body></html>".to_owned()));
    assert_eq!(storage.list("").unwrap_err().kind(), ErrorKind::Failed);
}

/// A server that sends more than was asked for is not listened to for ever.
#[test]
fn more_than_was_asked_for_is_no_answer() {
    let (_server, proxy, storage) = rig();
    storage.put(&key("a"), b"0123456789").unwrap();
    for status in [200, 206] {
        proxy.plan("GET", "/v/a", 1, Spoil::Answer(status, "x".repeat(100_000)));
        proxy.take();
        let error = storage.read_range(&key("a"), 2, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
        assert!(error.to_string().contains("more than the 3 bytes"), "{error}");
        assert_eq!(proxy.take().len(), 1, "it would send the same again");
    }
    assert_eq!(storage.read_range(&key("a"), 2, 3).unwrap(), b"234");
}

#[test]
fn it_gives_up_after_the_time_that_it_has() {
    let (_server, proxy, _) = rig();
    let tuning = Tuning { give_up: Duration::from_millis(500), ..tuning() };
    let url = format!("s3:{}/bucket/v", proxy.endpoint());
    let storage = mainstay_storage::open(&url, &options(tuning)).unwrap();
    proxy.plan("", "", u32::MAX, slow_down());
    let begun = Instant::now();
    let error = storage.put(&key("a"), b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("SlowDown"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(proxy.take().len() > 3);
}

#[test]
fn a_server_that_hangs_is_left_and_tried_again() {
    let (_server, proxy, _) = rig();
    let tuning = Tuning { idle: Duration::from_millis(300), ..tuning() };
    let url = format!("s3:{}/bucket/v", proxy.endpoint());
    let storage = mainstay_storage::open(&url, &options(tuning)).unwrap();
    proxy.plan("PUT", "", 1, Spoil::Hang);
    storage.put(&key("a"), b"x").unwrap();
    proxy.plan("GET", "", 1, Spoil::Hang);
    assert_eq!(storage.read(&key("a")).unwrap(), b"x");
}

#[test]
fn a_cancel_ends_the_waiting_and_what_cleans_up_still_runs() {
    let (_server, proxy, _) = rig();
    let options = options(tuning());
    let url = format!("s3:{}/bucket/v", proxy.endpoint());
    let storage = mainstay_storage::open(&url, &options).unwrap();
    storage.put(&key("locks/mine"), b"x").unwrap();
    proxy.plan("GET", "hangs", 1, Spoil::Hang);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| storage.read(&key("hangs")));
        assert!(proxy.wait_for("hangs", Duration::from_secs(20)));
        let cancelled = Instant::now();
        options.cancel.cancel();
        let error = reading.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert!(cancelled.elapsed() < Duration::from_secs(2));
    });
    storage.delete(&key("locks/mine")).unwrap();
    // And once only.
    proxy.plan("", "", 1, slow_down());
    assert_eq!(storage.read(&key("a")).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn a_cancel_ends_the_pauses_too() {
    let (_server, proxy, _) = rig();
    let hour = Duration::from_secs(3600);
    let options =
        options(Tuning { first_pause: hour, longest_pause: hour, give_up: 2 * hour, ..tuning() });
    let url = format!("s3:{}/bucket/v", proxy.endpoint());
    let storage = mainstay_storage::open(&url, &options).unwrap();
    proxy.plan("PUT", "paused", u32::MAX, slow_down());
    std::thread::scope(|scope| {
        let putting = scope.spawn(|| storage.put(&key("paused"), b"x"));
        assert!(proxy.wait_for("paused", Duration::from_secs(20)));
        options.cancel.cancel();
        assert_eq!(putting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
}
