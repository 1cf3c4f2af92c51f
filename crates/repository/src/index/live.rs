//! The index of an open repository: loaded when first needed, added to while in use.

use super::BlobIndex;
use crate::Error;
use crate::files::{FileKind, Files};
use crate::format::IndexId;
use crate::format::index::{Index, IndexedPack};
use crate::parallel;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

/// A blob index and the index files it was made of.
#[derive(Debug, Default)]
pub(crate) struct Live {
    state: RwLock<State>,
    /// Held while index files are read, so that this happens once at a time.
    refreshing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    index: BlobIndex,
    /// None: not loaded yet.
    files: Option<BTreeSet<IndexId>>,
}

impl Live {
    /// Calls `ask` with the index, which is loaded first if need be.
    pub(crate) fn with<T>(
        &self,
        files: &Files,
        ask: impl FnOnce(&BlobIndex) -> T,
    ) -> Result<T, Error> {
        {
            let state = self.read();
            if state.files.is_some() {
                return Ok(ask(&state.index));
            }
        }
        self.refresh(files)?;
        Ok(ask(&self.read().index))
    }

    /// Brings the index to what the index files say now: adds what others have added, and drops
    /// what a prune has removed.
    pub(crate) fn refresh(&self, files: &Files) -> Result<(), Error> {
        let _one_at_a_time = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let known = self.read().files.clone();
            let listed: BTreeSet<IndexId> =
                files.list(FileKind::Index)?.into_iter().map(|file| IndexId(file.id)).collect();
            let kept = known.as_ref().filter(|known| known.is_subset(&listed));
            let missing: Vec<IndexId> = match kept {
                Some(known) => listed.difference(known).copied().collect(),
                None => listed.iter().copied().collect(),
            };
            if missing.is_empty() && kept.is_some() {
                return Ok(());
            }
            let whole = kept.is_none();
            let loaded = read(files, &missing)?;
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if whole {
                if state.files != known {
                    // A writer of this process has added its file meanwhile; it may not be listed.
                    continue;
                }
                *state = State { index: BlobIndex::default(), files: Some(BTreeSet::new()) };
            }
            let State { index, files: Some(present) } = &mut *state else { continue };
            let superseded: BTreeSet<IndexId> =
                loaded.iter().flat_map(|(_, index)| index.supersedes.iter().copied()).collect();
            let mut packs = Vec::new();
            for (id, file) in loaded {
                if !present.contains(&id) && !superseded.contains(&id) {
                    packs.extend(file.packs);
                }
            }
            index.add(&packs);
            present.extend(listed);
            return Ok(());
        }
    }

    /// Adds what a durable index file of this process says.
    pub(crate) fn add(&self, id: IndexId, packs: &[IndexedPack]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { index, files } = &mut *state;
        // Not loaded: it will be read with the others.
        if let Some(files) = files
            && files.insert(id)
        {
            index.add(packs);
        }
    }

    /// Forgets everything; what is asked next reads the index files again.
    pub(crate) fn unload(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads index files, several at once.
fn read(files: &Files, ids: &[IndexId]) -> Result<Vec<(IndexId, Index)>, Error> {
    let loaded = Mutex::new(Vec::new());
    parallel::for_each(ids, parallel::readers(), |id| {
        let json = match files.read_json(FileKind::Index, id.0) {
            Ok(json) => json,
            // Replaced by a prune since it was listed. Its successor is read by the next refresh,
            // and a blob that is asked for and not found causes one.
            Err(Error::Storage(e)) if e.kind() == storage::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let index = Index::decode(&json).map_err(|e| FileKind::Index.damaged(id.0, e))?;
        loaded.lock().unwrap_or_else(PoisonError::into_inner).push((*id, index));
        Ok(())
    })?;
    Ok(loaded.into_inner().unwrap_or_else(PoisonError::into_inner))
}
