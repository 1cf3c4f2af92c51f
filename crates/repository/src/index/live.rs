//! The index of an open repository: loaded when first needed, added to while in use.

use super::{BlobIndex, Gathered};
use crate::Error;
use crate::files::{FileKind, Files};
use crate::format::IndexId;
use crate::format::index::{Index, IndexedPack};
use crate::parallel;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

/// Index files that are read at once, at most: each takes some 15 MB while it is.
const READERS: usize = 8;

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
        let mut superseded = BTreeSet::new();
        loop {
            let known = self.read().files.clone();
            let listed: BTreeSet<IndexId> =
                files.list(FileKind::Index)?.into_iter().map(|file| IndexId(file.id)).collect();
            let kept = known.as_ref().filter(|known| known.is_subset(&listed));
            let new = |id: &IndexId| !kept.is_some_and(|known| known.contains(id));
            let missing: Vec<IndexId> = listed.iter().copied().filter(new).collect();
            if missing.is_empty() && kept.is_some() {
                return Ok(());
            }
            let whole = kept.is_none();
            let wanted: Vec<IndexId> =
                missing.iter().copied().filter(|id| !superseded.contains(id)).collect();
            let (gathered, replaced) = read(files, &wanted)?;
            // Only indexes of restic's first years replace others that are still there.
            if wanted.iter().any(|id| replaced.contains(id)) {
                superseded.extend(replaced);
                continue;
            }
            let gathered = gathered.sorted();
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if state.files != known {
                // A writer of this process has added its file meanwhile; it may be among those that
                // were read, or not be listed.
                continue;
            }
            if whole {
                *state = State { index: BlobIndex::default(), files: Some(BTreeSet::new()) };
            }
            let State { index, files: Some(present) } = &mut *state else { continue };
            index.absorb(gathered);
            present.extend(listed);
            return Ok(());
        }
    }

    /// As [`refresh`](Live::refresh), but what was never loaded is not loaded for that.
    pub(crate) fn refresh_loaded(&self, files: &Files) -> Result<(), Error> {
        if self.read().files.is_none() {
            return Ok(());
        }
        self.refresh(files)
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

/// Reads index files, several at once. Returns what they say, and which others they replace.
fn read(files: &Files, ids: &[IndexId]) -> Result<(Gathered, BTreeSet<IndexId>), Error> {
    let gathered = Mutex::new(Gathered::default());
    let replaced = Mutex::new(BTreeSet::new());
    parallel::for_each(ids, parallel::readers().min(READERS), |id| {
        let json = match files.read_json(FileKind::Index, id.0) {
            Ok(json) => json,
            // Replaced by a prune since it was listed. Its successor is read by the next refresh,
            // and a blob that is asked for and not found causes one.
            Err(Error::Storage(e)) if e.kind() == storage::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut take = |pack| gathered.lock().unwrap_or_else(PoisonError::into_inner).push(&pack);
        let supersedes =
            Index::decode_each(&json, &mut take).map_err(|e| FileKind::Index.damaged(id.0, e))?;
        replaced.lock().unwrap_or_else(PoisonError::into_inner).extend(supersedes);
        Ok(())
    })?;
    let gathered = gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((gathered, replaced.into_inner().unwrap_or_else(PoisonError::into_inner)))
}
