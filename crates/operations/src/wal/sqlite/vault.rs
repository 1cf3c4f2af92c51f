//! The vault, as whoever ships the logs of databases sees it: it may hang, and the logs grow meanwhile.

use super::database::Database;
use crate::asking::{Asking, Patience};
use crate::wal::allowed;
use crate::{Error, ServiceSite};
use model::{Class, Classify, Generation};
use repository::log::LogStore;
use std::path::PathBuf;
use std::time::Duration;

/// How long an answer is waited for. What takes longer goes on, and is asked for by the next pass.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) struct Vault {
    site: ServiceSite,
    asking: Asking<Answer>,
    /// Logs by their files, and how long these may get while it is waited.
    logs: Vec<(PathBuf, u64)>,
}

enum Answer {
    Allowed(Generation),
    Done,
}

impl Vault {
    pub(super) fn new(site: &ServiceSite) -> Vault {
        Vault { site: site.clone(), asking: Asking::new(), logs: Vec::new() }
    }

    /// From now on nobody waits for an answer while more than this comes to wait for the vault.
    pub(super) fn spare(&mut self, cap: u64, databases: &[Database]) {
        let logs = databases.iter().map(|database| {
            let (wal, room) = (database.wal(), cap.saturating_sub(database.waits()));
            let length = length(&wal);
            (wal, length.saturating_add(room))
        });
        self.logs = logs.collect();
    }

    /// The generation at which this host may write the log.
    pub(super) fn allowed(&mut self) -> Result<Generation, Error> {
        let site = self.site.clone();
        let enough = || is_too_long(&self.logs);
        let patience = Patience::until(ANSWER, &enough);
        let ask = move || allowed(&site).map(Answer::Allowed);
        match self.asking.ask("allowed", patience, ask)? {
            Answer::Allowed(generation) => Ok(generation),
            Answer::Done => Err(Error::new(Class::Failed, "the vault gave another answer")),
        }
    }

    /// Stores one object.
    pub(super) fn push(
        &mut self,
        generation: Generation,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let (site, object, bytes) = (self.site.clone(), name.to_owned(), bytes.to_vec());
        self.have_done(&format!("push {generation} {name}"), move || {
            LogStore::new(site.repository()?).push(generation, &object, &bytes)?;
            Ok(())
        })
    }

    /// Removes one that is of no use any more. Says whether the vault keeps it all the same.
    pub(super) fn remove(&mut self, generation: Generation, name: &str) -> bool {
        let (site, object) = (self.site.clone(), name.to_owned());
        let removed = self.have_done(&format!("remove {generation} {name}"), move || {
            Ok(LogStore::new(site.repository()?).remove(&object, generation)?)
        });
        // No answer is none.
        removed.is_err_and(|e| e.class() != Class::Unavailable)
    }

    fn have_done(
        &mut self,
        what: &str,
        act: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let enough = || is_too_long(&self.logs);
        let patience = Patience::until(ANSWER, &enough);
        self.asking.have_done(what, patience, move || act().map(|()| Answer::Done)).map(|_| ())
    }
}

fn is_too_long(logs: &[(PathBuf, u64)]) -> bool {
    logs.iter().any(|(wal, most)| length(wal) > *most)
}

fn length(wal: &PathBuf) -> u64 {
    std::fs::metadata(wal).map_or(0, |meta| meta.len())
}
