//! Snapshot, index and lock files: JSON, bare or compressed, before encryption.
//!
//! A plain text that begins with `{` or `[` is JSON; one that begins with 2 is a zstd frame after
//! that byte. Version 1 of the format knows only the first.

use super::FormatError;
use std::io::Read;

/// The byte in front of a compressed file.
const COMPRESSED: u8 = 2;
/// Larger files are refused: an index of 50,000 blobs has about 8 MB.
const MAX_PLAIN_BYTES: u64 = 256 << 20;
/// As much memory is taken before anything is decompressed, at most.
const BELIEVED_BYTES: usize = 16 << 20;
/// These files are small and read often by machines with little memory.
const LEVEL: i32 = 3;

/// The bytes to encrypt.
pub fn encode(json: &[u8], compress: bool) -> Result<Vec<u8>, FormatError> {
    if !compress {
        return Ok(json.to_vec());
    }
    let frame = zstd::bulk::compress(json, LEVEL)
        .map_err(|e| FormatError(format!("cannot be compressed: {e}")))?;
    let mut bytes = Vec::with_capacity(frame.len() + 1);
    bytes.push(COMPRESSED);
    bytes.extend_from_slice(&frame);
    Ok(bytes)
}

/// The JSON in decrypted bytes.
pub fn decode(bytes: Vec<u8>) -> Result<Vec<u8>, FormatError> {
    match bytes.split_first() {
        Some((b'{' | b'[', _)) => Ok(bytes),
        Some((&COMPRESSED, frame)) => {
            // Decoded as a stream, so that memory grows with what is really there and not with
            // what a header promises, which is believed a little, to save growing.
            let promised = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
            let promised = usize::try_from(promised.unwrap_or(0)).unwrap_or(usize::MAX);
            let mut json = Vec::with_capacity(promised.min(BELIEVED_BYTES));
            let bad = |e| FormatError(format!("cannot be decompressed: {e}"));
            let decoder = zstd::Decoder::with_buffer(frame).map_err(bad)?;
            decoder.take(MAX_PLAIN_BYTES + 1).read_to_end(&mut json).map_err(bad)?;
            if json.len() as u64 > MAX_PLAIN_BYTES {
                return Err(FormatError::new("larger than any file of its kind"));
            }
            Ok(json)
        }
        Some((byte, _)) => Err(FormatError(format!("begins with an unknown byte ({byte})"))),
        None => Err(FormatError::new("empty")),
    }
}
