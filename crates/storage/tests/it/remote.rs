//! The client of a served vault, with servers and networks that do not behave.

use crate::contract::key;
use crate::vault::{Certificate, Vault};
use mainstay_storage::rest::{Options, Rest};
use mainstay_storage::serve::{Access, Limits, Rights};
use mainstay_storage::{ErrorKind, Put, Storage, open};
use model::{CancelToken, Secret};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What becomes of one connection to a server that a test stands in for.
type Behave = Arc<dyn Fn(usize, TcpStream) + Send + Sync>;

/// A listening socket whose connections are handled by the test.
struct Fake {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Fake {
    fn new(behave: Behave) -> Fake {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let behave = behave.clone();
                std::thread::spawn(move || behave(number, socket.unwrap()));
            }
        });
        Fake { address, connections }
    }

    /// Answers the probe as we do, and everything else with these bytes.
    fn answering(answer: impl Into<Vec<u8>>) -> Fake {
        let answer = answer.into();
        Fake::new(Arc::new(move |_, mut socket| {
            while let Some(head) = head(&mut socket) {
                let probe = head.starts_with("OPTIONS");
                if socket.write_all(if probe { PROBE } else { &answer }).is_err() || !probe {
                    break;
                }
            }
        }))
    }

    fn client(&self, options: Options) -> Rest {
        Rest::open(&format!("rest:http://{}/", self.address), &options).unwrap()
    }
}

const PROBE: &[u8] = b"HTTP/1.1 200 OK\r\nMainstay-Protocol: 1\r\nContent-Length: 73\r\n\r\n\
    {\"protocol\":1,\"put-if-absent\":true,\"rights\":\"full\",\"free-bytes\":null    }";

/// The head of the next request; none if there is none.
fn head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Passes bytes on in one direction, through a change.
fn pass(mut from: TcpStream, mut to: TcpStream, change: impl Fn(&mut Vec<u8>)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut buffer) {
        let mut bytes = buffer[..length].to_vec();
        change(&mut bytes);
        if length == 0 || to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A proxy to a server of ours. The changes see what goes in and what comes out.
fn proxy(
    to: SocketAddr,
    inwards: impl Fn(&mut Vec<u8>) + Send + Sync + Copy + 'static,
    outwards: impl Fn(&mut Vec<u8>) + Send + Sync + Copy + 'static,
) -> Fake {
    Fake::new(Arc::new(move |_, socket| {
        let server = TcpStream::connect(to).unwrap();
        let (from, into) = (socket.try_clone().unwrap(), server.try_clone().unwrap());
        let thread = std::thread::spawn(move || pass(from, into, inwards));
        pass(server, socket, outwards);
        let _ = thread.join();
    }))
}

fn hasty() -> Options {
    Options {
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(20),
        retry_for: Duration::ZERO,
        ..Options::default()
    }
}

#[test]
fn a_plain_restic_server_is_used_for_a_repository_and_refused_for_state() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    // Without its header, ours is as plain as any: restic itself judges that dialect elsewhere.
    let plain = proxy(
        vault.address,
        |bytes| {
            let found =
                bytes.windows(17).position(|w| w.eq_ignore_ascii_case(b"mainstay-protocol"));
            if let Some(at) = found {
                bytes[at..at + 17].copy_from_slice(b"x-nobody-knows-it");
            }
        },
        |_| {},
    );
    let client = plain.client(Options::default());
    let name = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(b"bytes"));
    let all = [
        format!("shop/data/{}/{name}", &name[..2]),
        format!("shop/index/{name}"),
        format!("shop/keys/{name}"),
        format!("shop/locks/{name}"),
        format!("shop/snapshots/{name}"),
        "shop/config".to_owned(),
    ];
    for text in &all {
        let key = key(text);
        client.put(&key, b"bytes").unwrap();
        assert_eq!(client.read(&key).unwrap(), b"bytes");
        assert_eq!(client.read_range(&key, 1, 3).unwrap(), b"yte");
        assert_eq!(client.read_range(&key, 5, 0).unwrap(), b"");
        assert_eq!(client.read_range(&key, 1, 9).unwrap_err().kind(), ErrorKind::Truncated);
        assert_eq!(client.size(&key).unwrap(), 5);
        // As restic keeps them in a directory.
        assert!(dir.path().join(text).is_file());
    }
    let mut found: Vec<_> =
        client.list("shop").unwrap().into_iter().map(|entry| entry.key.to_string()).collect();
    let mut wanted = all.to_vec();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(client.list("shop/data").unwrap().len(), 1);
    assert_eq!(client.list("nobody/keys").unwrap(), []);
    assert_eq!(client.free_bytes().unwrap(), None);
    client.delete(&key(&all[3])).unwrap();
    assert_eq!(client.read(&key(&all[3])).unwrap_err().kind(), ErrorKind::NotFound);

    for text in ["shop/mainstay/state/00000000000000000001", "shop/config"] {
        let e = client.put_if_absent(&key(text), b"x").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid);
        assert!(e.to_string().contains("mainstay vault serve"), "{e}");
    }
    let e = client.put(&key("shop/mainstay/log/x"), b"x").unwrap_err();
    assert!(e.to_string().contains("plain restic REST server"), "{e}");
}

