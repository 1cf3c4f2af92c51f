//! Locks and earlier versions, on a bucket that was made with locks.

use crate::s3::{key, options, tuning};
use jiff::Timestamp;
use mainstay_storage::doubles::{HttpProxy, S3Kind, S3Server, Spoil};
use mainstay_storage::probe::{Retention, retention};
use mainstay_storage::s3::{Credentials, Lock, LockMode};
use mainstay_storage::{ErrorKind, Options, Put, Storage, open};
use model::{Classify, Secret};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

fn server(with_locks: bool) -> S3Server {
    let server = S3Server::start(S3Kind::Honest).unwrap();
    server.make_bucket("bucket", with_locks).unwrap();
    server
}

fn at(server: &S3Server, change: impl FnOnce(&mut Options)) -> Arc<dyn Storage> {
    let mut options = options(tuning());
    change(&mut options);
    open(&format!("s3:{}/bucket/v", server.endpoint()), &options).unwrap()
}

const WEEK: Lock =
    Lock { mode: LockMode::Compliance, period: Duration::from_secs(7 * 24 * 60 * 60) };

/// Asks the server as somebody else would: what it says, headers and body.
fn raw(server: &S3Server, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x\r\n\r\n",
        server.address()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.to_lowercase()
}

/// Waits until the server's clock, which counts whole seconds, has passed this moment.
fn next_second() -> Timestamp {
    let now = Timestamp::now();
    let next = Timestamp::from_second(now.as_second() + 1).unwrap();
    while Timestamp::now() < next {
        std::thread::sleep(Duration::from_millis(10));
    }
    now
}

