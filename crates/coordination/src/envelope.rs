//! What is in a state object: a sealed JSON text that names its own number.
//!
//! The seal proves that a holder of the repository's key wrote it; the number, the repository's id
//! and the service inside prove that it is where it was put: a state copied from another number or
//! another service opens, but does not fit.

use crate::Error;
use model::state::STATE_FORMAT;
use model::{Seal, ServiceName, ServiceState};
use serde::{Deserialize, Serialize};

/// The sealed text.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Envelope {
    number: u64,
    /// 32 random hex digits: no two writers ever store the same bytes.
    write: String,
    state: ServiceState,
}

/// As much of it as every format has.
#[derive(Deserialize)]
struct Outline {
    state: StateOutline,
}

#[derive(Deserialize)]
struct StateOutline {
    format: u32,
}

/// The bytes of a state object.
pub(crate) fn close(seal: &dyn Seal, number: u64, state: &ServiceState) -> Result<Vec<u8>, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| Error::Random(e.to_string()))?;
    let envelope = Envelope { number, write: hex::encode(random), state: state.clone() };
    let plain =
        serde_json::to_vec(&envelope).map_err(|e| Error::damaged(&format!("state {number}"), e))?;
    Ok(seal.seal(&plain))
}

/// The state in an object, if it is whole, in a format that is known, and in its place.
pub(crate) fn open(
    seal: &dyn Seal,
    object: &str,
    bytes: &[u8],
    number: u64,
    repository: &str,
    service: &ServiceName,
) -> Result<ServiceState, Error> {
    let plain = seal.open(bytes).map_err(|e| Error::damaged(object, e))?;
    let outline: Outline = serde_json::from_slice(&plain).map_err(|e| Error::damaged(object, e))?;
    if outline.state.format > STATE_FORMAT {
        return Err(Error::TooNew(outline.state.format));
    }
    let Envelope { number: own, state, .. } =
        serde_json::from_slice(&plain).map_err(|e| Error::damaged(object, e))?;
    if own != number {
        return Err(Error::damaged(object, format!("it is the state of number {own}")));
    }
    if state.repository != repository {
        let theirs = &state.repository;
        return Err(Error::damaged(object, format!("it belongs to repository {theirs}")));
    }
    if &state.service != service {
        return Err(Error::damaged(object, format!("it belongs to service {}", state.service)));
    }
    Ok(state)
}
