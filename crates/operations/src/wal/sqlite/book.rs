//! What a shipper remembers: how far the vault has the log of each database.

use crate::member::write_durable;
use crate::{Error, ServiceSite};
use engines::sqlite::log::{ChainPlace, Place};
use model::Class;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where it is remembered, in the service's state directory.
const FILE: &str = "sqlite-log.json";

/// How far one chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Chain {
    /// When it was begun, in milliseconds since 1970.
    pub(super) id: u64,
    /// Number of the log in it.
    pub(super) sequence: u32,
    /// Up to here the vault has it; none before the first log appears.
    pub(super) place: Option<Place>,
    /// Frames of the log before this one.
    pub(super) before: u32,
    /// The time in the name of its newest object.
    pub(super) time: u64,
    /// No point was made since it was begun, so that nothing could be replayed on.
    pub(super) needs_point: bool,
    /// Device and inode of the database.
    pub(super) file: (u64, u64),
    /// Of which start of the machine it is.
    pub(super) boot: u64,
}

/// All chains, by what their databases are called in snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Book {
    pub(super) chains: BTreeMap<String, Chain>,
    /// It could not be written down as it is.
    #[serde(skip)]
    unsaved: bool,
}

impl Book {
    /// What is not there, or cannot be understood, only costs a new point.
    pub(super) fn load(site: &ServiceSite) -> Result<Book, Error> {
        let path = site.dir().join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Book::default()),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Durable on return.
    pub(super) fn save(&mut self, site: &ServiceSite) -> Result<(), Error> {
        self.unsaved = true;
        let bytes = serde_json::to_vec(self).map_err(|e| {
            Error::new(Class::Failed, "cannot encode what was shipped of the log").because(e)
        })?;
        write_durable(&site.dir(), FILE, &bytes)?;
        self.unsaved = false;
        Ok(())
    }

    /// Whether others would read something older.
    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// What the next log of each chain will be.
    pub(super) fn places(&self) -> BTreeMap<String, ChainPlace> {
        let place = |chain: &Chain| ChainPlace {
            chain: chain.id,
            next: chain.sequence + u32::from(chain.place.is_some()),
        };
        self.chains.iter().map(|(root, chain)| (root.clone(), place(chain))).collect()
    }
}