#[test]
fn packs_and_snapshots_are_locked_and_what_comes_and_goes_is_not() {
    let server = server(true);
    let storage = at(&server, |options| options.s3.lock = Some(WEEK));
    let large = vec![1; 6 << 20];
    storage.put(&key("docs/data/ab/pack"), b"pack").unwrap();
    storage.put(&key("docs/data/large"), &large).unwrap();
    assert_eq!(storage.put_if_absent(&key("docs/snapshots/1"), b"s").unwrap(), Put::Created);
    storage.put(&key("docs/config"), b"config").unwrap();
    storage.put(&key("docs/locks/1"), b"lock").unwrap();
    assert_eq!(storage.put_if_absent(&key("docs/mainstay/state/1"), b"s").unwrap(), Put::Created);
    let log = "mainstay/log/0000000100000000/000000010000000000000003@0000000001";
    let partial = "mainstay/log/0000000100000000/000000010000000000000004.partial@0000000001";
    for name in [log, partial] {
        storage.put(&key(&format!("docs/{name}")), b"log").unwrap();
    }
    for (name, locked) in [
        (log, true),
        (partial, false),
        ("data/ab/pack", true),
        ("data/large", true),
        ("snapshots/1", true),
        ("config", true),
        ("locks/1", false),
        ("mainstay/state/1", false),
    ] {
        let head = raw(&server, "HEAD", &format!("/bucket/v/docs/{name}"));
        assert!(head.starts_with("http/1.0 200") || head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(head.contains("x-amz-object-lock-mode: compliance"), locked, "{name}: {head}");
    }
    assert!(storage.read(&key("docs/data/large")).unwrap() == large);
    // A removal hides it; the version stays.
    storage.delete(&key("docs/data/ab/pack")).unwrap();
    assert_eq!(storage.read(&key("docs/data/ab/pack")).unwrap_err().kind(), ErrorKind::NotFound);
    let versions = raw(&server, "GET", "/bucket?versions&prefix=v/docs/data/ab");
    let id = versions.split("<version>").nth(1).and_then(|rest| rest.split("<versionid>").nth(1));
    let id = id.and_then(|rest| rest.split('<').next()).unwrap();
    let gone = raw(&server, "DELETE", &format!("/bucket/v/docs/data/ab/pack?versionId={id}"));
    assert!(gone.contains("403") && gone.contains("accessdenied"), "{gone}");
}

/// A lock ends so long after its object was written; what still uses the object has it locked again.
#[test]
fn what_is_locked_can_be_locked_again() {
    let server = server(true);
    let day = Lock { period: Duration::from_secs(24 * 60 * 60), ..WEEK };
    let storage = at(&server, |options| options.s3.lock = Some(day));
    let written: Vec<String> = (0..11).map(|number| format!("docs/data/{number}")).collect();
    for name in &written {
        storage.put(&key(name), b"pack").unwrap();
    }
    storage.put(&key("docs/locks/1"), b"lock").unwrap();
    storage.put(&key("shop/data/1"), b"of another service").unwrap();
    let until = |name: &str| {
        let head = raw(&server, "HEAD", &format!("/bucket/v/{name}"));
        let line =
            head.lines().find_map(|line| line.strip_prefix("x-amz-object-lock-retain-until-date:"));
        line.map(|time| time.trim().to_uppercase().parse::<Timestamp>().unwrap())
    };
    let (before, others) = (until(&written[0]), until("shop/data/1"));
    assert_eq!(storage.lock_again("docs").unwrap(), Some(11));

    let proxy = HttpProxy::start(&server.address()).unwrap();
    let mut week = options(tuning());
    week.s3.lock = Some(WEEK);
    let renewing = open(&format!("s3:{}/bucket/v", proxy.endpoint()), &week).unwrap();
    // One was removed since it was listed.
    proxy.plan("PUT", "retention", 1, Spoil::Answer(404, String::new()));
    assert_eq!(renewing.lock_again("docs").unwrap(), Some(10));
    assert_eq!(renewing.lock_again("docs").unwrap(), Some(11));
    for name in &written {
        assert!(until(name) > before, "{name}");
    }
    assert_eq!(until("docs/locks/1"), None);
    assert_eq!(until("shop/data/1"), others);
    proxy.plan("PUT", "retention", 1, Spoil::Answer(403, String::new()));
    assert_eq!(renewing.lock_again("docs").unwrap_err().kind(), ErrorKind::Permission);
    assert_eq!(at(&server, |_| ()).lock_again("docs").unwrap(), None);
}

#[test]
fn locks_are_tried_before_they_are_believed() {
    let with = server(true);
    let probed = retention(&*at(&with, |options| options.s3.lock = Some(WEEK))).unwrap();
    assert_eq!(probed, Retention::Holds);
    assert_eq!(retention(&*at(&with, |_| ())).unwrap(), Retention::Holds);
    let without = server(false);
    match retention(&*at(&without, |_| ())).unwrap() {
        Retention::Refused(reason) => assert!(reason.contains("takes no locks"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Accepts the lock and forgets it, as some servers do: here the headers are lost on the way.
#[test]
fn a_server_that_forgets_locks_is_found_out() {
    let server = server(false);
    server.keep_versions("bucket").unwrap();
    let forgetful = HttpProxy::start(&server.address()).unwrap();
    forgetful.drop_headers("x-amz-object-lock-");
    let url = format!("s3:{}/bucket/v", forgetful.endpoint());
    let storage = open(&url, &options(tuning())).unwrap();
    match retention(&*storage).unwrap() {
        Retention::Refused(reason) => assert!(reason.contains("could be removed"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_overwritten_or_removed_is_there_as_of_before() {
    let server = server(false);
    server.keep_versions("bucket").unwrap();
    let today = at(&server, |_| ());
    let large = vec![9; 6 << 20];
    for number in 0..7 {
        today.put(&key(&format!("docs/data/{number}")), b"good").unwrap();
    }
    today.put(&key("docs/data/large"), &large).unwrap();
    today.put(&key("top"), b"top").unwrap();
    today.put(&key("docs/data/gone-before"), b"x").unwrap();
    today.delete(&key("docs/data/gone-before")).unwrap();
    let good = next_second();
    next_second();
    today.put(&key("docs/data/0"), b"evil").unwrap();
    today.delete(&key("docs/data/1")).unwrap();
    today.delete(&key("docs/data/large")).unwrap();
    today.put(&key("docs/data/later"), b"evil").unwrap();

    let good = Timestamp::from_second(good.as_second() + 1).unwrap();
    let past = at(&server, |options| options.s3.as_of = Some(good));
    assert!(past.is_read_only());
    let names: Vec<_> =
        past.list("docs").unwrap().into_iter().map(|entry| entry.key.to_string()).collect();
    let mut want: Vec<_> = (0..7).map(|number| format!("docs/data/{number}")).collect();
    want.push("docs/data/large".to_owned());
    assert_eq!(names, want);
    assert_eq!(past.first_parts().unwrap(), ["docs", "top"]);
    assert_eq!(past.read(&key("docs/data/0")).unwrap(), b"good");
    assert_eq!(past.read(&key("docs/data/1")).unwrap(), b"good");
    assert_eq!(past.read(&key("top")).unwrap(), b"top");
    assert!(past.read(&key("docs/data/large")).unwrap() == large);
    assert_eq!(past.read_range(&key("docs/data/large"), 6 << 19, 4).unwrap(), [9; 4]);
    assert_eq!(past.size(&key("docs/data/large")).unwrap(), 6 << 20);
    let beyond = past.read_range(&key("docs/data/0"), 2, 3).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Truncated);
    for absent in ["docs/data/later", "docs/data/gone-before", "docs/data", "nothing"] {
        assert_eq!(past.read(&key(absent)).unwrap_err().kind(), ErrorKind::NotFound, "{absent}");
    }
    let errors = [
        past.put(&key("docs/x"), b"x").unwrap_err(),
        past.put_if_absent(&key("docs/x"), b"x").unwrap_err(),
        past.delete(&key("docs/data/0")).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        assert!(error.to_string().contains("can only be read"), "{error}");
    }
    assert_eq!(today.read(&key("docs/data/0")).unwrap(), b"evil");
}

#[test]
fn a_directory_has_no_past() {
    let mut options = options(tuning());
    options.s3.as_of = Some(Timestamp::now());
    assert_eq!(open("/srv", &options).unwrap_err().kind(), ErrorKind::Invalid);
}

/// Uploads whose writers died are ended, but not those of one that may live.
#[test]
fn uploads_that_were_begun_long_ago_are_ended() {
    let server = server(false);
    let proxy = HttpProxy::start(&server.address()).unwrap();
    let storage = open(&format!("s3:{}/bucket/v", proxy.endpoint()), &options(tuning())).unwrap();
    server.request("POST", "/bucket/v/data/large?uploads", "", "").unwrap();
    // Begun now, says the first answer; the server itself says of every upload that it is old.
    let young = format!(
        "<ListMultipartUploadsResult><Upload><Key>v/data/large</Key><UploadId>u</UploadId>\
         <Initiated>{}</Initiated></Upload><IsTruncated>false</IsTruncated>\
         </ListMultipartUploadsResult>",
        Timestamp::now()
    );
    proxy.plan("GET", "uploads", 1, Spoil::Answer(200, young));
    assert_eq!(storage.remove_leftovers("").unwrap(), 0);
    assert!(raw(&server, "GET", "/bucket?uploads").contains("v/data/large"));
    assert_eq!(storage.remove_leftovers("other").unwrap(), 0);
    assert_eq!(storage.remove_leftovers("data").unwrap(), 1);
    assert!(!raw(&server, "GET", "/bucket?uploads").contains("v/data/large"));
}

/// A user of the server with an access key that may do everything: id and secret.
fn make_user(server: &S3Server) -> (String, String) {
    let ask = |query: &str| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        write!(
            stream,
            "POST / HTTP/1.0\r\nHost: iam.amazonaws.com\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{query}",
            query.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
        answer
    };
    ask("Action=CreateUser&UserName=u&Version=2010-05-08");
    let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A\
                  %22Allow%22%2C%22Action%22%3A%22*%22%2C%22Resource%22%3A%22*%22%7D%5D%7D";
    ask(&format!(
        "Action=PutUserPolicy&UserName=u&PolicyName=p&PolicyDocument={policy}&Version=2010-05-08"
    ));
    let key = ask("Action=CreateAccessKey&UserName=u&Version=2010-05-08");
    let field = |name: &str| {
        let rest = key.split(&format!("<{name}>")).nth(1).unwrap();
        rest.split('<').next().unwrap().to_owned()
    };
    (field("AccessKeyId"), field("SecretAccessKey"))
}

/// The server checks signatures here as Amazon does, so requests that we shape ourselves (listings,
/// deletions) and those that are signed twice (locks) must be signed right.
#[test]
fn requests_are_signed_as_servers_want_it() {
    // Four requests are free: the user, its policy and key, and the bucket.
    let free = [("INITIAL_NO_AUTH_ACTION_COUNT", "4")];
    let server = S3Server::start_with(S3Kind::Honest, &free).unwrap();
    let (id, secret) = make_user(&server);
    server.make_bucket("bucket", true).unwrap();
    let with = |secret: &str| {
        at(&server, |options| {
            let secret = Secret::new(secret.to_owned());
            options.s3.credentials = Credentials::Key { id: id.clone(), secret, token: None };
            options.s3.lock = Some(WEEK);
        })
    };
    let storage = with(&secret);
    storage.put(&key("data/a+b=c@d"), b"1").unwrap();
    storage.put(&key("locks/a"), b"1").unwrap();
    assert_eq!(storage.put_if_absent(&key("data/2"), b"2").unwrap(), Put::Created);
    assert_eq!(storage.put_if_absent(&key("data/2"), b"3").unwrap(), Put::Exists);
    assert_eq!(storage.read(&key("data/a+b=c@d")).unwrap(), b"1");
    assert_eq!(storage.list("data").unwrap().len(), 2);
    storage.delete(&key("locks/a")).unwrap();
    assert_eq!(storage.list("locks").unwrap(), []);

    let error = with("wrong").read(&key("data/2")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    assert!(error.hint().unwrap().contains("access key"), "{error}");
}
