//! Writes blobs: hash, look whether it is known, compress, encrypt, pack, upload, index.
//!
//! Callers hand blobs over and get tickets; threads of the writer do the rest. One worker for each
//! core hashes, and reserves the id before it compresses, so that the same chunk in two files is
//! compressed once. Full packs go to a few uploaders, which also write an index file from time to
//! time, so that an interrupted run loses little.
//!
//! What makes it safe:
//! - a blob counts as known only if an index file that names it is durable, or if this writer has
//!   it in hand, in which case its own `flush` fails if it does not get there;
//! - an index file is written only after all packs that it names are durable;
//! - the first failure is kept, and everything after it fails with it. Every queue is closed then,
//!   so nobody waits for what will not come.

mod compress;
mod packer;
mod queue;
mod ticket;
mod upload;
mod worker;

pub(crate) use compress::BlobDecompressor;
pub use compress::{BlobCompressor, Compression};
pub use ticket::Ticket;

use crate::buffers::Buffers;
use crate::format::index::IndexedPack;
use crate::format::{BlobId, BlobKind};
use crate::{Error, Repository, parallel};
use model::CancelToken;
use packer::{OpenPack, PackQueue};
use queue::{POLL, Queue};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use ticket::{Promise, ticket};

/// No blob is larger.
pub const MAX_BLOB_BYTES: usize = 1 << 30;
/// Memory that blobs take which wait for a worker.
const QUEUED_BYTES: usize = 12 << 20;
/// Bytes of full packs that wait for an uploader: one pack, whatever its size.
const QUEUED_PACK_BYTES: usize = 1;
/// What a blob weighs in the queue besides its bytes.
const BLOB_WEIGHT: usize = 512;

/// What a writer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Blobs that were not in the repository before.
    pub new_blobs: u64,
    /// Their plain bytes.
    pub new_plain_bytes: u64,
    /// Blobs that were there already.
    pub known_blobs: u64,
    /// Bytes of packs and index files that were stored.
    pub stored_bytes: u64,
}

/// Writes blobs into a repository. To be used from any number of threads.
///
/// Hold a lock on the repository while it lives, and take it before: what a writer takes for known
/// must stay. Dropping it without [`flush`](BlobWriter::flush) gives up at once: what is stored
/// already is named in an index file if the lock is still held, and nothing refers to it yet.
#[derive(Debug)]
pub struct BlobWriter {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// One flush at a time: else one could return while the other still writes the index.
    flushing: Mutex<()>,
}

