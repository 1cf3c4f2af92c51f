//! The `config` file: version, id, and the polynomial that decides where files are cut.

use super::FormatError;
use serde::{Deserialize, Serialize};

/// The newest version, the one that new repositories get.
pub const VERSION: u32 = 2;

/// A repository's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// 1 (nothing is compressed) or 2.
    pub version: u32,
    /// 64 hex digits.
    pub id: String,
    /// The chunker's polynomial.
    pub chunker_polynomial: Polynomial,
}

impl Config {
    /// The configuration of a new repository.
    pub fn generate() -> Result<Config, FormatError> {
        let mut id = [0; 32];
        fill_random(&mut id)?;
        Ok(Config {
            version: VERSION,
            id: hex::encode(id),
            chunker_polynomial: Polynomial::generate()?,
        })
    }

    /// Reads the JSON, and refuses what this engine could not handle rightly.
    pub fn decode(json: &[u8]) -> Result<Config, FormatError> {
        let config: Config = serde_json::from_slice(json)?;
        if !(1..=VERSION).contains(&config.version) {
            return Err(FormatError(format!(
                "repository version {} is not supported (only 1 and 2 are)",
                config.version
            )));
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if config.id.len() != 64 || !config.id.bytes().all(hex) {
            return Err(FormatError::new("the repository id is not 64 hex digits"));
        }
        if !config.chunker_polynomial.is_irreducible() {
            return Err(FormatError(format!(
                "the chunker polynomial {:x} is not irreducible of degree 53",
                config.chunker_polynomial.0
            )));
        }
        Ok(config)
    }

    /// The JSON.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Whether this version of the format knows compression.
    pub fn compresses(&self) -> bool {
        self.version >= 2
    }
}

/// A polynomial over GF(2): bit *i* is the coefficient of x^i.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polynomial(pub u64);

/// The degree of every chunker polynomial.
pub const DEGREE: u32 = 53;

impl Polynomial {
    /// A random irreducible polynomial of degree 53. One in 53 is irreducible, so this takes a
    /// hundred tries or so.
    pub fn generate() -> Result<Polynomial, FormatError> {
        loop {
            let mut bytes = [0; 8];
            fill_random(&mut bytes)?;
            let low = u64::from_le_bytes(bytes) & ((1 << DEGREE) - 1);
            // The constant term must be there: else x divides it.
            let candidate = Polynomial(low | 1 << DEGREE | 1);
            if candidate.is_irreducible() {
                return Ok(candidate);
            }
        }
    }

    /// Whether it is irreducible and of degree 53.
    ///
    /// 53 is prime, so Rabin's test has two parts: x^(2^53) ≡ x modulo the polynomial (all its
    /// factors have degree 1 or 53), and no factor has degree 1 (neither 0 nor 1 is a root).
    pub fn is_irreducible(self) -> bool {
        let p = self.0;
        if p >> DEGREE != 1 || p & 1 == 0 || p.count_ones().is_multiple_of(2) {
            return false;
        }
        let x = 2;
        (0..DEGREE).fold(x, |power, _| multiply(power, power, p)) == x
    }
}

impl Serialize for Polynomial {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Polynomial {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16)
            .map(Polynomial)
            .map_err(|_| serde::de::Error::custom("the polynomial is not a number in hex"))
    }
}

/// `a * b` modulo `p`, all of degree below 53 except `p`, whose degree is 53.
fn multiply(a: u64, b: u64, p: u64) -> u64 {
    (0..DEGREE).rev().fold(0, |product, bit| {
        let mut product = product << 1;
        if product >> DEGREE & 1 == 1 {
            product ^= p;
        }
        if b >> bit & 1 == 1 { product ^ a } else { product }
    })
}

fn fill_random(bytes: &mut [u8]) -> Result<(), FormatError> {
    getrandom::fill(bytes).map_err(|e| FormatError(format!("no random bytes from the system: {e}")))
}
