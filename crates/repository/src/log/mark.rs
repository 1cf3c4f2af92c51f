//! Marks: up to when the log that is stored reaches.
//!
//! A server to which nobody writes has nothing to store, and its log looks the same a second and a day
//! later. So whoever stores it says now and then up to when it has all of it, in an object of its own,
//! where every host sees it. Only the newest counts; the others are removed where that is allowed.

use super::name;
use super::sealed::Form;
use crate::Error;
use jiff::Timestamp;
use model::{ClusterId, Generation, Seal};
use storage::Key;

/// All marks are below this.
pub(super) const ROOT: &str = "mainstay/log-until";

/// No mark is that large; more is refused before it is read.
pub(super) const LARGEST: u64 = 4096;

/// Its numbers: generation, time in microseconds, timeline, place.
const FORM: Form<4> = Form { magic: *b"MSTYUNT\x01", what: "a mark of the log" };
const LEVEL: i32 = 1;

/// Everything that was committed before a time is in the log, up to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The time, on the clock of who stores the log; to the microsecond, not before 1970.
    pub until: Timestamp,
    /// The timeline.
    pub timeline: u32,
    /// The place on it, which follows all of that.
    pub place: u64,
    /// The generation at which it was put.
    pub generation: Generation,
}

impl Mark {
    fn micros(&self) -> Result<u64, Error> {
        u64::try_from(self.until.as_microsecond())
            .map_err(|_| Error::Invalid(format!("the time {} is too early", self.until)))
    }

    /// Sorts by time.
    fn name(&self) -> Result<String, Error> {
        Ok(format!("{:016X}-{:08X}-{:016X}", self.micros()?, self.timeline, self.place))
    }

    /// Where it lies in the log of a cluster.
    pub(super) fn key(&self, cluster: Option<ClusterId>) -> Result<Key, Error> {
        let place = name::place(ROOT, cluster);
        let text = format!("{place}/{}@{:010}", self.name()?, self.generation.0);
        Key::new(text).map_err(|e| Error::Invalid(e.to_string()))
    }

    /// Reads a key back; none if it is not one that we would write.
    pub(super) fn parse(key: &Key) -> Option<(Option<ClusterId>, Mark)> {
        let rest = key.as_str().strip_prefix(ROOT)?.strip_prefix('/')?;
        let (cluster, rest) = match rest.split_once('/') {
            Some((id, rest)) => (Some(id.parse().ok()?), rest),
            None => (None, rest),
        };
        let (name, generation) = rest.split_once('@')?;
        let mut fields = name.split('-');
        let mut hex = || u64::from_str_radix(fields.next()?, 16).ok();
        let (micros, timeline, place) = (hex()?, hex()?, hex()?);
        let mark = Mark {
            until: Timestamp::from_microsecond(i64::try_from(micros).ok()?).ok()?,
            timeline: u32::try_from(timeline).ok()?,
            place,
            generation: Generation(generation.parse().ok()?),
        };
        mark.key(cluster).is_ok_and(|again| again == *key).then_some((cluster, mark))
    }

    pub(super) fn encode(
        &self,
        cluster: Option<ClusterId>,
        seal: &dyn Seal,
    ) -> Result<Vec<u8>, Error> {
        FORM.encode(seal, &name::sealed(cluster, &self.name()?), self.numbers()?, &[], LEVEL)
    }

    /// Refuses what is stored under this mark's key unless it says the same.
    pub(super) fn check(
        &self,
        cluster: Option<ClusterId>,
        seal: &dyn Seal,
        stored: &[u8],
    ) -> Result<(), Error> {
        let at = self.key(cluster)?;
        let opened = FORM.open(seal, &at, stored)?;
        if opened.name() != name::sealed(cluster, &self.name()?).as_bytes()
            || opened.numbers != self.numbers()?
        {
            return Err(opened.damaged("it is another mark than its name says"));
        }
        opened.content(0).map(drop)
    }

    fn numbers(&self) -> Result<[u64; 4], Error> {
        Ok([self.generation.0, self.micros()?, u64::from(self.timeline), self.place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_documented() {
        let mark = Mark {
            until: "2026-11-21T12:00:00.000001Z".parse().expect("a time"),
            timeline: 2,
            place: 0xA_0300_0028,
            generation: Generation(7),
        };
        let key = mark.key(None).expect("a key");
        let text = "mainstay/log-until/000660C819A17001-00000002-0000000A03000028@0000000007";
        assert_eq!(key.as_str(), text);
        assert_eq!(Mark::parse(&key), Some((None, mark)));
        for bad in [
            "mainstay/log-until/660C819A17001-00000002-0000000A03000028@0000000007",
            "mainstay/log-until/000660C819A17001-00000002-0000000A03000028@7",
            "mainstay/log-until/000660C819A17001-00000002@0000000007",
            "mainstay/log-until/000660C819A17001-00000002-0000000A03000028-1@0000000007",
            "mainstay/log-until/FFFFFFFFFFFFFFFF-00000002-0000000A03000028@0000000007",
            "mainstay/log/000660C819A17001-00000002-0000000A03000028@0000000007",
        ] {
            assert_eq!(Mark::parse(&Key::new(bad).expect(bad)), None, "{bad}");
        }
        let early = Mark { until: Timestamp::from_second(-1).expect("a time"), ..mark };
        assert!(early.key(None).is_err());
    }
}
