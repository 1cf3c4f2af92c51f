//! Decides about takeovers, and never acts.
//!
//! [`assess`] looks at the state of a service, at what the candidate's host observed, and at what
//! was asked for, and says: which gates stand open, what would be lost, and which steps are still
//! to do. It is asked again after every step and after every crash. Nothing is remembered between
//! two calls but the state itself, so there is nothing that a crash could make wrong.
//!
//! An executor is a loop: load the state, assess, stop if not allowed, else do the *first* step and
//! begin again; [`Step::Finish`] is the last. It stops too if a step leaves everything as it was.
//! Once it has claimed, it gives no overrides any more (those that count are in the claim), so that
//! two executors never take the claim from each other by turns.

mod assess;
mod gates;
mod loss;
mod observe;
mod plan;

pub use assess::{Assessment, Standing, assess};
pub use gates::{Gate, GateReport, Verdict};
pub use loss::Loss;
pub use observe::{CopyState, Observation, Request, Running, Seen, Sighting};
pub use plan::{Fencing, Step, Target};
