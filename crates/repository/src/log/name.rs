//! Names of log files, and the keys that their objects have.

use crate::Error;
use model::{ClusterId, Generation};
use storage::Key;

/// Everything of the log is below this.
pub(super) const ROOT: &str = "mainstay/log";

/// The longest name of a log file.
pub(super) const MAX_NAME: usize = 128;

/// The largest generation that the ten digits hold.
const MAX_GENERATION: u64 = 9_999_999_999;

/// How a segment's name begins: timeline, high and low half of its position.
const SEGMENT_DIGITS: usize = 24;
/// How much of that names the shard.
const SHARD_DIGITS: usize = 16;
/// The shard of everything else.
const OTHER: &str = "other";

/// A name at a generation: what one object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogKey {
    cluster: Option<ClusterId>,
    name: String,
    generation: Generation,
}

impl LogKey {
    pub(super) fn new(
        cluster: Option<ClusterId>,
        name: &str,
        generation: Generation,
    ) -> Result<LogKey, Error> {
        if !is_name(name) || sealed(cluster, name).len() > MAX_NAME {
            return Err(Error::Invalid(format!(
                "{name:?} is no name for a log file: use 1 to {MAX_NAME} letters, digits, '.', \
                 '_' or '-', not beginning with '.' or '-'"
            )));
        }
        if generation.0 > MAX_GENERATION {
            return Err(Error::Invalid(format!("the generation {generation} is too large")));
        }
        Ok(LogKey { cluster, name: name.to_owned(), generation })
    }

    /// Reads a key back; none if it is not one of the log's.
    pub(super) fn parse(key: &Key) -> Option<LogKey> {
        let (name, digits) = key.name().rsplit_once('@')?;
        if digits.len() != 10 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let below = key.as_str().strip_prefix(ROOT)?.strip_prefix('/')?;
        let cluster = match below.split('/').count() {
            3 => Some(below.split('/').next()?.parse().ok()?),
            _ => None,
        };
        let parsed = LogKey::new(cluster, name, Generation(digits.parse().ok()?)).ok()?;
        // Only the one key that we would write: an object in a shard that is not its own would
        // never be found by its name.
        (parsed.text() == key.as_str()).then_some(parsed)
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What stands for the name under the seal: an object that was moved to another cluster's place is
    /// not what it says there.
    pub(super) fn sealed(&self) -> String {
        sealed(self.cluster, &self.name)
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn into_parts(self) -> (String, Generation) {
        (self.name, self.generation)
    }

    /// The prefix that holds all generations of this name and its neighbours.
    pub(super) fn shard(&self) -> String {
        let shard = match self.name.get(..SEGMENT_DIGITS) {
            Some(digits) if is_segment(digits) => &self.name[..SHARD_DIGITS],
            _ => OTHER,
        };
        format!("{}/{shard}", place(ROOT, self.cluster))
    }

    pub(super) fn storage_key(&self) -> Result<Key, Error> {
        Key::new(self.text()).map_err(|e| Error::Invalid(e.to_string()))
    }

    fn text(&self) -> String {
        format!("{}/{}@{:010}", self.shard(), self.name, self.generation.0)
    }
}

/// Where the log of a cluster is below one of the roots; without one, the root itself.
pub(super) fn place(root: &str, cluster: Option<ClusterId>) -> String {
    match cluster {
        Some(cluster) => format!("{root}/{cluster}"),
        None => root.to_owned(),
    }
}

/// A name as it stands under the seal.
pub(super) fn sealed(cluster: Option<ClusterId>, name: &str) -> String {
    match cluster {
        Some(cluster) => format!("{cluster}/{name}"),
        None => name.to_owned(),
    }
}

/// Whether this is the name of a segment.
pub(super) fn is_segment(name: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    name.len() == SEGMENT_DIGITS && name.bytes().all(hex)
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with(['.', '-'])
        && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> String {
        LogKey::new(None, name, Generation(7)).expect(name).storage_key().expect(name).to_string()
    }

    #[test]
    fn keys_are_as_documented() {
        assert_eq!(
            key("000000010000000A000000FF"),
            "mainstay/log/000000010000000A/000000010000000A000000FF@0000000007"
        );
        assert_eq!(
            key("000000010000000000000003.00000028.backup"),
            "mainstay/log/0000000100000000/000000010000000000000003.00000028.backup@0000000007"
        );
        assert_eq!(key("00000002.history"), "mainstay/log/other/00000002.history@0000000007");
        // Lower case is no segment.
        assert_eq!(
            key("000000010000000a000000ff"),
            "mainstay/log/other/000000010000000a000000ff@0000000007"
        );
    }

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        let long = "x".repeat(129);
        for bad in ["", ".", "..", ".x", "-x", "a/b", "../x", "a@1", "a b", "a\n", "ä", &long] {
            assert!(LogKey::new(None, bad, Generation(1)).is_err(), "{bad:?}");
        }
        assert!(LogKey::new(None, "x", Generation(MAX_GENERATION + 1)).is_err());
        assert!(LogKey::new(None, &"x".repeat(128), Generation(MAX_GENERATION)).is_ok());
    }

    #[test]
    fn only_keys_that_we_would_write_are_read_back() {
        let parse = |text: &str| LogKey::parse(&Key::new(text).expect("a key"));
        let good = "mainstay/log/0000000100000000/000000010000000000000003@0000000001";
        assert_eq!(
            parse(good),
            Some(LogKey {
                cluster: None,
                name: "000000010000000000000003".to_owned(),
                generation: Generation(1)
            })
        );
        for bad in [
            "mainstay/log/0000000200000000/000000010000000000000003@0000000001",
            "mainstay/log/other/000000010000000000000003@0000000001",
            "mainstay/log/0000000100000000/000000010000000000000003@1",
            "mainstay/log/0000000100000000/000000010000000000000003@+000000001",
            "mainstay/log/0000000100000000/000000010000000000000003",
            "mainstay/log/000000010000000000000003@0000000001",
            "mainstay/log/other/README",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
