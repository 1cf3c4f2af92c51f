//! Ways to a server: a socket, a socket with TLS, or the standard input and output of a command.

use super::url::{Address, Http, Ssh};
use super::{Options, trust};
use crate::{Error, ErrorKind};
use hyper::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes connections, as often as the client wants one.
#[derive(Clone)]
pub(super) struct Connector {
    way: Arc<Way>,
    patience: Duration,
}

enum Way {
    Tcp(Http),
    Tls(Http, TlsConnector, ServerName<'static>),
    Command(Vec<String>),
}

impl Connector {
    pub(super) fn new(address: &Address, options: &Options) -> Result<Connector, Error> {
        let way = match address {
            Address::Http(http) if http.tls => {
                let name = ServerName::try_from(http.host.clone())
                    .map_err(|e| Error::new(ErrorKind::Invalid, &http.host, e))?;
                Way::Tls(http.clone(), trust::connector(options)?, name)
            }
            Address::Http(http) => Way::Tcp(http.clone()),
            Address::Ssh(ssh) => Way::Command(command(ssh, options)),
        };
        Ok(Connector { way: Arc::new(way), patience: options.connect })
    }

    async fn connect(self) -> io::Result<Stream> {
        let tcp = |http: &Http| {
            let (host, port) = (http.host.clone(), http.port);
            async move {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                Ok::<_, io::Error>(stream)
            }
        };
        let connecting = async {
            match &*self.way {
                Way::Tcp(http) => Ok(Stream::Tcp(TokioIo::new(tcp(http).await?))),
                Way::Tls(http, tls, name) => {
                    let stream = tls.connect(name.clone(), tcp(http).await?).await?;
                    Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
                }
                Way::Command(words) => spawn(words),
            }
        };
        match timeout(self.patience, connecting).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")),
        }
    }
}

/// The command line that serves a directory of another host to us.
fn command(ssh: &Ssh, options: &Options) -> Vec<String> {
    let mut words = options.ssh_command.clone();
    if words.is_empty() {
        words =
            ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"].map(Into::into).into();
    }
    if let Some(port) = ssh.port {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    words.push(ssh.destination.clone());
    // One word, because a shell on the other side takes it apart again.
    let program = options.remote_program.as_deref().unwrap_or("mainstay");
    words.push(format!("{program} vault serve --stdio -- {}", quoted(&ssh.path)));
    words
}

/// A word that a POSIX shell takes as it is.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=@,:".contains(&b);
    match word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn spawn(words: &[String]) -> io::Result<Stream> {
    let (program, words) = words
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
    // One socket is both its input and its output.
    let (ours, theirs) = UnixStream::pair()?;
    let input = OwnedFd::from(theirs.try_clone()?);
    let child = Command::new(program)
        .args(words)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        // What ssh and the server complain about is for people.
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run {program}: {e}")))?;
    ours.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(ours)?;
    Ok(Stream::Pipe(TokioIo::new(stream), Running(child)))
}

/// A command that ends with its connection.
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The closed pipe has told it already; one that does not heed this must not stay.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection.
pub(super) enum Stream {
    Tcp(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
    Pipe(TokioIo<tokio::net::UnixStream>, #[allow(dead_code)] Running),
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Pipe(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Pipe(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Pipe(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Pipe(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
