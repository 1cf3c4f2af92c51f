//! A real S3 server, in a process of its own, in memory, on a free port of this machine.
//!
//! `cargo xtask test` installs it (moto, from PyPI). It honours conditional writes, keeps versions
//! and locks; an old release of it honours no condition, like several servers that people run.

use super::provided::{S3_SERVERS, provided};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Kind {
    /// One that refuses to create what exists (moto 5.2.5).
    Honest,
    /// One that takes no notice of `If-None-Match` (moto 5.0.0).
    Careless,
}

/// A running server. It ends when this is dropped, or when this process ends in any way: its
/// standard input is a pipe of ours.
#[derive(Debug)]
pub struct S3Server {
    child: Child,
    port: u16,
}

impl S3Server {
    /// Starts a server without buckets.
    pub fn start(kind: S3Kind) -> Result<S3Server, String> {
        S3Server::start_with(kind, &[])
    }

    /// With these variables in its environment.
    pub fn start_with(kind: S3Kind, variables: &[(&str, &str)]) -> Result<S3Server, String> {
        let place = provided(S3_SERVERS)?;
        let python = place.join("bin/python");
        if !python.exists() {
            return Err(format!(
                "the S3 server for the tests is not installed in {}; run `cargo xtask provide`, \
                 which installs it",
                place.display()
            ));
        }
        let mut command = Command::new(python);
        command
            .args(["-c", include_str!("s3_server.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .envs(variables.iter().copied());
        if kind == S3Kind::Careless {
            command.env("PYTHONPATH", place.join("old"));
        }
        let mut child = command.spawn().map_err(|e| format!("cannot start the S3 server: {e}"))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(|e| e.to_string())?;
        }
        let port = line.trim().parse().map_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
            "the S3 server ended before it listened".to_owned()
        })?;
        Ok(S3Server { child, port })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Makes a bucket, with locks (and so with versions) if asked.
    pub fn make_bucket(&self, name: &str, with_locks: bool) -> Result<(), String> {
        let lock = if with_locks { "x-amz-bucket-object-lock-enabled: true\r\n" } else { "" };
        self.request("PUT", &format!("/{name}"), lock, "")
    }

    /// Has a bucket keep every version.
    pub fn keep_versions(&self, name: &str) -> Result<(), String> {
        let body = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                    <Status>Enabled</Status></VersioningConfiguration>";
        self.request("PUT", &format!("/{name}?versioning"), "", body)
    }

    /// A request that is not signed, which the server allows.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<(), String> {
        let fail = |e: std::io::Error| format!("{method} {path}: {e}");
        let mut stream = TcpStream::connect(self.address()).map_err(fail)?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\n{headers}Content-Length: {length}\r\n\r\n{body}",
            self.address()
        )
        .map_err(fail)?;
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status).map_err(fail)?;
        match status.split(' ').nth(1) {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => Err(format!("{method} {path}: {}", status.trim())),
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
