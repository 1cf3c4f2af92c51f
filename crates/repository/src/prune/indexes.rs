//! Replaces index files: what is new is durable before what it replaces goes.

use super::contents::IndexFile;
use crate::files::FileKind;
use crate::format::index::{Index, IndexedPack, MAX_BLOBS};
use crate::format::{IndexId, PackId};
use crate::{Error, Repository};
use std::collections::HashSet;

/// Writes index files, each of the usual size.
pub(crate) struct IndexWriter<'a> {
    repository: &'a Repository,
    packs: Vec<IndexedPack>,
    blobs: usize,
    /// Packs that are named already, so that none is named twice.
    named: HashSet<PackId>,
    written: Vec<IndexFile>,
}

impl<'a> IndexWriter<'a> {
    pub(crate) fn new(repository: &'a Repository) -> IndexWriter<'a> {
        let (packs, named, written) = (Vec::new(), HashSet::new(), Vec::new());
        IndexWriter { repository, packs, blobs: 0, named, written }
    }

    /// Adds a pack; a full file is written, durable on return.
    pub(crate) fn add(&mut self, pack: IndexedPack) -> Result<(), Error> {
        if !self.named.insert(pack.id) {
            return Ok(());
        }
        if self.blobs > 0 && self.blobs + pack.blobs.len() > MAX_BLOBS {
            self.write()?;
        }
        self.blobs += pack.blobs.len();
        self.packs.push(pack);
        Ok(())
    }

    /// Adds what an old file names, but for the packs that are dropped.
    pub(crate) fn carry_over(
        &mut self,
        old: IndexId,
        dropped: &HashSet<PackId>,
    ) -> Result<(), Error> {
        let json = self.repository.files().read_json(FileKind::Index, old.0)?;
        let index = Index::decode(&json).map_err(|e| FileKind::Index.damaged(old.0, e))?;
        for pack in index.packs {
            if !dropped.contains(&pack.id) {
                self.add(pack)?;
            }
        }
        Ok(())
    }

    /// Writes the rest. Everything added is durable on return.
    pub(crate) fn finish(mut self) -> Result<Vec<IndexFile>, Error> {
        self.write()?;
        Ok(self.written)
    }

    fn write(&mut self) -> Result<(), Error> {
        if self.packs.is_empty() {
            return Ok(());
        }
        let blobs = std::mem::take(&mut self.blobs);
        let index = Index { supersedes: Vec::new(), packs: std::mem::take(&mut self.packs) };
        let json = index.encode().map_err(|e| Error::Invalid(format!("new index file: {e}")))?;
        let id = IndexId(self.repository.files().write_json(FileKind::Index, &json)?);
        let packs = index.packs.iter().map(|pack| pack.id).collect();
        self.written.push(IndexFile { id, packs, blobs, superseded: false });
        Ok(())
    }
}
