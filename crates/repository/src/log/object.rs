//! One object of the log as bytes.

use super::name::{LogKey, MAX_NAME};
use crate::Error;
use model::Seal;
use sha2::{Digest, Sha256};
use std::io::Read;

/// What every object begins with: a name for people with a hex dump, and the format's version.
const MAGIC: [u8; 8] = *b"MSTYLOG\x01";
/// The part of it before the version.
const MAGIC_NAME: usize = 7;
/// The only compression there is.
pub(super) const ZSTD: u16 = 1;
/// Where the name begins in a record.
const FIXED: usize = 60;
/// The largest content: PostgreSQL's largest segment.
pub(super) const MAX_CONTENT: u64 = 1 << 30;
/// The largest object: content that zstd cannot compress, with room for every header.
pub(super) const MAX_OBJECT: u64 = MAX_CONTENT + (16 << 20);
/// WAL is written by a server that waits for nobody; level 3 costs less than sealing and storing
/// what level 1 would leave.
pub(super) const LEVEL: i32 = 3;

pub(super) fn encode(seal: &dyn Seal, key: &LogKey, content: &[u8]) -> Result<Vec<u8>, Error> {
    let length = content.len() as u64;
    if length > MAX_CONTENT {
        return Err(Error::Invalid(format!(
            "{} has {length} bytes; the log takes files of up to {MAX_CONTENT}",
            key.name()
        )));
    }
    let compressed =
        zstd::bulk::compress(content, LEVEL).map_err(|e| Error::io("compress", key.name(), e))?;
    let name = key.name().as_bytes();
    let name_length = u16::try_from(name.len()).map_err(|e| Error::Invalid(e.to_string()))?;
    let mut record = Vec::with_capacity(FIXED + name.len() + compressed.len());
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&ZSTD.to_le_bytes());
    record.extend_from_slice(&name_length.to_le_bytes());
    record.extend_from_slice(&key.generation().0.to_le_bytes());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&Sha256::digest(content));
    record.extend_from_slice(name);
    record.extend_from_slice(&compressed);

    let mut stored = MAGIC.to_vec();
    stored.extend_from_slice(&seal.seal(&record));
    Ok(stored)
}

pub(super) fn decode(seal: &dyn Seal, key: &LogKey, stored: &[u8]) -> Result<Vec<u8>, Error> {
    let damaged = |what: String| match key.storage_key() {
        Ok(at) => Error::damaged(at, what),
        Err(_) => Error::damaged(key.name(), what),
    };
    let Some((magic, sealed)) = stored.split_first_chunk::<8>() else {
        return Err(damaged(format!("it has only {} bytes", stored.len())));
    };
    if magic[..MAGIC_NAME] != MAGIC[..MAGIC_NAME] {
        return Err(damaged("it is not an object of the log".to_owned()));
    }
    if *magic != MAGIC {
        return Err(Error::Unsupported(format!(
            "the log object {} has format version {}; this version of mainstay knows version {}",
            key.name(),
            magic[MAGIC_NAME],
            MAGIC[MAGIC_NAME]
        )));
    }
    let record = seal.open(sealed).map_err(|e| damaged(e.to_string()))?;
    let parsed = Record::parse(&record).ok_or_else(|| damaged("its header is wrong".to_owned()))?;
    if parsed.name != key.name().as_bytes() || parsed.generation != key.generation().0 {
        return Err(damaged(format!(
            "it holds {:?} of generation {} instead",
            String::from_utf8_lossy(parsed.name),
            parsed.generation
        )));
    }
    let content = decompress(parsed.frame, parsed.length)
        .ok_or_else(|| damaged(format!("it does not hold the {} bytes it says", parsed.length)))?;
    if Sha256::digest(&content)[..] != *parsed.digest {
        return Err(damaged("its content has another SHA-256 than it says".to_owned()));
    }
    Ok(content)
}

/// The parts of a record, before anything of them is believed.
struct Record<'a> {
    generation: u64,
    length: u64,
    digest: &'a [u8],
    name: &'a [u8],
    frame: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(record: &'a [u8]) -> Option<Record<'a>> {
        let (magic, rest) = record.split_first_chunk::<8>()?;
        let (compression, rest) = rest.split_first_chunk::<2>()?;
        let (name_length, rest) = rest.split_first_chunk::<2>()?;
        let (generation, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let name_length = usize::from(u16::from_le_bytes(*name_length));
        let length = u64::from_le_bytes(*length);
        let good = *magic == MAGIC
            && u16::from_le_bytes(*compression) == ZSTD
            && (1..=MAX_NAME).contains(&name_length)
            && length <= MAX_CONTENT;
        if !good {
            return None;
        }
        let (name, frame) = rest.split_at_checked(name_length)?;
        Some(Record { generation: u64::from_le_bytes(*generation), length, digest, name, frame })
    }
}

/// A little-endian number of at most eight bytes in a record; none if it ends before.
pub(super) fn number(record: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let field = record.get(at..at.checked_add(bytes)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Exactly `length` bytes out of one zstd frame. Reads at most one byte more, and allocates only as
/// it reads.
pub(super) fn decompress(frame: &[u8], length: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(frame).ok()?.single_frame();
    let mut limited = decoder.take(length + 1);
    limited.read_to_end(&mut content).ok()?;
    let rest = limited.into_inner().finish();
    (content.len() as u64 == length && rest.is_empty()).then_some(content)
}
