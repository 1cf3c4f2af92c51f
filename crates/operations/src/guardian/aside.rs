//! Says what is said in a thread of its own: where it is written down may take nothing just now, and the
//! service does not wait for that.

use model::Progress;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// How long it is waited for, in the end.
const PATIENCE: Duration = Duration::from_secs(1);

enum Said {
    Note(String),
    Warning(String),
    Last(SyncSender<()>),
}

/// Passes on what is worth keeping, and nothing of how far the work is.
pub(super) struct Aside(Sender<Said>);

impl Aside {
    pub(super) fn to(watcher: Arc<dyn Progress>) -> Aside {
        let (say, said) = channel();
        std::thread::spawn(move || {
            for said in said {
                match said {
                    Said::Note(line) => watcher.note(&line),
                    Said::Warning(line) => watcher.warn(&line),
                    Said::Last(tell) => drop(tell.send(())),
                }
            }
        });
        Aside(say)
    }

    /// Waits until everything is said, if that does not take long.
    pub(super) fn flush(&self) {
        let (tell, told) = sync_channel(1);
        let _ = self.0.send(Said::Last(tell));
        let _ = told.recv_timeout(PATIENCE);
    }
}

impl Progress for Aside {
    fn note(&self, line: &str) {
        let _ = self.0.send(Said::Note(line.to_owned()));
    }

    fn warn(&self, line: &str) {
        let _ = self.0.send(Said::Warning(line.to_owned()));
    }
}