struct Shared {
    repository: Repository,
    compression: Compression,
    cancel: CancelToken,
    blobs: Queue<Job>,
    packs: PackQueue,
    open_data: Mutex<OpenPack>,
    open_trees: Mutex<OpenPack>,
    /// Blobs in hand: in no durable index yet.
    seen: Mutex<HashSet<(BlobKind, BlobId)>>,
    progress: Mutex<InFlight>,
    changed: Condvar,
    buffers: Buffers,
    pack_buffers: Buffers,
    stats: Counters,
    began: Instant,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("compression", &self.compression).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Counters {
    new_blobs: AtomicU64,
    new_plain_bytes: AtomicU64,
    known_blobs: AtomicU64,
    stored_bytes: AtomicU64,
}

/// What is under way, and what went wrong.
#[derive(Debug)]
struct InFlight {
    /// Blobs taken and not yet in a pack.
    blobs: usize,
    /// Packs finished and not yet durable, and index files being written.
    uploads: usize,
    /// Durable packs that no index file names yet.
    unindexed: Vec<IndexedPack>,
    unindexed_blobs: usize,
    last_index: Instant,
    failure: Option<Arc<Error>>,
}

/// A blob on its way to a worker.
#[derive(Debug)]
struct Job {
    kind: BlobKind,
    plain: Vec<u8>,
    stage: Stage,
}

/// How far a blob has come.
#[derive(Debug)]
enum Stage {
    /// To be hashed; somebody waits for its id.
    Unknown(Promise),
    /// It has this id, and is to be stored by whoever holds this.
    Reserved(BlobId),
}

impl BlobWriter {
    /// A writer with its threads. Brings the repository's index up to date first, and refuses one
    /// that names packs which are gone or cut short: what is not stored again because the index has
    /// it would not be there.
    pub fn new(
        repository: &Repository,
        compression: Compression,
        cancel: CancelToken,
    ) -> Result<BlobWriter, Error> {
        repository.refresh_index()?;
        repository.require_packs()?;
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            compression,
            cancel,
            blobs: Queue::new(QUEUED_BYTES),
            packs: Queue::new(QUEUED_PACK_BYTES),
            open_data: Mutex::default(),
            open_trees: Mutex::default(),
            seen: Mutex::default(),
            progress: Mutex::new(InFlight {
                blobs: 0,
                uploads: 0,
                unindexed: Vec::new(),
                unindexed_blobs: 0,
                last_index: Instant::now(),
                failure: None,
            }),
            changed: Condvar::new(),
            buffers: Buffers::default(),
            pack_buffers: packer::buffers(1),
            stats: Counters::default(),
            began: Instant::now(),
        });
        let mut writer = BlobWriter { shared, threads: Vec::new(), flushing: Mutex::new(()) };
        for i in 0..parallel::cores() {
            writer.spawn(format!("blobs-{i}"), worker::run)?;
        }
        for i in 0..repository.files().storage.writers() {
            writer.spawn(format!("upload-{i}"), upload::run)?;
        }
        Ok(writer)
    }

    fn spawn(&mut self, name: String, run: fn(&Shared) -> Result<(), Error>) -> Result<(), Error> {
        let shared = self.shared.clone();
        let body = move || {
            let guard = Guard(&shared);
            if let Err(e) = run(guard.0) {
                shared.fail(e);
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(body)
            .map_err(|e| Error::io("start thread", name, e))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Takes a blob, and waits while too many bytes are under way. The ticket tells its id as soon
    /// as it is hashed.
    pub fn save(&self, kind: BlobKind, plain: Vec<u8>) -> Result<Ticket, Error> {
        if plain.len() > MAX_BLOB_BYTES {
            return Err(Error::Invalid(format!("a {kind} blob of {} bytes", plain.len())));
        }
        self.shared.check()?;
        let (promise, ticket) = ticket();
        self.push(Job { kind, plain, stage: Stage::Unknown(promise) })?;
        Ok(ticket)
    }

    /// Takes a data blob that has this id, if it is not stored and not in hand, and leaves an empty
    /// buffer of the pool for it. For callers who hash by themselves, while what they read is close.
    pub(crate) fn save_hashed(&self, id: BlobId, plain: &mut Vec<u8>) -> Result<(), Error> {
        let shared = &*self.shared;
        shared.check()?;
        if !worker::reserve(shared, BlobKind::Data, id)? {
            return Ok(());
        }
        let plain = std::mem::replace(plain, shared.buffers.take());
        self.push(Job { kind: BlobKind::Data, plain, stage: Stage::Reserved(id) })
    }

    fn push(&self, job: Job) -> Result<(), Error> {
        let shared = &*self.shared;
        let weight = job.plain.capacity() + BLOB_WEIGHT;
        shared.lock().blobs += 1;
        if shared.blobs.push(job, weight, || shared.cancel.is_cancelled()).is_err() {
            shared.blob_done();
            shared.check()?;
            return Err(Error::Invalid("the writer takes no more blobs".to_owned()));
        }
        Ok(())
    }

    /// Whether a blob need not be saved: it is in the repository, or in hand.
    pub fn has(&self, kind: BlobKind, id: &BlobId) -> Result<bool, Error> {
        self.shared.check()?;
        let in_hand = self.shared.seen().contains(&(kind, *id));
        Ok(in_hand || self.shared.repository.contains(kind, id)?)
    }

    /// Buffers to read into; what is saved goes back there.
    pub fn buffers(&self) -> &Buffers {
        &self.shared.buffers
    }

    /// What was done so far.
    pub fn stats(&self) -> WriterStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = &self.shared.stats;
        WriterStats {
            new_blobs: count(&stats.new_blobs),
            new_plain_bytes: count(&stats.new_plain_bytes),
            known_blobs: count(&stats.known_blobs),
            stored_bytes: count(&stats.stored_bytes),
        }
    }

    /// Makes everything durable that was saved before: first the packs, then the index files. Only
    /// after this may anything refer to it.
    pub fn flush(&self) -> Result<(), Error> {
        let _alone = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        shared.wait_until(|progress| progress.blobs == 0)?;
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let pack = std::mem::take(&mut *shared.open(kind));
            if !pack.blobs.is_empty() {
                shared.hand_over(pack)?;
            }
        }
        shared.wait_until(|progress| progress.uploads == 0)?;
        let rest = shared.lock().take_unindexed();
        if let Err(e) = upload::write_index(shared, rest) {
            shared.fail(e);
        }
        shared.check()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // Ends the threads; after a flush there is nothing left to give up.
        self.shared.fail(Error::Cancelled);
        for thread in self.threads.drain(..) {
            // A panic in there has been reported as the writer's failure.
            let _ = thread.join();
        }
        upload::keep(&self.shared);
    }
}

