//! Reads every byte of a copy once.

use super::not_cancelled;
use crate::{Context, Error, Staged, Verdict};
use rustix::fs::{Mode, OFlags, open};
use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// How many findings are named; the others are counted.
const NAMED: usize = 100;

/// Judges a copy by reading all of it. Looks at what is there only: whether something is missing is
/// known to whoever restored it.
pub(crate) fn everything(cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error> {
    let mut reader = Reader { cx, files: 0, bytes: 0, findings: Vec::new(), unnamed: 0 };
    cx.progress.phase("reading every file");
    for root in copy {
        let mut waiting: Vec<PathBuf> = vec![root.staged.clone()];
        while let Some(path) = waiting.pop() {
            not_cancelled(cx)?;
            reader.one(&path, &mut waiting)?;
        }
    }
    Ok(reader.verdict())
}

struct Reader<'a> {
    cx: &'a Context<'a>,
    files: u64,
    bytes: u64,
    findings: Vec<String>,
    unnamed: u64,
}

impl Reader<'_> {
    /// Reads one thing; what is in a directory waits its turn.
    fn one(&mut self, path: &Path, waiting: &mut Vec<PathBuf>) -> Result<(), Error> {
        let kind = match fs::symlink_metadata(path) {
            Ok(meta) => meta.file_type(),
            Err(error) => return self.found(path, &error),
        };
        match self.content(path, kind, waiting) {
            Ok(()) => not_cancelled(self.cx),
            Err(error) => self.found(path, &error),
        }
    }

    fn content(
        &mut self,
        path: &Path,
        kind: FileType,
        waiting: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        if kind.is_dir() {
            for entry in fs::read_dir(path)? {
                waiting.push(entry?.path());
            }
        } else if kind.is_symlink() {
            fs::read_link(path)?;
        } else if kind.is_file() {
            // Devices, pipes and sockets are only names; to open one may do something.
            self.file(path)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        let mut file = open_quietly(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.bytes += n;
            self.cx.progress.advance(0, n);
            if self.cx.cancel.is_cancelled() {
                return Ok(());
            }
        }
        self.files += 1;
        self.cx.progress.advance(1, 0);
        Ok(())
    }

    fn found(&mut self, path: &Path, error: &io::Error) -> Result<(), Error> {
        if self.findings.len() < NAMED {
            self.findings.push(format!("{}: {error}", path.display()));
        } else {
            self.unnamed += 1;
        }
        Ok(())
    }

    fn verdict(mut self) -> Verdict {
        let sound = self.findings.is_empty();
        if self.unnamed > 0 {
            self.findings.push(format!("and {} more", self.unnamed));
        }
        self.findings.push(format!("read {} files, {} bytes", self.files, self.bytes));
        Verdict { sound, findings: self.findings }
    }
}

/// Opens a file without leaving a trace in its access time, where that is ours to say.
fn open_quietly(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match open(path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => Ok(open(path, flags, Mode::empty())?.into()),
        opened => Ok(opened?.into()),
    }
}
