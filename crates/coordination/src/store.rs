//! Loads and changes the state of one service.

use crate::envelope;
use crate::{Advance, Error, Objects, Register};
use model::state::Refusal;
use model::{Seal, ServiceName, ServiceState};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use storage::Storage;

/// How often an update starts over because others were faster.
const ATTEMPTS: u32 = 60;

/// A state with the number it was stored under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Number of the object; 0 if there was none yet.
    pub number: u64,
    /// The state.
    pub state: ServiceState,
}

/// Loads and changes the state of one service.
pub struct StateStore {
    register: Arc<dyn Register>,
    seal: Arc<dyn Seal>,
    repository: String,
    service: ServiceName,
}

impl fmt::Debug for StateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateStore")
            .field("register", &self.register)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl StateStore {
    /// The state below `mainstay/state/` of the service's prefix of the vault.
    pub fn new(
        storage: Arc<dyn Storage>,
        seal: Arc<dyn Seal>,
        repository_id: &str,
        service: ServiceName,
    ) -> StateStore {
        Self::on(Arc::new(Objects::new(storage)), seal, repository_id, service)
    }

    /// The state in a register of any kind.
    pub fn on(
        register: Arc<dyn Register>,
        seal: Arc<dyn Seal>,
        repository_id: &str,
        service: ServiceName,
    ) -> StateStore {
        StateStore { register, seal, repository: repository_id.to_owned(), service }
    }

    /// The newest state; a new one with number 0 if nothing was ever stored.
    ///
    /// A newest object that is damaged is an error. The one before it would be intact, and wrong: it
    /// may know nothing of a takeover.
    pub fn load(&self) -> Result<Versioned, Error> {
        let Some(stored) = self.register.newest()? else {
            let state = ServiceState::new(self.repository.clone(), self.service.clone());
            return Ok(Versioned { number: 0, state });
        };
        let number = stored.number;
        let state = envelope::open(
            self.seal.as_ref(),
            &stored.object,
            &stored.bytes,
            number,
            &self.repository,
            &self.service,
        )?;
        Ok(Versioned { number, state })
    }

    /// Applies a transition to the newest state and stores the result, again and again until
    /// nobody was faster. A transition that changes nothing stores nothing.
    ///
    /// After an error that is no refusal it is open whether the result was stored; transitions can
    /// be repeated without harm.
    pub fn update<T>(
        &self,
        transition: impl FnMut(&mut ServiceState) -> Result<T, Refusal>,
    ) -> Result<(Versioned, T), Error> {
        self.advance(transition, false)
    }

    /// The newest state, stored once more under a number of its own. An update whose answer was
    /// never heard may still be on its way to the storage: what it would create is taken after this,
    /// so it has been heard of now, or will never be.
    pub fn settle(&self) -> Result<Versioned, Error> {
        self.advance(|_| Ok(()), true).map(|(settled, ())| settled)
    }

    fn advance<T>(
        &self,
        mut transition: impl FnMut(&mut ServiceState) -> Result<T, Refusal>,
        even_unchanged: bool,
    ) -> Result<(Versioned, T), Error> {
        for attempt in 0..ATTEMPTS {
            let current = self.load()?;
            let mut state = current.state.clone();
            let outcome = transition(&mut state)?;
            if state == current.state && !even_unchanged {
                return Ok((current, outcome));
            }
            let number = current.number + 1;
            let bytes = envelope::close(self.seal.as_ref(), number, &state)?;
            match self.register.create(number, &bytes)? {
                Advance::Won => return Ok((Versioned { number, state }, outcome)),
                Advance::Lost => back_off(attempt)?,
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }
}

/// Waits a random while that grows, so that writers that collided do not collide again. The first
/// attempts follow at once: mostly one other writer was there and is done.
fn back_off(attempt: u32) -> Result<(), Error> {
    let Some(exponent) = attempt.checked_sub(3) else { return Ok(()) };
    let mut random = [0; 1];
    getrandom::fill(&mut random).map_err(|e| Error::Random(e.to_string()))?;
    let most = Duration::from_millis(1 << exponent.min(8));
    std::thread::sleep(most * u32::from(random[0]) / 255);
    Ok(())
}
