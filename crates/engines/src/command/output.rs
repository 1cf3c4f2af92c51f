//! What a command printed, kept within bounds, and how its end is told to people.

use crate::Error;
use model::{Class, Secret};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// A stream that grows beyond this while its command runs is cut down to its end.
const LIMIT: u64 = 16 << 20;
/// How much of the end is kept then.
const TAIL: u64 = 64 << 10;
/// How many lines of it an error shows, and how much of each.
const SHOWN_LINES: usize = 12;
const SHOWN_CHARS: usize = 400;

/// One output stream of a command: a file in memory that it appends to.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// The end of what was cut off.
    tail: Vec<u8>,
    cut: bool,
}

impl Sink {
    pub(super) fn new() -> io::Result<Self> {
        let fd = memfd_create("mainstay-output", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        // Appending is what makes cutting safe: the next write lands at the new end.
        fcntl_setfl(&fd, OFlags::APPEND)?;
        Ok(Sink { file: File::from(fd), tail: Vec::new(), cut: false })
    }

    /// A handle for the command.
    pub(super) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Cuts what has grown beyond the limit.
    pub(super) fn bound(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        if size > LIMIT {
            self.tail = self.read_from(size - TAIL, TAIL)?;
            self.cut = true;
            self.file.set_len(0)?;
        }
        Ok(())
    }

    /// Takes what is there and lets nobody add to it, and whether the beginning is missing.
    pub(super) fn finish(&mut self) -> io::Result<(Vec<u8>, bool)> {
        // Without the seal a daemon that kept the stream would fill the memory for ever.
        let _ = fcntl_add_seals(&self.file, SealFlags::GROW);
        self.bound()?;
        let mut bytes = std::mem::take(&mut self.tail);
        bytes.append(&mut self.read_from(0, LIMIT)?);
        Ok((bytes, self.cut))
    }

    fn read_from(&self, mut offset: u64, most: u64) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(most);
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while offset < end {
            let want = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            match self.file.read_at(&mut buffer[..want], offset) {
                Ok(0) => break,
                Ok(n) => {
                    bytes.extend_from_slice(&buffer[..n]);
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(bytes)
    }
}

/// How a command ended and what it printed.
#[derive(Clone, Debug)]
pub struct Output {
    what: String,
    status: ExitStatus,
    stdout: Vec<u8>,
    stdout_cut: bool,
    stderr: Vec<u8>,
    secrets: Vec<Secret>,
}

impl Output {
    pub(super) fn new(
        what: String,
        status: ExitStatus,
        (stdout, stdout_cut): (Vec<u8>, bool),
        stderr: Vec<u8>,
        secrets: Vec<Secret>,
    ) -> Self {
        Output { what, status, stdout, stdout_cut, stderr, secrets }
    }

    /// Whether it ended with exit code 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; `None` if a signal killed it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// All of its standard output; an error if that was more than is kept (16 MiB).
    pub fn stdout(&self) -> Result<&[u8], Error> {
        if self.stdout_cut {
            let limit = LIMIT >> 20;
            return Err(Error::failed(format!("{} printed more than {limit} MiB", self.what)));
        }
        Ok(&self.stdout)
    }

    /// Its standard output as text without surrounding white space.
    pub fn stdout_text(&self) -> Result<String, Error> {
        let bytes = self.stdout()?.to_vec();
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(_) => Err(Error::failed(format!("{} printed what is not UTF-8", self.what))),
        }
    }

    /// The last lines it printed, of its standard error if there is any, fit to be shown: without
    /// control characters and without the secrets it was given.
    pub fn last_words(&self) -> String {
        let stderr = presentable(&self.stderr, &self.secrets);
        if stderr.is_empty() { presentable(&self.stdout, &self.secrets) } else { stderr }
    }

    /// Everything on standard error that was kept, fit to be shown, line by line: for logs.
    pub fn messages(&self) -> Vec<String> {
        lines(&self.stderr, &self.secrets)
    }

    /// The error for an end that was not the wanted one.
    pub fn failure(&self) -> Error {
        self.failure_as(&explain(self.status))
    }

    /// The same, with another reason: "printed no JSON".
    pub fn failure_as(&self, reason: &str) -> Error {
        let words = self.last_words();
        let message = match words.is_empty() {
            true => format!("{} {reason}, and printed nothing", self.what),
            false => format!("{} {reason}; it said:\n{words}", self.what),
        };
        Error::new(Class::Failed, message)
    }

    /// The error for an end that was made, since it did not come within this time.
    pub(super) fn out_of_time(&self, limit: Duration) -> Error {
        self.failure_as(&format!("took longer than {limit:?} and was ended"))
    }
}

/// An exit status in words.
fn explain(status: ExitStatus) -> String {
    if let Some(signal) = status.signal() {
        return format!("was killed by signal {}", signal_name(signal));
    }
    match status.code() {
        Some(126) => "ended with exit code 126 (found, but cannot be executed)".to_owned(),
        Some(127) => "ended with exit code 127 (a command was not found)".to_owned(),
        Some(code @ 129..=159) => format!(
            "ended with exit code {code} (a shell's way to say: killed by signal {})",
            signal_name(code - 128)
        ),
        Some(code) => format!("ended with exit code {code}"),
        None => format!("ended with status {status}"),
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL, as the kernel does when memory runs out",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        25 => "SIGXFSZ, a limit of file size",
        _ => return number.to_string(),
    };
    format!("{number} ({name})")
}

fn presentable(bytes: &[u8], secrets: &[Secret]) -> String {
    let lines = lines(bytes, secrets);
    let from = lines.len().saturating_sub(SHOWN_LINES);
    let shown: Vec<String> = lines.iter().skip(from).map(|line| format!("  {line}")).collect();
    shown.join("\n")
}

fn lines(bytes: &[u8], secrets: &[Secret]) -> Vec<String> {
    let from = bytes.len().saturating_sub(usize::try_from(TAIL).unwrap_or(usize::MAX));
    let mut text = String::from_utf8_lossy(&bytes[from..]).into_owned();
    for secret in secrets.iter().filter(|secret| !secret.expose().is_empty()) {
        text = text.replace(secret.expose(), "[secret]");
    }
    // A command's colours and cursor movements must not reach our user's terminal.
    // What is cut off at its beginning may be the rest of a secret.
    let skip = usize::from(from > 0);
    let clean = |line: &str| -> String {
        line.replace('\t', " ").chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect()
    };
    text.lines().skip(skip).map(clean).filter(|line| !line.trim().is_empty()).collect()
}
