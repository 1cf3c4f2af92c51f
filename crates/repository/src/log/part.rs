//! Parts: the beginning of a file of the log that its server still writes to.
//!
//! The log is shipped as it is written, so that what a lost server takes with it is a second of it
//! and not a segment. Each part is an object of its own, put once and never changed. Parts of one
//! file lie end to end or overlap, and the file itself, once it is whole, takes their place.

use super::name::{self, LogKey};
use super::sealed::{Form, MAX_CONTENT};
use crate::Error;
use model::{ClusterId, Generation, Seal};
use storage::Key;

/// All parts are below this.
pub(super) const ROOT: &str = "mainstay/log-parts";

/// Its numbers: generation, start, length, and how long the file is going to be.
const FORM: Form<4> = Form { magic: *b"MSTYPRT\x01", what: "a part of the log" };
/// How hard it is compressed: it gives way to the file, which is compressed anew, and better.
const LEVEL: i32 = 1;

/// Which bytes of a file one object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// Where it begins in the file.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// The generation at which it was put.
    pub generation: Generation,
}

/// What is known of a file that is not whole yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// How long it is going to be.
    pub whole: u64,
}

impl Beginning {
    /// The file as its server has it on disk: what is not written yet is zero.
    pub fn padded(mut self) -> Vec<u8> {
        self.bytes.resize(usize::try_from(self.whole).unwrap_or(0).max(self.bytes.len()), 0);
        self.bytes
    }
}

/// Where the parts of a file are.
pub(super) fn prefix(cluster: Option<ClusterId>, name: &str) -> String {
    format!("{}/{name}", name::place(ROOT, cluster))
}

pub(super) fn key(name: &LogKey, part: &Part) -> Result<Key, Error> {
    let text = format!(
        "{}/{:08X}-{:08X}@{:010}",
        prefix(name.cluster(), name.name()),
        part.start,
        part.end,
        part.generation.0
    );
    Key::new(text).map_err(|e| Error::Invalid(e.to_string()))
}

/// Reads a key back; none if it is not one that we would write.
pub(super) fn parse(key: &Key) -> Option<(Option<ClusterId>, String, Part)> {
    let rest = key.as_str().strip_prefix(ROOT)?.strip_prefix('/')?;
    let (cluster, rest) = match rest.split('/').count() {
        3 => rest.split_once('/').map(|(id, rest)| Some((Some(id.parse().ok()?), rest)))??,
        _ => (None, rest),
    };
    let (name, rest) = rest.split_once('/')?;
    let (range, digits) = rest.split_once('@')?;
    let (start, end) = range.split_once('-')?;
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let generation = Generation(digits.parse().ok()?);
    let part = Part { start: hex(start)?, end: hex(end)?, generation };
    let name = LogKey::new(cluster, name, generation).ok()?;
    let valid = part.start < part.end && part.end <= MAX_CONTENT;
    let same = self::key(&name, &part).is_ok_and(|again| again == *key);
    (valid && same).then(|| (cluster, name.name().to_owned(), part))
}

/// `whole` is how long the file is going to be.
pub(super) fn encode(
    seal: &dyn Seal,
    name: &LogKey,
    start: u64,
    whole: u64,
    bytes: &[u8],
) -> Result<(Part, Vec<u8>), Error> {
    let end = start.saturating_add(bytes.len() as u64);
    if bytes.is_empty() || end > whole || whole > MAX_CONTENT {
        return Err(Error::Invalid(format!(
            "{} bytes at {start} are no part of {}, which has {whole}",
            bytes.len(),
            name.name()
        )));
    }
    let part = Part { start, end, generation: name.generation() };
    let numbers = [part.generation.0, start, bytes.len() as u64, whole];
    let stored = FORM.encode(seal, &name.sealed(), numbers, bytes, LEVEL)?;
    Ok((part, stored))
}

/// The bytes of a part, and how long the file is going to be.
pub(super) fn decode(
    seal: &dyn Seal,
    name: &LogKey,
    part: &Part,
    stored: &[u8],
) -> Result<(Vec<u8>, u64), Error> {
    let at = key(name, part)?;
    let opened = FORM.open(seal, &at, stored)?;
    let [generation, start, length, whole] = opened.numbers;
    let here = Some((generation, start, length))
        == part.end.checked_sub(part.start).map(|long| (part.generation.0, part.start, long));
    if opened.name() != name.sealed().as_bytes() || !here {
        return Err(opened.damaged("it holds another part than its name says"));
    }
    if part.end > whole || whole > MAX_CONTENT {
        return Err(opened.damaged("its header is wrong"));
    }
    Ok((opened.content(length)?, whole))
}

/// The fewest parts that lead from the file's first byte as far as they go.
pub(super) fn chain(parts: &[Part]) -> Vec<Part> {
    let mut chain = Vec::new();
    let mut end = 0;
    loop {
        let next = parts.iter().filter(|part| part.start <= end && part.end > end);
        let Some(next) = next.max_by_key(|part| (part.end, part.generation)) else { break };
        chain.push(*next);
        end = next.end;
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, end: u64) -> Part {
        Part { start, end, generation: Generation(1) }
    }

    #[test]
    fn keys_are_as_documented() {
        let name = LogKey::new(None, "000000010000000000000003", Generation(7)).expect("a name");
        let part = Part { start: 0x2000, end: 0x1_0000, generation: Generation(7) };
        let key = key(&name, &part).expect("a key");
        let text = "mainstay/log-parts/000000010000000000000003/00002000-00010000@0000000007";
        assert_eq!(key.as_str(), text);
        assert_eq!(parse(&key), Some((None, "000000010000000000000003".to_owned(), part)));
        for bad in [
            "mainstay/log-parts/000000010000000000000003/00010000-00002000@0000000007",
            "mainstay/log-parts/000000010000000000000003/0002000-00010000@0000000007",
            "mainstay/log-parts/000000010000000000000003/00002000-FF010000@0000000007",
            "mainstay/log-parts/000000010000000000000003/00002000-00010000",
            "mainstay/log-parts/x",
            "mainstay/log/other/x@0000000001",
        ] {
            assert_eq!(parse(&Key::new(bad).expect(bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_chain_ends_at_the_first_hole() {
        let parts = [part(0, 10), part(10, 20), part(0, 15), part(15, 18), part(21, 30)];
        assert_eq!(chain(&parts), [part(0, 15), part(10, 20)]);
        assert_eq!(chain(&[part(1, 10)]), []);
        assert_eq!(chain(&[part(0, 64), part(0, 32), part(32, 64)]), [part(0, 64)]);
    }
}
