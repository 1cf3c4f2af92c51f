//! Stands between a client and an HTTP server, spoils what a test tells it to, and writes down
//! every request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// It never reaches the server; the answer is this status with this body.
    Answer(u16, String),
    /// It never reaches the server; the connection is closed.
    Close,
    /// The server carries it out, and the connection is closed instead of an answer.
    LoseAnswer,
    /// The server carries it out, and half of the answer comes.
    HalfAnswer,
    /// It never reaches the server, and nothing comes back, until the proxy ends.
    Hang,
}

/// One request that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `PUT`.
    pub method: String,
    /// `/bucket/name?query`.
    pub target: String,
    /// The header, in small letters.
    pub header: String,
}

#[derive(Debug, Default)]
struct State {
    plan: Vec<Rule>,
    dropped: Vec<String>,
    seen: Vec<Seen>,
    open: Vec<TcpStream>,
}

#[derive(Debug)]
struct Rule {
    method: String,
    part: String,
    times: u32,
    spoil: Spoil,
}

#[derive(Debug)]
struct Shared {
    server: String,
    state: Mutex<State>,
    ended: AtomicBool,
    wake: Condvar,
}

/// A running proxy. Dropping it closes all its connections.
#[derive(Debug)]
pub struct HttpProxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl HttpProxy {
    /// Before the server at this address (`127.0.0.1:PORT`).
    pub fn start(server: &str) -> Result<HttpProxy, std::io::Error> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            state: Mutex::default(),
            ended: AtomicBool::new(false),
            wake: Condvar::new(),
        });
        let accepting = shared.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || {
                    // A client that goes away is no failure of the proxy.
                    let _ = serve(&shared, stream);
                });
            }
        });
        Ok(HttpProxy { port, shared, thread: Some(thread) })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Spoils the next so many requests of this method (any, if empty) whose target holds `part`.
    pub fn plan(&self, method: &str, part: &str, times: u32, spoil: Spoil) {
        let rule = Rule { method: method.to_owned(), part: part.to_owned(), times, spoil };
        self.shared.state().plan.push(rule);
    }

    /// Takes no headers on that begin like this (in small letters).
    pub fn drop_headers(&self, prefix: &str) {
        self.shared.state().dropped.push(prefix.to_owned());
    }

    /// Plans nothing more.
    pub fn heal(&self) {
        self.shared.state().plan.clear();
    }

    /// The requests so far, and forgets them.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.state().seen)
    }

    /// Waits until a request came in whose target holds `part`; false after `deadline`.
    pub fn wait_for(&self, part: &str, deadline: std::time::Duration) -> bool {
        let there = |state: &mut State| !state.seen.iter().any(|seen| seen.target.contains(part));
        let state = self.shared.state();
        let waited = self.shared.wake.wait_timeout_while(state, deadline, there);
        waited.is_ok_and(|(_, timeout)| !timeout.timed_out())
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for stream in self.shared.state().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.wake.notify_all();
        // The accepting thread looks at the flag when somebody comes.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a request down and says what is to happen to it.
    fn meet(&self, seen: Seen) -> Option<Spoil> {
        let mut state = self.state();
        let spoil = state.plan.iter_mut().find(|rule| {
            rule.times > 0
                && (rule.method.is_empty() || rule.method == seen.method)
                && seen.target.contains(&rule.part)
        });
        let spoil = spoil.map(|rule| {
            rule.times -= 1;
            rule.spoil.clone()
        });
        state.seen.push(seen);
        self.wake.notify_all();
        spoil
    }
}

/// One request; the connection is closed after it.
fn serve(shared: &Shared, mut client: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut length) = (String::new(), 0_u64);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        let small = line.to_ascii_lowercase();
        if shared.state().dropped.iter().any(|prefix| small.starts_with(prefix)) {
            continue;
        }
        head.push_str(&line);
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    let mut words = head.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let header = head.to_ascii_lowercase();
    let is_head = method == "HEAD";
    let spoil = shared.meet(Seen { method, target, header });
    match &spoil {
        Some(Spoil::Answer(status, body)) => {
            let length = body.len();
            let body = if is_head { "" } else { body };
            return write!(
                client,
                "HTTP/1.1 {status} Spoiled\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
        Some(Spoil::Close) => return client.shutdown(Shutdown::Both),
        Some(Spoil::Hang) => {
            shared.state().open.push(client);
            return Ok(());
        }
        Some(Spoil::LoseAnswer | Spoil::HalfAnswer) | None => {}
    }
    let mut server = TcpStream::connect(&shared.server)?;
    server.write_all(head.as_bytes())?;
    server.write_all(b"Connection: close\r\n\r\n")?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match spoil {
        Some(Spoil::LoseAnswer) => client.shutdown(Shutdown::Both),
        Some(Spoil::HalfAnswer) => {
            client.write_all(&answer[..answer.len() / 2])?;
            client.shutdown(Shutdown::Both)
        }
        _ => client.write_all(&answer),
    }
}
