//! A bucket of a real server.

use mainstay_storage::doubles::{HttpProxy, S3Kind, S3Server};
use mainstay_storage::s3::{Credentials, Options as S3Options, Tuning};
use mainstay_storage::{ErrorKind, Key, Options, Storage};
use model::{CancelToken, Classify, Secret};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A server with one bucket.
pub(crate) fn server_with_bucket() -> (S3Server, &'static str) {
    let server = S3Server::start(S3Kind::Honest).unwrap();
    server.make_bucket("bucket", false).unwrap();
    (server, "bucket")
}

/// Pauses for tests, and parts as small as S3 allows.
pub(crate) fn tuning() -> Tuning {
    Tuning {
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(50),
        give_up: Duration::from_secs(20),
        part_bytes: 5 << 20,
        page: 3,
        ..Tuning::default()
    }
}

pub(crate) fn options(tuning: Tuning) -> Options {
    let credentials = Credentials::Key {
        id: "an-id".to_owned(),
        secret: Secret::new("a-secret-key".to_owned()),
        token: None,
    };
    Options {
        s3: S3Options { credentials, tuning, ..S3Options::default() },
        cancel: CancelToken::new(),
        ..Options::default()
    }
}

pub(crate) fn open(endpoint: &str, path: &str) -> Arc<dyn Storage> {
    mainstay_storage::open(&format!("s3:{endpoint}/{path}"), &options(tuning())).unwrap()
}

#[test]
fn a_listing_of_many_pages_is_whole_and_shows_only_what_is_ours() {
    let (server, bucket) = server_with_bucket();
    let proxy = HttpProxy::start(&server.address()).unwrap();
    let storage = open(&proxy.endpoint(), "bucket/vault");
    for number in 0..10 {
        storage.put(&key(&format!("data/{number}")), b"x").unwrap();
    }
    // What other people put there: the marks of directories, names that are no keys, neighbours.
    let whole = open(&server.endpoint(), bucket);
    whole.put(&key("vault2/data/1"), b"x").unwrap();
    for foreign in ["/vault/", "/vault/data/", "/vault/data/a%20b", "/vault//x", "/vault/data/%26"]
    {
        server.request("PUT", &format!("/{bucket}{foreign}"), "", "").unwrap();
    }
    proxy.take();
    let listed = storage.list("").unwrap();
    let names: Vec<_> = listed.iter().map(|entry| entry.key.as_str()).collect();
    let want: Vec<_> = (0..10).map(|number| format!("data/{number}")).collect();
    assert_eq!(names, want);
    assert!(proxy.take().len() >= 4, "pages of three");
    assert_eq!(storage.list("data").unwrap(), listed);
}

#[test]
fn large_objects_go_in_parts_and_come_back_whole() {
    let (server, _bucket) = server_with_bucket();
    let proxy = HttpProxy::start(&server.address()).unwrap();
    let storage = open(&proxy.endpoint(), "bucket/vault");
    let bytes: Vec<u8> = (0_u32..4_000_000).flat_map(u32::to_le_bytes).collect();
    storage.put(&key("data/large"), &bytes).unwrap();
    let parts = proxy.take().iter().filter(|seen| seen.target.contains("partNumber=")).count();
    assert_eq!(parts, 4);
    assert!(storage.read(&key("data/large")).unwrap() == bytes);
    let offset = 5 * (1 << 20) - 100;
    let range = storage.read_range(&key("data/large"), offset as u64, 200).unwrap();
    assert_eq!(range, bytes[offset..offset + 200]);
    assert_eq!(storage.size(&key("data/large")).unwrap(), bytes.len() as u64);
}

#[test]
fn a_missing_bucket_is_said_so_and_never_an_empty_vault() {
    let (server, _) = server_with_bucket();
    let storage = open(&server.endpoint(), "no-such-bucket/vault");
    let errors = [
        storage.list("").unwrap_err(),
        storage.put(&key("a"), b"x").unwrap_err(),
        storage.read(&key("a")).unwrap_err(),
        storage.put_if_absent(&key("a"), b"x").unwrap_err(),
        storage.delete(&key("a")).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("no-such-bucket"), "{error}");
        assert!(error.hint().unwrap().starts_with("Make the bucket first"), "{error}");
    }
}

#[test]
fn a_server_that_is_not_there_is_unavailable_after_a_while() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tuning = Tuning { give_up: Duration::from_millis(300), ..tuning() };
    let url = format!("s3:http://{gone}/bucket");
    let storage = mainstay_storage::open(&url, &options(tuning)).unwrap();
    let error = storage.read(&key("a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn the_secret_is_shown_nowhere() {
    let (server, _) = server_with_bucket();
    let options = options(tuning());
    let storage =
        mainstay_storage::open(&format!("s3:{}/bucket/x", server.endpoint()), &options).unwrap();
    let error = storage.read(&key("gone")).unwrap_err();
    assert_eq!(storage.location(), format!("s3:{}/bucket/x", server.endpoint()));
    let shown = format!("{options:?} {storage:?} {} {error} {error:?}", storage.location());
    assert!(!shown.contains("a-secret-key"), "{shown}");
}
