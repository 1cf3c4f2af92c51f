//! Names of things: SHA-256 sums, each kind its own type, so that none is taken for another.

use super::FormatError;
use crate::sha256;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What each byte is worth as a hex digit; 16 and more: none.
const DIGITS: [u8; 256] = {
    let mut digits = [0x10; 256];
    let mut value = 0u8;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        digits[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// The bytes of 64 hex digits. By a table, and asking only once whether all were digits: a large
/// repository has a great many of them.
pub(super) fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    let mut wrong = 0;
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [high, low] = pair.map(|digit| DIGITS[usize::from(digit)]);
        wrong |= high | low;
        *byte = (high << 4) | (low & 0xf);
    }
    (wrong < 0x10).then_some(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The id of something with this content.
            pub fn of(bytes: &[u8]) -> Self {
                Self(sha256::sum(bytes))
            }

            /// The ids of two things at once, which is faster.
            pub fn of_two(one: &[u8], two: &[u8]) -> [Self; 2] {
                sha256::sums(one, two).map(Self)
            }

            /// The 64 hex digits.
            pub fn to_hex(self) -> String {
                hex::encode(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; 64];
                // 32 bytes always fit 64 digits.
                let _ = hex::encode_to_slice(self.0, &mut digits);
                f.write_str(std::str::from_utf8(&digits).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = FormatError;
            fn from_str(text: &str) -> Result<Self, FormatError> {
                from_hex(text)
                    .map(Self)
                    .ok_or_else(|| FormatError(format!("{text:?} is no id of 64 hex digits")))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("64 hex digits")
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                from.deserialize_str(Visitor)
            }
        }
    };
}

id! {
    /// A blob: the SHA-256 of its plain bytes, uncompressed.
    BlobId
}
id! {
    /// A tree: the id of the blob that holds it.
    TreeId
}
id! {
    /// A redo journal: the SHA-256 of all that comes before its end record.
    RedoSum
}
id! {
    /// A pack file: the SHA-256 of the whole file.
    PackId
}
id! {
    /// An index file: the SHA-256 of the file as stored.
    IndexId
}
id! {
    /// A key file: the SHA-256 of the file.
    KeyId
}
id! {
    /// A lock file: the SHA-256 of the file as stored.
    LockId
}

impl From<TreeId> for BlobId {
    fn from(id: TreeId) -> BlobId {
        BlobId(id.0)
    }
}

impl From<BlobId> for TreeId {
    fn from(id: BlobId) -> TreeId {
        TreeId(id.0)
    }
}

/// What a blob holds. The two kinds never share a pack, and have separate name spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A part of a file's content.
    Data,
    /// A directory.
    Tree,
}

impl fmt::Display for BlobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlobKind::Data => "data",
            BlobKind::Tree => "tree",
        })
    }
}
