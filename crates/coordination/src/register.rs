//! The narrow thing that coordination stands on: numbered bytes of which each number is created
//! once.

use crate::Error;
use std::fmt;

/// The newest bytes of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Their number, from 1.
    pub number: u64,
    /// Where they are, for messages.
    pub object: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What became of an attempt to create the next number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The bytes are the content of that number, durable, and nobody else's ever were.
    Won,
    /// Somebody else created that number, and perhaps more since. (Or we did, but were paused so
    /// long before we could make sure of it that it can no longer be told.)
    Lost,
}

/// Numbered bytes. A storage with put-if-absent can be one, and so can etcd.
///
/// What every implementation promises, and the contract suite tries:
/// - of all calls that ever create one number, over all hosts, at most one is told
///   [`Advance::Won`], and without a pause exactly one;
/// - what [`Register::newest`] returns was won, and is never older than what was newest when the
///   call began;
/// - an error of [`Register::create`] leaves open whether the bytes were stored; nothing else does.
///
/// The bytes of two calls must differ (they carry a random mark): that is how an implementation
/// knows its own bytes again after an answer was lost.
pub trait Register: Send + Sync + fmt::Debug {
    /// The newest bytes; none if nothing was ever created.
    fn newest(&self) -> Result<Option<Stored>, Error>;

    /// Creates `number`, which is one more than the newest that the caller has seen.
    fn create(&self, number: u64, bytes: &[u8]) -> Result<Advance, Error>;
}
