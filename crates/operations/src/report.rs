//! Where an operation's progress goes: its log, a file that others read, and whoever watches.

use crate::Error;
use jiff::Timestamp;
use model::Progress;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the progress file is written at most.
const EVERY: Duration = Duration::from_millis(500);

/// What others can read of a running operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Numbers {
    /// What it is doing.
    pub phase: String,
    /// Files to do, as far as known.
    pub files_expected: u64,
    /// Files done.
    pub files: u64,
    /// Bytes to do, as far as known.
    pub bytes_expected: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes a second since the phase began.
    pub bytes_per_second: u64,
    /// Seconds left at that rate, where it can be told.
    pub seconds_left: Option<u64>,
}

struct Inner {
    numbers: Numbers,
    phase_began: Instant,
    written: Option<Instant>,
    log: File,
}

/// The progress of one operation.
pub(crate) struct Report {
    watcher: Arc<dyn Progress>,
    file: PathBuf,
    inner: Mutex<Inner>,
}

impl Report {
    /// Logs and reports into an operation's directory, and on to a watcher.
    pub(crate) fn new(dir: &Path, watcher: Arc<dyn Progress>) -> Result<Report, Error> {
        let path = dir.join("log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|e| Error::io("open the log", &path, e))?;
        let inner =
            Inner { numbers: Numbers::default(), phase_began: Instant::now(), written: None, log };
        Ok(Report { watcher, file: dir.join("progress.json"), inner: Mutex::new(inner) })
    }

    /// One line of the log, not shown to the watcher.
    pub(crate) fn log(&self, line: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        write_line(&mut inner.log, line);
    }

    fn update(&self, now_due: bool, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner);
        if !now_due && inner.written.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        inner.written = Some(Instant::now());
        let seconds = inner.phase_began.elapsed().as_secs_f64().max(0.001);
        let numbers = &mut inner.numbers;
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        {
            let rate = numbers.bytes as f64 / seconds;
            numbers.bytes_per_second = rate as u64;
            let left = numbers.bytes_expected.saturating_sub(numbers.bytes) as f64;
            numbers.seconds_left =
                (numbers.bytes_expected > 0 && rate > 1.0).then(|| (left / rate).ceil() as u64);
        }
        // A reader must never see half a file; that the file outlives a crash does not matter.
        let text = serde_json::to_vec(numbers).unwrap_or_default();
        let temporary = self.file.with_extension("tmp");
        let _ =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &self.file));
    }
}

/// A log that cannot be written must not stop the work that it tells of.
fn write_line(log: &mut File, line: &str) {
    for part in line.lines() {
        let _ = writeln!(log, "{} {part}", Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ"));
    }
}

impl Progress for Report {
    fn expect(&self, files: u64, bytes: u64) {
        self.update(false, |inner| {
            inner.numbers.files_expected += files;
            inner.numbers.bytes_expected += bytes;
        });
        self.watcher.expect(files, bytes);
    }

    fn advance(&self, files: u64, bytes: u64) {
        self.update(false, |inner| {
            inner.numbers.files += files;
            inner.numbers.bytes += bytes;
        });
        self.watcher.advance(files, bytes);
    }

    fn phase(&self, what: &str) {
        self.update(true, |inner| {
            inner.numbers = Numbers { phase: what.to_owned(), ..Numbers::default() };
            inner.phase_began = Instant::now();
            write_line(&mut inner.log, what);
        });
        self.watcher.phase(what);
    }

    fn note(&self, line: &str) {
        self.log(line);
        self.watcher.note(line);
    }

    fn warn(&self, line: &str) {
        self.log(&format!("WARNING: {line}"));
        self.watcher.warn(line);
    }
}

/// What a running operation last reported.
pub(crate) fn read(dir: &Path) -> Option<Numbers> {
    serde_json::from_slice(&std::fs::read(dir.join("progress.json")).ok()?).ok()
}