#[test]
fn a_lost_answer_is_asked_for_again_but_not_of_a_put_if_absent() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    let to = vault.address;
    // Every second connection is cut when the answer comes.
    let cut = Fake::new(Arc::new(move |number, socket| {
        let server = TcpStream::connect(to).unwrap();
        let (from, into) = (socket.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || pass(from, into, |_| {}));
        if number % 2 == 0 {
            let mut byte = [0];
            let _ = (&server).read(&mut byte);
            let _ = socket.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        } else {
            // One answer for each connection.
            let mut buffer = vec![0; 64 << 10];
            let length = (&server).read(&mut buffer).unwrap();
            let _ = (&socket).write_all(&buffer[..length]);
            let _ = socket.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }));
    let client = cut.client(Options::default());
    client.put(&key("x"), b"bytes").unwrap();
    assert_eq!(client.read(&key("x")).unwrap(), b"bytes");
    assert_eq!(client.list("").unwrap().len(), 1);
    client.delete(&key("x")).unwrap();
    assert!(cut.connections.load(Ordering::SeqCst) >= 8);

    let e = client.put_if_absent(&key("state"), b"mine").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    // It did happen, or is about to: the one who answers is another thread.
    let direct = vault.client("");
    let deadline = Instant::now() + Duration::from_secs(30);
    while direct.read(&key("state")).is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(direct.read(&key("state")).unwrap(), b"mine", "it did happen");
    assert_eq!(client.put_if_absent(&key("state"), b"mine").unwrap(), Put::Exists);
}

#[test]
fn a_server_that_comes_back_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Rest::open(&format!("rest:http://{address}/"), &Options::default()).unwrap();
    let path = dir.path().to_owned();
    let stop = CancelToken::new();
    let token = stop.clone();
    let server = std::thread::spawn(move || {
        // Refused connections first.
        std::thread::sleep(Duration::from_millis(300));
        let listener = TcpListener::bind(address).unwrap();
        let access = Access::Everyone(Rights::Full);
        let quiet = Arc::new(|_: &str| {});
        let server =
            mainstay_storage::serve::Server::new(&path, access, Limits::default(), quiet).unwrap();
        server.serve(listener, &token).unwrap();
    });
    // Nothing of it was sent, so that even this may be tried again.
    assert_eq!(client.put_if_absent(&key("x"), b"x").unwrap(), Put::Created);
    stop.cancel();
    server.join().unwrap();
    let gone = Rest::open(&format!("rest:http://{address}/"), &hasty()).unwrap();
    let e = gone.read(&key("x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
}

#[test]
fn an_overloaded_server_is_asked_again_later() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    let to = vault.address;
    let busy = Fake::new(Arc::new(move |number, mut socket| {
        if number < 3 {
            let _ = head(&mut socket);
            let status = ["503 Busy", "429 Too Many", "502 Bad Gateway"][number];
            let text =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = socket.write_all(text.as_bytes());
            return;
        }
        let server = TcpStream::connect(to).unwrap();
        let (from, into) = (socket.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || pass(from, into, |_| {}));
        pass(server, socket, |_| {});
    }));
    busy.client(Options::default()).put(&key("x"), b"x").unwrap();
    assert_eq!(vault.client("").read(&key("x")).unwrap(), b"x");
}

