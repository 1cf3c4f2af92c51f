//! Members, generation, head and intent: the state of a service in its vault, changed by
//! compare-and-set, and what each member remembers of it.
//!
//! Three layers. A [`Register`] keeps numbered bytes and lets exactly one writer create each
//! number; [`Objects`] is the one on a storage. [`StateStore`] puts sealed states into it. A
//! [`Witness`] remembers on the member's own disk what it was shown, so that a vault that goes back
//! is noticed.

mod envelope;
mod error;
mod objects;
mod register;
mod store;
mod witness;

pub use error::Error;
pub use objects::Objects;
pub use register::{Advance, Register, Stored};
pub use store::{StateStore, Versioned};
pub use witness::{Remembered, Witness};
