//! Compression of blobs.

use crate::Error;
use std::io::Read;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

/// How blobs are compressed. What is found to be incompressible is stored as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Data blobs as they are. (Trees always compress well, and are.)
    Off,
    /// By zstd at this level.
    Level(i32),
}

impl Compression {
    /// Of all levels the one that costs least where the rest of the pipeline is fast, too.
    pub const FAST: Compression = Compression::Level(1);
    /// Smaller than restic's default.
    pub const BETTER: Compression = Compression::Level(3);
    /// Where the gain of further levels ends.
    pub const MAX: Compression = Compression::Level(15);
}

impl Default for Compression {
    fn default() -> Self {
        Compression::FAST
    }
}

/// Blobs of this size and more are probed first.
const PROBED_BYTES: usize = 128 << 10;
/// How much of a blob is tried, in several places.
const SAMPLES: usize = 4;
const SAMPLE_BYTES: usize = 8 << 10;

/// One thread's compressor.
pub struct BlobCompressor {
    full: Compressor<'static>,
    probe: Compressor<'static>,
    sample: Vec<u8>,
}

impl std::fmt::Debug for BlobCompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobCompressor").finish_non_exhaustive()
    }
}

impl BlobCompressor {
    /// For zstd's level.
    pub fn new(level: i32) -> Result<BlobCompressor, Error> {
        let failed = |e| Error::Invalid(format!("zstd at level {level}: {e}"));
        Ok(BlobCompressor {
            full: Compressor::new(level).map_err(failed)?,
            probe: Compressor::new(1).map_err(failed)?,
            sample: Vec::new(),
        })
    }

    /// Compresses `plain` to `out[start..]`, which grows as needed and never shrinks. None: it is
    /// not worth it.
    pub fn compress(
        &mut self,
        plain: &[u8],
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<Option<usize>, Error> {
        let failed = |e| Error::Invalid(format!("zstd: {e}"));
        if plain.len() >= PROBED_BYTES && !self.looks_compressible(plain).map_err(failed)? {
            return Ok(None);
        }
        let bound = start + compress_bound(plain.len());
        if out.len() < bound {
            out.resize(bound, 0);
        }
        let length = self.full.compress_to_buffer(plain, &mut out[start..]).map_err(failed)?;
        Ok((length < plain.len()).then_some(length))
    }

    /// Whether any of a few samples gets smaller.
    fn looks_compressible(&mut self, plain: &[u8]) -> std::io::Result<bool> {
        self.sample.resize(compress_bound(SAMPLE_BYTES), 0);
        for i in 0..SAMPLES {
            let from = (plain.len() - SAMPLE_BYTES) / (SAMPLES - 1) * i;
            let sample = &plain[from..from + SAMPLE_BYTES];
            let length = self.probe.compress_to_buffer(sample, &mut self.sample[..])?;
            if length < SAMPLE_BYTES - SAMPLE_BYTES / 64 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Up to this size the length that an index promises is allocated at once.
const TRUSTED_BYTES: usize = 16 << 20;

/// One thread's decompressor.
pub(crate) struct BlobDecompressor(Decompressor<'static>);

impl BlobDecompressor {
    pub(crate) fn new() -> Result<BlobDecompressor, Error> {
        Decompressor::new().map(BlobDecompressor).map_err(|e| Error::Invalid(format!("zstd: {e}")))
    }

    /// Decompresses a frame that must have `length` plain bytes. Says what is wrong with it.
    pub(crate) fn decompress(
        &mut self,
        frame: &[u8],
        length: usize,
        plain: &mut Vec<u8>,
    ) -> Result<(), String> {
        plain.clear();
        if length <= TRUSTED_BYTES {
            plain.reserve_exact(length);
            self.0
                .decompress_to_buffer(frame, plain)
                .map_err(|e| format!("cannot be decompressed: {e}"))?;
        } else {
            // Grows with what is really there.
            let decoder = zstd::Decoder::with_buffer(frame);
            decoder
                .and_then(|decoder| decoder.take(length as u64 + 1).read_to_end(plain))
                .map_err(|e| format!("cannot be decompressed: {e}"))?;
        }
        if plain.len() != length {
            return Err(format!("has {} bytes decompressed instead of {length}", plain.len()));
        }
        Ok(())
    }
}
