//! The numbered state objects of one service.

use crate::Error;
use model::state::Refusal;
use model::{Seal, ServiceName, ServiceState};
use std::sync::Arc;
use storage::Storage;

/// A state with the number it was stored under.
#[derive(Clone, Debug)]
pub struct Versioned {
    /// Number of the object; 0 if there was none yet.
    pub number: u64,
    /// The state.
    pub state: ServiceState,
}

/// Loads and changes the state of one service.
pub struct StateStore {}

impl StateStore {
    /// The state below `mainstay/state/` of the service's prefix of the vault.
    pub fn new(
        _storage: Arc<dyn Storage>,
        _seal: Arc<dyn Seal>,
        _repository_id: &str,
        _service: ServiceName,
    ) -> StateStore {
        todo!()
    }

    /// The newest state; a new one with number 0 if nothing was ever stored.
    pub fn load(&self) -> Result<Versioned, Error> {
        todo!()
    }

    /// Applies a transition to the newest state and stores the result, again and again until
    /// nobody was faster. A transition that changes nothing stores nothing.
    pub fn update<T>(
        &self,
        _transition: impl FnMut(&mut ServiceState) -> Result<T, Refusal>,
    ) -> Result<(Versioned, T), Error> {
        todo!()
    }
}
