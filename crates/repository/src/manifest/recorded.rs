//! Manifests as they lie on disk.

use super::entry::Entry;
use crate::Error;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const HEAD: &str = "mainstay manifest 1";

/// How many entries a manifest has, by its own word: all of it is judged when it is compared.
pub fn recorded_entries(manifest: &Path) -> Result<u64, Error> {
    let mut file = File::open(manifest).map_err(|e| Error::io("read", manifest, e))?;
    Ok(End::of(&mut file, manifest)?.count)
}

/// A manifest that is being written.
pub(super) struct Recording<'a> {
    manifest: &'a Path,
    temporary: PathBuf,
    out: Summed<BufWriter<File>>,
    count: u64,
}

impl<'a> Recording<'a> {
    pub(super) fn begin(manifest: &'a Path) -> Result<Recording<'a>, Error> {
        let failed = |e| Error::io("write", manifest, e);
        let mut temporary = manifest.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(failed)?;
        let inner = BufWriter::with_capacity(256 << 10, file);
        let mut out = Summed { inner, hash: Sha256::new() };
        writeln!(out, "{HEAD}").map_err(failed)?;
        Ok(Recording { manifest, temporary, out, count: 0 })
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        self.count += 1;
        entry.write(&mut self.out).map_err(|e| Error::io("write", self.manifest, e))
    }

    /// An entry as another manifest has it.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Error> {
        self.count += 1;
        self.out.write_all(line.as_bytes()).map_err(|e| Error::io("write", self.manifest, e))
    }

    /// Puts it in the place of the one before, durably.
    pub(super) fn finish(self) -> Result<(), Error> {
        let failed = |e| Error::io("write", self.manifest, e);
        let dir = match self.manifest.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let sum = hex::encode(self.out.hash.finalize());
        let mut out = self.out.inner;
        writeln!(out, "end {} {sum}", self.count).map_err(failed)?;
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&self.temporary, self.manifest).map_err(failed)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

/// Hashes what is written through it.
struct Summed<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The entries of a manifest whose sum has been verified.
pub(super) struct Recorded {
    lines: io::Take<BufReader<File>>,
    path: PathBuf,
    left: u64,
}

impl Recorded {
    pub(super) fn open(path: &Path) -> Result<Recorded, Error> {
        let failed = |e| Error::io("read", path, e);
        let damaged = |what| Error::damaged(format!("the manifest {}", path.display()), what);
        let mut file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let what = "there is no manifest of the copy: nobody knows what was put there";
                return Err(Error::Missing(format!("{what} ({})", path.display())));
            }
            file => file.map_err(failed)?,
        };
        let End { count, sum, at: end } = End::of(&mut file, path)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut hash = Sha256::new();
        let mut rest = (&mut file).take(end);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match rest.read(&mut buffer).map_err(failed)? {
                0 => break,
                length => hash.update(&buffer[..length]),
            }
        }
        if hex::encode(hash.finalize()) != sum {
            return Err(damaged("its sum does not fit its content"));
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut lines = BufReader::new(file).take(end);
        let mut head = String::new();
        lines.read_line(&mut head).map_err(failed)?;
        if head.trim_end_matches('\n') != HEAD {
            return Err(damaged("it is none, or of a later version"));
        }
        Ok(Recorded { lines, path: path.to_owned(), left: count })
    }

    fn damaged(&self) -> Error {
        let object = format!("the manifest {}", self.path.display());
        Error::damaged(object, "it has a line that makes no sense")
    }

    fn read(&mut self) -> Result<Option<String>, Error> {
        let mut line = String::new();
        self.lines.read_line(&mut line).map_err(|e| Error::io("read", &self.path, e))?;
        if line.is_empty() {
            return if self.left == 0 { Ok(None) } else { Err(self.damaged()) };
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| self.damaged())?;
        Ok(Some(line))
    }

    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let Some(line) = self.read()? else { return Ok(None) };
        Entry::parse(line.trim_end_matches('\n')).map(Some).ok_or_else(|| self.damaged())
    }

    /// The next entry as it is written, with its path.
    pub(super) fn line(&mut self) -> Result<Option<(Vec<u8>, String)>, Error> {
        let Some(line) = self.read()? else { return Ok(None) };
        let path = line.trim_end_matches('\n').rsplit('\t').next();
        let path = path.and_then(crate::format::tree::unquoted).ok_or_else(|| self.damaged())?;
        Ok(Some((path, line)))
    }
}

/// The last line of a manifest.
struct End {
    count: u64,
    sum: String,
    /// Where it begins.
    at: u64,
}

impl End {
    fn of(file: &mut File, path: &Path) -> Result<End, Error> {
        let failed = |e| Error::io("read", path, e);
        let cut = || Error::damaged(format!("the manifest {}", path.display()), "it was cut off");
        let size = file.metadata().map_err(failed)?.len();
        // It has at most 4 + 20 + 1 + 64 + 1 bytes.
        let tail_bytes = size.min(90);
        file.seek(SeekFrom::Start(size - tail_bytes)).map_err(failed)?;
        let mut tail = Vec::new();
        file.take(tail_bytes).read_to_end(&mut tail).map_err(failed)?;
        let body = tail.strip_suffix(b"\n").ok_or_else(cut)?;
        let start = body.iter().rposition(|byte| *byte == b'\n').ok_or_else(cut)? + 1;
        let last = std::str::from_utf8(&body[start..]).map_err(|_| cut())?;
        let (count, sum) = last
            .strip_prefix("end ")
            .and_then(|rest| rest.split_once(' '))
            .and_then(|(count, sum)| Some((count.parse::<u64>().ok()?, sum.to_owned())))
            .ok_or_else(cut)?;
        Ok(End { count, sum, at: size - tail_bytes + start as u64 })
    }
}
