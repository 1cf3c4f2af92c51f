//! What somebody may do with the numbered objects of a service's state who may only append
//! (`docs/formats/state.md`).
//!
//! Whether the bytes are a state, only who has the repository's key can tell. The numbers are kept in
//! order here all the same: each is created once and after the one before, so that nobody stores a
//! number that no writer can have come to, and by that makes all others meaningless.

use super::answer::append_only;
use super::route::{How, Refusal};
use crate::{Key, Local, Storage};
use hyper::StatusCode;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// State objects that this many newer ones follow mean nothing any more.
const WINDOW: u64 = 64;

/// The name of a state object.
pub(super) struct StateName<'a> {
    /// The directory.
    above: &'a str,
    /// None for digits that are no number that a state can have.
    number: Option<u64>,
}

impl<'a> StateName<'a> {
    /// The state that an object of this key would be; none if it is something else.
    pub(super) fn of(key: &'a Key) -> Option<StateName<'a>> {
        let (above, name) = key.as_str().rsplit_once('/')?;
        let is_state = above == "mainstay/state" || above.ends_with("/mainstay/state");
        let is_number = name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit());
        let number = name.parse().ok().filter(|number| (1..u64::MAX - WINDOW).contains(number));
        (is_state && is_number).then_some(StateName { above, number })
    }

    /// Refuses any number but the next one. One that was used, and removed since, is answered as if it
    /// were there still: a writer that was paused for long has lost it.
    pub(super) fn next(&self, local: &Local, how: How) -> Result<(), Refusal> {
        let Some(number) = self.number else {
            return Err(append_only("no state has this number"));
        };
        let there = self.numbers(local)?;
        let follows = if number == 1 { there.is_empty() } else { there.contains(&(number - 1)) };
        if follows || there.contains(&number) {
            return Ok(());
        }
        if how == How::IfAbsent && there.last().is_some_and(|newest| number < *newest) {
            let reason = "there was one, and newer ones have followed it";
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, reason));
        }
        Err(append_only(
            "states are numbered one after the other, and the one before this is not here",
        ))
    }

    /// Refuses to remove what has a meaning, or had one until a short while ago.
    pub(super) fn deletable(&self, local: &Local, age: Duration) -> Result<(), Refusal> {
        let newest = self.numbers(local)?.last().copied();
        let follower = self.number.and_then(|number| number.checked_add(WINDOW));
        let (Some(follower), Some(newest)) = (follower, newest) else {
            return Err(append_only("this is no state"));
        };
        if newest < follower {
            return Err(append_only("a state is removed only when 64 newer ones have followed it"));
        }
        if self.is_older(local, follower, age)? {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::CONFLICT,
            "the states that have followed this one are too young for it to be removed",
        ))
    }

    fn numbers(&self, local: &Local) -> Result<BTreeSet<u64>, Refusal> {
        let entries = local.list(self.above)?;
        Ok(entries.iter().filter_map(|entry| StateName::of(&entry.key)?.number).collect())
    }

    /// Whether the object of this number was stored so long ago. One that is not there any more was.
    fn is_older(&self, local: &Local, number: u64, age: Duration) -> Result<bool, Refusal> {
        let Ok(key) = Key::new(format!("{}/{number:020}", self.above)) else { return Ok(false) };
        let file = match local.object(&key) {
            Ok((file, _)) => file,
            Err(e) if e.kind() == crate::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(e.into()),
        };
        let stored = file.metadata().and_then(|meta| meta.modified());
        let stored = stored.map_err(|e| crate::Error::io(&key, "look at", e))?;
        // One that was stored in the future is young.
        Ok(SystemTime::now().duration_since(stored).is_ok_and(|passed| passed >= age))
    }
}
