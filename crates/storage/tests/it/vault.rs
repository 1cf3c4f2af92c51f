//! A vault host for tests: the real server, in this process, on a loopback port.

use mainstay_storage::rest::{Options, Rest};
use mainstay_storage::serve::{Access, Limits, Rights, Server, User, Users};
use model::{CancelToken, Secret};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// A directory that is served as long as this lives.
pub(crate) struct Vault {
    pub(crate) address: SocketAddr,
    /// What the server told its owner.
    pub(crate) told: Arc<Mutex<Vec<String>>>,
    tls: Option<Certificate>,
    stop: CancelToken,
    thread: Option<JoinHandle<()>>,
}

/// A certificate for `localhost` that nobody signed but itself.
pub(crate) struct Certificate {
    dir: TempDir,
    pub(crate) sha256: String,
}

impl Certificate {
    pub(crate) fn new() -> Certificate {
        use sha2::Digest;
        let dir = TempDir::new().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let sha256 = hex::encode(sha2::Sha256::digest(made.cert.der()));
        Certificate { dir, sha256 }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// For a server that is not ours.
    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = vec![CertificateDer::from_pem_file(self.file()).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.key()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    }
}

impl Vault {
    /// Lets everybody do everything.
    pub(crate) fn open(dir: &Path) -> Vault {
        Vault::start(dir, Access::Everyone(Rights::Full), Limits::default(), None)
    }

    pub(crate) fn start(
        dir: &Path,
        access: Access,
        limits: Limits,
        tls: Option<Certificate>,
    ) -> Vault {
        let told = Arc::new(Mutex::new(Vec::new()));
        let teller = told.clone();
        let tell = Arc::new(move |line: &str| teller.lock().unwrap().push(line.to_owned()));
        let mut server = Server::new(dir, access, limits, tell).unwrap();
        if let Some(tls) = &tls {
            server = server.with_tls(tls.file(), tls.key()).unwrap();
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancelToken::new();
        let token = stop.clone();
        let thread = std::thread::spawn(move || server.serve(listener, &token).unwrap());
        Vault { address, told, tls, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        match self.tls {
            Some(_) => format!("rest:https://localhost:{}/{path}", self.address.port()),
            None => format!("rest:http://{}/{path}", self.address),
        }
    }

    pub(crate) fn client(&self, path: &str) -> Rest {
        let ca_file = self.tls.as_ref().map(Certificate::file);
        Rest::open(&self.url(path), &Options { ca_file, ..Options::default() }).unwrap()
    }

    pub(crate) fn client_of(&self, path: &str, user: &(String, Secret)) -> Rest {
        let options = Options {
            user: Some(user.0.clone()),
            password: Some(user.1.clone()),
            ..Options::default()
        };
        Rest::open(&self.url(path), &options).unwrap()
    }

    /// A socket to it, for what no client would send.
    pub(crate) fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket
    }

    /// The status that these bytes are answered with; 0 if the connection is closed without one.
    pub(crate) fn status(&self, request: &[u8]) -> u16 {
        let mut socket = self.socket();
        // The server may have heard enough before it has heard all.
        let _ = socket.write_all(request);
        status(&mut socket)
    }
}

pub(crate) fn status(socket: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    match socket.read_exact(&mut head) {
        Ok(()) => String::from_utf8_lossy(&head[9..]).parse().unwrap(),
        Err(_) => 0,
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// Writes a file of users and returns their tokens in order.
pub(crate) fn users(
    file: &Path,
    wanted: &[(&str, Rights, &[&str])],
) -> (Users, Vec<(String, Secret)>) {
    let mut text = String::from("# a comment\n\n");
    let mut tokens = Vec::new();
    for (name, rights, paths) in wanted {
        let paths = paths.iter().map(|path| crate::contract::key(path)).collect();
        let (user, token) = User::generate(name, *rights, paths).unwrap();
        text.push_str(&user.line());
        text.push('\n');
        tokens.push((user.name, token));
    }
    std::fs::write(file, text).unwrap();
    (Users::open(file).unwrap(), tokens)
}

/// A client over a pipe to a process that serves this directory.
pub(crate) fn piped(dir: &Path, path: &str) -> Rest {
    // The helper speaks through its input, which is a socket, and what the test harness prints
    // goes elsewhere.
    let script = "exec \"$STORAGE_TEST_BINARY\" --exact vault::helper_serves >/dev/null";
    let program = std::env::current_exe().unwrap();
    let words = [
        "env".to_owned(),
        format!("STORAGE_TEST_SERVE={}", dir.join(path).display()),
        format!("STORAGE_TEST_BINARY={}", program.display()),
        "sh".to_owned(),
        "-c".to_owned(),
        script.to_owned(),
    ];
    let options = Options { ssh_command: words.into(), ..Options::default() };
    Rest::open("ssh://nowhere/x", &options).unwrap()
}

/// Not a test of its own: the server at the other end of a pipe.
#[test]
fn helper_serves() {
    let Some(dir) = std::env::var_os("STORAGE_TEST_SERVE") else { return };
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let (input, output) = (UnixStream::from(socket.try_clone().unwrap()), UnixStream::from(socket));
    let access = Access::Everyone(Rights::Full);
    let server =
        Server::new(Path::new(&dir), access, Limits::default(), Arc::new(|_: &str| {})).unwrap();
    server.serve_pipe(input, output, &CancelToken::new()).unwrap();
}
