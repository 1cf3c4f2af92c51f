//! Encryption: AES-256 in counter mode, authenticated by Poly1305-AES.
//!
//! A sealed message is `nonce (16) ‖ ciphertext ‖ tag (16)`. The counter is 128 bits, big-endian,
//! and begins at the nonce. The tag covers the ciphertext alone; Poly1305 is keyed for each message
//! with `r` and with the nonce encrypted by AES-128 under `k` (Bernstein, "The Poly1305-AES
//! message-authentication code").

use super::FormatError;
use aes::cipher::{BlockCipherEncrypt, KeyIvInit, StreamCipher};
use aes::{Aes128, Aes256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::{Seal, SealError};
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Bytes in front of the ciphertext.
pub const NONCE_BYTES: usize = 16;
/// Bytes behind it.
pub const TAG_BYTES: usize = 16;
/// By how much a sealed message is longer than its plain text.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// A key to encrypt and authenticate with: the repository's master key, or one that was derived
/// from a password to wrap it.
#[derive(Clone)]
pub struct MasterKey {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey([secret])")
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.encrypt.zeroize();
        self.mac_k.zeroize();
        self.mac_r.zeroize();
    }
}

/// How a master key looks inside a key file.
#[derive(Serialize, Deserialize)]
struct KeyJson {
    mac: MacJson,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct MacJson {
    k: String,
    r: String,
}

impl Drop for KeyJson {
    fn drop(&mut self) {
        self.encrypt.zeroize();
        self.mac.k.zeroize();
        self.mac.r.zeroize();
    }
}

impl MasterKey {
    /// A new random key.
    pub fn generate() -> Result<MasterKey, FormatError> {
        let mut bytes = Zeroizing::new([0; 64]);
        getrandom::fill(bytes.as_mut_slice())
            .map_err(|e| FormatError(format!("no random bytes from the system: {e}")))?;
        Ok(MasterKey::from_bytes(&bytes))
    }

    /// The key in 64 bytes of a key derivation: AES-256 key ‖ `k` ‖ `r`.
    pub fn from_bytes(bytes: &[u8; 64]) -> MasterKey {
        let mut key = MasterKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        key.encrypt.copy_from_slice(&bytes[..32]);
        key.mac_k.copy_from_slice(&bytes[32..48]);
        key.mac_r.copy_from_slice(&bytes[48..]);
        mask_r(&mut key.mac_r);
        key
    }

    /// The key in the JSON of an opened key file.
    pub fn from_json(json: &[u8]) -> Result<MasterKey, FormatError> {
        // The parser's own message could quote a part of the key.
        let json: KeyJson = serde_json::from_slice(json)
            .map_err(|_| FormatError::new("the master key inside is not the JSON of a key"))?;
        let mut key = MasterKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        decode_exact(&json.encrypt, &mut key.encrypt)?;
        decode_exact(&json.mac.k, &mut key.mac_k)?;
        decode_exact(&json.mac.r, &mut key.mac_r)?;
        mask_r(&mut key.mac_r);
        let zero = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
        if zero(&key.encrypt) || zero(&key.mac_k) || zero(&key.mac_r) {
            return Err(FormatError::new("the master key inside is all zero"));
        }
        Ok(key)
    }

    /// The key as JSON, to be sealed into a key file.
    pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, FormatError> {
        let json = KeyJson {
            mac: MacJson { k: STANDARD.encode(self.mac_k), r: STANDARD.encode(self.mac_r) },
            encrypt: STANDARD.encode(self.encrypt),
        };
        Ok(Zeroizing::new(serde_json::to_vec(&json)?))
    }

    /// Appends the sealed `plain` to `out`.
    pub fn seal_into(&self, plain: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(plain.len() + OVERHEAD_BYTES);
        out.extend_from_slice(&[0; NONCE_BYTES]);
        out.extend_from_slice(plain);
        out.extend_from_slice(&[0; TAG_BYTES]);
        self.seal_in_place(&mut out[start..]);
    }