/// Turns a thread's panic into the writer's failure, so that nobody waits for that thread.
struct Guard<'a>(&'a Shared);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Invalid("a thread of the writer died".to_owned()));
        }
    }
}

impl Shared {
    /// Fails if anything has failed, or the work was cancelled.
    fn check(&self) -> Result<(), Error> {
        if let Some(failure) = &self.lock().failure {
            return Err(Error::earlier(failure));
        }
        if self.cancel.is_cancelled() {
            self.fail(Error::Cancelled);
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    /// Keeps the first failure, and ends everything.
    fn fail(&self, error: Error) -> Arc<Error> {
        let failure = self.lock().failure.get_or_insert_with(|| Arc::new(error)).clone();
        for job in self.blobs.abort() {
            job.fail(&failure);
        }
        drop(self.packs.abort());
        self.changed.notify_all();
        failure
    }

    fn wait_until(&self, done: impl Fn(&InFlight) -> bool) -> Result<(), Error> {
        loop {
            self.check()?;
            let progress = self.lock();
            if progress.failure.is_none() && done(&progress) {
                return Ok(());
            }
            drop(self.changed.wait_timeout(progress, POLL));
        }
    }

    fn blob_done(&self) {
        let mut progress = self.lock();
        progress.blobs = progress.blobs.saturating_sub(1);
        if progress.blobs == 0 {
            self.changed.notify_all();
        }
    }

    fn upload_done(&self) {
        let mut progress = self.lock();
        progress.uploads = progress.uploads.saturating_sub(1);
        if progress.uploads == 0 {
            self.changed.notify_all();
        }
    }

    /// Gives a full pack to the uploaders.
    fn hand_over(&self, pack: OpenPack) -> Result<(), Error> {
        self.lock().uploads += 1;
        let bytes = pack.bytes.len();
        if self.packs.push(pack, bytes, || self.cancel.is_cancelled()).is_err() {
            self.upload_done();
            self.check()?;
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    fn open(&self, kind: BlobKind) -> MutexGuard<'_, OpenPack> {
        let open = match kind {
            BlobKind::Data => &self.open_data,
            BlobKind::Tree => &self.open_trees,
        };
        open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, HashSet<(BlobKind, BlobId)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, InFlight> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Tells whoever waits for it.
    fn fail(self, failure: &Arc<Error>) {
        if let Stage::Unknown(promise) = self.stage {
            promise.fail(failure);
        }
    }
}

impl InFlight {
    fn take_unindexed(&mut self) -> Vec<IndexedPack> {
        self.unindexed_blobs = 0;
        self.last_index = Instant::now();
        std::mem::take(&mut self.unindexed)
    }
}
