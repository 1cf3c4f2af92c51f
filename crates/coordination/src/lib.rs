//! Members, generation, head and intent: the state of a service in its vault, changed by
//! compare-and-set, and what each member remembers of it.

mod error;
mod store;
mod witness;

pub use error::Error;
pub use store::{StateStore, Versioned};
pub use witness::{Remembered, Witness};
