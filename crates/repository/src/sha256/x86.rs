//! The processor's own instructions for SHA-256 (Intel's SHA extensions), for one message or several
//! side by side.

use super::{Block, State};
use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi8, _mm_set_epi32,
    _mm_set_epi64x, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
    _mm_shuffle_epi8, _mm_shuffle_epi32,
};

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4,
/// 4.2.2).
const ROUNDS: [[i32; 4]; 16] = rounds();

/// Whether this processor has the instructions. The answer is kept by the library.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1")
}

/// Works as many blocks into each state; of messages that are not equally long, as many as the
/// shortest has. Only after [`is_there`] has said so.
#[allow(unsafe_code)]
pub(super) fn compress<const N: usize>(states: [&mut State; N], messages: [&[Block]; N]) {
    debug_assert!(is_there());
    // SAFETY: all callers asked `is_there` before; nothing else is required of them.
    unsafe { compress_here(states, messages) }
}

/// A state as the instructions want it: words A, B, E, F and C, D, G, H, from the highest down.
#[derive(Clone, Copy)]
struct Halves {
    abef: __m128i,
    cdgh: __m128i,
}

/// Four rounds of all messages, for each of these steps; and the words that are needed four steps
/// later, in the place of those that are not needed any more.
macro_rules! four_rounds {
    ($lanes:ident, $words:ident, $halves:ident: $($step:literal)*) => {$(
        let [k0, k1, k2, k3] = ROUNDS[$step];
        let constants = _mm_set_epi32(k3, k2, k1, k0);
        for lane in 0..$lanes {
            let words = &mut $words[lane];
            let sum = _mm_add_epi32(words[$step % 4], constants);
            let Halves { abef, cdgh } = $halves[lane];
            let first = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            let second = _mm_sha256rnds2_epu32(abef, first, _mm_shuffle_epi32(sum, 0x0e));
            $halves[lane] = Halves { abef: second, cdgh: first };
            if $step < 12 {
                let last = words[($step + 3) % 4];
                let partial = _mm_add_epi32(
                    _mm_sha256msg1_epu32(words[$step % 4], words[($step + 1) % 4]),
                    _mm_alignr_epi8(last, words[($step + 2) % 4], 4),
                );
                words[$step % 4] = _mm_sha256msg2_epu32(partial, last);
            }
        }
    )*};
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn compress_here<const N: usize>(states: [&mut State; N], messages: [&[Block]; N]) {
    let mut halves: [Halves; N] = std::array::from_fn(|lane| {
        let [a, b, c, d, e, f, g, h] = states[lane].map(u32::cast_signed);
        Halves { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
    });
    let count = messages.iter().map(|message| message.len()).min().unwrap_or(0);
    #[allow(clippy::needless_range_loop, reason = "it runs over all messages at once")]
    for at in 0..count {
        let before = halves;
        // The last four quarters of the schedule, sixteen words.
        let mut words: [[__m128i; 4]; N] = std::array::from_fn(|lane| load(&messages[lane][at]));
        // Written out: what is where in a loop, the compiler keeps in memory.
        four_rounds!(N, words, halves: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for lane in 0..N {
            halves[lane].abef = _mm_add_epi32(halves[lane].abef, before[lane].abef);
            halves[lane].cdgh = _mm_add_epi32(halves[lane].cdgh, before[lane].cdgh);
        }
    }
    for (state, Halves { abef, cdgh }) in states.into_iter().zip(halves) {
        *state = [
            _mm_extract_epi32(abef, 3),
            _mm_extract_epi32(abef, 2),
            _mm_extract_epi32(cdgh, 3),
            _mm_extract_epi32(cdgh, 2),
            _mm_extract_epi32(abef, 1),
            _mm_extract_epi32(abef, 0),
            _mm_extract_epi32(cdgh, 1),
            _mm_extract_epi32(cdgh, 0),
        ]
        .map(i32::cast_unsigned);
    }
}

/// The sixteen words of a block, which are big-endian.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn load(block: &Block) -> [__m128i; 4] {
    let swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    let (quarters, _) = block.as_chunks::<16>();
    std::array::from_fn(|quarter| {
        let (halves, _) = quarters[quarter].as_chunks::<8>();
        let [low, high] = [i64::from_le_bytes(halves[0]), i64::from_le_bytes(halves[1])];
        _mm_shuffle_epi8(_mm_set_epi64x(high, low), swap)
    })
}

/// The constants are computed: a slip in a table of 64 would be hard to see.
const fn rounds() -> [[i32; 4]; 16] {
    let mut constants = [[0; 4]; 16];
    let mut found = 0;
    let mut candidate: u128 = 2;
    while found < 64 {
        let mut divisor = 2;
        let mut is_prime = true;
        while divisor * divisor <= candidate {
            if candidate.is_multiple_of(divisor) {
                is_prime = false;
            }
            divisor += 1;
        }
        if is_prime {
            // The cube root with 32 bits behind the point: the largest r with r³ ≤ p·2⁹⁶.
            let target = candidate << 96;
            let (mut low, mut high) = (0u128, 1 << 36);
            while high - low > 1 {
                let middle = u128::midpoint(low, high);
                if middle * middle * middle <= target { low = middle } else { high = middle }
            }
            #[allow(clippy::cast_possible_truncation, reason = "the fraction is what is wanted")]
            let fraction = low as u32;
            constants[found / 4][found % 4] = fraction.cast_signed();
            found += 1;
        }
        candidate += 1;
    }
    constants
}
