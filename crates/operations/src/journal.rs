//! The journal of one operation: intent before each step, outcome after it, durable in between.
//!
//! One JSON object a line. A last line that a crash cut short is as if it had never been written:
//! the step it belongs to is taken as begun if a whole `begin` line is there, which is why `begin`
//! is durable before the step has any effect.

use crate::Error;
use jiff::Timestamp;
use model::OperationId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Source to vault.
    Backup,
    /// Vault to a place of this host.
    Restore,
    /// Vault to this host's standby.
    Refresh,
    /// This host's standby becomes the primary.
    Takeover,
    /// This host's member stops.
    Offline,
    /// This host's member serves again.
    Online,
    /// This host's broken member becomes a standby.
    Rejoin,
    /// Points leave the history.
    Forget,
    /// What no snapshot needs goes.
    Prune,
    /// What is damaged is replaced by what is left of it.
    Repair,
    /// The format's version is raised.
    Migrate,
    /// A point is restored to a scratch place, and judged there.
    Drill,
    /// This host's standby is read, and what has rotted is replaced.
    Scrub,
}

impl Kind {
    /// As in operation ids and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Backup => "backup",
            Kind::Restore => "restore",
            Kind::Refresh => "refresh",
            Kind::Takeover => "takeover",
            Kind::Offline => "offline",
            Kind::Online => "online",
            Kind::Rejoin => "rejoin",
            Kind::Forget => "forget",
            Kind::Prune => "prune",
            Kind::Repair => "repair",
            Kind::Migrate => "migrate",
            Kind::Drill => "drill",
            Kind::Scrub => "scrub",
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// Done, but some of the source could not be read.
    Incomplete,
    /// It failed; what it left was undone.
    Failed,
    /// Somebody cancelled it; what it left was undone.
    Cancelled,
    /// Its process died; whoever came next undid or finished it.
    Died,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The operation begins. First line.
    Start {
        /// Format of this journal.
        format: u32,
        /// Its id.
        id: OperationId,
        /// What it does.
        kind: Kind,
        /// What was asked of it.
        params: Value,
        /// Its process.
        pid: u32,
    },
    /// A step begins; nothing of it has happened yet.
    Begin {
        /// Its name.
        step: String,
        /// What undoing it needs to know.
        data: Value,
    },
    /// A step is done.
    Done {
        /// Its name.
        step: String,
        /// What came of it.
        data: Value,
    },
    /// A step was undone.
    Undone {
        /// Its name.
        step: String,
    },
    /// The operation is over. Last line.
    End {
        /// How it ended.
        outcome: Outcome,
        /// One sentence.
        message: String,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    pub at: Timestamp,
    /// What it says.
    #[serde(flatten)]
    pub event: Event,
}

/// The format that this version writes.
pub(crate) const FORMAT: u32 = 1;

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: std::path::PathBuf,
    entries: Vec<Entry>,
    /// Bytes of whole lines.
    length: u64,
}

impl Journal {
    /// Begins a journal in an operation's directory, which exists.
    pub(crate) fn create(dir: &Path) -> Result<Journal, Error> {
        let path = dir.join("journal");
        let file = File::options()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(|e| Error::io("make", &path, e))?;
        sync_dir(dir)?;
        Ok(Journal { file, path, entries: Vec::new(), length: 0 })
    }

    /// Opens one that somebody else began, to write its end.
    pub(crate) fn reopen(dir: &Path) -> Result<Journal, Error> {
        let path = dir.join("journal");
        let entries = read(dir)?;
        let file = File::options()
            .read(true)
            .append(true)
            .open(&path)
            .map_err(|e| Error::io("open", &path, e))?;
        // Cuts off a torn last line, so that what is appended begins on a line of its own.
        let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let end = whole(&text).len() as u64;
        file.set_len(end).map_err(|e| Error::io("truncate", &path, e))?;
        Ok(Journal { file, path, entries, length: end })
    }

    /// What was written so far.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Writes one line, durable on return.
    pub(crate) fn write(&mut self, event: Event) -> Result<(), Error> {
        let entry = Entry { at: Timestamp::now(), event };
        let mut line = serde_json::to_vec(&entry).map_err(|e| {
            Error::new(model::Class::Failed, format!("cannot encode a journal line: {e}"))
        })?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            // A full disk cuts a line short. What is written later, once there is room, must not
            // begin in the middle of it.
            let _ = self.file.set_len(self.length);
            return Err(Error::io("write", &self.path, error));
        }
        self.length += line.len() as u64;
        kill_point(&entry.event);
        self.entries.push(entry);
        Ok(())
    }
}

/// The whole lines of a journal. A torn last line is left out; damage anywhere else is an error.
pub(crate) fn read(dir: &Path) -> Result<Vec<Entry>, Error> {
    let (entries, wrong) = look(dir)?;
    wrong.map_or(Ok(entries), Err)
}