#[test]
fn an_answer_that_is_not_what_was_asked_for_is_no_answer() {
    let range = |head: &str, body: &str| {
        let text = format!(
            "HTTP/1.1 {head}\r\nMainstay-Protocol: 1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let e = Fake::answering(text).client(hasty()).read_range(&key("x"), 2, 4).unwrap_err();
        e.kind()
    };
    let part = "206 Partial Content\r\nContent-Range: bytes";
    assert_eq!(range("200 OK", "0123456789"), ErrorKind::Unavailable);
    assert_eq!(range("200 OK", "0123"), ErrorKind::Failed);
    assert_eq!(range(&format!("{part} 0-3/10"), "0123"), ErrorKind::Failed);
    assert_eq!(range("206 Partial Content", "2345"), ErrorKind::Failed);
    assert_eq!(range(&format!("{part} 2-4/5"), "234"), ErrorKind::Truncated);
    assert_eq!(range(&format!("{part} 2-6/10"), "23456"), ErrorKind::Unavailable, "more");
    assert_eq!(range("416 No\r\nContent-Range: bytes */3", ""), ErrorKind::Truncated);

    // Less than what was announced is never taken for all.
    let short = "HTTP/1.1 200 OK\r\nMainstay-Protocol: 1\r\nContent-Length: 10\r\n\r\n01234";
    let e = Fake::answering(short).client(hasty()).read(&key("x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    // A size that nobody has memory for is not believed.
    let huge = format!(
        "HTTP/1.1 200 OK\r\nMainstay-Protocol: 1\r\nContent-Length: {}\r\n\r\n01234",
        u64::MAX
    );
    let e = Fake::answering(huge).client(hasty()).read(&key("x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");

    // Who does not speak our dialect any more has not stored what it says it has.
    let stranger = Fake::answering("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    let e = stranger.client(hasty()).put_if_absent(&key("x"), b"x").unwrap_err();
    assert!(e.to_string().contains("not from a vault host"), "{e}");
    // Nor who answers something else altogether.
    for answer in ["200 OK", "204 No Content", "301 Moved\r\nLocation: /y", "100 Continue"] {
        let text = format!(
            "HTTP/1.1 {answer}\r\nMainstay-Protocol: 1\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let client = Fake::answering(text).client(hasty());
        client.put_if_absent(&key("x"), b"x").unwrap_err();
    }
    for listing in ["{}", "[{\"name\":\"../x\",\"size\":1}]", "[{\"name\":\"/x\",\"size\":1}]", "["]
    {
        let text = format!(
            "HTTP/1.1 200 OK\r\nMainstay-Protocol: 1\r\nContent-Length: {}\r\n\r\n{listing}",
            listing.len()
        );
        let e = Fake::answering(text).client(hasty()).list("a").unwrap_err();
        assert!(e.to_string().contains("listing makes no sense"), "{e}");
    }
    // Text from outside is shown on one line.
    let odd = "HTTP/1.1 500 Oh\r\nMainstay-Protocol: 1\r\nContent-Length: 9\r\n\r\na\nb\x1b[31mc";
    let e = Fake::answering(odd).client(hasty()).read(&key("x")).unwrap_err();
    assert!(e.to_string().ends_with("a b [31mc"), "{:?}", e.to_string());
}

#[test]
fn a_server_that_says_nothing_holds_nobody_up() {
    let silent = Fake::new(Arc::new(|_, mut socket| {
        let _ = head(&mut socket);
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
    }));
    let options = Options { answer: Duration::from_millis(300), ..hasty() };
    let e = silent.client(options).read(&key("x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");

    let cancel = CancelToken::new();
    let client = silent.client(Options { cancel: cancel.clone(), ..Options::default() });
    let connections = silent.connections.clone();
    let before = connections.load(Ordering::SeqCst);
    let waiting = std::thread::spawn(move || (client.read(&key("x")), client));
    let deadline = Instant::now() + Duration::from_secs(30);
    while connections.load(Ordering::SeqCst) == before {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let began = Instant::now();
    cancel.cancel();
    let (result, _client) = waiting.join().unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn after_a_cancel_each_request_is_made_once() {
    let dir = TempDir::new().unwrap();
    let vault = Vault::open(dir.path());
    let cancel = CancelToken::new();
    cancel.cancel();
    let options = Options { cancel, ..Options::default() };
    let client = Rest::open(&vault.url(""), &options).unwrap();
    client.put(&key("x"), b"x").unwrap();
    client.delete(&key("x")).unwrap();
    let gone = Fake::new(Arc::new(|_, _| {}));
    let began = Instant::now();
    let client = gone.client(options);
    assert_eq!(client.read(&key("x")).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(5), "it was tried again");
}

#[test]
fn only_the_certificate_that_was_named_is_believed() {
    let dir = TempDir::new().unwrap();
    let certificate = Certificate::new();
    let (sha256, file) = (certificate.sha256.clone(), certificate.file());
    let access = Access::Everyone(Rights::Full);
    let vault = Vault::start(dir.path(), access, Limits::default(), Some(certificate));
    let by_address = format!("rest:https://127.0.0.1:{}/", vault.address.port());
    let put = |url: &str, options: Options| {
        Rest::open(url, &options)
            .unwrap()
            .put(&key("x"), b"x")
            .map_err(|e| (e.kind(), e.to_string()))
    };
    let pinned = |sha256: String| Options { pinned_sha256: Some(sha256), ..hasty() };
    let ca = || Options { ca_file: Some(file.clone()), ..hasty() };
    put(&vault.url(""), ca()).unwrap();
    put(&vault.url(""), pinned(sha256.clone())).unwrap();
    let colons: Vec<String> = sha256
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
        .collect();
    // A pin says which certificate it is, so its name does not matter.
    put(&by_address, pinned(colons.join(":"))).unwrap();

    let other = Certificate::new();
    for (url, options) in [
        (vault.url(""), hasty()),
        (vault.url(""), pinned(other.sha256.clone())),
        (vault.url(""), Options { ca_file: Some(other.file()), ..hasty() }),
        (by_address.clone(), ca()),
        (format!("rest:http://{}/", vault.address), hasty()),
    ] {
        let (kind, text) = put(&url, options).unwrap_err();
        assert_eq!(kind, ErrorKind::Unavailable, "{text}");
    }
    let wrong = |options: Options| Rest::open(&by_address, &options).unwrap_err().kind();
    assert_eq!(wrong(pinned("00".to_owned())), ErrorKind::Invalid);
    assert_eq!(
        wrong(Options { ca_file: Some(dir.path().join("none")), ..hasty() }),
        ErrorKind::Invalid
    );
}

#[test]
fn urls_are_understood_or_refused_and_show_no_secret() {
    for (url, shown) in [
        ("rest:http://host/", "rest:http://host/"),
        ("rest:https://host:443/a/b/", "rest:https://host/a/b/"),
        ("rest:http://host:443", "rest:http://host:443/"),
        ("rest:https://u:hidden@host:8000/p", "rest:https://u@host:8000/p/"),
        ("rest:https://u:hidden@x/y@host/p", "rest:https://u@host/p/"),
        ("rest:http://u:hi%2Fdden%40@[::1]:80/", "rest:http://u@[::1]/"),
        ("ssh://user@host:2222/srv/vault/", "ssh://user@host:2222/srv/vault"),
        ("ssh://host/", "ssh://host/"),
        ("ssh:user@host:vault", "ssh:user@host:vault"),
        ("ssh:host:/srv/vault", "ssh://host/srv/vault"),
    ] {
        let storage = open(url, &mainstay_storage::Options::default()).unwrap();
        assert_eq!(storage.location(), shown);
        assert!(!format!("{storage:?}").contains("hidden"), "{storage:?}");
    }
    for url in [
        "rest:host/",
        "rest:ftp://hidden@host/",
        "rest:http://",
        "rest:http:///x",
        "rest:http://h:x/",
        "rest:http://h:0/",
        "rest:http://h:99999/",
        "rest:http://u:hidden@h/../x",
        "rest:http://u:hidden@h/%2e",
        "rest:http://u:hidden%2@h/",
        "rest:http://u:hidden@h/?q",
        "rest:http://[::1/",
        "rest:http://[hidden]/",
        "rest:http://u:hidden\n@h/",
        "ssh://host",
        "ssh:host",
        "ssh:host:",
        "ssh://-oProxyCommand=hidden/x",
        "ssh:-oProxyCommand=hidden:x",
        "ssh://u@-hidden/x",
        "ssh://u:hidden@h/x",
        "ssh:u@-hidden:x",
        "ssh:///x",
        "ssh::x",
    ] {
        let e = open(url, &mainstay_storage::Options::default()).map(|_| ()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{url}");
        assert!(!format!("{e} {e:?}").contains("hidden"), "{e:?}");
    }
    // Nor does an error of a request.
    let gone = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let options = Options { password: Some(Secret::new("hidden".to_owned())), ..hasty() };
    let client = Rest::open(&format!("rest:http://u:hidden2@{gone}/"), &options).unwrap();
    let e = client.read(&key("x")).unwrap_err();
    assert!(!format!("{e} {e:?} {client:?} {options:?}").contains("hidden"), "{e:?}");
}

#[test]
fn a_command_that_cannot_be_run_or_ends_says_so() {
    let with = |words: &[&str]| {
        let ssh_command = words.iter().map(|word| (*word).to_owned()).collect();
        Rest::open("ssh://host/x", &Options { ssh_command, ..hasty() }).unwrap()
    };
    let e = with(&["/no/such/program"]).read(&key("x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.to_string().contains("/no/such/program"), "{e}");
    let e = with(&["false"]).list("").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    // What talks something else.
    let e = with(&["sh", "-c", "echo Welcome to this host; cat >/dev/null"]).list("").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
}

#[test]
fn the_other_host_is_asked_by_one_shell_word() {
    let dir = TempDir::new().unwrap();
    let heard = dir.path().join("heard");
    let script = format!("printf '%s\\n' \"$@\" >{}; exec false", heard.display());
    let ssh_command = ["sh", "-c", &script, "ssh"].map(str::to_owned).into();
    let options =
        Options { ssh_command, remote_program: Some("/opt/mainstay".to_owned()), ..hasty() };
    let client = Rest::open("ssh://u@host:2222/a/it's$HOME", &options).unwrap();
    client.list("").unwrap_err();
    let said = std::fs::read_to_string(&heard).unwrap();
    assert_eq!(said, "-p\n2222\nu@host\n/opt/mainstay vault serve --stdio -- '/a/it'\\''s$HOME'\n");
}
