//! A vault host: the real `mainstay vault serve`, and a real OpenSSH server before it.

use crate::rig::mainstay;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server.
pub(crate) struct VaultHost {
    pub(crate) child: Child,
    pub(crate) url: String,
    log: PathBuf,
}

impl VaultHost {
    /// Serves a directory with these words. `dir` is where its log goes.
    #[track_caller]
    pub(crate) fn start(dir: &Path, vault: &Path, words: &[&str]) -> VaultHost {
        let log = dir.join("vault-host.log");
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = mainstay()
            .args(["--json", "vault", "serve", "--listen", "127.0.0.1:0"])
            .arg(vault)
            .args(words)
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        for line in out.lines() {
            said.push_str(&line.unwrap());
            if said.ends_with('}') {
                break;
            }
        }
        let said: Value = serde_json::from_str(&said)
            .unwrap_or_else(|e| panic!("{e}: {said}{}", fs::read_to_string(&log).unwrap()));
        VaultHost { child, url: said["url"].as_str().unwrap().to_owned(), log }
    }

    /// What it told on standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Its address.
    pub(crate) fn address(&self) -> &str {
        self.url.split("//").nth(1).unwrap().trim_end_matches('/')
    }

    /// The same address, with a user.
    pub(crate) fn url_of(&self, user: &str, token: &str) -> String {
        self.url.replace("://", &format!("://{user}:{token}@"))
    }

    /// A connection, for what no client would say.
    pub(crate) fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket
    }

    /// Sends it a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }
}

impl Drop for VaultHost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends bytes, and what the answer begins with.
pub(crate) fn say(socket: &mut TcpStream, bytes: &[u8]) -> String {
    socket.write_all(bytes).unwrap();
    let mut head = [0; 12];
    socket.read_exact(&mut head).unwrap();
    String::from_utf8_lossy(&head).into_owned()
}

/// An OpenSSH server on a loopback port, with keys of its own.
pub(crate) struct Sshd {
    dir: tempfile::TempDir,
    child: Child,
    pub(crate) user: String,
}

impl Sshd {
    /// Lets in one key, with these options of `authorized_keys`.
    #[track_caller]
    pub(crate) fn start(options: &str) -> Sshd {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["host_key", "key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(path(name))
                .status();
            assert!(made.unwrap().success());
        }
        let public = fs::read_to_string(path("key.pub")).unwrap();
        fs::write(path("authorized_keys"), format!("{options} {public}")).unwrap();
        fs::set_permissions(path("authorized_keys"), fs::Permissions::from_mode(0o600)).unwrap();
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            // A server that root starts wants this for its unprivileged half.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap().trim().to_owned();
        let mut server = None;
        // A port is only free until somebody else takes it.
        for _ in 0..20 {
            let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = port.local_addr().unwrap().port();
            let here = dir.path().display();
            fs::write(
                path("sshd_config"),
                format!(
                    "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host_key\n\
                     AuthorizedKeysFile {here}/authorized_keys\nPidFile none\nStrictModes no\n\
                     UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                     PermitRootLogin prohibit-password\nMaxStartups 100\n"
                ),
            )
            .unwrap();
            let log = fs::File::create(path("sshd.log")).unwrap();
            let mut child = Command::new("/usr/sbin/sshd")
                .args(["-D", "-e", "-f"])
                .arg(path("sshd_config"))
                .stdin(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            let up = loop {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    break true;
                }
                if child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                    break false;
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            if up {
                server = Some((child, port));
                break;
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let (child, port) = server.unwrap_or_else(|| {
            panic!("{}", fs::read_to_string(path("sshd.log")).unwrap_or_default())
        });
        let host = fs::read_to_string(path("host_key.pub")).unwrap();
        fs::write(path("known_hosts"), format!("[127.0.0.1]:{port} {host}")).unwrap();
        let here = dir.path().display();
        fs::write(
            path("ssh_config"),
            format!(
                "Host vault\n HostName 127.0.0.1\n Port {port}\n User {user}\n \
                 IdentityFile {here}/key\n IdentitiesOnly yes\n \
                 UserKnownHostsFile {here}/known_hosts\n StrictHostKeyChecking yes\n \
                 BatchMode yes\n LogLevel ERROR\n"
            ),
        )
        .unwrap();
        Sshd { dir, child, user }
    }

    /// The words that reach the host called `vault`.
    pub(crate) fn ssh(&self) -> [String; 3] {
        let config = self.dir.path().join("ssh_config").display().to_string();
        ["ssh".to_owned(), "-F".to_owned(), config]
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
