//! What one member remembers of a service's state: the highest generation it has seen.

use crate::Error;
use model::{Generation, MemberName, ServiceState};
use std::path::Path;

/// The memory, in a file of the member's state directory.
#[derive(Debug)]
pub struct Witness {}

/// What was remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Highest generation seen.
    pub generation: Generation,
    /// The primary at that generation.
    pub primary: Option<MemberName>,
}

impl Witness {
    /// The memory at this file, which need not exist yet.
    pub fn at(_file: &Path) -> Witness {
        todo!()
    }

    /// What was last seen; none if nothing ever was.
    pub fn remembered(&self) -> Result<Option<Remembered>, Error> {
        todo!()
    }

    /// Remembers what this state shows, durable on return; refuses a state that has gone back.
    pub fn see(&self, _state: &ServiceState) -> Result<(), Error> {
        todo!()
    }
}
