//! The chunker against a plain reading of what restic does.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::noise;
use mainstay_repository::chunker::{MAX_BYTES, MIN_BYTES};
use mainstay_repository::format::config::Polynomial;
use mainstay_repository::{Buffers, Chunker};
use proptest::prelude::*;
use std::io::{self, Read};

const P: Polynomial = Polynomial(0x3D_A335_8B4D_C173);

/// Byte by byte with a ring, primed as restic primes it, polynomials divided bit by bit.
fn naive_cuts(data: &[u8], p: u64) -> Vec<usize> {
    let append = |digest: u64, byte: u8| {
        (0..8).rev().fold(digest, |digest, bit| {
            let digest = digest << 1 | u64::from(byte >> bit & 1);
            if digest >> 53 & 1 == 1 { digest ^ p } else { digest }
        })
    };
    // What a byte still contributes after 63 more.
    let leaving: Vec<u64> = (0..=255u8)
        .map(|byte| (0..63).fold(append(0, byte), |digest, _| append(digest, 0)))
        .collect();
    let mut lengths = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let mut ring = [0u8; 64];
        let mut digest = 0;
        let mut at = 0;
        let mut slide = |byte: u8| {
            digest = append(digest ^ leaving[usize::from(ring[at])], byte);
            ring[at] = byte;
            at = (at + 1) % 64;
            digest
        };
        slide(1);
        let mut length = rest.len().min(MAX_BYTES);
        for (i, byte) in rest.iter().enumerate().skip(MIN_BYTES - 64) {
            let digest = slide(*byte);
            if i + 1 >= MIN_BYTES && (digest & 0xf_ffff == 0 || i + 1 == MAX_BYTES) {
                length = i + 1;
                break;
            }
        }
        lengths.push(length);
        rest = &rest[length..];
    }
    lengths
}

fn lengths(chunker: &Chunker, source: impl Read, expected: Option<u64>) -> Vec<usize> {
    let chunks = chunker.chunks(source, &Buffers::default(), expected);
    chunks.map(|chunk| chunk.unwrap().len()).collect()
}

/// Delivers a few bytes at a time, and now and then nothing yet.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        if self.1 % 7 == 3 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = (self.1 >> 8 & 0xffff)
            .min(into.len())
            .min(self.0.len())
            .max(usize::from(!self.0.is_empty()));
        into[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

#[test]
fn cuts_are_these() {
    let data = noise(5, 12 << 20);
    // From the plain reading above; restic itself judges another file in `with_restic`.
    assert_eq!(naive_cuts(&data, P.0), GOLDEN);
    assert_eq!(lengths(&Chunker::rabin(P), &data[..], None), GOLDEN);
}

const GOLDEN: [usize; 8] =
    [1_054_589, 603_076, 2_318_484, 1_788_766, 1_516_790, 3_314_223, 1_229_539, 757_445];

#[test]
fn without_a_cut_a_chunk_ends_at_the_maximum() {
    // The fingerprint of ones is no cut; that of zeros is one, right at the minimum.
    let ones = vec![1; MAX_BYTES + 10];
    assert_eq!(lengths(&Chunker::rabin(P), &ones[..], None), [MAX_BYTES, 10]);
    let zeros = vec![0; 2 * MIN_BYTES + 10];
    assert_eq!(lengths(&Chunker::rabin(P), &zeros[..], None), [MIN_BYTES, MIN_BYTES, 10]);
    assert_eq!(naive_cuts(&zeros, P.0), [MIN_BYTES, MIN_BYTES, 10]);
}

#[test]
fn sizes_around_the_bounds() {
    for length in [0, 1, 63, 64, 65, MIN_BYTES - 1, MIN_BYTES, MIN_BYTES + 1] {
        let data = noise(6, length);
        let expected: Vec<usize> = [length].into_iter().filter(|n| *n > 0).collect();
        assert_eq!(lengths(&Chunker::rabin(P), &data[..], Some(length as u64)), expected);
    }
}

#[test]
fn fixed_chunks_are_all_of_one_size() {
    let chunker = Chunker::fixed(1 << 20);
    let data = noise(7, (3 << 20) + 5);
    assert_eq!(lengths(&chunker, &data[..], None), [1 << 20, 1 << 20, 1 << 20, 5]);
    assert_eq!(lengths(&chunker, &data[..2 << 20], None), [1 << 20, 1 << 20]);
}

#[test]
fn a_source_that_fails_is_no_short_file() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let source = io::Cursor::new(noise(8, 100_000)).chain(Broken);
    let chunker = Chunker::rabin(P);
    let mut chunks = chunker.chunks(source, &Buffers::default(), None);
    assert!(chunks.next().unwrap().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn cuts_are_where_a_plain_reading_puts_them(
        seed: u64,
        length in 0usize..6 << 20,
        repeat in prop::option::of(1usize..100_000),
        dribble: usize,
        expected in prop::option::of(0u64..8 << 20),
    ) {
        let p = Polynomial::generate().unwrap();
        let mut data = noise(seed, length);
        if let Some(period) = repeat {
            for i in period..data.len() {
                data[i] = data[i - period];
            }
        }
        let chunker = Chunker::rabin(p);
        let naive = naive_cuts(&data, p.0);
        prop_assert_eq!(&lengths(&chunker, &data[..], expected), &naive, "{:?}", p);
        prop_assert_eq!(&lengths(&chunker, Dribble(&data, dribble), expected), &naive, "{:?}", p);
        let joined: Vec<u8> = chunker
            .chunks(&data[..], &Buffers::default(), expected)
            .flat_map(Result::unwrap)
            .collect();
        prop_assert!(joined == data);
    }
}
