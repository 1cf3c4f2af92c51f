//! The number that grows with every takeover.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Everything written carries one; writes of an older one are refused.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of a service that has never been taken over.
    pub const FIRST: Generation = Generation(1);

    /// The one that a takeover raises this to.
    pub fn next(self) -> Generation {
        Generation(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
