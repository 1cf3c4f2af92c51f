//! How every object of the log is written: a magic in the clear, and under the seal a head and one zstd
//! frame.
//!
//! The head: magic, compression, length of the name, some numbers, the content's SHA-256, the name.

use super::name::MAX_NAME;
use crate::Error;
use model::Seal;
use sha2::{Digest, Sha256};
use std::fmt::Display;
use std::io::Read;

/// The part of a magic before the version.
const MAGIC_NAME: usize = 7;
/// The only compression there is.
const ZSTD: u16 = 1;
/// The largest content: PostgreSQL's largest segment.
pub(super) const MAX_CONTENT: u64 = 1 << 30;
/// The largest object: content that zstd cannot compress, with room for every header.
pub(super) const MAX_OBJECT: u64 = MAX_CONTENT + (16 << 20);

/// A kind of object, with so many numbers in its head.
pub(super) struct Form<const N: usize> {
    /// What it begins with: a name for people with a hex dump, and the format's version.
    pub(super) magic: [u8; 8],
    /// What it is called in errors.
    pub(super) what: &'static str,
}

/// An object that was opened.
pub(super) struct Opened<'a, const N: usize> {
    at: &'a dyn Display,
    record: Vec<u8>,
    /// Where the name lies.
    name: std::ops::Range<usize>,
    /// The numbers in its head.
    pub(super) numbers: [u64; N],
}

impl<const N: usize> Form<N> {
    /// Where the digest begins in a record, and behind it the name.
    const DIGEST: usize = 12 + 8 * N;
    const NAME: usize = Self::DIGEST + 32;

    pub(super) fn encode(
        &self,
        seal: &dyn Seal,
        name: &str,
        numbers: [u64; N],
        content: &[u8],
        level: i32,
    ) -> Result<Vec<u8>, Error> {
        let compressed =
            zstd::bulk::compress(content, level).map_err(|e| Error::io("compress", name, e))?;
        let name_length = u16::try_from(name.len()).map_err(|e| Error::Invalid(e.to_string()))?;
        let mut record = Vec::with_capacity(Self::NAME + name.len() + compressed.len());
        record.extend_from_slice(&self.magic);
        record.extend_from_slice(&ZSTD.to_le_bytes());
        record.extend_from_slice(&name_length.to_le_bytes());
        for number in numbers {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&Sha256::digest(content));
        record.extend_from_slice(name.as_bytes());
        record.extend_from_slice(&compressed);

        let mut stored = self.magic.to_vec();
        stored.extend_from_slice(&seal.seal(&record));
        Ok(stored)
    }

    /// Opens what is stored at `at`, and reads its head. Nothing of it is believed yet.
    pub(super) fn open<'a>(
        &self,
        seal: &dyn Seal,
        at: &'a dyn Display,
        stored: &[u8],
    ) -> Result<Opened<'a, N>, Error> {
        let Some((magic, sealed)) = stored.split_first_chunk::<8>() else {
            return Err(Error::damaged(at, format!("it has only {} bytes", stored.len())));
        };
        if magic[..MAGIC_NAME] != self.magic[..MAGIC_NAME] {
            return Err(Error::damaged(at, format!("it is not {}", self.what)));
        }
        if *magic != self.magic {
            return Err(Error::Unsupported(format!(
                "{at} has format version {}; this version of mainstay knows version {}",
                magic[MAGIC_NAME], self.magic[MAGIC_NAME]
            )));
        }
        let record = seal.open(sealed).map_err(|e| Error::damaged(at, e.to_string()))?;
        match self.head(&record) {
            Some((numbers, name)) => Ok(Opened { at, record, name, numbers }),
            None => Err(Error::damaged(at, "its header is wrong")),
        }
    }

    fn head(&self, record: &[u8]) -> Option<([u64; N], std::ops::Range<usize>)> {
        let (magic, rest) = record.split_first_chunk::<8>()?;
        let (compression, rest) = rest.split_first_chunk::<2>()?;
        let (length, mut rest) = rest.split_first_chunk::<2>()?;
        let mut numbers = [0; N];
        for number in &mut numbers {
            let (bytes, after) = rest.split_first_chunk::<8>()?;
            (*number, rest) = (u64::from_le_bytes(*bytes), after);
        }
        let length = usize::from(u16::from_le_bytes(*length));
        let name = Self::NAME..Self::NAME + length;
        let good = *magic == self.magic
            && u16::from_le_bytes(*compression) == ZSTD
            && (1..=MAX_NAME).contains(&length)
            && name.end <= record.len();
        good.then_some((numbers, name))
    }
}

impl<const N: usize> Opened<'_, N> {
    /// The name in its head.
    pub(super) fn name(&self) -> &[u8] {
        self.record.get(self.name.clone()).unwrap_or_default()
    }

    /// The error that this object is damaged.
    pub(super) fn damaged(&self, what: impl ToString) -> Error {
        Error::damaged(self.at, what)
    }

    /// Its content, which has this length.
    pub(super) fn content(&self, length: u64) -> Result<Vec<u8>, Error> {
        let frame = self.record.get(self.name.end..).unwrap_or_default();
        let content = decompress(frame, length)
            .ok_or_else(|| self.damaged(format!("it does not hold the {length} bytes it says")))?;
        let digest = self.record.get(self.name.start - 32..self.name.start).unwrap_or_default();
        if Sha256::digest(&content)[..] != *digest {
            return Err(self.damaged("its content has another SHA-256 than it says"));
        }
        Ok(content)
    }
}

/// Exactly `length` bytes out of one zstd frame. Reads at most one byte more, and allocates only as
/// it reads.
fn decompress(frame: &[u8], length: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(frame).ok()?.single_frame();
    let mut limited = decoder.take(length.checked_add(1)?);
    limited.read_to_end(&mut content).ok()?;
    let rest = limited.into_inner().finish();
    (content.len() as u64 == length && rest.is_empty()).then_some(content)
}