    /// Seals in place: `message` is 16 bytes for the nonce, the plain text, 16 bytes for the tag.
    /// Anything shorter than these 32 bytes is left alone.
    pub fn seal_in_place(&self, message: &mut [u8]) {
        let Some((nonce, rest)) = message.split_first_chunk_mut::<NONCE_BYTES>() else { return };
        let Some((text, tag)) = rest.split_last_chunk_mut::<TAG_BYTES>() else { return };
        *nonce = random_nonce();
        self.apply_keystream(nonce, text);
        *tag = self.tag(nonce, text);
    }

    /// Authenticates `message` and decrypts it where it stands; the plain text is the part between
    /// nonce and tag. On an error nothing was decrypted.
    pub fn open_in_place<'a>(&self, message: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
        let (nonce, rest) = message.split_first_chunk_mut::<NONCE_BYTES>().ok_or(SealError)?;
        let (text, tag) = rest.split_last_chunk_mut::<TAG_BYTES>().ok_or(SealError)?;
        if !equal_in_constant_time(&self.tag(nonce, text), tag) {
            return Err(SealError);
        }
        self.apply_keystream(nonce, text);
        Ok(text)
    }

    /// Authenticates and decrypts.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut message = sealed.to_vec();
        let length = self.open_in_place(&mut message)?.len();
        message.copy_within(NONCE_BYTES..NONCE_BYTES + length, 0);
        message.truncate(length);
        Ok(message)
    }

    fn apply_keystream(&self, nonce: &[u8; NONCE_BYTES], text: &mut [u8]) {
        ctr::Ctr128BE::<Aes256>::new((&self.encrypt).into(), nonce.into()).apply_keystream(text);
    }

    fn tag(&self, nonce: &[u8; NONCE_BYTES], text: &[u8]) -> [u8; TAG_BYTES] {
        let mut encrypted_nonce = (*nonce).into();
        Aes128::new((&self.mac_k).into()).encrypt_block(&mut encrypted_nonce);
        let mut key = Zeroizing::new([0; 32]);
        key[..16].copy_from_slice(&self.mac_r);
        key[16..].copy_from_slice(&encrypted_nonce);
        let mut mac = Poly1305::new((&*key).into());
        // Whole blocks in bulk, the odd end by the call that knows Poly1305's own padding.
        let (blocks, end) = poly1305::Block::slice_as_chunks(text);
        mac.update(blocks);
        mac.compute_unpadded(end).into()
    }
}

impl Seal for MasterKey {
    fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        self.seal_into(plain, &mut sealed);
        sealed
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        MasterKey::open(self, sealed)
    }
}

/// Clears the bits of `r` that Poly1305 ignores, as restic stores it.
fn mask_r(r: &mut [u8; 16]) {
    for i in [3, 7, 11, 15] {
        r[i] &= 15;
    }
    for i in [4, 8, 12] {
        r[i] &= 252;
    }
}

/// A nonce of the kernel's generator, never zero (restic takes zero for "not set").
///
/// Two messages under one nonce give away both, and a generator of our own would repeat itself in
/// a cloned virtual machine. So every nonce is asked of the kernel, and as long as the kernel has
/// none, nothing is encrypted: this waits.
fn random_nonce() -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    while getrandom::fill(&mut nonce).is_err() || nonce == [0; NONCE_BYTES] {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    nonce
}

/// Compares without telling by its duration where the difference is.
fn equal_in_constant_time(a: &[u8; TAG_BYTES], b: &[u8; TAG_BYTES]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn decode_exact(text: &str, into: &mut [u8]) -> Result<(), FormatError> {
    let bytes = Zeroizing::new(
        STANDARD
            .decode(text)
            .map_err(|_| FormatError::new("the master key inside is not base64"))?,
    );
    if bytes.len() != into.len() {
        return Err(FormatError::new("a part of the master key inside has the wrong length"));
    }
    into.copy_from_slice(&bytes);
    Ok(())
}