/// The lines of a journal that can be read, and why they are not to be acted upon, if they are not.
pub(crate) fn look(dir: &Path) -> Result<(Vec<Entry>, Option<Error>), Error> {
    let path = dir.join("journal");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), None)),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let corrupt = |what| Error::new(model::Class::Corrupt, what);
    // First of all: lines of another format may look as if they were of this one.
    if let Some(format) = format(&bytes).filter(|format| *format != FORMAT) {
        let what = format!(
            "the journal {} is of format {format}, and this version knows {FORMAT}",
            path.display()
        );
        return Ok((salvage(&bytes), Some(corrupt(what))));
    }
    match parse(&bytes) {
        Ok(entries) => Ok((entries, None)),
        Err((number, e)) => {
            let what = format!("line {number} of the journal {} is damaged", path.display());
            Ok((salvage(&bytes), Some(corrupt(what).because(e))))
        }
    }
}

/// The format that the first line names, whatever else it says.
fn format(bytes: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct First {
        format: u32,
    }
    let first = whole(bytes).split(|byte| *byte == b'\n').next()?;
    serde_json::from_slice::<First>(first).ok().map(|first| first.format)
}

/// The lines that can be read of a journal that is damaged. The last one counts only if it is the
/// journal's last: what stands after it might have said something else.
fn salvage(bytes: &[u8]) -> Vec<Entry> {
    let lines = whole(bytes).split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut read: Vec<Option<Entry>> =
        lines.map(|line| serde_json::from_slice(line).ok()).collect();
    if read.last().is_some_and(Option::is_none) {
        read.retain(|entry| {
            !entry.as_ref().is_some_and(|entry| matches!(entry.event, Event::End { .. }))
        });
    }
    read.into_iter().flatten().collect()
}

/// The whole lines in the bytes of a journal, or the number of one that is damaged, and why.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, (usize, serde_json::Error)> {
    let lines = whole(bytes).split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| serde_json::from_slice(line).map_err(|e| (number + 1, e)))
        .collect()
}

/// The bytes without a torn last line.
fn whole(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    &bytes[..end]
}

/// What a list of entries says of one step.
pub(crate) trait Steps {
    /// The data of the step's begin line, if it was begun (and not undone since).
    fn begun(&self, step: &str) -> Option<&Value>;
    /// The data of the step's done line, if it was done (and not undone since).
    fn done(&self, step: &str) -> Option<&Value>;
    /// How the operation ended, if it did.
    fn end(&self) -> Option<(Outcome, &str)>;
    /// What it is.
    fn start(&self) -> Option<(&OperationId, Kind)>;
    /// The process that began it.
    fn pid(&self) -> Option<u32>;
}

impl Steps for [Entry] {
    fn begun(&self, wanted: &str) -> Option<&Value> {
        let mut found = None;
        for entry in self {
            match &entry.event {
                Event::Begin { step, data } if step == wanted => found = Some(data),
                Event::Undone { step } if step == wanted => found = None,
                _ => {}
            }
        }
        found
    }

    fn done(&self, wanted: &str) -> Option<&Value> {
        let mut found = None;
        for entry in self {
            match &entry.event {
                Event::Done { step, data } if step == wanted => found = Some(data),
                Event::Undone { step } if step == wanted => found = None,
                _ => {}
            }
        }
        found
    }

    fn end(&self) -> Option<(Outcome, &str)> {
        self.iter().find_map(|entry| match &entry.event {
            Event::End { outcome, message } => Some((*outcome, message.as_str())),
            _ => None,
        })
    }

    fn start(&self) -> Option<(&OperationId, Kind)> {
        self.iter().find_map(|entry| match &entry.event {
            Event::Start { id, kind, .. } => Some((id, *kind)),
            _ => None,
        })
    }

    fn pid(&self) -> Option<u32> {
        self.iter().find_map(|entry| match entry.event {
            Event::Start { pid, .. } => Some(pid),
            _ => None,
        })
    }
}

/// Makes new names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync the directory", dir, e))
}

/// Tests of debug builds kill the process right after a line is durable: `STEP:begin`,
/// `STEP:done`, `start` or `end`. Release builds have no such point.
fn kill_point(event: &Event) {
    let here = match event {
        Event::Start { .. } => "start".to_owned(),
        Event::Begin { step, .. } => format!("{step}:begin"),
        Event::Done { step, .. } => format!("{step}:done"),
        Event::Undone { step } => format!("{step}:undone"),
        Event::End { .. } => "end".to_owned(),
    };
    kill_at(&here);
}

/// Tests of debug builds kill the process here, too, if they name this place: a step that has no line
/// in a journal.
pub fn kill_at(here: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    use rustix::process::{Signal, getpid, kill_process};
    let hooks = [("MAINSTAY_TEST_KILL_AT", Signal::KILL), ("MAINSTAY_TEST_STOP_AT", Signal::STOP)];
    for (variable, signal) in hooks {
        if std::env::var(variable).is_ok_and(|wanted| wanted == here) {
            let _ = kill_process(getpid(), signal);
        }
    }
}
