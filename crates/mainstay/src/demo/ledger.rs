//! What the customers know: which orders were begun, and which were acknowledged, when.
//!
//! It lies outside the shop's data and outside the vault, so that it survives whatever happens to
//! both. An acknowledgement is durable before the next order begins.
//!
//! One line each: `begin a 17`, `ack a 17 2026-11-21T01:04:42.123456789Z`.

use crate::failure::Failure;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// An acknowledged order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The host that took it.
    pub(crate) host: String,
    /// Its number.
    pub(crate) number: u64,
    /// When it was acknowledged: after its commit.
    pub(crate) at: Timestamp,
}

/// Everything that the ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// Acknowledged orders, in their order.
    pub(crate) acked: Vec<Ack>,
    /// Every order that was begun.
    pub(crate) begun: BTreeSet<u64>,
    /// The last line begins an order that was not acknowledged: its writer is in the middle of it.
    pub(crate) open: bool,
}

/// The ledger, to be written.
pub(crate) struct Ledger {
    file: File,
    path: PathBuf,
}

impl Ledger {
    /// Opens it, or begins it.
    pub(crate) fn append(path: &Path) -> Result<Ledger, Failure> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| Failure::io("open", path.display(), &e))?;
        Ok(Ledger { file, path: path.to_owned() })
    }

    /// An order begins.
    pub(crate) fn begin(&mut self, host: &str, number: u64) -> Result<(), Failure> {
        self.write(&format!("begin {host} {number}\n"))
    }

    /// An order is committed: the customer is told.
    pub(crate) fn ack(&mut self, host: &str, number: u64, at: Timestamp) -> Result<(), Failure> {
        self.write(&format!("ack {host} {number} {at}\n"))?;
        self.file.sync_data().map_err(|e| Failure::io("sync", self.path.display(), &e))
    }

    fn write(&mut self, line: &str) -> Result<(), Failure> {
        self.file
            .write_all(line.as_bytes())
            .map_err(|e| Failure::io("write", self.path.display(), &e))
    }
}

/// Reads it. A line that is being written at this moment is not there yet.
pub(crate) fn read(path: &Path) -> Result<Entries, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Entries::default()),
        Err(e) => return Err(Failure::io("read", path.display(), &e)),
    };
    let mut entries = Entries::default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let wrong = || Failure::invalid(format!("{} has a line {line:?}", path.display()));
        let number = words.get(2).and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        match words.as_slice() {
            ["begin", _, _] => {
                entries.begun.insert(number);
                entries.open = true;
            }
            ["ack", host, _, at] => {
                let at = at.parse().map_err(|_| wrong())?;
                entries.acked.push(Ack { host: (*host).to_owned(), number, at });
                entries.open = false;
            }
            _ => return Err(wrong()),
        }
    }
    Ok(entries)
}

impl Entries {
    /// What one host acknowledged.
    pub(crate) fn of(&self, host: &str) -> impl Iterator<Item = &Ack> {
        self.acked.iter().filter(move |ack| ack.host == host)
    }

    /// The highest number that was begun.
    pub(crate) fn last_number(&self) -> u64 {
        self.begun.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_torn_line_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("ledger");
        assert_eq!(read(&path).unwrap(), Entries::default());
        let at: Timestamp = "2026-11-21T01:04:42.5Z".parse().unwrap();
        let mut ledger = Ledger::append(&path).unwrap();
        ledger.begin("a", 1).unwrap();
        assert!(read(&path).unwrap().open);
        ledger.ack("a", 1, at).unwrap();
        ledger.begin("b", 2).unwrap();
        ledger.write("ack b 2 2026").unwrap();
        let entries = read(&path).unwrap();
        assert_eq!(entries.acked, [Ack { host: "a".to_owned(), number: 1, at }]);
        assert_eq!(entries.last_number(), 2);
        assert!(entries.open);
        assert_eq!(entries.of("b").count(), 0);
    }
}
