//! Encryption with authentication, as a capability that is handed on.

/// Opening failed: the bytes are damaged, forged, or made with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are damaged or were made with another key")]
pub struct SealError;

/// Seals bytes with the repository's key. Vault state uses it without knowing the repository.
pub trait Seal: Send + Sync {
    /// Encrypts and authenticates.
    fn seal(&self, plain: &[u8]) -> Vec<u8>;

    /// Authenticates and decrypts.
    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError>;
}
