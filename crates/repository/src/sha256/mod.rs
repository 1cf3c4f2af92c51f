//! SHA-256 of two messages at once.
//!
//! Each step of a message waits for the step before, and the processor's instructions for it have
//! room for a second message meanwhile: two take little longer than one. Everything that a repository
//! holds is hashed at least once, so this is a large part of all that we do. Without these
//! instructions, and for one message alone, it is the usual library.

#[cfg(target_arch = "x86_64")]
mod x86;

use sha2::{Digest, Sha256};

/// The sum of one message.
pub fn sum(message: &[u8]) -> [u8; 32] {
    Sha256::digest(message).into()
}

/// The sums of two messages.
pub fn sums(one: &[u8], two: &[u8]) -> [[u8; 32]; 2] {
    #[cfg(target_arch = "x86_64")]
    if x86::is_there() {
        let mut running = Running::default();
        let (two, bytes) = running.beside(one, two);
        return [running.finish(&one[bytes..]), two];
    }
    [sum(one), sum(two)]
}

/// A message that is hashed block by block, on the side while others are.
#[derive(Clone, Debug)]
pub struct Running {
    state: State,
    /// Hashed so far: whole blocks.
    bytes: u64,
}

/// Bytes of a block: all but the last of a message are hashed in such pieces.
pub const BLOCK_BYTES: usize = 64;

/// The eight words that are worked on.
type State = [u32; 8];
type Block = [u8; BLOCK_BYTES];

/// The first 32 bits of the fractional parts of the square roots of the first eight primes
/// (FIPS 180-4, 5.3.3).
const START: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

impl Default for Running {
    fn default() -> Self {
        Running { state: START, bytes: 0 }
    }
}

impl Running {
    /// Hashes the whole blocks that come next.
    pub fn blocks(&mut self, next: &[u8]) {
        let (blocks, _) = next.as_chunks();
        single(&mut self.state, blocks);
        self.bytes += (blocks.len() * BLOCK_BYTES) as u64;
    }

    /// Hashes another message whole, and as many of the blocks that come next in this one as fit
    /// beside it. Says the sum, and how many bytes of this one these were.
    pub fn beside(&mut self, next: &[u8], other: &[u8]) -> ([u8; 32], usize) {
        let mut others = Running::default();
        let ((own, _), (blocks, _)) = (next.as_chunks(), other.as_chunks());
        let both = own.len().min(blocks.len());
        pair(&mut self.state, &own[..both], &mut others.state, &blocks[..both]);
        let bytes = both * BLOCK_BYTES;
        self.bytes += bytes as u64;
        others.bytes += bytes as u64;
        (others.finish(&other[bytes..]), bytes)
    }

    /// Hashes the rest of the message, and says the sum.
    pub fn finish(mut self, rest: &[u8]) -> [u8; 32] {
        self.blocks(rest);
        let (_, tail) = rest.as_chunks::<BLOCK_BYTES>();
        let bits = (self.bytes + tail.len() as u64) * 8;
        // A one, zeros, and the length in bits at the end of a block.
        let mut last = [[0; BLOCK_BYTES]; 2];
        let flat = last.as_flattened_mut();
        flat[..tail.len()].copy_from_slice(tail);
        flat[tail.len()] = 0x80;
        let count = if tail.len() < 56 { 1 } else { 2 };
        flat[count * BLOCK_BYTES - 8..count * BLOCK_BYTES].copy_from_slice(&bits.to_be_bytes());
        single(&mut self.state, &last[..count]);
        let mut sum = [0; 32];
        for (bytes, word) in sum.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        sum
    }
}

fn single(state: &mut State, blocks: &[Block]) {
    #[cfg(target_arch = "x86_64")]
    if x86::is_there() {
        x86::compress([state], [blocks]);
        return;
    }
    portable(state, blocks);
}

/// As many blocks of one as of the other.
fn pair(one: &mut State, first: &[Block], two: &mut State, second: &[Block]) {
    #[cfg(target_arch = "x86_64")]
    if x86::is_there() {
        x86::compress([one, two], [first, second]);
        return;
    }
    portable(one, first);
    portable(two, second);
}

fn portable(state: &mut State, blocks: &[Block]) {
    for block in blocks {
        sha2::block_api::compress256(state, std::slice::from_ref(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            (0usize..40, 0usize..3, any::<u8>()).prop_map(|(blocks, off, byte)| {
                let mut message: Vec<u8> = (0..=255).cycle().take(blocks * 64 + 62 + off).collect();
                message[0] = byte;
                message
            }),
        ]
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_library(one in message(), two in message()) {
            prop_assert_eq!(sums(&one, &two), [sum(&one), sum(&two)]);
        }

        #[test]
        fn what_runs_beside_others_comes_out_right(
            message in message(),
            others in prop::collection::vec(message(), 0..5),
        ) {
            let mut running = Running::default();
            let mut rest = message.as_slice();
            for other in &others {
                let (of_other, bytes) = running.beside(rest, other);
                prop_assert_eq!(of_other, sum(other));
                rest = &rest[bytes..];
            }
            prop_assert_eq!(running.finish(rest), sum(&message));
        }

        #[test]
        fn without_the_instructions_it_is_the_same(message in message()) {
            let (blocks, _) = message.as_chunks::<64>();
            let (mut fast, mut portably) = (START, START);
            single(&mut fast, blocks);
            portable(&mut portably, blocks);
            prop_assert_eq!(fast, portably);
        }
    }

    /// FIPS 180-4's own examples, as NIST publishes them.
    #[test]
    fn the_standards_examples() {
        let of = |text: &[u8]| hex::encode(Running::default().finish(text));
        assert_eq!(of(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(of(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(
            of(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        );
    }
}
