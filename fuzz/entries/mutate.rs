//! Bytes that are almost right: samples with a few changes, the same ones for a number.

use std::path::Path;
use std::time::{Duration, Instant};

/// How long each parser is tried when nobody watches the clock.
const TIME: Duration = Duration::from_secs(2);
/// Enough, on a fast machine.
const TRIES: u64 = 40_000;

/// Tries a parser on changed samples, for a bounded time. Any panic is told with the bytes.
pub(crate) fn try_out(name: &str, samples: &[Vec<u8>], parser: impl Fn(&[u8])) {
    assert!(!samples.is_empty(), "{name}: nothing to begin from");
    let began = Instant::now();
    let mut tries = 0;
    while tries < TRIES && (began.elapsed() < TIME || tries < 100) {
        let bytes = changed(samples, tries);
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| parser(&bytes)));
        assert!(tried.is_ok(), "{name} does not bear these bytes: {}", hex(&bytes));
        tries += 1;
    }
}

/// What `fuzz/seeds` has for a parser.
pub(crate) fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .and_then(|files| files.map(|file| Ok(file?.path())).collect())
        .unwrap_or_default();
    files.sort();
    files.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sample, or two of them, with changes that the number decides.
fn changed(samples: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes = samples[dice.below(samples.len())].clone();
    // The first of them are as they are.
    if number < samples.len() as u64 {
        return samples[usize::try_from(number).unwrap_or(0)].clone();
    }
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below((bytes.len() - at).min(64) + 1);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = TELLING[dice.below(TELLING.len())],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.truncate(at),
            5 => {
                let other = &samples[dice.below(samples.len())];
                let from = dice.below(other.len() + 1);
                let to = from + dice.below((other.len() - from).min(64) + 1);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let word = WORDS[dice.below(WORDS.len())];
                bytes.splice(at..end, word.iter().copied());
            }
        }
    }
    bytes
}

/// Bytes that mean something somewhere.
const TELLING: &[u8] = b"\0\x01\x02\x7f\x80\xff\"\\{}[]:,-+.0:9aZ/ \n%@=";

/// Likewise words.
const WORDS: &[&[u8]] = &[
    b"null",
    b"-1",
    b"18446744073709551615",
    b"4294967296",
    b"1e999",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":",
    b"\\ud800",
    b"\\u0000",
    b"\xf0\x9f\x98\x80",
    b"../",
    b"%2e%2e",
    b"\xff\xff\xff\xff",
    b"\x28\xb5\x2f\xfd",
    b"9999-12-31T23:59:60.999999999+23:59",
];

/// xorshift64*
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(number).unwrap_or(0) % limit.max(1)
    }
}
