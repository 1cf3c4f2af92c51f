//! A directory served as a vault: restic's REST protocol and our own dialect of it, over TCP, TLS or
//! a pipe. `docs/formats/vault-protocol.md` says what is promised.
//!
//! What producers may do is enforced here and nowhere before: a client is whatever somebody runs.

mod answer;
mod patient;
mod put;
mod route;
mod states;
mod tls;
#[cfg(feature = "doubles")]
pub mod trial;
mod users;

pub use crate::protocol::Rights;
pub use users::{User, Users, parse as parse_users};

use crate::{Error, ErrorKind, Local};
use answer::Served;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use model::CancelToken;
use patient::Patient;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Who is told what was refused or failed.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Who may come in.
#[derive(Debug)]
pub enum Access {
    /// Whoever reaches it, with these rights.
    Everyone(Rights),
    /// The users of a file, each with their own rights, but with none above these.
    Users(Users, Rights),
}

/// What a client may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest object.
    pub object_bytes: u64,
    /// Connections at once; further ones wait.
    pub connections: usize,
    /// How long the head of a request may take, or the pause before it.
    pub head: Duration,
    /// How long a body may stand still, and how long it may be slower than `slowest` altogether.
    pub body: Duration,
    /// Bytes a second that a body must have on average.
    pub slowest: u64,
    /// How long a client may not read.
    pub stalled: Duration,
    /// How long running requests may go on after the stop.
    pub grace: Duration,
    /// How old the state must be that makes another one meaningless, before who may only append can
    /// remove that: time in which somebody notices that states are stored that are none.
    pub state_age: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            object_bytes: 2 << 30,
            connections: 256,
            // Above the 90 s after which Go's clients close what is idle: the client should be
            // first, or its next request may meet a connection that is just closing.
            head: Duration::from_secs(100),
            body: Duration::from_secs(60),
            slowest: 4 << 10,
            stalled: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            state_age: Duration::from_secs(60 * 60),
        }
    }
}

/// A vault that can be served.
pub struct Server {
    served: Arc<Served>,
    tls: Option<TlsAcceptor>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves what is below a directory, which must be there: a disk that is not mounted must not
    /// look like an empty vault.
    pub fn new(dir: &Path, access: Access, limits: Limits, tell: Tell) -> Result<Server, Error> {
        if !dir.is_dir() {
            let message = "there is no such directory; make it, or mount its disk";
            return Err(Error::new(ErrorKind::NotFound, dir.display(), message));
        }
        let local = Arc::new(Local::open(dir)?);
        Ok(Server { served: Arc::new(Served { local, access, limits, tell }), tls: None })
    }

    /// Speaks TLS with this certificate chain and key, both PEM files.
    pub fn with_tls(mut self, certificate: PathBuf, key: PathBuf) -> Result<Server, Error> {
        self.tls = Some(tls::acceptor(&certificate, &key)?);
        Ok(self)
    }

    /// Serves a listening socket until the token is cancelled. Then no new connection is taken, and
    /// running requests come to their end.
    pub fn serve(self, listener: TcpListener, stop: &CancelToken) -> Result<(), Error> {
        let runtime = runtime()?;
        let failed = |e| Error::io("the server's socket", "listen on", e);
        listener.set_nonblocking(true).map_err(failed)?;
        let result = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            self.accept(listener, stop).await;
            Ok(())
        });
        // A disk that hangs must not keep the program for ever.
        runtime.shutdown_timeout(Duration::from_secs(10));
        result
    }

    async fn accept(&self, listener: tokio::net::TcpListener, stop: &CancelToken) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(self.served.limits.connections));
        let accepting = async {
            loop {
                // A place first: who cannot be served waits in the kernel's queue.
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(e) => {
                        // Out of descriptors, or a client that went away; neither is a reason to
                        // end, nor to spin.
                        (self.served.tell)(&format!("cannot accept a connection: {e}"));
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                };
                let _ = stream.set_nodelay(true);
                let (served, tls) = (self.served.clone(), self.tls.clone());
                let watcher = graceful.watcher();
                tokio::spawn(async move {
                    let _place = place;
                    let handshake = served.limits.head.min(Duration::from_secs(20));
                    match tls {
                        None => {
                            let _ = watcher.watch(http1_on(served, stream, peer)).await;
                        }
                        Some(tls) => {
                            let accepted = tokio::time::timeout(handshake, tls.accept(stream));
                            if let Ok(Ok(stream)) = accepted.await {
                                let _ = watcher.watch(http1_on(served, stream, peer)).await;
                            }
                        }
                    }
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = cancelled(stop) => {}
        }
        drop(listener);
        let grace = self.served.limits.grace;
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            (self.served.tell)("requests that did not end were cut off");
        }
    }

    /// Serves one client over a pipe, HTTP/2 from the first byte, until the pipe is closed or the
    /// token is cancelled.
    pub fn serve_pipe(
        self,
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        stop: &CancelToken,
    ) -> Result<(), Error> {
        let failed = |e| Error::io("the pipe", "serve", e);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        // Blocking reads and writes, in threads: what we were given may be a pipe, a socket, a
        // terminal or a file, and its mode is shared with whoever gave it to us.
        let to_us = theirs.try_clone().map_err(failed)?;
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)
        };
        let copy_in = move || {
            copy(input, &to_us);
            // The other thread holds the same socket, so that closing it would say nothing.
            let _ = to_us.shutdown(Shutdown::Write);
        };
        let copy_out = move || {
            copy(&theirs, output);
            let _ = theirs.shutdown(Shutdown::Both);
        };
        spawn("input", Box::new(copy_in))?;
        let out = spawn("output", Box::new(copy_out))?;
        let runtime = runtime()?;
        ours.set_nonblocking(true).map_err(failed)?;
        let served = self.served.clone();
        let result = runtime.block_on(async {
            let stream = tokio::net::UnixStream::from_std(ours).map_err(failed)?;
            http2_on(served, stream, stop).await;
            Ok(())
        });
        runtime.shutdown_timeout(Duration::from_secs(10));
        // The last answers are still on their way. The input thread may wait for ever, and ends
        // with the program.
        let _ = out.join();
        result
    }
}

fn http1_on<S>(
    served: Arc<Served>,
    stream: S,
    peer: SocketAddr,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = served.limits;
    let stream = TokioIo::new(Patient::new(stream, limits.stalled));
    let service = service_fn(move |request| {
        let served = served.clone();
        async move { Ok::<_, std::convert::Infallible>(served.answer(request, &peer).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(64 << 10)
        .max_headers(64)
        .serve_connection(stream, service)
}

async fn http2_on(served: Arc<Served>, stream: tokio::net::UnixStream, stop: &CancelToken) {
    let limits = served.limits;
    let stream = TokioIo::new(Patient::new(stream, limits.stalled));
    let service = service_fn(move |request| {
        let served = served.clone();
        async move { Ok::<_, std::convert::Infallible>(served.answer(request, &"the pipe").await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_header_list_size(64 << 10)
        .serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = cancelled(stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(limits.grace, connection).await;
}

/// Copies until one side ends.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let written = to.write_all(&buffer[..length]).and_then(|()| to.flush());
                if written.is_err() {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
}

async fn cancelled(stop: &CancelToken) {
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn runtime() -> Result<Runtime, Error> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("vault")
        .enable_all()
        .build()
        .map_err(|e| Error::io("the server", "start", e))
}
