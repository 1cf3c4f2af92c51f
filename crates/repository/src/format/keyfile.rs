//! Key files: the master key, sealed with a key that scrypt derives from a password.

use super::crypto::MasterKey;
use super::time::Time;
use super::{FormatError, KeyId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

/// Bytes of salt.
const SALT_BYTES: usize = 64;
/// A key file that asks for more memory than this is hostile. restic asks for up to 60 MiB, rustic
/// for 128.
const MAX_MEMORY_BYTES: u64 = 512 << 20;
/// A key file that asks for more work (`N * r * p`) than this, some 20 seconds, is hostile.
const MAX_WORK: u64 = 1 << 26;

/// What a key derivation costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Work and memory; a power of two.
    pub n: u32,
    /// Block size.
    pub r: u32,
    /// Repetitions.
    pub p: u32,
}

impl Cost {
    /// How much work it is, to compare with others.
    pub fn work(self) -> u64 {
        u64::from(self.n).saturating_mul(self.r.into()).saturating_mul(self.p.into())
    }
}

/// A key file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// When it was made. rustic's key files say neither this nor by whom and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// The user who made it.
    #[serde(default, deserialize_with = "or_nothing")]
    pub username: String,
    /// The host it was made on.
    #[serde(default, deserialize_with = "or_nothing")]
    pub hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u32,
    r: u32,
    p: u32,
    /// Base64.
    salt: String,
    /// Base64 of the sealed master key.
    data: String,
}

/// A text; an empty one where it says `null`.
fn or_nothing<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl KeyFile {
    /// Wraps a master key with a password.
    pub fn wrap(
        master: &MasterKey,
        password: &str,
        cost: Cost,
        created: Time,
        username: String,
        hostname: String,
    ) -> Result<KeyFile, FormatError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt)
            .map_err(|e| FormatError(format!("no random bytes from the system: {e}")))?;
        let wrapping = derive(password, &salt, cost)?;
        let mut data = Vec::new();
        wrapping.seal_into(&master.to_json()?, &mut data);
        Ok(KeyFile {
            created: Some(created),
            username,
            hostname,
            kdf: "scrypt".to_owned(),
            n: cost.n,
            r: cost.r,
            p: cost.p,
            salt: STANDARD.encode(salt),
            data: STANDARD.encode(data),
        })
    }

    /// Reads the JSON.
    pub fn decode(json: &[u8]) -> Result<KeyFile, FormatError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// The file's bytes, and the name that these give it.
    pub fn encode(&self) -> Result<(KeyId, Vec<u8>), FormatError> {
        let bytes = serde_json::to_vec(self)?;
        Ok((KeyId::of(&bytes), bytes))
    }

    /// What deriving its key costs.
    pub fn cost(&self) -> Cost {
        Cost { n: self.n, r: self.r, p: self.p }
    }

    /// The master key, if this is the password; none if it is not. Takes as long as the file's
    /// cost says.
    pub fn unwrap(&self, password: &str) -> Result<Option<MasterKey>, FormatError> {
        if self.kdf != "scrypt" {
            return Err(FormatError(format!("unknown key derivation {:?}", self.kdf)));
        }
        let base64 = |text, what| {
            STANDARD.decode(text).map_err(|_| FormatError(format!("the {what} is not base64")))
        };
        let salt = base64(&self.salt, "salt")?;
        let data = base64(&self.data, "sealed key")?;
        let wrapping = derive(password, &salt, self.cost())?;
        match wrapping.open(&data) {
            Ok(json) => MasterKey::from_json(&Zeroizing::new(json)).map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// Derives the wrapping key. A cost from outside is checked before a byte is allocated.
fn derive(password: &str, salt: &[u8], cost: Cost) -> Result<MasterKey, FormatError> {
    let Cost { n, r, p } = cost;
    let memory = u64::from(n).saturating_mul(r.into()).saturating_mul(128);
    let work = cost.work();
    if n < 2 || !n.is_power_of_two() || r == 0 || p == 0 {
        return Err(FormatError(format!("N={n}, r={r}, p={p} are no parameters of scrypt")));
    }
    if memory > MAX_MEMORY_BYTES || work > MAX_WORK {
        return Err(FormatError(format!("asks for an absurd effort (scrypt N={n}, r={r}, p={p})")));
    }
    let log_n = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
    let absurd = |_| FormatError(format!("N={n}, r={r}, p={p} are no parameters of scrypt"));
    let params = scrypt::Params::new(log_n, r, p).map_err(|e| absurd(e.to_string()))?;
    let mut derived = Zeroizing::new([0; 64]);
    scrypt::scrypt(password.as_bytes(), salt, &params, derived.as_mut_slice())
        .map_err(|e| absurd(e.to_string()))?;
    Ok(MasterKey::from_bytes(&derived))
}
