//! Packs that are being filled.

use super::queue::Queue;
use crate::buffers::Buffers;
use crate::format::pack::PackedBlob;
use crate::format::{BlobId, BlobKind};

/// A pack is finished at this size.
pub(super) const TARGET_BYTES: usize = 16 << 20;
/// A pack is finished at this many blobs, so that no index file gets much larger than the others.
const MAX_BLOBS: usize = 16_384;

/// The blobs of a pack, with no header yet.
#[derive(Debug, Default)]
pub(super) struct OpenPack {
    pub(super) bytes: Vec<u8>,
    pub(super) blobs: Vec<PackedBlob>,
}

pub(super) type PackQueue = Queue<OpenPack>;

/// Room for a full pack: its last blob begins before the target. Only what is filled takes memory.
const CAPACITY: usize = TARGET_BYTES + (9 << 20);

/// The buffers of packs. Each is as large as any, so that they need not be told apart.
pub(super) fn buffers(spare: usize) -> Buffers {
    Buffers::new(spare, CAPACITY..=2 * CAPACITY)
}

impl OpenPack {
    /// Appends a sealed blob. False: it does not fit into a pack at all.
    pub(super) fn append(
        &mut self,
        kind: BlobKind,
        id: BlobId,
        sealed: &[u8],
        plain_length: Option<u32>,
        buffers: &Buffers,
    ) -> bool {
        if self.bytes.capacity() == 0 {
            self.bytes = buffers.take();
            self.bytes.reserve_exact(CAPACITY);
        }
        let (Ok(offset), Ok(length)) =
            (u32::try_from(self.bytes.len()), u32::try_from(sealed.len()))
        else {
            return false;
        };
        if offset.checked_add(length).is_none() {
            return false;
        }
        self.bytes.extend_from_slice(sealed);
        self.blobs.push(PackedBlob { kind, id, offset, length, plain_length });
        true
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= TARGET_BYTES || self.blobs.len() >= MAX_BLOBS
    }
}
