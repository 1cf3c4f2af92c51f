//! Names that end up in paths, object keys and command lines, checked once where they enter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {name:?} is not valid: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit, without '..'"
)]
pub struct NameError {
    what: &'static str,
    name: String,
}

/// One rule for all names: they become directory names, S3 prefixes and parts of other names, so
/// nothing that a shell, a path or a URL reads as special gets in.
fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    let bytes = name.as_bytes();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good = !bytes.is_empty()
        && bytes.len() <= 63
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(plain)
        && !name.contains("..");
    if good { Ok(()) } else { Err(NameError { what, name: name.to_owned() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// Checks and wraps a name.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check($what, name)?;
                Ok(Self(name.to_owned()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let name = String::deserialize(from)?;
                Self::new(&name).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// The thing protected, by name (`shop`). Its repository is `VAULT/shop`.
    ServiceName,
    "service name"
);
name!(
    /// A copy of a service on a host. Named as its host.
    MemberName,
    "member name"
);
name!(
    /// A second vault, as the configuration of a host calls it.
    VaultName,
    "vault name"
);
name!(
    /// One run of an operation: `20261121T010442Z-backup-5f3a`, so that ids sort by age.
    OperationId,
    "operation id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_pass() {
        for good in ["shop", "a", "db1.example", "A_b-9", &"x".repeat(63)] {
            assert!(ServiceName::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        let long = "x".repeat(64);
        for bad in [
            "", ".", "..", "a..b", "../a", "a/b", "a\nb", "a b", "-a", ".a", "_a", "ä", "a\0",
            &long,
        ] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?}");
        }
    }
}
