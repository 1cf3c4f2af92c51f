//! Reads many trees, each once, in the order in which they lie in their packs.

use crate::blobs::PackRead;
use crate::reader::decode_tree;
use crate::{BlobKind, Error, Repository, Tree, TreeId, parallel};
use model::CancelToken;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Trees that are planned at once: enough to have several of one pack, few enough to be held.
const BATCH: usize = 4096;
/// Trees that a thread reads in one go.
const SHARE: usize = 64;

/// Told a tree or why there is none; answers with the trees to read next.
pub(crate) type Visit<'a> =
    dyn Fn(TreeId, Result<Tree, Error>) -> Result<Vec<TreeId>, Error> + Sync + 'a;

/// Visits every tree that can be reached from `roots` through what `visit` answers, each once,
/// several at the same time and in no order.
pub(crate) fn each(
    repository: &Repository,
    roots: impl IntoIterator<Item = TreeId>,
    cancel: &CancelToken,
    visit: &Visit<'_>,
) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let mut left: Vec<TreeId> = roots.into_iter().filter(|id| seen.insert(*id)).collect();
    while !left.is_empty() {
        let batch = left.split_off(left.len().saturating_sub(BATCH));
        let next = Mutex::new(Vec::new());
        let go_on = |trees: Vec<TreeId>| {
            next.lock().unwrap_or_else(PoisonError::into_inner).extend(trees);
        };
        let mut present = Vec::with_capacity(batch.len());
        for id in batch {
            match repository.locate(BlobKind::Tree, &id.into()) {
                Ok(_) => present.push(id.into()),
                Err(e) => go_on(visit(id, Err(e))?),
            }
        }
        let mut shares = Vec::new();
        for read in repository.plan_reads(BlobKind::Tree, present)? {
            let PackRead { pack, kind, .. } = read;
            let share = |blobs: &[_]| PackRead { pack, kind, blobs: blobs.to_vec() };
            shares.extend(read.blobs.chunks(SHARE).map(share));
        }
        parallel::for_each(&shares, parallel::readers(), |share| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            repository.read_pack(share, &mut |id, plain| {
                let id = TreeId::from(*id);
                go_on(visit(id, plain.and_then(|plain| decode_tree(id, plain)))?);
                Ok(())
            })
        })?;
        let next = next.into_inner().unwrap_or_else(PoisonError::into_inner);
        left.extend(next.into_iter().filter(|id| seen.insert(*id)));
    }
    Ok(())
}
