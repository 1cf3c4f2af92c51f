//! How long work tells somebody how far it is. Libraries call this; they never print.

/// What a run reports to: a terminal, a log, a file that others read, or nobody.
pub trait Progress: Send + Sync {
    /// How much there is to do, as far as is known; may be called again as more is found.
    fn expect(&self, _files: u64, _bytes: u64) {}

    /// Work that was done since the last call. Called from several threads.
    fn advance(&self, _files: u64, _bytes: u64) {}

    /// The work's next part begins ("reading", "waiting for WAL").
    fn phase(&self, _what: &str) {}

    /// One sentence worth keeping in the operation's log.
    fn note(&self, _line: &str) {}

    /// Something is wrong that does not fail the operation by itself; shown and logged.
    fn warn(&self, line: &str) {
        self.note(line);
    }

    /// What was warned of last is over.
    fn over(&self, line: &str) {
        self.note(line);
    }
}

/// Reports to nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
