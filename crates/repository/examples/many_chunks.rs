//! Gives a repository an index of many chunks that nobody has to store, to see what opening it costs:
//!
//! ```text
//! cargo run --release -p mainstay-repository --example many_chunks -- REPOSITORY PASSWORD-FILE CHUNKS
//! ```
//!
//! The index files are as any tool writes them. The packs that they name have the right length and
//! no bytes, so this is nothing for a repository that is needed.

use mainstay_repository::Repository;
use mainstay_repository::format::index::{Index, IndexedPack, MAX_BLOBS};
use mainstay_repository::format::pack::{self, PackedBlob};
use mainstay_repository::format::{BlobId, BlobKind, IndexId, PackId, unpacked};
use model::Secret;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::{Key, Local};

/// As many chunks of this size make a pack of the usual 16 MiB.
const CHUNKS_PER_PACK: u64 = 200;
const SEALED_BYTES: u32 = 80 << 10;
const PLAIN_BYTES: u32 = 100_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [root, password_file, chunks] = words.as_slice() else {
        return Err("give a repository, a password file, and how many chunks".into());
    };
    let password = fs::read_to_string(password_file)?;
    let password = Secret::new(password.trim_end_matches('\n').to_owned());
    let storage = Arc::new(Local::open(PathBuf::from(root))?);
    let repository = Repository::open(storage, &password)?;
    fill(&repository, Path::new(root), chunks.parse()?)
}

/// Adds an index of so many chunks, and the packs.
fn fill(repository: &Repository, root: &Path, chunks: u64) -> Result<(), Failure> {
    let mut packs = Vec::new();
    for number in 0..chunks.div_ceil(CHUNKS_PER_PACK) {
        let first = number * CHUNKS_PER_PACK;
        let pack = pack_of(number, first..chunks.min(first + CHUNKS_PER_PACK));
        stand_in(root, &pack)?;
        packs.push(pack);
        if packs.len() as u64 * CHUNKS_PER_PACK >= MAX_BLOBS as u64 {
            write(repository, std::mem::take(&mut packs))?;
        }
    }
    write(repository, packs)
}

fn pack_of(number: u64, chunks: std::ops::Range<u64>) -> IndexedPack {
    let blobs =
        (0..).step_by(SEALED_BYTES as usize).zip(chunks).map(|(offset, chunk)| PackedBlob {
            kind: BlobKind::Data,
            id: BlobId::of(format!("chunk {chunk}").as_bytes()),
            offset,
            length: SEALED_BYTES,
            plain_length: Some(PLAIN_BYTES),
        });
    IndexedPack { id: PackId::of(format!("pack {number}").as_bytes()), blobs: blobs.collect() }
}

/// A file as long as the pack, which takes no space.
fn stand_in(root: &Path, pack: &IndexedPack) -> Result<(), Failure> {
    let name = pack.id.to_hex();
    let dir = root.join("data").join(&name[..2]);
    fs::create_dir_all(&dir)?;
    fs::File::create(dir.join(&name))?.set_len(pack::size_bytes(&pack.blobs))?;
    Ok(())
}

fn write(repository: &Repository, packs: Vec<IndexedPack>) -> Result<(), Failure> {
    if packs.is_empty() {
        return Ok(());
    }
    let json = Index { supersedes: Vec::new(), packs }.encode()?;
    let sealed = repository.seal().seal(&unpacked::encode(&json, true)?);
    let key = Key::new(format!("index/{}", IndexId::of(&sealed)))?;
    repository.storage().put(&key, &sealed)?;
    Ok(())
}
